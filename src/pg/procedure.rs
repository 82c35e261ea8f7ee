//! Procedures that commit as they go.

use std::ffi::c_int;

use pgrx::datum::Interval;
use pgrx::prelude::*;

/// What a procedure does for a batch size; it returns its counts. `None` instead of the transactions means that it was called
/// where it cannot commit.
pub type Procedure<const COUNTS: usize> = fn(Option<i32>, Option<&Transactions>) -> [i64; COUNTS];

/// The same with an age before the batch size.
pub type AgedProcedure<const COUNTS: usize> = fn(Option<Interval>, Option<i32>, Option<&Transactions>) -> [i64; COUNTS];

/// Runs a procedure whose first argument is a batch size and whose others are its counts.
///
/// # Safety
/// `fcinfo` is that of a procedure called by the server, declared with one integer and then `COUNTS` times INOUT bigint.
pub(super) unsafe fn call<const COUNTS: usize>(
    fcinfo: pg_sys::FunctionCallInfo,
    procedure: Procedure<COUNTS>,
) -> pg_sys::Datum {
    // SAFETY: the arguments are of the types that the caller promises.
    unsafe {
        let batch_size = pgrx::fcinfo::pg_getarg::<i32>(fcinfo, 0);
        counts(fcinfo, |transactions| procedure(batch_size, transactions))
    }
}

/// The same for one whose first argument is an age.
///
/// # Safety
/// `fcinfo` is that of a procedure called by the server, declared with an interval, an integer and then `COUNTS` times INOUT bigint.
pub(super) unsafe fn call_aged<const COUNTS: usize>(
    fcinfo: pg_sys::FunctionCallInfo,
    procedure: AgedProcedure<COUNTS>,
) -> pg_sys::Datum {
    // SAFETY: the arguments are of the types that the caller promises.
    unsafe {
        let age = pgrx::fcinfo::pg_getarg::<Interval>(fcinfo, 0);
        let batch_size = pgrx::fcinfo::pg_getarg::<i32>(fcinfo, 1);
        counts(fcinfo, |transactions| procedure(age, batch_size, transactions))
    }
}

/// # Safety
/// `fcinfo` is that of a procedure called by the server, and the result has `COUNTS` columns of type bigint.
unsafe fn counts<const COUNTS: usize>(
    fcinfo: pg_sys::FunctionCallInfo,
    work: impl Fn(Option<&Transactions>) -> [i64; COUNTS],
) -> pg_sys::Datum {
    // SAFETY: the result's columns are of the types that the caller promises.
    unsafe {
        let counts = Transactions::with(fcinfo, |transactions| work(Some(transactions))).unwrap_or_else(|| work(None));
        let mut values = counts.map(pg_sys::Datum::from);
        let mut descriptor = std::ptr::null_mut();
        pg_sys::get_call_result_type(fcinfo, std::ptr::null_mut(), &mut descriptor);
        let descriptor = pg_sys::BlessTupleDesc(descriptor);
        let tuple = pg_sys::heap_form_tuple(descriptor, values.as_mut_ptr(), [false; COUNTS].as_mut_ptr());
        pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data)
    }
}

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
        // SAFETY: SPI_commit needs a connection that is not atomic. That of `with` is open as long as `self` can be borrowed, and
        // is the current one again whenever our own statements have finished.
        unsafe { pg_sys::SPI_commit() };
    }
}
