//! Issuers of tokens: keys, the file that names them, and the tokens that they sign.

use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use base64ct::{Base64UrlUnpadded, Encoding};
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair, RsaPublicKeyComponents};
use ring::{hmac, rand};
use serde_json::{Value, json};

use super::os::succeed;
use super::scratch::scratch_dir;
use super::secrets::{kek, keyring_line};
use super::{Cluster, Db};

pub const ISS: &str = "https://id.example/";
pub const AUDIENCE: &str = "https://db.example/vault";

/// Seconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs() as i64
}

fn base64url(bytes: impl AsRef<[u8]>) -> String {
    Base64UrlUnpadded::encode_string(bytes.as_ref())
}

enum Secret {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    Rsa(RsaKeyPair),
    Hmac(Vec<u8>),
}

/// A key that signs tokens by one algorithm.
pub struct Signer {
    pub algorithm: &'static str,
    pub kid: String,
    secret: Secret,
}

/// Making an RSA key takes long.
static RSA: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let path = scratch_dir().join("rsa.der");
    succeed(
        Command::new("openssl")
            .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-outform", "DER", "-out"])
            .arg(&path),
    );
    std::fs::read(path).expect("the key")
});

impl Signer {
    /// A new key for EdDSA, ES256, RS256, PS256 or HS256. All RSA keys of a run are one.
    pub fn new(algorithm: &'static str, kid: &str) -> Self {
        let random = SystemRandom::new();
        let secret = match algorithm {
            "EdDSA" => {
                let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).expect("a key");
                Secret::Ed25519(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("a key"))
            }
            "ES256" => {
                let of = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
                let pkcs8 = EcdsaKeyPair::generate_pkcs8(of, &random).expect("a key");
                Secret::P256(EcdsaKeyPair::from_pkcs8(of, pkcs8.as_ref(), &random).expect("a key"))
            }
            "RS256" | "PS256" => Secret::Rsa(RsaKeyPair::from_der(&RSA).expect("a key")),
            "HS256" => {
                let bytes: [u8; 32] = rand::generate(&random).expect("random bytes").expose();
                Secret::Hmac(bytes.to_vec())
            }
            other => panic!("no algorithm {other}"),
        };
        Signer { algorithm, kid: kid.to_owned(), secret }
    }

    /// The key that verifies, as JSON Web Key.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.secret {
            Secret::Ed25519(key) => json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(key.public_key())}),
            Secret::P256(key) => {
                let point = key.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": base64url(&point[1..33]), "y": base64url(&point[33..])})
            }
            Secret::Rsa(key) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({"kty": "RSA", "n": base64url(public.n), "e": base64url(public.e)})
            }
            Secret::Hmac(key) => json!({"kty": "oct", "k": base64url(key)}),
        };
        jwk["kid"] = json!(self.kid);
        jwk["alg"] = json!(self.algorithm);
        jwk
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.secret {
            Secret::Ed25519(key) => key.sign(message).as_ref().to_vec(),
            Secret::P256(key) => key.sign(&random, message).expect("a signature").as_ref().to_vec(),
            Secret::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                let padding: &dyn signature::RsaEncoding =
                    if self.algorithm == "PS256" { &signature::RSA_PSS_SHA256 } else { &signature::RSA_PKCS1_SHA256 };
                key.sign(padding, &random, message, &mut signature).expect("a signature");
                signature
            }
            Secret::Hmac(key) => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec(),
        }
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"alg": self.algorithm, "kid": self.kid, "typ": "JWT"}), claims)
    }

    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
        let signature = base64url(self.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// A token of alice from another issuer of the shared server, with more claims or others.
    pub fn token_from(&self, issuer: &str, more: Value) -> String {
        let mut claims = claims("alice");
        claims["iss"] = json!(format!("https://{issuer}.example/"));
        for (claim, value) in more.as_object().expect("claims") {
            claims[claim] = value.clone();
        }
        self.token(&claims)
    }

    /// An ordinary token of a user, that of no other call.
    pub fn token_of(&self, user: &str) -> String {
        self.token(&claims(user))
    }
}

static TOKENS: AtomicU32 = AtomicU32::new(0);

/// The claims of an ordinary token: good for five minutes, with an id of its own.
pub fn claims(user: &str) -> Value {
    let id = TOKENS.fetch_add(1, Ordering::Relaxed);
    json!({"iss": ISS, "aud": AUDIENCE, "sub": user, "iat": now(), "exp": now() + 300, "jti": format!("token-{id}")})
}

/// An issuer of the issuers file that believes these keys.
pub fn issuer(name: &str, iss: &str, keys: &[&Signer]) -> Value {
    let mut algorithms: Vec<_> = keys.iter().map(|key| key.algorithm).collect();
    algorithms.dedup();
    let keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
    json!({"name": name, "iss": iss, "aud": [AUDIENCE], "algs": algorithms, "jwks": {"keys": keys}})
}

pub fn issuers(list: &[Value]) -> String {
    json!({"issuers": list}).to_string()
}

/// The shared server of tokens, its issuer and its keys: one for each algorithm.
static SHARED: LazyLock<(Cluster, Vec<Signer>)> = LazyLock::new(|| {
    let algorithms = ["EdDSA", "ES256", "RS256", "PS256", "HS256"];
    let keys: Vec<_> = algorithms.map(|algorithm| Signer::new(algorithm, &format!("key-{algorithm}"))).into();
    let mut cluster = Cluster::builder()
        .keyring(&keyring_line("wire-1", &kek(1)))
        .without_fsync()
        .conf("max_connections = 300")
        .conf("max_worker_processes = 100")
        .conf("log_statement = all")
        .prepare();
    let mut ours = issuer("idp", ISS, &keys.iter().collect::<Vec<_>>());
    ours["max_lifetime"] = json!(600);
    ours["scope"] = json!({"rotate": "vault.rotate", "use": "vault.use", "recovery": "vault.recovery"});
    let of = |name: &str, members: Value| {
        let mut issuer = issuer(name, &format!("https://{name}.example/"), &[&keys[0]]);
        issuer["user_prefix"] = json!(format!("{name}:"));
        for (member, value) in members.as_object().expect("members") {
            issuer[member] = value.clone();
        }
        issuer
    };
    ours["user_prefix"] = json!("u-");
    let list = [
        ours,
        of("session", json!({"bind": "session"})),
        of("transaction", json!({"bind": "transaction"})),
        of("brief", json!({"leeway": 0})),
        of("elsewhere", json!({"databases": ["elsewhere"]})),
        of("roles", json!({"roles": ["wire_app2"]})),
        of("stepup", json!({"step_up": {"rotate": {"max_age": 60, "acr": ["urn:mfa"]}}})),
    ];
    let file = cluster.write_kek("issuers", issuers(&list), 0o600);
    cluster.configure(&format!("vault_ext.issuers_file = '{}'", file.display()));
    cluster.start();
    (cluster, keys)
});

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A fresh database of the shared server of tokens, in the mode `token`, and the issuer's keys: EdDSA, ES256, RS256, PS256,
/// HS256. Users of the issuer `idp` begin with `u-`.
pub fn token_db() -> (Db<'static>, &'static [Signer]) {
    let (cluster, keys) = &*SHARED;
    let db = cluster.database(&format!("tokens_{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    db.force(&format!("ALTER DATABASE {} SET vault_ext.identity = 'token'", db.name));
    (db, keys)
}
