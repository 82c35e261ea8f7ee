//! Blind indexes: equal values can be found by equality without being opened.
//!
//! A blind index is HMAC-SHA256 (RFC 2104) of the value under the [`IndexKey`] of a user and a purpose, cut to the first `bits`
//! bits. So within one user and purpose equal values have equal indexes; between users or purposes they tell nothing.
//!
//! What it leaks to whoever reads the column: which rows of a user are equal, and so how often each value occurs. If the
//! values are few or their frequencies known (a status, a country, a diagnosis), that is often enough to guess them. Fewer
//! bits make different values share an index: less is certain, and a search has to open what it finds and drop what is not
//! meant. An index of fewer bits is the beginning of the one of more bits: do not keep both.
//!
//! The value is taken as it is: upper and lower case, blanks and Unicode's forms are the caller's to make equal.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::derive::IndexKey;

/// How many bits a blind index keeps: 8 to 256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits(u16);

/// A number of bits that no blind index can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a blind index has 8 to 256 bits")]
pub struct BadBits;

impl Bits {
    /// All that the hash has.
    pub const MAX: Self = Self(256);

    /// # Errors
    /// [`BadBits`] unless there are 8 to 256.
    pub fn new(bits: i32) -> Result<Self, BadBits> {
        u16::try_from(bits).ok().filter(|bits| (8..=256).contains(bits)).map(Self).ok_or(BadBits)
    }
}

/// The blind index of one user and purpose, with its key expanded for many values.
///
/// A plain value without heap memory, so that it can live in locked memory; zeroized on drop by the hash itself.
pub struct BlindIndex(Hmac<Sha256>);

impl BlindIndex {
    pub fn new(key: &IndexKey) -> Self {
        Self(Hmac::new_from_slice(key.expose_secret()).expect("HMAC takes a key of any length"))
    }

    /// The index of `value`: as many bytes as `bits` needs, the unused low bits of the last one zero.
    pub fn of(&self, value: &[u8], bits: Bits) -> Vec<u8> {
        let hash = self.0.clone().chain_update(value).finalize().into_bytes();
        let mut index = hash[..usize::from(bits.0.div_ceil(8))].to_vec();
        if let (Some(last), used @ 1..) = (index.last_mut(), bits.0 % 8) {
            *last &= 0xff << (8 - used);
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::hex;

    fn index(first: u8) -> BlindIndex {
        let key = IndexKey::from_slice(&std::array::from_fn::<u8, 32, _>(|i| first + i as u8)).expect("32 bytes");
        BlindIndex::new(&key)
    }

    fn bits(bits: i32) -> Bits {
        Bits::new(bits).expect("a number of bits within bounds")
    }

    /// Frozen: an index that was stored must be found. Recomputed by `vectors/data.py`.
    #[test]
    fn frozen_vectors() {
        for (value, count, expected) in [
            ("a@example.org", 256, "9dcd8fc372d820ebea105eb3e8b11894bd0e4bde677eba93a472b64397e7a7b5"),
            ("a@example.org", 13, "9dc8"),
            ("a@example.org", 8, "9d"),
            ("", 256, "fbf90b56e2fdada0fb344af7b7215693b3d40ef94782b2473bce1efa88f9df39"),
        ] {
            assert_eq!(hex(&index(0xa0).of(value.as_bytes(), bits(count))), expected, "{value:?}, {count} bits");
        }
    }

    #[test]
    fn other_numbers_of_bits_are_refused() {
        for count in [i32::MIN, -8, -1, 0, 1, 7, 257, 264, 65536 + 8, i32::MAX] {
            assert_eq!(Bits::new(count), Err(BadBits), "{count}");
        }
        assert_eq!(bits(256), Bits::MAX);
    }

    #[test]
    fn another_key_gives_another_index() {
        assert_ne!(index(0).of(b"x", Bits::MAX), index(1).of(b"x", Bits::MAX));
    }

    #[test]
    fn an_expanded_key_fits_into_a_page_and_cleans_up() {
        assert!(size_of::<BlindIndex>() <= 4096, "{} bytes", size_of::<BlindIndex>());
        fn zeroized_on_drop<T: zeroize::ZeroizeOnDrop>() {}
        // HMAC is two states of the hash.
        zeroized_on_drop::<Sha256>();
    }

    proptest! {
        #[test]
        fn equal_values_and_only_those_have_equal_indexes(a in "[ab]{0,3}", b in "[ab]{0,3}") {
            let of = |value: &str| index(0).of(value.as_bytes(), Bits::MAX);
            prop_assert_eq!(a == b, of(&a) == of(&b));
        }

        /// Bit by bit, a shorter index is the beginning of the whole hash, with zeros behind it.
        #[test]
        fn fewer_bits_are_the_beginning_of_more(value: Vec<u8>, count in 8..=256i32) {
            let (cut, whole) = (index(0).of(&value, bits(count)), index(0).of(&value, Bits::MAX));
            prop_assert_eq!(cut.len(), (count as usize).div_ceil(8));
            let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
            for at in 0..cut.len() * 8 {
                prop_assert_eq!(bit(&cut, at), if at < count as usize { bit(&whole, at) } else { 0 });
            }
        }
    }
}
