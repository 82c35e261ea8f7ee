//! For monitoring and load balancers.

use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::prelude::*;

use crate::audit::memory;
use crate::error::VaultError;
use crate::pg::composite::Row;
use crate::pg::subxact::unpack_sqlstate;
use crate::vault::health;

/// Returns ok, problem, hint, writer_pid, blocked_by, queued, last_written_at, last_error_at, last_error. Raises no error of its
/// own: `problem` says what is wrong.
#[pg_extern(sql = false)]
fn vault_health() -> Row<9> {
    let time = |at: i64| TimestampWithTimeZone::try_from(at).ok().into_datum();
    let health::Health { problem, progress } = health::health();
    let hint = problem.as_ref().map(VaultError::hint);
    let (message, detail) = (problem.as_ref().map(ToString::to_string), problem.as_ref().and_then(VaultError::detail));
    let text = message.map(|message| detail.map_or_else(|| message.clone(), |detail| format!("{message} ({detail})")));
    let mut row =
        [problem.is_none().into_datum(), text.into_datum(), hint.into_datum(), None, None, None, None, None, None];
    if let Some(progress) = progress {
        row[3] = progress.writer_pid.into_datum();
        row[4] = progress.blocked_by.into_datum();
        row[5] = progress.queued.into_datum();
        row[6] = progress.last_commit_at.and_then(time);
        row[7] = progress.last_error.and_then(|error| time(error.at));
        row[8] = progress.last_error.map(|error| unpack_sqlstate(error.sqlstate)).into_datum();
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
