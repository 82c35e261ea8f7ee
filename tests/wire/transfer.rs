//! Moving vaults between servers with different KEKs: what is exported on one opens with the same keys on the other, and nowhere
//! else.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use postgres::{Client, Error};
use vault_core::crypto::secret::{KekBytes, MasterKey};
use vault_core::transfer::{ImportKey, KeyVersion, Recovery, Target, VaultRecord};

use crate::formats::{insert_predecessor_row, seal as wrap};
use crate::harness::{
    Cluster, Db, PREDECESSOR_KEK, VaultKey, assert_no_secrets, base64, decode, expect_error, expect_vault_error, fetch,
    init, kek, keyring_line, rotate, rotate_and_destroy, scenario_size,
};
use crate::keyring::{cluster, switch};
use crate::seal::go_zero_knowledge;
use crate::trail::{trail_of, wait_for_trail};

/// The server that exports, and the one that imports.
static SERVERS: LazyLock<[Cluster; 2]> = LazyLock::new(|| {
    let start = |keyring: &[String]| Cluster::builder().keyring(&keyring.concat()).without_fsync().start();
    let source = [keyring_line("from-1", &kek(10)), keyring_line("env-v1", &PREDECESSOR_KEK)];
    let target = [keyring_line("to-1", &kek(20)), keyring_line("to-0", &kek(21))];
    [start(&source), start(&target)]
});

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A database on each of the two servers. The first may export to the second.
fn pair() -> (Db<'static>, Db<'static>) {
    let (source, target) = unlisted_pair();
    allow(&source, &import_key(&target).fingerprint);
    (source, target)
}

fn unlisted_pair() -> (Db<'static>, Db<'static>) {
    let name = format!("transfer_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    (SERVERS[0].database(&name), SERVERS[1].database(&name))
}

/// Lets new sessions of a database export to these recipients.
fn allow(source: &Db, recipients: &str) {
    source.force(&format!("ALTER DATABASE {} SET vault_ext.export_recipients = '{recipients}'", source.name));
}

#[derive(Debug, PartialEq)]
struct Key {
    kek_id: String,
    public_key: String,
    fingerprint: String,
}

fn import_key(db: &Db) -> Key {
    let row = db.conn("wire_admin").query_one("SELECT * FROM vault_import_key()", &[]).unwrap();
    Key { kek_id: row.get("kek_id"), public_key: row.get("public_key"), fingerprint: row.get("fingerprint") }
}

fn export_to(source: &Db, user: &str, key: &Key) -> Result<String, Error> {
    let sql = "SELECT vault_export($1, $2, $3)";
    source.conn("wire_admin").query_one(sql, &[&user, &key.kek_id, &key.public_key]).map(|row| row.get(0))
}

fn export(source: &Db, target: &Db, user: &str) -> String {
    export_to(source, user, &import_key(target)).unwrap()
}

fn import(target: &Db, bundle: &str) -> Result<String, Error> {
    target.conn("wire_admin").query_one("SELECT vault_import($1)", &[&bundle]).map(|row| row.get(0))
}

fn version(app: &mut Client, version: i32) -> Result<VaultKey, Error> {
    let sql = format!("SELECT {} FROM vault_get_key_version($1)", VaultKey::COLUMNS);
    let row = app.query_one(&sql, &[&version])?;
    Ok(VaultKey { master_key: row.get(0), format_version: row.get(1), kek_id: row.get(2), key_version: row.get(3) })
}

/// Everything that must not change on the way, of the vault and of its old keys.
fn kept(db: &Db) -> Vec<String> {
    let mut rows = Vec::new();
    for sql in [
        "SELECT ROW(user_id, key_version, created_at, rotated_at, tokens_valid_from, recovery_wrapped_mk, recovery_iv,
             recovery_format_version, recovery_set_at, zero_knowledge, key_check, erase_after)::text
         FROM vault_ext.encryption_vaults ORDER BY user_id",
        "SELECT ROW(user_id, key_version, state, superseded_at, destroy_after, destroyed_at)::text FROM vault_ext.old_keys
         WHERE state <> 'destroyed' ORDER BY user_id, key_version",
    ] {
        rows.extend(db.superuser().query(sql, &[]).unwrap().iter().map(|row| row.get::<_, String>(0)));
    }
    rows
}

fn everything(db: &Db) -> Vec<String> {
    ["encryption_vaults", "old_keys"]
        .iter()
        .flat_map(|table| {
            db.superuser().query(&format!("SELECT t::text FROM vault_ext.{table} t ORDER BY 1"), &[]).unwrap()
        })
        .map(|row| row.get(0))
        .collect()
}

#[test]
fn every_version_arrives_with_its_key_its_state_and_its_times() {
    let (source, target) = pair();
    let mut app = source.app_for("alice");
    let mut keys = vec![init(&mut app).unwrap()];
    for _ in 0..3 {
        keys.push(rotate(&mut app).unwrap());
    }
    rotate_and_destroy(&mut app).unwrap();
    keys.push(rotate(&mut app).unwrap());
    app.query("SELECT vault_disable_key_version(1), vault_retire_key_version(2, '90 days')", &[]).unwrap();
    source.force(
        "SELECT vault_revoke_tokens('alice', '2026-01-02 03:04:05.678901+00');
         UPDATE vault_ext.encryption_vaults SET recovery_wrapped_mk = repeat('w', 64), recovery_iv = repeat('i', 16),
             recovery_set_at = '2026-02-03 04:05:06.789+00', key_check = repeat('ab', 16)",
    );
    let bundle = export(&source, &target, "alice");
    assert!(bundle.starts_with(&format!("vault1:{}:", base64(b"to-1"))) && !bundle.contains('\n'));
    assert_eq!(import(&target, &bundle).unwrap(), "alice");
    assert_eq!(kept(&target), kept(&source));
    assert_eq!(kept(&target).len(), 1 + 4);

    let mut there = target.app_for("alice");
    let here = fetch(&mut app).unwrap();
    let arrived = fetch(&mut there).unwrap();
    assert_eq!((arrived.format_version, arrived.kek_id.as_str(), arrived.key_version), (2, "to-1", 6));
    assert_eq!(arrived.master_key, here.master_key);
    there.query("SELECT vault_restore_key_version(1), vault_restore_key_version(2)", &[]).unwrap();
    for key in keys[..3].iter() {
        let old = version(&mut there, key.key_version).unwrap();
        assert_eq!((old.master_key.as_str(), old.kek_id.as_str()), (key.master_key.as_str(), "to-1"));
    }
    // The version that was destroyed did not leave.
    expect_vault_error(version(&mut app, 4), "55000");
    expect_vault_error(version(&mut there, 4), "P0002");
    let opened: (i64, i64) = {
        let sql = "SELECT vaults, old_keys FROM vault_check() WHERE outcome = 'opens' AND kek_id = 'to-1' AND format_version = 2";
        let row = target.conn("wire_admin").query_one(sql, &[]).unwrap();
        (row.get(0), row.get(1))
    };
    assert_eq!(opened, (1, 4));
    assert_eq!(rotate(&mut there).unwrap().key_version, 7);
    // The source is as it was.
    assert_eq!(fetch(&mut app).unwrap(), here);
}

#[test]
fn a_row_of_the_predecessor_arrives_in_the_new_format() {
    let (source, target) = pair();
    let (master_key, iv) = (kek(99), [7; 12]);
    insert_predecessor_row(&source, "alice", &base64(&wrap(&PREDECESSOR_KEK, &iv, &master_key)), &base64(&iv));
    import(&target, &export(&source, &target, "alice")).unwrap();
    let arrived = fetch(&mut target.app_for("alice")).unwrap();
    assert_eq!(decode(&arrived.master_key), master_key);
    assert_eq!((arrived.format_version, arrived.kek_id.as_str(), arrived.key_version), (2, "to-1", 1));
}

#[test]
fn a_vault_in_zero_knowledge_mode_arrives_as_one() {
    let (source, target) = pair();
    let mut app = source.app_for("zoe");
    init(&mut app).unwrap();
    let old = rotate(&mut app).unwrap();
    rotate(&mut app).unwrap();
    go_zero_knowledge(&source, "zoe");
    let bundle = export(&source, &target, "zoe");
    assert_eq!(import(&target, &bundle).unwrap(), "zoe");
    assert_eq!(kept(&target), kept(&source));
    let sql =
        "SELECT (k).master_key, (k).requires_recovery_code, (k).recovery_wrapped_mk, (k).recovery_iv, (k).key_version
        FROM vault_get_master_key() k";
    let row = target.app_for("zoe").query_one(sql, &[]).unwrap();
    assert_eq!((row.get::<_, Option<&str>>(0), row.get::<_, bool>(1)), (None, true));
    assert_eq!((row.get::<_, String>(2), row.get::<_, String>(3)), ("r".repeat(64), "i".repeat(16)));
    assert_eq!(row.get::<_, i32>(4), 3);
    // The same vault again; another one whose recovery wrap differs.
    let before = everything(&target);
    assert_eq!(import(&target, &bundle).unwrap(), "zoe");
    target.force("UPDATE vault_ext.encryption_vaults SET recovery_wrapped_mk = repeat('x', 64)");
    expect_vault_error(import(&target, &bundle), "23505");
    target.force("UPDATE vault_ext.encryption_vaults SET recovery_wrapped_mk = repeat('r', 64)");
    assert_eq!(everything(&target), before);
    // Old keys that the source has can be opened once the mode is left.
    assert_eq!(old.key_version, 2);
    let same: i64 = target.value("SELECT count(*) FROM vault_ext.old_keys WHERE wrapped_mk IS NOT NULL");
    assert_eq!(same, 2);
}

#[test]
fn both_trails_say_what_moved() {
    let (source, target) = pair();
    init(&mut source.app_for("alice")).unwrap();
    rotate(&mut source.app_for("alice")).unwrap();
    let key = import_key(&target);
    let trail = target.audit().len();
    assert_eq!(trail, 0, "the import key is no secret");
    let bundle = export(&source, &target, "alice");
    import(&target, &bundle).unwrap();
    import(&target, &bundle).unwrap();
    let row = &source.audit_where("action = 'export'")[0];
    assert_eq!(row.what(), ("export", 200, Some(key.fingerprint.as_str())));
    assert_eq!(
        (row.user_id.as_deref(), row.key_version, row.kek_id.as_deref()),
        (Some("alice"), Some(2), Some("from-1"))
    );
    assert_eq!(row.db_role, "wire_admin");
    let rows = target.audit_of("alice");
    assert_eq!(rows[0].what(), ("import", 201, Some(key.fingerprint.as_str())));
    assert_eq!(rows[1].what(), ("import", 200, Some("already-exists")));
    for row in &rows {
        assert_eq!(
            (row.key_version, row.kek_id.as_deref(), row.db_role.as_str()),
            (Some(2), Some("to-1"), "wire_admin")
        );
    }
}

#[test]
fn nothing_leaves_before_its_row_is_written() {
    let (source, target) = pair();
    init(&mut source.app_for("alice")).unwrap();
    let key = import_key(&target);
    // The row is no part of the caller's transaction, which may be a READ ONLY one.
    let mut admin = source.conn("wire_admin");
    admin.batch_execute("BEGIN READ ONLY").unwrap();
    admin.query("SELECT vault_export('alice', $1, $2)", &[&key.kek_id, &key.public_key]).unwrap();
    assert_eq!(trail_of(&source, "alice")[1], format!("export 200 {}", key.fingerprint));
    admin.batch_execute("ROLLBACK").unwrap();
    let mut locker = source.superuser();
    locker.batch_execute("BEGIN; LOCK TABLE vault_ext.encryption_vault_audit IN ACCESS EXCLUSIVE MODE").unwrap();
    let mut superuser = source.superuser();
    superuser.batch_execute("SET vault_ext.audit_timeout = 300").unwrap();
    let call = "SELECT vault_export('alice', $1, $2)";
    expect_vault_error(superuser.query(call, &[&key.kek_id, &key.public_key]), "55000");
    locker.batch_execute("ROLLBACK").unwrap();
    export(&source, &target, "alice");
}

#[test]
fn an_import_again_changes_nothing_whatever_the_user_has_done_since() {
    let (source, target) = pair();
    let first = init(&mut source.app_for("alice")).unwrap();
    let second = rotate(&mut source.app_for("alice")).unwrap();
    let bundle = export(&source, &target, "alice");
    import(&target, &bundle).unwrap();
    let mut there = target.app_for("alice");
    let third = rotate(&mut there).unwrap();
    there.query("SELECT vault_disable_key_version(1)", &[]).unwrap();
    let before = everything(&target);
    assert_eq!(import(&target, &bundle).unwrap(), "alice");
    assert_eq!(everything(&target), before);
    // A version that was destroyed since does not come back.
    target.force(
        "UPDATE vault_ext.old_keys SET state = 'destroyed', wrapped_mk = NULL, wrap_iv = NULL, destroyed_at = now()
         WHERE key_version = 1",
    );
    assert_eq!(import(&target, &bundle).unwrap(), "alice");
    assert_eq!(fetch(&mut there).unwrap(), third);
    expect_vault_error(version(&mut there, 1), "55000");
    assert_eq!(version(&mut there, 2).unwrap().master_key, second.master_key);
    // After an erasure the vault is a new one again.
    target.conn("wire_admin").query("SELECT vault_erase('alice')", &[]).unwrap();
    assert_eq!(import(&target, &bundle).unwrap(), "alice");
    assert_eq!(version(&mut there, 1).unwrap().master_key, first.master_key);
    assert_eq!(fetch(&mut there).unwrap().master_key, second.master_key);
}

#[test]
fn another_vault_under_that_user_id_is_never_touched() {
    let (source, target) = pair();
    init(&mut source.app_for("alice")).unwrap();
    let own = init(&mut target.app_for("alice")).unwrap();
    let before = everything(&target);
    let bundle = export(&source, &target, "alice");
    let refusal = expect_vault_error(import(&target, &bundle), "23505");
    assert!(refusal.message.contains("alice"), "{refusal:?}");
    assert_eq!(everything(&target), before);
    assert_eq!(fetch(&mut target.app_for("alice")).unwrap(), own);
    assert_eq!(trail_of(&target, "alice")[1], "import 409 vault-exists");
    // A version of the bundle that the vault lacks: the keys there are not all that were exported.
    init(&mut source.app_for("bob")).unwrap();
    import(&target, &export(&source, &target, "bob")).unwrap();
    rotate(&mut source.app_for("bob")).unwrap();
    expect_vault_error(import(&target, &export(&source, &target, "bob")), "23505");
    // Old keys of a vault that was deleted past the vault's functions.
    rotate(&mut source.app_for("carol")).unwrap();
    rotate(&mut source.app_for("carol")).unwrap();
    let bundle = export(&source, &target, "carol");
    import(&target, &bundle).unwrap();
    target.force("DELETE FROM vault_ext.encryption_vaults WHERE user_id = 'carol'");
    let refusal = expect_vault_error(import(&target, &bundle), "23505");
    assert!(refusal.hint.is_some_and(|hint| hint.contains("vault_ext.old_keys")));
    target.force("DELETE FROM vault_ext.old_keys WHERE user_id = 'carol'");
    import(&target, &bundle).unwrap();
    // A vault that is to be erased does not come back by an import.
    target.conn("wire_admin").query("SELECT vault_schedule_erase('bob', '30 days', 'asked for it')", &[]).unwrap();
    expect_vault_error(import(&target, &export(&source, &target, "bob")), "55000");
}

#[test]
fn a_changed_or_cut_bundle_is_refused() {
    let (source, target) = pair();
    init(&mut source.app_for("alice")).unwrap();
    let bundle = export(&source, &target, "alice");
    let sealed = bundle.rfind(':').unwrap() + 1;
    for position in (sealed..bundle.len() - 2).step_by(9) {
        let mut changed = bundle.clone().into_bytes();
        changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
        expect_vault_error(import(&target, std::str::from_utf8(&changed).unwrap()), "XX001");
    }
    expect_vault_error(import(&target, &bundle[..bundle.len() - 4]), "XX001");
    let cut_to_nothing = &bundle[..sealed];
    let other_version = bundle.replacen("vault1", "vault2", 1);
    for malformed in
        ["", "vault1", "vault1:", cut_to_nothing, &bundle[1..], &bundle[..bundle.len() - 5], &other_version]
    {
        expect_vault_error(import(&target, malformed), "22023");
    }
    expect_vault_error(target.conn("wire_admin").query("SELECT vault_import(NULL)", &[]), "22023");
    assert!(everything(&target).is_empty());
    let rows = target.audit();
    let count = |context: &str| rows.iter().filter(|row| row.what() == ("import", 400, Some(context))).count();
    assert_eq!(count("bad-bundle"), 8);
    assert_eq!(count("bundle-does-not-open"), rows.len() - 8);
    // White space around it, as it comes from a file, does no harm.
    import(&target, &format!("  {bundle}\r\n")).unwrap();
}

#[test]
fn a_bundle_opens_on_the_server_that_it_was_made_for_alone() {
    let (source, target) = pair();
    init(&mut source.app_for("alice")).unwrap();
    let bundle = export(&source, &target, "alice");
    let refusal = expect_vault_error(import(&source, &bundle), "55000");
    assert!(refusal.message.contains("to-1"), "{refusal:?}");
    assert_eq!(source.audit().last().unwrap().what(), ("import", 503, Some("kek-not-loaded")));
    // The id of one KEK of the keyring, sealed to the key of the other.
    let mut key = import_key(&target);
    key.kek_id = "to-0".into();
    expect_vault_error(import(&target, &export_to(&source, "alice", &key).unwrap()), "XX001");
    let renamed = bundle.replacen(&base64(b"to-1"), &base64(b"to-0"), 1);
    expect_vault_error(import(&target, &renamed), "XX001");
    assert!(everything(&target).is_empty());
}

#[test]
fn a_bundle_for_an_older_kek_of_the_keyring_opens() {
    let (source, _) = unlisted_pair();
    let moving = cluster(&[("k1", 31)]);
    let target = moving.database("d");
    let key = import_key(&target);
    allow(&source, &key.fingerprint);
    let mk = init(&mut source.app_for("alice")).unwrap();
    let bundle = export_to(&source, "alice", &key).unwrap();
    switch(&target, &[("k2", 32), ("k1", 31)]).unwrap();
    assert_ne!(import_key(&target), key);
    import(&target, &bundle).unwrap();
    let arrived = fetch(&mut target.app_for("alice")).unwrap();
    assert_eq!((arrived.master_key, arrived.kek_id.as_str()), (mk.master_key, "k2"));
    // The import key belongs to the KEK, not to the server.
    assert_eq!(key.public_key, ImportKey::derive(&kek_bytes(31)).public_key_base64());
}

fn kek_bytes(seed: u64) -> KekBytes {
    KekBytes::from_slice(&kek(seed)).expect("32 bytes")
}

#[test]
fn nobody_exports_without_a_superuser_s_word() {
    let (source, target) = unlisted_pair();
    init(&mut source.app_for("alice")).unwrap();
    let key = import_key(&target);
    let refusal = expect_vault_error(export_to(&source, "alice", &key), "55000");
    assert!(refusal.hint.is_some_and(|hint| hint.contains("vault_ext.export_recipients")));
    for sql in [
        "SET vault_ext.export_recipients = 'x'".to_owned(),
        format!("ALTER ROLE wire_admin SET vault_ext.export_recipients = '{}'", key.fingerprint),
    ] {
        expect_error(source.conn("wire_admin").batch_execute(&sql), "42501");
    }
    let other = format!("sha256:{}", "0".repeat(64));
    for list in [" ", ",", other.as_str(), "*", &key.fingerprint[7..], &key.fingerprint[..70], "sha256:"] {
        allow(&source, list);
        expect_vault_error(export_to(&source, "alice", &key), "55000");
    }
    let tried = format!("export 403 not-a-recipient {}", key.fingerprint);
    let rows = trail_of(&source, "alice");
    assert_eq!(rows[1..3], vec![format!("export 403 no-recipients {}", key.fingerprint); 2]);
    assert!(rows[3..].iter().all(|row| *row == tried), "{rows:?}");
    for list in [format!("{other},{}", key.fingerprint), format!(" {} ,", key.fingerprint.to_uppercase())] {
        allow(&source, &list);
        export_to(&source, "alice", &key).unwrap();
    }
    for role in ["wire_app", "wire_auditor", "wire_service", "wire_grantor", "wire_crypt", "wire_stranger"] {
        for call in ["vault_import_key()", "vault_export('alice', 'k', 'p')", "vault_import('x')"] {
            expect_error(source.conn(role).query(&format!("SELECT {call}"), &[]), "42501");
        }
    }
}

#[test]
fn what_cannot_be_exported_is_refused_with_a_row() {
    let (source, target) = pair();
    init(&mut source.app_for("alice")).unwrap();
    let key = import_key(&target);
    let with = |kek_id: &str, public_key: &str| {
        let key = Key { kek_id: kek_id.into(), public_key: public_key.into(), fingerprint: String::new() };
        export_to(&source, "alice", &key)
    };
    for (kek_id, public_key) in [
        ("", key.public_key.as_str()),
        ("two words", &key.public_key),
        ("to-1", ""),
        ("to-1", "hello"),
        ("to-1", include_str!("../../crates/vault_core/src/seal/keys/rsa_2048_public.pem")),
        ("to-1", include_str!("../../crates/vault_core/src/seal/keys/rsa_2048_private.pem")),
    ] {
        expect_vault_error(with(kek_id, public_key), "22023");
    }
    assert_eq!(trail_of(&source, "alice")[1..], ["export 400 bad-import-key"; 6]);
    expect_vault_error(source.conn("wire_admin").query("SELECT vault_export(NULL, 'k', 'p')", &[]), "22023");
    expect_vault_error(export_to(&source, "", &key), "22023");
    expect_vault_error(export_to(&source, "nobody", &key), "P0002");
    assert_eq!(trail_of(&source, "nobody"), ["export 404 not-initialised"]);
    // Damaged, and to be erased.
    init(&mut source.app_for("bob")).unwrap();
    source.force("UPDATE vault_ext.encryption_vaults SET key_version = 9 WHERE user_id = 'bob'");
    expect_vault_error(export_to(&source, "bob", &key), "XX001");
    source.conn("wire_admin").query("SELECT vault_schedule_erase('alice', '30 days', 'asked for it')", &[]).unwrap();
    expect_vault_error(export_to(&source, "alice", &key), "55000");
    assert_eq!(trail_of(&source, "alice").last().unwrap(), "export 409 erase-scheduled");
    assert_eq!(source.audit_where("action = 'export' AND status = 200").len(), 0);
}

const TIME: i64 = 800_000_000_000_000;

fn of(number: i32, state: &str, key: Option<u8>) -> KeyVersion {
    let is_old = state != "current";
    KeyVersion {
        number,
        state: state.to_owned(),
        created_at: None,
        superseded_at: is_old.then_some(TIME),
        destroy_after: (state == "destroy_scheduled").then_some(TIME + 1),
        master_key: key.map(|byte| MasterKey::from_slice(&[byte; 32]).expect("32 bytes")),
    }
}

fn record(user: &str) -> VaultRecord {
    VaultRecord {
        user_id: user.into(),
        versions: vec![of(1, "decrypt_only", Some(1)), of(2, "disabled", Some(2)), of(4, "current", Some(4))],
        recovery: None,
        zero_knowledge: false,
        key_check: None,
        created_at: Some(TIME),
        rotated_at: None,
        tokens_valid_from: None,
    }
}

type Spoil = fn(&mut VaultRecord);

#[test]
fn a_record_that_makes_no_vault_is_refused_whoever_made_it() {
    let (_, target) = unlisted_pair();
    let key = import_key(&target);
    let to = Target::parse(&key.kek_id, &key.public_key).expect("a target");
    let recovery =
        || Some(Recovery { wrapped_mk: "w".repeat(64), iv: "i".repeat(16), format_version: 1, set_at: Some(TIME) });
    let whole = |spoil: Spoil| {
        let mut record = record("alice");
        spoil(&mut record);
        if record.zero_knowledge && record.recovery.is_none() && record.key_check.is_none() {
            record.recovery = recovery();
        }
        to.seal(&record).expect("a bundle")
    };
    let spoilt: &[Spoil] = &[
        |r| r.versions.clear(),
        |r| drop(r.versions.pop()),
        |r| r.versions[0].state = "current".into(),
        |r| r.versions[2].state = "decrypt_only".into(),
        |r| r.versions[1].state = "unknown".into(),
        |r| r.versions[1] = of(2, "destroyed", None),
        |r| r.versions[1] = of(2, "destroyed", Some(2)),
        |r| r.versions[1].master_key = None,
        |r| r.versions[1].superseded_at = None,
        |r| r.versions[1].destroy_after = Some(TIME),
        |r| {
            r.versions[1] = of(2, "destroy_scheduled", Some(2));
            r.versions[1].destroy_after = None;
        },
        |r| r.versions[2].master_key = None,
        |r| r.zero_knowledge = true,
        |r| {
            (r.zero_knowledge, r.key_check) = (true, Some("ab".repeat(16)));
            r.versions[2].master_key = None;
        },
        |r| r.key_check = Some("ABCDEF".into()),
        |r| r.created_at = None,
        |r| r.created_at = Some(i64::MAX - 1),
        |r| r.rotated_at = Some(i64::MIN + 1),
        |r| r.versions[0].superseded_at = Some(i64::MAX - 1),
        |r| {
            r.recovery =
                Some(Recovery { wrapped_mk: "w".repeat(2000), iv: "i".into(), format_version: 1, set_at: Some(TIME) })
        },
        |r| {
            r.recovery =
                Some(Recovery { wrapped_mk: "w".into(), iv: String::new(), format_version: 1, set_at: Some(TIME) })
        },
        |r| r.recovery = Some(Recovery { wrapped_mk: "w".into(), iv: "i".into(), format_version: 1, set_at: None }),
    ];
    for (number, spoil) in spoilt.iter().enumerate() {
        let refusal = expect_vault_error(import(&target, &whole(*spoil)), "XX001");
        assert!(refusal.message.contains("no valid vault"), "{number}: {refusal:?}");
    }
    assert!(everything(&target).is_empty());
    let rows = trail_of(&target, "alice");
    assert_eq!(rows, vec!["import 400 bad-record"; spoilt.len()]);
    // The ones that do make a vault.
    import(&target, &whole(|_| ())).unwrap();
    assert_eq!(decode(&fetch(&mut target.app_for("alice")).unwrap().master_key), [4; 32]);
    target.conn("wire_admin").query("SELECT vault_erase('alice')", &[]).unwrap();
    import(
        &target,
        &whole(|r| {
            r.zero_knowledge = true;
            r.versions[2].master_key = None;
            (r.created_at, r.tokens_valid_from) = (Some(i64::MIN), Some(i64::MAX));
        }),
    )
    .unwrap();
    let infinite: bool =
        target.value("SELECT created_at = '-infinity' AND zero_knowledge FROM vault_ext.encryption_vaults");
    assert!(infinite);
}

#[test]
fn an_import_that_is_rolled_back_leaves_nothing_but_two_rows() {
    let (source, target) = pair();
    init(&mut source.app_for("alice")).unwrap();
    rotate(&mut source.app_for("alice")).unwrap();
    let bundle = export(&source, &target, "alice");
    let fingerprint = import_key(&target).fingerprint;
    let mut admin = target.conn("wire_admin");
    let mut transaction = admin.transaction().unwrap();
    transaction.query("SELECT vault_import($1)", &[&bundle]).unwrap();
    transaction.rollback().unwrap();
    wait_for_trail(&target, "alice", &[&format!("import 201 {fingerprint}"), "import 409 rolled-back"]);
    assert!(everything(&target).is_empty());
    import(&target, &bundle).unwrap();
    assert_eq!(everything(&target).len(), 2);
}

#[test]
fn concurrent_imports_of_a_vault_make_one() {
    let (source, target) = pair();
    let key = init(&mut source.app_for("alice")).unwrap();
    let bundle = export(&source, &target, "alice");
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..6).map(|_| scope.spawn(|| import(&target, &bundle))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert!(outcomes.iter().all(|outcome| outcome.as_ref().is_ok_and(|user| user == "alice")), "{outcomes:?}");
    let statuses: Vec<_> = target.audit_of("alice").iter().map(|row| row.status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 5, "{statuses:?}");
    assert_eq!(fetch(&mut target.app_for("alice")).unwrap().master_key, key.master_key);
}

#[test]
fn a_standby_shows_its_import_key_and_moves_nothing() {
    let (source, _) = unlisted_pair();
    init(&mut source.app_for("alice")).unwrap();
    let mut standby = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = standby.database("d");
    let key = import_key(&db);
    allow(&source, &key.fingerprint);
    let bundle = export_to(&source, "alice", &key).unwrap();
    init(&mut db.app_for("bob")).unwrap();
    allow(&db, &key.fingerprint);
    drop(db);
    standby.restart_as_standby();
    let db = standby.existing_database("d");
    assert_eq!(import_key(&db), key);
    expect_vault_error(import(&db, &bundle), "25006");
    expect_vault_error(export_to(&db, "bob", &key), "25006");
    expect_vault_error(db.app_for("bob").query("SELECT vault_seal_master_key($1)", &[&key.public_key]), "25006");
}

#[test]
fn no_key_of_a_vault_that_moves_is_in_a_log() {
    let logged = |seed: u64, id: &str| {
        let builder = Cluster::builder().keyring(&keyring_line(id, &kek(seed))).without_fsync();
        builder.conf("log_statement = all").conf("log_min_error_statement = debug5").start()
    };
    let (one, two) = (logged(41, "one"), logged(42, "two"));
    let (source, target) = (one.database("d"), two.database("d"));
    let key = import_key(&target);
    allow(&source, &key.fingerprint);
    let mut app = source.app_for("alice");
    let keys: Vec<_> = [init(&mut app).unwrap(), rotate(&mut app).unwrap()].map(|key| decode(&key.master_key)).into();
    let bundle = export_to(&source, "alice", &key).unwrap();
    import(&target, &bundle).unwrap();
    expect_vault_error(import(&source, &bundle), "55000");
    init(&mut target.app_for("bob")).unwrap();
    target.force("UPDATE vault_ext.encryption_vaults SET user_id = 'x' WHERE user_id = 'alice'");
    let secrets: Vec<_> = keys.into_iter().chain([kek(41).to_vec(), kek(42).to_vec()]).collect();
    let texts = [bundle, format!("{key:?}"), format!("{:?}{:?}", source.audit(), target.audit())];
    assert_no_secrets(&one, &texts, &secrets);
    assert_no_secrets(&two, &texts, &secrets);
}

/// Memory that only this backend has, in kB.
fn memory(client: &mut Client) -> i64 {
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the backend runs");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("its memory");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn thousands_of_vaults_move_in_one_statement_and_memory_stays_flat() {
    let vaults = scenario_size(2_000, 10_000);
    let (source, target) = pair();
    let (master_key, iv) = (kek(77), [5; 12]);
    let (wrapped, iv) = (base64(&wrap(&PREDECESSOR_KEK, &iv, &master_key)), base64(&iv));
    source.force(&format!(
        "INSERT INTO vault_ext.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id)
         SELECT 'user-' || n, '{wrapped}', '{iv}', 1, 'env-v1' FROM generate_series(1, {vaults}) n"
    ));
    source.force(
        "CREATE TABLE users AS SELECT user_id FROM vault_ext.encryption_vaults; GRANT SELECT ON users TO wire_admin;
         CREATE TABLE bundles (bundle text); GRANT ALL ON bundles TO wire_admin",
    );
    let key = import_key(&target);
    let mut admin = source.conn("wire_admin");
    let mut export = |range: &str| {
        let sql = format!(
            "INSERT INTO bundles SELECT vault_export(user_id, $1, $2) FROM (SELECT user_id FROM users ORDER BY user_id {range}) u"
        );
        admin.execute(&sql, &[&key.kek_id, &key.public_key]).unwrap();
        memory(&mut admin)
    };
    let before = export("LIMIT 1000");
    let after = export("OFFSET 1000");
    assert!(after - before < 4096, "the exports took {} kB", after - before);
    assert_eq!(source.audit_where("action = 'export' AND status = 200").len(), vaults);

    let bundles: Vec<String> =
        source.superuser().query("SELECT bundle FROM bundles", &[]).unwrap().iter().map(|row| row.get(0)).collect();
    target.force("CREATE TABLE bundles (bundle text); GRANT ALL ON bundles TO wire_admin");
    target.superuser().execute("INSERT INTO bundles SELECT unnest($1::text[])", &[&bundles]).unwrap();
    let mut admin = target.conn("wire_admin");
    let mut import = |range: &str| {
        let sql = format!("SELECT count(vault_import(bundle)) FROM (SELECT bundle FROM bundles {range}) b");
        let count: i64 = admin.query_one(&sql, &[]).unwrap().get(0);
        (count, memory(&mut admin))
    };
    let (_, before) = import("LIMIT 1000");
    let (_, after) = import("OFFSET 1000");
    assert!(after - before < 4096, "the imports took {} kB", after - before);
    let arrived: i64 = target.value("SELECT count(*) FROM vault_ext.encryption_vaults WHERE kek_id = 'to-1'");
    assert_eq!(arrived as usize, vaults);
    assert_eq!(decode(&fetch(&mut target.app_for("user-1711")).unwrap().master_key), master_key);
}
