//! The predecessor's rows and clients keep working; new rows are format 2.

use std::process::Command;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};

use crate::documented::sql_blocks;
use crate::harness::{
    Db, PREDECESSOR_KEK, base64, decode, expect_vault_error, fetch, init, rotate, shared_db, status, succeed,
};

const IV: &str = "EBESExQVFhcYGRob";
const WRAPPED: &str = "EkoYuy/eugLj+TUwymd4xT07qypjikNu+XfObRXpLsp1LPM+pXxISRohaJtl0f9/";

/// The master key of the test vectors: bytes a0 a1 .. bf.
fn master_key() -> Vec<u8> {
    (0xa0..=0xbf).collect()
}

pub fn insert_predecessor_row(db: &Db, user: &str, wrapped: &str, iv: &str) {
    db.superuser()
        .execute(
            "INSERT INTO vault_ext.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id)
                VALUES ($1, $2, $3, 1, 'env-v1')",
            &[&user, &wrapped, &iv],
        )
        .unwrap();
}

fn cipher(key: &[u8]) -> Aes256Gcm {
    Aes256Gcm::new_from_slice(key).expect("32 bytes")
}

fn nonce(iv: &[u8]) -> Nonce<aes_gcm::aead::consts::U12> {
    Nonce::try_from(iv).expect("12 bytes")
}

fn open(key: &[u8], iv: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (ciphertext, tag) = sealed.split_at(sealed.len().checked_sub(16)?);
    let mut buffer = ciphertext.to_vec();
    let tag = Tag::try_from(tag).expect("16 bytes");
    cipher(key).decrypt_inout_detached(&nonce(iv), b"", buffer.as_mut_slice().into(), &tag).ok().map(|()| buffer)
}

/// A wrap of format 1, or a blob of the predecessor's clients.
pub fn seal(key: &[u8], iv: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let mut buffer = plaintext.to_vec();
    let tag =
        cipher(key).encrypt_inout_detached(&nonce(iv), b"", buffer.as_mut_slice().into()).expect("a short plaintext");
    buffer.extend_from_slice(&tag);
    buffer
}

/// Opens a value the way the predecessor's clients do.
fn open_blob(master_key: &[u8], blob: &str) -> Option<String> {
    let (iv, sealed) = blob.strip_prefix("enc:1:")?.split_once('.')?;
    let plaintext = open(master_key, &decode(iv), &decode(sealed))?;
    String::from_utf8(plaintext).ok()
}

#[test]
fn the_predecessor_s_row_opens() {
    let db = shared_db();
    insert_predecessor_row(&db, "alice", WRAPPED, IV);
    let mut app = db.app_for("alice");
    let key = fetch(&mut app).unwrap();
    assert_eq!(decode(&key.master_key), master_key());
    assert_eq!((key.format_version, key.key_version), (1, 1));
    assert_eq!(key.kek_id, "env-v1");
    assert_eq!(init(&mut app).unwrap(), key, "init must not replace the key");
    assert_eq!(status(&mut app).unwrap().format_version, Some(1));
}

#[test]
fn predecessor_rows_of_many_users_open_after_copy() {
    let db = shared_db();
    let mut lines = String::new();
    let keys: Vec<(String, Vec<u8>)> = (0..20_u8).map(|i| (format!("user-{i}"), vec![i; 32])).collect();
    for (i, (user, key)) in keys.iter().enumerate() {
        let iv = [i as u8 + 100; 12];
        let wrapped = base64(&seal(&PREDECESSOR_KEK, &iv, key));
        lines.push_str(&format!("{user}\t{wrapped}\t{}\t1\tenv-v1\n", base64(&iv)));
    }
    let mut superuser = db.superuser();
    let mut writer = superuser
        .copy_in("COPY vault_ext.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id) FROM STDIN")
        .unwrap();
    std::io::Write::write_all(&mut writer, lines.as_bytes()).unwrap();
    assert_eq!(writer.finish().unwrap(), 20);
    for (user, key) in &keys {
        let fetched = fetch(&mut db.app_for(user)).unwrap();
        assert_eq!(decode(&fetched.master_key), *key, "{user}");
    }
}

#[test]
fn the_predecessor_s_blobs_decrypt_with_the_fetched_key() {
    let db = shared_db();
    insert_predecessor_row(&db, "alice", WRAPPED, IV);
    let key = decode(&fetch(&mut db.app_for("alice")).unwrap().master_key);
    let vectors = [
        ("\"Buy milk\"", "enc:1:EBESExQVFhcYGRob.tvQAd/4q3N7xW9cF3O/tMti4RWEbn5l9FT8="),
        ("\"\"", "enc:1:EBESExQVFhcYGRob.tpRxLOlOq/GwcA3fFyuc8FjE"),
        ("42", "enc:1:EBESExQVFhcYGRob.oIQtNe0cKsQwgTqn1rJcEWFt"),
        ("{\"a\":1,\"b\":[\"x\",null]}", "enc:1:EBESExQVFhcYGRob.75QULOR2mZD4W1ZKu0uemJ0ncKOygjtpfWXXvETX9R4PLqBCSiY="),
    ];
    for (value, blob) in vectors {
        assert_eq!(open_blob(&key, blob).as_deref(), Some(value));
        assert_eq!(open_blob(&PREDECESSOR_KEK, blob), None, "only the right key opens");
    }
}

#[test]
fn a_rotated_predecessor_row_becomes_format_2_under_the_active_kek() {
    let db = shared_db();
    insert_predecessor_row(&db, "alice", WRAPPED, IV);
    let mut app = db.app_for("alice");
    let key = rotate(&mut app).unwrap();
    assert_eq!((key.format_version, key.key_version), (2, 2));
    assert_eq!(key.kek_id, "wire-1");
    assert_ne!(decode(&key.master_key), master_key());
    assert_eq!(fetch(&mut app).unwrap(), key);
    let iv: i32 = db.value("SELECT length(wrap_iv) FROM vault_ext.encryption_vaults");
    assert_eq!(iv, 32);
}

#[test]
fn new_wraps_are_format_2_with_a_nonce_of_24_bytes() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    let row = db
        .superuser()
        .query_one("SELECT format_version, wrapped_mk, wrap_iv FROM vault_ext.encryption_vaults", &[])
        .unwrap();
    assert_eq!(row.get::<_, i16>(0), 2);
    assert_eq!(decode(row.get(1)).len(), 48);
    assert_eq!(decode(row.get(2)).len(), 24);
    assert_eq!(row.get::<_, &str>(2).len(), 32);
}

#[test]
fn the_stored_wrap_is_not_the_key_and_changes_with_each_rotate() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let key = init(&mut app).unwrap();
    let before = db.vault_row("alice").unwrap();
    assert!(!before.contains(&key.master_key));
    rotate(&mut app).unwrap();
    assert_ne!(db.vault_row("alice").unwrap(), before);
}

#[test]
fn a_format_1_wrap_under_a_wrong_kek_id_does_not_open() {
    let db = shared_db();
    insert_predecessor_row(&db, "alice", WRAPPED, IV);
    db.force("UPDATE vault_ext.encryption_vaults SET kek_id = 'spare'");
    expect_vault_error(fetch(&mut db.app_for("alice")), "XX001");
    expect_vault_error(rotate(&mut db.app_for("alice")), "XX001");
}

#[test]
fn a_format_1_wrap_with_any_changed_character_does_not_open() {
    let db = shared_db();
    for position in (0..64).step_by(7) {
        let mut wrapped = WRAPPED.as_bytes().to_vec();
        wrapped[position] = if wrapped[position] == b'x' { b'y' } else { b'x' };
        let user = format!("wrap-{position}");
        insert_predecessor_row(&db, &user, std::str::from_utf8(&wrapped).unwrap(), IV);
        expect_vault_error(fetch(&mut db.app_for(&user)), "XX001");
    }
    for position in 0..16 {
        let mut iv = IV.as_bytes().to_vec();
        iv[position] = if iv[position] == b'x' { b'y' } else { b'x' };
        let user = format!("iv-{position}");
        insert_predecessor_row(&db, &user, WRAPPED, std::str::from_utf8(&iv).unwrap());
        expect_vault_error(fetch(&mut db.app_for(&user)), "XX001");
    }
}

/// The table of the predecessor's last version, with its checks.
const NEWEST_TABLE: &str = "
    CREATE SCHEMA auth;
    CREATE TABLE auth.encryption_vaults (user_id text PRIMARY KEY, wrapped_mk text, wrap_iv text,
        format_version smallint NOT NULL DEFAULT 1, kek_id text NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),
        rotated_at timestamptz, recovery_wrapped_mk text, recovery_iv text,
        recovery_format_version smallint NOT NULL DEFAULT 1, recovery_set_at timestamptz,
        zero_knowledge boolean NOT NULL DEFAULT false,
        CHECK (wrapped_mk IS NOT NULL OR recovery_wrapped_mk IS NOT NULL),
        CHECK ((wrapped_mk IS NULL) = (wrap_iv IS NULL)), CHECK ((recovery_wrapped_mk IS NULL) = (recovery_iv IS NULL)),
        CHECK (NOT zero_knowledge OR (wrapped_mk IS NULL AND recovery_wrapped_mk IS NOT NULL)))";

const ROWS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/independent/predecessor_rows.py");

/// Runs a script with Debian's own Python, for which python3-cryptography is installed.
fn rows(argument: &str) -> String {
    succeed(Command::new("/usr/bin/python3").arg(ROWS).arg(argument))
}

fn move_in(db: &Db) {
    let page = include_str!("../../docs/how-to/move-in.md");
    let [(_, sql)] = &sql_blocks(page)[..] else { panic!("one block of SQL") };
    db.force(sql);
}

fn sha256(text: &str) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref().to_vec()
}

#[test]
fn the_documented_statement_loads_the_predecessor_s_newest_table() {
    const USERS: usize = 30;
    assert_eq!(rows("--check"), "ok\n", "the script computes the predecessor's vectors");
    let db = shared_db();
    db.force(NEWEST_TABLE);
    let mut superuser = db.superuser();
    let mut writer = superuser.copy_in("COPY auth.encryption_vaults FROM STDIN").unwrap();
    std::io::Write::write_all(&mut writer, rows(&USERS.to_string()).as_bytes()).unwrap();
    assert_eq!(writer.finish().unwrap(), USERS as u64);
    move_in(&db);
    let differences: i64 = db.value(
        "SELECT count(*) FROM (SELECT user_id, wrapped_mk, wrap_iv, format_version, kek_id, created_at, rotated_at,
             recovery_wrapped_mk, recovery_iv, recovery_format_version, recovery_set_at, zero_knowledge
             FROM vault_ext.encryption_vaults EXCEPT TABLE auth.encryption_vaults) d",
    );
    assert_eq!(differences, 0);
    let sql = "SELECT k.master_key, k.recovery_wrapped_mk, k.recovery_iv, s.has_recovery_wrap, s.zero_knowledge
        FROM vault_get_master_key() k, vault_status() s";
    for number in 0..USERS {
        let user = format!("user-{number}");
        let row = db.app_for(&user).query_one(sql, &[]).unwrap();
        let master_key = sha256(&format!("key of {user}"));
        let in_mode = number % 3 == 2;
        assert_eq!((row.get::<_, bool>(3), row.get::<_, bool>(4)), (number % 3 != 0, in_mode), "{user}");
        if !in_mode {
            assert_eq!(decode(row.get(0)), master_key, "{user}");
            continue;
        }
        assert_eq!(row.get::<_, Option<&str>>(0), None);
        let key = recovery_key(&sha256(&format!("code of {user}")));
        assert_eq!(open(&key, &decode(row.get(2)), &decode(row.get(1))), Some(master_key), "{user}");
    }
    let sql = "SELECT sum(vaults)::bigint FROM vault_check() WHERE outcome = 'opens'";
    let opened: i64 = db.conn("wire_admin").query_one(sql, &[]).unwrap().get(0);
    assert_eq!(opened, 20);
}

/// The key of a recovery code's secret.
fn recovery_key(secret: &[u8]) -> Vec<u8> {
    let salt = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &[]);
    let prk = ring::hmac::sign(&salt, secret);
    let block = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, prk.as_ref());
    ring::hmac::sign(&block, b"mana-recovery-v1\x01").as_ref().to_vec()
}

#[test]
fn a_row_of_the_predecessor_without_a_time_of_its_recovery_code_moves_in() {
    let db = shared_db();
    db.force(&format!(
        "{NEWEST_TABLE};
         INSERT INTO auth.encryption_vaults (user_id, wrapped_mk, wrap_iv, kek_id, created_at, recovery_wrapped_mk, recovery_iv)
         VALUES ('alice', '{WRAPPED}', '{IV}', 'env-v1', '2024-05-06 07:08:09+00',
             'iOIMVYY5oxAgyY1xS9PzDB36R+7sHkTPY48aHDcsGkLSONC4KYNsAkSdmpTB3S9g', '{IV}')"
    ));
    move_in(&db);
    assert_eq!(decode(&fetch(&mut db.app_for("alice")).unwrap().master_key), master_key());
    let kept: bool = db.value(
        "SELECT created_at = '2024-05-06 07:08:09+00' AND recovery_set_at = created_at FROM vault_ext.encryption_vaults",
    );
    assert!(kept);
}
