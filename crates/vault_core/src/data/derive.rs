//! Keys derived from a master key, one for each use and purpose.
//!
//! All are HKDF-SHA256 (RFC 5869) with ikm = the master key and 32 bytes of output. Ours have an empty salt and an info that
//! begins with `vault_ext.`:
//!
//! | key | info |
//! |---|---|
//! | [`DataKey`] | `vault_ext.data-key.v1`, purpose |
//! | [`DerivedKey`] by [`derived_key`] | `vault_ext.derived-key.v1`, purpose |
//! | [`IndexKey`] | `vault_ext.blind-index.v1`, purpose |
//! | [`DerivedKey`] by [`derive()`] | the caller's salt and info |
//!
//! The purpose is UTF-8 behind its length in bytes, a big-endian u16. [`derive()`] refuses an info that begins with `vault_ext.`
//! whatever the salt is: HMAC pads its key with zeros, so that a salt of zeros is the same as none. The check value of a
//! master key ([`CheckValue`](crate::crypto::check::CheckValue)) has an info of its own, too.

use hkdf::Hkdf;
use sha2::Sha256;

use crate::crypto::secret::{MasterKey, SecretBytes};

/// The most bytes that a purpose may have.
pub const PURPOSE_MAX: usize = 255;

const DATA_KEY: &[u8] = b"vault_ext.data-key.v1";
const DERIVED_KEY: &[u8] = b"vault_ext.derived-key.v1";
const BLIND_INDEX: &[u8] = b"vault_ext.blind-index.v1";

/// What every info of ours begins with.
const OURS: &[u8] = b"vault_ext.";

/// The kind of [`DataKey`]; it has no values.
pub enum DataKeyKind {}

/// The kind of [`DerivedKey`]; it has no values.
pub enum DerivedKeyKind {}

/// The kind of [`IndexKey`]; it has no values.
pub enum IndexKeyKind {}

/// The key of a user's values for one purpose. It stays on the server.
pub type DataKey = SecretBytes<DataKeyKind, 32>;

/// A key for the application.
pub type DerivedKey = SecretBytes<DerivedKeyKind, 32>;

/// The key of blind indexes for one purpose. It stays on the server.
pub type IndexKey = SecretBytes<IndexKeyKind, 32>;

/// What a key is for, as the application names it: 1 to [`PURPOSE_MAX`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purpose<'a>(&'a str);

/// A purpose is empty or too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a purpose has 1 to {PURPOSE_MAX} bytes")]
pub struct BadPurpose;

/// The info of a general derivation is one of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an info that begins with vault_ext. is reserved")]
pub struct ReservedInfo;

impl<'a> Purpose<'a> {
    /// # Errors
    /// [`BadPurpose`] if `text` is empty or too long.
    pub fn new(text: &'a str) -> Result<Self, BadPurpose> {
        if (1..=PURPOSE_MAX).contains(&text.len()) { Ok(Self(text)) } else { Err(BadPurpose) }
    }

    pub fn as_str(self) -> &'a str {
        self.0
    }
}

/// The key under which values are sealed.
pub fn data_key(master_key: &MasterKey, purpose: Purpose<'_>) -> DataKey {
    for_purpose(master_key, DATA_KEY, purpose)
}

/// The key that the application gets for a purpose of its own.
pub fn derived_key(master_key: &MasterKey, purpose: Purpose<'_>) -> DerivedKey {
    for_purpose(master_key, DERIVED_KEY, purpose)
}

/// The key of blind indexes.
pub fn index_key(master_key: &MasterKey, purpose: Purpose<'_>) -> IndexKey {
    for_purpose(master_key, BLIND_INDEX, purpose)
}

/// The general form, for keys that existing clients derive.
///
/// # Errors
/// [`ReservedInfo`] if `info` begins with `vault_ext.`: it could give a key that stays on the server.
pub fn derive(master_key: &MasterKey, salt: &[u8], info: &[u8]) -> Result<DerivedKey, ReservedInfo> {
    if info.starts_with(OURS) {
        return Err(ReservedInfo);
    }
    Ok(expand(master_key, salt, &[info]))
}

fn for_purpose<Kind>(master_key: &MasterKey, label: &[u8], purpose: Purpose<'_>) -> SecretBytes<Kind, 32> {
    let purpose = purpose.0.as_bytes();
    let len = u16::try_from(purpose.len()).expect("a purpose has at most 255 bytes");
    expand(master_key, &[], &[label, &len.to_be_bytes(), purpose])
}

fn expand<Kind>(master_key: &MasterKey, salt: &[u8], info: &[&[u8]]) -> SecretBytes<Kind, 32> {
    let mut key = SecretBytes::zeroed();
    Hkdf::<Sha256>::new(Some(salt), master_key.expose_secret())
        .expand_multi_info(info, key.expose_secret_mut())
        .expect("32 bytes are less than the 8160 that HKDF-SHA256 can give");
    key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::hex;

    fn counting(first: u8) -> MasterKey {
        MasterKey::from_slice(&std::array::from_fn::<u8, 32, _>(|i| first + i as u8)).expect("32 bytes")
    }

    fn purpose(text: &str) -> Purpose<'_> {
        Purpose::new(text).expect("a purpose within bounds")
    }

    /// Frozen: other keys would open nothing that was sealed before. Recomputed by `vectors/data.py`.
    #[test]
    fn frozen_vectors() {
        let long = "ü".repeat(127) + "x";
        for (text, data, derived, index) in [
            (
                "data",
                "26d58ee5c82bf527559f17ccf3d45138e549ca482d236484a7061357bd1347fe",
                "beee34fc02b7cdfc4cae0598d629314761dc246fe0c5eb2665282f84d4559d06",
                "cd3c3154b6dd7b1452b9d94a9475285abd02caac70bb9e21b0b78ce749810ef6",
            ),
            (
                long.as_str(),
                "f5b639361d896c7c8cf09c249c63161d5b851acf98c47792387e78cc32a984ae",
                "71e535f8b34095fe58943f46b33ea219f645eb1874fc58be3363637e979a94b1",
                "6b3d44699c0419f57e72a51a1996fbcb927845e4bace89394d1f4d8ca36d7c67",
            ),
        ] {
            let (key, purpose) = (counting(0xa0), purpose(text));
            assert_eq!(hex(data_key(&key, purpose).expose_secret()), data, "{text}");
            assert_eq!(hex(derived_key(&key, purpose).expose_secret()), derived, "{text}");
            assert_eq!(hex(index_key(&key, purpose).expose_secret()), index, "{text}");
        }
    }

    /// What the predecessor derives for a mission. Recomputed by `vectors/data.py`.
    #[test]
    fn the_key_of_a_mission_grant() {
        let info = b"mana-ai-mission-grant:v1:tables=notes,tasks:ids=notes:n1,tasks:t1";
        let key = derive(&counting(1), b"mission-abc", info).expect("a free info");
        assert_eq!(hex(key.expose_secret()), "7538df66c51d3ddb667c0135feb4ac7c2800ba372babc7e61e9423d6a9a65628");
    }

    /// Recomputed by `vectors/data.py`.
    #[test]
    fn a_key_of_empty_salt_and_info() {
        let key = derive(&counting(0xa0), b"", b"").expect("a free info");
        assert_eq!(hex(key.expose_secret()), "5358a6ec325ca1cbf39a77f1fb59d62f606caccf9119bfd4ef23f726d0f75c33");
    }

    #[test]
    fn an_info_of_ours_is_refused() {
        let key = counting(0xa0);
        let infos: [&[u8]; 4] =
            [b"vault_ext.", b"vault_ext.data-key.v1\x00\x04data", b"vault_ext.\xff", b"vault_ext.x"];
        for info in infos {
            for salt in [&b""[..], &[0; 32], b"salt"] {
                assert_eq!(derive(&key, salt, info).err(), Some(ReservedInfo));
            }
        }
        for info in [&b""[..], b"vault_ext", b"Vault_ext.", b" vault_ext.", b"vault-ext.data"] {
            assert!(derive(&key, b"", info).is_ok());
        }
    }

    #[test]
    fn purposes_out_of_bounds_are_refused() {
        let (longest, longer) = ("p".repeat(PURPOSE_MAX), "p".repeat(PURPOSE_MAX + 1));
        assert_eq!(Purpose::new(&longest).map(Purpose::as_str), Ok(longest.as_str()));
        assert_eq!(Purpose::new(&longer), Err(BadPurpose));
        assert_eq!(Purpose::new(""), Err(BadPurpose));
    }

    proptest! {
        #[test]
        fn every_use_purpose_and_master_key_has_keys_of_its_own(a in "[ab]{1,3}", b in "[ab]{1,3}", first in 0..3u8) {
            let keys = |first: u8, text: &str| {
                let (key, purpose) = (counting(first), purpose(text));
                [
                    *data_key(&key, purpose).expose_secret(),
                    *derived_key(&key, purpose).expose_secret(),
                    *index_key(&key, purpose).expose_secret(),
                    *derive(&key, b"", text.as_bytes()).expect("a free info").expose_secret(),
                ]
            };
            let (of_a, of_b) = (keys(0, &a), keys(first, &b));
            for (i, left) in of_a.iter().enumerate() {
                for (j, right) in of_b.iter().enumerate() {
                    prop_assert_eq!(left == right, i == j && a == b && first == 0);
                }
            }
        }
    }
}
