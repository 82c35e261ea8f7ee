//! The process that we run in: when the library is loaded, and what happens when the process ends.

use std::path::PathBuf;

use pgrx::prelude::*;

/// True while the postmaster loads shared_preload_libraries.
pub fn is_preloading() -> bool {
    variable!(process_shared_preload_libraries_in_progress)
}

/// True while pg_upgrade runs the server.
pub fn is_binary_upgrade() -> bool {
    variable!(IsBinaryUpgrade)
}

/// The server's data directory.
pub fn data_directory() -> PathBuf {
    // SAFETY: DataDir is set before libraries are loaded, and a NUL-terminated string for the server's life.
    let directory = unsafe { std::ffi::CStr::from_ptr(pg_sys::DataDir) };
    PathBuf::from(directory.to_string_lossy().into_owned())
}

/// Keeps Rust backtraces out of error details, whatever RUST_BACKTRACE says: they would reach the client.
pub fn forbid_backtraces() {
    // SAFETY: called while the library is loaded, in a process with one thread; nobody reads the environment meanwhile.
    unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
}

/// True once this process was asked to end (SIGTERM, pg_terminate_backend).
pub fn is_terminating() -> bool {
    variable!(ProcDiePending) != 0
}

/// Whether a long wait is to stop because this process is to end; a cancel request is raised as an error instead. For
/// work that must be tidied up, since the end of a backend (FATAL) unwinds no Rust frame.
pub fn is_interrupted() -> bool {
    let terminating = is_terminating();
    if !terminating {
        super::wait::check_for_interrupts();
    }
    terminating
}

/// Runs `callback` when this process leaves shared memory, also when it ends by FATAL, which unwinds no Rust frame.
/// The callback must not fail: an error in it would start the exit again.
pub fn on_exit(callback: fn()) {
    // SAFETY: `run` has the signature that the server expects, and gets back the very pointer that we pass here.
    unsafe { pg_sys::before_shmem_exit(Some(run), pg_sys::Datum::from(callback as usize)) };

    #[pg_guard]
    unsafe extern "C-unwind" fn run(_code: std::ffi::c_int, callback: pg_sys::Datum) {
        // SAFETY: the server passes the datum that was registered with `run`, which is the address of a `fn()`.
        let callback = unsafe { std::mem::transmute::<usize, fn()>(callback.value()) };
        callback();
    }
}
