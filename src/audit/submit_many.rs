//! Hands many records to the audit writer together, and waits until all of them are settled. A session has few slots of its own,
//! and each batch costs a commit: these records take the slots that all sessions share, too.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vault_core::audit::queue::{Kind, Queue, Slot};

use super::memory::{self, Memory};
use super::{stats, submit};
use crate::error::AuditFailure;
use crate::pg::{process, shmem, wait};
use crate::settings;

thread_local! {
    /// The shared slots that this process holds. FATAL unwinds no Rust frame, so `let_go` gives them back when the process exits.
    static HELD: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    static WILL_LET_GO: Cell<bool> = const { Cell::new(false) };
}

/// Writes a row for each of these records (`Record::encoded`) and returns when all of them are committed. After a failure some of them may
/// have been written, and more may follow.
pub fn write_all(records: &[Vec<u8>]) -> Result<(), AuditFailure> {
    let memory = memory::get().expect("callers have checked that the library was preloaded");
    memory.counters.calls.fetch_add(records.len() as u64, Ordering::Relaxed);
    let mut run = Run { memory, records, written: 0, started: Instant::now(), timeout: settings::audit_timeout() };
    let outcome = run.write();
    memory.counters.longest_wait.fetch_max(run.waited(), Ordering::Relaxed);
    if outcome.is_err() {
        memory.counters.failures.fetch_add((records.len() - run.written) as u64, Ordering::Relaxed);
    }
    outcome
}

struct Run<'a> {
    memory: Memory,
    records: &'a [Vec<u8>],
    /// How many of them are committed. They are settled in order.
    written: usize,
    started: Instant,
    timeout: Duration,
}

impl Run<'_> {
    /// Fills all free slots, waits until the writer has settled the oldest, and goes on with the slots that are free then.
    fn write(&mut self) -> Result<(), AuditFailure> {
        let queue = loop {
            match submit::my_queue() {
                Some(queue) => break queue,
                None => submit::wait_for_slot(self.started, self.timeout)?,
            }
        };
        if !WILL_LET_GO.replace(true) {
            process::on_exit(let_go);
        }
        let mut under_way = VecDeque::new();
        while self.written < self.records.len() {
            under_way.extend(self.submit(queue, &self.records[self.written + under_way.len()..]));
            if under_way.is_empty() {
                submit::wait_for_slot(self.started, self.timeout)?;
            }
            // Those of one batch are settled together.
            let mut may_wait = true;
            while let Some(oldest) =
                under_way.front().map(Lease::slot).filter(|slot| may_wait || slot.settled().is_some())
            {
                submit::wait_until_settled(queue, oldest, self.started, self.timeout)?;
                stats::count(&self.records[self.written], Some(self.waited()));
                self.written += 1;
                under_way.pop_front();
                may_wait = false;
            }
        }
        Ok(())
    }

    /// Fills free slots with the first of these records, this session's own slots first, and queues them together.
    fn submit(&self, queue: &'static Queue, records: &[Vec<u8>]) -> Vec<Lease> {
        let (slots, shared) = (self.memory.slots, self.memory.shared_slots());
        let first = wait::my_process_number() * self.memory.slots_per_process;
        let own = first..first + self.memory.slots_per_process;
        let mut filled = Vec::with_capacity(records.len().min(own.len() + shared.len()));
        let fill = |filled: &mut Vec<u32>, mut places: std::ops::Range<u32>| {
            for record in &records[filled.len()..] {
                let Some(index) = places.find(|index| slots[*index as usize].fill(Kind::Record, record, false)) else {
                    break;
                };
                filled.push(index);
            }
        };
        fill(&mut filled, own);
        if filled.len() < records.len() {
            // Without the lock, two sessions could fill the same slot.
            shmem::locked(|| fill(&mut filled, shared.clone()));
            HELD.with_borrow_mut(|held| held.extend(filled.iter().filter(|index| shared.contains(index))));
        }
        filled.iter().for_each(|index| queue.choose_gate(&slots[*index as usize]));
        if queue.push_all(slots, &filled) {
            wait::wake(queue.ring());
        }
        filled.into_iter().map(|index| Lease { slots, index }).collect()
    }

    fn waited(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }
}

/// Gives the slot back once, however the wait ends: another session may have a shared one at once. An unsettled slot stays with
/// the writer.
struct Lease {
    slots: &'static [Slot],
    index: u32,
}

impl Lease {
    fn slot(&self) -> &'static Slot {
        &self.slots[self.index as usize]
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        HELD.with_borrow_mut(|held| held.retain(|index| *index != self.index));
        self.slot().release();
    }
}

/// Leaves the shared slots of this process to the writer. Called when the process exits.
fn let_go() {
    let Some(memory) = memory::get() else { return };
    let held = HELD.try_with(|held| held.try_borrow_mut().map(|mut held| std::mem::take(&mut *held)));
    for index in held.ok().and_then(Result::ok).unwrap_or_default() {
        memory.slots[index as usize].release();
    }
}
