//! For our own SQL only: functions that the policies, the CHECKs and the audit writer's INSERT call.

use pgrx::prelude::*;
use vault_core::rows::{OldKeyRow, VaultRow};

use super::or_raise;
use crate::audit::writer;
use crate::error::VaultError;
use crate::identity;
use crate::pg::composite::RowSet;
use crate::pg::session;
use crate::store::{OWNER, maintenance, trail};

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

/// Asked by the policies that vault_ext.distribute() makes: whether another node of the cluster has opened this session.
#[pg_extern(sql = false)]
fn is_node() -> bool {
    session::is_login_of(OWNER)
}

/// The records that the audit writer is about to insert; none in any other process.
#[pg_extern(sql = false)]
fn audit_batch() -> RowSet<{ trail::COLUMNS }> {
    RowSet::new(|rows| {
        writer::batch(|record, place| rows.put(writer::values(record, place)));
    })
}

/// Asked by the CHECK of vault_ext.encryption_vaults. Like the next one it needs no shared memory: a dump is also restored where the
/// library is not preloaded.
#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn is_sound_vault(
    user_id: Option<&str>,
    wrapped_mk: Option<&str>,
    wrap_iv: Option<&str>,
    format_version: Option<i16>,
    kek_id: Option<&str>,
    key_version: Option<i32>,
    recovery_wrapped_mk: Option<&str>,
    recovery_iv: Option<&str>,
    recovery_set_at: Option<TimestampWithTimeZone>,
    zero_knowledge: Option<bool>,
    key_check: Option<&str>,
    erase_after: Option<TimestampWithTimeZone>,
) -> bool {
    let row = VaultRow {
        user_id,
        wrapped_mk,
        wrap_iv,
        format_version,
        kek_id,
        key_version,
        recovery_wrapped_mk,
        recovery_iv,
        has_recovery_set_at: recovery_set_at.is_some(),
        zero_knowledge,
        key_check,
        has_erase_after: erase_after.is_some(),
    };
    or_raise(row.check().map_err(VaultError::from));
    true
}

/// Asked by the CHECK of vault_ext.old_keys.
#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn is_sound_old_key(
    user_id: Option<&str>,
    key_version: Option<i32>,
    wrapped_mk: Option<&str>,
    wrap_iv: Option<&str>,
    format_version: Option<i16>,
    kek_id: Option<&str>,
    state: Option<&str>,
    destroy_after: Option<TimestampWithTimeZone>,
    destroyed_at: Option<TimestampWithTimeZone>,
) -> bool {
    let row = OldKeyRow {
        user_id,
        key_version,
        wrapped_mk,
        wrap_iv,
        format_version,
        kek_id,
        state,
        has_destroy_after: destroy_after.is_some(),
        has_destroyed_at: destroyed_at.is_some(),
    };
    or_raise(row.check().map_err(VaultError::from));
    true
}
