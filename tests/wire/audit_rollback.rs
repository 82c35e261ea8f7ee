//! A rolled-back init or rotate leaves a second row that says so.

use std::time::Duration;

use crate::harness::{eventually, expect_error, fetch, init, rotate, shared_db};
use crate::trail::{trail_of, wait_for_trail};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn rows_stay_after_rollback_and_say_what_was_rolled_back() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    app.batch_execute("BEGIN").unwrap();
    init(&mut app).unwrap();
    fetch(&mut app).unwrap();
    app.batch_execute("ROLLBACK").unwrap();
    wait_for_trail(&db, "alice", &["init 201 created", "fetch 200", "init 409 rolled-back"]);
    let rows = db.audit_of("alice");
    assert_eq!(rows[0].key_version, rows[2].key_version);
    assert_eq!(rows[0].request_id, rows[2].request_id);
}

#[test]
fn a_rolled_back_rotate_says_so() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    init(&mut app).unwrap();
    app.batch_execute("BEGIN").unwrap();
    let lost = rotate(&mut app).unwrap();
    app.batch_execute("ROLLBACK").unwrap();
    wait_for_trail(&db, "alice", &["init 201 created", "rotate 200", "rotate 409 rolled-back"]);
    assert_eq!(db.audit_of("alice")[2].key_version, Some(lost.key_version));
}

#[test]
fn a_savepoint_s_rollback_says_so() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    app.batch_execute("BEGIN; SAVEPOINT a").unwrap();
    init(&mut app).unwrap();
    app.batch_execute("ROLLBACK TO SAVEPOINT a").unwrap();
    wait_for_trail(&db, "alice", &["init 201 created", "init 409 rolled-back"]);
    init(&mut app).unwrap();
    app.batch_execute("RELEASE SAVEPOINT a; COMMIT").unwrap();
    wait_for_trail(&db, "alice", &["init 201 created", "init 409 rolled-back", "init 201 created"]);
}

#[test]
fn a_released_savepoint_is_rolled_back_with_its_parent() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    app.batch_execute("BEGIN; SAVEPOINT a; SAVEPOINT b").unwrap();
    init(&mut app).unwrap();
    app.batch_execute("RELEASE SAVEPOINT b; ROLLBACK TO SAVEPOINT a; COMMIT").unwrap();
    wait_for_trail(&db, "alice", &["init 201 created", "init 409 rolled-back"]);
}

#[test]
fn a_released_savepoint_that_is_committed_is_not_called_rolled_back() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    app.batch_execute("BEGIN; SAVEPOINT a").unwrap();
    init(&mut app).unwrap();
    app.batch_execute("RELEASE SAVEPOINT a; SAVEPOINT c; ROLLBACK TO SAVEPOINT c; COMMIT").unwrap();
    fetch(&mut app).unwrap();
    assert_eq!(trail_of(&db, "alice"), ["init 201 created", "fetch 200"]);
}

#[test]
fn each_of_several_rolled_back_changes_says_so() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    app.batch_execute("BEGIN").unwrap();
    init(&mut app).unwrap();
    for _ in 0..10 {
        rotate(&mut app).unwrap();
    }
    app.batch_execute("ROLLBACK").unwrap();
    eventually(SOON, "eleven second rows", || {
        db.audit_of("alice").iter().filter(|row| row.status == 409).count() == 11
    });
    assert_eq!(db.audit_of("alice").len(), 22);
}

#[test]
fn an_exception_block_s_rollback_says_so() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    app.batch_execute("DO $$ BEGIN PERFORM vault_init(); RAISE 'no'; EXCEPTION WHEN raise_exception THEN NULL; END $$")
        .unwrap();
    wait_for_trail(&db, "alice", &["init 201 created", "init 409 rolled-back"]);
}

#[test]
fn a_failing_statement_rolls_its_init_back_and_says_so() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let result = app.simple_query("SELECT vault_init(), 1 / (SELECT 0 FROM pg_sleep(0))");
    expect_error(result, "22012");
    assert_eq!(db.vault_row("alice"), None);
    wait_for_trail(&db, "alice", &["init 201 created", "init 409 rolled-back"]);
}

#[test]
fn an_init_that_found_the_vault_has_nothing_to_roll_back() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    init(&mut app).unwrap();
    app.batch_execute("BEGIN").unwrap();
    init(&mut app).unwrap();
    fetch(&mut app).unwrap();
    app.batch_execute("ROLLBACK").unwrap();
    // This row comes after anything that the rollback would have sent, since the backend is the same.
    fetch(&mut app).unwrap();
    assert_eq!(trail_of(&db, "alice"), ["init 201 created", "init 200 already-exists", "fetch 200", "fetch 200"]);
}
