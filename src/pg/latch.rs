//! Sleeping until another process rings, and ringing others.

use std::time::Duration;

use pgrx::prelude::*;

/// This process's number: an index below MaxBackends for every backend and background worker.
pub fn my_process_number() -> u32 {
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    // SAFETY: MyProc is set in every process that runs SQL or is a connected worker.
    let number = unsafe { (*pg_sys::MyProc).pgprocno };
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    // SAFETY: a plain variable of this process.
    let number = unsafe { pg_sys::MyProcNumber };
    number as u32
}

/// Processes that may hold audit slots: every process number of a backend or worker is below this.
pub fn max_processes() -> u32 {
    // SAFETY: a plain variable, final once shared memory is requested.
    unsafe { pg_sys::MaxBackends as u32 }
}

/// Wakes the process with that number, whoever has it now: a stray ring costs it one look around.
pub fn ring(process: u32) {
    if process >= max_processes() {
        return;
    }
    // SAFETY: allProcs has at least MaxBackends entries for the server's life, and setting any of their latches is allowed.
    unsafe { pg_sys::SetLatch(&raw mut (*(*pg_sys::ProcGlobal).allProcs.add(process as usize)).procLatch) };
}

/// Sleeps until this process is rung or the time is over. Ends the process if the postmaster is gone.
/// Does not look at cancel requests: call `check_for_interrupts` afterwards.
pub fn wait(timeout: Duration) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    let milliseconds = timeout.as_millis().clamp(1, 1_000_000) as std::ffi::c_long;
    // SAFETY: MyLatch belongs to this process.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, milliseconds, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
}

/// Lets a cancel or termination request through: raises it as an error or ends the process.
pub fn check_for_interrupts() {
    pgrx::check_for_interrupts!();
}
