//! Changes rows in the order of the primary key past the executor: the same new row versions as from an UPDATE, in the same order of
//! checks, without a second look-up of each row, a lock of its own, or a copy of its values on their way in and out. Never waits
//! for another transaction: a row that one has locked or changed is left as it is.

use std::ffi::CStr;

use pgrx::FromDatum;
use pgrx::prelude::*;

use super::bulk::Values;
use super::lookup;
use super::session;
use super::table::{self, Place, Resolved, Table};

/// A table with a text as the first column of its primary key, and the columns to read. Keep it in a `thread_local!`.
pub struct Sweep<const N: usize, const C: usize> {
    table: Table<N>,
    key: &'static [&'static CStr],
    /// The columns that change, by their numbers among those to read. None of them is of the key.
    changed: [usize; C],
    /// With the index of the primary key.
    resolved: Resolved<(Place<N>, pg_sys::Oid)>,
}

/// What becomes of a row.
pub enum Next<const C: usize> {
    /// It is none of those that are looked for.
    Pass,
    /// It is, and stays as it is.
    Keep,
    /// Its columns get these values. They are allocated in the current memory context.
    Change(Values<C>),
}

/// What a sweep has done.
pub struct Swept {
    pub changed: u64,
    /// Whether it ended at its limit and not at the last row.
    pub is_full: bool,
}

/// A row that is being looked at.
pub struct Row<'a, const N: usize> {
    values: [pg_sys::Datum; N],
    nulls: [bool; N],
    opened: &'a Opened,
}

impl<const N: usize> Row<'_, N> {
    /// The value in a column counted from 0, which lives as long as the row is looked at; None for NULL.
    pub fn get<T: FromDatum>(&self, column: usize) -> Option<T> {
        // SAFETY: the column's type was compared with the one that the sweep names, and the row's buffer is pinned.
        unsafe { T::from_datum(self.values[column], self.nulls[column]) }
    }

    /// The text in a column counted from 0; None for NULL.
    pub fn text(&self, column: usize) -> Option<&str> {
        self.get(column)
    }

    /// Locks the row as an UPDATE would. False if that would have to wait, or if the row has been changed meanwhile.
    pub fn lock(&self) -> bool {
        // SAFETY: the row is in the slot of what is open.
        unsafe { self.opened.lock() }
    }
}

impl<const N: usize, const C: usize> Sweep<N, C> {
    /// `key` is the whole primary key.
    pub const fn new(table: Table<N>, key: &'static [&'static CStr], changed: [usize; C]) -> Self {
        Self { table, key, changed, resolved: Resolved::new() }
    }

    /// Shows the rows whose first key column is at least `from` to `look`, in the order of the key, until it has found `limit` of
    /// those that it looks for. An error of `look` ends the sweep and leaves what was changed before it. None, and nothing done,
    /// where the table is not as it must be (see `Table::lock`), or has columns or indexes that only a statement handles. Raises
    /// what a statement would raise.
    pub fn run<E>(
        &self,
        from: &str,
        limit: u64,
        mut look: impl FnMut(&Row<'_, N>) -> Result<Next<C>, E>,
    ) -> Option<Result<Swept, E>> {
        let (place, index) = self.table.lock(&self.resolved, |relation| self.index(relation))?;
        let changed = self.changed.map(|column| place.numbers[column]);
        let mut swept = Swept { changed: 0, is_full: false };
        let mut found = 0;
        // SAFETY: the table is locked and as it was when the place was found, so OIDs and column numbers are those of its present
        // relations. What is opened here is closed below; an error in between ends the (sub)transaction, which does the same.
        // The memory of a row is reset after `look` has returned and its values have been copied into the table. The scan key and
        // its text outlive the scan.
        let outcome = unsafe {
            let opened = Opened::new(place.table, index);
            let from = from.into_datum().expect("a text");
            let scan = opened.begin_scan(from);
            let outcome = loop {
                if found == limit {
                    swept.is_full = true;
                    break Ok(swept);
                }
                pgrx::check_for_interrupts!();
                if !pg_sys::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, opened.old) {
                    break Ok(swept);
                }
                let before = pg_sys::MemoryContextSwitchTo(opened.row_memory);
                let next = look(&opened.row(&place.numbers));
                match next {
                    Ok(Next::Pass) => {}
                    Ok(Next::Keep) => found += 1,
                    Ok(Next::Change(values)) => {
                        found += 1;
                        swept.changed += u64::from(opened.change(changed, values));
                    }
                    Err(_) => {}
                }
                pg_sys::MemoryContextSwitchTo(before);
                pg_sys::MemoryContextReset(opened.row_memory);
                if let Err(error) = next {
                    break Err(error);
                }
            };
            pg_sys::index_endscan(scan);
            opened.close();
            outcome
        };
        Some(outcome)
    }

    /// The index of the primary key; None if that, another index or a column is not as this module needs it.
    fn index(&self, table: pg_sys::Relation) -> Option<pg_sys::Oid> {
        // SAFETY: the relation is open (see `Table::lock`), and so its entry in the cache is valid; each index is opened here, under
        // a lock, and closed.
        unsafe {
            let is_generated = |number| (*table::attribute((*table).rd_att, number)).attgenerated != 0;
            if (1..=(*(*table).rd_att).natts as pg_sys::AttrNumber).any(is_generated) {
                return None;
            }
            let key: Option<Vec<_>> = self.key.iter().map(|name| table::column_number((*table).rd_id, name)).collect();
            let (key, primary) = (key?, lookup::primary_key(table));
            let mut has_primary = false;
            let list = pg_sys::RelationGetIndexList(table);
            let count = list.as_ref().map_or(0, |list| list.length as usize);
            for oid in (0..count).map(|at| (*(*list).elements.add(at)).oid_value) {
                let index = pg_sys::index_open(oid, pg_sys::AccessShareLock as i32);
                let is_plain = table::is_plain_index(index);
                has_primary |= oid == primary && is_ordered_by(index, &key);
                pg_sys::relation_close(index, pg_sys::NoLock as i32);
                if !is_plain {
                    return None;
                }
            }
            pg_sys::list_free(list);
            has_primary.then_some(primary)
        }
    }
}

/// Whether a valid index is on exactly these columns, the first of which is compared byte by byte. A primary key is always in ascending
/// order.
///
/// # Safety
/// The index is open.
unsafe fn is_ordered_by(index: pg_sys::Relation, key: &[pg_sys::AttrNumber]) -> bool {
    // SAFETY: as for this function. The array has an element for each column of the key, and there is at least one.
    unsafe {
        let description = &*(*index).rd_index;
        let columns = description.indnkeyatts as usize;
        description.indisvalid
            && columns == key.len()
            && description.indkey.values.as_slice(columns) == key
            && *(*index).rd_indcollation == pg_sys::C_COLLATION_OID
    }
}

/// The table with its indexes while it is swept, and what the executor would have for an UPDATE.
struct Opened {
    table: pg_sys::Relation,
    /// That of the primary key, one of the target's.
    index: pg_sys::Relation,
    state: *mut pg_sys::EState,
    target: *mut pg_sys::ResultRelInfo,
    command: pg_sys::CommandId,
    snapshot: pg_sys::Snapshot,
    row_memory: pg_sys::MemoryContext,
    /// The row version that the scan has found.
    old: *mut pg_sys::TupleTableSlot,
    /// The one that takes its place.
    new: *mut pg_sys::TupleTableSlot,
    /// For a copy that locking makes.
    locked: *mut pg_sys::TupleTableSlot,
    columns: usize,
    dropped: Vec<usize>,
    /// A server with assertions demands that a row is locked before an update that does not wait.
    locks_first: bool,
}

impl Opened {
    /// # Safety
    /// The table is locked for changes and has that index. What is opened is closed by `close`, or by the end of the transaction.
    unsafe fn new(table: pg_sys::Oid, index: pg_sys::Oid) -> Self {
        // SAFETY: as for this function. Snapshot, command and state are made in the order of PostgreSQL's executor; everything is
        // allocated in the state's memory and goes with it.
        unsafe {
            pg_sys::CommandCounterIncrement();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            let table = pg_sys::table_open(table, pg_sys::NoLock as pg_sys::LOCKMODE);
            pg_sys::CheckCmdReplicaIdentity(table, pg_sys::CmdType::CMD_UPDATE);
            let state = pg_sys::CreateExecutorState();
            let before = pg_sys::MemoryContextSwitchTo((*state).es_query_cxt);
            let target = pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast::<pg_sys::ResultRelInfo>();
            (*target).type_ = pg_sys::NodeTag::T_ResultRelInfo;
            pg_sys::InitResultRelInfo(target, table, 0, std::ptr::null_mut(), 0);
            pg_sys::ExecOpenIndices(target, false);
            let mut opened = (0..(*target).ri_NumIndices as usize).map(|at| *(*target).ri_IndexRelationDescs.add(at));
            let index = opened.find(|opened| (**opened).rd_id == index).expect("the index was found under this lock");
            let columns = (*(*table).rd_att).natts as usize;
            let is_dropped =
                |at: &usize| (*table::attribute((*table).rd_att, *at as pg_sys::AttrNumber + 1)).attisdropped;
            let opened = Self {
                table,
                index,
                state,
                target,
                command: pg_sys::GetCurrentCommandId(true),
                snapshot: pg_sys::GetActiveSnapshot(),
                row_memory: (*pg_sys::MakePerTupleExprContext(state)).ecxt_per_tuple_memory,
                old: pg_sys::table_slot_create(table, std::ptr::null_mut()),
                new: pg_sys::MakeSingleTupleTableSlot((*table).rd_att, &raw const pg_sys::TTSOpsVirtual),
                locked: pg_sys::table_slot_create(table, std::ptr::null_mut()),
                columns,
                dropped: (0..columns).filter(is_dropped).collect(),
                locks_first: session::setting(c"debug_assertions").is_some_and(|value| value == b"on"),
            };
            pg_sys::MemoryContextSwitchTo(before);
            opened
        }
    }

    /// # Safety
    /// The value is a text that lives as long as the scan.
    unsafe fn begin_scan(&self, from: pg_sys::Datum) -> pg_sys::IndexScanDesc {
        // SAFETY: as for this function; index_rescan copies the key.
        unsafe {
            let mut key = std::mem::zeroed::<pg_sys::ScanKeyData>();
            let strategy = pg_sys::BTGreaterEqualStrategyNumber as pg_sys::StrategyNumber;
            let (collation, function) = (pg_sys::C_COLLATION_OID, pg_sys::Oid::from_u32(pg_sys::F_TEXT_GE));
            pg_sys::ScanKeyEntryInitialize(&mut key, 0, 1, strategy, pg_sys::InvalidOid, collation, function, from);
            let scan = lookup::begin_scan(self.table, self.index, self.snapshot);
            pg_sys::index_rescan(scan, &mut key, 1, std::ptr::null_mut(), 0);
            scan
        }
    }

    /// # Safety
    /// The scan has found a row, and the numbers are those of columns of the table.
    unsafe fn row<const N: usize>(&self, numbers: &[pg_sys::AttrNumber; N]) -> Row<'_, N> {
        // SAFETY: as for this function. All columns are taken out of the row, since the new version gets them, too.
        unsafe {
            if ((*self.old).tts_nvalid as usize) < self.columns {
                pg_sys::slot_getsomeattrs_int(self.old, self.columns as i32);
            }
            Row {
                values: numbers.map(|number| *(*self.old).tts_values.add(number as usize - 1)),
                nulls: numbers.map(|number| *(*self.old).tts_isnull.add(number as usize - 1)),
                opened: self,
            }
        }
    }

    /// Replaces the row by one with other values in these columns. False, and nothing done, if another transaction has locked or
    /// changed it.
    ///
    /// # Safety
    /// `row` was called for it. The values are of the columns' types and live in the row's memory, which is the current one.
    unsafe fn change<const C: usize>(&self, numbers: [pg_sys::AttrNumber; C], values: Values<C>) -> bool {
        // SAFETY: as for this function. Both slots have room for all columns of the table. The new one refers to values of the old
        // row, whose buffer is pinned, until the new row version has been formed.
        unsafe {
            (*(*self.new).tts_ops).clear.expect("every kind of slot has it")(self.new);
            std::ptr::copy_nonoverlapping((*self.old).tts_values, (*self.new).tts_values, self.columns);
            std::ptr::copy_nonoverlapping((*self.old).tts_isnull, (*self.new).tts_isnull, self.columns);
            for at in &self.dropped {
                *(*self.new).tts_isnull.add(*at) = true;
            }
            for (number, value) in numbers.into_iter().zip(values) {
                *(*self.new).tts_values.add(number as usize - 1) = value.unwrap_or(pg_sys::Datum::null());
                *(*self.new).tts_isnull.add(number as usize - 1) = value.is_none();
            }
            pg_sys::ExecStoreVirtualTuple(self.new);
            pg_sys::ExecConstraints(self.target, self.new, self.state);
            let being_modified = pg_sys::TM_Result::TM_BeingModified;
            let mut outcome = if self.locks_first { (being_modified, false) } else { self.update(false) };
            // Whoever holds a lock that does not conflict, such as FOR KEY SHARE, lets us have one, too; the update then waits for
            // nobody.
            if outcome.0 == being_modified && self.lock() {
                outcome = self.update(true);
            }
            let (result, needs_index_entries) = outcome;
            if needs_index_entries {
                table::insert_index_entries(self.target, self.new, self.state, true);
            }
            result == pg_sys::TM_Result::TM_Ok
        }
    }

    /// Writes the new row version, and says whether the indexes need entries for it.
    ///
    /// # Safety
    /// Both slots are filled. `wait` only if the row is locked by this transaction.
    unsafe fn update(&self, wait: bool) -> (pg_sys::TM_Result::Type, bool) {
        // SAFETY: as for this function.
        unsafe {
            let mut failure = pg_sys::TM_FailureData::default();
            let mut mode = pg_sys::LockTupleMode::LockTupleNoKeyExclusive;
            #[cfg(feature = "pg15")]
            let mut indexes = false;
            #[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
            let mut indexes = pg_sys::TU_UpdateIndexes::TU_None;
            let result = pg_sys::table_tuple_update(
                self.table,
                &raw mut (*self.old).tts_tid,
                self.new,
                self.command,
                self.snapshot,
                std::ptr::null_mut(),
                wait,
                &mut failure,
                &mut mode,
                &mut indexes,
            );
            #[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
            let indexes = indexes != pg_sys::TU_UpdateIndexes::TU_None;
            (result, result == pg_sys::TM_Result::TM_Ok && indexes)
        }
    }

    /// # Safety
    /// The scan has found a row.
    unsafe fn lock(&self) -> bool {
        // SAFETY: as for this function. The copy in the slot, with its pin, is let go at once.
        unsafe {
            let mut failure = pg_sys::TM_FailureData::default();
            let result = pg_sys::table_tuple_lock(
                self.table,
                &raw mut (*self.old).tts_tid,
                self.snapshot,
                self.locked,
                self.command,
                pg_sys::LockTupleMode::LockTupleNoKeyExclusive,
                pg_sys::LockWaitPolicy::LockWaitSkip,
                0,
                &mut failure,
            );
            (*(*self.locked).tts_ops).clear.expect("every kind of slot has it")(self.locked);
            result == pg_sys::TM_Result::TM_Ok
        }
    }

    /// # Safety
    /// Scans of it have ended.
    unsafe fn close(self) {
        // SAFETY: as for this function; the counterpart of `new`.
        unsafe {
            for slot in [self.old, self.new, self.locked] {
                pg_sys::ExecDropSingleTupleTableSlot(slot);
            }
            pg_sys::ExecCloseIndices(self.target);
            pg_sys::FreeExecutorState(self.state);
            pg_sys::table_close(self.table, pg_sys::NoLock as pg_sys::LOCKMODE);
            pg_sys::PopActiveSnapshot();
        }
    }
}
