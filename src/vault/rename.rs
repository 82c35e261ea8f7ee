//! Moves a user's vault to another user id.

use vault_core::audit::record::{Action, MAX_CONTEXT, sanitized};
use vault_core::crypto::wrap::{Nonce, StoredWrap, WrapContext};

use super::call::Call;
use super::key::KeyId;
use super::repeat;
use super::service::ATTEMPTS;
use super::wrapping::{confirm, ring_opens, seal, with_newest_ring};
use crate::alarms;
use crate::error::{KeyError, VaultError};
use crate::keyring::ring::Ring;
use crate::pg::{session, subxact};
use crate::store::vaults::{self, Found, NewWrap};
use crate::store::{catalog, grants, honey, maintenance, old_keys};

/// Moves a user's vault, with its key unchanged, to another user id.
pub fn rename(old_user: String, new_user: &str) -> Result<(), VaultError> {
    let from = Call::on_behalf_of(Action::Rename, old_user)?;
    let moved = from.attempt(|old_user| move_to(old_user, new_user))?;
    let key = KeyId { kek_id: &moved.kek_id, key_version: moved.key_version };
    let to = Call::on_behalf_of(Action::Rename, new_user.to_owned())?;
    for user in [from.user(), to.user()] {
        repeat::note_change(user);
    }
    let context = |word, user: &str| sanitized(format!("{word} {user}").as_bytes(), MAX_CONTEXT);
    from.record_change(200, Some(key), context("to", new_user).as_deref())?;
    to.record_change(200, Some(key), context("from", from.user()).as_deref())
}

/// The current key of the vault, as the trail is to name it.
struct Moved {
    kek_id: String,
    key_version: i32,
}

/// Wraps the keys of one user's vault for another user id. 23505 where that one has a vault.
fn move_to(old_user: &str, new_user: &str) -> Result<Moved, VaultError> {
    vaults::begin_write();
    for _ in 0..ATTEMPTS {
        let moved = with_newest_ring(|ring| maintenance::run(|| try_to_move(ring, old_user, new_user)))?;
        if let Some(key) = moved {
            return Ok(key);
        }
    }
    Err(VaultError::Contended(ATTEMPTS))
}

/// Moves the vault and its old keys with every wrap bound to the new user. None if the vault has changed meanwhile. In maintenance.
fn try_to_move(ring: &Ring, old_user: &str, new_user: &str) -> Result<Option<Moved>, VaultError> {
    let is_taken = || VaultError::UserHasVault(new_user.to_owned());
    let vault = match vaults::lock(old_user, false) {
        Found::Open(vault) => Some(vault),
        Found::Closed => None,
        Found::Nothing => return Err(VaultError::NoVault),
    };
    if !matches!(vaults::find(new_user, false), Found::Nothing) {
        return Err(is_taken());
    }
    let (entry, kek) = ring.active();
    confirm(entry)?;
    let bind_anew = |wrap: &StoredWrap<'_>| {
        let master_key = ring_opens(ring, wrap)?;
        let nonce = Nonce::random().map_err(|_| VaultError::NoRandomness)?;
        let context =
            WrapContext { kind: wrap.kind, user_id: new_user, key_version: wrap.key_version, kek_id: &entry.id };
        seal(kek, &context, &master_key, nonce)
    };
    let (key_version, wrap) = match &vault {
        Some(vault) => (vault.key_version, Some(bind_anew(&vault.stored(old_user))?)),
        None => {
            let vault = vaults::closed(old_user).ok_or(VaultError::NoVault)?;
            if let Some(erase_after) = vault.erase_after {
                return Err(KeyError::EraseScheduled(session::time_as_text(erase_after)).into());
            }
            (vault.key_version, None)
        }
    };
    let rename = || match (&vault, &wrap) {
        (Some(vault), Some(wrap)) => {
            vaults::rename(old_user, new_user, vault, &NewWrap { wrap, kek_id: &entry.id, key_version })
        }
        _ => vaults::rename_closed(old_user, new_user),
    };
    let renamed = subxact::catch(rename).or_else(|raised| {
        // The other user got a vault after we had looked.
        if subxact::sqlstate(&raised) == "23505" { Err(is_taken()) } else { raised.rethrow() }
    })?;
    if !renamed {
        return Ok(None);
    }
    if catalog::is_of_0_3() {
        for old in old_keys::lock_all(old_user) {
            let wrap = old.key.stored(old_user).map(|wrap| bind_anew(&wrap)).transpose()?;
            let new = wrap.as_ref().map(|wrap| NewWrap { wrap, kek_id: &entry.id, key_version: old.key.key_version });
            old_keys::rename(old_user, new_user, &old, new.as_ref());
        }
    }
    grants::end_all(old_user, &session::login());
    if catalog::is_of_0_3() && honey::rename(old_user, new_user) {
        alarms::honey::note_change();
    }
    Ok(Some(Moved { kek_id: entry.id.clone(), key_version }))
}
