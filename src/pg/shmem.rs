//! A region of PostgreSQL's shared memory and the lock that guards it. The caller that requests it decides what is in it.

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::prelude::*;
use vault_core::audit::queue::{Counters, Queue, Slot};
use vault_core::audit::stats::Stats;
use vault_core::identity::counts::Counts;
use vault_core::watch::Watch;

/// A type that can lie in shared memory, where other processes change it.
///
/// # Safety
/// All zero bytes are a value of the type, it consists of atomics alone, its alignment is at most 8, and its size is a
/// multiple of 8.
pub unsafe trait Shared: Sync + 'static {}

// SAFETY: it consists of 64-bit atomics. All zero bytes are a fresh start. `take` checks its size and alignment.
unsafe impl Shared for Counters {}
// SAFETY: it consists of 32-bit and 64-bit atomics. All zero bytes are an unused entry. `take` checks its size and alignment.
unsafe impl Shared for Queue {}
// SAFETY: it consists of 32-bit and 64-bit atomics. All zero bytes are a free slot. `take` checks its size and alignment.
unsafe impl Shared for Slot {}
// SAFETY: 64-bit atomics alone; all zero is "nothing counted". It has a mapping of its own, aligned to a page.
unsafe impl Shared for Counts {}
// SAFETY: 64-bit atomics alone; all zero is "nothing counted". It has a mapping of its own, aligned to a page.
unsafe impl Shared for Stats {}
// SAFETY: 64-bit atomics alone; all zero is "nothing seen". It has a mapping of its own, aligned to a page.
unsafe impl Shared for Watch {}

/// The memory, zeroed at server start. Its parts are taken one after the other.
pub struct Region {
    next: *mut u8,
    left: usize,
}

impl Region {
    /// The next part. Each process takes the same parts in the same order.
    pub fn take<T: Shared>(&mut self, count: usize) -> &'static [T] {
        const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() <= 8) };
        let bytes = count * size_of::<T>();
        assert!(bytes <= self.left, "more is taken than was asked for");
        // SAFETY: the memory lives as long as the server, it was zeroed before the first process took anything, and all
        // zero bytes are a value of T. There is room for the part, and the sizes keep the next one aligned.
        unsafe {
            let part = std::slice::from_raw_parts(self.next.cast::<T>(), count);
            self.next = self.next.add(bytes);
            self.left -= bytes;
            part
        }
    }
}

/// A request for shared memory.
#[derive(Clone, Copy)]
pub struct Request {
    /// The name of the memory and of its lock.
    pub name: &'static CStr,
    /// Returns the size. Called when the server's limits are known.
    pub bytes: fn() -> usize,
    /// Called when the memory has been allocated.
    pub ready: fn(Region),
}

thread_local! {
    static REQUEST: Cell<Option<Request>> = const { Cell::new(None) };
}

static mut PREVIOUS_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

/// Asks for the memory at server start. Only while preloading, and once.
pub fn request(request: Request) {
    REQUEST.set(Some(request));
    // SAFETY: only the postmaster runs this, before it starts other processes, so nothing reads the variables meanwhile. The
    // hooks keep and call the previous ones, as the server's documentation asks.
    unsafe {
        PREVIOUS_REQUEST = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(on_request);
        PREVIOUS_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(on_startup);
    }
}

/// Finds the memory for a copy of the library that was not preloaded. The preloaded one has asked for it, with the same size.
#[cfg(feature = "bench")]
pub fn attach(request: Request) {
    REQUEST.set(Some(request));
    let bytes = (request.bytes)();
    let mut found = false;
    // SAFETY: the name is NUL-terminated. The server gives the address of memory that has this name, and raises an error if its size
    // is another one.
    let start = unsafe { pg_sys::ShmemInitStruct(request.name.as_ptr(), bytes, &mut found) };
    assert!(found, "vault_ext is preloaded");
    (request.ready)(Region { next: start.cast(), left: bytes });
}

/// Runs `work` under the lock of the memory. Nothing in it may fail, allocate from PostgreSQL, log or wait.
pub fn locked<T>(work: impl FnOnce() -> T) -> T {
    let request = REQUEST.get().expect("callers have checked that the library was preloaded");
    // SAFETY: the tranche was requested at server start, and the lock is released before we return; if `work` panics
    // against its promise, the transaction's end releases it.
    unsafe {
        let lock = &raw mut (*pg_sys::GetNamedLWLockTranche(request.name.as_ptr())).lock;
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let result = work();
        pg_sys::LWLockRelease(lock);
        result
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_request() {
    // SAFETY: the server calls this in its request phase, the only time when these two requests are allowed. The previous hook
    // has the same signature, and the names are static.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST {
            pg_guard_ffi_boundary(|| previous());
        }
        if let Some(request) = REQUEST.get() {
            pg_sys::RequestAddinShmemSpace((request.bytes)());
            pg_sys::RequestNamedLWLockTranche(request.name.as_ptr(), 1);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_startup() {
    // SAFETY: called by the server in its startup phase. ShmemInitStruct gives memory of that size for the server's life
    // (shared memory is new after a crash), which the first process zeroes.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP {
            pg_guard_ffi_boundary(|| previous());
        }
        let Some(request) = REQUEST.get() else { return };
        let bytes = (request.bytes)();
        let mut found = false;
        let start = pg_sys::ShmemInitStruct(request.name.as_ptr(), bytes, &mut found).cast::<u8>();
        if !found {
            start.write_bytes(0, bytes);
        }
        super::wait::name_events();
        (request.ready)(Region { next: start, left: bytes });
    }
}
