use proptest::prelude::*;

use super::*;

/// RFC 9180, appendix A.1.1: the recipient's private key, the `ikmE` of the ephemeral key, and the `enc` that follows
/// from it.
const SK_R: &str = "4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8";
const PK_R: &str = "3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d";
const IKM_E: &str = "7268600d403fce431561aef583ee1613527cff655c1343f29812e66706df3234";
const ENC: &str = "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431";

fn unhex(hex: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two digits");
    (0..hex.len()).step_by(2).map(digits).collect()
}

fn bytes_32(hex: &str) -> [u8; 32] {
    unhex(hex).try_into().expect("32 bytes")
}

fn private_key() -> X25519PrivateKey {
    X25519PrivateKey::from_secret(&bytes_32(SK_R))
}

/// The RFC has no vector for AES-256-GCM behind this KEM. This one takes the keys, info, AAD and plaintext of appendix
/// A.1.1 and was computed with Python: HPKE written out from the RFC (see `tests/independent/open_sealed.py`, which
/// opens the RFC's own vector for AES-128-GCM with the same code).
#[test]
fn a_frozen_vector_seals_and_opens() {
    let (info, aad, plaintext) = (b"Ode on a Grecian Urn", b"Count-0", b"Beauty is truth, truth beauty");
    let recipient = private_key().public_key();
    assert_eq!(recipient.to_bytes(), bytes_32(PK_R));
    let sealed = seal_with(Draw::known(bytes_32(IKM_E)), &recipient, info, aad, plaintext);
    let ciphertext = "090b7dc225419f7da9e8b460becfbb96a26c7964d79b8010d397fa838530a32a397b14f5776db19ff5e57734e0";
    assert_eq!(sealed, unhex(&(ENC.to_owned() + ciphertext)));
    assert_eq!(*open(&private_key(), info, aad, &sealed).expect("it opens"), plaintext);
}

#[test]
fn sealing_twice_gives_different_bytes() {
    let recipient = private_key().public_key();
    let seal = || seal(&recipient, b"info", b"aad", b"plaintext").expect("random bytes");
    assert_ne!(seal()[..32], seal()[..32]);
}

#[test]
fn nothing_else_opens() {
    let other = X25519PrivateKey::from_secret(&[7; 32]);
    let sealed = seal(&private_key().public_key(), b"info", b"aad", &[9; 32]).expect("random bytes");
    assert_eq!(sealed.len(), 32 + OVERHEAD);
    assert!(open(&private_key(), b"info", b"aad", &sealed).is_ok());
    assert_eq!(open(&other, b"info", b"aad", &sealed).err(), Some(DoesNotOpen));
    assert_eq!(open(&private_key(), b"infO", b"aad", &sealed).err(), Some(DoesNotOpen));
    assert_eq!(open(&private_key(), b"info", b"aaD", &sealed).err(), Some(DoesNotOpen));
    assert_eq!(open(&private_key(), b"info", b"", &sealed).err(), Some(DoesNotOpen));
    for len in 0..sealed.len() {
        assert_eq!(open(&private_key(), b"info", b"aad", &sealed[..len]).err(), Some(DoesNotOpen), "{len} bytes");
    }
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert_eq!(open(&private_key(), b"info", b"aad", &changed).err(), Some(DoesNotOpen), "byte {at}");
    }
}

/// The points of order 1, 2, 4 and 8 on the curve and its twist, from <https://cr.yp.to/ecdh.html>.
#[test]
fn points_of_low_order_are_refused() {
    let minus_1 = "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f";
    for hex in [
        &"00".repeat(32),
        &("01".to_owned() + &"00".repeat(31)),
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        minus_1,
    ] {
        assert!(X25519PublicKey::from_bytes(&bytes_32(hex)).is_none(), "{hex}");
    }
    // An `enc` of low order gives no shared secret either.
    let mut sealed = vec![0; 80];
    assert_eq!(open(&private_key(), b"", b"", &sealed).err(), Some(DoesNotOpen));
    sealed[..32].copy_from_slice(&bytes_32(minus_1));
    assert_eq!(open(&private_key(), b"", b"", &sealed).err(), Some(DoesNotOpen));
}

/// What is sealed to 2^255 - 19 + n would have to be opened with the key for n, whose owner binds another public key.
#[test]
fn numbers_that_are_not_reduced_are_refused() {
    // The largest number that is reduced is of low order, but not the next smaller ones.
    let mut bytes = [0xff; 32];
    bytes[31] = 0x7f;
    for (first, is_reduced) in [(0xe6, true), (0xeb, true), (0xed, false), (0xf0, false), (0xff, false)] {
        bytes[0] = first;
        assert_eq!(X25519PublicKey::from_bytes(&bytes).is_some(), is_reduced, "{first:x}");
    }
    bytes[15] = 0xfe;
    assert!(X25519PublicKey::from_bytes(&bytes).is_some());
    let mut highest_bit = bytes_32(PK_R);
    highest_bit[31] |= 0x80;
    assert!(X25519PublicKey::from_bytes(&highest_bit).is_none());
}

proptest! {
    #[test]
    fn any_plaintext_comes_back(
        key: [u8; 32], info: Vec<u8>, aad: Vec<u8>, plaintext in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let private_key = X25519PrivateKey::from_secret(&key);
        let sealed = seal(&private_key.public_key(), &info, &aad, &plaintext).expect("random bytes");
        prop_assert_eq!(&*open(&private_key, &info, &aad, &sealed).expect("it opens"), &plaintext);
    }

    #[test]
    fn any_bytes_are_refused(sealed: Vec<u8>) {
        prop_assert!(open(&private_key(), b"", b"", &sealed).is_err());
    }
}
