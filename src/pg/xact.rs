//! Hearing how transactions end.

use std::cell::Cell;

use pgrx::prelude::*;

/// What a backend wants to hear. No function may fail but `before_prepare`: an error during commit or abort would take
/// the whole server down.
#[derive(Clone, Copy)]
pub struct Callbacks {
    /// The transaction committed, durably.
    pub committed: fn(),
    /// It rolled back.
    pub aborted: fn(),
    /// The savepoint or subtransaction at this nesting level merged into its parent.
    pub level_committed: fn(level: i32),
    /// It rolled back.
    pub level_aborted: fn(level: i32),
    /// PREPARE TRANSACTION begins; may still raise an error.
    pub before_prepare: fn(),
}

thread_local! {
    static CALLBACKS: Cell<Option<Callbacks>> = const { Cell::new(None) };
}

/// Registers the callbacks of this process, once; later calls change nothing.
pub fn listen(callbacks: Callbacks) {
    if CALLBACKS.get().is_some() {
        return;
    }
    CALLBACKS.set(Some(callbacks));
    // SAFETY: both functions have the signatures that the server expects and live as long as the library.
    unsafe {
        pg_sys::RegisterXactCallback(Some(transaction), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction), std::ptr::null_mut());
    }
}

/// Makes the commit of this transaction wait for the disk at least, and for standbys where the server is configured so,
/// whatever the session asked for: as SET LOCAL does.
pub fn commit_durably() {
    // SAFETY: a plain variable of this process.
    let current = unsafe { pg_sys::synchronous_commit };
    if current >= pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_REMOTE_FLUSH as i32 {
        return;
    }
    // SAFETY: within a transaction; NUL-terminated strings, which the server copies.
    unsafe {
        pg_sys::set_config_option(
            c"synchronous_commit".as_ptr(),
            c"on".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_LOCAL,
            true,
            0,
            false,
        );
    }
}

/// Depth of the current transaction: 1 at the top, one more per savepoint or subtransaction.
pub fn nesting_level() -> i32 {
    // SAFETY: reads a variable of this process.
    unsafe { pg_sys::GetCurrentTransactionNestLevel() }
}

#[pg_guard]
unsafe extern "C-unwind" fn transaction(event: pg_sys::XactEvent::Type, _arg: *mut std::ffi::c_void) {
    let Some(callbacks) = CALLBACKS.get() else { return };
    match event {
        pg_sys::XactEvent::XACT_EVENT_COMMIT => (callbacks.committed)(),
        pg_sys::XactEvent::XACT_EVENT_ABORT => (callbacks.aborted)(),
        pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE => (callbacks.before_prepare)(),
        _ => {}
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn subtransaction(
    event: pg_sys::SubXactEvent::Type,
    _id: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _arg: *mut std::ffi::c_void,
) {
    let Some(callbacks) = CALLBACKS.get() else { return };
    match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => (callbacks.level_committed)(nesting_level()),
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => (callbacks.level_aborted)(nesting_level()),
        _ => {}
    }
}
