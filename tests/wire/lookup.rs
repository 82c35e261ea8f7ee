//! A fetch reads the user's row past the executor. It must see the same row as a SELECT, whatever becomes of table and index.

use crate::harness::{Db, fetch, init, rotate, set_user, shared_db};

const IN_SERIALIZABLE: &str = "BEGIN ISOLATION LEVEL SERIALIZABLE";

/// Runs the statements, after each of which both an old session and a new one find the key.
#[track_caller]
fn is_found_after_each(db: &Db, statements: &[&str]) {
    let mut app = db.app_for("alice");
    let key = init(&mut app).unwrap();
    for statement in statements {
        assert_eq!(fetch(&mut app).unwrap(), key);
        let mut superuser = db.superuser();
        superuser.batch_execute("SET vault_ext.allow_alter = on").unwrap();
        superuser.batch_execute(statement).unwrap();
        assert_eq!(fetch(&mut app).unwrap(), key, "after {statement}");
        assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key, "in a new session, after {statement}");
    }
    assert_eq!(rotate(&mut app).unwrap().key_version, 2);
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap().key_version, 2);
}

#[test]
fn a_rewritten_table_and_a_new_index_are_noticed() {
    is_found_after_each(
        &shared_db(),
        &[
            "VACUUM FULL vault_ext.encryption_vaults",
            "CLUSTER vault_ext.encryption_vaults USING encryption_vaults_pkey",
            "REINDEX TABLE vault_ext.encryption_vaults",
            "REINDEX TABLE CONCURRENTLY vault_ext.encryption_vaults",
            "VACUUM (ANALYZE) vault_ext.encryption_vaults",
            "ALTER INDEX vault_ext.encryption_vaults_pkey RENAME TO elsewhere",
            "DROP INDEX IF EXISTS vault_ext.nothing",
        ],
    );
}

#[test]
fn a_vault_without_its_primary_key_is_found_by_sql() {
    is_found_after_each(
        &shared_db(),
        &[
            "ALTER TABLE vault_ext.encryption_vaults DROP CONSTRAINT encryption_vaults_pkey",
            "ALTER TABLE vault_ext.encryption_vaults ADD PRIMARY KEY (kek_id, user_id)",
            "ALTER TABLE vault_ext.encryption_vaults DROP CONSTRAINT encryption_vaults_pkey, ADD PRIMARY KEY (user_id)",
        ],
    );
}

/// Each of two transactions reads what the other one then writes, so one of them must fail. PostgreSQL knows that only if the
/// reading of the vault has left its predicate locks.
#[test]
fn a_serializable_transaction_that_has_fetched_conflicts_with_a_rotation() {
    let db = shared_db();
    db.force("CREATE TABLE notes (body text); GRANT SELECT, INSERT ON notes TO wire_app");
    init(&mut db.app_for("alice")).unwrap();
    let (mut reader, mut rotator) = (db.app_for("alice"), db.app_for("alice"));
    for client in [&mut reader, &mut rotator] {
        client.batch_execute(IN_SERIALIZABLE).unwrap();
    }
    fetch(&mut reader).unwrap();
    rotator.query("SELECT count(*) FROM notes", &[]).unwrap();
    reader.execute("INSERT INTO notes VALUES ('encrypted')", &[]).unwrap();
    let mut outcomes = vec![rotate(&mut rotator).map(drop)];
    outcomes.push(rotator.batch_execute("COMMIT"));
    outcomes.push(reader.batch_execute("COMMIT"));
    let refused: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(!refused.is_empty(), "both transactions committed");
    let code = refused[0].code().map(|code| code.code().to_owned());
    assert_eq!(code.as_deref(), Some("40001"), "{refused:?}");
}

#[test]
fn a_transaction_that_keeps_its_snapshot_keeps_the_key_of_then() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let key = init(&mut app).unwrap();
    app.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
    assert_eq!(fetch(&mut app).unwrap(), key);
    assert_eq!(rotate(&mut db.app_for("alice")).unwrap().key_version, 2);
    assert_eq!(fetch(&mut app).unwrap(), key);
    app.batch_execute("COMMIT").unwrap();
    assert_eq!(fetch(&mut app).unwrap().key_version, 2);
}

/// PostgreSQL keeps the text of each statement that a session has planned.
#[test]
fn a_fetch_plans_no_statement_unless_a_policy_asks_for_it() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    let mut client = db.superuser();
    set_user(&mut client, "alice");
    let mut planned = || -> i64 {
        fetch(&mut client).unwrap();
        let sql = "SELECT count(*) FROM pg_backend_memory_contexts WHERE ident LIKE 'SELECT wrapped_mk%'";
        client.query_one(sql, &[]).unwrap().get(0)
    };
    assert_eq!(planned(), 0);
    db.force("CREATE POLICY closed ON vault_ext.encryption_vaults AS RESTRICTIVE FOR SELECT USING (user_id <> 'bob')");
    assert!(planned() > 0);
}
