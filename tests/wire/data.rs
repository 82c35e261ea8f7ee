//! Keys in use in SQL: values, indexes, derived keys and the predecessor's client blobs, by roles that get no raw key.

use std::time::Duration;

use postgres::types::{FromSql, ToSql};
use postgres::{Client, Error, GenericClient};

use serde_json::json;

use crate::harness::{
    Cluster, Db, PREDECESSOR_KEK, assert_no_secrets, claims, decode, eventually, expect_error, expect_vault_error,
    fetch, init, keyring_line, rotate, rotate_and_destroy, shared_db, token_db,
};

const SOON: Duration = Duration::from_secs(30);
const PLACE: &str = "notes.body:1";

/// A database in which alice has a vault.
fn db_with_alice() -> Db<'static> {
    let db = shared_db();
    db.crypt_for("alice").execute("SELECT vault_create()", &[]).unwrap();
    db
}

fn get<T: for<'a> FromSql<'a>>(
    client: &mut impl GenericClient,
    sql: &str,
    args: &[&(dyn ToSql + Sync)],
) -> Result<T, Error> {
    client.query_one(sql, args).and_then(|row| row.try_get(0))
}

fn encrypt(client: &mut impl GenericClient, text: &str, context: &str) -> Result<Vec<u8>, Error> {
    get(client, "SELECT vault_encrypt($1::text, $2)", &[&text, &context])
}

fn decrypt(client: &mut impl GenericClient, value: &[u8], context: &str) -> Result<String, Error> {
    get(client, "SELECT vault_decrypt_text($1, $2)", &[&value, &context])
}

fn rows_of(db: &Db, user: &str) -> Vec<String> {
    let text = |row: &crate::harness::AuditRow| {
        format!("{} {} {}", row.action, row.status, row.context.as_deref().unwrap_or_default()).trim_end().to_owned()
    };
    db.audit_of(user).iter().map(text).collect()
}

#[test]
fn each_type_comes_back_as_it_was() {
    let db = db_with_alice();
    let mut app = db.crypt_for("alice");
    for text in ["", "Buy milk", "\u{202e}ünï\t\n\"'\\"] {
        let value = encrypt(&mut app, text, PLACE).unwrap();
        assert_eq!(value.len(), text.len() + 46);
        assert_eq!(decrypt(&mut app, &value, PLACE).unwrap(), text);
        assert_ne!(encrypt(&mut app, text, PLACE).unwrap(), value, "each nonce is new");
    }
    let bytes: Vec<u8> = (0..=255).collect();
    let value: Vec<u8> = get(&mut app, "SELECT vault_encrypt($1::bytea, $2)", &[&bytes, &PLACE]).unwrap();
    assert_eq!(get::<Vec<u8>>(&mut app, "SELECT vault_decrypt($1, $2)", &[&value, &PLACE]).unwrap(), bytes);
    // Numbers keep all their digits, unlike in JavaScript.
    let json = r#"{"a": 12345678901234567890.123456789, "b": ["x", null]}"#;
    let sql = "SELECT vault_decrypt_json(vault_encrypt($1::text::jsonb, 'j'), 'j')::text";
    assert_eq!(get::<String>(&mut app, sql, &[&json]).unwrap(), json);
}

#[test]
fn null_stays_null_and_a_place_is_needed() {
    let db = db_with_alice();
    let mut app = db.crypt_for("alice");
    for sql in [
        "SELECT vault_encrypt(NULL::text, 'x')",
        "SELECT vault_encrypt(NULL::bytea, 'x')",
        "SELECT vault_encrypt(NULL::jsonb, 'x')",
        "SELECT vault_decrypt(NULL, 'x')",
        "SELECT vault_reencrypt(NULL, 'x')",
        "SELECT vault_ciphertext_version(NULL)",
        "SELECT vault_ciphertext_version('\\x00')",
        "SELECT vault_ciphertext_version('\\x0102')",
    ] {
        let is_null: bool = get(&mut app, &format!("SELECT ({sql}) IS NULL"), &[]).unwrap();
        assert!(is_null, "{sql}");
    }
    assert_eq!(get::<Option<Vec<u8>>>(&mut app, "SELECT vault_blind_index(NULL, 'x')", &[]).unwrap(), None);
    assert_eq!(rows_of(&db, "alice"), ["init 201 created"], "nothing was used");
    let long = "x".repeat(1025);
    for context in [None, Some(""), Some(long.as_str())] {
        expect_vault_error(get::<Vec<u8>>(&mut app, "SELECT vault_encrypt('secret'::text, $1)", &[&context]), "22023");
    }
    for purpose in [None, Some(""), Some(&long[..256])] {
        let sql = "SELECT vault_encrypt('secret'::text, 'x', $1)";
        expect_vault_error(get::<Vec<u8>>(&mut app, sql, &[&purpose]), "22023");
        expect_vault_error(get::<Vec<u8>>(&mut app, "SELECT vault_derive_key($1::text)", &[&purpose]), "22023");
    }
    expect_error(app.simple_query("SELECT vault_encrypt('secret')"), "42883");
}

#[test]
fn a_value_opens_in_its_own_place_only() {
    let db = db_with_alice();
    db.crypt_for("bob").execute("SELECT vault_create()", &[]).unwrap();
    let mut app = db.crypt_for("alice");
    let value = encrypt(&mut app, "secret", PLACE).unwrap();
    let mut refusals = Vec::new();
    for context in ["notes.body:2", "notes.body:1 ", "notes.title:1"] {
        refusals.push(expect_vault_error(decrypt(&mut app, &value, context), "XX001"));
    }
    let sql = "SELECT vault_decrypt_text($1, $2, 'other')";
    refusals.push(expect_vault_error(get::<String>(&mut app, sql, &[&value, &PLACE]), "XX001"));
    refusals.push(expect_vault_error(decrypt(&mut db.crypt_for("bob"), &value, PLACE), "XX001"));
    // Nothing says which of these it was.
    assert!(refusals.iter().all(|refusal| refusal.text() == refusals[0].text()), "{refusals:?}");
    // The type is written on it.
    let other =
        expect_vault_error(get::<Vec<u8>>(&mut app, "SELECT vault_decrypt($1, $2)", &[&value, &PLACE]), "22023");
    assert!(other.hint.unwrap().contains("vault_decrypt_text"));
    let rows = db.audit_where("context = 'value-does-not-open'");
    assert_eq!(rows.len(), 5);
    assert!(rows.iter().all(|row| row.action == "decrypt" && row.status == 500));
    assert_eq!(decrypt(&mut app, &value, PLACE).unwrap(), "secret");
}

#[test]
fn a_value_that_was_changed_does_not_open() {
    let db = db_with_alice();
    let mut app = db.crypt_for("alice");
    let value = encrypt(&mut app, "secret", PLACE).unwrap();
    let mut tx = app.transaction().unwrap();
    let mut refused = 0;
    let mut try_it = |changed: &[u8]| {
        let mut savepoint = tx.savepoint("s").unwrap();
        let error = decrypt(&mut savepoint, changed, PLACE).expect_err("a changed value");
        let code = error.code().unwrap().code().to_owned();
        // The type and the version stand in the open: they can be wrong in ways of their own.
        assert!(["XX001", "22023", "P0002"].contains(&code.as_str()), "{code}");
        savepoint.rollback().unwrap();
        refused += 1;
    };
    for bit in 0..value.len() * 8 {
        let mut changed = value.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        try_it(&changed);
    }
    for len in 0..value.len() {
        try_it(&value[..len]);
    }
    try_it(&[&value[..], &[0]].concat());
    try_it(&[&[1], &value[..]].concat());
    assert_eq!(refused, value.len() * 9 + 2);
    assert_eq!(decrypt(&mut tx, &value, PLACE).unwrap(), "secret");
}

#[test]
fn the_role_that_uses_keys_gets_none() {
    let db = db_with_alice();
    let mut app = db.crypt_for("alice");
    for sql in [
        "SELECT vault_get_master_key()",
        "SELECT vault_init()",
        "SELECT vault_rotate()",
        "SELECT vault_rotate(true)",
        "SELECT vault_get_key_version(1)",
        "SELECT * FROM vault_ext.encryption_vaults",
        "SELECT * FROM vault_ext.old_keys",
    ] {
        expect_error(app.simple_query(sql), "42501");
    }
    assert!(!get::<bool>(&mut app, "SELECT vault_create()", &[]).unwrap(), "there is a vault");
    assert_eq!(get::<i32>(&mut app, "SELECT vault_create_key_version()", &[]).unwrap(), 2);
    let states: Vec<String> = app
        .query("SELECT key_version || ' ' || state FROM vault_key_versions()", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(states, ["2 current", "1 decrypt_only"]);
    expect_error(encrypt(&mut db.conn("wire_stranger"), "x", "y"), "42501");
    expect_vault_error(encrypt(&mut db.conn("wire_crypt"), "x", "y"), "28000");
    expect_vault_error(encrypt(&mut db.crypt_for("nobody"), "x", "y"), "P0002");
}

#[test]
fn a_transaction_leaves_a_row_before_its_first_use_and_one_with_the_number_of_uses() {
    let db = db_with_alice();
    let mut app = db.crypt_for("alice");
    let mut tx = app.transaction().unwrap();
    let value = encrypt(&mut tx, "secret", PLACE).unwrap();
    assert_eq!(rows_of(&db, "alice"), ["init 201 created", "encrypt 200 purpose data"]);
    for _ in 0..3 {
        decrypt(&mut tx, &value, PLACE).unwrap();
        assert_eq!(rows_of(&db, "alice").len(), 3, "before the plaintext, and once");
    }
    let long = "SELECT count(vault_decrypt_text($1, $2)) FROM generate_series(1, 1000)";
    assert_eq!(get::<i64>(&mut tx, long, &[&value, &PLACE]).unwrap(), 1000);
    // A rollback takes no row back.
    tx.rollback().unwrap();
    let expected = [
        "init 201 created",
        "encrypt 200 purpose data",
        "decrypt 200 purpose data",
        "decrypt 200 purpose data: 1003 uses",
    ];
    eventually(SOON, "the last row is there", || rows_of(&db, "alice") == expected);
    let rows = db.audit_of("alice");
    assert!(rows.iter().all(|row| row.key_version == Some(1) && row.kek_id.as_deref() == Some("wire-1")), "{rows:?}");
    // Another purpose, another user and another transaction have rows of their own.
    decrypt(&mut app, &value, PLACE).unwrap();
    let _: Vec<u8> = get(&mut app, "SELECT vault_encrypt('x'::text, 'y', 'mail')", &[]).unwrap();
    assert_eq!(rows_of(&db, "alice")[4..], ["decrypt 200 purpose data", "encrypt 200 purpose mail"]);
}

#[test]
fn the_trail_can_have_a_row_for_each_statement_or_value() {
    let db = db_with_alice();
    let mut app = db.crypt_for("alice");
    let value = encrypt(&mut app, "secret", PLACE).unwrap();
    let sql = "SELECT count(vault_decrypt_text($1, $2)) FROM generate_series(1, 5)";
    for (setting, rows) in [("transaction", 1), ("statement", 3), ("value", 15)] {
        db.force(&format!(
            "ALTER ROLE wire_crypt IN DATABASE \"{}\" SET vault_ext.audit_decrypts = {setting}",
            db.name
        ));
        let mut app = db.crypt_for("alice");
        let count = || rows_of(&db, "alice").iter().filter(|row| *row == "decrypt 200 purpose data").count();
        let before = count();
        let mut tx = app.transaction().unwrap();
        for _ in 0..3 {
            assert_eq!(get::<i64>(&mut tx, sql, &[&value, &PLACE]).unwrap(), 5);
        }
        assert_eq!(count() - before, rows, "{setting}");
        tx.commit().unwrap();
    }
    expect_error(app.batch_execute("SET vault_ext.audit_decrypts = transaction"), "42501");
}

#[test]
fn a_transaction_decrypts_no_more_than_it_may() {
    let db = db_with_alice();
    db.force(&format!("ALTER ROLE wire_crypt IN DATABASE \"{}\" SET vault_ext.max_decrypts = 10", db.name));
    let mut app = db.crypt_for("alice");
    let value = encrypt(&mut app, "secret", PLACE).unwrap();
    let sql = "SELECT count(vault_decrypt_text($1, $2)) FROM generate_series(1, $3)";
    for _ in 0..2 {
        assert_eq!(get::<i64>(&mut app, sql, &[&value, &PLACE, &10]).unwrap(), 10, "each transaction begins anew");
        expect_vault_error(get::<i64>(&mut app, sql, &[&value, &PLACE, &11]), "53400");
    }
    assert!(rows_of(&db, "alice").contains(&"decrypt 429 too-many-decrypts".to_owned()));
    expect_error(app.batch_execute("SET vault_ext.max_decrypts = 0"), "42501");
}

#[test]
fn the_plaintext_of_a_value_has_64_mib_at_most() {
    let db = db_with_alice();
    let mut app = db.crypt_for("alice");
    let sql = "SELECT length(vault_decrypt(vault_encrypt(convert_to(repeat('x', $1), 'UTF8'), 'big'), 'big'))";
    assert_eq!(get::<i32>(&mut app, sql, &[&(64 << 20)]).unwrap(), 64 << 20);
    expect_vault_error(get::<i32>(&mut app, sql, &[&((64 << 20) + 1)]), "54000");
}

#[test]
fn a_rotation_leaves_values_readable_until_the_old_key_is_destroyed() {
    let db = db_with_alice();
    let mut app = db.crypt_for("alice");
    let old = encrypt(&mut app, "old", PLACE).unwrap();
    app.execute("SELECT vault_create_key_version()", &[]).unwrap();
    let new = encrypt(&mut app, "new", PLACE).unwrap();
    let version = |value: &[u8]| db.value::<i32>(&format!("SELECT vault_ciphertext_version('\\x{}')", hex(value)));
    assert_eq!((version(&old), version(&new)), (1, 2));
    assert_eq!(
        (decrypt(&mut app, &old, PLACE).unwrap().as_str(), decrypt(&mut app, &new, PLACE).unwrap().as_str()),
        ("old", "new")
    );
    let again: Vec<u8> = get(&mut app, "SELECT vault_reencrypt($1, $2)", &[&old, &PLACE]).unwrap();
    assert_eq!((version(&again), decrypt(&mut app, &again, PLACE).unwrap().as_str()), (2, "old"));
    let same: Vec<u8> = get(&mut app, "SELECT vault_reencrypt($1, $2)", &[&new, &PLACE]).unwrap();
    assert_eq!(same, new, "what is under the current key stays as it is");
    expect_vault_error(get::<Vec<u8>>(&mut app, "SELECT vault_reencrypt($1, 'elsewhere')", &[&old]), "XX001");

    app.execute("SELECT vault_disable_key_version(1)", &[]).unwrap();
    let refusal = expect_vault_error(decrypt(&mut app, &old, PLACE), "55000");
    assert!(refusal.message.contains("version 1") && refusal.message.contains("disabled"), "{refusal:?}");
    app.execute("SELECT vault_restore_key_version(1)", &[]).unwrap();
    assert_eq!(decrypt(&mut app, &old, PLACE).unwrap(), "old");

    rotate_and_destroy(&mut db.app_for("alice")).unwrap();
    let refusal = expect_vault_error(decrypt(&mut app, &new, PLACE), "55000");
    assert!(refusal.message.contains("version 2") && refusal.message.contains("destroyed"), "{refusal:?}");
    let mut future = new.clone();
    future[5] = 9;
    let refusal = expect_vault_error(decrypt(&mut app, &future, PLACE), "P0002");
    assert!(refusal.message.contains("version 9"), "{refusal:?}");
    assert_eq!(decrypt(&mut app, &old, PLACE).unwrap(), "old", "version 1 was kept");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_rotation_waits_for_transactions_that_have_encrypted() {
    let db = db_with_alice();
    let mut app = db.crypt_for("alice");
    let mut tx = app.transaction().unwrap();
    let value = encrypt(&mut tx, "secret", PLACE).unwrap();
    let mut other = db.app_for("alice");
    other.batch_execute("SET lock_timeout = '200ms'").unwrap();
    // Destroyed now, the key would take the uncommitted value with it.
    expect_error(rotate_and_destroy(&mut other), "55P03");
    // Reading and indexing keep nobody waiting.
    tx.commit().unwrap();
    let mut tx = app.transaction().unwrap();
    decrypt(&mut tx, &value, PLACE).unwrap();
    let _: Vec<u8> = get(&mut tx, "SELECT vault_blind_index('x', 'y')", &[]).unwrap();
    rotate(&mut other).unwrap();
    assert_eq!(decrypt(&mut tx, &value, PLACE).unwrap(), "secret", "a key that is unlocked stays so until the end");
    // A lock that a savepoint has given back is taken again.
    let mut savepoint = tx.savepoint("s").unwrap();
    encrypt(&mut savepoint, "x", PLACE).unwrap();
    savepoint.rollback().unwrap();
    rotate(&mut other).unwrap();
    let value = encrypt(&mut tx, "x", PLACE).unwrap();
    assert_eq!(value[5], 3, "the version of after the rotation");
    expect_error(rotate(&mut other), "55P03");
    tx.rollback().unwrap();
    rotate(&mut other).unwrap();
}

#[test]
fn a_transaction_that_rotates_encrypts_under_its_new_key() {
    let db = db_with_alice();
    let mut app = db.crypt_for("alice");
    let mut tx = app.transaction().unwrap();
    let version = |value: Vec<u8>| value[5];
    assert_eq!(version(encrypt(&mut tx, "x", PLACE).unwrap()), 1);
    let mut savepoint = tx.savepoint("s").unwrap();
    savepoint.execute("SELECT vault_create_key_version()", &[]).unwrap();
    assert_eq!(version(encrypt(&mut savepoint, "x", PLACE).unwrap()), 2);
    savepoint.rollback().unwrap();
    let value = encrypt(&mut tx, "kept", PLACE).unwrap();
    assert_eq!(value[5], 1, "the rotation is undone");
    tx.commit().unwrap();
    assert_eq!(decrypt(&mut app, &value, PLACE).unwrap(), "kept");
}

#[test]
fn each_user_of_a_transaction_has_a_key_of_its_own() {
    let db = shared_db();
    for user in 0..100 {
        db.crypt_for(&format!("user-{user}")).execute("SELECT vault_create()", &[]).unwrap();
    }
    // More users than the keys that are kept unlocked.
    let mut app = db.conn("wire_crypt");
    let mut tx = app.transaction().unwrap();
    let one_by_one = "DO $$ DECLARE v bytea; BEGIN FOR n IN 0..299 LOOP
        PERFORM set_config('app.current_user_id', 'user-' || n % 100, true);
        v := vault_encrypt('of user ' || n % 100, 'c:' || n);
        ASSERT vault_decrypt_text(v, 'c:' || n) = 'of user ' || n % 100;
        PERFORM set_config('app.current_user_id', 'user-' || (n + 1) % 100, true);
        BEGIN PERFORM vault_decrypt_text(v, 'c:' || n); RAISE 'opened for another user'; EXCEPTION WHEN data_corrupted THEN END;
        END LOOP; END $$";
    tx.batch_execute(one_by_one).unwrap();
    tx.commit().unwrap();
}

#[test]
fn plaintext_gets_into_no_index_plan_or_generated_column() {
    let db = db_with_alice();
    db.force(&format!(
        "GRANT CREATE ON SCHEMA public TO wire_crypt; ALTER DATABASE \"{}\" SET client_min_messages = warning",
        db.name
    ));
    let mut app = db.crypt_for("alice");
    app.batch_execute("CREATE TABLE notes (id int PRIMARY KEY, body bytea)").unwrap();
    app.batch_execute(
        "INSERT INTO notes SELECT n, vault_encrypt('note ' || n, 'notes.body:' || n) FROM generate_series(1, 3) n",
    )
    .unwrap();
    for sql in [
        "CREATE INDEX ON notes ((vault_decrypt_text(body, 'notes.body:' || id)))",
        "ALTER TABLE notes ADD plain text GENERATED ALWAYS AS (vault_decrypt_text(body, 'x')) STORED",
    ] {
        expect_error(app.batch_execute(sql), "42P17");
    }
    // The version can be indexed, which shows how far a re-encryption is.
    app.batch_execute("CREATE INDEX ON notes (vault_ciphertext_version(body))").unwrap();
    // Nobody waits for the row that counts the uses.
    let counted = || rows_of(&db, "alice").iter().any(|row| row.ends_with(": 3 uses"));
    eventually(SOON, "the row of the uses", counted);
    let before = rows_of(&db, "alice");
    app.batch_execute("EXPLAIN (VERBOSE) SELECT vault_decrypt_text(body, 'notes.body:' || id) FROM notes").unwrap();
    assert_eq!(rows_of(&db, "alice"), before, "planning decrypts nothing");
    // A default, a policy and a cursor that outlives its transaction work as any function does.
    app.batch_execute("ALTER TABLE notes ADD kept bytea DEFAULT vault_encrypt('by default'::text, 'kept')").unwrap();
    let kept: String = get(&mut app, "SELECT vault_decrypt_text(kept, 'kept') FROM notes WHERE id = 1", &[]).unwrap();
    assert_eq!(kept, "by default");
    app.batch_execute("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT vault_decrypt_text(body, 'notes.body:' || id) FROM notes ORDER BY id; COMMIT").unwrap();
    assert_eq!(get::<String>(&mut app, "FETCH c", &[]).unwrap(), "note 1");
    app.batch_execute("CREATE POLICY p ON notes USING (vault_decrypt_text(body, 'notes.body:' || id) <> 'note 2'); ALTER TABLE notes ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY").unwrap();
    assert_eq!(get::<i64>(&mut app, "SELECT count(*) FROM notes", &[]).unwrap(), 2);
}

#[test]
fn a_prepared_transaction_gives_its_keys_back() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().conf("max_prepared_transactions = 2").start();
    let db = cluster.database("d");
    init(&mut db.app_for("alice")).unwrap();
    let mut app = db.crypt_for("alice");
    let value = encrypt(&mut app, "secret", PLACE).unwrap();
    app.batch_execute("BEGIN").unwrap();
    decrypt(&mut app, &value, PLACE).unwrap();
    decrypt(&mut app, &value, PLACE).unwrap();
    app.batch_execute("PREPARE TRANSACTION 'p'").unwrap();
    eventually(SOON, "the row with the uses is there", || {
        rows_of(&db, "alice").contains(&"decrypt 200 purpose data: 2 uses".to_owned())
    });
    decrypt(&mut app, &value, PLACE).unwrap();
    app.batch_execute("COMMIT PREPARED 'p'").unwrap();
}

#[test]
fn derived_keys_and_indexes_are_those_of_the_formats() {
    let cluster = Cluster::builder().keyring(&keyring_line("env-v1", &PREDECESSOR_KEK)).without_fsync().start();
    let db = cluster.database("d");
    // The predecessor's row of the master key a0 .. bf.
    db.force(
        "INSERT INTO vault_ext.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id)
         VALUES ('alice', 'EkoYuy/eugLj+TUwymd4xT07qypjikNu+XfObRXpLsp1LPM+pXxISRohaJtl0f9/', 'EBESExQVFhcYGRob', 1, 'env-v1')",
    );
    let mut app = db.crypt_for("alice");
    let hex_of = |app: &mut Client, sql: &str| hex(&get::<Vec<u8>>(app, sql, &[]).unwrap());
    // Computed by crates/vault_core/vectors/data.py.
    assert_eq!(
        hex_of(&mut app, "SELECT vault_derive_key('data'::text)"),
        "beee34fc02b7cdfc4cae0598d629314761dc246fe0c5eb2665282f84d4559d06"
    );
    assert_eq!(
        hex_of(&mut app, "SELECT vault_derive_key('data'::text, 1)"),
        "beee34fc02b7cdfc4cae0598d629314761dc246fe0c5eb2665282f84d4559d06"
    );
    assert_eq!(
        hex_of(&mut app, "SELECT vault_derive_key(''::bytea, '')"),
        "5358a6ec325ca1cbf39a77f1fb59d62f606caccf9119bfd4ef23f726d0f75c33"
    );
    expect_vault_error(
        get::<Vec<u8>>(&mut app, "SELECT vault_derive_key(''::bytea, 'vault_ext.data-key.v1')", &[]),
        "22023",
    );
    expect_vault_error(get::<Vec<u8>>(&mut app, "SELECT vault_derive_key('x'::text, 2)", &[]), "P0002");
    let rows = rows_of(&db, "alice");
    assert_eq!(rows[..3], ["derive 200 purpose data", "derive 200 purpose data", "derive 200 info"]);
    let index = hex_of(&mut app, "SELECT vault_blind_index('a@example.org', 'mail')");
    assert_eq!(index.len(), 64);
    assert_eq!(hex_of(&mut app, "SELECT vault_blind_index('a@example.org', 'mail', 16)"), index[..4]);
    assert_ne!(hex_of(&mut app, "SELECT vault_blind_index('a@example.org', 'name')"), index);
    for bits in ["7", "257", "NULL"] {
        expect_vault_error(
            get::<Vec<u8>>(&mut app, &format!("SELECT vault_blind_index('x', 'mail', {bits})"), &[]),
            "22023",
        );
    }
    rotate(&mut db.app_for("alice")).unwrap();
    assert_ne!(hex_of(&mut app, "SELECT vault_blind_index('a@example.org', 'mail')"), index, "a new key, a new index");
    assert_eq!(hex_of(&mut app, "SELECT vault_blind_index('a@example.org', 'mail', key_version => 1)"), index);

    // What the predecessor's clients wrote.
    for (value, blob) in [
        ("\"Buy milk\"", "enc:1:EBESExQVFhcYGRob.tvQAd/4q3N7xW9cF3O/tMti4RWEbn5l9FT8="),
        ("\"\"", "enc:1:EBESExQVFhcYGRob.tpRxLOlOq/GwcA3fFyuc8FjE"),
        ("42", "enc:1:EBESExQVFhcYGRob.oIQtNe0cKsQwgTqn1rJcEWFt"),
        (
            "{\"a\": 1, \"b\": [\"x\", null]}",
            "enc:1:EBESExQVFhcYGRob.75QULOR2mZD4W1ZKu0uemJ0ncKOygjtpfWXXvETX9R4PLqBCSiY=",
        ),
    ] {
        let opened: String = get(&mut app, "SELECT vault_open_client_blob($1, 1)::text", &[&blob]).unwrap();
        assert_eq!(opened, value);
        // Not under the current key.
        expect_vault_error(get::<String>(&mut app, "SELECT vault_open_client_blob($1)::text", &[&blob]), "XX001");
        let written: String = get(&mut app, "SELECT vault_client_blob($1::text::jsonb)", &[&value]).unwrap();
        assert!(written.starts_with("enc:1:") && written.len() == blob.len(), "{written}");
        assert_eq!(get::<String>(&mut app, "SELECT vault_open_client_blob($1)::text", &[&written]).unwrap(), value);
    }
    for bad in ["", "enc:1:", "enc:2:EBESExQVFhcYGRob.tpRxLOlOq/GwcA3fFyuc8FjE", "plain text"] {
        expect_vault_error(get::<String>(&mut app, "SELECT vault_open_client_blob($1, 1)::text", &[&bad]), "XX001");
    }
}

#[test]
fn no_key_and_no_plaintext_gets_into_the_log() {
    // Bound parameters are what an administrator can keep out of the log.
    let quiet = Cluster::builder().with_wire_kek().without_fsync().conf("log_parameter_max_length = 0");
    let mut cluster = quiet.conf("log_parameter_max_length_on_error = 0").prepare();
    cluster.keep_neighbours_from_logging_parameters();
    cluster.start();
    let db = cluster.database("d");
    init(&mut db.app_for("alice")).unwrap();
    let key = decode(&fetch(&mut db.app_for("alice")).unwrap().master_key);
    let mut app = db.crypt_for("alice");
    let secret = "zq7Yw1Lk9Vb3Xn5Tm8Rc2Pd6Hs4Jf0Gu";
    let value = encrypt(&mut app, secret, PLACE).unwrap();
    assert_eq!(decrypt(&mut app, &value, PLACE).unwrap(), secret);
    let derived: Vec<u8> = get(&mut app, "SELECT vault_derive_key('x'::text)", &[]).unwrap();
    let refusal = expect_vault_error(decrypt(&mut app, &value, "elsewhere"), "XX001");
    assert_no_secrets(db.cluster, &[refusal.text()], &[key, derived, secret.as_bytes().to_vec()]);
}

#[test]
fn a_standby_decrypts_nothing() {
    let mut cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.database("d");
    init(&mut db.app_for("alice")).unwrap();
    let value = encrypt(&mut db.crypt_for("alice"), "secret", PLACE).unwrap();
    drop(db);
    cluster.restart_as_standby();
    let db = cluster.existing_database("d");
    expect_vault_error(decrypt(&mut db.crypt_for("alice"), &value, PLACE), "25006");
}

#[test]
fn a_token_needs_the_scope_of_use() {
    let (db, keys) = token_db();
    let mut app = db.conn("wire_crypt");
    let token = |scope: &str| {
        let mut claims = claims("alice");
        claims["scope"] = json!(scope);
        keys[0].token(&claims)
    };
    let with = |app: &mut Client, token: &str| {
        app.query("SELECT set_config('vault_ext.token', $1, false)", &[&token]).unwrap();
    };
    with(&mut app, &token("vault.rotate"));
    assert!(get::<bool>(&mut app, "SELECT vault_create()", &[]).unwrap());
    expect_vault_error(encrypt(&mut app, "secret", PLACE), "42501");
    with(&mut app, &token("vault.use"));
    let value = encrypt(&mut app, "secret", PLACE).unwrap();
    assert_eq!(decrypt(&mut app, &value, PLACE).unwrap(), "secret");
    // The unlocked key is no way around the next token.
    let mut tx = app.transaction().unwrap();
    decrypt(&mut tx, &value, PLACE).unwrap();
    tx.query("SELECT set_config('vault_ext.token', $1, true)", &[&token("vault.rotate")]).unwrap();
    expect_vault_error(decrypt(&mut tx, &value, PLACE), "42501");
    drop(tx);
    db.conn("wire_admin").execute("SELECT vault_revoke_tokens('u-alice')", &[]).unwrap();
    expect_vault_error(decrypt(&mut app, &value, PLACE), "28000");
}

#[test]
fn a_lookup_index_is_the_same_for_all_users_and_outlives_a_rewrap() {
    let cluster = crate::keyring::cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    let index = |app: &mut Client, value: &str| -> Vec<u8> {
        get(app, "SELECT vault_lookup_index($1, 'users.email')", &[&value]).unwrap()
    };
    // The first call makes the key. A rollback takes it back, in the session that has used it, too.
    let mut nobody = db.conn("wire_crypt");
    let mut tx = nobody.transaction().unwrap();
    let mut savepoint = tx.savepoint("s").unwrap();
    let lost: Vec<u8> = get(&mut savepoint, "SELECT vault_lookup_index('a@example.org', 'users.email')", &[]).unwrap();
    savepoint.rollback().unwrap();
    let kept: Vec<u8> = get(&mut tx, "SELECT vault_lookup_index('a@example.org', 'users.email')", &[]).unwrap();
    tx.commit().unwrap();
    assert_ne!(lost, kept);
    for mut app in [db.conn("wire_crypt"), db.crypt_for("alice"), db.app_for("bob")] {
        assert_eq!(index(&mut app, "a@example.org"), kept);
        assert_ne!(index(&mut app, "b@example.org"), kept);
    }
    let other: Vec<u8> = get(&mut nobody, "SELECT vault_lookup_index('a@example.org', 'other', 64)", &[]).unwrap();
    assert!(other.len() == 8 && other[..] != kept[..8]);
    let rows = db.audit_where("action = 'index'");
    assert!(rows.iter().all(|row| row.user_id.is_none() && row.status == 200), "{rows:?}");
    // Its KEK counts, and a rewrap takes it along.
    crate::keyring::switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    let of = |kek: &str| -> (i64, bool) {
        let sql = "SELECT old_keys, safe_to_remove FROM vault_kek_status() WHERE kek_id = $1";
        let row = db.conn("wire_admin").query_one(sql, &[&kek]).unwrap();
        (row.get(0), row.get(1))
    };
    assert_eq!(of("k1"), (1, false));
    assert_eq!(crate::keyring::rewrap(&db, 10).unwrap(), (1, 0, 0));
    assert_eq!((of("k1"), of("k2")), ((0, true), (1, false)));
    crate::keyring::switch(&db, &[("k2", 2)]).unwrap();
    assert_eq!(index(&mut db.conn("wire_crypt"), "a@example.org"), kept);
    let checked: i64 = db
        .conn("wire_admin")
        .query_one("SELECT sum(old_keys)::bigint FROM vault_check() WHERE outcome = 'opens'", &[])
        .unwrap()
        .get(0);
    assert_eq!(checked, 1);
    // Nobody gets the key itself: a user of that name has another one.
    init(&mut db.app_for("lookup-index")).unwrap();
    db.force(
        "UPDATE vault_ext.encryption_vaults v SET wrapped_mk = k.wrapped_mk, wrap_iv = k.wrap_iv FROM vault_ext.database_keys k
         WHERE v.user_id = 'lookup-index'",
    );
    expect_vault_error(fetch(&mut db.app_for("lookup-index")), "XX001");
}
