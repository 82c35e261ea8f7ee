//! The functions that SQL calls: take the arguments, call one thing, map the error. Their SQL is in sql/030_functions.sql.

pub mod admin;
mod alarms;
pub mod data;
pub mod erasure;
pub mod grants;
pub mod identity;
pub mod keys;
#[cfg(feature = "bench")]
mod micro_benchmarks;
pub mod monitor;
mod nodes;
pub mod policy;
pub mod recovery;
pub mod seal;
mod statistics;
pub mod trail;
pub mod transfer;
pub mod user;

use crate::error::VaultError;

/// The value, or the error raised.
pub fn or_raise<T>(result: Result<T, VaultError>) -> T {
    result.unwrap_or_else(|error| error.raise())
}
