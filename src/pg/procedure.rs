//! The entry point of the procedure, which commits as it goes: pgrx has no procedure with transaction control.

use std::ffi::c_int;

use pgrx::prelude::*;

use crate::api;

/// The right to end the caller's transaction.
pub struct Transactions(());

impl Transactions {
    /// Runs `work` with that right. None in a transaction block, and in a function or a query.
    ///
    /// # Safety
    /// `fcinfo` is that of a procedure called by the server.
    unsafe fn with<T>(fcinfo: pg_sys::FunctionCallInfo, work: impl FnOnce(&Self) -> T) -> Option<T> {
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
        // SAFETY: the connection of `with` is the current one again whenever our own statements have finished.
        unsafe { pg_sys::SPI_commit() };
    }
}

/// What PG_FUNCTION_INFO_V1 makes for a function in C.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_vault_rewrap_wrapper() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn vault_rewrap_wrapper(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: the server passes its own call structure, whose first argument is declared as integer; the result's columns
    // are declared as three bigint.
    unsafe {
        let batch_size = pgrx::fcinfo::pg_getarg::<i32>(fcinfo, 0);
        let totals = Transactions::with(fcinfo, |transactions| api::admin::rewrap(batch_size, transactions));
        let Some(totals) = totals else { api::admin::rewrap_in_transaction_block() };
        let mut values = [totals.done, totals.skipped, totals.failed].map(pg_sys::Datum::from);
        let mut descriptor = std::ptr::null_mut();
        pg_sys::get_call_result_type(fcinfo, std::ptr::null_mut(), &mut descriptor);
        let tuple =
            pg_sys::heap_form_tuple(pg_sys::BlessTupleDesc(descriptor), values.as_mut_ptr(), [false; 3].as_mut_ptr());
        pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data)
    }
}
