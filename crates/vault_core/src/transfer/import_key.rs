//! The import key: an X25519 pair whose private half comes from a KEK.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::bundle::Bundle;
use super::record::{BadRecord, VaultRecord};
use crate::crypto::secret::KekBytes;
use crate::seal::hpke::{DoesNotOpen, X25519PrivateKey};
use crate::seal::public_key::{Fingerprint, PublicKey, x25519_pem};

/// HKDF's `info`: it separates import keys from every other use of a KEK.
const INFO: &[u8] = b"vault_ext.import-key.v1";

/// HKDF-SHA256 (RFC 5869) with ikm = the KEK, an empty salt and info = `vault_ext.import-key.v1` gives the 32 bytes of
/// an X25519 private key (RFC 7748, section 5). It is as secret as the KEK: it opens every bundle that was made for it.
pub struct ImportKey(X25519PrivateKey);

/// Why a bundle gave no vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Tampered with, cut off, or made for another key; which one is not said.
    #[error("the bundle does not open")]
    DoesNotOpen,
    /// It opened: its maker knew the import key.
    #[error(transparent)]
    Record(#[from] BadRecord),
}

impl From<DoesNotOpen> for OpenError {
    fn from(DoesNotOpen: DoesNotOpen) -> Self {
        Self::DoesNotOpen
    }
}

impl ImportKey {
    pub fn derive(kek: &KekBytes) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(None, kek.expose_secret())
            .expand(INFO, bytes.as_mut_slice())
            .expect("32 bytes are less than the 8160 that HKDF-SHA256 can give");
        Self(X25519PrivateKey::from_secret(&bytes))
    }

    /// The public half as 44 characters of padded standard base64.
    pub fn public_key_base64(&self) -> String {
        STANDARD.encode(self.0.public_key().to_bytes())
    }

    /// The public half as an SPKI in PEM.
    pub fn public_key_pem(&self) -> String {
        x25519_pem(&self.0.public_key())
    }

    /// What both servers' audit trails keep of the public half.
    pub fn fingerprint(&self) -> Fingerprint {
        PublicKey::X25519(self.0.public_key()).fingerprint()
    }

    /// Opens a bundle that was made for this key.
    ///
    /// # Errors
    /// [`OpenError`] if it does not open, or if what it holds is no record.
    pub fn open(&self, bundle: &Bundle) -> Result<VaultRecord, OpenError> {
        Ok(bundle.open(&self.0)??)
    }
}

#[cfg(test)]
mod tests;
