//! Statements on whole databases, at which idle audit writers must step aside at once.

use std::cell::Cell;

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::prelude::*;

thread_local! {
    static BEFORE_DATABASE_STATEMENT: Cell<Option<fn()>> = const { Cell::new(None) };
}

static mut PREVIOUS: pg_sys::ProcessUtility_hook_type = None;

/// Calls `callback` before CREATE, DROP, RENAME or ALTER … TABLESPACE of a database, each of which fails while another
/// process is connected to it. Only while preloading.
pub fn before_database_statements(callback: fn()) {
    BEFORE_DATABASE_STATEMENT.set(Some(callback));
    // SAFETY: the hook is chained, in the postmaster, before it starts others.
    unsafe {
        PREVIOUS = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(on_utility);
    }
}

fn concerns_a_database(statement: *mut pg_sys::Node) -> bool {
    // SAFETY: a parse tree that the server hands to its hook; a node's tag says its type.
    unsafe {
        match (*statement).type_ {
            pg_sys::NodeTag::T_CreatedbStmt | pg_sys::NodeTag::T_DropdbStmt | pg_sys::NodeTag::T_AlterDatabaseStmt => {
                true
            }
            pg_sys::NodeTag::T_RenameStmt => {
                (*statement.cast::<pg_sys::RenameStmt>()).renameType == pg_sys::ObjectType::OBJECT_DATABASE
            }
            _ => false,
        }
    }
}

#[pg_guard]
#[allow(clippy::too_many_arguments)]
unsafe extern "C-unwind" fn on_utility(
    statement: *mut pg_sys::PlannedStmt,
    query: *const std::ffi::c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: every argument goes on as it came, to the previous hook or to the server's own function.
    unsafe {
        if concerns_a_database((*statement).utilityStmt)
            && let Some(callback) = BEFORE_DATABASE_STATEMENT.get()
        {
            callback();
        }
        match PREVIOUS {
            Some(previous) => pg_guard_ffi_boundary(|| {
                previous(statement, query, read_only_tree, context, parameters, environment, destination, completion)
            }),
            None => pg_sys::standard_ProcessUtility(
                statement,
                query,
                read_only_tree,
                context,
                parameters,
                environment,
                destination,
                completion,
            ),
        }
    }
}
