//! The audit trail: a row for every call, committed outside the caller's transaction before the key or the error goes
//! out. A backend hands a record to its database's writer and waits until that has committed it ([`submit`]). What a record
//! is, and the way through shared memory, is in `vault_core::audit`; the SQL is in `store::trail`.

pub mod checkpoints;
#[cfg(feature = "bench")]
pub mod generator;
pub mod health;
pub mod kek_registration;
pub mod leave;
pub mod memory;
mod poll;
pub mod rolled_back;
pub mod stats;
pub mod submit;
pub mod submit_many;
pub mod writer;
