//! The erasure of a person, for administrators and auditors.

use pgrx::datum::Interval;
use pgrx::prelude::*;

use super::{admin, or_raise};
use crate::error::VaultError;
use crate::pg::composite::RowSet;
use crate::pg::procedure::Transactions;
use crate::vault::{destruction, erasure};

/// Locks one user's vault now and lets it be erased later: the time of that. 22023, 55000 if it is scheduled, P0002.
#[pg_extern(sql = false)]
fn vault_schedule_erase(
    user_id: Option<String>,
    wait: Option<Interval>,
    reason: Option<&str>,
) -> Option<TimestampWithTimeZone> {
    let user_id = user_id.unwrap_or_default();
    admin::check_user_id(&user_id);
    let Some(wait) = wait else {
        VaultError::BadArgument("wait must not be NULL", "Give a wait such as interval '30 days', or leave it out.")
            .raise()
    };
    let wait = i64::try_from(wait.as_micros()).unwrap_or(i64::MAX);
    TimestampWithTimeZone::try_from(or_raise(erasure::schedule(user_id, wait, reason.unwrap_or_default()))).ok()
}

/// Opens a vault again whose erasure is scheduled; false if none is. 22023, 55000, P0002 if it was erased.
#[pg_extern(sql = false)]
fn vault_cancel_erase(user_id: String) -> bool {
    admin::check_user_id(&user_id);
    or_raise(erasure::cancel(user_id))
}

/// erasure_id, state, reason, scheduled_by, scheduled_at, erase_after, cancelled_by, cancelled_at, erased_at, kek_id, kek_first_seen,
/// kek_retired_at, kek_loaded: a row for each erasure of the user and each KEK that may have wrapped the keys.
#[pg_extern(sql = false)]
fn vault_erasure_status(user_id: String) -> RowSet<13> {
    admin::check_user_id(&user_id);
    RowSet::new(move |rows| {
        for (erasure, keks) in or_raise(erasure::status(&user_id)) {
            let state = match (&erasure.cancelled, erasure.erased_at) {
                (Some(_), _) => "cancelled",
                (None, Some(_)) => "erased",
                (None, None) => "scheduled",
            };
            let (cancelled_by, cancelled_at) = erasure.cancelled.clone().unzip();
            let keks: Vec<_> = if keks.is_empty() { vec![None] } else { keks.into_iter().map(Some).collect() };
            for kek in keks {
                let known = kek.as_ref().map(|status| &status.kek);
                rows.put([
                    erasure.id.into_datum(),
                    state.into_datum(),
                    erasure.reason.as_str().into_datum(),
                    erasure.scheduled_by.as_str().into_datum(),
                    erasure.scheduled_at.into_datum(),
                    erasure.erase_after.into_datum(),
                    cancelled_by.as_deref().into_datum(),
                    cancelled_at.into_datum(),
                    erasure.erased_at.into_datum(),
                    known.map(|kek| kek.kek_id.as_str()).into_datum(),
                    known.and_then(|kek| kek.first_seen).into_datum(),
                    known.and_then(|kek| kek.retired_at).into_datum(),
                    kek.as_ref().map(|status| status.is_loaded).into_datum(),
                ]);
            }
        }
    })
}

/// What the procedure vault_destroy_due() does. 22023, 25001, 25006, 55000.
pub fn vault_destroy_due(batch_size: Option<i32>, transactions: Option<&Transactions>) -> [i64; 2] {
    let (batch_size, transactions) = admin::batches("vault_destroy_due()", batch_size, transactions);
    let totals = or_raise(destruction::run(batch_size, transactions));
    [totals.keys, totals.vaults]
}
