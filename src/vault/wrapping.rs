//! Opens wraps with the ring in use, and makes new wraps, each of which is opened once before it is used.

use vault_core::audit::kek_registration::{Candidate, Known};
use vault_core::crypto::secret::MasterKey;
use vault_core::crypto::wrap::StoredWrap;
use vault_core::crypto::wrap::{FORMAT_2, Kek, Kind, Nonce, Wrap, WrapContext};
use vault_core::keyring::Entry;

use super::key::{Released, UserKey};
use crate::audit::kek_registration;
use crate::error::VaultError;
use crate::keyring::ring::{self, Ring};
use crate::pg::secret;
use crate::store::keks;

/// Works with the newest ring, and again if a reload made it an old one: a row may have been rewrapped meanwhile under a
/// KEK that only the newer ring has.
pub(super) fn with_newest_ring<T>(work: impl Fn(&Ring) -> Result<T, VaultError>) -> Result<T, VaultError> {
    loop {
        let ring = ring::current()?;
        match work(&ring) {
            Err(VaultError::KekNotLoaded(_)) if !ring.is_newest() => {}
            outcome => return outcome,
        }
    }
}

/// Opens a wrap. Where it does not open, the check values tell a wrong KEK from a damaged row.
pub fn ring_opens(ring: &Ring, wrap: &StoredWrap<'_>) -> Result<MasterKey, VaultError> {
    ring.open(wrap).map_err(|error| {
        let entry = ring.find(wrap.kek_id).map(|(entry, _)| entry);
        match (entry, keks::known_kek(wrap.kek_id)) {
            (Some(entry), Some(known)) => differs(entry, known.compare(entry.check)).err().unwrap_or(error),
            _ => error,
        }
    })
}

/// A fresh key and its wrap under the active KEK. Only after `vaults::begin_write` and with a ring taken after that.
pub(super) fn mint(ring: &Ring, kind: Kind, user: &str, key_version: i32) -> Result<(UserKey, Wrap), VaultError> {
    let (entry, kek) = ring.active();
    confirm(entry)?;
    let master_key = MasterKey::random().map_err(|_| VaultError::NoRandomness)?;
    let nonce = Nonce::random().map_err(|_| VaultError::NoRandomness)?;
    let context = WrapContext { kind, user_id: user, key_version, kek_id: &entry.id };
    let wrap = seal(kek, &context, &master_key, nonce)?;
    let released = Released::MasterKey(master_key);
    Ok((UserKey { released, format_version: FORMAT_2, kek_id: entry.id.clone(), key_version }, wrap))
}

/// A wrap in format 2, opened once before anybody relies on it. The KEK must be confirmed, and the one that the context names.
pub fn seal(kek: &Kek, context: &WrapContext<'_>, master_key: &MasterKey, nonce: Nonce) -> Result<Wrap, VaultError> {
    let (wrap, opened) = secret::scrubbed_cipher(|| {
        let wrap = kek.wrap(master_key, nonce, context).ok()?;
        let opened = kek.unwrap(FORMAT_2, wrap.wrapped_mk(), wrap.wrap_iv(), context).ok()?;
        Some((wrap, opened))
    })
    .ok_or(VaultError::DoesNotOpen)?;
    if opened.expose_secret() != master_key.expose_secret() {
        return Err(VaultError::DoesNotOpen);
    }
    Ok(wrap)
}

/// Makes sure that this database knows the KEK that is about to wrap, and knows it as this very key.
pub fn confirm(entry: &Entry) -> Result<(), VaultError> {
    let known = match keks::known_kek(&entry.id) {
        Some(known) => known.compare(entry.check),
        None => kek_registration::register(&Candidate { kek_id: &entry.id, check: entry.check })?,
    };
    usable(entry, known)
}

/// The same without registering the KEK. A KEK that this database has never seen passes.
pub fn compare(entry: &Entry) -> Result<(), VaultError> {
    keks::known_kek(&entry.id).map_or(Ok(()), |known| usable(entry, known.compare(entry.check)))
}

fn usable(entry: &Entry, known: Known) -> Result<(), VaultError> {
    if known == Known::Retired { Err(VaultError::KekRetired(entry.id.clone())) } else { differs(entry, known) }
}

fn differs(entry: &Entry, known: Known) -> Result<(), VaultError> {
    let known = match known {
        Known::Same | Known::Retired => return Ok(()),
        Known::Other(check) => Some(check.to_hex()),
        Known::OpensNothing => None,
    };
    Err(VaultError::KekDiffers { kek_id: entry.id.clone(), loaded: entry.check.to_hex(), known })
}
