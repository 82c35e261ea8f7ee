//! The service: init, get, rotate, status, erase. What is looked up and written, and what the trail says of it.

use pgrx::datum::Interval;

use crate::audit::claims::Claims;
use crate::audit::record::{Action, Record};
use crate::audit::registration::{self, Candidate, Known};
use crate::audit::{self, rollback};
use crate::crypto::secret::MasterKey;
use crate::crypto::wrap::{FORMAT_2, Kek, Nonce, Wrap, WrapContext};
use crate::error::VaultError;
use crate::identity::{self, IdentityError};
use crate::kek::ring::{self, Entry, Ring};
use crate::pg::{secret, session, shmem, subxact, xact};
use crate::store::{self, StoredWrap, Vault, VaultStatus};

/// How often a row that others change at the same time is tried. Two are enough unless accounts are erased meanwhile.
const ATTEMPTS: u32 = 8;

/// A user's key, on its way to the user.
pub struct UserKey {
    pub master_key: MasterKey,
    pub format_version: i16,
    pub kek_id: String,
    pub key_version: i32,
}

/// A user's key and whether this call made it.
enum Outcome {
    Existing(UserKey),
    Created(UserKey),
    Rotated(UserKey),
}

/// The user's key; minted if there is none.
pub fn init() -> Result<UserKey, VaultError> {
    let call = Call::begin(Action::Init)?;
    match call.attempt(create_or_open)? {
        Outcome::Existing(key) => call.release(key, 200, Some("already-exists")),
        Outcome::Created(key) | Outcome::Rotated(key) => call.change(key, 201, Some("created")),
    }
}

/// The user's key.
pub fn get() -> Result<UserKey, VaultError> {
    let call = Call::begin(Action::Fetch)?;
    let key = call.attempt(|user| {
        with_newest_ring(|ring| {
            let vault = store::find(user).ok_or(VaultError::NoVault)?;
            open(ring, user, vault)
        })
    })?;
    call.release(key, 200, None)
}

/// A fresh key in place of the old one, which must open first; acts as init where there is none.
pub fn rotate() -> Result<UserKey, VaultError> {
    let call = Call::begin(Action::Rotate)?;
    match call.attempt(replace_or_create)? {
        Outcome::Created(key) => call.change(key, 201, Some("init-on-rotate")),
        Outcome::Existing(key) | Outcome::Rotated(key) => call.change(key, 200, None),
    }
}

/// The user's row without any key; not audited.
pub fn status() -> Result<Option<VaultStatus>, VaultError> {
    ring::current()?;
    Ok(store::status(&identity::current_user()?))
}

/// Deletes one user's vault; false if there was none.
pub fn erase(user: String) -> Result<bool, VaultError> {
    let call = Call::on_behalf_of(Action::Erase, user)?;
    let erased = call.attempt(|user| Ok(store::erase(user)))?;
    if erased {
        call.record_change(200, None, None)?;
    } else {
        call.record(200, None, Some("not-initialised"))?;
    }
    Ok(erased)
}

/// Deletes the vault of a user whose account was deleted. No vault is no event: nothing is recorded then.
pub fn erase_deleted(user: String) -> Result<(), VaultError> {
    let call = Call::on_behalf_of(Action::Erase, user)?;
    if call.attempt(|user| Ok(store::erase(user)))? {
        call.record_change(200, None, Some("account-deleted"))?;
    }
    Ok(())
}

/// Deletes old audit rows and says how many.
pub fn purge_audit(older_than: Interval) -> Result<u64, VaultError> {
    let call = Call::without_user(Action::Purge)?;
    let age = older_than.to_string();
    let purged = call.attempt(|_| Ok(store::purge_audit(older_than)))?;
    call.record_change(200, None, Some(&format!("{purged} rows older than {age}")))?;
    Ok(purged)
}

/// One audited call.
pub struct Call {
    action: Action,
    user: Option<String>,
    db_role: String,
    claims: Claims,
}

impl Call {
    /// Begins a call of the current user; a missing identity is recorded and refused here.
    pub fn begin(action: Action) -> Result<Self, VaultError> {
        let mut call = Self::without_user(action)?;
        match identity::current_user() {
            Ok(user) => call.user = Some(user),
            Err(error) => return Err(call.failed(error.into())),
        }
        Ok(call)
    }

    /// Begins a call that concerns another user than the current one.
    pub fn on_behalf_of(action: Action, user: String) -> Result<Self, VaultError> {
        let mut call = Self::without_user(action)?;
        call.user = Some(user);
        Ok(call)
    }

    pub fn without_user(action: Action) -> Result<Self, VaultError> {
        if shmem::area().is_none() {
            return Err(VaultError::NotPreloaded);
        }
        if session::is_standby() {
            return Err(VaultError::Standby);
        }
        audit::announce();
        let claims = Claims::gather(session::setting, session::connection_address);
        Ok(Self { action, user: None, db_role: session::caller(), claims })
    }

    /// Does the work in a subtransaction, so that a failure inside can be recorded before it goes on to the caller.
    pub fn attempt<T>(&self, work: impl FnOnce(&str) -> Result<T, VaultError>) -> Result<T, VaultError> {
        match subxact::catch(|| work(self.user.as_deref().unwrap_or_default())) {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(self.failed(error)),
            Err(raised) => {
                let sqlstate = subxact::sqlstate(&raised);
                let status = if matches!(sqlstate.as_str(), "40001" | "40P01") { 409 } else { 500 };
                match self.row(self.action.failed(), status, None, Some(&format!("error-{sqlstate}"))) {
                    Ok(()) => raised.rethrow(),
                    Err(failure) => Err(failure),
                }
            }
        }
    }

    /// Records a failure and gives the error to raise: the failure itself, or that the trail cannot be written.
    fn failed(&self, error: VaultError) -> VaultError {
        let (status, context) = describe(&error);
        match self.row(self.action.failed(), status, None, Some(context)) {
            Ok(()) => error,
            Err(failure) => failure,
        }
    }

    /// Hands out a key whose row is on disk.
    fn release(&self, key: UserKey, status: u16, context: Option<&str>) -> Result<UserKey, VaultError> {
        self.record(status, Some(&key), context)?;
        Ok(key)
    }

    /// The same for a key that this transaction wrote: if it rolls back, a second row says so.
    fn change(&self, key: UserKey, status: u16, context: Option<&str>) -> Result<UserKey, VaultError> {
        self.record_change(status, Some(&key), context)?;
        Ok(key)
    }

    pub fn record(&self, status: u16, key: Option<&UserKey>, context: Option<&str>) -> Result<(), VaultError> {
        self.row(self.action, status, key, context)
    }

    pub fn record_change(&self, status: u16, key: Option<&UserKey>, context: Option<&str>) -> Result<(), VaultError> {
        // The caller is about to rely on the change; a commit that nobody waits for could take it back in a crash.
        xact::commit_durably();
        rollback::watch(&self.as_record(self.action, status, key, context));
        self.row(self.action, status, key, context)
    }

    /// A row on one user in the course of a call that concerns many.
    pub fn record_about(&self, action: Action, user: &str, status: u16, context: &str) -> Result<(), VaultError> {
        let record = Record { user_id: Some(user), ..self.as_record(action, status, None, Some(context)) };
        Ok(audit::write(&record)?)
    }

    fn row(&self, action: Action, status: u16, key: Option<&UserKey>, context: Option<&str>) -> Result<(), VaultError> {
        Ok(audit::write(&self.as_record(action, status, key, context))?)
    }

    fn as_record<'a>(
        &'a self,
        action: Action,
        status: u16,
        key: Option<&'a UserKey>,
        context: Option<&'a str>,
    ) -> Record<'a> {
        Record {
            created_at: session::now(),
            action,
            status,
            key_version: key.map(|key| key.key_version),
            user_id: self.user.as_deref(),
            kek_id: key.map(|key| key.kek_id.as_str()),
            db_role: &self.db_role,
            ip_address: self.claims.ip_address.as_deref(),
            user_agent: self.claims.user_agent.as_deref(),
            request_id: self.claims.request_id.as_deref(),
            context,
        }
    }
}

/// Status and context of a failure in the trail; the names are the predecessor's where it had one.
pub fn describe(error: &VaultError) -> (u16, &'static str) {
    match error {
        VaultError::Identity(error) => (401, IdentityError::context(*error)),
        VaultError::NoVault => (404, "not-initialised"),
        VaultError::DoesNotOpen => (500, "unwrap-failed"),
        VaultError::KekNotLoaded(_) => (503, "kek-not-loaded"),
        VaultError::KekDiffers { .. } => (503, "kek-differs"),
        VaultError::KekRetired(_) => (503, "kek-retired"),
        VaultError::NoKek(_) => (503, "no-kek"),
        VaultError::Contended(_) => (409, "contended"),
        VaultError::ReloadRefused(..) => (503, "keyring-refused"),
        VaultError::ReloadDiffers { .. } => (503, "kek-differs"),
        VaultError::ReloadRetired(_) => (503, "kek-retired"),
        VaultError::ReloadLacks(_) | VaultError::KekNeeded { .. } => (409, "kek-needed"),
        VaultError::KekActive(_) => (409, "kek-active"),
        VaultError::KekUnknown(_) => (404, "kek-unknown"),
        VaultError::OpenWriters => (409, "open-writers"),
        VaultError::HiddenVaults(..) => (500, "vaults-hidden"),
        _ => (500, "error"),
    }
}

/// Works with the newest ring, and again if a reload made it an old one: a row may have been rewrapped meanwhile under a
/// KEK that only the newer ring has.
fn with_newest_ring<T>(work: impl Fn(&Ring) -> Result<T, VaultError>) -> Result<T, VaultError> {
    loop {
        let ring = ring::current()?;
        match work(&ring) {
            Err(VaultError::KekNotLoaded(_)) if !ring.is_newest() => {}
            outcome => return outcome,
        }
    }
}

fn create_or_open(user: &str) -> Result<Outcome, VaultError> {
    for _ in 0..ATTEMPTS {
        let opened = with_newest_ring(|ring| match store::find(user) {
            Some(vault) => open(ring, user, vault).map(Some),
            None => Ok(None),
        })?;
        if let Some(key) = opened {
            return Ok(Outcome::Existing(key));
        }
        if let Some(key) = create(user)? {
            return Ok(Outcome::Created(key));
        }
    }
    Err(VaultError::Contended(ATTEMPTS))
}

fn replace_or_create(user: &str) -> Result<Outcome, VaultError> {
    store::begin_write();
    for _ in 0..ATTEMPTS {
        let replaced = with_newest_ring(|ring| match store::lock(user) {
            Some(vault) => replace(ring, user, &vault).map(Some),
            None => Ok(None),
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
fn replace(ring: &Ring, user: &str, vault: &Vault) -> Result<Option<UserKey>, VaultError> {
    ring_opens(ring, &vault.stored(user))?;
    let version = vault.key_version.checked_add(1).ok_or(VaultError::VersionsExhausted)?;
    let (key, wrap) = mint(ring, user, version)?;
    Ok(store::replace(user, vault, &wrap, &key.kek_id, version).then_some(key))
}

/// Inserts a fresh key; None if another transaction was first.
fn create(user: &str) -> Result<Option<UserKey>, VaultError> {
    store::begin_write();
    let (key, wrap) = mint(&*ring::current()?, user, 1)?;
    Ok(store::insert(user, &wrap, &key.kek_id, key.key_version).then_some(key))
}

fn open(ring: &Ring, user: &str, vault: Vault) -> Result<UserKey, VaultError> {
    let master_key = ring_opens(ring, &vault.stored(user))?;
    Ok(UserKey {
        master_key,
        format_version: vault.format_version,
        kek_id: vault.kek_id,
        key_version: vault.key_version,
    })
}

/// Opens a wrap. Where it does not open, the check values tell a wrong KEK from a damaged row.
pub fn ring_opens(ring: &Ring, wrap: &StoredWrap<'_>) -> Result<MasterKey, VaultError> {
    ring.open(wrap).map_err(|error| {
        let entry = ring.find(wrap.kek_id).map(|(entry, _)| entry);
        match (entry, store::known_kek(wrap.kek_id)) {
            (Some(entry), Some(known)) => differs(entry, known.compare(entry.check)).err().unwrap_or(error),
            _ => error,
        }
    })
}

/// A fresh key and its wrap under the active KEK. Only after `store::begin_write` and with a ring taken after that.
fn mint(ring: &Ring, user: &str, key_version: i32) -> Result<(UserKey, Wrap), VaultError> {
    let (entry, kek) = ring.active();
    confirm(entry)?;
    let master_key = MasterKey::random().map_err(|_| VaultError::NoRandomness)?;
    let nonce = Nonce::random().map_err(|_| VaultError::NoRandomness)?;
    let wrap = seal(entry, kek, user, key_version, &master_key, nonce)?;
    Ok((UserKey { master_key, format_version: FORMAT_2, kek_id: entry.id.clone(), key_version }, wrap))
}

/// A wrap in format 2, opened once before anybody relies on it. The KEK must be confirmed.
pub fn seal(
    entry: &Entry,
    kek: &Kek,
    user: &str,
    key_version: i32,
    master_key: &MasterKey,
    nonce: Nonce,
) -> Result<Wrap, VaultError> {
    let context = WrapContext { user_id: user, key_version, kek_id: &entry.id };
    let wrap = kek.wrap(master_key, nonce, &context).map_err(|_| VaultError::DoesNotOpen)?;
    let opened = kek.unwrap(FORMAT_2, wrap.wrapped_mk(), wrap.wrap_iv(), &context);
    secret::scrub_registers();
    let opened = opened.map_err(|_| VaultError::DoesNotOpen)?;
    if opened.expose_secret() != master_key.expose_secret() {
        return Err(VaultError::DoesNotOpen);
    }
    Ok(wrap)
}

/// Makes sure that this database knows the KEK that is about to wrap, and knows it as this very key.
pub fn confirm(entry: &Entry) -> Result<(), VaultError> {
    let known = match store::known_kek(&entry.id) {
        Some(known) => known.compare(entry.check),
        None => registration::register(&Candidate { kek_id: &entry.id, check: entry.check })?,
    };
    if known == Known::Retired {
        return Err(VaultError::KekRetired(entry.id.clone()));
    }
    differs(entry, known)
}

fn differs(entry: &Entry, known: Known) -> Result<(), VaultError> {
    let known = match known {
        Known::Same | Known::Retired => return Ok(()),
        Known::Other(check) => Some(check.to_hex()),
        Known::OpensNothing => None,
    };
    Err(VaultError::KekDiffers { kek_id: entry.id.clone(), loaded: entry.check.to_hex(), known })
}
