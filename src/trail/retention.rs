//! Deleting old rows. Their hashes stay in the tree, so the rest still verifies. What is deleted stands in the trail before it goes.

use pgrx::datum::Interval;
use vault_core::audit::record::Action;
use vault_trail::context::{Leaves, Purge};

use crate::error::VaultError;
use crate::pg::procedure::Transactions;
use crate::pg::{session, wait};
use crate::store::trail::{self, Due};
use crate::store::{self, catalog};
use crate::tree::head;
use crate::vault::call::Call;

const CALL: &str = "vault_purge_audit()";

/// Deletes all rows older than that, in the caller's transaction, and says how many.
pub fn purge(older_than: Interval) -> Result<u64, VaultError> {
    let call = Call::without_user(Action::Purge)?;
    if !catalog::is_of_0_3() {
        let age = older_than.to_string();
        let purged = call.attempt(|_| Ok(trail::purge_without_tree(older_than)))?;
        call.record_change(200, None, Some(&format!("{purged} rows older than {age}")))?;
        return Ok(purged);
    }
    call.attempt(|_| {
        // Raised within the subtransaction: what has no row in the trail must be undone.
        let batch = || purge_batch(&call, trail::cutoff(older_than), 0, None);
        let purged = batch().unwrap_or_else(|error| error.raise());
        if purged.is_none() {
            call.record(200, None, Some("nothing"))?;
        }
        Ok(purged.map_or(0, |due| due.rows + due.old_rows))
    })
}

/// The same in batches, each in a transaction of its own, the oldest first. What an interruption leaves is the next run's.
pub fn purge_in_batches(older_than: Interval, size: i32, transactions: &Transactions) -> Result<i64, VaultError> {
    let call = Call::without_user(Action::Purge)?;
    call.attempt(|_| if session::has_old_snapshot() { Err(VaultError::OldSnapshot(CALL)) } else { Ok(()) })?;
    let cutoff = trail::cutoff(older_than);
    let (mut after, mut purged) = (0, 0);
    loop {
        wait::check_for_interrupts();
        let due = call.attempt(|_| {
            let batch = || purge_batch(&call, cutoff, after, Some(size)).unwrap_or_else(|error| error.raise());
            Ok(session::as_role(store::OWNER, batch))
        })?;
        transactions.commit();
        let Some(due) = due else { break };
        after = due.last_id;
        purged += (due.rows + due.old_rows) as i64;
    }
    if purged == 0 {
        call.record(200, None, Some("nothing"))?;
    }
    Ok(purged)
}

/// Deletes the next rows after an id; None if there are none.
fn purge_batch(call: &Call, cutoff: i64, after: i64, limit: Option<i32>) -> Result<Option<Due>, VaultError> {
    let Some(due) = trail::due(cutoff, after, limit) else { return Ok(None) };
    let (tree, _) = head::read();
    let purge = Purge {
        rows: due.rows,
        leaves: due.leaves.map(|(first, last)| Leaves { first, last }),
        old_rows: due.old_rows,
        size: tree.size(),
        root: tree.root(),
    };
    call.record_change(200, None, Some(&purge.to_string()))?;
    let open_from = tree.size() - tree.open(0).len() as u64;
    if trail::purge(&due, open_from) != due.rows + due.old_rows {
        return Err(VaultError::ChangedMeanwhile);
    }
    Ok(Some(due))
}
