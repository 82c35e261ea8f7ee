//! Every call has a row, committed before the caller gets its answer, whatever the caller does next.

use std::time::{Duration, SystemTime};

use postgres::Client;

use crate::harness::{eventually, expect_error, expect_vault_error, fetch, init, rotate, set_user, shared_db};
use crate::trail::{trail_of, wait_for_trail};

const SOON: Duration = Duration::from_secs(20);

fn pid(client: &mut Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0)
}

#[test]
fn a_row_is_visible_to_others_before_the_caller_s_transaction_ends() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    app.batch_execute("BEGIN").unwrap();
    let mut expected = Vec::new();
    for (call, row) in [
        (init as fn(&mut Client) -> _, "init 201 created"),
        (fetch, "fetch 200"),
        (rotate, "rotate 200"),
        (init, "init 200 already-exists"),
    ] {
        call(&mut app).unwrap();
        expected.push(row);
        assert_eq!(trail_of(&db, "alice"), expected, "as another session reads it");
    }
    app.batch_execute("COMMIT").unwrap();
    assert_eq!(trail_of(&db, "alice"), expected, "the commit adds no row");
}

#[test]
fn every_failure_has_its_row_before_the_error_arrives() {
    let db = shared_db();
    let mut app = db.app();
    app.batch_execute("BEGIN").unwrap();
    expect_vault_error(fetch(&mut app), "28000");
    assert_eq!(db.audit()[0].status, 401);
    app.batch_execute("ROLLBACK; BEGIN").unwrap();
    set_user(&mut app, "alice");
    expect_vault_error(fetch(&mut app), "P0002");
    assert_eq!(trail_of(&db, "alice"), ["failed_fetch 404 not-initialised"]);
    app.batch_execute("ROLLBACK").unwrap();
    assert_eq!(db.audit().len(), 2);
}

#[test]
fn an_error_inside_the_lookup_has_a_row_and_reaches_the_caller_unchanged() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    db.force(
        "CREATE FUNCTION boom() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'boom' USING ERRCODE = 'lock_not_available'; END $$;
         CREATE POLICY boom ON vault_ext.encryption_vaults AS RESTRICTIVE FOR ALL USING (boom())",
    );
    let mut app = db.app_for("alice");
    for (call, action) in
        [(init as fn(&mut Client) -> _, "failed_init"), (fetch, "failed_fetch"), (rotate, "failed_rotate")]
    {
        let refusal = expect_error(call(&mut app), "55P03");
        assert_eq!(refusal.message, "boom");
        let row = db.audit_of("alice").pop().unwrap();
        assert_eq!((row.action.as_str(), row.status), (action, 500));
    }
    db.force("DROP POLICY boom ON vault_ext.encryption_vaults");
    fetch(&mut app).unwrap();
}

#[test]
fn rows_stay_when_the_caller_is_cancelled() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    app.batch_execute("BEGIN").unwrap();
    init(&mut app).unwrap();
    app.batch_execute("SET LOCAL statement_timeout = '100ms'").unwrap();
    expect_error(app.batch_execute("SELECT pg_sleep(60)"), "57014");
    app.batch_execute("ROLLBACK").unwrap();
    wait_for_trail(&db, "alice", &["init 201 created", "init 409 rolled-back"]);
}

#[test]
fn rows_stay_when_the_statement_of_the_call_is_cancelled() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let cancel = app.cancel_token();
    let running = std::thread::spawn(move || app.simple_query("SELECT vault_init(), pg_sleep(60)").map(drop));
    eventually(SOON, "the row of the call", || db.audit_of("alice").len() == 1);
    cancel.cancel_query(postgres::NoTls).unwrap();
    expect_error(running.join().unwrap(), "57014");
    assert_eq!(db.vault_row("alice"), None);
    wait_for_trail(&db, "alice", &["init 201 created", "init 409 rolled-back"]);
}

#[test]
fn rows_stay_when_the_caller_is_terminated() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    app.batch_execute("BEGIN").unwrap();
    init(&mut app).unwrap();
    let pid = pid(&mut app);
    assert!(db.value::<bool>(&format!("SELECT pg_terminate_backend({pid}, 10000)")));
    assert!(fetch(&mut app).is_err());
    assert_eq!(db.vault_row("alice"), None);
    wait_for_trail(&db, "alice", &["init 201 created", "init 409 rolled-back"]);
}

#[test]
fn rows_stay_when_the_client_vanishes() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    app.batch_execute("BEGIN").unwrap();
    init(&mut app).unwrap();
    drop(app);
    wait_for_trail(&db, "alice", &["init 201 created", "init 409 rolled-back"]);
    assert_eq!(db.vault_row("alice"), None);
}

#[test]
fn a_call_that_is_cancelled_while_it_waits_for_its_row_still_gets_one() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    let mut locker = db.superuser();
    locker.batch_execute("BEGIN; LOCK TABLE vault_ext.encryption_vault_audit IN ACCESS EXCLUSIVE MODE").unwrap();
    let mut app = db.app_for("alice");
    app.batch_execute("SET statement_timeout = '300ms'").unwrap();
    for _ in 0..3 {
        expect_error(fetch(&mut app), "57014");
    }
    locker.batch_execute("ROLLBACK").unwrap();
    app.batch_execute("RESET statement_timeout").unwrap();
    eventually(SOON, "the rows of the cancelled calls", || db.audit_of("alice").len() == 4);
    fetch(&mut app).unwrap();
    assert_eq!(db.audit_of("alice").len(), 5);
}

#[test]
fn rows_are_in_the_order_of_the_calls_with_their_own_times() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let before = SystemTime::now() - Duration::from_secs(1);
    app.batch_execute("BEGIN").unwrap();
    init(&mut app).unwrap();
    app.batch_execute("SELECT pg_sleep(0.05)").unwrap();
    fetch(&mut app).unwrap();
    app.batch_execute("COMMIT").unwrap();
    let rows = db.audit_of("alice");
    assert!(rows[0].id < rows[1].id);
    assert!(rows[0].created_at > before);
    let between = rows[1].created_at.duration_since(rows[0].created_at).unwrap();
    assert!(between >= Duration::from_millis(50), "a row has the time of its call, not of the transaction");
}

#[test]
fn the_counters_follow_the_calls() {
    let db = shared_db();
    let read = || -> (i64, i64) {
        let mut auditor = db.conn("wire_auditor");
        let row = auditor.query_one("SELECT calls, rows_written FROM vault_ext.audit_stats", &[]).unwrap();
        (row.get(0), row.get(1))
    };
    let before = read();
    let mut app = db.app_for("alice");
    init(&mut app).unwrap();
    for _ in 0..9 {
        fetch(&mut app).unwrap();
    }
    let after = read();
    assert!(after.0 >= before.0 + 10, "{before:?} {after:?}");
    assert!(after.1 >= before.1 + 10, "{before:?} {after:?}");
}
