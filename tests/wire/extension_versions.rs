//! Library and SQL of different versions: who sees this, and an upgrade with the old library.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use aho_corasick::AhoCorasick;
use postgres::{Client, NoTls};

use crate::backup::some_vaults;
use crate::catalog::{assert_same, facts};
use crate::extension_upgrade::{CURRENT, UPDATE, database_at_version, released, server};
use crate::harness::{Cluster, Db, bindir, expect_error, expect_vault_error, scratch_dir, succeed};

/// The answer of vault_version(): library, SQL, hint.
fn versions(db: &Db) -> (String, String, Option<String>) {
    let row = db.conn("wire_admin").query_one("SELECT library_version, sql_version, hint FROM vault_version()", &[]);
    let row = row.unwrap();
    (row.get(0), row.get(1), row.get(2))
}

#[test]
fn administrators_see_the_versions_and_others_do_not() {
    let cluster = server();
    let db = cluster.database("d");
    assert_eq!(versions(&db), (CURRENT.to_owned(), CURRENT.to_owned(), None));
    for role in ["wire_app", "wire_auditor", "wire_stranger"] {
        expect_error(db.conn(role).execute("SELECT vault_version()", &[]), "42501");
    }
    for (sql, words) in [("0.1.0", "ALTER EXTENSION vault_ext UPDATE"), ("99.0.0", "restart the server")] {
        db.force(&format!("UPDATE pg_extension SET extversion = '{sql}' WHERE extname = 'vault_ext'"));
        let (library, found, hint) = versions(&db);
        assert_eq!((library.as_str(), found.as_str()), (CURRENT, sql));
        assert!(hint.as_ref().is_some_and(|hint| hint.contains(words)), "{hint:?}");
    }
}

/// The warnings that this role gets from a statement.
pub fn warnings_of(role: &str, db: &Db, statement: &str) -> Vec<String> {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let mut config = db.cluster.config(role, &db.name);
    let listener = warnings.clone();
    config.notice_callback(move |notice| listener.lock().unwrap().push(notice.message().to_owned()));
    let mut client: Client = config.connect(NoTls).unwrap();
    client.batch_execute(statement).unwrap();
    drop(client);
    warnings.lock().unwrap().clone()
}

#[test]
fn an_administrator_is_warned_of_a_pending_upgrade() {
    let cluster = server();
    for version in released() {
        let db = database_at_version(&cluster, &version, &version);
        let calls = ["SELECT * FROM vault_kek_status()", "SELECT * FROM vault_check()"];
        for call in calls {
            let warnings = warnings_of("wire_admin", &db, call);
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            for words in [&version, CURRENT, UPDATE] {
                assert!(warnings[0].contains(words), "{warnings:?}");
            }
        }
        db.force(UPDATE);
        for call in calls {
            assert_eq!(warnings_of("wire_admin", &db, call), [""; 0]);
        }
    }
}

/// A folder with a library that lacks the newest function, like an older version.
fn older_library() -> PathBuf {
    let pg_config = bindir().join("pg_config");
    let folder = succeed(Command::new(pg_config).arg("--pkglibdir"));
    let mut library = fs::read(Path::new(folder.trim()).join("vault_ext.so")).expect("the library is readable");
    let (new, none) = (b"vault_health_wrapper", b"vault_healthless_wrap");
    let (new, none) = (&new[..], &none[..new.len()]);
    let search = AhoCorasick::new([new]).expect("a symbol");
    let places: Vec<_> = search.find_iter(&library).map(|found| found.start()).collect();
    assert!(!places.is_empty(), "the library has no symbol to hide");
    for at in places {
        library[at..at + new.len()].copy_from_slice(none);
    }
    let dir = scratch_dir();
    fs::write(dir.join("vault_ext.so"), library).expect("the scratch folder is writable");
    dir
}

#[test]
fn an_update_before_the_restart_is_refused_and_changes_nothing() {
    let path = |dir: &Path| format!("dynamic_library_path = '{}:$libdir'", dir.display());
    let mut cluster = Cluster::builder().with_wire_kek().without_fsync().conf(&path(&older_library())).start();
    for version in released() {
        let ledger = {
            let db = database_at_version(&cluster, &version, &version);
            let ledger = some_vaults(&db);
            let before = facts(&db);
            let refusal = expect_vault_error(db.superuser().batch_execute(UPDATE), "55000");
            assert!(refusal.hint.is_some_and(|hint| hint.contains("Restart the server")));
            assert_same(&before, &facts(&db));
            ledger.end_checks(&db, &format!("ALTER EXTENSION UPDATE from {version} before the restart: refused"), 1);
            ledger
        };
        cluster.configure("dynamic_library_path = '$libdir'");
        cluster.restart();
        let db = cluster.existing_database(&version);
        db.force(UPDATE);
        ledger.end_checks(&db, &format!("ALTER EXTENSION UPDATE from {version} after the restart"), 1);
        drop(db);
        cluster.configure(&path(&older_library()));
        cluster.restart();
    }
}
