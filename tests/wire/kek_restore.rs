//! A dump on another server: with its KEK, every vault opens. With another one, nothing is written and the error says
//! why.

use std::process::{Command, Stdio};

use crate::harness::{Cluster, Db, bindir, expect_vault_error, fetch, init, rotate};
use crate::keyring::{cluster, rewrap, switch};

fn psql_tool(program: &str, db: &Db) -> Command {
    let mut command = Command::new(bindir().join(program));
    command.args(["-h", &db.cluster.dir().display().to_string(), "-p", &db.cluster.port().to_string()]);
    command.args(["-U", "postgres", "-d", &db.name]);
    command
}

/// Copies the database to another server with pg_dump and psql.
fn restored<'c>(from: &Db, to: &'c Cluster) -> Db<'c> {
    // Creating any test database also creates the login roles.
    to.database("roles");
    let db = to.empty_database("restored");
    let mut dump = psql_tool("pg_dump", from).stdout(Stdio::piped()).spawn().expect("pg_dump starts");
    let text = dump.stdout.take().expect("pg_dump's output is piped");
    let restore =
        psql_tool("psql", &db).args(["-X", "-q", "-v", "ON_ERROR_STOP=1"]).stdin(text).output().expect("psql runs");
    assert!(dump.wait().expect("pg_dump ends").success());
    assert!(restore.status.success(), "{}", String::from_utf8_lossy(&restore.stderr));
    db
}

fn outcomes(db: &Db) -> Vec<(String, i64)> {
    let rows = db.conn("wire_admin").query("SELECT outcome, vaults FROM vault_check()", &[]).unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[test]
fn with_its_kek_every_vault_opens() {
    let first = cluster(&[("k1", 1)]);
    let db = first.database("d");
    let key = init(&mut db.app_for("alice")).unwrap();
    let second = cluster(&[("k9", 9), ("k1", 1)]);
    let restored = restored(&db, &second);
    assert_eq!(outcomes(&restored), [("opens".into(), 1)]);
    assert_eq!(fetch(&mut restored.app_for("alice")).unwrap(), key);
    // The vaults can then move to the new server's own KEK.
    assert_eq!(rewrap(&restored, 10).unwrap(), (1, 0, 0));
    switch(&restored, &[("k9", 9)]).unwrap();
    assert_eq!(fetch(&mut restored.app_for("alice")).unwrap().master_key, key.master_key);
}

#[test]
fn with_another_kek_under_its_id_the_kek_is_named_and_nothing_is_written() {
    let first = cluster(&[("k1", 1)]);
    let db = first.database("d");
    init(&mut db.app_for("alice")).unwrap();
    let second = cluster(&[("k1", 2)]);
    let restored = restored(&db, &second);
    let (row, keks) = (restored.vault_row("alice"), "SELECT string_agg(k::text, ',') FROM vault_ext.keks k");
    let before: String = restored.value(keks);
    assert_eq!(outcomes(&restored), [("kek-differs".into(), 1)]);
    for call in [fetch, rotate, init] {
        let refusal = expect_vault_error(call(&mut restored.app_for("alice")), "55000");
        assert!(refusal.message.contains("not the one that this database knows"), "{refusal:?}");
    }
    expect_vault_error(init(&mut restored.app_for("bob")), "55000");
    expect_vault_error(rewrap(&restored, 10), "55000");
    assert_eq!((restored.vault_row("alice"), restored.value::<String>(keks)), (row, before));
    assert_eq!(restored.vault_row("bob"), None);
    let status: bool = restored.value("SELECT matches FROM vault_kek_status()");
    assert!(!status);
}

#[test]
fn without_its_kek_the_missing_kek_is_named_and_a_reload_adds_it() {
    let first = cluster(&[("k1", 1)]);
    let db = first.database("d");
    let key = init(&mut db.app_for("alice")).unwrap();
    let second = cluster(&[("k2", 2)]);
    let restored = restored(&db, &second);
    assert_eq!(outcomes(&restored), [("kek-not-loaded".into(), 1)]);
    let refusal = expect_vault_error(fetch(&mut restored.app_for("alice")), "55000");
    assert!(refusal.message.contains("\"k1\""), "{refusal:?}");
    // A wrong KEK under this id is refused, and the right one is accepted.
    expect_vault_error(switch(&restored, &[("k2", 2), ("k1", 3)]), "55000");
    switch(&restored, &[("k2", 2), ("k1", 1)]).unwrap();
    assert_eq!(fetch(&mut restored.app_for("alice")).unwrap(), key);
}
