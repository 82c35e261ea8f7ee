//! The service: init, get, rotate, status. What is looked up and written, and what the trail says of it.

use vault_core::audit::record::Action;
use vault_core::crypto::wrap::Kind;
use vault_core::identity::issuers::Purpose;
use vault_core::integrity::Scope;

use super::call::Call;
use super::key::{Released, UserKey};
use super::repeat;
use super::wrapping::{mint, ring_opens, with_newest_ring};
use crate::error::{IdentityError, KeyError, VaultError};
use crate::guard::blind;
use crate::identity::{self, Caller, Identity};
use crate::keyring::ring::{self, Ring};
use crate::pg::session;
use crate::store::catalog;
use crate::store::old_keys::{self, State};
use crate::store::vaults::{self, Found, NewWrap, Vault, VaultStatus};

/// How often a row that others change at the same time is tried. Two are enough unless accounts are erased meanwhile.
pub(super) const ATTEMPTS: u32 = 8;

/// A user's key and whether this call made it.
enum Outcome {
    Existing(UserKey),
    Created(UserKey),
    Rotated(UserKey),
    /// Made by an earlier call of the same statement.
    Repeated(UserKey),
}

/// The user's key; minted if there is none.
pub fn init(caller: Caller<'_>) -> Result<UserKey, VaultError> {
    init_or_find(caller).map(|(key, _)| key)
}

/// Makes a vault if there is none, and hands out no key. False if there is one.
pub fn create_vault(caller: Caller<'_>) -> Result<bool, VaultError> {
    init_or_find(caller).map(|(_, is_new)| is_new)
}

fn init_or_find(caller: Caller<'_>) -> Result<(UserKey, bool), VaultError> {
    let call = Call::begin(Action::Init, caller)?;
    match call.attempt(|user| create_or_open(&call, user))? {
        Outcome::Created(key) => {
            repeat::note_change(call.user());
            Ok((call.change(key, 201, Some("created"))?, true))
        }
        Outcome::Existing(key) | Outcome::Rotated(key) | Outcome::Repeated(key) => {
            let context = if key.master_key().is_some() { "already-exists" } else { "already-exists-zk" };
            Ok((call.release(key, 200, Some(context))?, false))
        }
    }
}

/// The user's key.
pub fn get(caller: Caller<'_>) -> Result<UserKey, VaultError> {
    let call = Call::begin(Action::Fetch, caller)?;
    let key = call.attempt(|user| open_existing(&call, user)?.ok_or(VaultError::NoVault))?;
    let context = key.master_key().is_none().then_some("zk-recovery-blob");
    call.release(key, 200, context)
}

/// What becomes of the key that a rotation replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldKey {
    /// It can still be opened.
    Keep,
    /// It is gone for good.
    Destroy,
}

/// Replaces the key with a new one, after the old one has opened; acts as init if there is none. Returns the same key again
/// if the statement that made it calls once more.
pub fn rotate(caller: Caller<'_>, old: OldKey) -> Result<UserKey, VaultError> {
    let call = Call::begin(Action::Rotate, caller)?;
    let outcome = call.attempt(|user| replace_or_create(&call, user, old))?;
    if !matches!(outcome, Outcome::Repeated(_)) {
        repeat::note_change(call.user());
    }
    match outcome {
        Outcome::Created(key) => call.change(key, 201, Some("init-on-rotate")),
        Outcome::Existing(key) | Outcome::Rotated(key) => {
            call.change(key, 200, (old == OldKey::Destroy).then_some("old-key-destroyed"))
        }
        Outcome::Repeated(key) => call.release(key, 200, Some("same-statement")),
    }
}

/// The user's row without any key; not audited.
pub fn status(caller: Caller<'_>) -> Result<Option<VaultStatus>, VaultError> {
    ring::current()?;
    if !session::has_row_security() {
        return Err(VaultError::RowSecurityOff);
    }
    let identity = caller.identify(Purpose::Identify)?;
    let status = identity::in_force(Some(&identity.user), || repeat::status(&identity.user));
    if status.is_none() {
        blind::refuse(Scope::Own)?;
    }
    Ok(status)
}

/// Verifies a token and makes it the one of this transaction. A refusal is audited where that is possible.
pub fn login(token: Option<&str>) -> Result<String, VaultError> {
    identity::login(token).map(|identity| identity.user).map_err(|error| {
        let error = VaultError::from(error);
        if session::is_standby() {
            return error;
        }
        match Call::without_user(Action::FailedLogin) {
            Ok(call) => call.failed(error),
            Err(_) => error,
        }
    })
}

/// Whether a token would be accepted from this role, here and now. Audited: the answer helps whoever has stolen one.
pub fn explain(caller: Caller<'_>) -> Result<Result<Identity, IdentityError>, VaultError> {
    let call = Call::without_user(Action::ExplainToken)?;
    let outcome = caller.identify(Purpose::Identify);
    let (status, context) = match &outcome {
        Ok(_) => (200, None),
        Err(error) => (error.status(), Some(error.context())),
    };
    call.record(status, None, context)?;
    Ok(outcome)
}

/// Lets the user's tokens that were issued before a time (microseconds since 2000-01-01 00:00 UTC) count no more. False if the
/// user has no vault.
pub fn revoke_tokens(user: String, issued_before: i64) -> Result<bool, VaultError> {
    let call = Call::on_behalf_of(Action::RevokeTokens, user)?;
    let revoked = call.attempt(|user| Ok(vaults::revoke_tokens(user, issued_before)))?;
    if revoked {
        call.record_change(200, None, None)?;
    } else {
        call.record(200, None, Some("not-initialised"))?;
    }
    Ok(revoked)
}

fn create_or_open(call: &Call, user: &str) -> Result<Outcome, VaultError> {
    for _ in 0..ATTEMPTS {
        if let Some(key) = open_existing(call, user)? {
            return Ok(Outcome::Existing(key));
        }
        if let Some(key) = create(user)? {
            return Ok(Outcome::Created(key));
        }
    }
    Err(VaultError::Contended(ATTEMPTS))
}

fn replace_or_create(call: &Call, user: &str, old: OldKey) -> Result<Outcome, VaultError> {
    if repeat::was_changed_by_this_statement(user)
        && let Some(key) = open_existing(call, user)?
        && key.master_key().is_some()
    {
        return Ok(Outcome::Repeated(key));
    }
    vaults::begin_write();
    for _ in 0..ATTEMPTS {
        let replaced = with_newest_ring(|ring| match vaults::lock(user, call.has_token()) {
            Found::Open(vault) => replace(call, ring, user, &vault, old).map(Some),
            Found::Closed => match why_closed(call, user)? {
                Some(_) => Err(KeyError::RotateInZeroKnowledge.into()),
                None => Ok(Some(None)),
            },
            Found::Nothing => Ok(None),
        })?;
        match replaced {
            Some(Some(key)) => return Ok(Outcome::Rotated(key)),
            Some(None) => {}
            None => {
                if let Some(key) = create(user)? {
                    return Ok(Outcome::Created(key));
                }
            }
        }
    }
    Err(VaultError::Contended(ATTEMPTS))
}

/// Puts a fresh key in the place of one that opens; None if the row changed meanwhile.
fn replace(call: &Call, ring: &Ring, user: &str, vault: &Vault, old: OldKey) -> Result<Option<UserKey>, VaultError> {
    call.refuse_revoked(vault.tokens_valid_from.flatten())?;
    ring_opens(ring, &vault.stored(user))?;
    let version = vault.key_version.checked_add(1).ok_or(VaultError::VersionsExhausted)?;
    let (key, wrap) = mint(ring, Kind::MasterKey, user, version)?;
    let new = NewWrap { wrap: &wrap, kek_id: &key.kek_id, key_version: version };
    if !vaults::replace(user, vault, &new) {
        return Ok(None);
    }
    if catalog::is_of_0_3() {
        let state = if old == OldKey::Keep { State::DecryptOnly } else { State::Destroyed };
        old_keys::insert(user, vault, state, None);
    }
    Ok(Some(key))
}

/// Inserts a fresh key; None if another transaction was first.
fn create(user: &str) -> Result<Option<UserKey>, VaultError> {
    vaults::begin_write();
    let ring = ring::current()?;
    let insert = |version| {
        let (key, wrap) = mint(&ring, Kind::MasterKey, user, version)?;
        let new = NewWrap { wrap: &wrap, kek_id: &key.kek_id, key_version: key.key_version };
        Ok(vaults::insert(user, &new).then_some(key))
    };
    if catalog::has_nodes() {
        return create_on_its_node(user, insert);
    }
    let first = insert(1)?;
    if first.is_some() || !catalog::is_of_0_3() {
        return Ok(first);
    }
    // Old keys of a vault that was deleted past vault_erase() keep their numbers, for what they have encrypted.
    match old_keys::list(user).first() {
        Some(newest) => insert(newest.key.key_version.checked_add(1).ok_or(VaultError::VersionsExhausted)?),
        None => Ok(None),
    }
}

/// The same where one statement cannot look at the old keys and insert: they are read before, and again afterwards.
fn create_on_its_node(
    user: &str,
    insert: impl Fn(i32) -> Result<Option<UserKey>, VaultError>,
) -> Result<Option<UserKey>, VaultError> {
    let newest = || old_keys::list(user).first().map_or(0, |old| old.key.key_version);
    let version = newest().checked_add(1).ok_or(VaultError::VersionsExhausted)?;
    let Some(key) = insert(version)? else { return Ok(None) };
    // Refused rather than repaired: the subtransaction takes the row back.
    if newest() < version { Ok(Some(key)) } else { Err(VaultError::ChangedMeanwhile) }
}

/// The key in the user's vault; None if there is no vault.
pub fn open_existing(call: &Call, user: &str) -> Result<Option<UserKey>, VaultError> {
    with_newest_ring(|ring| {
        repeat::with_vault(user, call.has_token(), |found| match found {
            Found::Open(vault) => open(call, ring, user, vault).map(Some),
            Found::Closed => why_closed(call, user),
            Found::Nothing => Ok(None),
        })
    })
}

/// The same; the vault cannot lose this key until the transaction ends, since a rotation waits for that.
pub fn open_and_keep(call: &Call, user: &str) -> Result<Option<UserKey>, VaultError> {
    with_newest_ring(|ring| match vaults::keep(user, call.has_token()) {
        Found::Open(vault) => open(call, ring, user, &vault).map(Some),
        Found::Closed => why_closed(call, user),
        Found::Nothing => Ok(None),
    })
}

fn open(call: &Call, ring: &Ring, user: &str, vault: &Vault) -> Result<UserKey, VaultError> {
    call.refuse_revoked(vault.tokens_valid_from.flatten())?;
    let master_key = ring_opens(ring, &vault.stored(user))?;
    Ok(UserKey {
        released: Released::MasterKey(master_key),
        format_version: vault.format_version,
        kek_id: vault.kek_id.clone(),
        key_version: vault.key_version,
    })
}

/// What a vault gives that the server cannot open: the recovery wrap in zero-knowledge mode, an error while its erasure is
/// scheduled. None if it is gone.
pub(super) fn why_closed(call: &Call, user: &str) -> Result<Option<UserKey>, VaultError> {
    let Some(vault) = vaults::closed(user) else { return Ok(None) };
    call.refuse_revoked(vault.tokens_valid_from)?;
    if let Some(erase_after) = vault.erase_after {
        return Err(KeyError::EraseScheduled(session::time_as_text(erase_after)).into());
    }
    let recovery = vault.recovery.ok_or(VaultError::ChangedMeanwhile)?;
    Ok(Some(UserKey {
        format_version: recovery.format_version,
        released: Released::RecoveryWrap(recovery),
        kek_id: vault.kek_id,
        key_version: vault.key_version,
    }))
}
