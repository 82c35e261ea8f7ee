//! Procedures that commit as they go.

use std::ffi::c_int;

use pgrx::prelude::*;

/// The right to end the caller's transaction.
pub struct Transactions(());

impl Transactions {
    /// Runs `work` with that right. None in a transaction block, and in a function or a query.
    ///
    /// # Safety
    /// `fcinfo` is that of a procedure called by the server.
    pub(super) unsafe fn with<T>(fcinfo: pg_sys::FunctionCallInfo, work: impl FnOnce(&Self) -> T) -> Option<T> {
        // SAFETY: the context is checked to be that of a CALL before it is used as such. SPI_commit needs a connection to
        // SPI that is not atomic; one that an error leaves open is closed with the transaction.
        unsafe {
            let context = (*fcinfo).context;
            let is_call = !context.is_null() && (*context).type_ == pg_sys::NodeTag::T_CallContext;
            if !is_call || (*context.cast::<pg_sys::CallContext>()).atomic {
                return None;
            }
            pg_sys::SPI_connect_ext(pg_sys::SPI_OPT_NONATOMIC as c_int);
            let result = work(&Self(()));
            pg_sys::SPI_finish();
            Some(result)
        }
    }

    /// Commits, and begins the next transaction. Not within a subtransaction.
    pub fn commit(&self) {
        // SAFETY: SPI_commit needs a connection that is not atomic. That of `with` is open as long as `self` can be borrowed, and
        // is the current one again whenever our own statements have finished.
        unsafe { pg_sys::SPI_commit() };
    }
}
