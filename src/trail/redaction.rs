//! Taking a person's traces out of the trail, as the law may ask, so that it still verifies: the hash of the personal fields stays.

use vault_core::audit::record::{Action, MAX_CONTEXT, sanitized};
use vault_trail::context::{Leaves, Redact};

use crate::error::VaultError;
use crate::store::trail;
use crate::vault::call::Call;

/// Takes the personal fields from every row that names the user, and gives the number of rows. The row about it does not name the user.
pub fn redact(user: &str) -> Result<u64, VaultError> {
    let call = Call::without_user(Action::Redact)?;
    call.attempt(|_| {
        let renamed = ["from", "to"].map(|word| sanitized(format!("{word} {user}").as_bytes(), MAX_CONTEXT));
        let rows = trail::lock_personal(user, renamed.each_ref().map(|text| text.as_deref().unwrap_or_default()));
        let leaves = || rows.iter().filter_map(|row| row.leaf);
        let of_tree = leaves().count() as u64;
        let redact = Redact {
            rows: of_tree,
            leaves: leaves().min().zip(leaves().max()).map(|(first, last)| Leaves { first, last }),
            old_rows: rows.len() as u64 - of_tree,
        };
        // Raised within the subtransaction: what has no row in the trail must be undone.
        call.record_change(200, None, Some(&redact.to_string())).unwrap_or_else(|error| error.raise());
        rows.iter().for_each(trail::redact);
        Ok(rows.len() as u64)
    })
}
