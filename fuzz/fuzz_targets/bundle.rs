//! The text of an export bundle. A text is read or refused; what is read has an id of a KEK within its bounds and opens only if
//! it is one that was sealed to this key. A bundle of our own opens to the same record, and does not open once it is changed.
//!
//! The first byte and the rest of an input say what to change in our own bundle; the whole input is read as a bundle, too.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use vault_core::crypto::secret::{KekBytes, MasterKey};
use vault_core::keyring::text::KekId;
use vault_core::transfer::{Bundle, ImportKey, KeyVersion, OpenError, Target, VaultRecord};

const KEK_ID: &str = "k1";

static KEY: LazyLock<ImportKey> =
    LazyLock::new(|| ImportKey::derive(&KekBytes::from_slice(&[7; 32]).expect("32 bytes")));
static TARGET: LazyLock<Target> =
    LazyLock::new(|| Target::parse(KEK_ID, &KEY.public_key_base64()).expect("an import key"));
static OWN: LazyLock<String> = LazyLock::new(|| TARGET.seal(&record()).expect("a bundle"));

fn record() -> VaultRecord {
    let master_key = MasterKey::from_slice(&[9; 32]);
    let version = KeyVersion {
        number: 1,
        state: "current".into(),
        created_at: None,
        superseded_at: None,
        destroy_after: None,
        master_key,
    };
    VaultRecord {
        user_id: "u".into(),
        versions: vec![version],
        recovery: None,
        zero_knowledge: false,
        key_check: None,
        created_at: Some(0),
        rotated_at: None,
        tokens_valid_from: None,
    }
}

fuzz_target!(|input: &[u8]| {
    if let Ok(text) = str::from_utf8(input) {
        read(text);
    }
    let mut changed = OWN.clone().into_bytes();
    for pair in input.chunks_exact(2) {
        let place = usize::from(pair[0]) % changed.len();
        changed[place] ^= pair[1] & 0x7f;
    }
    let Ok(changed) = String::from_utf8(changed) else { return };
    match Bundle::parse(&changed).map(|bundle| KEY.open(&bundle)) {
        Ok(Ok(record)) => {
            assert_eq!(changed.trim_ascii(), *OWN, "a changed bundle opened");
            let key = record.versions[0].master_key.as_ref().expect("its key");
            assert!(record.user_id == "u" && *key.expose_secret() == [9; 32]);
        }
        Ok(Err(error)) => assert_eq!(error, OpenError::DoesNotOpen),
        Err(error) => assert!(!error.hint().is_empty()),
    }
});

fn read(text: &str) {
    match Bundle::parse(text) {
        Ok(bundle) => {
            let id = bundle.kek_id().as_str();
            assert_eq!(KekId::new(id).as_ref(), Ok(bundle.kek_id()));
            assert!(KEY.open(&bundle).is_err(), "something that we did not seal opened");
        }
        Err(error) => assert!(!error.hint().is_empty()),
    }
}
