//! The versions of a user's key: a rotation keeps the old one, which can be opened, closed, and destroyed after a wait.

use vault_core::audit::record::Action;
use vault_core::identity::issuers::Purpose;
use vault_core::integrity::Scope;

use super::call::Call;
use super::key::{Released, UserKey};
use super::service::{open_existing, why_closed};
use super::wrapping::{ring_opens, with_newest_ring};
use crate::error::{KeyError, VaultError};
use crate::guard::blind;
use crate::identity::{self, Caller};
use crate::keyring::ring;
use crate::pg::session;
use crate::settings;
use crate::store::old_keys::{self, OldKey, State};
use crate::store::vaults::{self, Found};

/// A version as its user sees it, without the key.
pub struct Version {
    pub key_version: i32,
    pub state: &'static str,
    pub format_version: i16,
    pub kek_id: String,
    /// Microseconds since 2000-01-01 00:00 UTC, like the two others.
    pub superseded_at: Option<i64>,
    pub destroy_after: Option<i64>,
    pub destroyed_at: Option<i64>,
}

/// The versions of the user's key, the newest first; not audited.
pub fn list() -> Result<Vec<Version>, VaultError> {
    ring::current()?;
    let identity = Caller::OfSession.identify(Purpose::Identify)?;
    blind::unless(Scope::Own, || Ok(identity::in_force(Some(&identity.user), || versions_of(&identity.user))))
}

fn versions_of(user: &str) -> Vec<Version> {
    let Some(vault) = vaults::status(user) else { return Vec::new() };
    let old = old_keys::list(user);
    let mut versions = Vec::with_capacity(old.len() + 1);
    // While an erasure is scheduled, the current one is among the old ones.
    if old.first().is_none_or(|newest| newest.key.key_version != vault.key_version) {
        versions.push(Version {
            key_version: vault.key_version,
            state: "current",
            format_version: vault.format_version,
            kek_id: vault.kek_id,
            superseded_at: None,
            destroy_after: None,
            destroyed_at: None,
        });
    }
    versions.extend(old.into_iter().map(|old| Version {
        key_version: old.key.key_version,
        state: old.state.name(),
        format_version: old.key.format_version,
        kek_id: old.key.kek_id,
        superseded_at: Some(old.superseded_at),
        destroy_after: old.destroy_after,
        destroyed_at: old.destroyed_at,
    }));
    versions
}

/// One version of the user's key.
pub fn get(key_version: i32) -> Result<UserKey, VaultError> {
    let call = Call::begin(Action::Fetch, Caller::OfSession)?;
    let key = call.attempt(|user| open(&call, user, Some(key_version)))?;
    call.release(key, 200, Some("version"))
}

/// Opens a version of the user's key, the current one or an old one that is not closed; `None` is the current one, in
/// zero-knowledge mode the recovery wrap.
pub fn open(call: &Call, user: &str, key_version: Option<i32>) -> Result<UserKey, VaultError> {
    let current = open_existing(call, user)?.ok_or(VaultError::NoVault)?;
    let Some(key_version) = key_version else { return Ok(current) };
    if current.master_key().is_none() {
        return Err(KeyError::ZeroKnowledge.into());
    }
    if current.key_version == key_version {
        return Ok(current);
    }
    with_newest_ring(|ring| {
        let old = old_keys::find(user, key_version).ok_or(KeyError::NoVersion(key_version))?;
        is_open(&old)?;
        let wrap = old.key.stored(user).ok_or(KeyError::Destroyed(key_version))?;
        let master_key = ring_opens(ring, &wrap)?;
        Ok(UserKey {
            released: Released::MasterKey(master_key),
            format_version: old.key.format_version,
            kek_id: old.key.kek_id.clone(),
            key_version,
        })
    })
}

fn is_open(old: &OldKey) -> Result<(), KeyError> {
    match old.state {
        State::DecryptOnly => Ok(()),
        State::Disabled => Err(KeyError::Disabled(old.key.key_version)),
        State::DestroyScheduled => Err(KeyError::DestroyScheduled(old.key.key_version)),
        State::Destroyed => Err(KeyError::Destroyed(old.key.key_version)),
    }
}

/// Closes an old version and lets it be destroyed after a wait in microseconds. The time after which that happens, in
/// microseconds since 2000-01-01 00:00 UTC.
pub fn retire(key_version: i32, wait: i64) -> Result<i64, VaultError> {
    let call = Call::begin(Action::RetireVersion, Caller::OfSession)?;
    let destroy_after = call.attempt(|user| {
        let destroy_after = end_of(wait)?;
        lock_old(&call, user, key_version)?;
        vaults::begin_write();
        old_keys::set_state(user, key_version, State::DestroyScheduled, Some(destroy_after));
        Ok(destroy_after)
    })?;
    record(&call, key_version)?;
    Ok(destroy_after)
}

/// Closes an old version until it is restored. False if it was disabled before.
pub fn disable(key_version: i32) -> Result<bool, VaultError> {
    change(Action::DisableVersion, key_version, State::Disabled)
}

/// Opens an old version again. False if it is open.
pub fn restore(key_version: i32) -> Result<bool, VaultError> {
    change(Action::RestoreVersion, key_version, State::DecryptOnly)
}

fn change(action: Action, key_version: i32, state: State) -> Result<bool, VaultError> {
    let call = Call::begin(action, Caller::OfSession)?;
    let changed = call.attempt(|user| {
        let old = lock_old(&call, user, key_version)?;
        if old.state == state {
            return Ok(false);
        }
        vaults::begin_write();
        Ok(old_keys::set_state(user, key_version, state, None))
    })?;
    if changed {
        record(&call, key_version)?;
    } else {
        call.record(200, None, Some(&format!("version {key_version} was so before")))?;
    }
    Ok(changed)
}

fn record(call: &Call, key_version: i32) -> Result<(), VaultError> {
    call.record_change(200, None, Some(&format!("version {key_version}")))
}

/// The time after a wait in microseconds that begins now. 22023 for one that is shorter than the server allows.
pub(super) fn end_of(wait: i64) -> Result<i64, VaultError> {
    if wait < 0 || u128::from(wait.unsigned_abs()) < settings::min_destroy_wait().as_micros() {
        return Err(VaultError::BadArgument(
            "the wait is shorter than vault_ext.min_destroy_wait",
            "Give a longer wait, or leave it out for 30 days.",
        ));
    }
    session::now()
        .checked_add(wait)
        .filter(|time| *time < session::LAST)
        .ok_or(VaultError::BadArgument("the wait is too long", "Give a wait such as interval '30 days'."))
}

/// An old version that is not destroyed, locked, of a vault that is open.
fn lock_old(call: &Call, user: &str, key_version: i32) -> Result<OldKey, VaultError> {
    let current = match vaults::lock(user, call.has_token()) {
        Found::Nothing => return Err(VaultError::NoVault),
        Found::Open(vault) => {
            call.refuse_revoked(vault.tokens_valid_from.flatten())?;
            vault.key_version
        }
        Found::Closed => why_closed(call, user)?.ok_or(VaultError::NoVault)?.key_version,
    };
    if current == key_version {
        return Err(KeyError::Current(key_version).into());
    }
    let old = old_keys::lock(user, key_version).ok_or(KeyError::NoVersion(key_version))?;
    if old.state == State::Destroyed { Err(KeyError::Destroyed(key_version).into()) } else { Ok(old) }
}
