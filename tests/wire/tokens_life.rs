//! When a token counts: until it expires, within its session or transaction, on a standby, in parallel workers.

use std::time::Duration;

use postgres::{Client, Error};
use serde_json::{Value, json};

use crate::harness::{
    Cluster, ISS, Signer, eventually, expect_error, expect_vault_error, fetch, init, issuer, issuers, kek,
    keyring_line, now, token_db,
};

const SOON: Duration = Duration::from_secs(30);

fn login(client: &mut Client, token: &str) -> Result<String, Error> {
    client.query_one("SELECT vault_login($1)", &[&token]).map(|row| row.get(0))
}

fn set(client: &mut Client, token: &str) {
    client.query("SELECT set_config('vault_ext.token', $1, false)", &[&token]).unwrap();
}

fn user_id(client: &mut Client) -> Result<Option<String>, Error> {
    client.query_one("SELECT vault_user_id()", &[]).map(|row| row.get(0))
}

/// A token that is good for a few seconds.
fn brief(key: &Signer) -> String {
    key.token_from("brief", json!({"exp": now() + 5}))
}

#[test]
fn a_token_expires_in_the_middle_of_a_transaction_and_of_a_cursor() {
    let (db, keys) = token_db();
    let mut app = db.app();
    app.batch_execute("BEGIN").unwrap();
    login(&mut app, &brief(&keys[0])).unwrap();
    init(&mut app).unwrap();
    let mut reader = db.app();
    reader.batch_execute("BEGIN").unwrap();
    login(&mut reader, &brief(&keys[0])).unwrap();
    reader.batch_execute("DECLARE c CURSOR FOR SELECT vault_user_id() FROM generate_series(1, 1000000)").unwrap();
    assert_eq!(reader.query("FETCH 2 FROM c", &[]).unwrap().len(), 2);
    // The same token again and again: it was verified before, and counts no more all the same.
    eventually(SOON, "the token expires", || {
        app.batch_execute("SAVEPOINT s").unwrap();
        let refused = fetch(&mut app).is_err();
        app.batch_execute("ROLLBACK TO s").unwrap();
        refused
    });
    expect_vault_error(fetch(&mut app), "28000");
    assert_eq!(db.audit().last().unwrap().context.as_deref(), Some("token-expired"));
    eventually(SOON, "the cursor stops", || reader.query("FETCH 2 FROM c", &[]).is_err());
    app.batch_execute("ROLLBACK").unwrap();
    // So does the argument.
    let token = brief(&keys[0]);
    let get = "SELECT FROM vault_get_master_key($1::text)";
    app.query("SELECT FROM vault_init($1::text)", &[&token]).unwrap();
    eventually(SOON, "the token expires", || app.query(get, &[&token]).is_err());
    expect_vault_error(app.query(get, &[&token]), "28000");
}

#[test]
fn every_way_to_reset_a_session_ends_its_token() {
    let (db, keys) = token_db();
    let mut app = db.app();
    for reset in [
        "RESET vault_ext.token",
        "RESET ALL",
        "DISCARD ALL",
        "SET vault_ext.token TO DEFAULT",
        "SET vault_ext.token = ''",
    ] {
        set(&mut app, &keys[0].token_of("alice"));
        assert_eq!(user_id(&mut app).unwrap().as_deref(), Some("u-alice"));
        app.batch_execute(reset).unwrap();
        assert_eq!(user_id(&mut app).unwrap(), None, "{reset}");
    }
    // A transaction that is rolled back takes its token along; a savepoint, too.
    app.batch_execute("BEGIN; SAVEPOINT s").unwrap();
    set(&mut app, &keys[0].token_of("alice"));
    app.batch_execute("ROLLBACK TO s").unwrap();
    assert_eq!(user_id(&mut app).unwrap(), None);
    set(&mut app, &keys[0].token_of("alice"));
    app.batch_execute("ROLLBACK").unwrap();
    assert_eq!(user_id(&mut app).unwrap(), None);
}

#[test]
fn a_function_cannot_keep_a_token() {
    let (db, keys) = token_db();
    db.force("GRANT CREATE ON SCHEMA public TO wire_app");
    let mut app = db.app();
    let token = keys[0].token_of("alice");
    set(&mut app, &token);
    let keep = "CREATE FUNCTION kept() RETURNS text LANGUAGE sql SET vault_ext.token FROM CURRENT AS 'SELECT public.vault_user_id()'";
    // Only the mask is there to be kept.
    if app.batch_execute(keep).is_ok() {
        let stored: Vec<String> =
            app.query_one("SELECT proconfig FROM pg_proc WHERE proname = 'kept'", &[]).unwrap().get(0);
        assert_eq!(stored, ["vault_ext.token=********"]);
        app.batch_execute("RESET vault_ext.token").unwrap();
        expect_vault_error(app.query("SELECT kept()", &[]), "28000");
    }
    for statement in ["ALTER ROLE wire_app SET vault_ext.token = 'x.y.z'", "ALTER SYSTEM SET vault_ext.token = 'x.y.z'"]
    {
        assert!(db.superuser().batch_execute(statement).is_err(), "{statement}");
    }
    let database = format!("ALTER DATABASE {} SET vault_ext.token = 'x.y.z'", db.name);
    assert!(db.superuser().batch_execute(&database).is_err());
}

#[test]
fn parallel_workers_see_the_user_of_their_leader() {
    let (db, keys) = token_db();
    db.force(
        "CREATE TABLE notes AS SELECT CASE WHEN n % 100 = 0 THEN 'u-alice' ELSE 'u-bob' END AS owner, n FROM generate_series(1, 200000) n;
         ALTER TABLE notes ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
         CREATE POLICY own ON notes USING (owner = (SELECT vault_user_id()));
         GRANT SELECT ON notes TO wire_app; ANALYZE notes",
    );
    let mut app = db.app();
    app.batch_execute("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0")
        .unwrap();
    set(&mut app, &keys[0].token_of("alice"));
    let plan: Vec<String> =
        app.query("EXPLAIN SELECT count(n) FROM notes", &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert!(plan.concat().contains("Parallel Seq Scan"), "{plan:?}");
    assert_eq!(app.query_one("SELECT count(n) FROM notes", &[]).unwrap().get::<_, i64>(0), 2000);
}

#[test]
fn a_standby_knows_the_user_and_releases_no_key() {
    let key = Signer::new("EdDSA", "k1");
    let mut cluster = Cluster::builder().keyring(&keyring_line("wire-1", &kek(1))).without_fsync().prepare();
    let file = cluster.write_kek("issuers", issuers(&[issuer("idp", ISS, &[&key])]), 0o600);
    cluster.configure(&format!("vault_ext.issuers_file = '{}'", file.display()));
    cluster.configure("vault_ext.identity = token");
    cluster.start();
    cluster.database("d").app().query("SELECT vault_init($1::text)", &[&key.token_of("alice")]).unwrap();
    cluster.restart_as_standby();
    let db = cluster.existing_database("d");
    let mut app = db.app();
    app.batch_execute("BEGIN").unwrap();
    assert_eq!(login(&mut app, &key.token_of("alice")).unwrap(), "alice");
    assert_eq!(user_id(&mut app).unwrap().as_deref(), Some("alice"));
    let subject: Value = app.query_one("SELECT vault_claims()", &[]).unwrap().get(0);
    assert_eq!(subject["sub"], "alice");
    app.batch_execute("COMMIT").unwrap();
    expect_vault_error(login(&mut app, "x.y.z"), "28000");
    expect_vault_error(app.query("SELECT vault_get_master_key($1::text)", &[&key.token_of("alice")]), "25006");
    expect_vault_error(db.conn("wire_admin").query("SELECT vault_reload_issuers()", &[]), "25006");
    expect_error(app.query("SELECT vault_grant($1, 'wire_service', '1 day', 'x')", &[&key.token_of("alice")]), "25006");
}
