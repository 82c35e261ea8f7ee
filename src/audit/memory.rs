//! The audit trail's part of shared memory: counters, a queue for each database in use, and slots for each process.

use std::cell::{Cell, OnceCell};

use vault_core::audit::queue::{Counters, Queue, Slot};

use crate::pg::shmem::{self, Region, Request};
use crate::pg::wait;

/// What lies in shared memory.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    pub counters: &'static Counters,
    /// One queue per database in use; never more databases in use than processes.
    pub queues: &'static [Queue],
    /// `slots_per_process` for each process number, then those that all processes share.
    pub slots: &'static [Slot],
    pub slots_per_process: u32,
}

/// Slots for calls that write many rows at once, beside those of each process: 0.35 MB.
const SHARED_SLOTS: usize = 256;

impl Memory {
    /// The slots that all processes share. They are filled under the lock of the memory.
    pub fn shared_slots(&self) -> std::ops::Range<u32> {
        let end = self.slots.len() as u32;
        end - SHARED_SLOTS as u32..end
    }
}

thread_local! {
    static MEMORY: OnceCell<Memory> = const { OnceCell::new() };
    static SLOTS_PER_PROCESS: Cell<u32> = const { Cell::new(0) };
}

const REQUEST: Request = Request { name: c"vault_ext", bytes, ready };

/// Asks for the memory at server start. Only while preloading.
pub fn request(slots_per_process: u32) {
    SLOTS_PER_PROCESS.set(slots_per_process);
    shmem::request(REQUEST);
}

/// Finds the memory of the library that was preloaded; for a copy of it that was not.
#[cfg(feature = "bench")]
pub fn attach(slots_per_process: u32) {
    if get().is_none() {
        SLOTS_PER_PROCESS.set(slots_per_process);
        shmem::attach(REQUEST);
    }
}

/// The memory; None where the library was not preloaded.
pub fn get() -> Option<Memory> {
    MEMORY.with(|memory| memory.get().copied())
}

/// The numbers of queues and slots. Call it only when the server's limits are final.
fn counts() -> (usize, usize) {
    let processes = wait::max_processes() as usize;
    (processes, processes * SLOTS_PER_PROCESS.get() as usize + SHARED_SLOTS)
}

fn bytes() -> usize {
    let (queues, slots) = counts();
    size_of::<Counters>() + queues * size_of::<Queue>() + slots * size_of::<Slot>()
}

fn ready(mut region: Region) {
    let (queues, slots) = counts();
    let memory = Memory {
        counters: &region.take::<Counters>(1)[0],
        queues: region.take(queues),
        slots: region.take(slots),
        slots_per_process: SLOTS_PER_PROCESS.get(),
    };
    MEMORY.with(|cell| cell.set(memory)).ok();
}
