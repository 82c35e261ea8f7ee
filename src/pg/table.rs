//! A table of the vault as the files `lookup`, `bulk` and `sweep` need it: they read and write it past the executor, and so past its
//! policies, rules and triggers.

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::prelude::*;
use vault_core::integrity::NODES_POLICY;

use super::inval;

/// The type of a column.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Text,
    Int2,
    Int4,
    Int8,
    Timestamp,
    Bytes,
}

impl Type {
    fn oid(self) -> pg_sys::Oid {
        match self {
            Self::Text => pg_sys::TEXTOID,
            Self::Int2 => pg_sys::INT2OID,
            Self::Int4 => pg_sys::INT4OID,
            Self::Int8 => pg_sys::INT8OID,
            Self::Timestamp => pg_sys::TIMESTAMPTZOID,
            Self::Bytes => pg_sys::BYTEAOID,
        }
    }
}

/// What is to be done with the table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Insert,
    Update,
}

impl Access {
    fn lock(self) -> pg_sys::LOCKMODE {
        let mode = match self {
            Self::Read => pg_sys::AccessShareLock,
            Self::Insert | Self::Update => pg_sys::RowExclusiveLock,
        };
        mode as pg_sys::LOCKMODE
    }

    fn privileges(self) -> &'static [pg_sys::AclMode] {
        const SELECT: pg_sys::AclMode = pg_sys::ACL_SELECT as pg_sys::AclMode;
        const INSERT: pg_sys::AclMode = pg_sys::ACL_INSERT as pg_sys::AclMode;
        const UPDATE: pg_sys::AclMode = pg_sys::ACL_UPDATE as pg_sys::AclMode;
        match self {
            Self::Read => &[SELECT],
            Self::Insert => &[INSERT],
            Self::Update => &[SELECT, UPDATE],
        }
    }

    /// Whether triggers would have to run.
    fn fires(self, triggers: &pg_sys::TriggerDesc) -> bool {
        match self {
            Self::Read => false,
            Self::Insert => {
                triggers.trig_insert_before_row
                    || triggers.trig_insert_after_row
                    || triggers.trig_insert_instead_row
                    || triggers.trig_insert_before_statement
                    || triggers.trig_insert_after_statement
                    || triggers.trig_insert_new_table
            }
            Self::Update => {
                triggers.trig_update_before_row
                    || triggers.trig_update_after_row
                    || triggers.trig_update_instead_row
                    || triggers.trig_update_before_statement
                    || triggers.trig_update_after_statement
                    || triggers.trig_update_old_table
                    || triggers.trig_update_new_table
            }
        }
    }
}

/// A table by its name, and the columns that are used.
pub struct Table<const N: usize> {
    pub schema: &'static CStr,
    pub name: &'static CStr,
    /// The table's own policies for this access. They are not evaluated, so the caller makes sure that they would let the rows
    /// through.
    pub policies: &'static [&'static CStr],
    pub access: Access,
    pub columns: [(&'static CStr, Type); N],
}

/// Where a table and its columns are.
#[derive(Clone, Copy)]
pub struct Place<const N: usize> {
    pub table: pg_sys::Oid,
    /// The role that has the privilege and that the policies bind.
    owner: pg_sys::Oid,
    pub numbers: [pg_sys::AttrNumber; N],
}

/// What `look` found, and the generation of the catalogs in which it found it.
pub struct Resolved<T>(Cell<Option<(u64, T)>>);

impl<T: Copy> Resolved<T> {
    pub const fn new() -> Self {
        Self(Cell::new(None))
    }
}

impl<const N: usize> Table<N> {
    /// Locks the table as a statement would, and gives what `look` says of the open relation; `look` runs again only after a
    /// change. None where the table is not an ordinary one that belongs to the current role, with forced row-level security,
    /// its own policies and no stricter one, or where `look` finds something else amiss. A statement then does what is right.
    pub fn lock<T: Copy>(
        &self,
        resolved: &Resolved<(Place<N>, T)>,
        look: impl Fn(pg_sys::Relation) -> Option<T>,
    ) -> Option<(Place<N>, T)> {
        loop {
            let generation = inval::generation();
            let found = match resolved.0.get() {
                Some((of, found)) if of == generation => found,
                _ => self.resolve(&look)?,
            };
            resolved.0.set(Some((generation, found)));
            // SAFETY: the lock is released with the transaction. The role is a number of this process.
            let user = unsafe {
                pg_sys::LockRelationOid(found.0.table, self.access.lock());
                pg_sys::GetUserId()
            };
            // Whoever gets a lock has received all messages about the table before.
            if inval::generation() == generation {
                return (user == found.0.owner).then_some(found);
            }
        }
    }

    /// Whether the table has no page, and so no row that anybody could see. False where a statement has to say, also if it is not as it
    /// must be (see `lock`).
    pub fn is_surely_empty(&self, resolved: &Resolved<(Place<N>, ())>) -> bool {
        let Some((place, ())) = self.lock(resolved, |_| Some(())) else { return false };
        // SAFETY: the table is locked and as it was when the place was found; it is closed again.
        unsafe {
            let table = pg_sys::relation_open(place.table, pg_sys::NoLock as pg_sys::LOCKMODE);
            let pages = pg_sys::RelationGetNumberOfBlocksInFork(table, pg_sys::ForkNumber::MAIN_FORKNUM);
            pg_sys::relation_close(table, pg_sys::NoLock as pg_sys::LOCKMODE);
            pages == 0
        }
    }

    /// Looks the table up in the catalogs.
    fn resolve<T>(&self, look: impl Fn(pg_sys::Relation) -> Option<T>) -> Option<(Place<N>, T)> {
        // SAFETY: within a transaction; names are NUL-terminated. The relation is opened under a lock, read and closed again.
        unsafe {
            let schema = pg_sys::get_namespace_oid(self.schema.as_ptr(), true);
            let oid = pg_sys::get_relname_relid(self.name.as_ptr(), schema);
            let relation = pg_sys::try_relation_open(oid, self.access.lock());
            if relation.is_null() {
                return None;
            }
            inval::follow(oid.to_u32());
            let found = self.place(relation).and_then(|place| Some((place, look(relation)?)));
            pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            found
        }
    }

    /// # Safety
    /// The relation is open.
    unsafe fn place(&self, relation: pg_sys::Relation) -> Option<Place<N>> {
        // SAFETY: the caller's relation is open, and so its entry in the cache is valid.
        unsafe {
            let (oid, form) = ((*relation).rd_id, &*(*relation).rd_rel);
            let is_ordinary = form.relkind == pg_sys::RELKIND_RELATION as std::ffi::c_char
                && form.relam == pg_sys::HEAP_TABLE_AM_OID
                && form.relrowsecurity
                && form.relforcerowsecurity
                && !form.relhassubclass
                && !form.relispartition
                && !form.relhasrules
                && self.only_own_policies_count((*relation).rd_rsdesc)
                && !(*relation).trigdesc.as_ref().is_some_and(|triggers| self.access.fires(triggers))
                && self
                    .access
                    .privileges()
                    .iter()
                    .all(|privilege| pg_sys::pg_class_aclcheck(oid, form.relowner, *privilege) == 0);
            if !is_ordinary {
                return None;
            }
            let mut numbers = [0; N];
            for (number, (name, of_type)) in numbers.iter_mut().zip(self.columns) {
                *number = column(oid, name, of_type)?;
            }
            Some(Place { table: oid, owner: form.relowner, numbers })
        }
    }

    /// Whether the table has its own policies, and none that could forbid what those allow.
    ///
    /// # Safety
    /// The description is that of an open relation.
    unsafe fn only_own_policies_count(&self, description: *mut pg_sys::RowSecurityDesc) -> bool {
        // SAFETY: the caller's description is null or has a list of policies, each with a name.
        unsafe {
            if description.is_null() || (*description).policies.is_null() {
                return false;
            }
            let list = &*(*description).policies;
            let mut policies = (0..list.length as usize)
                .map(|at| &*(*list.elements.add(at)).ptr_value.cast::<pg_sys::RowSecurityPolicy>());
            let name = |policy: &pg_sys::RowSecurityPolicy| CStr::from_ptr(policy.policy_name);
            let has = |wanted: &&CStr| policies.clone().any(|policy| name(policy) == *wanted);
            // With a policy for other nodes, rows are there.
            let is_harmless = |policy: &pg_sys::RowSecurityPolicy| {
                policy.permissive && !name(policy).to_bytes().ends_with(NODES_POLICY.as_bytes())
            };
            self.policies.iter().all(has) && policies.all(is_harmless)
        }
    }
}

/// Whether a schema has a relation of that name.
pub fn exists(schema: &CStr, name: &CStr) -> bool {
    // SAFETY: within a transaction; names are NUL-terminated. Without the schema its OID is invalid, and no relation is in it.
    unsafe {
        let schema = pg_sys::get_namespace_oid(schema.as_ptr(), true);
        pg_sys::get_relname_relid(name.as_ptr(), schema) != pg_sys::InvalidOid
    }
}

/// Locks a table as LOCK TABLE does, but on this node alone, and without a look at privileges. Raises 42P01 if there is none, and
/// 55P03 instead of waiting.
pub fn lock_here(schema: &CStr, name: &CStr, access: Access, wait: bool) {
    // SAFETY: within a transaction, which releases the lock. The names are NUL-terminated, copied, and live during the call.
    unsafe {
        let (schema, name) = (pg_sys::pstrdup(schema.as_ptr()), pg_sys::pstrdup(name.as_ptr()));
        let table = pg_sys::makeRangeVar(schema, name, -1);
        let flags = if wait { 0 } else { pg_sys::RVROption::RVR_NOWAIT };
        pg_sys::RangeVarGetRelidExtended(table, access.lock(), flags, None, std::ptr::null_mut());
    }
}

/// The number of a column; None if there is none with this name and type.
pub fn column(table: pg_sys::Oid, name: &CStr, of_type: Type) -> Option<pg_sys::AttrNumber> {
    // SAFETY: within a transaction.
    column_number(table, name).filter(|number| unsafe { pg_sys::get_atttype(table, *number) } == of_type.oid())
}

/// The same whatever its type.
pub fn column_number(table: pg_sys::Oid, name: &CStr) -> Option<pg_sys::AttrNumber> {
    // SAFETY: within a transaction; a NUL-terminated name.
    Some(unsafe { pg_sys::get_attnum(table, name.as_ptr()) }).filter(|number| *number > 0)
}

/// # Safety
/// The descriptor has that column.
pub unsafe fn attribute(
    descriptor: pg_sys::TupleDesc,
    number: pg_sys::AttrNumber,
) -> *const pg_sys::FormData_pg_attribute {
    // SAFETY: as for this function.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16", feature = "pg17"))]
        return (*descriptor).attrs.as_ptr().add(number as usize - 1);
        // There the columns follow a compact form of themselves.
        #[cfg(feature = "pg18")]
        return pgrx::pg_sys::TupleDescAttr(descriptor, i32::from(number) - 1);
    }
}

/// Whether an index is a B-tree that is written and checked at once, with each row.
///
/// # Safety
/// The index is open.
pub unsafe fn is_plain_index(index: pg_sys::Relation) -> bool {
    // SAFETY: as for this function.
    unsafe {
        (*(*index).rd_rel).relam == pg_sys::BTREE_AM_OID
            && (*(*index).rd_index).indimmediate
            && !(*(*index).rd_index).indisexclusion
    }
}

/// Gives a row its entries in all indexes, which are plain ones (`is_plain_index`). An update writes a new version of a row that has
/// some.
///
/// # Safety
/// The indexes of the target are open, and the row in the slot is in the heap.
pub unsafe fn insert_index_entries(
    target: *mut pg_sys::ResultRelInfo,
    slot: *mut pg_sys::TupleTableSlot,
    state: *mut pg_sys::EState,
    is_update: bool,
) {
    let (none, no_list) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: as for this function. All indexes are checked at once, so no list of rechecks comes back.
    unsafe {
        #[cfg(feature = "pg15")]
        pg_sys::ExecInsertIndexTuples(target, slot, state, is_update, false, none, no_list);
        #[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
        pg_sys::ExecInsertIndexTuples(target, slot, state, is_update, false, none, no_list, false);
    }
}
