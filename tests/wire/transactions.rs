//! Calls inside every kind of transaction.

use crate::harness::{Db, expect_error, expect_vault_error, fetch, init, rotate, set_user, shared_db, status};

#[track_caller]
fn statuses(db: &Db, user: &str) -> Vec<(String, i32)> {
    let rows = db.audit_of(user);
    rows.into_iter().map(|row| (row.action, row.status)).collect()
}

fn named(list: &[(&str, i32)]) -> Vec<(String, i32)> {
    list.iter().map(|(action, status)| ((*action).to_owned(), *status)).collect()
}

#[test]
fn every_isolation_level_runs_the_whole_life_of_a_key() {
    let db = shared_db();
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let mut app = db.app_for(level);
        app.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}")).unwrap();
        let first = init(&mut app).unwrap();
        assert_eq!(fetch(&mut app).unwrap(), first);
        let second = rotate(&mut app).unwrap();
        assert_eq!(fetch(&mut app).unwrap(), second);
        assert_eq!(init(&mut app).unwrap(), second);
        app.batch_execute("COMMIT").unwrap();
        assert_eq!(fetch(&mut db.app_for(level)).unwrap(), second);
        let expected =
            named(&[("init", 201), ("fetch", 200), ("rotate", 200), ("fetch", 200), ("init", 200), ("fetch", 200)]);
        assert_eq!(statuses(&db, level), expected, "{level}");
    }
}

#[test]
fn a_rolled_back_init_leaves_no_vault() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    app.batch_execute("BEGIN").unwrap();
    let lost = init(&mut app).unwrap();
    app.batch_execute("ROLLBACK").unwrap();
    assert!(!status(&mut app).unwrap().exists);
    expect_vault_error(fetch(&mut app), "P0002");
    assert_ne!(init(&mut app).unwrap().master_key, lost.master_key);
}

#[test]
fn a_rolled_back_rotate_leaves_the_old_key() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let key = init(&mut app).unwrap();
    let row = db.vault_row("alice");
    app.batch_execute("BEGIN").unwrap();
    rotate(&mut app).unwrap();
    app.batch_execute("ROLLBACK").unwrap();
    assert_eq!(fetch(&mut app).unwrap(), key);
    assert_eq!(db.vault_row("alice"), row);
}

#[test]
fn a_rollback_to_a_savepoint_undoes_only_later_changes() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    app.batch_execute("BEGIN").unwrap();
    let first = init(&mut app).unwrap();
    app.batch_execute("SAVEPOINT s").unwrap();
    let second = rotate(&mut app).unwrap();
    assert_eq!(fetch(&mut app).unwrap(), second);
    app.batch_execute("ROLLBACK TO SAVEPOINT s").unwrap();
    assert_eq!(fetch(&mut app).unwrap(), first);
    let third = rotate(&mut app).unwrap();
    app.batch_execute("RELEASE SAVEPOINT s; COMMIT").unwrap();
    assert_eq!(third.key_version, 2);
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), third);
}

#[test]
fn a_vault_error_only_costs_the_work_since_the_savepoint() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    app.batch_execute("BEGIN; SAVEPOINT s").unwrap();
    expect_vault_error(fetch(&mut app), "P0002");
    expect_error(fetch(&mut app), "25P02");
    app.batch_execute("ROLLBACK TO SAVEPOINT s").unwrap();
    let key = init(&mut app).unwrap();
    app.batch_execute("COMMIT").unwrap();
    assert_eq!(fetch(&mut app).unwrap(), key);
    let expected = named(&[("failed_fetch", 404), ("init", 201), ("fetch", 200)]);
    assert_eq!(statuses(&db, "alice"), expected, "the call in the failed transaction never ran");
}

#[test]
fn an_exception_block_undoes_an_init() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    app.batch_execute(
        "DO $$ BEGIN
            BEGIN PERFORM vault_init(); RAISE EXCEPTION 'no'; EXCEPTION WHEN raise_exception THEN NULL; END;
            IF (SELECT \"exists\" FROM vault_status()) THEN RAISE 'still there'; END IF;
        END $$",
    )
    .unwrap();
    expect_vault_error(fetch(&mut app), "P0002");
}

#[test]
fn a_block_that_catches_the_missing_vault_can_init() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    app.batch_execute(
        "DO $$ DECLARE k vault_key; BEGIN
            BEGIN k := vault_get_master_key(); EXCEPTION WHEN no_data_found THEN k := vault_init(); END;
            IF k.master_key IS NULL OR k IS DISTINCT FROM vault_get_master_key() THEN RAISE 'wrong key'; END IF;
        END $$",
    )
    .unwrap();
    let expected = named(&[("failed_fetch", 404), ("init", 201), ("fetch", 200)]);
    assert_eq!(statuses(&db, "alice"), expected);
}

#[test]
fn a_thousand_caught_errors_in_one_transaction_leave_a_thousand_rows() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    app.batch_execute(
        "DO $$ BEGIN
            FOR i IN 1..1000 LOOP
                BEGIN PERFORM vault_get_master_key(); EXCEPTION WHEN no_data_found THEN NULL; END;
            END LOOP;
        END $$",
    )
    .unwrap();
    assert_eq!(db.audit_of("alice").len(), 1000);
}

#[test]
fn a_thousand_calls_in_one_statement_leave_a_thousand_rows() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let key = init(&mut app).unwrap();
    let row = app
        .query_one(
            "SELECT count(*), count(DISTINCT k), min(k) FROM (
                SELECT (vault_get_master_key()).master_key AS k FROM generate_series(1, 1000)) calls",
            &[],
        )
        .unwrap();
    let (calls, keys): (i64, i64) = (row.get(0), row.get(1));
    assert_eq!((calls, keys), (1000, 1));
    assert_eq!(row.get::<_, String>(2), key.master_key);
    assert_eq!(db.audit_of("alice").len(), 1001);
}

#[test]
fn a_read_only_transaction_fetches_and_cannot_mint() {
    let db = shared_db();
    let key = init(&mut db.app_for("alice")).unwrap();
    for begin in [
        "BEGIN READ ONLY",
        "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
        "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE",
    ] {
        let mut app = db.app_for("alice");
        app.batch_execute(begin).unwrap();
        assert_eq!(fetch(&mut app).unwrap(), key);
        assert!(status(&mut app).unwrap().exists);
        expect_error(rotate(&mut app), "25006");
        app.batch_execute("ROLLBACK").unwrap();
        assert_eq!(fetch(&mut app).unwrap(), key);
    }
    let mut app = db.app_for("bob");
    app.batch_execute("BEGIN READ ONLY").unwrap();
    expect_error(init(&mut app), "25006");
    app.batch_execute("ROLLBACK; BEGIN READ ONLY").unwrap();
    expect_vault_error(fetch(&mut app), "P0002");
    app.batch_execute("COMMIT").unwrap();
    assert_eq!(db.vault_row("bob"), None);
    let expected = named(&[("failed_init", 500), ("failed_fetch", 404)]);
    assert_eq!(statuses(&db, "bob"), expected);
}

#[test]
fn a_session_that_is_read_only_by_default_fetches() {
    let db = shared_db();
    let key = init(&mut db.app_for("alice")).unwrap();
    let name = &db.name;
    db.force(&format!("ALTER DATABASE \"{name}\" SET default_transaction_read_only = on"));
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
    assert_eq!(db.audit_of("alice").len(), 2);
}

#[test]
fn prepared_calls_work_again_and_again() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let statements: Vec<_> = ["vault_init", "vault_get_master_key", "vault_rotate"]
        .iter()
        .map(|name| app.prepare(&format!("SELECT key_version FROM {name}()")).unwrap())
        .collect();
    for round in 1..=10 {
        let version =
            |app: &mut postgres::Client, i: usize| -> i32 { app.query_one(&statements[i], &[]).unwrap().get(0) };
        assert_eq!(version(&mut app, 0), round);
        assert_eq!(version(&mut app, 1), round);
        assert_eq!(version(&mut app, 2), round + 1);
    }
    assert_eq!(db.audit_of("alice").len(), 30);
}

#[test]
fn a_transaction_that_created_or_rotated_a_key_cannot_be_prepared() {
    let db = shared_db();
    init(&mut db.app_for("bob")).unwrap();
    for (user, call) in [("alice", "vault_init"), ("bob", "vault_rotate")] {
        let mut app = db.app_for(user);
        app.batch_execute(&format!("BEGIN; SELECT {call}()")).unwrap();
        let prepare = format!("PREPARE TRANSACTION '{}'", db.name);
        expect_vault_error(app.batch_execute(&prepare), "0A000");
        app.batch_execute("ROLLBACK").unwrap();
    }
    assert_eq!(db.vault_row("alice"), None);
    assert_eq!(fetch(&mut db.app_for("bob")).unwrap().key_version, 1);
    let left: i64 = db.value("SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()");
    assert_eq!(left, 0);
}

#[test]
fn a_transaction_that_only_fetched_can_be_prepared() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    init(&mut app).unwrap();
    app.batch_execute("BEGIN").unwrap();
    fetch(&mut app).unwrap();
    let gid = &db.name;
    app.batch_execute(&format!("PREPARE TRANSACTION '{gid}'")).unwrap();
    app.batch_execute(&format!("COMMIT PREPARED '{gid}'")).unwrap();
    assert_eq!(db.audit_of("alice").len(), 2);
}

#[test]
fn two_users_in_one_transaction_keep_their_own_keys() {
    let db = shared_db();
    let mut app = db.app();
    app.batch_execute("BEGIN").unwrap();
    set_user(&mut app, "alice");
    let alice = init(&mut app).unwrap();
    set_user(&mut app, "bob");
    let bob = init(&mut app).unwrap();
    app.batch_execute("COMMIT").unwrap();
    assert_ne!(alice.master_key, bob.master_key);
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), alice);
    assert_eq!(fetch(&mut db.app_for("bob")).unwrap(), bob);
}

#[test]
fn each_call_in_a_cursor_or_cte_or_create_table_as_is_audited() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    init(&mut app).unwrap();
    app.batch_execute(
        "BEGIN; DECLARE c CURSOR FOR SELECT vault_get_master_key(); FETCH ALL FROM c; CLOSE c; COMMIT;
         WITH k AS MATERIALIZED (SELECT * FROM vault_get_master_key()) SELECT * FROM k;
         CREATE TEMP TABLE t AS SELECT key_version FROM vault_get_master_key()",
    )
    .unwrap();
    assert_eq!(db.audit_of("alice").len(), 4);
}
