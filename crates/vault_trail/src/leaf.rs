//! The bytes of a row that go into the tree, and their hash. `docs/formats/audit-leaf.md` specifies them; the vectors in this crate's tests
//! are frozen.
//!
//! Every field stands behind its length in bytes (4 bytes, big-endian); a NULL has the length 0xFFFFFFFF and no bytes. Integers are 8
//! bytes, big-endian, two's complement.

use sha2::{Digest, Sha256};

use crate::Hash;

/// Random bytes with which the personal fields of a row are hashed, so that nobody can guess them from the hash.
pub const SALT_BYTES: usize = 16;
pub type Salt = [u8; SALT_BYTES];

const LEAF: &str = "vault_ext.audit-leaf.v1";
const PERSONAL: &str = "vault_ext.audit-personal.v1";
const OLD_ROW: &str = "vault_ext.audit-old-row.v1";
const OLD_PERSONAL: &str = "vault_ext.audit-old-personal.v1";
/// Microseconds from 1970 to 2000, where PostgreSQL begins to count.
const EPOCH: i64 = 946_684_800_000_000;
const NULL: u32 = u32::MAX;

/// Fills a buffer with random bytes.
pub fn random_salts(salts: &mut [u8]) -> Result<(), getrandom::Error> {
    getrandom::fill(salts)
}

/// Where the bytes go: into a hash, or into a buffer that shows them.
trait Sink {
    fn put(&mut self, bytes: &[u8]);

    fn field(&mut self, bytes: &[u8]) {
        self.put(&(bytes.len() as u32).to_be_bytes());
        self.put(bytes);
    }

    fn text(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.field(text.as_bytes()),
            None => self.put(&NULL.to_be_bytes()),
        }
    }

    fn int(&mut self, number: Option<i64>) {
        match number {
            Some(number) => self.field(&number.to_be_bytes()),
            None => self.put(&NULL.to_be_bytes()),
        }
    }
}

impl Sink for Sha256 {
    fn put(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// What a row says beside its personal fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leaf<'a> {
    /// Microseconds since 2000-01-01 00:00 UTC (PostgreSQL's timestamptz); the bytes count from 1970.
    pub created_at: i64,
    pub action: &'a str,
    pub status: i32,
    pub kek_id: Option<&'a str>,
    pub key_version: Option<i32>,
    pub db_role: &'a str,
    pub login_role: Option<&'a str>,
    pub identity: Option<&'a str>,
    pub issuer: Option<&'a str>,
    pub token_kid: Option<&'a str>,
    pub grant_id: Option<i64>,
}

impl Leaf<'_> {
    /// Writes the bytes. `personal` is the digest of the personal fields.
    pub fn encode(&self, personal: &Hash, into: &mut Vec<u8>) {
        self.put(personal, into);
    }

    /// The hash of the leaf: SHA-256 of a zero byte and the bytes (RFC 6962, section 2.1).
    pub fn hash(&self, personal: &Hash) -> Hash {
        let mut hash = Sha256::new_with_prefix([0]);
        self.put(personal, &mut hash);
        hash.finalize().into()
    }

    fn put(&self, personal: &Hash, into: &mut impl Sink) {
        into.text(Some(LEAF));
        into.int(Some(self.created_at.wrapping_add(EPOCH)));
        into.text(Some(self.action));
        into.int(Some(self.status.into()));
        into.text(self.kek_id);
        into.int(self.key_version.map(i64::from));
        into.text(Some(self.db_role));
        into.text(self.login_role);
        into.text(self.identity);
        into.text(self.issuer);
        into.text(self.token_kid);
        into.int(self.grant_id);
        into.field(personal);
    }
}

/// The fields of a row that `vault_redact_audit()` can take away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Personal<'a> {
    pub user_id: Option<&'a str>,
    pub ip_address: Option<&'a str>,
    pub user_agent: Option<&'a str>,
    pub request_id: Option<&'a str>,
    pub context: Option<&'a str>,
    pub application_name: Option<&'a str>,
    pub token_id: Option<&'a str>,
    pub actor: Option<&'a str>,
}

impl Personal<'_> {
    /// Their hash. It stays when they go, so that the leaf can still be computed.
    pub fn digest(&self, salt: &Salt) -> Hash {
        let mut hash = Sha256::new();
        hash.text(Some(PERSONAL));
        hash.field(salt);
        for field in [
            self.user_id,
            self.ip_address,
            self.user_agent,
            self.request_id,
            self.context,
            self.application_name,
            self.token_id,
            self.actor,
        ] {
            hash.text(field);
        }
        hash.finalize().into()
    }
}

/// A row from before the tree. It has no salt and no place of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OldRow<'a> {
    pub id: i64,
    /// Microseconds since 2000-01-01 00:00 UTC.
    pub created_at: i64,
    pub action: &'a str,
    pub status: i32,
    pub kek_id: Option<&'a str>,
    pub key_version: Option<i32>,
    pub db_role: &'a str,
}

impl OldRow<'_> {
    /// Its hash in the tree of old rows, to whose head the first leaf commits.
    pub fn hash(&self, personal: &Hash) -> Hash {
        let mut hash = Sha256::new_with_prefix([0]);
        hash.text(Some(OLD_ROW));
        hash.int(Some(self.id));
        hash.int(Some(self.created_at.wrapping_add(EPOCH)));
        hash.text(Some(self.action));
        hash.int(Some(self.status.into()));
        hash.text(self.kek_id);
        hash.int(self.key_version.map(i64::from));
        hash.text(Some(self.db_role));
        hash.field(personal);
        hash.finalize().into()
    }
}

/// The personal fields of such a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OldPersonal<'a> {
    pub user_id: Option<&'a str>,
    pub ip_address: Option<&'a str>,
    pub user_agent: Option<&'a str>,
    pub request_id: Option<&'a str>,
    pub context: Option<&'a str>,
}

impl OldPersonal<'_> {
    pub fn digest(&self) -> Hash {
        let mut hash = Sha256::new();
        hash.text(Some(OLD_PERSONAL));
        for field in [self.user_id, self.ip_address, self.user_agent, self.request_id, self.context] {
            hash.text(field);
        }
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> (Leaf<'static>, Personal<'static>) {
        let leaf = Leaf {
            created_at: 0,
            action: "fetch",
            status: 200,
            kek_id: Some("env-v1"),
            key_version: Some(1),
            db_role: "app",
            login_role: Some("app"),
            ..Leaf::default()
        };
        (leaf, Personal { user_id: Some("alice"), ..Personal::default() })
    }

    #[test]
    fn each_field_changes_the_hash() {
        let (leaf, personal) = row();
        let salt = [7; SALT_BYTES];
        let hash = leaf.hash(&personal.digest(&salt));
        let leaves = [
            Leaf { created_at: 1, ..leaf },
            Leaf { action: "rotate", ..leaf },
            Leaf { status: 404, ..leaf },
            Leaf { kek_id: None, ..leaf },
            Leaf { key_version: None, ..leaf },
            Leaf { db_role: "other", ..leaf },
            Leaf { login_role: None, ..leaf },
            Leaf { identity: Some("token"), ..leaf },
            Leaf { issuer: Some("i"), ..leaf },
            Leaf { token_kid: Some("k"), ..leaf },
            Leaf { grant_id: Some(1), ..leaf },
        ];
        for changed in leaves {
            assert_ne!(changed.hash(&personal.digest(&salt)), hash, "{changed:?}");
        }
        let others = [
            Personal { user_id: None, ..personal },
            Personal { ip_address: Some("x"), ..personal },
            Personal { user_agent: Some("x"), ..personal },
            Personal { request_id: Some("x"), ..personal },
            Personal { context: Some("x"), ..personal },
            Personal { application_name: Some("x"), ..personal },
            Personal { token_id: Some("x"), ..personal },
            Personal { actor: Some("x"), ..personal },
        ];
        for changed in others {
            assert_ne!(leaf.hash(&changed.digest(&salt)), hash, "{changed:?}");
        }
        assert_ne!(leaf.hash(&personal.digest(&[8; SALT_BYTES])), hash);
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Frozen: a later version must verify what this one wrote. Recomputed by `vectors/audit_leaf.py`.
    #[test]
    fn vectors() {
        let full = Leaf {
            created_at: 988_787_289_123_456,
            action: "fetch",
            status: 200,
            kek_id: Some("env-v1"),
            key_version: Some(3),
            db_role: "app",
            login_role: Some("authenticator"),
            identity: Some("grant"),
            issuer: Some("idp"),
            token_kid: Some("k1"),
            grant_id: Some(42),
        };
        let personal = Personal {
            user_id: Some("alice"),
            ip_address: Some("192.0.2.7"),
            user_agent: Some("curl/8"),
            request_id: Some("r-1"),
            context: Some("c"),
            application_name: Some("shop"),
            token_id: Some("t-1"),
            actor: Some("bätch"),
        };
        let salt = std::array::from_fn(|at| at as u8);
        let sparse = Leaf { created_at: -1, action: "check", status: 404, db_role: "r", ..Leaf::default() };
        let nobody = Personal::default();
        let (digest, empty) = (personal.digest(&salt), nobody.digest(&[0; SALT_BYTES]));
        assert_eq!(hex(&digest), "76ebbc71ba3fa6782dcccace422c173f643fd3b47a57c60525defc64fa464005");
        assert_eq!(hex(&full.hash(&digest)), "d4689fc16eda81e7a42569a1e3588f82a9a164cb6831d49bcd1ba585c33c7891");
        assert_eq!(hex(&empty), "3d4e1f8e43a579652e35d41e0642e826a51296c05640dd07a30a204e93aedc4b");
        assert_eq!(hex(&sparse.hash(&empty)), "f6d68333aa72a80b135abd85a26a8d38ac5b8783d8e040dbc84cc41a69b19e27");
        let old = |id, leaf: &Leaf<'static>, personal: &Personal<'_>| {
            let Personal { user_id, ip_address, user_agent, request_id, context, .. } = *personal;
            let Leaf { created_at, action, status, kek_id, key_version, db_role, .. } = *leaf;
            let digest = OldPersonal { user_id, ip_address, user_agent, request_id, context }.digest();
            hex(&OldRow { id, created_at, action, status, kek_id, key_version, db_role }.hash(&digest))
        };
        assert_eq!(old(7, &full, &personal), "c09d5c04881dd148848053f894206ed2da48d3d4ee101e149887937e8be06527");
        assert_eq!(old(1, &sparse, &nobody), "48d555b3041b2af9a496349a64e7825b36644c0cb8b1cb516969c4eab8af282d");
        let mut bytes = Vec::new();
        sparse.encode(&empty, &mut bytes);
        let specified = include_str!("../../../docs/formats/audit-leaf.md").replace('\n', "");
        assert!(specified.contains(&hex(&bytes)), "{}", hex(&bytes));
    }

    #[test]
    fn a_text_cannot_pass_for_its_neighbour() {
        let one = Personal { user_id: Some("ab"), ip_address: Some("c"), ..Personal::default() };
        let other = Personal { user_id: Some("a"), ip_address: Some("bc"), ..Personal::default() };
        assert_ne!(one.digest(&[0; SALT_BYTES]), other.digest(&[0; SALT_BYTES]));
    }

    #[test]
    fn the_shown_bytes_are_the_hashed_ones() {
        let (leaf, personal) = row();
        let digest = personal.digest(&[7; SALT_BYTES]);
        let mut bytes = Vec::new();
        leaf.encode(&digest, &mut bytes);
        assert_eq!(crate::tree::hash_leaf(&bytes), leaf.hash(&digest));
    }
}
