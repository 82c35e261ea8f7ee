//! The issuers file: what the server does with good and bad ones, at start and while it runs.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postgres::Client;
use serde_json::{Value, json};

use crate::harness::neighbours::is_neighbour;
use crate::harness::{
    Cluster, ISS, Signer, chown_to_server, claims, eventually, expect_error, expect_vault_error, issuer, issuers, kek,
    keyring_line,
};

const SOON: Duration = Duration::from_secs(30);

fn server(text: &str, more: &[&str]) -> Cluster {
    let mut builder = Cluster::builder().keyring(&keyring_line("wire-1", &kek(1))).without_fsync();
    for line in more {
        builder = builder.conf(line);
    }
    let mut cluster = builder.prepare();
    let file = cluster.write_kek("issuers", text, 0o600);
    cluster.configure(&format!("vault_ext.issuers_file = '{}'", file.display()));
    cluster
}

fn file(cluster: &Cluster) -> PathBuf {
    cluster.dir().join("issuers")
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    chown_to_server(path);
}

fn get(client: &mut Client, token: &str) -> Result<String, postgres::Error> {
    client.query_one("SELECT master_key FROM vault_init($1::text)", &[&token]).map(|row| row.get(0))
}

#[test]
fn a_bad_file_keeps_the_server_from_starting_and_says_where_it_is_wrong() {
    let (key, secret) = (Signer::new("EdDSA", "k1"), Signer::new("HS256", "s1"));
    let good = issuer("idp", ISS, &[&key]);
    let changed = |member: &str, value: Value| {
        let mut issuer = good.clone();
        issuer[member] = value;
        issuers(&[issuer])
    };
    let private =
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": good["jwks"]["keys"][0]["x"], "d": "AAAA", "kid": "p"}]});
    let weak = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "kid": "w"}]});
    let cases = [
        ("{".to_owned(), "line 1"),
        ("[]".to_owned(), "not a JSON object"),
        (issuers(&[]), "0 issuers"),
        (changed("aud", json!([])), "aud must be a list"),
        (changed("algs", json!(["none"])), "unknown algorithm"),
        (changed("jwks_file", json!("/nowhere")), "either jwks_file"),
        (changed("jwks", private), "key 1 (kid \"p\") holds a private key"),
        (changed("jwks", weak), "key 1 (kid \"w\") is not a point"),
        (changed("colour", json!("red")), "unknown member \"colour\""),
        (issuers(&[good.clone(), issuer("idp", "https://other/", &[&key])]), "name is that of another"),
        (issuers(&[good.clone(), issuer("two", "https://other/", &[&key])]), "user_prefix"),
        (good.to_string().replace("\"iss\"", "\"name\""), "twice"),
    ];
    let mut cluster = server("{}", &[]);
    for (text, says) in cases {
        write(&file(&cluster), &text);
        let log = cluster.start_expect_failure();
        assert!(log.contains(says) && log.contains("vault_ext.issuers_file"), "{says:?} is not in:\n{log}");
        assert!(says.contains("line") || says.contains("object") || log.contains("issuer"), "{log}");
    }
    // A secret in a file that others may read.
    write(&file(&cluster), &issuers(&[issuer("idp", ISS, &[&secret])]));
    fs::set_permissions(file(&cluster), Permissions::from_mode(0o644)).unwrap();
    let log = cluster.start_expect_failure();
    let shown = secret.jwk()["k"].as_str().unwrap().to_owned();
    assert!(log.contains("HS256") && !log.contains(&shown), "{log}");
    fs::set_permissions(file(&cluster), Permissions::from_mode(0o622)).unwrap();
    assert!(cluster.start_expect_failure().contains("lets its group or others write it"));
    // Public keys may be read by anyone.
    write(&file(&cluster), &issuers(&[good]));
    fs::set_permissions(file(&cluster), Permissions::from_mode(0o644)).unwrap();
    cluster.start();
}

#[test]
fn with_disable_the_server_starts_and_believes_no_token() {
    let key = Signer::new("EdDSA", "k1");
    let mut cluster = server("{", &["vault_ext.on_bad_kek = disable"]);
    cluster.start();
    let db = cluster.database("d");
    let mut app = db.app();
    expect_vault_error(get(&mut app, &key.token_of("alice")), "55000");
    // The application's word still counts in the mode that asks for nothing else.
    crate::harness::init(&mut db.app_for("alice")).unwrap();
    write(&file(&cluster), &issuers(&[issuer("idp", ISS, &[&key])]));
    db.conn("wire_admin").query("SELECT vault_reload_issuers()", &[]).unwrap();
    get(&mut app, &key.token_of("alice")).unwrap();
}

#[test]
fn keys_come_and_go_while_sessions_stay_open() {
    let (old, new) = (Signer::new("EdDSA", "old"), Signer::new("ES256", "new"));
    let mut cluster = server(&issuers(&[issuer("idp", ISS, &[&old])]), &["log_statement = none"]);
    cluster.start();
    let db = cluster.database("d");
    let (mut app, mut admin) = (db.app(), db.conn("wire_admin"));
    let token = old.token_of("alice");
    let key = get(&mut app, &token).unwrap();
    expect_vault_error(get(&mut app, &new.token_of("alice")), "28000");
    // By the administrator.
    write(&file(&cluster), &issuers(&[issuer("idp", ISS, &[&old, &new])]));
    let loaded: String = admin.query_one("SELECT vault_reload_issuers()", &[]).unwrap().get(0);
    assert_eq!(loaded, "1 issuer(s) loaded: \"idp\" with 2 key(s)");
    assert_eq!(get(&mut app, &new.token_of("alice")).unwrap(), key);
    assert_eq!(db.audit_where("action = 'reload_issuers' AND status = 200").len(), 1);
    // A bad file changes nothing.
    write(&file(&cluster), "{");
    expect_vault_error(admin.query("SELECT vault_reload_issuers()", &[]), "F0000");
    assert_eq!(db.audit_where("action = 'reload_issuers' AND context = 'issuers-refused'").len(), 1);
    get(&mut app, &token).unwrap();
    let from = cluster.log().len();
    cluster.superuser("postgres").query("SELECT pg_reload_conf()", &[]).unwrap();
    eventually(SOON, "the refusal is logged", || cluster.log()[from..].contains("the issuers were not reloaded"));
    get(&mut app, &token).unwrap();
    // By a signal; a token that was verified before counts no more once its key is gone.
    write(&file(&cluster), &issuers(&[issuer("idp", ISS, &[&new])]));
    cluster.superuser("postgres").query("SELECT pg_reload_conf()", &[]).unwrap();
    eventually(SOON, "the old key is gone", || get(&mut app, &token).is_err());
    expect_vault_error(get(&mut app, &token), "28000");
    assert_eq!(get(&mut app, &new.token_of("alice")).unwrap(), key);
    expect_error(app.query("SELECT vault_reload_issuers()", &[]), "42501");
    let log = cluster.log();
    for part in token.split('.').skip(1) {
        // pgaudit.log_parameter logs what the application binds.
        assert_eq!(log.contains(part), is_neighbour("pgaudit"), "no part of a token is in the log");
    }
}

#[test]
fn a_jwks_may_lie_in_a_file_of_its_own_and_the_file_come_from_a_command() {
    let key = Signer::new("RS256", "k1");
    let mut ours = issuer("idp", ISS, &[&key]);
    let set = ours.as_object_mut().unwrap().remove("jwks").unwrap();
    let mut cluster = server("{}", &[]);
    let jwks = cluster.write_kek("idp.jwks", set.to_string(), 0o644);
    ours["jwks_file"] = json!(jwks);
    write(&file(&cluster), &issuers(&[ours]));
    cluster.start();
    get(&mut cluster.database("d").app(), &key.token_of("alice")).unwrap();
    let from = file(&cluster);
    cluster.configure("vault_ext.issuers_file = ''");
    cluster.configure(&format!("vault_ext.issuers_command = 'cat {}'", from.display()));
    cluster.restart();
    get(&mut cluster.existing_database("d").app(), &key.token_of("alice")).unwrap();
    cluster.configure("vault_ext.issuers_command = 'echo s3cret >&2; exit 3'");
    cluster.stop(crate::harness::Stop::Fast);
    let log = cluster.start_expect_failure();
    assert!(log.contains("vault_ext.issuers_command ended with exit code 3") && !log.contains("s3cret"), "{log}");
}

#[test]
fn what_became_of_tokens_is_counted_by_key() {
    let (key, stranger) = (Signer::new("EdDSA", "k1"), Signer::new("EdDSA", "k1"));
    let mut cluster = server(&issuers(&[issuer("idp", ISS, &[&key])]), &[]);
    cluster.start();
    let db = cluster.database("d");
    let mut app = db.app();
    get(&mut app, &key.token_of("alice")).unwrap();
    get(&mut app, &key.token_of("alice")).unwrap();
    let mut early = claims("alice");
    early["nbf"] = json!(crate::harness::now() + 200);
    get(&mut app, &key.token(&early)).unwrap_err();
    get(&mut app, &stranger.token_of("alice")).unwrap_err();
    get(&mut app, "x").unwrap_err();
    let sql = "SELECT concat_ws(' ', issuer, token_kid, algorithm, accepted, refused, last_refusal IS NOT NULL)
        FROM vault_identity_status()";
    let rows = db.conn("wire_admin").query(sql, &[]).unwrap();
    let rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(rows, ["idp k1 EdDSA 2 1 t", "0 2 t"]);
}
