//! Exports the trail for other systems: JSON lines whose fields are named as the Elastic Common Schema (ECS 8.17) names them, and as
//! `vault_ext.*` where it has no name. They have everything that verification needs. An interrupted export goes on after its last whole
//! line.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use vault_trail::verify::Row;

use crate::Error;
use crate::rows::{iso, to_hex};
use crate::server::Snapshot;

const ECS_VERSION: &str = "8.17.0";

/// The files of an export.
pub struct Files {
    pub rows: PathBuf,
    pub tiles: PathBuf,
    pub checkpoints: PathBuf,
}

impl Files {
    pub fn of(folder: &Path) -> Self {
        let file = |name| folder.join(name);
        Self { rows: file("audit.jsonl"), tiles: file("tiles.jsonl"), checkpoints: file("checkpoints.txt") }
    }
}

/// What was added to an export.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Exported {
    pub rows: u64,
    pub tiles: u64,
}

/// Exports a snapshot into a folder. With `resume` it goes on where the files end; without it there may be none.
pub fn export(snapshot: &mut Snapshot<'_>, folder: &Path, resume: bool) -> Result<Exported, Error> {
    fs::create_dir_all(folder).map_err(Error::of_file(folder))?;
    let files = Files::of(folder);
    if !resume && files.rows.exists() {
        return Err(Error::Unusable(format!("{} is there already: --resume goes on with it", files.rows.display())));
    }
    let mut exported = Exported::default();
    let (mut out, last) = open(&files.rows)?;
    let after = last.as_deref().map_or(Ok(0), last_id)?;
    let mut failure = None;
    snapshot.rows(after, |row| {
        let written = serde_json::to_writer(&mut out, &Ecs::of(row)).map_err(std::io::Error::from);
        failure = written.and_then(|()| out.write_all(b"\n")).err();
        exported.rows += u64::from(failure.is_none());
        failure.is_none()
    })?;
    if let Some(source) = failure {
        return Err(Error::of_file(&files.rows)(source));
    }
    finish(out, &files.rows)?;
    exported.tiles = export_tiles(snapshot, &files.tiles)?;
    let notes = snapshot.notes()?;
    fs::write(&files.checkpoints, notes.concat()).map_err(Error::of_file(&files.checkpoints))?;
    Ok(exported)
}

fn finish(out: BufWriter<File>, path: &Path) -> Result<(), Error> {
    let file = out.into_inner().map_err(|error| error.into_error()).and_then(|file| file.sync_all());
    file.map_err(Error::of_file(path))
}

/// Opens a file to write on after its last whole line, which it gives, too. What follows that line is cut off.
fn open(path: &Path) -> Result<(BufWriter<File>, Option<String>), Error> {
    let open = || {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let size = file.metadata()?.len();
        // A line has less than 64 KiB, a tile's less than 32.
        let tail_from = size.saturating_sub(1 << 17);
        file.seek(SeekFrom::Start(tail_from))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        file.set_len(tail_from + whole as u64)?;
        file.seek(SeekFrom::End(0))?;
        let last = String::from_utf8_lossy(&tail[..whole]).trim_end().rsplit('\n').next().map(str::to_owned);
        Ok((BufWriter::with_capacity(1 << 16, file), last.filter(|line| !line.is_empty())))
    };
    open().map_err(Error::of_file(path))
}

fn last_id(line: &str) -> Result<i64, Error> {
    let value: serde_json::Value =
        serde_json::from_str(line).map_err(|why| Error::Unusable(format!("the last line: {why}")))?;
    let id = value.get("event.id").and_then(serde_json::Value::as_str).and_then(|id| id.parse().ok());
    id.ok_or_else(|| Error::Unusable("the last line has no event.id: this is no export of vault-trail".into()))
}

/// Tiles never change, so only new ones are added. The single hashes of purged rows are few, and are written anew.
fn export_tiles(snapshot: &mut Snapshot<'_>, path: &Path) -> Result<u64, Error> {
    let (mut out, _) = open(path)?;
    let mut next = [0u64; 8];
    let reader = BufReader::new(File::open(path).map_err(Error::of_file(path))?);
    for line in reader.lines() {
        let line = line.map_err(Error::of_file(path))?;
        if let Some((level, index)) = place(&line)
            && let Some(next) = usize::try_from(level).ok().and_then(|level| next.get_mut(level))
        {
            *next = (*next).max(index + 1);
        }
    }
    let mut added = 0;
    for level in -1..=snapshot.top_level()? {
        let from = usize::try_from(level).ok().and_then(|level| next.get(level)).copied().unwrap_or(0);
        snapshot.tiles(level, from, |level, index, hashes| {
            // JSON doubles its backslash.
            let hex = to_hex(hashes);
            added += 1;
            writeln!(out, r#"{{"level":{level},"index":{index},"hashes":"\{hex}"}}"#).map_err(Error::of_file(path))
        })?;
    }
    finish(out, path)?;
    Ok(added)
}

fn place(line: &str) -> Option<(i16, u64)> {
    let (level, rest) = line.strip_prefix(r#"{"level":"#)?.split_once(r#","index":"#)?;
    Some((level.parse().ok()?, rest.split_once(',')?.0.parse().ok()?))
}

/// A row in the words of ECS.
#[derive(Serialize)]
struct Ecs<'a> {
    #[serde(rename = "@timestamp")]
    timestamp: String,
    #[serde(rename = "ecs.version")]
    ecs_version: &'static str,
    #[serde(rename = "event.kind")]
    kind: &'static str,
    #[serde(rename = "event.dataset")]
    dataset: &'static str,
    #[serde(rename = "event.id")]
    id: String,
    #[serde(rename = "event.sequence", skip_serializing_if = "Option::is_none")]
    leaf: Option<u64>,
    #[serde(rename = "event.action")]
    action: &'a str,
    #[serde(rename = "event.outcome")]
    outcome: &'static str,
    #[serde(rename = "event.reason", skip_serializing_if = "Option::is_none")]
    context: Option<&'a str>,
    #[serde(rename = "http.response.status_code")]
    status: i32,
    #[serde(rename = "http.request.id", skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(rename = "user.id", skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    #[serde(rename = "source.address", skip_serializing_if = "Option::is_none")]
    ip_address: Option<&'a str>,
    #[serde(rename = "user_agent.original", skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    #[serde(rename = "vault_ext.db_role")]
    db_role: &'a str,
    #[serde(rename = "vault_ext.login_role", skip_serializing_if = "Option::is_none")]
    login_role: Option<&'a str>,
    #[serde(rename = "vault_ext.application_name", skip_serializing_if = "Option::is_none")]
    application_name: Option<&'a str>,
    #[serde(rename = "vault_ext.kek_id", skip_serializing_if = "Option::is_none")]
    kek_id: Option<&'a str>,
    #[serde(rename = "vault_ext.key_version", skip_serializing_if = "Option::is_none")]
    key_version: Option<i32>,
    #[serde(rename = "vault_ext.identity", skip_serializing_if = "Option::is_none")]
    identity: Option<&'a str>,
    #[serde(rename = "vault_ext.issuer", skip_serializing_if = "Option::is_none")]
    issuer: Option<&'a str>,
    #[serde(rename = "vault_ext.token_id", skip_serializing_if = "Option::is_none")]
    token_id: Option<&'a str>,
    #[serde(rename = "vault_ext.token_kid", skip_serializing_if = "Option::is_none")]
    token_kid: Option<&'a str>,
    #[serde(rename = "vault_ext.actor", skip_serializing_if = "Option::is_none")]
    actor: Option<&'a str>,
    #[serde(rename = "vault_ext.grant_id", skip_serializing_if = "Option::is_none")]
    grant_id: Option<i64>,
    #[serde(rename = "vault_ext.leaf_hash", skip_serializing_if = "Option::is_none")]
    leaf_hash: Option<String>,
    #[serde(rename = "vault_ext.salt", skip_serializing_if = "Option::is_none")]
    salt: Option<String>,
    #[serde(rename = "vault_ext.redacted_digest", skip_serializing_if = "Option::is_none")]
    redacted_digest: Option<String>,
}

impl<'a> Ecs<'a> {
    fn of(row: &Row<'a>) -> Self {
        let (fields, personal) = (row.fields, row.personal);
        Self {
            timestamp: iso(fields.created_at),
            ecs_version: ECS_VERSION,
            kind: if fields.action == "alarm" { "alert" } else { "event" },
            dataset: "vault_ext.audit",
            id: row.id.to_string(),
            leaf: row.leaf,
            action: fields.action,
            outcome: if fields.status < 400 { "success" } else { "failure" },
            context: personal.context,
            status: fields.status,
            request_id: personal.request_id,
            user_id: personal.user_id,
            ip_address: personal.ip_address,
            user_agent: personal.user_agent,
            db_role: fields.db_role,
            login_role: fields.login_role,
            application_name: personal.application_name,
            kek_id: fields.kek_id,
            key_version: fields.key_version,
            identity: fields.identity,
            issuer: fields.issuer,
            token_id: personal.token_id,
            token_kid: fields.token_kid,
            actor: personal.actor,
            grant_id: fields.grant_id,
            leaf_hash: row.leaf_hash.map(to_hex),
            salt: row.salt.map(to_hex),
            redacted_digest: row.redacted_digest.map(to_hex),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vault_trail::leaf::{Leaf, Personal};

    #[test]
    fn an_exported_row_is_the_row() {
        let personal =
            Personal { user_id: Some("a\"\\\n"), context: Some("c"), actor: Some("s"), ..Personal::default() };
        let fields = Leaf {
            created_at: 849_119_092_528_826,
            action: "fetch",
            status: 200,
            db_role: "app",
            grant_id: Some(7),
            ..Leaf::default()
        };
        let row = Row {
            id: 9,
            leaf: Some(3),
            leaf_hash: Some(&[1; 32]),
            salt: Some(&[2; 16]),
            redacted_digest: None,
            fields,
            personal,
        };
        let line = serde_json::to_string(&Ecs::of(&row)).unwrap();
        let mut read = 0;
        crate::rows::read(line.as_bytes(), |back| {
            read += 1;
            assert_eq!((back.id, back.leaf, back.leaf_hash, back.salt), (row.id, row.leaf, row.leaf_hash, row.salt));
            assert_eq!((back.fields, back.personal), (row.fields, row.personal));
            true
        })
        .unwrap();
        assert_eq!(read, 1);
    }

    #[test]
    fn a_cut_line_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, "one\ntwo\nthr").unwrap();
        let (mut out, last) = open(&path).unwrap();
        assert_eq!(last.as_deref(), Some("two"));
        out.write_all(b"three\n").unwrap();
        drop(out);
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\nthree\n");
        let (_, last) = open(&folder.path().join("new")).unwrap();
        assert_eq!(last, None);
    }
}
