//! A user's key, on its way to the user.

use vault_core::crypto::secret::MasterKey;

use crate::store::vaults::RecoveryWrap;

/// A user's key, on its way to the user.
pub struct UserKey {
    pub released: Released,
    /// Of the wrap.
    pub format_version: i16,
    pub kek_id: String,
    pub key_version: i32,
}

/// What the user gets.
pub enum Released {
    MasterKey(MasterKey),
    /// In zero-knowledge mode: what only the recovery code opens.
    RecoveryWrap(RecoveryWrap),
}

/// What the trail says of a key.
#[derive(Debug, Clone, Copy)]
pub struct KeyId<'a> {
    pub kek_id: &'a str,
    pub key_version: i32,
}

impl UserKey {
    /// What the trail says of it.
    pub fn id(&self) -> KeyId<'_> {
        KeyId { kek_id: &self.kek_id, key_version: self.key_version }
    }

    /// The key itself; None in zero-knowledge mode.
    pub fn master_key(&self) -> Option<&MasterKey> {
        match &self.released {
            Released::MasterKey(key) => Some(key),
            Released::RecoveryWrap(_) => None,
        }
    }
}
