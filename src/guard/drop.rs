//! Refuses a statement that would drop vaults, unless vault_ext.allow_drop is on.

use crate::error::VaultError;
use crate::pg::drop::DoomedTable;
use crate::settings;

/// Raises an error if there are vaults.
pub fn before_drop(vaults: &DoomedTable) {
    if settings::allow_drop() {
        return;
    }
    let vaults = vaults.count_rows();
    if vaults > 0 {
        VaultError::WouldDestroy { vaults }.raise();
    }
}
