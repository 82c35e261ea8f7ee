//! Alarms and limits, for administrators and monitoring.

use pgrx::prelude::*;

use super::{admin, or_raise};
use crate::alarms::limits;
use crate::pg::composite::RowSet;
use crate::pg::session;
use crate::vault::honey;

/// Marks a user as honey, or takes the mark away; false if nothing changed. 22023, P0002 without a vault.
#[pg_extern(sql = false)]
fn vault_mark_honey(user_id: String, honey: bool) -> bool {
    admin::check_user_id(&user_id);
    or_raise(honey::mark(user_id, honey))
}

/// database, role, users_last_minute, failures_last_minute, alarms, refused: a row for each login role that is counted.
#[pg_extern(sql = false)]
fn alarm_counters() -> RowSet<6> {
    RowSet::new(|rows| {
        for counts in limits::counts() {
            rows.put([
                session::database_name_of(counts.database).into_datum(),
                session::role_name_of(counts.role).into_datum(),
                (counts.users as i64).into_datum(),
                (counts.failures as i64).into_datum(),
                (counts.alarms as i64).into_datum(),
                (counts.refused as i64).into_datum(),
            ]);
        }
    })
}
