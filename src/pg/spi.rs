//! Prepared SQL through SPI, kept per backend. pgrx's own update path assigns a transaction id even to a SELECT, which a
//! standby and a READ ONLY transaction refuse; this one does not.

use std::cell::Cell;
use std::ffi::CString;

use pgrx::prelude::*;
use pgrx::{FromDatum, IntoDatum};

use super::session;

/// An argument of a statement; its variant fixes the parameter's type.
#[derive(Clone, Copy)]
pub enum Arg<'a> {
    Text(&'a str),
    Int4(i32),
    /// The same, or NULL.
    MaybeInt4(Option<i32>),
    Int8(i64),
    /// The same, or NULL.
    MaybeInt8(Option<i64>),
    /// A bytea, or NULL.
    MaybeBytes(Option<&'a [u8]>),
    /// Microseconds since 2000-01-01 00:00 UTC.
    Timestamp(i64),
    /// The same, or NULL.
    MaybeTimestamp(Option<i64>),
    /// A text, or NULL.
    MaybeText(Option<&'a str>),
    Interval(pgrx::datum::Interval),
    TextArray(&'a [&'a str]),
    TidArray(&'a [Tid]),
}

/// Where a row version lies in its table; good for as long as the row is locked.
#[derive(Clone, Copy)]
pub struct Tid(pg_sys::ItemPointerData);

impl Arg<'_> {
    fn type_oid(&self) -> pg_sys::Oid {
        match self {
            Self::Text(_) | Self::MaybeText(_) => pg_sys::TEXTOID,
            Self::Int4(_) | Self::MaybeInt4(_) => pg_sys::INT4OID,
            Self::Int8(_) | Self::MaybeInt8(_) => pg_sys::INT8OID,
            Self::MaybeBytes(_) => pg_sys::BYTEAOID,
            Self::Timestamp(_) | Self::MaybeTimestamp(_) => pg_sys::TIMESTAMPTZOID,
            Self::Interval(_) => pg_sys::INTERVALOID,
            Self::TextArray(_) => pg_sys::TEXTARRAYOID,
            Self::TidArray(_) => pg_sys::TIDARRAYOID,
        }
    }

    /// The value; None for NULL.
    fn datum(&self) -> Option<pg_sys::Datum> {
        match self {
            Self::Text(text) => text.into_datum(),
            Self::Int4(number) => number.into_datum(),
            Self::MaybeInt4(number) => number.into_datum(),
            Self::Int8(number) => number.into_datum(),
            Self::MaybeInt8(number) => number.into_datum(),
            Self::MaybeBytes(bytes) => bytes.and_then(IntoDatum::into_datum),
            Self::MaybeText(text) => text.into_datum(),
            Self::MaybeTimestamp(time) => time.and_then(|time| TimestampWithTimeZone::try_from(time).ok()).into_datum(),
            Self::Timestamp(time) => TimestampWithTimeZone::try_from(*time).ok().into_datum(),
            Self::Interval(interval) => interval.into_datum(),
            Self::TextArray(texts) => Some(text_array(texts)),
            Self::TidArray(tids) => Some(tid_array(tids)),
        }
    }
}

fn text_array(texts: &[&str]) -> pg_sys::Datum {
    let mut values: Vec<_> = texts.iter().filter_map(|text| text.into_datum()).collect();
    // SAFETY: a text is of variable length and aligned as an int.
    unsafe { array(&mut values, pg_sys::TEXTOID, -1, pg_sys::TYPALIGN_INT) }
}

fn tid_array(tids: &[Tid]) -> pg_sys::Datum {
    let mut values: Vec<_> = tids.iter().map(|tid| pg_sys::Datum::from(&raw const tid.0)).collect();
    // SAFETY: a tid has six bytes and is aligned as a short.
    unsafe { array(&mut values, pg_sys::TIDOID, size_of::<pg_sys::ItemPointerData>() as i32, pg_sys::TYPALIGN_SHORT) }
}

/// An array of copies of values that are passed by reference, none of them NULL.
///
/// # Safety
/// The values, the length and the alignment are those of the type.
unsafe fn array(values: &mut [pg_sys::Datum], of: pg_sys::Oid, type_length: i32, alignment: u8) -> pg_sys::Datum {
    let (mut lengths, mut lower_bounds) = ([values.len() as i32], [1]);
    // SAFETY: one dimension with as many values as its length says; the rest is the caller's promise.
    unsafe {
        let array = pg_sys::construct_md_array(
            values.as_mut_ptr(),
            std::ptr::null_mut(),
            1,
            lengths.as_mut_ptr(),
            lower_bounds.as_mut_ptr(),
            of,
            type_length,
            false,
            alignment as std::ffi::c_char,
        );
        pg_sys::Datum::from(array)
    }
}

thread_local! {
    /// A plan of an earlier generation is prepared again before it is used.
    static GENERATION: Cell<u32> = const { Cell::new(0) };
}

/// Makes every statement of this process prepare its plan again at its next run. PostgreSQL itself invalidates a plan when an
/// object changes that the plan depends on. Call this after a failure, whose cause no dependency may show.
pub fn forget_plans() {
    GENERATION.set(GENERATION.get().wrapping_add(1));
}

/// One SQL statement and its plan, which is prepared at the first run. Keep it in a `thread_local!`.
pub struct Statement {
    sql: &'static str,
    options: u32,
    of_latest: bool,
    plan: Cell<pg_sys::SPIPlanPtr>,
    generation: Cell<u32>,
    /// The number of runs in progress: more than one if a trigger on the statement's table calls back.
    running: Cell<u32>,
}

/// Counts a run of a statement until it ends, also by an error.
struct Run<'a>(&'a Cell<u32>);

impl<'a> Run<'a> {
    fn begin(running: &'a Cell<u32>) -> Self {
        running.set(running.get() + 1);
        Self(running)
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Statement {
    pub const fn new(sql: &'static str) -> Self {
        Self::with_options(sql, 0)
    }

    const fn with_options(sql: &'static str, options: u32) -> Self {
        let (plan, generation, running) = (Cell::new(std::ptr::null_mut()), Cell::new(0), Cell::new(0));
        Self { sql, options, of_latest: false, plan, generation, running }
    }

    /// A SELECT that sees what is committed by now, also in a transaction that keeps one snapshot: for the catalogs, of which the
    /// server itself always uses the newest rows.
    pub const fn of_latest(sql: &'static str) -> Self {
        let mut statement = Self::with_options(sql, 0);
        statement.of_latest = true;
        statement
    }

    /// Always uses a generic plan: for a row by its key, where the first runs in a session would each be planned again with
    /// the same result, and for long arrays, which the planner would copy each time.
    pub const fn planned_once(sql: &'static str) -> Self {
        Self::with_options(sql, pg_sys::CURSOR_OPT_GENERIC_PLAN)
    }

    /// Runs the statement with a fresh snapshot and hands its rows to `read`. Errors are raised as PostgreSQL errors.
    pub fn run<T>(&self, args: &[Arg<'_>], read: impl FnOnce(&Rows) -> T) -> T {
        // SAFETY: the sequence connect, prepare once and keep, execute, read, finish is SPI's protocol; an error in
        // between ends the (sub)transaction, which cleans up the connection. The datums live in SPI's memory context
        // until finish.
        unsafe {
            pg_sys::SPI_connect();
            let plan = self.plan(args);
            let _run = Run::begin(&self.running);
            let mut nulls = Vec::new();
            let value = |(position, arg): (usize, &Arg<'_>)| {
                arg.datum().unwrap_or_else(|| {
                    nulls.resize(args.len(), b' ' as std::ffi::c_char);
                    nulls[position] = b'n' as std::ffi::c_char;
                    pg_sys::Datum::null()
                })
            };
            let mut values: Vec<pg_sys::Datum> = args.iter().enumerate().map(value).collect();
            let nulls = if nulls.is_empty() { std::ptr::null() } else { nulls.as_ptr() };
            let code = if self.of_latest {
                pg_sys::CommandCounterIncrement(); // what this transaction has done so far counts, too
                let (latest, none) = (pg_sys::GetLatestSnapshot(), std::ptr::null_mut());
                pg_sys::SPI_execute_snapshot(plan, values.as_mut_ptr(), nulls, latest, none, true, false, 0)
            } else {
                pg_sys::SPI_execute_plan(plan, values.as_mut_ptr(), nulls, false, 0)
            };
            assert!(code > 0, "SPI_execute_plan failed with code {code}");
            // A rule rewrote the statement to nothing. Such a plan depends on no object and would outlive the rule.
            if code == pg_sys::SPI_OK_REWRITTEN as i32 {
                self.generation.set(GENERATION.get().wrapping_sub(1));
            }
            let rows = Rows::of_last_statement();
            let result = read(&rows);
            pg_sys::SPI_finish();
            result
        }
    }

    /// The plan. Prepares it if there is none or if it has to be prepared again.
    ///
    /// # Safety
    /// Within an SPI connection.
    unsafe fn plan(&self, args: &[Arg<'_>]) -> pg_sys::SPIPlanPtr {
        let (kept, generation) = (self.plan.get(), GENERATION.get());
        if !kept.is_null() && self.generation.get() == generation {
            return kept;
        }
        // SAFETY: the caller is connected to SPI. Only this statement has the kept plan, and it is freed only while no run
        // of it is under way; one that is goes on with its own and leaves it behind.
        unsafe {
            self.plan.set(std::ptr::null_mut());
            if !kept.is_null() && self.running.get() == 0 {
                pg_sys::SPI_freeplan(kept);
            }
            // Citus finds the node of a row where it knows the values, and refuses some statements where it does not.
            let options = if session::has_citus() { pg_sys::CURSOR_OPT_CUSTOM_PLAN } else { self.options };
            self.plan.set(prepare(self.sql, options, args));
        }
        self.generation.set(generation);
        self.plan.get()
    }

    /// Runs a SELECT, whose arguments are not NULL, and hands its rows over in batches, under one snapshot and in flat memory.
    pub fn scan(&self, args: &[Arg<'_>], mut read: impl FnMut(&Rows)) {
        const BATCH: std::ffi::c_long = 1000;
        // SAFETY: connect, prepare, open, fetch, close, finish is SPI's protocol for cursors; an error in between ends the
        // (sub)transaction, which cleans up portal and connection. `read` only borrows a batch, which is freed after it.
        unsafe {
            pg_sys::SPI_connect();
            let plan = self.plan(args);
            let _run = Run::begin(&self.running);
            let mut values: Vec<pg_sys::Datum> = args.iter().map(|arg| arg.datum().expect("not NULL")).collect();
            let portal = pg_sys::SPI_cursor_open(std::ptr::null(), plan, values.as_mut_ptr(), std::ptr::null(), true);
            loop {
                pgrx::check_for_interrupts!();
                pg_sys::SPI_cursor_fetch(portal, true, BATCH);
                let rows = Rows::of_last_statement();
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

/// The most columns of a statement that gives rows back.
const MOST_COLUMNS: usize = 24;

/// What a statement gave back, while it is being read.
pub struct Rows {
    count: u64,
    table: *mut pg_sys::SPITupleTable,
    /// The row that was read last: all its values are taken out at once.
    current: Cell<Option<u64>>,
    values: Cell<[pg_sys::Datum; MOST_COLUMNS]>,
    nulls: Cell<[bool; MOST_COLUMNS]>,
}

impl Rows {
    /// What SPI's last statement gave back.
    ///
    /// # Safety
    /// Within an SPI connection; the rows are not read after SPI has freed them.
    unsafe fn of_last_statement() -> Self {
        Self {
            count: variable!(SPI_processed),
            table: variable!(SPI_tuptable),
            current: Cell::new(None),
            values: Cell::new([pg_sys::Datum::null(); MOST_COLUMNS]),
            nulls: Cell::new([true; MOST_COLUMNS]),
        }
    }

    /// Rows returned or touched.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Calls `read` with the number of each row, counted from 0, and collects what it returns.
    pub fn collect<T>(&self, read: impl FnMut(u64) -> Option<T>) -> Vec<T> {
        (0..self.count).filter_map(read).collect()
    }

    /// A text in place, in a row and a column counted from 0; None for NULL.
    pub fn text(&self, row: u64, column: usize) -> Option<&str> {
        self.get(row, column)
    }

    /// A bytea in place, in a row and a column counted from 0; None for NULL.
    pub fn bytes(&self, row: u64, column: usize) -> Option<&[u8]> {
        self.get(row, column)
    }

    /// A bytea of 32 bytes; None for NULL and for any other length.
    pub fn hash(&self, row: u64, column: usize) -> Option<[u8; 32]> {
        self.bytes(row, column)?.try_into().ok()
    }

    /// Where a row is, of which a column counted from 0 is the ctid.
    pub fn tid(&self, row: u64, column: usize) -> Option<Tid> {
        self.get(row, column).map(Tid)
    }

    /// The value in a row and a column, both counted from 0; None for NULL.
    pub fn get<T: FromDatum>(&self, row: u64, column: usize) -> Option<T> {
        self.go_to(row);
        // SAFETY: the datum is of the type that our SQL selects, and lives as long as the rows do.
        unsafe { T::from_datum(self.values.get()[column], self.nulls.get()[column]) }
    }

    fn go_to(&self, row: u64) {
        if self.current.get() == Some(row) {
            return;
        }
        assert!(row < self.count && !self.table.is_null());
        let (mut values, mut nulls) = (self.values.get(), self.nulls.get());
        // SAFETY: the rows have not been freed (see `of_last_statement`), this one exists, and there is room for its columns.
        unsafe {
            let (tuple, descriptor) = (*(*self.table).vals.add(row as usize), (*self.table).tupdesc);
            assert!((*descriptor).natts as usize <= MOST_COLUMNS);
            pg_sys::heap_deform_tuple(tuple, descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
        }
        self.values.set(values);
        self.nulls.set(nulls);
        self.current.set(Some(row));
    }
}
