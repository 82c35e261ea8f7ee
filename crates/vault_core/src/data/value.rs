//! Values: a plaintext sealed under a user's data key, as `vault_encrypt` gives it.
//!
//! # The format
//! All lengths and numbers are big-endian:
//! ```text
//! u8         1                                        the format
//! u8         1 bytea, 2 text, 3 json                  the type of the plaintext
//! u32        key_version, 1 to 2147483647
//! 24 bytes   the nonce, random
//!            the ciphertext, as long as the plaintext
//! 16 bytes   the tag
//! ```
//! The cipher is XAES-256-GCM (C2SP) under the [`DataKey`] of the user's master key and the purpose.
//!
//! # The AAD
//! ```text
//! 17 bytes   "vault_ext.data.v1"                      FORMAT_TAG
//! u8         the type, as above
//! u16        length of user_id in bytes, 1 to 255
//!            user_id, UTF-8
//! u32        key_version
//! u16        length of the purpose in bytes, 1 to 255
//!            the purpose, UTF-8
//! u16        length of the context in bytes, 1 to 1024
//!            the context, UTF-8
//! ```
//! So a value opens only where the application put it. Nothing of the database's or the server's is bound: a restored dump
//! opens.
//!
//! What is not hidden: the length of the plaintext, its type and the version of the key. What is not prevented: an older
//! value of the same place can be put back. And GCM does not commit to its key: whoever knows two data keys can make bytes that
//! open under both.

use xaes_256_gcm::Xaes256Gcm;
use xaes_256_gcm::aead::inout::InOutBuf;
use xaes_256_gcm::aead::{AeadInOut, KeyInit};
use zeroize::Zeroize;

use super::derive::{DataKey, PURPOSE_MAX, Purpose};
use crate::crypto::aad::Aad;
use crate::crypto::secret::{RngError, fill_random};
use crate::crypto::wrap::USER_ID_MAX;

/// The first bytes of the AAD.
pub const FORMAT_TAG: &[u8; 17] = b"vault_ext.data.v1";

/// The most bytes that a plaintext may have: 64 MiB.
pub const MAX_VALUE: usize = 64 << 20;

/// The most bytes that a context may have.
pub const CONTEXT_MAX: usize = 1024;

/// How many bytes a value has more than its plaintext.
pub const OVERHEAD: usize = HEADER_LEN + NONCE_LEN + TAG_LEN;

const FORMAT: u8 = 1;
const HEADER_LEN: usize = 6;
const NONCE_LEN: usize = 24;
const TAG_LEN: usize = 16;

/// The type of a plaintext; its number is a byte of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Bytea = 1,
    Text = 2,
    Json = 3,
}

impl Type {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Bytea),
            2 => Some(Self::Text),
            3 => Some(Self::Json),
            _ => None,
        }
    }
}

/// What a value says of itself in the open. Nobody vouches for it before the value has been opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Type,
    /// 1 or more.
    pub key_version: i32,
}

/// The header of `value`; `None` if it cannot be a value.
pub fn header(value: &[u8]) -> Option<Header> {
    Some(Parts::of(value)?.header)
}

/// How many bytes the plaintext of `value` has; `None` if it cannot be a value.
pub fn plaintext_len(value: &[u8]) -> Option<usize> {
    Some(Parts::of(value)?.body.len())
}

/// Where a value belongs, within bounds.
#[derive(Clone, Copy)]
pub struct Binding<'a> {
    user_id: &'a str,
    key_version: i32,
    purpose: Purpose<'a>,
    context: &'a str,
}

/// A value cannot be bound to this: it could not be opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBinding {
    #[error("a user_id has 1 to {USER_ID_MAX} bytes")]
    UserId,
    #[error("a key_version is 1 or more")]
    KeyVersion,
    #[error("a context has 1 to {CONTEXT_MAX} bytes")]
    Context,
}

impl<'a> Binding<'a> {
    /// `context` names the place, for example table, column and row.
    ///
    /// # Errors
    /// [`BadBinding`] if a part is out of its bounds.
    pub fn new(user_id: &'a str, key_version: i32, purpose: Purpose<'a>, context: &'a str) -> Result<Self, BadBinding> {
        if !(1..=USER_ID_MAX).contains(&user_id.len()) {
            return Err(BadBinding::UserId);
        }
        if key_version < 1 {
            return Err(BadBinding::KeyVersion);
        }
        if !(1..=CONTEXT_MAX).contains(&context.len()) {
            return Err(BadBinding::Context);
        }
        Ok(Self { user_id, key_version, purpose, context })
    }

    /// The AAD; its parts are within their bounds, which [`Self::new`] checked.
    fn aad(&self, kind: Type) -> Option<Aad<AAD_MAX>> {
        let mut aad = Aad::new();
        aad.push(FORMAT_TAG);
        aad.push(&[kind as u8]);
        aad.push_part(self.user_id, USER_ID_MAX)?;
        aad.push(&self.key_version.to_be_bytes());
        aad.push_part(self.purpose.as_str(), PURPOSE_MAX)?;
        aad.push_part(self.context, CONTEXT_MAX)?;
        Some(aad)
    }
}

const AAD_MAX: usize = FORMAT_TAG.len() + 1 + 2 + USER_ID_MAX + 4 + 2 + PURPOSE_MAX + 2 + CONTEXT_MAX;

/// A plaintext cannot be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("a value has at most 64 MiB")]
    TooLong,
    #[error(transparent)]
    Random(#[from] RngError),
}

/// A value was tampered with, moved from another place, or sealed under another key or with another type; which one is not
/// said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("value does not open")]
pub struct BadValue;

/// A data key expanded for many values.
///
/// A plain value without heap memory and below one page in size, so that it can live in locked memory; zeroized on drop by
/// the cipher itself.
pub struct Cipher(Xaes256Gcm);

impl Cipher {
    pub fn new(key: &DataKey) -> Self {
        Self(Xaes256Gcm::new(key.expose_secret().into()))
    }

    /// Seals `plaintext` with a random nonce. `out` then holds the value and nothing else.
    ///
    /// # Errors
    /// [`SealError`] if `plaintext` is longer than [`MAX_VALUE`] or the operating system gives no random bytes; `out` is then
    /// as it was.
    pub fn seal(
        &self,
        kind: Type,
        binding: &Binding<'_>,
        plaintext: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        if plaintext.len() > MAX_VALUE {
            return Err(SealError::TooLong);
        }
        let mut nonce = [0; NONCE_LEN];
        fill_random(&mut nonce)?;
        self.seal_with(&nonce, kind, binding, plaintext, out);
        Ok(())
    }

    fn seal_with(
        &self,
        nonce: &[u8; NONCE_LEN],
        kind: Type,
        binding: &Binding<'_>,
        plaintext: &[u8],
        out: &mut Vec<u8>,
    ) {
        let aad = binding.aad(kind).expect("a binding is within its bounds");
        out.clear();
        out.reserve_exact(plaintext.len() + OVERHEAD);
        out.extend_from_slice(&[FORMAT, kind as u8]);
        out.extend_from_slice(&binding.key_version.to_be_bytes());
        out.extend_from_slice(nonce);
        out.resize(HEADER_LEN + NONCE_LEN + plaintext.len(), 0);
        let body = InOutBuf::new(plaintext, &mut out[HEADER_LEN + NONCE_LEN..]).expect("both have the same length");
        let tag = self
            .0
            .encrypt_inout_detached(nonce.into(), aad.as_bytes(), body)
            .expect("64 MiB are below the limit of GCM");
        out.extend_from_slice(&tag);
    }

    /// Opens `value`, whose type has to be one of `types`. `out` then holds the plaintext and nothing else.
    ///
    /// If `out` is too small, its old memory is zeroized before it is given back. What it held beyond the plaintext's end
    /// stays in its spare capacity, so it should be a `Zeroizing` one.
    ///
    /// # Errors
    /// [`BadValue`] for every cause; `out` is then empty.
    pub fn open(
        &self,
        binding: &Binding<'_>,
        types: &[Type],
        value: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Type, BadValue> {
        let len = plaintext_len(value).unwrap_or(0);
        if out.capacity() < len {
            out.zeroize();
            out.reserve_exact(len);
        }
        out.resize(len, 0);
        let opened = self.open_into(binding, types, value, out);
        if opened.is_err() {
            out.clear();
        }
        opened
    }

    /// Does the same for memory of the caller's, without a copy. `out` must have [`plaintext_len`] bytes.
    ///
    /// # Errors
    /// [`BadValue`] for every cause, `out` of another length included; `out` is then all zeros.
    pub fn open_into(
        &self,
        binding: &Binding<'_>,
        types: &[Type],
        value: &[u8],
        out: &mut [u8],
    ) -> Result<Type, BadValue> {
        let opened = self.try_open(binding, types, value, out);
        if opened.is_none() {
            out.fill(0);
        }
        opened.ok_or(BadValue)
    }

    fn try_open(&self, binding: &Binding<'_>, types: &[Type], value: &[u8], out: &mut [u8]) -> Option<Type> {
        let Parts { header, nonce, body, tag } = Parts::of(value)?;
        if header.key_version != binding.key_version || !types.contains(&header.kind) {
            return None;
        }
        let aad = binding.aad(header.kind)?;
        let buffer = InOutBuf::new(body, out).ok()?;
        self.0.decrypt_inout_detached(nonce.into(), aad.as_bytes(), buffer, tag.into()).ok()?;
        Some(header.kind)
    }
}

/// A value, taken apart.
struct Parts<'a> {
    header: Header,
    nonce: &'a [u8; NONCE_LEN],
    body: &'a [u8],
    tag: &'a [u8; TAG_LEN],
}

impl<'a> Parts<'a> {
    fn of(value: &'a [u8]) -> Option<Self> {
        let (&[format, kind, ref key_version @ ..], rest) = value.split_first_chunk::<HEADER_LEN>()?;
        let (nonce, rest) = rest.split_first_chunk()?;
        let (body, tag) = rest.split_last_chunk()?;
        let key_version = i32::from_be_bytes(*key_version);
        if format != FORMAT || key_version < 1 || body.len() > MAX_VALUE {
            return None;
        }
        Some(Self { header: Header { kind: Type::from_byte(kind)?, key_version }, nonce, body, tag })
    }
}

#[cfg(test)]
mod tests;
