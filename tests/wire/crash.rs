//! Processes and servers that die under the load of 32 sessions: no released key is lost, and no row is written twice.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Cluster, Stop, eventually, kill9, rounds, send};
use crate::ledger::{Call, Ledger};
use crate::load::Load;

pub const SESSIONS: usize = 32;
const SOON: Duration = Duration::from_secs(60);

/// The number of keys released between two faults, so that each fault hits a busy server.
const KEYS_BETWEEN_FAULTS: usize = 100;

pub fn cluster() -> Cluster {
    Cluster::builder().with_wire_kek().conf("max_connections = 60").start()
}

/// The server's processes with a matching title. The server itself may be in recovery and cannot tell.
fn processes(cluster: &Cluster, titled: impl Fn(&str) -> bool) -> Vec<i32> {
    let title = |pid: &i32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    cluster.processes().into_iter().filter(|pid| titled(&String::from_utf8_lossy(&title(pid)))).collect()
}

fn writers(cluster: &Cluster) -> Vec<i32> {
    processes(cluster, |title| title.contains("vault_ext audit writer"))
}

/// Injects the fault once a round, and lets the server come back under load.
fn repeat_under_load(scenario: &str, cluster: &mut Cluster, mut fault: impl FnMut(&mut Cluster)) {
    let load = Load::start(&cluster.database("d"), SESSIONS);
    for _ in 0..rounds() {
        load.wait_for_keys(KEYS_BETWEEN_FAULTS);
        fault(cluster);
        eventually(SOON, "the server is back", || cluster.try_conn("postgres", "d").is_ok());
    }
    load.wait_for_keys(KEYS_BETWEEN_FAULTS);
    load.stop().end_checks(&cluster.existing_database("d"), scenario, rounds());
}

/// Kills a backend with SIGKILL while it waits for its audit row.
pub fn kill_a_waiting_backend(cluster: &mut Cluster) {
    eventually(SOON, "a backend waits for its row", || {
        let Ok(mut superuser) = cluster.try_conn("postgres", "d") else { return false };
        let sql = "SELECT pid FROM pg_stat_activity WHERE usename = 'wire_app' AND wait_event IN ('Extension', 'VaultAuditRow') LIMIT 1";
        match superuser.query_opt(sql, &[]) {
            Ok(Some(row)) => {
                kill9(row.get(0));
                true
            }
            _ => false,
        }
    });
}

pub fn kill_the_writer(cluster: &mut Cluster) {
    eventually(SOON, "a writer is killed", || {
        let writers = writers(cluster);
        writers.iter().for_each(|pid| kill9(*pid));
        !writers.is_empty()
    });
}

/// The children notice by themselves. A new server must not start before they are gone.
pub fn kill_the_postmaster(cluster: &mut Cluster) {
    let pid = cluster.postmaster_pid();
    kill9(pid);
    eventually(SOON, "the children have exited", || cluster.processes().iter().all(|child| *child == pid));
    cluster.crash();
    cluster.start();
}

pub fn kill_everything(cluster: &mut Cluster) {
    cluster.crash();
    cluster.start();
}

pub fn shut_down_immediately(cluster: &mut Cluster) {
    cluster.stop(Stop::Immediate);
    cluster.start();
}

#[test]
fn kill_9_of_a_waiting_backend() {
    repeat_under_load(
        "kill -9 of a backend that waits for its audit row, 32 clients",
        &mut cluster(),
        kill_a_waiting_backend,
    );
}

#[test]
fn kill_9_of_the_writer() {
    repeat_under_load("kill -9 of the audit writer, 32 clients", &mut cluster(), kill_the_writer);
}

#[test]
fn kill_9_of_the_postmaster_alone() {
    repeat_under_load("kill -9 of the postmaster alone, 32 clients", &mut cluster(), kill_the_postmaster);
}

#[test]
fn kill_9_of_every_process() {
    repeat_under_load("kill -9 of every process of the server, 32 clients", &mut cluster(), kill_everything);
}

#[test]
fn an_immediate_shutdown() {
    repeat_under_load("immediate shutdown, 32 clients", &mut cluster(), shut_down_immediately);
}

#[test]
fn a_fast_restart() {
    repeat_under_load("fast restart, 32 clients", &mut cluster(), Cluster::restart);
}

/// As long as calls wait in that test, and as long again.
const BEYOND_TIMEOUT: Duration = Duration::from_millis(600);

#[test]
fn a_writer_that_is_stopped_for_a_while() {
    let mut cluster = Cluster::builder().with_wire_kek().conf("vault_ext.audit_timeout = 300").start();
    repeat_under_load("SIGSTOP of the writer beyond audit_timeout, 32 clients", &mut cluster, |cluster| {
        let mut superuser = cluster.superuser("d");
        let mut failures =
            || superuser.query_one("SELECT failures FROM vault_ext.audit_stats", &[]).unwrap().get::<_, i64>(0);
        let before = failures();
        // A writer that is stopped with one of the server's own short locks in hand can stop every other process at once, even the one
        // that would count failures. So it goes on before they are counted, and is stopped again where there are none.
        eventually(SOON, "calls have failed", || {
            let writers = writers(cluster);
            writers.iter().for_each(|pid| send(*pid, Signal::STOP));
            std::thread::sleep(BEYOND_TIMEOUT);
            writers.iter().for_each(|pid| send(*pid, Signal::CONT));
            failures() > before
        });
    });
}

/// A session that commits asynchronously for speed must not lose a key that it has received.
#[test]
fn a_key_of_a_session_that_commits_asynchronously_survives_a_crash() {
    let mut cluster = Cluster::builder().with_wire_kek().conf("wal_writer_delay = 10s").start();
    let mut ledger = Ledger::default();
    cluster.database("d");
    for _ in 0..rounds() {
        for call in [Call::Init, Call::Rotate] {
            let mut app = cluster.existing_database("d").app();
            app.batch_execute("SET synchronous_commit = off").unwrap();
            ledger.call(&mut app, "alice", call).unwrap();
            cluster.crash();
            cluster.start();
            let key = ledger.call(&mut cluster.existing_database("d").app(), "alice", Call::Fetch).unwrap();
            assert_eq!(&key, ledger.key("alice"));
        }
    }
    let scenario = "kill -9 of every process right after a change, SET synchronous_commit = off";
    ledger.end_checks(&cluster.existing_database("d"), scenario, 2 * rounds());
}
