//! Sleeping until another process wakes this one. A futex on a word of shared memory costs a third of what a latch
//! (signal, signalfd, epoll) does, and it, too, lets signals through.

use std::cell::Cell;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use pgrx::prelude::*;
use rustix::thread::futex;

/// The longest that a signal may stay unseen: one that arrives between the last look at the interrupts and the sleep
/// does not end the sleep.
const SLICE: Duration = Duration::from_millis(100);

/// What a process of ours waits for, as pg_stat_activity shows it: under a name of its own from PostgreSQL 17 on, else as `Extension`.
#[derive(Clone, Copy)]
pub enum Event {
    /// A caller waits until its audit row is written.
    Row,
    /// A session waits until one of its slots is free.
    Slot,
    /// The audit writer has nothing to do.
    Writer,
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
const NAMES: [&std::ffi::CStr; 3] = [c"VaultAuditRow", c"VaultAuditSlot", c"VaultAuditWriterMain"];

thread_local! {
    /// What the server calls each of them.
    static EVENTS: Cell<[u32; 3]> = const { Cell::new([pg_sys::PG_WAIT_EXTENSION; 3]) };
}

/// Gives the events their names. The postmaster does so whenever shared memory, where the names are kept, is new; every process
/// inherits what it got.
pub(super) fn name_events() {
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    // SAFETY: the server copies the name into shared memory, which exists when the startup hook runs, and returns the same number for
    // the same name. Nobody else holds the lock that it takes while there is only the postmaster.
    EVENTS.set(NAMES.map(|name| unsafe { pg_sys::WaitEventExtensionNew(name.as_ptr()) }));
}

/// This process's number: an index below MaxBackends for every backend and background worker.
pub fn my_process_number() -> u32 {
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    // SAFETY: MyProc is set in every process that runs SQL or is a connected worker. The number in it never changes.
    let number = unsafe { (*pg_sys::MyProc).pgprocno };
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    let number = variable!(MyProcNumber);
    number as u32
}

/// Processes that may hold audit slots: every process number of a backend or worker is below this. Final once shared memory is
/// requested.
pub fn max_processes() -> u32 {
    variable!(MaxBackends) as u32
}

/// Sleeps while the word holds that value, at most as long as given and at most 100 ms: until `wake`, a signal, or
/// nothing at all, so call it in a loop. Ends the process if the postmaster is gone. Does not look at cancel requests:
/// call `check_for_interrupts` afterwards.
pub fn sleep_while(word: &AtomicU32, value: u32, timeout: Duration, event: Event) {
    let timeout = futex::Timespec { tv_sec: 0, tv_nsec: timeout.min(SLICE).as_nanos() as i64 };
    let slept = shown_as_waiting(event, || futex::wait(word, futex::Flags::empty(), value, Some(&timeout)));
    if slept == Err(rustix::io::Errno::TIMEDOUT) && postmaster_is_gone() {
        // SAFETY: WaitLatch ends a process in the same way if the postmaster dies. The callbacks of proc_exit release all that
        // this process holds.
        unsafe { pg_sys::proc_exit(1) };
    }
}

/// Sleeps that long, whatever happens.
pub fn pause(time: Duration, event: Event) {
    shown_as_waiting(event, || std::thread::sleep(time));
}

/// Sleeps until a signal comes or the time is over. Ends the process if the postmaster is gone. For who waits for nothing
/// but signals: none is missed, since their handlers set the latch.
pub fn sleep_until_signal(timeout: Duration) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: MyLatch is set in every process and belongs to this one: only its owner may wait for a latch and reset it.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            events as i32,
            timeout.as_millis() as std::ffi::c_long,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
}

/// Wakes whoever sleeps on the word.
pub fn wake(word: &AtomicU32) {
    let _ = futex::wake(word, futex::Flags::empty(), u32::MAX >> 1);
}

/// Lets pg_stat_activity show the wait event meanwhile.
fn shown_as_waiting<T>(event: Event, sleep: impl FnOnce() -> T) -> T {
    let show = |number: u32| {
        // SAFETY: my_wait_event_info points to a word of this process in shared memory, or to a variable of its own. Other
        // processes only read that word.
        unsafe { pg_sys::my_wait_event_info.write_volatile(number) }
    };
    show(EVENTS.get()[event as usize]);
    let slept = sleep();
    show(0);
    slept
}

fn postmaster_is_gone() -> bool {
    let postmaster = variable!(PostmasterPid);
    rustix::process::getppid().is_none_or(|parent| parent.as_raw_nonzero().get() != postmaster)
}

/// Lets a cancel or termination request through: raises it as an error or ends the process.
pub fn check_for_interrupts() {
    pgrx::check_for_interrupts!();
}
