//! The mode `token`: who the user is comes from a verified token, as an argument, by vault_login() or in a request's headers.

use postgres::{Client, Error};
use serde_json::{Value, json};

use crate::better_auth::documented;
use crate::harness::{
    Db, Signer, VaultKey, assert_no_secrets, claims, expect_error, expect_vault_error, fetch, init, now, set_user,
    token_db,
};

fn call(client: &mut Client, function: &str, token: &str) -> Result<VaultKey, Error> {
    let sql = format!("SELECT {} FROM {function}($1::text)", VaultKey::COLUMNS);
    let row = client.query_one(&sql, &[&token])?;
    Ok(VaultKey { master_key: row.get(0), format_version: row.get(1), kek_id: row.get(2), key_version: row.get(3) })
}

fn login(client: &mut Client, token: &str) -> Result<String, Error> {
    client.query_one("SELECT vault_login($1)", &[&token]).map(|row| row.get(0))
}

fn user_id(client: &mut Client) -> Option<String> {
    client.query_one("SELECT vault_user_id()", &[]).unwrap().get(0)
}

/// The trail's rows as `action status user identity issuer token_id kid context`.
fn trail(db: &Db) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', action, status, user_id, identity, issuer, token_id, token_kid, context)
        FROM vault_ext.encryption_vault_audit ORDER BY id";
    db.superuser().query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn a_token_of_each_algorithm_opens_the_vault_of_its_user_alone() {
    let (db, keys) = token_db();
    let mut app = db.app();
    for key in keys {
        let user = format!("alice-{}", key.algorithm);
        let mut claims = claims(&user);
        claims["jti"] = json!(user);
        let token = key.token(&claims);
        let made = call(&mut app, "vault_init", &token).unwrap();
        assert_eq!(call(&mut app, "vault_get_master_key", &token).unwrap(), made);
        expect_vault_error(call(&mut app, "vault_get_master_key", &key.token_of("bob")), "P0002");
        let kid = &key.kid;
        assert_eq!(trail(&db)[0], format!("init 201 u-{user} token idp {user} {kid} created"));
        db.force("TRUNCATE vault_ext.encryption_vault_audit");
    }
}

#[test]
fn subjects_that_look_alike_are_different_users() {
    let (db, keys) = token_db();
    let mut app = db.app();
    // Composed and decomposed (NFC and NFD), and another case.
    let subjects = ["zo\u{eb}", "zoe\u{308}", "Zo\u{eb}"];
    let made = subjects.map(|subject| call(&mut app, "vault_init", &keys[0].token_of(subject)).unwrap());
    assert!(made[0] != made[1] && made[0] != made[2], "one key for two users");
    for (subject, made) in subjects.iter().zip(&made) {
        assert_eq!(call(&mut app, "vault_get_master_key", &keys[0].token_of(subject)).unwrap(), *made);
    }
}

#[test]
fn the_application_s_word_counts_for_nothing() {
    let (db, keys) = token_db();
    let mut app = db.app();
    call(&mut app, "vault_init", &keys[0].token_of("alice")).unwrap();
    set_user(&mut app, "u-alice");
    expect_vault_error(fetch(&mut app), "28000");
    expect_error(app.batch_execute("SET vault_ext.identity = 'asserted'"), "42501");
    for sql in ["SELECT count(*) FROM vault_ext.own_audit", "SELECT count(vault_user_id())"] {
        assert_eq!(app.query_one(sql, &[]).unwrap().get::<_, i64>(0), 0, "{sql}");
    }
    // The injection that SECURITY.md describes.
    let injected = "SELECT id::text FROM generate_series(1, 1) id WHERE id = 0
        UNION SELECT k.master_key FROM set_config('app.current_user_id', 'u-alice', true), vault_get_master_key() k";
    expect_vault_error(app.query(injected, &[]), "28000");
    assert_eq!(trail(&db).last().unwrap(), "failed_fetch 401 no-token");
}

#[test]
fn a_login_counts_for_its_transaction() {
    let (db, keys) = token_db();
    let mut app = db.app();
    let made = call(&mut app, "vault_init", &keys[0].token_of("alice")).unwrap();
    let token = keys[0].token_of("alice");
    app.batch_execute("BEGIN").unwrap();
    assert_eq!(login(&mut app, &token).unwrap(), "u-alice");
    assert_eq!(user_id(&mut app).as_deref(), Some("u-alice"));
    assert_eq!(fetch(&mut app).unwrap(), made);
    let own: i64 = app.query_one("SELECT count(*) FROM vault_ext.own_audit", &[]).unwrap().get(0);
    assert_eq!(own, 2);
    let subject: Value = app.query_one("SELECT vault_claims()", &[]).unwrap().get(0);
    assert_eq!(subject["sub"], "alice");
    // A savepoint takes the next login back.
    app.batch_execute("SAVEPOINT s").unwrap();
    assert_eq!(login(&mut app, &keys[1].token_of("bob")).unwrap(), "u-bob");
    expect_vault_error(fetch(&mut app), "P0002");
    app.batch_execute("ROLLBACK TO s").unwrap();
    assert_eq!(fetch(&mut app).unwrap(), made);
    app.batch_execute("COMMIT").unwrap();
    assert_eq!(user_id(&mut app), None);
    expect_vault_error(fetch(&mut app), "28000");
    let row = app.query_one("SELECT identity, issuer FROM vault_whoami()", &[]).unwrap();
    assert_eq!(row.get::<_, Option<String>>(0), None);
}

#[test]
fn a_bad_token_is_refused_audited_and_shown_nowhere() {
    let (db, keys) = token_db();
    let (key, stranger) = (&keys[0], Signer::new("EdDSA", "key-EdDSA"));
    let changed = |member: &str, value: Value| {
        let mut claims = claims("alice");
        claims[member] = value;
        claims
    };
    let good = key.token_of("alice");
    let cases: Vec<(String, &str, &str)> = vec![
        ("x".into(), "28000", "token-malformed"),
        ("a.b.c".into(), "28000", "token-malformed"),
        (format!("{good}.x"), "28000", "token-malformed"),
        (stranger.token_of("alice"), "28000", "token-signature"),
        (key.token_with(&json!({"alg": "EdDSA", "kid": "other"}), &claims("alice")), "28000", "token-kid"),
        (key.token_with(&json!({"alg": "none"}), &claims("alice")), "28000", "token-kid"),
        (key.token_with(&json!({"alg": "EdDSA", "kid": "key-EdDSA", "typ": "dpop+jwt"}), &claims("alice")), "28000", "token-type"),
        (key.token(&changed("iss", json!("https://id.example"))), "28000", "token-issuer"),
        (key.token(&changed("aud", json!(["other"]))), "28000", "token-audience"),
        (key.token(&changed("exp", json!(now() - 60))), "28000", "token-malformed"),
        (key.token(&json!({"iss": crate::harness::ISS, "aud": crate::harness::AUDIENCE, "sub": "alice", "iat": now() - 400, "exp": now() - 100})), "28000", "token-expired"),
        (key.token(&changed("nbf", json!(now() + 120))), "28000", "token-not-yet-valid"),
        (key.token(&changed("exp", json!(now() + 6000))), "28000", "token-lifetime"),
        (key.token(&changed("sub", json!(7))), "28000", "token-user"),
        (key.token(&changed("sub", json!("a\u{0}"))), "28000", "token-malformed"),
    ];
    let mut app = db.app();
    let mut secrets = vec![good.clone()];
    for (token, code, context) in cases {
        for function in ["vault_get_master_key", "vault_init", "vault_rotate"] {
            expect_vault_error(call(&mut app, function, &token), code);
            let last = trail(&db).pop().unwrap();
            assert!(
                last.starts_with("failed_") && last.contains(" 401 ") && last.ends_with(context),
                "{context}: {last}"
            );
        }
        expect_vault_error(login(&mut app, &token), code);
        assert!(trail(&db).pop().unwrap().starts_with("failed_login 401"), "{context}");
        let explained =
            db.conn("wire_admin").query_one("SELECT accepted, reason FROM vault_explain_token($1)", &[&token]).unwrap();
        assert_eq!((explained.get(0), explained.get(1)), (false, Some(context)));
        secrets.push(token);
    }
    // NULL, and nothing.
    expect_vault_error(app.query("SELECT vault_get_master_key(NULL)", &[]), "28000");
    expect_vault_error(call(&mut app, "vault_get_master_key", ""), "28000");
    // The log holds parameters where the server logs statements: that they are there is not ours to hide. Errors and views are.
    let shown: Vec<String> = trail(&db);
    let signatures: Vec<Vec<u8>> = secrets
        .iter()
        .filter_map(|token| token.rsplit('.').next().filter(|part| part.len() > 40))
        .map(|part| part.as_bytes().to_vec())
        .collect();
    assert!(!signatures.is_empty());
    for text in shown {
        assert!(signatures.iter().all(|signature| !text.contains(std::str::from_utf8(signature).unwrap())), "{text}");
    }
}

#[test]
fn the_ambient_token_cannot_be_read() {
    let (db, keys) = token_db();
    let mut app = db.app();
    let token = keys[0].token_of("alice");
    call(&mut app, "vault_init", &token).unwrap();
    app.query("SELECT set_config('vault_ext.token', $1, false)", &[&token]).unwrap();
    fetch(&mut app).unwrap();
    for sql in [
        "SELECT current_setting('vault_ext.token')",
        "SELECT coalesce(string_agg(setting || boot_val || reset_val, ' '), '') FROM pg_settings WHERE name LIKE 'vault_ext.token'",
        "SHOW vault_ext.token",
        "SELECT set_config('vault_ext.token', current_setting('vault_ext.token'), true)",
    ] {
        let shown = app.simple_query(sql).unwrap();
        let text = format!("{shown:?}");
        assert!(!text.contains(token.rsplit('.').next().unwrap()), "{sql} shows the token");
    }
    // No source but the session: what comes with the connection or the role would be back after DISCARD ALL.
    let role = db.app().batch_execute(&format!("ALTER ROLE wire_app SET vault_ext.token = '{token}'"));
    let error = role.expect_err("refused");
    assert!(!format!("{error:?}").contains(token.rsplit('.').next().unwrap()), "{error:?}");
    app.batch_execute("DISCARD ALL").unwrap();
    assert_eq!(user_id(&mut app), None);
}

#[test]
fn postgrest_s_headers_count_where_the_server_says_so() {
    let (db, keys) = token_db();
    let mut app = db.app();
    call(&mut app, "vault_init", &keys[2].token_of("alice")).unwrap();
    let headers =
        json!({"authorization": format!("Bearer {}", keys[2].token_of("alice")), "user-agent": "curl"}).to_string();
    let set = "SELECT set_config('request.headers', $1, false)";
    app.query(set, &[&headers]).unwrap();
    expect_vault_error(fetch(&mut app), "28000");
    db.force(&format!("ALTER DATABASE {} SET vault_ext.token_from_headers = on", db.name));
    let mut app = db.app();
    app.query(set, &[&headers]).unwrap();
    fetch(&mut app).unwrap();
    assert_eq!(user_id(&mut app).as_deref(), Some("u-alice"));
}

#[test]
fn the_mode_role_takes_the_login() {
    let (db, keys) = token_db();
    db.force(&format!("ALTER DATABASE {} SET vault_ext.identity = 'role'", db.name));
    let mut app = db.app();
    set_user(&mut app, "somebody");
    let key = init(&mut app).unwrap();
    assert_eq!(user_id(&mut app).as_deref(), Some("wire_app"));
    assert_eq!(trail(&db), ["init 201 wire_app role created"]);
    assert_ne!(init(&mut db.conn("wire_app2")).unwrap(), key);
    // A token as an argument counts in every mode.
    call(&mut app, "vault_init", &keys[0].token_of("alice")).unwrap();
}

#[test]
fn an_administrator_sees_where_the_mode_is_weaker() {
    let (db, _) = token_db();
    db.force(&format!("ALTER ROLE wire_app2 IN DATABASE {} SET vault_ext.identity = 'asserted'", db.name));
    let sql = "SELECT concat_ws(' ', role, identity) FROM vault_ext.identity_modes WHERE database = current_database() ORDER BY role";
    let rows = db.conn("wire_admin").query(sql, &[]).unwrap();
    let seen: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(seen, ["wire_app2 asserted", "token"]);
}

#[test]
fn scopes_roles_databases_and_step_up_are_asked_for() {
    let (db, keys) = token_db();
    let key = &keys[0];
    let mut app = db.app();
    let of = |issuer: &str, more: Value| key.token_from(issuer, more);
    let none = json!({});
    // A scope for rotate.
    call(&mut app, "vault_init", &key.token_of("alice")).unwrap();
    expect_vault_error(call(&mut app, "vault_rotate", &key.token_of("alice")), "42501");
    assert!(trail(&db).pop().unwrap().starts_with("failed_rotate 403"));
    let mut scoped = claims("alice");
    scoped["scope"] = json!("vault.read vault.rotate");
    call(&mut app, "vault_rotate", &key.token(&scoped)).unwrap();
    // Places.
    expect_vault_error(call(&mut app, "vault_init", &of("elsewhere", none.clone())), "28000");
    expect_vault_error(call(&mut app, "vault_init", &of("roles", none.clone())), "42501");
    call(&mut db.conn("wire_app2"), "vault_init", &of("roles", none.clone())).unwrap();
    // Step-up, with what a client can act on (RFC 9470).
    call(&mut app, "vault_init", &of("stepup", none.clone())).unwrap();
    for weak in
        [none, json!({"auth_time": now() - 120, "acr": "urn:mfa"}), json!({"auth_time": now(), "acr": "urn:pwd"})]
    {
        let error = call(&mut app, "vault_rotate", &of("stepup", weak)).unwrap_err();
        let refused = error.as_db_error().unwrap();
        assert_eq!(refused.code().code(), "42501");
        assert_eq!(refused.detail(), Some("insufficient_user_authentication, max_age=60, acr_values=\"urn:mfa\""));
        assert!(trail(&db).pop().unwrap().ends_with("step-up"));
    }
    call(&mut app, "vault_rotate", &of("stepup", json!({"auth_time": now(), "acr": "urn:mfa"}))).unwrap();
}

#[test]
fn a_bound_token_counts_in_its_session_or_transaction_alone() {
    let (db, keys) = token_db();
    let key = &keys[0];
    let text = |client: &mut Client, sql: &str| client.query_one(sql, &[]).unwrap().get::<_, String>(0);
    let of = |issuer: &str, more: Value| key.token_from(issuer, more);
    // Session.
    let (mut app, mut other) = (db.app(), db.app());
    let nonce = text(&mut app, "SELECT vault_session()");
    assert_eq!(text(&mut app, "SELECT vault_session()"), nonce);
    assert_ne!(text(&mut other, "SELECT vault_session()"), nonce);
    let numbered = |seq: u64| of("session", json!({"vault_session": nonce, "seq": seq}));
    let (first, second) = (numbered(1), numbered(2));
    expect_vault_error(call(&mut other, "vault_init", &first), "28000");
    expect_vault_error(call(&mut app, "vault_init", &of("session", json!({}))), "28000");
    call(&mut app, "vault_init", &first).unwrap();
    expect_vault_error(call(&mut app, "vault_get_master_key", &first), "28000");
    assert!(trail(&db).pop().unwrap().ends_with("token-replayed"));
    call(&mut app, "vault_get_master_key", &second).unwrap();
    assert!(trail(&db).pop().unwrap().contains(" bound session "));
    expect_vault_error(call(&mut app, "vault_get_master_key", &numbered(1)), "28000");
    // A login is used again and again within its transaction.
    app.batch_execute("BEGIN").unwrap();
    login(&mut app, &numbered(5)).unwrap();
    fetch(&mut app).unwrap();
    fetch(&mut app).unwrap();
    app.batch_execute("COMMIT").unwrap();
    // PostgreSQL calls the function once for each column; it is one use of the token.
    app.query("SELECT (vault_get_master_key($1)).*", &[&numbered(6)]).unwrap();
    // Transaction.
    app.batch_execute("BEGIN").unwrap();
    let challenge = text(&mut app, "SELECT vault_challenge()");
    let bound = of("transaction", json!({"vault_challenge": challenge}));
    call(&mut app, "vault_init", &bound).unwrap();
    app.batch_execute("COMMIT").unwrap();
    expect_vault_error(call(&mut app, "vault_get_master_key", &bound), "28000");
    assert!(trail(&db).pop().unwrap().ends_with("token-not-bound"));
}

#[test]
fn tokens_can_be_revoked_for_a_user() {
    let (db, keys) = token_db();
    let mut app = db.app();
    let aged = |user: &str, age: i64| {
        let mut claims = claims(user);
        claims["iat"] = json!(now() - age);
        keys[0].token(&claims)
    };
    let (old, new) = (aged("alice", 100), aged("alice", 10));
    call(&mut app, "vault_init", &old).unwrap();
    call(&mut app, "vault_init", &aged("bob", 100)).unwrap();
    let mut admin = db.conn("wire_admin");
    let mut revoke = |user: &str| -> bool {
        admin.query_one("SELECT vault_revoke_tokens($1, now() - interval '50 s')", &[&user]).unwrap().get(0)
    };
    assert!(revoke("u-alice"));
    assert!(!revoke("u-nobody"));
    for function in ["vault_get_master_key", "vault_init", "vault_rotate"] {
        let mut scoped = claims("alice");
        (scoped["iat"], scoped["scope"]) = (json!(now() - 100), json!("vault.rotate"));
        expect_vault_error(call(&mut app, function, &keys[0].token(&scoped)), "28000");
        assert!(trail(&db).pop().unwrap().ends_with("token-revoked"), "{function}");
    }
    expect_vault_error(call(&mut app, "vault_get_master_key", &old), "28000");
    let grant = "SELECT vault_grant($1, 'wire_service', '1 day', 'stolen')";
    expect_vault_error(app.query(grant, &[&old]), "28000");
    let id: i64 = app.query_one(grant, &[&new]).unwrap().get(0);
    expect_vault_error(app.query("SELECT vault_revoke_grant($1, $2)", &[&old, &id]), "28000");
    call(&mut app, "vault_get_master_key", &new).unwrap();
    call(&mut app, "vault_get_master_key", &aged("bob", 100)).unwrap();
    // A session whose user the application names has no token.
    db.force(&format!("ALTER DATABASE {} SET vault_ext.identity = 'asserted'", db.name));
    fetch(&mut db.app_for("u-alice")).unwrap();
}

#[test]
fn a_pinned_identity_stands_until_the_transaction_ends() {
    let (db, keys) = token_db();
    db.force(&format!("ALTER DATABASE {} SET vault_ext.pin_identity = on", db.name));
    let mut app = db.app();
    let (alice, bob) = (keys[0].token_of("alice"), keys[0].token_of("bob"));
    call(&mut app, "vault_init", &alice).unwrap();
    call(&mut app, "vault_init", &bob).unwrap();
    let mut transaction = app.transaction().unwrap();
    let get = "SELECT master_key FROM vault_get_master_key($1::text)";
    transaction.query_one(get, &[&alice]).unwrap();
    transaction.query_one(get, &[&alice]).unwrap();
    expect_vault_error(transaction.query_one(get, &[&bob]), "28000");
    drop(transaction);
    assert!(trail(&db).pop().unwrap().ends_with("identity-changed"));
    call(&mut app, "vault_get_master_key", &bob).unwrap();
}

/// The example of the documentation: the application's own tables, by the same verified identity.
#[test]
fn an_application_s_own_rows_are_those_of_the_token_s_user() {
    let (db, keys) = token_db();
    db.force(documented("own-tables"));
    db.force("GRANT SELECT, INSERT ON notes TO wire_app");
    let mut app = db.app();
    for user in ["alice", "bob"] {
        let mut transaction = app.transaction().unwrap();
        transaction.query("SELECT vault_login($1)", &[&keys[1].token_of(user)]).unwrap();
        transaction.execute("INSERT INTO notes (note) VALUES ($1)", &[&user]).unwrap();
        let notes = transaction.query("SELECT note FROM notes", &[]).unwrap();
        assert_eq!(notes.iter().map(|row| row.get(0)).collect::<Vec<String>>(), [user]);
        transaction.commit().unwrap();
    }
    assert_eq!(app.query("SELECT FROM notes", &[]).unwrap().len(), 0);
    // A bad token is an error and not an empty answer.
    app.query("SELECT set_config('vault_ext.token', $1, false)", &[&"x.y.z"]).unwrap();
    expect_vault_error(app.query("SELECT FROM notes", &[]), "28000");
}

#[test]
fn no_key_shows_where_tokens_are_refused() {
    let (db, keys) = token_db();
    let key = call(&mut db.app(), "vault_init", &keys[3].token_of("alice")).unwrap();
    assert_no_secrets(db.cluster, &trail(&db), &[crate::harness::decode(&key.master_key)]);
}
