//! Several databases in one server, and the commands that need exclusive access to a database.

use std::time::Duration;

use crate::harness::{
    Cluster, Db, VaultKey, eventually, expect_vault_error, fetch, init, neighbours, rotate, shared_db,
};

const SOON: Duration = Duration::from_secs(20);

fn writers(db: &Db) -> i64 {
    let sql =
        format!("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'vault%' AND datname = '{}'", db.name);
    let mut client = db.cluster.superuser("postgres");
    client.query_one(&sql, &[]).unwrap().get(0)
}

/// Runs the SQL right after a call, while the writer may still be running. The server waits at most 5 s for others to leave the
/// database before it refuses such a statement.
fn run_right_after_a_call(db: &Db, sql: &str) {
    init(&mut db.app_for("alice")).unwrap();
    // A backend counts until it has exited. The extension can end only the writer.
    eventually(SOON, "the test's own sessions are gone", || {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND backend_type = 'client backend'",
            db.name
        );
        db.cluster.superuser("postgres").query_one(&sql, &[]).unwrap().get::<_, i64>(0) == 0
    });
    db.cluster.superuser("postgres").batch_execute(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
}

#[test]
fn two_databases_audit_independently() {
    let (one, two) = (shared_db(), shared_db());
    std::thread::scope(|scope| {
        for (db, user) in [(&one, "alice"), (&two, "bob")] {
            scope.spawn(move || {
                let mut app = db.app_for(user);
                init(&mut app).unwrap();
                for _ in 0..50 {
                    fetch(&mut app).unwrap();
                }
            });
        }
    });
    for (db, user) in [(&one, "alice"), (&two, "bob")] {
        assert_eq!(db.audit_of(user).len(), 51);
        assert_eq!(db.audit().len(), 51, "no rows of the other database");
    }
}

#[test]
fn a_locked_trail_in_one_database_does_not_stop_another() {
    let (one, two) = (shared_db(), shared_db());
    for db in [&one, &two] {
        init(&mut db.app_for("alice")).unwrap();
    }
    let name = &one.name;
    one.force(&format!("ALTER DATABASE \"{name}\" SET vault_ext.audit_timeout = 500"));
    let mut locker = one.superuser();
    locker.batch_execute("BEGIN; LOCK TABLE vault_ext.encryption_vault_audit IN ACCESS EXCLUSIVE MODE").unwrap();
    let mut stuck = one.app_for("alice");
    let waiting = std::thread::spawn(move || fetch(&mut stuck));
    fetch(&mut two.app_for("alice")).unwrap();
    assert!(waiting.join().unwrap().is_err());
    locker.batch_execute("ROLLBACK").unwrap();
    fetch(&mut one.app_for("alice")).unwrap();
}

#[test]
fn drop_database_works_right_after_a_call() {
    let db = shared_db();
    run_right_after_a_call(&db, &format!("DROP DATABASE \"{}\"", db.name));
    assert_eq!(writers(&db), 0);
}

#[test]
fn drop_database_with_force_works_right_after_a_call() {
    let db = shared_db();
    let _open = db.app();
    init(&mut db.app_for("alice")).unwrap();
    db.cluster.superuser("postgres").batch_execute(&format!("DROP DATABASE \"{}\" WITH (FORCE)", db.name)).unwrap();
}

#[test]
fn a_copy_by_template_opens_the_same_keys_with_a_trail_of_its_own() {
    let db = shared_db();
    let name = &db.name;
    run_right_after_a_call(&db, &format!("CREATE DATABASE \"{name}_copy\" TEMPLATE \"{name}\""));
    let copy = db.cluster.existing_database(&format!("{name}_copy"));
    let key = fetch(&mut db.app_for("alice")).unwrap();
    assert_eq!(fetch(&mut copy.app_for("alice")).unwrap(), key);
    assert_eq!((db.audit().len(), copy.audit().len()), (2, 2));
    rotate(&mut copy.app_for("alice")).unwrap();
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
}

#[test]
fn a_renamed_database_keeps_working_under_its_new_name() {
    let db = shared_db();
    let name = &db.name;
    run_right_after_a_call(&db, &format!("ALTER DATABASE \"{name}\" RENAME TO \"{name}_new\""));
    let renamed = db.cluster.existing_database(&format!("{name}_new"));
    fetch(&mut renamed.app_for("alice")).unwrap();
    assert_eq!(renamed.audit().len(), 2);
}

#[test]
fn a_database_moves_to_another_tablespace_right_after_a_call() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().conf("allow_in_place_tablespaces = on").start();
    let db = cluster.database("d");
    db.force("CREATE TABLESPACE other LOCATION ''");
    run_right_after_a_call(&db, "ALTER DATABASE d SET TABLESPACE other");
    fetch(&mut db.app_for("alice")).unwrap();
}

#[test]
fn a_dropped_and_recreated_database_starts_afresh() {
    let db = shared_db();
    let name = db.name.clone();
    for _ in 0..3 {
        run_right_after_a_call(&db, &format!("DROP DATABASE \"{name}\""));
        let again = db.cluster.database(&name);
        expect_vault_error(fetch(&mut again.app_for("alice")), "P0002");
        assert_eq!(again.audit().len(), 1);
    }
}

#[test]
fn the_writer_leaves_when_idle_and_the_next_call_brings_it_back() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().conf("vault_ext.audit_idle_exit = 200").start();
    let db = cluster.database("d");
    let mut app = db.app_for("alice");
    init(&mut app).unwrap();
    for round in 2..5 {
        eventually(SOON, "the writer exits", || writers(&db) == 0);
        fetch(&mut app).unwrap();
        assert_eq!(db.audit().len(), round);
    }
}

#[test]
fn one_writer_serves_a_database() {
    let db = shared_db();
    std::thread::scope(|scope| {
        for i in 0..10 {
            let db = &db;
            scope.spawn(move || {
                let mut app = db.app_for(&format!("user-{i}"));
                init(&mut app).unwrap();
                for _ in 0..20 {
                    fetch(&mut app).unwrap();
                    assert!(writers(db) <= 1);
                }
            });
        }
    });
    assert_eq!(db.audit().len(), 210);
}

#[test]
fn a_writer_leaves_a_database_whose_extension_was_dropped() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    db.force("SET vault_ext.allow_drop = on; DROP EXTENSION vault_ext");
    // The writer must neither restart in a loop nor fill the log.
    eventually(SOON, "the writer exits", || writers(&db) == 0);
    let drop_database = format!("DROP DATABASE \"{}\"", db.name);
    eventually(SOON, "the database can be dropped", || {
        db.cluster.superuser("postgres").batch_execute(&drop_database).is_ok()
    });
}

/// A server with one worker slot for writers.
fn with_one_writer(settings: &[&str]) -> Cluster {
    // The launcher of logical replication and the listener for SIGHUP take two of the three slots.
    let builder = Cluster::builder().with_wire_kek().without_fsync().conf(&neighbours::worker_slots(3));
    settings.iter().fold(builder.conf("vault_ext.audit_timeout = 300"), |builder, line| builder.conf(line)).start()
}

/// Runs `work` while the server's only writer is busy in another database, whose trail is locked.
fn while_the_writer_is_busy(cluster: &Cluster, work: impl FnOnce()) {
    let busy = cluster.existing_database("busy");
    busy.force("ALTER DATABASE busy SET vault_ext.audit_timeout = '60s'");
    init(&mut busy.app_for("alice")).unwrap();
    let mut locker = busy.superuser();
    locker.batch_execute("BEGIN; LOCK TABLE vault_ext.encryption_vault_audit IN ACCESS EXCLUSIVE MODE").unwrap();
    let mut app = busy.app_for("alice");
    let waiting = std::thread::spawn(move || fetch(&mut app));
    eventually(SOON, "the writer waits for the lock", || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'vault%' AND wait_event_type = 'Lock'";
        locker.query_one(sql, &[]).unwrap().get::<_, i64>(0) == 1
    });
    work();
    locker.batch_execute("ROLLBACK").unwrap();
    waiting.join().unwrap().unwrap();
}

/// Returns false if the call is refused: either another writer has the only slot (53400), or the writer that got it has
/// not started yet (55000).
fn goes_through(call: Result<VaultKey, postgres::Error>) -> bool {
    let Err(error) = &call else { return true };
    let is_late = error.code().is_some_and(|code| code.code() == "55000");
    expect_vault_error(call, if is_late { "55000" } else { "53400" });
    false
}

/// Refused calls in one database leave records. Then a session that takes over the refused session's place makes calls
/// in another database.
fn after_refused_calls(then: impl FnOnce(&Db)) {
    let cluster = with_one_writer(&["max_connections = 8"]);
    cluster.database("busy");
    let (refused, other) = (cluster.database("refused"), cluster.database("other"));
    while_the_writer_is_busy(&cluster, || {
        let mut app = refused.app_for("alice");
        for _ in 0..5 {
            expect_vault_error(fetch(&mut app), "53400");
        }
    });
    then(&refused);
    let sessions: Vec<_> = (0..4).map(|i| other.app_for(&format!("user-{i}"))).collect();
    for mut session in sessions {
        eventually(SOON, "every session can call", || goes_through(init(&mut session)));
    }
}

#[test]
fn records_of_refused_calls_in_one_database_do_not_block_another() {
    after_refused_calls(|_| ());
}

#[test]
fn records_of_refused_calls_in_a_dropped_database_do_not_block_another() {
    after_refused_calls(|refused| {
        refused.cluster.superuser("postgres").batch_execute("DROP DATABASE refused WITH (FORCE)").unwrap();
    });
}

#[test]
fn more_databases_than_processes_are_refused_and_later_served() {
    let cluster = with_one_writer(&["max_connections = 20", "max_wal_senders = 0", "autovacuum_max_workers = 1"]);
    cluster.database("busy");
    let mut superuser = cluster.superuser("postgres");
    let processes: i64 = superuser
        .query_one(
            "SELECT sum(setting::bigint)::bigint + 4 FROM pg_settings
             WHERE name IN ('max_connections', 'max_worker_processes', 'autovacuum_max_workers', 'autovacuum_worker_slots')",
            &[],
        )
        .unwrap()
        .get(0);
    let databases: Vec<_> = (0..processes).map(|n| cluster.existing_database(&format!("d{n}"))).collect();
    for db in &databases {
        superuser.batch_execute(&format!("CREATE DATABASE {} TEMPLATE busy STRATEGY file_copy", db.name)).unwrap();
    }
    while_the_writer_is_busy(&cluster, || {
        let mut idle = Vec::new();
        for (n, db) in databases.iter().enumerate() {
            // A session's place has four slots for the records of refused calls. After four, use another place.
            if n % 4 == 3 {
                idle.push(cluster.superuser("postgres"));
            }
            expect_vault_error(fetch(&mut db.app_for("alice")), "53400");
        }
    });
    for db in &databases {
        let mut app = db.app_for("alice");
        eventually(SOON, "every database is served", || goes_through(init(&mut app)));
    }
}
