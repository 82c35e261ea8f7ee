//! Locks out transactions that write vaults while a KEK is removed.

use pgrx::pg_sys::panic::CaughtError;

use crate::error::{NodesError, VaultError};
use crate::pg::{session, subxact};
use crate::store::{catalog, nodes, wraps};

/// Runs `work` while no open transaction has written vaults. Rolls back what `work` does in the database, and releases the lock
/// with it.
pub(super) fn without_writers<T>(work: impl FnOnce() -> T) -> Result<T, VaultError> {
    subxact::undone(|| {
        wraps::exclude_writers();
        work()
    })
    .or_else(open_writers)
}

/// A lock timeout means that such transactions are still open. Any other error is raised again unchanged.
pub(super) fn open_writers<T>(raised: CaughtError) -> Result<T, VaultError> {
    match subxact::sqlstate(&raised).as_str() {
        "55P03" => Err(VaultError::OpenWriters),
        // Citus says no more of a lock that it does not get on another node.
        "XX000" if catalog::has_nodes() => Err(NodesError::NotLocked.into()),
        _ => raised.rethrow(),
    }
}

/// Fails if another node may wrap with one of these KEKs.
pub(super) fn no_other_node_wraps(kek_ids: &[String]) -> Result<(), VaultError> {
    if !catalog::has_nodes() {
        return Ok(());
    }
    let nodes = nodes::wrapping_with(kek_ids);
    if nodes.is_empty() { Ok(()) } else { Err(NodesError::KekActive(nodes).into()) }
}

pub(super) fn only_in_read_committed(call: &'static str) -> Result<(), VaultError> {
    if session::has_old_snapshot() { Err(VaultError::OldSnapshot(call)) } else { Ok(()) }
}
