//! Upgrades to another major version: `make test-upgrade PG=15 NEW=18`. VAULT_EXT_NEW_PG_CONFIG names its installation.

use std::path::Path;
use std::process::Command;

use crate::backup::some_vaults;
use crate::extension_upgrade::{database_at_version, released, sql_version};
use crate::golden::objects;
use crate::harness::{Builder, Cluster, Stop, bindir, bindir_of, scratch_dir, server_command, succeed};

fn new_major() -> Builder {
    Cluster::builder().bindir(&bindir_of("VAULT_EXT_NEW_PG_CONFIG")).with_wire_kek().without_fsync()
}

fn old_major() -> Builder {
    Cluster::builder().with_wire_kek().without_fsync()
}

/// The newest minor releases store a version with each column. A slightly older pg_upgrade of the new major refuses any
/// table that has one. Databases created by earlier releases have no column versions, so this statement removes them.
const WITHOUT_COLUMN_VERSIONS: &str = "
    SET allow_system_table_mods = on;
    UPDATE pg_attribute SET attoptions = NULL WHERE attrelid >= 16384 AND attoptions::text LIKE '{pg_attver=%'";

fn version(bindir: &Path) -> String {
    let text = succeed(server_command(bindir.join("postgres"), Path::new("/")).arg("--version"));
    text.split_whitespace().nth(2).expect("a version").to_owned()
}

fn versions_text() -> String {
    format!("{} to {}", version(bindir()), version(&bindir_of("VAULT_EXT_NEW_PG_CONFIG")))
}

/// The errors in pg_upgrade's logs.
fn pg_upgrade_errors(data: &Path) -> String {
    let logs =
        Command::new("grep").args(["-rihE", "error|fatal|detail"]).arg(data.join("pg_upgrade_output.d")).output();
    String::from_utf8_lossy(&logs.expect("grep starts").stdout).into_owned()
}

/// Upgrades the old server's data and returns the server of the new major, not started.
fn pg_upgraded(old: &Cluster, link: bool) -> Cluster {
    let new = new_major().prepare();
    let dir = scratch_dir();
    let mut pg_upgrade = server_command(bindir_of("VAULT_EXT_NEW_PG_CONFIG").join("pg_upgrade"), &dir);
    pg_upgrade.args(["-U", "postgres", "-b"]).arg(bindir()).arg("-B").arg(bindir_of("VAULT_EXT_NEW_PG_CONFIG"));
    pg_upgrade.arg("-d").arg(old.data()).arg("-D").arg(new.data()).arg("-s").arg(&dir);
    if link {
        pg_upgrade.arg("--link");
    }
    let output = pg_upgrade.output().expect("pg_upgrade starts");
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stdout), pg_upgrade_errors(&new.data()));
    new
}

fn upgrade(link: bool) {
    let mut old = old_major().start();
    let ledger = {
        let db = old.database("d");
        let ledger = some_vaults(&db);
        db.force(WITHOUT_COLUMN_VERSIONS);
        old.superuser("postgres").batch_execute("CREATE DATABASE other TEMPLATE d").unwrap();
        ledger
    };
    old.stop(Stop::Fast);
    let mut new = pg_upgraded(&old, link);
    new.start();
    let how = if link { "--link" } else { "--copy" };
    for name in ["d", "other"] {
        ledger.end_checks(&new.existing_database(name), &format!("pg_upgrade {how}, {}", versions_text()), 1);
    }
    if !link {
        old.start();
        ledger.end_checks(
            &old.existing_database("d"),
            &format!("the old server after pg_upgrade {how}, {}", versions_text()),
            1,
        );
    }
}

#[test]
fn pg_upgrade_by_copy() {
    upgrade(false);
}

#[test]
fn pg_upgrade_by_link() {
    upgrade(true);
}

/// pg_upgrade keeps the version of the extension's SQL, whatever default version the new server has.
#[test]
fn pg_upgrade_keeps_an_older_extension_version_that_can_be_upgraded_later() {
    for version in released() {
        let mut old = old_major().start();
        let ledger = {
            let db = database_at_version(&old, &version, "d");
            let ledger = some_vaults(&db);
            db.force(WITHOUT_COLUMN_VERSIONS);
            ledger
        };
        old.stop(Stop::Fast);
        let mut new = pg_upgraded(&old, false);
        new.start();
        let db = new.existing_database("d");
        assert_eq!(sql_version(&db), version);
        ledger.end_checks(&db, &format!("pg_upgrade with the SQL of {version}, {}", versions_text()), 1);
        db.force("ALTER EXTENSION vault_ext UPDATE");
        let fresh = objects(&new.database_installed_by("fresh", "CREATE EXTENSION vault_ext"));
        assert_eq!(objects(&db), fresh);
        ledger.end_checks(&db, &format!("pg_upgrade with the SQL of {version}, upgraded then, {}", versions_text()), 1);
    }
}

#[test]
fn a_dump_restores_into_the_new_major() {
    let (old, new) = (old_major().start(), new_major().start());
    let db = old.database("d");
    let ledger = some_vaults(&db);
    // PostgreSQL's manual recommends the new major's pg_dump. The old one must work too.
    for (name, bindir) in [("new", bindir_of("VAULT_EXT_NEW_PG_CONFIG")), ("old", bindir().to_owned())] {
        let file = scratch_dir().join("dump");
        let port = old.port().to_string();
        succeed(
            server_command(bindir.join("pg_dump"), old.dir())
                .arg("-h")
                .arg(old.dir())
                .args(["-p", &port, "-U", "postgres", "-F", "custom", "-f"])
                .arg(&file)
                .arg("d"),
        );
        let copy = new.empty_database(&format!("from_{name}"));
        succeed(new.program("pg_restore", "postgres").args(["--exit-on-error", "-d", &copy.name]).arg(&file));
        copy.make_logins();
        assert_eq!(copy.audit(), db.audit());
        ledger.end_checks(&copy, &format!("pg_dump of the {name} major, {}", versions_text()), 1);
    }
    ledger.end_checks(&db, &format!("the old server of the dumps, {}", versions_text()), 1);
}
