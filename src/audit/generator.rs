//! Feeds the audit writer from inside the server, without clients between (feature `bench`).

use std::fs;
use std::time::Duration;

use vault_core::audit::queue::{Kind, Queue, Settled, Slot};
use vault_core::audit::record::RECORD_BYTES;

use super::memory::{self, Memory};
use super::submit;
use crate::pg::{session, wait};

/// Encodes the next record and says how long it is.
pub type Encode<'a> = dyn FnMut(&mut [u8; RECORD_BYTES]) -> usize + 'a;

const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_micros(50);

/// Finds the memory of the library that was preloaded.
pub fn attach() {
    let slots = session::setting(c"vault_ext.audit_slots").and_then(|text| String::from_utf8(text).ok()?.parse().ok());
    memory::attach(slots.expect("vault_ext is preloaded"));
}

/// Keeps `in_flight` records at the writer until it has committed `records`.
pub fn generate(records: u64, in_flight: u32, encode: &mut Encode<'_>) {
    let feed = Feed::of_this_backend(in_flight);
    let (mut submitted, mut settled) = (0, 0);
    while settled < records {
        while submitted < records && submitted - settled < u64::from(in_flight) {
            if feed.push(submitted, encode) {
                wait::wake(feed.queue.ring());
            }
            submitted += 1;
        }
        feed.wait(settled);
        // The writer settles a batch in the order in which it was submitted.
        while settled < submitted && feed.take_back(settled) {
            settled += 1;
        }
    }
}

/// Hands the writer `batches` of `records` each. While it sleeps, one record after the other goes onto its list, and only then it is woken:
/// so it takes them as one batch.
pub fn batches(batches: u64, records: u32, encode: &mut Encode<'_>) {
    let feed = Feed::of_this_backend(records);
    for _ in 0..batches {
        feed.wait_for_idle_writer();
        (0..records.into()).for_each(|number| {
            feed.push(number, encode);
        });
        wait::wake(feed.queue.ring());
        for number in 0..records.into() {
            feed.wait(number);
            assert!(feed.take_back(number), "it is settled");
        }
    }
}

/// This backend's slots and its database's queue.
struct Feed {
    memory: Memory,
    queue: &'static Queue,
    first: u32,
    in_flight: u32,
}

impl Feed {
    fn of_this_backend(in_flight: u32) -> Self {
        let memory = memory::get().expect("attached");
        assert!(
            (1..=memory.slots_per_process).contains(&in_flight),
            "vault_ext.audit_slots bounds the records in flight"
        );
        let first = wait::my_process_number() * memory.slots_per_process;
        Self { memory, queue: submit::my_queue().expect("a free queue"), first, in_flight }
    }

    fn index(&self, number: u64) -> u32 {
        self.first + (number % u64::from(self.in_flight)) as u32
    }

    fn slot(&self, number: u64) -> &'static Slot {
        &self.memory.slots[self.index(number) as usize]
    }

    /// Puts a record on the writer's list. True if the writer is to be rung.
    fn push(&self, number: u64, encode: &mut Encode<'_>) -> bool {
        let mut bytes = [0; RECORD_BYTES];
        let length = encode(&mut bytes);
        let slot = self.slot(number);
        assert!(slot.fill(Kind::Record, &bytes[..length], false), "the slot is free");
        self.queue.choose_gate(slot);
        self.queue.push(self.memory.slots, self.index(number))
    }

    /// Waits until the writer has settled a record, as a call does.
    fn wait(&self, number: u64) {
        let slot = self.slot(number);
        loop {
            let (gate, openings) = self.queue.gate(slot);
            if slot.settled().is_some() {
                return;
            }
            submit::see_to_writer(self.queue).unwrap_or_else(|_| panic!("no writer can be started"));
            wait::sleep_while(gate, openings, PATIENCE, wait::Event::Row);
            wait::check_for_interrupts();
        }
    }

    /// Frees the slot of a record that is settled; false if it is not.
    fn take_back(&self, number: u64) -> bool {
        let slot = self.slot(number);
        match slot.settled() {
            None => false,
            Some(Settled::Written) => {
                slot.release();
                true
            }
            Some(Settled::Failed(_)) => panic!("an audit row was refused"),
        }
    }

    /// Waits until the writer has nothing to do and sleeps. None that runs will sleep, and takes what it finds when it starts.
    fn wait_for_idle_writer(&self) {
        while let Some(writer) = self.queue.writer_pid() {
            if self.queue.busy_since().is_none() && is_asleep(writer) {
                return;
            }
            std::thread::sleep(LOOK);
            wait::check_for_interrupts();
        }
    }
}

fn is_asleep(pid: i32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    text.rsplit_once(')').is_some_and(|(_, fields)| fields.starts_with(" S"))
}
