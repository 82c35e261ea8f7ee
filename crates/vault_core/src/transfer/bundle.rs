//! The export bundle: one line of text per vault.
//!
//! ```text
//! vault1:<kek id>:<sealed>
//! ```
//! Both parts are padded standard base64. The first is the id of the target's KEK, in clear so that the importer finds
//! it. The second is what [`hpke::seal`] gives (enc, ciphertext, tag) with the record of the vault as the plaintext,
//! info = `vault_ext.export.v1` and aad = the id of the KEK, UTF-8.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::record::{BadRecord, VaultRecord};
use crate::crypto::secret::RngError;
use crate::keyring::text::{BadKekId, KekId};
use crate::seal::hpke::{self, X25519PrivateKey, X25519PublicKey};
use crate::seal::public_key::{Fingerprint, PublicKey, PublicKeyError};

/// HPKE's `info`: it separates bundles from all else that is encrypted to the same public key.
pub const INFO: &[u8] = b"vault_ext.export.v1";

/// What every bundle starts with.
pub const PREFIX: &str = "vault1:";

/// The most bytes of a bundle, more than the largest record needs.
pub const MAX_TEXT: usize = 16 << 20;

/// The server for which vaults are exported.
pub struct Target {
    kek_id: KekId,
    public_key: X25519PublicKey,
}

/// Why vaults cannot be exported for what was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("the KEK of the target: {0}")]
    KekId(#[from] BadKekId),
    #[error(transparent)]
    PublicKey(#[from] PublicKeyError),
    #[error("the public key is no import key: it is for RSA")]
    Rsa,
}

impl TargetError {
    pub fn hint(&self) -> &'static str {
        match self {
            Self::PublicKey(error) => error.hint(),
            Self::KekId(_) | Self::Rsa => "Give the import key and the id of the KEK that the target server shows.",
        }
    }
}

/// Why a vault was not exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Record(#[from] BadRecord),
    #[error(transparent)]
    Rng(#[from] RngError),
}

impl Target {
    /// `public_key` in a form that [`PublicKey::parse`] reads, and the id of the KEK that the target derived it from.
    ///
    /// # Errors
    /// [`TargetError`] if one of the two is no such thing.
    pub fn parse(kek_id: &str, public_key: &str) -> Result<Self, TargetError> {
        let kek_id = KekId::new(kek_id)?;
        match PublicKey::parse(public_key)? {
            PublicKey::X25519(public_key) => Ok(Self { kek_id, public_key }),
            PublicKey::Rsa { .. } => Err(TargetError::Rsa),
        }
    }

    /// What both servers' audit trails keep of the import key.
    pub fn fingerprint(&self) -> Fingerprint {
        PublicKey::X25519(self.public_key.clone()).fingerprint()
    }

    /// The bundle of one vault, without a line feed.
    ///
    /// # Errors
    /// [`ExportError`] if the record is out of bounds, or if the operating system gives no random bytes.
    pub fn seal(&self, record: &VaultRecord) -> Result<String, ExportError> {
        let kek_id = self.kek_id.as_str();
        let sealed = hpke::seal(&self.public_key, INFO, kek_id.as_bytes(), &record.encode()?)?;
        Ok(format!("{PREFIX}{}:{}", STANDARD.encode(kek_id), STANDARD.encode(sealed)))
    }
}

/// A bundle that was read and not yet opened.
pub struct Bundle {
    kek_id: KekId,
    sealed: Vec<u8>,
}

/// Why a text is no bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBundle {
    #[error("the text is no bundle of a vault")]
    NoBundle,
    #[error("the bundle is of a version that this server does not read")]
    Version,
    #[error("the bundle is malformed")]
    Malformed,
    #[error("the bundle has more than {MAX_TEXT} bytes")]
    TooLong,
}

impl BadBundle {
    pub fn hint(self) -> &'static str {
        match self {
            Self::NoBundle | Self::Malformed | Self::TooLong => {
                "Give one line exactly as the export printed it: vault1:, the id of the KEK, and the sealed vault."
            }
            Self::Version => "Update the extension on this server to the version of the source.",
        }
    }
}

impl Bundle {
    /// Reads one bundle, with white space around it.
    ///
    /// # Errors
    /// [`BadBundle`] for all else.
    pub fn parse(text: &str) -> Result<Self, BadBundle> {
        if text.len() > MAX_TEXT {
            return Err(BadBundle::TooLong);
        }
        let (name, rest) = text.trim_ascii().split_once(':').ok_or(BadBundle::NoBundle)?;
        let version = name.strip_prefix("vault").ok_or(BadBundle::NoBundle)?;
        match version {
            "1" => {}
            "" => return Err(BadBundle::NoBundle),
            _ if version.bytes().all(|b| b.is_ascii_digit()) => return Err(BadBundle::Version),
            _ => return Err(BadBundle::NoBundle),
        }
        let (kek_id, sealed) = rest.split_once(':').ok_or(BadBundle::Malformed)?;
        let kek_id = STANDARD.decode(kek_id).ok().and_then(|id| String::from_utf8(id).ok());
        let kek_id = kek_id.and_then(|id| KekId::new(&id).ok()).ok_or(BadBundle::Malformed)?;
        let sealed = STANDARD.decode(sealed).map_err(|_| BadBundle::Malformed)?;
        if sealed.len() <= hpke::OVERHEAD {
            return Err(BadBundle::Malformed);
        }
        Ok(Self { kek_id, sealed })
    }

    /// The KEK whose import key opens it. Anybody can write any id there: it counts only once the bundle has opened.
    pub fn kek_id(&self) -> &KekId {
        &self.kek_id
    }

    pub(super) fn open(
        &self,
        private_key: &X25519PrivateKey,
    ) -> Result<Result<VaultRecord, BadRecord>, hpke::DoesNotOpen> {
        let plaintext = hpke::open(private_key, INFO, self.kek_id.as_str().as_bytes(), &self.sealed)?;
        Ok(VaultRecord::decode(&plaintext))
    }
}
