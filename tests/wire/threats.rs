//! What each form of identity closes, and what it leaves open: the table of SECURITY.md, a test for each row. What is open is
//! asserted as open.

use postgres::{Client, Error};
use serde_json::json;

use crate::harness::neighbours::is_neighbour;
use crate::harness::{
    Db, Signer, claims, decode, expect_error, expect_vault_error, fetch, init, now, set_user, shared_db, token_db,
};
use crate::pooler::{Pooler, column};

fn key(client: &mut Client, function: &str, token: &str) -> Result<String, Error> {
    client.query_one(&format!("SELECT master_key FROM {function}($1::text)"), &[&token]).map(|row| row.get(0))
}

fn login(client: &mut Client, token: &str) {
    client.query("SELECT vault_login($1)", &[&token]).unwrap();
}

/// What an injection into `SELECT … WHERE id = '…'` can make of it: no second statement.
fn injected(set: &str) -> String {
    format!(
        "SELECT id::text FROM generate_series(1, 1) id WHERE id = 0 UNION SELECT k.master_key FROM {set} s, vault_get_master_key() k"
    )
}

const NAME_ALICE: &str = "set_config('app.current_user_id', 'alice', true)";

#[test]
fn an_injected_select_that_names_a_victim() {
    let db = shared_db();
    let alice = init(&mut db.app_for("alice")).unwrap().master_key;
    let mut app = db.app_for("mallory");
    assert_eq!(app.query_one(&injected(NAME_ALICE), &[]).unwrap().get::<_, String>(0), alice, "asserted: open");

    let (db, keys) = token_db();
    let mut app = db.app();
    key(&mut app, "vault_init", &keys[0].token_of("alice")).unwrap();
    let mallory = key(&mut app, "vault_init", &keys[0].token_of("mallory")).unwrap();
    app.batch_execute("BEGIN").unwrap();
    login(&mut app, &keys[0].token_of("mallory"));
    for name in ["'alice'", "'u-alice'"] {
        let sql = injected(&format!("set_config('app.current_user_id', {name}, true)"));
        assert_eq!(app.query_one(&sql, &[]).unwrap().get::<_, String>(0), mallory, "ambient: closed");
    }
    app.batch_execute("COMMIT").unwrap();
    expect_vault_error(app.query(&injected(NAME_ALICE), &[]), "28000");
    expect_vault_error(app.query(&injected("set_config('vault_ext.token', 'u-alice', true)"), &[]), "28000");
}

#[test]
fn sql_that_looks_for_the_token() {
    let (db, keys) = token_db();
    let mut app = db.app();
    let token = keys[0].token_of("alice");
    app.batch_execute("BEGIN").unwrap();
    login(&mut app, &token);
    let signature = token.rsplit('.').next().unwrap();
    for sql in [
        "SELECT current_setting('vault_ext.token')",
        "SELECT * FROM pg_settings",
        "SHOW ALL",
        "EXPLAIN (SETTINGS, VERBOSE) SELECT vault_user_id()",
        "SELECT * FROM pg_stat_activity",
        "SELECT * FROM pg_prepared_statements",
        "SELECT * FROM pg_cursors",
        "SELECT * FROM pg_file_settings",
        "SELECT * FROM vault_whoami()",
        "SELECT vault_claims()",
    ] {
        match app.simple_query(&format!("SAVEPOINT s; {sql}")) {
            Ok(rows) => assert!(!format!("{rows:?}").contains(signature), "{sql} shows the token"),
            Err(_) => app.batch_execute("ROLLBACK TO s").unwrap(),
        }
    }
}

#[test]
fn other_sessions_that_look_at_statements() {
    let (db, keys) = token_db();
    let mut app = db.app();
    let mut monitor = db.app();
    let mut shown = |token: &str| -> bool {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%' || $1 || '%' AND pid <> pg_backend_pid()";
        monitor.query_one(sql, &[&token]).unwrap().get::<_, i64>(0) > 0
    };
    let bound = keys[0].token_of("alice");
    key(&mut app, "vault_init", &bound).unwrap();
    assert!(!shown(&bound), "a parameter: closed");
    let literal = keys[0].token_of("alice");
    app.simple_query(&format!("SELECT vault_get_master_key('{literal}')")).unwrap();
    assert!(shown(&literal), "a literal: open until the token expires");
}

#[test]
fn tokens_in_the_server_s_log() {
    let (db, keys) = token_db();
    let token = keys[0].token_of("alice");
    key(&mut db.app(), "vault_init", &token).unwrap();
    assert!(db.cluster.log().contains(&token), "log_statement = all: open until the token expires");
    // What SECURITY.md advises.
    db.force(&format!("ALTER ROLE wire_app2 IN DATABASE {} SET log_parameter_max_length = 0", db.name));
    db.force(&format!("ALTER ROLE wire_app2 IN DATABASE {} SET log_parameter_max_length_on_error = 0", db.name));
    let mut app = db.conn("wire_app2");
    let token = keys[0].token_of("alice");
    key(&mut app, "vault_init", &token).unwrap();
    // pgaudit.log_parameter, which the neighbours' runs turn on, is a setting of its own.
    assert_eq!(db.cluster.log().contains(&token), is_neighbour("pgaudit"), "closed");
    expect_error(app.batch_execute("SET log_parameter_max_length = -1"), "42501");
}

/// Mallory has run SQL in a session that a pooler hands to Alice next.
#[test]
fn a_view_planted_in_a_pooled_session() {
    const PLANT: &str = "CREATE TEMP TABLE loot (key text);
        CREATE FUNCTION pg_temp.steal() RETURNS text LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO pg_temp.loot SELECT master_key FROM public.vault_get_master_key();
            RETURN 'x';
        EXCEPTION WHEN OTHERS THEN
            INSERT INTO pg_temp.loot VALUES (SQLSTATE);
            RETURN 'x';
        END $$;
        CREATE TEMP VIEW notes AS SELECT pg_temp.steal() AS note";
    let loot = |app: &mut Client| -> Vec<String> {
        app.query("SELECT key FROM loot", &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    let db = shared_db();
    let alice = init(&mut db.app_for("alice")).unwrap().master_key;
    let mut app = db.app_for("mallory");
    app.batch_execute(PLANT).unwrap();
    set_user(&mut app, "alice");
    app.query("SELECT note FROM notes", &[]).unwrap();
    assert_eq!(loot(&mut app), [alice], "asserted: open");

    let (db, keys) = token_db();
    let token = keys[0].token_of("alice");
    let alice = key(&mut db.app(), "vault_init", &token).unwrap();
    let mut app = db.app();
    app.batch_execute(PLANT).unwrap();
    let mut transaction = app.transaction().unwrap();
    transaction.query("SELECT vault_login($1)", &[&token]).unwrap();
    transaction.query("SELECT note FROM notes", &[]).unwrap();
    transaction.commit().unwrap();
    assert_eq!(loot(&mut app), std::slice::from_ref(&alice), "ambient: open");

    let mut app = db.app();
    app.batch_execute(PLANT).unwrap();
    let mut transaction = app.transaction().unwrap();
    transaction.query("SELECT note FROM notes", &[]).unwrap();
    let sql = "SELECT master_key FROM vault_get_master_key($1::text)";
    assert_eq!(transaction.query_one(sql, &[&token]).unwrap().get::<_, String>(0), alice);
    transaction.query("SELECT note FROM notes", &[]).unwrap();
    transaction.commit().unwrap();
    assert_eq!(loot(&mut app), ["28000", "28000"], "argument: closed");
    // DISCARD ALL between clients removes what was planted.
    app.batch_execute("DISCARD ALL").unwrap();
    assert!(app.query("SELECT note FROM notes", &[]).is_err());
}

#[test]
fn a_driver_s_prepared_statement_replaced_by_name() {
    let (db, keys) = token_db();
    key(&mut db.app(), "vault_init", &keys[0].token_of("alice")).unwrap();
    let mut app = db.app();
    let sql = "SELECT master_key FROM vault_get_master_key($1::text)";
    let statement = app.prepare(sql).unwrap();
    let name: String =
        app.query_one("SELECT name FROM pg_prepared_statements WHERE statement = $1", &[&sql]).unwrap().get(0);
    app.batch_execute(&format!(
        "CREATE TEMP TABLE loot (token text);
         CREATE FUNCTION pg_temp.take(token text) RETURNS text LANGUAGE sql AS
            $$ INSERT INTO pg_temp.loot VALUES (token); SELECT ''::text $$;
         DEALLOCATE {name}; PREPARE {name} (text) AS SELECT pg_temp.take($1)"
    ))
    .unwrap();
    let token = keys[0].token_of("alice");
    app.query_one(&statement, &[&token]).unwrap();
    let taken: String = app.query_one("SELECT token FROM loot", &[]).unwrap().get(0);
    assert_eq!(taken, token, "argument: open until the token expires");
    // Bound to its transaction, the token is worth nothing afterwards.
    app.batch_execute("BEGIN").unwrap();
    let challenge: String = app.query_one("SELECT vault_challenge()", &[]).unwrap().get(0);
    let bound = keys[0].token_from("transaction", json!({"vault_challenge": challenge}));
    app.query_one(&statement, &[&bound]).unwrap();
    assert!(key(&mut app, "vault_init", &bound).is_ok(), "bound: open for that transaction");
    app.batch_execute("COMMIT").unwrap();
    expect_vault_error(key(&mut app, "vault_get_master_key", &bound), "28000");
    expect_vault_error(key(&mut db.app(), "vault_get_master_key", &bound), "28000");
}

#[test]
fn whoever_has_the_application_s_password() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    fetch(&mut db.app_for("alice")).expect("asserted: open");
    let (db, keys) = token_db();
    key(&mut db.app(), "vault_init", &keys[0].token_of("alice")).unwrap();
    expect_vault_error(fetch(&mut db.app_for("u-alice")), "28000");
}

#[test]
fn an_identity_lowered() {
    let (db, keys) = token_db();
    let mut app = db.app();
    key(&mut app, "vault_init", &keys[0].token_of("alice")).unwrap();
    for setting in ["identity = asserted", "token_from_headers = on", "pin_identity = off", "grant_approvals = 0"] {
        expect_error(app.batch_execute(&format!("SET vault_ext.{setting}")), "42501");
        expect_error(app.batch_execute(&format!("ALTER ROLE wire_app SET vault_ext.{setting}")), "42501");
    }
    let options = |options: &str| {
        let mut config = postgres::Config::new();
        config.host_path(db.cluster.dir()).port(db.cluster.port()).user("wire_app").dbname(&db.name).options(options);
        config.connect(postgres::NoTls)
    };
    assert!(options("-c vault_ext.identity=asserted").is_err(), "42501 at the connection");
    let error = options("-c vault_ext.token=a.b.c").err().expect("no token in the startup packet");
    assert!(!format!("{error:?}").contains("a.b.c"), "{error:?}");
    // A token for somebody else's service, such as the ID token of a login.
    let mut id_token = claims("alice");
    (id_token["aud"], id_token["nonce"]) = (json!("my-single-page-app"), json!("n"));
    expect_vault_error(key(&mut app, "vault_get_master_key", &keys[0].token(&id_token)), "28000");
    // A subject of another issuer who calls himself like ours.
    let mut other = claims("u-alice");
    other["iss"] = json!("https://stepup.example/");
    expect_vault_error(key(&mut app, "vault_get_master_key", &keys[0].token(&other)), "P0002");
}

#[test]
fn an_issuer_s_key_stolen() {
    let (db, keys) = token_db();
    let mut app = db.app();
    key(&mut app, "vault_init", &keys[0].token_of("alice")).unwrap();
    let mut forged = claims("alice");
    forged["iat"] = json!(now() - 20);
    let forged = keys[0].token(&forged);
    key(&mut app, "vault_get_master_key", &forged).expect("open");
    let revoke = "SELECT vault_revoke_tokens('u-alice', now() - interval '10 s')";
    db.conn("wire_admin").query(revoke, &[]).unwrap();
    expect_vault_error(key(&mut app, "vault_get_master_key", &forged), "28000");
    // Another key in its place: issuers::keys_come_and_go_while_sessions_stay_open.
}

#[test]
fn a_superuser() {
    let (db, keys) = token_db();
    let alice = key(&mut db.app(), "vault_init", &keys[0].token_of("alice")).unwrap();
    let mut superuser = db.superuser();
    superuser.batch_execute("SET vault_ext.identity = asserted; SET app.current_user_id = 'u-alice'").unwrap();
    assert_eq!(fetch(&mut superuser).unwrap().master_key, alice, "open");
}

/// One connection to the server, two users by turns.
#[test]
fn two_users_alternate_on_one_connection_of_a_pooler() {
    let (db, keys): (Db, &[Signer]) = token_db();
    let pooler = Pooler::start(&db, "transaction", 1);
    let mut clients = [pooler.connect(), pooler.connect()];
    let users = ["alice", "bob"];
    let tokens = users.map(|user| keys[0].token_of(user));
    let made: Vec<_> = tokens.iter().map(|token| key(&mut db.app(), "vault_init", token).unwrap()).collect();
    assert_ne!(decode(&made[0]), decode(&made[1]));
    for _ in 0..20 {
        for (n, client) in clients.iter_mut().enumerate() {
            let token = &tokens[n];
            let by_argument = column(client, &format!("SELECT master_key FROM vault_get_master_key('{token}'::text)"));
            assert_eq!(by_argument.unwrap(), [made[n].clone()]);
            let by_login = format!(
                "BEGIN; SELECT vault_login('{token}'); SELECT master_key FROM vault_get_master_key(); SELECT vault_user_id(); COMMIT"
            );
            let user = format!("u-{}", users[n]);
            assert_eq!(column(client, &by_login).unwrap(), [user.clone(), made[n].clone(), user]);
            // Nothing is left for the next client.
            assert_eq!(column(client, "SELECT coalesce(vault_user_id(), 'nobody')").unwrap(), ["nobody"]);
            expect_vault_error(column(client, "SELECT master_key FROM vault_get_master_key()"), "28000");
        }
    }
}
