//! `vault_kek_status()` shows a DBA the KEKs, and `vault_retire_kek()` takes one out of use for good.

use std::time::Duration;

use crate::harness::{eventually, expect_vault_error, fetch, init, rotate, shared_db};
use crate::keyring::{Status, cluster, kek_status, keyring, reload, rewrap, switch, write};

const SOON: Duration = Duration::from_secs(30);

fn retire(db: &crate::harness::Db, kek_id: &str) -> Result<bool, postgres::Error> {
    Ok(db.conn("wire_admin").query_one("SELECT vault_retire_kek($1)", &[&kek_id])?.get(0))
}

fn row(id: &str, active: bool, loaded: bool, matches: Option<bool>, vaults: i64, retired: bool, safe: bool) -> Status {
    (id.into(), active, loaded, matches, vaults, retired, safe)
}

#[test]
fn the_status_follows_a_rotation() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    assert_eq!(kek_status(&db), [row("k1", true, true, None, 0, false, false)]);
    for user in ["alice", "bob"] {
        init(&mut db.app_for(user)).unwrap();
    }
    assert_eq!(kek_status(&db), [row("k1", true, true, Some(true), 2, false, false)]);
    switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    rotate(&mut db.app_for("bob")).unwrap();
    assert_eq!(
        kek_status(&db),
        [row("k2", true, true, Some(true), 1, false, false), row("k1", false, true, Some(true), 1, false, false)]
    );
    rewrap(&db, 1000).unwrap();
    assert_eq!(kek_status(&db)[1], row("k1", false, true, Some(true), 0, false, true));
    switch(&db, &[("k2", 2)]).unwrap();
    assert!(retire(&db, "k1").unwrap());
    assert_eq!(
        kek_status(&db),
        [row("k2", true, true, Some(true), 2, false, false), row("k1", false, false, None, 0, true, true)]
    );
    assert!(!retire(&db, "k1").unwrap(), "it was already retired");
}

#[test]
fn the_status_shows_a_wrong_a_missing_and_an_unknown_kek() {
    let mut cluster = cluster(&[("k1", 1), ("k2", 2)]);
    let db = cluster.database("d");
    init(&mut db.app_for("alice")).unwrap();
    let known: String = db.value("SELECT check_value FROM vault_ext.keks WHERE kek_id = 'k1'");
    db.force(
        "INSERT INTO vault_ext.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id, created_at)
            SELECT 'old', repeat('A', 64), repeat('A', 16), 1, 'gone', '2020-02-03 12:00+00'",
    );
    drop(db);
    write(&cluster, &keyring(&[("k3", 3), ("k1", 9)]));
    cluster.restart();
    let db = cluster.existing_database("d");
    assert_eq!(
        kek_status(&db),
        [
            row("k3", true, true, None, 0, false, false),
            row("k1", false, true, Some(false), 1, false, false),
            row("gone", false, false, None, 1, false, false),
        ]
    );
    let shown: String = db.value("SELECT check_value FROM vault_kek_status() WHERE kek_id = 'k1'");
    assert_eq!(shown, known, "the status shows the check value that the database knows");
    let oldest: String = db.value("SELECT oldest::text FROM vault_kek_status() WHERE kek_id = 'gone'");
    assert_eq!(oldest, "2020-02-03");
}

#[test]
fn the_status_of_a_disabled_vault_shows_that_its_kek_is_not_loaded() {
    let mut cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    init(&mut db.app_for("alice")).unwrap();
    drop(db);
    write(&cluster, "nonsense");
    cluster.configure("vault_ext.on_bad_kek = disable");
    cluster.restart();
    let db = cluster.existing_database("d");
    assert_eq!(kek_status(&db), [row("k1", false, false, None, 1, false, false)]);
}

#[test]
fn the_status_fits_the_width_of_a_terminal() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    let psql = std::process::Command::new(crate::harness::bindir().join("psql"))
        .args(["-X", "-h"])
        .arg(db.cluster.dir())
        .args(["-p", &db.cluster.port().to_string(), "-U", "wire_admin", "-d", &db.name])
        .args(["-c", "SELECT * FROM vault_kek_status()"])
        .output()
        .expect("psql runs");
    let text = String::from_utf8(psql.stdout).unwrap();
    assert!(text.contains("safe_to_remove"), "{text}");
    assert!(text.lines().all(|line| line.len() <= 144), "{text}");
}

#[test]
fn a_kek_that_is_needed_active_or_unknown_is_not_retired() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    init(&mut db.app_for("alice")).unwrap();
    let refusal = expect_vault_error(retire(&db, "k1"), "55000");
    assert!(refusal.message.contains("active"), "{refusal:?}");
    switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    let refusal = expect_vault_error(retire(&db, "k1"), "55000");
    assert!(refusal.message.contains("\"k1\" is needed by 1 key"), "{refusal:?}");
    expect_vault_error(retire(&db, "nobody"), "22023");
    assert_eq!(db.value::<i64>("SELECT count(*) FROM vault_ext.keks WHERE retired_at IS NOT NULL"), 0);
    let rows = db.audit();
    let what: Vec<_> = rows.iter().filter(|row| row.action == "retire").map(|row| row.what()).collect();
    assert_eq!(
        what,
        [
            ("retire", 409, Some("kek-active")),
            ("retire", 409, Some("kek-needed")),
            ("retire", 404, Some("kek-unknown"))
        ]
    );
}

#[test]
fn nothing_is_wrapped_with_a_retired_kek() {
    let mut cluster = cluster(&[("k2", 2), ("k1", 1)]);
    let db = cluster.database("d");
    let key = init(&mut db.app_for("alice")).unwrap();
    switch(&db, &[("k1", 1), ("k2", 2)]).unwrap();
    rewrap(&db, 10).unwrap();
    retire(&db, "k2").unwrap();
    let rows = db.audit();
    assert_eq!(rows.last().unwrap().what(), ("retire", 200, Some("kek k2")));
    // A reload does not make it active, …
    let refusal = expect_vault_error(switch(&db, &[("k2", 2), ("k1", 1)]), "55000");
    assert!(refusal.message.contains("\"k2\", is retired"), "{refusal:?}");
    assert_eq!(rotate(&mut db.app_for("alice")).unwrap().kek_id, "k1");
    // … and after a restart, which takes the keyring as it is, nothing is wrapped.
    drop(db);
    cluster.restart();
    let db = cluster.existing_database("d");
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap().kek_id, "k1");
    for result in [rotate(&mut db.app_for("alice")), init(&mut db.app_for("bob"))] {
        let refusal = expect_vault_error(result, "55000");
        assert!(refusal.message.contains("retired"), "{refusal:?}");
    }
    expect_vault_error(rewrap(&db, 10), "55000");
    assert_eq!(db.vault_row("bob"), None);
    assert_ne!(fetch(&mut db.app_for("alice")).unwrap().master_key, key.master_key);
}

#[test]
fn a_keyring_that_still_has_a_retired_kek_gives_a_warning() {
    let cluster = cluster(&[("k2", 2), ("k1", 1)]);
    let db = cluster.database("d");
    init(&mut db.app_for("alice")).unwrap();
    // The database must have used k1 to know it.
    switch(&db, &[("k1", 1), ("k2", 2)]).unwrap();
    init(&mut db.app_for("bob")).unwrap();
    switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    rewrap(&db, 10).unwrap();
    retire(&db, "k1").unwrap();
    reload(&db).unwrap();
    eventually(SOON, "the warning", || {
        cluster.log().contains("WARNING:  the KEK \"k1\" is retired in this database and still in the keyring")
    });
}

#[test]
fn a_retirement_waits_for_keys_that_are_not_committed() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    init(&mut db.app_for("alice")).unwrap();
    let mut bob = db.app_for("bob");
    bob.batch_execute("BEGIN").unwrap();
    init(&mut bob).unwrap();
    switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    rotate(&mut db.app_for("alice")).unwrap();
    expect_vault_error(retire(&db, "k1"), "55P03");
    bob.batch_execute("COMMIT").unwrap();
    expect_vault_error(retire(&db, "k1"), "55000");
    rewrap(&db, 10).unwrap();
    assert!(retire(&db, "k1").unwrap());
    fetch(&mut bob).unwrap();
}

#[test]
fn a_minting_call_that_waited_for_the_retirement_sees_it() {
    let cluster = cluster(&[("k2", 2), ("k1", 1)]);
    let db = cluster.database("d");
    init(&mut db.app_for("alice")).unwrap();
    switch(&db, &[("k1", 1), ("k2", 2)]).unwrap();
    rewrap(&db, 10).unwrap();
    let mut admin = db.conn("wire_admin");
    admin.batch_execute("BEGIN; SELECT vault_retire_kek('k2')").unwrap();
    // Another database's administrator may still make k2 active.
    let other = cluster.database("other");
    switch(&other, &[("k2", 2), ("k1", 1)]).unwrap();
    std::thread::scope(|scope| {
        let minting = scope.spawn(|| init(&mut db.app_for("bob")));
        eventually(SOON, "the call waits", || {
            db.value::<i64>("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'vault_ext.encryption_vaults'::regclass") == 1
        });
        admin.batch_execute("COMMIT").unwrap();
        expect_vault_error(minting.join().unwrap(), "55000");
    });
    assert_eq!(db.vault_row("bob"), None);
}
