//! The database's own keys: made when they are first needed, opened like those of users, never handed out.

use vault_core::crypto::wrap::Kind;

use super::key::{Released, UserKey};
use super::service::ATTEMPTS;
use super::wrapping::{mint, ring_opens, with_newest_ring};
use crate::error::VaultError;
use crate::keyring::ring;
use crate::pg::xact;
use crate::store::database_keys;
use crate::store::vaults::{self, NewWrap};

/// The key of that name, made if there is none.
pub fn open_or_create(name: &str) -> Result<UserKey, VaultError> {
    for _ in 0..ATTEMPTS {
        let opened = with_newest_ring(|ring| {
            let Some(key) = database_keys::find(name) else { return Ok(None) };
            let master_key = ring_opens(ring, &key.stored(name))?;
            Ok(Some(UserKey {
                released: Released::MasterKey(master_key),
                format_version: vault_core::crypto::wrap::FORMAT_2,
                kek_id: key.kek_id,
                key_version: key.key_version,
            }))
        })?;
        if let Some(key) = opened {
            return Ok(key);
        }
        vaults::begin_write();
        let (key, wrap) = mint(&*ring::current()?, Kind::DatabaseKey, name, 1)?;
        let new = NewWrap { wrap: &wrap, kek_id: &key.kek_id, key_version: key.key_version };
        if database_keys::insert(name, &new) {
            // What is computed with it is about to be relied on.
            xact::commit_durably();
            return Ok(key);
        }
    }
    Err(VaultError::Contended(ATTEMPTS))
}
