//! For applications: members of vault_ext_user.

use pgrx::prelude::*;

use super::or_raise;
use crate::error::VaultError;
use crate::identity::Caller;
use crate::pg::composite::Row;
use crate::vault::key::{Released, UserKey};
use crate::vault::service::{self, OldKey};

/// `vault_key`: master_key text, format_version smallint, kek_id text, key_version integer, requires_recovery_code boolean,
/// recovery_wrapped_mk text, recovery_iv text. The SQL of 0.2.0 and older has the first four.
pub(super) fn vault_key(result: Result<UserKey, VaultError>) -> Row<7> {
    Row(columns(&or_raise(result)))
}

/// The columns of `vault_key`.
pub(super) fn columns(key: &UserKey) -> [Option<pg_sys::Datum>; 7] {
    let (master_key, recovery) = match &key.released {
        Released::MasterKey(master_key) => (master_key.to_base64().as_str().into_datum(), None),
        Released::RecoveryWrap(recovery) => (None, Some(recovery)),
    };
    [
        master_key,
        key.format_version.into_datum(),
        key.kek_id.as_str().into_datum(),
        key.key_version.into_datum(),
        recovery.is_some().into_datum(),
        recovery.map(|recovery| recovery.wrapped_mk.as_str()).into_datum(),
        recovery.map(|recovery| recovery.iv.as_str()).into_datum(),
    ]
}

/// The user's key; minted if there is none. 28000, 42501, 55000, XX001, 53400.
#[pg_extern(sql = false)]
fn vault_init() -> Row<7> {
    vault_key(service::init(Caller::OfSession))
}

/// The same for the user that a token names.
#[pg_extern(sql = false)]
fn vault_init_with_token(token: Option<&str>) -> Row<7> {
    vault_key(service::init(Caller::WithToken(token)))
}

/// The user's key. P0002 if there is none; 28000, 42501, 55000, XX001, 53400.
#[pg_extern(sql = false)]
fn vault_get_master_key() -> Row<7> {
    vault_key(service::get(Caller::OfSession))
}

/// The same for the user that a token names.
#[pg_extern(sql = false)]
fn vault_get_master_key_with_token(token: Option<&str>) -> Row<7> {
    vault_key(service::get(Caller::WithToken(token)))
}

/// A fresh key in place of the old one, which can still be opened. 28000, 42501, 55000, XX001, 53400.
#[pg_extern(sql = false)]
fn vault_rotate() -> Row<7> {
    vault_key(service::rotate(Caller::OfSession, OldKey::Keep))
}

/// The same; `destroy_old` lets nobody open the old key again.
#[pg_extern(sql = false)]
fn vault_rotate_and(destroy_old: bool) -> Row<7> {
    vault_key(service::rotate(Caller::OfSession, what_of_old(destroy_old)))
}

fn what_of_old(destroy: bool) -> OldKey {
    if destroy { OldKey::Destroy } else { OldKey::Keep }
}

/// The same for the user that a token names.
#[pg_extern(sql = false)]
fn vault_rotate_with_token(token: Option<&str>) -> Row<7> {
    vault_key(service::rotate(Caller::WithToken(token), OldKey::Keep))
}

/// The same with `destroy_old`; NULL is false.
#[pg_extern(sql = false)]
fn vault_rotate_and_with_token(token: Option<&str>, destroy_old: Option<bool>) -> Row<7> {
    vault_key(service::rotate(Caller::WithToken(token), what_of_old(destroy_old.unwrap_or(false))))
}

/// exists, format_version, kek_id, key_version, created_at, rotated_at, has_recovery_wrap, zero_knowledge, recovery_set_at; all but
/// the first NULL where there is no vault. The SQL of 0.2.0 and older has the first six.
#[pg_extern(sql = false)]
fn vault_status() -> Row<9> {
    status(Caller::OfSession)
}

/// The same for the user that a token names.
#[pg_extern(sql = false)]
fn vault_status_with_token(token: Option<&str>) -> Row<9> {
    status(Caller::WithToken(token))
}

fn status(caller: Caller<'_>) -> Row<9> {
    match or_raise(service::status(caller)) {
        None => Row([false.into_datum(), None, None, None, None, None, None, None, None]),
        Some(vault) => Row([
            true.into_datum(),
            vault.format_version.into_datum(),
            vault.kek_id.as_str().into_datum(),
            vault.key_version.into_datum(),
            vault.created_at.into_datum(),
            vault.rotated_at.into_datum(),
            vault.recovery_set_at.is_some().into_datum(),
            vault.zero_knowledge.into_datum(),
            vault.recovery_set_at.into_datum(),
        ]),
    }
}
