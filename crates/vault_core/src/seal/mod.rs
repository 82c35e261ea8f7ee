//! Sealed release: a key that leaves the server only encrypted to a public key that the caller gives.
//!
//! [`public_key`] reads the caller's key, [`hpke`] and [`rsa`] encrypt to it, [`binding`] says which key of whom was
//! sealed. The statement, the wire, the pooler and every log then see ciphertext only. Only the private key opens
//! it. Whoever can exchange the public key on its way to the server gets the user's key instead, so its fingerprint
//! belongs in the audit trail.

pub mod binding;
mod draw;
pub mod hpke;
pub mod public_key;
pub mod rsa;

pub use self::binding::{BadBinding, Binding, KeyKind};
pub use self::public_key::{Fingerprint, PublicKeyError};

use self::public_key::PublicKey;
use crate::crypto::secret::RngError;

/// Who a key is sealed for.
pub struct Recipient(PublicKey);

/// A sealed key, and the name of how it was sealed.
pub struct Sealed {
    /// [`hpke::ALGORITHM`]: 80 bytes. [`rsa::ALGORITHM`]: as many as the modulus has, 256 to 512.
    pub bytes: Vec<u8>,
    /// [`hpke::ALGORITHM`] or [`rsa::ALGORITHM`].
    pub algorithm: &'static str,
}

/// Why nothing was sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error(transparent)]
    Binding(#[from] BadBinding),
    #[error(transparent)]
    Rng(#[from] RngError),
}

impl Recipient {
    /// Reads a public key; [`PublicKey::parse`] says in which forms.
    ///
    /// # Errors
    /// [`PublicKeyError`] for everything else.
    pub fn parse(text: &str) -> Result<Self, PublicKeyError> {
        PublicKey::parse(text).map(Self)
    }

    /// What the audit trail keeps of the public key.
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.fingerprint()
    }

    /// Seals 32 bytes of key. HPKE binds the ciphertext to `binding`; RSA-OAEP has no place for it, and its ciphertexts
    /// can be exchanged for each other.
    ///
    /// # Errors
    /// [`SealError`] if `binding` is out of its bounds, whatever the kind of the public key, or if the operating system
    /// gives no random bytes.
    pub fn seal(&self, key: &[u8; 32], binding: &Binding<'_>) -> Result<Sealed, SealError> {
        let aad = binding.aad()?;
        Ok(match &self.0 {
            PublicKey::X25519(recipient) => {
                Sealed { bytes: hpke::seal(recipient, binding::INFO, &aad, key)?, algorithm: hpke::ALGORITHM }
            }
            PublicKey::Rsa { key: recipient, .. } => {
                Sealed { bytes: rsa::seal(recipient, key)?, algorithm: rsa::ALGORITHM }
            }
        })
    }
}

#[cfg(test)]
mod tests;
