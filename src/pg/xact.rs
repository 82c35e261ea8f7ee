//! Callbacks for the end of transactions and subtransactions.

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::prelude::*;

/// What is called when a transaction ends. Only `before_prepare` may fail: an error during commit or abort would take the
/// whole server down.
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

impl Callbacks {
    /// Does nothing: the base for those who need only a part.
    pub const NONE: Self = Self {
        committed: || (),
        aborted: || (),
        level_committed: |_| (),
        level_aborted: |_| (),
        before_prepare: || (),
    };
}

/// The number of listeners that one process can have.
const LISTENERS: usize = 6;

thread_local! {
    static CALLBACKS: Cell<[Option<&'static Callbacks>; LISTENERS]> = const { Cell::new([None; LISTENERS]) };
}

/// Registers callbacks in this process, unless they are registered already.
pub fn listen(callbacks: &'static Callbacks) {
    let mut listeners = CALLBACKS.get();
    let is_first = listeners[0].is_none();
    for listener in &mut listeners {
        match listener {
            Some(registered) if std::ptr::eq(*registered, callbacks) => return,
            Some(_) => {}
            None => {
                *listener = Some(callbacks);
                break;
            }
        }
    }
    CALLBACKS.set(listeners);
    if is_first {
        // SAFETY: both functions have the signatures that the server expects and live as long as the library.
        unsafe {
            pg_sys::RegisterXactCallback(Some(transaction), std::ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(subtransaction), std::ptr::null_mut());
        }
    }
}

/// Whether a transaction id is that of the transaction in progress, or of one of its subtransactions.
pub fn is_current(id: u32) -> bool {
    // SAFETY: looks the number up in this process's own state.
    unsafe { pg_sys::TransactionIdIsCurrentTransactionId(pg_sys::TransactionId::from(id)) }
}

/// Sets a setting until this transaction ends, as SET LOCAL does.
pub fn set_local(name: &CStr, value: &CStr) {
    // SAFETY: within a transaction; NUL-terminated strings, which the server copies.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_LOCAL,
            true,
            0,
            false,
        );
    }
}

/// Makes the commit of this transaction wait for the disk at least, and for standbys where the server is configured so,
/// whatever the session asked for: as SET LOCAL does.
pub fn commit_durably() {
    if variable!(synchronous_commit) >= pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_REMOTE_FLUSH as i32 {
        return;
    }
    set_local(c"synchronous_commit", c"on");
}

/// Depth of the current transaction: 1 at the top, one more per savepoint or subtransaction.
pub fn nesting_level() -> i32 {
    // SAFETY: the function only reads this process's own state, which exists outside transactions, too.
    unsafe { pg_sys::GetCurrentTransactionNestLevel() }
}

#[pg_guard]
unsafe extern "C-unwind" fn transaction(event: pg_sys::XactEvent::Type, _arg: *mut std::ffi::c_void) {
    for callbacks in CALLBACKS.get().into_iter().flatten() {
        match event {
            pg_sys::XactEvent::XACT_EVENT_COMMIT => (callbacks.committed)(),
            pg_sys::XactEvent::XACT_EVENT_ABORT => (callbacks.aborted)(),
            pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE => (callbacks.before_prepare)(),
            _ => {}
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn subtransaction(
    event: pg_sys::SubXactEvent::Type,
    _id: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _arg: *mut std::ffi::c_void,
) {
    for callbacks in CALLBACKS.get().into_iter().flatten() {
        match event {
            pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => (callbacks.level_committed)(nesting_level()),
            pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => (callbacks.level_aborted)(nesting_level()),
            _ => {}
        }
    }
}
