//! Sealed release: keys that leave only encrypted to a public key of the caller's.

use pgrx::prelude::*;

use super::or_raise;
use crate::error::VaultError;
use crate::pg::composite::Row;
use crate::vault::seal::{self, Wanted};

/// sealed, algorithm, fingerprint, key_version, kek_id. The text of a public key that is NULL is empty, and refused as such.
fn seal(public_key: Option<&str>, wanted: Wanted<'_>, key_version: Option<i32>) -> Row<5> {
    let sealed = or_raise(seal::seal(public_key.unwrap_or_default(), wanted, key_version));
    Row([
        sealed.sealed.into_datum(),
        sealed.algorithm.into_datum(),
        sealed.fingerprint.into_datum(),
        sealed.key_version.into_datum(),
        sealed.kek_id.into_datum(),
    ])
}

/// The user's master key, sealed. P0002 if there is none; 22023 for a bad public key; 28000, 42501, 55000, XX001, 53400.
#[pg_extern(sql = false)]
fn vault_seal_master_key(public_key: Option<&str>, key_version: Option<i32>) -> Row<5> {
    seal(public_key, Wanted::Master, key_version)
}

/// The key that vault_derive_key() gives for a purpose, sealed. The same errors.
#[pg_extern(sql = false)]
fn vault_seal_derived_key(public_key: Option<&str>, purpose: Option<&str>, key_version: Option<i32>) -> Row<5> {
    seal(public_key, Wanted::Derived { purpose: purpose.unwrap_or_default() }, key_version)
}

/// The key that vault_derive_key() gives for a salt and an info, sealed. The same errors.
#[pg_extern(sql = false)]
fn vault_seal_derived_key_with_salt(public_key: Option<&str>, salt: Option<&[u8]>, info: Option<&str>) -> Row<5> {
    let (Some(salt), Some(info)) = (salt, info) else {
        VaultError::BadArgument("salt and info must not be NULL", "Give an empty salt ('') if there is none.").raise()
    };
    seal(public_key, Wanted::General { salt, info }, None)
}
