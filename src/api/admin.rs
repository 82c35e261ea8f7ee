//! For administrators: members of vault_ext_admin.

use pgrx::prelude::*;
use vault_core::crypto::wrap::USER_ID_MAX;

use super::or_raise;
use crate::error::VaultError;
use crate::kek::{check, reload, retire, rewrap, status};
use crate::pg::composite::{Row, RowSet};
use crate::pg::procedure::Transactions;
use crate::pg::trigger::DeletedRow;
use crate::store::{catalog, version};
use crate::vault::{erasure, rename};

/// Deletes one user's vault; false if there was none. 22023 for an impossible user id.
#[pg_extern(sql = false)]
fn vault_erase(user_id: String) -> bool {
    check_user_id(&user_id);
    or_raise(erasure::erase(user_id))
}

/// Gives one user's vault to another user id. P0002 if there is none, 23505 if the other has one, 22023 for impossible ids.
#[pg_extern(sql = false)]
fn vault_rename_user(old_user_id: String, new_user_id: &str) {
    check_user_id(&old_user_id);
    check_user_id(new_user_id);
    if old_user_id == new_user_id {
        VaultError::BadArgument("the two user ids are the same", "Ids are compared byte by byte.").raise();
    }
    or_raise(rename::rename(old_user_id, new_user_id));
}

pub(super) fn check_user_id(user_id: &str) {
    if user_id.is_empty() || user_id.len() > USER_ID_MAX {
        VaultError::BadArgument("user_id must have 1 to 255 bytes", "Give the user's id as the application sets it.")
            .raise();
    }
}

/// What the trigger function does: AFTER DELETE … FOR EACH ROW on the application's users table; the argument names the column with the user's id.
pub fn vault_erase_on_delete(row: Option<DeletedRow>) {
    or_raise(erase_on_delete(row));
}

fn erase_on_delete(row: Option<DeletedRow>) -> Result<(), VaultError> {
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
        Some(user) if !user.is_empty() && user.len() <= USER_ID_MAX => erasure::erase_deleted(user),
        // No vault can have such an id.
        _ => Ok(()),
    }
}

/// Reads the keyring's source again: kek_id, active, change (added, kept, removed). F0000, 55000, 55P03, 25006.
#[pg_extern(sql = false)]
fn vault_reload_kek(
    keep_missing: bool,
) -> TableIterator<'static, (name!(kek_id, String), name!(active, bool), name!(change, &'static str))> {
    let change = or_raise(reload::reload(keep_missing));
    let mut rows: Vec<_> = Vec::new();
    for (position, entry) in change.entries.into_iter().enumerate() {
        let what = if change.added.contains(&entry.id) { "added" } else { "kept" };
        rows.push((entry.id, position == 0, what));
    }
    rows.extend(change.removed.into_iter().map(|kek_id| (kek_id, false, "removed")));
    TableIterator::new(rows)
}

/// One row per KEK of the ring or the database: kek_id, active, loaded, check_value, matches, vaults, oldest, first_seen, retired,
/// safe_to_remove, old_keys. The SQL of 0.2.0 and older has the first ten.
#[pg_extern(sql = false)]
fn vault_kek_status() -> RowSet<11> {
    RowSet::new(|rows| {
        for kek in or_raise(status::status()) {
            rows.put([
                kek.kek_id.into_datum(),
                kek.active.into_datum(),
                kek.loaded.into_datum(),
                kek.check_value.into_datum(),
                kek.matches.into_datum(),
                kek.vaults.into_datum(),
                kek.oldest.into_datum(),
                kek.first_seen.into_datum(),
                kek.retired.into_datum(),
                kek.safe_to_remove.into_datum(),
                kek.old_keys.into_datum(),
            ]);
        }
    })
}

/// Marks a KEK as gone; false if it was so already. 55000 while it is active or vaults need it, 22023 if it is unknown.
#[pg_extern(sql = false)]
fn vault_retire_kek(kek_id: &str) -> bool {
    or_raise(retire::retire(kek_id))
}

/// Opens every wrap and releases nothing: kek_id, format_version, outcome, vaults, user_ids of those that do not open, old_keys. The
/// SQL of 0.2.0 and older has the first five.
#[pg_extern(sql = false)]
fn vault_check(max_user_ids: i32) -> RowSet<6> {
    let Ok(max_user_ids) = usize::try_from(max_user_ids) else {
        VaultError::BadArgument("max_user_ids must not be negative", "Give a number such as 100.").raise()
    };
    RowSet::new(move |rows| {
        for found in or_raise(check::run(max_user_ids)) {
            rows.put([
                found.kek_id.into_datum(),
                found.format_version.into_datum(),
                found.outcome.into_datum(),
                found.vaults.into_datum(),
                found.user_ids.into_datum(),
                found.old_keys.into_datum(),
            ]);
        }
    })
}

/// What every procedure is called with, or the error raised.
pub(super) fn batches<'a>(
    call: &'static str,
    batch_size: Option<i32>,
    transactions: Option<&'a Transactions>,
) -> (i32, &'a Transactions) {
    let Some(transactions) = transactions else { VaultError::NotOnItsOwn(call).raise() };
    let Some(batch_size @ 1..=100_000) = batch_size else {
        VaultError::BadArgument("batch_size must be from 1 to 100000", "Leave it out, or give a number such as 1000.")
            .raise()
    };
    (batch_size, transactions)
}

/// What the procedure vault_rewrap() does. 22023, 25001, 25006, 55000.
pub fn vault_rewrap(batch_size: Option<i32>, transactions: Option<&Transactions>) -> [i64; 3] {
    let (batch_size, transactions) = batches("vault_rewrap()", batch_size, transactions);
    let totals = or_raise(rewrap::run(batch_size, transactions));
    [totals.done, totals.skipped, totals.failed]
}

/// library_version, sql_version, hint: what to do where they differ, else NULL.
#[pg_extern(sql = false)]
fn vault_version() -> Row<3> {
    let sql = catalog::sql_version();
    let hint = sql.as_deref().and_then(version::hint);
    Row([version::LIBRARY.into_datum(), sql.into_datum(), hint.into_datum()])
}
