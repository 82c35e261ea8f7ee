//! Check values: how a database recognises a key without keeping anything that helps to find it.

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;

use super::secret::{KekBytes, MasterKey};

/// HKDF's `info`: it separates check values from every other use of a KEK.
const KEK_INFO: &[u8] = b"vault_ext.kek-check.v1";

/// The same for master keys.
const MASTER_KEY_INFO: &[u8] = b"vault_ext.master-key-check.v1";

/// 16 bytes that identify a key: HKDF-SHA256 (RFC 5869) with ikm = the key, an empty salt and
/// info = `vault_ext.kek-check.v1` or `vault_ext.master-key-check.v1`. No secret: it is stored, shown
/// and compared in the open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckValue([u8; 16]);

impl CheckValue {
    pub fn of(kek: &KekBytes) -> Self {
        Self::derive(kek.expose_secret(), KEK_INFO)
    }

    /// A KEK of the same bytes has another check value.
    pub fn of_master_key(master_key: &MasterKey) -> Self {
        Self::derive(master_key.expose_secret(), MASTER_KEY_INFO)
    }

    fn derive(key: &[u8; 32], info: &[u8]) -> Self {
        let mut value = [0; 16];
        Hkdf::<Sha256>::new(None, key)
            .expand(info, &mut value)
            .expect("16 bytes are less than the 8160 that HKDF-SHA256 can give");
        Self(value)
    }

    /// 32 lower-case hexadecimal digits.
    pub fn to_hex(self) -> String {
        self.to_string()
    }

    /// Reads what [`Self::to_hex`] wrote; `None` for anything else, upper case included.
    pub fn from_hex(text: &str) -> Option<Self> {
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
            return None;
        };
        let pairs: &[[u8; 2]; 16] = pairs.try_into().ok()?;
        let mut value = [0; 16];
        for (byte, [high, low]) in value.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Some(Self(value))
    }
}

impl fmt::Display for CheckValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Frozen; recomputed with Python's `hmac`: `prk = HMAC(b"", kek)`, then the first 16 bytes of
    /// `HMAC(prk, KEK_INFO + b"\x01")`.
    #[test]
    fn frozen_vectors() {
        let counting: Vec<u8> = (1..=32).collect();
        for (kek, hex) in
            [(counting, "9a7eb36f2af1cd36e1ef4272d593dc59"), (vec![0; 32], "71dd67d16b088fd0e8230b0a2bed7f97")]
        {
            let value = CheckValue::of(&KekBytes::from_slice(&kek).expect("32 bytes"));
            assert_eq!(value.to_hex(), hex);
            assert_eq!(CheckValue::from_hex(hex), Some(value));
        }
    }

    /// Frozen; recomputed by `vectors/data.py`.
    #[test]
    fn frozen_vectors_of_master_keys() {
        let counting: Vec<u8> = (0xa0..0xc0).collect();
        for (key, hex) in
            [(counting, "3732a28be78cf647f3b5cd0ff4c633f4"), (vec![0; 32], "dcd5f09a8824f10cccbf48011e4cfce5")]
        {
            let value = CheckValue::of_master_key(&MasterKey::from_slice(&key).expect("32 bytes"));
            assert_eq!(value.to_hex(), hex);
            assert_ne!(value, CheckValue::of(&KekBytes::from_slice(&key).expect("32 bytes")));
        }
    }

    #[test]
    fn other_text_is_no_check_value() {
        for text in [
            "",
            "9a7eb36f2af1cd36e1ef4272d593dc5",
            "9a7eb36f2af1cd36e1ef4272d593dc590",
            "9a7eb36f2af1cd36e1ef4272d593dc5900",
            "9A7EB36F2AF1CD36E1EF4272D593DC59",
            " a7eb36f2af1cd36e1ef4272d593dc59",
            "+a7eb36f2af1cd36e1ef4272d593dc59",
        ] {
            assert_eq!(CheckValue::from_hex(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn hex_round_trips(bytes: [u8; 16]) {
            prop_assert_eq!(CheckValue::from_hex(&CheckValue(bytes).to_hex()), Some(CheckValue(bytes)));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            if let Some(value) = CheckValue::from_hex(&text) {
                prop_assert_eq!(value.to_hex(), text);
            }
        }
    }
}
