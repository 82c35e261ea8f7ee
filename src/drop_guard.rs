//! No statement drops vaults unless it was said that it may.

use crate::api;
use crate::error::VaultError;
use crate::pg::drop::DoomedTable;
use crate::settings;

/// Refuses, if there is anything to lose.
pub fn before_drop(vaults: &DoomedTable) {
    if settings::allow_drop() {
        return;
    }
    let vaults = vaults.count_rows();
    if vaults > 0 {
        api::raise(VaultError::WouldDestroy { vaults });
    }
}
