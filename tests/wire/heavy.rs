//! Many pooler clients, databases, connections, users and rows of the trail. An ordinary run has fewer of each than `make reliability`,
//! which runs the full numbers.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;
use std::time::Instant;

use postgres::{Client, Error};

use crate::harness::{Cluster, Db, VaultKey, expect_vault_error, neighbours, scenario_size};
use crate::keyring::{cluster, rewrap, switch};
use crate::ledger::{Call, Ledger};
use crate::pooler::{Pooler, column};

const CLIENTS: usize = 200;
/// The number of connections to the server for all clients of the pooler.
const POOL: usize = 20;

type Caller = fn(&mut Ledger, &mut Client, &str, Call) -> Result<VaultKey, Error>;

/// Every client has its own user. All clients hold a connection to the pooler at the same time.
fn through_a_pooler(mode: &str, call: Caller) {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().conf("max_connections = 60").start();
    let db = cluster.database("d");
    let pooler = Pooler::start(&db, mode, POOL);
    let calls = scenario_size(8, 100);
    let clients: Vec<Client> = (0..CLIENTS).map(|_| pooler.connect()).collect();
    let ledger = scope(|scope| {
        let clients: Vec<_> = (clients.into_iter().enumerate())
            .map(|(i, mut client)| {
                scope.spawn(move || {
                    let mut ledger = Ledger::default();
                    let user = format!("user-{i}");
                    // The session may have been another client's, but without a set identity there is no user.
                    let nobody = column(&mut client, "SELECT master_key FROM vault_get_master_key()");
                    expect_vault_error(nobody, "28000");
                    for n in 0..calls {
                        let what = match n {
                            0 => Call::Init,
                            n if n % 4 == 3 => Call::Rotate,
                            _ => Call::Fetch,
                        };
                        call(&mut ledger, &mut client, &user, what).unwrap_or_else(|e| panic!("{user}, {n}: {e:?}"));
                    }
                    ledger
                })
            })
            .collect();
        let mut all = Ledger::default();
        clients.into_iter().for_each(|client| all.merge(client.join().expect("a client succeeds")));
        all
    });
    assert_eq!(ledger.released(), CLIENTS * calls);
    let most: i64 = db.value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'wire_app'");
    assert!(most <= POOL as i64, "{most} connections: nothing was pooled");
    let nobody: i64 = db.value("SELECT count(*) FROM vault_ext.encryption_vault_audit WHERE status = 401");
    assert_eq!(nobody, CLIENTS as i64);
    ledger.end_checks(&db, &format!("{CLIENTS} clients through pgbouncer, {mode} mode, {calls} calls each"), 1);
}

#[test]
fn clients_of_a_transaction_pooler() {
    through_a_pooler("transaction", Ledger::call_in_transaction);
}

#[test]
fn clients_of_a_session_pooler() {
    through_a_pooler("session", Ledger::call);
}

#[test]
fn databases_in_turn_with_two_worker_slots() {
    let count = scenario_size(8, 100);
    // The launcher of logical replication and the listener for SIGHUP take two of the four slots.
    let cluster = Cluster::builder().with_wire_kek().without_fsync().conf(&neighbours::worker_slots(4)).start();
    cluster.database("d0");
    let mut superuser = cluster.superuser("postgres");
    for n in 1..count {
        superuser.batch_execute(&format!("CREATE DATABASE d{n} TEMPLATE d0 STRATEGY file_copy")).unwrap();
    }
    let databases: Vec<_> = (0..count).map(|n| cluster.existing_database(&format!("d{n}"))).collect();
    let mut ledgers = vec![Ledger::default(); count];
    let turns = scenario_size(2, 3);
    for turn in 0..turns {
        for (db, ledger) in databases.iter().zip(&mut ledgers) {
            let mut app = db.app();
            let first = if turn == 0 { Call::Init } else { Call::Fetch };
            for call in [first, Call::Rotate, Call::Fetch] {
                // An idle writer of another database has the slot. It gives it up, and the call waits until then.
                ledger.call(&mut app, "alice", call).unwrap_or_else(|e| panic!("{}: {e:?}", db.name));
            }
        }
    }
    let checked: Vec<_> = ledgers.iter().zip(&databases).collect();
    Ledger::end_checks_of_all(&checked, &format!("{count} databases in turn, two worker slots"), turns);
}

#[test]
fn short_connections() {
    let (sessions, count) = (16, scenario_size(800, 10_000));
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.database("d");
    let ledger = scope(|scope| {
        let callers: Vec<_> = (0..sessions)
            .map(|i| {
                let db = &db;
                scope.spawn(move || {
                    let mut ledger = Ledger::default();
                    for n in 0..count / sessions {
                        let own = format!("user-{i}");
                        let (user, call) = match n % 10 {
                            0 => (format!("{own}-{n}"), Call::Init),
                            1 | 6 => (own, Call::Rotate),
                            _ => (own, if n < 10 { Call::Init } else { Call::Fetch }),
                        };
                        ledger.call(&mut db.app(), &user, call).unwrap_or_else(|e| panic!("{user}, {n}: {e:?}"));
                    }
                    ledger
                })
            })
            .collect();
        let mut all = Ledger::default();
        callers.into_iter().for_each(|caller| all.merge(caller.join().expect("a caller succeeds")));
        all
    });
    assert_eq!(ledger.released(), count);
    ledger.end_checks(&db, &format!("{count} short connections, {sessions} at a time"), 1);
}

const SESSIONS: usize = 16;
/// The number of calls in one statement.
const CALLS_PER_STATEMENT: usize = 1000;

/// Makes a call for every user from ordinary sessions, scattered over the table, and returns every user's key.
fn for_everybody(db: &Db, users: usize, function: &str) -> Vec<String> {
    let session = |session: usize| {
        let mut app = db.app();
        let mut keys = Vec::new();
        for from in (session * CALLS_PER_STATEMENT..users).step_by(SESSIONS * CALLS_PER_STATEMENT) {
            // The factor shares no divisor with a power of ten, so every user gets exactly one call.
            let sql = format!(
                "SELECT n, set_config('app.current_user_id', 'user-' || n, true), ({function}()).master_key
                 FROM (SELECT i::bigint * 618033 % {users} n FROM generate_series({from}, {}) i) numbers",
                (from + CALLS_PER_STATEMENT).min(users) - 1
            );
            let rows = app.query(&sql, &[]).unwrap_or_else(|e| panic!("{function}() from {from} on: {e:?}"));
            keys.extend(rows.iter().map(|row| (row.get::<_, i64>(0), row.get::<_, String>(2))));
        }
        keys
    };
    let mut keys = vec![String::new(); users];
    scope(|scope| {
        let sessions: Vec<_> = (0..SESSIONS).map(|i| scope.spawn(move || session(i))).collect();
        for session in sessions {
            for (n, key) in session.join().expect("a session succeeds") {
                keys[usize::try_from(n).expect("a user's number")] = key;
            }
        }
    });
    keys
}

/// Asserts that every wrap opens and that all of them are under this KEK.
fn assert_all_open(db: &Db, kek_id: &str, users: usize) {
    let sql = "SELECT kek_id, format_version, outcome, vaults FROM vault_check()";
    let rows = db.conn("wire_admin").query(sql, &[]).expect("vault_check() works");
    let found: Vec<(String, i16, String, i64)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect();
    assert_eq!(found, [(kek_id.to_owned(), 2, "opens".to_owned(), users as i64)]);
}

/// The number of the trail's rows that meet the condition, and of their users.
fn rows_of(db: &Db, condition: &str) -> (i64, i64) {
    let sql =
        format!("SELECT count(*), count(DISTINCT user_id) FROM vault_ext.encryption_vault_audit WHERE {condition}");
    let row = db.superuser().query_one(&sql, &[]).expect("the trail can be read");
    (row.get(0), row.get(1))
}

#[test]
fn very_many_users() {
    let users = scenario_size(10_000, 1_000_000);
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    let count = users as i64;
    let keys = for_everybody(&db, users, "vault_init");
    assert_eq!(rows_of(&db, "action = 'init' AND status = 201"), (count, count));
    assert_eq!(keys.iter().collect::<HashSet<_>>().len(), users, "two users have the same key");
    assert_all_open(&db, "k1", users);

    // Fetch some of the keys one by one, so that the ledger knows them from now on.
    let mut ledger = Ledger::default();
    let mut app = db.app();
    for n in (0..users).step_by(users / 500) {
        let key = ledger.call(&mut app, &format!("user-{n}"), Call::Fetch).unwrap();
        assert_eq!(key.master_key, keys[n]);
    }

    switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    assert_eq!(rewrap(&db, 10_000).unwrap(), (count, 0, 0));
    assert_all_open(&db, "k2", users);
    switch(&db, &[("k2", 2)]).unwrap();
    let before = rows_of(&db, "action = 'fetch' AND status = 200");
    let now = for_everybody(&db, users, "vault_get_master_key");
    let differing = now.iter().zip(&keys).filter(|(now, then)| now != then).count();
    assert_eq!(differing, 0, "this many users have a different key than before");
    assert_eq!(rows_of(&db, "action = 'fetch' AND status = 200"), (before.0 + count, count));
    assert_eq!(rows_of(&db, "status >= 400"), (0, 0));
    ledger.end_checks(&db, &format!("{users} users: init, rewrap, every key fetched"), 1);
}

/// Anonymous memory of a server process in kB.
fn anonymous_memory(pid: i32) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("a line of the status");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).expect("a number of kB")
}

/// Half of the rows go at once and half in batches, while a session goes on fetching.
#[test]
fn a_purge_of_very_many_rows() {
    let rows = scenario_size(50_000, 10_000_000) as i64;
    let cluster = Cluster::builder().with_wire_kek().without_fsync().conf("max_wal_size = 4GB").start();
    let db = cluster.database("d");
    let mut ledger = Ledger::default();
    ledger.call(&mut db.app(), "alice", Call::Init).unwrap();
    // A superuser writes past the writer, so these rows are not in the tree. Every second one is older than two years.
    db.force(&format!(
        "INSERT INTO vault_ext.encryption_vault_audit (user_id, action, status, kek_id, key_version, db_role, login_role, created_at)
         SELECT 'user-' || n % 100000, 'fetch', 200, 'wire-1', 1, 'wire_app', 'wire_app', now() - interval '500 days' * (1 + n % 2)
         FROM generate_series(1, {rows}) n"
    ));
    db.force("VACUUM ANALYZE vault_ext.encryption_vault_audit");
    let old = || rows_of(&db, "created_at < now() - interval '1 year'").0;
    assert_eq!(old(), rows);

    let mut admin = db.conn("wire_admin");
    let pid: i32 = admin.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    // The planner compiles a long statement, which takes some MB.
    admin.batch_execute("SET jit = off").unwrap();
    // The first purge of a process makes its caches.
    assert_eq!(admin.query_one("SELECT vault_purge_audit('100 years')", &[]).unwrap().get::<_, i64>(0), 0);
    let before = anonymous_memory(pid);
    let mut timed = |what: &str, sql: &str| {
        let begun = Instant::now();
        let purged: i64 = admin.query_one(sql, &[]).unwrap_or_else(|e| panic!("{sql}: {e:?}")).get(0);
        println!("{what}: {purged} rows in {:.1} s", begun.elapsed().as_secs_f64());
        purged
    };
    let stop = AtomicBool::new(false);
    let (at_once, in_batches, ledger) = scope(|scope| {
        let (mut app, stop) = (db.app(), &stop);
        let fetching = scope.spawn(move || {
            let mut longest = 0.0_f64;
            while !stop.load(Ordering::SeqCst) {
                let begun = Instant::now();
                ledger.call(&mut app, "alice", Call::Fetch).expect("a purge holds up no call");
                longest = longest.max(begun.elapsed().as_secs_f64());
            }
            (ledger, longest)
        });
        let at_once = timed("vault_purge_audit(age)", "SELECT vault_purge_audit('2 years')");
        let in_batches = timed("CALL vault_purge_audit(age, 10000)", "CALL vault_purge_audit('1 year', 10000)");
        stop.store(true, Ordering::SeqCst);
        let (fetched, longest) = fetching.join().expect("fetches go on");
        println!("{} fetches meanwhile, the longest {:.0} ms", fetched.released(), longest * 1000.0);
        (at_once, in_batches, fetched)
    });
    assert_eq!((at_once, in_batches, old()), (rows / 2, rows / 2, 0));
    let grown = anonymous_memory(pid) - before;
    println!("{grown} kB more memory afterwards");
    assert!(grown < 16 * 1024, "{grown} kB more after {rows} rows: more than a sort takes");
    let declared: i64 = db.value(
        "SELECT sum(substring(context FROM 'old_rows=([0-9]+)')::bigint)::bigint FROM vault_ext.encryption_vault_audit
         WHERE action = 'purge' AND status = 200 AND context LIKE '%old_rows=%'",
    );
    assert_eq!(declared, rows, "the trail says how many rows went");
    ledger.end_checks(&db, &format!("{rows} rows of the trail purged, at once and in batches"), 1);
}
