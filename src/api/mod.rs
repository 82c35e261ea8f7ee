//! The functions that SQL calls: take the arguments, call one thing, map the error. Their SQL is in sql/030_functions.sql.

pub mod admin;
pub mod user;

use pgrx::pg_sys::panic::{ErrorReport, ErrorReportable};

use crate::error::VaultError;

/// Raises the error as a PostgreSQL error.
pub fn raise(error: VaultError) -> ! {
    or_raise::<std::convert::Infallible>(Err(error));
    unreachable!("an error was raised")
}

/// The value, or the error raised.
pub fn or_raise<T>(result: Result<T, VaultError>) -> T {
    result.map_err(ErrorReport::from).unwrap_or_report()
}
