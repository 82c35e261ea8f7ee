//! What refuses statements that would break a promise of the vault: dropping the vaults, and changing the vault's own
//! tables, policies and owners. The facts that must hold are in `vault_core::integrity`.

pub mod alter;
pub mod drop;
