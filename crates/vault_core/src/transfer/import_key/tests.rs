use proptest::prelude::*;

use super::*;
use crate::crypto::secret::MasterKey;
use crate::keyring::text::BadKekId;
use crate::seal::public_key::PublicKeyError;
use crate::transfer::bundle::{BadBundle, PREFIX, Target, TargetError};
use crate::transfer::record::KeyVersion;

fn kek(byte: u8) -> KekBytes {
    KekBytes::from_slice(&[byte; 32]).expect("32 bytes")
}

/// The KEK of the frozen vectors: bytes 01 02 .. 20.
fn counting() -> KekBytes {
    KekBytes::from_slice(&(1..=32).collect::<Vec<_>>()).expect("32 bytes")
}

fn record() -> VaultRecord {
    let version = KeyVersion {
        number: 1,
        state: "current".into(),
        created_at: None,
        superseded_at: None,
        destroy_after: None,
        master_key: MasterKey::from_slice(&[0xaa; 32]),
    };
    VaultRecord {
        user_id: "user-1".into(),
        versions: vec![version],
        recovery: None,
        zero_knowledge: false,
        key_check: None,
        created_at: Some(0),
        rotated_at: None,
        tokens_valid_from: None,
    }
}

fn export(kek_id: &str, kek: &KekBytes) -> String {
    let target = Target::parse(kek_id, &ImportKey::derive(kek).public_key_base64()).expect("a target");
    target.seal(&record()).expect("a bundle")
}

fn open(kek: &KekBytes, text: &str) -> Result<VaultRecord, OpenError> {
    ImportKey::derive(kek).open(&Bundle::parse(text).expect("a bundle"))
}

/// Frozen: bundles in transit need it. Recomputed with Python: HKDF with `hmac`, X25519 with `cryptography`.
#[test]
fn frozen_public_key() {
    let key = ImportKey::derive(&counting());
    assert_eq!(key.public_key_base64(), "W97SEWH7RyiC/6n1DwmsIKgFu8v1ZVuAfKy2ITNX+XY=");
    assert_eq!(
        key.public_key_pem(),
        "-----BEGIN PUBLIC KEY-----\n\
         MCowBQYDK2VuAyEAW97SEWH7RyiC/6n1DwmsIKgFu8v1ZVuAfKy2ITNX+XY=\n\
         -----END PUBLIC KEY-----\n"
    );
    for form in [key.public_key_base64(), key.public_key_pem()] {
        let target = Target::parse("kek-1", &form).expect("a target");
        assert_eq!(target.fingerprint(), key.fingerprint());
    }
}

/// Frozen: a later version must open it. Computed with Python: the layouts with `struct.pack`, HPKE written out from
/// RFC 9180.
#[test]
fn frozen_bundle() {
    let text = "\
        vault1:a2VrLTE=:N/2jVnvb1ijohmjDyNfpfR0SU7bU6m1EwVD3QfG/RDGFDyh45AM/56kJSBgNi86bXweYRaxwgz\
        MgOZOhwtu1OdPELM2gkcdyjVeT8OLFu5h/a3vAg42u/0QY7+H7rAkYp4NySuueZ0ItDCodxf9B81h5jI3w4snpG8g=";
    assert_eq!(open(&counting(), text).expect("a record").encode(), record().encode());
}

#[test]
fn a_vault_moves() {
    let text = export("kek:2026/a", &kek(7));
    assert!(text.starts_with("vault1:a2VrOjIwMjYvYQ==:"), "{text}");
    assert_eq!(Bundle::parse(&text).expect("a bundle").kek_id().as_str(), "kek:2026/a");
    let opened = open(&kek(7), &format!(" {text}\r\n")).expect("a record");
    assert_eq!(opened.encode(), record().encode());
    assert_ne!(text, export("kek:2026/a", &kek(7)));
}

#[test]
fn only_the_target_opens_and_only_what_it_got() {
    let text = export("kek-1", &kek(7));
    assert_eq!(open(&kek(8), &text).err(), Some(OpenError::DoesNotOpen));
    // The id in clear is bound.
    assert_eq!(open(&kek(7), &text.replace("a2VrLTE=", "a2VrLTI=")).err(), Some(OpenError::DoesNotOpen));
    let (_, sealed) = text.rsplit_once(':').expect("a bundle");
    let sealed = STANDARD.decode(sealed).expect("base64");
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 0x10;
        let changed = format!("{PREFIX}a2VrLTE=:{}", STANDARD.encode(&changed));
        assert_eq!(open(&kek(7), &changed).err(), Some(OpenError::DoesNotOpen), "byte {at}");
    }
    for len in 0..text.len() {
        if let Ok(bundle) = Bundle::parse(&text[..len]) {
            assert!(ImportKey::derive(&kek(7)).open(&bundle).is_err(), "{len} characters");
        }
    }
}

/// Whoever knows the import key can seal anything.
#[test]
fn a_bundle_without_a_record_is_refused() {
    let public_key = ImportKey::derive(&kek(7)).0.public_key();
    let sealed = crate::seal::hpke::seal(&public_key, b"vault_ext.export.v1", b"kek-1", b"\x02").expect("random bytes");
    let text = format!("{PREFIX}a2VrLTE=:{}", STANDARD.encode(sealed));
    assert!(matches!(open(&kek(7), &text), Err(OpenError::Record(_))));
}

#[test]
fn other_texts_are_no_bundles() {
    let text = export("kek-1", &kek(7));
    let sealed = &text["vault1:a2VrLTE=:".len()..];
    for (text, error) in [
        ("", BadBundle::NoBundle),
        ("vault1", BadBundle::NoBundle),
        ("vault:a:b", BadBundle::NoBundle),
        ("Vault1:a:b", BadBundle::NoBundle),
        ("vaultx:a:b", BadBundle::NoBundle),
        (sealed, BadBundle::NoBundle),
        ("vault2:a:b", BadBundle::Version),
        ("vault10:a:b", BadBundle::Version),
        ("vault1:", BadBundle::Malformed),
        ("vault1:a2VrLTE=", BadBundle::Malformed),
        ("vault1:a2VrLTE=:", BadBundle::Malformed),
        // No more than the overhead of HPKE.
        (&format!("vault1:a2VrLTE=:{}", STANDARD.encode([0; 48])), BadBundle::Malformed),
        (&format!("vault1:a2VrLTE:{sealed}"), BadBundle::Malformed),
        (&format!("vault1::{sealed}"), BadBundle::Malformed),
        // "a b", which is no id.
        (&format!("vault1:YSBi:{sealed}"), BadBundle::Malformed),
        (&format!("vault1:a2VrLTE=:{sealed}:"), BadBundle::Malformed),
        (&format!("vault1:a2VrLTE=:{sealed}\n{text}"), BadBundle::Malformed),
        (&" ".repeat((16 << 20) + 1), BadBundle::TooLong),
    ] {
        assert_eq!(Bundle::parse(text).err(), Some(error), "{:.80}", text);
    }
}

#[test]
fn a_target_needs_an_import_key_and_an_id() {
    let refused = |kek_id: &str, key: &str| Target::parse(kek_id, key).err().expect("no target");
    let key = ImportKey::derive(&kek(7)).public_key_base64();
    assert_eq!(refused("a b", &key), TargetError::KekId(BadKekId::Form));
    assert_eq!(refused("kek-1", "x"), TargetError::PublicKey(PublicKeyError::NoKey));
    assert_eq!(refused("kek-1", include_str!("../../seal/keys/rsa_2048_public.pem")), TargetError::Rsa);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "(vault1:)?[A-Za-z0-9+/=:]{0,200}|.{0,60}") {
        if let Ok(bundle) = Bundle::parse(&text) {
            prop_assert!(ImportKey::derive(&kek(7)).open(&bundle).is_err());
        }
    }
}
