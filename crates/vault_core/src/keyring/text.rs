//! The keyring's text, whatever its source.
//!
//! ```text
//! # comment
//! kek-2026 3q2+7w…=     # the active KEK: new wraps are sealed under it
//! env-v1   AQIDBA…=     # the others only open
//! ```
//! One KEK a line: an id and 32 bytes in standard base64, padded or not, with blanks between and
//! around. Blank lines and CRLF line ends are fine, a field that starts with `#` begins a comment,
//! a UTF-8 byte order mark is skipped. A keyring whose only entry is bare base64 is the
//! predecessor's single KEK and takes the id given for it.

use std::fmt;

use base64ct::{Base64Unpadded, Base64UrlUnpadded, Encoding};

use crate::crypto::secret::KekBytes;
use crate::crypto::wrap::KEK_ID_MAX;
pub use crate::source::MAX_TEXT;

/// The most KEKs in a keyring.
pub const MAX_KEKS: usize = 64;

/// The bytes of a KEK.
const KEY_LEN: usize = 32;

/// 32 bytes in base64 without padding.
const KEY_TEXT_LEN: usize = 43;

/// The name of a KEK: 1 to 64 of `A-Za-z0-9._:/-`, stored with each row and shown in the open.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KekId(String);

/// Not the id of a KEK. It does not say what it was: a key may have been put in the wrong place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKekId {
    #[error("the id is not 1 to 64 of A-Z, a-z, 0-9 and . _ : / -")]
    Form,
    /// 43 characters that are the unpadded base64, standard or URL-safe, of 32 bytes.
    #[error("the id has the form of a key")]
    LooksLikeKey,
}

impl KekId {
    pub const MAX: usize = KEK_ID_MAX;

    /// # Errors
    /// [`BadKekId`] if `id` is no id, or a key where an id belongs: it would be stored and shown.
    pub fn new(id: &str) -> Result<Self, BadKekId> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._:/-".contains(&b);
        if id.is_empty() || id.len() > Self::MAX || !id.bytes().all(allowed) {
            return Err(BadKekId::Form);
        }
        if looks_like_key(id) {
            return Err(BadKekId::LooksLikeKey);
        }
        Ok(Self(id.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn looks_like_key(id: &str) -> bool {
    let mut key = KekBytes::zeroed();
    let standard = Base64Unpadded::decode(id, key.expose_secret_mut()).is_ok();
    let url_safe = Base64UrlUnpadded::decode(id, key.expose_secret_mut()).is_ok();
    id.len() == KEY_TEXT_LEN && (standard || url_safe)
}

/// A KEK and its name.
pub struct Entry {
    pub id: KekId,
    pub key: KekBytes,
}

/// 1 to [`MAX_KEKS`] KEKs with distinct ids and distinct keys; the first is the active one.
pub struct Keyring {
    entries: Vec<Entry>,
}

/// Why a text is no keyring: the line (from 1) and what is wrong with it, never its content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    #[error("the keyring is empty")]
    Empty,
    #[error("the keyring has more than {MAX_TEXT} bytes")]
    TooLarge,
    #[error("the keyring has {found} keys, more than {MAX_KEKS}")]
    TooMany { found: usize },
    #[error("line {line} of the keyring is not ASCII")]
    NotAscii { line: usize },
    #[error("line {line} of the keyring has {found} fields instead of an id and a key")]
    FieldCount { line: usize, found: usize },
    #[error("line {line} of the keyring has one field, which only a keyring of a single key may")]
    BareKeyAmongOthers { line: usize },
    #[error("line {line} of the keyring: {problem}")]
    Id { line: usize, problem: BadKekId },
    #[error("line {line} of the keyring: the key has a character of the URL-safe base64 alphabet")]
    UrlSafe { line: usize },
    #[error("line {line} of the keyring: the key has a character that is not base64")]
    Alphabet { line: usize },
    #[error("line {line} of the keyring: the key is cut off or wrongly padded base64")]
    Malformed { line: usize },
    #[error("line {line} of the keyring: the key has {found} bytes, not 32")]
    Length { line: usize, found: usize },
    #[error("line {line} of the keyring: the key is all zero")]
    Zero { line: usize },
    #[error("line {line} of the keyring repeats the id of line {first}")]
    DuplicateId { line: usize, first: usize },
    #[error("line {line} of the keyring repeats the key of line {first} under another id")]
    DuplicateKey { line: usize, first: usize },
}

impl KeyringError {
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Empty => "Put a line with an id and a key into it; \"openssl rand -base64 32\" makes a key.",
            Self::TooLarge => "Check that this is a keyring: one line per key, an id and 44 characters of base64.",
            Self::TooMany { .. } => "Rewrap the rows of old keys and remove these keys.",
            Self::NotAscii { .. } => "Write ids and keys in plain ASCII text, and save the text as UTF-8.",
            Self::FieldCount { .. } | Self::BareKeyAmongOthers { .. } => {
                "Write each key on a line of its own: the id, a blank, and the key in base64."
            }
            Self::Id { .. } => "Put the id first and the key second, and choose a short id such as kek-2026.",
            Self::UrlSafe { .. } => "Use the standard base64 alphabet, with + and / in place of - and _.",
            Self::Alphabet { .. } | Self::Malformed { .. } => {
                "Write the key in standard base64; \"openssl rand -base64 32\" prints such a key."
            }
            Self::Length { .. } => "Use a key of 32 bytes: 44 characters of base64, or 43 without padding.",
            Self::Zero { .. } => "Use a random key; \"openssl rand -base64 32\" prints one.",
            Self::DuplicateId { .. } => "Give each key an id of its own, and never give an old id to a new key.",
            Self::DuplicateKey { .. } => "Remove one of the two lines; a new id needs a new key.",
        }
    }
}

impl Keyring {
    /// Reads a keyring; `bare_id` names the key of a keyring that is one bare key. `allow_zero`
    /// lets an all-zero key pass, which is for development only.
    ///
    /// # Errors
    /// [`KeyringError`] for the first line that is wrong.
    pub fn parse(text: &[u8], bare_id: &KekId, allow_zero: bool) -> Result<Self, KeyringError> {
        if text.len() > MAX_TEXT {
            return Err(KeyringError::TooLarge);
        }
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let lines: Vec<Line<'_>> = text
            .split(|&byte| byte == b'\n')
            .enumerate()
            .map(|(index, line)| Line { number: index + 1, fields: fields(line) })
            .filter(|line| !line.fields.is_empty())
            .collect();
        if lines.is_empty() {
            return Err(KeyringError::Empty);
        }
        if lines.len() > MAX_KEKS {
            return Err(KeyringError::TooMany { found: lines.len() });
        }

        // Each entry is built where it stays: a vector that grows would leave copies of the keys
        // behind.
        let mut entries: Vec<Entry> = Vec::with_capacity(lines.len());
        for line in &lines {
            let entry = line.parse(bare_id, lines.len() == 1)?;
            let number = line.number;
            if !allow_zero && entry.key.expose_secret() == &[0; KEY_LEN] {
                return Err(KeyringError::Zero { line: number });
            }
            // Comparing in variable time is fine: nobody but the operator chooses keys, once, at
            // load.
            for (earlier, at) in entries.iter().zip(&lines) {
                if earlier.id == entry.id {
                    return Err(KeyringError::DuplicateId { line: number, first: at.number });
                }
                if earlier.key.expose_secret() == entry.key.expose_secret() {
                    return Err(KeyringError::DuplicateKey { line: number, first: at.number });
                }
            }
            entries.push(entry);
        }
        Ok(Self { entries })
    }

    /// All KEKs in the order of the text.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The KEK that new wraps are sealed under.
    pub fn active(&self) -> &Entry {
        &self.entries[0]
    }
}

/// The fields of a line, without a comment.
fn fields(line: &[u8]) -> Vec<&[u8]> {
    line.split(u8::is_ascii_whitespace)
        .filter(|field| !field.is_empty())
        .take_while(|field| !field.starts_with(b"#"))
        .collect()
}

/// A line with something on it.
struct Line<'a> {
    number: usize,
    fields: Vec<&'a [u8]>,
}

impl Line<'_> {
    fn parse(&self, bare_id: &KekId, alone: bool) -> Result<Entry, KeyringError> {
        let line = self.number;
        if !self.fields.iter().all(|field| field.is_ascii()) {
            return Err(KeyringError::NotAscii { line });
        }
        match self.fields[..] {
            [key] if alone => Ok(Entry { id: bare_id.clone(), key: parse_key(key, line)? }),
            [_] => Err(KeyringError::BareKeyAmongOthers { line }),
            [id, key] => {
                // The key first: its errors are the likelier ones, and a swapped line fails on
                // both.
                let key = parse_key(key, line)?;
                let id = str::from_utf8(id).map_err(|_| KeyringError::NotAscii { line })?;
                let id = KekId::new(id).map_err(|problem| KeyringError::Id { line, problem })?;
                Ok(Entry { id, key })
            }
            _ => Err(KeyringError::FieldCount { line, found: self.fields.len() }),
        }
    }
}

fn parse_key(text: &[u8], line: usize) -> Result<KekBytes, KeyringError> {
    let pads = text.iter().rev().take_while(|&&byte| byte == b'=').count();
    let body = &text[..text.len() - pads];
    if body.iter().any(|byte| b"-_".contains(byte)) {
        return Err(KeyringError::UrlSafe { line });
    }
    if !body.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"+/".contains(&byte)) {
        return Err(KeyringError::Alphabet { line });
    }
    if body.len() % 4 == 1 || (pads > 0 && (pads > 2 || !text.len().is_multiple_of(4))) {
        return Err(KeyringError::Malformed { line });
    }
    let found = body.len() * 3 / 4;
    if found != KEY_LEN {
        return Err(KeyringError::Length { line, found });
    }
    let mut key = KekBytes::zeroed();
    Base64Unpadded::decode(body, key.expose_secret_mut()).map_err(|_| KeyringError::Malformed { line })?;
    Ok(key)
}

#[cfg(test)]
mod tests;
