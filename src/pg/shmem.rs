//! PostgreSQL's shared memory: room for the audit slots and queues, sized from the server's limits.

use std::cell::OnceCell;
use std::sync::atomic::AtomicU64;

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::prelude::*;

use crate::audit::queue::{Queue, Slot};
use crate::pg::wait;

const AREA: &std::ffi::CStr = c"vault_ext";

/// Counters of all audit writers since the server started.
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

/// The audit trail's part of shared memory.
#[derive(Debug, Clone, Copy)]
pub struct Area {
    pub counters: &'static Counters,
    /// One queue per database in use; never more databases in use than processes.
    pub queues: &'static [Queue],
    /// `slots_per_process` for each process number.
    pub slots: &'static [Slot],
    pub slots_per_process: u32,
}

thread_local! {
    static AREA_OF_SERVER: OnceCell<Area> = const { OnceCell::new() };
    static SLOTS_PER_PROCESS: OnceCell<u32> = const { OnceCell::new() };
}

/// Asks for the memory at server start. Only while preloading.
pub fn request(slots_per_process: u32) {
    SLOTS_PER_PROCESS.with(|cell| cell.set(slots_per_process)).ok();
    // SAFETY: hooks are chained as the server's documentation asks, in the postmaster, before it starts others.
    unsafe {
        PREVIOUS_REQUEST = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(on_request);
        PREVIOUS_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(on_startup);
    }
}

/// The area; None where the library was not preloaded.
pub fn area() -> Option<Area> {
    AREA_OF_SERVER.with(|cell| cell.get().copied())
}

/// Runs `work` under the lock of vault_ext. Nothing in it may fail, allocate from PostgreSQL, log or wait.
pub fn locked<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the tranche was requested at server start (callers have an Area), and the lock is released before we return;
    // if `work` panics against its promise, the transaction's end releases it.
    unsafe {
        let lock = &raw mut (*pg_sys::GetNamedLWLockTranche(AREA.as_ptr())).lock;
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let result = work();
        pg_sys::LWLockRelease(lock);
        result
    }
}

static mut PREVIOUS_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

fn sizes() -> (usize, usize, u32) {
    let processes = wait::max_processes() as usize;
    let per_process = SLOTS_PER_PROCESS.with(|cell| cell.get().copied()).unwrap_or(2);
    (processes, processes * per_process as usize, per_process)
}

fn bytes() -> usize {
    let (queues, slots, _) = sizes();
    size_of::<Counters>() + queues * size_of::<Queue>() + slots * size_of::<Slot>()
}

#[pg_guard]
unsafe extern "C-unwind" fn on_request() {
    // SAFETY: called by the server in its request phase; the previous hook is called first, as it would have been.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST {
            pg_guard_ffi_boundary(|| previous());
        }
        pg_sys::RequestAddinShmemSpace(bytes());
        pg_sys::RequestNamedLWLockTranche(AREA.as_ptr(), 1);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_startup() {
    let (queue_count, slot_count, slots_per_process) = sizes();
    // SAFETY: called by the server in its startup phase. ShmemInitStruct gives zeroed memory of that size for the server's
    // life (shared memory is new after a crash); its parts hold atomics only, of which all zero bytes are valid values,
    // and each part's size is a multiple of 8, which keeps the next one aligned.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP {
            pg_guard_ffi_boundary(|| previous());
        }
        let mut found = false;
        let start = pg_sys::ShmemInitStruct(AREA.as_ptr(), bytes(), &mut found).cast::<u8>();
        if !found {
            start.write_bytes(0, bytes());
        }
        let queues = start.add(size_of::<Counters>());
        let slots = queues.add(queue_count * size_of::<Queue>());
        let area = Area {
            counters: &*start.cast(),
            queues: std::slice::from_raw_parts(queues.cast(), queue_count),
            slots: std::slice::from_raw_parts(slots.cast(), slot_count),
            slots_per_process,
        };
        AREA_OF_SERVER.with(|cell| cell.set(area)).ok();
    }
}
