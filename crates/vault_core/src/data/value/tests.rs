use proptest::prelude::*;

use super::*;
use crate::data::hex;

const ALL: &[Type] = &[Type::Bytea, Type::Text, Type::Json];
const PLAINTEXT: &[u8] = b"Buy milk";

fn counting<const N: usize>(first: u8) -> [u8; N] {
    std::array::from_fn(|i| first + i as u8)
}

fn cipher() -> Cipher {
    Cipher::new(&DataKey::from_slice(&counting::<32>(0xa0)).expect("32 bytes"))
}

fn bind<'a>(user_id: &'a str, key_version: i32, purpose: &'a str, context: &'a str) -> Binding<'a> {
    let purpose = Purpose::new(purpose).expect("a purpose within bounds");
    Binding::new(user_id, key_version, purpose, context).expect("a binding within bounds")
}

fn binding() -> Binding<'static> {
    bind("user-1", 1, "data", "notes.body:7")
}

/// A value with the nonce of the frozen vectors, bytes 40 41 .. 57.
fn sealed(kind: Type, binding: &Binding<'_>, plaintext: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    cipher().seal_with(&counting(0x40), kind, binding, plaintext, &mut out);
    out
}

/// Opens with both functions and checks that they agree, and that a failure leaves nothing behind.
fn open(binding: &Binding<'_>, types: &[Type], value: &[u8]) -> Result<(Type, Vec<u8>), BadValue> {
    let mut out = b"old".to_vec();
    let opened = cipher().open(binding, types, value, &mut out);
    let mut memory = vec![0xee; plaintext_len(value).unwrap_or(3)];
    assert_eq!(cipher().open_into(binding, types, value, &mut memory), opened);
    match opened {
        Ok(kind) => {
            assert_eq!(memory, out);
            Ok((kind, out))
        }
        Err(BadValue) => {
            assert!(out.is_empty());
            assert!(memory.iter().all(|byte| *byte == 0));
            Err(BadValue)
        }
    }
}

fn refused(binding: &Binding<'_>, value: &[u8]) -> bool {
    open(binding, ALL, value) == Err(BadValue)
}

/// Frozen: a later version must open these. Recomputed by `vectors/data.py`.
#[test]
fn frozen_vectors() {
    let (long_user, long_purpose, long_context) = ("ü".repeat(127) + "x", "p".repeat(255), "ü".repeat(512));
    let bounds = bind(&long_user, i32::MAX, &long_purpose, &long_context);
    for (binding, kind, plaintext, expected) in [
        (
            binding(),
            Type::Text,
            PLAINTEXT,
            "010200000001404142434445464748494a4b4c4d4e4f50515253545556574bcd6af12b81e3c66b074f2b4bbaeceeb2a00e81aaf5ae19",
        ),
        (
            binding(),
            Type::Bytea,
            &[0, 255][..],
            "010100000001404142434445464748494a4b4c4d4e4f50515253545556570947d12bdef3f2d5f946228ceec64f7f5c1e",
        ),
        (
            binding(),
            Type::Json,
            br#"{"a": 1}"#,
            "010300000001404142434445464748494a4b4c4d4e4f5051525354555657729a72f37cc8bed0a79502ce9c21c01bd0ddbaca74251aed",
        ),
        (
            binding(),
            Type::Text,
            b"",
            "010200000001404142434445464748494a4b4c4d4e4f5051525354555657a30446e75458924bea6114ebccbb9bae",
        ),
        (
            bounds,
            Type::Text,
            PLAINTEXT,
            "01027fffffff404142434445464748494a4b4c4d4e4f50515253545556574bcd6af12b81e3c668a27f5a84fe49deeda1dba814e546bf",
        ),
    ] {
        let value = sealed(kind, &binding, plaintext);
        assert_eq!(hex(&value), expected);
        assert_eq!(open(&binding, &[kind], &value), Ok((kind, plaintext.to_vec())));
    }
}

#[test]
fn the_layout_is_the_documented_one() {
    let value = sealed(Type::Text, &bind("u", 0x01020304, "p", "c"), PLAINTEXT);
    assert_eq!(value[..6], [1, 2, 1, 2, 3, 4]);
    assert_eq!(value[6..30], counting::<24>(0x40));
    assert_eq!(value.len(), 30 + PLAINTEXT.len() + 16);
    assert_eq!(OVERHEAD, 46);
    let aad = binding().aad(Type::Json).expect("a binding within bounds");
    assert_eq!(aad.as_bytes(), b"vault_ext.data.v1\x03\x00\x06user-1\x00\x00\x00\x01\x00\x04data\x00\x0cnotes.body:7");
}

#[test]
fn a_header_says_type_and_version() {
    for (kind, key_version) in [(Type::Bytea, 1), (Type::Text, 77), (Type::Json, i32::MAX)] {
        let value = sealed(kind, &bind("u", key_version, "p", "c"), b"");
        assert_eq!(header(&value), Some(Header { kind, key_version }));
        assert_eq!(plaintext_len(&value), Some(0));
        for len in 0..OVERHEAD {
            assert_eq!(header(&value[..len]), None, "{len} bytes");
        }
    }
    let value = sealed(Type::Text, &binding(), PLAINTEXT);
    for (at, byte) in [(0, 0), (0, 2), (1, 0), (1, 4), (1, 255), (2, 0x80), (5, 0)] {
        let mut other = value.clone();
        other[at] = byte;
        assert_eq!(header(&other), None, "byte {at} is {byte}");
        assert!(refused(&binding(), &other));
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    for kind in ALL {
        let value = sealed(*kind, &binding(), PLAINTEXT);
        for bit in 0..value.len() * 8 {
            let mut value = value.clone();
            value[bit / 8] ^= 1 << (bit % 8);
            assert!(refused(&binding(), &value), "{kind:?}, bit {bit}");
            // A caller that takes the version from the header must not be deceived either.
            if let Some(header) = header(&value) {
                assert!(refused(&bind("user-1", header.key_version, "data", "notes.body:7"), &value), "bit {bit}");
            }
        }
    }
}

#[test]
fn a_value_that_is_cut_or_extended_is_refused() {
    let value = sealed(Type::Text, &binding(), PLAINTEXT);
    for at in 0..value.len() {
        assert!(refused(&binding(), &value[..at]), "cut at {at}");
        assert!(refused(&binding(), &value[at + 1..]), "cut up to {at}");
        assert!(refused(&binding(), &[&value[..at], &value[at + 1..]].concat()), "without byte {at}");
        assert!(refused(&binding(), &[&value[..at], &[0], &value[at..]].concat()), "with a byte at {at}");
    }
    for byte in 0..=255 {
        assert!(refused(&binding(), &[&value[..], &[byte]].concat()), "{byte} behind");
        assert!(refused(&binding(), &[&[byte], &value[..]].concat()), "{byte} before");
    }
    assert!(refused(&binding(), &[value.as_slice(), &value].concat()));
}

#[test]
fn a_value_opens_in_its_own_place_only() {
    let value = sealed(Type::Text, &binding(), PLAINTEXT);
    for other in [
        bind("user-2", 1, "data", "notes.body:7"),
        bind("User-1", 1, "data", "notes.body:7"),
        bind("user-1", 2, "data", "notes.body:7"),
        bind("user-1", i32::MAX, "data", "notes.body:7"),
        bind("user-1", 1, "date", "notes.body:7"),
        bind("user-1", 1, "data", "notes.body:8"),
        bind("user-1", 1, "data", "notes.body:"),
        bind("user-1", 1, "data", "notes.body:7\0"),
        bind("user-1", 1, "datan", "otes.body:7"),
    ] {
        assert!(refused(&other, &value));
        // Nor if the header is made to agree.
        let mut value = value.clone();
        value[2..6].copy_from_slice(&other.key_version.to_be_bytes());
        assert!(refused(&other, &value));
    }
}

#[test]
fn a_value_of_another_type_is_refused() {
    for kind in ALL {
        let value = sealed(*kind, &binding(), PLAINTEXT);
        assert_eq!(open(&binding(), ALL, &value), Ok((*kind, PLAINTEXT.to_vec())));
        assert!(open(&binding(), &[], &value).is_err());
        for expected in ALL {
            assert_eq!(open(&binding(), &[*expected], &value).is_ok(), expected == kind);
            // Nor if the header is made to agree.
            let mut value = value.clone();
            value[1] = *expected as u8;
            assert_eq!(open(&binding(), &[*expected], &value).is_ok(), expected == kind);
        }
    }
}

#[test]
fn another_key_opens_nothing() {
    let value = sealed(Type::Text, &binding(), PLAINTEXT);
    for bit in 0..256 {
        let mut key = counting::<32>(0xa0);
        key[bit / 8] ^= 1 << (bit % 8);
        let other = Cipher::new(&DataKey::from_slice(&key).expect("32 bytes"));
        assert_eq!(other.open(&binding(), ALL, &value, &mut Vec::new()), Err(BadValue), "bit {bit}");
    }
}

#[test]
fn each_value_has_a_nonce_of_its_own() {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for out in [&mut a, &mut b] {
        cipher().seal(Type::Text, &binding(), PLAINTEXT, out).expect("a value");
        assert_eq!(open(&binding(), ALL, out), Ok((Type::Text, PLAINTEXT.to_vec())));
    }
    assert_ne!(a[6..30], b[6..30]);
    assert_ne!(a[30..], b[30..]);
}

#[test]
fn bindings_out_of_bounds_are_refused() {
    let purpose = Purpose::new("p").expect("a purpose within bounds");
    let (user_id, context) = ("u".repeat(256), "c".repeat(CONTEXT_MAX + 1));
    for (user_id, key_version, context, error) in [
        ("", 1, "c", BadBinding::UserId),
        (&user_id, 1, "c", BadBinding::UserId),
        ("u", 0, "c", BadBinding::KeyVersion),
        ("u", -1, "c", BadBinding::KeyVersion),
        ("u", i32::MIN, "c", BadBinding::KeyVersion),
        ("u", 1, "", BadBinding::Context),
        ("u", 1, &context, BadBinding::Context),
    ] {
        assert_eq!(Binding::new(user_id, key_version, purpose, context).err(), Some(error));
    }
}

#[test]
fn a_plaintext_that_is_too_long_is_refused() {
    let mut out = b"old".to_vec();
    let sealed = cipher().seal(Type::Bytea, &binding(), &vec![0; MAX_VALUE + 1], &mut out);
    assert!(matches!(sealed, Err(SealError::TooLong)));
    assert_eq!(out, b"old");

    let mut value = vec![0; MAX_VALUE + OVERHEAD + 1];
    value[..6].copy_from_slice(&[1, 1, 0, 0, 0, 1]);
    assert_eq!(header(&value), None);
    value.pop();
    assert_eq!(plaintext_len(&value), Some(MAX_VALUE));
}

#[test]
fn memory_of_another_length_is_refused() {
    let value = sealed(Type::Text, &binding(), PLAINTEXT);
    for len in (0..20).filter(|len| *len != PLAINTEXT.len()) {
        let mut memory = vec![0xee; len];
        assert_eq!(cipher().open_into(&binding(), ALL, &value, &mut memory), Err(BadValue), "{len} bytes");
        assert_eq!(memory, vec![0; len]);
    }
}

#[test]
fn a_buffer_that_is_large_enough_is_used_again() {
    let value = sealed(Type::Text, &binding(), PLAINTEXT);
    let mut out = Vec::with_capacity(100);
    let place = out.as_ptr();
    for _ in 0..3 {
        cipher().open(&binding(), ALL, &value, &mut out).expect("it opens");
        assert_eq!(out, PLAINTEXT);
        cipher().seal(Type::Text, &binding(), PLAINTEXT, &mut out).expect("a value");
    }
    assert_eq!(out.as_ptr(), place);
}

#[test]
fn an_expanded_key_fits_into_a_page_and_cleans_up() {
    assert!(size_of::<Cipher>() <= 4096, "{} bytes", size_of::<Cipher>());
    fn zeroized_on_drop<T: zeroize::ZeroizeOnDrop>() {}
    zeroized_on_drop::<Xaes256Gcm>();
}

proptest! {
    #[test]
    fn a_value_opens(
        kind in prop::sample::select(ALL),
        plaintext in prop::collection::vec(any::<u8>(), 0..300),
        user_id in ".{1,60}",
        key_version in 1..=i32::MAX,
        purpose in ".{1,60}",
        context in ".{1,200}",
    ) {
        let binding = bind(&user_id, key_version, &purpose, &context);
        let mut value = Vec::new();
        cipher().seal(kind, &binding, &plaintext, &mut value).expect("a value");
        prop_assert_eq!(value.len(), plaintext.len() + OVERHEAD);
        prop_assert_eq!(open(&binding, &[kind], &value), Ok((kind, plaintext)));
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(start in prop::collection::vec(0..4u8, 0..7), end: Vec<u8>) {
        prop_assert!(refused(&binding(), &[start, end].concat()));
    }

    #[test]
    fn different_places_have_different_aad(
        a in ("[ab\u{0}]{1,4}", 1..3i32, "[ab\u{0}]{1,4}", "[ab\u{0}]{1,4}"),
        b in ("[ab\u{0}]{1,4}", 1..3i32, "[ab\u{0}]{1,4}", "[ab\u{0}]{1,4}"),
    ) {
        let bytes = |(user_id, key_version, purpose, context): &(String, i32, String, String)| {
            let aad = bind(user_id, *key_version, purpose, context).aad(Type::Text);
            aad.expect("a binding within bounds").as_bytes().to_vec()
        };
        prop_assert_eq!(a == b, bytes(&a) == bytes(&b));
    }
}
