//! Many sessions for one user at once.

use std::sync::Barrier;
use std::time::Duration;

use postgres::Client;

use crate::harness::{Db, VaultKey, eventually, expect_error, fetch, init, rotate, shared_db, without_deadlock};

const SOON: Duration = Duration::from_secs(30);

/// Makes the call in every session at the same moment.
fn at_once(
    clients: Vec<Client>,
    call: impl Fn(&mut Client) -> Result<VaultKey, postgres::Error> + Sync,
) -> Vec<Result<VaultKey, postgres::Error>> {
    let barrier = Barrier::new(clients.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                let (barrier, call) = (&barrier, &call);
                scope.spawn(move || {
                    barrier.wait();
                    call(&mut client)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn sessions(db: &Db, user: &str, count: usize) -> Vec<Client> {
    (0..count).map(|_| db.app_for(user)).collect()
}

/// Waits until some session of this database waits for a lock.
fn wait_for_a_blocked_session(db: &Db) {
    eventually(SOON, "a session waits for a lock", || {
        db.value::<i64>(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        ) > 0
    });
}

#[test]
fn forty_first_calls_at_once_get_one_key_and_no_error() {
    let db = shared_db();
    let results = at_once(sessions(&db, "alice", 40), init);
    let keys: Vec<_> = results.into_iter().map(Result::unwrap).collect();
    assert!(keys.iter().all(|key| *key == keys[0]));
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), keys[0]);
    let rows = db.audit_of("alice");
    assert_eq!(rows.len(), 41);
    assert_eq!(rows.iter().filter(|row| row.status == 201).count(), 1);
    assert_eq!(rows.iter().filter(|row| row.action == "init" && row.status == 200).count(), 39);
}

#[test]
fn first_calls_of_init_and_rotate_at_once_lose_no_key() {
    let db = shared_db();
    let number = std::sync::atomic::AtomicUsize::new(0);
    let results = at_once(sessions(&db, "alice", 20), |client| {
        if number.fetch_add(1, std::sync::atomic::Ordering::Relaxed).is_multiple_of(2) {
            init(client)
        } else {
            rotate(client)
        }
    });
    let keys: Vec<_> = results.into_iter().map(Result::unwrap).collect();
    let last = keys.iter().max_by_key(|key| key.key_version).unwrap();
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), *last);
    for key in &keys {
        let same = keys.iter().filter(|other| other.key_version == key.key_version);
        assert!(same.map(|other| &other.master_key).all(|mk| *mk == key.master_key));
    }
    assert_eq!(db.audit_of("alice").iter().filter(|row| row.status == 201).count(), 1);
}

#[test]
fn concurrent_rotates_each_return_the_key_they_stored() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    let results = at_once(sessions(&db, "alice", 20), rotate);
    let mut keys: Vec<_> = results.into_iter().map(Result::unwrap).collect();
    keys.sort_by_key(|key| key.key_version);
    let versions: Vec<_> = keys.iter().map(|key| key.key_version).collect();
    assert_eq!(versions, (2..=21).collect::<Vec<_>>());
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), keys[19]);
    let mut distinct: Vec<_> = keys.iter().map(|key| &key.master_key).collect();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 20);
    let rotations = db.audit_of("alice").into_iter().filter(|row| row.action == "rotate");
    assert_eq!(rotations.filter(|row| row.status == 200).count(), 20);
}

#[test]
fn concurrent_rotates_in_transactions_see_their_own_key_until_commit() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    let results = at_once(sessions(&db, "alice", 8), |client| {
        client.batch_execute("BEGIN")?;
        let key = rotate(client)?;
        assert_eq!(fetch(client)?, key);
        client.batch_execute("COMMIT")?;
        Ok(key)
    });
    let versions: Vec<_> = results.into_iter().map(|key| key.unwrap().key_version).collect();
    assert_eq!(versions.iter().max(), Some(&9));
}

#[test]
fn a_rotate_waits_for_the_other_and_continues_from_its_key() {
    for (end, version) in [("COMMIT", 3), ("ROLLBACK", 2)] {
        let db = shared_db();
        let mut first = db.app_for("alice");
        let mut second = db.app_for("alice");
        init(&mut first).unwrap();
        first.batch_execute("BEGIN").unwrap();
        rotate(&mut first).unwrap();
        let waiting = std::thread::spawn(move || rotate(&mut second));
        wait_for_a_blocked_session(&db);
        first.batch_execute(end).unwrap();
        let key = without_deadlock(SOON, "the second rotate", || waiting.join().unwrap()).unwrap();
        assert_eq!(key.key_version, version, "{end}");
        assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
    }
}

#[test]
fn an_init_waits_for_the_other_and_gives_its_key_or_a_new_one() {
    for end in ["COMMIT", "ROLLBACK"] {
        let db = shared_db();
        let mut first = db.app_for("alice");
        let mut second = db.app_for("alice");
        first.batch_execute("BEGIN").unwrap();
        let theirs = init(&mut first).unwrap();
        let waiting = std::thread::spawn(move || init(&mut second));
        wait_for_a_blocked_session(&db);
        first.batch_execute(end).unwrap();
        let key = without_deadlock(SOON, "the second init", || waiting.join().unwrap()).unwrap();
        assert_eq!(key == theirs, end == "COMMIT");
        assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
    }
}

#[test]
fn a_fetch_never_waits_for_a_rotate() {
    let db = shared_db();
    let mut rotating = db.app_for("alice");
    let key = init(&mut rotating).unwrap();
    rotating.batch_execute("BEGIN").unwrap();
    rotate(&mut rotating).unwrap();
    let mut reader = db.app_for("alice");
    let seen = without_deadlock(SOON, "a fetch during a rotate", move || fetch(&mut reader));
    assert_eq!(seen.unwrap(), key);
    rotating.batch_execute("COMMIT").unwrap();
}

#[test]
fn a_rotate_after_another_s_commit_is_a_clean_serialization_failure() {
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let db = shared_db();
        let mut late = db.app_for("alice");
        init(&mut late).unwrap();
        late.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; SELECT FROM pg_class LIMIT 1")).unwrap();
        let winner = rotate(&mut db.app_for("alice")).unwrap();
        expect_error(rotate(&mut late), "40001");
        late.batch_execute("ROLLBACK").unwrap();
        assert_eq!(fetch(&mut late).unwrap(), winner);
        let rows = db.audit_of("alice");
        assert_eq!(rows.len(), 4, "init, rotate, the failed rotate, fetch: {rows:?}");
        assert_eq!(rows[2].action, "failed_rotate");
        assert!(rows[2].status >= 400, "{:?}", rows[2]);
        assert_eq!(rotate(&mut late).unwrap().key_version, 3, "a retry works");
    }
}

#[test]
fn an_init_after_another_s_commit_is_a_clean_serialization_failure() {
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        for call in [init as fn(&mut Client) -> _, rotate] {
            let db = shared_db();
            let mut late = db.app_for("alice");
            late.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; SELECT FROM pg_class LIMIT 1")).unwrap();
            let winner = init(&mut db.app_for("alice")).unwrap();
            expect_error(call(&mut late), "40001");
            late.batch_execute("ROLLBACK").unwrap();
            assert_eq!(init(&mut late).unwrap(), winner);
        }
    }
}

#[test]
fn serializable_sessions_of_different_users_do_not_disturb_each_other() {
    let db = shared_db();
    let clients = (0..10).map(|i| db.app_for(&format!("user-{i}"))).collect();
    let results = at_once(clients, |client| {
        // Predicate locks on a small table may conflict falsely, so the client has to retry.
        for _ in 0..100 {
            client.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE")?;
            let done =
                init(client).and_then(|_| rotate(client)).and_then(|key| client.batch_execute("COMMIT").map(|()| key));
            match done {
                Err(error) if error.code().is_some_and(|code| code.code() == "40001") => {
                    client.batch_execute("ROLLBACK")?;
                }
                done => return done,
            }
        }
        panic!("no success in 100 attempts");
    });
    for (i, key) in results.into_iter().enumerate() {
        let stored = fetch(&mut db.app_for(&format!("user-{i}"))).unwrap();
        assert_eq!(key.unwrap(), stored);
    }
}

#[test]
fn a_wait_that_times_out_changes_nothing_and_is_audited() {
    let db = shared_db();
    let mut holder = db.app_for("alice");
    let key = init(&mut holder).unwrap();
    holder.batch_execute("BEGIN").unwrap();
    rotate(&mut holder).unwrap();
    let mut waiter = db.app_for("alice");
    for (setting, code) in [("lock_timeout", "55P03"), ("statement_timeout", "57014")] {
        waiter.batch_execute(&format!("SET {setting} = '300ms'")).unwrap();
        expect_error(rotate(&mut waiter), code);
        waiter.batch_execute(&format!("RESET {setting}")).unwrap();
        eventually(SOON, "the failed call has its row", || {
            let rows = db.audit_of("alice");
            rows.last().is_some_and(|row| row.action == "failed_rotate" && row.status >= 400)
        });
        let failures = db.audit_of("alice").into_iter().filter(|row| row.action == "failed_rotate");
        assert_eq!(failures.count(), if code == "55P03" { 1 } else { 2 });
    }
    holder.batch_execute("ROLLBACK").unwrap();
    assert_eq!(fetch(&mut waiter).unwrap(), key);
}
