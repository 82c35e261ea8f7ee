//! Checkpoints that the audit writer logs from time to time, so that they leave the machine with its log.

use std::cell::Cell;
use std::time::Duration;

use vault_trail::checkpoint::{Checkpoint, LOG_PREFIX};

use crate::pg::{session, subxact, worker};
use crate::settings;
use crate::store::{self, tree};
use crate::tree::{growth, head};

thread_local! {
    /// Size and time of the newest checkpoint that was logged; None until that has been looked up.
    static LOGGED: Cell<Option<(u64, i64)>> = const { Cell::new(None) };
}

/// Logs a checkpoint if there are new rows and the interval has passed. Never fails: the rows are written.
pub fn log_if_due() {
    let Some(interval) = settings::audit_checkpoint_interval() else { return };
    let (size, now) = (growth::size(), session::now());
    let is_due = |(logged, at): (u64, i64)| size > logged && is_past(at, interval, now);
    if size == 0 || LOGGED.get().is_some_and(|logged| !is_due(logged)) {
        return;
    }
    let logged = worker::transaction(|| {
        worker::act_as(store::OWNER);
        let newest = tree::newest_checkpoint().map_or((0, 0), |newest| (newest.size, newest.at));
        if !is_due(newest) {
            return (newest, None);
        }
        let (Some(trail), Some(root)) = (tree::current_trail(), growth::root()) else { return (newest, None) };
        let note = head::note(&Checkpoint { origin: trail.origin, size, root });
        let is_new = tree::add_checkpoint(size, &root, &note);
        ((size, now), is_new.then_some(note))
    });
    match logged {
        Ok((logged, note)) => {
            LOGGED.set(Some(logged));
            if let Some(note) = note {
                pgrx::log!("{LOG_PREFIX}{}", Checkpoint::one_line(&note));
            }
        }
        Err(error) => {
            // Not before the interval has passed once more.
            LOGGED.set(Some((size, now)));
            pgrx::warning!("vault_ext: the audit checkpoint could not be stored: {}", subxact::message(&error));
        }
    }
}

/// Whether so much time has passed since then. A clock that was set back counts as passed.
fn is_past(since: i64, interval: Duration, now: i64) -> bool {
    now < since || (now - since) as u128 >= interval.as_micros()
}
