//! For administrators and for the policies.

use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::datum::Interval;
use pgrx::prelude::*;

use super::or_raise;
use crate::audit::writer;
use crate::crypto::wrap::USER_ID_MAX;
use crate::error::VaultError;
use crate::maintenance;
use crate::pg::row::{Row, RowSet};
use crate::pg::shmem;
use crate::pg::trigger::DeletedRow;
use crate::vault;

/// Deletes one user's vault; false if there was none. 22023 for an impossible user id.
#[pg_extern(sql = false)]
fn vault_erase(user_id: String) -> bool {
    if user_id.is_empty() || user_id.len() > USER_ID_MAX {
        super::raise(VaultError::BadArgument(
            "user_id must have 1 to 255 bytes",
            "Give the user's id as the application sets it.",
        ));
    }
    or_raise(vault::erase(user_id))
}

/// AFTER DELETE … FOR EACH ROW on the application's users table; the argument names the column with the user's id.
pub fn erase_on_delete(row: Option<DeletedRow>) -> Result<(), VaultError> {
    const HINT: &str =
        "Use CREATE TRIGGER … AFTER DELETE ON users FOR EACH ROW EXECUTE FUNCTION vault_erase_on_delete('id').";
    let row =
        row.ok_or(VaultError::BadArgument("vault_erase_on_delete() must be an AFTER DELETE row trigger", HINT))?;
    let column = row
        .argument()
        .ok_or(VaultError::BadArgument("vault_erase_on_delete() takes one argument, the name of a column", HINT))?;
    let user = row
        .column(column)
        .map_err(|()| VaultError::BadArgument("vault_erase_on_delete(): the table has no column of that name", HINT))?;
    match user {
        Some(user) if !user.is_empty() && user.len() <= USER_ID_MAX => vault::erase_deleted(user),
        // No vault can have such an id.
        _ => Ok(()),
    }
}

/// Deletes audit rows older than that and says how many. 22023 for a negative age.
#[pg_extern(sql = false)]
fn vault_purge_audit(older_than: Interval) -> i64 {
    if older_than.as_micros() < 0 {
        super::raise(VaultError::BadArgument(
            "older_than must not be negative",
            "Give an age, such as interval '1 year'.",
        ));
    }
    or_raise(vault::purge_audit(older_than)) as i64
}

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

/// Counters of all audit writers since the server started. 55000 where the library was not preloaded.
#[pg_extern(sql = false)]
fn audit_counters() -> Row<8> {
    let Some(area) = shmem::area() else { super::raise(VaultError::NotPreloaded) };
    let counters = area.counters;
    let of = |counter: &AtomicU64| (counter.load(Ordering::Relaxed) as i64).into_datum();
    let queued = area.slots.iter().filter(|slot| slot.is_queued()).count() as i64;
    Row([
        of(&counters.calls),
        of(&counters.rows),
        of(&counters.failures),
        of(&counters.batches),
        queued.into_datum(),
        of(&counters.longest_wait),
        of(&counters.lost),
        of(&counters.writers),
    ])
}
