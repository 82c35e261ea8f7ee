//! The vectors of Project Wycheproof for each algorithm, verified by keys that are read as JWKs. What is valid must be accepted
//! and what is invalid refused; what Wycheproof calls acceptable may be either.

use serde_json::{Value, json};
use wycheproof::{TestResult, ecdsa, eddsa, mac, rsa_pkcs1_verify, rsa_pss_verify};

use super::jwk::{Algorithm, BadKey, Key};
use super::mint::base64;

/// How many vectors were valid, invalid and acceptable.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts(usize, usize, usize);

impl Counts {
    fn check(&mut self, key: &Key, id: usize, result: TestResult, message: &[u8], signature: &[u8]) {
        let verifies = key.verifies(message, signature);
        match result {
            TestResult::Valid => {
                assert!(verifies, "vector {id} is valid: {key:?}");
                self.0 += 1;
            }
            TestResult::Invalid => {
                assert!(!verifies, "vector {id} is invalid: {key:?}");
                self.1 += 1;
            }
            TestResult::Acceptable => self.2 += 1,
        }
    }
}

fn key(jwk: &Value) -> Key {
    Key::parse(jwk, &Algorithm::ALL).unwrap_or_else(|bad| panic!("{jwk} {bad}"))
}

#[test]
fn ed25519() {
    let mut counts = Counts::default();
    for group in eddsa::TestSet::load(eddsa::TestName::Ed25519).expect("vectors").test_groups {
        let key = key(&json!({"kty": "OKP", "crv": "Ed25519", "x": base64(&group.key.pk)}));
        for test in group.tests {
            counts.check(&key, test.tc_id, test.result, &test.msg, &test.sig);
        }
    }
    assert_eq!(counts, Counts(88, 63, 0));
}

#[test]
fn p256() {
    let mut counts = Counts::default();
    for group in ecdsa::TestSet::load(ecdsa::TestName::EcdsaSecp256r1Sha256P1363).expect("vectors").test_groups {
        let [4, point @ ..] = &group.key.key[..] else { panic!("a compressed point") };
        let (x, y) = point.split_at(32);
        let key = key(&json!({"kty": "EC", "crv": "P-256", "x": base64(x), "y": base64(y)}));
        for test in group.tests {
            counts.check(&key, test.tc_id, test.result, &test.msg, &test.sig);
        }
    }
    assert_eq!(counts, Counts(173, 89, 0));
}

fn rsa(algorithm: Algorithm, public: &wycheproof::RsaPublic) -> Key {
    key(&json!({"kty": "RSA", "alg": algorithm.name(), "n": base64(&public.n), "e": base64(&public.e)}))
}

#[test]
fn rsa_pkcs1() {
    use rsa_pkcs1_verify::{TestName, TestSet};
    for (name, expected) in [
        (TestName::Rsa2048Sha256, Counts(9, 249, 1)),
        (TestName::Rsa3072Sha256, Counts(8, 250, 1)),
        (TestName::Rsa4096Sha256, Counts(7, 250, 1)),
        (TestName::Rsa8192Sha256, Counts(7, 250, 1)),
    ] {
        let mut counts = Counts::default();
        for group in TestSet::load(name).expect("vectors").test_groups {
            let key = rsa(Algorithm::Rs256, &group.key);
            for test in group.tests {
                counts.check(&key, test.tc_id, test.result, &test.msg, &test.sig);
            }
        }
        assert_eq!(counts, expected, "{name:?}");
    }
}

#[test]
fn rsa_pss() {
    use rsa_pss_verify::{TestName, TestSet};
    for name in [
        TestName::RsaPss2048Sha256Mgf1SaltLen32,
        TestName::RsaPss3072Sha256Mgf1SaltLen32,
        TestName::RsaPss4096Sha256Mgf1SaltLen32,
    ] {
        let mut counts = Counts::default();
        for group in TestSet::load(name).expect("vectors").test_groups {
            let key = rsa(Algorithm::Ps256, &group.key);
            for test in group.tests {
                counts.check(&key, test.tc_id, test.result, &test.msg, &test.sig);
            }
        }
        assert_eq!(counts, Counts(63, 45, 0), "{name:?}");
    }
}

#[test]
fn rsa_pss_with_a_salt_of_another_length_is_refused() {
    // RFC 7518, section 3.5: as long as the hash.
    use rsa_pss_verify::{TestName, TestSet};
    let mut refused = 0;
    for name in [TestName::RsaPss2048Sha256Mgf1SaltLen0, TestName::RsaPss2048Sha256Mgf1Sha1_20] {
        for group in TestSet::load(name).expect("vectors").test_groups {
            let key = rsa(Algorithm::Ps256, &group.key);
            // The invalid ones are so for salts of other lengths, too.
            for test in group.tests.iter().filter(|test| test.result == TestResult::Valid) {
                assert!(!key.verifies(&test.msg, &test.sig), "{name:?} {}", test.tc_id);
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 124);
}

#[test]
fn hmac() {
    let (mut counts, mut truncated, mut short) = (Counts::default(), 0, 0);
    for group in mac::TestSet::load(mac::TestName::HmacSha256).expect("vectors").test_groups {
        for test in group.tests {
            let jwk = json!({"kty": "oct", "k": base64(&test.key)});
            if group.key_size < 256 {
                assert_eq!(Key::parse(&jwk, &Algorithm::ALL).err(), Some(BadKey::Short));
                short += 1;
            } else if group.tag_size < 256 {
                assert!(!key(&jwk).verifies(&test.msg, &test.tag), "a tag of {} bits", group.tag_size);
                truncated += 1;
            } else {
                counts.check(&key(&jwk), test.tc_id, test.result, &test.msg, &test.tag);
            }
        }
    }
    assert_eq!((counts, truncated, short), (Counts(30, 54, 0), 84, 6));
}
