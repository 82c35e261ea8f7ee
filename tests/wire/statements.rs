//! Whatever the form of a statement, every row that it returns is one stored key. PostgreSQL may call a function several
//! times for a single call in a statement's text: `(f()).*` calls it once for each column.

use std::time::Duration;

use postgres::{Client, Row};

use crate::harness::{Db, VaultKey, eventually, expect_vault_error, fetch, init, rotate, set_user, shared_db};
use crate::trail::trail_of;

fn key_of(row: &Row) -> VaultKey {
    VaultKey { master_key: row.get(0), format_version: row.get(1), kek_id: row.get(2), key_version: row.get(3) }
}

#[track_caller]
fn keys_returned_by(client: &mut Client, sql: &str) -> Vec<VaultKey> {
    client.query(sql, &[]).unwrap_or_else(|e| panic!("{sql}: {e:?}")).iter().map(key_of).collect()
}

/// The key that a separate session gets.
fn stored_key(db: &Db, user: &str) -> VaultKey {
    fetch(&mut db.app_for(user)).unwrap()
}

#[test]
fn a_rotation_spread_over_columns_returns_the_stored_key() {
    let db = shared_db();
    let first = init(&mut db.app_for("alice")).unwrap();
    let mut app = db.app_for("alice");
    let [rotated] = &keys_returned_by(&mut app, "SELECT (vault_rotate()).*")[..] else { panic!("one row") };
    assert_eq!(*rotated, stored_key(&db, "alice"));
    assert_ne!(rotated.master_key, first.master_key);
    assert_eq!(rotated.key_version, 2, "one rotation");
    assert_eq!(
        trail_of(&db, "alice"),
        [
            &["init 201 created", "rotate 200"][..],
            // The function is called once for each of the seven columns.
            &["rotate 200 same-statement"; 6],
            &["fetch 200"]
        ]
        .concat()
    );
    // The next statement rotates again.
    let [again] = &keys_returned_by(&mut app, "SELECT (vault_rotate()).*")[..] else { panic!("one row") };
    assert_eq!((again, again.key_version), (&stored_key(&db, "alice"), 3));
}

#[test]
fn every_other_form_of_a_rotation_returns_the_stored_key() {
    let db = shared_db();
    for (number, (sql, count, version)) in [
        ("SELECT * FROM vault_rotate()", 1, 2),
        ("SELECT (k).* FROM (SELECT vault_rotate() AS k) s", 1, 2),
        ("SELECT (k).* FROM (SELECT vault_rotate() AS k OFFSET 0) s", 1, 2),
        ("WITH k AS (SELECT * FROM vault_rotate()) SELECT a.* FROM k a, k b", 1, 2),
        ("WITH k AS (SELECT (vault_rotate()).*) SELECT * FROM k UNION ALL SELECT * FROM k", 2, 2),
        ("SELECT * FROM vault_rotate() UNION ALL SELECT * FROM vault_rotate()", 2, 2),
        ("SELECT k.* FROM generate_series(1, 3) n, LATERAL (SELECT n, (vault_rotate()).*) k(n, a, b, c, d)", 0, 2),
        ("SELECT (vault_rotate()).* FROM generate_series(1, 3)", 3, 2),
        ("SELECT (vault_rotate()).*, vault_get_master_key()", 1, 2),
        ("SELECT (vault_rotate()).master_key, (vault_get_master_key()).format_version, (vault_init()).kek_id, (vault_rotate()).key_version", 1, 2),
        ("SELECT (CASE WHEN n > 0 THEN vault_rotate() END).* FROM generate_series(1, 2) n", 2, 2),
    ]
    .into_iter()
    .enumerate()
    {
        let user = format!("user-{number}");
        init(&mut db.app_for(&user)).unwrap();
        let mut app = db.app_for(&user);
        if count == 0 {
            app.query(sql, &[]).unwrap();
        } else {
            let given = keys_returned_by(&mut app, sql);
            assert_eq!(given.len(), count, "{sql}");
            for key in given {
                assert_eq!(key, stored_key(&db, &user), "{sql}");
            }
        }
        assert_eq!(stored_key(&db, &user).key_version, version, "{sql}");
    }
}

#[test]
fn an_init_spread_over_columns_creates_one_key() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let [minted] = &keys_returned_by(&mut app, "SELECT (vault_init()).*")[..] else { panic!("one row") };
    assert_eq!(*minted, stored_key(&db, "alice"));
    assert_eq!(trail_of(&db, "alice")[..2], ["init 201 created", "init 200 already-exists"]);
    // A statement does not rotate a key that it has created itself.
    set_user(&mut app, "bob");
    let row = app.query_one("SELECT (vault_init()).master_key, (vault_rotate()).*", &[]).unwrap();
    let rotated =
        VaultKey { master_key: row.get(1), format_version: row.get(2), kek_id: row.get(3), key_version: row.get(4) };
    assert_eq!((row.get::<_, &str>(0), &rotated), (rotated.master_key.as_str(), &stored_key(&db, "bob")));
    assert_eq!(rotated.key_version, 1);
    set_user(&mut app, "carol");
    let [made] = &keys_returned_by(&mut app, "SELECT (vault_rotate()).*")[..] else { panic!("one row") };
    assert_eq!((made, made.key_version), (&stored_key(&db, "carol"), 1), "a rotation that acts as init");
}

#[test]
fn a_statement_over_many_users_rotates_each_once() {
    let db = shared_db();
    for user in ["alice", "bob"] {
        init(&mut db.app_for(user)).unwrap();
    }
    let mut app = db.app();
    // Each user appears twice. The key returned the first time must still be the stored one at the end.
    let sql = "SELECT k.*, u FROM generate_series(1, 2) n, LATERAL unnest(ARRAY['alice', 'bob']) u,
        LATERAL (SELECT set_config('app.current_user_id', u, false) OFFSET 0) s (x), LATERAL (SELECT x, (vault_rotate()).* OFFSET 0) k (x, m, f, i, v, r, w, n)";
    let given = app.query(sql, &[]).unwrap();
    assert_eq!(given.len(), 4);
    for row in given {
        let stored = stored_key(&db, row.get("u"));
        assert_eq!((row.get::<_, &str>(1), row.get::<_, i32>(4)), (stored.master_key.as_str(), 2));
    }
}

#[test]
fn separate_statements_rotate_each_time() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    let mut app = db.app_for("alice");
    for (sql, version) in [
        ("DO $$ BEGIN PERFORM vault_rotate(); PERFORM vault_rotate(); END $$", 3),
        ("DO $$ DECLARE k text; BEGIN FOR i IN 1..3 LOOP k := (vault_rotate()).master_key; END LOOP; END $$", 6),
        ("SELECT vault_rotate(); SELECT vault_rotate()", 8),
        ("BEGIN; SELECT vault_rotate(); COMMIT; BEGIN; SELECT vault_rotate(); COMMIT", 10),
        ("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT vault_rotate(); SELECT vault_rotate(); COMMIT", 12),
        (
            "BEGIN; SELECT vault_rotate(); SAVEPOINT a; SELECT vault_rotate(); ROLLBACK TO a; SELECT vault_rotate(); COMMIT",
            14,
        ),
        (
            "DO $$ BEGIN BEGIN PERFORM vault_rotate(); RAISE 'undone'; EXCEPTION WHEN raise_exception THEN END; PERFORM vault_rotate(); END $$",
            15,
        ),
        ("PREPARE r AS SELECT vault_rotate(); EXECUTE r; EXECUTE r; DEALLOCATE r", 17),
    ] {
        app.batch_execute(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        assert_eq!(stored_key(&db, "alice").key_version, version, "{sql}");
    }
    let versions: Vec<i32> = (0..2).map(|_| rotate(&mut app).unwrap().key_version).collect();
    assert_eq!(versions, [18, 19]);
    let mut transaction = app.transaction().unwrap();
    let versions: Vec<i32> = (0..2).map(|_| rotate(&mut transaction).unwrap().key_version).collect();
    assert_eq!(versions, [20, 21]);
    assert_eq!(fetch(&mut transaction).unwrap().key_version, 21);
    transaction.rollback().unwrap();
    assert_eq!(fetch(&mut app).unwrap().key_version, 19);
}

#[test]
fn a_fetch_spread_over_columns_does_not_mix_two_keys() {
    let db = shared_db();
    let old = init(&mut db.app_for("alice")).unwrap();
    // Another session rotates the key between the first column and the last.
    let mut locker = db.superuser();
    locker.batch_execute("SELECT pg_advisory_lock(1)").unwrap();
    let sql = "SELECT k.m, k.f, k.i, (SELECT (vault_get_master_key()).key_version FROM pg_advisory_lock_shared(1) OFFSET 0) FROM
        (SELECT (vault_get_master_key()).* OFFSET 0) k (m, f, i, v)";
    let mut app = db.app_for("alice");
    let pid: i32 = app.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let reading = std::thread::spawn(move || keys_returned_by(&mut app, sql));
    eventually(Duration::from_secs(30), "the statement waits between two calls", || {
        db.value(&format!("SELECT EXISTS (SELECT FROM pg_locks WHERE pid = {pid} AND NOT granted)"))
    });
    let new = rotate(&mut db.app_for("alice")).unwrap();
    locker.batch_execute("SELECT pg_advisory_unlock(1)").unwrap();
    let given = reading.join().unwrap();
    assert_eq!(given, [old], "the row is entirely from one of the two keys");
    assert_eq!(stored_key(&db, "alice"), new);
    // The next statement of the same transaction sees the new one.
    let mut app = db.app_for("alice");
    let mut transaction = app.transaction().unwrap();
    assert_eq!(fetch(&mut transaction).unwrap(), new);
    let newer = rotate(&mut db.app_for("alice")).unwrap();
    assert_eq!(fetch(&mut transaction).unwrap(), newer);
}

#[test]
fn a_loop_in_one_statement_sees_what_others_commit_meanwhile() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    let mut app = db.app_for("alice");
    let waiting = std::thread::spawn(move || {
        app.batch_execute(
            "DO $$ DECLARE v int; BEGIN LOOP SELECT key_version INTO v FROM vault_get_master_key(); EXIT WHEN v = 2; PERFORM pg_sleep(0.01); END LOOP; END $$",
        )
        .unwrap();
    });
    rotate(&mut db.app_for("alice")).unwrap();
    waiting.join().unwrap();
}

#[test]
fn a_status_spread_over_columns_is_consistent() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let row = app.query_one("SELECT (vault_status()).*", &[]).unwrap();
    assert!(!row.get::<_, bool>(0));
    let row = app.query_one("SELECT (vault_init()).key_version, (vault_status()).*", &[]).unwrap();
    assert_eq!((row.get::<_, bool>(1), row.get::<_, Option<i32>>(4)), (true, Some(1)));
    let row = app
        .query_one(
            "SELECT (vault_status()).\"exists\", (vault_rotate()).key_version, (vault_status()).key_version",
            &[],
        )
        .unwrap();
    assert_eq!((row.get::<_, i32>(1), row.get::<_, i32>(2)), (2, 2));
}

#[test]
fn repeated_fetches_in_a_statement_do_not_mix_up_users() {
    let db = shared_db();
    let alice = init(&mut db.app_for("alice")).unwrap();
    let bob = init(&mut db.app_for("bob")).unwrap();
    let mut app = db.app();
    let row = app
        .query_one(
            "SELECT set_config('app.current_user_id', 'alice', false), (vault_get_master_key()).master_key,
                set_config('app.current_user_id', 'bob', false), (vault_get_master_key()).master_key,
                set_config('app.current_user_id', 'alice', false), (vault_get_master_key()).master_key",
            &[],
        )
        .unwrap();
    let given = [1, 3, 5].map(|column| row.get::<_, String>(column));
    assert_eq!(given, [alice.master_key.clone(), bob.master_key, alice.master_key]);
}

#[test]
fn an_erased_vault_is_gone_within_the_same_statement() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    db.force("CREATE ROLE statements_both LOGIN; GRANT vault_ext_user, vault_ext_admin TO statements_both");
    let mut admin = db.conn("statements_both");
    set_user(&mut admin, "alice");
    let result = admin.query("SELECT vault_get_master_key(), vault_erase('alice'), vault_get_master_key()", &[]);
    expect_vault_error(result, "P0002");
    assert!(db.vault_row("alice").is_some(), "the failed statement rolled the erasure back");
}
