//! The user's identity: the application sets it, the extension never guesses it, and its absence is a separate error.

use crate::harness::{Db, expect_vault_error, fetch, forget_user, init, rotate, set_user, shared_db, status};

/// Asserts that the three calls fail with 28000, and that each failure has a row without a user.
#[track_caller]
fn expect_no_identity(db: &Db, client: &mut postgres::Client) {
    let before = db.audit().len();
    expect_vault_error(init(client), "28000");
    expect_vault_error(fetch(client), "28000");
    expect_vault_error(rotate(client), "28000");
    let rows = db.audit().split_off(before);
    let actions: Vec<_> = rows.iter().map(|row| row.action.as_str()).collect();
    assert_eq!(actions, ["failed_init", "failed_fetch", "failed_rotate"]);
    for row in rows {
        assert_eq!((row.status, row.user_id), (401, None));
        assert_eq!(row.db_role, "wire_app");
        assert!(row.context.is_some());
    }
    expect_vault_error(status(client), "28000");
    let vaults: i64 = db.value("SELECT count(*) FROM vault_ext.encryption_vaults");
    assert_eq!(vaults, 0);
}

#[test]
fn a_missing_identity_is_refused_and_audited() {
    let db = shared_db();
    expect_no_identity(&db, &mut db.app());
}

#[test]
fn an_empty_identity_is_refused_and_audited() {
    let db = shared_db();
    let mut app = db.app_for("");
    expect_no_identity(&db, &mut app);
}

#[test]
fn a_reset_identity_is_refused_and_audited() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    forget_user(&mut app);
    expect_no_identity(&db, &mut app);
}

#[test]
fn an_identity_ends_with_the_transaction_that_set_it() {
    let db = shared_db();
    let mut app = db.app();
    for end in ["COMMIT", "ROLLBACK"] {
        app.batch_execute(&format!("BEGIN; SET LOCAL app.current_user_id = 'alice'; {end}")).unwrap();
        let left: Option<String> =
            app.query_one("SELECT current_setting('app.current_user_id', true)", &[]).unwrap().get(0);
        assert_eq!(left.as_deref(), Some(""), "PostgreSQL leaves an empty setting after SET LOCAL");
        expect_no_identity(&db, &mut app);
    }
}

#[test]
fn an_identity_ends_with_the_savepoint_that_set_it() {
    let db = shared_db();
    let mut app = db.app();
    app.batch_execute("BEGIN; SAVEPOINT s; SET LOCAL app.current_user_id = 'alice'; ROLLBACK TO SAVEPOINT s").unwrap();
    expect_vault_error(init(&mut app), "28000");
    app.batch_execute("ROLLBACK").unwrap();
    assert_eq!(db.vault_row("alice"), None);
}

#[test]
fn an_identity_has_at_most_255_bytes() {
    let db = shared_db();
    for too_long in ["x".repeat(256), "é".repeat(128), "x".repeat(100_000)] {
        let mut app = db.app_for(&too_long);
        expect_no_identity(&db, &mut app);
    }
    for longest in ["x".repeat(255), format!("{}x", "é".repeat(127))] {
        let mut app = db.app_for(&longest);
        let key = init(&mut app).unwrap();
        assert_eq!(fetch(&mut app).unwrap(), key);
        let rows = db.audit_of(&longest);
        assert_eq!(rows.len(), 2, "the trail holds the whole id");
    }
}

#[test]
fn users_whose_names_look_alike_are_different_users() {
    let db = shared_db();
    let names = [
        "alice",
        "Alice",
        "alice ",
        " alice",
        "alice\t",
        "al\u{456}ce",
        "e\u{301}",
        "\u{e9}",
        "'; DROP TABLE vault_ext.encryption_vaults; --",
        "%",
        "_lice",
        "null",
        "1' OR '1'='1",
        "🔑",
    ];
    let mut keys: Vec<_> = names.iter().map(|name| init(&mut db.app_for(name)).unwrap().master_key).collect();
    for (name, key) in names.iter().zip(&keys) {
        assert_eq!(&fetch(&mut db.app_for(name)).unwrap().master_key, key, "{name}");
        assert_eq!(db.audit_of(name).len(), 2, "{name}");
    }
    // An administrator names one of them, too.
    let [decomposed, composed] = ["e\u{301}", "\u{e9}"];
    let key = fetch(&mut db.app_for(decomposed)).unwrap();
    assert!(db.conn("wire_admin").query_one("SELECT vault_erase($1)", &[&composed]).unwrap().get::<_, bool>(0));
    expect_vault_error(fetch(&mut db.app_for(composed)), "P0002");
    assert_eq!(fetch(&mut db.app_for(decomposed)).unwrap(), key);
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), names.len());
}

#[test]
fn a_session_that_changes_its_user_gets_that_user_s_key() {
    let db = shared_db();
    let alice = init(&mut db.app_for("alice")).unwrap();
    let bob = init(&mut db.app_for("bob")).unwrap();
    let mut app = db.app();
    for _ in 0..10 {
        set_user(&mut app, "alice");
        assert_eq!(fetch(&mut app).unwrap(), alice);
        set_user(&mut app, "bob");
        assert_eq!(fetch(&mut app).unwrap(), bob);
    }
}

#[test]
fn a_prepared_statement_follows_the_identity_under_a_generic_plan() {
    let db = shared_db();
    let alice = init(&mut db.app_for("alice")).unwrap();
    let bob = init(&mut db.app_for("bob")).unwrap();
    for mode in ["auto", "force_generic_plan", "force_custom_plan"] {
        let mut app = db.app_for("alice");
        app.batch_execute(&format!("SET plan_cache_mode = {mode}")).unwrap();
        let statement = app.prepare("SELECT master_key FROM vault_get_master_key()").unwrap();
        let history = app.prepare("SELECT count(*) FROM vault_ext.own_audit WHERE status = 201").unwrap();
        for _ in 0..7 {
            let key: String = app.query_one(&statement, &[]).unwrap().get(0);
            assert_eq!(key, alice.master_key, "{mode}");
            assert_eq!(app.query_one(&history, &[]).unwrap().get::<_, i64>(0), 1);
        }
        set_user(&mut app, "bob");
        let key: String = app.query_one(&statement, &[]).unwrap().get(0);
        assert_eq!(key, bob.master_key, "{mode}");
        set_user(&mut app, "carol");
        expect_vault_error(app.query_one(&statement, &[]), "P0002");
        assert_eq!(app.query_one(&history, &[]).unwrap().get::<_, i64>(0), 0);
        forget_user(&mut app);
        expect_vault_error(app.query_one(&statement, &[]), "28000");
    }
}
