//! Checkpoints that were kept: files with notes one after the other, a server log with its lines, or an export of the table
//! `vault_ext.audit_checkpoints` as CSV.

use vault_trail::checkpoint::{Checkpoint, CheckpointError, DASH, LOG_PREFIX, PublicKey};

/// The notes in a file.
pub fn notes(text: &str) -> Vec<String> {
    if text.contains(LOG_PREFIX) {
        let lines = text.lines().filter_map(|line| line.split_once(LOG_PREFIX));
        return lines.filter_map(|(_, line)| Checkpoint::from_one_line(line).ok()).collect();
    }
    if text.starts_with("size,") {
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let column = reader.headers().ok().and_then(|header| header.iter().position(|name| name == "note"));
        let note = |record: csv::StringRecord| column.and_then(|column| record.get(column).map(str::to_owned));
        return reader.records().filter_map(Result::ok).filter_map(note).collect();
    }
    // A note begins with a line that is neither empty nor a signature, after one of these or at the start.
    let mut notes: Vec<String> = Vec::new();
    let (mut lines_of_text, mut in_signatures) = (0, true);
    for line in text.lines() {
        let is_signature = line.starts_with(DASH);
        if !line.is_empty() && !is_signature && (in_signatures || lines_of_text == 3) {
            notes.push(String::new());
            (lines_of_text, in_signatures) = (0, false);
        }
        let Some(note) = notes.last_mut() else { continue };
        if is_signature {
            if !in_signatures {
                note.push('\n');
            }
            in_signatures = true;
        } else if line.is_empty() {
            continue;
        } else {
            lines_of_text += 1;
        }
        note.push_str(line);
        note.push('\n');
    }
    notes
}

/// Reads the checkpoints of a file and verifies each with the key, if there is one.
pub fn checkpoints(text: &str, key: Option<&PublicKey>) -> Result<Vec<Checkpoint>, CheckpointError> {
    let notes = notes(text);
    if notes.is_empty() {
        return Err(CheckpointError::Malformed);
    }
    notes.iter().map(|note| Checkpoint::open(note, key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vault_trail::checkpoint::AuditKey;

    #[test]
    fn notes_come_out_of_files_logs_and_tables() {
        let key = AuditKey::from_seed(&[1; 32]);
        let of = |size| Checkpoint { origin: "vault_ext/d/1".into(), size, root: [size as u8; 32] };
        let signed = [of(3).sign(&key), of(7).sign(&key)];
        let unsigned = [of(3).text(), of(7).text()];
        let log = |notes: &[String; 2]| {
            notes
                .each_ref()
                .map(|note| format!("2031-05-02 UTC [1] LOG:  {LOG_PREFIX}{}\n", Checkpoint::one_line(note)))
                .concat()
        };
        let csv = |notes: &[String; 2]| {
            format!("size,root,created_at,note\n1,\\x00,x,\"{}\"\n2,\\x00,x,\"{}\"\n", notes[0], notes[1])
        };
        for given in [&signed, &unsigned] {
            for text in [given.concat(), given.join("\n"), log(given), csv(given)] {
                assert_eq!(notes(&text), given, "{text}");
                let open = checkpoints(&text, std::ptr::eq(given, &signed).then_some(&key.public()));
                assert_eq!(open, Ok(vec![of(3), of(7)]));
            }
        }
        assert_eq!(checkpoints(&unsigned.concat(), Some(&key.public())), Err(CheckpointError::NotSigned));
        assert_eq!(checkpoints("", None), Err(CheckpointError::Malformed));
    }
}
