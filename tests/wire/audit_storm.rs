//! The gates: released keys without a row 0, rows twice 0, in a storm of cancels and terminations.

use std::time::Duration;

use crate::harness::shared_db;
use crate::storm::{nothing_lost_and_nothing_twice, repeatedly, rows_by_request, storm};

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
    assert!(hits > 5, "the writer was hit {hits} times only");
    nothing_lost_and_nothing_twice(&db, &seen);
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
    assert!(hits > 5, "the writer was hit {hits} times only");
    nothing_lost_and_nothing_twice(&db, &seen);
    let failed: usize = seen.iter().map(|seen| seen.failed).sum();
    assert_eq!(failed, 0);
}

#[test]
fn callers_that_are_cancelled_lose_no_row() {
    let db = shared_db();
    let seen = storm(
        &db,
        6,
        |client, n| {
            // From hopeless to comfortable; 0 is none.
            let limit = [1, 1, 2, 3, 5, 0][n % 6];
            let set = format!("SET statement_timeout = {limit}");
            // The old limit may hit the SET itself.
            (0..100).any(|_| client.batch_execute(&set).is_ok());
        },
        || std::thread::sleep(Duration::from_secs(2)),
    );
    nothing_lost_and_nothing_twice(&db, &seen);
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
    nothing_lost_and_nothing_twice(&db, &seen);
}
