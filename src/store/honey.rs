//! The table of honey users, and the notification of alarms.

use super::{SCHEMA, maintenance};
use crate::pg::session;
use crate::pg::spi::{Arg, Rows, Statement};
use crate::pg::table::{Access, Place, Resolved, Table, Type};

const HONEY_USERS: Table<1> = Table {
    schema: SCHEMA,
    name: c"honey_users",
    policies: &[],
    access: Access::Read,
    columns: [(c"user_id", Type::Text)],
};

thread_local! {
    static PLACE: Resolved<(Place<1>, ())> = const { Resolved::new() };
    static ALL: Statement = const { Statement::new("SELECT user_id FROM vault_ext.honey_users") };
    static ADD: Statement = const { Statement::new(
        "INSERT INTO vault_ext.honey_users (user_id, marked_by) VALUES ($1, $2) ON CONFLICT (user_id) DO NOTHING"
    ) };
    static REMOVE: Statement = const { Statement::new(
        "DELETE FROM vault_ext.honey_users WHERE user_id OPERATOR(pg_catalog.=) $1"
    ) };
    static RENAME: Statement = const { Statement::new(
        "UPDATE vault_ext.honey_users SET user_id = $2 WHERE user_id OPERATOR(pg_catalog.=) $1"
    ) };
    static NOTIFY: Statement = const { Statement::new("SELECT pg_catalog.pg_notify('vault_ext_alarm', $1)") };
}

/// All honey users of this database, also for a caller who may not read them. Every backend asks with its first fetch, and most
/// databases have none: then no statement is planned.
pub fn all() -> Vec<String> {
    session::as_role(super::OWNER, || {
        if PLACE.with(|place| HONEY_USERS.is_surely_empty(place)) {
            return Vec::new();
        }
        maintenance::run(|| ALL.with(|statement| statement.run(&[], |rows| rows.collect(|row| rows.get(row, 0)))))
    })
}

/// Marks a user. False if it was marked before.
pub fn add(user: &str, by: &str) -> bool {
    let args = [Arg::Text(user), Arg::Text(by)];
    maintenance::run(|| ADD.with(|statement| statement.run(&args, Rows::count))) > 0
}

/// Takes the mark away. False if there was none.
pub fn remove(user: &str) -> bool {
    maintenance::run(|| REMOVE.with(|statement| statement.run(&[Arg::Text(user)], Rows::count))) > 0
}

/// The user has another id now. False if it was not marked.
pub fn rename(user: &str, to: &str) -> bool {
    maintenance::run(|| RENAME.with(|statement| statement.run(&[Arg::Text(user), Arg::Text(to)], Rows::count))) > 0
}

/// Notifies those who listen to `vault_ext_alarm` when the transaction commits.
pub fn notify(payload: &str) {
    NOTIFY.with(|statement| statement.run(&[Arg::Text(payload)], |_| ()));
}
