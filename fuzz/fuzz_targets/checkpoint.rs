//! Checkpoints, proofs and keys, as somebody else may hand them to an auditor. Any text is read or refused; what is read comes back from its own text,
//! and nothing counts as signed by a key that did not sign it.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use vault_trail::checkpoint::{AuditKey, Checkpoint, ConsistencyProof, InclusionProof, PublicKey};

static KEY: LazyLock<PublicKey> = LazyLock::new(|| AuditKey::from_seed(&[42; 32]).public());

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    if let Ok((checkpoint, _)) = Checkpoint::parse(&text) {
        assert_eq!(Checkpoint::parse(&checkpoint.text()).unwrap().0, checkpoint);
        let line = Checkpoint::one_line(&checkpoint.text());
        assert_eq!(Checkpoint::from_one_line(&line).as_deref(), Ok(checkpoint.text().as_str()));
    }
    // Nobody has the private key here but the test that made the corpus.
    assert!(Checkpoint::open(&text, Some(&KEY)).is_err());
    let _ = Checkpoint::from_one_line(&text);
    if let Ok(proof) = InclusionProof::parse(&text) {
        assert_eq!(InclusionProof::parse(&proof.to_string()), Ok(proof));
    }
    if let Ok(proof) = ConsistencyProof::parse(&text) {
        assert_eq!(ConsistencyProof::parse(&proof.to_string()), Ok(proof));
    }
    if let Ok(key) = PublicKey::parse(&text) {
        assert_eq!(PublicKey::parse(&key.vkey("vault_ext/x/1")), Ok(key));
    }
});
