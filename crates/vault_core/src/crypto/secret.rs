//! Types that own secret bytes.
//!
//! They are zeroized on drop and have no `Debug`, `Display`, `Clone` or `PartialEq`; each use of
//! their content is greppable as `expose_secret`. Rust moves a value by copying it and leaves the
//! old place as it was: fill a secret where it stays ([`SecretBytes::zeroed`] and
//! [`SecretBytes::expose_secret_mut`]) where that matters.

use std::marker::PhantomData;

use base64ct::{Base64, Encoding};
use zeroize::Zeroize;

/// `N` secret bytes of one `Kind`; different kinds are different types, so a KEK never passes for a
/// master key.
pub struct SecretBytes<Kind, const N: usize> {
    bytes: [u8; N],
    kind: PhantomData<Kind>,
}

/// The kind of [`KekBytes`]; it has no values.
pub enum KekKind {}

/// The kind of [`MasterKey`]; it has no values.
pub enum MasterKeyKind {}

/// The 32 bytes of a key-encryption key.
pub type KekBytes = SecretBytes<KekKind, 32>;

/// The 32 bytes of a user's master key.
pub type MasterKey = SecretBytes<MasterKeyKind, 32>;

/// The operating system gave no random bytes: nothing may be minted or wrapped.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes: {0}")]
pub struct RngError(getrandom::Error);

/// Fills `target` from the operating system's generator. A userspace generator's state is copied by
/// fork, and two backends would mint the same keys and nonces.
pub(crate) fn fill_random(target: &mut [u8]) -> Result<(), RngError> {
    getrandom::fill(target).map_err(RngError)
}

impl<Kind, const N: usize> SecretBytes<Kind, N> {
    /// All bytes zero: a place to be filled through [`Self::expose_secret_mut`].
    pub fn zeroed() -> Self {
        Self { bytes: [0; N], kind: PhantomData }
    }

    /// Copies `bytes`, which stay the caller's to zeroize; `None` unless there are exactly `N`.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != N {
            return None;
        }
        let mut secret = Self::zeroed();
        secret.bytes.copy_from_slice(bytes);
        Some(secret)
    }

    /// `N` bytes from the operating system's generator.
    ///
    /// # Errors
    /// [`RngError`] if the operating system gives none.
    pub fn random() -> Result<Self, RngError> {
        let mut secret = Self::zeroed();
        fill_random(&mut secret.bytes)?;
        Ok(secret)
    }

    pub fn expose_secret(&self) -> &[u8; N] {
        &self.bytes
    }

    pub fn expose_secret_mut(&mut self) -> &mut [u8; N] {
        &mut self.bytes
    }
}

impl<Kind, const N: usize> Drop for SecretBytes<Kind, N> {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl MasterKey {
    /// The form in which a client gets its key: padded standard base64, 44 characters.
    pub fn to_base64(&self) -> Base64Key {
        let mut text = Base64Key([0; 44]);
        Base64::encode(&self.bytes, &mut text.0).expect("32 bytes are 44 characters of base64");
        text
    }

    /// Reads what [`Self::to_base64`] wrote, in constant time for texts of one length; `None` for anything else.
    pub fn from_base64(text: &str) -> Option<Self> {
        let mut key = Self::zeroed();
        let read = Base64::decode(text, key.expose_secret_mut()).ok()?.len();
        (read == 32).then_some(key)
    }
}

/// A master key as 44 characters of padded standard base64, zeroized on drop.
pub struct Base64Key([u8; 44]);

impl Base64Key {
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("base64 is ASCII")
    }
}

impl Drop for Base64Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Secret text of any length (a keyring), zeroized on drop over its whole capacity.
pub struct SecretText(Vec<u8>);

impl SecretText {
    /// Takes the buffer over without a copy.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// `len` zero bytes to be filled in place: a buffer that grows leaves its old contents behind.
    pub(crate) fn zeroed(len: usize) -> Self {
        Self(vec![0; len])
    }

    /// Shortens the text; what is cut off is zeroized with the rest on drop.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    pub fn expose_secret(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn expose_secret_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for SecretText {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_key_has_the_base64_of_the_predecessor() {
        let bytes: Vec<u8> = (0xa0..0xc0).collect();
        let key = MasterKey::from_slice(&bytes).expect("32 bytes");
        assert_eq!(key.to_base64().as_str(), "oKGio6SlpqeoqaqrrK2ur7CxsrO0tba3uLm6u7y9vr8=");
    }

    #[test]
    fn a_master_key_is_read_back_from_its_base64_alone() {
        const TEXT: &str = "oKGio6SlpqeoqaqrrK2ur7CxsrO0tba3uLm6u7y9vr8=";
        let key = MasterKey::from_base64(TEXT).expect("a key");
        assert_eq!(key.expose_secret().to_vec(), (0xa0..0xc0).collect::<Vec<u8>>());
        for text in [
            "",
            "=",
            // The last bits are not zero, no padding, more of it, a blank, url-safe, 31 and 33 bytes.
            "oKGio6SlpqeoqaqrrK2ur7CxsrO0tba3uLm6u7y9vr9=",
            "oKGio6SlpqeoqaqrrK2ur7CxsrO0tba3uLm6u7y9vr8",
            "oKGio6SlpqeoqaqrrK2ur7CxsrO0tba3uLm6u7y9vr8==",
            " oKGio6SlpqeoqaqrrK2ur7CxsrO0tba3uLm6u7y9vr8=",
            "oKGio6SlpqeoqaqrrK2ur7CxsrO0tba3uLm6u7y9vr8=\n",
            "__________________________________________8=",
            "oKGio6SlpqeoqaqrrK2ur7CxsrO0tba3uLm6u7y9vg==",
            "oKGio6SlpqeoqaqrrK2ur7CxsrO0tba3uLm6u7y9vr/A",
            "a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf",
        ] {
            assert!(MasterKey::from_base64(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn other_lengths_are_refused() {
        for len in [0, 16, 31, 33, 64] {
            assert!(MasterKey::from_slice(&vec![7; len]).is_none(), "{len} bytes");
        }
    }

    #[test]
    fn random_keys_differ() {
        let (a, b) = (MasterKey::random().expect("a key"), MasterKey::random().expect("a key"));
        assert_ne!(a.expose_secret(), b.expose_secret());
        assert_ne!(a.expose_secret(), &[0; 32]);
    }
}
