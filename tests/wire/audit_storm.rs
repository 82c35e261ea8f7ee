//! In a storm of cancels and terminations, no released key lacks a row and no row is written twice.

use std::time::Duration;

use crate::harness::{Cluster, expect_error, fetch, init, shared_db};
use crate::load::Load;
use crate::storm::{assert_one_row_per_released_key, repeatedly, rows_by_request, storm};

const WRITER: &str = "FROM pg_stat_activity WHERE backend_type LIKE 'vault%' AND datname = current_database()";

#[test]
fn terminating_the_writer_costs_no_row_and_no_call() {
    let db = shared_db();
    let mut superuser = db.superuser();
    let mut hits = 0;
    let seen = storm(
        &db,
        6,
        |_, _| {},
        || {
            repeatedly(Duration::from_millis(100), || {
                let sql = format!("SELECT pg_terminate_backend(pid) {WRITER}");
                hits += superuser.query(&sql, &[]).unwrap().len();
            });
        },
    );
    assert!(hits > 5, "the writer was hit only {hits} times");
    assert_one_row_per_released_key(&db, &seen);
    for (i, seen) in seen.iter().enumerate() {
        assert_eq!(seen.failed, 0, "user-{i}");
        let rows = db.audit_of(&format!("user-{i}"));
        let fetches = rows.iter().filter(|row| row.action == "fetch" && row.status == 200);
        assert_eq!(fetches.count(), seen.released.len());
    }
}

#[test]
fn cancelling_the_writer_costs_no_row_and_no_call() {
    let db = shared_db();
    let mut superuser = db.superuser();
    let mut hits = 0;
    let seen = storm(
        &db,
        6,
        |_, _| {},
        || {
            repeatedly(Duration::from_millis(20), || {
                let sql = format!("SELECT pg_cancel_backend(pid) {WRITER}");
                hits += superuser.query(&sql, &[]).unwrap().len();
            });
        },
    );
    assert!(hits > 5, "the writer was hit only {hits} times");
    assert_one_row_per_released_key(&db, &seen);
    let failed: usize = seen.iter().map(|seen| seen.failed).sum();
    assert_eq!(failed, 0);
}

/// On a slow machine, the attempts to write a batch may be cancelled many times in a row.
#[test]
fn a_batch_that_is_cancelled_again_and_again_is_written() {
    let db = shared_db();
    let key = init(&mut db.app_for("alice")).unwrap();
    db.force(
        "CREATE SEQUENCE tries;
        CREATE FUNCTION is_left_alone() RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
            IF nextval('public.tries') < 50 THEN RAISE query_canceled; END IF;
            RETURN true;
        END $$;
        ALTER TABLE vault_ext.encryption_vault_audit ADD CONSTRAINT cancelled CHECK (public.is_left_alone()) NOT VALID",
    );
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
    assert_eq!(db.audit_of("alice").len(), 2);
    assert!(db.superuser().query_one("SELECT nextval('tries')", &[]).unwrap().get::<_, i64>(0) > 50);
}

#[test]
fn callers_that_are_cancelled_lose_no_row() {
    let db = shared_db();
    let seen = storm(
        &db,
        6,
        |client, n| {
            // From too short to sufficient; 0 means no limit.
            let limit = [1, 1, 2, 3, 5, 0][n % 6];
            let set = format!("SET statement_timeout = {limit}");
            // The old limit may hit the SET itself.
            (0..100).any(|_| client.batch_execute(&set).is_ok());
        },
        || std::thread::sleep(Duration::from_secs(2)),
    );
    assert_one_row_per_released_key(&db, &seen);
    let rows: usize = rows_by_request(&db).values().sum();
    let released: usize = seen.iter().map(|seen| seen.released.len()).sum();
    assert!(rows >= released);
}

#[test]
fn callers_that_are_terminated_lose_no_row() {
    let db = shared_db();
    let mut superuser = db.superuser();
    let mut hits = 0;
    let seen = storm(
        &db,
        6,
        |_, _| {},
        || {
            repeatedly(Duration::from_millis(30), || {
                let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE usename = 'wire_app' AND datname = current_database() ORDER BY random() LIMIT 1";
                hits += superuser.query(sql, &[]).unwrap().len();
            });
        },
    );
    assert!(hits > 5);
    assert_one_row_per_released_key(&db, &seen);
}

/// vault_ext.audit_spin changes only how a single caller waits: the rows are the same, cancels get through, and many
/// callers sleep as before.
#[test]
fn spinning_changes_only_how_a_caller_waits() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().conf("vault_ext.audit_spin = on").start();
    let db = cluster.database("d");
    let key = init(&mut db.app_for("alice")).unwrap();
    let mut app = db.app_for("alice");
    for _ in 0..50 {
        assert_eq!(fetch(&mut app).unwrap(), key);
    }
    let mut locker = db.superuser();
    locker.batch_execute("BEGIN; LOCK TABLE vault_ext.encryption_vault_audit IN ACCESS EXCLUSIVE MODE").unwrap();
    app.batch_execute("SET statement_timeout = 100").unwrap();
    expect_error(fetch(&mut app), "57014");
    locker.batch_execute("ROLLBACK").unwrap();
    app.batch_execute("SET statement_timeout = 0").unwrap();
    assert_eq!(fetch(&mut app).unwrap(), key);
    assert_eq!(db.audit_of("alice").len(), 53);

    let load = Load::start(&db, 8);
    load.wait_for_keys(200);
    load.stop().end_checks(&db, "spinning callers", 1);
}
