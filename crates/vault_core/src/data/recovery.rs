//! The proof that a client can open its own recovery wrap, which zero-knowledge mode asks for before it is switched on.
//!
//! The server gives a challenge, the client opens the stored recovery wrap with its code and answers with HMAC-SHA256 under the
//! master key that it found:
//! ```text
//! 27 bytes   "vault_ext.recovery-proof.v1"
//! 32 bytes   the challenge
//! ```
//! A proof shows nothing of the key, and an old one answers no new challenge.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::crypto::secret::{MasterKey, RngError, fill_random};

/// What a proof begins with: no other use of a master key as a key of HMAC has it.
const LABEL: &[u8; 27] = b"vault_ext.recovery-proof.v1";

/// 32 random bytes for one proof. No secret.
///
/// # Errors
/// [`RngError`] if the operating system gives none.
pub fn challenge() -> Result<[u8; 32], RngError> {
    let mut challenge = [0; 32];
    fill_random(&mut challenge)?;
    Ok(challenge)
}

/// What a client that has `master_key` answers.
pub fn proof(master_key: &MasterKey, challenge: &[u8; 32]) -> [u8; 32] {
    mac(master_key, challenge).finalize().into_bytes().into()
}

/// Whether `proof` answers `challenge`, in a time that does not depend on how much of it is right.
pub fn verify(master_key: &MasterKey, challenge: &[u8; 32], proof: &[u8]) -> bool {
    mac(master_key, challenge).verify_slice(proof).is_ok()
}

fn mac(master_key: &MasterKey, challenge: &[u8; 32]) -> Hmac<Sha256> {
    Hmac::new_from_slice(master_key.expose_secret())
        .expect("HMAC takes a key of any length")
        .chain_update(LABEL)
        .chain_update(challenge)
}

#[cfg(test)]
mod tests {
    use aes_gcm::Aes256Gcm;
    use aes_gcm::aead::{AeadInOut, KeyInit};
    use base64ct::{Base64, Encoding};
    use hkdf::Hkdf;

    use super::*;
    use crate::data::hex;

    fn counting<const N: usize>(first: u8) -> [u8; N] {
        std::array::from_fn(|i| first + i as u8)
    }

    fn master_key() -> MasterKey {
        MasterKey::from_slice(&counting::<32>(0xa0)).expect("32 bytes")
    }

    /// Frozen: clients compute it, too. Recomputed by `vectors/data.py`.
    #[test]
    fn frozen_vector() {
        let proof = proof(&master_key(), &counting(0x40));
        assert_eq!(hex(&proof), "d4e4c80523fa1364a068697e0820ca570ed8f98fc128642ff6dd09d34cd82cb9");
        assert!(verify(&master_key(), &counting(0x40), &proof));
    }

    #[test]
    fn only_the_right_key_challenge_and_proof_are_accepted() {
        let challenge = counting(0x40);
        let proof = proof(&master_key(), &challenge);
        for bit in 0..256 {
            let flip = |bytes: &[u8; 32]| {
                let mut bytes = *bytes;
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes
            };
            let other = MasterKey::from_slice(&flip(&counting(0xa0))).expect("32 bytes");
            assert!(!verify(&other, &challenge, &proof), "key bit {bit}");
            assert!(!verify(&master_key(), &flip(&challenge), &proof), "challenge bit {bit}");
            assert!(!verify(&master_key(), &challenge, &flip(&proof)), "proof bit {bit}");
        }
        for len in 0..32 {
            assert!(!verify(&master_key(), &challenge, &proof[..len]), "{len} bytes");
        }
        assert!(!verify(&master_key(), &challenge, &[proof.as_slice(), &[0]].concat()));
    }

    #[test]
    fn challenges_differ() {
        assert_ne!(challenge().expect("random bytes"), challenge().expect("random bytes"));
    }

    /// Reads a code as the predecessor's clients do: case, blanks and dashes do not matter.
    fn read_code(text: &str) -> Option<[u8; 32]> {
        let digits: Vec<u8> = text
            .chars()
            .filter(|c| *c != '-' && !c.is_whitespace())
            .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect::<Option<_>>()?;
        let (pairs, []) = digits.as_chunks::<2>() else { return None };
        pairs.iter().map(|[high, low]| high << 4 | low).collect::<Vec<_>>().try_into().ok()
    }

    /// The predecessor's recovery code and wrap, which the server stores and never opens: this is what a client does before
    /// it answers a challenge. Computed with the predecessor's own code and recomputed by `vectors/data.py`.
    #[test]
    fn the_predecessor_s_recovery_code_opens_its_wrap() {
        const CODE: &str = "0001-0203-0405-0607-0809-0A0B-0C0D-0E0F-1011-1213-1415-1617-1819-1A1B-1C1D-1E1F";
        assert_eq!(CODE.len(), 79);
        for code in [CODE, &CODE.to_lowercase(), &CODE.replace('-', " "), &format!(" {CODE}\n")] {
            let secret = read_code(code).expect("a code");
            assert_eq!(secret, counting(0));
            let mut key = [0; 32];
            Hkdf::<Sha256>::new(None, &secret).expand(b"mana-recovery-v1", &mut key).expect("32 bytes");
            assert_eq!(hex(&key), "e29b7101bde0a9a100f34002714421915c750f10a44c0cd963356057733d0cd4");

            let wrap = "iOIMVYY5oxAgyY1xS9PzDB36R+7sHkTPY48aHDcsGkLSONC4KYNsAkSdmpTB3S9g";
            let sealed = Base64::decode_vec(wrap).expect("base64");
            let (body, tag) = sealed.split_at(32);
            let mut found = MasterKey::from_slice(body).expect("32 bytes");
            Aes256Gcm::new(&key.into())
                .decrypt_inout_detached(
                    &counting::<12>(0x10).into(),
                    &[],
                    found.expose_secret_mut().as_mut_slice().into(),
                    tag.try_into().expect("16 bytes"),
                )
                .expect("it opens");
            assert_eq!(found.expose_secret(), master_key().expose_secret());
            assert!(verify(&master_key(), &[7; 32], &proof(&found, &[7; 32])));
        }
        assert_eq!(read_code(&CODE[..78]), None);
        assert_eq!(read_code(&CODE.replace('F', "G")), None);
    }
}
