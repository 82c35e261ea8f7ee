//! Facts about the current session and transaction.

use std::cell::OnceCell;
use std::ffi::CStr;

use pgrx::prelude::*;

/// The bytes of a setting of this session; None if it was never set.
pub fn setting(name: &CStr) -> Option<Vec<u8>> {
    // SAFETY: the name is NUL-terminated; the answer, if any, is a NUL-terminated string that is valid until a setting
    // changes, and it is copied at once.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| CStr::from_ptr(value).to_bytes().to_vec())
    }
}

/// Whether this process has loaded Citus. It may still have no part in this database.
pub fn has_citus() -> bool {
    thread_local! {
        static HAS_CITUS: OnceCell<bool> = const { OnceCell::new() };
    }
    HAS_CITUS.with(|has| *has.get_or_init(|| setting(c"citus.version").is_some()))
}

/// OID of the database that this process is connected to.
pub fn database() -> u32 {
    variable!(MyDatabaseId).to_u32()
}

/// Name of the role that called: what SET ROLE chose, not the owner of the definer function that we run in.
pub fn caller() -> String {
    // SAFETY: reads a variable of this process.
    role_name(unsafe { pg_sys::GetOuterUserId() })
}

fn role_name(role: pg_sys::Oid) -> String {
    // SAFETY: GetUserNameFromId with noerr gives NULL for a role that was dropped meanwhile, else a palloc'd string.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        if name.is_null() {
            return "(dropped role)".to_owned();
        }
        let text = CStr::from_ptr(name).to_string_lossy().into_owned();
        pg_sys::pfree(name.cast());
        text
    }
}

/// Name of a role by its OID.
pub fn role_name_of(role: u32) -> String {
    role_name(pg_sys::Oid::from_u32(role))
}

/// OID of the role that called: see `caller`.
pub fn caller_oid() -> u32 {
    // SAFETY: reads a variable of this process.
    unsafe { pg_sys::GetOuterUserId().to_u32() }
}

/// Whether the role that called has the privileges of that role.
pub fn has_role(role: &CStr) -> bool {
    // SAFETY: within a transaction; a NUL-terminated name. A role that is not there has OID 0.
    unsafe {
        let role = pg_sys::get_role_oid(role.as_ptr(), true);
        role != pg_sys::InvalidOid && pg_sys::has_privs_of_role(pg_sys::GetOuterUserId(), role)
    }
}

/// Name of the role that logged in.
pub fn login() -> String {
    // SAFETY: reads a variable of this process.
    role_name(unsafe { pg_sys::GetSessionUserId() })
}

/// OID of the role that logged in.
pub fn login_oid() -> u32 {
    // SAFETY: reads a variable of this process.
    unsafe { pg_sys::GetSessionUserId().to_u32() }
}

/// Whether that role has logged in. A role that was dropped is none.
pub fn is_login_of(role: &CStr) -> bool {
    // SAFETY: within a transaction; a NUL-terminated name. A role that is not there has OID 0, and nobody logs in as that one.
    login_oid() == unsafe { pg_sys::get_role_oid(role.as_ptr(), true).to_u32() }
}

/// Name of a database by its OID; None if there is none.
pub fn database_name_of(database: u32) -> Option<String> {
    // SAFETY: within a transaction; gives NULL or a palloc'd string, which the transaction's end frees.
    unsafe {
        let name = pg_sys::get_database_name(pg_sys::Oid::from_u32(database));
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

/// Name of the database that this process is connected to.
pub fn database_name() -> String {
    thread_local! {
        static NAME: OnceCell<String> = const { OnceCell::new() };
    }
    // A database in which somebody is connected cannot be renamed.
    NAME.with(|name| name.get_or_init(|| database_name_of(database()).unwrap_or_default()).clone())
}

/// Seconds since 1970-01-01 00:00 UTC when the client's present statement began.
pub fn statement_time() -> i64 {
    // SAFETY: reads a variable of this process.
    let microseconds = unsafe { pg_sys::GetCurrentStatementStartTimestamp() };
    microseconds.div_euclid(1_000_000) + EPOCH
}

/// Seconds from 1970 to 2000, PostgreSQL's own beginning of time.
pub const EPOCH: i64 = 946_684_800;

/// Does `work` as that role, as a SECURITY DEFINER function would: SET ROLE and other ways out are closed meanwhile. An
/// error in it must end a (sub)transaction that was begun before; that takes the role back.
pub fn as_role<T>(role: &CStr, work: impl FnOnce() -> T) -> T {
    // SAFETY: SQL calls us, so the role can be looked up. The pair that is read is the one that is put back, and after an error
    // the end of the (sub)transaction puts it back.
    unsafe {
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        let owner = pg_sys::get_role_oid(role.as_ptr(), false);
        pg_sys::SetUserIdAndSecContext(owner, context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as std::ffi::c_int);
        let result = work();
        pg_sys::SetUserIdAndSecContext(user, context);
        result
    }
}

/// True in a transaction that keeps one snapshot (REPEATABLE READ, SERIALIZABLE) and so does not see what others commit.
pub fn has_old_snapshot() -> bool {
    variable!(XactIsoLevel) >= pg_sys::XACT_REPEATABLE_READ as std::ffi::c_int
}

/// False where the session has turned row-level security off (`row_security`): statements that it would filter then fail.
pub fn has_row_security() -> bool {
    variable!(row_security)
}

/// Identifies a statement by what it sees. Two calls with equal values belong to one statement, or to two statements that
/// see the same rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement {
    transaction: u32,
    /// Transactions of the server that had ended when the snapshot was taken.
    completions: u64,
    xmin: pg_sys::TransactionId,
    xmax: pg_sys::TransactionId,
    command: u32,
}

impl Statement {
    /// The calling statement. None if there is no snapshot.
    pub fn current() -> Option<Self> {
        // SAFETY: the active snapshot, if there is one, is valid until it is popped, and is read at once.
        unsafe {
            if !pg_sys::ActiveSnapshotSet() {
                return None;
            }
            let snapshot = &*pg_sys::GetActiveSnapshot();
            Some(Self {
                transaction: local_transaction(),
                completions: snapshot.snapXactCompletionCount,
                xmin: snapshot.xmin,
                xmax: snapshot.xmax,
                command: snapshot.curcid,
            })
        }
    }

    /// Whether the statement began before that command of its own transaction, and so does not see the commands before it.
    pub fn began_before(&self, command: u32) -> bool {
        self.command < command
    }
}

/// Number of the transaction within this process.
pub fn local_transaction() -> u32 {
    // SAFETY: MyProc is set in every process that runs SQL, and only this process changes its number of the transaction.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return (*pg_sys::MyProc).lxid;
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        return (*pg_sys::MyProc).vxid.lxid;
    }
}

/// Number of the next command of this transaction.
pub fn next_command() -> u32 {
    // SAFETY: SQL calls us, so there is a transaction. `false` does not mark the command as one that has written.
    unsafe { pg_sys::GetCurrentCommandId(false) }
}

/// The processes that block this one: they hold a conflicting lock, or are ahead of it in the queue (pg_blocking_pids).
/// 0 stands for a prepared transaction.
pub fn blocking_pids(pid: i32) -> Vec<i32> {
    // The function stops the whole lock table, and waits for a process that has a part of it in hand, even for one that is stopped.
    if !waits_for_lock(pid) {
        return Vec::new();
    }
    // SAFETY: pg_blocking_pids takes an integer and gives an array of integers, none of them NULL.
    let pids = unsafe { pgrx::direct_function_call::<Vec<i32>>(pg_sys::pg_blocking_pids, &[pid.into_datum()]) };
    pids.unwrap_or_default()
}

/// Whether this process, or one that works for it in parallel, waits for a lock of the lock table. Takes no lock itself.
fn waits_for_lock(pid: i32) -> bool {
    // SAFETY: the server allocates its table of processes once, before it starts any, and never moves or frees it. Each field is read
    // once, as a whole, and may have changed by then: a leader is an entry of the same table, and the lock is not looked into.
    unsafe {
        let processes = pg_sys::ProcGlobal;
        (0..(*processes).allProcCount as usize).map(|number| (*processes).allProcs.add(number)).any(|process| {
            let leader = (&raw const (*process).lockGroupLeader).read_volatile();
            let is_that = |process: *const pg_sys::PGPROC| (&raw const (*process).pid).read_volatile() == pid;
            !(&raw const (*process).waitLock).read_volatile().is_null()
                && (is_that(process) || !leader.is_null() && is_that(leader))
        })
    }
}

/// This process's id.
pub fn pid() -> i32 {
    variable!(MyProcPid)
}

/// Address of the client as the server sees it, without a netmask; None for a connection by socket and in a worker.
pub fn connection_address() -> Option<String> {
    use pgrx::datum::Inet;
    thread_local! {
        static ADDRESS: OnceCell<Option<String>> = const { OnceCell::new() };
    }
    let ask = || {
        // SAFETY: inet_client_addr takes no argument, and gives NULL or a datum of type inet.
        let address = unsafe { pgrx::direct_function_call::<Inet>(pg_sys::inet_client_addr, &[]) }?;
        Some(address.0.split('/').next().unwrap_or_default().to_owned())
    };
    ADDRESS.with(|address| address.get_or_init(ask).clone())
}

/// Microseconds since 2000-01-01 00:00 UTC (TimestampTz).
pub fn now() -> i64 {
    // SAFETY: the function takes nothing and only reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// The last time that is surely a valid one, in the same unit.
pub const LAST: i64 = 9_000_000_000_000_000_000;

/// Whether it is a time at all, in the same unit; infinity is.
pub fn is_time(time: i64) -> bool {
    pgrx::datum::TimestampWithTimeZone::try_from(time).is_ok()
}

/// A time in that unit, as the session shows it.
pub fn time_as_text(time: i64) -> String {
    // SAFETY: the function takes a number and gives a static buffer with a NUL-terminated text, which is copied at once.
    unsafe { CStr::from_ptr(pg_sys::timestamptz_to_str(time)).to_string_lossy().into_owned() }
}

/// True on a hot standby.
pub fn is_standby() -> bool {
    // SAFETY: the function reads shared memory, to which every process that runs SQL is attached.
    unsafe { pg_sys::RecoveryInProgress() }
}
