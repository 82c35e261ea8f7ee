//! Models of the queue for loom, which runs them in every order that the memory model allows: `make loom`.
//!
//! A sleep on a word (futex) is a loop until the word has another value; a wake-up that is lost makes loom report a loop without end.
//! loom treats a SeqCst access as AcqRel. Where two sides each write one word and then read the other's (the writer that leaves and
//! the caller that pushes), the code relies on SeqCst, and the models have a SeqCst fence between the two, which gives the same order.
//!
//! `preemptions` bounds how often a thread is interrupted at a point where it need not be. With two threads there is no bound.

use loom::sync::Arc;
use loom::sync::atomic::fence;
use loom::thread;

use super::fresh::{queue, slot};
use super::*;

struct Memory {
    queue: Queue,
    slots: Vec<Slot>,
}

fn memory(slots: usize) -> Arc<Memory> {
    Arc::new(Memory { queue: queue(), slots: (0..slots).map(|_| slot()).collect() })
}

fn check(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 20_000;
    builder.check(model);
}

/// What the sleep on a word is, seen from the process that sleeps.
fn sleep_while(word: &AtomicU32, value: u32) {
    while word.load(Ordering::SeqCst) == value {
        thread::yield_now();
    }
}

impl Memory {
    /// What `submit` does: fills a slot and queues it.
    fn submit(&self, index: u32, byte: u8, abandoned: bool) {
        assert!(self.slots[index as usize].fill(Kind::Record, &[byte], abandoned));
        self.queue.choose_gate(&self.slots[index as usize]);
        if self.queue.push(&self.slots, index) {
            self.queue.ring();
        }
    }

    /// What a caller does until its record is settled.
    fn wait(&self, index: u32) -> Settled {
        let slot = &self.slots[index as usize];
        loop {
            let (gate, openings) = self.queue.gate(slot);
            if let Some(settled) = slot.settled() {
                return settled;
            }
            sleep_while(gate, openings);
        }
    }

    fn byte(&self, index: u32) -> u8 {
        let mut buffer = [0; RECORD_BYTES];
        assert_eq!(self.slots[index as usize].read(&mut buffer), 1);
        buffer[0]
    }

    /// What the writer does with what it has taken; gives the bytes.
    fn settle(&self, taken: &[u32], outcome: Settled) -> Vec<u8> {
        let bytes = taken.iter().map(|index| self.byte(*index)).collect();
        let slots = taken.iter().map(|index| &self.slots[*index as usize]);
        self.queue.open_gates(slots.filter(|slot| slot.settle(outcome, None))).for_each(drop);
        bytes
    }

    /// What the writer does until it has settled so many records: it sleeps on its bell while the list is empty.
    fn write(&self, records: usize) -> Vec<u8> {
        let mut written = Vec::new();
        while written.len() < records {
            let rings = self.queue.bell().load(Ordering::SeqCst);
            let mut taken = Vec::new();
            self.queue.take(&self.slots, &mut taken);
            if taken.is_empty() {
                sleep_while(self.queue.bell(), rings);
            } else {
                written.extend(self.settle(&taken, Settled::Written));
            }
        }
        written
    }

    fn is_free(&self) -> bool {
        self.slots.iter().all(|slot| slot.state.load(Ordering::Acquire) == FREE)
    }
}

#[test]
fn a_caller_and_the_writer_meet_and_neither_sleeps_for_ever() {
    check(None, || {
        let memory = memory(1);
        let writer = thread::spawn({
            let memory = memory.clone();
            move || memory.write(1)
        });
        memory.submit(0, 7, false);
        assert_eq!(memory.wait(0), Settled::Written);
        memory.slots[0].release();
        assert_eq!(writer.join().unwrap(), [7]);
        assert!(memory.is_free());
    });
}

#[test]
fn two_callers_lose_no_record_and_none_is_taken_twice() {
    check(Some(2), || {
        let memory = memory(2);
        let callers: Vec<_> = (0..2)
            .map(|index| {
                let memory = memory.clone();
                thread::spawn(move || memory.submit(index, index as u8, true))
            })
            .collect();
        let mut written = memory.write(2);
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        written.sort_unstable();
        assert_eq!(written, [0, 1]);
        assert!(memory.is_free());
    });
}

#[test]
fn records_that_are_pushed_together_come_together_while_another_caller_pushes() {
    check(Some(2), || {
        let memory = memory(3);
        let caller = thread::spawn({
            let memory = memory.clone();
            move || memory.submit(2, 2, true)
        });
        let many = thread::spawn({
            let memory = memory.clone();
            move || {
                (0..2).for_each(|index| assert!(memory.slots[index].fill(Kind::Record, &[index as u8], true)));
                if memory.queue.push_all(&memory.slots, &[0, 1]) {
                    memory.queue.ring();
                }
            }
        });
        let written = memory.write(3);
        caller.join().unwrap();
        many.join().unwrap();
        assert!([vec![0, 1, 2], vec![2, 0, 1]].contains(&written), "{written:?}");
        assert!(memory.is_free());
    });
}

#[test]
fn the_gate_of_each_caller_opens_after_it_has_looked_whichever_batch_takes_its_record() {
    check(Some(2), || {
        let memory = memory(2);
        // A caller up to its sleep: the openings that it has seen, unless its record was settled already.
        let caller = |index: u32| {
            let memory = memory.clone();
            move || {
                memory.submit(index, index as u8, false);
                let (_, openings) = memory.queue.gate(&memory.slots[index as usize]);
                memory.slots[index as usize].settled().is_none().then_some(openings)
            }
        };
        let other = thread::spawn(caller(1));
        let writer = thread::spawn({
            let memory = memory.clone();
            move || {
                let mut taken = Vec::new();
                memory.queue.take(&memory.slots, &mut taken);
                memory.settle(&taken, Settled::Written);
            }
        });
        let mine = caller(0)();
        writer.join().unwrap();
        let theirs = other.join().unwrap();
        // The next batch has what the first one did not get.
        let mut taken = Vec::new();
        memory.queue.take(&memory.slots, &mut taken);
        memory.settle(&taken, Settled::Written);
        for (slot, seen) in memory.slots.iter().zip([mine, theirs]) {
            let (gate, _) = memory.queue.gate(slot);
            assert_eq!(slot.settled(), Some(Settled::Written));
            assert!(seen != Some(gate.load(Ordering::SeqCst)), "this caller sleeps for ever");
        }
    });
}

#[test]
fn a_call_that_gives_up_leaves_its_record_to_the_writer_and_its_slot_is_freed_once() {
    check(Some(3), || {
        let memory = memory(2);
        let writer = thread::spawn({
            let memory = memory.clone();
            move || memory.write(2)
        });
        memory.submit(0, 7, false);
        // Cancelled: it does not wait.
        memory.slots[0].release();
        // The next call of this backend takes a slot that is free, the first one again if the writer has freed it.
        let next = (0..2).find(|index| memory.slots[*index as usize].state.load(Ordering::Acquire) == FREE).unwrap();
        memory.submit(next, 8, false);
        assert_eq!(memory.wait(next), Settled::Written);
        memory.slots[next as usize].release();
        let mut written = writer.join().unwrap();
        written.sort_unstable();
        assert_eq!(written, [7, 8], "a record that its own successor has overwritten is lost");
        assert!(memory.is_free());
    });
}

#[test]
fn an_answer_is_read_whole_by_the_caller_that_waits() {
    check(None, || {
        let memory = memory(1);
        let writer = thread::spawn({
            let memory = memory.clone();
            move || {
                let mut taken = Vec::new();
                while taken.is_empty() {
                    thread::yield_now();
                    memory.queue.take(&memory.slots, &mut taken);
                }
                let slot = &memory.slots[0];
                let woken = slot.settle(Settled::Failed(5), Some(b"no"));
                memory.queue.open_gates([slot].into_iter().filter(|_| woken)).for_each(drop);
            }
        });
        memory.submit(0, 7, false);
        assert_eq!(memory.wait(0), Settled::Failed(5));
        assert_eq!(memory.slots[0].reason().as_deref(), Some("no"));
        memory.slots[0].release();
        writer.join().unwrap();
        assert!(memory.is_free());
    });
}

#[test]
fn a_writer_that_leaves_and_a_call_that_comes_do_not_miss_each_other() {
    check(None, || {
        let memory = memory(1);
        let epoch = memory.queue.claim_start(10_000_000, 1).unwrap();
        assert!(memory.queue.writer_runs(epoch));
        let writer = thread::spawn({
            let memory = memory.clone();
            move || {
                memory.queue.writer_leaves(epoch);
                fence(Ordering::SeqCst);
                // It goes unless it sees a late record and nobody has started another writer meanwhile.
                if !memory.queue.is_empty() && memory.queue.writer_stays(epoch) { memory.write(1) } else { Vec::new() }
            }
        });
        memory.submit(0, 7, true);
        fence(Ordering::SeqCst);
        // See to the writer: either one runs, or this call starts one.
        let started = memory.queue.writer().1 != Writer::Running && memory.queue.claim_start(20_000_000, 1).is_some();
        let written = writer.join().unwrap();
        if written.is_empty() {
            assert!(started, "nobody writes the record");
            assert_eq!(memory.write(1), [7]);
        }
        assert!(memory.is_free());
    });
}

#[test]
fn of_two_starters_one_starts_a_writer_and_an_old_writer_takes_nothing_from_the_new_one() {
    check(None, || {
        let memory = memory(1);
        let old = memory.queue.claim_start(10_000_000, 1_000_000).unwrap();
        let other = thread::spawn({
            let memory = memory.clone();
            move || memory.queue.claim_start(20_000_000, 1_000_000)
        });
        let mine = memory.queue.claim_start(20_000_000, 1_000_000);
        // The one whose start was given up shows up after all.
        let late = memory.queue.writer_runs(old);
        let theirs = other.join().unwrap();
        assert!(mine.is_none() || theirs.is_none());
        let new = mine.or(theirs);
        assert_eq!(late, new.is_none(), "either it is replaced, or it runs");
        if let Some(new) = new {
            memory.queue.writer_leaves(old);
            assert!(memory.queue.writer_runs(new));
            assert_eq!(memory.queue.writer(), (new, Writer::Running));
        }
    });
}

#[test]
fn what_a_killed_writer_gives_back_is_the_next_writer_s() {
    check(Some(2), || {
        let memory = memory(2);
        memory.submit(0, 7, false);
        let dying = thread::spawn({
            let memory = memory.clone();
            move || {
                let mut taken = Vec::new();
                memory.queue.take(&memory.slots, &mut taken);
                // Not committed: back to the list, and its owners look for a writer.
                for index in &taken {
                    memory.queue.push(&memory.slots, *index);
                }
                memory.queue.open_gates(taken.iter().map(|index| &memory.slots[*index as usize])).for_each(drop);
            }
        });
        let caller = thread::spawn({
            let memory = memory.clone();
            move || {
                memory.submit(1, 8, false);
                assert_eq!(memory.wait(1), Settled::Written);
                memory.slots[1].release();
            }
        });
        // The owner of the first slot exits meanwhile.
        memory.slots[0].release();
        dying.join().unwrap();
        let mut written = memory.write(2);
        caller.join().unwrap();
        written.sort_unstable();
        assert_eq!(written, [7, 8]);
        assert!(memory.is_free());
    });
}
