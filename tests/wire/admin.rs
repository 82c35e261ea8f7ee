//! Erasing a user's vault, the trigger for the application's users table, and purging the trail.

use crate::harness::{Db, expect_error, expect_vault_error, fetch, init, shared_db};

#[track_caller]
fn erase(db: &Db, role: &str, user: &str) -> Result<bool, postgres::Error> {
    let row = db.conn(role).query_one("SELECT vault_erase($1)", &[&user])?;
    Ok(row.get(0))
}

#[test]
fn erase_deletes_the_vault_and_keeps_the_trail() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    let bob = init(&mut db.app_for("bob")).unwrap();
    assert!(erase(&db, "wire_admin", "alice").unwrap());
    assert_eq!(db.vault_row("alice"), None);
    expect_vault_error(fetch(&mut db.app_for("alice")), "P0002");
    assert_eq!(fetch(&mut db.app_for("bob")).unwrap(), bob);
    let rows = db.audit_of("alice");
    let what: Vec<_> = rows.iter().map(|row| (row.action.as_str(), row.status)).collect();
    assert_eq!(what, [("init", 201), ("erase", 200), ("failed_fetch", 404)]);
    assert_eq!(rows[1].db_role, "wire_admin");
    assert!(!erase(&db, "wire_admin", "alice").unwrap(), "the vault is already gone");
}

#[test]
fn only_an_admin_erases() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    for role in ["wire_app", "wire_auditor", "wire_stranger"] {
        expect_error(erase(&db, role, "alice"), "42501");
    }
    assert!(db.vault_row("alice").is_some());
}

#[test]
fn a_bad_user_id_is_a_bad_argument() {
    let db = shared_db();
    for user in [String::new(), "x".repeat(256)] {
        expect_vault_error(erase(&db, "wire_admin", &user), "22023");
    }
}

#[test]
fn deleting_a_user_erases_its_vault() {
    let db = shared_db();
    for user in ["alice", "bob"] {
        init(&mut db.app_for(user)).unwrap();
    }
    db.force(
        "CREATE TABLE users (id text PRIMARY KEY, name text);
         INSERT INTO users VALUES ('alice', 'A'), ('bob', 'B'), ('no-vault', 'C');
         CREATE TRIGGER erase AFTER DELETE ON users FOR EACH ROW EXECUTE FUNCTION vault_erase_on_delete('id');
         GRANT SELECT, DELETE ON users TO wire_app",
    );
    let mut app = db.app();
    app.batch_execute("DELETE FROM users WHERE id IN ('alice', 'no-vault')").unwrap();
    assert_eq!(db.vault_row("alice"), None);
    assert!(db.vault_row("bob").is_some());
    let rows = db.audit_of("alice");
    assert!(rows.iter().any(|row| row.action == "erase" && row.status == 200), "{rows:?}");
}

#[test]
fn a_delete_that_is_rolled_back_keeps_the_key() {
    let db = shared_db();
    let key = init(&mut db.app_for("alice")).unwrap();
    db.force(
        "CREATE TABLE users (id text PRIMARY KEY);
         INSERT INTO users VALUES ('alice');
         CREATE TRIGGER erase AFTER DELETE ON users FOR EACH ROW EXECUTE FUNCTION vault_erase_on_delete('id')",
    );
    db.force("BEGIN; DELETE FROM users; ROLLBACK");
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
}

#[test]
fn the_trigger_accepts_ids_of_other_types() {
    let db = shared_db();
    for (column_type, id) in [("uuid", "6f9619ff-8b86-d011-b42d-00c04fc964ff"), ("bigint", "42")] {
        init(&mut db.app_for(id)).unwrap();
        db.force(&format!(
            "CREATE TABLE users (id {column_type} PRIMARY KEY);
             INSERT INTO users VALUES ('{id}');
             CREATE TRIGGER erase AFTER DELETE ON users FOR EACH ROW EXECUTE FUNCTION vault_erase_on_delete('id');
             DELETE FROM users; DROP TABLE users"
        ));
        assert_eq!(db.vault_row(id), None, "{column_type}");
    }
}

#[test]
fn an_application_cannot_turn_the_trigger_against_other_users() {
    let db = shared_db();
    init(&mut db.app_for("bob")).unwrap();
    db.force("CREATE SCHEMA own AUTHORIZATION wire_app");
    let mut app = db.app_for("alice");
    expect_error(
        app.batch_execute(
            "CREATE TABLE own.users (id text);
             CREATE TRIGGER erase AFTER DELETE ON own.users FOR EACH ROW EXECUTE FUNCTION vault_erase_on_delete('id')",
        ),
        "42501",
    );
    assert!(db.vault_row("bob").is_some());
}

#[test]
fn purge_deletes_only_old_rows_and_adds_its_own_row() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    db.force(
        "INSERT INTO vault_ext.encryption_vault_audit (user_id, action, status, db_role, created_at)
            SELECT 'old', 'fetch', 200, 'someone', now() - interval '100 days' FROM generate_series(1, 7)",
    );
    let mut admin = db.conn("wire_admin");
    let deleted: i64 = admin.query_one("SELECT vault_purge_audit('90 days')", &[]).unwrap().get(0);
    assert_eq!(deleted, 7);
    let rows = db.audit();
    let what: Vec<_> = rows.iter().map(|row| (row.action.as_str(), row.status)).collect();
    assert_eq!(what, [("init", 201), ("purge", 200)]);
    assert_eq!(rows[1].db_role, "wire_admin");
}

#[test]
fn only_an_admin_purges_and_never_with_a_negative_age() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    for role in ["wire_app", "wire_auditor", "wire_stranger"] {
        expect_error(db.conn(role).simple_query("SELECT vault_purge_audit('1 day')"), "42501");
    }
    let negative = db.conn("wire_admin").simple_query("SELECT vault_purge_audit('-1 day')");
    expect_vault_error(negative, "22023");
    assert_eq!(db.audit_of("alice").len(), 1);
}

#[test]
fn statements_that_fire_no_row_trigger_erase_no_vault() {
    let db = shared_db();
    let key = init(&mut db.app_for("alice")).unwrap();
    db.force(
        "CREATE TABLE users (id text PRIMARY KEY);
         CREATE TRIGGER erase AFTER DELETE ON users FOR EACH ROW EXECUTE FUNCTION vault_erase_on_delete('id')",
    );
    for sql in ["TRUNCATE users", "SET session_replication_role = replica; DELETE FROM users"] {
        db.force(&format!("INSERT INTO users VALUES ('alice'); {sql}"));
        assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key, "after {sql}");
    }
    // The guard that the documentation recommends.
    db.force(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'DELETE instead of TRUNCATE'; END $$;
         CREATE TRIGGER no_truncate BEFORE TRUNCATE ON users FOR EACH STATEMENT EXECUTE FUNCTION refuse()",
    );
    expect_error(db.superuser().batch_execute("TRUNCATE users"), "P0001");
}
