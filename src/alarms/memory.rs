//! The counts that all processes share, and the clock and the hash that they are kept with.

use std::cell::Cell;
use std::time::Instant;

use sha2::{Digest, Sha256};
use vault_core::watch::Watch;

use crate::pg::{secret, session};

#[derive(Clone, Copy)]
struct Shared {
    watch: &'static Watch,
    /// Nobody can choose users that would be taken for one another.
    key: [u8; 16],
    /// Every process counts seconds from here.
    start: Instant,
}

thread_local! {
    static SHARED: Cell<Option<Shared>> = const { Cell::new(None) };
}

/// Maps the memory in the postmaster. False if the system gives none, or no random bytes.
pub fn share() -> bool {
    let mut key = [0; 16];
    if vault_trail::leaf::random_salts(&mut key).is_err() {
        return false;
    }
    let shared = secret::share().map(|watch| Shared { watch, key, start: Instant::now() });
    SHARED.set(shared);
    shared.is_some()
}

/// The counts; None where the library was not preloaded.
pub fn watch() -> Option<&'static Watch> {
    SHARED.get().map(|shared| shared.watch)
}

/// Seconds of a clock that never goes back.
pub fn now() -> u64 {
    SHARED.get().map_or(0, |shared| shared.start.elapsed().as_secs())
}

/// What stands for a user that a login role asks for.
pub(super) fn hash(role: u32, user: &str) -> u64 {
    let key = SHARED.get().map_or([0; 16], |shared| shared.key);
    let hash = Sha256::new()
        .chain_update(key)
        .chain_update(session::database().to_le_bytes())
        .chain_update(role.to_le_bytes())
        .chain_update(user)
        .finalize();
    u64::from_le_bytes(*hash.first_chunk().expect("32 bytes"))
}
