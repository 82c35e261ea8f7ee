//! The commands of docs/start and docs/how-to that need nothing but a server, as they stand there. scripts/test-deb and scripts/test-examples run the others.

use crate::documented::{commands, sql_blocks};
use crate::extension_upgrade::{CURRENT, database_at_version, released, server, sql_version};
use crate::harness::{Cluster, bindir, fetch, init, scratch_dir, server_command, succeed};

#[test]
fn the_documented_backup_restores_with_every_key() {
    let commands = commands(include_str!("../../docs/how-to/backup.md"));
    let cluster = server();
    let db = cluster.database("app");
    let users = ["alice", "bob", "carol"];
    let keys = users.map(|user| init(&mut db.app_for(user)).unwrap().master_key);
    let dir = scratch_dir();
    crate::harness::chown_to_server(&dir);
    let mut bash = server_command("/bin/bash", &dir);
    bash.args(["-euo", "pipefail", "-c", &commands]).env("PATH", format!("{}:/usr/bin:/bin", bindir().display()));
    bash.env("PGHOST", cluster.dir()).env("PGPORT", cluster.port().to_string()).env("PGUSER", "postgres");
    let printed = succeed(&mut bash);
    assert!(printed.contains("| opens   |      3 |") && printed.contains("(1 row)"), "{printed}");
    let restored = cluster.existing_database("restored");
    assert_eq!(users.map(|user| fetch(&mut restored.app_for(user)).unwrap().master_key), keys);
}

#[test]
fn the_documented_update_works_from_every_release() {
    let blocks = sql_blocks(&include_str!("../../docs/how-to/upgrade.md").replace("\n   ", "\n"));
    let [(_, sql)] = &blocks[..] else { panic!("one block of SQL: {blocks:?}") };
    let cluster = server();
    for version in released() {
        let db = database_at_version(&cluster, &version, &version);
        db.force(sql);
        assert_eq!(sql_version(&db), CURRENT);
    }
}

#[test]
fn the_auditor_s_question_is_answered_by_the_documented_query() {
    let page = include_str!("../../docs/start/auditors.md");
    let queries: Vec<_> =
        page.split('`').filter(|code| code.starts_with("SELECT ") && code.contains(" FROM ")).collect();
    assert_eq!(queries.len(), 2, "{queries:?}");
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.database("app");
    init(&mut db.app_for("alice")).unwrap();
    let mut auditor = db.conn("wire_auditor");
    for query in queries {
        // The month of the example is not the month of the test.
        let query = query.replace("2031-05-01", "-infinity").replace("2031-06-01", "infinity");
        let rows = auditor.query(&query, &[]).unwrap_or_else(|e| panic!("{query}: {e:?}"));
        assert_eq!(rows.len(), usize::from(query.contains("'alice'")), "{query}");
    }
}
