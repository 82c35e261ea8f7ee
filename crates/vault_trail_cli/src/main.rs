//! vault-trail: verifies the audit trail of vault_ext from an export or over a connection. Needs neither the server nor the extension.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::json;
use vault_trail::checkpoint::{AuditKey, Checkpoint, CheckpointError, ConsistencyProof, InclusionProof, PublicKey};
use vault_trail::proof;
use vault_trail::verify::{Finding, Hashes, Kind, RowsOnly, Summary, Verifier};
use vault_trail_cli::server::{self, Server};
use vault_trail_cli::tiles::Tiles;
use vault_trail_cli::{Error, export, notes, rows};

const EXIT_CODES: &str = "Exit codes:
  0  the trail is complete and agrees with every checkpoint
  1  a row was altered, removed, inserted or moved
  2  usage, or a file or server that cannot be read
  3  the trail ends before a kept checkpoint: its end was cut, or the database was rolled back
  4  the trail is another one than that of a kept checkpoint: forked or rewritten
  5  a signature or a key is wrong";

#[derive(Parser)]
#[command(name = "vault-trail", version, about = "Verifies the audit trail of vault_ext without the server", after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a key for checkpoints: the private one in FILE, the public one in FILE.pub
    Keygen { file: PathBuf },
    /// Verifies a trail against the checkpoints that were kept
    #[command(after_help = EXIT_CODES)]
    Verify {
        /// The rows: CSV with a header as COPY writes it, JSON lines, or the folder of an export; - for standard input
        #[arg(required_unless_present = "db", conflicts_with = "db")]
        trail: Option<PathBuf>,
        /// Reads a live server instead, by a connection string
        #[arg(long, value_name = "CONNINFO")]
        db: Option<String>,
        /// The public key: a file, a verifier key, or base64. Then every checkpoint must be signed by it
        #[arg(long)]
        key: Option<String>,
        /// A file with checkpoints that were kept, or a server log with them; may be given more than once
        #[arg(long, value_name = "FILE")]
        since: Vec<PathBuf>,
        /// The table vault_ext.audit_tiles as CSV or JSON lines: needed where rows were purged
        #[arg(long, value_name = "FILE", conflicts_with = "db")]
        tiles: Option<PathBuf>,
        /// Prints the verdict as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Exports a live server's trail into a folder: JSON lines with the field names of ECS 8.17, tiles and checkpoints
    Export {
        #[arg(long, value_name = "CONNINFO")]
        db: String,
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,
        /// Goes on where an earlier export ended
        #[arg(long)]
        resume: bool,
    },
    /// Verifies a proof: that a row is in the tree (vault_audit_proof), or that a trail only grew (vault_audit_consistency)
    #[command(after_help = EXIT_CODES)]
    Proof {
        file: PathBuf,
        /// The public key, as for verify
        #[arg(long)]
        key: Option<String>,
        /// The row that the proof is about: JSON or CSV, as for verify
        #[arg(long, value_name = "FILE")]
        row: Option<PathBuf>,
        /// The older checkpoint that a proof of growth begins with
        #[arg(long, value_name = "FILE")]
        since: Option<PathBuf>,
    },
}

/// Why the program ends without having verified.
enum Failure {
    Error(Error),
    Signature(String),
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Keygen { file } => keygen(&file),
        Command::Verify { trail, db, key, since, tiles, json } => {
            verify(trail.as_deref(), db.as_deref(), key.as_deref(), &since, tiles.as_deref(), json)
        }
        Command::Export { db, out, resume } => export_to(&db, &out, resume),
        Command::Proof { file, key, row, since } => {
            check_proof(&file, key.as_deref(), row.as_deref(), since.as_deref())
        }
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(Failure::Error(error)) => {
            eprintln!("vault-trail: {error}");
            ExitCode::from(2)
        }
        Err(Failure::Signature(text)) => {
            eprintln!("vault-trail: {text}");
            ExitCode::from(5)
        }
    }
}

fn keygen(file: &Path) -> Result<u8, Failure> {
    let key = AuditKey::generate()
        .map_err(|error| Error::Unusable(format!("the operating system gave no random bytes: {error}")))?;
    let public = file.with_file_name(format!("{}.pub", file.file_name().unwrap_or_default().to_string_lossy()));
    let pem = key.public().to_spki_pem().map_err(|error| Error::Unusable(error.to_string()))?;
    let create = |path: &Path, mode, text: &str| {
        let mut created =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(Error::of_file(path))?;
        created.write_all(text.as_bytes()).and_then(|()| created.sync_all()).map_err(Error::of_file(path))
    };
    create(file, 0o600, &key.to_pkcs8_pem())?;
    create(&public, 0o644, &pem)?;
    println!("private key: {} (for the server alone: vault_ext.audit_key_file)", file.display());
    println!("public key:  {} (for the auditor): {}", public.display(), key.public());
    Ok(0)
}

/// A key as it was given: in a file, or itself.
fn public_key(given: Option<&str>) -> Result<Option<PublicKey>, Failure> {
    let Some(given) = given else { return Ok(None) };
    let text = fs::read_to_string(given).unwrap_or_else(|_| given.to_owned());
    PublicKey::parse(&text).map(Some).map_err(|error| Failure::Signature(format!("{given}: {error}")))
}

fn kept_checkpoints(files: &[PathBuf], key: Option<&PublicKey>) -> Result<Vec<Checkpoint>, Failure> {
    let mut kept = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).map_err(Error::of_file(file))?;
        let found = notes::checkpoints(&text, key).map_err(|error| match error {
            CheckpointError::NotSigned | CheckpointError::WrongSignature => {
                Failure::Signature(format!("{}: {error}", file.display()))
            }
            error => Failure::Error(Error::Unusable(format!("{}: {error}", file.display()))),
        })?;
        kept.extend(found);
    }
    Ok(kept)
}

fn verify(
    trail: Option<&Path>,
    db: Option<&str>,
    key: Option<&str>,
    since: &[PathBuf],
    tiles: Option<&Path>,
    as_json: bool,
) -> Result<u8, Failure> {
    let kept = kept_checkpoints(since, public_key(key)?.as_ref())?;
    let (summary, finding) = match (trail, db) {
        (_, Some(conninfo)) => server::verify(conninfo, kept)?,
        (Some(folder), None) if folder.is_dir() => {
            let files = export::Files::of(folder);
            verify_files(&files.rows, Some(&files.tiles), kept)?
        }
        (Some(file), None) => verify_files(file, tiles, kept)?,
        (None, None) => return Err(Error::Unusable("name a file or a server".into()).into()),
    };
    print!("{}", if as_json { as_one_line(&summary, finding.as_ref()) } else { in_words(&summary, finding.as_ref()) });
    io::stdout().flush()?;
    Ok(finding.map_or(0, |finding| code(finding.kind)))
}

fn verify_files(
    rows: &Path,
    tiles: Option<&Path>,
    kept: Vec<Checkpoint>,
) -> Result<(Summary, Option<Finding>), Failure> {
    let open = |path: &Path| {
        File::open(path).map(|file| BufReader::with_capacity(1 << 16, file)).map_err(Error::of_file(path))
    };
    let input: Box<dyn BufRead> =
        if rows == Path::new("-") { Box::new(io::stdin().lock()) } else { Box::new(open(rows)?) };
    match tiles {
        Some(tiles) => {
            let tiles = Tiles::open(File::open(tiles).map_err(Error::of_file(tiles))?)?;
            run(input, Verifier::new(kept, tiles))
        }
        None => run(input, Verifier::new(kept, RowsOnly)),
    }
}

fn run<H: Hashes>(input: impl BufRead, mut verifier: Verifier<H>) -> Result<(Summary, Option<Finding>), Failure> {
    rows::read(input, |row| {
        verifier.row(row);
        !verifier.is_done()
    })?;
    Ok(verifier.finish())
}

fn code(kind: Kind) -> u8 {
    match kind {
        Kind::Altered | Kind::Removed | Kind::Inserted | Kind::Reordered => 1,
        Kind::Unverifiable => 2,
        Kind::Shorter => 3,
        Kind::Forked => 4,
    }
}

fn in_words(summary: &Summary, finding: Option<&Finding>) -> String {
    let mut text = match finding {
        Some(finding) => format!("NOT INTACT ({}): {}\n", finding.kind.name(), finding.text),
        None if summary.size == 0 => "The trail has no leaf.\n".to_owned(),
        None => format!(
            "The trail is complete from leaf 0 to {}: {} rows, {} of them redacted, {} purged.\n",
            summary.size - 1,
            summary.rows,
            summary.redacted,
            summary.purged
        ),
    };
    if finding.is_none() {
        if summary.old_rows > 0 {
            text += &format!("{} rows are older than the tree.\n", summary.old_rows);
        }
        match summary.agreed.as_slice() {
            [] => {
                text += "It was compared with no checkpoint: a rewrite of everything, or a cut end, would not show.\n"
            }
            agreed => {
                let sizes: Vec<String> = agreed.iter().map(u64::to_string).collect();
                text += &format!("It agrees with the kept checkpoint(s) of size {}.\n", sizes.join(", "));
            }
        }
        if let Some(root) = summary.root {
            text += &format!("root of size {}: {}\n", summary.size, base64(&root));
        }
    }
    summary.notes.iter().for_each(|note| text += &format!("note: {note}\n"));
    text
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn as_one_line(summary: &Summary, finding: Option<&Finding>) -> String {
    let finding = finding.map(
        |finding| json!({"kind": finding.kind.name(), "id": finding.id, "leaf": finding.leaf, "text": finding.text}),
    );
    let verdict = json!({
        "intact": finding.is_none(), "finding": finding, "size": summary.size, "root": summary.root.map(|root| base64(&root)),
        "rows": summary.rows, "redacted": summary.redacted, "purged": summary.purged, "old_rows": summary.old_rows,
        "agreed": summary.agreed, "notes": summary.notes,
    });
    format!("{verdict}\n")
}

fn export_to(conninfo: &str, folder: &Path, resume: bool) -> Result<u8, Failure> {
    let mut server = Server::connect(conninfo)?;
    let exported = export::export(&mut server.snapshot()?, folder, resume)?;
    println!("{}: {} rows and {} tiles were added", folder.display(), exported.rows, exported.tiles);
    Ok(0)
}

fn check_proof(file: &Path, key: Option<&str>, row: Option<&Path>, since: Option<&Path>) -> Result<u8, Failure> {
    let key = public_key(key)?;
    let mut text = String::new();
    File::open(file).and_then(|mut file| file.read_to_string(&mut text)).map_err(Error::of_file(file))?;
    let open = |note: &str| {
        Checkpoint::open(note, key.as_ref()).map_err(|error| Failure::Signature(format!("{}: {error}", file.display())))
    };
    if let Ok(inclusion) = InclusionProof::parse(&text) {
        let checkpoint = open(&inclusion.checkpoint)?;
        let Some(row) = row else {
            return Err(Error::Unusable("a proof that a row is in the tree needs the row: --row".into()).into());
        };
        let hash = hash_of_only_row(row, inclusion.index)?;
        let is_in = hash.is_some_and(|hash| {
            proof::check_inclusion(inclusion.index, &hash, checkpoint.size, &checkpoint.root, &inclusion.hashes)
        });
        println!(
            "The row is {} leaf {} of {} at size {}.",
            if is_in { "proven:" } else { "NOT" },
            inclusion.index,
            checkpoint.origin,
            checkpoint.size
        );
        return Ok(u8::from(!is_in));
    }
    let growth =
        ConsistencyProof::parse(&text).map_err(|error| Error::Unusable(format!("{}: {error}", file.display())))?;
    let checkpoint = open(&growth.checkpoint)?;
    let Some(since) = since else {
        return Err(Error::Unusable("a proof of growth needs the older checkpoint: --since".into()).into());
    };
    let older =
        kept_checkpoints(&[since.to_owned()], key.as_ref())?.into_iter().find(|older| older.size == growth.old_size);
    let older = older
        .ok_or_else(|| Error::Unusable(format!("{} has no checkpoint of size {}", since.display(), growth.old_size)))?;
    let grew = proof::check_consistency(older.size, &older.root, checkpoint.size, &checkpoint.root, &growth.hashes);
    println!(
        "The trail of size {} {} the one of size {}.",
        checkpoint.size,
        if grew { "begins with" } else { "does NOT begin with" },
        older.size
    );
    Ok(if grew { 0 } else { code(Kind::Forked) })
}

/// The hash that the fields of the row in a file have; None if the row has another place, or is not whole.
fn hash_of_only_row(file: &Path, leaf: u64) -> Result<Option<vault_trail::Hash>, Failure> {
    let input = BufReader::new(File::open(file).map_err(Error::of_file(file))?);
    let mut hash = None;
    rows::read(input, |row| {
        hash = row.hash().filter(|_| row.leaf == Some(leaf));
        false
    })?;
    Ok(hash)
}
