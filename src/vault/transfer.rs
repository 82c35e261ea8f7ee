//! Moving vaults between servers with different KEKs: each leaves as a bundle that only the target's KEK opens, and is wrapped
//! anew on arrival.

use vault_core::audit::record::Action;
use vault_core::crypto::secret::MasterKey;
use vault_core::crypto::wrap::{Kind, Nonce, Wrap, WrapContext};
use vault_core::transfer::{Bundle, ExportError, KeyVersion, OpenError, Target, VaultRecord};

use super::call::Call;
use super::key::KeyId;
use super::repeat;
use super::service::ATTEMPTS;
use super::wrapping::{compare, confirm, ring_opens, seal, with_newest_ring};
use crate::error::{KeyError, TransferError, VaultError};
use crate::keyring::ring::{self, Ring};
use crate::pg::{secret, session};
use crate::settings;
use crate::store::old_keys::{self, OldKey, State, StoredKey};
use crate::store::transfers::{self, NewOld, NewVault, WholeVault};
use crate::store::{maintenance, vaults};

/// The state of the version that is not among the old keys.
const CURRENT: &str = "current";

/// The public half of the import key.
pub struct ImportKeyInfo {
    pub kek_id: String,
    /// 44 characters of base64.
    pub public_key: String,
    pub fingerprint: String,
}

/// The import key of the active KEK; not audited, since it opens nothing.
pub fn import_key() -> Result<ImportKeyInfo, VaultError> {
    let ring = ring::current()?;
    let (entry, _) = ring.active();
    compare(entry)?;
    secret::scrubbed(|| {
        let key = ring::import_key(&entry.id)?.ok_or_else(|| VaultError::KekNotLoaded(entry.id.clone()))?;
        let fingerprint = key.fingerprint().to_string();
        Ok(ImportKeyInfo { kek_id: entry.id.clone(), public_key: key.public_key_base64(), fingerprint })
    })
}

/// A user's vault as a bundle for the server with that import key.
pub fn export(user: String, kek_id: &str, public_key: &str) -> Result<String, VaultError> {
    let call = Call::on_behalf_of(Action::Export, user)?;
    let target = call.attempt(|_| Ok(Target::parse(kek_id, public_key).map_err(TransferError::Target)?))?;
    let fingerprint = target.fingerprint().to_string();
    if let Err(error) = may_receive(&fingerprint) {
        // An auditor wants to know whose key somebody has tried.
        call.record(403, None, Some(&format!("{} {fingerprint}", error.context())))?;
        return Err(error.into());
    }
    let export = |user: &str| {
        let (record, current) = with_newest_ring(|ring| record_of(ring, user))?;
        let bundle = target.seal(&record).map_err(|error| match error {
            ExportError::Record(error) => TransferError::Record(error).into(),
            ExportError::Rng(_) => VaultError::NoRandomness,
        })?;
        Ok((bundle, current))
    };
    let (bundle, current) = secret::scrubbed(|| call.attempt(export))?;
    let key = KeyId { kek_id: &current.kek_id, key_version: current.key_version };
    call.record(200, Some(key), Some(&fingerprint))?;
    Ok(bundle)
}

/// Only a superuser says who may receive vaults: an administrator alone cannot take keys away.
fn may_receive(fingerprint: &str) -> Result<(), TransferError> {
    let recipients = settings::export_recipients().ok_or(TransferError::NoRecipients)?;
    let is_listed = recipients.split(',').any(|listed| listed.trim().eq_ignore_ascii_case(fingerprint));
    if is_listed { Ok(()) } else { Err(TransferError::NotRecipient(fingerprint.to_owned())) }
}

/// A vault with its keys opened, and the row of its current one.
fn record_of(ring: &Ring, user: &str) -> Result<(VaultRecord, StoredKey), VaultError> {
    let WholeVault { current, old } = maintenance::run(|| transfers::find(user)).ok_or(VaultError::NoVault)?;
    if let Some(erase_after) = current.erase_after {
        return Err(KeyError::EraseScheduled(session::time_as_text(erase_after)).into());
    }
    let open = |key: &StoredKey| key.stored(user).map(|wrap| ring_opens(ring, &wrap)).transpose();
    // All the room at once: a vector that grows leaves keys behind.
    let mut versions = Vec::with_capacity(old.len() + 1);
    for old in old.iter().filter(|old| old.state != State::Destroyed) {
        versions.push(KeyVersion {
            number: old.key.key_version,
            state: old.state.name().to_owned(),
            created_at: None,
            superseded_at: Some(old.superseded_at),
            destroy_after: old.destroy_after,
            master_key: open(&old.key)?,
        });
    }
    versions.push(KeyVersion {
        number: current.key.key_version,
        state: CURRENT.to_owned(),
        created_at: Some(current.rotated_at.unwrap_or(current.created_at)),
        superseded_at: None,
        destroy_after: None,
        master_key: open(&current.key)?,
    });
    let record = VaultRecord {
        user_id: user.to_owned(),
        versions,
        recovery: current.recovery,
        zero_knowledge: current.zero_knowledge,
        key_check: current.key_check,
        created_at: Some(current.created_at),
        rotated_at: current.rotated_at,
        tokens_valid_from: current.tokens_valid_from,
    };
    Ok((record, current.key))
}

/// What became of a vault that arrived.
enum Placed {
    New(Place),
    There(Place),
}

/// The current key of a vault, as the trail names it.
struct Place {
    kek_id: String,
    key_version: i32,
}

/// Takes the vault of a bundle in, and gives its user.
pub fn import(bundle: &str) -> Result<String, VaultError> {
    let mut call = Call::without_user(Action::Import)?;
    let (placed, fingerprint) = secret::scrubbed(|| -> Result<_, VaultError> {
        let (record, fingerprint) = call.attempt(|_| open(bundle))?;
        call.concern(record.user_id.clone());
        Ok((call.attempt(|_| place(&Vault::new(&record)?))?, fingerprint))
    })?;
    match placed {
        Placed::New(Place { kek_id, key_version }) => {
            repeat::note_change(call.user());
            call.record_change(201, Some(KeyId { kek_id: &kek_id, key_version }), Some(&fingerprint))?;
        }
        Placed::There(Place { kek_id, key_version }) => {
            call.record(200, Some(KeyId { kek_id: &kek_id, key_version }), Some("already-exists"))?;
        }
    }
    Ok(call.user().to_owned())
}

/// The record in a bundle, and the fingerprint of the import key that it was made for.
fn open(bundle: &str) -> Result<(VaultRecord, String), VaultError> {
    let bundle = Bundle::parse(bundle).map_err(TransferError::Bundle)?;
    let kek_id = bundle.kek_id().as_str();
    let key = ring::import_key(kek_id)?.ok_or_else(|| TransferError::OtherKek(kek_id.to_owned()))?;
    let fingerprint = key.fingerprint().to_string();
    let record = key.open(&bundle).map_err(|error| match error {
        OpenError::DoesNotOpen => TransferError::DoesNotOpen,
        OpenError::Record(error) => TransferError::Record(error),
    })?;
    Ok((record, fingerprint))
}

/// A record that makes a vault.
struct Vault<'a> {
    record: &'a VaultRecord,
    current: &'a KeyVersion,
    old: Vec<OldVersion<'a>>,
    created_at: i64,
}

struct OldVersion<'a> {
    version: &'a KeyVersion,
    state: State,
    superseded_at: i64,
    master_key: &'a MasterKey,
}

impl<'a> Vault<'a> {
    /// Checks all that the tables and the service rely on: whoever has the import key can make any record.
    fn new(record: &'a VaultRecord) -> Result<Self, TransferError> {
        let (current, old) = record.versions.split_last().ok_or(TransferError::Invalid("it has no key version"))?;
        if current.state != CURRENT || old.iter().any(|version| version.state == CURRENT) {
            return Err(TransferError::Invalid("its newest version, and no other, must be the current one"));
        }
        if current.master_key.is_some() == record.zero_knowledge {
            return Err(TransferError::Invalid("it must have a current key, or else be in zero-knowledge mode"));
        }
        let old = old.iter().map(old_version).collect::<Result<_, _>>()?;
        if record.zero_knowledge && record.recovery.is_none() {
            return Err(TransferError::Invalid("in zero-knowledge mode it must have a recovery wrap"));
        }
        if let Some(recovery) = &record.recovery
            && (recovery.set_at.is_none()
                || !(1..=1024).contains(&recovery.wrapped_mk.len())
                || !(1..=64).contains(&recovery.iv.len()))
        {
            return Err(TransferError::Invalid("its recovery wrap is incomplete"));
        }
        let is_hex = |text: &str| text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !record.key_check.as_deref().is_none_or(is_hex) {
            return Err(TransferError::Invalid("its key_check is malformed"));
        }
        let created_at = record.created_at.ok_or(TransferError::Invalid("it has no created_at"))?;
        let set_at = record.recovery.as_ref().and_then(|recovery| recovery.set_at);
        let mut times = vec![Some(created_at), record.rotated_at, record.tokens_valid_from, set_at];
        times.extend(record.versions.iter().flat_map(|version| [version.superseded_at, version.destroy_after]));
        if times.into_iter().flatten().any(|time| !session::is_time(time)) {
            return Err(TransferError::Invalid("one of its times is out of range"));
        }
        Ok(Self { record, current, old, created_at })
    }

    fn user(&self) -> &str {
        &self.record.user_id
    }

    /// Every version whose key is in the record.
    fn keys(&self) -> impl Iterator<Item = (i32, &MasterKey)> {
        self.record.versions.iter().filter_map(|version| Some((version.number, version.master_key.as_ref()?)))
    }
}

fn old_version(version: &KeyVersion) -> Result<OldVersion<'_>, TransferError> {
    let state = State::from_name(&version.state).filter(|state| *state != State::Destroyed);
    let state = state.ok_or(TransferError::Invalid("an old version has an unknown state"))?;
    if version.destroy_after.is_some() != (state == State::DestroyScheduled) {
        return Err(TransferError::Invalid(
            "the state and the time of destruction of an old version contradict each other",
        ));
    }
    let superseded_at = version.superseded_at.ok_or(TransferError::Invalid("an old version has no superseded_at"))?;
    let master_key = version.master_key.as_ref().ok_or(TransferError::Invalid("an old version has no key"))?;
    Ok(OldVersion { version, state, superseded_at, master_key })
}

fn place(vault: &Vault<'_>) -> Result<Placed, VaultError> {
    vaults::begin_write();
    for _ in 0..ATTEMPTS {
        let placed = with_newest_ring(|ring| maintenance::run(|| try_to_place(ring, vault)))?;
        if let Some(placed) = placed {
            return Ok(placed);
        }
    }
    Err(VaultError::Contended(ATTEMPTS))
}

/// Inserts the vault with every key wrapped under the active KEK, or finds it there. None if another transaction was first. In
/// maintenance.
fn try_to_place(ring: &Ring, vault: &Vault<'_>) -> Result<Option<Placed>, VaultError> {
    let user = vault.user();
    if let Some(found) = transfers::find(user) {
        if let Some(erase_after) = found.current.erase_after {
            return Err(KeyError::EraseScheduled(session::time_as_text(erase_after)).into());
        }
        if !is_same(ring, &found, vault)? {
            return Err(VaultError::UserHasVault(user.to_owned()));
        }
        let StoredKey { kek_id, key_version, .. } = found.current.key;
        return Ok(Some(Placed::There(Place { kek_id, key_version })));
    }
    if !old_keys::list(user).is_empty() {
        return Err(TransferError::OldKeysLeft(user.to_owned()).into());
    }
    let (entry, kek) = ring.active();
    confirm(entry)?;
    let wrap = |key_version, master_key: &MasterKey| -> Result<Wrap, VaultError> {
        let nonce = Nonce::random().map_err(|_| VaultError::NoRandomness)?;
        seal(
            kek,
            &WrapContext { kind: Kind::MasterKey, user_id: user, key_version, kek_id: &entry.id },
            master_key,
            nonce,
        )
    };
    let key_version = vault.current.number;
    let current = vault.current.master_key.as_ref().map(|key| wrap(key_version, key)).transpose()?;
    let new = NewVault {
        wrap: current.as_ref(),
        kek_id: &entry.id,
        key_version,
        recovery: vault.record.recovery.as_ref(),
        key_check: vault.record.key_check.as_deref(),
        created_at: vault.created_at,
        rotated_at: vault.record.rotated_at,
        tokens_valid_from: vault.record.tokens_valid_from,
    };
    if !transfers::insert(user, &new) {
        return Ok(None);
    }
    for old in &vault.old {
        let key_version = old.version.number;
        transfers::insert_old(
            user,
            &NewOld {
                wrap: &wrap(key_version, old.master_key)?,
                kek_id: &entry.id,
                key_version,
                state: old.state,
                superseded_at: old.superseded_at,
                destroy_after: old.version.destroy_after,
            },
        );
    }
    Ok(Some(Placed::New(Place { kek_id: entry.id.clone(), key_version })))
}

/// Whether the vault of that user has every key of the record, each under its number, so that the import has nothing to do. What
/// the user has done since counts: rotated it, or destroyed a version. A key is compared, or else the wrap that only the user
/// opens.
fn is_same(ring: &Ring, found: &WholeVault, vault: &Vault<'_>) -> Result<bool, VaultError> {
    let mut is_known = false;
    if vault.record.zero_knowledge {
        let wrap_of = |recovery: &vault_core::transfer::Recovery| (recovery.wrapped_mk.clone(), recovery.iv.clone());
        is_known = found.current.zero_knowledge
            && found.current.key.key_version == vault.current.number
            && found.current.recovery.as_ref().map(wrap_of) == vault.record.recovery.as_ref().map(wrap_of);
        if !is_known {
            return Ok(false);
        }
    }
    for (number, master_key) in vault.keys() {
        let is_destroyed = |old: &&OldKey| old.state == State::Destroyed;
        let old = found.old.iter().find(|old| old.key.key_version == number);
        let key =
            if found.current.key.key_version == number { Some(&found.current.key) } else { old.map(|old| &old.key) };
        match key.and_then(|key| key.stored(vault.user())) {
            Some(wrap) if ring_opens(ring, &wrap)?.expose_secret() == master_key.expose_secret() => is_known = true,
            None if old.as_ref().is_some_and(is_destroyed) => {}
            _ => return Ok(false),
        }
    }
    Ok(is_known)
}
