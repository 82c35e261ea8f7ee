use base64ct::Base64;
use proptest::prelude::*;

use super::*;

const KEY_A: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
const KEY_B: &str = "oKGio6SlpqeoqaqrrK2ur7CxsrO0tba3uLm6u7y9vr8=";
const ZERO: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

fn bare_id() -> KekId {
    KekId::new("env-v1").expect("an id")
}

fn parse(text: impl AsRef<[u8]>) -> Result<Keyring, KeyringError> {
    Keyring::parse(text.as_ref(), &bare_id(), false)
}

fn error(text: impl AsRef<[u8]>) -> KeyringError {
    parse(text).err().expect("an error")
}

fn ids(keyring: &Keyring) -> Vec<&str> {
    keyring.entries().iter().map(|entry| entry.id.as_str()).collect()
}

#[test]
fn a_bare_key_is_a_keyring_of_one() {
    for text in [
        KEY_A.to_owned(),
        format!("{KEY_A}\n"),
        format!("{}\r\n", KEY_A.trim_end_matches('=')),
        format!("# the KEK\n\n  {KEY_A}\t\n\n"),
    ] {
        let keyring = parse(&text).expect("a keyring");
        assert_eq!(ids(&keyring), ["env-v1"]);
        assert_eq!(keyring.active().key.expose_secret()[..3], [1, 2, 3]);
    }
}

#[test]
fn the_first_key_is_active() {
    let text = format!(
        "\u{feff}# Schlüssel\r\n\r\nkek/2026:a  {KEY_B}  # since May\r\n\tenv-v1 {}\r\n",
        KEY_A.trim_end_matches('=')
    );
    let keyring = parse(text).expect("a keyring");
    assert_eq!(ids(&keyring), ["kek/2026:a", "env-v1"]);
    assert_eq!(keyring.active().key.expose_secret()[0], 0xa0);
    assert_eq!(keyring.entries()[1].key.expose_secret()[0], 1);
}

#[test]
fn each_fault_has_its_own_error() {
    use KeyringError::*;
    let cases = [
        (String::new(), Empty),
        (" \r\n# only a comment\n".into(), Empty),
        ("\u{feff}".into(), Empty),
        (" ".repeat(MAX_TEXT + 1), TooLarge),
        (format!("a {KEY_A}\nb\u{e9} {KEY_B}"), NotAscii { line: 2 }),
        (format!("a {KEY_A} {KEY_B}"), FieldCount { line: 1, found: 3 }),
        (format!("a {KEY_A}\n{KEY_B}"), BareKeyAmongOthers { line: 2 }),
        (format!("{KEY_A}\nb {KEY_B}"), BareKeyAmongOthers { line: 1 }),
        (format!("\na,b {KEY_A}"), Id { line: 2, problem: BadKekId::Form }),
        (format!("{} {KEY_A}", "k".repeat(65)), Id { line: 1, problem: BadKekId::Form }),
        (format!("{KEY_A} {KEY_B}"), Id { line: 1, problem: BadKekId::Form }),
        (format!("{} {KEY_B}", &KEY_A[..43]), Id { line: 1, problem: BadKekId::LooksLikeKey }),
        (format!("a {}", KEY_A.replacen('Q', "_", 1)), UrlSafe { line: 1 }),
        (format!("a {}", KEY_A.replacen('Q', "-", 1)), UrlSafe { line: 1 }),
        (format!("a {}", KEY_A.replacen('Q', "*", 1)), Alphabet { line: 1 }),
        (format!("a {}", KEY_A.replacen('Q', "=", 1)), Alphabet { line: 1 }),
        (format!("a {KEY_A}="), Malformed { line: 1 }),
        (format!("a {}", &KEY_A[..41]), Malformed { line: 1 }),
        (format!("a {}B=", &KEY_A[..42]), Malformed { line: 1 }),
        ("a AQID".into(), Length { line: 1, found: 3 }),
        ("a ====".into(), Malformed { line: 1 }),
        (format!("a {}", Base64::encode_string(&[7; 33])), Length { line: 1, found: 33 }),
        (format!("a {}", Base64::encode_string(&[7; 31])), Length { line: 1, found: 31 }),
        (format!("a {}", "0f".repeat(32)), Length { line: 1, found: 48 }),
        (format!("a {KEY_A}\nb {ZERO}"), Zero { line: 2 }),
        (format!("a {KEY_A}\n#\na {KEY_B}"), DuplicateId { line: 3, first: 1 }),
        (format!("a {KEY_A}\nb {}", &KEY_A[..43]), DuplicateKey { line: 2, first: 1 }),
    ];
    for (text, expected) in cases {
        assert_eq!(error(&text), expected, "{text:?}");
    }
}

#[test]
fn at_most_64_keys() {
    let line = |n: u8| format!("kek-{n} {}\n", Base64::encode_string(&[n + 1; 32]));
    let most: String = (0..64).map(line).collect();
    assert_eq!(parse(&most).expect("a keyring").entries().len(), 64);
    assert_eq!(error(most + &line(64)), KeyringError::TooMany { found: 65 });
}

#[test]
fn the_zero_key_passes_only_when_allowed() {
    assert_eq!(error(ZERO), KeyringError::Zero { line: 1 });
    assert!(Keyring::parse(ZERO.as_bytes(), &bare_id(), true).is_ok());
}

#[test]
fn ids_have_bounds() {
    for id in ["a", "A-Za-z0-9._:/-", &"k".repeat(64), &"k".repeat(44), "kek-2026"] {
        assert_eq!(KekId::new(id).expect("an id").as_str(), id);
    }
    for id in ["", " ", "a b", "a\n", "ä", "a+b", "a=b", "a\0", &"k".repeat(65)] {
        assert_eq!(KekId::new(id), Err(BadKekId::Form), "{id:?}");
    }
    let url_safe = Base64::encode_string(&[0xfb; 32]).replace('+', "-").replace('/', "_");
    assert_eq!(KekId::new(&url_safe[..43]), Err(BadKekId::LooksLikeKey));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(text in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(text);
    }

    #[test]
    fn what_was_written_is_read(
        keys in proptest::collection::btree_map("[A-Za-z0-9._:/-]{1,40}", any::<[u8; 32]>(), 1..20),
        padded: bool,
    ) {
        let text: String = keys.iter().map(|(id, key)| {
            let key = Base64::encode_string(key);
            format!("{id} {}\n", if padded { &key } else { key.trim_end_matches('=') })
        }).collect();
        let keyring = parse(text).expect("a keyring");
        let read: Vec<_> = keyring.entries().iter()
            .map(|entry| (entry.id.as_str(), entry.key.expose_secret())).collect();
        let written: Vec<_> = keys.iter().map(|(id, key)| (id.as_str(), key)).collect();
        prop_assert_eq!(read, written);
    }

    #[test]
    fn errors_never_repeat_the_text(fields in proptest::collection::vec("[A-Za-z0-9+/=_-]{12,64}", 1..6)) {
        for separator in [" ", "\n"] {
            if let Err(error) = parse(fields.join(separator)) {
                let shown = format!("{error} {error:?} {}", error.hint());
                for field in &fields {
                    prop_assert!(!shown.contains(&field[..12]), "{}", shown);
                }
            }
        }
    }
}
