//! Checkpoints (C2SP tlog-checkpoint) as signed notes (C2SP signed-note, Ed25519), the keys for them, and proofs as texts (C2SP tlog-proof, and
//! the request of C2SP tlog-witness for consistency). The name of the key is the origin.

use std::fmt::{self, Display, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, KeypairBytes};
use ed25519_dalek::{Signature as Ed25519Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::Hash;

/// The algorithm byte of Ed25519 in signed notes.
const ED25519: u8 = 1;
/// What a proof's text begins with.
const PROOF_HEADER: &str = "c2sp.org/tlog-proof@v1";
/// What a checkpoint's line in the server's log has before the note, which is on one line.
pub const LOG_PREFIX: &str = "vault_ext audit checkpoint: ";
/// What begins a signature line.
pub const DASH: &str = "\u{2014} ";

/// Why a text is no checkpoint, key or proof, or does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    #[error("it is not a checkpoint: an origin, a size and a root on three lines")]
    Malformed,
    #[error("it is not a signed note")]
    MalformedNote,
    #[error("it has no signature by this key")]
    NotSigned,
    #[error("its signature is wrong")]
    WrongSignature,
    #[error("it is not an Ed25519 key")]
    BadKey,
    #[error("it is not a proof")]
    BadProof,
}

/// The tree at one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Whose tree it is.
    pub origin: String,
    pub size: u64,
    pub root: Hash,
}

/// A line of a note that says who signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    pub name: String,
    /// The first four bytes of the key's hash.
    pub key_id: [u8; 4],
    pub bytes: Vec<u8>,
}

/// The first part of the origin of a database's trail, up to the random id: `vault_ext/<database>/`. Other bytes than letters, digits and
/// `._~-` are percent-encoded, so that the origin can be the name of a key.
pub fn origin_prefix(database: &str) -> String {
    let mut prefix = "vault_ext/".to_owned();
    for byte in database.bytes() {
        if byte.is_ascii_alphanumeric() || b"._~-".contains(&byte) {
            prefix.push(byte.into());
        } else {
            write!(prefix, "%{byte:02X}").expect("a String takes everything");
        }
    }
    prefix.push('/');
    prefix
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+')
}

/// The number that the text says, without signs or leading zeros.
fn number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn hash(text: &str) -> Option<Hash> {
    BASE64.decode(text).ok()?.try_into().ok()
}

impl Checkpoint {
    /// The three lines, without a signature. That is an unsigned checkpoint.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(self.root))
    }

    /// The signed note.
    pub fn sign(&self, key: &AuditKey) -> String {
        let text = self.text();
        let signature = key.0.sign(text.as_bytes()).to_bytes();
        let line = [&key.public().id(&self.origin)[..], &signature].concat();
        format!("{text}\n{DASH}{} {}\n", self.origin, BASE64.encode(line))
    }

    /// Reads a checkpoint, signed or not, and checks no signature.
    pub fn parse(note: &str) -> Result<(Self, Vec<Signature>), CheckpointError> {
        let (text, lines) = text_and_signatures(note);
        let signatures = lines.map_or(Ok(Vec::new()), signatures)?;
        let mut lines = text.strip_suffix('\n').unwrap_or(&text).split('\n');
        let mut line = || lines.next().ok_or(CheckpointError::Malformed);
        let (origin, size, root) = (line()?, line()?, line()?);
        // Extension lines may follow, which are not empty.
        if !is_name(origin) || lines.any(str::is_empty) {
            return Err(CheckpointError::Malformed);
        }
        let size = number(size).ok_or(CheckpointError::Malformed)?;
        let root = hash(root).ok_or(CheckpointError::Malformed)?;
        Ok((Self { origin: origin.to_owned(), size, root }, signatures))
    }

    /// Reads a checkpoint. With a key, it must have a good signature by that key under the name of the origin.
    pub fn open(note: &str, key: Option<&PublicKey>) -> Result<Self, CheckpointError> {
        let (checkpoint, signatures) = Self::parse(note)?;
        let Some(key) = key else { return Ok(checkpoint) };
        let id = key.id(&checkpoint.origin);
        let by_key = |signature: &&Signature| signature.name == checkpoint.origin && signature.key_id == id;
        let signature = signatures.iter().find(by_key).ok_or(CheckpointError::NotSigned)?;
        let (text, _) = text_and_signatures(note);
        if key.verifies(text.as_bytes(), &signature.bytes) {
            Ok(checkpoint)
        } else {
            Err(CheckpointError::WrongSignature)
        }
    }

    /// The whole note on one line, as the server logs it: `origin size root`, and if it is signed ` — name signature`.
    pub fn one_line(note: &str) -> String {
        note.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The note that was written on one line.
    pub fn from_one_line(line: &str) -> Result<String, CheckpointError> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words[..] {
            [origin, size, root] => Ok(format!("{origin}\n{size}\n{root}\n")),
            [origin, size, root, dash, name, signature] if dash == DASH.trim_end() => {
                Ok(format!("{origin}\n{size}\n{root}\n\n{DASH}{name} {signature}\n"))
            }
            _ => Err(CheckpointError::Malformed),
        }
    }
}

/// The text that is signed, and the lines of the signatures. psql adds an empty line at the end of a value.
fn text_and_signatures(note: &str) -> (String, Option<&str>) {
    let note = note.trim_end_matches('\n');
    match note.rsplit_once("\n\n") {
        Some((text, lines)) if lines.starts_with(DASH) => (format!("{text}\n"), Some(lines)),
        _ => (format!("{note}\n"), None),
    }
}

fn signatures(lines: &str) -> Result<Vec<Signature>, CheckpointError> {
    lines.split('\n').map(|line| signature(line).ok_or(CheckpointError::MalformedNote)).collect()
}

fn signature(line: &str) -> Option<Signature> {
    let (name, signature) = line.strip_prefix(DASH)?.split_once(' ')?;
    let bytes = BASE64.decode(signature).ok()?;
    let (key_id, bytes) = bytes.split_first_chunk::<4>()?;
    (is_name(name) && !bytes.is_empty()).then(|| Signature { name: name.into(), key_id: *key_id, bytes: bytes.into() })
}

/// The private key that signs checkpoints. Clears its memory when it is dropped.
pub struct AuditKey(SigningKey);

impl AuditKey {
    /// A fresh key.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut seed[..])?;
        Ok(Self::from_seed(&seed))
    }

    /// The key of RFC 8032 with that secret.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    pub fn seed(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Reads PKCS#8 PEM (RFC 8410), as `openssl genpkey -algorithm ed25519` writes it.
    pub fn from_pkcs8_pem(pem: &str) -> Result<Self, CheckpointError> {
        SigningKey::from_pkcs8_pem(pem).map(Self).map_err(|_| CheckpointError::BadKey)
    }

    pub fn to_pkcs8_pem(&self) -> Zeroizing<String> {
        // Without the public key, which some versions of OpenSSL do not expect there.
        let pair = KeypairBytes { secret_key: *self.seed(), public_key: None };
        pair.to_pkcs8_pem(LineEnding::LF).expect("a key of 32 bytes")
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }
}

/// The public key that verifies checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// The key as a C2SP verifier key for checkpoints of that origin: `origin+id+key`.
    pub fn vkey(&self, origin: &str) -> String {
        let id: String = self.id(origin).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{origin}+{id}+{}", BASE64.encode(self.encoded()))
    }

    /// Reads a verifier key, SPKI PEM (RFC 8410), or the base64 of the 32 bytes.
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let text = text.trim();
        let key = if text.starts_with("-----BEGIN") {
            VerifyingKey::from_public_key_pem(text).map(|key| key.to_bytes()).ok()
        } else if let Some((name, rest)) = text.split_once('+').filter(|(name, _)| is_name(name)) {
            rest.split_once('+').and_then(|(id, key)| {
                let encoded = BASE64.decode(key).ok()?;
                let key = Self(encoded.strip_prefix(&[ED25519])?.try_into().ok()?);
                (key.vkey(name).split('+').nth(1) == Some(id)).then_some(key.0)
            })
        } else {
            hash(text)
        };
        let key = key.ok_or(CheckpointError::BadKey)?;
        VerifyingKey::from_bytes(&key).map_err(|_| CheckpointError::BadKey)?;
        Ok(Self(key))
    }

    pub fn to_spki_pem(&self) -> Result<String, CheckpointError> {
        let key = VerifyingKey::from_bytes(&self.0).map_err(|_| CheckpointError::BadKey)?;
        key.to_public_key_pem(LineEnding::LF).map_err(|_| CheckpointError::BadKey)
    }

    fn encoded(&self) -> Vec<u8> {
        [&[ED25519][..], &self.0].concat()
    }

    fn id(&self, name: &str) -> [u8; 4] {
        let hash = Sha256::new().chain_update(name).chain_update("\n").chain_update(self.encoded()).finalize();
        [hash[0], hash[1], hash[2], hash[3]]
    }

    fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
        let (Ok(key), Ok(signature)) = (VerifyingKey::from_bytes(&self.0), Ed25519Signature::from_slice(signature))
        else {
            return false;
        };
        key.verify_strict(text, &signature).is_ok()
    }
}

impl Display for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&BASE64.encode(self.0))
    }
}

/// A proof that a leaf is in the tree of a checkpoint (C2SP tlog-proof).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InclusionProof {
    pub index: u64,
    pub hashes: Vec<Hash>,
    /// The note.
    pub checkpoint: String,
}

impl Display for InclusionProof {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{PROOF_HEADER}\nindex {}", self.index)?;
        put_hashes(&self.hashes, &self.checkpoint, formatter)
    }
}

impl InclusionProof {
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let rest = text.strip_prefix(PROOF_HEADER).and_then(|rest| rest.strip_prefix('\n'));
        let (index, hashes, checkpoint) = read_hashes(rest, "index ")?;
        Ok(Self { index, hashes, checkpoint })
    }
}

/// A proof that the tree of a checkpoint begins with that of an older one (the request `add-checkpoint` of C2SP tlog-witness).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistencyProof {
    pub old_size: u64,
    pub hashes: Vec<Hash>,
    /// The newer note.
    pub checkpoint: String,
}

impl Display for ConsistencyProof {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "old {}", self.old_size)?;
        put_hashes(&self.hashes, &self.checkpoint, formatter)
    }
}

impl ConsistencyProof {
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let (old_size, hashes, checkpoint) = read_hashes(Some(text), "old ")?;
        Ok(Self { old_size, hashes, checkpoint })
    }
}

fn put_hashes(hashes: &[Hash], checkpoint: &str, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    for hash in hashes {
        writeln!(formatter, "{}", BASE64.encode(hash))?;
    }
    write!(formatter, "\n{checkpoint}")
}

fn read_hashes(text: Option<&str>, first: &str) -> Result<(u64, Vec<Hash>, String), CheckpointError> {
    let read = || {
        let (head, checkpoint) = text?.split_once("\n\n")?;
        let mut lines = head.split('\n');
        let size = number(lines.next()?.strip_prefix(first)?)?;
        let hashes = lines.map(hash).collect::<Option<Vec<_>>>()?;
        // No proof in a tree of fewer than 2^64 leaves is longer.
        (hashes.len() <= 128).then(|| (size, hashes, checkpoint.to_owned()))
    };
    read().ok_or(CheckpointError::BadProof)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            origin: format!("{}00112233445566778899aabbccddeeff", origin_prefix("my app")),
            size: 7,
            root: [5; 32],
        }
    }

    #[test]
    fn an_origin_can_be_the_name_of_a_key() {
        assert_eq!(checkpoint().origin, "vault_ext/my%20app/00112233445566778899aabbccddeeff");
        assert!(is_name(&checkpoint().origin));
        assert_eq!(origin_prefix("a+b/ü"), "vault_ext/a%2Bb%2F%C3%BC/");
    }

    #[test]
    fn a_signed_note_opens_with_its_key_alone() {
        let key = AuditKey::from_seed(&[3; 32]);
        let note = checkpoint().sign(&key);
        assert_eq!(Checkpoint::open(&note, Some(&key.public())), Ok(checkpoint()));
        assert_eq!(Checkpoint::open(&note, None), Ok(checkpoint()));
        let other = AuditKey::from_seed(&[4; 32]).public();
        assert_eq!(Checkpoint::open(&note, Some(&other)), Err(CheckpointError::NotSigned));
        assert_eq!(Checkpoint::open(&checkpoint().text(), Some(&key.public())), Err(CheckpointError::NotSigned));
        let changed = note.replacen("\n7\n", "\n8\n", 1);
        assert_eq!(Checkpoint::open(&changed, Some(&key.public())), Err(CheckpointError::WrongSignature));
        assert_eq!(Checkpoint::open(&format!("{note}\n"), Some(&key.public())), Ok(checkpoint()), "from psql");
        let line = Checkpoint::one_line(&note);
        assert!(!line.contains('\n'));
        assert_eq!(Checkpoint::from_one_line(&line), Ok(note));
        assert_eq!(Checkpoint::from_one_line(&Checkpoint::one_line(&checkpoint().text())), Ok(checkpoint().text()));
    }

    #[test]
    fn a_note_of_another_implementation_opens() {
        // From the documentation of Go's golang.org/x/mod/sumdb/note.
        let key = PublicKey::parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW").unwrap();
        let text =
            "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
        let note = format!(
            "{text}\n{DASH}PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
        );
        let line = signature(note.lines().last().unwrap()).unwrap();
        assert_eq!(line.key_id, key.id("PeterNeumann"));
        assert!(key.verifies(text.as_bytes(), &line.bytes));
    }

    #[test]
    fn keys_come_back() {
        let key = AuditKey::from_seed(&[3; 32]);
        assert_eq!(AuditKey::from_pkcs8_pem(&key.to_pkcs8_pem()).unwrap().seed(), key.seed());
        let public = key.public();
        for text in [public.vkey("vault_ext/x/1"), public.to_spki_pem().unwrap(), public.to_string()] {
            assert_eq!(PublicKey::parse(&text), Ok(public), "{text}");
        }
        // openssl genpkey -algorithm ed25519
        let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        assert_eq!(
            AuditKey::from_pkcs8_pem(pem).unwrap().public().to_spki_pem().unwrap(),
            "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n"
        );
        for bad in ["", "x", "name+00000000+AQ==", "-----BEGIN PUBLIC KEY-----"] {
            assert_eq!(PublicKey::parse(bad), Err(CheckpointError::BadKey), "{bad}");
        }
    }

    #[test]
    fn proofs_come_back() {
        let proof = InclusionProof { index: 3, hashes: vec![[1; 32], [2; 32]], checkpoint: checkpoint().text() };
        assert_eq!(InclusionProof::parse(&proof.to_string()), Ok(proof));
        let proof = ConsistencyProof {
            old_size: 3,
            hashes: Vec::new(),
            checkpoint: checkpoint().sign(&AuditKey::from_seed(&[3; 32])),
        };
        assert_eq!(ConsistencyProof::parse(&proof.to_string()), Ok(proof));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[\\PC\n ]{0,200}") {
            let _ = Checkpoint::parse(&text);
            let _ = Checkpoint::from_one_line(&text);
            let _ = InclusionProof::parse(&text);
            let _ = ConsistencyProof::parse(&text);
            let _ = PublicKey::parse(&text);
        }
    }
}
