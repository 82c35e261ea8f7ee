//! The predecessor's value blob: what its clients encrypt with the master key itself, readable and writable byte for byte.
//!
//! `enc:1:`, base64 of the IV (12 bytes), `.`, base64 of ciphertext and tag (16 bytes). Both are padded standard base64. The
//! cipher is AES-256-GCM (NIST SP 800-38D) under the master key, without AAD, and the plaintext is the UTF-8 of what
//! `JSON.stringify` wrote ([`json`](super::json)): a string is encrypted with its quotes.
//!
//! What the format cannot do: nothing binds a blob to its place, so one may be moved from row to row of its user. Random
//! IVs of 12 bytes may be used 2^32 times under one master key. New data belongs into [`value`](super::value)s.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{AeadInOut, KeyInit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize, Zeroizing};

use super::value::{MAX_VALUE, SealError};
use crate::crypto::secret::{MasterKey, fill_random};

/// What a blob begins with.
pub const PREFIX: &str = "enc:1:";

const IV_LEN: usize = 12;
const TAG_LEN: usize = 16;

/// A text is no blob, was tampered with, or was sealed under another master key; which one is not said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("client blob does not open")]
pub struct BadBlob;

/// Opens a blob: JSON, if a client of the predecessor or [`seal`] with JSON wrote it.
///
/// # Errors
/// [`BadBlob`] for every cause; a plaintext that is not UTF-8 is one.
pub fn open(master_key: &MasterKey, blob: &str) -> Result<Zeroizing<String>, BadBlob> {
    let (iv, sealed) = blob.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.')).ok_or(BadBlob)?;
    let iv: [u8; IV_LEN] = STANDARD.decode(iv).ok().and_then(|iv| iv.try_into().ok()).ok_or(BadBlob)?;
    let mut buffer = Zeroizing::new(STANDARD.decode(sealed).map_err(|_| BadBlob)?);
    let (body, tag) = buffer.split_last_chunk_mut::<TAG_LEN>().ok_or(BadBlob)?;
    cipher(master_key).decrypt_inout_detached(&iv.into(), &[], body.into(), &(*tag).into()).map_err(|_| BadBlob)?;
    let len = body.len();
    buffer.truncate(len);
    match String::from_utf8(std::mem::take(&mut *buffer)) {
        Ok(json) => Ok(Zeroizing::new(json)),
        Err(other) => {
            other.into_bytes().zeroize();
            Err(BadBlob)
        }
    }
}

/// Seals `json`, which is taken as it is, with a random IV.
///
/// # Errors
/// [`SealError`] if `json` is longer than [`MAX_VALUE`] or the operating system gives no random bytes.
pub fn seal(master_key: &MasterKey, json: &str) -> Result<String, SealError> {
    if json.len() > MAX_VALUE {
        return Err(SealError::TooLong);
    }
    let mut iv = [0; IV_LEN];
    fill_random(&mut iv)?;
    Ok(seal_with(&iv, master_key, json))
}

fn seal_with(iv: &[u8; IV_LEN], master_key: &MasterKey, json: &str) -> String {
    let mut sealed = Zeroizing::new(Vec::with_capacity(json.len() + TAG_LEN));
    sealed.extend_from_slice(json.as_bytes());
    let tag = cipher(master_key)
        .encrypt_inout_detached(&(*iv).into(), &[], sealed.as_mut_slice().into())
        .expect("64 MiB are below the limit of GCM");
    sealed.extend_from_slice(&tag);

    let mut blob = String::with_capacity(PREFIX.len() + 16 + 1 + sealed.len().div_ceil(3) * 4);
    blob.push_str(PREFIX);
    STANDARD.encode_string(iv, &mut blob);
    blob.push('.');
    STANDARD.encode_string(&*sealed, &mut blob);
    blob
}

fn cipher(master_key: &MasterKey) -> Aes256Gcm {
    Aes256Gcm::new(master_key.expose_secret().into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::data::json::stringify;

    fn counting<const N: usize>(first: u8) -> [u8; N] {
        std::array::from_fn(|i| first + i as u8)
    }

    fn key() -> MasterKey {
        MasterKey::from_slice(&counting::<32>(0xa0)).expect("32 bytes")
    }

    /// A blob of `plaintext`, which need not be UTF-8.
    fn blob_of(plaintext: &[u8]) -> String {
        let mut sealed = plaintext.to_vec();
        let iv = counting::<IV_LEN>(0x10);
        let tag = cipher(&key()).encrypt_inout_detached(&iv.into(), &[], sealed.as_mut_slice().into());
        sealed.extend_from_slice(&tag.expect("a short message"));
        format!("{PREFIX}{}.{}", STANDARD.encode(iv), STANDARD.encode(sealed))
    }

    /// Computed with the predecessor's own code and recomputed by `vectors/data.py`.
    #[test]
    fn the_predecessor_s_vectors() {
        for (value, blob) in [
            (json!("Buy milk"), "enc:1:EBESExQVFhcYGRob.tvQAd/4q3N7xW9cF3O/tMti4RWEbn5l9FT8="),
            (json!(""), "enc:1:EBESExQVFhcYGRob.tpRxLOlOq/GwcA3fFyuc8FjE"),
            (json!(42), "enc:1:EBESExQVFhcYGRob.oIQtNe0cKsQwgTqn1rJcEWFt"),
            (
                json!({"a": 1, "b": ["x", null]}),
                "enc:1:EBESExQVFhcYGRob.75QULOR2mZD4W1ZKu0uemJ0ncKOygjtpfWXXvETX9R4PLqBCSiY=",
            ),
        ] {
            let json = stringify(&value);
            assert_eq!(seal_with(&counting(0x10), &key(), &json), blob);
            assert_eq!(open(&key(), blob), Ok(json));
        }
    }

    #[test]
    fn each_blob_has_an_iv_of_its_own() {
        let (a, b) = (seal(&key(), "1").expect("a blob"), seal(&key(), "1").expect("a blob"));
        assert_ne!(a, b);
        assert_ne!(a[..22], b[..22]);
        assert_eq!(open(&key(), &a).as_deref().map(String::as_str), Ok("1"));
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let blob = seal_with(&counting(0x10), &key(), r#""Buy milk""#);
        for at in 0..blob.len() {
            for byte in (0..128u8).filter(|byte| *byte != blob.as_bytes()[at]) {
                let mut changed = blob.clone().into_bytes();
                changed[at] = byte;
                let changed = String::from_utf8(changed).expect("ASCII");
                assert_eq!(open(&key(), &changed), Err(BadBlob), "{changed}");
            }
        }
    }

    #[test]
    fn a_blob_that_is_cut_or_extended_is_refused() {
        let blob = seal_with(&counting(0x10), &key(), r#""Buy milk""#);
        for at in 0..blob.len() {
            assert_eq!(open(&key(), &blob[..at]), Err(BadBlob), "cut at {at}");
            assert_eq!(open(&key(), &blob[at + 1..]), Err(BadBlob), "cut up to {at}");
        }
        for text in ["A", "=", "====", "AAAA", " ", "\n", ".", "\u{0}", "ü"] {
            assert_eq!(open(&key(), &format!("{blob}{text}")), Err(BadBlob), "{text:?} behind");
            assert_eq!(open(&key(), &format!("{text}{blob}")), Err(BadBlob), "{text:?} before");
        }
        for text in ["", "enc:1:", "enc:1:.", "enc:2:EBESExQVFhcYGRob.tpRxLOlOq/GwcA3fFyuc8FjE", "ENC:1:"] {
            assert_eq!(open(&key(), text), Err(BadBlob), "{text:?}");
        }
        // Without padding, and in the alphabet for addresses.
        assert_eq!(open(&key(), "enc:1:EBESExQVFhcYGRob.tvQAd/4q3N7xW9cF3O/tMti4RWEbn5l9FT8"), Err(BadBlob));
        assert_eq!(open(&key(), "enc:1:EBESExQVFhcYGRob.tvQAd_4q3N7xW9cF3O_tMti4RWEbn5l9FT8="), Err(BadBlob));
    }

    #[test]
    fn another_master_key_opens_nothing() {
        let blob = seal(&key(), "42").expect("a blob");
        for bit in 0..256 {
            let mut other = key();
            other.expose_secret_mut()[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&other, &blob), Err(BadBlob), "bit {bit}");
        }
    }

    #[test]
    fn a_plaintext_that_is_not_utf_8_is_refused() {
        assert_eq!(open(&key(), &blob_of(b"\"\xff\"")), Err(BadBlob));
        assert_eq!(open(&key(), &blob_of(b"\"\xed\xa0\x80\"")), Err(BadBlob));
        assert_eq!(open(&key(), &blob_of(b"")).as_deref().map(String::as_str), Ok(""));
    }

    #[test]
    fn a_text_that_is_too_long_is_refused() {
        let text = String::from_utf8(vec![0; MAX_VALUE + 1]).expect("NULs are ASCII");
        assert!(matches!(seal(&key(), &text), Err(SealError::TooLong)));
    }

    proptest! {
        #[test]
        fn a_blob_opens(text: String) {
            let blob = seal(&key(), &text).expect("a blob");
            let opened = open(&key(), &blob).expect("it opens");
            prop_assert_eq!(&*opened, &text);
        }

        #[test]
        fn any_text_is_refused_without_a_panic(text in "(enc:1:)?[A-Za-z0-9+/=.]{0,60}|.{0,60}") {
            prop_assert_eq!(open(&key(), &text), Err(BadBlob));
        }
    }
}
