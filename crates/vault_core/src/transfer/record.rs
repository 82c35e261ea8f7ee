//! The record of one vault, as bytes that are sealed.
//!
//! All lengths and numbers are big-endian. `text` is a u16 length in bytes and then UTF-8 without NUL; `option(x)` is
//! the byte 0, or the byte 1 and then `x`; `time` is an i64, microseconds since 2000-01-01 00:00 UTC, as PostgreSQL
//! keeps a timestamptz (its infinities included).
//! ```text
//! u8                 1, the version of this layout
//! text               user_id, 1 to 255 bytes
//! u16                number of key versions, each of them:
//!   u32                number of the version, 1 to 2147483647, larger than the one before
//!   text               state, 1 to 32 of a-z and _
//!   option(time)       created_at
//!   option(time)       superseded_at
//!   option(time)       destroy_after
//!   option(32 bytes)   master key; none where the server has none (zero-knowledge, destroyed)
//! option             recovery:
//!   text               recovery_wrapped_mk
//!   text               recovery_iv
//!   u16                recovery_format_version, 0 to 32767
//!   option(time)       recovery_set_at
//! u8                 zero_knowledge, 0 or 1
//! option(text)       key_check
//! option(time)       created_at
//! option(time)       rotated_at
//! option(time)       tokens_valid_from
//! ```
//! Each record has exactly one encoding.

use zeroize::Zeroizing;

use crate::crypto::secret::MasterKey;
use crate::crypto::wrap::USER_ID_MAX;

/// The version of the layout that is written.
pub const LAYOUT: u8 = 1;

/// The most bytes that a state may have.
pub const STATE_MAX: usize = 32;

/// The most bytes that one key version takes: number, state, three times, master key.
const VERSION_MAX: usize = 4 + 2 + STATE_MAX + 3 * TIME_MAX + 1 + 32;

/// The fewest: a state of one byte, and all options empty.
const VERSION_MIN: usize = 4 + 2 + 1 + 3 + 1;

const TIME_MAX: usize = 1 + 8;

/// What a vault consists of, without a trace of the KEK that it was wrapped under. Times as in the layout.
pub struct VaultRecord {
    /// 1 to 255 bytes.
    pub user_id: String,
    /// With ascending numbers; at most 65535.
    pub versions: Vec<KeyVersion>,
    pub recovery: Option<Recovery>,
    pub zero_knowledge: bool,
    pub key_check: Option<String>,
    pub created_at: Option<i64>,
    pub rotated_at: Option<i64>,
    pub tokens_valid_from: Option<i64>,
}

/// One version of the vault's master key.
pub struct KeyVersion {
    /// 1 or more.
    pub number: i32,
    /// 1 to [`STATE_MAX`] of a-z and `_`, such as `decrypt_only`.
    pub state: String,
    pub created_at: Option<i64>,
    pub superseded_at: Option<i64>,
    pub destroy_after: Option<i64>,
    pub master_key: Option<MasterKey>,
}

/// The wrap of the current master key under the user's recovery code.
pub struct Recovery {
    pub wrapped_mk: String,
    pub iv: String,
    /// 0 or more.
    pub format_version: i16,
    pub set_at: Option<i64>,
}

/// A record, or bytes in its place, are not as the layout says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record of the vault is not valid: {part}")]
pub struct BadRecord {
    /// Where the first fault is.
    pub part: &'static str,
}

fn bad(part: &'static str) -> BadRecord {
    BadRecord { part }
}

impl VaultRecord {
    /// # Errors
    /// [`BadRecord`] if a part is out of its bounds.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, BadRecord> {
        self.check()?;
        // Enough from the start: a buffer that grows leaves keys behind.
        let capacity = self.longest();
        let mut out = Zeroizing::new(Vec::with_capacity(capacity));
        out.push(LAYOUT);
        push_text(&mut out, &self.user_id, "user_id")?;
        let count = u16::try_from(self.versions.len()).map_err(|_| bad("number of key versions"))?;
        out.extend_from_slice(&count.to_be_bytes());
        for version in &self.versions {
            out.extend_from_slice(&version.number.to_be_bytes());
            push_text(&mut out, &version.state, "state")?;
            push_time(&mut out, version.created_at);
            push_time(&mut out, version.superseded_at);
            push_time(&mut out, version.destroy_after);
            out.push(version.master_key.is_some().into());
            version.master_key.iter().for_each(|key| out.extend_from_slice(key.expose_secret()));
        }
        out.push(self.recovery.is_some().into());
        if let Some(recovery) = &self.recovery {
            push_text(&mut out, &recovery.wrapped_mk, "recovery_wrapped_mk")?;
            push_text(&mut out, &recovery.iv, "recovery_iv")?;
            out.extend_from_slice(&recovery.format_version.to_be_bytes());
            push_time(&mut out, recovery.set_at);
        }
        out.push(self.zero_knowledge.into());
        out.push(self.key_check.is_some().into());
        if let Some(key_check) = &self.key_check {
            push_text(&mut out, key_check, "key_check")?;
        }
        push_time(&mut out, self.created_at);
        push_time(&mut out, self.rotated_at);
        push_time(&mut out, self.tokens_valid_from);
        debug_assert!(out.len() <= capacity, "the buffer grew");
        Ok(out)
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`BadRecord`] for all else.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let mut reader = Reader(bytes);
        if reader.byte() != Some(LAYOUT) {
            return Err(bad("version of the layout"));
        }
        let user_id = reader.text().ok_or(bad("user_id"))?;
        let versions = reader.versions().ok_or(bad("key versions"))?;
        let recovery = reader.option(Reader::recovery).ok_or(bad("recovery"))?;
        let zero_knowledge = reader.flag().ok_or(bad("zero_knowledge"))?;
        let key_check = reader.option(Reader::text).ok_or(bad("key_check"))?;
        let created_at = reader.time().ok_or(bad("created_at"))?;
        let rotated_at = reader.time().ok_or(bad("rotated_at"))?;
        let tokens_valid_from = reader.time().ok_or(bad("tokens_valid_from"))?;
        if !reader.0.is_empty() {
            return Err(bad("end"));
        }
        let record =
            Self { user_id, versions, recovery, zero_knowledge, key_check, created_at, rotated_at, tokens_valid_from };
        record.check()?;
        Ok(record)
    }

    /// The bounds that lengths alone do not keep.
    fn check(&self) -> Result<(), BadRecord> {
        let is_state = |state: &str| {
            (1..=STATE_MAX).contains(&state.len()) && state.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        };
        if !(1..=USER_ID_MAX).contains(&self.user_id.len()) {
            return Err(bad("user_id"));
        }
        if self.versions.iter().any(|version| version.number < 1)
            || !self.versions.is_sorted_by(|a, b| a.number < b.number)
        {
            return Err(bad("numbers of the key versions"));
        }
        if !self.versions.iter().all(|version| is_state(&version.state)) {
            return Err(bad("state"));
        }
        if self.recovery.as_ref().is_some_and(|recovery| recovery.format_version < 0) {
            return Err(bad("recovery_format_version"));
        }
        Ok(())
    }

    /// The most bytes that the encoding can have.
    fn longest(&self) -> usize {
        let recovery = self.recovery.as_ref().map_or(0, |it| 2 + it.wrapped_mk.len() + 2 + it.iv.len() + 2 + TIME_MAX);
        let key_check = self.key_check.as_ref().map_or(0, |it| 2 + it.len());
        let versions = 2 + self.versions.len() * VERSION_MAX;
        1 + 2 + self.user_id.len() + versions + 1 + recovery + 1 + 1 + key_check + 3 * TIME_MAX
    }
}

fn push_text(out: &mut Vec<u8>, text: &str, part: &'static str) -> Result<(), BadRecord> {
    if text.contains('\0') {
        return Err(bad(part));
    }
    out.extend_from_slice(&u16::try_from(text.len()).map_err(|_| bad(part))?.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn push_time(out: &mut Vec<u8>, time: Option<i64>) {
    out.push(time.is_some().into());
    time.iter().for_each(|time| out.extend_from_slice(&time.to_be_bytes()));
}

/// The bytes that are left; each read takes some from the front, and is `None` if they are not as expected.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(front)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.flag()? { read(self).map(Some) } else { Some(None) }
    }

    fn time(&mut self) -> Option<Option<i64>> {
        self.option(|reader| reader.array().map(i64::from_be_bytes))
    }

    fn text(&mut self) -> Option<String> {
        let len = u16::from_be_bytes(self.array()?);
        let text = str::from_utf8(self.bytes(len.into())?).ok()?;
        (!text.contains('\0')).then(|| text.to_owned())
    }

    fn recovery(&mut self) -> Option<Recovery> {
        Some(Recovery {
            wrapped_mk: self.text()?,
            iv: self.text()?,
            format_version: i16::from_be_bytes(self.array()?),
            set_at: self.time()?,
        })
    }

    /// The place of each key is there before the key is: it is copied once, and never moved.
    fn versions(&mut self) -> Option<Vec<KeyVersion>> {
        let count = u16::from_be_bytes(self.array()?).into();
        // So that a few bytes do not claim megabytes of memory.
        if count > self.0.len() / VERSION_MIN {
            return None;
        }
        let mut versions = Vec::with_capacity(count);
        for _ in 0..count {
            let version = KeyVersion {
                number: i32::from_be_bytes(self.array()?),
                state: self.text()?,
                created_at: self.time()?,
                superseded_at: self.time()?,
                destroy_after: self.time()?,
                master_key: self.flag()?.then(MasterKey::zeroed),
            };
            if let Some(key) = &mut versions.push_mut(version).master_key {
                key.expose_secret_mut().copy_from_slice(self.bytes(32)?);
            }
        }
        Some(versions)
    }
}

#[cfg(test)]
mod tests;
