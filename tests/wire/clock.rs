//! The clock is set back while a server runs (with libfaketime). The monotonic clock continues, as on a real machine.

use std::fs;
use std::time::{Duration, SystemTime};

use crate::harness::{Cluster, chown_to_server, eventually, scratch_dir};
use crate::ledger::{Call, Ledger};
use crate::load::Load;

const SOON: Duration = Duration::from_secs(30);

/// The path of libfaketime on Debian, on any processor.
pub fn library() -> String {
    let folders = fs::read_dir("/usr/lib").expect("/usr/lib is readable");
    let mut files = folders.flatten().map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    files.find(|file| file.exists()).expect("libfaketime is missing: install faketime").display().to_string()
}

#[test]
fn a_clock_that_is_set_back_loses_nothing() {
    let clock = scratch_dir().join("clock");
    let set = |offset: &str| {
        fs::write(&clock, offset).unwrap();
        chown_to_server(&clock);
    };
    set("+0");
    let cluster = Cluster::builder()
        .with_wire_kek()
        .without_fsync()
        .env("LD_PRELOAD", &library())
        .env("FAKETIME_TIMESTAMP_FILE", &clock.display().to_string())
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .start();
    let db = cluster.database("d");
    let mut ledger = Ledger::default();
    let mut app = db.app();
    ledger.call(&mut app, "alice", Call::Init).unwrap();
    let load = Load::start(&db, 8);
    load.wait_for_keys(100);
    for offset in ["-2d", "-4d", "+1d", "-1d"] {
        set(offset);
        eventually(SOON, "the server has the new time", || {
            let days: f64 = offset[..2].parse().unwrap();
            let now: SystemTime = db.value("SELECT clock_timestamp()");
            let expected = SystemTime::now() + Duration::from_secs(10 * 86_400);
            let expected = expected - Duration::from_secs_f64((10.0 - days) * 86_400.0);
            now.max(expected).duration_since(now.min(expected)).unwrap() < Duration::from_secs(3600)
        });
        load.wait_for_keys(100);
        // A terminated writer starts again with the new time.
        db.force(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'vault_ext audit writer'",
        );
        load.wait_for_keys(100);
        ledger.call(&mut app, "alice", Call::Rotate).unwrap();
    }
    let mut all = load.stop();
    assert_eq!(all.failed_calls(), 0, "{:?}", all.failures);
    all.merge(ledger);
    all.end_checks(&db, "the clock set back and forth by days, 8 clients", 4);
}
