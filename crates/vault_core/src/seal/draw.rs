//! 32 random bytes of the operating system in the form of a generator, which the crates of HPKE and RSA ask for.
//!
//! A generator of the system that fails in the middle would have to panic. So the bytes are fetched before, where an
//! error can be returned, and frozen vectors can replace them.

use std::convert::Infallible;

use hpke::rand_core::{TryCryptoRng, TryRng};
use zeroize::Zeroizing;

use crate::crypto::secret::{RngError, fill_random};

/// 32 bytes to be drawn once. Both users need exactly that: HPKE for its ephemeral key (the `ikm` of RFC 9180, section
/// 7.1.3), OAEP for its seed (as long as a SHA-256 hash; RFC 8017, section 7.1.1).
pub(super) struct Draw(Option<Zeroizing<[u8; 32]>>);

impl Draw {
    /// # Errors
    /// [`RngError`] if the operating system gives no random bytes.
    pub(super) fn random() -> Result<Self, RngError> {
        let mut bytes = Zeroizing::new([0; 32]);
        fill_random(bytes.as_mut_slice())?;
        Ok(Self(Some(bytes)))
    }

    /// Bytes that are known: for vectors, and where nothing is kept secret with them.
    pub(super) fn known(bytes: [u8; 32]) -> Self {
        Self(Some(Zeroizing::new(bytes)))
    }
}

impl TryRng for Draw {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("HPKE and OAEP draw bytes")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("HPKE and OAEP draw bytes")
    }

    /// Better no key than one made of bytes that were used before.
    fn try_fill_bytes(&mut self, target: &mut [u8]) -> Result<(), Infallible> {
        let bytes = self.0.take().expect("HPKE and OAEP draw once");
        target.copy_from_slice(bytes.as_slice());
        Ok(())
    }
}

impl TryCryptoRng for Draw {}
