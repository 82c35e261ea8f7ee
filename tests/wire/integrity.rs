//! Changes that would silently break a promise: their statements are refused. If a change gets through anyway, calls
//! fail with an error that names it.

use std::process::Command;

use crate::harness::{
    Db, Refusal, VaultKey, eventually, expect_error, expect_vault_error, fetch, init, rotate, scratch_dir, shared_db,
    status, succeed,
};

const TRAIL: &str = "vault_ext.encryption_vault_audit";
const VAULTS: &str = "vault_ext.encryption_vaults";

/// Changes that each break a promise at once: the statement, the one that reverts it, and words in the error.
fn changes() -> Vec<(String, String, &'static str)> {
    let mut changes = Vec::new();
    for table in [TRAIL, VAULTS] {
        let mut alter = |change: &str, mend: &str, says| {
            changes.push((format!("ALTER TABLE {table} {change}"), format!("ALTER TABLE {table} {mend}"), says));
        };
        alter("SET UNLOGGED", "SET LOGGED", "not logged");
        alter("OWNER TO postgres", "OWNER TO vault_ext_owner", "belongs to postgres");
        alter("DISABLE ROW LEVEL SECURITY", "ENABLE ROW LEVEL SECURITY", "no row-level security");
        alter("NO FORCE ROW LEVEL SECURITY", "FORCE ROW LEVEL SECURITY", "does not force");
        changes.push((
            format!("CREATE RULE r AS ON INSERT TO {table} DO ALSO NOTHING"),
            format!("DROP RULE r ON {table}"),
            "has a rule",
        ));
        changes.push((
            format!("CREATE POLICY open ON {table} USING (true) WITH CHECK (true)"),
            format!("DROP POLICY open ON {table}"),
            "policy open",
        ));
    }
    changes.push((
        format!("ALTER POLICY encryption_vaults_user_isolation ON {VAULTS} USING (true)"),
        format!(
            "ALTER POLICY encryption_vaults_user_isolation ON {VAULTS}
                USING (user_id = vault_ext.current_user_id())"
        ),
        "policy encryption_vaults_user_isolation",
    ));
    changes.push((
        format!("ALTER POLICY encryption_vault_audit_writer ON {TRAIL} WITH CHECK (true)"),
        format!("ALTER POLICY encryption_vault_audit_writer ON {TRAIL} WITH CHECK (vault_ext.is_audit_writer())"),
        "policy encryption_vault_audit_writer",
    ));
    changes.push((
        "ALTER SCHEMA vault_ext OWNER TO postgres".into(),
        "ALTER SCHEMA vault_ext OWNER TO vault_ext_owner".into(),
        "the schema vault_ext belongs to postgres",
    ));
    changes.push((
        "ALTER FUNCTION vault_rotate() OWNER TO postgres".into(),
        "ALTER FUNCTION vault_rotate() OWNER TO vault_ext_owner".into(),
        "vault_rotate() belongs to postgres",
    ));
    changes
}

fn with_alter_allowed(sql: &str) -> String {
    format!("SET vault_ext.allow_alter = on; {sql}")
}

#[track_caller]
fn expect_broken(result: Result<impl std::fmt::Debug, postgres::Error>, says: &str) -> Refusal {
    let refusal = expect_vault_error(result, "55000");
    assert!(refusal.message.contains(says), "{says:?} is not in {refusal:?}");
    refusal
}

/// Asserts that every call fails and names the change, and that no key is released.
#[track_caller]
fn expect_nothing_released(db: &Db, says: &str) {
    expect_broken(fetch(&mut db.app_for("alice")), says);
    expect_broken(rotate(&mut db.app_for("alice")), says);
    expect_broken(init(&mut db.app_for("new")), says);
    assert_eq!(db.vault_row("new"), None);
}

#[test]
fn a_statement_that_breaks_a_promise_is_refused() {
    let db = shared_db();
    let key = init(&mut db.app_for("alice")).unwrap();
    let mut superuser = db.superuser();
    for (change, _, says) in changes() {
        let refusal = expect_broken(superuser.batch_execute(&change), says);
        assert!(refusal.hint.is_some_and(|hint| hint.contains("vault_ext.allow_alter")), "{change}");
        assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key, "after {change}");
    }
    for table in vault_core::integrity::TABLES {
        let change = format!("ALTER TABLE vault_ext.{} ADD COLUMN of_a_dba text", table.to_str().unwrap());
        let refusal = expect_broken(superuser.batch_execute(&change), "other columns");
        assert!(refusal.hint.is_some_and(|hint| hint.contains("a table of your own that refers to")), "{change}");
    }
    for (change, says) in [
        (format!("ALTER TABLE {VAULTS} RENAME COLUMN kek_id TO kek"), "other columns"),
        (format!("ALTER TABLE {TRAIL} RENAME TO old_trail"), "no table"),
        (format!("ALTER TABLE {TRAIL} SET SCHEMA public"), "no table"),
        ("ALTER SCHEMA vault_ext RENAME TO elsewhere".into(), "no table"),
        ("REASSIGN OWNED BY vault_ext_owner TO postgres".into(), "objects of the vault belong to postgres"),
        ("ALTER ROLE vault_ext_owner BYPASSRLS".into(), "BYPASSRLS"),
        (format!("DROP POLICY encryption_vaults_user_isolation ON {VAULTS}"), "policy"),
        (format!("DO $$ BEGIN ALTER TABLE {TRAIL} SET UNLOGGED; END $$"), "not logged"),
    ] {
        expect_broken(superuser.batch_execute(&change), says);
        assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key, "after {change}");
    }
}

#[test]
fn changes_that_break_no_promise_are_allowed() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    db.force(&format!(
        "ALTER TABLE {TRAIL} SET (fillfactor = 90);
         ALTER TABLE {TRAIL} ALTER user_agent SET STATISTICS 10;
         CREATE INDEX by_action ON {TRAIL} (action);
         CREATE ROLE integrity_report; CREATE POLICY reporting ON {TRAIL} FOR SELECT TO integrity_report USING (true);
         CREATE POLICY not_at_night ON {VAULTS} AS RESTRICTIVE FOR SELECT USING (true);
         CREATE TABLE encryption_vaults (id int); ALTER TABLE encryption_vaults ADD note text, SET UNLOGGED;
         DROP POLICY reporting ON {TRAIL}; DROP POLICY not_at_night ON {VAULTS}; DROP ROLE integrity_report;
         CREATE ROLE integrity_a; CREATE ROLE integrity_b; REASSIGN OWNED BY integrity_a TO integrity_b; ALTER ROLE integrity_a LOGIN;
         DROP ROLE integrity_a, integrity_b"
    ));
    fetch(&mut db.app_for("alice")).unwrap();
    // Roles that may not alter the tables get the usual error.
    for role in ["wire_app", "wire_admin", "wire_stranger"] {
        expect_error(db.conn(role).batch_execute(&format!("ALTER TABLE {TRAIL} SET UNLOGGED")), "42501");
        expect_error(db.conn(role).batch_execute("REASSIGN OWNED BY vault_ext_owner TO CURRENT_USER"), "42501");
    }
}

#[test]
fn a_change_that_gets_through_is_named_by_every_call_until_it_is_reverted() {
    let db = shared_db();
    let key = init(&mut db.app_for("alice")).unwrap();
    // This session and its writer are older than the changes.
    let mut open = db.app_for("alice");
    for (change, mend, says) in changes() {
        assert_eq!(fetch(&mut open).unwrap(), key, "before {change}");
        db.force(&with_alter_allowed(&change));
        expect_broken(fetch(&mut open), says);
        expect_nothing_released(&db, says);
        db.force(&mend);
        assert_eq!(fetch(&mut open).unwrap(), key, "after {mend}");
    }
    db.force(&with_alter_allowed("REASSIGN OWNED BY vault_ext_owner TO postgres"));
    expect_nothing_released(&db, "objects of the vault belong to postgres");
}

#[test]
fn two_changes_can_be_reverted_one_after_the_other() {
    let db = shared_db();
    let key = init(&mut db.app_for("alice")).unwrap();
    db.force(&with_alter_allowed(&format!(
        "ALTER TABLE {TRAIL} SET UNLOGGED; ALTER TABLE {VAULTS} NO FORCE ROW LEVEL SECURITY"
    )));
    expect_nothing_released(&db, "vault_ext.");
    expect_broken(db.superuser().batch_execute(&format!("ALTER TABLE {VAULTS} SET UNLOGGED")), "not logged");
    db.force(&format!("ALTER TABLE {TRAIL} SET LOGGED"));
    expect_nothing_released(&db, "does not force");
    db.force(&format!("ALTER TABLE {VAULTS} FORCE ROW LEVEL SECURITY"));
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
}

#[test]
fn a_trail_that_was_swapped_takes_no_rows() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    for make in [
        format!(
            "CREATE TABLE {TRAIL} (LIKE vault_ext.mine INCLUDING ALL) PARTITION BY RANGE (id);
            CREATE TABLE vault_ext.part PARTITION OF {TRAIL} DEFAULT"
        ),
        format!("CREATE TABLE {TRAIL} (LIKE vault_ext.mine INCLUDING ALL)"),
        format!("CREATE VIEW {TRAIL} AS SELECT * FROM vault_ext.mine"),
        format!("CREATE TABLE {TRAIL} () INHERITS (vault_ext.mine)"),
    ] {
        db.force(&with_alter_allowed(&format!(
            "ALTER TABLE {TRAIL} RENAME TO mine; {make}; ALTER TABLE {TRAIL} OWNER TO vault_ext_owner"
        )));
        expect_nothing_released(&db, "not the one that CREATE EXTENSION made");
        let kind = if make.starts_with("CREATE VIEW") { "VIEW" } else { "TABLE" };
        db.force(&with_alter_allowed(&format!(
            "DROP {kind} {TRAIL}; ALTER TABLE vault_ext.mine RENAME TO encryption_vault_audit"
        )));
        fetch(&mut db.app_for("alice")).unwrap();
    }
    // A child of the trail could take rows without its policies.
    db.force(&format!("CREATE TABLE child () INHERITS ({TRAIL})"));
    expect_nothing_released(&db, "inheritance");
    db.force("DROP TABLE child");
    fetch(&mut db.app_for("alice")).unwrap();
}

#[test]
fn an_existing_extra_column_is_reported_by_vault_check() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    db.force(&with_alter_allowed(&format!("ALTER TABLE {TRAIL} ADD COLUMN note text")));
    // Calls still work, but a dump would not restore.
    fetch(&mut db.app_for("alice")).unwrap();
    let warnings = || {
        let mut psql = db.cluster.program("psql", "wire_admin");
        let output = psql.args(["-X", "-d", &db.name, "-c", "SELECT * FROM vault_check()"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = warnings();
    assert!(said.contains("WARNING") && said.contains("other columns"), "{said}");
    db.force(&format!("ALTER TABLE {TRAIL} DROP COLUMN note"));
    assert_eq!(warnings(), "");
}

#[test]
fn a_trail_whose_change_was_refused_restores_every_row_from_a_dump() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    expect_broken(db.superuser().batch_execute(&format!("ALTER TABLE {TRAIL} ADD COLUMN note text")), "other columns");
    let file = scratch_dir().join("dump");
    succeed(db.cluster.program("pg_dump", "postgres").args(["-Fc", "-f"]).arg(&file).arg(&db.name));
    let copy = db.cluster.empty_database(&format!("{}_copy", db.name));
    let restore: &mut Command = &mut db.cluster.program("pg_restore", "postgres");
    succeed(restore.args(["-d", &copy.name]).arg(&file));
    assert_eq!(copy.audit(), db.audit());
}

#[test]
fn vault_check_names_what_is_broken() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    db.force(&with_alter_allowed(&format!("ALTER TABLE {VAULTS} SET UNLOGGED")));
    expect_broken(db.conn("wire_admin").query("SELECT * FROM vault_check()", &[]), "not logged");
}

#[test]
fn calls_with_row_security_off_are_refused_with_the_right_hint() {
    let db = shared_db();
    let key = init(&mut db.app_for("alice")).unwrap();
    let mut app = db.app_for("alice");
    let mut admin = db.conn("wire_admin");
    for client in [&mut app, &mut admin] {
        client.batch_execute("SET row_security = off").unwrap();
    }
    let mut refused = vec![
        expect_vault_error(fetch(&mut app), "55000"),
        expect_vault_error(init(&mut app), "55000"),
        expect_vault_error(rotate(&mut app), "55000"),
        expect_vault_error(status(&mut app), "55000"),
    ];
    for sql in [
        "SELECT vault_erase('alice')",
        "SELECT vault_rename_user('alice', 'bob')",
        "SELECT vault_purge_audit('1 day')",
        "SELECT * FROM vault_kek_status()",
        "SELECT * FROM vault_check()",
        "CALL vault_rewrap()",
        "SELECT vault_schedule_erase('alice', '30 days', 'x')",
        "SELECT vault_cancel_erase('alice')",
        "SELECT * FROM vault_erasure_status('alice')",
        "CALL vault_destroy_due()",
        "SELECT vault_retire_kek('spare')",
        "SELECT * FROM vault_reload_kek()",
    ] {
        refused.push(expect_vault_error(admin.batch_execute(sql), "55000"));
    }
    for refusal in refused {
        let hint = refusal.hint.clone().unwrap_or_default();
        assert!(hint.contains("SET row_security = on") && !hint.contains("NO FORCE"), "{refusal:?}");
    }
    app.batch_execute("RESET row_security").unwrap();
    assert_eq!(fetch(&mut app).unwrap(), key);
    let rows = db.audit_where("context = 'row-security-off'");
    assert!(rows.iter().any(|row| row.action == "failed_fetch" && row.status == 500), "{rows:?}");
}

#[test]
fn a_change_while_the_writer_waits_for_the_table_counts() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    let mut changing = db.superuser();
    changing.batch_execute(&with_alter_allowed("BEGIN")).unwrap();
    changing.batch_execute(&format!("ALTER TABLE {TRAIL} SET UNLOGGED")).unwrap();
    let mut app = db.app_for("alice");
    let waiting = std::thread::spawn(move || -> Result<VaultKey, postgres::Error> { fetch(&mut app) });
    eventually(std::time::Duration::from_secs(30), "the writer waits", || {
        db.value("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type LIKE 'vault%writer' AND wait_event_type = 'Lock' AND datname = current_database())")
    });
    changing.batch_execute("COMMIT").unwrap();
    expect_broken(waiting.join().unwrap(), "not logged");
    let rows: i64 = db.value(&format!("SELECT count(*) FROM {TRAIL}"));
    assert_eq!(rows, 1, "no row went into a table that a crash empties");
}
