//! What a sealed key is bound to: the kind of key, the user, the version and the purpose.
//!
//! HPKE takes it as AAD, so what was sealed as one key does not open as another. All lengths and numbers are
//! big-endian:
//! ```text
//! u16        length of the kind, 8, 10 or 11
//!            "master-key", "derived-key" or "hkdf-key"
//! u16        length of user_id in bytes, 1 to 255
//!            user_id, UTF-8
//! u32        key_version, 1 to 2147483647
//! u16        length of the purpose in bytes: 0 for a master key, 1 to 65535 for a derived key
//!            purpose, UTF-8
//! ```
//! A key that was derived from the caller's salt and info (`hkdf-key`) has these two in the place of the purpose:
//! ```text
//! u16        length of the salt in bytes, 0 to 65535
//!            salt
//! u16        length of the info in bytes, 0 to 65535
//!            info, UTF-8
//! ```
//! The format's own name is HPKE's `info`, [`INFO`].

use crate::crypto::wrap::USER_ID_MAX;

/// HPKE's `info`: it separates sealed keys from all else that is encrypted to the same public key.
pub const INFO: &[u8] = b"vault_ext.seal.v1";

/// The most bytes that a purpose, a salt or an info may have.
pub const PURPOSE_MAX: usize = u16::MAX as usize;

/// Which key of the user was sealed.
#[derive(Clone, Copy)]
pub enum KeyKind<'a> {
    Master,
    Derived {
        /// 1 to [`PURPOSE_MAX`] bytes.
        purpose: &'a str,
    },
    /// Derived with a salt and an info of the caller's, each of at most [`PURPOSE_MAX`] bytes.
    General {
        salt: &'a [u8],
        info: &'a str,
    },
}

/// What a sealed key is bound to.
#[derive(Clone, Copy)]
pub struct Binding<'a> {
    pub kind: KeyKind<'a>,
    /// 1 to 255 bytes.
    pub user_id: &'a str,
    /// 1 or more; of a derived key, the version of the master key that it comes from.
    pub key_version: i32,
}

/// A part of the [`Binding`] is out of its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key cannot be sealed for this user_id, key_version and purpose")]
pub struct BadBinding;

impl Binding<'_> {
    /// The AAD as described above.
    ///
    /// # Errors
    /// [`BadBinding`] if a part is out of its bounds.
    pub fn aad(&self) -> Result<Vec<u8>, BadBinding> {
        let (kind, parts, are_there): (&str, &[&[u8]], bool) = match self.kind {
            KeyKind::Master => ("master-key", &[b""], true),
            KeyKind::Derived { purpose } => ("derived-key", &[purpose.as_bytes()], !purpose.is_empty()),
            KeyKind::General { salt, info } => ("hkdf-key", &[salt, info.as_bytes()], true),
        };
        let key_version = u32::try_from(self.key_version).ok().filter(|&version| version >= 1).ok_or(BadBinding)?;
        if !are_there || !(1..=USER_ID_MAX).contains(&self.user_id.len()) {
            return Err(BadBinding);
        }
        let mut aad = Vec::new();
        push_part(&mut aad, kind.as_bytes())?;
        push_part(&mut aad, self.user_id.as_bytes())?;
        aad.extend_from_slice(&key_version.to_be_bytes());
        for part in parts {
            push_part(&mut aad, part)?;
        }
        Ok(aad)
    }
}

fn push_part(aad: &mut Vec<u8>, part: &[u8]) -> Result<(), BadBinding> {
    aad.extend_from_slice(&u16::try_from(part.len()).map_err(|_| BadBinding)?.to_be_bytes());
    aad.extend_from_slice(part);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_layout_is_as_documented() {
        let master = Binding { kind: KeyKind::Master, user_id: "ü", key_version: 0x0102_0304 };
        assert_eq!(master.aad().expect("an AAD"), b"\x00\x0amaster-key\x00\x02\xc3\xbc\x01\x02\x03\x04\x00\x00");
        let derived = Binding { kind: KeyKind::Derived { purpose: "files" }, user_id: "u", key_version: 1 };
        assert_eq!(derived.aad().expect("an AAD"), b"\x00\x0bderived-key\x00\x01u\x00\x00\x00\x01\x00\x05files");
        let general = Binding { kind: KeyKind::General { salt: b"\xff", info: "files" }, user_id: "u", key_version: 1 };
        assert_eq!(
            general.aad().expect("an AAD"),
            b"\x00\x08hkdf-key\x00\x01u\x00\x00\x00\x01\x00\x01\xff\x00\x05files"
        );
    }

    #[test]
    fn parts_out_of_bounds_are_refused() {
        let (longest_user, longest) = ("u".repeat(255), "p".repeat(PURPOSE_MAX));
        let derived =
            |purpose, user_id, key_version| Binding { kind: KeyKind::Derived { purpose }, user_id, key_version };
        assert!(derived(&longest, &longest_user, i32::MAX).aad().is_ok());
        for (purpose, user_id, key_version) in [
            ("", "u", 1),
            (&(longest.clone() + "p"), "u", 1),
            ("p", "", 1),
            ("p", &(longest_user.clone() + "u"), 1),
            ("p", "u", 0),
            ("p", "u", -1),
            ("p", "u", i32::MIN),
        ] {
            assert_eq!(derived(purpose, user_id, key_version).aad(), Err(BadBinding));
        }
        let general = |salt, info| Binding { kind: KeyKind::General { salt, info }, user_id: "u", key_version: 1 };
        assert!(general(b"", "").aad().is_ok());
        assert_eq!(general(&[0; PURPOSE_MAX + 1], "").aad(), Err(BadBinding));
        assert_eq!(general(b"", &(longest.clone() + "p")).aad(), Err(BadBinding));
    }

    proptest! {
        #[test]
        fn different_bindings_have_different_aads(
            a in ("[a-c]{0,3}", "[a-c]{1,3}", 1..3), b in ("[a-c]{0,3}", "[a-c]{1,3}", 1..3),
        ) {
            let aad = |(purpose, user_id, key_version): &(String, String, i32)| {
                let kind = if purpose.is_empty() { KeyKind::Master } else { KeyKind::Derived { purpose } };
                Binding { kind, user_id, key_version: *key_version }.aad()
            };
            prop_assert_eq!(a == b, aad(&a) == aad(&b));
        }
    }
}
