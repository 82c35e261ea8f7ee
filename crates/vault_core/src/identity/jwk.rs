//! Keys that verify tokens: JSON Web Keys (RFC 7517, RFC 7518 section 6, RFC 8037), one algorithm each.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, VerifyingKey};
use hmac::{Hmac, KeyInit, Mac};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::{Map, Value, json};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Keys of one set.
pub const MAX_KEYS: usize = 16;
/// Bits of an RSA modulus. ring accepts no others.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// RFC 7518, section 3.2: a key as long as the hash.
const MIN_HMAC_BYTES: usize = 32;
/// Longest key id, in bytes: what the audit trail keeps of it.
pub const MAX_KID: usize = 128;

/// A signature algorithm (RFC 7518, section 3.1; RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    EdDsa,
    Es256,
    Rs256,
    Ps256,
    Hs256,
}

impl Algorithm {
    pub const ALL: [Self; 5] = [Self::EdDsa, Self::Es256, Self::Rs256, Self::Ps256, Self::Hs256];

    pub fn name(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Hs256 => "HS256",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        // RFC 9864 gives EdDSA with Ed25519 a name of its own.
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name).or((name == "Ed25519").then_some(Self::EdDsa))
    }
}

/// Why a key cannot be used, as the end of a sentence that begins with the key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    #[error("is not a JSON object")]
    NotAnObject,
    #[error("lacks {0}, or it is not a text")]
    Lacks(&'static str),
    #[error("has a {0} that is not base64url without padding")]
    NotBase64(&'static str),
    #[error("holds a private key")]
    Private,
    #[error("has an unknown kty {0:?}")]
    KeyType(String),
    #[error("is of the curve {0:?}; known are Ed25519 and P-256")]
    Curve(String),
    #[error("is for {0} and not for {1:?}")]
    OtherAlgorithm(&'static str, String),
    #[error("names no algorithm, and the issuer's algs has not exactly one that fits")]
    NoAlgorithm,
    #[error("is for the algorithm {0}, which is not in the issuer's algs")]
    NotAllowed(&'static str),
    #[error("is not for verifying signatures (use or key_ops)")]
    Use,
    #[error("is not a point of its curve that can be used")]
    Point,
    #[error("has an RSA modulus of {0} bits; allowed are 2048 to 8192")]
    RsaSize(usize),
    #[error("has an RSA exponent that is even or shorter than 2 bits")]
    RsaExponent,
    #[error("has fewer than 32 bytes")]
    Short,
    #[error("has a kid that is empty or longer than 128 bytes")]
    Kid,
}

enum Material {
    Ed25519(Box<VerifyingKey>),
    /// An uncompressed point.
    P256([u8; 65]),
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    Secret(Zeroizing<Vec<u8>>),
}

/// A key that verifies signatures of one algorithm.
pub struct Key {
    pub kid: Option<String>,
    pub algorithm: Algorithm,
    material: Material,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, {:?})", self.algorithm.name(), self.kid)
    }
}

impl Key {
    /// Reads one JWK. `allowed` are the issuer's algorithms.
    ///
    /// # Errors
    /// [`BadKey`], also for every key that is weaker than its algorithm promises.
    pub fn parse(jwk: &Value, allowed: &[Algorithm]) -> Result<Self, BadKey> {
        let jwk = jwk.as_object().ok_or(BadKey::NotAnObject)?;
        let kty = text(jwk, "kty")?;
        // "k" is the secret of a symmetric key; these belong to private keys.
        if kty != "oct" && ["d", "p", "q", "dp", "dq", "qi", "oth"].iter().any(|name| jwk.contains_key(*name)) {
            return Err(BadKey::Private);
        }
        check_use(jwk)?;
        let kid = match jwk.get("kid") {
            None => None,
            Some(Value::String(kid)) if !kid.is_empty() && kid.len() <= MAX_KID => Some(kid.clone()),
            Some(_) => return Err(BadKey::Kid),
        };
        let (material, fitting): (_, &[Algorithm]) = match kty {
            "OKP" => (ed25519(jwk)?, &[Algorithm::EdDsa]),
            "EC" => (p256(jwk)?, &[Algorithm::Es256]),
            "RSA" => (rsa(jwk)?, &[Algorithm::Rs256, Algorithm::Ps256]),
            "oct" => (secret(jwk)?, &[Algorithm::Hs256]),
            other => return Err(BadKey::KeyType(other.to_owned())),
        };
        let algorithm = match jwk.get("alg") {
            Some(Value::String(name)) => Algorithm::from_name(name)
                .filter(|algorithm| fitting.contains(algorithm))
                .ok_or_else(|| BadKey::OtherAlgorithm(fitting[0].name(), name.clone()))?,
            Some(_) => return Err(BadKey::Lacks("alg")),
            None => {
                let mut candidates = fitting.iter().copied().filter(|algorithm| allowed.contains(algorithm));
                match (candidates.next(), candidates.next()) {
                    (Some(only), None) => only,
                    (None, _) => return Err(BadKey::NotAllowed(fitting[0].name())),
                    _ => return Err(BadKey::NoAlgorithm),
                }
            }
        };
        if !allowed.contains(&algorithm) {
            return Err(BadKey::NotAllowed(algorithm.name()));
        }
        Ok(Self { kid, algorithm, material })
    }

    /// What `parse` reads again, and nothing else that the JWK had.
    pub fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match &self.material {
            Material::Ed25519(key) => json!({"kty": "OKP", "crv": "Ed25519", "x": encode(key.as_bytes())}),
            Material::P256(point) => {
                json!({"kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..])})
            }
            Material::Rsa { n, e } => json!({"kty": "RSA", "n": encode(n), "e": encode(e)}),
            Material::Secret(key) => json!({"kty": "oct", "k": encode(key)}),
        };
        jwk["alg"] = self.algorithm.name().into();
        if let Some(kid) = &self.kid {
            jwk["kid"] = kid.as_str().into();
        }
        jwk
    }

    /// Whether the key is a secret, so that its source must be as closed as a keyring.
    pub fn is_secret(&self) -> bool {
        matches!(self.material, Material::Secret(_))
    }

    /// Whether `signature` is this key's signature of `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Ed25519(key) => {
                Signature::from_slice(signature).is_ok_and(|signature| key.verify_strict(message, &signature).is_ok())
            }
            Material::P256(point) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
            Material::Rsa { n, e } => {
                let parameters = if self.algorithm == Algorithm::Ps256 {
                    &signature::RSA_PSS_2048_8192_SHA256
                } else {
                    &signature::RSA_PKCS1_2048_8192_SHA256
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok()
            }
            Material::Secret(key) => {
                let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
                mac.update(message);
                mac.verify_slice(signature).is_ok()
            }
        }
    }
}

/// RFC 7517, sections 4.2 and 4.3.
fn check_use(jwk: &Map<String, Value>) -> Result<(), BadKey> {
    let is_for_signatures = jwk.get("use").is_none_or(|usage| usage == "sig");
    let verifies = jwk.get("key_ops").is_none_or(|operations| {
        operations.as_array().is_some_and(|operations| operations.iter().any(|operation| operation == "verify"))
    });
    if is_for_signatures && verifies { Ok(()) } else { Err(BadKey::Use) }
}

fn text<'a>(jwk: &'a Map<String, Value>, name: &'static str) -> Result<&'a str, BadKey> {
    jwk.get(name).and_then(Value::as_str).ok_or(BadKey::Lacks(name))
}

fn bytes(jwk: &Map<String, Value>, name: &'static str) -> Result<Vec<u8>, BadKey> {
    URL_SAFE_NO_PAD.decode(text(jwk, name)?).map_err(|_| BadKey::NotBase64(name))
}

fn ed25519(jwk: &Map<String, Value>) -> Result<Material, BadKey> {
    match text(jwk, "crv")? {
        "Ed25519" => {}
        other => return Err(BadKey::Curve(other.to_owned())),
    }
    let point = bytes(jwk, "x")?.try_into().map_err(|_| BadKey::Point)?;
    let key = VerifyingKey::from_bytes(&point).map_err(|_| BadKey::Point)?;
    // With a point of small order one signature fits many messages. Every other encoding of a point than the shortest is
    // somebody's mistake or trick.
    if key.is_weak() || key.to_edwards().compress().to_bytes() != point {
        return Err(BadKey::Point);
    }
    Ok(Material::Ed25519(Box::new(key)))
}

fn p256(jwk: &Map<String, Value>) -> Result<Material, BadKey> {
    match text(jwk, "crv")? {
        "P-256" => {}
        other => return Err(BadKey::Curve(other.to_owned())),
    }
    let (x, y) = (bytes(jwk, "x")?, bytes(jwk, "y")?);
    if x.len() != 32 || y.len() != 32 {
        return Err(BadKey::Point);
    }
    let mut point = [4; 65];
    point[1..33].copy_from_slice(&x);
    point[33..].copy_from_slice(&y);
    if !is_on_p256(&point) {
        return Err(BadKey::Point);
    }
    Ok(Material::P256(point))
}

/// ring checks a point when it agrees on a key with it.
fn is_on_p256(point: &[u8; 65]) -> bool {
    use ring::agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
    let Ok(mine) = EphemeralPrivateKey::generate(&ECDH_P256, &ring::rand::SystemRandom::new()) else { return false };
    agree_ephemeral(mine, &UnparsedPublicKey::new(&ECDH_P256, point), |_| ()).is_ok()
}

fn rsa(jwk: &Map<String, Value>) -> Result<Material, BadKey> {
    let (n, e) = (bytes(jwk, "n")?, bytes(jwk, "e")?);
    let n = &n[n.iter().take_while(|byte| **byte == 0).count()..];
    let e = &e[e.iter().take_while(|byte| **byte == 0).count()..];
    let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        return Err(BadKey::RsaSize(bits));
    }
    // What ring accepts (3 to 2^33 - 1, odd); it would refuse each signature otherwise, without a reason.
    let exponent = e.iter().try_fold(0u64, |value, byte| value.checked_mul(256)?.checked_add(u64::from(*byte)));
    if !exponent.is_some_and(|value| value % 2 == 1 && (3..1 << 33).contains(&value)) {
        return Err(BadKey::RsaExponent);
    }
    Ok(Material::Rsa { n: n.to_vec(), e: e.to_vec() })
}

fn secret(jwk: &Map<String, Value>) -> Result<Material, BadKey> {
    let key = Zeroizing::new(bytes(jwk, "k")?);
    if key.len() < MIN_HMAC_BYTES { Err(BadKey::Short) } else { Ok(Material::Secret(key)) }
}

impl BadKey {
    /// Whether the key is a good one, as far as can be told, for what nobody asked for: providers publish keys for encryption
    /// and for other algorithms in the same set (RFC 7517, section 5).
    fn is_for_others(&self) -> bool {
        match self {
            Self::Use | Self::NotAllowed(_) | Self::Curve(_) | Self::KeyType(_) => true,
            // "RS512" or "RSA-OAEP"; but an RSA key for ES256 is a mistake.
            Self::OtherAlgorithm(_, name) => Algorithm::from_name(name).is_none(),
            _ => false,
        }
    }
}

/// The keys of a JWK set (RFC 7517, section 5) that verify signatures by one of the allowed algorithms. Others are left out.
///
/// # Errors
/// A message that names the key.
pub fn parse_set(set: &Value, allowed: &[Algorithm]) -> Result<Vec<Key>, String> {
    let keys = set.get("keys").and_then(Value::as_array).ok_or("the JWK set has no member \"keys\" with a list")?;
    let mut parsed: Vec<Key> = Vec::new();
    let mut left_out = None;
    for (position, jwk) in keys.iter().enumerate() {
        let name = match jwk.get("kid").and_then(Value::as_str) {
            Some(kid) => format!("key {} (kid {:?})", position + 1, kid.chars().take(MAX_KID).collect::<String>()),
            None => format!("key {}", position + 1),
        };
        let key = match Key::parse(jwk, allowed) {
            Ok(key) => key,
            Err(bad) if bad.is_for_others() => {
                left_out.get_or_insert_with(|| format!(": {name} {bad}"));
                continue;
            }
            Err(bad) => return Err(format!("{name} {bad}")),
        };
        if key.kid.is_some() && parsed.iter().any(|other| other.kid == key.kid) {
            return Err(format!("{name} has the kid of another key"));
        }
        parsed.push(key);
    }
    match parsed.len() {
        0 => Err(format!(
            "the JWK set has no key that verifies signatures by one of the issuer's algs{}",
            left_out.unwrap_or_default()
        )),
        1..=MAX_KEYS => Ok(parsed),
        more => Err(format!("the JWK set has {more} keys; allowed are {MAX_KEYS}")),
    }
}

#[cfg(test)]
mod tests;
