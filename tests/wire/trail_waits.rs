//! Waiting for the trail. A call waits as long as documented, no longer than the cause lasts, and its error names the
//! cause.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{
    Cluster, Db, Refusal, eventually, expect_error, expect_vault_error, fetch, init, kill9, rotate, send, set_user,
    shared_db, status, without_deadlock,
};
use crate::load::Load;

const SOON: Duration = Duration::from_secs(30);
const LOCK: &str = "BEGIN; LOCK TABLE vault_ext.encryption_vault_audit IN ACCESS EXCLUSIVE MODE";
const WRITERS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'vault%writer' AND datname = current_database()";

fn server(timeout: &str) -> Cluster {
    let conf = format!("vault_ext.audit_timeout = '{timeout}'");
    Cluster::builder().with_wire_kek().without_fsync().conf(&conf).conf("max_worker_processes = 20").start()
}

fn pid(client: &mut postgres::Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0)
}

/// Waits until the writer waits for a lock.
#[track_caller]
fn wait_until_writer_is_blocked(db: &Db) {
    eventually(SOON, "the writer waits for the lock", || {
        db.value::<i64>(&format!("{WRITERS} AND wait_event_type = 'Lock'")) == 1
    });
}

/// Counts the processes that could not connect. The harness itself connects while the server is still starting, which
/// does not count.
fn refused_connections(cluster: &Cluster) -> usize {
    cluster.log().lines().filter(|line| line.contains("FATAL") && !line.contains("is starting up")).count()
}

#[track_caller]
fn expect_timeout(result: Result<impl std::fmt::Debug, postgres::Error>) -> Refusal {
    expect_vault_error(result, "55000")
}

#[test]
fn a_call_waits_at_least_as_long_as_the_setting_says() {
    let cluster = server("4s");
    let db = cluster.database("d");
    let key = init(&mut db.app_for("alice")).unwrap();
    let mut locker = db.superuser();
    locker.batch_execute(LOCK).unwrap();
    let start = Instant::now();
    let refusal = expect_timeout(fetch(&mut db.app_for("alice")));
    assert!(start.elapsed() >= Duration::from_secs(4), "gave up after {:?}", start.elapsed());
    assert!(refusal.message.contains("4000 ms"), "{refusal:?}");
    locker.batch_execute("ROLLBACK").unwrap();
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
}

#[test]
fn a_session_with_a_longer_timeout_waits_longer() {
    let cluster = server("300ms");
    let db = cluster.database("d");
    db.force("ALTER ROLE wire_app2 SET vault_ext.audit_timeout = '5min'");
    let key = init(&mut db.app_for("alice")).unwrap();
    let mut locker = db.superuser();
    locker.batch_execute(LOCK).unwrap();
    let mut patient = db.conn("wire_app2");
    set_user(&mut patient, "alice");
    let waiting = std::thread::spawn(move || fetch(&mut patient));
    wait_until_writer_is_blocked(&db);
    // Other sessions give up meanwhile. Together they take several times the server's default timeout.
    for _ in 0..4 {
        expect_timeout(fetch(&mut db.app_for("alice")));
    }
    assert!(!waiting.is_finished());
    locker.batch_execute("ROLLBACK").unwrap();
    assert_eq!(waiting.join().unwrap().unwrap(), key);
}

#[test]
fn the_error_names_who_holds_the_lock() {
    let cluster = server("1s");
    let db = cluster.database("d");
    init(&mut db.app_for("alice")).unwrap();
    // ALTER TABLE waits for an idle reader, and the writer waits for ALTER TABLE.
    let mut reader = db.superuser();
    reader.batch_execute("BEGIN; SELECT count(*) FROM vault_ext.encryption_vault_audit").unwrap();
    let mut altering = db.superuser();
    let (reader_pid, altering_pid) = (pid(&mut reader), pid(&mut altering));
    let cancel = altering.cancel_token();
    let alter = std::thread::spawn(move || {
        altering.batch_execute("ALTER TABLE vault_ext.encryption_vault_audit ADD CONSTRAINT c CHECK (true) NOT VALID")
    });
    eventually(SOON, "ALTER TABLE waits", || {
        db.value(&format!("SELECT EXISTS (SELECT FROM pg_locks WHERE pid = {altering_pid} AND NOT granted)"))
    });
    let refusal = expect_timeout(fetch(&mut db.app_for("alice")));
    let detail = refusal.detail.as_deref().unwrap_or_default();
    for named in [reader_pid, altering_pid] {
        assert!(detail.contains(&named.to_string()), "{named} is not in {refusal:?}");
    }
    // Even calls beyond the session's number of slots give the same error.
    let mut app = db.app_for("alice");
    for _ in 0..6 {
        let refusal = expect_timeout(fetch(&mut app));
        assert!(refusal.detail.is_some_and(|detail| detail.contains(&altering_pid.to_string())), "{}", refusal.message);
    }
    cancel.cancel_query(postgres::NoTls).unwrap();
    assert!(alter.join().unwrap().is_err());
    fetch(&mut db.app_for("alice")).unwrap();
}

#[test]
fn a_connected_session_keeps_working_when_new_connections_are_refused() {
    let cluster = server("5s");
    let db = cluster.database("d");
    let mut app = db.app_for("alice");
    let key = init(&mut app).unwrap();
    let mut superuser = db.superuser();
    cluster.superuser("postgres").batch_execute("ALTER DATABASE d ALLOW_CONNECTIONS false").unwrap();
    eventually(SOON, "the writer has left", || superuser.query_one(WRITERS, &[]).unwrap().get::<_, i64>(0) == 0);
    assert_eq!(fetch(&mut app).unwrap(), key);
    assert_eq!(rotate(&mut app).unwrap().key_version, 2);
    assert_eq!(refused_connections(&cluster), 0, "{}", cluster.log());
}

#[test]
fn the_writer_retries_less_and_less_often_when_a_database_refuses_it() {
    let cluster = server("4s");
    let db = cluster.database("d");
    let mut app = db.app_for("alice");
    let key = init(&mut app).unwrap();
    let mut superuser = db.superuser();
    eventually(SOON, "the writer has left", || superuser.query_one(WRITERS, &[]).unwrap().get::<_, i64>(0) == 0);
    // An interrupted DROP DATABASE leaves this value, and then nobody can connect.
    superuser.batch_execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'd'").unwrap();
    let refusal = expect_vault_error(fetch(&mut app), "55000");
    assert!(refusal.message.contains("cannot connect"), "{refusal:?}");
    assert!(!refusal.text().contains("lock"), "{refusal:?}");
    let attempts = refused_connections(&cluster);
    assert!((1..=8).contains(&attempts), "{attempts} attempts in four seconds");
    superuser.batch_execute("UPDATE pg_database SET datconnlimit = -1 WHERE datname = 'd'").unwrap();
    assert_eq!(fetch(&mut app).unwrap(), key, "one call waits long enough to succeed");
}

/// The writer may have planned its INSERT while a rule discarded the rows. Calls continue throughout.
#[test]
fn a_dropped_rule_leaves_no_stale_plan_in_the_writer() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    let load = Load::start(&db, 4);
    load.wait_for_keys(20);
    for _ in 0..2 {
        db.force(
            "SET vault_ext.allow_alter = on;
             CREATE RULE swallow AS ON INSERT TO vault_ext.encryption_vault_audit DO INSTEAD NOTHING",
        );
        let refusal = expect_vault_error(fetch(&mut db.app_for("alice")), "55000");
        assert!(refusal.message.contains("rule"), "{refusal:?}");
        db.force("DROP RULE swallow ON vault_ext.encryption_vault_audit");
        // The load keeps the writer running, so the writer must notice the change by itself.
        fetch(&mut db.app_for("alice")).unwrap();
        load.wait_for_keys(20);
    }
    load.stop();
}

/// The same for a caller's statements: a rule discards each command in turn, and the test makes the calls that run it.
#[test]
fn a_session_drops_a_plan_that_a_rule_has_emptied() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let mut admin = db.conn("wire_admin");
    init(&mut app).unwrap();
    for (event, user) in [("UPDATE", "alice"), ("INSERT", "bob"), ("DELETE", "carol")] {
        init(&mut db.app_for("carol")).unwrap();
        for _ in 0..3 {
            db.force(&format!(
                "SET vault_ext.allow_alter = on;
                 CREATE RULE swallow AS ON {event} TO vault_ext.encryption_vaults DO INSTEAD NOTHING"
            ));
            set_user(&mut app, user);
            match event {
                "UPDATE" => drop(expect_vault_error(rotate(&mut app), "55000")),
                "INSERT" => drop(expect_vault_error(init(&mut app), "55000")),
                _ => drop(expect_vault_error(admin.query("SELECT vault_erase('carol')", &[]), "55000")),
            }
            assert!(db.vault_row("carol").is_some() && (event == "DELETE" || db.vault_row("bob").is_none()));
            db.force("DROP RULE swallow ON vault_ext.encryption_vaults");
        }
        match event {
            "UPDATE" => assert_eq!(rotate(&mut app).unwrap().key_version, 2),
            "INSERT" => assert_eq!(init(&mut app).unwrap().key_version, 1),
            _ => assert!(admin.query_one("SELECT vault_erase('carol')", &[]).unwrap().get::<_, bool>(0)),
        }
        assert_eq!(status(&mut app).unwrap().exists, event != "DELETE");
    }
}

/// Checks what a session and the writer keep from one call to the next, while the objects are renamed and renamed back.
#[test]
fn kept_plans_follow_the_renames_of_their_objects() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let key = init(&mut app).unwrap();
    for (away, back) in [
        (
            "ALTER TABLE vault_ext.encryption_vaults RENAME TO elsewhere",
            "ALTER TABLE vault_ext.elsewhere RENAME TO encryption_vaults",
        ),
        (
            "ALTER TABLE vault_ext.encryption_vaults RENAME COLUMN wrap_iv TO iv",
            "ALTER TABLE vault_ext.encryption_vaults RENAME COLUMN iv TO wrap_iv",
        ),
        ("ALTER SCHEMA vault_ext RENAME TO elsewhere", "ALTER SCHEMA elsewhere RENAME TO vault_ext"),
        ("ALTER TABLE vault_ext.keks RENAME TO elsewhere", "ALTER TABLE vault_ext.elsewhere RENAME TO keks"),
        (
            "ALTER TABLE vault_ext.encryption_vault_audit RENAME TO elsewhere",
            "ALTER TABLE vault_ext.elsewhere RENAME TO encryption_vault_audit",
        ),
        (
            "ALTER TABLE vault_ext.encryption_vault_audit RENAME COLUMN leaf TO elsewhere",
            "ALTER TABLE vault_ext.encryption_vault_audit RENAME COLUMN elsewhere TO leaf",
        ),
    ] {
        for _ in 0..2 {
            assert_eq!(fetch(&mut app).unwrap(), key);
            assert!(status(&mut app).unwrap().exists);
            db.force(&format!("SET vault_ext.allow_alter = on; {away}"));
            assert!(fetch(&mut app).is_err(), "after {away}");
            db.force(&format!("SET vault_ext.allow_alter = on; {back}"));
        }
    }
    assert_eq!(fetch(&mut app).unwrap(), key);
    assert_eq!(rotate(&mut app).unwrap().key_version, 2);
}

/// A debugger stops the writer right after it has taken a lock of the server's lock table. Whoever looks up who holds which lock
/// waits for that one, and no time limit ends such a wait.
#[test]
fn a_writer_that_is_stopped_with_the_lock_table_in_hand_does_not_hold_up_errors() {
    let cluster = server("500ms");
    let db = cluster.database("d");
    let mut app = db.app_for("alice");
    let key = init(&mut app).unwrap();
    assert_eq!(fetch(&mut app).unwrap(), key);
    let mut superuser = db.superuser();
    superuser.query("SELECT * FROM vault_health()", &[]).unwrap();
    let writer: i32 = db.value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'vault_ext audit writer'");

    let mut debugger = std::process::Command::new("gdb");
    debugger.args(["-nx", "-batch", "-iex", "set debuginfod enabled off", "-p", &writer.to_string()]);
    for command in [
        "handle all nostop noprint pass",
        // The writer's transaction gets its number, and locks it.
        "break XactLockTableInsert",
        "continue",
        "break LWLockAcquire",
        "continue",
        "finish",
        &format!("shell kill -STOP {writer}"),
        "detach",
    ] {
        debugger.args(["-ex", command]);
    }
    let debugger = debugger.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("gdb is installed");
    let debugger = std::thread::spawn(move || debugger.wait_with_output().unwrap());
    let output = without_deadlock(SOON, "calls beside a writer that is stopped", move || {
        // These give the writer something to do.
        while !debugger.is_finished() {
            let _ = fetch(&mut app);
        }
        expect_timeout(fetch(&mut app));
        superuser.query_one("SELECT problem FROM vault_health()", &[]).unwrap();
        debugger.join().unwrap()
    });
    let said = String::from_utf8_lossy(&output.stdout);
    let problems = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(" in LockAcquireExtended ()") && said.contains("detached"), "{said} {problems}");
    let state = std::fs::read_to_string(format!("/proc/{writer}/stat")).unwrap();
    assert!(state.contains(") T "), "the writer is not stopped: {state}");
    send(writer, Signal::CONT);
    eventually(SOON, "calls get on", || fetch(&mut db.app_for("alice")).is_ok_and(|fetched| fetched == key));
}

/// What pg_stat_activity shows of the processes that this condition selects.
#[track_caller]
fn wait_until_shown(db: &Db, event: &str, processes: &str) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE {processes} AND wait_event_type = 'Extension' AND wait_event = '{event}'"
    );
    eventually(SOON, event, || db.value::<i64>(&sql) == 1);
}

#[test]
fn waits_have_names_of_their_own_from_postgresql_17_on() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().conf("vault_ext.audit_timeout = 60s");
    let cluster = cluster.conf("vault_ext.audit_slots = 2").conf("vault_ext.audit_idle_exit = 4s");
    let cluster = cluster.conf("restart_after_crash = on").start();
    let named = cluster.major() >= 17;
    let of = |name: &'static str| if named { name } else { "Extension" };
    let mut db = cluster.database("d");
    for _ in 0..2 {
        init(&mut db.app_for("alice")).unwrap();
        wait_until_shown(&db, of("VaultAuditWriterMain"), "backend_type = 'vault_ext audit writer'");
        let mut locker = db.superuser();
        locker.batch_execute(LOCK).unwrap();
        let mut app = db.app_for("alice");
        let pid = pid(&mut app);
        let (tell, cancelled) = std::sync::mpsc::channel();
        let waits = std::thread::spawn(move || {
            for _ in 0..2 {
                expect_error(fetch(&mut app), "57014");
                tell.send(()).unwrap();
            }
            fetch(&mut app).unwrap()
        });
        // The records of cancelled calls keep both slots of the session.
        for _ in 0..2 {
            wait_until_shown(&db, of("VaultAuditRow"), &format!("pid = {pid}"));
            // For a cancel request of the protocol, the server sends two signals, and the second may come after the next call
            // has begun.
            db.force(&format!("SELECT pg_cancel_backend({pid})"));
            cancelled.recv_timeout(SOON).unwrap();
        }
        wait_until_shown(&db, of("VaultAuditSlot"), &format!("pid = {pid}"));
        locker.batch_execute("ROLLBACK").unwrap();
        waits.join().unwrap();
        if named {
            let sql = "SELECT count(*) FROM pg_wait_events WHERE type = 'Extension' AND name LIKE 'Vault%'";
            assert_eq!(db.value::<i64>(sql), 3);
        }
        // Shared memory is new after a crash, and so are the names in it.
        fetch(&mut db.app_for("alice")).unwrap();
        kill9(db.value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'vault_ext audit writer'"));
        let is_back =
            || cluster.try_conn("postgres", "d").is_ok_and(|mut client| client.simple_query("SELECT 1").is_ok());
        eventually(SOON, "the server has noticed", || locker.is_closed() || locker.simple_query("SELECT 1").is_err());
        eventually(SOON, "the server is back", is_back);
        db = cluster.existing_database("d");
    }
}
