//! Composite results of our functions.

use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::prelude::*;

/// One row whose columns match the function's declared result type, in order. `None` is NULL.
pub struct Row<const N: usize>(pub [Option<pg_sys::Datum>; N]);

// SAFETY: box_into returns the datum that it gets from `return_raw_datum`.
unsafe impl<const N: usize> BoxRet for Row<N> {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        let mut values = self.0.map(|value| value.unwrap_or_else(pg_sys::Datum::null));
        let mut nulls = self.0.map(|value| value.is_none());
        // SAFETY: the tuple descriptor is that of the function's declared composite type, checked to have N columns.
        unsafe {
            let mut descriptor = std::ptr::null_mut();
            let class = pg_sys::get_call_result_type(fcinfo.as_mut_ptr(), std::ptr::null_mut(), &mut descriptor);
            assert!(class == pg_sys::TypeFuncClass::TYPEFUNC_COMPOSITE && (*descriptor).natts as usize == N);
            let descriptor = pg_sys::BlessTupleDesc(descriptor);
            let tuple = pg_sys::heap_form_tuple(descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
            fcinfo.return_raw_datum(pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data))
        }
    }
}

// SAFETY: only says what the functions' hand-written SQL says, too.
unsafe impl<const N: usize> SqlTranslatable for Row<N> {
    const TYPE_IDENT: &'static str = "vault_ext::pg::row::Row";
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Err(ArgumentError::NotValidAsArgument("Row"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("record")));
}
