//! Notices of catalog changes. PostgreSQL sends invalidation messages, which a process receives at the latest when it locks
//! the object that has changed.

use std::cell::Cell;

use pgrx::prelude::*;

/// The number of tables that can be watched.
const TABLES: usize = 8;

thread_local! {
    static TABLES_WATCHED: Cell<[u32; TABLES]> = const { Cell::new([0; TABLES]) };
    static TABLE_CHANGED: Cell<bool> = const { Cell::new(true) };
    static OBJECT_CHANGED: Cell<bool> = const { Cell::new(true) };
    static LISTENING: Cell<bool> = const { Cell::new(false) };
}

/// Whether one of the watched tables (its columns, policies, rules, owner), a function or a role has changed since
/// `forget_changes`. True at first.
pub fn has_changed() -> bool {
    TABLE_CHANGED.get() || OBJECT_CHANGED.get()
}

/// The same for the tables only. A process that has just locked a table has received every change of it.
pub fn has_table_changed() -> bool {
    TABLE_CHANGED.get()
}

/// Call this before looking at the catalogs.
pub fn forget_changes() {
    TABLE_CHANGED.set(false);
    OBJECT_CHANGED.set(false);
}

/// Makes `has_changed` true: what was found before cannot be relied on.
pub fn set_changed() {
    TABLE_CHANGED.set(true);
}

/// Watches the tables with these OIDs from now on, instead of the previous ones.
pub fn watch(tables: &[u32]) {
    assert!(tables.len() <= TABLES, "more tables than can be watched");
    let mut watched = [0; TABLES];
    watched.iter_mut().zip(tables).for_each(|(place, table)| *place = *table);
    TABLES_WATCHED.set(watched);
    if LISTENING.replace(true) {
        return;
    }
    // SAFETY: the functions have the signatures that the server expects and live as long as the library. They only set a
    // variable of this process.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(on_table), pg_sys::Datum::from(0));
        for cache in [pg_sys::SysCacheIdentifier::PROCOID, pg_sys::SysCacheIdentifier::AUTHOID] {
            pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(on_object), pg_sys::Datum::from(0));
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_table(_argument: pg_sys::Datum, table: pg_sys::Oid) {
    // InvalidOid stands for every table.
    if table == pg_sys::InvalidOid || TABLES_WATCHED.get().contains(&table.to_u32()) {
        TABLE_CHANGED.set(true);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_object(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    OBJECT_CHANGED.set(true);
}
