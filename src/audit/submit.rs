//! Hands a record to the audit writer of this database and waits until it is settled. Starts the writer if none runs.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vault_core::audit::queue::{Kind, Queue, Settled, Slot, Writer};
use vault_core::audit::record::{RECORD_BYTES, Record};

use crate::audit::{memory, poll, stats};
use crate::error::AuditFailure;
use crate::pg::{process, session, shmem, wait, worker};
use crate::settings;

/// How often a call without a free slot, and a rollback that has rows to write, looks for one.
pub(super) const SLOT_RETRY: Duration = Duration::from_millis(1);
/// After this long without a writer showing up, its start counts as lost.
const START_IS_STALE_AFTER: Duration = Duration::from_secs(3);

/// The number of blocking processes that an error names.
const BLOCKERS_NAMED: usize = 8;

/// The reason why a record was not written in time.
pub fn timed_out(limit: Duration, queue: Option<&Queue>) -> AuditFailure {
    match queue {
        Some(queue) if queue.failed_starts() > 0 => AuditFailure::CannotConnect,
        _ => AuditFailure::TimedOut { limit, waits_for: queue.and_then(Queue::writer_pid).and_then(waits_for) },
    }
}

/// Names the processes that block the writer, and those that block them in turn. None if the writer is not blocked.
fn waits_for(writer: i32) -> Option<String> {
    let (mut seen, mut next) = (vec![writer], 0);
    let mut sentences = Vec::new();
    while let Some(&waiting) = seen.get(next).filter(|_| next < BLOCKERS_NAMED) {
        let blockers = session::blocking_pids(waiting);
        if !blockers.is_empty() {
            let pids: Vec<_> = blockers.iter().map(i32::to_string).collect();
            let who = if waiting == writer {
                format!("The audit writer, process {writer},")
            } else {
                format!("Process {waiting}")
            };
            sentences
                .push(format!("{who} waits for a lock that process {} holds or asked for first.", pids.join(", ")));
        }
        let unseen: Vec<_> = blockers.into_iter().filter(|pid| *pid != 0 && !seen.contains(pid)).collect();
        seen.extend(unseen);
        next += 1;
    }
    (!sentences.is_empty()).then(|| sentences.join(" "))
}

thread_local! {
    static MY_QUEUE: Cell<Option<&'static Queue>> = const { Cell::new(None) };
}

/// Says that a record will follow shortly. Where one caller calls at a time, the writer then wakes up while the call is
/// still at work, and not after it.
pub fn announce() {
    if let Some(queue) = MY_QUEUE.get().filter(|queue| queue.is_quiet()) {
        wait::wake(queue.ring());
    }
}

/// Writes one row and returns when it is committed.
pub fn write(record: &Record<'_>) -> Result<(), AuditFailure> {
    let mut bytes = [0; RECORD_BYTES];
    let length = record.encode(&mut bytes);
    submit_and_wait(Kind::Record, &bytes[..length], settings::audit_timeout(), |_| ())
}

/// Audited calls of the whole server since it started.
pub fn calls() -> u64 {
    memory::get().map_or(0, |memory| memory.counters.calls.load(Ordering::Relaxed))
}

/// Hands bytes to the writer and waits until they are settled; `read` then sees the slot with the writer's answer.
pub(super) fn submit_and_wait<T>(
    kind: Kind,
    bytes: &[u8],
    timeout: Duration,
    read: impl FnOnce(&Slot) -> T,
) -> Result<T, AuditFailure> {
    let memory = memory::get().expect("callers have checked that the library was preloaded");
    let started = Instant::now();
    if kind != Kind::Probe {
        memory.counters.calls.fetch_add(1, Ordering::Relaxed);
    }

    // Calls that were cancelled, of this session or of the one that had its place before, may still hold the slots.
    let (queue, index) = loop {
        if let Some(submitted) = submit(kind, bytes, false) {
            break submitted;
        }
        if let Err(failure) = wait_for_slot(started, timeout) {
            memory.counters.failures.fetch_add(1, Ordering::Relaxed);
            return Err(failure);
        }
    };
    let slot = Lease(&memory.slots[index as usize]);
    let outcome = wait_until_settled(queue, slot.0, started, timeout);
    let wait = started.elapsed().as_micros() as u64;
    memory.counters.longest_wait.fetch_max(wait, Ordering::Relaxed);
    if outcome.is_ok() && kind == Kind::Record {
        stats::count(bytes, Some(wait));
    }
    if outcome.is_err() {
        memory.counters.failures.fetch_add(1, Ordering::Relaxed);
    }
    outcome.map(|()| read(slot.0))
}

/// Waits a moment for a slot to become free.
pub(super) fn wait_for_slot(started: Instant, timeout: Duration) -> Result<(), AuditFailure> {
    let writer = see_to_stranded();
    if started.elapsed() >= timeout {
        // Usually the slots belong to calls that gave up while the writer waits for a lock.
        return Err(writer.err().unwrap_or_else(|| match timed_out(timeout, MY_QUEUE.get()) {
            AuditFailure::TimedOut { waits_for: None, .. } => AuditFailure::NoSlot,
            failure => failure,
        }));
    }
    wait::pause(SLOT_RETRY, wait::Event::Slot);
    wait::check_for_interrupts();
    Ok(())
}

/// Waits until the record in a slot is settled; an error if it was not written.
pub(super) fn wait_until_settled(
    queue: &'static Queue,
    slot: &Slot,
    started: Instant,
    timeout: Duration,
) -> Result<(), AuditFailure> {
    loop {
        let (gate, openings) = queue.gate(slot);
        if let Some(settled) = slot.settled() {
            return match settled {
                Settled::Written => Ok(()),
                Settled::Failed(sqlstate) => Err(AuditFailure::rejected(sqlstate, slot.reason())),
            };
        }
        let writer = see_to_writer(queue);
        let left = timeout.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(writer.err().unwrap_or_else(|| timed_out(timeout, Some(queue))));
        }
        if !poll::until(queue, || slot.settled().is_some()) {
            wait::sleep_while(gate, openings, left, wait::Event::Row);
        }
        wait::check_for_interrupts();
    }
}

/// Gives the slot back however the wait ends; an unsettled one stays with the writer.
struct Lease(&'static Slot);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// Fills a free slot of this backend and queues it. None if there is none, or no queue. Fails in no other way: it also runs
/// while a transaction aborts.
pub(super) fn submit(kind: Kind, bytes: &[u8], fire_and_forget: bool) -> Option<(&'static Queue, u32)> {
    let memory = memory::get()?;
    let queue = my_queue()?;
    let first = wait::my_process_number() * memory.slots_per_process;
    let index = (first..first + memory.slots_per_process)
        .find(|index| memory.slots[*index as usize].fill(kind, bytes, fire_and_forget))?;
    queue.choose_gate(&memory.slots[index as usize]);
    if queue.push(memory.slots, index) {
        wait::wake(queue.ring());
    }
    Some((queue, index))
}

/// Makes sure that every record has a writer. Otherwise the records of refused calls would occupy slots and a queue for ever
/// in a database that nobody calls any more.
pub(super) fn see_to_stranded() -> Result<(), AuditFailure> {
    let memory = memory::get().expect("callers have checked that the library was preloaded");
    memory.queues.iter().filter(|queue| !queue.is_empty()).try_for_each(see_to_writer)
}

/// Makes sure that a writer runs or is being started.
pub(super) fn see_to_writer(queue: &'static Queue) -> Result<(), AuditFailure> {
    if queue.writer().1 == Writer::Running {
        return Ok(());
    }
    let memory = memory::get().expect("queues lie in shared memory");
    let Some(epoch) = queue.claim_start(session::now(), START_IS_STALE_AFTER.as_micros() as i64) else {
        return Ok(());
    };
    let number = queue_number(queue, memory.queues);
    let name = format!("vault_ext audit writer of database {}", queue.database());
    if worker::start(&name, number, epoch) {
        memory.counters.writers.fetch_add(1, Ordering::Relaxed);
        Ok(())
    } else {
        queue.start_failed(epoch);
        ask_idle_writers_to_leave();
        Err(AuditFailure::NoWorkerSlot)
    }
}

fn queue_number(queue: &Queue, queues: &[Queue]) -> u32 {
    queues.iter().position(|candidate| std::ptr::eq(candidate, queue)).expect("one of them") as u32
}

/// Wakes every writer and asks it to exit if it is idle: a database is about to be dropped, renamed or copied, or another
/// database needs the worker slot.
pub fn ask_idle_writers_to_leave() {
    let Some(memory) = memory::get() else { return };
    for queue in memory.queues {
        if queue.writer().1 == Writer::Running {
            queue.ask_to_leave();
            wait::wake(queue.ring());
        }
    }
}

/// The queue of this backend's database; the first call takes a place in the table of queues. None while each of them is
/// in use or has records of another database.
pub(super) fn my_queue() -> Option<&'static Queue> {
    if let Some(queue) = MY_QUEUE.get() {
        return Some(queue);
    }
    let memory = memory::get().expect("callers have checked that the library was preloaded");
    let database = session::database();
    let queue = shmem::locked(|| {
        let queue = memory
            .queues
            .iter()
            .find(|queue| queue.database() == database)
            .or_else(|| memory.queues.iter().find(|queue| queue.database() == 0))
            .or_else(|| memory.queues.iter().find(|queue| queue.is_idle()))?;
        queue.assign(database);
        queue.pin();
        Some(queue)
    })?;
    MY_QUEUE.set(Some(queue));
    process::on_exit(let_go);
    Some(queue)
}

/// Leaves the unsettled slots of this backend to the writer. Called when the backend exits.
fn let_go() {
    let (Some(memory), Some(queue)) = (memory::get(), MY_QUEUE.take()) else { return };
    let first = wait::my_process_number() * memory.slots_per_process;
    for index in first..first + memory.slots_per_process {
        memory.slots[index as usize].release();
    }
    queue.unpin();
}
