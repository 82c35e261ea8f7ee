//! The versions of a key: a rotation loses nothing, and each state answers with an error and a row of its own.

use std::time::Duration;

use postgres::{Client, Error};
use serde_json::json;

use crate::erasure::{allow_no_wait, destroy_due};
use crate::harness::{
    Db, VaultKey, expect_error, expect_vault_error, fetch, init, now, rotate, set_user, shared_db, token_db,
    without_deadlock,
};
use crate::keyring::{cluster, kek_status, loaded, rewrap, switch};
use crate::rewrap::user_ids;
use crate::trail::{trail_of, wait_for_trail};

pub fn version(client: &mut Client, version: i32) -> Result<VaultKey, Error> {
    let sql = format!("SELECT {} FROM vault_get_key_version($1)", VaultKey::COLUMNS);
    let row = client.query_one(&sql, &[&version])?;
    Ok(VaultKey { master_key: row.get(0), format_version: row.get(1), kek_id: row.get(2), key_version: row.get(3) })
}

/// The versions and their states as `3 current, 2 decrypt_only`.
pub fn states(client: &mut Client) -> String {
    let rows = client.query("SELECT key_version, state FROM vault_key_versions()", &[]).unwrap();
    let state = |row: &postgres::Row| format!("{} {}", row.get::<_, i32>(0), row.get::<_, &str>(1));
    rows.iter().map(state).collect::<Vec<_>>().join(", ")
}

/// A key and so many rotations of it: all versions, the oldest first.
pub fn versions_of(client: &mut Client, rotations: usize) -> Vec<VaultKey> {
    let mut keys = vec![init(client).unwrap()];
    keys.extend((0..rotations).map(|_| rotate(client).unwrap()));
    keys
}

/// Every version opens and is the key that was released.
#[track_caller]
pub fn assert_open(client: &mut Client, keys: &[VaultKey]) {
    for key in keys {
        let found = version(client, key.key_version).unwrap_or_else(|e| panic!("version {}: {e:?}", key.key_version));
        assert!(found.master_key == key.master_key && found.key_version == key.key_version, "{}", key.key_version);
    }
}

fn yes(client: &mut Client, sql: &str) -> bool {
    client.query_one(sql, &[]).unwrap_or_else(|e| panic!("{sql}: {e:?}")).get(0)
}

#[test]
fn a_rotation_keeps_the_old_key_openable() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let keys = versions_of(&mut app, 3);
    assert_eq!(states(&mut app), "4 current, 3 decrypt_only, 2 decrypt_only, 1 decrypt_only");
    assert_open(&mut app, &keys);
    assert_eq!(fetch(&mut app).unwrap(), keys[3]);
    assert_eq!(version(&mut app, 2).unwrap(), keys[1], "format, KEK and version are those of the wrap");
    let trail = trail_of(&db, "alice");
    assert_eq!(trail[4..8], ["fetch 200 version", "fetch 200 version", "fetch 200 version", "fetch 200 version"]);
    let rows = db.audit_where("context = 'version'");
    let versions: Vec<_> = rows.iter().map(|row| row.key_version.unwrap()).collect();
    assert_eq!(versions, [1, 2, 3, 4, 2]);
    assert!(rows.iter().all(|row| row.kek_id.as_deref() == Some("wire-1")));
    let times: i64 = db.value(
        "SELECT count(*) FROM vault_ext.old_keys WHERE superseded_at BETWEEN now() - interval '1 h' AND clock_timestamp()
            AND destroy_after IS NULL AND destroyed_at IS NULL",
    );
    assert_eq!(times, 3);
}

#[test]
fn each_state_answers_each_call_with_its_own_error_and_row() {
    let db = shared_db();
    allow_no_wait(&db);
    let mut app = db.app_for("alice");
    versions_of(&mut app, 4);
    for setup in [
        "SELECT vault_retire_key_version(1, '0')::text",
        "SELECT vault_disable_key_version(3)::text",
        "SELECT vault_retire_key_version(2)::text",
    ] {
        app.query_one(setup, &[]).unwrap();
    }
    assert_eq!(destroy_due(&db, 10).unwrap(), (1, 0));
    let all = "5 current, 4 decrypt_only, 3 disabled, 2 destroy_scheduled, 1 destroyed";
    assert_eq!(states(&mut app), all);
    let refusals = [
        (1, "SELECT vault_get_key_version($1)", "55000", "failed_fetch 410 version-destroyed"),
        (1, "SELECT vault_disable_key_version($1)", "55000", "disable_version 410 version-destroyed"),
        (1, "SELECT vault_restore_key_version($1)", "55000", "restore_version 410 version-destroyed"),
        (1, "SELECT vault_retire_key_version($1)", "55000", "retire_version 410 version-destroyed"),
        (2, "SELECT vault_get_key_version($1)", "55000", "failed_fetch 409 version-destroy-scheduled"),
        (3, "SELECT vault_get_key_version($1)", "55000", "failed_fetch 409 version-disabled"),
        (5, "SELECT vault_disable_key_version($1)", "55000", "disable_version 409 version-current"),
        (5, "SELECT vault_restore_key_version($1)", "55000", "restore_version 409 version-current"),
        (5, "SELECT vault_retire_key_version($1)", "55000", "retire_version 409 version-current"),
        (6, "SELECT vault_get_key_version($1)", "P0002", "failed_fetch 404 no-version"),
        (6, "SELECT vault_disable_key_version($1)", "P0002", "disable_version 404 no-version"),
        (6, "SELECT vault_restore_key_version($1)", "P0002", "restore_version 404 no-version"),
        (6, "SELECT vault_retire_key_version($1)", "P0002", "retire_version 404 no-version"),
        (0, "SELECT vault_get_key_version($1)", "P0002", "failed_fetch 404 no-version"),
        (-1, "SELECT vault_get_key_version($1)", "P0002", "failed_fetch 404 no-version"),
        (i32::MAX, "SELECT vault_get_key_version($1)", "P0002", "failed_fetch 404 no-version"),
    ];
    for (key_version, call, code, row) in refusals {
        let refusal = expect_vault_error(app.query(call, &[&key_version]), code);
        assert!(refusal.message.contains(&key_version.to_string()), "{refusal:?}");
        assert_eq!(trail_of(&db, "alice").pop().as_deref(), Some(row), "{call} {key_version}");
    }
    assert_eq!(states(&mut app), all);
    // What changes nothing says so.
    assert!(!yes(&mut app, "SELECT vault_restore_key_version(4)"));
    assert_eq!(trail_of(&db, "alice").pop().unwrap(), "restore_version 200 version 4 was so before");
    assert!(!yes(&mut app, "SELECT vault_disable_key_version(3)"));
    // And from each state to each other.
    assert!(yes(&mut app, "SELECT vault_disable_key_version(4)"));
    assert_eq!(trail_of(&db, "alice").pop().unwrap(), "disable_version 200 version 4");
    assert!(yes(&mut app, "SELECT vault_restore_key_version(3)"));
    assert!(yes(&mut app, "SELECT vault_disable_key_version(2)"));
    assert_eq!(states(&mut app), "5 current, 4 disabled, 3 decrypt_only, 2 disabled, 1 destroyed");
    let scheduled: i64 =
        db.value("SELECT count(*) FROM vault_ext.old_keys WHERE destroy_after IS NOT NULL AND state <> 'destroyed'");
    assert_eq!(scheduled, 0, "what is disabled is not destroyed by the clock");
    // Without a vault there is no version.
    for call in ["vault_get_key_version(1)", "vault_disable_key_version(1)", "vault_retire_key_version(1)"] {
        expect_vault_error(db.app_for("nobody").query(&format!("SELECT {call}"), &[]), "P0002");
    }
    assert_eq!(states(&mut db.app_for("nobody")), "");
    expect_vault_error(db.app().query("SELECT * FROM vault_key_versions()", &[]), "28000");
}

#[test]
fn destroy_old_leaves_the_version_but_not_the_key() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let first = init(&mut app).unwrap();
    let second: String = app.query_one("SELECT (vault_rotate(destroy_old => true)).master_key", &[]).unwrap().get(0);
    assert_ne!(first.master_key, second);
    assert_eq!(states(&mut app), "2 current, 1 destroyed");
    expect_vault_error(version(&mut app, 1), "55000");
    assert_eq!(db.value::<i64>("SELECT count(*) FROM vault_ext.old_keys WHERE wrapped_mk IS NOT NULL"), 0);
    assert_eq!(trail_of(&db, "alice")[1], "rotate 200 old-key-destroyed");
    // The next rotation keeps what it replaces.
    app.query("SELECT vault_rotate(destroy_old => false)", &[]).unwrap();
    assert_eq!(states(&mut app), "3 current, 2 decrypt_only, 1 destroyed");
    assert_eq!(version(&mut app, 2).unwrap().master_key, second);
}

#[test]
fn forty_rotations_at_once_leave_every_released_key_openable() {
    let db = shared_db();
    let first = init(&mut db.app_for("alice")).unwrap();
    let mut keys: Vec<VaultKey> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..40)
            .map(|_| {
                let mut app = db.app_for("alice");
                scope.spawn(move || rotate(&mut app).unwrap())
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    keys.push(first);
    keys.sort_by_key(|key| key.key_version);
    assert_eq!(keys.iter().map(|key| key.key_version).collect::<Vec<_>>(), (1..=41).collect::<Vec<_>>());
    assert_open(&mut db.app_for("alice"), &keys);
}

#[test]
fn a_rotation_that_is_rolled_back_leaves_no_old_key() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let key = init(&mut app).unwrap();
    app.batch_execute("BEGIN").unwrap();
    rotate(&mut app).unwrap();
    assert_eq!(states(&mut app), "2 current, 1 decrypt_only");
    assert_eq!(version(&mut app, 1).unwrap(), key);
    app.batch_execute("ROLLBACK").unwrap();
    assert_eq!(states(&mut app), "1 current");
    assert_eq!(version(&mut app, 1).unwrap(), key);
    app.batch_execute("BEGIN").unwrap();
    app.batch_execute("SAVEPOINT a").unwrap();
    app.query("SELECT vault_rotate(true)", &[]).unwrap();
    app.batch_execute("ROLLBACK TO a; COMMIT").unwrap();
    assert_eq!(fetch(&mut app).unwrap(), key);
    wait_for_trail(
        &db,
        "alice",
        &[
            "init 201 created",
            "rotate 200",
            "fetch 200 version",
            "rotate 409 rolled-back",
            "fetch 200 version",
            "rotate 200 old-key-destroyed",
            "rotate 409 rolled-back",
            "fetch 200",
        ],
    );
    // So does a change of a version.
    rotate(&mut app).unwrap();
    app.batch_execute("BEGIN; SELECT vault_disable_key_version(1); ROLLBACK").unwrap();
    assert_eq!(version(&mut app, 1).unwrap(), key);
    let rows = trail_of(&db, "alice");
    assert!(rows.contains(&"disable_version 409 rolled-back".to_owned()), "{rows:?}");
}

#[test]
fn a_statement_that_repeats_the_call_rotates_once() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    init(&mut app).unwrap();
    let row = app.query_one("SELECT (vault_rotate()).*", &[]).unwrap();
    let key: String = row.get("master_key");
    assert_eq!(row.get::<_, i32>("key_version"), 2);
    assert_eq!(states(&mut app), "2 current, 1 decrypt_only");
    assert_eq!(version(&mut app, 2).unwrap().master_key, key);
    // All columns of a version are of one version.
    let row = app.query_one("SELECT (vault_get_key_version(2)).*", &[]).unwrap();
    assert_eq!((row.get::<_, String>("master_key"), row.get::<_, i32>("key_version")), (key, 2));
}

#[test]
fn the_wait_of_a_retirement_has_bounds_and_can_be_taken_back() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let keys = versions_of(&mut app, 1);
    for wait in ["0", "6 days 23 hours", "-30 days", "170000000 years"] {
        expect_vault_error(app.query(&format!("SELECT vault_retire_key_version(1, '{wait}')"), &[]), "22023");
    }
    assert_eq!(trail_of(&db, "alice").pop().unwrap(), "retire_version 400 bad-argument");
    assert_open(&mut app, &keys);
    let in_days = |app: &mut Client, sql: &str| -> i64 {
        let sql = format!("SELECT round(extract(epoch FROM {sql} - clock_timestamp()) / 86400)::bigint");
        app.query_one(&sql, &[]).unwrap().get(0)
    };
    assert_eq!(in_days(&mut app, "vault_retire_key_version(1)"), 30);
    expect_vault_error(version(&mut app, 1), "55000");
    assert_eq!(in_days(&mut app, "vault_retire_key_version(1, '7 days')"), 7, "another time takes its place");
    assert_eq!(destroy_due(&db, 10).unwrap(), (0, 0), "it is not due");
    assert!(yes(&mut app, "SELECT vault_restore_key_version(1)"));
    assert_open(&mut app, &keys);
    // Only an administrator of the server shortens the shortest wait.
    expect_error(app.batch_execute("SET vault_ext.min_destroy_wait = 0"), "42501");
    db.force(&format!("ALTER DATABASE {} SET vault_ext.min_destroy_wait = '1h'", db.name));
    let mut app = db.app_for("alice");
    app.query_one("SELECT vault_retire_key_version(1, '1 hour')", &[]).unwrap();
    expect_vault_error(app.query_one("SELECT vault_retire_key_version(1, '59 minutes')", &[]), "22023");
}

#[test]
fn nobody_sees_or_opens_the_versions_of_another_user() {
    let db = shared_db();
    versions_of(&mut db.app_for("alice"), 2);
    let mut bob = db.app_for("bob");
    let own = versions_of(&mut bob, 0);
    assert_eq!(states(&mut bob), "1 current");
    expect_vault_error(version(&mut bob, 2), "P0002");
    for call in ["vault_disable_key_version(2)", "vault_retire_key_version(2)", "vault_restore_key_version(2)"] {
        expect_vault_error(bob.query(&format!("SELECT {call}"), &[]), "P0002");
    }
    assert_eq!(states(&mut db.app_for("alice")), "3 current, 2 decrypt_only, 1 decrypt_only");
    for role in ["wire_app", "wire_admin", "wire_auditor", "wire_grantor", "wire_service", "wire_stranger"] {
        let mut client = db.conn(role);
        set_user(&mut client, "alice");
        for sql in ["SELECT * FROM vault_ext.old_keys", "DELETE FROM vault_ext.old_keys", "TRUNCATE vault_ext.old_keys"]
        {
            expect_error(client.batch_execute(sql), "42501");
        }
    }
    // The owner of the table sees the rows of the user alone, and deletes none.
    let mut owner = db.superuser();
    owner.batch_execute("SET ROLE vault_ext_owner").unwrap();
    for (user, rows) in [("alice", 2), ("bob", 0), ("", 0)] {
        set_user(&mut owner, user);
        assert_eq!(owner.query("SELECT FROM vault_ext.old_keys", &[]).unwrap().len(), rows, "{user:?}");
        assert_eq!(owner.execute("DELETE FROM vault_ext.old_keys", &[]).unwrap(), 0);
    }
    assert_open(&mut bob, &own);
}

#[test]
fn a_wrap_that_was_edited_or_moved_does_not_open() {
    let db = shared_db();
    let mut alice = db.app_for("alice");
    let keys = versions_of(&mut alice, 3);
    versions_of(&mut db.app_for("bob"), 3);
    let restore = "CREATE TABLE kept AS TABLE vault_ext.old_keys";
    db.force(restore);
    for damage in [
        "SET wrapped_mk = reverse(wrapped_mk) WHERE user_id = 'alice' AND key_version = 1",
        "SET wrap_iv = reverse(wrap_iv) WHERE user_id = 'alice' AND key_version = 1",
        // Another version's, another user's, and the current one's.
        "SET wrapped_mk = o.wrapped_mk, wrap_iv = o.wrap_iv FROM kept o WHERE k.user_id = 'alice' AND k.key_version = 1
            AND o.user_id = 'alice' AND o.key_version = 2",
        "SET wrapped_mk = o.wrapped_mk, wrap_iv = o.wrap_iv FROM kept o WHERE k.user_id = 'alice' AND k.key_version = 1
            AND o.user_id = 'bob' AND o.key_version = 1",
        "SET wrapped_mk = o.wrapped_mk, wrap_iv = o.wrap_iv FROM vault_ext.encryption_vaults o WHERE k.user_id = 'alice'
            AND k.key_version = 1 AND o.user_id = 'alice'",
        // A closed version under the number of an open one.
        "SET key_version = key_version + 10 WHERE user_id = 'alice' AND key_version = 2;
         UPDATE vault_ext.old_keys SET key_version = 2 WHERE user_id = 'alice' AND key_version = 1;
         UPDATE vault_ext.old_keys SET key_version = 1 WHERE user_id = 'alice' AND key_version = 12",
    ] {
        db.force(&format!("UPDATE vault_ext.old_keys k {damage}"));
        expect_vault_error(version(&mut alice, 1), "XX001");
        assert_eq!(trail_of(&db, "alice").pop().unwrap(), "failed_fetch 500 unwrap-failed");
        assert_open(&mut alice, &keys[2..]);
        db.force("TRUNCATE vault_ext.old_keys; INSERT INTO vault_ext.old_keys TABLE kept");
    }
    assert_open(&mut alice, &keys);
    // A wrap of an unknown KEK is not lost, only closed.
    db.force("UPDATE vault_ext.old_keys SET kek_id = 'gone' WHERE user_id = 'alice' AND key_version = 1");
    expect_vault_error(version(&mut alice, 1), "55000");
    assert_eq!(trail_of(&db, "alice").pop().unwrap(), "failed_fetch 503 kek-not-loaded");
}

#[test]
fn a_rename_takes_all_versions_along_and_an_erasure_removes_them() {
    let db = shared_db();
    allow_no_wait(&db);
    let mut app = db.app_for("old");
    let keys = versions_of(&mut app, 3);
    app.query("SELECT vault_disable_key_version(2), vault_retire_key_version(1, '0')", &[]).unwrap();
    assert_eq!(destroy_due(&db, 10).unwrap(), (1, 0));
    let mut admin = db.conn("wire_admin");
    admin.query("SELECT vault_rename_user('old', 'new')", &[]).unwrap();
    let mut app = db.app_for("new");
    assert_eq!(states(&mut app), "4 current, 3 decrypt_only, 2 disabled, 1 destroyed");
    assert_open(&mut app, &keys[2..]);
    assert!(yes(&mut app, "SELECT vault_restore_key_version(2)"));
    assert_open(&mut app, &keys[1..]);
    expect_vault_error(version(&mut db.app_for("old"), 3), "P0002");
    assert_eq!(states(&mut db.app_for("old")), "");
    assert!(yes(&mut admin, "SELECT vault_erase('new')"));
    assert_eq!(db.value::<i64>("SELECT count(*) FROM vault_ext.old_keys"), 0);
    // Another vault under the same id begins anew.
    let keys = versions_of(&mut app, 1);
    assert_eq!(states(&mut app), "2 current, 1 decrypt_only");
    assert_open(&mut app, &keys);
}

/// kek_id, old keys, safe to remove.
fn old_keys(db: &Db) -> Vec<(String, i64, bool)> {
    let rows =
        db.conn("wire_admin").query("SELECT kek_id, old_keys, safe_to_remove FROM vault_kek_status()", &[]).unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

#[test]
fn a_kek_that_only_an_old_key_needs_is_not_safe_to_remove() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    let mut app = db.app_for("alice");
    let mut keys = versions_of(&mut app, 0);
    switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    keys.push(rotate(&mut app).unwrap());
    for state in ["restore", "disable", "retire"] {
        app.query(&format!("SELECT vault_{state}_key_version(1)"), &[]).unwrap();
        assert_eq!(old_keys(&db), [("k2".into(), 0, false), ("k1".into(), 1, false)], "{state}");
        let refusal = expect_vault_error(switch(&db, &[("k2", 2)]), "55000");
        assert!(refusal.detail.unwrap().contains("\"k1\" by 1 key"));
        assert_eq!(loaded(&db), ["k2", "k1"]);
        let mut admin = db.conn("wire_admin");
        let refusal = expect_vault_error(admin.query("SELECT vault_retire_kek('k1')", &[]), "55000");
        assert!(refusal.message.contains("\"k1\" is needed by 1 key"), "{refusal:?}");
    }
    let check = "SELECT kek_id, vaults, old_keys FROM vault_check() WHERE outcome = 'opens' ORDER BY kek_id";
    let found = db.conn("wire_admin").query(check, &[]).unwrap();
    let found: Vec<(String, i64, i64)> = found.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(found, [("k1".into(), 0, 1), ("k2".into(), 1, 0)]);
    // A rewrap reaches closed versions, too.
    assert_eq!(rewrap(&db, 10).unwrap(), (1, 0, 0));
    assert_eq!(old_keys(&db), [("k2".into(), 1, false), ("k1".into(), 0, true)]);
    switch(&db, &[("k2", 2)]).unwrap();
    assert!(yes(&mut db.conn("wire_admin"), "SELECT vault_retire_kek('k1')"));
    assert!(yes(&mut app, "SELECT vault_restore_key_version(1)"));
    assert_open(&mut app, &keys);
}

#[test]
fn destroying_the_last_key_frees_its_kek() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    allow_no_wait(&db);
    let mut app = db.app_for("alice");
    versions_of(&mut app, 0);
    switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    rotate(&mut app).unwrap();
    app.query("SELECT vault_retire_key_version(1, '0')", &[]).unwrap();
    assert!(!kek_status(&db)[1].6);
    assert_eq!(destroy_due(&db, 10).unwrap(), (1, 0));
    assert!(kek_status(&db)[1].6);
    switch(&db, &[("k2", 2)]).unwrap();
    expect_vault_error(version(&mut app, 1), "55000");
    assert_eq!(trail_of(&db, "alice").pop().unwrap(), "failed_fetch 410 version-destroyed");
}

#[test]
fn a_rewrap_goes_through_every_version_of_every_user() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    let users = user_ids(12);
    let mut app = db.app();
    let mut keys = Vec::new();
    for user in &users {
        set_user(&mut app, user);
        keys.push(versions_of(&mut app, 3));
    }
    for (turn, batch) in [1, 5, 1000].into_iter().enumerate() {
        let (new, old) = (format!("n{turn}"), if turn == 0 { "k1".to_owned() } else { format!("n{}", turn - 1) });
        let seed = |turn: usize| 10 + turn as u64;
        let old_seed = if turn == 0 { 1 } else { seed(turn - 1) };
        switch(&db, &[(&new, seed(turn)), (&old, old_seed)]).unwrap();
        assert_eq!(rewrap(&db, batch).unwrap(), (48, 0, 0), "batches of {batch}");
        assert_eq!(old_keys(&db)[0], (new.clone(), 36, false));
        switch(&db, &[(&new, seed(turn))]).unwrap();
        for (user, keys) in users.iter().zip(&keys) {
            set_user(&mut app, user);
            assert_open(&mut app, keys);
        }
    }
    // What does not open is counted and left alone.
    db.force(
        "UPDATE vault_ext.old_keys SET wrapped_mk = reverse(wrapped_mk) WHERE user_id = 'user-003' AND key_version = 2",
    );
    switch(&db, &[("last", 50), ("n2", 12)]).unwrap();
    assert_eq!(rewrap(&db, 7).unwrap(), (47, 0, 1));
    set_user(&mut app, "user-003");
    expect_vault_error(version(&mut app, 2), "XX001");
    assert_open(&mut app, &[&keys[3][..1], &keys[3][2..]].concat());
}

#[test]
fn rotations_and_rewraps_at_the_same_time_lose_no_version() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    let users = user_ids(8);
    for user in &users {
        init(&mut db.app_for(user)).unwrap();
    }
    let rotating = |user: &str| {
        let mut app = db.app_for(user);
        let mut keys = vec![fetch(&mut app).unwrap()];
        keys.extend((0..12).map(|_| rotate(&mut app).unwrap()));
        keys
    };
    let keys: Vec<Vec<VaultKey>> = std::thread::scope(|scope| {
        let workers: Vec<_> = users.iter().map(|user| scope.spawn(|| rotating(user))).collect();
        for turn in 0..6 {
            let keks = if turn % 2 == 0 { [("k2", 2), ("k1", 1)] } else { [("k1", 1), ("k2", 2)] };
            switch(&db, &keks).unwrap();
            let (_, _, failed) = rewrap(&db, 3).unwrap();
            assert_eq!(failed, 0);
        }
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    for (user, keys) in users.iter().zip(&keys) {
        assert_open(&mut db.app_for(user), keys);
    }
}

#[test]
fn changing_a_version_asks_for_the_same_step_up_as_a_rotation() {
    let (db, keys) = token_db();
    let mut app = db.app();
    let of = |more| keys[0].token_from("stepup", more);
    let strong = || of(json!({"auth_time": now(), "acr": "urn:mfa"}));
    app.query("SELECT vault_init($1::text)", &[&of(json!({}))]).unwrap();
    expect_vault_error(app.query("SELECT vault_rotate($1, true)", &[&of(json!({}))]), "42501");
    app.query("SELECT vault_rotate($1, false)", &[&strong()]).unwrap();
    let calls = ["vault_retire_key_version(1)", "vault_disable_key_version(1)", "vault_restore_key_version(1)"];
    for call in calls {
        app.batch_execute("BEGIN").unwrap();
        app.query("SELECT vault_login($1)", &[&of(json!({}))]).unwrap();
        let refusal = expect_vault_error(app.query(&format!("SELECT {call}"), &[]), "42501");
        assert!(refusal.detail.unwrap().contains("insufficient_user_authentication"));
        app.batch_execute("ROLLBACK; BEGIN").unwrap();
        app.query("SELECT vault_login($1)", &[&strong()]).unwrap();
        app.query(&format!("SELECT {call}"), &[]).unwrap();
        app.batch_execute("COMMIT").unwrap();
    }
    // Reading a version takes no more than reading the key.
    app.batch_execute("BEGIN").unwrap();
    app.query("SELECT vault_login($1)", &[&of(json!({}))]).unwrap();
    assert_eq!(version(&mut app, 1).unwrap().key_version, 1);
    app.batch_execute("COMMIT").unwrap();
}

#[test]
fn a_version_that_is_restored_and_one_that_is_rotated_away_do_not_block_each_other_for_ever() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    versions_of(&mut app, 1);
    app.batch_execute("BEGIN; SELECT vault_disable_key_version(1)").unwrap();
    let mut other = db.app_for("alice");
    let rotated = std::thread::spawn(move || rotate(&mut other).unwrap());
    app.batch_execute("COMMIT").unwrap();
    let rotated = without_deadlock(Duration::from_secs(30), "the rotation", move || rotated.join().unwrap());
    assert_eq!(rotated.key_version, 3);
    assert_eq!(states(&mut app), "3 current, 2 decrypt_only, 1 disabled");
}
