//! Moving vaults between servers: for administrators.

use pgrx::prelude::*;

use super::{admin, or_raise};
use crate::error::VaultError;
use crate::pg::composite::Row;
use crate::vault::transfer;

/// kek_id, public_key, fingerprint of this server's import key. 55000.
#[pg_extern(sql = false)]
fn vault_import_key() -> Row<3> {
    let key = or_raise(transfer::import_key());
    Row([key.kek_id.into_datum(), key.public_key.into_datum(), key.fingerprint.into_datum()])
}

/// A user's vault as a bundle that only the server with that import key opens. P0002 if there is none; 22023, 25006, 55000, XX001,
/// 53400.
#[pg_extern(sql = false)]
fn vault_export(user_id: Option<String>, kek_id: Option<&str>, public_key: Option<&str>) -> String {
    let (Some(user_id), Some(kek_id), Some(public_key)) = (user_id, kek_id, public_key) else {
        VaultError::BadArgument(
            "user_id, kek_id and public_key must not be NULL",
            "Give what SELECT * FROM vault_import_key() shows on the target server.",
        )
        .raise()
    };
    admin::check_user_id(&user_id);
    or_raise(transfer::export(user_id, kek_id, public_key))
}

/// Takes the vault of a bundle in, and gives its user. 22023, 23505, 25006, 55000, XX001, 53400.
#[pg_extern(sql = false)]
fn vault_import(bundle: Option<&str>) -> String {
    or_raise(transfer::import(bundle.unwrap_or_default()))
}
