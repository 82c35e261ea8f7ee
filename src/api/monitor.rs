//! For monitoring and load balancers.

use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::prelude::*;

use crate::audit::memory;
use crate::error::VaultError;
use crate::pg::composite::Row;
use crate::pg::subxact::unpack_sqlstate;
use crate::vault::health;

/// Returns ok, queued, writer_pid, blocked_by, last_written_at, last_error_at, last_error, problem, hint: what is long comes last, and
/// times have whole seconds, so that psql shows a line in 120 columns. Raises no error of its own: `problem` says what is wrong.
#[pg_extern(sql = false)]
fn vault_health() -> Row<9> {
    let time = |at: i64| TimestampWithTimeZone::try_from(at - at.rem_euclid(1_000_000)).ok().into_datum();
    let health::Health { problem, progress } = health::health();
    let hint = problem.as_ref().map(VaultError::hint);
    let (message, detail) = (problem.as_ref().map(ToString::to_string), problem.as_ref().and_then(VaultError::detail));
    let text = message.map(|message| detail.map_or_else(|| message.clone(), |detail| format!("{message} ({detail})")));
    let mut row =
        [problem.is_none().into_datum(), None, None, None, None, None, None, text.into_datum(), hint.into_datum()];
    if let Some(progress) = progress {
        row[1] = progress.queued.into_datum();
        row[2] = progress.writer_pid.into_datum();
        row[3] = progress.blocked_by.into_datum();
        row[4] = progress.last_commit_at.and_then(time);
        row[5] = progress.last_error.and_then(|error| time(error.at));
        row[6] = progress.last_error.map(|error| unpack_sqlstate(error.sqlstate)).into_datum();
    }
    Row(row)
}

/// Counters of all audit writers since the server started. 55000 where the library was not preloaded.
#[pg_extern(sql = false)]
fn audit_counters() -> Row<8> {
    let Some(memory) = memory::get() else { VaultError::NotPreloaded.raise() };
    let counters = memory.counters;
    let of = |counter: &AtomicU64| (counter.load(Ordering::Relaxed) as i64).into_datum();
    let queued = memory.slots.iter().filter(|slot| slot.is_queued()).count() as i64;
    Row([
        of(&counters.calls),
        of(&counters.rows),
        of(&counters.failures),
        of(&counters.batches),
        queued.into_datum(),
        of(&counters.longest_wait),
        of(&counters.lost),
        of(&counters.writers),
    ])
}
