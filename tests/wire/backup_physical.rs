//! Physical backups: a base backup needs only the keyring to open, and recovery may stop before or after a rotation.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::backup::some_vaults;
use crate::harness::{Cluster, assert_no_secrets_in_files, chown_to_server, eventually, kek, scratch_dir};
use crate::ledger::{Call, Ledger};
use crate::load::Load;

const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_base_backup_under_load_opens_every_key_and_holds_no_kek() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.database("d");
    let ledger = some_vaults(&db);
    let load = Load::start(&db, 8);
    load.wait_for_keys(100);
    let backup = cluster.base_backup(&[]);
    load.wait_for_keys(100);
    load.stop().end_checks(&db, "the server under a base backup, 8 clients", 1);
    assert_no_secrets_in_files(&[&backup], &[kek(1).to_vec()]);
    let copy = Cluster::builder().with_wire_kek().without_fsync().data_from(&backup).start();
    ledger.end_checks(&copy.existing_database("d"), "pg_basebackup under load, restored", 1);
}

/// A server recovered from a base backup and the archive up to this restore point.
fn recover(backup: &Path, archive: &Path, point: &str) -> Cluster {
    let mut cluster = Cluster::builder()
        .with_wire_kek()
        .without_fsync()
        .data_from(backup)
        .conf("archive_mode = off")
        .conf(&format!("restore_command = 'cp {}/%f %p'", archive.display()))
        .conf(&format!("recovery_target_name = '{point}'"))
        .conf("recovery_target_action = promote")
        .prepare();
    let signal = cluster.data().join("recovery.signal");
    fs::write(&signal, "").unwrap();
    chown_to_server(&signal);
    cluster.start();
    eventually(SOON, "recovery ends", || {
        let mut superuser = cluster.superuser("postgres");
        superuser.query_one("SELECT NOT pg_is_in_recovery()", &[]).unwrap().get(0)
    });
    cluster
}

#[test]
fn point_in_time_recovery_gives_the_keys_of_that_moment() {
    let archive = scratch_dir();
    let cluster = Cluster::builder()
        .with_wire_kek()
        .without_fsync()
        .conf("archive_mode = on")
        .conf(&format!("archive_command = 'cp %p {}/%f'", archive.display()))
        .start();
    let db = cluster.database("d");
    let mut ledger = some_vaults(&db);
    let backup = cluster.base_backup(&[]);
    let point = |name: &str| db.force(&format!("SELECT pg_create_restore_point('{name}')"));
    let mut app = db.app();
    let mut expected = Vec::new();
    ledger.call(&mut app, "rotating", Call::Init).unwrap();
    point("before");
    expected.push(("before", ledger.clone()));
    ledger.call(&mut app, "rotating", Call::Rotate).unwrap();
    point("after");
    expected.push(("after", ledger.clone()));
    ledger.call(&mut app, "rotating", Call::Rotate).unwrap();
    point("later");
    expected.push(("later", ledger.clone()));

    let segment: String = db.value("SELECT pg_walfile_name(pg_switch_wal())");
    eventually(SOON, "the WAL is in the archive", || archive.join(&segment).exists());
    for (name, ledger) in expected {
        let recovered = recover(&backup, &archive, name);
        let db = recovered.existing_database("d");
        ledger.end_checks(&db, &format!("point-in-time recovery to {name} a rotation"), 1);
        let mut after: Ledger = ledger;
        after.call(&mut db.app(), "rotating", Call::Rotate).unwrap();
        after.end_checks(&db, &format!("point-in-time recovery to {name} a rotation, rotated again"), 1);
    }
    ledger.end_checks(&db, "the server whose WAL is archived", 1);
}
