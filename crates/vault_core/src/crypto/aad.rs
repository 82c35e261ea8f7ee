//! Associated data of a ciphertext, put together on the stack.
//!
//! Every variable part stands behind its length, so that no two lists of parts give the same bytes.

/// At most `MAX` bytes of associated data; none of them is secret.
pub(crate) struct Aad<const MAX: usize> {
    bytes: [u8; MAX],
    len: usize,
}

impl<const MAX: usize> Aad<MAX> {
    pub(crate) fn new() -> Self {
        Self { bytes: [0; MAX], len: 0 }
    }

    /// Adds a part of fixed length. The caller's bounds add up to `MAX`.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Adds a part of 1 to `max` bytes behind its length, a big-endian u16; `None` for any other length.
    pub(crate) fn push_part(&mut self, part: &str, max: usize) -> Option<()> {
        if part.is_empty() || part.len() > max {
            return None;
        }
        self.push(&u16::try_from(part.len()).ok()?.to_be_bytes());
        self.push(part.as_bytes());
        Some(())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
