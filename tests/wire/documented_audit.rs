//! The commands of docs/audit.md, one after the other as they stand there, by an auditor with the program `vault-trail`; and what the program
//! says of a trail that was changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::documented::{commands, section, sql_blocks};
use crate::harness::{Cluster, Db, bindir, fetch, init, scratch_dir, server_command, succeed};
use crate::trail::conninfo;

const AUDIT: &str = include_str!("../../docs/audit.md");

/// The program, where every user can run it. `scripts/test` builds it.
fn program() -> PathBuf {
    let target = std::env::current_exe().unwrap().parent().and_then(Path::parent).unwrap().to_owned();
    let (built, copy) = (target.join("vault-trail"), scratch_dir().join("vault-trail"));
    assert!(built.exists(), "{} is missing: cargo build -p vault_trail_cli", built.display());
    // Not by this process: another thread's fork would inherit the open file, and nobody can run a file that is open for writing.
    succeed(Command::new("cp").arg(&built).arg(&copy));
    copy
}

/// Runs `vault-trail`: its exit code and what it printed.
fn run(program: &Path, dir: &Path, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(program).args(arguments).current_dir(dir).output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&printed).into_owned())
}

fn call_some(db: &Db) {
    for user in ["alice", "bob"] {
        init(&mut db.app_for(user)).unwrap();
        (0..14).for_each(|_| drop(fetch(&mut db.app_for(user)).unwrap()));
    }
}

#[test]
fn the_documented_way_of_an_auditor_leads_to_a_verified_trail_and_to_evidence() {
    let mut cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    call_some(&cluster.database("app"));
    let program = program();
    let path = format!("{}:{}:/usr/bin:/bin", program.parent().unwrap().display(), bindir().display());
    let keys = scratch_dir();
    let shell = |cluster: &Cluster, role: &str, commands: &str| {
        let mut bash = server_command("/bin/bash", &keys);
        bash.args(["-euo", "pipefail", "-c", commands]).env("PATH", &path).env("SERVER_KEYS", cluster.dir());
        bash.env("PGDATA", cluster.data()).env("PGHOST", cluster.dir()).env("PGPORT", cluster.port().to_string());
        succeed(bash.env("PGUSER", role).env("PGDATABASE", "app"))
    };
    crate::harness::chown_to_server(&keys);
    // The key, the setting and the restart, which the test does its own way.
    let setup = commands(section(AUDIT, "What to set up once"));
    let (setup, fetch_checkpoint) = setup.split_once("psql").unwrap();
    let (setup, restart) = setup.split_once("pg_ctl").unwrap();
    assert_eq!(restart, " -D \"$PGDATA\" -l \"$PGDATA/startup.log\" restart > /dev/null\n");
    shell(&cluster, "postgres", setup);
    cluster.restart();
    let db = cluster.existing_database("app");
    fetch(&mut db.app_for("alice")).unwrap();
    shell(&cluster, "wire_auditor", &format!("psql{fetch_checkpoint}"));
    assert_eq!(fs::read_to_string(keys.join("checkpoints.txt")).unwrap().lines().nth(1), Some("31"));
    (0..17).for_each(|_| drop(fetch(&mut db.app_for("bob")).unwrap()));
    let printed = shell(&cluster, "wire_auditor", &commands(section(AUDIT, "Verify a trail in five minutes")));
    let shown = AUDIT.split_once("```text\nThe trail is complete").unwrap().1.split_once("root").unwrap().0;
    assert!(printed.starts_with(&format!("The trail is complete{shown}")), "{printed}");
    assert_eq!(printed.matches("It agrees with the kept checkpoint(s) of size 31.").count(), 3, "{printed}");
    let printed = shell(&cluster, "wire_auditor", &commands(section(AUDIT, "Evidence for one row")));
    assert!(printed.contains("The row is proven: leaf 1 of vault_ext/app/"), "{printed}");
    assert!(printed.contains("The trail of size 48 begins with the one of size 31."), "{printed}");
    for heading in ["Redaction and retention", "Copies and restores"] {
        for (_, sql) in sql_blocks(section(AUDIT, heading)) {
            for statement in sql.split_inclusive(';').filter(|sql| !sql.trim().is_empty()) {
                db.conn("wire_admin").batch_execute(statement).unwrap_or_else(|e| panic!("{statement}: {e:?}"));
            }
        }
    }
    let (_, finding) = crate::trail::verify(&db, &crate::trail::logged(&db));
    assert_eq!(finding, None);
}

#[test]
fn the_exit_code_says_what_became_of_the_trail() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.database("app");
    call_some(&db);
    let (program, dir) = (program(), scratch_dir());
    let vault_trail = |arguments: &[&str]| run(&program, &dir, arguments);
    let csv = || {
        let sql = "COPY (SELECT * FROM vault_ext.encryption_vault_audit ORDER BY id) TO STDOUT (FORMAT csv, HEADER)";
        let mut text = String::new();
        std::io::Read::read_to_string(&mut db.conn("wire_auditor").copy_out(sql).unwrap(), &mut text).unwrap();
        text
    };
    let whole = csv();
    let note: String = db.conn("wire_auditor").query_one("SELECT vault_audit_checkpoint()", &[]).unwrap().get(0);
    fs::write(dir.join("kept.txt"), &note).unwrap();
    let verify = |text: &str| {
        fs::write(dir.join("trail.csv"), text).unwrap();
        vault_trail(&["verify", "--since", "kept.txt", "trail.csv"])
    };
    assert_eq!(verify(&whole).0, 0);
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let without =
        |gone: usize| lines.iter().enumerate().filter(|(at, _)| *at != gone).map(|(_, line)| *line).collect::<String>();
    for (text, code, words) in [
        (whole.replacen(",bob,", ",mallory,", 1), 1, "NOT INTACT (altered): The row with id 16, leaf 15, was changed"),
        (without(9), 1, "NOT INTACT (removed): The row of leaf 8 was removed"),
        (
            lines[..20].concat(),
            3,
            "NOT INTACT (rolled back or cut): The trail has 19 leaves, and a checkpoint of 30 was kept",
        ),
        (lines[..1].concat(), 3, "The trail has 0 leaves"),
        ("no,trail\n".into(), 2, "line 1 is not a row of the trail"),
    ] {
        let (found, printed) = verify(&text);
        assert_eq!(found, code, "{printed}");
        assert!(printed.contains(words), "{printed}");
    }
    // The same rows as JSON, as psql and COPY write them, and by standard input.
    for sql in [
        "COPY (SELECT to_jsonb(a) FROM vault_ext.encryption_vault_audit a ORDER BY id) TO STDOUT",
        "COPY (SELECT row_to_json(a) FROM vault_ext.encryption_vault_audit a ORDER BY id) TO STDOUT (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02')",
    ] {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut db.conn("wire_auditor").copy_out(sql).unwrap(), &mut text).unwrap();
        assert_eq!(verify(&text).0, 0, "{text:.300}");
    }
    let (code, printed) = vault_trail(&["verify", "--json", "--since", "kept.txt", "trail.csv"]);
    let verdict: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(
        (code, &verdict["intact"], &verdict["size"], &verdict["agreed"][0]),
        (0, &true.into(), &30.into(), &30.into())
    );
    // Another trail's checkpoint, and a key that did not sign.
    let root = note.lines().nth(2).unwrap();
    fs::write(dir.join("other.txt"), note.replace(root, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")).unwrap();
    assert_eq!(vault_trail(&["verify", "--since", "other.txt", "trail.csv"]).0, 4);
    let (code, printed) = vault_trail(&["keygen", "k"]);
    assert_eq!(code, 0, "{printed}");
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(dir.join("k")).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(vault_trail(&["keygen", "k"]).0, 2, "a key is never overwritten");
    assert_eq!(vault_trail(&["verify", "--key", "k.pub", "--since", "kept.txt", "trail.csv"]).0, 5);
    assert_eq!(vault_trail(&["verify", "--key", "nonsense", "trail.csv"]).0, 5);
    assert_eq!(vault_trail(&["verify", "missing.csv"]).0, 2);
    assert_eq!(vault_trail(&["verify", "--db", "host=/nowhere user=x"]).0, 2);
    // An export that was interrupted goes on, and an exported row is evidence like any other.
    let db_argument = conninfo(&db, "wire_auditor");
    assert_eq!(vault_trail(&["export", "--db", &db_argument, "--out", "out"]).0, 0);
    let exported = fs::read_to_string(dir.join("out/audit.jsonl")).unwrap();
    fs::write(dir.join("out/audit.jsonl"), &exported[..exported.len() / 2]).unwrap();
    assert_eq!(vault_trail(&["export", "--db", &db_argument, "--out", "out"]).0, 2);
    let (code, printed) = vault_trail(&["export", "--db", &db_argument, "--out", "out", "--resume"]);
    assert_eq!(code, 0, "{printed}");
    assert_eq!(fs::read_to_string(dir.join("out/audit.jsonl")).unwrap(), exported);
    assert_eq!(vault_trail(&["verify", "--since", "kept.txt", "out"]).0, 0);
    let proof: String = db.conn("wire_auditor").query_one("SELECT vault_audit_proof(3)", &[]).unwrap().get(0);
    fs::write(dir.join("proof.txt"), proof).unwrap();
    let rows: Vec<&str> = exported.lines().collect();
    for (row, code) in [(rows[2], 0), (rows[3], 1), (rows[2].replacen("alice", "mallory", 1).as_str(), 1)] {
        fs::write(dir.join("row.json"), row).unwrap();
        let (found, printed) = vault_trail(&["proof", "--row", "row.json", "proof.txt"]);
        assert_eq!(found, code, "{printed}");
    }
}

#[test]
fn another_implementation_accepts_the_checkpoints_proofs_and_leaves() {
    let key = vault_trail::checkpoint::AuditKey::generate().unwrap();
    let mut cluster = Cluster::builder().with_wire_kek().without_fsync().prepare();
    let file = cluster.write_kek("audit.pem", key.to_pkcs8_pem().as_bytes(), 0o600);
    cluster.configure(&format!("vault_ext.audit_key_file = '{}'", file.display()));
    cluster.start();
    let db = cluster.database("my app");
    call_some(&db);
    let (dir, mut auditor) = (scratch_dir(), db.conn("wire_auditor"));
    let mut keep = |name: &str, sql: &str| {
        let text: String = auditor.query_one(sql, &[]).unwrap().get(0);
        fs::write(dir.join(name), text).unwrap();
    };
    keep("older", "SELECT vault_audit_checkpoint()");
    keep("vkey", "SELECT vault_audit_key()");
    let many = "DO $$ BEGIN FOR i IN 1..600 LOOP PERFORM vault_get_master_key(); END LOOP; END $$";
    db.app_for("bob").batch_execute(many).unwrap();
    db.conn("wire_admin").batch_execute("SELECT vault_redact_audit('alice')").unwrap();
    keep("checkpoint", "SELECT vault_audit_checkpoint()");
    keep("inclusion", "SELECT vault_audit_proof(300)");
    keep("growth", "SELECT vault_audit_consistency(30)");
    let sql = "COPY (SELECT * FROM vault_ext.encryption_vault_audit ORDER BY id) TO STDOUT (FORMAT csv, HEADER)";
    let mut csv = fs::File::create(dir.join("trail.csv")).unwrap();
    std::io::copy(&mut db.conn("wire_auditor").copy_out(sql).unwrap(), &mut csv).unwrap();
    let library = PathBuf::from(std::env::var("VAULT_EXT_WORK").unwrap()).join("tools/python");
    assert!(library.join("aics_tlog").is_dir(), "scripts/test installs aics-tlog in {}", library.display());
    let mut python = Command::new("/usr/bin/python3");
    python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/independent/check_trail.py")).arg(&dir);
    python.env("PYTHONPATH", library).env("PYTHONDONTWRITEBYTECODE", "1");
    assert_eq!(succeed(&mut python), "ok 631\n");
}
