//! If someone with write access to the table changes a stored row, it no longer opens and no call overwrites it.

use crate::harness::{Db, Refusal, expect_error, expect_vault_error, fetch, init, rotate, shared_db};

/// Checks that every call refuses the row with the same error, leaves it unchanged and is recorded in the trail.
#[track_caller]
fn assert_does_not_open(db: &Db, user: &str, code: &str) -> Refusal {
    let row = db.vault_row(user);
    let before = db.audit_of(user).len();
    let refusal = expect_vault_error(fetch(&mut db.app_for(user)), code);
    let on_rotate = expect_vault_error(rotate(&mut db.app_for(user)), code);
    let on_init = expect_vault_error(init(&mut db.app_for(user)), code);
    assert_eq!(refusal.message, on_rotate.message);
    assert_eq!(refusal.message, on_init.message);
    assert_eq!(db.vault_row(user), row, "nothing overwrote the row");
    let rows = db.audit_of(user).split_off(before);
    let actions: Vec<_> = rows.iter().map(|row| row.action.as_str()).collect();
    assert_eq!(actions, ["failed_fetch", "failed_rotate", "failed_init"]);
    assert!(rows.iter().all(|row| row.status >= 500), "{rows:?}");
    if code == "XX001" {
        assert_eq!(rows[0].what(), ("failed_fetch", 500, Some("unwrap-failed")));
    }
    refusal
}

fn set_columns(db: &Db, user: &str, assignment: &str) -> Result<u64, postgres::Error> {
    let sql = format!("UPDATE vault_ext.encryption_vaults SET {assignment} WHERE user_id = $1");
    db.superuser().execute(&sql, &[&user])
}

#[test]
fn a_wrap_moved_to_another_user_does_not_open() {
    let db = shared_db();
    let alice = init(&mut db.app_for("alice")).unwrap();
    init(&mut db.app_for("bob")).unwrap();
    db.force(
        "UPDATE vault_ext.encryption_vaults b SET wrapped_mk = a.wrapped_mk, wrap_iv = a.wrap_iv
            FROM vault_ext.encryption_vaults a WHERE a.user_id = 'alice' AND b.user_id = 'bob'",
    );
    assert_does_not_open(&db, "bob", "XX001");
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), alice);
}

#[test]
fn a_renamed_row_does_not_open() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    set_columns(&db, "alice", "user_id = 'mallory'").unwrap();
    assert_does_not_open(&db, "mallory", "XX001");
}

#[test]
fn swapped_rows_do_not_open() {
    let db = shared_db();
    for user in ["alice", "bob"] {
        init(&mut db.app_for(user)).unwrap();
    }
    db.force(
        "UPDATE vault_ext.encryption_vaults SET user_id = 'tmp' WHERE user_id = 'alice';
         UPDATE vault_ext.encryption_vaults SET user_id = 'alice' WHERE user_id = 'bob';
         UPDATE vault_ext.encryption_vaults SET user_id = 'bob' WHERE user_id = 'tmp'",
    );
    assert_does_not_open(&db, "alice", "XX001");
    assert_does_not_open(&db, "bob", "XX001");
}

#[test]
fn an_edited_kek_id_does_not_open() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    for loaded in ["spare", "env-v1"] {
        set_columns(&db, "alice", &format!("kek_id = '{loaded}'")).unwrap();
        assert_does_not_open(&db, "alice", "XX001");
    }
    set_columns(&db, "alice", "kek_id = 'nowhere'").unwrap();
    let refusal = assert_does_not_open(&db, "alice", "55000");
    assert!(refusal.message.contains("nowhere"), "{refusal:?}");
    set_columns(&db, "alice", "kek_id = 'wire-1'").unwrap();
    fetch(&mut db.app_for("alice")).unwrap();
}

#[test]
fn an_edited_key_version_does_not_open() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    for version in ["2", "257", "2147483647"] {
        set_columns(&db, "alice", &format!("key_version = {version}")).unwrap();
        assert_does_not_open(&db, "alice", "XX001");
    }
    for impossible in ["0", "-1"] {
        expect_error(set_columns(&db, "alice", &format!("key_version = {impossible}")), "23514");
    }
    set_columns(&db, "alice", "key_version = 1").unwrap();
    fetch(&mut db.app_for("alice")).unwrap();
}

#[test]
fn an_old_wrap_put_back_under_the_new_version_does_not_open() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    init(&mut app).unwrap();
    db.force("CREATE TABLE stolen AS SELECT * FROM vault_ext.encryption_vaults");
    rotate(&mut app).unwrap();
    db.force("UPDATE vault_ext.encryption_vaults v SET wrapped_mk = s.wrapped_mk, wrap_iv = s.wrap_iv FROM stolen s");
    assert_does_not_open(&db, "alice", "XX001");
}

#[test]
fn an_edited_format_version_does_not_open() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    for unknown in ["0", "3", "99", "-1", "1"] {
        expect_error(set_columns(&db, "alice", &format!("format_version = {unknown}")), "23514");
    }
    // Format 1 expects a nonce of half this length. Neither half opens the wrap.
    for half in ["left(wrap_iv, 16)", "right(wrap_iv, 16)"] {
        init(&mut db.app_for(half)).unwrap();
        set_columns(&db, half, &format!("format_version = 1, wrap_iv = {half}")).unwrap();
        assert_does_not_open(&db, half, "XX001");
    }
}

#[test]
fn a_format_1_row_passed_off_as_format_2_does_not_open() {
    let db = shared_db();
    db.force(
        "INSERT INTO vault_ext.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id)
            VALUES ('alice', 'EkoYuy/eugLj+TUwymd4xT07qypjikNu+XfObRXpLsp1LPM+pXxISRohaJtl0f9/',
                'EBESExQVFhcYGRobEBESExQVFhcYGRob', 2, 'env-v1')",
    );
    assert_does_not_open(&db, "alice", "XX001");
}

/// Replaces the character at that position with another one of the base64 alphabet.
fn with_changed_character(text: &str, position: usize) -> String {
    let mut bytes = text.as_bytes().to_vec();
    bytes[position] = if bytes[position] == b'A' { b'B' } else { b'A' };
    String::from_utf8(bytes).expect("ASCII")
}

#[test]
fn a_wrap_or_nonce_with_any_character_changed_does_not_open() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let key = init(&mut app).unwrap();
    let mut superuser = db.superuser();
    for (column, length) in [("wrapped_mk", 64), ("wrap_iv", 32)] {
        let original: String =
            superuser.query_one(&format!("SELECT {column} FROM vault_ext.encryption_vaults"), &[]).unwrap().get(0);
        assert_eq!(original.len(), length);
        let update = superuser.prepare(&format!("UPDATE vault_ext.encryption_vaults SET {column} = $1")).unwrap();
        for position in 0..length {
            superuser.execute(&update, &[&with_changed_character(&original, position)]).unwrap();
            expect_vault_error(fetch(&mut app), "XX001");
        }
        superuser.execute(&update, &[&original]).unwrap();
        assert_eq!(fetch(&mut app).unwrap(), key);
    }
    let failures = db.audit_of("alice").into_iter().filter(|row| row.status == 500);
    assert_eq!(failures.count(), 96);
}

#[test]
fn text_that_is_not_base64_does_not_open_and_is_not_shown() {
    let db = shared_db();
    for (column, length) in [("wrapped_mk", 64), ("wrap_iv", 32)] {
        for filler in ["!", "-", " ", "=", "é"] {
            let user = format!("{column}{filler}");
            init(&mut db.app_for(&user)).unwrap();
            let text = filler.repeat(length / filler.len());
            set_columns(&db, &user, &format!("{column} = '{text}'")).unwrap();
            let refusal = assert_does_not_open(&db, &user, "XX001");
            assert!(!refusal.text().contains(&text), "{refusal:?}");
        }
    }
}

#[test]
fn wraps_and_nonces_of_another_length_are_refused() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    for assignment in [
        "wrapped_mk = left(wrapped_mk, 60)",
        "wrapped_mk = wrapped_mk || 'AAAA'",
        "wrapped_mk = ''",
        "wrap_iv = left(wrap_iv, 16)",
        "wrap_iv = left(wrap_iv, 28)",
        "wrap_iv = wrap_iv || 'AAAA'",
        "wrap_iv = ''",
        "wrapped_mk = NULL",
        "wrap_iv = NULL",
        "kek_id = ''",
        "kek_id = NULL",
        "format_version = NULL",
        "user_id = ''",
    ] {
        let error = set_columns(&db, "alice", assignment).expect_err(assignment);
        let code = error.code().map(|code| code.code().to_owned());
        assert!(matches!(code.as_deref(), Some("23514" | "23502")), "{assignment}: {error:?}");
    }
}

#[test]
fn every_cause_gives_the_same_message() {
    let db = shared_db();
    let mut messages = Vec::new();
    for (user, assignment) in [
        ("a", "wrapped_mk = reverse(wrapped_mk)"),
        ("b", "wrap_iv = reverse(wrap_iv)"),
        ("c", "key_version = 9"),
        ("d", "kek_id = 'spare'"),
        ("e", "wrapped_mk = repeat('!', 64)"),
        ("f", "format_version = 1, wrap_iv = left(wrap_iv, 16)"),
    ] {
        init(&mut db.app_for(user)).unwrap();
        set_columns(&db, user, assignment).unwrap();
        messages.push(assert_does_not_open(&db, user, "XX001").text());
    }
    messages.dedup();
    assert_eq!(messages.len(), 1, "{messages:?}");
}
