use ::rsa::pkcs1::{ALGORITHM_ID, RsaPublicKey};
use ::rsa::pkcs8::der::Encode;
use ::rsa::pkcs8::der::asn1::{AnyRef, BitStringRef};
use ::rsa::pkcs8::spki::AlgorithmIdentifierRef;
use proptest::prelude::*;

use super::PublicKeyError::*;
use super::*;

/// Made with `openssl genpkey`, and with `openssl pkey -pubout` from it.
const RSA_PRIVATE: &str = include_str!("../keys/rsa_2048_private.pem");
const RSA_PUBLIC: &str = include_str!("../keys/rsa_2048_public.pem");

/// The recipient of RFC 9180, appendix A.1.1.
const X25519_PEM: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VuAyEAOUjP4K0d22ldeA5ZB3GV2mxWUGsCcyl5SrAryoCBXE0=
-----END PUBLIC KEY-----
";
const X25519_BASE64: &str = "OUjP4K0d22ldeA5ZB3GV2mxWUGsCcyl5SrAryoCBXE0=";

fn error(text: &str) -> PublicKeyError {
    PublicKey::parse(text).map(|_| ()).expect_err("no public key")
}

fn fingerprint(text: &str) -> String {
    PublicKey::parse(text).expect("a public key").fingerprint().to_string()
}

fn pem_of(label: &str, der: &[u8]) -> String {
    pem::encode_string(label, pem::LineEnding::LF, der).expect("a PEM")
}

fn spki(algorithm: AlgorithmIdentifierRef<'_>, key: &[u8]) -> Vec<u8> {
    let subject_public_key = BitStringRef::new(0, key).expect("a bit string");
    SubjectPublicKeyInfoRef { algorithm, subject_public_key }.to_der().expect("DER")
}

/// The SPKI of an RSA key with these big-endian numbers.
fn rsa_pem(modulus: &[u8], exponent: &[u8]) -> String {
    let number = |bytes| UintRef::new(bytes).expect("a number");
    let key = RsaPublicKey { modulus: number(modulus), public_exponent: number(exponent) };
    pem_of(LABEL, &spki(ALGORITHM_ID, &key.to_der().expect("DER")))
}

/// An odd number with that many bits. Nobody factors it here.
fn odd(bits: usize) -> Vec<u8> {
    let mut bytes = vec![0xa5; bits.div_ceil(8)];
    bytes[0] = 1 << ((bits - 1) % 8);
    bytes
}

#[test]
fn a_key_has_one_fingerprint_in_all_its_forms() {
    // Printed by `openssl pkey -pubin -outform DER | sha256sum`.
    let x25519 = "sha256:fe563e053259ef3c8c0a2d3dc6390b4f29f9e51c8bba2900c2f52d50ee9d8721";
    let rsa = "sha256:76edefbf6296a33d25fcf3fa28bf0afb5de8190e3317597830311c3ab4a33da2";
    for text in [X25519_PEM, X25519_BASE64, &format!(" \r\n{X25519_BASE64}\n"), &X25519_PEM.replace('\n', "\r\n")] {
        assert!(matches!(PublicKey::parse(text), Ok(PublicKey::X25519(_))), "{text}");
        assert_eq!(fingerprint(text), x25519, "{text}");
    }
    // Some programs write all the base64 in one line.
    let (first, last) = ("-----BEGIN PUBLIC KEY-----\n", "\n-----END PUBLIC KEY-----");
    let body: String = RSA_PUBLIC.lines().filter(|line| !line.starts_with('-')).collect();
    for text in [RSA_PUBLIC, RSA_PUBLIC.trim_end(), &format!("\n{RSA_PUBLIC}\n\n"), &(first.to_owned() + &body + last)]
    {
        assert!(matches!(PublicKey::parse(text), Ok(PublicKey::Rsa { .. })), "{text}");
        assert_eq!(fingerprint(text), rsa, "{text}");
    }
}

#[test]
fn an_x25519_key_is_written_as_openssl_writes_it() {
    let Ok(PublicKey::X25519(key)) = PublicKey::parse(X25519_BASE64) else { panic!("no X25519 key") };
    assert_eq!(x25519_pem(&key), X25519_PEM);
}

#[test]
fn private_keys_are_called_exposed() {
    let der: String = RSA_PRIVATE.lines().filter(|line| !line.starts_with('-')).collect();
    let x25519 = "MC4CAQAwBQYDK2VuBCIEIEYSxVAmP8itWDdd8/VXqsUx0mhQkD5VqfI/IdhTTorI";
    for text in [
        RSA_PRIVATE,
        &RSA_PRIVATE.replace("PRIVATE", "RSA PRIVATE"),
        &RSA_PRIVATE.replace("PRIVATE", "ENCRYPTED PRIVATE"),
        // Also where the private key is not the only thing in the text, or not called one.
        &format!("{RSA_PUBLIC}{RSA_PRIVATE}"),
        &RSA_PRIVATE.replace("PRIVATE", "PUBLIC"),
        &der,
        x25519,
        &format!("-----BEGIN PRIVATE KEY-----\n{x25519}\n-----END PRIVATE KEY-----\n"),
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n-----END OPENSSH PRIVATE KEY-----",
        r#"{"kty":"OKP","crv":"X25519","x":"OUjP4K0d22ldeA5ZB3GV2mxWUGsCcyl5SrAryoCBXE0","d":"…"}"#,
    ] {
        assert_eq!(error(text), PrivateKey, "{text}");
    }
    assert!(PrivateKey.hint().contains("exposed"));
}

#[test]
fn sizes_and_exponents_of_rsa() {
    for bits in [2048, 2049, 3072, 4095, 4096] {
        assert!(PublicKey::parse(&rsa_pem(&odd(bits), &[1, 0, 1])).is_ok(), "{bits} bits");
    }
    for bits in [1, 512, 1024, 2047, 4097, 8192, 16384] {
        assert_eq!(error(&rsa_pem(&odd(bits), &[1, 0, 1])), RsaSize { bits });
    }
    for exponent in [&[3][..], &[17], &[1, 0xff, 0xff, 0xff, 0xff]] {
        assert!(PublicKey::parse(&rsa_pem(&odd(2048), exponent)).is_ok(), "{exponent:?}");
    }
    let longer_than_the_modulus = odd(2056);
    for exponent in [&[0][..], &[1], &[2], &[4], &[1, 0, 0], &[2, 0, 0, 0, 1], &[1; 6], &longer_than_the_modulus] {
        assert_eq!(error(&rsa_pem(&odd(2048), exponent)), RsaExponent, "{exponent:?}");
    }
    let mut even = odd(2048);
    even[255] &= 0xfe;
    assert_eq!(error(&rsa_pem(&even, &[1, 0, 1])), RsaModulus);
}

#[test]
fn other_algorithms_and_parameters_are_refused() {
    let key =
        PublicKey::parse(X25519_BASE64).map(|_| Base64::decode_vec(X25519_BASE64).expect("base64")).expect("a key");
    let refused = |oid: &str, parameters, key: &[u8]| {
        let oid = ObjectIdentifier::new(oid).expect("an OID");
        error(&pem_of(LABEL, &spki(AlgorithmIdentifierRef { oid, parameters }, key)))
    };
    // Ed25519, X448, elliptic curves, RSA-PSS, RSA-OAEP.
    for oid in ["1.3.101.112", "1.3.101.111", "1.2.840.10045.2.1", "1.2.840.113549.1.1.10", "1.2.840.113549.1.1.7"] {
        assert_eq!(refused(oid, None, &key), Algorithm { oid: oid.to_owned() });
    }
    let null = Some(AnyRef::NULL);
    assert_eq!(refused("1.3.101.110", null, &key), Der);
    assert_eq!(refused("1.3.101.110", None, &key[1..]), Der);
    assert_eq!(refused("1.2.840.113549.1.1.1", None, &key), Der);
    assert_eq!(refused("1.2.840.113549.1.1.1", null, &key), Der);
}

#[test]
fn trailing_bytes_and_text_are_refused() {
    let (_, der) = pem::decode_vec(RSA_PUBLIC.as_bytes()).expect("a PEM");
    assert_eq!(error(&pem_of(LABEL, &[&der[..], &[0]].concat())), Der);
    assert_eq!(error(&pem_of(LABEL, &der[..der.len() - 1])), Der);
    let inner = SubjectPublicKeyInfoRef::from_der(&der).expect("an SPKI").subject_public_key.raw_bytes();
    assert_eq!(error(&pem_of(LABEL, &spki(ALGORITHM_ID, &[inner, &[0]].concat()))), Der);
    for text in [
        &format!("{X25519_PEM}x"),
        &format!("{X25519_PEM}{X25519_PEM}"),
        &format!("{RSA_PUBLIC}{X25519_PEM}"),
        &X25519_PEM.replace("\nM", "\nProc-Type: 4,ENCRYPTED\n\nM"),
        &X25519_PEM.replace("XE0=", "XE0"),
        &X25519_PEM.replace("XE0=", "XE1="),
        &X25519_PEM.replace("END PUBLIC", "END PRIVATE"),
        &X25519_PEM[..X25519_PEM.len() - 10],
        "-----BEGIN PUBLIC KEY-----",
        "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----",
    ] {
        assert!(matches!(error(text), Pem | Der | PrivateKey), "{text}: {}", error(text));
    }
}

#[test]
fn other_texts_are_refused() {
    let url_safe = "x-Eg9ulz1-KqcU-b5bc3-cJcj2XlVUCQvxBAQUCCbns=";
    for text in [
        "",
        " ",
        "key",
        &X25519_BASE64[..43],
        &X25519_BASE64[..40],
        url_safe,
        &format!("{X25519_BASE64}{X25519_BASE64}"),
        &format!("x {X25519_BASE64}"),
        &format!("key:\n{X25519_PEM}"),
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQ== user",
        "{}",
    ] {
        assert_eq!(error(text), NoKey, "{text}");
    }
    let (_, der) = pem::decode_vec(RSA_PUBLIC.as_bytes()).expect("a PEM");
    for label in ["CERTIFICATE", "RSA PUBLIC KEY", "EC PARAMETERS"] {
        assert_eq!(error(&pem_of(label, &der)), Label);
    }
    assert_eq!(error(&"A".repeat(MAX_TEXT + 1)), TooLong);
    assert_eq!(error(&Base64::encode_string(&[0; 32])), Unusable);
    assert_eq!(error(&pem_of(LABEL, &[&X25519_SPKI[..], &[0xff; 32]].concat())), Unusable);
}

#[test]
fn every_error_has_a_hint_and_shows_nothing_of_the_text() {
    let errors = [
        PrivateKey,
        TooLong,
        NoKey,
        Label,
        Pem,
        Der,
        Algorithm { oid: "1.3.101.112".into() },
        Unusable,
        RsaSize { bits: 1024 },
        RsaExponent,
        RsaModulus,
    ];
    for error in errors {
        assert!(error.hint().ends_with('.'), "{error}");
        assert!(!error.to_string().ends_with('.'), "{error}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in ".{0,100}") {
        let _ = PublicKey::parse(&text);
    }

    #[test]
    fn any_der_is_read_or_refused(der: Vec<u8>) {
        let _ = PublicKey::parse(&pem_of(LABEL, &der));
    }

    /// Whatever still is a key after a change has another fingerprint.
    #[test]
    fn a_changed_key_is_refused_or_another_key(at in 0..294usize, with: u8) {
        let (_, mut der) = pem::decode_vec(RSA_PUBLIC.as_bytes()).expect("a PEM");
        let is_changed = der[at] != with;
        der[at] = with;
        if let Ok(key) = PublicKey::parse(&pem_of(LABEL, &der)) {
            prop_assert_eq!(is_changed, key.fingerprint().to_string() != fingerprint(RSA_PUBLIC));
        }
    }
}
