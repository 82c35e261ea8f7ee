//! Statistics, shaped like PostgreSQL's own views.

use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::prelude::*;
use vault_core::audit::queue::{Queue, Writer};
use vault_core::audit::stats::BOUNDS;

use crate::audit::{memory, stats};
use crate::error::VaultError;
use crate::pg::composite::RowSet;
use crate::pg::session;
use crate::pg::subxact::unpack_sqlstate;

/// datid, datname, action, status, calls, total_wait_time, max_wait_time (milliseconds), stats_reset.
#[pg_extern(sql = false)]
fn action_stats() -> RowSet<8> {
    RowSet::new(|rows| {
        let Some(stats) = stats::all() else { VaultError::NotPreloaded.raise() };
        let reset_at = stats.reset_at().and_then(time);
        for (oid, database) in stats.databases() {
            for calls in database.calls() {
                rows.put([
                    datid(oid),
                    session::database_name_of(oid).into_datum(),
                    calls.action.name().into_datum(),
                    Some(calls.status).filter(|status| *status > 0).map(i32::from).into_datum(),
                    (calls.calls as i64).into_datum(),
                    milliseconds(calls.waited).into_datum(),
                    milliseconds(calls.longest).into_datum(),
                    reset_at,
                ]);
            }
        }
    })
}

/// datid, datname, action, le (milliseconds, infinity for the last one), calls that waited no longer.
#[pg_extern(sql = false)]
fn wait_stats() -> RowSet<5> {
    RowSet::new(|rows| {
        let Some(stats) = stats::all() else { VaultError::NotPreloaded.raise() };
        for (oid, database) in stats.databases() {
            for waits in database.waits() {
                let bounds = BOUNDS.iter().map(|bound| milliseconds(*bound)).chain([f64::INFINITY]);
                for (bound, calls) in bounds.zip(waits.at_most) {
                    rows.put([
                        datid(oid),
                        session::database_name_of(oid).into_datum(),
                        waits.action.name().into_datum(),
                        bound.into_datum(),
                        (calls as i64).into_datum(),
                    ]);
                }
            }
        }
    })
}

/// datid, datname, pid, state, starts, batches, rows, failures, lost, last_commit_at, last_error, last_error_at, stats_reset.
#[pg_extern(sql = false)]
fn writer_stats() -> RowSet<13> {
    RowSet::new(|rows| {
        let (Some(stats), Some(memory)) = (stats::all(), memory::get()) else { VaultError::NotPreloaded.raise() };
        let reset_at = stats.reset_at().and_then(time);
        for (oid, database) in stats.databases() {
            let queue = memory.queues.iter().find(|queue| oid != 0 && queue.database() == oid);
            let error = database.writer.last_error();
            let of = |counter: &AtomicU64| (counter.load(Ordering::Relaxed) as i64).into_datum();
            rows.put([
                datid(oid),
                session::database_name_of(oid).into_datum(),
                queue.and_then(Queue::writer_pid).into_datum(),
                state(queue).into_datum(),
                of(&database.writer.starts),
                of(&database.writer.batches),
                of(&database.writer.rows),
                of(&database.writer.failures),
                of(&database.writer.lost),
                database.writer.last_commit_at().and_then(time),
                error.map(|error| unpack_sqlstate(error.sqlstate)).into_datum(),
                error.and_then(|error| time(error.at)),
                reset_at,
            ]);
        }
    })
}

fn state(queue: Option<&Queue>) -> &'static str {
    let Some(queue) = queue else { return "stopped" };
    match queue.writer().1 {
        Writer::None => "stopped",
        Writer::Starting => "starting",
        Writer::Running if queue.busy_since().is_some() => "busy",
        Writer::Running => "idle",
    }
}

/// Begins all of these anew, for all databases. 55000 where the library was not preloaded.
#[pg_extern(sql = false)]
fn stat_reset() {
    match stats::all() {
        Some(stats) => stats.reset(session::now()),
        None => VaultError::NotPreloaded.raise(),
    }
}

fn datid(oid: u32) -> Option<pg_sys::Datum> {
    (oid != 0).then(|| pg_sys::Oid::from_u32(oid)).into_datum()
}

fn milliseconds(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

fn time(at: i64) -> Option<pg_sys::Datum> {
    TimestampWithTimeZone::try_from(at).ok().into_datum()
}
