//! RSA-OAEP (RFC 8017, section 7.1) with SHA-256 for its hash and for MGF1, and no label.
//!
//! For recipients that have only Web Crypto, such as the predecessor's runner. OAEP has no AAD, and a label would be
//! one that Web Crypto has to be told: nothing binds such a sealed key to its user, version or purpose. Prefer an
//! X25519 key.

use rsa::PublicKey;
use sha2::Sha256;

use super::draw::Draw;
use crate::crypto::secret::RngError;

/// The name that JOSE has for it (RFC 7518, section 4.3).
pub const ALGORITHM: &str = "RSA-OAEP-256";

/// The sizes of modulus that are sealed to, in bits. The largest message of the smallest is 190 bytes.
pub const BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// Seals `key` to `recipient`, whose modulus has a size of [`BITS`], with randomness of the operating system.
///
/// # Errors
/// [`RngError`] if the operating system gives no random bytes.
pub fn seal(recipient: &PublicKey, key: &[u8; 32]) -> Result<Vec<u8>, RngError> {
    Ok(seal_with(Draw::random()?, recipient, key))
}

fn seal_with(mut draw: Draw, recipient: &PublicKey, key: &[u8; 32]) -> Vec<u8> {
    recipient
        .oaep_encrypt_with_rng::<Sha256, _>(&mut draw, key)
        .expect("a modulus of 2048 bits or more has room for 32 bytes")
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use rsa::pkcs8::{DecodePrivateKey, DecodePublicKey};

    use super::*;

    /// Made with `openssl genpkey`, and with `openssl pkey -pubout` from it.
    const PRIVATE: &str = include_str!("keys/rsa_2048_private.pem");
    const PUBLIC: &str = include_str!("keys/rsa_2048_public.pem");

    /// The key a0 a1 .. bf with the seed 00 01 .. 1f, computed with Python: OAEP written out from RFC 8017 with
    /// `hashlib` and `pow`.
    #[test]
    fn frozen_vector() {
        let vector = "\
            PkiVIgpFRZYtg3VoK97Sma4bMijQVryGRkee9lNo17fTX2QwagYDBNXqPMJORGEZm9TX+isr9Gzfu+IW7gNJ5LvBmo\
            ksQbBwMATgno3lhFustcqucKf/6EAjGrw5NGeoeQovmYmiVF/YaBtvVa9NUiHfDKv1Y03nuKPZgw8wL9csj2XCbDBG\
            FC8e6E5X05yWsaFwR/F64JmjLqBTfo7Uy3LD3dprrM0e412L9HpvoB4FmnzaFFEWzgl9e4ahPrzDdRq6ScIjSntNJ6\
            maJYOS0fJNU0EnWW990qzhllYD8bLVVRVmVATpOr2U6//RWRh8WFfD13VnhJIvuzFiudkj3w==";
        let recipient = PublicKey::from_public_key_pem(PUBLIC).expect("a public key");
        let key = std::array::from_fn(|i| 0xa0 + i as u8);
        let sealed = seal_with(Draw::known(std::array::from_fn(|i| i as u8)), &recipient, &key);
        assert_eq!(STANDARD.encode(&sealed), vector);
        let private_key = rsa::PrivateKey::from_pkcs8_pem(PRIVATE).expect("a private key");
        assert_eq!(private_key.oaep_decrypt::<Sha256>(&sealed).expect("it opens"), key);
    }
}
