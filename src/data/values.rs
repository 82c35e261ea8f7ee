//! Values, blind indexes and the predecessor's client blobs, under the current user's keys.

use std::cell::RefCell;

use vault_core::audit::record::Action;
use vault_core::data::client_blob;
use vault_core::data::derive::Purpose;
use vault_core::data::index::{Bits, BlindIndex};
use vault_core::data::value::{self, BadBinding, Binding, CONTEXT_MAX, MAX_VALUE, SealError, Type};
use zeroize::{Zeroize, Zeroizing};

use super::unlocked::{Material, Unlocked, Use, with_key, with_lookup_key};
use crate::error::{DataError, VaultError};
use crate::identity::Caller;
use crate::pg::varlena::Varlena;
use crate::vault::call::Call;

/// What the predecessor's blobs are for, in the trail.
const CLIENT_BLOB: &str = "client-blob";

/// Where a value belongs.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub context: &'a str,
    pub purpose: Purpose<'a>,
}

thread_local! {
    /// A value on its way from one key to the next, and one on its way out.
    static PLAIN: RefCell<Zeroizing<Vec<u8>>> = RefCell::new(Zeroizing::new(Vec::new()));
    static SEALED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Seals a plaintext under the user's current key.
pub fn encrypt(kind: Type, plaintext: &[u8], place: Place<'_>) -> Result<Varlena, VaultError> {
    if plaintext.len() > MAX_VALUE {
        return Err(DataError::TooLong.into());
    }
    with_key(Use::Encrypt, None, place.purpose, |key| seal(key, kind, plaintext, place))
}

fn seal(key: &Unlocked, kind: Type, plaintext: &[u8], place: Place<'_>) -> Result<Varlena, VaultError> {
    let cipher = cipher(key);
    let binding = bind(key, place)?;
    SEALED.with_borrow_mut(|sealed| match cipher.seal(kind, &binding, plaintext, sealed) {
        Ok(()) => {
            let copy = Varlena::copy(sealed);
            forget_if_large(sealed);
            Ok(copy)
        }
        Err(SealError::TooLong) => Err(DataError::TooLong.into()),
        Err(SealError::Random(_)) => Err(key.failed(VaultError::NoRandomness)),
    })
}

/// Opens a value of that type.
pub fn decrypt(kind: Type, value: &[u8], place: Place<'_>) -> Result<Varlena, VaultError> {
    let header = header(Use::Decrypt, value)?;
    if header.kind != kind {
        return Err(DataError::OtherType(header.kind).into());
    }
    with_key(Use::Decrypt, Some(header.key_version), place.purpose, |key| {
        let binding = bind(key, place)?;
        let len = value::plaintext_len(value).unwrap_or_default();
        Varlena::build(len, |plain| cipher(key).open_into(&binding, &[kind], value, plain).map(|_| ()))
            .map_err(|_| key.failed(DataError::DoesNotOpen))
    })
}

/// The same for a value of the type json: as text.
pub fn decrypt_to<T>(value: &[u8], place: Place<'_>, read: impl FnOnce(&str) -> T) -> Result<T, VaultError> {
    let header = header(Use::Decrypt, value)?;
    if header.kind != Type::Json {
        return Err(DataError::OtherType(header.kind).into());
    }
    with_buffer(|plain| {
        with_key(Use::Decrypt, Some(header.key_version), place.purpose, |key| {
            let binding = bind(key, place)?;
            cipher(key)
                .open(&binding, &[Type::Json], value, plain)
                .map_err(|_| key.failed(DataError::DoesNotOpen))
                .map(|_| ())
        })?;
        Ok(read(str::from_utf8(plain).map_err(|_| DataError::DoesNotOpen)?))
    })
}

/// Seals a value anew under the user's current key. One that is under it already stays as it is, once it has opened.
pub fn reencrypt(value: &[u8], place: Place<'_>) -> Result<Varlena, VaultError> {
    const TYPES: [Type; 3] = [Type::Bytea, Type::Text, Type::Json];
    let header = header(Use::Reencrypt, value)?;
    with_buffer(|plain| {
        let kind = with_key(Use::Reencrypt, Some(header.key_version), place.purpose, |key| {
            let binding = bind(key, place)?;
            cipher(key).open(&binding, &TYPES, value, plain).map_err(|_| key.failed(DataError::DoesNotOpen))
        })?;
        with_key(Use::Reencrypt, None, place.purpose, |key| {
            if key.key_version == header.key_version { Ok(Varlena::copy(value)) } else { seal(key, kind, plain, place) }
        })
    })
}

/// The version of the key that a value names; None if it is none.
pub fn version(value: &[u8]) -> Option<i32> {
    value::header(value).map(|header| header.key_version)
}

/// The blind index of a text under a version of the user's key; `None` is the current one.
pub fn blind_index(
    text: &str,
    purpose: Purpose<'_>,
    bits: Bits,
    key_version: Option<i32>,
) -> Result<Vec<u8>, VaultError> {
    with_key(Use::Index, key_version, purpose, |key| Ok(index(key).of(text.as_bytes(), bits)))
}

/// The index of a text under a key of the database, the same for every user.
pub fn lookup_index(text: &str, purpose: Purpose<'_>, bits: Bits) -> Result<Vec<u8>, VaultError> {
    with_lookup_key(purpose, |key| Ok(index(key).of(text.as_bytes(), bits)))
}

fn index(key: &Unlocked) -> &BlindIndex {
    match &key.material {
        Material::Index(index) => &index[0],
        _ => unreachable!("a key for indexes"),
    }
}

/// Writes a blob as the predecessor's clients do.
pub fn write_blob(json: &str) -> Result<String, VaultError> {
    with_key(Use::WriteBlob, None, client_blob_purpose(), |key| match client_blob::seal(master_key(key), json) {
        Ok(blob) => Ok(blob),
        Err(SealError::TooLong) => Err(DataError::TooLong.into()),
        Err(SealError::Random(_)) => Err(key.failed(VaultError::NoRandomness)),
    })
}

/// Reads such a blob, which does not say its version: `None` is the current one.
pub fn read_blob(blob: &str, key_version: Option<i32>) -> Result<Zeroizing<String>, VaultError> {
    with_key(Use::ReadBlob, key_version, client_blob_purpose(), |key| {
        client_blob::open(master_key(key), blob).map_err(|_| key.failed(DataError::DoesNotOpen))
    })
}

fn client_blob_purpose() -> Purpose<'static> {
    Purpose::new(CLIENT_BLOB).expect("a purpose within bounds")
}

fn cipher(key: &Unlocked) -> &value::Cipher {
    match &key.material {
        Material::Values(cipher) => &cipher[0],
        _ => unreachable!("a key for values"),
    }
}

fn master_key(key: &Unlocked) -> &vault_core::crypto::secret::MasterKey {
    match &key.material {
        Material::Master(master_key) => &master_key[0],
        _ => unreachable!("a key for blobs"),
    }
}

fn bind<'a>(key: &'a Unlocked, place: Place<'a>) -> Result<Binding<'a>, VaultError> {
    const HINT: &str = "Name the place of the value, such as 'notes.body:42': table, column and row.";
    Binding::new(&key.user, key.key_version, place.purpose, place.context).map_err(|error| match error {
        BadBinding::Context => {
            const { assert!(CONTEXT_MAX == 1024) };
            VaultError::BadArgument("context must have 1 to 1024 bytes", HINT)
        }
        BadBinding::UserId | BadBinding::KeyVersion => DataError::DoesNotOpen.into(),
    })
}

/// What a value says of itself. One that is none is recorded as a failure.
fn header(by: Use, value: &[u8]) -> Result<value::Header, VaultError> {
    value::header(value).ok_or_else(|| {
        let action = if by == Use::Reencrypt { Action::Reencrypt } else { Action::Decrypt };
        match Call::begin(action, Caller::OfSession) {
            Ok(call) => call.failed(DataError::DoesNotOpen.into()),
            Err(error) => error,
        }
    })
}

/// The buffers keep the size of ordinary values.
const KEPT: usize = 64 << 10;

/// Does `work` with the buffer for plaintext, and clears it. An error drops it, which clears it, too.
fn with_buffer<T>(work: impl FnOnce(&mut Zeroizing<Vec<u8>>) -> Result<T, VaultError>) -> Result<T, VaultError> {
    // Taken out meanwhile: `work` may come back here.
    let mut plain = PLAIN.take();
    let done = work(&mut plain)?;
    if plain.capacity() <= KEPT {
        plain.zeroize();
        PLAIN.set(plain);
    }
    Ok(done)
}

fn forget_if_large(sealed: &mut Vec<u8>) {
    if sealed.capacity() > KEPT {
        *sealed = Vec::new();
    }
}
