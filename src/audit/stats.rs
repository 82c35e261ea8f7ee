//! The statistics of this server's audited calls, which all processes share.

use std::cell::Cell;

use vault_core::audit::record::Record;
use vault_core::audit::stats::{Database, Stats};

use crate::pg::{secret, session};

thread_local! {
    static STATS: Cell<Option<&'static Stats>> = const { Cell::new(None) };
    static MINE: Cell<Option<&'static Database>> = const { Cell::new(None) };
}

/// Maps the memory in the postmaster. False if the system gives none.
pub fn share() -> bool {
    STATS.set(secret::share());
    STATS.get().is_some()
}

/// All of them; None where the library was not preloaded.
pub fn all() -> Option<&'static Stats> {
    STATS.get()
}

/// Those of the database that this process is connected to.
pub fn mine() -> Option<&'static Database> {
    if MINE.get().is_none() {
        MINE.set(STATS.get().map(|stats| stats.database(session::database())));
    }
    MINE.get()
}

/// Counts a call whose encoded record is written. `wait`: how long it waited for that, in microseconds; None if nobody waits.
pub fn count(record: &[u8], wait: Option<u64>) {
    if let (Some(database), Some((action, status))) = (mine(), Record::peek(record)) {
        database.count(action, status, wait);
    }
}
