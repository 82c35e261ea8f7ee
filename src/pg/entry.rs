//! The entry points that the server looks up by name: the main functions of the workers, the procedures and the trigger function.
//! `_PG_init` registers the functions that do the work.

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::prelude::*;

use super::procedure::{self, AgedProcedure, Procedure};
use super::trigger::DeletedRow;

/// The functions behind the names.
#[derive(Clone, Copy)]
pub struct Entries {
    /// Runs an audit writer until it exits. The argument is the one that it was started with.
    pub audit_writer: fn(u32),
    /// Runs the worker that listens for SIGHUP until it exits.
    pub configuration_listener: fn(),
    /// Does the work of the procedure vault_rewrap().
    pub rewrap: Procedure<3>,
    /// Does the work of the procedure vault_destroy_due().
    pub destroy_due: Procedure<2>,
    /// Does the work of the procedure vault_purge_audit().
    pub purge_audit: AgedProcedure<1>,
    /// Does the work of the trigger function. `None` means that it was not called as AFTER DELETE … FOR EACH ROW.
    pub erase_on_delete: fn(Option<DeletedRow>),
}

thread_local! {
    static ENTRIES: Cell<Option<Entries>> = const { Cell::new(None) };
}

/// Sets the functions, when the library is loaded. Workers inherit them from the postmaster.
pub fn set(entries: Entries) {
    ENTRIES.set(Some(entries));
}

fn entries() -> Entries {
    ENTRIES.get().expect("_PG_init sets the entries whenever the library is loaded")
}

/// The names of the workers' main functions, for the postmaster.
pub const AUDIT_WRITER: &CStr = c"vault_ext_audit_writer";
pub const CONFIGURATION_LISTENER: &CStr = c"vault_ext_configuration_listener";

#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn vault_ext_audit_writer(argument: pg_sys::Datum) {
    (entries().audit_writer)(argument.value() as u32);
}

#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn vault_ext_configuration_listener(_argument: pg_sys::Datum) {
    (entries().configuration_listener)();
    // An exit with 0 would tell the postmaster not to start it again.
    // SAFETY: this worker is connected to no database, so it is in no transaction, and the listener has let go of all locks.
    unsafe { pg_sys::proc_exit(1) };
}

/// What PG_FUNCTION_INFO_V1 makes for a function in C.
const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };

#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_vault_rewrap_wrapper() -> &'static pg_sys::Pg_finfo_record {
    &V1
}

/// pgrx has no procedure with transaction control.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn vault_rewrap_wrapper(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: the server passes its own call structure; the procedure is declared with an integer and three bigint.
    unsafe { procedure::call(fcinfo, entries().rewrap) }
}

#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_vault_destroy_due_wrapper() -> &'static pg_sys::Pg_finfo_record {
    &V1
}

#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn vault_destroy_due_wrapper(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: the server passes its own call structure; the procedure is declared with an integer and two bigint.
    unsafe { procedure::call(fcinfo, entries().destroy_due) }
}

#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_vault_purge_audit_in_batches_wrapper() -> &'static pg_sys::Pg_finfo_record {
    &V1
}

#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn vault_purge_audit_in_batches_wrapper(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: the server passes its own call structure; the procedure is declared with an interval, an integer and a bigint.
    unsafe { procedure::call_aged(fcinfo, entries().purge_audit) }
}

#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_vault_erase_on_delete_wrapper() -> &'static pg_sys::Pg_finfo_record {
    &V1
}

/// pgrx has no trigger function without generated SQL.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn vault_erase_on_delete_wrapper(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: the server calls this function, and `of` asks for nothing more. The row is not kept beyond the call.
    let row = unsafe { DeletedRow::of(fcinfo) };
    (entries().erase_on_delete)(row);
    pg_sys::Datum::null()
}
