//! The text of a public key that keys are sealed to. A key that is read is within its bounds, can be sealed to, and is read
//! again, with the same fingerprint, whatever white space is around it. The error for any other text contains none of it.

#![no_main]

use std::collections::HashSet;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use vault_core::seal::public_key::{MAX_TEXT, PublicKey, PublicKeyError, x25519_pem};
use vault_core::seal::{Binding, KeyKind, Recipient, hpke, rsa};

fuzz_target!(|input: &[u8]| {
    let Ok(text) = str::from_utf8(input) else { return };
    match PublicKey::parse(text) {
        Ok(key) => check(&key, text),
        Err(error) => check_error(&error),
    }
});

fn check(key: &PublicKey, text: &str) {
    assert!(text.len() <= MAX_TEXT);
    let fingerprint = key.fingerprint();
    let shown = fingerprint.to_string();
    let digits = shown.strip_prefix("sha256:").expect("the name of the hash");
    assert!(digits.len() == 64 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
    let recipient = Recipient::parse(&format!(" {}\r\n", text.trim_ascii()));
    if text.len() + 3 <= MAX_TEXT {
        assert!(recipient.as_ref().is_ok_and(|it| it.fingerprint() == fingerprint));
    }
    let Ok(recipient) = recipient else { return };
    let binding = Binding { kind: KeyKind::Master, user_id: "u", key_version: 1 };
    let sealed = recipient.seal(&[7; 32], &binding).expect("a sealed key");
    match key {
        PublicKey::X25519(key) => {
            assert_eq!((sealed.algorithm, sealed.bytes.len()), (hpke::ALGORITHM, 32 + hpke::OVERHEAD));
            let again = PublicKey::parse(&x25519_pem(key)).expect("the PEM that we write");
            assert_eq!(again.fingerprint(), fingerprint);
        }
        PublicKey::Rsa { .. } => {
            assert_eq!(sealed.algorithm, rsa::ALGORITHM);
            let (least, most) = (rsa::BITS.start().div_ceil(8), rsa::BITS.end().div_ceil(8));
            assert!((least..=most).contains(&sealed.bytes.len()));
        }
    }
}

/// Except for a size, and an OID as numbers, an error is one of the fixed texts in the source code.
fn check_error(error: &PublicKeyError) {
    static TEXTS: LazyLock<HashSet<String>> = LazyLock::new(|| one_of_each().iter().map(words).collect());
    assert!(TEXTS.contains(&words(error)), "{error:?}");
}

/// Everything that an error shows, without its numbers and the dots between them.
fn words(error: &PublicKeyError) -> String {
    let shown = format!("{error}\n{error:?}\n{}", error.hint());
    shown.chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect()
}

fn one_of_each() -> Vec<PublicKeyError> {
    use PublicKeyError::*;
    vec![
        PrivateKey,
        TooLong,
        NoKey,
        Label,
        Pem,
        Der,
        Algorithm { oid: "1.2".into() },
        Unusable,
        RsaSize { bits: 1 },
        RsaExponent,
        RsaModulus,
    ]
}
