//! Rows that nobody waits for: those of a transaction that has ended.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vault_core::audit::queue::Kind;
use vault_core::audit::record::{RECORD_BYTES, Record};

use super::{memory, stats, submit};
use crate::pg::wait;

/// How long the end of one transaction may wait for room for its rows.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Queues one row. Never fails: a row that finds no room is counted as lost.
pub fn leave(record: &Record<'_>) {
    let mut bytes = [0; RECORD_BYTES];
    let length = record.encode(&mut bytes);
    leave_encoded(&bytes[..length], Instant::now() + PATIENCE);
}

/// The same for a row that is ready made.
pub(super) fn leave_encoded(bytes: &[u8], deadline: Instant) {
    if submit(bytes, deadline) {
        stats::count(bytes, None);
    } else if let Some(memory) = memory::get() {
        memory.counters.lost.fetch_add(1, Ordering::Relaxed);
        if let Some(stats) = stats::mine() {
            stats.writer.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// While all slots of this backend are taken it waits for one, without looking at cancel requests.
fn submit(bytes: &[u8], deadline: Instant) -> bool {
    loop {
        let submitted = submit::submit(Kind::Record, bytes, true);
        let _ = submitted.map_or_else(submit::see_to_stranded, |(queue, _)| submit::see_to_writer(queue));
        if submitted.is_some() || Instant::now() >= deadline {
            return submitted.is_some();
        }
        wait::pause(submit::SLOT_RETRY, wait::Event::Slot);
    }
}
