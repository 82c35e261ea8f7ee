//! The ring in use: published by the postmaster at start (and by a reload), expanded by each backend once a generation.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use vault_core::crypto::check::CheckValue;
use vault_core::crypto::secret::{KekBytes, MasterKey};
use vault_core::crypto::wrap::{Kek, StoredWrap};
use vault_core::keyring::Entry;
use vault_core::keyring::text::{KekId, Keyring, MAX_KEKS};
use vault_core::transfer::ImportKey;
use zeroize::Zeroizing;

use crate::error::VaultError;
use crate::pg::secret::{self, Protection, SecretPages, SharedSecret};
use crate::pg::shmem;

/// Bytes of one KEK as published: length of the id, the id, the key.
const ENTRY_BYTES: usize = 1 + KekId::MAX + 32;
/// Number of KEKs, then the KEKs; or 0, then a text that says why there are none.
const RING_BYTES: usize = 1 + MAX_KEKS * ENTRY_BYTES;

type SharedRing = SharedSecret<RING_BYTES>;

thread_local! {
    static SHARED: Cell<Option<&'static SharedRing>> = const { Cell::new(None) };
    static EXPANDED: RefCell<Option<Rc<Ring>>> = const { RefCell::new(None) };
}

/// One generation of the ring, expanded for this backend.
pub struct Ring {
    generation: u64,
    entries: Vec<Entry>,
    keks: SecretPages<Kek>,
}

/// Makes the memory that holds the ring. In the postmaster, before any other process is started. None if the system
/// gives no memory.
pub fn create() -> Option<Protection> {
    let (shared, protection) = SharedRing::map()?;
    SHARED.set(Some(shared));
    Some(protection)
}

/// Publishes a ring to all processes. In the postmaster, at start.
pub fn publish(keyring: &Keyring) {
    if let Some(shared) = SHARED.get() {
        shared.publish(&encode(keyring));
    }
}

/// Replaces the ring of that generation and appends the KEKs of it that are named in `keep`. Returns false if that generation
/// is no longer the newest. There must be room for all of them.
pub fn replace(generation: u64, keyring: &Keyring, keep: &[String]) -> bool {
    SHARED.get().is_some_and(|shared| secret::scrubbed(|| replace_in(shared, generation, keyring, keep)))
}

fn replace_in(shared: &SharedRing, generation: u64, keyring: &Keyring, keep: &[String]) -> bool {
    let mut bytes = encode(keyring);
    let mut old = Zeroizing::new([0; RING_BYTES]);
    if !keep.is_empty() && shared.read(&mut old) != generation {
        return false;
    }
    for room in old[1..].chunks_exact(ENTRY_BYTES).take(usize::from(old[0])) {
        if keep.iter().any(|kek_id| kek_id.as_bytes() == &room[1..=usize::from(room[0])]) {
            let end = 1 + usize::from(bytes[0]) * ENTRY_BYTES;
            bytes[end..end + ENTRY_BYTES].copy_from_slice(room);
            bytes[0] += 1;
        }
    }
    shmem::locked(|| {
        let is_newest = shared.generation() == generation;
        if is_newest {
            shared.publish(&bytes);
        }
        is_newest
    })
}

fn encode(keyring: &Keyring) -> Zeroizing<[u8; RING_BYTES]> {
    let mut bytes = Zeroizing::new([0; RING_BYTES]);
    bytes[0] = keyring.entries().len() as u8;
    for (entry, room) in keyring.entries().iter().zip(bytes[1..].chunks_exact_mut(ENTRY_BYTES)) {
        let id = entry.id.as_str().as_bytes();
        room[0] = id.len() as u8;
        room[1..=id.len()].copy_from_slice(id);
        room[1 + KekId::MAX..].copy_from_slice(entry.key.expose_secret());
    }
    bytes
}

/// Publishes that there is no ring, and why.
pub fn publish_reason(reason: &str) {
    let mut bytes = [0; RING_BYTES];
    let reason = &reason.as_bytes()[..reason.floor_char_boundary(RING_BYTES - 3)];
    bytes[1..3].copy_from_slice(&(reason.len() as u16).to_le_bytes());
    bytes[3..3 + reason.len()].copy_from_slice(reason);
    if let Some(shared) = SHARED.get() {
        shared.publish(&bytes);
    }
}

/// Counts the publications.
pub fn generation() -> Result<u64, VaultError> {
    SHARED.get().map(SharedRing::generation).ok_or(VaultError::NotPreloaded)
}

/// The public part of the current ring; empty if there is none.
pub fn entries() -> Result<Vec<Entry>, VaultError> {
    match current() {
        Ok(ring) => Ok(ring.entries.clone()),
        Err(VaultError::NoKek(_)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The current ring.
pub fn current() -> Result<Rc<Ring>, VaultError> {
    let shared = SHARED.get().ok_or(VaultError::NotPreloaded)?;
    let generation = shared.generation();
    EXPANDED.with(|cached| {
        if let Some(ring) = cached.borrow().as_ref().filter(|ring| ring.generation == generation) {
            return Ok(Rc::clone(ring));
        }
        let ring = Rc::new(secret::scrubbed(|| expand(shared))?);
        *cached.borrow_mut() = Some(Rc::clone(&ring));
        Ok(ring)
    })
}

fn expand(shared: &SharedRing) -> Result<Ring, VaultError> {
    let mut bytes = Zeroizing::new([0; RING_BYTES]);
    let generation = shared.read(&mut bytes);
    let count = usize::from(bytes[0]);
    if count == 0 {
        let length = usize::from(u16::from_le_bytes([bytes[1], bytes[2]]));
        return Err(VaultError::NoKek(String::from_utf8_lossy(&bytes[3..3 + length]).into_owned()));
    }
    let mut entries = Vec::with_capacity(count);
    let keks = SecretPages::build(count, |index| {
        let room = &bytes[1 + index * ENTRY_BYTES..][..ENTRY_BYTES];
        let id = &room[1..=usize::from(room[0])];
        let key = KekBytes::from_slice(&room[1 + KekId::MAX..]).expect("32 bytes are left of an entry");
        entries.push(Entry { id: String::from_utf8_lossy(id).into_owned(), check: CheckValue::of(&key) });
        Kek::new(&key)
    });
    let keks = keks.ok_or_else(|| VaultError::NoKek("the system gave no memory for it".into()))?;
    Ok(Ring { generation, entries, keks })
}

/// The import key of a KEK of the newest ring; None if the ring has no KEK with that id.
pub fn import_key(kek_id: &str) -> Result<Option<ImportKey>, VaultError> {
    let shared = SHARED.get().ok_or(VaultError::NotPreloaded)?;
    Ok(secret::scrubbed(|| {
        let mut bytes = Zeroizing::new([0; RING_BYTES]);
        shared.read(&mut bytes);
        let mut rooms = bytes[1..].chunks_exact(ENTRY_BYTES).take(usize::from(bytes[0]));
        let room = rooms.find(|room| kek_id.as_bytes() == &room[1..=usize::from(room[0])])?;
        KekBytes::from_slice(&room[1 + KekId::MAX..]).as_ref().map(ImportKey::derive)
    }))
}

impl Ring {
    /// False once another ring was published.
    pub fn is_newest(&self) -> bool {
        generation().is_ok_and(|generation| generation == self.generation)
    }

    /// The KEK that wraps.
    pub fn active(&self) -> (&Entry, &Kek) {
        (&self.entries[0], &self.keks[0])
    }

    /// A KEK by its id.
    pub fn find(&self, kek_id: &str) -> Option<(&Entry, &Kek)> {
        let index = self.entries.iter().position(|entry| entry.id == kek_id)?;
        Some((&self.entries[index], &self.keks[index]))
    }

    /// Opens a user's vault with the KEK that it names, and with no other: GCM does not commit to a key, so trying several
    /// would weaken it.
    pub fn open(&self, wrap: &StoredWrap<'_>) -> Result<MasterKey, VaultError> {
        let (_, kek) = self.find(wrap.kek_id).ok_or_else(|| VaultError::KekNotLoaded(wrap.kek_id.to_owned()))?;
        secret::scrubbed_cipher(|| kek.unwrap(wrap.format_version, wrap.wrapped_mk, wrap.wrap_iv, &wrap.context()))
            .map_err(|_| VaultError::DoesNotOpen)
    }
}
