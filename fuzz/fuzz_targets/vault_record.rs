//! The record in an export bundle. Any bytes are decoded or refused; a record has exactly one encoding, cannot be decoded from a
//! part of it, and holds no more than its bytes can have said.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vault_core::crypto::wrap::USER_ID_MAX;
use vault_core::transfer::VaultRecord;
use vault_core::transfer::record::STATE_MAX;

fuzz_target!(|bytes: &[u8]| {
    let Ok(record) = VaultRecord::decode(bytes) else { return };
    assert!((1..=USER_ID_MAX).contains(&record.user_id.len()));
    assert!(record.versions.len() <= bytes.len());
    assert!(record.versions.capacity() <= bytes.len(), "a few bytes claimed much memory");
    assert!(record.versions.is_sorted_by(|a, b| a.number < b.number));
    for version in &record.versions {
        assert!(version.number >= 1 && (1..=STATE_MAX).contains(&version.state.len()));
        if let Some(key) = &version.master_key {
            assert!(bytes.windows(32).any(|window| window == key.expose_secret()), "the key is not in the bytes");
        }
    }
    let encoded = record.encode().expect("what was decoded can be encoded");
    assert_eq!(*encoded, *bytes);
    for end in [0, bytes.len() / 2, bytes.len() - 1] {
        assert!(VaultRecord::decode(&bytes[..end]).is_err());
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert!(VaultRecord::decode(&longer).is_err());
});
