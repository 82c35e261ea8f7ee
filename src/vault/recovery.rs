//! The recovery code and zero-knowledge mode. A user may keep a second wrap of the key that only a recovery code opens, and may
//! then let the server forget its own. Two mistakes there would lose a key for ever, so the server asks for evidence: that the
//! recovery wrap opens, before its own wrap goes; and that a key is the right one, before it counts as the user's again.

use std::cell::RefCell;

use vault_core::audit::record::Action;
use vault_core::crypto::check::CheckValue;
use vault_core::crypto::secret::MasterKey;
use vault_core::crypto::wrap::{Kind, Nonce, WrapContext};
use vault_core::data::recovery::{self, Challenges, NONCE_LEN, PROOF_LEN};
use vault_core::identity::issuers::Purpose;
use vault_core::integrity::Scope;

use super::call::Call;
use super::key::KeyId;
use super::repeat;
use super::wrapping::{confirm, ring_opens, seal, with_newest_ring};
use crate::error::{KeyError, RecoveryError, VaultError};
use crate::guard::blind;
use crate::identity::{self, Caller};
use crate::keyring::ring;
use crate::pg::{secret, session};
use crate::settings;
use crate::store::old_keys;
use crate::store::vaults::{self, Found, NewWrap, RecoveryState};

thread_local! {
    /// They outlive a transaction: a client may ask in one and answer in the next.
    static CHALLENGES: RefCell<Challenges> = const { RefCell::new(Challenges::new()) };
}

/// Replaces the user's recovery wrap.
pub fn set(wrapped_mk: Option<&str>, iv: Option<&str>) -> Result<(), VaultError> {
    let call = Call::begin(Action::RecoverySet, Caller::OfSession)?;
    let vault = call.attempt(|user| {
        let (wrapped_mk, iv) = well_formed(wrapped_mk, iv)?;
        let vault = lock(&call, user)?;
        // The server has no key to check a proof for the new wrap with, and a wrong wrap would be the end of the key.
        if vault.zero_knowledge && settings::require_recovery_proof() {
            return Err(RecoveryError::InUse.into());
        }
        done(vaults::set_recovery(user, wrapped_mk, iv))?;
        Ok(vault)
    })?;
    record_change(&call, &vault)
}

/// Removes the user's recovery wrap. False if there was none.
pub fn clear() -> Result<bool, VaultError> {
    let call = Call::begin(Action::RecoveryClear, Caller::OfSession)?;
    let vault = call.attempt(|user| {
        let vault = lock(&call, user)?;
        if vault.zero_knowledge {
            return Err(RecoveryError::InUse.into());
        }
        if vault.wrap.is_some() {
            done(vaults::clear_recovery(user))?;
        }
        Ok(vault)
    })?;
    if vault.wrap.is_none() {
        return call.record(200, Some(key_of(&vault)), None).map(|()| false);
    }
    record_change(&call, &vault).map(|()| true)
}

/// A challenge for the user and the recovery wrap that is stored now. It counts once, and in this session; not audited, since it
/// helps only those who have the key.
pub fn challenge() -> Result<[u8; NONCE_LEN], VaultError> {
    ring::current()?;
    let user = Caller::OfSession.identify(Purpose::Recovery)?.user;
    let find = || Ok(identity::in_force(Some(&user), || vaults::recovery(&user)));
    let vault = blind::unless(Scope::Own, find)?.ok_or(RecoveryError::NoVault)?;
    refuse_erase_scheduled(&vault)?;
    let (wrapped_mk, iv) = vault.wrap.ok_or(RecoveryError::NoWrap)?;
    CHALLENGES
        .with_borrow_mut(|challenges| challenges.issue(&user, &wrapped_mk, &iv))
        .map_err(|_| VaultError::NoRandomness)
}

/// Lets the server forget the key: only the recovery wrap is left. False if that was so before.
pub fn enable(proof: Option<&[u8]>) -> Result<bool, VaultError> {
    let call = Call::begin(Action::ZkEnable, Caller::OfSession)?;
    let vault = call.attempt(|user| {
        let proof = proof.map(right_length).transpose()?;
        let vault = lock(&call, user)?;
        if !vault.zero_knowledge {
            give_away(user, &vault, proof)?;
        }
        Ok(vault)
    })?;
    if vault.zero_knowledge {
        return call.record(200, Some(key_of(&vault)), Some("already-enabled")).map(|()| false);
    }
    record_change(&call, &vault).map(|()| true)
}

fn give_away(user: &str, vault: &RecoveryState, proof: Option<&[u8; PROOF_LEN]>) -> Result<(), VaultError> {
    let (recovery_wrapped_mk, iv) = vault.wrap.as_ref().ok_or(RecoveryError::NoWrap)?;
    // The server could still open what these have encrypted, and nobody could rotate them away later.
    if old_keys::list(user).iter().any(|old| old.key.wrap.is_some()) {
        return Err(RecoveryError::OldVersions.into());
    }
    if proof.is_none() && settings::require_recovery_proof() {
        return Err(RecoveryError::NotProven.into());
    }
    let take = |challenges: &mut Challenges| challenges.take(user, recovery_wrapped_mk, iv);
    let asked = proof.map(|proof| (proof, CHALLENGES.with_borrow_mut(take)));
    let (wrapped_mk, check) = with_newest_ring(|ring| {
        let Found::Open(vault) = vaults::find(user, false) else { return Err(VaultError::ChangedMeanwhile) };
        let master_key = ring_opens(ring, &vault.stored(user))?;
        let (is_proven, check) = secret::scrubbed_cipher(|| {
            let is_proven = asked
                .is_none_or(|(proof, nonce)| nonce.is_some_and(|nonce| recovery::verify(&master_key, &nonce, proof)));
            (is_proven, CheckValue::of_master_key(&master_key).to_hex())
        });
        if is_proven { Ok((vault.wrapped_mk, check)) } else { Err(RecoveryError::NotProven.into()) }
    })?;
    done(vaults::give_away(user, &wrapped_mk, &check))
}

/// Gives the key, which must be the user's, back to the server. False if the server has it.
pub fn disable(master_key: Option<&str>) -> Result<bool, VaultError> {
    let call = Call::begin(Action::ZkDisable, Caller::OfSession)?;
    let vault = call.attempt(|user| {
        let master_key = master_key.and_then(MasterKey::from_base64).ok_or(VaultError::BadArgument(
            "master_key must be 32 bytes in standard base64",
            "Bind it as a parameter: 44 characters, as vault_init() gave them.",
        ))?;
        let mut vault = lock(&call, user)?;
        if vault.zero_knowledge {
            vault.kek_id = take_back(user, &vault, &master_key)?;
        }
        Ok(vault)
    })?;
    if !vault.zero_knowledge {
        return call.record(200, Some(key_of(&vault)), Some("already-disabled")).map(|()| false);
    }
    record_change(&call, &vault).map(|()| true)
}

/// The id of the KEK that wraps it now.
fn take_back(user: &str, vault: &RecoveryState, master_key: &MasterKey) -> Result<String, VaultError> {
    match &vault.key_check {
        Some(check) if !is_key_of(master_key, check) => return Err(RecoveryError::KeyDiffers.into()),
        None if settings::require_recovery_proof() => return Err(RecoveryError::NoKeyCheck.into()),
        _ => {}
    }
    let ring = ring::current()?;
    let (entry, kek) = ring.active();
    confirm(entry)?;
    let nonce = Nonce::random().map_err(|_| VaultError::NoRandomness)?;
    let context =
        WrapContext { kind: Kind::MasterKey, user_id: user, key_version: vault.key_version, kek_id: &entry.id };
    let wrap = seal(kek, &context, master_key, nonce)?;
    done(vaults::take_back(user, &NewWrap { wrap: &wrap, kek_id: &entry.id, key_version: vault.key_version }))?;
    Ok(entry.id.clone())
}

fn is_key_of(master_key: &MasterKey, check: &str) -> bool {
    secret::scrubbed_cipher(|| CheckValue::from_hex(check) == Some(CheckValue::of_master_key(master_key)))
}

/// The user's row, locked; refused for a revoked token and while an erasure is scheduled.
fn lock(call: &Call, user: &str) -> Result<RecoveryState, VaultError> {
    vaults::begin_write();
    let vault = vaults::lock_recovery(user).ok_or(RecoveryError::NoVault)?;
    call.refuse_revoked(vault.tokens_valid_from)?;
    refuse_erase_scheduled(&vault)?;
    Ok(vault)
}

fn refuse_erase_scheduled(vault: &RecoveryState) -> Result<(), KeyError> {
    match vault.erase_after {
        Some(erase_after) => Err(KeyError::EraseScheduled(session::time_as_text(erase_after))),
        None => Ok(()),
    }
}

/// The row is locked: only an administrator's trigger or rule can keep it from being changed.
fn done(changed: bool) -> Result<(), VaultError> {
    if changed { Ok(()) } else { Err(VaultError::ChangedMeanwhile) }
}

fn key_of(vault: &RecoveryState) -> KeyId<'_> {
    KeyId { kek_id: &vault.kek_id, key_version: vault.key_version }
}

fn record_change(call: &Call, vault: &RecoveryState) -> Result<(), VaultError> {
    repeat::note_change_beside_key();
    call.record_change(200, Some(key_of(vault)), None)
}

fn well_formed<'a>(wrapped_mk: Option<&'a str>, iv: Option<&'a str>) -> Result<(&'a str, &'a str), VaultError> {
    let bad = |what| VaultError::BadArgument(what, "Give AES-256-GCM's ciphertext with its tag, and its nonce.");
    let wrapped_mk = wrapped_mk
        .filter(|text| recovery::is_wrapped_mk(text))
        .ok_or_else(|| bad("recovery_wrapped_mk must be 48 bytes in standard base64"))?;
    let iv = iv
        .filter(|text| recovery::is_iv(text))
        .ok_or_else(|| bad("recovery_iv must be 12 bytes in standard base64"))?;
    Ok((wrapped_mk, iv))
}

fn right_length(proof: &[u8]) -> Result<&[u8; PROOF_LEN], VaultError> {
    proof.try_into().map_err(|_| {
        VaultError::BadArgument("the proof must have 32 bytes", "Give HMAC-SHA256 as bytea, and not as text.")
    })
}
