//! The same tokens through ours and through jsonwebtoken, whose signatures are RustCrypto's: both accept a token, with the
//! same claims, or both refuse it.

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{DecodingKey, Validation, decode};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use super::issuers::Issuers;
use super::jwk::Algorithm;
use super::mint::{self, AUD, ISS, Signer, Token, claims};
use super::token;

/// Changed tokens of each algorithm, and as many with a changed signature.
const CHANGES: u32 = 200;

struct Both {
    issuers: Issuers,
    key: DecodingKey,
    validation: Validation,
}

impl Both {
    fn new(signer: Signer) -> Self {
        let algorithm = match signer.algorithm {
            Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::Ps256 => jsonwebtoken::Algorithm::PS256,
            Algorithm::Hs256 => jsonwebtoken::Algorithm::HS256,
        };
        let jwk: Jwk = serde_json::from_value(signer.jwk()).expect("a JWK");
        let mut validation = Validation::new(algorithm);
        validation.set_audience(&[AUD]);
        validation.set_issuer(&[ISS]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // Ours does not look at the time here.
        validation.validate_exp = false;
        Self {
            issuers: mint::issuers(&[mint::issuer(json!({}), &[signer])]),
            key: DecodingKey::from_jwk(&jwk).expect("a key"),
            validation,
        }
    }

    fn ours(&self, token: &[u8]) -> Option<Value> {
        let verified = token::verify(token, &self.issuers).ok()?;
        Some(serde_json::from_str(&verified.claims).expect("JSON"))
    }

    fn theirs(&self, token: &[u8]) -> Option<Value> {
        decode::<Value>(token, &self.key, &self.validation).ok().map(|data| data.claims)
    }
}

#[test]
fn good_tokens_are_good_to_both() {
    for signer in Signer::all() {
        let tokens: Vec<String> = (0..20)
            .map(|i| claims(json!({"sub": "ü".repeat(i + 1), "number": i, "aud": [AUD, "other"]})))
            .map(|claims| Token::of(&claims).signed_by(&signer))
            .collect();
        let name = signer.algorithm.name();
        let both = Both::new(signer);
        for token in tokens {
            let ours = both.ours(token.as_bytes());
            assert!(ours.is_some(), "{name}");
            assert_eq!(ours, both.theirs(token.as_bytes()), "{name}");
        }
    }
}

#[test]
fn bad_claims_are_bad_to_both() {
    for signer in Signer::all() {
        let tokens: Vec<String> = [
            json!({"iss": null}),
            json!({"iss": "https://id.example"}),
            json!({"aud": null}),
            json!({"aud": []}),
            json!({"aud": "other"}),
            json!({"exp": null}),
            json!({"sub": null}),
        ]
        .into_iter()
        .map(|changes| Token::of(&claims(changes)).signed_by(&signer))
        .collect();
        let both = Both::new(signer);
        for token in tokens {
            assert_eq!((both.ours(token.as_bytes()), both.theirs(token.as_bytes())), (None, None), "{token}");
        }
    }
}

#[test]
fn both_refuse_the_tokens_of_the_others_keys() {
    let tokens: Vec<_> = Signer::all().iter().map(|signer| Token::of(&claims(json!({}))).signed_by(signer)).collect();
    for (signer, own) in Signer::all().into_iter().zip(&tokens) {
        let both = Both::new(signer);
        for token in &tokens {
            assert_eq!(both.ours(token.as_bytes()).is_some(), token == own);
            assert_eq!(both.theirs(token.as_bytes()).is_some(), token == own);
        }
    }
}

#[test]
fn a_flipped_bit_is_the_same_to_both() {
    for signer in Signer::all() {
        let token = Token::of(&claims(json!({}))).signed_by(&signer).into_bytes();
        let name = signer.algorithm.name();
        let both = Both::new(signer);
        let bits = 0..token.len() * 8;
        let mut runner = TestRunner::new(Config::with_cases(CHANGES));
        let result = runner.run(&bits, |bit| {
            let mut changed = token.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let (ours, theirs) = (both.ours(&changed), both.theirs(&changed));
            prop_assert_eq!(&ours, &theirs, "{}", name);
            prop_assert_eq!(ours, None, "{}", name);
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn a_flipped_bit_of_a_signature_is_the_same_to_both() {
    for signer in Signer::all() {
        let ordinary = Token::of(&claims(json!({})));
        let message = ordinary.message(&signer);
        let signature = signer.sign(message.as_bytes());
        let name = signer.algorithm.name();
        let both = Both::new(signer);
        let mut runner = TestRunner::new(Config::with_cases(CHANGES));
        let result = runner.run(&(0..signature.len() * 8), |bit| {
            let mut changed = signature.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let token = format!("{message}.{}", mint::base64(changed));
            let (ours, theirs) = (both.ours(token.as_bytes()), both.theirs(token.as_bytes()));
            prop_assert_eq!(ours, theirs, "{}", name);
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
