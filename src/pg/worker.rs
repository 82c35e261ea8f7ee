//! Background workers: starting one for a database, and what its main function needs.

use std::ffi::{CStr, c_int};

use pgrx::PgTryBuilder;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

use super::entry;

/// Asks the postmaster to start a worker that runs an audit writer with `argument`. False if all worker slots
/// (max_worker_processes) are taken.
pub fn start(name: &str, argument: u32, extra: u64) -> bool {
    let mut worker = pg_sys::BackgroundWorker {
        bgw_flags: (pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION) as c_int,
        bgw_start_time: pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished,
        bgw_restart_time: pg_sys::BGW_NEVER_RESTART,
        bgw_main_arg: pg_sys::Datum::from(argument),
        ..Default::default()
    };
    copy(&mut worker.bgw_name, name.as_bytes());
    copy(&mut worker.bgw_type, b"vault_ext audit writer");
    copy(&mut worker.bgw_library_name, b"vault_ext");
    copy(&mut worker.bgw_function_name, entry::AUDIT_WRITER.to_bytes());
    copy(&mut worker.bgw_extra, format!("{extra}").as_bytes());
    // SAFETY: every field is set or zero, `copy` leaves a NUL at the end of each text, and the server copies the structure.
    unsafe { pg_sys::RegisterDynamicBackgroundWorker(&mut worker, std::ptr::null_mut()) }
}

/// Tells the postmaster to start the listener with the server, on a standby too, and to restart it if it exits. Only while
/// preloading.
pub fn start_configuration_listener() {
    let mut worker = pg_sys::BackgroundWorker {
        bgw_flags: pg_sys::BGWORKER_SHMEM_ACCESS as c_int,
        bgw_start_time: pg_sys::BgWorkerStartTime::BgWorkerStart_PostmasterStart,
        bgw_restart_time: 1,
        ..Default::default()
    };
    // Older versions gave it this name when it read the keyring only; monitoring may know it.
    copy(&mut worker.bgw_name, b"vault_ext keyring listener");
    copy(&mut worker.bgw_type, b"vault_ext keyring listener");
    copy(&mut worker.bgw_library_name, b"vault_ext");
    copy(&mut worker.bgw_function_name, entry::CONFIGURATION_LISTENER.to_bytes());
    // SAFETY: every field is set or zero, `copy` leaves a NUL at the end of each text, and the server copies the structure.
    unsafe { pg_sys::RegisterBackgroundWorker(&mut worker) };
}

fn copy(field: &mut [std::ffi::c_char], text: &[u8]) {
    let room = field.len() - 1;
    for (to, from) in field[..room].iter_mut().zip(text) {
        *to = *from as std::ffi::c_char;
    }
}

/// The number passed as `extra` to the worker that runs in this process.
pub fn extra() -> u64 {
    // SAFETY: MyBgworkerEntry is set in every background worker, and bgw_extra was NUL-terminated above.
    unsafe { CStr::from_ptr((*pg_sys::MyBgworkerEntry).bgw_extra.as_ptr()) }
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// Takes signals as a backend does: SIGTERM ends the process at the next safe point, SIGINT cancels the statement (and
/// is how lock_timeout arrives), SIGHUP asks for the configuration.
pub fn accept_signals() {
    unsafe extern "C-unwind" {
        // The server's own handler. pgrx's binding of it is a Rust wrapper, which must not run in a signal handler.
        #[link_name = "die"]
        fn backend_die(signal: c_int);
        fn SignalHandlerForConfigReload(signal: c_int);
    }
    #[cfg(not(feature = "pg18"))]
    use pg_sys::pqsignal as handle;
    #[cfg(feature = "pg18")]
    use pg_sys::pqsignal_be as handle;

    // SAFETY: both handlers are the server's own and safe for signals; SIGINT keeps the handler that the server installed.
    unsafe {
        handle(libc::SIGTERM, Some(backend_die));
        handle(libc::SIGHUP, Some(SignalHandlerForConfigReload));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// Reads the configuration again if SIGHUP asked for it, and says whether it did.
pub fn reload_configuration_if_asked() -> bool {
    // SAFETY: only the signal handler of this thread sets the flag. Workers call this between transactions, where they may read
    // the configuration.
    unsafe {
        let asked = pg_sys::ConfigReloadPending != 0;
        if asked {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
        asked
    }
}

/// Connects this worker to a database as the bootstrap superuser; `act_as` narrows that down. It connects even if
/// ALLOW_CONNECTIONS is false: sessions that are already connected continue, and their calls need the worker.
pub fn connect(database: u32) {
    let flags = pg_sys::BGWORKER_BYPASS_ALLOWCONN;
    // SAFETY: an audit writer calls this once, at its start. `start` has asked for BGWORKER_BACKEND_DATABASE_CONNECTION for it.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnectionByOid(pg_sys::Oid::from_u32(database), pg_sys::InvalidOid, flags);
    }
}

/// Acts as that role until the transaction ends, and cannot change back: triggers and policies run as it, too.
pub fn act_as(role: &CStr) {
    // SAFETY: the look-up reads the catalogs, and the callers are within `transaction`. The end of the transaction restores the
    // user and the security context.
    unsafe {
        let oid = pg_sys::get_role_oid(role.as_ptr(), false);
        let context = (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION) as c_int;
        pg_sys::SetUserIdAndSecContext(oid, context);
    }
}

/// Sets a setting of this worker for its life.
pub fn set(name: &CStr, value: &CStr) {
    // SAFETY: the strings are NUL-terminated, and the server copies them.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}

/// Makes commits of this worker wait for the disk at least, and for standbys where the server is configured so.
pub fn commit_durably() {
    if variable!(synchronous_commit) < pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_REMOTE_FLUSH as c_int {
        set(c"synchronous_commit", c"on");
    }
}

/// Runs `work` in a transaction of its own and commits it. An error rolls the transaction back and is returned.
///
/// SIGINT is blocked around the commit: a cancel that arrives while the commit waits for a synchronous standby would
/// make the server return as if the standby had it.
pub fn transaction<T>(work: impl FnOnce() -> T) -> Result<T, CaughtError> {
    let outcome = PgTryBuilder::new(std::panic::AssertUnwindSafe(|| {
        // SAFETY: the callers are outside a transaction, and every worker of the server begins one in this sequence.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        let result = work();
        with_sigint_blocked(|| {
            pgrx::check_for_interrupts!();
            // SAFETY: `work` left the snapshot and the transaction that were begun above as the current ones: it can end neither.
            unsafe {
                pg_sys::PopActiveSnapshot();
                pg_sys::CommitTransactionCommand();
            }
        });
        Ok(result)
    }))
    .catch_others(Err)
    .catch_rust_panic(Err)
    .execute();
    if outcome.is_err() {
        unblock_sigint();
        // SAFETY: the error has been caught and every Rust frame of `work` is gone; the server's main loops abort at this point.
        unsafe { pg_sys::AbortCurrentTransaction() };
    }
    outcome
}

fn with_sigint_blocked(work: impl FnOnce()) {
    mask_sigint(libc::SIG_BLOCK);
    work();
    unblock_sigint();
}

/// Delays cancel requests to this worker until the first transaction of `work` has ended.
pub fn without_cancels<T>(work: impl FnOnce() -> T) -> T {
    mask_sigint(libc::SIG_BLOCK);
    let done = work();
    unblock_sigint();
    done
}

fn unblock_sigint() {
    mask_sigint(libc::SIG_UNBLOCK);
}

fn mask_sigint(how: c_int) {
    // SAFETY: a signal set on our stack, initialised before use; changes this process's mask only.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGINT);
        libc::sigprocmask(how, &set, std::ptr::null_mut());
    }
}

/// True if this process is being terminated while synchronous standbys are configured: a commit that has just returned
/// may then have given up waiting for them.
pub fn commit_may_be_unreplicated() -> bool {
    let standbys = variable!(SyncRepStandbyNames);
    // SAFETY: a setting's text is NULL or NUL-terminated, so it has a first byte, and it changes only with the configuration.
    super::process::is_terminating() && !standbys.is_null() && unsafe { *standbys } != 0
}

/// Tells the statistics system what this worker did, so that autovacuum hears of it.
pub fn report_statistics(force: bool) {
    // SAFETY: pgstat_report_stat may not be called within a transaction, and workers report between theirs.
    unsafe { pg_sys::pgstat_report_stat(force) };
}

/// Shows in pg_stat_activity whether the worker works or waits.
pub fn report_activity(active: bool) {
    let state = if active { pg_sys::BackendState::STATE_RUNNING } else { pg_sys::BackendState::STATE_IDLE };
    // SAFETY: the text may be NULL, which leaves the query column empty.
    unsafe { pg_sys::pgstat_report_activity(state, std::ptr::null()) };
}
