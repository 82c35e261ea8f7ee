//! Rewraps that are interrupted at every batch boundary and inside batches. Committed batches stay, the next run does
//! the rest, and meanwhile a reader keeps opening every vault.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Cluster, Db, Stop, VaultKey, eventually, fetch, kek, keyring_line, kill9, set_user};
use crate::keyring::{cluster, rewrap, switch, write};
use crate::ledger::{Call, Ledger};
use crate::rewrap::{
    self, assert_all_rewrapped, block_rewrap_at, remove_block, run_rows, user_ids, wait_until_blocked,
};

const SOON: Duration = Duration::from_secs(60);
const BATCH: i32 = 4;

/// Reads all vaults over and over while `work` runs. The reader may lose its connection, because the server may go
/// down, but every call that succeeds must return the right key.
fn while_a_reader_runs<T>(
    cluster: &Cluster,
    users: &[String],
    keys: &[VaultKey],
    work: impl FnOnce(&dyn Fn()) -> T,
) -> T {
    let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    let read = || {
        let mut client = None;
        while !stop.load(Ordering::SeqCst) {
            let Some(app) = client.as_mut() else {
                client = cluster.try_conn("wire_app", "d").ok();
                continue;
            };
            for (user, key) in users.iter().zip(keys) {
                let set = "SELECT set_config('app.current_user_id', $1, false)";
                let answer = postgres::Client::execute(app, set, &[user]).and_then(|_| fetch(app));
                match answer {
                    Ok(found) => assert_eq!(found.master_key, key.master_key, "{user}"),
                    // The session ended in a shutdown, a restart or a crash. Any other error means that a vault did not
                    // open.
                    Err(error) if error.code().is_none_or(|code| code.code().starts_with("57P")) => {
                        client = None;
                        break;
                    }
                    Err(error) => panic!("{user}: {error:?}"),
                }
            }
            if client.is_some() {
                rounds.fetch_add(1, Ordering::SeqCst);
            }
        }
    };
    std::thread::scope(|scope| {
        let reader = scope.spawn(read);
        let wait_for_a_round = || {
            // The current round began earlier, but the second one from now begins after this point.
            let before = rounds.load(Ordering::SeqCst);
            eventually(SOON, "the reader reads everything", || {
                rounds.load(Ordering::SeqCst) >= before + 2 || reader.is_finished()
            });
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&wait_for_a_round)));
        stop.store(true, Ordering::SeqCst);
        reader.join().expect("the reader got every key all the time");
        result.unwrap_or_else(|cause| std::panic::resume_unwind(cause))
    })
}

/// The number of vaults under the new KEK.
fn vaults_under_k2(db: &Db) -> i64 {
    db.value("SELECT count(*) FROM vault_ext.encryption_vaults WHERE kek_id = 'k2'")
}

/// The users at whose rows a run is stopped, each with the number of vaults committed by then. The first row of a batch
/// is the batch boundary: only the previous batches are done.
fn stop_points() -> Vec<(usize, i64)> {
    (0..12).map(|user| (user, i64::from(BATCH) * (user as i64 / i64::from(BATCH)))).collect()
}

/// How a run is stopped there: while SQL does the batch, or past the executor.
fn way(place: usize) -> rewrap::Stop {
    if place.is_multiple_of(2) { rewrap::Stop::Trigger } else { rewrap::Stop::Check }
}

/// Creates a vault for each user.
fn mint_vaults(db: &Db, users: &[String]) -> (Ledger, Vec<VaultKey>) {
    let (mut ledger, mut app) = (Ledger::default(), db.app());
    let keys = users.iter().map(|user| ledger.call(&mut app, user, Call::Init).unwrap()).collect();
    (ledger, keys)
}

/// Stops a run at each stop point with `end`, and lets another run finish it.
fn check_interrupted_runs(cluster: &Cluster, how: &str, end: impl Fn(&Db, i32)) {
    let db = cluster.database("d");
    let users = user_ids(12);
    let (ledger, keys) = mint_vaults(&db, &users);
    switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    while_a_reader_runs(cluster, &users, &keys, |wait_for_a_round| {
        for (place, committed) in stop_points() {
            // Put all vaults back under the old KEK.
            switch(&db, &[("k1", 1), ("k2", 2)]).unwrap();
            rewrap(&db, 100).unwrap();
            switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
            let holder = block_rewrap_at(&db, &users[place], way(place));
            std::thread::scope(|scope| {
                let run = scope.spawn(|| rewrap(&db, BATCH));
                let pid = wait_until_blocked(&db);
                wait_for_a_round();
                end(&db, pid);
                assert!(run.join().unwrap().is_err(), "stopped at {place}");
            });
            drop(holder);
            eventually(SOON, "the server answers", || cluster.try_conn("postgres", "d").is_ok());
            remove_block(&db);
            assert_eq!(vaults_under_k2(&db), committed, "stopped at {place}");
            wait_for_a_round();
            assert_eq!(rewrap(&db, BATCH).unwrap(), (12 - committed, 0, 0), "stopped at {place}");
            assert_all_rewrapped(&db, &users, &keys, "k2");
        }
    });
    ledger.end_checks(&db, &format!("rewrap, {how} in the middle, finished by the next run"), stop_points().len());
}

#[test]
fn a_cancelled_run_is_finished_by_the_next() {
    let cluster = cluster(&[("k1", 1)]);
    check_interrupted_runs(&cluster, "cancelled", |db, pid| {
        db.force(&format!("SELECT pg_cancel_backend({pid})"));
    });
    let db = cluster.existing_database("d");
    let stopped: Vec<_> = run_rows(&db).into_iter().filter(|run| run.contains("stopped")).collect();
    assert_eq!(stopped.len(), 12, "{stopped:?}");
    assert_eq!(stopped[5], "rewrap 500 stopped by error-57014: 4 done, 0 skipped, 0 failed");
    let states: i64 = db.value("SELECT count(*) FROM vault_ext.rewrap_progress WHERE state = 'stopped'");
    assert_eq!(states, 12);
}

#[test]
fn a_terminated_run_is_finished_by_the_next() {
    let cluster = cluster(&[("k1", 1)]);
    check_interrupted_runs(&cluster, "terminated", |db, pid| {
        db.force(&format!("SELECT pg_terminate_backend({pid})"));
    });
    let db = cluster.existing_database("d");
    let states: i64 = db.value("SELECT count(*) FROM vault_ext.rewrap_progress WHERE state = 'interrupted'");
    assert_eq!(states, 12);
}

#[test]
fn a_run_whose_backend_is_killed_is_finished_by_the_next() {
    let cluster = cluster(&[("k1", 1)]);
    check_interrupted_runs(&cluster, "kill -9 of its backend", |db, pid| {
        kill9(pid);
        // The crash ends every session. Wait until this one is certainly gone.
        eventually(SOON, "the server has recovered", || {
            db.cluster.try_conn("postgres", "d").is_ok_and(|mut client| {
                client
                    .query_one("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", &[&pid])
                    .is_ok_and(|row| row.get::<_, i64>(0) == 0)
            })
        });
    });
}

/// Ends the server in the middle of a run by sending that signal to the postmaster, at every third stop point.
fn check_runs_that_end_with_the_server(how: &str, signal: Signal) {
    let mut cluster = Cluster::builder().keyring(&keyring_line("k1", &kek(1))).conf("max_connections = 50").start();
    let users = user_ids(12);
    let (ledger, keys) = mint_vaults(&cluster.database("d"), &users);
    let places: Vec<_> = stop_points().into_iter().step_by(3).collect();
    for (place, committed) in &places {
        let db = cluster.existing_database("d");
        switch(&db, &[("k1", 1), ("k2", 2)]).unwrap();
        rewrap(&db, 100).unwrap();
        switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
        let holder = block_rewrap_at(&db, &users[*place], way(*place));
        while_a_reader_runs(&cluster, &users, &keys, |wait_for_a_round| {
            let run = std::thread::scope(|scope| {
                let run = scope.spawn(|| rewrap(&db, BATCH));
                wait_until_blocked(&db);
                wait_for_a_round();
                let processes = cluster.processes();
                cluster.signal_postmaster(signal);
                if signal == Signal::KILL {
                    processes.iter().chain(&cluster.processes()).for_each(|pid| kill9(*pid));
                }
                run.join().unwrap()
            });
            assert!(run.is_err(), "stopped at {place}");
        });
        drop((holder, db));
        match signal {
            Signal::INT => cluster.stop(Stop::Fast),
            Signal::QUIT => cluster.stop(Stop::Immediate),
            _ => cluster.crash(),
        }
        cluster.start();
        let db = cluster.existing_database("d");
        remove_block(&db);
        assert_eq!(vaults_under_k2(&db), *committed, "stopped at {place}");
        let mut app = db.app();
        for (user, key) in users.iter().zip(&keys) {
            set_user(&mut app, user);
            assert_eq!(fetch(&mut app).unwrap().master_key, key.master_key);
        }
        drop(app);
        assert_eq!(rewrap(&db, BATCH).unwrap(), (12 - committed, 0, 0), "stopped at {place}");
        assert_all_rewrapped(&db, &users, &keys, "k2");
        write(&cluster, &crate::keyring::keyring(&[("k2", 2), ("k1", 1)]));
    }
    let scenario = format!("rewrap, {how} in the middle, finished by the next run");
    ledger.end_checks(&cluster.existing_database("d"), &scenario, places.len());
}

#[test]
fn a_run_whose_server_is_killed_is_finished_by_the_next() {
    check_runs_that_end_with_the_server("kill -9 of every process of the server", Signal::KILL);
}

#[test]
fn a_run_whose_server_is_restarted_is_finished_by_the_next() {
    check_runs_that_end_with_the_server("fast restart", Signal::INT);
}

#[test]
fn a_run_whose_server_is_shut_down_immediately_is_finished_by_the_next() {
    check_runs_that_end_with_the_server("immediate shutdown", Signal::QUIT);
}
