//! The recovery code: a user's own wrap of the master key, and how the server is sure of it without ever seeing the code.
//!
//! - A recovery wrap of format 1, the predecessor's, is AES-256-GCM without AAD under a key that only the user has:
//!   base64 of 48 bytes, with a nonce of 12.
//! - Whoever has opened it proves that to a server that has the master key: `HMAC-SHA256(master key,
//!   "vault_ext.recovery-proof.v1" | nonce)`, with a nonce of the server's that counts once ([`Challenges`]).
//! - A server that gives its own wrap away keeps a [`CheckValue`](crate::crypto::check::CheckValue), and so knows the key again when it comes back.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::crypto::secret::{MasterKey, RngError, fill_random};

/// The format of recovery wraps: the predecessor's.
pub const FORMAT_1: i16 = 1;

/// Bytes of a challenge.
pub const NONCE_LEN: usize = 32;

/// Bytes of a proof.
pub const PROOF_LEN: usize = 32;

const WRAP_LEN: usize = 48;
const IV_LEN: usize = 12;
const PROOF_TAG: &[u8] = b"vault_ext.recovery-proof.v1";

/// Whether a text is the wrapped key of a recovery wrap of format 1: canonical, padded standard base64 of 48 bytes.
pub fn is_wrapped_mk(text: &str) -> bool {
    is_base64_of::<WRAP_LEN>(text)
}

/// Whether a text is its nonce: the same of 12 bytes.
pub fn is_iv(text: &str) -> bool {
    is_base64_of::<IV_LEN>(text)
}

fn is_base64_of<const N: usize>(text: &str) -> bool {
    let mut bytes = [0; N];
    STANDARD.decode_slice(text, &mut bytes).is_ok_and(|len| len == N)
}

/// The proof for a challenge, as a client makes it.
pub fn proof(master_key: &MasterKey, nonce: &[u8; NONCE_LEN]) -> [u8; PROOF_LEN] {
    mac(master_key, nonce).finalize().into_bytes().into()
}

/// Whether a proof is that of the holder of this key for this challenge. Takes the same time for every wrong one.
pub fn verify(master_key: &MasterKey, nonce: &[u8; NONCE_LEN], proof: &[u8; PROOF_LEN]) -> bool {
    mac(master_key, nonce).verify_slice(proof).is_ok()
}

fn mac(master_key: &MasterKey, nonce: &[u8; NONCE_LEN]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(master_key.expose_secret()).expect("HMAC takes keys of any length");
    mac.update(PROOF_TAG);
    mac.update(nonce);
    mac
}

/// The challenges of one session that are not answered yet: one for each user, for the last users that asked.
#[derive(Default)]
pub struct Challenges(Vec<Challenge>);

struct Challenge {
    user: String,
    /// The recovery wrap that is to be opened: its wrapped key and its nonce.
    wrap: (String, String),
    nonce: [u8; NONCE_LEN],
}

impl Challenges {
    /// Users that one session keeps a challenge for. A pooled session may serve many, and its memory must not grow with them.
    const MOST: usize = 16;

    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// A fresh challenge for the user and the recovery wrap that is stored now. An earlier one of the user's is void.
    ///
    /// # Errors
    /// [`RngError`] if the operating system gives no random bytes.
    pub fn issue(&mut self, user: &str, wrapped_mk: &str, iv: &str) -> Result<[u8; NONCE_LEN], RngError> {
        let mut nonce = [0; NONCE_LEN];
        fill_random(&mut nonce)?;
        self.0.retain(|challenge| challenge.user != user);
        if self.0.len() == Self::MOST {
            self.0.remove(0);
        }
        self.0.push(Challenge { user: user.to_owned(), wrap: (wrapped_mk.to_owned(), iv.to_owned()), nonce });
        Ok(nonce)
    }

    /// The user's challenge, which is used up by that. None if there is none, or if it was for another recovery wrap.
    pub fn take(&mut self, user: &str, wrapped_mk: &str, iv: &str) -> Option<[u8; NONCE_LEN]> {
        let position = self.0.iter().position(|challenge| challenge.user == user)?;
        let challenge = self.0.remove(position);
        (challenge.wrap.0 == wrapped_mk && challenge.wrap.1 == iv).then_some(challenge.nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(bytes: impl IntoIterator<Item = u8>) -> MasterKey {
        MasterKey::from_slice(&bytes.into_iter().collect::<Vec<_>>()).expect("32 bytes")
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn counting() -> [u8; NONCE_LEN] {
        std::array::from_fn(|at| at as u8)
    }

    /// Frozen; computed with Python's `hmac`: clients of every later version make these.
    #[test]
    fn frozen_proofs() {
        for (key, nonce, expected) in [
            (key(0xa0..0xc0), counting(), "c70ca5e1261d1b970b2a05dfd05f4ff9dffbfa504db19546649f68b0d0490e36"),
            (key(0xa0..0xc0), [0xff; 32], "1b142a08934210b45748282ae1f95fff3e147ae05624f0c63341995843a23823"),
            (key([0; 32]), counting(), "9ecb381c1fe3f5b23f3d6b40fdb9aceb61773dc208207a91228efbc08a61d29d"),
            (key([0; 32]), [0xff; 32], "94623a0a5234db1bfe503da10f11b6f9b564b58e340a0e278e35ccc898e6b754"),
        ] {
            assert_eq!(hex(&proof(&key, &nonce)), expected);
        }
    }

    #[test]
    fn every_other_proof_is_refused() {
        let (key, nonce) = (key(0xa0..0xc0), counting());
        let right = proof(&key, &nonce);
        assert!(verify(&key, &nonce, &right));
        for bit in 0..PROOF_LEN * 8 {
            let mut wrong = right;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(!verify(&key, &nonce, &wrong), "bit {bit}");
            let mut other = nonce;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!verify(&key, &other, &right), "nonce with another bit {bit}");
        }
        assert!(!verify(&self::key([0; 32]), &nonce, &right));
        // What the code's owner could send by mistake.
        assert!(!verify(&key, &nonce, &nonce));
        assert!(!verify(&key, &nonce, key.expose_secret()));
    }

    #[test]
    fn a_recovery_wrap_has_its_lengths_and_canonical_base64() {
        let text = |bytes: usize| STANDARD.encode(vec![0xfb; bytes]);
        assert!(is_wrapped_mk(&text(48)) && is_iv(&text(12)));
        assert!(is_wrapped_mk("iOIMVYY5oxAgyY1xS9PzDB36R+7sHkTPY48aHDcsGkLSONC4KYNsAkSdmpTB3S9g"));
        for bytes in [0, 11, 13, 32, 47, 49, 96, 100_000] {
            assert!(!is_wrapped_mk(&text(bytes)) && !is_iv(&text(bytes)), "{bytes}");
        }
        let (wrapped_mk, iv) = (text(48), text(12));
        for spoil in [
            |good: &str| good.replace('+', "-").replace('/', "_"),
            |good: &str| format!(" {good}"),
            |good: &str| format!("{good}\n"),
            |good: &str| format!("{}=", &good[1..]),
            |good: &str| format!("{}==", &good[2..]),
            |good: &str| format!("é{}", &good[2..]),
        ] {
            assert!(!is_wrapped_mk(&spoil(&wrapped_mk)), "{}", spoil(&wrapped_mk));
            assert!(!is_iv(&spoil(&iv)), "{}", spoil(&iv));
        }
    }

    #[test]
    fn a_challenge_counts_once_for_one_user_and_one_wrap() {
        let mut challenges = Challenges::new();
        let first = challenges.issue("alice", "wrap", "iv").expect("random bytes");
        assert_eq!(challenges.take("bob", "wrap", "iv"), None);
        assert_eq!(challenges.take("alice", "wrap", "iv"), Some(first));
        assert_eq!(challenges.take("alice", "wrap", "iv"), None, "used up");
        for (wrapped_mk, iv) in [("other", "iv"), ("wrap", "other")] {
            challenges.issue("alice", "wrap", "iv").expect("random bytes");
            assert_eq!(challenges.take("alice", wrapped_mk, iv), None);
            assert_eq!(challenges.take("alice", "wrap", "iv"), None, "used up by the wrong one");
        }
        let void = challenges.issue("alice", "wrap", "iv").expect("random bytes");
        let newer = challenges.issue("alice", "wrap", "iv").expect("random bytes");
        assert_ne!(void, newer);
        assert_eq!(challenges.take("alice", "wrap", "iv"), Some(newer));
    }

    #[test]
    fn a_session_keeps_the_newest_challenges() {
        let mut challenges = Challenges::new();
        let users: Vec<String> = (0..Challenges::MOST + 5).map(|number| format!("user-{number}")).collect();
        for user in &users {
            challenges.issue(user, "wrap", "iv").expect("random bytes");
        }
        for (number, user) in users.iter().enumerate() {
            assert_eq!(challenges.take(user, "wrap", "iv").is_some(), number >= 5, "{user}");
        }
    }
}
