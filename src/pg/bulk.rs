//! Inserts many rows as COPY does: checked by the table's constraints, written to the heap together and then to the indexes. What a
//! statement would set up anew each time (the expressions of constraints and partial indexes, the description of each index)
//! is kept from one transaction to the next until the table changes.

use std::cell::{Cell, RefCell};
use std::ffi::CStr;

use pgrx::IntoDatum;
use pgrx::prelude::*;

use super::inval;
use super::table::{self, Place, Resolved, Table, Type};

/// The number of rows that are written together.
const CHUNK: usize = 256;

/// The values of a row, in the order of the columns; None is NULL.
pub type Values<const N: usize> = [Option<pg_sys::Datum>; N];

/// A table to insert into. One column is an identity, all others that are not named become NULL. Keep it in a `thread_local!`.
pub struct Bulk<const N: usize> {
    table: Table<N>,
    identity: &'static CStr,
    resolved: Resolved<(Place<N>, Identity)>,
    prepared: RefCell<Option<Prepared>>,
    /// The memory of what was prepared last.
    memory: Cell<pg_sys::MemoryContext>,
}

/// The identity's column and its sequence.
#[derive(Clone, Copy)]
struct Identity {
    column: pg_sys::AttrNumber,
    sequence: pg_sys::Oid,
}

/// What is kept from one transaction to the next. Relations are not: they are opened in each.
struct Prepared {
    generation: u64,
    /// The entry of the relation cache for which it was prepared.
    relation: pg_sys::Relation,
    state: *mut pg_sys::EState,
    target: *mut pg_sys::ResultRelInfo,
    indexes: Vec<pg_sys::Oid>,
    descriptor: pg_sys::TupleDesc,
    slots: Vec<*mut pg_sys::TupleTableSlot>,
}

impl<const N: usize> Bulk<N> {
    pub const fn new(table: Table<N>, identity: &'static CStr) -> Self {
        Self {
            table,
            identity,
            resolved: Resolved::new(),
            prepared: RefCell::new(None),
            memory: Cell::new(std::ptr::null_mut()),
        }
    }

    /// Inserts the rows that `rows` puts and says how many these were. None, and nothing inserted, where the table is not as it
    /// must be (see `Table::lock`), or has triggers, indexes or columns that only a statement handles. Raises what a statement
    /// would raise.
    pub fn insert(&self, rows: impl FnOnce(&mut dyn FnMut(Values<N>))) -> Option<u64> {
        let (place, identity) = self.table.lock(&self.resolved, |relation| self.identity(relation))?;
        // Taken out: after an error it is not used again.
        let kept = self.prepared.take();
        // SAFETY: the table is locked and as it was when the place was found. The relation is closed below; an error in between ends
        // the transaction, which does the same.
        let (relation, prepared) = unsafe {
            let relation = pg_sys::table_open(place.table, pg_sys::NoLock as pg_sys::LOCKMODE);
            let fits = |kept: &Prepared| kept.generation == inval::generation() && kept.relation == relation;
            (relation, kept.filter(fits).or_else(|| self.prepare(relation)))
        };
        let Some(mut prepared) = prepared else {
            // SAFETY: it was opened above.
            unsafe { pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE) };
            return None;
        };
        // SAFETY: as above; what was prepared fits the relation, so the same indexes in the same order are opened and closed.
        let inserted = unsafe {
            prepared.open_indexes();
            let mut writer = Writer { prepared: &mut prepared, place, identity, filled: 0, inserted: 0 };
            rows(&mut |values| writer.put(values));
            writer.flush();
            let inserted = writer.inserted;
            prepared.close_indexes();
            pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            inserted
        };
        self.prepared.replace(Some(prepared));
        Some(inserted)
    }

    /// The identity, if no column but the named ones and this one needs a value.
    fn identity(&self, relation: pg_sys::Relation) -> Option<Identity> {
        // SAFETY: the relation is open (see `Table::lock`), and so are its descriptor's columns as many as it says.
        unsafe {
            let (table, descriptor) = ((*relation).rd_id, (*relation).rd_att);
            let column = table::column(table, self.identity, Type::Int8)?;
            let named: Vec<_> =
                self.table.columns.iter().filter_map(|(name, of)| table::column(table, name, *of)).collect();
            for number in 1..=(*descriptor).natts as pg_sys::AttrNumber {
                let attribute = &*table::attribute(descriptor, number);
                if number == column || attribute.attisdropped {
                    continue;
                }
                let may_be_null = !attribute.attnotnull && !attribute.atthasdef;
                if attribute.attgenerated != 0
                    || attribute.attidentity != 0
                    || !(named.contains(&number) || may_be_null)
                {
                    return None;
                }
            }
            (table::attribute(descriptor, column).as_ref()?.attidentity != 0).then_some(())?;
            let sequence = sequence_of(relation, column);
            (sequence != pg_sys::InvalidOid).then_some(Identity { column, sequence })
        }
    }

    /// None if the table has an index that a statement must write.
    ///
    /// # Safety
    /// The relation is open.
    unsafe fn prepare(&self, relation: pg_sys::Relation) -> Option<Prepared> {
        let generation = inval::generation();
        // SAFETY: everything is made in memory of its own, which lives until the next time, when nothing refers to it any more. The
        // descriptor is a copy: one of the relation cache would be counted in the transaction. The indexes are closed again.
        unsafe {
            let old = self.memory.replace(std::ptr::null_mut());
            if !old.is_null() {
                pg_sys::MemoryContextDelete(old);
            }
            let memory = pg_sys::AllocSetContextCreateInternal(
                pg_sys::TopMemoryContext,
                c"vault_ext bulk insert".as_ptr(),
                pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
                pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
                pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
            );
            self.memory.set(memory);
            let before = pg_sys::MemoryContextSwitchTo(memory);
            let state = pg_sys::CreateExecutorState();
            pg_sys::MemoryContextSwitchTo((*state).es_query_cxt);
            let target = pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast::<pg_sys::ResultRelInfo>();
            (*target).type_ = pg_sys::NodeTag::T_ResultRelInfo;
            pg_sys::InitResultRelInfo(target, relation, 0, std::ptr::null_mut(), 0);
            pg_sys::ExecOpenIndices(target, false);
            let descriptor = pg_sys::CreateTupleDescCopyConstr((*relation).rd_att);
            pg_sys::MemoryContextSwitchTo(before);
            let opened = (0..(*target).ri_NumIndices as usize).map(|at| *(*target).ri_IndexRelationDescs.add(at));
            let all_are_plain = opened.clone().all(|index| table::is_plain_index(index));
            let indexes: Vec<_> = opened.clone().map(|index| (*index).rd_id).collect();
            opened.for_each(|index| pg_sys::index_close(index, pg_sys::NoLock as pg_sys::LOCKMODE));
            if !all_are_plain {
                return None;
            }
            Some(Prepared { generation, relation, state, target, indexes, descriptor, slots: Vec::new() })
        }
    }
}

impl Prepared {
    /// # Safety
    /// The table is open and locked, and this was prepared for it.
    unsafe fn open_indexes(&mut self) {
        for (at, index) in self.indexes.iter().enumerate() {
            // SAFETY: the array has a place for each index; a lock keeps it until the transaction ends.
            unsafe {
                let relation = pg_sys::index_open(*index, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE);
                *(*self.target).ri_IndexRelationDescs.add(at) = relation;
            }
        }
    }

    /// # Safety
    /// After `open_indexes`.
    unsafe fn close_indexes(&mut self) {
        for at in 0..self.indexes.len() {
            // SAFETY: each was opened before.
            unsafe {
                let relation = *(*self.target).ri_IndexRelationDescs.add(at);
                pg_sys::index_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            }
        }
    }

    /// The slot of a row of the chunk, empty.
    ///
    /// # Safety
    /// The slots before it exist.
    unsafe fn slot(&mut self, at: usize) -> *mut pg_sys::TupleTableSlot {
        if self.slots.len() == at {
            // SAFETY: made in the memory that lives as long as what was prepared; the descriptor lives there, too.
            let slot = unsafe {
                let before = pg_sys::MemoryContextSwitchTo((*self.state).es_query_cxt);
                let slot = pg_sys::MakeSingleTupleTableSlot(self.descriptor, &raw const pg_sys::TTSOpsBufferHeapTuple);
                pg_sys::MemoryContextSwitchTo(before);
                slot
            };
            self.slots.push(slot);
        }
        self.slots[at]
    }
}

/// Collects rows and writes them in chunks.
struct Writer<'a, const N: usize> {
    prepared: &'a mut Prepared,
    place: Place<N>,
    identity: Identity,
    filled: usize,
    inserted: u64,
}

impl<const N: usize> Writer<'_, N> {
    fn put(&mut self, values: Values<N>) {
        // SAFETY: the slot has room for all columns of the table, among which are those of the place. Values that are passed by
        // reference live as long as the transaction's memory.
        unsafe {
            let slot = self.prepared.slot(self.filled);
            let columns = (*self.prepared.descriptor).natts as usize;
            std::slice::from_raw_parts_mut((*slot).tts_isnull, columns).fill(true);
            let set = |number: pg_sys::AttrNumber, value: pg_sys::Datum| {
                *(*slot).tts_values.add(number as usize - 1) = value;
                *(*slot).tts_isnull.add(number as usize - 1) = false;
            };
            for (number, value) in self.place.numbers.into_iter().zip(values) {
                if let Some(value) = value {
                    set(number, value);
                }
            }
            let next = pgrx::direct_function_call::<i64>(pg_sys::nextval_oid, &[self.identity.sequence.into_datum()]);
            set(self.identity.column, next.into_datum().expect("a sequence gives a number"));
            pg_sys::ExecStoreVirtualTuple(slot);
            pg_sys::ExecConstraints(self.prepared.target, slot, self.prepared.state);
        }
        self.filled += 1;
        if self.filled == CHUNK {
            self.flush();
        }
    }

    /// Writes the rows that were put since the last time.
    fn flush(&mut self) {
        if self.filled == 0 {
            return;
        }
        let Prepared { relation, state, target, ref mut slots, .. } = *self.prepared;
        // SAFETY: relation and indexes are open and locked, and the slots hold rows that fit them. Afterwards nothing refers to the
        // memory of a row.
        unsafe {
            let command = pg_sys::GetCurrentCommandId(true);
            let (first, count) = (slots.as_mut_ptr(), self.filled as std::ffi::c_int);
            pg_sys::heap_multi_insert(relation, first, count, command, 0, std::ptr::null_mut());
            for slot in &slots[..self.filled] {
                table::insert_index_entries(target, *slot, state, false);
                let of_row = (*state).es_per_tuple_exprcontext;
                if !of_row.is_null() {
                    pg_sys::ReScanExprContext(of_row);
                }
                (*(**slot).tts_ops).clear.expect("every kind of slot has it")(*slot);
            }
        }
        self.inserted += self.filled as u64;
        self.filled = 0;
    }
}

/// The sequence of an identity; InvalidOid if there is none.
///
/// # Safety
/// The relation is open.
unsafe fn sequence_of(relation: pg_sys::Relation, column: pg_sys::AttrNumber) -> pg_sys::Oid {
    // SAFETY: as for this function.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return pg_sys::getIdentitySequence((*relation).rd_id, column, true);
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        return pg_sys::getIdentitySequence(relation, column, true);
    }
}
