//! For our own SQL only: functions that the policies and the audit writer's INSERT call.

use pgrx::prelude::*;
use vault_core::audit::record::IdentityKind;

use super::or_raise;
use crate::audit::writer;
use crate::error::VaultError;
use crate::identity;
use crate::pg::composite::RowSet;
use crate::store::maintenance;

/// The user whose rows policies let through: of the call in progress, or as vault_ext.identity says. NULL where nobody has said
/// who it is, and while the vault works across users. 28000 for a bad token.
#[pg_extern(sql = false)]
fn current_user_id() -> Option<String> {
    if maintenance::is_active() { None } else { or_raise(identity::visible_user().map_err(VaultError::from)) }
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
fn audit_batch() -> RowSet<17> {
    RowSet::new(|rows| {
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
                record.evidence.identity.map(IdentityKind::name).into_datum(),
                record.evidence.issuer.into_datum(),
                record.evidence.token_id.into_datum(),
                record.evidence.token_kid.into_datum(),
                record.evidence.actor.into_datum(),
                record.evidence.grant_id.into_datum(),
            ]);
        });
    })
}
