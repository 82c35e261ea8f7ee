//! A user's key, on its way to the user.

use vault_core::crypto::secret::MasterKey;

/// A user's key, on its way to the user.
pub struct UserKey {
    pub master_key: MasterKey,
    pub format_version: i16,
    pub kek_id: String,
    pub key_version: i32,
}
