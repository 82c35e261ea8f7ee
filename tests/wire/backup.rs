//! Logical backups: in every dump format and restored anywhere, every key opens and the trail continues.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use postgres::Client;

use crate::harness::{
    Cluster, Db, assert_no_secrets_in_files, decode, expect_vault_error, fail, kek, keyring_line, scratch_dir, succeed,
};
use crate::ledger::{Call, Ledger};

const FORMATS: [&str; 4] = ["plain", "custom", "directory", "tar"];

fn cluster() -> Cluster {
    Cluster::builder().with_wire_kek().without_fsync().start()
}

/// Creates some users with keys of several versions, through an ordinary role.
pub fn some_vaults(db: &Db) -> Ledger {
    let mut ledger = Ledger::default();
    let mut app: Client = db.app();
    for i in 0..20 {
        let user = format!("user-{i} \u{202e}'\"\\\t");
        ledger.call(&mut app, &user, Call::Init).unwrap();
        for _ in 0..i % 3 {
            ledger.call(&mut app, &user, Call::Rotate).unwrap();
        }
        ledger.call(&mut app, &user, Call::Fetch).unwrap();
    }
    ledger
}

/// The pg_dump command for this format and role with further options, and the file that it writes.
fn dump_command(db: &Db, role: &str, format: &str, options: &[&str]) -> (Command, PathBuf) {
    let file = scratch_dir().join("dump");
    let mut command = db.cluster.program("pg_dump", role);
    command.args(["-F", format]).args(options).arg("-f").arg(&file).arg(&db.name);
    (command, file)
}

/// Dumps as the superuser and searches the dump for keys. It is not compressed, since compression would hide them.
#[track_caller]
pub fn dump(db: &Db, format: &str, options: &[&str], ledger: &Ledger) -> PathBuf {
    let mut options = options.to_vec();
    if format != "tar" {
        options.push("-Z0");
    }
    let (mut command, file) = dump_command(db, "postgres", format, &options);
    succeed(&mut command);
    let keys = [kek(1).to_vec(), decode(&ledger.key("user-2 \u{202e}'\"\\\t").master_key)];
    assert_no_secrets_in_files(&[&file], &keys);
    file
}

#[track_caller]
pub fn restore(db: &Db, format: &str, file: &PathBuf) {
    let mut command = if format == "plain" {
        let mut psql = db.cluster.program("psql", "postgres");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(file).args(["-d", &db.name]);
        psql
    } else {
        let mut pg_restore = db.cluster.program("pg_restore", "postgres");
        pg_restore.args(["--exit-on-error", "-d", &db.name]).arg(file);
        pg_restore
    };
    succeed(&mut command);
}

#[test]
fn a_dump_of_each_format_restores_into_an_empty_database() {
    let cluster = cluster();
    let db = cluster.database("d");
    let ledger = some_vaults(&db);
    for format in FORMATS {
        let file = dump(&db, format, &[], &ledger);
        let copy = cluster.empty_database(&format!("from_{format}"));
        restore(&copy, format, &file);
        assert_eq!(copy.audit(), db.audit(), "{format}");
        ledger.end_checks(&copy, &format!("pg_dump, {format}, into an empty database"), 1);
    }
    ledger.end_checks(&db, "the database that was dumped", FORMATS.len());
}

#[test]
fn a_dump_restores_into_a_fresh_cluster() {
    let (old, new) = (cluster(), cluster());
    let db = old.database("d");
    let ledger = some_vaults(&db);
    for format in FORMATS {
        let file = dump(&db, format, &[], &ledger);
        let copy = new.empty_database(&format!("from_{format}"));
        restore(&copy, format, &file);
        copy.make_logins();
        ledger.end_checks(&copy, &format!("pg_dump, {format}, into a fresh cluster"), 1);
    }
}

#[test]
fn pg_dumpall_restores_into_a_fresh_cluster() {
    let (old, new) = (cluster(), cluster());
    let db = old.database("d");
    let ledger = some_vaults(&db);
    let file = scratch_dir().join("all.sql");
    succeed(old.program("pg_dumpall", "postgres").arg("-f").arg(&file));
    // The bootstrap superuser already exists, which always gives one error with pg_dumpall.
    let complaints =
        error_output(new.program("psql", "postgres").args(["-X", "-q", "-d", "postgres", "-f"]).arg(&file));
    let errors: Vec<_> = complaints.lines().filter(|line| line.contains("ERROR")).collect();
    assert!(errors.iter().all(|line| line.contains("role \"postgres\" already exists")), "{errors:?}");
    ledger.end_checks(&new.existing_database("d"), "pg_dumpall into a fresh cluster", 1);
}

/// Runs a command that reports errors without failing, and returns these errors.
fn error_output(command: &mut Command) -> String {
    let output = command.output().expect("the command starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_data_alone_restores_where_the_extension_is() {
    let cluster = cluster();
    let db = cluster.database("d");
    let ledger = some_vaults(&db);
    for (name, options) in [("data_only", &["--data-only"][..]), ("table", &["-t", "vault_ext.*"])] {
        for format in ["plain", "custom"] {
            let file = dump(&db, format, options, &ledger);
            let copy = cluster.database(&format!("{name}_{format}"));
            restore(&copy, format, &file);
            ledger.end_checks(&copy, &format!("pg_dump {}, {format}, where the extension is", options.join(" ")), 1);
        }
    }
}

#[test]
fn the_schema_alone_restores_to_an_empty_vault_that_works() {
    let cluster = cluster();
    let db = cluster.database("d");
    let old = some_vaults(&db);
    for format in FORMATS {
        let file = dump(&db, format, &["--schema-only"], &old);
        let copy = cluster.empty_database(&format!("from_{format}"));
        restore(&copy, format, &file);
        assert_eq!(copy.audit(), []);
        let mut app = copy.app();
        let mut ledger = Ledger::default();
        expect_vault_error(ledger.call(&mut app, "alice", Call::Fetch), "P0002");
        ledger.call(&mut app, "alice", Call::Init).unwrap();
        ledger.end_checks(&copy, &format!("pg_dump --schema-only, {format}"), 1);
    }
    old.end_checks(&db, "the database whose schema was dumped", FORMATS.len());
}

/// pg_dump treats an extension's schema as part of the extension, and -n as "no extensions". The README warns of this.
#[test]
fn a_dump_of_schemas_holds_the_vault_only_where_the_extension_is_named() {
    let cluster = cluster();
    let db = cluster.database("d");
    db.force("CREATE TABLE notes (body text); INSERT INTO notes VALUES ('x')");
    let ledger = some_vaults(&db);
    for schema in ["public", "vault_ext"] {
        let file = dump(&db, "plain", &["-n", schema], &ledger);
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text.contains("notes"), schema == "public");
        assert!(!text.contains("COPY vault_ext"), "{text}");
    }
    let file = dump(&db, "plain", &["-n", "vault_ext", "-e", "vault_ext"], &ledger);
    let copy = cluster.empty_database("copy");
    restore(&copy, "plain", &file);
    ledger.end_checks(&copy, "pg_dump -n vault_ext -e vault_ext (-n alone holds no vault)", 1);
}

#[test]
fn a_role_that_row_security_binds_gets_an_error_and_no_partial_dump() {
    let cluster = cluster();
    let db = cluster.database("d");
    let ledger = some_vaults(&db);
    db.force("CREATE ROLE reader LOGIN; GRANT pg_read_all_data TO reader; CREATE ROLE dba LOGIN CREATEDB CREATEROLE; ALTER DATABASE d OWNER TO dba");
    // PostgreSQL 18 fails at the sequence, with another message.
    let denied: &[&str] = &["permission denied", "may lack SELECT privilege"];
    for (role, words) in [
        ("wire_app", denied),
        ("wire_admin", denied),
        ("wire_auditor", denied),
        ("dba", denied),
        ("reader", &["row-level security"]),
    ] {
        let (mut command, file) = dump_command(&db, role, "plain", &[]);
        let complaint = fail(&mut command);
        assert!(words.iter().any(|words| complaint.contains(words)), "{role}: {complaint}");
        let text = fs::read_to_string(&file).unwrap_or_default();
        assert!(!text.contains("COPY vault_ext.encryption_vaults "), "{role}: {text}");
    }
    ledger.end_checks(&db, "pg_dump as five roles that may not: refused", 5);
}

#[test]
fn a_restore_under_another_kek_is_refused_before_anything_is_written() {
    let cluster = cluster();
    let db = cluster.database("d");
    let ledger = some_vaults(&db);
    let file = dump(&db, "custom", &[], &ledger);
    let mut other = Cluster::builder().keyring(&keyring_line("wire-1", &kek(9))).without_fsync().start();
    let copy = other.empty_database("d");
    restore(&copy, "custom", &file);
    copy.make_logins();
    let user = "user-2 \u{202e}'\"\\\t";
    let row = copy.vault_row(user);
    let mut app = copy.app();
    for call in [Call::Init, Call::Fetch, Call::Rotate] {
        expect_vault_error(Ledger::default().call(&mut app, user, call), "55000");
    }
    expect_vault_error(Ledger::default().call(&mut app, "new", Call::Init), "55000");
    assert_eq!(copy.vault_row(user), row);
    // With the right keyring, everything opens.
    drop((app, copy));
    let path = other.write_kek("right", keyring_line("wire-1", &kek(1)), 0o600);
    other.configure(&format!("vault_ext.kek_file = '{}'", path.display()));
    other.restart();
    ledger.end_checks(
        &other.existing_database("d"),
        "a restore under another KEK: refused, then opened with the right one",
        1,
    );
}

#[test]
fn a_copy_by_template_opens_every_key() {
    let cluster = cluster();
    let db = cluster.database("d");
    let ledger = some_vaults(&db);
    cluster.superuser("postgres").batch_execute("CREATE DATABASE copy TEMPLATE d").unwrap();
    ledger.end_checks(&cluster.existing_database("copy"), "CREATE DATABASE … TEMPLATE", 1);
    ledger.end_checks(&db, "the database that was the template", 1);
}
