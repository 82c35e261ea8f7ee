//! The functions give a user nothing that belongs to another user.

use crate::harness::{Db, expect_error, expect_vault_error, fetch, init, rotate, set_user, shared_db, status};

const CALLS: [&str; 4] = ["vault_init", "vault_get_master_key", "vault_rotate", "vault_status"];

fn two_users(db: &Db) -> (String, String) {
    let alice = init(&mut db.app_for("alice")).unwrap().master_key;
    let bob = init(&mut db.app_for("bob")).unwrap().master_key;
    (alice, bob)
}

#[test]
fn a_rotate_of_one_user_leaves_the_other_alone() {
    let db = shared_db();
    let (_, bob) = two_users(&db);
    let row = db.vault_row("bob");
    rotate(&mut db.app_for("alice")).unwrap();
    assert_eq!(db.vault_row("bob"), row);
    assert_eq!(fetch(&mut db.app_for("bob")).unwrap().master_key, bob);
}

#[test]
fn only_members_of_vault_ext_user_may_call() {
    let db = shared_db();
    two_users(&db);
    for role in ["wire_stranger", "wire_admin", "wire_auditor"] {
        let mut client = db.conn(role);
        set_user(&mut client, "bob");
        for call in CALLS {
            expect_error(client.simple_query(&format!("SELECT {call}()")), "42501");
        }
    }
}

#[test]
fn two_application_roles_act_for_the_same_users_and_the_trail_tells_them_apart() {
    let db = shared_db();
    let (alice, _) = two_users(&db);
    let mut other = db.conn("wire_app2");
    set_user(&mut other, "alice");
    assert_eq!(fetch(&mut other).unwrap().master_key, alice);
    let roles: Vec<_> = db.audit_of("alice").into_iter().map(|row| row.db_role).collect();
    assert_eq!(roles, ["wire_app", "wire_app2"]);
}

#[test]
fn a_stricter_policy_hides_a_row_from_the_functions() {
    let db = shared_db();
    let (_, bob) = two_users(&db);
    db.force(
        "CREATE POLICY closed ON vault_ext.encryption_vaults AS RESTRICTIVE FOR SELECT USING (user_id <> 'alice')",
    );
    expect_vault_error(fetch(&mut db.app_for("alice")), "P0002");
    assert!(!status(&mut db.app_for("alice")).unwrap().exists);
    assert_eq!(fetch(&mut db.app_for("bob")).unwrap().master_key, bob);
}

#[test]
fn a_stricter_policy_stops_the_functions_from_writing() {
    let db = shared_db();
    let (alice, _) = two_users(&db);
    db.force(
        "CREATE POLICY no_insert ON vault_ext.encryption_vaults AS RESTRICTIVE FOR INSERT WITH CHECK (user_id <> 'carol');
         CREATE POLICY no_update ON vault_ext.encryption_vaults AS RESTRICTIVE FOR UPDATE USING (true) WITH CHECK (user_id <> 'alice')",
    );
    let row = db.vault_row("alice");
    expect_error(init(&mut db.app_for("carol")), "42501");
    assert_eq!(db.vault_row("carol"), None);
    expect_error(rotate(&mut db.app_for("alice")), "42501");
    assert_eq!(db.vault_row("alice"), row);
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap().master_key, alice);
    let carol = db.audit_of("carol");
    assert_eq!(carol.len(), 1);
    assert_eq!((carol[0].action.as_str(), carol[0].status), ("failed_init", 500));
    init(&mut db.app_for("dave")).unwrap();
}

#[test]
fn turning_row_security_off_reveals_nothing() {
    let db = shared_db();
    let (alice, _) = two_users(&db);
    let mut app = db.app_for("alice");
    app.batch_execute("SET row_security = off").unwrap();
    // Either the user's own key or an error, but never another user's row.
    match fetch(&mut app) {
        Ok(key) => assert_eq!(key.master_key, alice),
        Err(error) => drop(expect_error(Err::<(), _>(error), "55000")),
    }
    set_user(&mut app, "carol");
    let result = fetch(&mut app);
    let code = result.as_ref().err().and_then(|e| e.code()).map(|c| c.code().to_owned());
    assert!(matches!(code.as_deref(), Some("P0002" | "55000")), "{result:?}");
}

#[test]
fn a_hostile_search_path_does_not_reach_into_the_functions() {
    let db = shared_db();
    let (alice, bob) = two_users(&db);
    db.force("GRANT CREATE ON SCHEMA public TO wire_app; CREATE SCHEMA evil AUTHORIZATION wire_app");
    let mut app = db.app_for("alice");
    app.batch_execute(
        "CREATE FUNCTION evil.always(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
         CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.always);
         CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT 'bob'::text $$;
         CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql AS $$ SELECT 'bob'::text $$;
         CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT 'infinity'::timestamptz $$;
         CREATE TABLE evil.encryption_vaults (LIKE pg_class);
         CREATE TABLE evil.encryption_vault_audit (LIKE pg_class);
         CREATE TEMP TABLE encryption_vaults (user_id text, wrapped_mk text);
         CREATE DOMAIN evil.text AS pg_catalog.int4;
         SET search_path = evil, pg_temp, pg_catalog, public",
    )
    .unwrap();
    assert_eq!(fetch(&mut app).unwrap().master_key, alice);
    assert_eq!(init(&mut app).unwrap().master_key, alice);
    let row = db.vault_row("bob");
    let rotated = rotate(&mut app).unwrap();
    assert_eq!(db.vault_row("bob"), row);
    let mut plain = db.app_for("alice");
    assert_eq!(fetch(&mut plain).unwrap(), rotated);
    assert_eq!(fetch(&mut db.app_for("bob")).unwrap().master_key, bob);
    assert_eq!(db.audit_of("alice").len(), 5);
}

#[test]
fn the_first_call_of_a_session_under_a_hostile_search_path_is_safe_too() {
    let db = shared_db();
    db.force(
        "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC;
         CREATE FUNCTION evil.always(text, text) RETURNS boolean LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'reached'; END $$;
         CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.always);
         CREATE OPERATOR evil.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.always);
         CREATE FUNCTION evil.nullif(text, text) RETURNS text LANGUAGE sql AS $$ SELECT 'bob' $$;
         CREATE FUNCTION evil.octet_length(text) RETURNS int LANGUAGE sql AS $$ SELECT 1/0 $$;
         CREATE FUNCTION evil.unnest(anyarray) RETURNS SETOF anyelement LANGUAGE sql AS $$ SELECT 1/0; SELECT $1[1] $$",
    );
    let name = &db.name;
    db.force(&format!("ALTER DATABASE \"{name}\" SET search_path = evil, pg_catalog, public"));
    let key = init(&mut db.app_for("alice")).unwrap();
    assert_eq!(rotate(&mut db.app_for("alice")).unwrap().key_version, 2);
    assert_ne!(fetch(&mut db.app_for("alice")).unwrap(), key);
}

#[test]
fn the_caller_has_its_own_role_again_after_a_call() {
    let db = shared_db();
    two_users(&db);
    db.force("GRANT CREATE ON SCHEMA public TO wire_app");
    let mut app = db.app_for("alice");
    app.batch_execute(
        "CREATE FUNCTION peek() RETURNS text LANGUAGE plpgsql AS $$
         BEGIN
            PERFORM vault_get_master_key();
            RETURN current_user;
         END $$",
    )
    .unwrap();
    let role: String = app.query_one("SELECT peek()", &[]).unwrap().get(0);
    assert_eq!(role, "wire_app", "the caller has its own role after the call");
    set_user(&mut app, "carol");
    expect_error(app.simple_query("SELECT vault_get_master_key()"), "P0002");
    let role: String = app.query_one("SELECT current_user::text", &[]).unwrap().get(0);
    assert_eq!(role, "wire_app", "the caller has its own role after an error");
}

#[test]
fn a_call_leaves_the_caller_s_settings_unchanged() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let settings = "SELECT string_agg(name || '=' || setting, E'\\n' ORDER BY name) FROM pg_settings
        WHERE name NOT LIKE 'transaction%'";
    let read = |app: &mut postgres::Client| -> String { app.query_one(settings, &[]).unwrap().get(0) };
    let before = read(&mut app);
    init(&mut app).unwrap();
    rotate(&mut app).unwrap();
    set_user(&mut app, "bob");
    expect_vault_error(fetch(&mut app), "P0002");
    assert_eq!(read(&mut app), before);
}
