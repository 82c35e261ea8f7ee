//! HPKE (RFC 9180) in base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.
//!
//! Sealed bytes are `enc` (32 bytes, the ephemeral public key), the ciphertext (as long as the plaintext) and the tag
//! (16 bytes). Each message has a context of its own, so its sequence number is 0. Base mode says nothing about who
//! sealed: anybody can seal to a public key.

use hpke::aead::{AeadTag, AesGcm256};
use hpke::inout::InOutBuf;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable, single_shot_open_inout_detached,
    single_shot_seal_inout_detached_with_rng,
};
use zeroize::Zeroizing;

use super::draw::Draw;
use crate::crypto::secret::RngError;

/// The name under which callers see it.
pub const ALGORITHM: &str = "HPKE-X25519-HKDF-SHA256-AES-256-GCM";

/// How much longer than the plaintext sealed bytes are: `enc` and the tag.
pub const OVERHEAD: usize = ENC_LEN + TAG_LEN;

const ENC_LEN: usize = 32;
const TAG_LEN: usize = 16;

/// An X25519 public key that can be sealed to.
#[derive(Clone)]
pub struct X25519PublicKey(<X25519HkdfSha256 as Kem>::PublicKey);

impl X25519PublicKey {
    /// `None` for two kinds of bytes that X25519 (RFC 7748) itself would take. A number of 2^255 - 19 or more: the
    /// recipient computes with the reduced key, and what is sealed to this one would never open. A point of low order:
    /// the shared secret would be zero, which everybody knows (RFC 9180, section 7.1.4).
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        let is_reduced = match bytes {
            [0xed..=0xff, middle @ .., 0x7f] => middle.iter().any(|&byte| byte != 0xff),
            [.., last] => *last < 0x80,
        };
        let key = Deserializable::from_bytes(bytes).ok().filter(|_| is_reduced)?;
        // Every private key is a multiple of 8 and takes these points to zero, so any one will do, known or not.
        X25519HkdfSha256::encap_with_rng(&key, None, &mut Draw::known([0; 32])).ok()?;
        Some(Self(key))
    }

    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes().into()
    }
}

/// An X25519 private key; zeroized on drop by its crate.
pub struct X25519PrivateKey(<X25519HkdfSha256 as Kem>::PrivateKey);

impl X25519PrivateKey {
    /// Any 32 bytes are a key; X25519 sets five of their bits itself. They stay the caller's to zeroize.
    pub fn from_secret(bytes: &[u8; 32]) -> Self {
        Self(Deserializable::from_bytes(bytes).expect("32 bytes are a private key of X25519"))
    }

    pub fn public_key(&self) -> X25519PublicKey {
        X25519PublicKey(X25519HkdfSha256::sk_to_pk(&self.0))
    }
}

/// Sealed bytes were tampered with, cut off, or sealed to another key, for another use or with another AAD; which one
/// is not said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sealed bytes do not open")]
pub struct DoesNotOpen;

/// Seals `plaintext` to `recipient` with randomness of the operating system.
///
/// # Errors
/// [`RngError`] if the operating system gives no random bytes.
pub fn seal(recipient: &X25519PublicKey, info: &[u8], aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, RngError> {
    Ok(seal_with(Draw::random()?, recipient, info, aad, plaintext))
}

fn seal_with(mut draw: Draw, recipient: &X25519PublicKey, info: &[u8], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let mut sealed = Zeroizing::new(vec![0; plaintext.len() + OVERHEAD]);
    let (enc, rest) = sealed.split_at_mut(ENC_LEN);
    let (body, tag) = rest.split_at_mut(plaintext.len());
    body.copy_from_slice(plaintext);
    let (computed_enc, computed_tag) = single_shot_seal_inout_detached_with_rng::<
        AesGcm256,
        HkdfSha256,
        X25519HkdfSha256,
    >(&OpModeS::Base, &recipient.0, info, InOutBuf::from(body), aad, &mut draw)
    .expect("the key is no point of low order, and a message in memory is below the limit of GCM");
    enc.copy_from_slice(&computed_enc.to_bytes());
    tag.copy_from_slice(&computed_tag.to_bytes());
    std::mem::take(&mut *sealed)
}

/// Opens what [`seal`] made with the same `info` and `aad`.
///
/// # Errors
/// [`DoesNotOpen`] for every cause.
pub fn open(
    private_key: &X25519PrivateKey,
    info: &[u8],
    aad: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, DoesNotOpen> {
    let (enc, rest) = sealed.split_at_checked(ENC_LEN).ok_or(DoesNotOpen)?;
    let (body, tag) = rest.split_at_checked(rest.len().saturating_sub(TAG_LEN)).ok_or(DoesNotOpen)?;
    let enc = Deserializable::from_bytes(enc).map_err(|_| DoesNotOpen)?;
    let tag: AeadTag<AesGcm256> = Deserializable::from_bytes(tag).map_err(|_| DoesNotOpen)?;
    let mut plaintext = Zeroizing::new(body.to_vec());
    single_shot_open_inout_detached::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &private_key.0,
        &enc,
        info,
        InOutBuf::from(plaintext.as_mut_slice()),
        aad,
        &tag,
    )
    .map_err(|_| DoesNotOpen)?;
    Ok(plaintext)
}

#[cfg(test)]
mod tests;
