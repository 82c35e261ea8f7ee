use base64ct::{Base64, Encoding};
use proptest::prelude::*;

use super::*;

const PURPOSE: &str = "master-key";

const CONTEXT: WrapContext<'_> = row("user-1", 1, "env-v1");

const fn row<'a>(user_id: &'a str, key_version: i32, kek_id: &'a str) -> WrapContext<'a> {
    WrapContext { kind: Kind::MasterKey, user_id, key_version, kek_id }
}

fn counting(first: u8) -> [u8; 32] {
    std::array::from_fn(|i| first + i as u8)
}

fn kek(bytes: [u8; 32]) -> Kek {
    Kek::new(&KekBytes::from_slice(&bytes).expect("32 bytes"))
}

fn master_key() -> MasterKey {
    MasterKey::from_slice(&counting(0xa0)).expect("32 bytes")
}

/// The nonce of the frozen vectors: bytes 40 41 .. 57.
fn frozen_nonce() -> [u8; 24] {
    std::array::from_fn(|i| 0x40 + i as u8)
}

fn wrap_for(purpose: &str, context: &WrapContext<'_>) -> Wrap {
    let aad = aad(purpose, context).expect("a context within bounds");
    kek(counting(1)).seal(&master_key(), &frozen_nonce(), &aad)
}

fn opens(format_version: i16, wrapped_mk: &str, wrap_iv: &str, context: &WrapContext<'_>) -> bool {
    match kek(counting(1)).unwrap(format_version, wrapped_mk, wrap_iv, context) {
        Ok(key) => {
            assert_eq!(key.expose_secret(), &counting(0xa0), "a wrap opened to another key");
            true
        }
        Err(DoesNotOpen) => false,
    }
}

fn nonce() -> Nonce {
    Nonce::random().expect("random bytes")
}

#[test]
fn the_nonces_of_a_batch_differ() {
    let nonces: std::collections::HashSet<_> =
        Nonce::random_batch(1000).expect("random bytes").map(|nonce| nonce.0).collect();
    assert_eq!(nonces.len(), 1000);
    assert_eq!(Nonce::random_batch(0).expect("no random bytes").count(), 0);
}

/// Computed with the predecessor's own code.
#[test]
fn format_1_vectors() {
    for (bytes, wrapped_mk) in [
        (counting(1), "EkoYuy/eugLj+TUwymd4xT07qypjikNu+XfObRXpLsp1LPM+pXxISRohaJtl0f9/"),
        ([0; 32], "NkC6jdrF7bn/MJH7pVb8jVNqoiASrx92pKh4zjq/zaEg4yTSYQT/j+yygfxceEEP"),
    ] {
        let key = kek(bytes).unwrap(FORMAT_1, wrapped_mk, "EBESExQVFhcYGRob", &CONTEXT).expect("it opens");
        assert_eq!(key.expose_secret(), &counting(0xa0));
    }
}

/// Frozen: a later version must open these. Recomputed with Python's `cryptography`: XAES-256-GCM
/// built from AES-ECB and AESGCM after the C2SP text (and checked with its two vectors), the AAD
/// with `struct.pack`.
#[test]
fn format_2_vectors() {
    let long_user = "ü".repeat(127) + "x";
    let long_kek = "K".repeat(64);
    let bounds = row(&long_user, i32::MAX, &long_kek);
    for (context, wrapped_mk) in [
        (&CONTEXT, "Tu5hqMsVrsoHULHDne6YkH0QiNVgI8sK1U0SUJYjHIsF85dq0cLEQIjF/p2nNwds"),
        (&bounds, "Tu5hqMsVrsoHULHDne6YkH0QiNVgI8sK1U0SUJYjHIsTNhtl5PiG1b2HXJlrUjio"),
    ] {
        let wrap = wrap_for(PURPOSE, context);
        assert_eq!(wrap.wrapped_mk(), wrapped_mk);
        assert_eq!(wrap.wrap_iv(), "QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZX");
        assert!(opens(FORMAT_2, wrapped_mk, wrap.wrap_iv(), context));
    }
}

#[test]
fn the_aad_is_the_documented_one() {
    let aad = aad(PURPOSE, &CONTEXT).expect("a context within bounds");
    assert_eq!(aad.as_bytes(), b"vault_ext.wrap.v2\x00\x0amaster-key\x00\x06user-1\x00\x00\x00\x01\x00\x06env-v1");
}

#[test]
fn a_wrap_opens_and_the_next_one_has_another_nonce() {
    let (a, b) = (kek(counting(1)), kek(counting(1)));
    let first = a.wrap(&master_key(), nonce(), &CONTEXT).expect("a wrap");
    let second = b.wrap(&master_key(), nonce(), &CONTEXT).expect("a wrap");
    assert!(opens(FORMAT_2, first.wrapped_mk(), first.wrap_iv(), &CONTEXT));
    assert!(opens(FORMAT_2, second.wrapped_mk(), second.wrap_iv(), &CONTEXT));
    assert_ne!(first.wrap_iv(), second.wrap_iv());
    assert_ne!(first.wrapped_mk(), second.wrapped_mk());
}

#[test]
fn every_flipped_bit_is_noticed() {
    let wrap = wrap_for(PURPOSE, &CONTEXT);
    let sealed: [u8; 48] = decode(wrap.wrapped_mk()).expect("48 bytes");
    for bit in 0..48 * 8 {
        let mut sealed = sealed;
        sealed[bit / 8] ^= 1 << (bit % 8);
        assert!(!opens(FORMAT_2, &Base64::encode_string(&sealed), wrap.wrap_iv(), &CONTEXT), "bit {bit}");
    }
    for bit in 0..24 * 8 {
        let mut nonce = frozen_nonce();
        nonce[bit / 8] ^= 1 << (bit % 8);
        assert!(!opens(FORMAT_2, wrap.wrapped_mk(), &Base64::encode_string(&nonce), &CONTEXT), "nonce bit {bit}");
    }
    for bit in 0..31 {
        let context = row(CONTEXT.user_id, CONTEXT.key_version ^ (1 << bit), CONTEXT.kek_id);
        assert!(!opens(FORMAT_2, wrap.wrapped_mk(), wrap.wrap_iv(), &context), "version bit {bit}");
    }
    // The eighth bit of an ASCII byte would make it no `str`.
    for bit in (0..6 * 8).filter(|bit| bit % 8 != 7) {
        let (user_id, kek_id) = (flip(CONTEXT.user_id, bit), flip(CONTEXT.kek_id, bit));
        let user = row(&user_id, CONTEXT.key_version, CONTEXT.kek_id);
        let key = row(CONTEXT.user_id, CONTEXT.key_version, &kek_id);
        assert!(!opens(FORMAT_2, wrap.wrapped_mk(), wrap.wrap_iv(), &user), "user_id bit {bit}");
        assert!(!opens(FORMAT_2, wrap.wrapped_mk(), wrap.wrap_iv(), &key), "kek_id bit {bit}");
    }
}

fn flip(text: &str, bit: usize) -> String {
    let mut bytes = text.as_bytes().to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    String::from_utf8(bytes).expect("ASCII stays ASCII without its eighth bit")
}

#[test]
fn every_changed_character_is_noticed() {
    let wrap = wrap_for(PURPOSE, &CONTEXT);
    let variants = |text: &str| -> Vec<String> {
        (0..text.len())
            .flat_map(|at| (0..128u8).map(move |byte| (at, byte)))
            .filter(|&(at, byte)| text.as_bytes()[at] != byte)
            .map(|(at, byte)| {
                let mut bytes = text.as_bytes().to_vec();
                bytes[at] = byte;
                String::from_utf8(bytes).expect("ASCII")
            })
            .collect()
    };
    for text in variants(wrap.wrapped_mk()) {
        assert!(!opens(FORMAT_2, &text, wrap.wrap_iv(), &CONTEXT), "{text:?}");
    }
    for text in variants(wrap.wrap_iv()) {
        assert!(!opens(FORMAT_2, wrap.wrapped_mk(), &text, &CONTEXT), "{text:?}");
    }
}

#[test]
fn other_lengths_and_formats_are_refused() {
    let wrap = wrap_for(PURPOSE, &CONTEXT);
    for len in (0..64).filter(|&len| len != 24) {
        let nonce = Base64::encode_string(&vec![0x40; len]);
        assert!(!opens(FORMAT_2, wrap.wrapped_mk(), &nonce, &CONTEXT), "a nonce of {len} bytes");
    }
    let sealed: [u8; 48] = decode(wrap.wrapped_mk()).expect("48 bytes");
    for len in 0..48 {
        let cut = Base64::encode_string(&sealed[..len]);
        assert!(!opens(FORMAT_2, &cut, wrap.wrap_iv(), &CONTEXT), "a wrap of {len} bytes");
    }
    for text in ["====", "=", " ", "\n", "AAAA"] {
        assert!(!opens(FORMAT_2, &format!("{}{text}", wrap.wrapped_mk()), wrap.wrap_iv(), &CONTEXT));
        assert!(!opens(FORMAT_2, wrap.wrapped_mk(), &format!("{}{text}", wrap.wrap_iv()), &CONTEXT));
    }
    for format_version in [i16::MIN, -1, 0, 1, 3, i16::MAX] {
        assert!(!opens(format_version, wrap.wrapped_mk(), wrap.wrap_iv(), &CONTEXT), "format {format_version}");
    }
}

#[test]
fn a_master_key_of_another_length_is_refused() {
    let kek = kek(counting(1));
    let aad = aad(PURPOSE, &CONTEXT).expect("a context within bounds");
    for len in [0, 16, 31, 33, 64] {
        let mut sealed = vec![0xa0; len];
        let tag = kek
            .format_2
            .encrypt_inout_detached(&frozen_nonce().into(), aad.as_bytes(), sealed.as_mut_slice().into())
            .expect("a short message");
        sealed.extend_from_slice(&tag);
        let iv = Base64::encode_string(&frozen_nonce());
        assert!(!opens(FORMAT_2, &Base64::encode_string(&sealed), &iv, &CONTEXT), "a key of {len} bytes");
    }
}

#[test]
fn a_wrap_of_another_purpose_or_kek_does_not_open() {
    let other = wrap_for("master-kez", &CONTEXT);
    assert!(!opens(FORMAT_2, other.wrapped_mk(), other.wrap_iv(), &CONTEXT));
    let wrap = wrap_for(PURPOSE, &CONTEXT);
    let opened = kek(counting(2)).unwrap(FORMAT_2, wrap.wrapped_mk(), wrap.wrap_iv(), &CONTEXT);
    assert_eq!(opened.err(), Some(DoesNotOpen));
}

#[test]
fn contexts_out_of_bounds_are_refused() {
    let (user_id, kek_id) = ("u".repeat(256), "k".repeat(65));
    let wrap = wrap_for(PURPOSE, &CONTEXT);
    let contexts = [
        ("", 1, "k"),
        (user_id.as_str(), 1, "k"),
        ("u", 0, "k"),
        ("u", -1, "k"),
        ("u", i32::MIN, "k"),
        ("u", 1, ""),
        ("u", 1, kek_id.as_str()),
    ];
    for (user_id, key_version, kek_id) in contexts {
        let context = row(user_id, key_version, kek_id);
        assert!(matches!(kek(counting(1)).wrap(&master_key(), nonce(), &context), Err(BadContext)));
        assert!(!opens(FORMAT_2, wrap.wrapped_mk(), wrap.wrap_iv(), &context));
        assert!(!opens(
            FORMAT_1,
            "EkoYuy/eugLj+TUwymd4xT07qypjikNu+XfObRXpLsp1LPM+pXxISRohaJtl0f9/",
            "EBESExQVFhcYGRob",
            &context
        ));
    }
}

#[test]
fn an_expanded_kek_fits_into_a_page_and_cleans_up() {
    assert!(size_of::<Kek>() <= 4096, "{} bytes", size_of::<Kek>());
    fn zeroized_on_drop<T: zeroize::ZeroizeOnDrop>() {}
    zeroized_on_drop::<Aes256Gcm>();
    zeroized_on_drop::<Xaes256Gcm>();
}

proptest! {
    #[test]
    fn any_text_is_refused_without_a_panic(format in 0..4i16, mk in ".{0,70}", iv in ".{0,40}") {
        prop_assert!(!opens(format, &mk, &iv, &CONTEXT));
    }

    #[test]
    fn different_rows_have_different_aad(
        a in ("[ab\u{0}]{1,4}", 1..3i32, "[ab\u{0}]{1,4}"),
        b in ("[ab\u{0}]{1,4}", 1..3i32, "[ab\u{0}]{1,4}"),
    ) {
        let bytes = |(user_id, key_version, kek_id): &(String, i32, String)| {
            let aad = aad(PURPOSE, &row(user_id, *key_version, kek_id));
            aad.expect("a context within bounds").as_bytes().to_vec()
        };
        prop_assert_eq!(a == b, bytes(&a) == bytes(&b));
    }
}

#[test]
fn a_key_of_one_kind_is_not_taken_for_another() {
    let kek = Kek::new(&KekBytes::from_slice(&[7; 32]).expect("32 bytes"));
    let key = MasterKey::from_slice(&[9; 32]).expect("32 bytes");
    let of_database = WrapContext { kind: Kind::DatabaseKey, ..CONTEXT };
    let wrap = kek.wrap(&key, Nonce::random().expect("a nonce"), &of_database).expect("a wrap");
    let open = |context| kek.unwrap(FORMAT_2, wrap.wrapped_mk(), wrap.wrap_iv(), context).is_ok();
    assert!(open(&of_database));
    assert!(!open(&CONTEXT));
}
