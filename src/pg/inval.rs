//! Notices of catalog changes. PostgreSQL sends invalidation messages, which a process receives at the latest when it locks
//! the object that has changed.

use std::cell::Cell;

use pgrx::pg_sys::SysCacheIdentifier;
use pgrx::prelude::*;

/// The number of tables that can be watched.
const TABLES: usize = 12;
/// The number of tables that can be followed.
const FOLLOWED_AT_ONCE: usize = 8;

thread_local! {
    static TABLES_WATCHED: Cell<[u32; TABLES]> = const { Cell::new([0; TABLES]) };
    static TABLE_CHANGED: Cell<bool> = const { Cell::new(true) };
    static OBJECT_CHANGED: Cell<bool> = const { Cell::new(true) };
    static LISTENING: Cell<bool> = const { Cell::new(false) };
    static GENERATION: Cell<u64> = const { Cell::new(0) };
    static FOLLOWED: Cell<[u32; FOLLOWED_AT_ONCE]> = const { Cell::new([0; FOLLOWED_AT_ONCE]) };
}

/// A number that grows with each change of a followed table (its indexes among it), or of a schema, that this process hears of. Never 0.
pub fn generation() -> u64 {
    if GENERATION.get() == 0 {
        GENERATION.set(1);
        // SAFETY: the functions have the signatures that the server expects and live as long as the library. They only set a
        // variable of this process.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(on_any_table), pg_sys::Datum::from(0));
            let schemas = pg_sys::SysCacheIdentifier::NAMESPACEOID as i32;
            pg_sys::CacheRegisterSyscacheCallback(schemas, Some(on_schema), pg_sys::Datum::from(0));
        }
    }
    GENERATION.get()
}

/// Makes `generation` grow with changes of the table with this OID from now on. The oldest that is followed makes room.
pub fn follow(oid: u32) {
    let mut followed = FOLLOWED.get();
    if !followed.contains(&oid) {
        followed.rotate_right(1);
        followed[0] = oid;
        FOLLOWED.set(followed);
        // Whoever relied on the one that made room looks again.
        GENERATION.set(GENERATION.get() + 1);
    }
}

/// Whether one of the watched tables (its columns, policies, rules, owner), a function, a schema or a role has changed since
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
        for cache in [SysCacheIdentifier::PROCOID, SysCacheIdentifier::AUTHOID, SysCacheIdentifier::NAMESPACEOID] {
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

#[pg_guard]
unsafe extern "C-unwind" fn on_any_table(_argument: pg_sys::Datum, table: pg_sys::Oid) {
    if table == pg_sys::InvalidOid || FOLLOWED.get().contains(&table.to_u32()) {
        GENERATION.set(GENERATION.get() + 1);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_schema(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    GENERATION.set(GENERATION.get() + 1);
}
