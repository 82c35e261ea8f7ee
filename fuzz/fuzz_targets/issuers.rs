//! Issuers files: any text is read or refused in one line. What is read is within its bounds, no two issuers share a name,
//! and its text gives the same issuers to another process, without any other file.
//!
//! An input is an issuers file and, behind a NUL, the JWK set in each file that it names.

#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use vault_core::crypto::wrap::USER_ID_MAX;
use vault_core::identity::issuers::{Issuer, Issuers, MAX_ISSUERS, MAX_NAME};
use vault_core::identity::jwk::{Algorithm, Key, MAX_KEYS, MAX_KID};

fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(2, |&byte| byte == 0);
    let (file, set) = (parts.next().unwrap_or_default(), parts.next());
    let parsed = Issuers::parse(file, |_| set.map(<[u8]>::to_vec).ok_or_else(|| "there is no such file".into()));
    let issuers = match parsed {
        Ok(issuers) => issuers,
        Err(bad) => return assert!(!bad.to_string().contains(char::is_control), "{bad}"),
    };
    let list = &issuers.issuers;
    assert!((1..=MAX_ISSUERS).contains(&list.len()));
    for names in [|issuer: &Issuer| issuer.name.clone(), |issuer: &Issuer| issuer.iss.clone()] {
        assert_eq!(list.iter().map(names).collect::<HashSet<_>>().len(), list.len(), "a name twice");
    }
    list.iter().for_each(check);

    let again = Issuers::parse(issuers.text().as_bytes(), |path| panic!("{path} is read")).expect("issuers");
    assert_eq!(format!("{again:?}"), format!("{issuers:?}"));
    assert_eq!(again.text(), issuers.text());
    assert_eq!(again.has_secrets(), issuers.has_secrets());
    assert!(list.iter().zip(&again.issuers).all(|(one, other)| jwks(one) == jwks(other)), "other keys");
});

fn jwks(issuer: &Issuer) -> Vec<serde_json::Value> {
    issuer.keys.iter().map(Key::jwk).collect()
}

fn check(issuer: &Issuer) {
    assert!((1..=MAX_NAME).contains(&issuer.name.len()) && !issuer.name.contains(char::is_control));
    assert!(!issuer.iss.is_empty() && !issuer.audiences.is_empty() && issuer.user.starts_with('/'));
    assert!(issuer.user_prefix.len() < USER_ID_MAX);
    assert!((1..=86_400).contains(&issuer.max_lifetime) && (0..=300).contains(&issuer.leeway));
    assert!((1..=MAX_KEYS).contains(&issuer.keys.len()));
    let mut kids = HashSet::new();
    for key in &issuer.keys {
        assert!(issuer.algorithms.contains(&key.algorithm), "{key:?}");
        assert_eq!(key.is_secret(), key.algorithm == Algorithm::Hs256);
        assert!(key.kid.as_ref().is_none_or(|kid| (1..=MAX_KID).contains(&kid.len()) && kids.insert(kid)));
        assert!(!key.verifies(b"message", &[0; 64]) && !key.verifies(b"message", &[0; 256]));
    }
}
