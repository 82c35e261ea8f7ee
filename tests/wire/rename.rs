//! Changing a user's id: the vault moves to the new id together with its key, or not at all.

use std::time::Duration;

use crate::harness::{
    Db, PREDECESSOR_KEK, base64, eventually, expect_error, expect_vault_error, fetch, init, rotate, shared_db,
};
use crate::keyring::{cluster, rewrap, switch};
use crate::trail::{trail_of, wait_for_trail};

const SOON: Duration = Duration::from_secs(30);

fn rename(db: &Db, old: &str, new: &str) -> Result<(), postgres::Error> {
    db.conn("wire_admin").execute("SELECT vault_rename_user($1, $2)", &[&old, &new]).map(drop)
}

#[test]
fn the_key_moves_to_the_new_id() {
    let db = shared_db();
    init(&mut db.app_for("old@example.com")).unwrap();
    let key = rotate(&mut db.app_for("old@example.com")).unwrap();
    let created: std::time::SystemTime = db.value("SELECT created_at FROM vault_ext.encryption_vaults");
    rename(&db, "old@example.com", "new@example.com").unwrap();
    assert_eq!(fetch(&mut db.app_for("new@example.com")).unwrap(), key);
    assert_eq!(init(&mut db.app_for("new@example.com")).unwrap(), key, "init created no other key");
    expect_vault_error(fetch(&mut db.app_for("old@example.com")), "P0002");
    assert_eq!(db.value::<std::time::SystemTime>("SELECT created_at FROM vault_ext.encryption_vaults"), created);
    assert_eq!(
        trail_of(&db, "old@example.com"),
        ["init 201 created", "rotate 200", "rename 200 to new@example.com", "failed_fetch 404 not-initialised"]
    );
    assert_eq!(trail_of(&db, "new@example.com")[..2], ["rename 200 from old@example.com", "fetch 200"]);
    let row = &db.audit_where("action = 'rename'")[0];
    assert_eq!((row.db_role.as_str(), row.key_version, row.kek_id.as_deref()), ("wire_admin", Some(2), Some("wire-1")));
    assert_eq!(rotate(&mut db.app_for("new@example.com")).unwrap().key_version, 3);
    // And back to the old id.
    let key = fetch(&mut db.app_for("new@example.com")).unwrap();
    rename(&db, "new@example.com", "old@example.com").unwrap();
    assert_eq!(fetch(&mut db.app_for("old@example.com")).unwrap(), key);
}

#[test]
fn a_rename_overwrites_no_vault_and_refuses_invalid_ids() {
    let db = shared_db();
    let alice = init(&mut db.app_for("alice")).unwrap();
    let bob = init(&mut db.app_for("bob")).unwrap();
    let refusal = expect_vault_error(rename(&db, "alice", "bob"), "23505");
    assert!(refusal.message.contains("bob"), "{refusal:?}");
    expect_vault_error(rename(&db, "nobody", "somebody"), "P0002");
    for (old, new) in
        [("alice", "alice"), ("alice", ""), ("", "alice"), ("alice", &"x".repeat(256)), (&"x".repeat(256), "y")]
    {
        expect_vault_error(rename(&db, old, new), "22023");
    }
    for role in ["wire_app", "wire_auditor", "wire_stranger"] {
        expect_error(db.conn(role).execute("SELECT vault_rename_user('alice', 'carol')", &[]), "42501");
    }
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), alice);
    assert_eq!(fetch(&mut db.app_for("bob")).unwrap(), bob);
    assert!(trail_of(&db, "alice").contains(&"rename 409 vault-exists".to_owned()));
    assert_eq!(trail_of(&db, "nobody"), ["rename 404 not-initialised"]);
    let null = db.conn("wire_admin").query_one("SELECT vault_rename_user(NULL, 'x') IS NULL", &[]).unwrap();
    assert!(null.get::<_, bool>(0));
}

#[test]
fn a_rolled_back_rename_keeps_the_old_id_and_is_recorded_for_both_ids() {
    let db = shared_db();
    let key = init(&mut db.app_for("old")).unwrap();
    db.conn("wire_admin").batch_execute("BEGIN; SELECT vault_rename_user('old', 'new'); ROLLBACK").unwrap();
    assert_eq!(fetch(&mut db.app_for("old")).unwrap(), key);
    assert_eq!(db.vault_row("new"), None);
    wait_for_trail(&db, "old", &["init 201 created", "rename 200 to new", "rename 409 rolled-back", "fetch 200"]);
    wait_for_trail(&db, "new", &["rename 200 from old", "rename 409 rolled-back"]);
}

#[test]
fn ids_that_look_alike_are_different_users() {
    let db = shared_db();
    let key = init(&mut db.app_for("zo\u{eb}")).unwrap();
    rename(&db, "zo\u{eb}", "zoe\u{308}").unwrap();
    assert_eq!(fetch(&mut db.app_for("zoe\u{308}")).unwrap(), key);
    expect_vault_error(fetch(&mut db.app_for("zo\u{eb}")), "P0002");
    // An id cannot contain text that looks like another row of the trail.
    rename(&db, "zoe\u{308}", "a\nb\t200").unwrap();
    let context = &trail_of(&db, "zoe\u{308}")[1];
    assert!(context.starts_with("rename 200 from") || context.starts_with("fetch"), "{context}");
    assert!(db.audit_where("context LIKE 'to a%'").iter().all(|row| !row.context.as_ref().unwrap().contains('\n')));
}

#[test]
fn a_rename_converts_a_row_of_the_predecessor_to_the_new_format() {
    let db = shared_db();
    // Format 1: master key a0 a1 .. bf under the KEK 01 02 .. 20 (docs: Formats).
    db.force(
        "INSERT INTO vault_ext.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id)
         VALUES ('old', 'EkoYuy/eugLj+TUwymd4xT07qypjikNu+XfObRXpLsp1LPM+pXxISRohaJtl0f9/', 'EBESExQVFhcYGRob', 1, 'env-v1')",
    );
    assert_eq!(PREDECESSOR_KEK[0], 1);
    rename(&db, "old", "new").unwrap();
    let key = fetch(&mut db.app_for("new")).unwrap();
    let master_key: Vec<u8> = (0xa0..=0xbf).collect();
    assert_eq!((key.master_key, key.format_version, key.kek_id.as_str()), (base64(&master_key), 2, "wire-1"));
}

#[test]
fn concurrent_renames_and_first_calls_never_mix_up_keys() {
    let db = shared_db();
    for round in 0..10 {
        let (old, new) = (format!("old-{round}"), format!("new-{round}"));
        let key = init(&mut db.app_for(&old)).unwrap();
        let renamed = std::thread::scope(|scope| {
            let renaming = scope.spawn(|| rename(&db, &old, &new));
            let minted = init(&mut db.app_for(&new)).unwrap();
            match renaming.join().unwrap() {
                Ok(()) => assert_eq!(minted, key),
                Err(error) => drop(expect_vault_error(Err::<(), _>(error), "23505")),
            }
            fetch(&mut db.app_for(&old)).is_err()
        });
        if renamed {
            assert_eq!(fetch(&mut db.app_for(&new)).unwrap(), key);
        } else {
            assert_eq!(fetch(&mut db.app_for(&old)).unwrap(), key);
            assert_ne!(fetch(&mut db.app_for(&new)).unwrap().master_key, key.master_key);
        }
    }
}

#[test]
fn a_rename_that_waits_for_a_rotation_moves_the_newer_key() {
    let db = shared_db();
    init(&mut db.app_for("old")).unwrap();
    let mut app = db.app_for("old");
    app.batch_execute("BEGIN").unwrap();
    let key = rotate(&mut app).unwrap();
    std::thread::scope(|scope| {
        let renaming = scope.spawn(|| rename(&db, "old", "new"));
        eventually(SOON, "the rename waits for the row", || {
            db.value("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%vault_rename_user%' AND wait_event_type = 'Lock'
                AND datname = current_database() AND pid <> pg_backend_pid())")
        });
        app.batch_execute("COMMIT").unwrap();
        renaming.join().unwrap().unwrap();
    });
    assert_eq!(fetch(&mut db.app_for("new")).unwrap(), key);
}

#[test]
fn a_renamed_vault_counts_in_checks_and_rewraps() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    let key = init(&mut db.app_for("zed")).unwrap();
    init(&mut db.app_for("ann")).unwrap();
    rename(&db, "zed", "abe").unwrap();
    switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    assert_eq!(rewrap(&db, 1).unwrap(), (2, 0, 0));
    let rewrapped = fetch(&mut db.app_for("abe")).unwrap();
    assert_eq!((rewrapped.master_key, rewrapped.kek_id.as_str()), (key.master_key, "k2"));
    // A rename wraps the key under the active KEK anyway.
    rename(&db, "abe", "zed").unwrap();
    let opened: i64 = db
        .conn("wire_admin")
        .query_one("SELECT vaults FROM vault_check() WHERE outcome = 'opens' AND kek_id = 'k2'", &[])
        .unwrap()
        .get(0);
    assert_eq!(opened, 2);
}

#[test]
fn the_error_for_an_id_changed_by_hand_names_vault_rename_user() {
    let db = shared_db();
    init(&mut db.app_for("old")).unwrap();
    db.force("UPDATE vault_ext.encryption_vaults SET user_id = 'new'");
    let refusal = expect_vault_error(fetch(&mut db.app_for("new")), "XX001");
    assert!(refusal.hint.is_some_and(|hint| hint.contains("vault_rename_user")));
}
