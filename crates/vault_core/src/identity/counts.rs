//! What became of tokens since the server started, in shared memory.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::issuers::MAX_ISSUERS;
use super::jwk::MAX_KEYS;

/// The tokens of one key, or those that no key verified. All zero at first.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Count {
    pub accepted: AtomicU64,
    pub refused: AtomicU64,
    /// Microseconds since 2000-01-01 00:00 UTC; 0 is never.
    last_refusal: AtomicI64,
}

impl Count {
    pub fn note_acceptance(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// `at`: microseconds since 2000-01-01 00:00 UTC.
    pub fn note_refusal(&self, at: i64) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.last_refusal.store(at, Ordering::Relaxed);
    }

    pub fn last_refusal(&self) -> Option<i64> {
        Some(self.last_refusal.load(Ordering::Relaxed)).filter(|at| *at != 0)
    }
}

/// The counts of one server.
#[derive(Debug)]
#[repr(C)]
pub struct Counts {
    keys: [[Count; MAX_KEYS]; MAX_ISSUERS],
    /// Tokens that no key verified.
    pub unverified: Count,
}

impl Counts {
    /// The tokens of one key, by the positions of its issuer and of itself.
    pub fn of_key(&self, issuer: usize, key: usize) -> Option<&Count> {
        self.keys.get(issuer)?.get(key)
    }
}
