//! For applications: members of vault_ext_user.

use pgrx::prelude::*;

use super::or_raise;
use crate::error::VaultError;
use crate::identity::Caller;
use crate::pg::composite::Row;
use crate::vault::key::UserKey;
use crate::vault::service;

/// `vault_key`: master_key text, format_version smallint, kek_id text, key_version integer.
pub(super) fn vault_key(result: Result<UserKey, VaultError>) -> Row<4> {
    let key = or_raise(result);
    Row([
        key.master_key.to_base64().as_str().into_datum(),
        key.format_version.into_datum(),
        key.kek_id.as_str().into_datum(),
        key.key_version.into_datum(),
    ])
}

/// The user's key; minted if there is none. 28000, 42501, 55000, XX001, 53400.
#[pg_extern(sql = false)]
fn vault_init() -> Row<4> {
    vault_key(service::init(Caller::OfSession))
}

/// The same for the user that a token names.
#[pg_extern(sql = false)]
fn vault_init_with_token(token: Option<&str>) -> Row<4> {
    vault_key(service::init(Caller::WithToken(token)))
}

/// The user's key. P0002 if there is none; 28000, 42501, 55000, XX001, 53400.
#[pg_extern(sql = false)]
fn vault_get_master_key() -> Row<4> {
    vault_key(service::get(Caller::OfSession))
}

/// The same for the user that a token names.
#[pg_extern(sql = false)]
fn vault_get_master_key_with_token(token: Option<&str>) -> Row<4> {
    vault_key(service::get(Caller::WithToken(token)))
}

/// A fresh key in place of the old one. 28000, 42501, 55000, XX001, 53400.
#[pg_extern(sql = false)]
fn vault_rotate() -> Row<4> {
    vault_key(service::rotate(Caller::OfSession))
}

/// The same for the user that a token names.
#[pg_extern(sql = false)]
fn vault_rotate_with_token(token: Option<&str>) -> Row<4> {
    vault_key(service::rotate(Caller::WithToken(token)))
}

/// exists, format_version, kek_id, key_version, created_at, rotated_at; all but the first NULL where there is no vault.
#[pg_extern(sql = false)]
fn vault_status() -> Row<6> {
    status(Caller::OfSession)
}

/// The same for the user that a token names.
#[pg_extern(sql = false)]
fn vault_status_with_token(token: Option<&str>) -> Row<6> {
    status(Caller::WithToken(token))
}

fn status(caller: Caller<'_>) -> Row<6> {
    match or_raise(service::status(caller)) {
        None => Row([false.into_datum(), None, None, None, None, None]),
        Some(vault) => Row([
            true.into_datum(),
            vault.format_version.into_datum(),
            vault.kek_id.as_str().into_datum(),
            vault.key_version.into_datum(),
            vault.created_at.into_datum(),
            vault.rotated_at.into_datum(),
        ]),
    }
}
