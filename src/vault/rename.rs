//! Moves a user's vault to another user id.

use vault_core::audit::record::{Action, MAX_CONTEXT, sanitized};
use vault_core::crypto::wrap::{FORMAT_2, Nonce, WrapContext};

use super::call::Call;
use super::key::UserKey;
use super::repeat;
use super::service::ATTEMPTS;
use super::wrapping::{confirm, ring_opens, seal, with_newest_ring};
use crate::error::VaultError;
use crate::pg::{session, subxact};
use crate::store::vaults::{self, NewWrap};
use crate::store::{grants, maintenance};

/// Moves a user's vault, with its key unchanged, to another user id.
pub fn rename(old_user: String, new_user: &str) -> Result<(), VaultError> {
    let from = Call::on_behalf_of(Action::Rename, old_user)?;
    let key = from.attempt(|old_user| move_to(old_user, new_user))?;
    let to = Call::on_behalf_of(Action::Rename, new_user.to_owned())?;
    for user in [from.user(), to.user()] {
        repeat::note_change(user);
    }
    let context = |word, user: &str| sanitized(format!("{word} {user}").as_bytes(), MAX_CONTEXT);
    from.record_change(200, Some(&key), context("to", new_user).as_deref())?;
    to.record_change(200, Some(&key), context("from", from.user()).as_deref())
}

/// Wraps the key of one user's vault for another user id. 23505 where that one has a vault.
fn move_to(old_user: &str, new_user: &str) -> Result<UserKey, VaultError> {
    vaults::begin_write();
    let is_taken = || VaultError::UserHasVault(new_user.to_owned());
    for _ in 0..ATTEMPTS {
        let moved = with_newest_ring(|ring| {
            let vault = maintenance::run(|| vaults::lock(old_user, false)).ok_or(VaultError::NoVault)?;
            if maintenance::run(|| vaults::find(new_user, false)).is_some() {
                return Err(is_taken());
            }
            let master_key = ring_opens(ring, &vault.stored(old_user))?;
            let (entry, kek) = ring.active();
            confirm(entry)?;
            let nonce = Nonce::random().map_err(|_| VaultError::NoRandomness)?;
            let context = WrapContext { user_id: new_user, key_version: vault.key_version, kek_id: &entry.id };
            let wrap = seal(kek, &context, &master_key, nonce)?;
            let new = NewWrap { wrap: &wrap, kek_id: &entry.id, key_version: vault.key_version };
            let rename = || maintenance::run(|| vaults::rename(old_user, new_user, &vault, &new));
            let renamed = subxact::catch(rename).or_else(|raised| {
                // The other user got a vault after we had looked.
                if subxact::sqlstate(&raised) == "23505" { Err(is_taken()) } else { raised.rethrow() }
            })?;
            if renamed {
                grants::end_all(old_user, &session::login());
            }
            let (kek_id, key_version) = (entry.id.clone(), vault.key_version);
            Ok(renamed.then_some(UserKey { master_key, format_version: FORMAT_2, kek_id, key_version }))
        })?;
        if let Some(key) = moved {
            return Ok(key);
        }
    }
    Err(VaultError::Contended(ATTEMPTS))
}
