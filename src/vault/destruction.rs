//! Destroys what is due: vaults whose erasure was scheduled, and old keys.

use std::collections::HashSet;

use vault_core::audit::record::Action;

use super::call::Call;
use super::erasure;
use super::key::KeyId;
use crate::error::VaultError;
use crate::pg::procedure::Transactions;
use crate::pg::{session, wait};
use crate::store::{self, erasures, maintenance, old_keys, vaults};

const CALL: &str = "vault_destroy_due()";

/// What a run has destroyed.
pub struct Totals {
    pub keys: i64,
    pub vaults: i64,
}

/// Destroys everything whose time has come. Each batch is a transaction; what others have locked, and the rest of an interrupted
/// run, is the next run's.
///
/// Each destruction has its row in the trail before it is committed. If the server dies in between, the trail has rows about
/// keys that are still there, and the next run writes them again.
pub fn run(batch_size: i32, transactions: &Transactions) -> Result<Totals, VaultError> {
    let call = Call::without_user(Action::Destroy)?;
    call.attempt(|_| session::as_role(store::OWNER, begin))?;
    transactions.commit();
    // Vaults come first: their keys go with them, and not one by one.
    let vaults = batches(&call, batch_size, transactions, erase_vaults)?;
    let keys = batches(&call, batch_size, transactions, destroy_keys)?;
    Ok(Totals { keys, vaults })
}

fn begin() -> Result<(), VaultError> {
    if session::has_old_snapshot() {
        return Err(VaultError::OldSnapshot(CALL));
    }
    Ok(())
}

fn batches(
    call: &Call,
    size: i32,
    transactions: &Transactions,
    batch: fn(&Call, i32) -> Result<usize, VaultError>,
) -> Result<i64, VaultError> {
    let mut total = 0;
    loop {
        wait::check_for_interrupts();
        let done = call.attempt(|_| {
            // Raised within the subtransaction: what has no row in the trail must be undone.
            let batch = || batch(call, size).unwrap_or_else(|error| error.raise());
            Ok(session::as_role(store::OWNER, || maintenance::run(batch)))
        })?;
        transactions.commit();
        total += done as i64;
        if done < size as usize {
            return Ok(total);
        }
    }
}

/// Erases the next vaults; fewer than `size` if no others are left. In maintenance.
fn erase_vaults(call: &Call, size: i32) -> Result<usize, VaultError> {
    vaults::begin_write();
    let by = session::login();
    let due = erasures::lock_due(session::now(), size);
    let mut seen = HashSet::new();
    for vault in &due {
        // A vault has one erasure that is scheduled, unless somebody has written the table by hand.
        if !seen.insert(&vault.user_id) {
            continue;
        }
        let key = KeyId { kek_id: &vault.kek_id, key_version: vault.key_version };
        call.record_change_about(Action::Erase, &vault.user_id, key, Some("scheduled"))?;
        erasure::erase_with_all(&vault.user_id, &by).ok_or(VaultError::ChangedMeanwhile)?;
    }
    Ok(due.len())
}

/// Destroys the next old keys; fewer than `size` if no others are left. In maintenance.
fn destroy_keys(call: &Call, size: i32) -> Result<usize, VaultError> {
    vaults::begin_write();
    let due = old_keys::lock_due(session::now(), size);
    for key in &due {
        let id = KeyId { kek_id: &key.kek_id, key_version: key.key_version };
        call.record_change_about(Action::Destroy, &key.user_id, id, None)?;
    }
    if old_keys::destroy(&due) == due.len() { Ok(due.len()) } else { Err(VaultError::ChangedMeanwhile) }
}
