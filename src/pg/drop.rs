//! A hook that is called before a table is dropped, whatever statement drops it.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};

use pgrx::prelude::*;

#[derive(Clone, Copy)]
struct Watched {
    schema: &'static CStr,
    table: &'static CStr,
    callback: fn(&DoomedTable),
}

thread_local! {
    static WATCHED: Cell<Option<Watched>> = const { Cell::new(None) };
}

static mut PREVIOUS: pg_sys::object_access_hook_type = None;

/// A table that this transaction has locked and is about to drop. Its policies, constraints and indexes may be gone already,
/// so that SQL on it would see whatever is left of it.
pub struct DoomedTable(pg_sys::Oid);

impl DoomedTable {
    /// Reads all of it.
    pub fn count_rows(&self) -> u64 {
        let mut count = 0;
        // SAFETY: a plain table (see `on_access`) under the lock that its deletion has taken; the scan uses no index and a
        // fresh snapshot, and ends before the table is closed. An error in between ends the (sub)transaction.
        unsafe {
            let table = pg_sys::table_open(self.0, pg_sys::NoLock as pg_sys::LOCKMODE);
            let (snapshot, keys) = (std::ptr::null_mut(), std::ptr::null_mut());
            let scan = pg_sys::systable_beginscan(table, pg_sys::InvalidOid, false, snapshot, 0, keys);
            while !pg_sys::systable_getnext(scan).is_null() {
                count += 1;
            }
            pg_sys::systable_endscan(scan);
            pg_sys::table_close(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        }
        count
    }
}

/// Calls `callback` before a plain table of that name is dropped: by itself, with its schema, its extension, its owner or
/// anything else that they depend on. Only while preloading.
pub fn before_drop_of(schema: &'static CStr, table: &'static CStr, callback: fn(&DoomedTable)) {
    WATCHED.set(Some(Watched { schema, table, callback }));
    // SAFETY: only the postmaster runs this, before it starts other processes, so nothing reads the variables meanwhile. The
    // hook keeps and calls the previous one.
    unsafe {
        PREVIOUS = pg_sys::object_access_hook;
        pg_sys::object_access_hook = Some(on_access);
    }
}

/// Whether a name that the catalogs gave is that one; frees it.
///
/// # Safety
/// NULL, or a palloc'd string that nobody else uses.
unsafe fn is_name(found: *mut c_char, name: &CStr) -> bool {
    // SAFETY: the caller promises that the string is NULL, or palloc'd and not used after this.
    unsafe {
        if found.is_null() {
            return false;
        }
        let same = CStr::from_ptr(found) == name;
        pg_sys::pfree(found.cast());
        same
    }
}

/// This hook is also called for every function of every statement, so it returns at once if nothing is dropped.
unsafe extern "C-unwind" fn on_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    column: c_int,
    argument: *mut c_void,
) {
    // SAFETY: every argument goes on as it came. An error in the previous hook may jump over this function, which holds nothing
    // that would have to be undone.
    unsafe {
        if access == pg_sys::ObjectAccessType::OAT_DROP && class == pg_sys::RelationRelationId && column == 0 {
            on_drop(object);
        }
        if let Some(previous) = PREVIOUS {
            previous(access, class, object, column, argument);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_drop(object: pg_sys::Oid) {
    // SAFETY: the server calls this in a transaction, while the catalogs still have the relation. The names that they give are
    // NULL or palloc'd strings of our own.
    unsafe {
        if let Some(watched) = WATCHED.get()
            && pg_sys::get_rel_relkind(object) == pg_sys::RELKIND_RELATION as c_char
            && is_name(pg_sys::get_rel_name(object), watched.table)
            && is_name(pg_sys::get_namespace_name(pg_sys::get_rel_namespace(object)), watched.schema)
        {
            (watched.callback)(&DoomedTable(object));
        }
    }
}
