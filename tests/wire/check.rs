//! `vault_check()` tells whether every vault opens, and names those that do not.

use crate::harness::{Db, assert_no_secrets, decode, expect_vault_error, init, kek, set_user};
use crate::keyring::{cluster, keyring, switch, write};

/// kek_id, format_version, outcome, vaults, user_ids.
type Found = (String, i16, String, i64, Vec<String>);

fn check(db: &Db, arguments: &str) -> Vec<Found> {
    let sql = format!("SELECT kek_id, format_version, outcome, vaults, user_ids FROM vault_check({arguments})");
    let rows = db.conn("wire_admin").query(&sql, &[]).unwrap_or_else(|e| panic!("{e:?}"));
    let found = |row: &postgres::Row| {
        let mut users: Vec<String> = row.get(4);
        users.sort();
        (row.get(0), row.get(1), row.get(2), row.get(3), users)
    };
    rows.iter().map(found).collect()
}

fn row(kek_id: &str, format: i16, outcome: &str, vaults: i64, users: &[&str]) -> Found {
    (kek_id.into(), format, outcome.into(), vaults, users.iter().map(|user| (*user).into()).collect())
}

fn create_vaults(db: &Db, count: usize) {
    let mut app = db.app();
    for i in 0..count {
        set_user(&mut app, &format!("user-{i}"));
        init(&mut app).unwrap();
    }
}

#[test]
fn vaults_that_open_are_counted_and_the_others_are_named_with_the_reason() {
    let mut cluster = cluster(&[("k2", 2), ("k1", 1)]);
    let db = cluster.database("d");
    assert_eq!(check(&db, ""), []);
    create_vaults(&db, 6);
    assert_eq!(check(&db, ""), [row("k2", 2, "opens", 6, &[])]);
    switch(&db, &[("k1", 1), ("k2", 2)]).unwrap();
    init(&mut db.app_for("user-one")).unwrap();
    db.force(
        "INSERT INTO vault_ext.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id)
            SELECT 'old', repeat('A', 64), repeat('A', 16), 1, 'k2';
         UPDATE vault_ext.encryption_vaults SET wrapped_mk = reverse(wrapped_mk) WHERE user_id = 'user-1';
         UPDATE vault_ext.encryption_vaults v SET wrapped_mk = o.wrapped_mk, wrap_iv = o.wrap_iv
            FROM vault_ext.encryption_vaults o WHERE v.user_id = 'user-2' AND o.user_id = 'user-3'",
    );
    drop(db);
    write(&cluster, &keyring(&[("k2", 2), ("k1", 9), ("k3", 3)]));
    cluster.restart();
    let db = cluster.existing_database("d");
    db.force("UPDATE vault_ext.encryption_vaults SET kek_id = 'lost' WHERE user_id = 'user-5'");
    let found = check(&db, "");
    assert_eq!(
        found,
        [
            row("k1", 2, "kek-differs", 1, &["user-one"]),
            row("k2", 1, "unwrap-failed", 1, &["old"]),
            row("k2", 2, "opens", 3, &[]),
            row("k2", 2, "unwrap-failed", 2, &["user-1", "user-2"]),
            row("lost", 2, "kek-not-loaded", 1, &["user-5"]),
        ]
    );
    let named: Vec<_> = check(&db, "1").into_iter().map(|found| (found.3, found.4.len())).collect();
    assert_eq!(named, [(1, 1), (1, 1), (3, 0), (2, 1), (1, 1)]);
    assert!(check(&db, "0").iter().all(|found| found.4.is_empty()));
    expect_vault_error(db.conn("wire_admin").simple_query("SELECT vault_check(-1)"), "22023");
    let rows = db.audit();
    let row = rows.iter().rfind(|row| row.action == "check" && row.status == 200).unwrap();
    assert_eq!((row.what(), row.db_role.as_str()), (("check", 200, Some("3 open, 5 do not")), "wire_admin"));
    assert!(rows.iter().all(|row| row.action != "fetch"), "a check must not count as a fetch");
    let mut secrets = vec![kek(1).to_vec(), kek(2).to_vec()];
    secrets.extend((0..5).step_by(4).map(|i| {
        let key = crate::harness::fetch(&mut db.app_for(&format!("user-{i}"))).unwrap();
        decode(&key.master_key)
    }));
    assert_no_secrets(&cluster, &[format!("{found:?}")], &secrets);
}

#[test]
fn a_standby_can_be_checked() {
    let mut cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    create_vaults(&db, 3);
    let rows = db.audit().len();
    drop(db);
    cluster.restart_as_standby();
    let db = cluster.existing_database("d");
    assert_eq!(check(&db, ""), [row("k1", 2, "opens", 3, &[])]);
    assert_eq!(db.audit().len(), rows);
    for call in ["CALL vault_rewrap()", "SELECT vault_retire_kek('k1')"] {
        expect_vault_error(db.conn("wire_admin").simple_query(call), "25006");
    }
}

#[test]
fn many_vaults_are_checked_in_batches_and_in_read_only_transactions() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    create_vaults(&db, 1);
    // Copies for other users do not open, since a wrap is bound to its user.
    db.force(
        "INSERT INTO vault_ext.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id)
            SELECT 'copy-' || i, wrapped_mk, wrap_iv, format_version, kek_id
            FROM vault_ext.encryption_vaults, generate_series(1, 4321) i",
    );
    let mut admin = db.conn("wire_admin");
    admin.batch_execute("BEGIN READ ONLY").unwrap();
    let found =
        admin.query("SELECT outcome, vaults, cardinality(user_ids) FROM vault_check() ORDER BY vaults", &[]).unwrap();
    let found: Vec<(String, i64, i32)> = found.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(found, [("opens".into(), 1, 0), ("unwrap-failed".into(), 4321, 100)]);
}

#[test]
fn without_a_keyring_a_check_is_refused() {
    let mut cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    create_vaults(&db, 1);
    drop(db);
    write(&cluster, "nonsense");
    cluster.configure("vault_ext.on_bad_kek = disable");
    cluster.restart();
    let db = cluster.existing_database("d");
    expect_vault_error(db.conn("wire_admin").simple_query("SELECT vault_check()"), "55000");
}
