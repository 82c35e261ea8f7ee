use ::rsa::pkcs8::DecodePrivateKey;
use ::rsa::sha2::Sha256;

use super::hpke::{X25519PrivateKey, open};
use super::*;

const RSA_PRIVATE: &str = include_str!("keys/rsa_2048_private.pem");
const RSA_PUBLIC: &str = include_str!("keys/rsa_2048_public.pem");

const MASTER: Binding<'_> = Binding { kind: KeyKind::Master, user_id: "user-1", key_version: 1 };

/// Bytes a0 a1 .. bf.
fn key() -> [u8; 32] {
    std::array::from_fn(|i| 0xa0 + i as u8)
}

/// The recipient of RFC 9180, appendix A.1.1.
fn x25519() -> (X25519PrivateKey, Recipient) {
    let private_key = [
        0x46, 0x12, 0xc5, 0x50, 0x26, 0x3f, 0xc8, 0xad, 0x58, 0x37, 0x5d, 0xf3, 0xf5, 0x57, 0xaa, 0xc5, 0x31, 0xd2,
        0x68, 0x50, 0x90, 0x3e, 0x55, 0xa9, 0xf2, 0x3f, 0x21, 0xd8, 0x53, 0x4e, 0x8a, 0xc8,
    ];
    let recipient = Recipient::parse("OUjP4K0d22ldeA5ZB3GV2mxWUGsCcyl5SrAryoCBXE0=").expect("a public key");
    (X25519PrivateKey::from_secret(&private_key), recipient)
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two digits")).collect()
}

/// Frozen: a later version must seal so that these still open. Computed with Python from RFC 9180, with the `ikmE` of
/// appendix A.1.1 as the ephemeral key and the key a0 a1 .. bf.
#[test]
fn frozen_vectors_open() {
    let long_user = "ü".repeat(127) + "x";
    let derived = Binding { kind: KeyKind::Derived { purpose: "files" }, user_id: &long_user, key_version: i32::MAX };
    for (binding, end) in [(MASTER, "7ffa1cea6b1dc882e0717d1a2f5e2d95"), (derived, "f7010f68b94a329e864fd782ea66b924")]
    {
        // The keys are the same, so the ciphertexts are, but not their tags.
        let start = "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431\
                     e863ad679e6ea34f3015deac5a61d05ada32eebba594c9d323caeddab25d72d6";
        let sealed = unhex(&(start.to_owned() + end));
        let aad = binding.aad().expect("an AAD");
        assert_eq!(*open(&x25519().0, binding::INFO, &aad, &sealed).expect("it opens"), key());
    }
}

#[test]
fn a_sealed_key_opens_as_itself_only() {
    let (private_key, recipient) = x25519();
    let sealed = recipient.seal(&key(), &MASTER).expect("a sealed key");
    assert_eq!((sealed.algorithm, sealed.bytes.len()), ("HPKE-X25519-HKDF-SHA256-AES-256-GCM", 80));
    let open = |binding: Binding<'_>| open(&private_key, binding::INFO, &binding.aad().expect("an AAD"), &sealed.bytes);
    assert_eq!(*open(MASTER).expect("it opens"), key());
    for other in [
        Binding { kind: KeyKind::Derived { purpose: "files" }, ..MASTER },
        Binding { user_id: "user-2", ..MASTER },
        Binding { key_version: 2, ..MASTER },
    ] {
        assert!(open(other).is_err());
    }
}

#[test]
fn a_key_sealed_for_rsa_opens_with_oaep() {
    let recipient = Recipient::parse(RSA_PUBLIC).expect("a public key");
    let private_key = ::rsa::PrivateKey::from_pkcs8_pem(RSA_PRIVATE).expect("a private key");
    let seal = || recipient.seal(&key(), &MASTER).expect("a sealed key");
    let sealed = seal();
    assert_eq!((sealed.algorithm, sealed.bytes.len()), ("RSA-OAEP-256", 256));
    assert_ne!(sealed.bytes, seal().bytes);
    assert_eq!(private_key.oaep_decrypt::<Sha256>(&sealed.bytes).expect("it opens"), key());
}

#[test]
fn a_bad_binding_is_refused_for_every_kind_of_key() {
    let bad = Binding { key_version: 0, ..MASTER };
    for recipient in [x25519().1, Recipient::parse(RSA_PUBLIC).expect("a public key")] {
        assert!(matches!(recipient.seal(&key(), &bad), Err(SealError::Binding(BadBinding))));
    }
}
