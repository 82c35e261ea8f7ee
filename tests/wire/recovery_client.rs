//! The predecessor's client for tests: it makes recovery codes, wraps keys with them and opens them as that one did, with ring
//! instead of the crates that the extension uses; and the calls of the recovery code and of zero-knowledge mode.

use std::sync::atomic::{AtomicU64, Ordering};

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use postgres::{Client, Error};
use ring::{hkdf, hmac};

use crate::harness::{Db, base64, decode, init, kek};

/// The master key of the test vectors: bytes a0 a1 .. bf.
pub fn vector_key() -> Vec<u8> {
    (0xa0..=0xbf).collect()
}

pub const VECTOR_IV: &str = "EBESExQVFhcYGRob";
/// That key under the code of the bytes 00 01 .. 1f, with that nonce.
pub const VECTOR_WRAP: &str = "iOIMVYY5oxAgyY1xS9PzDB36R+7sHkTPY48aHDcsGkLSONC4KYNsAkSdmpTB3S9g";
/// The check value of that key.
pub const VECTOR_CHECK: &str = "3732a28be78cf647f3b5cd0ff4c633f4";
/// The same key under the predecessor's KEK.
pub const VECTOR_WRAPPED_MK: &str = "EkoYuy/eugLj+TUwymd4xT07qypjikNu+XfObRXpLsp1LPM+pXxISRohaJtl0f9/";

/// A recovery code as its user writes it down.
pub fn code_of(secret: &[u8]) -> String {
    let hex: Vec<String> = secret.chunks(2).map(|pair| format!("{:02X}{:02X}", pair[0], pair[1])).collect();
    hex.join("-")
}

/// The secret behind a code as its user types it in.
pub fn secret_of(code: &str) -> Vec<u8> {
    let digits: Vec<u32> =
        code.chars().filter(|c| !matches!(c, ' ' | '-')).map(|c| c.to_digit(16).expect("a hex digit")).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

pub fn hkdf_sha256<const N: usize>(key: &[u8], info: &[u8]) -> [u8; N] {
    let mut output = [0; N];
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(key);
    prk.expand(&[info], Length(N)).expect("a short key").fill(&mut output).expect("the length that was asked for");
    output
}

pub fn key_of_code(code: &str) -> [u8; 32] {
    hkdf_sha256(&secret_of(code), b"mana-recovery-v1")
}

fn nonce(iv: &[u8]) -> Nonce<aes_gcm::aead::consts::U12> {
    Nonce::try_from(iv).expect("12 bytes")
}

pub fn seal(key: &[u8], iv: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let mut buffer = plaintext.to_vec();
    let cipher = Aes256Gcm::new_from_slice(key).expect("32 bytes");
    let tag = cipher.encrypt_inout_detached(&nonce(iv), b"", buffer.as_mut_slice().into()).expect("a short plaintext");
    buffer.extend_from_slice(&tag);
    buffer
}

pub fn open(key: &[u8], iv: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (ciphertext, tag) = sealed.split_at(sealed.len().checked_sub(16)?);
    let mut buffer = ciphertext.to_vec();
    let tag = Tag::try_from(tag).expect("16 bytes");
    let cipher = Aes256Gcm::new_from_slice(key).expect("32 bytes");
    cipher.decrypt_inout_detached(&nonce(iv), b"", buffer.as_mut_slice().into(), &tag).ok().map(|()| buffer)
}

static SEEDS: AtomicU64 = AtomicU64::new(1000);

/// 32 bytes that no other call gives.
pub fn fresh() -> [u8; 32] {
    kek(SEEDS.fetch_add(1, Ordering::Relaxed))
}

/// A code and what it wraps a key into.
pub struct Recovery {
    pub code: String,
    pub wrapped_mk: String,
    pub iv: String,
}

impl Recovery {
    pub fn of(master_key: &[u8]) -> Self {
        let code = code_of(&fresh());
        let iv = &fresh()[..12];
        Self { wrapped_mk: base64(&seal(&key_of_code(&code), iv, master_key)), iv: base64(iv), code }
    }
}

pub fn proof(master_key: &[u8], challenge: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, master_key);
    hmac::sign(&key, &[b"vault_ext.recovery-proof.v1", challenge].concat()).as_ref().to_vec()
}

pub fn set_recovery(client: &mut Client, recovery: &Recovery) -> Result<(), Error> {
    client.execute("SELECT vault_set_recovery($1, $2)", &[&recovery.wrapped_mk, &recovery.iv]).map(|_| ())
}

pub fn clear_recovery(client: &mut Client) -> Result<bool, Error> {
    client.query_one("SELECT vault_clear_recovery()", &[]).map(|row| row.get(0))
}

pub fn challenge(client: &mut Client) -> Result<Vec<u8>, Error> {
    client.query_one("SELECT vault_recovery_challenge()", &[]).map(|row| row.get(0))
}

pub fn enable(client: &mut Client, proof: Option<&[u8]>) -> Result<bool, Error> {
    client.query_one("SELECT vault_enable_zero_knowledge($1)", &[&proof]).map(|row| row.get(0))
}

pub fn disable(client: &mut Client, master_key: &[u8]) -> Result<bool, Error> {
    client.query_one("SELECT vault_disable_zero_knowledge($1)", &[&base64(master_key)]).map(|row| row.get(0))
}

/// master_key, requires_recovery_code, recovery_wrapped_mk, recovery_iv, format_version, key_version.
pub type Blob = (Option<String>, bool, Option<String>, Option<String>, i16, i32);

pub fn blob(client: &mut Client, function: &str) -> Blob {
    let sql = format!(
        "SELECT master_key, requires_recovery_code, recovery_wrapped_mk, recovery_iv, format_version, key_version
            FROM {function}()"
    );
    let row = client.query_one(&sql, &[]).unwrap();
    (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4), row.get(5))
}

/// Lets a user with a vault have a recovery code.
pub fn with_code(client: &mut Client) -> (Vec<u8>, Recovery) {
    let key = decode(&init(client).unwrap().master_key);
    let recovery = Recovery::of(&key);
    set_recovery(client, &recovery).unwrap();
    (key, recovery)
}

/// And enter zero-knowledge mode.
pub fn with_zero_knowledge(client: &mut Client) -> (Vec<u8>, Recovery) {
    let (key, recovery) = with_code(client);
    let nonce = challenge(client).unwrap();
    assert!(enable(client, Some(&proof(&key, &nonce))).unwrap());
    (key, recovery)
}

/// What there is in a user's row.
pub fn parts(db: &Db, user: &str) -> String {
    let sql = "SELECT concat_ws(' ', CASE WHEN wrapped_mk IS NOT NULL THEN 'wrap' END,
            CASE WHEN recovery_wrapped_mk IS NOT NULL THEN 'recovery' END, CASE WHEN zero_knowledge THEN 'zk' END,
            CASE WHEN key_check IS NOT NULL THEN 'check' END, CASE WHEN erase_after IS NOT NULL THEN 'erase' END)
        FROM vault_ext.encryption_vaults WHERE user_id = $1";
    db.superuser().query_opt(sql, &[&user]).unwrap().map_or("none".into(), |row| row.get(0))
}

pub fn require_proof(db: &Db, required: bool) {
    let value = if required { "on" } else { "off" };
    db.force(&format!("ALTER DATABASE \"{}\" SET vault_ext.require_recovery_proof = {value}", db.name));
}
