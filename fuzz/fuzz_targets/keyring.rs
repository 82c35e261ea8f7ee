//! The text of a keyring. A text that parses gives a keyring within its limits, and writing that keyring out and
//! parsing it again returns the same keyring. The error for any other text contains none of the text.

#![no_main]

use std::collections::HashSet;
use std::sync::LazyLock;

use base64ct::{Base64, Encoding};
use libfuzzer_sys::fuzz_target;
use vault_core::keyring::text::{BadKekId, KekId, Keyring, KeyringError, MAX_KEKS, MAX_TEXT};

static BARE_ID: LazyLock<KekId> = LazyLock::new(|| KekId::new("env-v1").expect("an id"));

fuzz_target!(|text: &[u8]| {
    let mut parsed = Keyring::parse(text, &BARE_ID, false);
    let allow_zero = matches!(parsed, Err(KeyringError::Zero { .. }));
    if allow_zero {
        parsed = Keyring::parse(text, &BARE_ID, true);
        assert!(!matches!(parsed, Err(KeyringError::Zero { .. })), "a key of zeros was refused although it is allowed");
    }
    match &parsed {
        Ok(keyring) => check(keyring, text, allow_zero),
        Err(error) => check_error(error),
    }
});

fn check(keyring: &Keyring, text: &[u8], allow_zero: bool) {
    let entries = keyring.entries();
    assert!((1..=MAX_KEKS).contains(&entries.len()));
    assert!(std::ptr::eq(keyring.active(), &entries[0]), "the first key is the active one");
    let mut ids = HashSet::new();
    let mut keys = HashSet::new();
    let fields: HashSet<&[u8]> = text.split(u8::is_ascii_whitespace).map(without_mark_and_padding).collect();
    let mut written = String::new();
    for entry in entries {
        let id = entry.id.as_str();
        assert_eq!(KekId::new(id).as_ref(), Ok(&entry.id));
        assert!((1..=KekId::MAX).contains(&id.len()) && id.is_ascii());
        assert!(ids.insert(id), "an id is there twice");
        assert!(keys.insert(entry.key.expose_secret()), "a key is there twice");
        assert!(allow_zero || *entry.key.expose_secret() != [0; 32], "a key of zeros was accepted");
        let key = Base64::encode_string(entry.key.expose_secret());
        assert!(fields.contains(key.trim_end_matches('=').as_bytes()), "the key is not in the text");
        assert!(fields.contains(id.as_bytes()) || (entries.len() == 1 && entry.id == *BARE_ID));
        written += &format!("{id} {key}\n");
    }
    let read = Keyring::parse(written.as_bytes(), &BARE_ID, true);
    assert!(is_same(&read.expect("the written text is a keyring"), keyring));
}

fn is_same(one: &Keyring, other: &Keyring) -> bool {
    one.entries().len() == other.entries().len()
        && one
            .entries()
            .iter()
            .zip(other.entries())
            .all(|(a, b)| a.id == b.id && a.key.expose_secret() == b.key.expose_secret())
}

fn without_mark_and_padding(field: &[u8]) -> &[u8] {
    let field = field.strip_prefix("\u{feff}".as_bytes()).unwrap_or(field);
    &field[..field.len() - field.iter().rev().take_while(|&&byte| byte == b'=').count()]
}

/// Checks everything that an error shows. Except for its small numbers, it is one of the fixed texts in the source
/// code.
fn check_error(error: &KeyringError) {
    static TEXTS: LazyLock<HashSet<String>> =
        LazyLock::new(|| one_of_each().iter().map(|error| split(error).0).collect());
    let (words, numbers) = split(error);
    assert!(TEXTS.contains(&words), "{words}");
    for number in numbers {
        assert!(number <= MAX_TEXT + 1, "{number} is not a line, field count or length of a keyring");
    }
}

/// Splits everything that an error shows into its words and its numbers.
fn split(error: &KeyringError) -> (String, Vec<usize>) {
    let shown = format!("{error}\n{error:?}\n{}", error.hint());
    let numbers = shown.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let numbers = numbers.map(|digits| digits.parse().unwrap_or(usize::MAX)).collect();
    (shown.replace(|c: char| c.is_ascii_digit(), ""), numbers)
}

fn one_of_each() -> Vec<KeyringError> {
    use KeyringError::*;
    let (line, found, first) = (0, 0, 0);
    vec![
        Empty,
        TooLarge,
        TooMany { found },
        NotAscii { line },
        FieldCount { line, found },
        BareKeyAmongOthers { line },
        Id { line, problem: BadKekId::Form },
        Id { line, problem: BadKekId::LooksLikeKey },
        UrlSafe { line },
        Alphabet { line },
        Malformed { line },
        Length { line, found },
        Zero { line },
        DuplicateId { line, first },
        DuplicateKey { line, first },
    ]
}
