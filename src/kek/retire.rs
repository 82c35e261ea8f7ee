//! Retires a KEK: this database never wraps with it again.

use vault_core::audit::record::Action;

use super::exclusion::{no_other_node_wraps, only_in_read_committed, open_writers};
use crate::error::VaultError;
use crate::keyring::ring;
use crate::pg::subxact;
use crate::store::{keks, wraps};
use crate::vault::call::Call;

/// Marks a KEK as retired: nothing in this database is wrapped with it any more. False if it was retired already.
pub fn retire(kek_id: &str) -> Result<bool, VaultError> {
    const CALL: &str = "vault_retire_kek()";
    let call = Call::without_user(Action::Retire)?;
    let retired = call.attempt(|_| {
        only_in_read_committed(CALL)?;
        if keks::known_kek(kek_id).is_none() {
            return Err(VaultError::KekUnknown(kek_id.into()));
        }
        // Kept until this transaction ends: whoever mints next sees the retirement. See `publish_removal`.
        subxact::catch(wraps::exclude_writers).or_else(open_writers)?;
        if ring::entries()?.first().is_some_and(|active| active.id == kek_id) {
            return Err(VaultError::KekActive(kek_id.into()));
        }
        no_other_node_wraps(&[kek_id.into()])?;
        match wraps::count_by_kek(&[kek_id.into()]).pop() {
            Some((kek_id, wraps)) => Err(VaultError::KekNeeded { kek_id, wraps }),
            None => Ok(keks::retire_kek(kek_id)),
        }
    })?;
    call.record_change(200, None, Some(&format!("kek {kek_id}{}", if retired { "" } else { " was retired before" })))?;
    if ring::entries()?.iter().any(|entry| entry.id == kek_id) {
        pgrx::notice!("the KEK \"{kek_id}\" is still in the keyring; remove it there and call vault_reload_kek()");
    }
    Ok(retired)
}
