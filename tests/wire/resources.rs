//! Exhausted limits: connections, workers, slots, time, locks and memory. A call gets both a key and an audit row, or
//! neither.

use std::time::Duration;

use postgres::Client;

use crate::harness::{
    Cluster, Db, Stop, eventually, expect_error, expect_vault_error, neighbours, server_command, set_user, succeed,
    without_deadlock,
};
use crate::ledger::{Call, Ledger};
use crate::load::Load;

const SOON: Duration = Duration::from_secs(60);
const LOCK_AUDIT: &str = "BEGIN; LOCK TABLE vault_ext.encryption_vault_audit IN ACCESS EXCLUSIVE MODE";

fn server_with(lines: &[&str]) -> Cluster {
    lines.iter().fold(Cluster::builder().with_wire_kek().without_fsync(), |builder, line| builder.conf(line)).start()
}

#[test]
fn the_writer_can_connect_when_every_connection_is_taken() {
    let cluster = server_with(&["max_connections = 12", "superuser_reserved_connections = 3"]);
    let db = cluster.database("d");
    let mut ledger = Ledger::default();
    ledger.call(&mut db.app(), "alice", Call::Init).unwrap();
    let mut sessions: Vec<Client> = Vec::new();
    while let Ok(session) = cluster.try_conn("wire_app", "d") {
        sessions.push(session);
    }
    assert!(sessions.len() >= 8, "{} sessions", sessions.len());
    for session in &mut sessions {
        // The writer leaves and comes back while no connection is free.
        db.force(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'vault_ext audit writer'",
        );
        ledger.call(session, "alice", Call::Rotate).unwrap();
    }
    drop(sessions);
    eventually(SOON, "there is room again", || cluster.try_conn("wire_app", "d").is_ok());
    ledger.end_checks(&db, "max_connections exhausted", 1);
}

#[test]
fn databases_without_a_worker_slot_fail_closed_and_recover() {
    // The launcher of logical replication takes one slot, the listener for SIGHUP another.
    let slots = neighbours::worker_slots(3);
    let cluster = server_with(&[&slots, "vault_ext.audit_timeout = 500", "vault_ext.audit_idle_exit = 200"]);
    let databases = ["one", "two", "three"].map(|name| cluster.database(name));
    let ledgers: Vec<Ledger> = std::thread::scope(|scope| {
        let callers: Vec<_> = databases
            .iter()
            .map(|db| {
                scope.spawn(move || {
                    let mut app = db.app();
                    let mut ledger = Ledger::default();
                    while ledger.released() < 30 {
                        let call = if ledger.released() == 0 { Call::Init } else { Call::Rotate };
                        if let Err(error) = ledger.call(&mut app, "alice", call) {
                            let code = error.code().map(|code| code.code().to_owned());
                            assert!(matches!(code.as_deref(), Some("53400" | "55000")), "{error:?}");
                        }
                        // Pause now and then, so that the database gives up the slot.
                        if ledger.released() % 10 == 9 {
                            std::thread::sleep(Duration::from_millis(300));
                        }
                    }
                    ledger
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    for (db, ledger) in databases.iter().zip(&ledgers) {
        ledger.end_checks(db, "three databases, one worker slot", 1);
    }
}

#[test]
fn a_session_whose_slots_are_taken_fails_closed_and_recovers() {
    let cluster = server_with(&["vault_ext.audit_slots = 3"]);
    let db = cluster.database("d");
    let mut ledger = Ledger::default();
    ledger.call(&mut db.app(), "alice", Call::Init).unwrap();
    db.force("ALTER DATABASE d SET vault_ext.audit_timeout = 300");
    let mut app = db.app();
    let mut locker = db.superuser();
    locker.batch_execute(LOCK_AUDIT).unwrap();
    app.batch_execute("SET statement_timeout = 100").unwrap();
    for _ in 0..3 {
        expect_error(ledger.call(&mut app, "alice", Call::Fetch), "57014");
    }
    app.batch_execute("SET statement_timeout = 0").unwrap();
    for call in [Call::Fetch, Call::Rotate, Call::Init] {
        let refusal = expect_vault_error(ledger.call(&mut app, "alice", call), "55000");
        assert!(refusal.detail.is_some_and(|detail| detail.contains("waits for a lock")), "{}", refusal.message);
    }
    locker.batch_execute("ROLLBACK").unwrap();
    eventually(SOON, "the slots are free again", || ledger.call(&mut app, "alice", Call::Rotate).is_ok());
    ledger.end_checks(&db, "audit slots exhausted", 1);
}

/// Makes calls under short timeouts while another session repeatedly locks the shared user's row, and every other time
/// the trail too.
fn storm_of_timeouts(settings: &'static str, codes: &[&str]) {
    let cluster = server_with(&[]);
    let db = cluster.database("d");
    let load = Load::with_settings(&db, 32, settings);
    load.wait_for_keys(100);
    let mut locker = db.superuser();
    for n in 0..10 {
        locker
            .batch_execute("BEGIN; SELECT 1 FROM vault_ext.encryption_vaults WHERE user_id = 'everybody' FOR UPDATE")
            .unwrap();
        if n % 2 == 0 {
            locker
                .batch_execute("SET LOCAL statement_timeout = 0; LOCK TABLE vault_ext.encryption_vault_audit")
                .unwrap();
        }
        // Every session reaches the row in the end, but a lock on the trail would stop it first.
        if n % 2 == 1 {
            load.wait_for_failures(10);
        } else {
            std::thread::sleep(Duration::from_millis(50));
        }
        locker.batch_execute("COMMIT").unwrap();
        load.wait_for_keys(50);
    }
    let ledger = load.stop();
    assert!(ledger.failures.keys().all(|code| codes.contains(&code.as_str())), "{:?}", ledger.failures);
    ledger.end_checks(&db, &format!("32 clients with {settings} and a held row"), 10);
}

#[test]
fn a_storm_of_statement_timeouts() {
    // Calls that were cancelled before the trail took their rows may occupy all of the session's slots.
    storm_of_timeouts("SET statement_timeout = 20", &["57014", "53400"]);
}

#[test]
fn a_storm_of_lock_timeouts() {
    storm_of_timeouts("SET lock_timeout = 5", &["55P03"]);
}

#[test]
fn a_storm_of_cancels() {
    let cluster = server_with(&[]);
    let db = cluster.database("d");
    let load = Load::start(&db, 32);
    load.wait_for_keys(100);
    let mut superuser = db.superuser();
    let before = load.released();
    let mut cancels = 0;
    eventually(SOON, "calls go through in the storm", || {
        let sql = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity
            WHERE usename = 'wire_app' AND state = 'active' ORDER BY random() LIMIT 4";
        cancels += superuser.query(sql, &[]).unwrap().len();
        load.released() > before + 500 && cancels > 100
    });
    load.wait_for_keys(100);
    let ledger = load.stop();
    // A user whose first init was cancelled has no vault yet.
    assert!(ledger.failures.keys().all(|code| code == "57014" || code == "P0002"), "{:?}", ledger.failures);
    ledger.end_checks(&db, "a storm of cancels, 32 clients", cancels);
}

#[test]
fn a_caller_that_locks_any_of_the_tables_is_not_stuck() {
    let cluster = server_with(&["vault_ext.audit_timeout = 600"]);
    for (n, table) in ["encryption_vaults", "encryption_vault_audit", "keks"].iter().enumerate() {
        for known in [false, true] {
            let db = cluster.database(&format!("d{n}_{known}"));
            let mut ledger = Ledger::default();
            if known {
                ledger.call(&mut db.app(), "alice", Call::Init).unwrap();
            }
            let mut superuser = db.superuser();
            superuser.batch_execute(&format!("BEGIN; LOCK TABLE vault_ext.{table} IN ACCESS EXCLUSIVE MODE")).unwrap();
            let (mut ledger, mut superuser) = without_deadlock(SOON, "a call behind its own lock", move || {
                // Whether the call succeeds depends on the table, but it must always end.
                let ended = ledger.call(&mut superuser, "alice", Call::Init);
                if ended.is_err() {
                    expect_vault_error(ended, "55000");
                }
                (ledger, superuser)
            });
            superuser.batch_execute("COMMIT").unwrap();
            drop(superuser);
            let ledger_after = {
                ledger.call(&mut db.app(), "alice", Call::Rotate).unwrap();
                ledger
            };
            let first = if known { "later call" } else { "first call of the database" };
            ledger_after.end_checks(&db, &format!("the caller holds the lock on {table}, {first}"), 1);
        }
    }
}

/// Waits until one of the application's sessions waits for its audit row.
fn wait_until_a_caller_waits(db: &Db) {
    eventually(SOON, "the caller waits", || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'wire_app' AND wait_event IN ('Extension', 'VaultAuditRow')";
        db.value::<i64>(sql) == 1
    });
}

#[test]
fn a_restart_in_the_middle_of_a_change_keeps_the_old_key() {
    let mut cluster = Cluster::builder().with_wire_kek().conf("vault_ext.audit_timeout = 60s").start();
    let mut ledger = Ledger::default();
    ledger.call(&mut cluster.database("d").app(), "rotating", Call::Init).unwrap();
    let old = ledger.key("rotating").clone();
    let stops: [fn(&mut Cluster); 3] =
        [|cluster| cluster.stop(Stop::Fast), |cluster| cluster.stop(Stop::Immediate), |cluster| cluster.crash()];
    for stop in stops {
        for (user, call) in [("new", Call::Init), ("rotating", Call::Rotate)] {
            let caller = {
                let db = cluster.existing_database("d");
                let mut locker = db.superuser();
                locker.batch_execute(LOCK_AUDIT).unwrap();
                let mut app = db.app();
                let caller = std::thread::spawn(move || Ledger::default().call(&mut app, user, call));
                wait_until_a_caller_waits(&db);
                drop(db);
                stop(&mut cluster);
                caller
            };
            assert!(caller.join().unwrap().is_err(), "{user} got a key without a row");
            cluster.start();
            let db = cluster.existing_database("d");
            assert_eq!(db.vault_row("new"), None, "the change was not committed");
            assert_eq!(ledger.call(&mut db.app(), "rotating", Call::Fetch).unwrap(), old);
        }
    }
    ledger.end_checks(
        &cluster.existing_database("d"),
        "restart in the middle of init and rotate (fast, immediate, kill -9)",
        6,
    );
}

/// The size of a process's address space in bytes.
fn address_space(pid: i32) -> u64 {
    let pages = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    pages.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn a_caller_without_memory_loses_nothing() {
    let cluster = server_with(&[]);
    let db = cluster.database("d");
    let mut ledger = Ledger::default();
    let mut warm = db.app();
    for user in ["alice", "bob"] {
        ledger.call(&mut warm, user, Call::Init).unwrap();
    }
    let mut outcomes = Vec::new();
    for kilobytes in [0, 64, 128, 256, 512, 1024, 4096] {
        let mut app = db.app();
        set_user(&mut app, "alice");
        let pid: i32 = app.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
        // Run as the server's own user, who may set limits on its processes.
        let limit = format!("--as={}:", address_space(pid) + kilobytes * 1024);
        succeed(server_command("prlimit", cluster.dir()).args(["--pid", &pid.to_string(), &limit]));
        for call in [Call::Fetch, Call::Rotate, Call::Init] {
            outcomes.push(match ledger.call(&mut app, "alice", call) {
                Ok(_) => "released".to_owned(),
                Err(error) => error.code().map_or("connection lost".to_owned(), |code| code.code().to_owned()),
            });
        }
        drop(app);
        eventually(SOON, "the server answers", || cluster.try_conn("postgres", "d").is_ok());
    }
    eprintln!("{outcomes:?}");
    assert!(outcomes.contains(&"53200".to_owned()), "memory never ran out: {outcomes:?}");
    assert!(
        !outcomes.contains(&"connection lost".to_owned()),
        "a caller's backend died when it ran out of memory: {outcomes:?}"
    );
    ledger.end_checks(&db, "out of memory in the caller", outcomes.len());
}
