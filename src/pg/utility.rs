//! A hook for utility statements: those on whole databases, those that may alter guarded objects, and those that make shards of them.

use std::cell::Cell;
use std::ffi::{CStr, c_char};

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::prelude::*;

/// The names of the guarded objects.
#[derive(Clone, Copy)]
pub struct Guarded {
    pub schema: &'static CStr,
    pub tables: &'static [&'static CStr],
    /// Those of which Citus makes shards.
    pub sharded: &'static [&'static str],
    pub owner: &'static CStr,
}

/// What is called for these statements.
#[derive(Clone, Copy)]
pub struct Callbacks {
    /// Before CREATE, DROP, RENAME or ALTER … TABLESPACE of a database, each of which fails while another process is
    /// connected to it.
    pub before_database_statement: fn(),
    /// Called in place of a statement that may alter a guarded object. It must run its argument once, which executes the
    /// statement. It is not called for the statements of CREATE EXTENSION and ALTER EXTENSION.
    pub around_alteration: fn(&mut dyn FnMut()),
    /// Before a shard is made of a guarded table.
    pub before_shard: fn(),
    pub guarded: Guarded,
}

thread_local! {
    static CALLBACKS: Cell<Option<Callbacks>> = const { Cell::new(None) };
}

static mut PREVIOUS: pg_sys::ProcessUtility_hook_type = None;

/// Installs the hook. Only while preloading.
pub fn listen(callbacks: Callbacks) {
    CALLBACKS.set(Some(callbacks));
    // SAFETY: only the postmaster runs this, before it starts other processes, so nothing reads the variables meanwhile. The
    // hook keeps and calls the previous one.
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

/// Whether the statement may alter a guarded object. When in doubt the answer is yes: the callback then compares the catalogs.
fn may_alter(statement: *mut pg_sys::Node, guarded: &Guarded) -> bool {
    // SAFETY: a parse tree that the server hands to its hook; a node's tag says its type, and names in it are NULL or
    // NUL-terminated.
    unsafe {
        let is = |name: *const c_char, wanted: &CStr| !name.is_null() && CStr::from_ptr(name) == wanted;
        let is_table = |relation: *const pg_sys::RangeVar| {
            !relation.is_null() && guarded.tables.iter().any(|table| is((*relation).relname, table))
        };
        match (*statement).type_ {
            pg_sys::NodeTag::T_AlterTableStmt => is_table((*statement.cast::<pg_sys::AlterTableStmt>()).relation),
            pg_sys::NodeTag::T_RuleStmt => is_table((*statement.cast::<pg_sys::RuleStmt>()).relation),
            pg_sys::NodeTag::T_CreatePolicyStmt => is_table((*statement.cast::<pg_sys::CreatePolicyStmt>()).table),
            pg_sys::NodeTag::T_AlterPolicyStmt => is_table((*statement.cast::<pg_sys::AlterPolicyStmt>()).table),
            pg_sys::NodeTag::T_DropStmt => {
                (*statement.cast::<pg_sys::DropStmt>()).removeType == pg_sys::ObjectType::OBJECT_POLICY
            }
            pg_sys::NodeTag::T_AlterObjectSchemaStmt => {
                is_table((*statement.cast::<pg_sys::AlterObjectSchemaStmt>()).relation)
            }
            pg_sys::NodeTag::T_RenameStmt => {
                let rename = &*statement.cast::<pg_sys::RenameStmt>();
                is_table(rename.relation) || is(rename.subname, guarded.schema)
            }
            pg_sys::NodeTag::T_AlterRoleStmt => {
                let role = (*statement.cast::<pg_sys::AlterRoleStmt>()).role;
                !role.is_null() && is((*role).rolename, guarded.owner)
            }
            pg_sys::NodeTag::T_AlterOwnerStmt | pg_sys::NodeTag::T_ReassignOwnedStmt => true,
            _ => false,
        }
    }
}

/// Whether the statement makes a table whose name is that of a sharded one, an underscore and a number, as Citus names shards.
fn makes_a_shard(statement: *mut pg_sys::Node, guarded: &Guarded) -> bool {
    // SAFETY: as in `may_alter`.
    unsafe {
        if (*statement).type_ != pg_sys::NodeTag::T_CreateStmt {
            return false;
        }
        let relation = (*statement.cast::<pg_sys::CreateStmt>()).relation;
        if relation.is_null() || (*relation).schemaname.is_null() || (*relation).relname.is_null() {
            return false;
        }
        let is_shard_of = |name: &[u8], table: &str| {
            let number = name.strip_prefix(table.as_bytes()).and_then(|rest| rest.strip_prefix(b"_"));
            number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
        };
        let name = CStr::from_ptr((*relation).relname).to_bytes();
        CStr::from_ptr((*relation).schemaname) == guarded.schema
            && guarded.sharded.iter().any(|table| is_shard_of(name, table))
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
    let mut go_on = || {
        // SAFETY: every argument goes on as it came, to the previous hook or to the server's own function.
        unsafe {
            match PREVIOUS {
                Some(previous) => pg_guard_ffi_boundary(|| {
                    previous(
                        statement,
                        query,
                        read_only_tree,
                        context,
                        parameters,
                        environment,
                        destination,
                        completion,
                    )
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
    };
    let Some(callbacks) = CALLBACKS.get() else { return go_on() };
    // SAFETY: the server hands over a planned statement, whose parse tree lives at least until this hook returns.
    let node = unsafe { (*statement).utilityStmt };
    if concerns_a_database(node) {
        (callbacks.before_database_statement)();
    }
    if makes_a_shard(node, &callbacks.guarded) {
        (callbacks.before_shard)();
    }
    if !variable!(creating_extension) && may_alter(node, &callbacks.guarded) {
        (callbacks.around_alteration)(&mut go_on);
    } else {
        go_on();
    }
}
