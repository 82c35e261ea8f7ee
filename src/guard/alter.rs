//! Refuses a statement after which the vault would no longer be as CREATE EXTENSION made it, unless vault_ext.allow_alter is on.
//! The audit writer finds whatever gets past this before it writes the next row.

use vault_core::integrity;

use crate::error::VaultError;
use crate::settings;
use crate::store::catalog;

/// Runs a statement that may alter the vault, and rolls it back by raising an error if it made something worse.
pub fn around(statement: &mut dyn FnMut()) {
    if settings::allow_alter() {
        return statement();
    }
    let before = catalog::problems();
    statement();
    let mut worse = catalog::problems();
    worse.retain(|problem| !before.contains(problem));
    if let Some(problem) = integrity::summed_up(worse).into_iter().next() {
        VaultError::WouldBreak(problem).raise();
    }
}
