use serde_json::json;

use super::super::mint::{Signer, base64, hmac, unbase64};
use super::*;

/// The key of this algorithm with other members. A null removes.
fn jwk(algorithm: Algorithm, changes: &Value) -> Value {
    let mut jwk = Signer::new(algorithm, 7).jwk();
    for (name, value) in changes.as_object().expect("an object") {
        jwk[name] = value.clone();
    }
    jwk.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
    jwk
}

fn parse(algorithm: Algorithm, changes: &Value) -> Result<Key, BadKey> {
    Key::parse(&jwk(algorithm, changes), &Algorithm::ALL)
}

#[track_caller]
fn refused(algorithm: Algorithm, changes: &Value) -> BadKey {
    match parse(algorithm, changes) {
        Ok(key) => panic!("accepted with {changes}: {key:?}"),
        Err(bad) => bad,
    }
}

fn ed25519_with(point: [u8; 32]) -> Result<Key, BadKey> {
    parse(Algorithm::EdDsa, &json!({"x": base64(point)}))
}

#[test]
fn a_key_verifies_its_own_signatures_alone() {
    let keys: Vec<Key> =
        Signer::all().iter().map(|signer| Key::parse(&signer.jwk(), &Algorithm::ALL).expect("a key")).collect();
    for signer in Signer::all() {
        let signature = signer.sign(b"message");
        for key in &keys {
            let fits = key.algorithm == signer.algorithm;
            assert_eq!(key.verifies(b"message", &signature), fits, "{key:?}, a signature by {:?}", signer.algorithm);
            assert!(!key.verifies(b"Message", &signature));
            assert!(!key.verifies(b"message", &signature[1..]));
            assert!(!key.verifies(b"message", &[&signature[..], &[0]].concat()));
            assert!(!key.verifies(b"message", &[]));
        }
        let another = Signer::new(signer.algorithm, 8).jwk();
        if another != signer.jwk() {
            let another = Key::parse(&another, &Algorithm::ALL).expect("a key");
            assert!(!another.verifies(b"message", &signature), "{another:?}");
        }
    }
}

#[test]
fn a_key_keeps_its_name_and_shows_nothing_else() {
    for signer in Signer::all() {
        let key = Key::parse(&signer.jwk(), &Algorithm::ALL).expect("a key");
        assert_eq!((key.kid.as_deref(), key.algorithm), (signer.kid, signer.algorithm));
        assert_eq!(key.is_secret(), signer.algorithm == Algorithm::Hs256);
        let name = signer.algorithm.name();
        assert_eq!(format!("{key:?}"), format!("Key({name}, Some({name:?}))"));
        assert_eq!(Algorithm::from_name(name), Some(signer.algorithm));
    }
    for other in ["none", "None", "eddsa", "ES384", "ES256K", "RS512", "HS512", ""] {
        assert_eq!(Algorithm::from_name(other), None, "{other}");
    }
}

#[test]
fn each_fault_has_its_own_error() {
    use Algorithm::*;
    let long = "k".repeat(MAX_KID + 1);
    for (algorithm, changes, bad) in [
        (EdDsa, json!({"kty": null}), BadKey::Lacks("kty")),
        (EdDsa, json!({"kty": 1}), BadKey::Lacks("kty")),
        (EdDsa, json!({"kty": "okp"}), BadKey::KeyType("okp".into())),
        (EdDsa, json!({"crv": null}), BadKey::Lacks("crv")),
        (EdDsa, json!({"crv": "Ed448"}), BadKey::Curve("Ed448".into())),
        (EdDsa, json!({"crv": "X25519"}), BadKey::Curve("X25519".into())),
        (EdDsa, json!({"crv": "P-256"}), BadKey::Curve("P-256".into())),
        (Es256, json!({"crv": "P-384"}), BadKey::Curve("P-384".into())),
        (Es256, json!({"crv": "secp256k1"}), BadKey::Curve("secp256k1".into())),
        (Es256, json!({"crv": "Ed25519"}), BadKey::Curve("Ed25519".into())),
        (EdDsa, json!({"x": null}), BadKey::Lacks("x")),
        (EdDsa, json!({"x": [1]}), BadKey::Lacks("x")),
        (Es256, json!({"y": null}), BadKey::Lacks("y")),
        (Rs256, json!({"n": null}), BadKey::Lacks("n")),
        (Rs256, json!({"e": 65537}), BadKey::Lacks("e")),
        (Hs256, json!({"k": null}), BadKey::Lacks("k")),
        (EdDsa, json!({"x": "a+/b"}), BadKey::NotBase64("x")),
        (EdDsa, json!({"x": format!("{}=", base64([7; 32]))}), BadKey::NotBase64("x")),
        (Rs256, json!({"e": "AQAB "}), BadKey::NotBase64("e")),
        // The same three bytes as AQA, with a bit too much.
        (Rs256, json!({"e": "AQB"}), BadKey::NotBase64("e")),
        (Hs256, json!({"k": "ä"}), BadKey::NotBase64("k")),
        (EdDsa, json!({"d": base64([7; 32])}), BadKey::Private),
        (Es256, json!({"d": base64([7; 32])}), BadKey::Private),
        (Rs256, json!({"d": "AQAB"}), BadKey::Private),
        (Rs256, json!({"p": "AQAB", "q": "AQAB"}), BadKey::Private),
        (Rs256, json!({"dp": "AQAB"}), BadKey::Private),
        (Rs256, json!({"oth": []}), BadKey::Private),
        // A private key is not passed over as one for encryption.
        (Rs256, json!({"use": "enc", "d": "AQAB"}), BadKey::Private),
        (Rs256, json!({"use": "enc"}), BadKey::Use),
        (Rs256, json!({"use": 1}), BadKey::Use),
        (Rs256, json!({"key_ops": ["encrypt", "sign"]}), BadKey::Use),
        (Rs256, json!({"key_ops": "verify"}), BadKey::Use),
        (Es256, json!({"alg": "EdDSA"}), BadKey::OtherAlgorithm("ES256", "EdDSA".into())),
        (Es256, json!({"alg": "none"}), BadKey::OtherAlgorithm("ES256", "none".into())),
        (Es256, json!({"alg": "Ed25519"}), BadKey::OtherAlgorithm("ES256", "Ed25519".into())),
        (Hs256, json!({"alg": "RS256"}), BadKey::OtherAlgorithm("HS256", "RS256".into())),
        (Rs256, json!({"alg": "HS256"}), BadKey::OtherAlgorithm("RS256", "HS256".into())),
        (Rs256, json!({"alg": ["RS256"]}), BadKey::Lacks("alg")),
        // RS256 or PS256: one key, one algorithm.
        (Rs256, json!({"alg": null}), BadKey::NoAlgorithm),
        (EdDsa, json!({"kid": ""}), BadKey::Kid),
        (EdDsa, json!({"kid": 1}), BadKey::Kid),
        (EdDsa, json!({"kid": long}), BadKey::Kid),
        (Hs256, json!({"k": base64([7; 31])}), BadKey::Short),
        (Hs256, json!({"k": ""}), BadKey::Short),
    ] {
        assert_eq!(refused(algorithm, &changes), bad, "{changes}");
    }
    for no_object in [json!(null), json!("key"), json!([jwk(EdDsa, &json!({}))])] {
        assert_eq!(Key::parse(&no_object, &Algorithm::ALL).err(), Some(BadKey::NotAnObject));
    }
}

#[test]
fn no_message_breaks_a_line() {
    // They go to the server's log, with what somebody else published.
    let text = "a\nLOG: b\u{1b}[2J\u{202e}";
    for changes in [json!({"kty": text}), json!({"crv": text}), json!({"alg": text})] {
        let message = refused(Algorithm::EdDsa, &changes).to_string();
        assert!(message.contains(r"a\nLOG: b\u{1b}[2J\u{202e}"), "{message}");
    }
}

#[test]
fn what_a_provider_may_write_is_accepted() {
    use Algorithm::*;
    for (algorithm, changes) in [
        (EdDsa, json!({"alg": "Ed25519"})),
        (EdDsa, json!({"alg": null, "kid": null})),
        (Es256, json!({"alg": null, "use": "sig"})),
        (Es256, json!({"key_ops": ["sign", "verify"], "x5t": "AA", "ext": true})),
        (Rs256, json!({"kid": "k".repeat(MAX_KID)})),
        (Ps256, json!({"kid": "ü'; DROP TABLE vault_ext.vaults; --"})),
        (Hs256, json!({"k": base64([7; 32])})),
        (Hs256, json!({"k": base64([7; 100])})),
    ] {
        let key = parse(algorithm, &changes).unwrap_or_else(|bad| panic!("{changes}: {bad}"));
        assert_eq!(key.algorithm, algorithm);
        assert_eq!(key.kid, jwk(algorithm, &changes).get("kid").and_then(Value::as_str).map(str::to_owned));
    }
}

#[test]
fn a_key_has_one_algorithm_of_those_allowed() {
    use Algorithm::*;
    let without_alg = jwk(Rs256, &json!({"alg": null}));
    assert_eq!(Key::parse(&without_alg, &[EdDsa, Rs256]).expect("a key").algorithm, Rs256);
    assert_eq!(Key::parse(&without_alg, &[Ps256, Hs256]).expect("a key").algorithm, Ps256);
    assert_eq!(Key::parse(&without_alg, &[Ps256, Rs256]).err(), Some(BadKey::NoAlgorithm));
    assert_eq!(Key::parse(&jwk(EdDsa, &json!({})), &[Es256]).err(), Some(BadKey::NotAllowed("EdDSA")));
    assert_eq!(Key::parse(&jwk(EdDsa, &json!({"alg": null})), &[Es256]).err(), Some(BadKey::NotAllowed("EdDSA")));
    assert_eq!(Key::parse(&jwk(Rs256, &json!({})), &[Ps256]).err(), Some(BadKey::NotAllowed("RS256")));
    assert_eq!(Key::parse(&jwk(Hs256, &json!({})), &[]).err(), Some(BadKey::NotAllowed("HS256")));

    assert_eq!(Key::parse(&without_alg, &[EdDsa]).err(), Some(BadKey::NotAllowed("RS256")));

    // The signature of the other padding does not fit, whatever the token says.
    let key = Key::parse(&without_alg, &[Rs256]).expect("a key");
    assert!(key.verifies(b"message", &Signer::new(Rs256, 7).sign(b"message")));
    assert!(!key.verifies(b"message", &Signer::new(Ps256, 7).sign(b"message")));
}

/// y = `low` of the field, or `low` + p, which is no shortest encoding; with the sign bit of x.
fn point_with_y(low: u8, plus_p: bool, sign: bool) -> [u8; 32] {
    let mut point = [0; 32];
    point[0] = low;
    if plus_p {
        point = [0xff; 32];
        point[0] = 0xed + low;
        point[31] = 0x7f;
    }
    point[31] |= u8::from(sign) << 7;
    point
}

#[test]
fn points_of_small_order_are_refused() {
    let order_8 = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05";
    let order_8: [u8; 32] =
        std::array::from_fn(|i| u8::from_str_radix(&order_8[2 * i..2 * i + 2], 16).expect("two digits"));
    // -y = p - y.
    let mut borrow = 0;
    let minus_order_8: [u8; 32] = std::array::from_fn(|i| {
        let p = [0xed, 0xff, 0x7f][usize::from(i > 0) + usize::from(i == 31)];
        let difference = p - i16::from(order_8[i]) - borrow;
        borrow = i16::from(difference < 0);
        difference.rem_euclid(256) as u8
    });
    let mut minus_1 = [0xff; 32];
    (minus_1[0], minus_1[31]) = (0xec, 0x7f);
    for sign in [0, 0x80] {
        for mut point in [
            order_8,
            minus_order_8,
            minus_1,
            point_with_y(0, false, false),
            point_with_y(1, false, false),
            point_with_y(0, true, false),
            point_with_y(1, true, false),
        ] {
            point[31] |= sign;
            assert!(
                VerifyingKey::from_bytes(&point).is_ok_and(|key| key.is_weak()),
                "{point:02x?} is a point of small order"
            );
            assert_eq!(ed25519_with(point).err(), Some(BadKey::Point), "{point:02x?}");
        }
    }
}

#[test]
fn a_signature_with_a_point_of_small_order_is_refused() {
    // R is the neutral element, s the product of the challenge and the private key: without a random number the signer gives
    // the private key away, and libraries do not agree on such a signature.
    let mut signature = point_with_y(1, false, false).to_vec();
    signature.extend(unbase64("1MUyMTH_loPPs9MBl8eGyQQ_EFLWwtUpPxnW82uREQQ"));
    let key = Key::parse(&Signer::ed25519().jwk(), &Algorithm::ALL).expect("a key");
    let Material::Ed25519(point) = &key.material else { panic!("{key:?}") };
    let read = Signature::from_slice(&signature).expect("64 bytes");
    assert!(ed25519_dalek::Verifier::verify(&**point, b"message", &read).is_ok(), "RFC 8032 alone accepts it");
    assert!(!key.verifies(b"message", &signature));
}

#[test]
fn an_ed25519_key_has_one_encoding() {
    let mut points = 0;
    for low in 2..19 {
        for sign in [false, true] {
            let (shortest, other) = (point_with_y(low, false, sign), point_with_y(low, true, sign));
            // Half of all y belong to no point.
            let is_on_curve = VerifyingKey::from_bytes(&shortest).is_ok();
            assert_eq!(ed25519_with(shortest).is_ok(), is_on_curve);
            assert_eq!(VerifyingKey::from_bytes(&other).is_ok(), is_on_curve, "dalek reads both");
            assert_eq!(ed25519_with(other).err(), Some(BadKey::Point), "{other:02x?}");
            points += usize::from(is_on_curve);
        }
    }
    assert!(points > 10, "{points}");
    for length in [0, 31, 33, 57] {
        assert_eq!(refused(Algorithm::EdDsa, &json!({"x": base64(vec![7; length])})), BadKey::Point);
    }
}

#[test]
fn a_point_off_p256_is_refused() {
    let ordinary = jwk(Algorithm::Es256, &json!({}));
    let [x, y] = ["x", "y"].map(|name| unbase64(ordinary[name].as_str().expect("a text")));
    let with = |x: &[u8], y: &[u8]| parse(Algorithm::Es256, &json!({"x": base64(x), "y": base64(y)})).err();
    assert_eq!(with(&x, &y), None);
    let p = [&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1][..], &[0; 12], &[0xff; 12]].concat();
    let mut other_y = y.clone();
    other_y[31] ^= 1;
    let short = [&[0][..], &x[1..]].concat();
    for (x, y) in [
        (&x, &other_y),
        (&y, &x),
        (&x, &p),
        (&p, &y),
        (&vec![0; 32], &vec![0; 32]),
        (&vec![0xff; 32], &y),
        (&short, &y),
        (&short[1..].to_vec(), &y),
        (&x, &[&[0][..], &y].concat()),
        (&x, &vec![]),
        (&[&[4][..], &x, &y].concat(), &vec![]),
    ] {
        assert_eq!(with(x, y), Some(BadKey::Point), "{x:02x?} {y:02x?}");
    }
}

#[test]
fn an_rsa_key_is_as_strong_as_it_looks() {
    let modulus = |bits: usize| {
        let mut modulus = vec![0xff; bits.div_ceil(8)];
        if let Some(first) = modulus.first_mut() {
            *first >>= (8 - bits % 8) % 8;
        }
        modulus
    };
    let with_modulus = |n: &[u8]| parse(Algorithm::Rs256, &json!({"n": base64(n)})).err();
    for bits in [0, 8, 1024, 2040, 2047, 8193, 16384] {
        assert_eq!(with_modulus(&modulus(bits)), Some(BadKey::RsaSize(bits)));
        assert_eq!(with_modulus(&[&[0; 256][..], &modulus(bits)].concat()), Some(BadKey::RsaSize(bits)));
    }
    for bits in [2048, 2049, 3072, 4096, 8192] {
        assert_eq!(with_modulus(&modulus(bits)), None, "{bits}");
    }
    let with_exponent = |e: &[u8]| parse(Algorithm::Ps256, &json!({"e": base64(e)})).err();
    for e in [&[][..], &[0], &[1], &[2], &[0, 1], &[1, 0, 0], &[1, 0, 2], &[2, 0, 0, 0, 1], &[1; 9], &[0xff; 256]] {
        assert_eq!(with_exponent(e), Some(BadKey::RsaExponent), "{e:?}");
    }
    for e in [&[3][..], &[17], &[1, 0, 1], &[0, 1, 0, 1], &[1, 0xff, 0xff, 0xff, 0xff]] {
        assert_eq!(with_exponent(e), None, "{e:?}");
    }
    // Zeros in front change nothing.
    let signer = Signer::new(Algorithm::Rs256, 7);
    let n = unbase64(signer.jwk()["n"].as_str().expect("a text"));
    let changes = json!({"n": base64([&[0, 0][..], &n].concat()), "e": base64([0, 1, 0, 1])});
    let key = parse(Algorithm::Rs256, &changes).expect("a key");
    assert!(key.verifies(b"message", &signer.sign(b"message")));
}

#[test]
fn a_public_key_is_no_secret() {
    // The confusion of RS256 with HS256: a MAC whose key everybody knows.
    for signer in Signer::all() {
        let jwk = signer.jwk();
        let key = Key::parse(&jwk, &Algorithm::ALL).expect("a key");
        if key.is_secret() {
            continue;
        }
        let text = jwk.to_string();
        for member in ["x", "n"].into_iter().filter_map(|name| jwk[name].as_str()) {
            for secret in [text.as_bytes(), member.as_bytes(), &unbase64(member)] {
                assert!(!key.verifies(b"message", &hmac(secret, b"message")));
            }
        }
    }
}

#[test]
fn a_key_writes_itself() {
    for signer in Signer::all() {
        let key = Key::parse(&signer.jwk(), &Algorithm::ALL).expect("a key");
        assert_eq!(key.jwk(), signer.jwk());
    }
}

fn set(keys: &[Value]) -> Value {
    json!({"keys": keys, "other": "member"})
}

#[test]
fn a_set_gives_the_keys_that_verify() {
    use Algorithm::*;
    let keys = [
        jwk(EdDsa, &json!({})),
        jwk(EdDsa, &json!({"kid": "for encryption", "use": "enc"})),
        jwk(EdDsa, &json!({"kid": "X25519", "crv": "X25519", "use": "enc", "alg": "ECDH-ES"})),
        jwk(Rs256, &json!({"kid": "not for signatures", "key_ops": ["wrapKey"]})),
        jwk(Es256, &json!({})),
        jwk(Es256, &json!({"kid": null})),
        jwk(Es256, &json!({"kid": null})),
        jwk(Hs256, &json!({})),
        jwk(Es256, &json!({"kid": "ES384", "crv": "P-384", "alg": "ES384"})),
        jwk(Rs256, &json!({"kid": "RS512", "alg": "RS512"})),
        jwk(Rs256, &json!({"kid": "OAEP", "alg": "RSA-OAEP-256"})),
        jwk(Rs256, &json!({"kid": "RS256 or another", "alg": null})),
        json!({"kid": "post-quantum", "kty": "AKP", "alg": "ML-DSA-65", "pub": "AA"}),
    ];
    let kids = |allowed: &[Algorithm]| -> Vec<Option<String>> {
        parse_set(&set(&keys), allowed).expect("keys").into_iter().map(|key| key.kid).collect()
    };
    assert_eq!(kids(&[EdDsa]), [Some("EdDSA".into())]);
    assert_eq!(kids(&[Es256, EdDsa]), [Some("EdDSA".into()), Some("ES256".into()), None, None]);
    assert_eq!(kids(&[Hs256]), [Some("HS256".into())]);
    assert_eq!(kids(&[Rs256]), [Some("RS256 or another".into())]);
}

#[test]
fn a_set_is_refused_with_the_key_and_the_reason() {
    use Algorithm::*;
    let good = jwk(EdDsa, &json!({}));
    let many = |count: usize| (0..count).map(|i| jwk(EdDsa, &json!({"kid": format!("k{i}")}))).collect::<Vec<_>>();
    assert_eq!(parse_set(&set(&many(MAX_KEYS)), &[EdDsa]).expect("keys").len(), MAX_KEYS);
    let none = "the JWK set has no key that verifies signatures by one of the issuer's algs";
    let no_hs256 =
        format!("{none}: key 1 (kid \"HS256\") is for the algorithm HS256, which is not in the issuer's algs");
    let contradictory = jwk(EdDsa, &json!({"alg": "ES256"}));
    for (keys, message) in [
        (set(&[good.clone(), contradictory]), "key 2 (kid \"EdDSA\") is for EdDSA and not for \"ES256\""),
        (set(&many(MAX_KEYS + 1)), "the JWK set has 17 keys; allowed are 16"),
        (set(&[]), none),
        (set(&[jwk(Hs256, &json!({})), jwk(EdDsa, &json!({"use": "enc"}))]), &no_hs256),
        (set(&[good.clone(), good.clone()]), "key 2 (kid \"EdDSA\") has the kid of another key"),
        // One kid, two algorithms: the token would choose.
        (
            set(&[good.clone(), jwk(Es256, &json!({"kid": "EdDSA"}))]),
            "key 2 (kid \"EdDSA\") has the kid of another key",
        ),
        (
            set(&[good.clone(), jwk(EdDsa, &json!({"kid": "a\nb", "d": "AA"}))]),
            r#"key 2 (kid "a\nb") holds a private key"#,
        ),
        (set(&[good.clone(), json!({})]), "key 2 lacks kty, or it is not a text"),
        (set(&[good.clone(), json!(1)]), "key 2 is not a JSON object"),
        (json!({}), "the JWK set has no member \"keys\" with a list"),
        (json!({"keys": {}}), "the JWK set has no member \"keys\" with a list"),
        (json!([good.clone()]), "the JWK set has no member \"keys\" with a list"),
        (good, "the JWK set has no member \"keys\" with a list"),
    ] {
        assert_eq!(parse_set(&keys, &[EdDsa, Es256]).map(|_| ()), Err(message.into()));
    }
}
