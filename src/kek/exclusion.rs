//! Keeping out those who write vaults while a KEK goes.

use pgrx::pg_sys::panic::CaughtError;

use crate::error::VaultError;
use crate::pg::{session, subxact};
use crate::store::vaults;

/// Works while no transaction has written vaults and is still open. Undoes what `work` does in the database, and with it
/// the lock.
pub(super) fn without_writers<T>(work: impl FnOnce() -> T) -> Result<T, VaultError> {
    subxact::undone(|| {
        vaults::exclude_writers();
        work()
    })
    .or_else(open_writers)
}

/// A lock timeout says that writers are still there; any other error goes on as it is.
pub(super) fn open_writers<T>(raised: CaughtError) -> Result<T, VaultError> {
    if subxact::sqlstate(&raised) == "55P03" { Err(VaultError::OpenWriters) } else { raised.rethrow() }
}

pub(super) fn only_in_read_committed(call: &'static str) -> Result<(), VaultError> {
    if session::has_old_snapshot() { Err(VaultError::OldSnapshot(call)) } else { Ok(()) }
}
