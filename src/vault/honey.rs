//! Marks users as honey: users that no application has.

use vault_core::audit::record::Action;

use super::call::Call;
use crate::alarms::honey as alarms;
use crate::error::VaultError;
use crate::pg::session;
use crate::store::{honey, vaults};

/// Marks a user, or takes the mark away. False if nothing changed.
pub fn mark(user: String, is_honey: bool) -> Result<bool, VaultError> {
    let call = Call::on_behalf_of(Action::MarkHoney, user)?;
    let changed = call.attempt(|user| {
        if !is_honey {
            return Ok(honey::remove(user));
        }
        if !vaults::exists(user) {
            return Err(VaultError::NoVault);
        }
        Ok(honey::add(user, &session::login()))
    })?;
    if !changed {
        return call.record(200, None, Some("unchanged")).map(|()| false);
    }
    alarms::note_change();
    call.record_change(200, None, Some(if is_honey { "marked" } else { "unmarked" }))?;
    Ok(true)
}
