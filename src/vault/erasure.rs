//! The end of a user's vault: at once, or after a wait in which it is locked and can be brought back.

use vault_core::audit::record::{Action, MAX_CONTEXT, sanitized};
use vault_core::integrity::Scope;

use super::call::Call;
use super::key::KeyId;
use super::repeat;
use super::versions::end_of;
use super::wrapping::{ring_opens, with_newest_ring};
use crate::alarms;
use crate::error::{KeyError, VaultError};
use crate::guard::blind;
use crate::keyring::ring;
use crate::pg::session;
use crate::store::erasures::{self, Erasure, Kek, NewErasure};
use crate::store::old_keys::{self, OldKey, State};
use crate::store::vaults::{self, ClosedVault, ErasedVault, Found};
use crate::store::{catalog, grants, honey, keks, maintenance};

/// Deletes one user's vault; false if there was none.
pub fn erase(user: String) -> Result<bool, VaultError> {
    let call = Call::on_behalf_of(Action::Erase, user)?;
    match call.attempt(|user| Ok(erase_at_once(user, "vault_erase()")))? {
        Some(erased) => {
            repeat::note_change(call.user());
            call.record_change(200, Some(erased.key()), None)?;
            Ok(true)
        }
        None => call.record(200, None, Some("not-initialised")).map(|()| false),
    }
}

/// Deletes the vault of a user whose account was deleted. No vault is no event: nothing is recorded then.
pub fn erase_deleted(user: String) -> Result<(), VaultError> {
    let call = Call::on_behalf_of(Action::Erase, user)?;
    if let Some(erased) = call.attempt(|user| Ok(erase_at_once(user, "account deleted")))? {
        repeat::note_change(call.user());
        call.record_change(200, Some(erased.key()), Some("account-deleted"))?;
    }
    Ok(())
}

impl ErasedVault {
    fn key(&self) -> KeyId<'_> {
        KeyId { kek_id: &self.kek_id, key_version: self.key_version }
    }
}

/// Also ends an erasure that is scheduled.
fn erase_at_once(user: &str, reason: &str) -> Option<ErasedVault> {
    if !catalog::is_of_0_3() {
        return vaults::erase(user);
    }
    let by = session::login();
    let (erased, kek_ids) = erase_with_all(user, &by)?;
    let record = NewErasure { user, reason, by: &by, vault_created_at: erased.created_at };
    maintenance::run(|| erasures::record_at_once(&record, &texts(&kek_ids)));
    Some(erased)
}

fn texts(kek_ids: &[String]) -> Vec<&str> {
    kek_ids.iter().map(String::as_str).collect()
}

/// Deletes a vault with its old keys, ends its grants and marks the scheduled erasure as done. Gives what the keys were wrapped
/// under, too. None if there is no vault.
pub(super) fn erase_with_all(user: &str, by: &str) -> Option<(ErasedVault, Vec<String>)> {
    let mut erased = vaults::erase(user)?;
    let old = old_keys::erase(user);
    // While its erasure is scheduled, the current key is among the old ones and may have been rewrapped there.
    if let Some((_, kek_id)) = old.iter().find(|(key_version, _)| *key_version == erased.key_version) {
        erased.kek_id.clone_from(kek_id);
    }
    let mut kek_ids: Vec<_> = old.into_iter().map(|(_, kek_id)| kek_id).collect();
    kek_ids.push(erased.kek_id.clone());
    kek_ids.sort();
    kek_ids.dedup();
    grants::end_all(user, by);
    if honey::remove(user) {
        alarms::honey::note_change();
    }
    maintenance::run(|| erasures::finish(user, &texts(&kek_ids)));
    Some((erased, kek_ids))
}

/// Locks a user's vault now and lets it be erased after a wait in microseconds. The time after which that happens, in
/// microseconds since 2000-01-01 00:00 UTC.
///
/// A second call is refused: it could shorten the wait that somebody relies on, or replace his reason.
pub fn schedule(user: String, wait: i64, reason: &str) -> Result<i64, VaultError> {
    let call = Call::on_behalf_of(Action::ScheduleErase, user)?;
    let scheduled = call.attempt(|user| {
        if reason.trim().is_empty() {
            return Err(VaultError::BadArgument(
                "an erasure needs a reason",
                "Say why, such as reason => 'request 17 of 2031-05-02'.",
            ));
        }
        let erase_after = end_of(wait)?;
        maintenance::run(|| close(user, erase_after, reason))
    })?;
    repeat::note_change(call.user());
    let key = KeyId { kek_id: &scheduled.kek_id, key_version: scheduled.key_version };
    let context = format!("after {}: {reason}", session::time_as_text(scheduled.erase_after));
    call.record_change(200, Some(key), sanitized(context.as_bytes(), MAX_CONTEXT).as_deref())?;
    Ok(scheduled.erase_after)
}

struct Scheduled {
    kek_id: String,
    key_version: i32,
    erase_after: i64,
}

/// Moves the current wrap to where no call opens it. In maintenance.
fn close(user: &str, erase_after: i64, reason: &str) -> Result<Scheduled, VaultError> {
    vaults::begin_write();
    match vaults::lock(user, false) {
        Found::Nothing => return Err(VaultError::NoVault),
        Found::Open(vault) => old_keys::insert(user, &vault, State::DestroyScheduled, Some(erase_after)),
        Found::Closed => {
            let closed = vaults::closed(user).ok_or(VaultError::ChangedMeanwhile)?;
            if let Some(erase_after) = closed.erase_after {
                return Err(KeyError::EraseScheduled(session::time_as_text(erase_after)).into());
            }
        }
    }
    let vault = vaults::status(user).ok_or(VaultError::ChangedMeanwhile)?;
    if !vaults::close(user, erase_after) {
        return Err(VaultError::ChangedMeanwhile);
    }
    let by = session::login();
    erasures::schedule(&NewErasure { user, reason, by: &by, vault_created_at: vault.created_at }, erase_after);
    Ok(Scheduled { kek_id: vault.kek_id, key_version: vault.key_version, erase_after })
}

/// Opens a vault again whose erasure is scheduled. False if none is.
pub fn cancel(user: String) -> Result<bool, VaultError> {
    let call = Call::on_behalf_of(Action::CancelErase, user)?;
    let Some(reopened) = call.attempt(|user| maintenance::run(|| reopen(user)))? else {
        return call.record(200, None, Some("not-scheduled")).map(|()| false);
    };
    repeat::note_change(call.user());
    call.record_change(
        200,
        Some(KeyId { kek_id: &reopened.kek_id, key_version: reopened.key_version }),
        (!reopened.opens).then_some("does-not-open"),
    )?;
    if !reopened.opens {
        pgrx::warning!("the vault is open again, but its key does not open now; vault_check() says why");
    }
    Ok(true)
}

struct Reopened {
    kek_id: String,
    key_version: i32,
    opens: bool,
}

/// Moves the current wrap back. None if no erasure is scheduled. In maintenance.
fn reopen(user: &str) -> Result<Option<Reopened>, VaultError> {
    vaults::begin_write();
    match vaults::lock(user, false) {
        Found::Open(_) => return Ok(None),
        // Somebody who cancels too late must not take that for "there was nothing to cancel".
        Found::Nothing => {
            return erasures::last_erased(user)
                .map_or(Ok(None), |at| Err(KeyError::Erased(session::time_as_text(at)).into()));
        }
        Found::Closed => {}
    }
    let (closed, status) = vaults::closed(user).zip(vaults::status(user)).ok_or(VaultError::ChangedMeanwhile)?;
    if closed.erase_after.is_none() {
        return Ok(None);
    }
    let reopened = if status.zero_knowledge {
        if !vaults::reopen_zero_knowledge(user) {
            return Err(VaultError::ChangedMeanwhile);
        }
        Reopened { kek_id: closed.kek_id, key_version: closed.key_version, opens: true }
    } else {
        put_back(user, &closed)?
    };
    erasures::cancel(user, &session::login());
    Ok(Some(reopened))
}

/// The wrap goes back whether it opens or not: what does not open now may do so with another keyring, and what is erased never.
fn put_back(user: &str, closed: &ClosedVault) -> Result<Reopened, VaultError> {
    let is_the_one = |old: &OldKey| old.state == State::DestroyScheduled;
    let current = old_keys::lock(user, closed.key_version).filter(is_the_one);
    let wrap = current.as_ref().and_then(|old| old.key.stored(user)).ok_or(KeyError::Destroyed(closed.key_version))?;
    if !vaults::reopen(user, &wrap) || !old_keys::remove(user, closed.key_version) {
        return Err(VaultError::ChangedMeanwhile);
    }
    let opens = with_newest_ring(|ring| ring_opens(ring, &wrap)).is_ok();
    Ok(Reopened { kek_id: wrap.kek_id.to_owned(), key_version: wrap.key_version, opens })
}

/// A KEK that may have wrapped the keys of an erasure, and whether this server has it.
pub struct KekStatus {
    pub kek: Kek,
    pub is_loaded: bool,
}

/// The erasures of a user, the newest first, each with its KEKs; not audited, since nothing is released.
pub fn status(user: &str) -> Result<Vec<(Erasure, Vec<KekStatus>)>, VaultError> {
    let loaded = ring::entries()?;
    let is_loaded = |kek: &Kek| {
        let same_id = loaded.iter().find(|entry| entry.id == kek.kek_id);
        same_id.is_some_and(|entry| keks::known_kek(&entry.id).is_none_or(|known| known.is(entry.check)))
    };
    let now = session::now();
    let with_keks = |erasure: Erasure| {
        let keks = erasures::keks(user, &erasure, now).into_iter();
        let keks = keks.map(|kek| KekStatus { is_loaded: is_loaded(&kek), kek }).collect();
        (erasure, keks)
    };
    blind::unless(Scope::Vaults, || Ok(erasures::list(user).into_iter().map(with_keks).collect()))
}
