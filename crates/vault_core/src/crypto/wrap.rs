//! Wraps: a master key sealed under a KEK, as the two text columns of a vault's row.
//!
//! | format | cipher | nonce | AAD | |
//! |---|---|---|---|---|
//! | 1 | AES-256-GCM (NIST SP 800-38D) | 12 bytes | none | the predecessor's: read, never written |
//! | 2 | XAES-256-GCM (C2SP) | 24 bytes | binds the row | what [`Kek::wrap`] writes |
//!
//! In both, `wrapped_mk` is the padded standard base64 of 32 bytes of ciphertext and 16 of tag (64
//! characters), and `wrap_iv` that of the nonce (16 or 32 characters).
//!
//! # The AAD of format 2
//! All lengths and numbers are big-endian:
//! ```text
//! 17 bytes   "vault_ext.wrap.v2"                      FORMAT_TAG
//! u16        length of the purpose in bytes
//!            "master-key" or "database-key"           the kind of key in the wrap
//! u16        length of user_id in bytes, 1 to 255
//!            user_id, UTF-8
//! u32        key_version, 1 to 2147483647
//! u16        length of kek_id in bytes, 1 to 64
//!            kek_id, UTF-8
//! ```
//! So a wrap opens in its own row only, and a restored dump opens: nothing of the database's or the
//! server's is bound.

use aes_gcm::Aes256Gcm;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use xaes_256_gcm::Xaes256Gcm;
use xaes_256_gcm::aead::{AeadInOut, KeyInit};
use zeroize::Zeroizing;

use super::aad::Aad;
use super::secret::{KekBytes, MasterKey, RngError, fill_random};

/// The predecessor's format.
pub const FORMAT_1: i16 = 1;

/// The format that [`Kek::wrap`] writes.
pub const FORMAT_2: i16 = 2;

/// The first bytes of the AAD of format 2.
pub const FORMAT_TAG: &[u8; 17] = b"vault_ext.wrap.v2";

/// The most bytes that a `user_id` may have.
pub const USER_ID_MAX: usize = 255;

/// The most bytes that a `kek_id` may have.
pub const KEK_ID_MAX: usize = 64;

/// The longest purpose.
const PURPOSE_MAX: usize = 12;
const KEY_LEN: usize = 32;
const TAG_LEN: usize = 16;
const NONCE_LEN: usize = 24;

/// What kind of key is in a wrap; none can be taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A user's.
    MasterKey,
    /// The database's own, for what concerns no single user. Its name stands in the place of the user's id.
    DatabaseKey,
}

impl Kind {
    fn purpose(self) -> &'static str {
        match self {
            Self::MasterKey => "master-key",
            Self::DatabaseKey => "database-key",
        }
    }
}

/// The row that a wrap is bound to.
#[derive(Clone, Copy)]
pub struct WrapContext<'a> {
    pub kind: Kind,
    /// 1 to 255 bytes.
    pub user_id: &'a str,
    /// 1 or more.
    pub key_version: i32,
    /// 1 to 64 bytes.
    pub kek_id: &'a str,
}

/// A fresh wrap of format 2, as text for its two columns.
pub struct Wrap {
    wrapped_mk: [u8; 64],
    wrap_iv: [u8; 32],
}

impl Wrap {
    /// 64 characters of base64.
    pub fn wrapped_mk(&self) -> &str {
        str::from_utf8(&self.wrapped_mk).expect("base64 is ASCII")
    }

    /// 32 characters of base64.
    pub fn wrap_iv(&self) -> &str {
        str::from_utf8(&self.wrap_iv).expect("base64 is ASCII")
    }
}

/// A random nonce of format 2, used up by the one wrap that it is for.
pub struct Nonce([u8; NONCE_LEN]);

impl Nonce {
    /// # Errors
    /// [`RngError`] if the operating system gives no random bytes.
    pub fn random() -> Result<Self, RngError> {
        let mut nonce = Self([0; NONCE_LEN]);
        fill_random(&mut nonce.0)?;
        Ok(nonce)
    }

    /// Nonces for many wraps, from one call of the operating system.
    ///
    /// # Errors
    /// [`RngError`] if the operating system gives no random bytes.
    pub fn random_batch(count: usize) -> Result<impl Iterator<Item = Self>, RngError> {
        let mut bytes = vec![[0; NONCE_LEN]; count];
        fill_random(bytes.as_flattened_mut())?;
        Ok(bytes.into_iter().map(Self))
    }
}

/// A part of the [`WrapContext`] is out of its bounds: the wrap could not be opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a wrap cannot be bound to this user_id, key_version and kek_id")]
pub struct BadContext;

/// A wrap was tampered with, moved from another row or sealed under another KEK; which one is not
/// said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("wrap does not open")]
pub struct DoesNotOpen;

/// A KEK expanded for both formats.
///
/// A plain value without heap memory and below one page in size, so that it can live in locked
/// memory; zeroized on drop by the ciphers themselves.
pub struct Kek {
    format_1: Aes256Gcm,
    format_2: Xaes256Gcm,
}

impl Kek {
    pub fn new(kek: &KekBytes) -> Self {
        let key = kek.expose_secret().into();
        Self { format_1: Aes256Gcm::new(key), format_2: Xaes256Gcm::new(key) }
    }

    /// Seals `master_key` for the row of `context` in format 2.
    ///
    /// # Errors
    /// [`BadContext`] if `context` is out of bounds.
    pub fn wrap(&self, master_key: &MasterKey, nonce: Nonce, context: &WrapContext<'_>) -> Result<Wrap, BadContext> {
        let aad = aad(context.kind.purpose(), context).ok_or(BadContext)?;
        Ok(self.seal(master_key, &nonce.0, &aad))
    }

    fn seal(&self, master_key: &MasterKey, nonce: &[u8; NONCE_LEN], aad: &Aad<AAD_MAX>) -> Wrap {
        let mut sealed = Zeroizing::new([0; KEY_LEN + TAG_LEN]);
        let (body, tag) = sealed.split_at_mut(KEY_LEN);
        body.copy_from_slice(master_key.expose_secret());
        let computed = self
            .format_2
            .encrypt_inout_detached(nonce.into(), aad.as_bytes(), body.into())
            .expect("a message of 32 bytes is far below the limit of GCM");
        tag.copy_from_slice(&computed);

        let mut wrap = Wrap { wrapped_mk: [0; 64], wrap_iv: [0; 32] };
        STANDARD.encode_slice(*sealed, &mut wrap.wrapped_mk).expect("48 bytes are 64 characters of base64");
        STANDARD.encode_slice(nonce, &mut wrap.wrap_iv).expect("24 bytes are 32 characters of base64");
        wrap
    }

    /// Opens the wrap of the row of `context`, without heap memory.
    ///
    /// # Errors
    /// [`DoesNotOpen`] for every cause: unknown format, bad base64, wrong lengths, a context out of
    /// bounds, another row, another KEK, tampering.
    pub fn unwrap(
        &self,
        format_version: i16,
        wrapped_mk: &str,
        wrap_iv: &str,
        context: &WrapContext<'_>,
    ) -> Result<MasterKey, DoesNotOpen> {
        let aad = aad(context.kind.purpose(), context).ok_or(DoesNotOpen)?;
        let sealed: [u8; KEY_LEN + TAG_LEN] = decode(wrapped_mk)?;
        let (body, tag) = sealed.split_at(KEY_LEN);
        let tag = tag.try_into().map_err(|_| DoesNotOpen)?;
        let mut master_key = MasterKey::from_slice(body).ok_or(DoesNotOpen)?;
        let buffer = master_key.expose_secret_mut().as_mut_slice().into();
        match format_version {
            FORMAT_1 => {
                let nonce: [u8; 12] = decode(wrap_iv)?;
                self.format_1.decrypt_inout_detached(&nonce.into(), &[], buffer, tag)
            }
            FORMAT_2 => {
                let nonce: [u8; NONCE_LEN] = decode(wrap_iv)?;
                self.format_2.decrypt_inout_detached(&nonce.into(), aad.as_bytes(), buffer, tag)
            }
            _ => return Err(DoesNotOpen),
        }
        .map_err(|_| DoesNotOpen)?;
        Ok(master_key)
    }
}

/// Exactly `N` bytes of canonical, padded standard base64. What it reads is ciphertext or a nonce,
/// never a secret.
fn decode<const N: usize>(text: &str) -> Result<[u8; N], DoesNotOpen> {
    let mut bytes = [0; N];
    let len = STANDARD.decode_slice(text, &mut bytes).map_err(|_| DoesNotOpen)?;
    if len == N { Ok(bytes) } else { Err(DoesNotOpen) }
}

const AAD_MAX: usize = FORMAT_TAG.len() + 2 + PURPOSE_MAX + 2 + USER_ID_MAX + 4 + 2 + KEK_ID_MAX;

/// The AAD of format 2; `None` if a part is out of its bounds.
fn aad(purpose: &str, context: &WrapContext<'_>) -> Option<Aad<AAD_MAX>> {
    let key_version = u32::try_from(context.key_version).ok().filter(|&version| version >= 1)?;
    let mut aad = Aad::new();
    aad.push(FORMAT_TAG);
    aad.push_part(purpose, PURPOSE_MAX)?;
    aad.push_part(context.user_id, USER_ID_MAX)?;
    aad.push(&key_version.to_be_bytes());
    aad.push_part(context.kek_id, KEK_ID_MAX)?;
    Some(aad)
}

/// A wrap in place, with all that it is bound to.
#[derive(Clone, Copy)]
pub struct StoredWrap<'a> {
    pub kind: Kind,
    pub user_id: &'a str,
    pub wrapped_mk: &'a str,
    pub wrap_iv: &'a str,
    pub format_version: i16,
    pub kek_id: &'a str,
    pub key_version: i32,
}

impl<'a> StoredWrap<'a> {
    pub fn context(&self) -> WrapContext<'a> {
        WrapContext { kind: self.kind, user_id: self.user_id, key_version: self.key_version, kek_id: self.kek_id }
    }
}

#[cfg(test)]
mod tests;
