//! Tokens of Better Auth, whose public keys lie in a table of the same database, by the recipe of docs/identity.md.

use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::{Value, json};

use crate::clock::library;
use crate::harness::{Cluster, expect_vault_error, issuers, kek, keyring_line, shared_db};

/// A token that the real package made, its JWK set, and the row of its table.
const MADE: &str = include_str!("better_auth.json");
const DOCS: &str = include_str!("../../docs/identity.md");

/// The block of the documentation behind that mark.
pub fn documented(mark: &str) -> &'static str {
    let block = DOCS.split_once(&format!("<!-- tested: {mark} -->\n```sql\n")).expect("the mark").1;
    block.split_once("```").expect("the end of the block").0
}

fn made() -> Value {
    serde_json::from_str(MADE).expect("JSON")
}

#[test]
fn the_documented_query_gives_the_keys_that_the_package_publishes() {
    let (db, made) = (shared_db(), made());
    db.force("CREATE TABLE jwks (id text, \"publicKey\" text, \"privateKey\" text, \"createdAt\" timestamptz)");
    let (id, key) = (made["row"]["id"].as_str().unwrap(), made["row"]["publicKey"].as_str().unwrap());
    let mut superuser = db.superuser();
    superuser.execute("INSERT INTO jwks (id, \"publicKey\") VALUES ($1, $2)", &[&id, &key]).unwrap();
    let query = documented("better-auth").trim().trim_end_matches(';');
    let keys: Value = superuser.query_one(&format!("SELECT to_jsonb(k) FROM ({query}) k (k)"), &[]).unwrap().get(0);
    assert_eq!(keys, made["jwks"]);
}

#[test]
fn a_token_of_the_package_opens_the_vault_of_its_user() {
    let made = made();
    let token = made["token"].as_str().unwrap();
    let claims: Value =
        serde_json::from_slice(&Base64UrlUnpadded::decode_vec(token.split('.').nth(1).unwrap()).unwrap()).unwrap();
    let issuer = json!({"name": "better-auth", "iss": "https://auth.example", "aud": ["https://db.example/vault"],
        "algs": ["EdDSA"], "jwks": made["jwks"], "max_lifetime": 900});
    let server = |time: i64| {
        let mut cluster = Cluster::builder()
            .keyring(&keyring_line("wire-1", &kek(1)))
            .without_fsync()
            .env("LD_PRELOAD", &library())
            .env("FAKETIME", &format!("@{time}"))
            .env("FAKETIME_FMT", "%s")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .prepare();
        let file = cluster.write_kek("issuers", issuers(std::slice::from_ref(&issuer)), 0o644);
        cluster.configure(&format!("vault_ext.issuers_file = '{}'", file.display()));
        cluster.start();
        cluster
    };
    let issued = claims["iat"].as_i64().unwrap();
    let cluster = server(issued + 5);
    let db = cluster.database("d");
    let init = "SELECT master_key FROM vault_init($1::text)";
    db.app().query_one(init, &[&token]).unwrap();
    assert_eq!(db.audit().last().unwrap().user_id.as_deref(), made["user"].as_str());
    // Long after that it has expired.
    let cluster = server(issued + 100_000);
    expect_vault_error(cluster.database("d").app().query_one(init, &[&token]), "28000");
}
