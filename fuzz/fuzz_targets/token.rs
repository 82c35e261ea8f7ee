//! Tokens: any bytes are verified or refused, and so is whatever the issuers have signed. What is accepted is accepted again,
//! has a user within the bounds, is accepted at no time that its claims exclude, and not with another signature.
//!
//! An input is taken as a token and, split at its first line break, as the header and the payload of a token that is signed
//! with the secret of the issuers in token_issuers.json. Their keys are those of the unit tests (identity/mint.rs).

#![no_main]

use std::sync::LazyLock;

use base64ct::{Base64UrlUnpadded, Encoding};
use libfuzzer_sys::fuzz_target;
use ring::hmac;
use serde_json::Value;
use vault_core::crypto::wrap::USER_ID_MAX;
use vault_core::identity::issuers::{Binding, Issuers, Purpose};
use vault_core::identity::json;
use vault_core::identity::token::{MAX_TOKEN, TokenError, Use, Verified, verify};

static ISSUERS: LazyLock<Issuers> = LazyLock::new(|| {
    let text = include_bytes!("token_issuers.json");
    Issuers::parse(text, |path| panic!("{path} is read")).expect("issuers")
});
static SECRET: LazyLock<hmac::Key> = LazyLock::new(|| hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]));

fuzz_target!(|input: &[u8]| {
    check(input);
    let mut parts = input.splitn(2, |&byte| byte == b'\n');
    let [header, payload] =
        [parts.next(), parts.next()].map(|part| Base64UrlUnpadded::encode_string(part.unwrap_or_default()));
    let message = format!("{header}.{payload}");
    let signature = hmac::sign(&SECRET, message.as_bytes());
    let token = format!("{message}.{}", Base64UrlUnpadded::encode_string(signature.as_ref()));
    check(token.as_bytes());
});

fn check(token: &[u8]) {
    let verified = match verify(token, &ISSUERS) {
        Ok(verified) => verified,
        // The only ones that have room for a text; it is the issuers' or the caller's, and they come later.
        Err(error) => return assert!(!error.is_insufficient(), "{error:?}"),
    };
    assert!(token.len() <= MAX_TOKEN && token.is_ascii());
    assert_eq!(verify(token, &ISSUERS).as_ref(), Ok(&verified), "the second time it is another");
    let issuer = verified.issuer(&ISSUERS);
    let id = verified.user.strip_prefix(&issuer.user_prefix).expect("the issuer's prefix");
    assert!(!id.is_empty() && (1..=USER_ID_MAX).contains(&verified.user.len()) && !verified.user.contains('\0'));
    let lifetime = verified.expires - verified.issued_at;
    assert!((1..=issuer.max_lifetime).contains(&lifetime));
    assert!(issuer.algorithms.contains(&verified.algorithm));

    let claims = json::parse(verified.claims.as_bytes()).expect("strict JSON");
    assert_eq!(claims.get("iss").and_then(Value::as_str), Some(issuer.iss.as_str()));
    assert_eq!(claims.pointer(&issuer.user).and_then(Value::as_str), Some(id));
    assert_eq!(claims.get("exp").and_then(Value::as_i64), Some(verified.expires));

    // The last character has unused bits in all signatures but none of RSA, the first one has none.
    let mut changed = token.to_vec();
    let first = token.iter().rposition(|&byte| byte == b'.').expect("three parts") + 1;
    changed[first] = if changed[first] == b'A' { b'B' } else { b'A' };
    assert!(verify(&changed, &ISSUERS).is_err(), "with another signature");

    check_use(&verified, &claims);
}

/// Where and when it may be used.
fn check_use(verified: &Verified, claims: &Value) {
    let issuer = verified.issuer(&ISSUERS);
    let end = verified.expires + issuer.leeway;
    let ask = |now, purpose| {
        let at = Use { now, database: "app", role: "my_app", purpose, session: "this session", challenge: "c" };
        verified.check(&ISSUERS, &at)
    };
    for purpose in [Purpose::Init, Purpose::Fetch, Purpose::Rotate, Purpose::Grant, Purpose::Identify] {
        assert_eq!(ask(end, purpose), Err(TokenError::Expired));
        assert_eq!(ask(verified.issued_at - issuer.leeway - 1, purpose), Err(TokenError::NotYetValid));
        if ask(end - 1, purpose).is_err() {
            continue;
        }
        let text = |name| claims.get(name).and_then(Value::as_str);
        if issuer.binding == Binding::Session {
            assert_eq!(text("vault_session"), Some("this session"));
            assert!(verified.sequence(&ISSUERS).is_some());
        }
        assert!(issuer.scope(purpose).is_none_or(|scope| verified.scopes.iter().any(|other| other == scope)));
        if let Some(step_up) = issuer.step_up(purpose) {
            assert!(text("acr").is_some_and(|acr| step_up.acr.iter().any(|other| other == acr)));
            assert!(claims.get("auth_time").is_some_and(Value::is_i64));
        }
    }
}
