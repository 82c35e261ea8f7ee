//! What `vault_decrypt()` and `vault_open_client_blob()` read. A value or a blob is opened or refused; nothing opens that was not
//! sealed to its place, and one of our own opens, and does not once it is changed.
//!
//! The pairs of bytes of an input say what to change in our own value and blob; the whole input is read as both, too.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use vault_core::crypto::secret::MasterKey;
use vault_core::data::client_blob;
use vault_core::data::derive::{Purpose, data_key};
use vault_core::data::value::{Binding, Cipher, Type, header, plaintext_len};

const PLAINTEXT: &[u8] = b"plain";
const TYPES: [Type; 3] = [Type::Bytea, Type::Text, Type::Json];

fn master_key() -> MasterKey {
    MasterKey::from_slice(&[9; 32]).expect("32 bytes")
}

fn purpose() -> Purpose<'static> {
    Purpose::new("data").expect("a purpose")
}

fn binding() -> Binding<'static> {
    Binding::new("alice", 1, purpose(), "notes.body:1").expect("a binding")
}

static CIPHER: LazyLock<Cipher> = LazyLock::new(|| Cipher::new(&data_key(&master_key(), purpose())));
static OWN_VALUE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut value = Vec::new();
    CIPHER.seal(Type::Text, &binding(), PLAINTEXT, &mut value).expect("a value");
    value
});
static OWN_BLOB: LazyLock<String> = LazyLock::new(|| client_blob::seal(&master_key(), "\"plain\"").expect("a blob"));

fn changed(own: &[u8], input: &[u8]) -> Vec<u8> {
    let mut changed = own.to_vec();
    for pair in input.chunks_exact(2) {
        let place = usize::from(pair[0]) % changed.len();
        changed[place] ^= pair[1];
    }
    changed
}

fuzz_target!(|input: &[u8]| {
    read_value(input);
    read_value(&changed(&OWN_VALUE, input));
    if let Ok(text) = str::from_utf8(input) {
        read_blob(text);
    }
    if let Ok(text) = String::from_utf8(changed(OWN_BLOB.as_bytes(), input)) {
        read_blob(&text);
    }
});

fn read_value(value: &[u8]) {
    assert_eq!(header(value).is_some(), plaintext_len(value).is_some());
    let mut plaintext = Vec::new();
    match CIPHER.open(&binding(), &TYPES, value, &mut plaintext) {
        Ok(kind) => assert!(value == *OWN_VALUE && kind == Type::Text && plaintext == PLAINTEXT),
        Err(_) => assert!(value != *OWN_VALUE && plaintext.is_empty()),
    }
}

fn read_blob(blob: &str) {
    match client_blob::open(&master_key(), blob) {
        Ok(json) => assert!(blob == *OWN_BLOB && *json == "\"plain\""),
        Err(_) => assert!(blob != *OWN_BLOB),
    }
}
