//! Keys in use in SQL: for members of vault_ext_crypt, who never get a raw key, and of vault_ext_user.

use pgrx::prelude::*;
use serde_json::Value;
use vault_core::data::derive::Purpose;
use vault_core::data::index::Bits;
use vault_core::data::json;
use vault_core::data::value::Type;

use super::or_raise;
use crate::data::derive;
use crate::data::values::{self, Place};
use crate::error::VaultError;
use crate::pg::varlena::{Jsonb, Varlena};

fn purpose(text: Option<&str>) -> Purpose<'_> {
    text.and_then(|text| Purpose::new(text).ok()).unwrap_or_else(|| {
        VaultError::BadArgument("purpose must have 1 to 255 bytes", "Leave it out, or name what the values are for.")
            .raise()
    })
}

/// NULL is no place: a value without one could be moved anywhere.
fn place<'a>(context: Option<&'a str>, of: Option<&'a str>) -> Place<'a> {
    let Some(context) = context else {
        VaultError::BadArgument(
            "context must not be NULL",
            "Name the place of the value, such as 'notes.body:42': table, column and row.",
        )
        .raise()
    };
    Place { context, purpose: purpose(of) }
}

/// A value. NULL stays NULL. 22023, 28000, 42501, 54000, 55000, P0002, XX001.
#[pg_extern(sql = false)]
fn vault_encrypt_bytea(plaintext: Option<&[u8]>, context: Option<&str>, purpose: Option<&str>) -> Option<Varlena> {
    let place = place(context, purpose);
    plaintext.map(|plaintext| or_raise(values::encrypt(Type::Bytea, plaintext, place)))
}

/// The same for a text.
#[pg_extern(sql = false)]
fn vault_encrypt_text(plaintext: Option<&str>, context: Option<&str>, purpose: Option<&str>) -> Option<Varlena> {
    let place = place(context, purpose);
    plaintext.map(|plaintext| or_raise(values::encrypt(Type::Text, plaintext.as_bytes(), place)))
}

/// The same for a jsonb.
#[pg_extern(sql = false)]
fn vault_encrypt_jsonb(plaintext: Option<Jsonb>, context: Option<&str>, purpose: Option<&str>) -> Option<Varlena> {
    let place = place(context, purpose);
    plaintext.map(|plaintext| or_raise(values::encrypt(Type::Json, plaintext.text().as_bytes(), place)))
}

/// The bytea in a value. NULL stays NULL. XX001 if it does not open, 55000 and P0002 if its key's version is closed or unknown,
/// 53400 beyond vault_ext.max_decrypts; 22023, 28000, 42501.
#[pg_extern(sql = false)]
fn vault_decrypt(ciphertext: Option<&[u8]>, context: Option<&str>, purpose: Option<&str>) -> Option<Varlena> {
    let place = place(context, purpose);
    ciphertext.map(|ciphertext| or_raise(values::decrypt(Type::Bytea, ciphertext, place)))
}

/// The text in a value.
#[pg_extern(sql = false)]
fn vault_decrypt_text(ciphertext: Option<&[u8]>, context: Option<&str>, purpose: Option<&str>) -> Option<Varlena> {
    let place = place(context, purpose);
    ciphertext.map(|ciphertext| or_raise(values::decrypt(Type::Text, ciphertext, place)))
}

/// The jsonb in a value.
#[pg_extern(sql = false)]
fn vault_decrypt_json(ciphertext: Option<&[u8]>, context: Option<&str>, purpose: Option<&str>) -> Option<Jsonb> {
    let place = place(context, purpose);
    ciphertext.map(|ciphertext| or_raise(values::decrypt_to(ciphertext, place, Jsonb::parse)))
}

/// The same plaintext under the current version of the key. NULL stays NULL.
#[pg_extern(sql = false)]
fn vault_reencrypt(ciphertext: Option<&[u8]>, context: Option<&str>, purpose: Option<&str>) -> Option<Varlena> {
    let place = place(context, purpose);
    ciphertext.map(|ciphertext| or_raise(values::reencrypt(ciphertext, place)))
}

/// The version of the key that a value names; NULL if it is none. Looks at nothing but its argument.
#[pg_extern(sql = false)]
fn vault_ciphertext_version(ciphertext: &[u8]) -> Option<i32> {
    values::version(ciphertext)
}

/// A key for a purpose of the application. 22023, 28000, 42501, 55000, P0002, XX001.
#[pg_extern(sql = false)]
fn vault_derive_key(of: Option<&str>, key_version: Option<i32>) -> Varlena {
    Varlena::copy(or_raise(derive::for_purpose(purpose(of), key_version)).expose_secret())
}

/// HKDF-SHA256 (RFC 5869) of the master key with a salt and an info, for keys that existing clients derive.
#[pg_extern(sql = false)]
fn vault_derive_key_from(salt: Option<&[u8]>, info: Option<&str>) -> Varlena {
    let (Some(salt), Some(info)) = (salt, info) else {
        VaultError::BadArgument("salt and info must not be NULL", "Give an empty salt where there is none.").raise()
    };
    Varlena::copy(or_raise(derive::general(salt, info)).expose_secret())
}

/// The blind index of a text. NULL stays NULL.
#[pg_extern(sql = false)]
fn vault_blind_index(
    value: Option<&str>,
    of: Option<&str>,
    bits: Option<i32>,
    key_version: Option<i32>,
) -> Option<Varlena> {
    let (purpose, bits) = (purpose(of), number_of_bits(bits));
    value.map(|value| Varlena::copy(&or_raise(values::blind_index(value, purpose, bits, key_version))))
}

/// The same under a key of the database: to find a user by an e-mail address, say. NULL stays NULL.
#[pg_extern(sql = false)]
fn vault_lookup_index(value: Option<&str>, of: Option<&str>, bits: Option<i32>) -> Option<Varlena> {
    let (purpose, bits) = (purpose(of), number_of_bits(bits));
    value.map(|value| Varlena::copy(&or_raise(values::lookup_index(value, purpose, bits))))
}

fn number_of_bits(bits: Option<i32>) -> Bits {
    bits.and_then(|bits| Bits::new(bits).ok()).unwrap_or_else(|| {
        VaultError::BadArgument("bits must be from 8 to 256", "Leave it out, or give fewer for more chance hits.")
            .raise()
    })
}

/// A blob as the predecessor's clients write it.
#[pg_extern(sql = false)]
fn vault_client_blob(value: Jsonb) -> String {
    // A client's JSON.parse reads numbers as doubles, too.
    let parsed: Value = serde_json::from_str(value.text()).unwrap_or_else(|_| {
        VaultError::BadArgument("the value has a number that no client can read", "Put such numbers into texts.")
            .raise()
    });
    or_raise(values::write_blob(&json::stringify(&parsed)))
}

/// What is in such a blob. XX001 if it does not open.
#[pg_extern(sql = false)]
fn vault_open_client_blob(blob: Option<&str>, key_version: Option<i32>) -> Option<Jsonb> {
    blob.map(|blob| Jsonb::parse(&or_raise(values::read_blob(blob, key_version))))
}
