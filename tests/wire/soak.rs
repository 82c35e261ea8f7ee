//! Storms for a given time: make soak MINUTES=30.

use std::time::{Duration, Instant};

use crate::crash::{
    SESSIONS, cluster, kill_a_waiting_backend, kill_everything, kill_the_postmaster, kill_the_writer,
    shut_down_immediately,
};
use crate::harness::{Cluster, eventually};
use crate::load::Load;

const SOON: Duration = Duration::from_secs(60);
/// After this time, the ledger is checked and a new one begins.
const CHAPTER: Duration = Duration::from_secs(60);

type Blow = fn(&mut Cluster);

const BLOWS: [(&str, Blow); 8] = [
    ("kill -9 of a waiting backend", kill_a_waiting_backend),
    ("kill -9 of the writer", kill_the_writer),
    ("kill -9 of the postmaster", kill_the_postmaster),
    ("kill -9 of everything", kill_everything),
    ("immediate shutdown", shut_down_immediately),
    ("fast restart", Cluster::restart),
    ("termination of every session and the writer", |cluster| signal_all(cluster, "pg_terminate_backend")),
    ("cancel of every session and the writer", |cluster| signal_all(cluster, "pg_cancel_backend")),
];

fn signal_all(cluster: &mut Cluster, how: &str) {
    let sql = format!("SELECT {how}(pid) FROM pg_stat_activity WHERE datname = 'd' AND pid <> pg_backend_pid()");
    cluster.superuser("d").batch_execute(&sql).expect("the signals are sent");
}

#[test]
#[ignore = "runs for a given time: make soak MINUTES=30"]
fn storms() {
    let minutes: u64 = std::env::var("VAULT_EXT_SOAK_MINUTES")
        .expect("VAULT_EXT_SOAK_MINUTES says how long to run")
        .parse()
        .expect("VAULT_EXT_SOAK_MINUTES is a number");
    let end = Instant::now() + Duration::from_secs(minutes * 60);
    let mut cluster = cluster();
    let mut struck = [0; BLOWS.len()];
    let (mut released, mut failed) = (0, 0);
    let mut n = 0;
    while Instant::now() < end {
        let load = Load::start(&cluster.database("d"), SESSIONS);
        let chapter = (Instant::now() + CHAPTER).min(end);
        let mut blows = 0;
        while Instant::now() < chapter {
            load.wait_for_keys(100);
            (BLOWS[n % BLOWS.len()].1)(&mut cluster);
            struck[n % BLOWS.len()] += 1;
            n += 1;
            blows += 1;
            eventually(SOON, "the server is back", || cluster.try_conn("postgres", "d").is_ok());
        }
        load.wait_for_keys(100);
        let ledger = load.stop();
        released += ledger.released();
        failed += ledger.failed_calls();
        ledger.end_checks(&cluster.existing_database("d"), "soak: all of it in turn, 32 clients", blows);
        eprintln!("{n} blows, {released} keys released, each with its row; {failed} calls failed");
        cluster.superuser("postgres").batch_execute("DROP DATABASE d WITH (FORCE)").expect("the chapter ends");
    }
    for ((name, _), count) in BLOWS.iter().zip(struck) {
        eprintln!("{count} x {name}");
    }
}
