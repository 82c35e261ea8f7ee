//! Callers and the audit writer look for each other for a while before they sleep, as vault_ext.audit_spin says.

use std::cell::Cell;
use std::time::{Duration, Instant};

use vault_core::audit::queue::Queue;
use vault_core::audit::spin::{Outcome, TAKEN, Trial};

use crate::settings::{self, AuditSpin};

/// How long each side polls for the other before it sleeps: long enough for an fsync and a round trip to the client.
const LIMIT: Duration = Duration::from_micros(300);
/// How long a writer looks for the record that was announced.
const ANNOUNCED: Duration = Duration::from_micros(100);

thread_local! {
    static TRIAL: Cell<Trial> = const { Cell::new(Trial::NEW) };
}

/// With one caller at a time, looks for a while whether `done`; false if it did not come true.
pub fn until(queue: &Queue, done: impl Fn() -> bool) -> bool {
    let mode = settings::audit_spin();
    if mode == AuditSpin::Off || !queue.is_quiet() {
        return false;
    }
    if mode == AuditSpin::On {
        return poll(LIMIT, Duration::MAX, done) == Outcome::Came;
    }
    let mut trial = TRIAL.get();
    let came = trial.pays() && {
        let outcome = poll(LIMIT, TAKEN, done);
        trial.note(outcome);
        outcome == Outcome::Came
    };
    TRIAL.set(trial);
    came
}

/// Looks for the record that was announced.
pub fn for_announced(queue: &Queue) {
    poll(ANNOUNCED, Duration::MAX, || !queue.is_empty());
}

/// Looks for that long whether `done`, or until a look takes so long that somebody else must have used the processor.
fn poll(limit: Duration, taken: Duration, done: impl Fn() -> bool) -> Outcome {
    let started = Instant::now();
    let mut looked = started;
    while !done() {
        // Where both share a processor, the other one must get on.
        std::thread::yield_now();
        let now = Instant::now();
        if now - started >= limit {
            return if done() { Outcome::Came } else { Outcome::InVain };
        }
        if now - looked >= taken {
            return if done() { Outcome::Came } else { Outcome::Taken };
        }
        looked = now;
    }
    Outcome::Came
}
