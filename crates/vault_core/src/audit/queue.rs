//! The way of a record from a backend to its database's writer: slots and a lock-free list in shared memory. Only
//! atomics, no unsafe and no server, so that threads can test it.
//!
//! A slot belongs to one backend. It goes FREE -> QUEUED -> OK or FAILED -> FREE while its owner waits, and
//! QUEUED -> ABANDONED -> FREE when the owner gave up (cancel, deadline, exit): then the writer frees it.
//! The list is only ever pushed to one by one and taken whole, so no element can be taken twice and no ABA arises.

#[cfg(feature = "loom")]
use loom::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
#[cfg(not(feature = "loom"))]
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use super::record::RECORD_BYTES;

// The crate audit_queue_models includes this file and sets the feature.
#[cfg(all(test, feature = "loom"))]
#[path = "queue/models.rs"]
mod models;

/// The models use records of one word.
const WORDS: usize = if cfg!(feature = "loom") { 1 } else { RECORD_BYTES / 8 };

/// So many batches of one record in a row count as quiet.
const QUIET_AFTER: u32 = 16;

const FREE: u32 = 0;
const QUEUED: u32 = 1;
const ABANDONED: u32 = 2;
const OK: u32 = 3;
const FAILED: u32 = 4;

/// Counters of all audit writers since the server started. All zero bytes are a fresh start.
#[derive(Debug)]
pub struct Counters {
    pub calls: AtomicU64,
    pub rows: AtomicU64,
    pub failures: AtomicU64,
    pub batches: AtomicU64,
    pub longest_wait: AtomicU64,
    pub lost: AtomicU64,
    pub writers: AtomicU64,
    _unused: AtomicU64,
}

/// What the writer is to do with a slot's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Insert an audit record.
    Record = 0,
    /// Record the check value of a KEK that this database has not seen yet, or answer with the known one.
    RegisterKek = 1,
    /// Insert an audit record and take it back: can the trail be written?
    Probe = 2,
}

impl Kind {
    /// What a slot's bytes are once the writer has put the reason of a failure there.
    const REASON: u32 = 3;
}

/// How the writer settled a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Committed.
    Written,
    /// Not committed; the packed SQLSTATE of the reason.
    Failed(i32),
}

/// One record under way. All zero bytes are a free slot.
#[derive(Debug)]
pub struct Slot {
    state: AtomicU32,
    next: AtomicU32,
    kind: AtomicU32,
    length: AtomicU32,
    failure: AtomicU32,
    /// Which gate of the queue the owner sleeps at.
    gate: AtomicU32,
    bytes: [AtomicU64; WORDS],
}

impl Slot {
    /// Fills a free slot of the calling backend and marks it queued. `abandoned`: nobody will wait for it.
    /// False if the slot is not free.
    pub fn fill(&self, kind: Kind, bytes: &[u8], abandoned: bool) -> bool {
        if self.state.load(Ordering::Acquire) != FREE {
            return false;
        }
        self.kind.store(kind as u32, Ordering::Relaxed);
        self.write(bytes);
        self.state.store(if abandoned { ABANDONED } else { QUEUED }, Ordering::Release);
        true
    }

    fn write(&self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(RECORD_BYTES)];
        self.length.store(bytes.len() as u32, Ordering::Relaxed);
        for (word, chunk) in self.bytes.iter().zip(bytes.chunks(8)) {
            let mut padded = [0; 8];
            padded[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_ne_bytes(padded), Ordering::Relaxed);
        }
    }

    /// Copies the bytes out and returns their number.
    pub fn read(&self, buffer: &mut [u8; RECORD_BYTES]) -> usize {
        let length = (self.length.load(Ordering::Relaxed) as usize).min(RECORD_BYTES);
        for (chunk, word) in buffer[..length.next_multiple_of(8)].chunks_mut(8).zip(&self.bytes) {
            chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        length
    }

    pub fn kind(&self) -> Kind {
        match self.kind.load(Ordering::Relaxed) {
            kind if kind == Kind::RegisterKek as u32 => Kind::RegisterKek,
            kind if kind == Kind::Probe as u32 => Kind::Probe,
            _ => Kind::Record,
        }
    }

    /// The writer's last word. True if the owner still waits and is to be woken. The answer overwrites the slot's bytes: a
    /// failure's is its reason, as text.
    pub fn settle(&self, outcome: Settled, answer: Option<&[u8]>) -> bool {
        if let Some(answer) = answer {
            self.write(answer);
            if matches!(outcome, Settled::Failed(_)) {
                self.kind.store(Kind::REASON, Ordering::Relaxed);
            }
        }
        let state = match outcome {
            Settled::Written => OK,
            Settled::Failed(sqlstate) => {
                self.failure.store(sqlstate as u32, Ordering::Relaxed);
                FAILED
            }
        };
        if self.state.compare_exchange(QUEUED, state, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return true;
        }
        self.state.store(FREE, Ordering::Release);
        false
    }

    /// The owner looks whether it is settled.
    pub fn settled(&self) -> Option<Settled> {
        match self.state.load(Ordering::Acquire) {
            OK => Some(Settled::Written),
            FAILED => Some(Settled::Failed(self.failure.load(Ordering::Relaxed) as i32)),
            _ => None,
        }
    }

    /// The reason that the writer gave for a failure, if it gave one.
    pub fn reason(&self) -> Option<String> {
        let mut bytes = [0; RECORD_BYTES];
        (self.kind.load(Ordering::Relaxed) == Kind::REASON).then(|| {
            let length = self.read(&mut bytes);
            String::from_utf8_lossy(&bytes[..length]).into_owned()
        })
    }

    /// The owner is done with it: a settled slot is free again, an unsettled one will be freed by the writer.
    /// Does nothing to a slot that is free or abandoned already.
    pub fn release(&self) {
        if self.state.compare_exchange(QUEUED, ABANDONED, Ordering::AcqRel, Ordering::Acquire).is_err() {
            let state = self.state.load(Ordering::Acquire);
            if state == OK || state == FAILED {
                self.state.store(FREE, Ordering::Release);
            }
        }
    }

    fn gate(&self) -> usize {
        self.gate.load(Ordering::Relaxed) as usize % 2
    }

    /// Handed to the writer and not settled yet.
    pub fn is_queued(&self) -> bool {
        matches!(self.state.load(Ordering::Acquire), QUEUED | ABANDONED)
    }

    #[cfg(test)]
    pub fn is_free(&self) -> bool {
        self.state.load(Ordering::Acquire) == FREE
    }
}

/// Where a database's writer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    None,
    Starting,
    Running,
}

/// One database's list and writer. All zero bytes are an unused entry.
#[derive(Debug)]
pub struct Queue {
    /// OID of the database, 0 in an unused entry.
    database: AtomicU32,
    /// Backends (and the writer) that use this entry: it may be given to another database when there are none.
    pins: AtomicU32,
    /// Slot number plus 1 of the newest record, 0 when empty.
    head: AtomicU32,
    /// Rings so far: the word on which an idle writer sleeps. A count, so that no ring between a last look at the list
    /// and the sleep is missed.
    bell: AtomicU32,
    /// 1 while somebody wants the writer to go as soon as it has nothing to do.
    leave: AtomicU32,
    /// Batches of one record in a row, see `is_quiet`.
    single_batches: AtomicU32,
    /// Batches taken so far.
    takes: AtomicU32,
    /// Writers in a row that could not connect to the database.
    failed_starts: AtomicU32,
    /// The words on which owners sleep, counts of openings. One wake lets a whole batch through, and those who came for
    /// the next batch sleep at the other gate.
    gates: [AtomicU32; 2],
    /// Epoch of the writer in the upper bits, its state in the lowest two. An old writer cannot touch a newer one's state.
    writer: AtomicU64,
    /// When STARTING began, microseconds: a start may get lost when a fork fails.
    starting_since: AtomicI64,
    progress: Progress,
}

/// How the writer is getting on, for those who look on. Times are microseconds since 2000-01-01 00:00 UTC, 0 for never.
#[derive(Debug)]
struct Progress {
    /// The writer's process id; 0 while there is none.
    pid: AtomicU32,
    /// The packed SQLSTATE of the last batch that failed.
    last_error: AtomicU32,
    last_error_at: AtomicI64,
    last_commit_at: AtomicI64,
    /// Since when it has been at work without having settled a record; 0 while it has nothing to do.
    busy_since: AtomicI64,
}

/// A failed batch: its SQLSTATE, packed, and when it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastError {
    pub sqlstate: i32,
    pub at: i64,
}

impl Queue {
    pub fn database(&self) -> u32 {
        self.database.load(Ordering::Acquire)
    }

    /// Claims the entry for a database. Only under the lock that guards the table of entries.
    pub fn assign(&self, database: u32) {
        if self.database.swap(database, Ordering::AcqRel) != database {
            self.failed_starts.store(0, Ordering::Relaxed);
            let progress = &self.progress;
            progress.last_error.store(0, Ordering::Relaxed);
            [&progress.last_error_at, &progress.last_commit_at, &progress.busy_since]
                .into_iter()
                .for_each(|time| time.store(0, Ordering::Relaxed));
        }
    }

    pub fn pin(&self) {
        self.pins.fetch_add(1, Ordering::AcqRel);
    }

    pub fn unpin(&self) {
        self.pins.fetch_sub(1, Ordering::AcqRel);
    }

    /// None but the writer that asks.
    pub fn has_no_backend(&self) -> bool {
        self.pins.load(Ordering::Acquire) == 1
    }

    /// Nobody uses the entry, nothing is queued, no writer runs.
    pub fn is_idle(&self) -> bool {
        self.pins.load(Ordering::Acquire) == 0 && self.is_empty() && self.writer().1 == Writer::None
    }

    pub fn is_empty(&self) -> bool {
        self.head.load(Ordering::SeqCst) == 0
    }

    /// Puts a filled slot on the list. True if the list was empty: then the writer is to be rung.
    pub fn push(&self, slots: &[Slot], index: u32) -> bool {
        self.push_all(slots, &[index])
    }

    /// Puts filled slots on the list in one step, so that one take gets all of them. True if they are the only ones.
    pub fn push_all(&self, slots: &[Slot], indices: &[u32]) -> bool {
        let (Some(first), Some(last)) = (indices.first(), indices.last()) else { return false };
        for pair in indices.windows(2) {
            slots[pair[1] as usize].next.store(pair[0] + 1, Ordering::Relaxed);
        }
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            slots[*first as usize].next.store(head, Ordering::Relaxed);
            match self.head.compare_exchange_weak(head, last + 1, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return head == 0,
                Err(current) => head = current,
            }
        }
    }

    /// Takes the whole list, oldest first.
    pub fn take(&self, slots: &[Slot], taken: &mut Vec<u32>) {
        let start = taken.len();
        let mut next = self.head.swap(0, Ordering::SeqCst);
        if next != 0 {
            self.takes.fetch_add(1, Ordering::Relaxed);
        }
        while next != 0 {
            let index = next - 1;
            taken.push(index);
            next = slots[index as usize].next.load(Ordering::Relaxed);
        }
        taken[start..].reverse();
    }

    /// Chooses the gate of a slot that is about to be pushed. The next take will most likely get it; if not, its gate lets
    /// the others through in vain.
    pub fn choose_gate(&self, slot: &Slot) {
        slot.gate.store(self.takes.load(Ordering::Relaxed).wrapping_add(1) % 2, Ordering::Relaxed);
    }

    /// The word on which the owner of a slot sleeps, and its value now: read it, look at the slot, then sleep.
    pub fn gate(&self, slot: &Slot) -> (&AtomicU32, u32) {
        let gate = &self.gates[slot.gate()];
        (gate, gate.load(Ordering::SeqCst))
    }

    /// Opens the gates of these slots, each once; the caller then wakes who sleeps on the words.
    pub fn open_gates<'a>(&self, slots: impl Iterator<Item = &'a Slot>) -> impl Iterator<Item = &AtomicU32> {
        let mut open = [false; 2];
        slots.for_each(|slot| open[slot.gate()] = true);
        self.gates.iter().zip(open).filter(|(_, open)| *open).map(|(gate, _)| {
            gate.fetch_add(1, Ordering::SeqCst);
            gate
        })
    }

    /// Epoch and state of the writer.
    pub fn writer(&self) -> (u64, Writer) {
        unpack(self.writer.load(Ordering::SeqCst))
    }

    /// The word that changes with each ring.
    pub fn bell(&self) -> &AtomicU32 {
        &self.bell
    }

    /// Counts a ring; the caller then wakes who sleeps on the word.
    pub fn ring(&self) -> &AtomicU32 {
        self.bell.fetch_add(1, Ordering::SeqCst);
        &self.bell
    }

    /// The writer says how many records its last batch had.
    pub fn note_batch(&self, records: usize) {
        let singles = if records == 1 { self.single_batches.load(Ordering::Relaxed).saturating_add(1) } else { 0 };
        self.single_batches.store(singles, Ordering::Relaxed);
    }

    /// One caller at a time for a while: spinning then shortens its calls and takes the processor from nobody.
    pub fn is_quiet(&self) -> bool {
        self.single_batches.load(Ordering::Relaxed) >= QUIET_AFTER
    }

    /// Claims the right to start a writer: the new epoch, or None if one runs or is being started.
    /// `stale` microseconds after a start began without a writer showing up, it may be claimed again. A database that turns
    /// its writers away is tried less and less often.
    pub fn claim_start(&self, now: i64, stale: i64) -> Option<u64> {
        let current = self.writer.load(Ordering::SeqCst);
        let (epoch, state) = unpack(current);
        let since = self.starting_since.load(Ordering::Acquire);
        // Either way: the clock may have been set back.
        let age = (now - since).abs();
        let wait = match state {
            Writer::Running => return None,
            Writer::Starting => stale,
            Writer::None => back_off(self.failed_starts()),
        };
        if age < wait {
            return None;
        }
        self.starting_since.store(now, Ordering::Release);
        self.change(current, epoch + 1, Writer::Starting).then_some(epoch + 1)
    }

    /// The start did not come about.
    pub fn start_failed(&self, epoch: u64) {
        self.change(pack(epoch, Writer::Starting), epoch, Writer::None);
    }

    /// The started writer reports for duty. False: another one was started in its place, and it has to go.
    pub fn writer_runs(&self, epoch: u64) -> bool {
        self.change(pack(epoch, Writer::Starting), epoch, Writer::Running)
    }

    /// Writers in a row that could not connect to the database.
    pub fn failed_starts(&self) -> u32 {
        self.failed_starts.load(Ordering::Relaxed)
    }

    /// A writer could not connect to the database.
    pub fn note_failed_start(&self) {
        self.failed_starts.fetch_add(1, Ordering::Relaxed);
    }

    /// The writer has its connection.
    pub fn note_connected(&self, pid: u32) {
        self.failed_starts.store(0, Ordering::Relaxed);
        self.progress.pid.store(pid, Ordering::Relaxed);
    }

    /// The writer ends.
    pub fn note_exit(&self, pid: u32) {
        let _ = self.progress.pid.compare_exchange(pid, 0, Ordering::Relaxed, Ordering::Relaxed);
        self.progress.busy_since.store(0, Ordering::Relaxed);
    }

    /// The writer begins to work on what it has taken, gets on with it, or has nothing left to do (0).
    pub fn note_busy(&self, since: i64) {
        self.progress.busy_since.store(since, Ordering::Relaxed);
    }

    pub fn note_commit(&self, at: i64) {
        self.progress.last_commit_at.store(at, Ordering::Relaxed);
    }

    pub fn note_error(&self, error: LastError) {
        self.progress.last_error.store(error.sqlstate as u32, Ordering::Relaxed);
        self.progress.last_error_at.store(error.at, Ordering::Relaxed);
    }

    /// The writer's process id, where there is one.
    pub fn writer_pid(&self) -> Option<i32> {
        i32::try_from(self.progress.pid.load(Ordering::Relaxed)).ok().filter(|pid| *pid != 0)
    }

    /// The newest batch that failed.
    pub fn last_error(&self) -> Option<LastError> {
        let at = self.progress.last_error_at.load(Ordering::Relaxed);
        let sqlstate = self.progress.last_error.load(Ordering::Relaxed) as i32;
        (at != 0).then_some(LastError { sqlstate, at })
    }

    /// When a batch was committed last.
    pub fn last_commit_at(&self) -> Option<i64> {
        Some(self.progress.last_commit_at.load(Ordering::Relaxed)).filter(|at| *at != 0)
    }

    /// Since when the writer has been at work without having settled a record.
    pub fn busy_since(&self) -> Option<i64> {
        Some(self.progress.busy_since.load(Ordering::Relaxed)).filter(|at| *at != 0)
    }

    pub fn ask_to_leave(&self) {
        self.leave.store(1, Ordering::Release);
    }

    /// Whether the writer is asked to leave; the answer is given once.
    pub fn is_asked_to_leave(&self) -> bool {
        self.leave.swap(0, Ordering::AcqRel) == 1
    }

    /// The writer leaves. A record pushed before this is its to see: it looks at the list once more afterwards.
    pub fn writer_leaves(&self, epoch: u64) {
        self.change(pack(epoch, Writer::Running), epoch, Writer::None);
    }

    /// The leaving writer saw a late record and stays, unless another was started meanwhile.
    pub fn writer_stays(&self, epoch: u64) -> bool {
        self.change(pack(epoch, Writer::None), epoch, Writer::Running)
    }

    fn change(&self, from: u64, epoch: u64, state: Writer) -> bool {
        self.writer.compare_exchange(from, pack(epoch, state), Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// How long to wait, in microseconds, until a start is tried again after so many that failed in a row: 0.2 s, doubled up
/// to about three seconds.
fn back_off(failed_starts: u32) -> i64 {
    if failed_starts == 0 { 0 } else { 100_000 << failed_starts.min(5) }
}

fn pack(epoch: u64, state: Writer) -> u64 {
    epoch << 2
        | match state {
            Writer::None => 0,
            Writer::Starting => 1,
            Writer::Running => 2,
        }
}

fn unpack(word: u64) -> (u64, Writer) {
    let state = match word & 3 {
        0 => Writer::None,
        1 => Writer::Starting,
        _ => Writer::Running,
    };
    (word >> 2, state)
}

/// Slots and queues outside shared memory, for tests.
#[cfg(test)]
mod fresh {
    use super::*;

    pub fn slot() -> Slot {
        let zero = || AtomicU32::new(0);
        Slot {
            state: zero(),
            next: zero(),
            kind: zero(),
            length: zero(),
            failure: zero(),
            gate: zero(),
            bytes: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    pub fn queue() -> Queue {
        let (zero, never) = (|| AtomicU32::new(0), || AtomicI64::new(0));
        Queue {
            database: AtomicU32::new(1),
            pins: zero(),
            head: zero(),
            bell: zero(),
            leave: zero(),
            single_batches: zero(),
            takes: zero(),
            failed_starts: zero(),
            gates: [zero(), zero()],
            writer: AtomicU64::new(0),
            starting_since: never(),
            progress: Progress {
                pid: zero(),
                last_error: zero(),
                last_error_at: never(),
                last_commit_at: never(),
                busy_since: never(),
            },
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::fresh::{queue, slot};
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_slot_gives_back_its_bytes() {
        let slot = slot();
        for length in [0, 1, 7, 8, 9, RECORD_BYTES] {
            let bytes: Vec<u8> = (0..length).map(|i| i as u8).collect();
            assert!(slot.fill(Kind::Record, &bytes, false));
            assert!(!slot.fill(Kind::Record, &bytes, false), "a queued slot is not free");
            let mut buffer = [0; RECORD_BYTES];
            let read = slot.read(&mut buffer);
            assert_eq!(buffer[..read], bytes);
            assert!(slot.settle(Settled::Written, None));
            assert_eq!(slot.settled(), Some(Settled::Written));
            slot.release();
            assert!(slot.is_free());
        }
    }

    #[test]
    fn an_abandoned_slot_is_freed_by_the_writer_and_wakes_nobody() {
        let slot = slot();
        slot.fill(Kind::Record, b"x", false);
        slot.release();
        assert!(!slot.is_free());
        slot.release();
        assert!(!slot.is_free(), "releasing twice must not free what the writer still holds");
        assert!(!slot.settle(Settled::Failed(7), None));
        assert!(slot.is_free());
    }

    #[test]
    fn a_failure_keeps_its_sqlstate() {
        let slot = slot();
        slot.fill(Kind::Record, b"x", false);
        assert!(slot.settle(Settled::Failed(-5), None));
        assert_eq!(slot.settled(), Some(Settled::Failed(-5)));
    }

    #[test]
    fn a_failure_may_come_with_its_reason() {
        let slot = slot();
        slot.fill(Kind::Record, b"the record", false);
        assert!(slot.settle(Settled::Failed(1), None));
        assert_eq!(slot.reason(), None, "the bytes are still the record's");
        slot.release();
        slot.fill(Kind::Probe, b"the record", false);
        assert!(slot.settle(Settled::Failed(1), Some(b"why")));
        assert_eq!(slot.reason().as_deref(), Some("why"));
        slot.release();
        slot.fill(Kind::Record, b"the next", false);
        assert_eq!((slot.kind(), slot.reason()), (Kind::Record, None));
    }

    #[test]
    fn a_database_that_turns_writers_away_is_tried_less_and_less_often() {
        let queue = queue();
        let mut now = 1_000_000_000;
        let mut starts = 0;
        let end = now + 10_000_000;
        while now < end {
            if let Some(epoch) = queue.claim_start(now, 3_000_000) {
                starts += 1;
                assert!(queue.writer_runs(epoch));
                queue.note_failed_start();
                queue.writer_leaves(epoch);
            }
            now += 100_000;
        }
        assert!((3..=8).contains(&starts), "{starts} starts in ten seconds");
        now += 3_300_000;
        let epoch = queue.claim_start(now, 3_000_000).expect("a start after the longest pause");
        assert!(queue.writer_runs(epoch));
        queue.note_connected(7);
        queue.writer_leaves(epoch);
        assert!(queue.claim_start(now, 3_000_000).is_some(), "no pause after one that could connect");
    }

    #[test]
    fn another_database_begins_with_no_past() {
        let queue = queue();
        queue.note_error(LastError { sqlstate: 5, at: 6 });
        queue.note_commit(7);
        assert_eq!((queue.last_error(), queue.last_commit_at()), (Some(LastError { sqlstate: 5, at: 6 }), Some(7)));
        queue.assign(1);
        assert!(queue.last_error().is_some(), "it is the same database");
        queue.assign(2);
        assert_eq!((queue.last_error(), queue.last_commit_at(), queue.busy_since()), (None, None, None));
    }

    #[test]
    fn the_list_keeps_order_and_rings_once() {
        let (queue, slots) = (queue(), [slot(), slot(), slot()]);
        assert!(queue.push(&slots, 2));
        assert!(!queue.push(&slots, 0));
        assert!(!queue.push(&slots, 1));
        let mut taken = Vec::new();
        queue.take(&slots, &mut taken);
        assert_eq!(taken, [2, 0, 1]);
        assert!(queue.is_empty());
        assert!(queue.push(&slots, 1));
    }

    #[test]
    fn records_that_are_pushed_together_are_taken_together_and_in_order() {
        let (queue, slots) = (queue(), [slot(), slot(), slot(), slot()]);
        assert!(!queue.push_all(&slots, &[]));
        assert!(queue.is_empty());
        assert!(queue.push_all(&slots, &[3, 1]));
        assert!(!queue.push_all(&slots, &[0, 2]));
        let mut taken = Vec::new();
        queue.take(&slots, &mut taken);
        assert_eq!(taken, [3, 1, 0, 2]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_gate_opens_for_its_own_batch_only() {
        let (queue, slots) = (queue(), [slot(), slot()]);
        queue.choose_gate(&slots[0]);
        queue.push(&slots, 0);
        queue.take(&slots, &mut Vec::new());
        queue.choose_gate(&slots[1]);
        let before = [queue.gate(&slots[0]).1, queue.gate(&slots[1]).1];
        assert_eq!(queue.open_gates([&slots[0], &slots[0]].into_iter()).count(), 1);
        assert_eq!([queue.gate(&slots[0]).1, queue.gate(&slots[1]).1], [before[0] + 1, before[1]]);
    }

    #[test]
    fn many_single_batches_in_a_row_are_quiet() {
        let queue = queue();
        (1..QUIET_AFTER).for_each(|_| queue.note_batch(1));
        assert!(!queue.is_quiet());
        queue.note_batch(1);
        assert!(queue.is_quiet());
        queue.note_batch(2);
        assert!(!queue.is_quiet());
    }

    #[test]
    fn only_one_start_is_under_way_until_it_goes_stale() {
        let queue = queue();
        let first = queue.claim_start(1_000, 500).unwrap();
        assert_eq!(queue.claim_start(1_400, 500), None);
        let second = queue.claim_start(1_600, 500).unwrap();
        assert!(!queue.writer_runs(first), "the first writer came too late");
        assert!(queue.writer_runs(second));
        queue.writer_leaves(first);
        assert_eq!(queue.writer(), (second, Writer::Running));
        queue.writer_leaves(second);
        assert!(queue.writer_stays(second));
        queue.writer_leaves(second);
        assert!(queue.claim_start(2_000, 500).is_some());
        assert!(!queue.writer_stays(second));
        assert!(queue.claim_start(100, 500).is_some(), "a clock that was set back must not hold up the next start");
    }

    /// Many threads push and wait, one takes and settles: each record is seen exactly once, and each owner hears of it.
    #[test]
    fn nothing_is_lost_or_doubled_between_threads() {
        const OWNERS: u32 = 8;
        const ROUNDS: u32 = 2_000;
        let queue = queue();
        let slots: Vec<Slot> = (0..OWNERS).map(|_| slot()).collect();
        let mut seen = HashSet::new();
        std::thread::scope(|scope| {
            for owner in 0..OWNERS {
                let (queue, slots) = (&queue, &slots);
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let slot = &slots[owner as usize];
                        let payload = [owner.to_le_bytes(), round.to_le_bytes()].concat();
                        assert!(slot.fill(Kind::Record, &payload, false));
                        queue.push(slots, owner);
                        while slot.settled().is_none() {
                            std::thread::yield_now();
                        }
                        slot.release();
                    }
                });
            }
            let mut taken = Vec::new();
            while seen.len() < (OWNERS * ROUNDS) as usize {
                taken.clear();
                queue.take(&slots, &mut taken);
                for &index in &taken {
                    let mut buffer = [0; RECORD_BYTES];
                    let length = slots[index as usize].read(&mut buffer);
                    assert!(seen.insert(buffer[..length].to_vec()), "seen twice");
                    assert!(slots[index as usize].settle(Settled::Written, None));
                }
                std::thread::yield_now();
            }
        });
        assert!(queue.is_empty());
    }
}
