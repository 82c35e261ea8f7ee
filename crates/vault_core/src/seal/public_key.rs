//! Reading a caller's public key, and its fingerprint.

use std::fmt;

use ::rsa::BoxedUint;
use ::rsa::pkcs1::{RsaPrivateKeyRef, RsaPublicKeyRef};
use ::rsa::pkcs8::der::asn1::UintRef;
use ::rsa::pkcs8::der::{Decode, pem};
use ::rsa::pkcs8::{ObjectIdentifier, PrivateKeyInfoRef, SubjectPublicKeyInfoRef};
use base64ct::{Base64, Base64Unpadded, Encoding};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::hpke::X25519PublicKey;
use super::rsa::BITS;

/// The most bytes of a text that may be a public key. An RSA key of 4096 bits has 800.
pub const MAX_TEXT: usize = 8192;

/// RFC 8410, section 3.
const X25519_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.110");

/// RFC 8017, appendix A.1.
const RSA_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// What stands before the 32 bytes of the key in the DER of every X25519 SPKI (RFC 8410, section 4).
const X25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x6e, 0x03, 0x21, 0x00];

/// The label of an SPKI (RFC 7468, section 13).
const LABEL: &str = "PUBLIC KEY";

/// A public key that can be sealed to.
pub enum PublicKey {
    X25519(X25519PublicKey),
    Rsa {
        /// A modulus of 2048 to 4096 bits, an odd exponent of 3 to 2^33 - 1.
        key: Box<::rsa::PublicKey>,
        fingerprint: Fingerprint,
    },
}

/// SHA-256 over the DER of a key's SPKI, shown as `sha256:` and 64 lower-case hexadecimal digits. `openssl pkey -pubin
/// -in key.pem -outform DER | sha256sum` prints the same digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why a text is no public key that can be sealed to; never with anything of the text, which may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    #[error("a private key was given in place of a public key")]
    PrivateKey,
    #[error("the public key has more than {MAX_TEXT} bytes")]
    TooLong,
    #[error("the text is neither a public key in PEM nor 32 bytes in base64")]
    NoKey,
    #[error("the PEM does not hold a public key of the form SPKI")]
    Label,
    #[error("the PEM of the public key is malformed")]
    Pem,
    #[error("the public key is malformed")]
    Der,
    #[error("keys cannot be sealed to a public key of the algorithm with the OID {oid}")]
    Algorithm { oid: String },
    #[error("the X25519 public key is of low order or not reduced")]
    Unusable,
    #[error("the RSA public key has {bits} bits")]
    RsaSize { bits: usize },
    #[error("the exponent of the RSA public key is even, less than 3, or more than 2^33 - 1")]
    RsaExponent,
    #[error("the modulus of the RSA public key is even")]
    RsaModulus,
}

impl PublicKeyError {
    pub fn hint(&self) -> &'static str {
        match self {
            Self::PrivateKey => {
                "Consider this private key exposed, since statements are logged and traced. Make a new pair, and give \
                 only its public key."
            }
            Self::TooLong | Self::NoKey | Self::Pem | Self::Der => {
                "Give one public key: the output of \"openssl pkey -pubout\", or the 32 bytes of an X25519 key as 44 \
                 characters of standard base64."
            }
            Self::Label => {
                "Write the key with the label PUBLIC KEY; \"openssl x509 -pubkey\" and \"openssl rsa -RSAPublicKey_in \
                 -pubout\" convert others."
            }
            Self::Algorithm { .. } => {
                "Use an X25519 key (\"openssl genpkey -algorithm X25519\") or an RSA key for encryption."
            }
            Self::Unusable => "Make a new pair with \"openssl genpkey -algorithm X25519\".",
            Self::RsaSize { .. } => "Use an RSA key of 2048 to 4096 bits, or better an X25519 key.",
            Self::RsaExponent | Self::RsaModulus => {
                "Make a new pair with \"openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072\"."
            }
        }
    }
}

impl PublicKey {
    /// Reads one of these, with white space around it:
    /// - PEM (RFC 7468) with the label `PUBLIC KEY`, with lines of any one length, of an SPKI that holds X25519 (RFC
    ///   8410) or RSA with 2048 to 4096 bits. RSA keys that are restricted to PSS signatures or to OAEP by their OID
    ///   are not read.
    /// - The 32 bytes of an X25519 key in padded standard base64: 44 characters. A private key of 32 bytes looks the
    ///   same and cannot be refused.
    ///
    /// # Errors
    /// [`PublicKeyError`] for all else.
    pub fn parse(text: &str) -> Result<Self, PublicKeyError> {
        if text.len() > MAX_TEXT {
            return Err(PublicKeyError::TooLong);
        }
        let text = text.trim_ascii();
        if holds_private_key(text) {
            return Err(PublicKeyError::PrivateKey);
        }
        if text.starts_with("-----BEGIN ") {
            return Self::from_pem(text);
        }
        let mut bytes = [0; 32];
        let decoded = Base64::decode(text, &mut bytes).map_err(|_| PublicKeyError::NoKey)?;
        if decoded.len() != bytes.len() {
            return Err(PublicKeyError::NoKey);
        }
        X25519PublicKey::from_bytes(&bytes).map(Self::X25519).ok_or(PublicKeyError::Unusable)
    }

    pub fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::X25519(key) => Fingerprint::of(&x25519_spki(key)),
            Self::Rsa { fingerprint, .. } => *fingerprint,
        }
    }

    fn from_pem(text: &str) -> Result<Self, PublicKeyError> {
        // The decoder takes a second message for a part of the first one, and might read on.
        if text.matches("-----BEGIN ").count() != 1 {
            return Err(PublicKeyError::Pem);
        }
        let mut der = Vec::new();
        let mut decoder = pem::Decoder::new_detect_wrap(text.as_bytes()).map_err(|_| PublicKeyError::Pem)?;
        if decoder.type_label() != LABEL {
            return Err(PublicKeyError::Label);
        }
        decoder.decode_to_end(&mut der).map_err(|_| PublicKeyError::Pem)?;
        Self::from_spki(&der)
    }

    fn from_spki(der: &[u8]) -> Result<Self, PublicKeyError> {
        if is_private_der(der) {
            return Err(PublicKeyError::PrivateKey);
        }
        let spki = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| PublicKeyError::Der)?;
        let key = spki.subject_public_key.as_bytes().ok_or(PublicKeyError::Der)?;
        let parameters = spki.algorithm.parameters;
        match spki.algorithm.oid {
            X25519_OID if parameters.is_none() => {
                let bytes = key.try_into().map_err(|_| PublicKeyError::Der)?;
                X25519PublicKey::from_bytes(bytes).map(Self::X25519).ok_or(PublicKeyError::Unusable)
            }
            RSA_OID if parameters.is_some_and(|parameters| parameters.is_null()) => {
                Ok(Self::Rsa { key: Box::new(rsa_key(key)?), fingerprint: Fingerprint::of(der) })
            }
            X25519_OID | RSA_OID => Err(PublicKeyError::Der),
            oid => Err(PublicKeyError::Algorithm { oid: oid.to_string() }),
        }
    }
}

/// Reads the `RSAPublicKey` of an SPKI.
fn rsa_key(der: &[u8]) -> Result<::rsa::PublicKey, PublicKeyError> {
    let key = RsaPublicKeyRef::from_der(der).map_err(|_| PublicKeyError::Der)?;
    let bits = bits(key.modulus);
    if !BITS.contains(&bits) {
        return Err(PublicKeyError::RsaSize { bits });
    }
    // 2^33 has 5 bytes. The crate checks the rest, but calls an exponent larger than the modulus an invalid modulus.
    if key.public_exponent.as_bytes().len() > 5 {
        return Err(PublicKeyError::RsaExponent);
    }
    let number = |number: UintRef<'_>| {
        let bytes = number.as_bytes();
        let bits = u32::try_from(bytes.len() * 8).ok()?;
        BoxedUint::from_be_slice(bytes, bits).ok()
    };
    let (modulus, exponent) = number(key.modulus).zip(number(key.public_exponent)).ok_or(PublicKeyError::Der)?;
    ::rsa::PublicKey::new_with_size_limits(modulus, exponent, BITS).map_err(|error| match error {
        ::rsa::Error::InvalidModulus => PublicKeyError::RsaModulus,
        _ => PublicKeyError::RsaExponent,
    })
}

fn bits(number: UintRef<'_>) -> usize {
    match number.as_bytes() {
        [first, rest @ ..] => rest.len() * 8 + (8 - first.leading_zeros() as usize),
        [] => 0,
    }
}

/// Whether `text` is or contains a private key: PEM of any kind, a JWK, or the base64 of PKCS #8 or PKCS #1.
fn holds_private_key(text: &str) -> bool {
    let is_private_jwk = || text.starts_with('{') && text.contains("\"d\"");
    let is_private_base64 = || {
        let joined: Zeroizing<String> = Zeroizing::new(text.split_ascii_whitespace().collect());
        let der = Base64Unpadded::decode_vec(joined.trim_end_matches('=')).map(Zeroizing::new);
        der.is_ok_and(|der| is_private_der(&der))
    };
    text.contains("PRIVATE KEY-----") || is_private_jwk() || is_private_base64()
}

fn is_private_der(der: &[u8]) -> bool {
    PrivateKeyInfoRef::from_der(der).is_ok() || RsaPrivateKeyRef::from_der(der).is_ok()
}

/// The DER of the SPKI of an X25519 key.
fn x25519_spki(key: &X25519PublicKey) -> [u8; 44] {
    let mut der = [0; 44];
    let (before, bytes) = der.split_at_mut(X25519_SPKI.len());
    before.copy_from_slice(&X25519_SPKI);
    bytes.copy_from_slice(&key.to_bytes());
    der
}

/// An X25519 key as PEM: three lines, each with its line feed.
pub fn x25519_pem(key: &X25519PublicKey) -> String {
    pem::encode_string(LABEL, pem::LineEnding::LF, &x25519_spki(key)).expect("44 bytes have a PEM")
}

#[cfg(test)]
mod tests;
