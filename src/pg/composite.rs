//! Composite results of our functions: one row, or a set of them.

use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::prelude::*;

/// One row whose first columns match the function's declared result type, in order: an older version's SQL may have fewer. `None` is NULL.
pub struct Row<const N: usize>(pub [Option<pg_sys::Datum>; N]);

// SAFETY: box_into returns the datum that it gets from `return_raw_datum`.
unsafe impl<const N: usize> BoxRet for Row<N> {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        let mut values = self.0.map(|value| value.unwrap_or_else(pg_sys::Datum::null));
        let mut nulls = self.0.map(|value| value.is_none());
        // SAFETY: the tuple descriptor is that of the function's declared composite type, checked to have at most N columns; the
        // tuple is formed before the descriptor is released.
        unsafe {
            let descriptor = expected(fcinfo.as_mut_ptr(), descriptor(fcinfo.as_mut_ptr()));
            assert!((*descriptor).natts as usize <= N);
            let tuple = pg_sys::heap_form_tuple(descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
            if (*descriptor).tdrefcount >= 0 {
                pg_sys::DecrTupleDescRefCount(descriptor);
            }
            fcinfo.return_raw_datum(pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data))
        }
    }
}

/// The descriptor of the rows that a function is to return. That of a type with a name comes from the type cache (and is
/// counted there); one of OUT parameters has to be built.
///
/// # Safety
/// `fcinfo` is that of a running call.
unsafe fn descriptor(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::TupleDesc {
    // SAFETY: the caller passes a running call, in which the function manager has set flinfo. Each of the two look-ups gives a
    // descriptor or raises an error; its class is checked.
    unsafe {
        let result_type = pg_sys::get_fn_expr_rettype((*fcinfo).flinfo);
        if result_type != pg_sys::InvalidOid && result_type != pg_sys::RECORDOID {
            return pg_sys::lookup_rowtype_tupdesc(result_type, -1);
        }
        let mut descriptor = std::ptr::null_mut();
        let class = pg_sys::get_call_result_type(fcinfo, std::ptr::null_mut(), &mut descriptor);
        assert!(class == pg_sys::TypeFuncClass::TYPEFUNC_COMPOSITE);
        pg_sys::BlessTupleDesc(descriptor)
    }
}

/// The descriptor of a row for a caller that was planned before ALTER EXTENSION … UPDATE added columns to the type, and waited
/// until that committed: it expects the columns of before. In all other cases the descriptor is the one of the function.
///
/// # Safety
/// `fcinfo` is that of a running call, and the descriptor that of its result.
unsafe fn expected(fcinfo: pg_sys::FunctionCallInfo, of_function: pg_sys::TupleDesc) -> pg_sys::TupleDesc {
    // SAFETY: the caller passes a running call. A function scan says in resultinfo which columns it expects; the node's tag is
    // checked. The copy lives until the call's memory is freed, and the descriptor that it replaces is released if it is counted.
    unsafe {
        let caller = (*fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>();
        if caller.is_null() || (*caller).type_ != pg_sys::NodeTag::T_ReturnSetInfo || (*caller).expectedDesc.is_null() {
            return of_function;
        }
        if (*(*caller).expectedDesc).natts >= (*of_function).natts {
            return of_function;
        }
        if (*of_function).tdrefcount >= 0 {
            pg_sys::DecrTupleDescRefCount(of_function);
        }
        let expected = pg_sys::CreateTupleDescCopy((*caller).expectedDesc);
        (*expected).tdtypeid = pg_sys::RECORDOID;
        (*expected).tdtypmod = -1;
        pg_sys::BlessTupleDesc(expected)
    }
}

// SAFETY: the functions' hand-written SQL has the same result type. pgrx generates no SQL from this.
unsafe impl<const N: usize> SqlTranslatable for Row<N> {
    const TYPE_IDENT: &'static str = "vault_ext::pg::row::Row";
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Err(ArgumentError::NotValidAsArgument("Row"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("record")));
}

/// A set of rows whose first columns match the function's OUT parameters, in order: an older version's SQL may have fewer. The function it holds puts them.
pub struct RowSet<const N: usize> {
    put: Box<dyn FnOnce(&mut Rows<N>)>,
    /// In kB: beyond that the rows go to a temporary file. None is work_mem.
    memory: Option<i32>,
}

impl<const N: usize> RowSet<N> {
    pub fn new(put: impl FnOnce(&mut Rows<N>) + 'static) -> Self {
        Self { put: Box::new(put), memory: None }
    }

    /// Rows that must not go to a temporary file, and are few enough for that.
    pub fn of_secrets(put: impl FnOnce(&mut Rows<N>) + 'static) -> Self {
        Self { put: Box::new(put), memory: Some(i32::MAX) }
    }
}

/// Where the rows of a set go.
pub struct Rows<const N: usize> {
    store: *mut pg_sys::Tuplestorestate,
    descriptor: pg_sys::TupleDesc,
}

impl<const N: usize> Rows<N> {
    pub fn put(&mut self, row: [Option<pg_sys::Datum>; N]) {
        let mut values = row.map(|value| value.unwrap_or_else(pg_sys::Datum::null));
        let mut nulls = row.map(|value| value.is_none());
        // SAFETY: the store is open, and the descriptor was checked to have at most N columns; the store copies the row.
        unsafe {
            pg_sys::tuplestore_putvalues(self.store, self.descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
        }
    }
}

// SAFETY: returns NULL, and the rows by materialize mode, as the server's protocol for sets asks.
unsafe impl<const N: usize> BoxRet for RowSet<N> {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: resultinfo is checked to be a ReturnSetInfo that allows materialize mode, as FROM gives it; store and
        // descriptor are made in the memory that lives as long as the query.
        unsafe {
            let result = (*fcinfo.as_mut_ptr()).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            let materialize = pg_sys::SetFunctionReturnMode::SFRM_Materialize;
            assert!(
                !result.is_null()
                    && (*result).type_ == pg_sys::NodeTag::T_ReturnSetInfo
                    && (*result).allowedModes as u32 & materialize != 0
                    && (*(*result).expectedDesc).natts as usize <= N,
                "call this function in FROM"
            );
            let caller = pg_sys::MemoryContextSwitchTo((*(*result).econtext).ecxt_per_query_memory);
            let store = pg_sys::tuplestore_begin_heap(false, false, self.memory.unwrap_or(pg_sys::work_mem));
            let descriptor = pg_sys::CreateTupleDescCopy((*result).expectedDesc);
            pg_sys::MemoryContextSwitchTo(caller);
            (self.put)(&mut Rows { store, descriptor });
            (*result).returnMode = materialize;
            (*result).setResult = store;
            (*result).setDesc = descriptor;
            fcinfo.return_null()
        }
    }
}

// SAFETY: the functions' hand-written SQL has the same result type, as a set. pgrx generates no SQL from this.
unsafe impl<const N: usize> SqlTranslatable for RowSet<N> {
    const TYPE_IDENT: &'static str = "vault_ext::pg::row::RowSet";
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Err(ArgumentError::NotValidAsArgument("RowSet"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("record")));
}
