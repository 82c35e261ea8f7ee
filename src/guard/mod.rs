//! Guards that refuse statements which would break a promise of the vault: those that drop the vaults, those that change the
//! vault's own tables, policies and owners, moves of its shards beside calls, and work across users that would not see every row. The
//! facts that must hold are in `vault_core::integrity`.

pub mod alter;
pub mod blind;
pub mod drop;
pub mod shards;
