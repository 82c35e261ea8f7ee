//! Mints the tokens of the tests, with fixed keys and with other code than the one that verifies them.

use std::convert::Infallible;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::Signer as _;
use hmac::{Hmac, KeyInit, Mac};
use rsa::rand_core::{TryCryptoRng, TryRng};
use rsa::traits::PublicKeyParts;
use rsa::{BoxedUint, Pkcs1v15Sign, PrivateKey, Pss};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::issuers::Issuers;
use super::jwk::Algorithm;

/// The time of the tests: 2027-01-15.
pub const NOW: i64 = 1_800_000_000;
pub const ISS: &str = "https://id.example/";
pub const AUD: &str = "https://db.example/vault";

/// The primes of the RSA key of 2048 bits; nothing but tests has ever trusted it.
const PRIMES: [&str; 2] = [
    "78KRuFqE5yQQUK9QBlNHDw04-6ot0Bjtn0NFbUE7mPJMvbHJ0hrLcX0MYiO_BlYBcPPEG71ySXzZQYZSv_icxAu05l4kBBE7VFm6_hWNlXPc3rPh\
     Ep5jOZkde9Z-_J06iO0TIQQgsfTiZDuMqPJWm7by8zoGQ1RLmSStZWhzCzc",
    "7bi_BT8jKtOHEWGQbMGKL5hFYpEN3HZ34UYxAALT3IJOx3xKKJ9pBuDUZ3C6JO0kHjCYXD2Xb1KpmULT2qRtkNP3YORcZSgAmDNCgWydvk2Gnor3\
     YbSbnLZMynTLjGVN9faPR5LhJdNCFdAkcsoaFKO6AQMmkH2CEZzKSXA9Mr0",
];

static RSA: LazyLock<PrivateKey> = LazyLock::new(|| {
    let [p, q] = PRIMES.map(|prime| BoxedUint::from_be_slice(&unbase64(prime), 1024).expect("1024 bits"));
    PrivateKey::from_p_q(p, q, BoxedUint::from(65_537u64)).expect("an RSA key")
});

pub fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn unbase64(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).expect("base64url")
}

/// A private key, and the algorithm and key id that it signs with.
pub struct Signer {
    pub algorithm: Algorithm,
    pub kid: Option<&'static str>,
    private: Private,
}

enum Private {
    Ed25519(ed25519_dalek::SigningKey),
    P256(p256::ecdsa::SigningKey),
    Rsa,
    Secret([u8; 32]),
}

impl Signer {
    /// The key of this algorithm, the algorithm's name being its key id. Other seeds give other keys, but for RSA.
    pub fn new(algorithm: Algorithm, seed: u8) -> Self {
        let private = match algorithm {
            Algorithm::EdDsa => Private::Ed25519(ed25519_dalek::SigningKey::from_bytes(&[seed; 32])),
            Algorithm::Es256 => Private::P256(p256::ecdsa::SigningKey::from_slice(&[seed; 32]).expect("a scalar")),
            Algorithm::Rs256 | Algorithm::Ps256 => Private::Rsa,
            Algorithm::Hs256 => Private::Secret([seed; 32]),
        };
        Self { algorithm, kid: Some(algorithm.name()), private }
    }

    pub fn ed25519() -> Self {
        Self::new(Algorithm::EdDsa, 7)
    }

    /// One for each algorithm.
    pub fn all() -> Vec<Self> {
        Algorithm::ALL.into_iter().map(|algorithm| Self::new(algorithm, 7)).collect()
    }

    pub fn with_kid(self, kid: Option<&'static str>) -> Self {
        Self { kid, ..self }
    }

    /// The key that verifies its signatures.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.private {
            Private::Ed25519(key) => json!({"kty": "OKP", "crv": "Ed25519", "x": base64(key.verifying_key())}),
            Private::P256(key) => {
                let point = key.verifying_key().to_sec1_point(false);
                let point = point.as_bytes();
                json!({"kty": "EC", "crv": "P-256", "x": base64(&point[1..33]), "y": base64(&point[33..])})
            }
            Private::Rsa => {
                json!({"kty": "RSA", "n": base64(RSA.n_bytes()), "e": base64(RSA.e_bytes())})
            }
            Private::Secret(key) => json!({"kty": "oct", "k": base64(key)}),
        };
        jwk["alg"] = self.algorithm.name().into();
        if let Some(kid) = self.kid {
            jwk["kid"] = kid.into();
        }
        jwk
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.private {
            Private::Ed25519(key) => key.sign(message).to_bytes().to_vec(),
            Private::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(message);
                signature.to_bytes().to_vec()
            }
            Private::Rsa => {
                let hash = Sha256::digest(message);
                let signed = if self.algorithm == Algorithm::Ps256 {
                    RSA.sign_with_rng(&mut Random, Pss::<Sha256>::new(), &hash)
                } else {
                    RSA.sign_with_rng(&mut Random, Pkcs1v15Sign::new::<Sha256>(), &hash)
                };
                signed.expect("a signature")
            }
            Private::Secret(key) => hmac(key, message),
        }
    }
}

pub fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

/// The operating system's random numbers, for salts and blinding.
struct Random;

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(getrandom::u32().expect("random bytes"))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(getrandom::u64().expect("random bytes"))
    }

    fn try_fill_bytes(&mut self, buffer: &mut [u8]) -> Result<(), Infallible> {
        getrandom::fill(buffer).expect("random bytes");
        Ok(())
    }
}

impl TryCryptoRng for Random {}

/// A token before it is signed.
#[derive(Clone)]
pub struct Token {
    header: Value,
    header_text: Option<String>,
    payload: Vec<u8>,
}

impl Token {
    pub fn of(claims: &Value) -> Self {
        Self::of_bytes(claims.to_string())
    }

    /// With a payload that need not be JSON.
    pub fn of_bytes(payload: impl Into<Vec<u8>>) -> Self {
        Self { header: json!({}), header_text: None, payload: payload.into() }
    }

    /// Changes the header, which otherwise has the key's `alg` and `kid`, and a `typ`. A null removes.
    pub fn header(mut self, changes: Value) -> Self {
        self.header = changed(self.header, changes);
        self
    }

    /// Replaces the header by one that need not be JSON.
    pub fn header_text(mut self, text: &str) -> Self {
        self.header_text = Some(text.to_owned());
        self
    }

    /// What is signed.
    pub fn message(&self, signer: &Signer) -> String {
        let own = json!({"alg": signer.algorithm.name(), "kid": signer.kid, "typ": "JWT"});
        let header = || without_nulls(changed(own, self.header.clone())).to_string();
        format!("{}.{}", base64(self.header_text.clone().unwrap_or_else(header)), base64(&self.payload))
    }

    pub fn signed_by(&self, signer: &Signer) -> String {
        let message = self.message(signer);
        let signature = signer.sign(message.as_bytes());
        format!("{message}.{}", base64(signature))
    }
}

/// `value` with other members.
fn changed(mut value: Value, changes: Value) -> Value {
    if let (Value::Object(members), Value::Object(changes)) = (&mut value, changes) {
        members.extend(changes);
    }
    value
}

fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(members) = &mut value {
        members.retain(|_, member| !member.is_null());
    }
    value
}

/// The claims of an ordinary token, changed. A null removes.
pub fn claims(changes: Value) -> Value {
    let ordinary = json!({"iss": ISS, "aud": AUD, "sub": "user-1", "iat": NOW, "exp": NOW + 900});
    without_nulls(changed(ordinary, changes))
}

/// An issuer's entry in the issuers file, changed. A null removes.
pub fn issuer(changes: Value, signers: &[Signer]) -> Value {
    let mut algorithms: Vec<_> = signers.iter().map(|signer| signer.algorithm.name()).collect();
    algorithms.dedup();
    let keys: Vec<_> = signers.iter().map(Signer::jwk).collect();
    let ordinary = json!({"name": "idp", "iss": ISS, "aud": [AUD], "algs": algorithms, "jwks": {"keys": keys}});
    without_nulls(changed(ordinary, changes))
}

/// A file with these issuers and no others beside it.
pub fn file(issuers: &[Value]) -> String {
    json!({ "issuers": issuers }).to_string()
}

/// The issuers of such a file.
pub fn issuers(issuers: &[Value]) -> Issuers {
    Issuers::parse(file(issuers).as_bytes(), |path| panic!("{path} is read")).expect("issuers")
}
