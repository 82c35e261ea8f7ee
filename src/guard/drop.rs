//! Refuses a statement that would drop vaults, unless vault_ext.allow_drop is on.

use crate::error::{NodesError, VaultError};
use crate::pg::drop::DoomedTable;
use crate::settings;
use crate::store::catalog;

/// Raises an error if there are vaults.
pub fn before_drop(vaults: &DoomedTable) {
    if settings::allow_drop() {
        return;
    }
    if catalog::are_vaults_distributed() {
        VaultError::from(NodesError::WouldDestroy).raise();
    }
    let vaults = vaults.count_rows();
    if vaults > 0 {
        VaultError::WouldDestroy { vaults }.raise();
    }
}
