//! Tests whether the trail can be written, and reports the state of the writer.

use std::time::Duration;

use vault_core::audit::queue::{Kind, LastError};
use vault_core::audit::record::{RECORD_BYTES, Record};

use super::memory;
use super::submit::{my_queue, submit_and_wait, timed_out};
use crate::error::AuditFailure;
use crate::pg::session;
use crate::settings;

/// The longest that a probe waits for the writer, and the longest that the writer may be at work on one batch before a probe
/// says so without waiting in line.
const PATIENCE: Duration = Duration::from_secs(5);
const LONG_BATCH: Duration = Duration::from_secs(1);

/// The state of this database's writer. Times are microseconds since 2000-01-01 00:00 UTC.
pub struct Progress {
    pub writer_pid: Option<i32>,
    /// Processes whose locks the writer waits for.
    pub blocked_by: Vec<i32>,
    /// Records of the whole server that are not written yet.
    pub queued: i64,
    pub last_commit_at: Option<i64>,
    pub last_error: Option<LastError>,
}

/// Asks the writer to insert a row and roll it back.
pub fn probe() -> Result<(), AuditFailure> {
    let queue = my_queue();
    if let Some(since) = queue.and_then(|queue| queue.busy_since()) {
        let busy = Duration::from_micros(session::now().saturating_sub(since).max(0) as u64);
        if busy > LONG_BATCH {
            return Err(timed_out(busy, queue));
        }
    }
    let caller = session::caller();
    let record = Record { context: Some("probe"), ..Record::of_writer(session::now(), &caller) };
    let mut bytes = [0; RECORD_BYTES];
    let length = record.encode(&mut bytes);
    submit_and_wait(Kind::Probe, &bytes[..length], settings::audit_timeout().min(PATIENCE), |_| ())
}

/// Reads the state without asking the writer.
pub fn progress() -> Progress {
    let queue = my_queue();
    let writer_pid = queue.and_then(|queue| queue.writer_pid());
    let slots = memory::get().map_or(&[][..], |memory| memory.slots);
    Progress {
        writer_pid,
        blocked_by: writer_pid.map(session::blocking_pids).unwrap_or_default(),
        queued: slots.iter().filter(|slot| slot.is_queued()).count() as i64,
        last_commit_at: queue.and_then(|queue| queue.last_commit_at()),
        last_error: queue.and_then(|queue| queue.last_error()),
    }
}
