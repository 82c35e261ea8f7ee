//! Refuses to move a shard of the vaults while calls go on.
//!
//! A move makes the shard anew on another node. `vault_ext.rebalance()` locks the vaults on every node first, so this node sees the
//! lock.

use crate::error::{NodesError, VaultError};
use crate::store::{catalog, nodes};

/// Raises an error if the vaults are on many nodes already, and nobody has locked them here.
pub fn before_shard() {
    if catalog::are_vaults_distributed() && !nodes::is_being_distributed() && !nodes::are_calls_locked_out() {
        VaultError::from(NodesError::MovesBesideCalls).raise();
    }
}
