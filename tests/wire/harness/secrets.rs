//! Known keys, and the search for any trace of them.

use aho_corasick::AhoCorasick;
use base64ct::{Base64, Encoding};

use super::Cluster;

/// The KEK of the predecessor's vectors: bytes 01 02 .. 20.
pub const PREDECESSOR_KEK: [u8; 32] = {
    let mut key = [0; 32];
    let mut i = 0;
    while i < 32 {
        key[i] = i as u8 + 1;
        i += 1;
    }
    key
};

/// A key that looks random but is the same in each run (splitmix64). A match in a log is no coincidence.
pub fn kek(seed: u64) -> [u8; 32] {
    let mut key = [0; 32];
    for (i, chunk) in key.chunks_mut(8).enumerate() {
        let mut z = (seed * 8 + i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        chunk.copy_from_slice(&(z ^ (z >> 31)).to_be_bytes());
    }
    key
}

pub fn base64(bytes: &[u8]) -> String {
    Base64::encode_string(bytes)
}

#[track_caller]
pub fn decode(text: &str) -> Vec<u8> {
    Base64::decode_vec(text).unwrap_or_else(|e| panic!("not standard base64 ({e}): {text:?}"))
}

pub fn keyring_line(id: &str, key: &[u8]) -> String {
    format!("{id} {}\n", base64(key))
}

/// The traces of a key: each third of it, in every usual notation.
fn fingerprints(key: &[u8]) -> Vec<Vec<u8>> {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let list = |bytes: &[u8]| {
        let numbers: Vec<_> = bytes.iter().map(u8::to_string).collect();
        numbers.join(", ")
    };
    let mut traces = Vec::new();
    let third = key.len().div_ceil(3);
    // The last third overlaps the second one: a shorter piece would be found by chance in a large file.
    for start in [0, third, key.len() - third] {
        let part = &key[start..start + third];
        traces.push(part.to_vec());
        traces.push(hex(part).into_bytes());
        traces.push(hex(part).to_uppercase().into_bytes());
        traces.push(list(part).into_bytes());
    }
    let text = base64(key).into_bytes();
    traces.extend(text.chunks_exact(14).map(<[u8]>::to_vec));
    traces
}

/// Searches for the traces of all keys in one pass.
pub(super) struct Traces {
    search: AhoCorasick,
    /// The key number of each trace.
    keys: Vec<usize>,
}

impl Traces {
    pub fn of(keys: &[Vec<u8>]) -> Self {
        let traces =
            keys.iter().enumerate().flat_map(|(i, key)| fingerprints(key).into_iter().map(move |trace| (i, trace)));
        let (keys, traces): (_, Vec<_>) = traces.unzip();
        Traces { search: AhoCorasick::new(traces).expect("the traces make a search"), keys }
    }

    /// The number of a key that was found, and its position.
    pub fn find(&self, bytes: &[u8]) -> Option<(usize, usize)> {
        self.search.find(bytes).map(|found| (self.keys[found.pattern().as_usize()], found.start()))
    }
}

/// Asserts that neither the server's log nor the other texts contain a trace of a key.
#[track_caller]
pub fn assert_no_secrets(cluster: &Cluster, texts: &[String], keys: &[Vec<u8>]) {
    let log = cluster.log_bytes();
    assert!(!log.is_empty(), "the log must not be empty");
    for (i, key) in keys.iter().enumerate() {
        assert!(key.len() >= 16, "key {i} is too short to search for");
    }
    let traces = Traces::of(keys);
    if let Some((i, _)) = traces.find(&log) {
        panic!("key {i} appears in the server log");
    }
    for text in texts {
        if let Some((i, _)) = traces.find(text.as_bytes()) {
            panic!("key {i} appears in: {text}");
        }
    }
}
