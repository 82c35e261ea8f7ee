//! Dumps that are restored where the extension has another version.

use crate::backup::{dump, restore, some_vaults};
use crate::catalog::{assert_same, facts};
use crate::extension_upgrade::{CURRENT, FRESH, UPDATE, database_at_version, released, server};

#[test]
fn a_dump_of_an_older_version_restores_into_the_objects_of_this_one() {
    let cluster = server();
    let fresh = facts(&cluster.database_installed_by("fresh", FRESH));
    for version in released() {
        let db = database_at_version(&cluster, &version, &version);
        let ledger = some_vaults(&db);
        for format in ["plain", "custom"] {
            let file = dump(&db, format, &[], &ledger);
            let copy = cluster.empty_database(&format!("{version} {format}"));
            restore(&copy, format, &file);
            assert_eq!(copy.audit(), db.audit());
            assert_same(&fresh, &facts(&copy));
            ledger.end_checks(&copy, &format!("pg_dump, {format}, of {version} into {CURRENT}"), 1);
        }
    }
}

#[test]
fn a_dump_of_an_upgraded_database_restores_into_the_same_objects() {
    let cluster = server();
    for version in released() {
        let db = database_at_version(&cluster, &version, &version);
        let ledger = some_vaults(&db);
        db.force(UPDATE);
        let file = dump(&db, "plain", &[], &ledger);
        let copy = cluster.empty_database(&format!("{version} copy"));
        restore(&copy, "plain", &file);
        assert_same(&facts(&db), &facts(&copy));
        ledger.end_checks(&copy, &format!("pg_dump of a database that came from {version}"), 1);
    }
}

/// A server with the older package would create the older objects. Here the test creates them before the restore. The older trail lacks
/// columns: the restore stops at the first error, loads no row of the trail, and succeeds after the upgrade.
#[test]
fn a_dump_of_this_version_restores_into_an_older_one_once_it_is_upgraded() {
    let cluster = server();
    let db = cluster.database_installed_by("d", FRESH);
    let ledger = some_vaults(&db);
    for version in released() {
        let file = dump(&db, "custom", &[], &ledger);
        let copy = database_at_version(&cluster, &version, &version);
        let mut pg_restore = cluster.program("pg_restore", "postgres");
        let refused = pg_restore.args(["--exit-on-error", "-d", &copy.name]).arg(&file).output().unwrap();
        assert!(!refused.status.success() && copy.audit().is_empty(), "{version}");
        copy.force(UPDATE);
        restore(&copy, "custom", &file);
        assert_eq!(copy.audit(), db.audit());
        ledger.end_checks(&copy, &format!("pg_dump of {CURRENT} into {version} that was upgraded first"), 1);
    }
}
