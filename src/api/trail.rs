//! The audit trail: what it proves, for auditors; deleting and redacting, for administrators.

use pgrx::datum::Interval;
use pgrx::prelude::*;
use vault_core::integrity::Scope;

use super::{admin, or_raise};
use crate::error::VaultError;
use crate::guard::blind;
use crate::pg::composite;
use crate::pg::procedure::Transactions;
use crate::trail::{origin, redaction, retention, verification};
use crate::tree::{head, key, old_rows, proofs};

/// What the trail says, if nothing hides a part of it.
fn seen<T>(look: impl FnOnce() -> Result<T, VaultError>) -> T {
    or_raise(blind::unless(Scope::Proofs, look))
}

/// A signed note, or the three lines alone where the server has no audit key; NULL before the trail's first row.
#[pg_extern(sql = false)]
fn vault_audit_checkpoint() -> Option<String> {
    seen(|| Ok(head::checkpoint())).map(|checkpoint| head::note(&checkpoint))
}

/// The verifier key (C2SP signed-note) of this trail; NULL without vault_ext.audit_key_file, and before the trail's first row.
#[pg_extern(sql = false)]
fn vault_audit_key() -> Option<String> {
    let origin = seen(|| Ok(crate::store::tree::current_trail()))?.origin;
    key::with(|key| key.public().vkey(&origin))
}

/// C2SP tlog-proof. P0002, 55000, XX001.
#[pg_extern(sql = false)]
fn vault_audit_proof(id: i64) -> String {
    seen(|| Ok(proofs::inclusion(id)?)).to_string()
}

/// The request of C2SP tlog-witness. 22023, 55000, XX001.
#[pg_extern(sql = false)]
fn vault_audit_consistency(old_size: i64) -> String {
    const NEGATIVE: VaultError =
        VaultError::BadArgument("a size cannot be negative", "Pass the size of an older checkpoint.");
    let old_size = or_raise(u64::try_from(old_size).map_err(|_| NEGATIVE));
    seen(|| Ok(proofs::consistency(old_size)?)).to_string()
}

/// verdict, size, rows, redacted, purged, old_rows, leaf, id, finding. 22023 for what is no checkpoint.
#[pg_extern(sql = false)]
fn vault_audit_verify(since: Option<&str>) -> composite::Row<9> {
    let (summary, finding) = seen(|| Ok(verification::verify(since)?));
    let verdict = finding.as_ref().map_or("intact", |finding| finding.kind.name());
    let number = |number: u64| (number as i64).into_datum();
    composite::Row([
        verdict.into_datum(),
        number(summary.size),
        number(summary.rows),
        number(summary.redacted),
        number(summary.purged),
        number(summary.old_rows),
        finding.as_ref().and_then(|finding| finding.leaf).and_then(number),
        finding.as_ref().and_then(|finding| finding.id).into_datum(),
        finding.as_ref().and_then(|finding| finding.text.as_str().into_datum()),
    ])
}

/// The new origin. 25006, 55000.
#[pg_extern(sql = false)]
fn vault_new_trail() -> String {
    or_raise(origin::begin_anew())
}

/// The number of rows. Called by the update of the extension: first for what is there, then once more when the trail is locked.
#[pg_extern(sql = false)]
fn commit_to_old_audit_rows() -> i64 {
    old_rows::commit() as i64
}

fn check_age(older_than: &Interval) {
    if older_than.as_micros() < 0 {
        VaultError::BadArgument("older_than must not be negative", "Give an age, such as interval '1 year'.").raise();
    }
}

/// Deletes audit rows older than that and says how many. 22023 for a negative age.
#[pg_extern(sql = false)]
fn vault_purge_audit(older_than: Interval) -> i64 {
    check_age(&older_than);
    or_raise(retention::purge(older_than)) as i64
}

/// What the procedure vault_purge_audit() does. 22023, 25001, 25006, 55000.
pub fn vault_purge_audit_in_batches(
    older_than: Option<Interval>,
    batch_size: Option<i32>,
    transactions: Option<&Transactions>,
) -> [i64; 1] {
    let (batch_size, transactions) = admin::batches("vault_purge_audit()", batch_size, transactions);
    let Some(older_than) = older_than else {
        VaultError::BadArgument("older_than must not be NULL", "Give an age, such as interval '1 year'.").raise()
    };
    check_age(&older_than);
    [or_raise(retention::purge_in_batches(older_than, batch_size, transactions))]
}

/// Takes the personal fields out of all rows that name the user, and says how many. 22023, 25006, 55000.
#[pg_extern(sql = false)]
fn vault_redact_audit(user_id: &str) -> i64 {
    admin::check_user_id(user_id);
    or_raise(redaction::redact(user_id)) as i64
}
