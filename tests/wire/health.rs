//! vault_health(), which load balancers and monitoring use.

use std::time::Duration;

use postgres::Client;

use crate::harness::{Cluster, Db, eventually, expect_vault_error, fetch, init, shared_db};

const SOON: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Health {
    ok: bool,
    problem: Option<String>,
    hint: Option<String>,
    writer_pid: Option<i32>,
    blocked_by: Option<Vec<i32>>,
    last_error: Option<String>,
    has_written: bool,
}

fn health(client: &mut Client) -> Health {
    let sql = "SELECT ok, problem, hint, writer_pid, blocked_by, last_error, last_written_at IS NOT NULL, queued,
        last_error_at IS NOT NULL FROM vault_health()";
    let row = client.query_one(sql, &[]).expect("vault_health() raises no error");
    assert_eq!(row.get::<_, Option<String>>(5).is_some(), row.get::<_, bool>(8));
    Health {
        ok: row.get(0),
        problem: row.get(1),
        hint: row.get(2),
        writer_pid: row.get(3),
        blocked_by: row.get(4),
        last_error: row.get(5),
        has_written: row.get(6),
    }
}

#[track_caller]
fn expect_unhealthy(client: &mut Client, words: &str) -> Health {
    let health = health(client);
    assert!(!health.ok && health.hint.is_some(), "{health:?}");
    assert!(health.problem.as_deref().is_some_and(|problem| problem.contains(words)), "{words:?} is not in {health:?}");
    health
}

#[track_caller]
fn expect_healthy(client: &mut Client) -> Health {
    let health = health(client);
    assert!(health.ok && health.problem.is_none() && health.hint.is_none(), "{health:?}");
    health
}

#[test]
fn a_working_server_is_healthy_and_the_check_leaves_no_trace() {
    let db = shared_db();
    for role in ["wire_app", "wire_admin", "wire_auditor"] {
        expect_healthy(&mut db.conn(role));
    }
    db.force("CREATE ROLE health_monitor LOGIN; GRANT pg_monitor TO health_monitor");
    let asked = expect_healthy(&mut db.conn("health_monitor"));
    assert!(!asked.has_written && asked.writer_pid.is_some());
    assert_eq!(db.audit().len(), 0);
    let mut app = db.app_for("alice");
    init(&mut app).unwrap();
    assert!(expect_healthy(&mut app).has_written);
    assert_eq!(db.audit().len(), 1);
    // A probe in the middle of a transaction does not affect it.
    app.batch_execute("BEGIN READ ONLY").unwrap();
    expect_healthy(&mut app);
    fetch(&mut app).unwrap();
    app.batch_execute("COMMIT").unwrap();
}

#[test]
fn a_trail_that_takes_no_rows_is_reported_before_any_call() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    let mut app = db.app_for("alice");
    db.force("ALTER TABLE vault_ext.encryption_vault_audit ADD CONSTRAINT no CHECK (false) NOT VALID");
    let found = expect_unhealthy(&mut app, "could not be written");
    assert_eq!(found.last_error.as_deref(), Some("23514"));
    expect_vault_error(fetch(&mut app), "55000");
    db.force("ALTER TABLE vault_ext.encryption_vault_audit DROP CONSTRAINT no");
    let found = expect_healthy(&mut app);
    assert_eq!(found.last_error.as_deref(), Some("23514"), "the last error is still reported");
    // After this check, no verification is pending when the next change comes.
    expect_healthy(&mut app);
    db.force("SET vault_ext.allow_alter = on; ALTER TABLE vault_ext.encryption_vaults SET UNLOGGED");
    expect_unhealthy(&mut app, "not logged");
}

#[track_caller]
fn pid(client: &mut Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0)
}

#[test]
fn a_locked_trail_is_reported_with_the_holder_of_the_lock() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().conf("vault_ext.audit_timeout = '60s'").start();
    let db = cluster.database("d");
    init(&mut db.app_for("alice")).unwrap();
    let mut locker = db.superuser();
    locker.batch_execute("BEGIN; LOCK TABLE vault_ext.encryption_vault_audit IN ACCESS EXCLUSIVE MODE").unwrap();
    let locker_pid = pid(&mut locker);
    let mut waiting = db.app_for("alice");
    let call = std::thread::spawn(move || fetch(&mut waiting));
    let mut app = db.app();
    eventually(SOON, "the health shows that the writer waits", || {
        let found = health(&mut app);
        !found.ok && found.blocked_by == Some(vec![locker_pid])
    });
    let found = expect_unhealthy(&mut app, &locker_pid.to_string());
    assert!(found.writer_pid.is_some());
    locker.batch_execute("ROLLBACK").unwrap();
    call.join().unwrap().unwrap();
    expect_healthy(&mut app);
}

#[test]
fn a_server_without_its_kek_or_its_library_is_unhealthy() {
    let mut cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    init(&mut cluster.database("d").app_for("alice")).unwrap();
    cluster.configure("vault_ext.on_bad_kek = disable");
    cluster.configure("vault_ext.kek_file = '/nowhere'");
    cluster.restart();
    expect_unhealthy(&mut cluster.existing_database("d").app(), "KEK");
    cluster.configure("shared_preload_libraries = ''");
    cluster.restart();
    let found = expect_unhealthy(&mut cluster.existing_database("d").app(), "shared_preload_libraries");
    assert!(found.writer_pid.is_none());
}

#[test]
fn a_kek_with_another_check_value_is_unhealthy() {
    let db: Db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    db.force("UPDATE vault_ext.keks SET check_value = repeat('0', 32)");
    expect_unhealthy(&mut db.app(), "not the one that this database knows");
}
