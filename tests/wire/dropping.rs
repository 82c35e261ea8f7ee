//! Statements that destroy every key of a database. Some are refused until the guard is turned off.

use std::time::Duration;

use postgres::error::SqlState;

use crate::harness::{
    Cluster, Db, Refusal, eventually, expect_error, expect_vault_error, fail, fetch, init, scratch_dir, set_user,
    shared_db, status, succeed,
};

const SOON: Duration = Duration::from_secs(20);

/// Every way to drop the extension, if the superuser `dba` installed it into the schema public.
const WAYS_TO_DROP: [&str; 10] = [
    "DROP EXTENSION vault_ext",
    "DROP EXTENSION IF EXISTS vault_ext CASCADE",
    "DROP EXTENSION plpgsql, vault_ext",
    "DO $$ BEGIN DROP EXTENSION vault_ext; END $$",
    "DROP SCHEMA public CASCADE",
    "DROP OWNED BY dba",
    "DROP OWNED BY dba CASCADE",
    "ALTER EXTENSION vault_ext DROP TABLE vault_ext.encryption_vaults; DROP TABLE vault_ext.encryption_vaults",
    "SET ROLE dba; DROP EXTENSION vault_ext",
    "BEGIN; SAVEPOINT s; DROP EXTENSION vault_ext; COMMIT",
];

/// A server with a database whose extension was installed by `dba`.
fn cluster_of_dba() -> Cluster {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.empty_database("d");
    db.force("CREATE ROLE dba SUPERUSER LOGIN");
    db.conn("dba").batch_execute("CREATE EXTENSION vault_ext").unwrap();
    db.make_logins();
    drop(db);
    cluster
}

#[track_caller]
fn expect_refused(db: &Db, role: &str, sql: &str, vaults: u32) -> Refusal {
    let refusal = expect_vault_error(db.conn(role).batch_execute(sql), "55000");
    assert!(refusal.message.contains(&format!("{vaults} vault(s)")), "{sql}: {refusal:?}");
    let hint = refusal.hint.as_deref().unwrap_or_default();
    assert!(hint.contains("SET vault_ext.allow_drop = on"), "{sql}: {refusal:?}");
    refusal
}

#[test]
fn every_way_to_drop_the_extension_is_refused_while_there_are_vaults() {
    let cluster = cluster_of_dba();
    let db = cluster.existing_database("d");
    let alice = init(&mut db.app_for("alice")).unwrap();
    let bob = init(&mut db.app_for("bob")).unwrap();
    for sql in WAYS_TO_DROP {
        let refusal = expect_refused(&db, "postgres", sql, 2);
        let detail = refusal.detail.as_deref().unwrap_or_default();
        assert!(detail.contains("audit trail"), "{sql}: {refusal:?}");
    }
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), alice);
    assert_eq!(fetch(&mut db.app_for("bob")).unwrap(), bob);
    assert_eq!(db.audit().len(), 4);
    // Only the guard refused: with it off, every way works.
    for sql in WAYS_TO_DROP {
        let sql = sql.strip_prefix("BEGIN; ").and_then(|sql| sql.strip_suffix("; COMMIT")).unwrap_or(sql);
        db.force(&format!("BEGIN; SET LOCAL vault_ext.allow_drop = on; {sql}; ROLLBACK"));
        expect_refused(&db, "postgres", "DROP EXTENSION vault_ext", 2);
    }
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), alice);
    db.force("SET vault_ext.allow_drop = on; DROP SCHEMA public CASCADE");
    let left: i64 = db.value("SELECT count(*) FROM pg_class WHERE relname LIKE 'encryption_vault%'");
    assert_eq!(left, 0);
}

#[test]
fn the_extension_s_objects_can_only_be_dropped_with_it() {
    let cluster = cluster_of_dba();
    let db = cluster.existing_database("d");
    let key = init(&mut db.app_for("alice")).unwrap();
    for sql in [
        "DROP SCHEMA vault_ext CASCADE",
        "DROP TABLE vault_ext.encryption_vaults CASCADE",
        "DROP OWNED BY vault_ext_owner CASCADE",
        "DROP FUNCTION vault_init()",
        "DROP TYPE vault_key CASCADE",
        "DROP ROLE vault_ext_owner",
        "DROP ROLE dba",
    ] {
        // Not even with the guard off.
        let result = db.superuser().batch_execute(&format!("SET vault_ext.allow_drop = on; {sql}"));
        expect_error(result, SqlState::DEPENDENT_OBJECTS_STILL_EXIST.code());
    }
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
}

#[test]
fn an_empty_vault_can_be_dropped() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    expect_refused(&db, "postgres", "DROP EXTENSION vault_ext", 1);
    db.conn("wire_admin").batch_execute("SELECT vault_erase('alice')").unwrap();
    db.force("DROP EXTENSION vault_ext");
}

#[test]
fn the_extension_s_owner_can_turn_the_guard_off_and_other_roles_cannot_drop() {
    let cluster = cluster_of_dba();
    let db = cluster.existing_database("d");
    db.force("CREATE ROLE keeper LOGIN; REASSIGN OWNED BY dba TO keeper");
    init(&mut db.app_for("alice")).unwrap();
    for role in ["wire_stranger", "wire_app", "wire_admin", "wire_auditor"] {
        let result = db.conn(role).batch_execute("SET vault_ext.allow_drop = on; DROP EXTENSION vault_ext");
        expect_error(result, "42501");
    }
    // Row-level security hides every row from the extension's owner, but the guard sees them.
    expect_refused(&db, "keeper", "DROP EXTENSION vault_ext", 1);
    expect_refused(&db, "keeper", "DROP OWNED BY keeper", 1);
    db.conn("keeper").batch_execute("SET vault_ext.allow_drop = on; DROP EXTENSION vault_ext").unwrap();
}

#[test]
fn a_vault_in_an_open_transaction_counts() {
    let db = shared_db();
    let mut app = db.app();
    app.batch_execute("BEGIN").unwrap();
    set_user(&mut app, "alice");
    let key = init(&mut app).unwrap();
    let mut dropper = db.superuser();
    std::thread::scope(|scope| {
        let dropping = scope.spawn(|| dropper.batch_execute("DROP EXTENSION vault_ext"));
        eventually(SOON, "DROP EXTENSION waits", || {
            db.value(
                "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'
                AND relation = 'vault_ext.encryption_vaults'::regclass AND database =
                (SELECT oid FROM pg_database WHERE datname = current_database()))",
            )
        });
        app.batch_execute("COMMIT").unwrap();
        expect_vault_error(dropping.join().unwrap(), "55000");
    });
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
}

#[test]
fn a_vault_that_is_newer_than_the_transaction_s_snapshot_counts() {
    let db = shared_db();
    let mut dropper = db.superuser();
    dropper
        .batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM vault_ext.encryption_vaults")
        .unwrap();
    let key = init(&mut db.app_for("alice")).unwrap();
    expect_vault_error(dropper.batch_execute("DROP EXTENSION vault_ext"), "55000");
    drop(dropper);
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
}

#[test]
fn restoring_with_clean_over_vaults_is_refused_until_the_guard_is_off() {
    let db = shared_db();
    let old = init(&mut db.app_for("alice")).unwrap();
    let file = scratch_dir().join("dump");
    succeed(db.cluster.program("pg_dump", "postgres").args(["-Fc", "-f"]).arg(&file).arg(&db.name));
    // This key is not in the dump.
    let new = init(&mut db.app_for("bob")).unwrap();
    let restore = || {
        let mut command = db.cluster.program("pg_restore", "postgres");
        command.args(["--clean", "--if-exists", "-1", "-d", &db.name]).arg(&file);
        command
    };
    let complaint = fail(&mut restore());
    assert!(complaint.contains("2 vault(s)"), "{complaint}");
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), old);
    assert_eq!(fetch(&mut db.app_for("bob")).unwrap(), new);
    succeed(restore().env("PGOPTIONS", "-c vault_ext.allow_drop=on"));
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), old);
    expect_vault_error(fetch(&mut db.app_for("bob")), "P0002");
}

#[test]
fn truncate_delete_and_drop_database_are_not_refused() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.database("d");
    for sql in ["TRUNCATE vault_ext.encryption_vaults", "DELETE FROM vault_ext.encryption_vaults"] {
        let mut app = db.app_for("alice");
        init(&mut app).unwrap();
        db.force(sql);
        assert!(!status(&mut app).unwrap().exists, "{sql}");
        // The trail remains.
        assert!(!db.audit_of("alice").is_empty());
    }
    init(&mut db.app_for("alice")).unwrap();
    cluster.superuser("postgres").batch_execute("DROP DATABASE d").unwrap();
}

#[test]
fn a_server_that_does_not_preload_has_no_guard() {
    let mut cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    init(&mut cluster.database("d").app_for("alice")).unwrap();
    cluster.configure("shared_preload_libraries = ''");
    cluster.restart();
    cluster.existing_database("d").force("DROP EXTENSION vault_ext");
}
