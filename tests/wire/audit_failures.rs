//! No trail, no key: if a row cannot be written, no key is released and the error says where to look.

use std::time::{Duration, Instant};

use postgres::Client;

use crate::harness::{
    Cluster, Db, Refusal, eventually, expect_error, expect_vault_error, fetch, init, neighbours, rotate, set_user,
    shared_db, without_deadlock,
};

const SOON: Duration = Duration::from_secs(30);
const LOCK: &str = "BEGIN; LOCK TABLE vault_ext.encryption_vault_audit IN ACCESS EXCLUSIVE MODE";

fn short_timeout(db: &Db) {
    db.force(&format!("ALTER DATABASE \"{}\" SET vault_ext.audit_timeout = 500", db.name));
}

/// Expects one of the two codes that the design gives for a trail that cannot be written.
#[track_caller]
fn expect_not_released(result: Result<impl std::fmt::Debug, postgres::Error>) -> Refusal {
    let code = match &result {
        Ok(value) => panic!("released without a row: {value:?}"),
        Err(error) => error.code().map(|code| code.code().to_owned()),
    };
    let code = code.filter(|code| code == "53400" || code == "55000");
    let refusal = expect_vault_error(result, code.as_deref().unwrap_or("53400 or 55000"));
    assert!(refusal.message.contains("audit"), "{refusal:?}");
    refusal
}

/// Makes all three calls for a user with a vault and for others: no key comes out, and nothing changes.
#[track_caller]
fn expect_nothing_released(db: &Db) {
    let row = db.vault_row("alice").expect("alice has a vault");
    expect_not_released(fetch(&mut db.app_for("alice")));
    expect_not_released(init(&mut db.app_for("alice")));
    expect_not_released(rotate(&mut db.app_for("alice")));
    assert_eq!(db.vault_row("alice").as_ref(), Some(&row));
    expect_not_released(init(&mut db.app_for("new")));
    expect_not_released(rotate(&mut db.app_for("new")));
    assert_eq!(db.vault_row("new"), None);
    expect_not_released(fetch(&mut db.app()));
    expect_not_released(fetch(&mut db.app_for("nobody")));
}

#[test]
fn a_locked_trail_releases_nothing_and_recovers() {
    // Calls that gave up keep slots until the lock is gone: on a shared server those of other tests' sessions, too.
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.database("d");
    let key = init(&mut db.app_for("alice")).unwrap();
    short_timeout(&db);
    let mut locker = db.superuser();
    locker.batch_execute(LOCK).unwrap();
    let start = Instant::now();
    expect_nothing_released(&db);
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    locker.batch_execute("ROLLBACK").unwrap();
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
    init(&mut db.app_for("new")).unwrap();
}

#[test]
fn a_caller_that_holds_the_lock_itself_is_not_stuck() {
    let db = shared_db();
    let key = init(&mut db.app_for("alice")).unwrap();
    short_timeout(&db);
    let mut superuser = db.superuser();
    set_user(&mut superuser, "alice");
    superuser.batch_execute(LOCK).unwrap();
    let mut superuser = without_deadlock(SOON, "a call that waits for its own lock", move || {
        expect_not_released(fetch(&mut superuser));
        superuser
    });
    superuser.batch_execute("ROLLBACK").unwrap();
    assert_eq!(fetch(&mut superuser).unwrap(), key);
}

#[test]
fn a_call_waits_for_a_short_lock() {
    let db = shared_db();
    let key = init(&mut db.app_for("alice")).unwrap();
    let mut locker = db.superuser();
    locker.batch_execute(LOCK).unwrap();
    let mut app = db.app_for("alice");
    let waiting = std::thread::spawn(move || fetch(&mut app));
    eventually(SOON, "the writer waits for the lock", || {
        db.value::<i64>("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'vault%' AND wait_event_type = 'Lock' AND datname = current_database()") == 1
    });
    locker.batch_execute("ROLLBACK").unwrap();
    assert_eq!(waiting.join().unwrap().unwrap(), key);
    assert_eq!(db.audit_of("alice").len(), 2, "there is one row, however often the writer tried");
}

#[test]
fn a_call_waits_for_a_slot_that_cancelled_calls_still_hold() {
    // Calls that gave up keep slots until the lock is gone: on a shared server those of other tests' sessions, too.
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.database("d");
    let key = init(&mut db.app_for("alice")).unwrap();
    let mut locker = db.superuser();
    locker.batch_execute(LOCK).unwrap();
    let mut app = db.app_for("alice");
    app.batch_execute("SET statement_timeout = 50").unwrap();
    // One more call than there are slots: the last one is cancelled while it waits for a slot.
    for _ in 0..5 {
        expect_error(fetch(&mut app), "57014");
    }
    app.batch_execute("RESET statement_timeout").unwrap();
    let waiting = std::thread::spawn(move || fetch(&mut app));
    eventually(SOON, "the call waits", || {
        db.value::<i64>("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%vault_get_master_key%' AND state = 'active' AND pid <> pg_backend_pid() AND datname = current_database()") == 1
    });
    locker.batch_execute("ROLLBACK").unwrap();
    assert_eq!(waiting.join().unwrap().unwrap(), key);
    assert_eq!(
        db.audit_of("alice").len(),
        6,
        "rows of init, the four cancelled calls that had a slot, and the last call"
    );
}

#[test]
fn a_trail_that_takes_no_rows_releases_nothing() {
    let db = shared_db();
    let key = init(&mut db.app_for("alice")).unwrap();
    short_timeout(&db);
    for (broken, mended) in [
        (
            "ALTER TABLE vault_ext.encryption_vault_audit ADD CONSTRAINT no CHECK (false) NOT VALID",
            "ALTER TABLE vault_ext.encryption_vault_audit DROP CONSTRAINT no",
        ),
        (
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
             CREATE TRIGGER no BEFORE INSERT ON vault_ext.encryption_vault_audit FOR EACH ROW EXECUTE FUNCTION no()",
            "DROP TRIGGER no ON vault_ext.encryption_vault_audit",
        ),
        (
            "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
             CREATE TRIGGER no BEFORE INSERT ON vault_ext.encryption_vault_audit FOR EACH ROW EXECUTE FUNCTION swallow()",
            "DROP TRIGGER no ON vault_ext.encryption_vault_audit",
        ),
        (
            "CREATE POLICY no ON vault_ext.encryption_vault_audit AS RESTRICTIVE FOR INSERT WITH CHECK (false)",
            "DROP POLICY no ON vault_ext.encryption_vault_audit",
        ),
        (
            "REVOKE INSERT ON vault_ext.encryption_vault_audit FROM vault_ext_owner",
            "GRANT INSERT ON vault_ext.encryption_vault_audit TO vault_ext_owner",
        ),
        (
            "SET vault_ext.allow_alter = on; ALTER TABLE vault_ext.encryption_vault_audit RENAME COLUMN action TO verb",
            "ALTER TABLE vault_ext.encryption_vault_audit RENAME COLUMN verb TO action",
        ),
    ] {
        db.force(broken);
        expect_nothing_released(&db);
        db.force(mended);
        assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key, "after {mended}");
    }
}

#[test]
fn a_failing_record_fails_only_its_own_caller() {
    let db = shared_db();
    for user in ["alice", "mallory"] {
        init(&mut db.app_for(user)).unwrap();
    }
    db.force("ALTER TABLE vault_ext.encryption_vault_audit ADD CONSTRAINT no CHECK (user_id <> 'mallory') NOT VALID");
    std::thread::scope(|scope| {
        for i in 0..6 {
            let db = &db;
            scope.spawn(move || {
                let user = if i % 3 == 0 { "mallory" } else { "alice" };
                let mut app = db.app_for(user);
                for _ in 0..30 {
                    match user {
                        "mallory" => drop(expect_not_released(fetch(&mut app))),
                        _ => drop(fetch(&mut app).unwrap()),
                    }
                }
            });
        }
    });
    assert_eq!(db.audit_of("alice").len(), 121);
    assert_eq!(db.audit_of("mallory").len(), 1);
}

#[test]
fn without_any_worker_slot_nothing_is_released_and_the_setting_is_named() {
    let cluster = Cluster::builder()
        .with_wire_kek()
        .without_fsync()
        .conf("max_worker_processes = 0")
        .conf("max_logical_replication_workers = 0")
        .conf("vault_ext.audit_timeout = 1000")
        .start();
    let db = cluster.database("none");
    let refusal = expect_not_released(init(&mut db.app_for("alice")));
    let hint = refusal.hint.unwrap_or_default();
    assert!(hint.contains("max_worker_processes"), "{hint}");
    assert_eq!(db.vault_row("alice"), None);
}

#[test]
fn an_idle_writer_makes_room_for_another_database() {
    let cluster = Cluster::builder()
        .with_wire_kek()
        .without_fsync()
        .conf(&neighbours::worker_slots(4))
        .conf("max_logical_replication_workers = 0")
        .conf("vault_ext.audit_idle_exit = 4000")
        .start();
    let databases: Vec<_> = (0..4).map(|i| cluster.database(&format!("d{i}"))).collect();
    for db in databases.iter().chain(&databases) {
        init(&mut db.app_for("alice")).unwrap();
    }
}

#[test]
fn settings_of_the_database_do_not_weaken_the_writer() {
    let db = shared_db();
    let name = &db.name;
    for setting in [
        "default_transaction_read_only = on",
        "search_path = ''",
        "session_replication_role = replica",
        "row_security = off",
        "synchronous_commit = off",
        "default_transaction_isolation = serializable",
        "idle_in_transaction_session_timeout = 1",
        "default_tablespace = 'nowhere'",
        "lock_timeout = 1",
        "constraint_exclusion = on",
        "role = wire_app",
    ] {
        // PostgreSQL refuses some of these for a database; they can do no harm.
        let _ = db.superuser().batch_execute(&format!("ALTER DATABASE \"{name}\" SET {setting}"));
    }
    let mut app = db.app_for("alice");
    app.batch_execute("SET default_transaction_read_only = off; SET search_path = public; SET default_transaction_isolation = 'read committed'; SET row_security = on")
        .unwrap();
    init(&mut app).unwrap();
    for _ in 0..5 {
        fetch(&mut app).unwrap();
    }
    assert_eq!(db.audit_of("alice").len(), 6);
}

#[test]
fn a_short_statement_timeout_of_the_database_does_not_stop_the_writer() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    db.force(&format!("ALTER DATABASE \"{}\" SET statement_timeout = 1", db.name));
    eventually(SOON, "the writer has exited", || {
        // A session in this database would have the timeout of 1 ms, so ask from another one.
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'vault%' AND datname = '{}'",
            db.name
        );
        db.cluster.superuser("postgres").query_one(&sql, &[]).unwrap().get::<_, i64>(0) == 0
    });
    let mut config = db.cluster.config("wire_app", &db.name);
    config.options("-c statement_timeout=0");
    let mut app = config.connect(postgres::NoTls).unwrap();
    set_user(&mut app, "alice");
    for _ in 0..20 {
        fetch(&mut app).unwrap();
    }
}

#[test]
fn an_aborted_batch_neither_loses_nor_repeats_a_row() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    // Half of all inserts fail, as with a flaky disk or serialization failures.
    db.force(
        "CREATE SEQUENCE flaky;
         GRANT USAGE ON SEQUENCE flaky TO PUBLIC;
         CREATE FUNCTION flaky() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN IF nextval('public.flaky') % 2 = 0 THEN RAISE EXCEPTION 'flaky'; END IF; RETURN NEW; END $$;
         CREATE TRIGGER flaky BEFORE INSERT ON vault_ext.encryption_vault_audit FOR EACH ROW EXECUTE FUNCTION flaky()",
    );
    let released: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|i| {
                let db = &db;
                scope.spawn(move || {
                    let mut app: Client = db.app_for("alice");
                    (0..25)
                        .filter(|n| {
                            let id = format!("{i}-{n}");
                            app.execute("SELECT set_config('app.request_id', $1, false)", &[&id]).unwrap();
                            fetch(&mut app).is_ok()
                        })
                        .count()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let rows = db.audit_of("alice");
    let mut ids: Vec<_> = rows.iter().filter_map(|row| row.request_id.clone()).collect();
    let written = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), written, "a row was written twice");
    assert_eq!(written, released, "each released key has a row, and there are no others");
    assert!(released > 0);
}
