//! Values of variable length that our functions build in PostgreSQL's own memory, and jsonb as its text.

use std::ffi::{CStr, CString};

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::prelude::*;

/// A bytea or a text, built without a copy elsewhere.
pub struct Varlena(pg_sys::Datum);

impl Varlena {
    /// A value of so many bytes, at most 1 GB less the header. `fill` gets them as zeros.
    ///
    /// # Errors
    /// Those of `fill`; the memory is then given back as `fill` left it.
    pub fn build<E>(len: usize, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let total = len + pg_sys::VARHDRSZ;
        // SAFETY: palloc0 gives as many zeroed bytes as asked for, or raises an error. The header is written before anybody reads
        // the value, and the slice ends before the memory does.
        unsafe {
            let value = pg_sys::palloc0(total).cast::<pg_sys::varlena>();
            pgrx::set_varsize_4b(value, total as i32);
            let data = value.cast::<u8>().add(pg_sys::VARHDRSZ);
            if let Err(error) = fill(std::slice::from_raw_parts_mut(data, len)) {
                pg_sys::pfree(value.cast());
                return Err(error);
            }
            Ok(Self(pg_sys::Datum::from(value)))
        }
    }

    /// A copy of these bytes.
    pub fn copy(bytes: &[u8]) -> Self {
        let Ok(copy) = Self::build(bytes.len(), |data| {
            data.copy_from_slice(bytes);
            Ok::<_, std::convert::Infallible>(())
        });
        copy
    }
}

// SAFETY: box_into returns the datum that it gets from `return_raw_datum`.
unsafe impl BoxRet for Varlena {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: the datum is a varlena, as are the declared results of the functions: bytea and text.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}

// SAFETY: the functions' hand-written SQL says bytea or text. pgrx generates no SQL from this.
unsafe impl SqlTranslatable for Varlena {
    const TYPE_IDENT: &'static str = "vault_ext::pg::varlena::Varlena";
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Err(ArgumentError::NotValidAsArgument("Varlena"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("bytea")));
}

/// A jsonb, never taken apart here: serde_json would round its numbers.
pub struct Jsonb(pg_sys::Datum);

impl Jsonb {
    /// Its text, as PostgreSQL writes it. Valid until the memory of the call is freed.
    pub fn text(&self) -> &str {
        // SAFETY: jsonb_out takes a jsonb, which the function's declared argument is, and gives a NUL-terminated text in the
        // current memory context.
        unsafe {
            let text = pgrx::direct_function_call_as_datum(pg_sys::jsonb_out, &[Some(self.0)]);
            let text = text.expect("jsonb_out gives a text").cast_mut_ptr();
            CStr::from_ptr(text).to_str().expect("the database is in UTF-8")
        }
    }

    /// Reads a text as jsonb; raises 22P02 if it is none.
    pub fn parse(text: &str) -> Self {
        let text = CString::new(text).unwrap_or_default();
        // SAFETY: jsonb_in takes a NUL-terminated text, which lives during the call, and gives a jsonb or raises an error.
        unsafe {
            let argument = Some(pg_sys::Datum::from(text.as_ptr()));
            Self(pgrx::direct_function_call_as_datum(pg_sys::jsonb_in, &[argument]).expect("jsonb_in gives a jsonb"))
        }
    }
}

// SAFETY: the argument's declared type is jsonb, and its datum lives during the call.
unsafe impl<'fcx> ArgAbi<'fcx> for Jsonb {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: a datum is read as a datum.
        Self(unsafe { arg.unbox_arg_using_from_datum::<pg_sys::Datum>() }.expect("the argument is not NULL"))
    }
}

// SAFETY: box_into returns the datum that it gets from `return_raw_datum`.
unsafe impl BoxRet for Jsonb {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: the datum is a jsonb, as is the declared result of the function.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}

// SAFETY: the functions' hand-written SQL says jsonb. pgrx generates no SQL from this.
unsafe impl SqlTranslatable for Jsonb {
    const TYPE_IDENT: &'static str = "vault_ext::pg::varlena::Jsonb";
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("jsonb"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("jsonb")));
}
