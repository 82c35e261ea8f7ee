//! The behaviour of init, fetch, rotate and status, one session at a time.

use crate::harness::{base64, decode, expect_vault_error, fetch, init, rotate, shared_db, status};

#[test]
fn init_mints_a_key_of_32_bytes_under_the_active_kek() {
    let db = shared_db();
    let key = init(&mut db.app_for("alice")).unwrap();
    let bytes = decode(&key.master_key);
    assert_eq!(bytes.len(), 32);
    assert_eq!(base64(&bytes), key.master_key, "standard base64 with padding");
    assert_eq!((key.format_version, key.key_version), (2, 1));
    assert_eq!(key.kek_id, "wire-1");
    let rows = db.audit();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].what(), ("init", 201, Some("created")));
    assert_eq!(rows[0].kek_id.as_deref(), Some("wire-1"));
    assert_eq!(rows[0].key_version, Some(1));
}

#[test]
fn init_again_gives_the_same_key() {
    let db = shared_db();
    let key = init(&mut db.app_for("alice")).unwrap();
    let before = db.vault_row("alice");
    let mut app = db.app_for("alice");
    for _ in 0..3 {
        assert_eq!(init(&mut app).unwrap(), key);
    }
    assert_eq!(db.vault_row("alice"), before);
    let rows = db.audit_of("alice");
    assert_eq!(rows.len(), 4);
    for row in &rows[1..] {
        assert_eq!(row.what(), ("init", 200, Some("already-exists")));
    }
}

#[test]
fn fetch_gives_the_key_and_fails_before_init() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    expect_vault_error(fetch(&mut app), "P0002");
    let key = init(&mut app).unwrap();
    assert_eq!(fetch(&mut app).unwrap(), key);
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
    let rows = db.audit_of("alice");
    let what: Vec<_> = rows.iter().map(|row| row.what()).collect();
    assert_eq!(
        what,
        [
            ("failed_fetch", 404, Some("not-initialised")),
            ("init", 201, Some("created")),
            ("fetch", 200, None),
            ("fetch", 200, None),
        ]
    );
}

#[test]
fn rotate_replaces_the_key_and_increments_its_version() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let mut seen = vec![init(&mut app).unwrap().master_key];
    for version in 2..=5 {
        let key = rotate(&mut app).unwrap();
        assert_eq!(key.key_version, version);
        assert_eq!(decode(&key.master_key).len(), 32);
        assert!(!seen.contains(&key.master_key));
        assert_eq!(fetch(&mut app).unwrap(), key);
        seen.push(key.master_key);
    }
    let rotations: Vec<_> = db
        .audit_of("alice")
        .into_iter()
        .filter(|row| row.action == "rotate")
        .map(|row| (row.status, row.context, row.key_version))
        .collect();
    assert_eq!(rotations.len(), 4);
    assert_eq!(rotations[0], (200, None, Some(2)));
    assert_eq!(rotations[3], (200, None, Some(5)));
}

#[test]
fn rotate_without_a_vault_acts_as_init() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let key = rotate(&mut app).unwrap();
    assert_eq!(key.key_version, 1);
    assert_eq!(init(&mut app).unwrap(), key);
    let rows = db.audit_of("alice");
    assert_eq!(rows[0].what(), ("rotate", 201, Some("init-on-rotate")));
}

#[test]
fn status_describes_the_vault_and_never_shows_the_key() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let none = status(&mut app).unwrap();
    assert!(!none.exists);
    assert_eq!((none.format_version, none.kek_id, none.key_version), (None, None, None));
    assert_eq!((none.created_at, none.rotated_at), (None, None));
    let key = init(&mut app).unwrap();
    let fresh = status(&mut app).unwrap();
    assert!(fresh.exists);
    assert_eq!(fresh.format_version, Some(2));
    assert_eq!(fresh.kek_id.as_deref(), Some("wire-1"));
    assert_eq!(fresh.key_version, Some(1));
    assert!(fresh.created_at.is_some());
    assert_eq!(fresh.rotated_at, None);
    rotate(&mut app).unwrap();
    let rotated = status(&mut app).unwrap();
    assert_eq!(rotated.key_version, Some(2));
    assert_eq!(rotated.created_at, fresh.created_at);
    assert!(rotated.rotated_at >= fresh.created_at);
    let text: String = app.query_one("SELECT s::text FROM vault_status() s", &[]).unwrap().get(0);
    assert!(!text.contains(&key.master_key));
    assert_eq!(db.audit().len(), 2, "status is not audited");
}

#[test]
fn every_user_has_a_key_of_its_own() {
    let db = shared_db();
    let mut keys: Vec<_> = (0..50).map(|i| init(&mut db.app_for(&format!("user-{i}"))).unwrap().master_key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 50);
    let ivs: i64 = db.value("SELECT count(DISTINCT wrap_iv) FROM vault_ext.encryption_vaults");
    assert_eq!(ivs, 50, "a nonce was used twice");
}

#[test]
fn the_result_is_a_composite_that_reads_as_columns_and_as_json() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let key = init(&mut app).unwrap();
    let json: serde_json::Value = app.query_one("SELECT to_json(vault_get_master_key())", &[]).unwrap().get(0);
    assert_eq!(
        json,
        serde_json::json!({
            "master_key": key.master_key,
            "format_version": 2,
            "kek_id": "wire-1",
            "key_version": 1,
            "requires_recovery_code": false,
            "recovery_wrapped_mk": null,
            "recovery_iv": null,
        })
    );
    let columns: Vec<_> = app
        .prepare("SELECT * FROM vault_get_master_key()")
        .unwrap()
        .columns()
        .iter()
        .map(|column| column.name().to_owned())
        .collect();
    assert_eq!(columns[..4], ["master_key", "format_version", "kek_id", "key_version"]);
    assert_eq!(columns[4..], ["requires_recovery_code", "recovery_wrapped_mk", "recovery_iv"]);
}

#[test]
fn a_call_in_the_simple_protocol_works_too() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let key = init(&mut app).unwrap();
    let messages = app.simple_query("SELECT (vault_get_master_key()).master_key").unwrap();
    let text: Vec<_> = messages
        .iter()
        .filter_map(|message| match message {
            postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        })
        .collect();
    assert_eq!(text, [key.master_key.as_str()]);
}
