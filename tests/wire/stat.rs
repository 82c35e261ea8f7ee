//! Statistics: what was called, how it ended, and how long it waited for its audit row.

use std::time::Duration;

use postgres::Client;

use crate::harness::{Cluster, Db, eventually, expect_error, expect_vault_error, fetch, init, rotate};

const SOON: Duration = Duration::from_secs(30);

fn server() -> Cluster {
    Cluster::builder().with_wire_kek().without_fsync().start()
}

/// `action status calls` of a database.
fn stat(client: &mut Client, database: &str) -> Vec<String> {
    let sql =
        "SELECT concat_ws(' ', action, status, calls) FROM vault_ext.stat WHERE datname = $1 ORDER BY action, status";
    client.query(sql, &[&database]).unwrap().iter().map(|row| row.get(0)).collect()
}

fn call_some(db: &Db) {
    init(&mut db.app_for("alice")).unwrap();
    for _ in 0..3 {
        fetch(&mut db.app_for("alice")).unwrap();
    }
    expect_vault_error(fetch(&mut db.app_for("nobody")), "P0002");
    let mut app = db.app_for("alice");
    app.batch_execute("BEGIN").unwrap();
    rotate(&mut app).unwrap();
    app.batch_execute("ROLLBACK").unwrap();
}

#[test]
fn calls_are_counted_by_database_action_and_status() {
    let cluster = server();
    let (one, two) = (cluster.database("one"), cluster.database("two"));
    call_some(&one);
    init(&mut two.app_for("bob")).unwrap();
    cluster.superuser("one").batch_execute("CREATE ROLE exporter LOGIN; GRANT pg_monitor TO exporter").unwrap();
    let expected = ["failed_fetch 404 1", "fetch 200 3", "init 201 1", "rotate 200 1", "rotate 409 1"];
    for role in ["wire_admin", "wire_auditor", "exporter"] {
        assert_eq!(stat(&mut one.conn(role), "one"), expected);
        assert_eq!(stat(&mut two.conn(role), "two"), ["init 201 1"]);
        assert_eq!(stat(&mut one.conn(role), "two"), ["init 201 1"], "the statistics are the server's");
    }
    let mut exporter = one.conn("exporter");
    // The histogram has each call that waited: the second row of a rolled-back change has nobody who waits.
    let sql = "SELECT (SELECT sum(calls)::bigint FROM vault_ext.stat WHERE datname = 'one' AND status <> 409),
            (SELECT sum(calls)::bigint FROM vault_ext.stat_wait WHERE datname = 'one' AND le = 'Infinity'),
            (SELECT bool_and(total_wait_time >= 0 AND max_wait_time <= total_wait_time AND datid IS NOT NULL) FROM vault_ext.stat)";
    let row = exporter.query_one(sql, &[]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, bool>(2)), (6, 6, true));
    let sql = "SELECT rows_written, failures, records_lost, starts >= 1, batches >= 1, pid IS NULL OR pid > 0, last_commit_at IS NOT NULL
        FROM vault_ext.stat_writer WHERE datname = 'one'";
    let row = exporter.query_one(sql, &[]).unwrap();
    assert_eq!([row.get::<_, i64>(0), row.get(1), row.get(2)], [7, 0, 0]);
    assert_eq!([row.get::<_, bool>(3), row.get(4), row.get(5), row.get(6)], [true; 4]);
    expect_error(one.app().query("SELECT * FROM vault_ext.stat", &[]), "42501");
    expect_error(exporter.query("SELECT vault_ext.stat_reset()", &[]), "42501");
}

#[test]
fn a_reset_begins_anew_and_a_dropped_database_is_no_trouble() {
    let cluster = server();
    let (one, two) = (cluster.database("one"), cluster.database("two"));
    call_some(&one);
    call_some(&two);
    cluster.superuser("one").batch_execute("DROP DATABASE two").unwrap();
    let mut admin = one.conn("wire_admin");
    assert_eq!(stat(&mut admin, "two"), [""; 0]);
    let unknown = "SELECT count(*) FROM vault_ext.stat WHERE datname IS NULL AND datid IS NOT NULL";
    assert_eq!(admin.query_one(unknown, &[]).unwrap().get::<_, i64>(0), 5);
    admin.batch_execute("SELECT vault_ext.stat_reset()").unwrap();
    assert_eq!(stat(&mut admin, "one"), [""; 0]);
    fetch(&mut one.app_for("alice")).unwrap();
    assert_eq!(stat(&mut admin, "one"), ["fetch 200 1"]);
    let sql = "SELECT bool_and(stats_reset > now() - interval '1 hour') FROM vault_ext.stat";
    assert!(admin.query_one(sql, &[]).unwrap().get::<_, bool>(0));
    // The older counters go on.
    let calls: i64 = admin.query_one("SELECT calls FROM vault_ext.audit_stats", &[]).unwrap().get(0);
    assert!(calls > 10);
}

#[test]
fn the_state_of_a_writer_is_shown() {
    let cluster = server();
    let db = cluster.database("d");
    let mut admin = db.conn("wire_admin");
    let mut wait_for = |state: &str, has_pid: bool| {
        let sql = "SELECT state, pid IS NOT NULL FROM vault_ext.stat_writer WHERE datname = 'd'";
        let shows = |row: postgres::Row| row.get::<_, &str>(0) == state && row.get::<_, bool>(1) == has_pid;
        eventually(SOON, state, || admin.query_opt(sql, &[]).unwrap().is_some_and(shows));
    };
    init(&mut db.app_for("alice")).unwrap();
    wait_for("idle", true);
    wait_for("stopped", false);
    let mut locker = db.superuser();
    locker.batch_execute("BEGIN; LOCK TABLE vault_ext.encryption_vault_audit").unwrap();
    let mut app = db.app_for("alice");
    let call = std::thread::spawn(move || fetch(&mut app).map(drop));
    wait_for("busy", true);
    locker.batch_execute("ROLLBACK").unwrap();
    call.join().unwrap().unwrap();
    wait_for("idle", true);
}

/// A queue goes to another database when all are taken; the statistics stay.
#[test]
fn the_statistics_of_a_database_outlive_its_queue() {
    // The number of queues follows from these settings: here there are fewer than databases.
    let cluster =
        Cluster::builder().with_wire_kek().without_fsync().conf("max_connections = 8").conf("max_wal_senders = 0");
    let cluster = cluster.conf("max_worker_processes = 4").conf("autovacuum_max_workers = 1").start();
    let names: Vec<String> = (0..20).map(|number| format!("d{number}")).collect();
    for name in &names {
        init(&mut cluster.database(name).app_for("alice")).unwrap();
    }
    let mut admin = cluster.existing_database("d0").conn("wire_admin");
    for name in &names {
        assert_eq!(stat(&mut admin, name), ["init 201 1"], "{name}");
    }
    let sql = "SELECT count(*) FROM vault_ext.stat_writer WHERE last_commit_at IS NOT NULL AND rows_written = 1 AND starts >= 1";
    assert_eq!(admin.query_one(sql, &[]).unwrap().get::<_, i64>(0), 20);
}

#[test]
fn a_trail_that_takes_no_rows_shows_in_the_statistics_of_the_writer() {
    let cluster = server();
    let db = cluster.database("d");
    init(&mut db.app_for("alice")).unwrap();
    db.force(
        "BEGIN; SET LOCAL vault_ext.allow_alter = on;
         ALTER TABLE vault_ext.encryption_vault_audit ADD CONSTRAINT no CHECK (action <> 'fetch') NOT VALID; COMMIT",
    );
    expect_vault_error(fetch(&mut db.app_for("alice")), "55000");
    let sql = "SELECT failures, last_error, last_error_at > now() - interval '1 hour', state FROM vault_ext.stat_writer WHERE datname = 'd'";
    let row = db.conn("wire_admin").query_one(sql, &[]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, &str>(1), row.get::<_, bool>(2)), (1, "23514", true));
    assert_eq!(stat(&mut db.conn("wire_admin"), "d"), ["init 201 1"]);
}
