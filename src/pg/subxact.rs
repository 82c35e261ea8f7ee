//! Work whose error is caught and survived: a subtransaction, as PL/pgSQL does it for EXCEPTION. Catching without one
//! would leave locks, buffers and relation references behind.

use std::panic::AssertUnwindSafe;

use pgrx::PgTryBuilder;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

/// Runs `work` in a subtransaction and undoes it in any case, the locks that it took included.
pub fn undone<T>(work: impl FnOnce() -> T) -> Result<T, CaughtError> {
    within(work, |_| false)
}

/// Runs `work` in a subtransaction. `Ok` keeps what it did; a PostgreSQL error or Rust panic in it undoes that and comes
/// back as `Err`, to be looked at and rethrown. An ordinary `Result::Err` inside `T` keeps the subtransaction.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, CaughtError> {
    within(work, |_| true)
}

/// The same, but an ordinary `Result::Err` undoes the work, too.
pub fn catch_and_undo<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<Result<T, E>, CaughtError> {
    within(work, Result::is_ok)
}

fn within<T>(work: impl FnOnce() -> T, keep: impl Fn(&T) -> bool) -> Result<T, CaughtError> {
    // SAFETY: the calls here and below are those of PL/pgSQL's exec_stmt_block: begin, restore the memory context; at the end
    // release or roll back, then restore memory context and resource owner, which the subtransaction replaced.
    let (context, owner) = unsafe {
        let saved = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(saved.0);
        saved
    };
    let outcome = PgTryBuilder::new(AssertUnwindSafe(|| Ok(work()))).catch_others(Err).catch_rust_panic(Err).execute();
    // SAFETY: subtransactions that `work` began have ended with it, so the current one is the one begun above. Context and owner
    // are those of its parent and outlive it.
    unsafe {
        match &outcome {
            Ok(done) if keep(done) => pg_sys::ReleaseCurrentSubTransaction(),
            _ => pg_sys::RollbackAndReleaseCurrentSubTransaction(),
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
    }
    outcome
}

/// The SQLSTATE of a caught error as five characters.
pub fn sqlstate(error: &CaughtError) -> String {
    unpack_sqlstate(packed_sqlstate(error))
}

/// The SQLSTATE of a caught error as PostgreSQL packs it.
pub fn packed_sqlstate(error: &CaughtError) -> i32 {
    match error {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report.sql_error_code() as i32,
        CaughtError::RustPanic { ereport, .. } => ereport.sql_error_code() as i32,
    }
}

/// Five characters from PostgreSQL's packed form (six bits each, MAKE_SQLSTATE).
pub fn unpack_sqlstate(packed: i32) -> String {
    (0..5).map(|i| char::from(((packed >> (6 * i)) & 0x3f) as u8 + b'0')).collect()
}

/// Message of a caught error, for the server log.
pub fn message(error: &CaughtError) -> String {
    match error {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report.message().to_owned(),
        CaughtError::RustPanic { ereport, .. } => ereport.message().to_owned(),
    }
}
