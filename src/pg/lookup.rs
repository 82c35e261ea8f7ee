//! Reads one row by its primary key from table and index themselves: a tenth of what the executor does for the same row. The row is
//! the one that a SELECT with a fresh snapshot would see, under the same locks and the same predicate locks.

use std::ffi::CStr;

use pgrx::prelude::*;
use pgrx::{FromDatum, IntoDatum};

use super::table::{self, Place, Resolved, Table, Type};

/// A table with a text as its primary key, and the columns to read. Keep it in a `thread_local!`.
pub struct Lookup<const N: usize> {
    table: Table<N>,
    key: &'static CStr,
    /// With the index of the primary key.
    resolved: Resolved<(Place<N>, pg_sys::Oid)>,
}

/// A row that is being read.
pub struct Row<'a, const N: usize> {
    values: [pg_sys::Datum; N],
    nulls: [bool; N],
    /// The values lie in the table's buffer, which stays pinned this long.
    _pinned: std::marker::PhantomData<&'a ()>,
}

impl<const N: usize> Row<'_, N> {
    /// The value in a column counted from 0; None for NULL.
    pub fn get<T: FromDatum>(&self, column: usize) -> Option<T> {
        // SAFETY: the column's type was compared with the one that the lookup names, and the buffer is pinned.
        unsafe { T::from_datum(self.values[column], self.nulls[column]) }
    }
}

/// What a lookup has found.
pub enum Found<T> {
    Row(T),
    Nothing,
    /// The table is not as it must be (see `Table::lock`). What a SELECT says of it is right.
    AskSql,
}

impl<const N: usize> Lookup<N> {
    /// `key` is the primary key alone, a text that is compared byte by byte.
    pub const fn new(table: Table<N>, key: &'static CStr) -> Self {
        Self { table, key, resolved: Resolved::new() }
    }

    /// Hands the row with that key to `read`. Raises what a SELECT would raise.
    pub fn find<T>(&self, key: &str, read: impl FnOnce(&Row<'_, N>) -> T) -> Found<T> {
        let look = |relation| self.index(relation);
        let Some((place, index)) = self.table.lock(&self.resolved, look) else { return Found::AskSql };
        // SAFETY: the table is locked and as it was when the place was found, so OIDs and column numbers are those of its present
        // relations. What is opened here is closed below; an error in between ends the (sub)transaction, which does the same.
        // The scan key and the key's text outlive the scan.
        unsafe {
            // As SPI does for a statement that is not read-only.
            pg_sys::CommandCounterIncrement();
            let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot());
            let table = pg_sys::relation_open(place.table, pg_sys::NoLock as i32);
            let index = pg_sys::index_open(index, pg_sys::AccessShareLock as i32);
            let mut scan_key = std::mem::zeroed::<pg_sys::ScanKeyData>();
            let equal = pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber;
            let wanted = key.into_datum().expect("a text");
            pg_sys::ScanKeyInit(&mut scan_key, 1, equal, pg_sys::Oid::from_u32(pg_sys::F_TEXTEQ), wanted);
            let scan = begin_scan(table, index, snapshot);
            pg_sys::index_rescan(scan, &mut scan_key, 1, std::ptr::null_mut(), 0);
            let slot = pg_sys::table_slot_create(table, std::ptr::null_mut());
            let found = if pg_sys::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot) {
                Found::Row(read(&row(slot, &place.numbers)))
            } else {
                Found::Nothing
            };
            pg_sys::ExecDropSingleTupleTableSlot(slot);
            pg_sys::index_endscan(scan);
            pg_sys::relation_close(index, pg_sys::NoLock as i32);
            pg_sys::relation_close(table, pg_sys::NoLock as i32);
            pg_sys::UnregisterSnapshot(snapshot);
            found
        }
    }

    /// The index of the primary key; None if it is another one than this module needs.
    fn index(&self, table: pg_sys::Relation) -> Option<pg_sys::Oid> {
        // SAFETY: the relation is open (see `Table::lock`), and so its entry in the cache is valid; the index is opened here, under a
        // lock, and closed.
        unsafe {
            let key = table::column((*table).rd_id, self.key, Type::Text)?;
            let oid = primary_key(table);
            if oid == pg_sys::InvalidOid {
                return None;
            }
            let index = pg_sys::index_open(oid, pg_sys::AccessShareLock as i32);
            let (form, description) = (&*(*index).rd_rel, &*(*index).rd_index);
            let is_by_key = form.relam == pg_sys::BTREE_AM_OID
                && description.indisvalid
                && description.indnkeyatts == 1
                && description.indkey.values.as_slice(1)[0] == key
                && *(*index).rd_indcollation == pg_sys::C_COLLATION_OID;
            pg_sys::relation_close(index, pg_sys::NoLock as i32);
            is_by_key.then_some(oid)
        }
    }
}

/// # Safety
/// The slot has a tuple, and the numbers are those of columns that it has.
unsafe fn row<'a, const N: usize>(slot: *mut pg_sys::TupleTableSlot, numbers: &[pg_sys::AttrNumber; N]) -> Row<'a, N> {
    let last = numbers.iter().copied().max().unwrap_or_default();
    // SAFETY: deforms the tuple up to the last column that is read below.
    unsafe {
        if (*slot).tts_nvalid < last {
            pg_sys::slot_getsomeattrs_int(slot, last.into());
        }
        Row {
            values: numbers.map(|number| *(*slot).tts_values.add(number as usize - 1)),
            nulls: numbers.map(|number| *(*slot).tts_isnull.add(number as usize - 1)),
            _pinned: std::marker::PhantomData,
        }
    }
}

/// The index of the primary key; InvalidOid without one.
///
/// # Safety
/// The relation is open.
pub unsafe fn primary_key(table: pg_sys::Relation) -> pg_sys::Oid {
    // SAFETY: as for this function. A deferrable one would not do.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16", feature = "pg17"))]
        return pg_sys::RelationGetPrimaryKeyIndex(table);
        #[cfg(feature = "pg18")]
        return pg_sys::RelationGetPrimaryKeyIndex(table, false);
    }
}

/// Begins a scan of an index with one key.
///
/// # Safety
/// The relations are open, and the snapshot is registered.
pub unsafe fn begin_scan(
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
) -> pg_sys::IndexScanDesc {
    // SAFETY: as for this function.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16", feature = "pg17"))]
        return pg_sys::index_beginscan(table, index, snapshot, 1, 0);
        #[cfg(feature = "pg18")]
        return pg_sys::index_beginscan(table, index, snapshot, std::ptr::null_mut(), 1, 0);
    }
}
