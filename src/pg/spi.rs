//! Prepared SQL through SPI, kept per backend. pgrx's own update path assigns a transaction id even to a SELECT, which a
//! standby and a READ ONLY transaction refuse; this one does not.

use std::cell::Cell;
use std::ffi::CString;

use pgrx::prelude::*;
use pgrx::{FromDatum, IntoDatum};

/// An argument of a statement; its variant fixes the parameter's type.
#[derive(Clone, Copy)]
pub enum Arg<'a> {
    Text(&'a str),
    Int4(i32),
    Int8(i64),
    /// Microseconds since 2000-01-01 00:00 UTC.
    Timestamp(i64),
    Interval(pgrx::datum::Interval),
    TextArray(&'a [Option<&'a str>]),
}

impl Arg<'_> {
    fn type_oid(&self) -> pg_sys::Oid {
        match self {
            Self::Text(_) => pg_sys::TEXTOID,
            Self::Int4(_) => pg_sys::INT4OID,
            Self::Int8(_) => pg_sys::INT8OID,
            Self::Timestamp(_) => pg_sys::TIMESTAMPTZOID,
            Self::Interval(_) => pg_sys::INTERVALOID,
            Self::TextArray(_) => pg_sys::TEXTARRAYOID,
        }
    }

    fn datum(&self) -> pg_sys::Datum {
        let datum = match self {
            Self::Text(text) => text.into_datum(),
            Self::Int4(number) => number.into_datum(),
            Self::Int8(number) => number.into_datum(),
            Self::Timestamp(time) => TimestampWithTimeZone::try_from(*time).ok().into_datum(),
            Self::Interval(interval) => interval.into_datum(),
            Self::TextArray(texts) => Some(text_array(texts)),
        };
        datum.unwrap_or_else(pg_sys::Datum::null)
    }
}

/// Without the copies that pgrx makes on the way, which count in batches of thousands.
fn text_array(texts: &[Option<&str>]) -> pg_sys::Datum {
    let mut nulls: Vec<bool> = texts.iter().map(Option::is_none).collect();
    let mut values: Vec<pg_sys::Datum> =
        texts.iter().map(|text| text.into_datum().unwrap_or_else(pg_sys::Datum::null)).collect();
    let (mut lengths, mut lower_bounds) = ([texts.len() as i32], [1]);
    // SAFETY: one dimension with as many values and null flags as its length says; text is of variable length, passed by
    // reference and aligned as an int.
    unsafe {
        let array = pg_sys::construct_md_array(
            values.as_mut_ptr(),
            nulls.as_mut_ptr(),
            1,
            lengths.as_mut_ptr(),
            lower_bounds.as_mut_ptr(),
            pg_sys::TEXTOID,
            -1,
            false,
            pg_sys::TYPALIGN_INT as std::ffi::c_char,
        );
        pg_sys::Datum::from(array)
    }
}

/// One SQL statement with its plan, which is made at the first run. Keep it in a `thread_local!`.
pub struct Statement {
    sql: &'static str,
    options: u32,
    plan: Cell<pg_sys::SPIPlanPtr>,
}

impl Statement {
    pub const fn new(sql: &'static str) -> Self {
        Self { sql, options: 0, plan: Cell::new(std::ptr::null_mut()) }
    }

    /// Planned once, without a look at the arguments: for a row by its key, where a session's first calls would be planned
    /// anew one by one for the same plan, and for long arrays, which a planner would copy each time.
    pub const fn planned_once(sql: &'static str) -> Self {
        Self { sql, options: pg_sys::CURSOR_OPT_GENERIC_PLAN, plan: Cell::new(std::ptr::null_mut()) }
    }

    /// Runs the statement with a fresh snapshot and hands its rows to `read`. Errors are raised as PostgreSQL errors.
    pub fn run<T>(&self, args: &[Arg<'_>], read: impl FnOnce(&Rows) -> T) -> T {
        // SAFETY: the sequence connect, prepare once and keep, execute, read, finish is SPI's protocol; an error in
        // between ends the (sub)transaction, which cleans up the connection. The datums live in SPI's memory context
        // until finish.
        unsafe {
            pg_sys::SPI_connect();
            if self.plan.get().is_null() {
                self.plan.set(prepare(self.sql, self.options, args));
            }
            let mut values: Vec<pg_sys::Datum> = args.iter().map(Arg::datum).collect();
            let code = pg_sys::SPI_execute_plan(self.plan.get(), values.as_mut_ptr(), std::ptr::null(), false, 0);
            assert!(code > 0, "SPI_execute_plan failed with code {code}");
            let rows = Rows { count: pg_sys::SPI_processed, table: pg_sys::SPI_tuptable };
            let result = read(&rows);
            pg_sys::SPI_finish();
            result
        }
    }

    /// Runs a SELECT without arguments and hands its rows over in batches, under one snapshot and in flat memory.
    pub fn scan(&self, mut read: impl FnMut(&Rows)) {
        const BATCH: std::ffi::c_long = 1000;
        // SAFETY: as in `run`; the portal lives until it is closed, each batch until it is freed.
        unsafe {
            pg_sys::SPI_connect();
            if self.plan.get().is_null() {
                self.plan.set(prepare(self.sql, self.options, &[]));
            }
            let none = std::ptr::null_mut;
            let portal = pg_sys::SPI_cursor_open(std::ptr::null(), self.plan.get(), none(), std::ptr::null(), true);
            loop {
                pgrx::check_for_interrupts!();
                pg_sys::SPI_cursor_fetch(portal, true, BATCH);
                let rows = Rows { count: pg_sys::SPI_processed, table: pg_sys::SPI_tuptable };
                read(&rows);
                pg_sys::SPI_freetuptable(rows.table);
                if rows.count == 0 {
                    break;
                }
            }
            pg_sys::SPI_cursor_close(portal);
            pg_sys::SPI_finish();
        }
    }
}

/// # Safety
/// Within an SPI connection.
unsafe fn prepare(sql: &str, options: u32, args: &[Arg<'_>]) -> pg_sys::SPIPlanPtr {
    let text = CString::new(sql).expect("our SQL has no NUL");
    let mut types: Vec<pg_sys::Oid> = args.iter().map(Arg::type_oid).collect();
    // SAFETY: the caller is connected to SPI; text and types live during the call.
    unsafe {
        let plan = pg_sys::SPI_prepare_cursor(text.as_ptr(), types.len() as i32, types.as_mut_ptr(), options as i32);
        let code = pg_sys::SPI_result;
        assert!(!plan.is_null(), "SPI_prepare failed with code {code}");
        pg_sys::SPI_keepplan(plan);
        plan
    }
}

/// What a statement gave back, while it is being read.
pub struct Rows {
    count: u64,
    table: *mut pg_sys::SPITupleTable,
}

impl Rows {
    /// Rows returned or touched.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// A text in place, in a row and a column counted from 0; None for NULL.
    pub fn text(&self, row: u64, column: usize) -> Option<&str> {
        self.get(row, column)
    }

    /// The value in a row and a column, both counted from 0; None for NULL.
    pub fn get<T: FromDatum>(&self, row: u64, column: usize) -> Option<T> {
        assert!(row < self.count && !self.table.is_null());
        // SAFETY: the row exists; SPI_getbinval checks the column and gives a datum of the type that our SQL selects.
        unsafe {
            let tuple = *(*self.table).vals.add(row as usize);
            let mut is_null = false;
            let datum = pg_sys::SPI_getbinval(tuple, (*self.table).tupdesc, column as i32 + 1, &mut is_null);
            T::from_datum(datum, is_null)
        }
    }
}
