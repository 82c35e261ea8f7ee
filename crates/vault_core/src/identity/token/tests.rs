use std::collections::HashSet;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::json;

use super::super::mint::{self, AUD, ISS, NOW, Signer, Token, base64, claims, hmac, unbase64};
use super::*;

/// Issuers with one that has an Ed25519 key, changed.
fn idp(changes: Value) -> Issuers {
    mint::issuers(&[mint::issuer(changes, &[Signer::ed25519()])])
}

/// One with a key for each algorithm.
static EVERY_ALGORITHM: LazyLock<Issuers> = LazyLock::new(|| mint::issuers(&[mint::issuer(json!({}), &Signer::all())]));

static ORDINARY: LazyLock<Issuers> = LazyLock::new(|| idp(json!({})));

const USE: Use<'static> = Use {
    now: NOW,
    database: "app",
    role: "my_app",
    purpose: Purpose::Fetch,
    session: "this session",
    challenge: "this transaction",
};

/// Signs the ordinary claims, changed, with the Ed25519 key.
fn signed(changes: Value) -> String {
    Token::of(&claims(changes)).signed_by(&Signer::ed25519())
}

fn verify_text(token: &str) -> Result<Verified, TokenError> {
    verify(token.as_bytes(), &ORDINARY)
}

#[track_caller]
fn accepted(changes: Value) -> Verified {
    verify_text(&signed(changes.clone())).unwrap_or_else(|error| panic!("{changes}: {error}"))
}

#[track_caller]
fn refused(changes: Value) -> TokenError {
    match verify_text(&signed(changes.clone())) {
        Ok(verified) => panic!("accepted with {changes}: {verified:?}"),
        Err(error) => error,
    }
}

#[test]
fn what_a_token_says_is_read() {
    let all = json!({
        "sub": "usér-1", "jti": "id-1", "nbf": NOW + 1, "auth_time": NOW - 5, "acr": "urn:mfa",
        "scope": "vault.read vault.rotate", "vault_session": "s", "seq": 7, "vault_challenge": "c",
        "aud": ["other", AUD],
    });
    for signer in Signer::all() {
        let token = Token::of(&claims(all.clone())).signed_by(&signer);
        let verified = verify(token.as_bytes(), &EVERY_ALGORITHM).expect("a good token");
        let expected = Verified {
            user: "usér-1".into(),
            issuer: 0,
            key: EVERY_ALGORITHM.issuers[0]
                .keys
                .iter()
                .position(|key| key.kid.as_deref() == signer.kid)
                .expect("the key"),
            kid: signer.kid.map(str::to_owned),
            algorithm: signer.algorithm,
            token_id: Some("id-1".into()),
            expires: NOW + 900,
            issued_at: NOW,
            not_before: Some(NOW + 1),
            auth_time: Some(NOW - 5),
            acr: Some("urn:mfa".into()),
            scopes: vec!["vault.read".into(), "vault.rotate".into()],
            session: Some("s".into()),
            sequence: Some(7),
            challenge: Some("c".into()),
            claims: claims(all.clone()).to_string(),
        };
        assert_eq!(verified, expected);
        assert_eq!(verified.issuer(&EVERY_ALGORITHM).name, "idp");
    }
    let few = accepted(json!({}));
    assert_eq!((few.token_id, few.not_before, few.auth_time, few.acr), (None, None, None, None));
    assert_eq!((few.session, few.sequence, few.challenge, few.scopes), (None, None, None, vec![]));
}

#[test]
fn a_token_of_one_key_is_no_token_of_another() {
    for signer in Signer::all() {
        for other in Signer::all().into_iter().filter(|other| other.algorithm != signer.algorithm) {
            let name = other.algorithm.name();
            for header in [json!({"kid": name}), json!({"alg": name}), json!({"alg": name, "kid": name})] {
                let token = Token::of(&claims(json!({}))).header(header.clone()).signed_by(&signer);
                let error = verify(token.as_bytes(), &EVERY_ALGORITHM).expect_err("another key's");
                assert!(matches!(error, TokenError::NoKey | TokenError::Signature), "{header}: {error:?}");
            }
        }
    }
    for algorithm in [Algorithm::EdDsa, Algorithm::Es256, Algorithm::Hs256] {
        let token = Token::of(&claims(json!({}))).signed_by(&Signer::new(algorithm, 8));
        assert_eq!(verify(token.as_bytes(), &EVERY_ALGORITHM), Err(TokenError::Signature), "{algorithm:?}");
    }
}

#[test]
fn the_algorithm_is_the_keys_and_not_the_tokens() {
    let token = |alg: Value| Token::of(&claims(json!({}))).header(json!({ "alg": alg })).signed_by(&Signer::ed25519());
    for alg in ["none", "None", "nOnE", "NONE", "", "eddsa", "ES256", "ES384", "ES256K", "RS512", "HS512", "Ed448"] {
        assert_eq!(verify_text(&token(json!(alg))), Err(TokenError::NoKey), "{alg}");
        // And with no signature at all.
        let unsigned = Token::of(&claims(json!({}))).header(json!({ "alg": alg })).message(&Signer::ed25519()) + ".";
        assert_eq!(verify_text(&unsigned), Err(TokenError::NoKey), "{alg}");
    }
    for alg in [json!(null), json!(1), json!(["EdDSA"])] {
        assert_eq!(verify_text(&token(alg)), Err(TokenError::Malformed("it has no alg")));
    }
    assert!(verify_text(&token(json!("Ed25519"))).is_ok(), "RFC 9864");
    let unsigned = Token::of(&claims(json!({}))).message(&Signer::ed25519()) + ".";
    assert_eq!(verify_text(&unsigned), Err(TokenError::Signature));
}

#[test]
fn a_mac_with_a_public_key_is_refused() {
    for signer in Signer::all().into_iter().filter(|signer| signer.algorithm != Algorithm::Hs256) {
        let jwk = signer.jwk();
        let member = jwk.get("x").or(jwk.get("n")).and_then(Value::as_str).expect("a public key");
        for secret in [jwk.to_string().as_bytes(), member.as_bytes(), &unbase64(member)] {
            for kid in [json!(null), jwk["kid"].clone(), json!("HS256")] {
                let header = json!({"alg": "HS256", "kid": kid});
                let message = Token::of(&claims(json!({}))).header(header).message(&signer);
                let token = format!("{message}.{}", base64(hmac(secret, message.as_bytes())));
                assert_eq!(verify_text(&token), Err(TokenError::NoKey));
                let error = verify(token.as_bytes(), &EVERY_ALGORITHM).expect_err("no key's");
                assert!(matches!(error, TokenError::NoKey | TokenError::Signature), "{error:?}");
            }
        }
    }
}

#[test]
fn a_kid_finds_its_key_alone() {
    let seeds = [(7, Some("a")), (8, Some("b")), (9, None)];
    let issuers = |count: usize| {
        let signers: Vec<_> =
            seeds[..count].iter().map(|(seed, kid)| Signer::new(Algorithm::EdDsa, *seed).with_kid(*kid)).collect();
        mint::issuers(&[mint::issuer(json!({}), &signers)])
    };
    let kid = |seed: u8, kid: Value| {
        Token::of(&claims(json!({}))).header(json!({ "kid": kid })).signed_by(&Signer::new(Algorithm::EdDsa, seed))
    };
    for (keys, seed, named, result) in [
        (1, 7, json!("a"), Ok(())),
        (1, 7, json!(null), Ok(())),
        (2, 7, json!(null), Err(TokenError::NoKey)),
        (2, 8, json!("b"), Ok(())),
        (2, 8, json!("a"), Err(TokenError::Signature)),
        (2, 7, json!("c"), Err(TokenError::NoKey)),
        (1, 7, json!("A"), Err(TokenError::NoKey)),
        (1, 7, json!(""), Err(TokenError::NoKey)),
        (1, 7, json!("a "), Err(TokenError::NoKey)),
        (1, 7, json!("a' OR '1'='1"), Err(TokenError::NoKey)),
        (1, 7, json!("x' UNION SELECT 'a'; --"), Err(TokenError::NoKey)),
        (1, 7, json!("../../dev/null"), Err(TokenError::NoKey)),
        (1, 7, json!(1), Err(TokenError::Malformed("its kid is not a text"))),
        (1, 7, json!(["a"]), Err(TokenError::Malformed("its kid is not a text"))),
        // The key without an id is for no token with one, nor for one without where others fit.
        (3, 9, json!("c"), Err(TokenError::NoKey)),
        (3, 9, json!(null), Err(TokenError::NoKey)),
    ] {
        let token = kid(seed, named.clone());
        let found = verify(token.as_bytes(), &issuers(keys));
        assert_eq!(found.map(|_| ()), result, "{keys} keys, kid {named}");
    }
    // One key fits, since the others are for other algorithms.
    for signer in Signer::all() {
        let token = Token::of(&claims(json!({}))).header(json!({"kid": null})).signed_by(&signer);
        assert!(verify(token.as_bytes(), &EVERY_ALGORITHM).is_ok());
    }
}

#[test]
fn a_key_that_comes_with_the_token_is_never_looked_at() {
    let theirs = Signer::new(Algorithm::EdDsa, 66).with_kid(Some("theirs"));
    for header in [
        json!({"jwk": theirs.jwk()}),
        json!({"jku": "https://attacker.example/jwks"}),
        json!({"x5u": "https://attacker.example/certificate"}),
        json!({"x5c": ["MIIB"], "x5t": "AA", "x5t#S256": "AA"}),
        json!({"jku": 1, "jwk": null}),
    ] {
        let token = Token::of(&claims(json!({}))).header(header.clone());
        assert!(verify_text(&token.signed_by(&Signer::ed25519())).is_ok(), "{header}");
        assert_eq!(verify_text(&token.signed_by(&theirs)), Err(TokenError::NoKey), "{header}");
        for kid in [json!(null), json!("EdDSA")] {
            let token = token.clone().header(json!({ "kid": kid })).signed_by(&theirs);
            assert_eq!(verify_text(&token), Err(TokenError::Signature), "{header}");
        }
    }
}

#[test]
fn extensions_are_refused() {
    let bad = Err(TokenError::Malformed("it has extensions (crit, b64)"));
    let text = |member: &str| format!(r#"{{"alg":"EdDSA","kid":"EdDSA",{member}}}"#);
    for member in [
        r#""crit":["b64"],"b64":false"#,
        r#""crit":["exp"]"#,
        r#""crit":[]"#,
        r#""crit":null"#,
        r#""crit":"exp""#,
        r#""b64":false"#,
        r#""b64":true"#,
        r#""b64":null"#,
    ] {
        let token = Token::of(&claims(json!({}))).header_text(&text(member)).signed_by(&Signer::ed25519());
        assert_eq!(verify_text(&token), bad, "{member}");
    }
}

#[test]
fn a_token_has_one_form() {
    let good = signed(json!({}));
    assert!(verify_text(&good).is_ok());
    let parts: Vec<&str> = good.split('.').collect();
    let [header, payload, signature] = parts[..] else { panic!("{good}") };
    let last = |part: &str| {
        // Another last character with the same bytes.
        let (rest, last) = part.split_at(part.len() - 1);
        let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let at = alphabet.find(last).expect("a digit");
        format!("{rest}{}", &alphabet[at + 1..at + 2])
    };
    let (three, base64) = ("it has not three parts", "is not base64url");
    for (token, says) in [
        (String::new(), three),
        (".".into(), three),
        ("..".into(), "its header is not base64url of a JSON object"),
        (header.into(), three),
        (format!("{header}.{payload}"), three),
        (format!("{good}."), three),
        (format!("{good}.{signature}"), three),
        (format!(".{good}"), three),
        // JSON Web Encryption has five parts; the flattened form is JSON.
        ("eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0..AAAAAAAAAAAAAAAA.AAAA.AAAAAAAAAAAAAAAAAAAAAA".into(), three),
        (format!(r#"{{"protected":"{header}","payload":"{payload}","signature":"{signature}"}}"#), three),
        (format!("Bearer {good}"), base64),
        (format!("{good}="), base64),
        (format!("{good}=="), base64),
        (format!("{header}=.{payload}.{signature}"), base64),
        (format!("{header}.{payload}=.{signature}"), base64),
        (format!(" {good}"), base64),
        (format!("{good} "), base64),
        (format!("{good}\n"), base64),
        (format!("{good}\0"), base64),
        (format!("{header}.{payload}\r\n.{signature}"), base64),
        (format!("{header}.{payload}.{}\n{}", &signature[..40], &signature[40..]), base64),
        (format!("{header}.{payload}.+{}", &signature[1..]), base64),
        (format!("{header}.{payload}./{}", &signature[1..]), base64),
        (format!("{header}.{payload}.ä{}", &signature[2..]), base64),
        // Two encodings of one signature would be two tokens.
        (format!("{header}.{payload}.{}", last(signature)), base64),
    ] {
        match verify_text(&token) {
            Err(TokenError::Malformed(what)) => assert!(what.contains(says), "{token}: {what}"),
            other => panic!("{token}: {other:?}"),
        }
    }
    for token in [
        format!("{header}.{payload}."),
        format!("{header}.{payload}.{}", &signature[..40]),
        format!("{header}.{payload}.{signature}AAAA"),
        format!("{header}.{payload}.{}", base64_of_zeros(64)),
    ] {
        assert_eq!(verify_text(&token), Err(TokenError::Signature), "{token}");
    }
}

fn base64_of_zeros(count: usize) -> String {
    base64(vec![0; count])
}

#[test]
fn header_and_payload_are_strict_json_objects() {
    let header = r#"{"alg":"EdDSA","kid":"EdDSA"}"#;
    let payload = claims(json!({})).to_string();
    let ordinary = Token::of_bytes(payload.clone()).header_text(header);
    assert!(verify_text(&ordinary.signed_by(&Signer::ed25519())).is_ok());

    for bad in [
        "",
        "null",
        "[]",
        "\"alg\"",
        "{",
        r#"{"alg":"EdDSA","kid":"EdDSA","alg":"EdDSA"}"#,
        r#"{"alg":"EdDSA","kid":"EdDSA","\u0061lg":"none"}"#,
        r#"{"alg":"EdDSA","kid":"EdDSA\u0000"}"#,
        r#"{"alg":"EdDSA"} {}"#,
        "\u{feff}{\"alg\":\"EdDSA\"}",
    ] {
        let token = ordinary.clone().header_text(bad).signed_by(&Signer::ed25519());
        let error = TokenError::Malformed("its header is not base64url of a JSON object");
        assert_eq!(verify_text(&token), Err(error), "{bad}");
    }

    let with = |member: &str| format!("{}{member}}}", &payload[..payload.len() - 1]);
    let nested = |depth: usize| format!(r#","deep":{}{}"#, "[".repeat(depth), "]".repeat(depth));
    let good = Token::of_bytes(with(&nested(json::MAX_DEPTH - 1))).signed_by(&Signer::ed25519());
    assert!(verify_text(&good).is_ok());
    for bad in [
        Vec::new(),
        b"null".to_vec(),
        format!("[{payload}]").into_bytes(),
        format!("{payload}{payload}").into_bytes(),
        with(r#","sub":"user-2""#).into_bytes(),
        with(r#","s\u0075b":"user-2""#).into_bytes(),
        with(r#","exp":99999999999"#).into_bytes(),
        with(r#","a":{"b":1,"b":2}"#).into_bytes(),
        with(r#","a":"b\u0000""#).into_bytes(),
        with(r#","a":"\ud800""#).into_bytes(),
        with(r#","a":1e999"#).into_bytes(),
        with(r#","a":NaN"#).into_bytes(),
        with(&nested(json::MAX_DEPTH)).into_bytes(),
        with(&nested(2000)).into_bytes(),
        payload.replace("user-1", "user-1\u{0}").into_bytes(),
        [&payload.as_bytes()[..payload.len() - 1], b",\"a\":\"\xff\"}"].concat(),
    ] {
        let shown = String::from_utf8_lossy(&bad).into_owned();
        let token = Token::of_bytes(bad).signed_by(&Signer::ed25519());
        let error = TokenError::Malformed("its payload is not a JSON object");
        assert_eq!(verify_text(&token), Err(error), "{shown}");
    }
}

#[test]
fn a_token_has_up_to_8_kib() {
    // Between two claims' lengths, the encoded lengths leave one of four out.
    let of_length = |length: usize| {
        (0..4)
            .flat_map(|more| (5_800..6_100).map(move |pad| (more, pad)))
            .map(|(more, pad)| {
                Token::of(&claims(json!({"pad": "p".repeat(pad)}))).header(json!({"pad": "p".repeat(more)}))
            })
            .find(|token| token.message(&Signer::ed25519()).len() + 1 + 86 == length)
            .expect("a token of that length")
            .signed_by(&Signer::ed25519())
    };
    for (length, result) in
        [(8_191, Ok(())), (8_192, Ok(())), (8_193, Err(TokenError::Malformed("it is longer than 8 KiB")))]
    {
        let token = of_length(length);
        assert_eq!(token.len(), length);
        assert_eq!(verify_text(&token).map(|_| ()), result);
    }
    assert!(verify(&vec![b'.'; 1 << 20], &ORDINARY).is_err());
}

#[test]
fn a_user_is_a_text_of_1_to_255_bytes() {
    assert_eq!(accepted(json!({"sub": "ü' OR 1=1; --\n"})).user, "ü' OR 1=1; --\n");
    assert_eq!(accepted(json!({"sub": "u".repeat(255)})).user.len(), 255);
    let (absent, empty) = ("the issuer's claim is absent", "the issuer's claim is empty");
    let (long, no_text) = ("the id is longer than 255 bytes", "the issuer's claim is not a text");
    for (changes, why) in [
        (json!({"sub": null}), absent),
        (json!({"sub": ""}), empty),
        (json!({"sub": 1}), no_text),
        (json!({"sub": true}), no_text),
        (json!({"sub": ["user-1"]}), no_text),
        (json!({"sub": {"id": "user-1"}}), no_text),
        (json!({"sub": "u".repeat(256)}), long),
        (json!({"sub": "ü".repeat(128)}), long),
    ] {
        assert_eq!(refused(changes), TokenError::User(why));
    }
    let null = claims(json!({})).to_string().replace("\"user-1\"", "null");
    let null = Token::of_bytes(null).signed_by(&Signer::ed25519());
    assert_eq!(verify_text(&null), Err(TokenError::User(no_text)));

    let prefixed = idp(json!({"user_prefix": "idp:"}));
    for (sub, user) in [
        ("user-1".to_owned(), Ok("idp:user-1".to_owned())),
        ("u".repeat(251), Ok(format!("idp:{}", "u".repeat(251)))),
        ("u".repeat(252), Err(TokenError::User(long))),
        (String::new(), Err(TokenError::User(empty))),
    ] {
        let token = signed(json!({ "sub": sub }));
        assert_eq!(verify(token.as_bytes(), &prefixed).map(|verified| verified.user), user);
    }
}

#[test]
fn the_issuer_names_the_users_claim() {
    for (pointer, payload) in [
        ("/email", json!({"email": "user-1"})),
        ("/https:~1~1id.example~1user/~0id", json!({"https://id.example/user": {"~id": "user-1"}})),
        ("/users/1", json!({"users": ["user-0", "user-1"]})),
        ("/", json!({"": "user-1"})),
    ] {
        let issuers = idp(json!({ "user": pointer }));
        let mut changes = payload;
        changes["sub"] = "somebody else".into();
        let user = verify(signed(changes).as_bytes(), &issuers).map(|verified| verified.user);
        assert_eq!(user, Ok("user-1".into()), "{pointer}");
        let without = verify(signed(json!({})).as_bytes(), &issuers);
        assert_eq!(without, Err(TokenError::User("the issuer's claim is absent")), "{pointer}");
    }
}

#[test]
fn the_audience_is_among_those_configured() {
    for aud in [
        json!(null),
        json!([]),
        json!(""),
        json!("https://other.example"),
        json!("https://db.example/vault/"),
        json!("HTTPS://db.example/vault"),
        json!([[AUD]]),
        json!(["https://other.example"]),
        json!([AUD, 1]),
        json!({AUD: AUD}),
        json!(1),
    ] {
        assert_eq!(refused(json!({ "aud": aud })), TokenError::Audience);
    }
    for aud in [json!(AUD), json!([AUD]), json!(["https://other.example", AUD, ""])] {
        accepted(json!({ "aud": aud }));
    }
    let two = idp(json!({"aud": ["a", "b"]}));
    for (aud, result) in [(json!("b"), Ok(())), (json!(["x", "a"]), Ok(())), (json!("a b"), Err(TokenError::Audience))]
    {
        assert_eq!(verify(signed(json!({ "aud": aud })).as_bytes(), &two).map(|_| ()), result);
    }
}

#[test]
fn the_issuer_is_known_byte_by_byte() {
    for iss in [
        json!(null),
        json!(""),
        json!("https://id.example"),
        json!("https://id.example//"),
        json!("https://ID.example/"),
        json!([ISS]),
        json!("idp"),
    ] {
        assert_eq!(refused(json!({ "iss": iss })), TokenError::Issuer);
    }
    // Each issuer's keys are for its own tokens.
    let other_signer = || Signer::new(Algorithm::EdDsa, 8);
    let other = json!({"name": "other", "iss": "https://id.example", "user_prefix": "o:"});
    let ours = mint::issuer(json!({"user_prefix": "i:"}), &[Signer::ed25519()]);
    let issuers = mint::issuers(&[ours, mint::issuer(other, &[other_signer()])]);
    for (signer, iss, user) in [
        (Signer::ed25519(), ISS, Ok("i:user-1")),
        (other_signer(), "https://id.example", Ok("o:user-1")),
        (Signer::ed25519(), "https://id.example", Err(TokenError::Signature)),
        (other_signer(), ISS, Err(TokenError::Signature)),
    ] {
        let token = Token::of(&claims(json!({ "iss": iss }))).signed_by(&signer);
        let verified = verify(token.as_bytes(), &issuers);
        assert_eq!(verified.as_ref().map(|verified| verified.user.as_str()), user.as_ref().copied(), "{iss}");
    }
}

#[test]
fn times_are_whole_seconds() {
    let no_time = TokenError::Malformed("a time of it is not a whole number of seconds since 1970");
    let numbers =
        ["-1", "9223372036854775808", "18446744073709551616", "1800000900.0", "18e8", "\"1800000900\"", "null"];
    for name in ["exp", "iat", "nbf", "auth_time"] {
        for number in numbers.into_iter().chain(["253402300800", "true", "[1800000900]", "-9223372036854775808"]) {
            let mut text = claims(json!({ name: null })).to_string();
            text.truncate(text.len() - 1);
            let token = Token::of_bytes(format!(r#"{text},"{name}":{number}}}"#)).signed_by(&Signer::ed25519());
            assert_eq!(verify_text(&token), Err(no_time.clone()), "{name} {number}");
        }
    }
    // In milliseconds: no time before the year 10000.
    assert_eq!(refused(json!({"exp": NOW * 1000})), no_time);
    assert_eq!(refused(json!({"exp": (NOW + 900) * 1000, "iat": NOW * 1000})), no_time);
    assert_eq!(refused(json!({"exp": null})), TokenError::Malformed("it has no exp"));
    assert_eq!(refused(json!({"iat": null})), TokenError::Malformed("it has no iat"));
    accepted(json!({"nbf": 0, "auth_time": 253_402_300_799_i64}));
}

#[test]
fn a_lifetime_is_bounded() {
    let not_after = TokenError::Malformed("its exp is not after its iat");
    for exp in [NOW, NOW - 1, 0] {
        assert_eq!(refused(json!({ "exp": exp })), not_after);
    }
    accepted(json!({"exp": NOW + 1}));
    accepted(json!({"exp": NOW + 3600}));
    assert_eq!(refused(json!({"exp": NOW + 3601})), TokenError::Lifetime { lifetime: 3601, max: 3600 });
    let end = 253_402_300_799_i64;
    assert_eq!(refused(json!({"exp": end, "iat": 0})), TokenError::Lifetime { lifetime: end, max: 3600 });
    let short = idp(json!({"max_lifetime": 60}));
    assert!(verify(signed(json!({"exp": NOW + 60})).as_bytes(), &short).is_ok());
    let error = TokenError::Lifetime { lifetime: 61, max: 60 };
    assert_eq!(verify(signed(json!({"exp": NOW + 61})).as_bytes(), &short), Err(error));
}

#[test]
fn a_type_is_one_of_those_configured() {
    for (types, accepted, refused) in [
        (
            json!(null),
            &[None, Some("JWT"), Some("jwt"), Some("at+jwt"), Some("application/at+jwt"), Some("APPLICATION/JWT")][..],
            &[Some(""), Some("logout+jwt"), Some("dpop+jwt"), Some("id+jwt"), Some("JWT "), Some("JOSE")][..],
        ),
        (
            json!(["at+jwt"]),
            &[Some("at+jwt"), Some("AT+JWT"), Some("application/at+jwt")],
            &[None, Some("JWT"), Some(""), Some("application/application/at+jwt")],
        ),
        (json!(["application/Vault+JWT", ""]), &[None, Some("vault+jwt")], &[Some("JWT"), Some("at+jwt")]),
    ] {
        let issuers = idp(json!({ "typ": types }));
        let with = |typ: Option<&str>| {
            let token = Token::of(&claims(json!({}))).header(json!({ "typ": typ })).signed_by(&Signer::ed25519());
            verify(token.as_bytes(), &issuers).map(|_| ())
        };
        for typ in accepted {
            assert_eq!(with(*typ), Ok(()), "{types}: {typ:?}");
        }
        for typ in refused {
            assert_eq!(with(*typ), Err(TokenError::Type), "{types}: {typ:?}");
        }
    }
    let no_text = Token::of(&claims(json!({}))).header(json!({"typ": ["JWT"]})).signed_by(&Signer::ed25519());
    assert_eq!(verify_text(&no_text), Err(TokenError::Type));
}

#[test]
fn scopes_come_in_several_forms() {
    let scopes = |changes: Value| accepted(changes).scopes;
    for (changes, read) in [
        (json!({}), vec![]),
        (json!({"scope": ""}), vec![]),
        (json!({"scope": "a"}), vec!["a"]),
        (json!({"scope": "  a   b.c "}), vec!["a", "b.c"]),
        (json!({"scope": ["a", "b"]}), vec!["a", "b"]),
        (json!({"scp": "a b"}), vec!["a", "b"]),
        (json!({"scp": ["a", "b"]}), vec!["a", "b"]),
        (json!({"scope": "a", "scp": ["b"]}), vec!["a"]),
        // Other white space is no separator.
        (json!({"scope": "a\tb\nc"}), vec!["a\tb\nc"]),
    ] {
        assert_eq!(scopes(changes.clone()), read, "{changes}");
    }
    for bad in [json!({"scope": 1}), json!({"scope": {"a": true}}), json!({"scp": ["a", 1]})] {
        assert_eq!(refused(bad), TokenError::Malformed("its scopes are not texts"));
    }
}

#[test]
fn a_claim_of_another_type_is_refused() {
    for name in ["jti", "acr", "vault_session", "vault_challenge"] {
        for value in [json!(1), json!(["a"]), json!(false)] {
            assert_eq!(refused(json!({ name: value })), TokenError::Malformed("a claim of it is not a text"), "{name}");
        }
    }
    for seq in [json!("1"), json!(-1), json!(1.5), json!(1e30)] {
        assert_eq!(refused(json!({ "seq": seq })), TokenError::Malformed("its seq is not a number"));
    }
    assert_eq!(accepted(json!({"seq": u64::MAX})).sequence, Some(u64::MAX));
}

/// Whether a token with these claims may be used there, when the issuer is like this.
fn check(issuer: Value, changes: Value, at: Use<'_>) -> Result<(), TokenError> {
    let issuers = idp(issuer);
    verify(signed(changes).as_bytes(), &issuers).expect("a good token").check(&issuers, &at)
}

fn at(now: i64) -> Use<'static> {
    Use { now, ..USE }
}

#[test]
fn a_token_is_valid_to_the_second() {
    for leeway in [0, 30] {
        let issuer = || json!({ "leeway": leeway });
        let end = NOW + 900 + leeway;
        let start = NOW - leeway;
        for (now, result) in [
            (start - 1, Err(TokenError::NotYetValid)),
            (start, Ok(())),
            (NOW, Ok(())),
            (end - 1, Ok(())),
            (end, Err(TokenError::Expired)),
            (end + 1, Err(TokenError::Expired)),
            (0, Err(TokenError::NotYetValid)),
            (253_402_300_799, Err(TokenError::Expired)),
        ] {
            assert_eq!(check(issuer(), json!({}), at(now)), result, "leeway {leeway}, {} s", now - NOW);
        }
        let nbf = NOW + 100;
        for (now, result) in [(nbf - leeway - 1, Err(TokenError::NotYetValid)), (nbf - leeway, Ok(()))] {
            assert_eq!(check(issuer(), json!({ "nbf": nbf }), at(now)), result, "leeway {leeway}");
        }
        assert_eq!(check(issuer(), json!({"nbf": NOW + 5000}), at(NOW)), Err(TokenError::NotYetValid));
    }
}

#[test]
fn an_issuer_counts_in_its_databases_and_for_its_roles() {
    let (databases, roles) = (json!({"databases": ["app", "b"]}), json!({"roles": ["my_app", "r"]}));
    let in_database = |database| check(databases.clone(), json!({}), Use { database, ..USE });
    let for_role = |role| check(roles.clone(), json!({}), Use { role, ..USE });
    assert_eq!((in_database("app"), in_database("b")), (Ok(()), Ok(())));
    assert_eq!((for_role("my_app"), for_role("r")), (Ok(()), Ok(())));
    for other in ["App", "", "app ", "postgres"] {
        assert_eq!(in_database(other), Err(TokenError::Database));
        assert_eq!(for_role(other), Err(TokenError::Role(other.into())));
        assert_eq!(check(json!({}), json!({}), Use { database: other, role: other, ..USE }), Ok(()));
    }
}

#[test]
fn a_scope_is_asked_for_what_it_guards() {
    let issuer = || json!({"scope": {"fetch": "vault.read", "rotate": "vault.rotate"}});
    let with = |purpose, scope: &str| check(issuer(), json!({ "scope": scope }), Use { purpose, ..USE });
    let lacks = |scope: &str| Err(TokenError::Scope(scope.into()));
    for (purpose, scope, result) in [
        (Purpose::Fetch, "vault.read", Ok(())),
        (Purpose::Fetch, "openid vault.read email", Ok(())),
        (Purpose::Fetch, "", lacks("vault.read")),
        (Purpose::Fetch, "vault.rotate", lacks("vault.read")),
        (Purpose::Fetch, "vault.reader vault Vault.read", lacks("vault.read")),
        (Purpose::Rotate, "vault.read", lacks("vault.rotate")),
        (Purpose::Rotate, "vault.rotate", Ok(())),
        (Purpose::Init, "", Ok(())),
        (Purpose::Grant, "", Ok(())),
        (Purpose::Recovery, "", Ok(())),
        (Purpose::Identify, "", Ok(())),
    ] {
        assert_eq!(with(purpose, scope), result, "{purpose:?} {scope:?}");
    }
}

#[test]
fn a_step_up_asks_for_a_fresh_and_strong_authentication() {
    let issuer = |step_up: Value| json!({"leeway": 10, "step_up": {"rotate": step_up}});
    let rotate = |now: i64| Use { purpose: Purpose::Rotate, now, ..USE };
    let age = || json!({"max_age": 300});
    let (acr, both) = (|| json!({"acr": ["mfa", "hw"]}), || json!({"max_age": 300, "acr": ["hw"]}));
    let needed = |max_age: Option<i64>, acr: &[&str]| {
        Err(TokenError::StepUp { max_age, acr: acr.iter().map(|acr| (*acr).to_owned()).collect() })
    };
    for (step_up, changes, result) in [
        (age(), json!({}), needed(Some(300), &[])),
        (age(), json!({"auth_time": NOW}), Ok(())),
        (age(), json!({"auth_time": NOW - 310}), Ok(())),
        (age(), json!({"auth_time": NOW - 311}), needed(Some(300), &[])),
        (age(), json!({"auth_time": 0}), needed(Some(300), &[])),
        // Nobody authenticates in the future.
        (age(), json!({"auth_time": NOW + 10}), Ok(())),
        (age(), json!({"auth_time": NOW + 11}), needed(Some(300), &[])),
        (acr(), json!({}), needed(None, &["mfa", "hw"])),
        (acr(), json!({"acr": "hw"}), Ok(())),
        (acr(), json!({"acr": "mfa"}), Ok(())),
        (acr(), json!({"acr": "mfa hw"}), needed(None, &["mfa", "hw"])),
        (acr(), json!({"acr": ""}), needed(None, &["mfa", "hw"])),
        (both(), json!({"acr": "hw"}), needed(Some(300), &["hw"])),
        (both(), json!({"auth_time": NOW}), needed(Some(300), &["hw"])),
        (both(), json!({"auth_time": NOW, "acr": "mfa"}), needed(Some(300), &["hw"])),
        (both(), json!({"auth_time": NOW, "acr": "hw"}), Ok(())),
    ] {
        assert_eq!(check(issuer(step_up.clone()), changes.clone(), rotate(NOW)), result, "{step_up} {changes}");
        assert_eq!(check(issuer(step_up), changes, USE), Ok(()), "for another purpose");
    }
    // The same token grows too old.
    let fresh = || json!({"auth_time": NOW});
    assert_eq!(check(issuer(age()), fresh(), rotate(NOW + 310)), Ok(()));
    assert_eq!(check(issuer(age()), fresh(), rotate(NOW + 311)), needed(Some(300), &[]));
}

#[test]
fn a_bound_token_is_for_its_session_or_transaction() {
    for (bind, changes, result, sequence) in [
        ("none", json!({"vault_session": "another", "seq": 1, "vault_challenge": "another"}), Ok(()), None),
        ("session", json!({}), Err(TokenError::NotBound("session")), None),
        ("session", json!({"vault_session": "this session"}), Err(TokenError::NotBound("session")), None),
        ("session", json!({"seq": 1}), Err(TokenError::NotBound("session")), Some(1)),
        ("session", json!({"vault_session": "another", "seq": 1}), Err(TokenError::NotBound("session")), Some(1)),
        ("session", json!({"vault_session": "", "seq": 1}), Err(TokenError::NotBound("session")), Some(1)),
        (
            "session",
            json!({"vault_session": "this transaction", "seq": 1}),
            Err(TokenError::NotBound("session")),
            Some(1),
        ),
        ("session", json!({"vault_session": "this session", "seq": 0}), Ok(()), Some(0)),
        ("transaction", json!({}), Err(TokenError::NotBound("transaction")), None),
        (
            "transaction",
            json!({"vault_session": "this session", "seq": 1}),
            Err(TokenError::NotBound("transaction")),
            None,
        ),
        ("transaction", json!({"vault_challenge": "another"}), Err(TokenError::NotBound("transaction")), None),
        ("transaction", json!({"vault_challenge": "this transaction"}), Ok(()), None),
    ] {
        let issuers = idp(json!({ "bind": bind }));
        let verified = verify(signed(changes.clone()).as_bytes(), &issuers).expect("a good token");
        assert_eq!(verified.check(&issuers, &USE), result, "{bind} {changes}");
        assert_eq!(verified.sequence(&issuers), sequence, "{bind} {changes}");
        assert_eq!(verified.is_bound(&issuers), bind != "none");
    }
}

/// One of each.
fn every_error() -> Vec<TokenError> {
    use TokenError::*;
    vec![
        Malformed("it has no alg"),
        Signature,
        NoKey,
        Issuer,
        Audience,
        Expired,
        NotYetValid,
        Lifetime { lifetime: 7200, max: 3600 },
        Type,
        User("the issuer's claim is absent"),
        Database,
        Role("my_app".into()),
        Scope("vault.read".into()),
        StepUp { max_age: Some(300), acr: vec!["mfa".into()] },
        Replayed,
        NotBound("session"),
        Revoked,
    ]
}

#[test]
fn each_error_has_a_context_of_its_own() {
    let errors = every_error();
    let contexts: HashSet<_> = errors.iter().map(TokenError::context).collect();
    assert_eq!(contexts.len(), errors.len());
    for context in &contexts {
        assert!(context.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{context}");
    }
    let messages: HashSet<_> = errors.iter().map(TokenError::to_string).collect();
    assert_eq!(TokenError::NoKey.to_string(), TokenError::Signature.to_string());
    assert_eq!(messages.len(), errors.len() - 1, "all others differ");
    let insufficient: Vec<_> = errors.into_iter().filter(TokenError::is_insufficient).collect();
    assert!(matches!(insufficient[..], [TokenError::Role(_), TokenError::Scope(_), TokenError::StepUp { .. }]));
}

#[test]
fn a_stranger_learns_nothing_about_the_keys() {
    // Whatever is wrong with algorithm, key id or signature is told in the same words.
    let theirs = Signer::new(Algorithm::EdDsa, 66);
    let told: HashSet<String> = [
        json!({}),
        json!({"alg": "none"}),
        json!({"alg": "HS256"}),
        json!({"alg": "RS256", "kid": null}),
        json!({"kid": "unknown"}),
        json!({"kid": null}),
    ]
    .into_iter()
    .map(|header| Token::of(&claims(json!({}))).header(header).signed_by(&theirs))
    .map(|token| verify_text(&token).expect_err("a stranger's").to_string())
    .collect();
    assert_eq!(told.len(), 1, "{told:?}");
    // Nor about whom else the issuer would let in: nothing but the issuer's name is looked at before the signature.
    for changes in
        [json!({"aud": null}), json!({"exp": null}), json!({"exp": 0}), json!({"sub": 1}), json!({"scope": 1})]
    {
        let token = Token::of(&claims(changes)).signed_by(&theirs);
        assert_eq!(verify_text(&token), Err(TokenError::Signature));
    }
}

#[test]
fn no_message_quotes_a_token() {
    const MARK: &str = "QUOTED";
    for changes in [
        json!({"iss": MARK}),
        json!({"aud": MARK}),
        json!({"sub": [MARK]}),
        json!({"sub": MARK.repeat(100)}),
        json!({"exp": MARK}),
        json!({"jti": [MARK]}),
        json!({"scope": {MARK: MARK}}),
        json!({"seq": MARK}),
    ] {
        let error = refused(changes);
        assert!(!format!("{error} {error:?} {}", error.context()).contains(MARK), "{error:?}");
    }
    for header in [
        json!({"alg": MARK}),
        json!({"kid": MARK}),
        json!({"kid": [MARK]}),
        json!({"typ": MARK}),
        json!({"crit": MARK}),
    ] {
        let token = Token::of(&claims(json!({}))).header(header).signed_by(&Signer::ed25519());
        let error = verify_text(&token).expect_err("a bad header");
        assert!(!format!("{error} {error:?} {}", error.context()).contains(MARK), "{error:?}");
    }
}

static TOKENS: LazyLock<Vec<(String, Verified)>> = LazyLock::new(|| {
    let changes = json!({"sub": "a user whom no message names", "jti": "an id that no message quotes"});
    Signer::all()
        .iter()
        .map(|signer| {
            let token = Token::of(&claims(changes.clone())).signed_by(signer);
            let verified = verify(token.as_bytes(), &EVERY_ALGORITHM).expect("a good token");
            (token, verified)
        })
        .collect()
});

/// Whether a message shows eight characters in a row of the token or of what is in it.
fn quotes(error: &TokenError, token: &[u8], verified: &Verified) -> bool {
    let shown = format!("{error} {error:?} {}", error.context());
    let claimed = format!("{}|an id that no message quotes", verified.user);
    [token, claimed.as_bytes()]
        .into_iter()
        .flat_map(|text| text.windows(8))
        .any(|part| shown.as_bytes().windows(8).any(|other| other == part))
}

proptest! {
    #[test]
    fn a_changed_byte_is_noticed(which in 0..5usize, at: prop::sample::Index, to: u8) {
        let (token, verified) = &TOKENS[which];
        let mut changed = token.clone().into_bytes();
        let at = at.index(changed.len());
        prop_assume!(changed[at] != to);
        changed[at] = to;
        match verify(&changed, &EVERY_ALGORITHM) {
            Ok(other) => prop_assert!(false, "accepted: {:?}", other),
            Err(error) => prop_assert!(!quotes(&error, &changed, verified), "{:?}", error),
        }
    }

    #[test]
    fn a_part_of_another_token_does_not_fit(which in 0..5usize, other in 0..5usize, part in 0..3usize, cut: prop::sample::Index) {
        let (token, _) = &TOKENS[which];
        let mut parts: Vec<&str> = token.split('.').collect();
        let theirs: Vec<&str> = TOKENS[other].0.split('.').collect();
        parts[part] = theirs[part];
        let mixed = parts.join(".");
        prop_assert_eq!(verify(mixed.as_bytes(), &EVERY_ALGORITHM).is_ok(), mixed == *token);
        prop_assert!(verify(&token.as_bytes()[..cut.index(token.len())], &EVERY_ALGORITHM).is_err());
    }

    #[test]
    fn any_bytes_are_refused(token in proptest::collection::vec(any::<u8>(), 0..200), text in "[A-Za-z0-9._=-]{0,200}") {
        prop_assert!(verify(&token, &EVERY_ALGORITHM).is_err());
        prop_assert!(verify(text.as_bytes(), &EVERY_ALGORITHM).is_err());
    }

    #[test]
    fn any_signed_payload_is_read_or_refused(
        name in prop::sample::select(vec!["iss", "aud", "sub", "exp", "iat", "nbf", "jti", "scope", "seq", "acr", "x"]),
        value in "(\"[a-z.\\\\0-9]{0,12}\"|-?[0-9]{1,21}(\\.[0-9]{1,3})?(e[0-9]{1,3})?|\\[(1|\"a\")?\\]|\\{\\}|null|true)",
        now: i32,
    ) {
        let mut text = claims(json!({ name: null })).to_string();
        text.truncate(text.len() - 1);
        let token = Token::of_bytes(format!(r#"{text},"{name}":{value}}}"#)).signed_by(&Signer::ed25519());
        if let Ok(verified) = verify_text(&token) {
            prop_assert!((1..=255).contains(&verified.user.len()));
            prop_assert!(verified.issued_at < verified.expires);
            let now = i64::from(now);
            if verified.check(&ORDINARY, &at(now)).is_ok() {
                prop_assert!(verified.issued_at - 30 <= now && now < verified.expires + 30);
            }
        }
    }
}
