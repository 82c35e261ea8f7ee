//! A full disk: no key is released without a row, and everything works again once there is space.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use crate::harness::{Cluster, SmallFileSystem, eventually, succeed};
use crate::ledger::{Call, Ledger};
use crate::load::Load;

const SOON: Duration = Duration::from_secs(60);

#[test]
fn no_room_for_data_releases_nothing_and_recovers() {
    let disk = SmallFileSystem::new(40);
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    cluster
        .superuser("postgres")
        .batch_execute(&format!("CREATE TABLESPACE small LOCATION '{}'", disk.dir().display()))
        .unwrap();
    cluster.superuser("postgres").batch_execute("ALTER DATABASE template1 SET TABLESPACE small").unwrap();
    let db = cluster.database("d");
    let mut ledger = Ledger::default();
    let mut app = db.app();
    ledger.call(&mut app, "alice", Call::Init).unwrap();
    disk.fill();
    // The pages that the tables already have can still be written.
    let mut refused = 0;
    for n in 0..20_000 {
        let (user, call) = match n % 3 {
            0 => (format!("user-{n}"), Call::Init),
            1 => ("alice".to_owned(), Call::Rotate),
            _ => ("alice".to_owned(), Call::Fetch),
        };
        if let Err(error) = ledger.call(&mut app, &user, call) {
            let code = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
            assert!(["55000", "53100"].contains(&code.as_str()), "{error:?}");
            refused += 1;
        }
        if refused == 30 {
            break;
        }
    }
    assert_eq!(refused, 30, "the disk was never full");
    disk.make_room();
    ledger.call(&mut app, "alice", Call::Rotate).unwrap();
    ledger.end_checks(&db, "no room left for data", 1);
}

#[test]
fn no_room_for_wal_releases_nothing_and_recovers() {
    let disk = SmallFileSystem::new(60);
    let mut cluster = Cluster::builder()
        .with_wire_kek()
        .without_fsync()
        .conf("max_wal_size = 32MB")
        .conf("min_wal_size = 32MB")
        .prepare();
    // pg_wal is on its own disk, as a DBA would set it up.
    let wal = cluster.data().join("pg_wal");
    let moved = disk.dir().join("pg_wal");
    succeed(Command::new("cp").arg("-a").arg(&wal).arg(&moved));
    fs::remove_dir_all(&wal).unwrap();
    symlink(&moved, &wal).unwrap();
    cluster.start();
    let load = Load::start(&cluster.database("d"), 8);
    load.wait_for_keys(100);
    disk.fill();
    // Each switch needs a new segment. Without space for one, the server stops.
    eventually(SOON, "the server stops for lack of space", || {
        if let Ok(mut superuser) = cluster.try_conn("postgres", "d") {
            let _ = superuser.batch_execute("SELECT pg_switch_wal()");
        }
        cluster.log().contains("No space left on device")
    });
    disk.make_room();
    cluster.crash();
    cluster.start();
    load.wait_for_keys(100);
    load.stop().end_checks(&cluster.existing_database("d"), "no room left for WAL, 8 clients", 1);
}
