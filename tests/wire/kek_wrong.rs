//! A KEK other than the one a database was used with is detected before anything is written.

use crate::harness::{
    Cluster, Db, Refusal, assert_no_secrets, decode, expect_vault_error, fetch, init, kek, keyring_line, rotate,
};

fn cluster(seed: u64) -> Cluster {
    Cluster::builder().without_fsync().keyring(&keyring_line("k", &kek(seed))).start()
}

fn restart_with_keyring(cluster: &mut Cluster, keyring: &str) {
    cluster.write_kek("keyring", keyring, 0o600);
    cluster.restart();
}

/// Asserts that every call fails and that no vault changes.
#[track_caller]
fn expect_nothing_works(db: &Db, code: &str) -> Refusal {
    let everything =
        "SELECT coalesce(string_agg(v::text, E'\\n' ORDER BY user_id), '') FROM vault_ext.encryption_vaults v";
    let before: String = db.value(everything);
    let refusal = expect_vault_error(fetch(&mut db.app_for("alice")), code);
    expect_vault_error(rotate(&mut db.app_for("alice")), code);
    expect_vault_error(init(&mut db.app_for("alice")), code);
    assert_eq!(db.value::<String>(everything), before);
    let failures: Vec<_> = db.audit_of("alice").iter().rev().take(3).map(|row| row.status).collect();
    assert!(failures.iter().all(|status| *status >= 500), "{failures:?}");
    refusal
}

#[test]
fn another_kek_under_a_known_id_is_refused_with_both_check_values() {
    let mut cluster = cluster(100);
    let key = init(&mut cluster.database("d").app_for("alice")).unwrap();
    restart_with_keyring(&mut cluster, &keyring_line("k", &kek(101)));
    let db = cluster.existing_database("d");
    let refusal = expect_nothing_works(&db, "55000");
    let known: String = db.value("SELECT check_value FROM vault_ext.keks WHERE kek_id = 'k'");
    let detail = refusal.detail.clone().unwrap_or_default();
    assert!(detail.contains(&known), "{refusal:?}");
    let values = detail.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() == known.len());
    assert_eq!(values.count(), 2, "{detail}");
    // A user who has no vault yet does not get one under the wrong key.
    expect_vault_error(init(&mut db.app_for("bob")), "55000");
    expect_vault_error(rotate(&mut db.app_for("bob")), "55000");
    assert_eq!(db.vault_row("bob"), None);
    assert_eq!(db.value::<i64>("SELECT count(*) FROM vault_ext.keks"), 1);
    drop(db);
    restart_with_keyring(&mut cluster, &keyring_line("k", &kek(100)));
    let db = cluster.existing_database("d");
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
    let secrets = [kek(100).to_vec(), kek(101).to_vec(), decode(&key.master_key)];
    assert_no_secrets(&cluster, &[refusal.text()], &secrets);
}

#[test]
fn a_kek_that_is_gone_from_the_keyring_is_named() {
    let mut cluster = cluster(102);
    let key = init(&mut cluster.database("d").app_for("alice")).unwrap();
    restart_with_keyring(&mut cluster, &keyring_line("new", &kek(103)));
    let db = cluster.existing_database("d");
    let refusal = expect_nothing_works(&db, "55000");
    assert!(refusal.message.contains("\"k\""), "{refusal:?}");
    assert_eq!(init(&mut db.app_for("bob")).unwrap().kek_id, "new");
    drop(db);
    let both = keyring_line("new", &kek(103)) + &keyring_line("k", &kek(102));
    restart_with_keyring(&mut cluster, &both);
    let db = cluster.existing_database("d");
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
    let rotated = rotate(&mut db.app_for("alice")).unwrap();
    assert_eq!((rotated.kek_id.as_str(), rotated.key_version), ("new", 2));
}

#[test]
fn the_check_value_is_not_the_key_and_not_its_plain_hash() {
    let cluster = cluster(104);
    let db = cluster.database("d");
    init(&mut db.app_for("alice")).unwrap();
    let check: String = db.value("SELECT check_value FROM vault_ext.keks");
    let hex: String = kek(104).iter().map(|b| format!("{b:02x}")).collect();
    let hash: String = db.value(&format!("SELECT encode(sha256('\\x{hex}'), 'hex')"));
    assert!(!hex.contains(&check[..16]) && !hash.contains(&check[..16]));
    let again = cluster.database("second");
    init(&mut again.app_for("alice")).unwrap();
    assert_eq!(again.value::<String>("SELECT check_value FROM vault_ext.keks"), check);
}

#[test]
fn a_wrong_kek_for_predecessor_rows_destroys_nothing() {
    let mut cluster = cluster(105);
    let db = cluster.database("d");
    db.force(
        "INSERT INTO vault_ext.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id)
            VALUES ('alice', 'EkoYuy/eugLj+TUwymd4xT07qypjikNu+XfObRXpLsp1LPM+pXxISRohaJtl0f9/', 'EBESExQVFhcYGRob', 1, 'env-v1')",
    );
    drop(db);
    restart_with_keyring(&mut cluster, &keyring_line("env-v1", &kek(106)));
    let db = cluster.existing_database("d");
    let row = db.vault_row("alice");
    for result in [fetch(&mut db.app_for("alice")), rotate(&mut db.app_for("alice")), init(&mut db.app_for("alice"))] {
        let error = result.expect_err("a wrong KEK must give no key");
        let code = error.code().map(|code| code.code().to_owned());
        assert!(matches!(code.as_deref(), Some("XX001" | "55000")), "{error:?}");
    }
    assert_eq!(db.vault_row("alice"), row);
    drop(db);
    restart_with_keyring(&mut cluster, &keyring_line("env-v1", &crate::harness::PREDECESSOR_KEK));
    let key = fetch(&mut cluster.existing_database("d").app_for("alice")).unwrap();
    assert_eq!(decode(&key.master_key), (0xa0..=0xbf).collect::<Vec<u8>>());
}

#[test]
fn a_restart_and_a_crash_keep_every_key() {
    let mut cluster = Cluster::builder().with_wire_kek().start();
    let db = cluster.database("d");
    let keys: Vec<_> = (0..5).map(|i| init(&mut db.app_for(&format!("user-{i}"))).unwrap()).collect();
    drop(db);
    cluster.restart();
    for round in 0..2 {
        let db = cluster.existing_database("d");
        for (i, key) in keys.iter().enumerate() {
            assert_eq!(fetch(&mut db.app_for(&format!("user-{i}"))).unwrap(), *key);
        }
        assert_eq!(db.audit().len(), 10 + 5 * round);
        drop(db);
        cluster.crash();
        cluster.start();
    }
}
