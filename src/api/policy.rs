//! For our own SQL only: functions that the policies and the audit writer's INSERT call.

use pgrx::prelude::*;

use crate::audit::writer;
use crate::pg::composite::RowSet;
use crate::store::maintenance;

/// Asked by policies; see `maintenance`.
#[pg_extern(sql = false)]
fn in_maintenance() -> bool {
    maintenance::is_active()
}

/// Asked by the trail's INSERT policy.
#[pg_extern(sql = false)]
fn is_audit_writer() -> bool {
    writer::is_this_process()
}

/// The records that the audit writer is about to insert; none in any other process.
#[pg_extern(sql = false)]
fn audit_batch() -> RowSet<11> {
    RowSet(|rows| {
        writer::batch(|record| {
            rows.put([
                record.user_id.into_datum(),
                record.action.name().into_datum(),
                i32::from(record.status).into_datum(),
                record.kek_id.into_datum(),
                record.key_version.into_datum(),
                record.db_role.into_datum(),
                record.ip_address.into_datum(),
                record.user_agent.into_datum(),
                record.request_id.into_datum(),
                record.context.into_datum(),
                record.created_at.into_datum(),
            ]);
        });
    })
}
