//! Guards that refuse statements which would break a promise of the vault: those that drop the vaults, and those that change
//! the vault's own tables, policies and owners. The facts that must hold are in `vault_core::integrity`.

pub mod alter;
pub mod drop;
