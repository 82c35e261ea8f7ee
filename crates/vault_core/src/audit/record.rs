//! One row of the audit trail, and its compact form for shared memory. Pure: no server, no unsafe.

use crate::crypto::wrap::{KEK_ID_MAX, USER_ID_MAX};

/// Bounds of the text columns beside user_id and kek_id, in bytes of UTF-8. What is longer is cut at a character boundary.
pub const MAX_DB_ROLE: usize = 63;
pub const MAX_IP_ADDRESS: usize = 64;
pub const MAX_USER_AGENT: usize = 256;
pub const MAX_REQUEST_ID: usize = 128;
pub const MAX_CONTEXT: usize = 128;
pub const MAX_ISSUER: usize = 63;
pub const MAX_TOKEN_ID: usize = 64;
pub const MAX_TOKEN_KID: usize = 64;
pub const MAX_APPLICATION_NAME: usize = 63;
const TEXTS: usize = 13;

/// Room that every encoded record fits in: the fixed part, then thirteen texts, each behind two bytes of length.
pub const RECORD_BYTES: usize = {
    let texts = USER_ID_MAX
        + KEK_ID_MAX
        + MAX_DB_ROLE
        + MAX_IP_ADDRESS
        + MAX_USER_AGENT
        + MAX_REQUEST_ID
        + MAX_CONTEXT
        + MAX_ISSUER
        + MAX_TOKEN_ID
        + MAX_TOKEN_KID
        + MAX_DB_ROLE
        + MAX_DB_ROLE
        + MAX_APPLICATION_NAME;
    (FIXED_BYTES + TEXTS * 2 + texts).next_multiple_of(8)
};
/// created_at (8), action (1), status (2), key_version (4), identity (1), grant_id (8).
const FIXED_BYTES: usize = 24;
/// A length that says "NULL".
const NULL: u16 = u16::MAX;

/// What was called or done. The names are the predecessor's where it had one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Action {
    Init = 1,
    Fetch = 2,
    FailedFetch = 3,
    Rotate = 4,
    FailedInit = 5,
    FailedRotate = 6,
    Erase = 7,
    Purge = 8,
    Reload = 9,
    Rewrap = 10,
    FailedRewrap = 11,
    Retire = 12,
    Check = 13,
    Rename = 14,
    FailedLogin = 15,
    RevokeTokens = 16,
    ExplainToken = 17,
    ReloadIssuers = 18,
    Grant = 19,
    ApproveGrant = 20,
    RevokeGrant = 21,
    RetireGrant = 22,
    RetireVersion = 23,
    DisableVersion = 24,
    RestoreVersion = 25,
    Destroy = 26,
    ScheduleErase = 27,
    CancelErase = 28,
    RecoverySet = 29,
    RecoveryClear = 30,
    ZkEnable = 31,
    ZkDisable = 32,
    Encrypt = 33,
    Decrypt = 34,
    Derive = 35,
    Index = 36,
    Seal = 37,
    Export = 38,
    Import = 39,
    Reencrypt = 40,
    OldRows = 41,
    Redact = 42,
    NewTrail = 43,
    Alarm = 44,
    MarkHoney = 45,
}

impl Action {
    /// The number of actions.
    pub const COUNT: usize = 45;
    pub const ALL: [Self; Self::COUNT] = [
        Self::Init,
        Self::Fetch,
        Self::FailedFetch,
        Self::Rotate,
        Self::FailedInit,
        Self::FailedRotate,
        Self::Erase,
        Self::Purge,
        Self::Reload,
        Self::Rewrap,
        Self::FailedRewrap,
        Self::Retire,
        Self::Check,
        Self::Rename,
        Self::FailedLogin,
        Self::RevokeTokens,
        Self::ExplainToken,
        Self::ReloadIssuers,
        Self::Grant,
        Self::ApproveGrant,
        Self::RevokeGrant,
        Self::RetireGrant,
        Self::RetireVersion,
        Self::DisableVersion,
        Self::RestoreVersion,
        Self::Destroy,
        Self::ScheduleErase,
        Self::CancelErase,
        Self::RecoverySet,
        Self::RecoveryClear,
        Self::ZkEnable,
        Self::ZkDisable,
        Self::Encrypt,
        Self::Decrypt,
        Self::Derive,
        Self::Index,
        Self::Seal,
        Self::Export,
        Self::Import,
        Self::Reencrypt,
        Self::OldRows,
        Self::Redact,
        Self::NewTrail,
        Self::Alarm,
        Self::MarkHoney,
    ];

    /// The text of the column `action`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Fetch => "fetch",
            Self::FailedFetch => "failed_fetch",
            Self::Rotate => "rotate",
            Self::FailedInit => "failed_init",
            Self::FailedRotate => "failed_rotate",
            Self::Erase => "erase",
            Self::Purge => "purge",
            Self::Reload => "reload",
            Self::Rewrap => "rewrap",
            Self::FailedRewrap => "failed_rewrap",
            Self::Retire => "retire",
            Self::Check => "check",
            Self::Rename => "rename",
            Self::FailedLogin => "failed_login",
            Self::RevokeTokens => "revoke_tokens",
            Self::ExplainToken => "explain_token",
            Self::ReloadIssuers => "reload_issuers",
            Self::Grant => "grant",
            Self::ApproveGrant => "approve_grant",
            Self::RevokeGrant => "revoke_grant",
            Self::RetireGrant => "retire_grant",
            Self::RetireVersion => "retire_version",
            Self::DisableVersion => "disable_version",
            Self::RestoreVersion => "restore_version",
            Self::Destroy => "destroy",
            Self::ScheduleErase => "schedule_erase",
            Self::CancelErase => "cancel_erase",
            Self::RecoverySet => "recovery_set",
            Self::RecoveryClear => "recovery_clear",
            Self::ZkEnable => "zk_enable",
            Self::ZkDisable => "zk_disable",
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Derive => "derive",
            Self::Index => "index",
            Self::Seal => "seal",
            Self::Export => "export",
            Self::Import => "import",
            Self::Reencrypt => "reencrypt",
            Self::OldRows => "old_rows",
            Self::Redact => "redact",
            Self::NewTrail => "new_trail",
            Self::Alarm => "alarm",
            Self::MarkHoney => "mark_honey",
        }
    }

    /// The action of the row that says that this one did not succeed.
    pub fn failed(self) -> Self {
        match self {
            Self::Init => Self::FailedInit,
            Self::Fetch => Self::FailedFetch,
            Self::Rotate => Self::FailedRotate,
            Self::Rewrap => Self::FailedRewrap,
            other => other,
        }
    }

    /// Its place in `ALL`: the codes have no gap.
    pub fn place(self) -> usize {
        self as usize - 1
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }
}

/// What established the user of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum IdentityKind {
    /// The application's word, in app.current_user_id.
    Asserted = 1,
    /// The role that logged in.
    Role = 2,
    /// A verified token.
    Token = 3,
    /// A verified token that counts in one session or transaction only.
    Bound = 4,
    /// A grant by the user to a service.
    Grant = 5,
}

impl IdentityKind {
    const ALL: [Self; 5] = [Self::Asserted, Self::Role, Self::Token, Self::Bound, Self::Grant];

    /// The text of the column `identity`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Asserted => "asserted",
            Self::Role => "role",
            Self::Token => "token",
            Self::Bound => "bound",
            Self::Grant => "grant",
        }
    }

    /// The kind behind a byte; 0 is none.
    fn from_code(code: u8) -> Result<Option<Self>, Damaged> {
        let kind = Self::ALL.into_iter().find(|kind| *kind as u8 == code);
        if code != 0 && kind.is_none() { Err(Damaged) } else { Ok(kind) }
    }
}

/// How the user of a call was established. Everything is absent where no user was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Evidence<'a> {
    pub identity: Option<IdentityKind>,
    /// The issuer's name in the issuers file.
    pub issuer: Option<&'a str>,
    /// The token's jti, or else the beginning of its hash.
    pub token_id: Option<&'a str>,
    pub token_kid: Option<&'a str>,
    /// The service that a grant let act for the user.
    pub actor: Option<&'a str>,
    /// Not 0.
    pub grant_id: Option<i64>,
}

/// One row of the trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// Microseconds since 2000-01-01 00:00 UTC, PostgreSQL's TimestampTz.
    pub created_at: i64,
    pub action: Action,
    /// HTTP-like: 200, 201, 401, 404, 409, 500, 503.
    pub status: u16,
    pub key_version: Option<i32>,
    pub user_id: Option<&'a str>,
    pub kek_id: Option<&'a str>,
    /// The role that called: what SET ROLE chose.
    pub db_role: &'a str,
    /// The role that logged in.
    pub login_role: &'a str,
    pub application_name: Option<&'a str>,
    pub ip_address: Option<&'a str>,
    pub user_agent: Option<&'a str>,
    pub request_id: Option<&'a str>,
    pub context: Option<&'a str>,
    pub evidence: Evidence<'a>,
}

/// A record that does not decode: shared memory was damaged.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("damaged audit record")]
pub struct Damaged;

impl<'a> Record<'a> {
    /// A row of the vault's own, for `..`: no user, no client, status 200. `role` is the vault's.
    pub fn of_writer(created_at: i64, role: &'a str) -> Self {
        Self {
            created_at,
            action: Action::Check,
            status: 200,
            key_version: None,
            user_id: None,
            kek_id: None,
            db_role: role,
            login_role: role,
            application_name: None,
            ip_address: None,
            user_agent: None,
            request_id: None,
            context: None,
            evidence: Evidence::default(),
        }
    }

    /// The same bytes as `encode` writes, to be kept.
    pub fn encoded(&self) -> Vec<u8> {
        let mut bytes = [0; RECORD_BYTES];
        let length = self.encode(&mut bytes);
        bytes[..length].to_vec()
    }

    /// Writes the record and returns its length. Texts over their bound are cut, never refused: a row must be written.
    pub fn encode(&self, buffer: &mut [u8; RECORD_BYTES]) -> usize {
        let mut writer = Writer { buffer, length: 0 };
        writer.bytes(&self.created_at.to_le_bytes());
        writer.bytes(&[self.action as u8]);
        writer.bytes(&self.status.to_le_bytes());
        writer.bytes(&self.key_version.unwrap_or(0).to_le_bytes());
        writer.bytes(&[self.evidence.identity.map_or(0, |kind| kind as u8)]);
        writer.bytes(&self.evidence.grant_id.unwrap_or(0).to_le_bytes());
        writer.text(self.user_id, USER_ID_MAX);
        writer.text(self.kek_id, KEK_ID_MAX);
        writer.text(Some(self.db_role), MAX_DB_ROLE);
        writer.text(self.ip_address, MAX_IP_ADDRESS);
        writer.text(self.user_agent, MAX_USER_AGENT);
        writer.text(self.request_id, MAX_REQUEST_ID);
        writer.text(self.context, MAX_CONTEXT);
        writer.text(self.evidence.issuer, MAX_ISSUER);
        writer.text(self.evidence.token_id, MAX_TOKEN_ID);
        writer.text(self.evidence.token_kid, MAX_TOKEN_KID);
        writer.text(self.evidence.actor, MAX_DB_ROLE);
        writer.text(Some(self.login_role), MAX_DB_ROLE);
        writer.text(self.application_name, MAX_APPLICATION_NAME);
        writer.length
    }

    /// Action and status of what `encode` wrote.
    pub fn peek(bytes: &[u8]) -> Option<(Action, u16)> {
        let [action, low, high] = *bytes.get(8..11)?.first_chunk()?;
        Some((Action::from_code(action)?, u16::from_le_bytes([low, high])))
    }

    /// Reads what `encode` wrote.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Damaged> {
        let mut reader = Reader { bytes };
        let created_at = i64::from_le_bytes(reader.array()?);
        let action = Action::from_code(reader.array::<1>()?[0]).ok_or(Damaged)?;
        let status = u16::from_le_bytes(reader.array()?);
        let key_version = i32::from_le_bytes(reader.array()?);
        let identity = IdentityKind::from_code(reader.array::<1>()?[0])?;
        let grant_id = i64::from_le_bytes(reader.array()?);
        let mut record = Self {
            created_at,
            action,
            status,
            key_version: (key_version != 0).then_some(key_version),
            login_role: "",
            application_name: None,
            user_id: reader.text()?,
            kek_id: reader.text()?,
            db_role: reader.text()?.ok_or(Damaged)?,
            ip_address: reader.text()?,
            user_agent: reader.text()?,
            request_id: reader.text()?,
            context: reader.text()?,
            evidence: Evidence {
                identity,
                issuer: reader.text()?,
                token_id: reader.text()?,
                token_kid: reader.text()?,
                actor: reader.text()?,
                grant_id: (grant_id != 0).then_some(grant_id),
            },
        };
        record.login_role = reader.text()?.ok_or(Damaged)?;
        record.application_name = reader.text()?;
        if reader.bytes.is_empty() { Ok(record) } else { Err(Damaged) }
    }
}

struct Writer<'a> {
    buffer: &'a mut [u8; RECORD_BYTES],
    length: usize,
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.buffer[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    fn text(&mut self, text: Option<&str>, max: usize) {
        // An empty text is as good as none, and CSV cannot tell them apart: the trail has no empty texts.
        match text.filter(|text| !text.is_empty()) {
            None => self.bytes(&NULL.to_le_bytes()),
            Some(text) => {
                let text = cut(text, max);
                self.bytes(&(text.len() as u16).to_le_bytes());
                self.bytes(text.as_bytes());
            }
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        let (head, tail) = self.bytes.split_first_chunk::<N>().ok_or(Damaged)?;
        self.bytes = tail;
        Ok(*head)
    }

    fn text(&mut self) -> Result<Option<&'a str>, Damaged> {
        let length = u16::from_le_bytes(self.array()?);
        if length == NULL {
            return Ok(None);
        }
        let (head, tail) =
            self.bytes.split_at_checked(length.into()).filter(|(head, _)| !head.is_empty()).ok_or(Damaged)?;
        self.bytes = tail;
        std::str::from_utf8(head).map(Some).map_err(|_| Damaged)
    }
}

/// The longest start of the text that has at most `max` bytes and ends at a character boundary.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// What a client claims about itself, made fit for one line of a log or a terminal: at most `max` bytes, control
/// characters (and the marks that reorder text) as `\u{..}`, invalid UTF-8 as U+FFFD. `None` where nothing is left.
pub fn sanitized(claim: &[u8], max: usize) -> Option<String> {
    // An escape is longer than what it stands for, so looking at max bytes' worth of characters is enough.
    let text = String::from_utf8_lossy(&claim[..claim.len().min(max + 3)]);
    let mut clean = String::with_capacity(text.len().min(max));
    for character in text.chars() {
        let escaped =
            if is_unsafe_to_show(character) { character.escape_unicode().to_string() } else { character.to_string() };
        if clean.len() + escaped.len() > max {
            break;
        }
        clean.push_str(&escaped);
    }
    (!clean.is_empty()).then_some(clean)
}

fn is_unsafe_to_show(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(record: &Record<'_>) {
        let mut buffer = [0; RECORD_BYTES];
        let length = record.encode(&mut buffer);
        assert_eq!(Record::decode(&buffer[..length]).as_ref(), Ok(record));
        assert_eq!(Record::peek(&buffer[..length]), Some((record.action, record.status)));
    }

    fn longest(bytes: &'static str) -> Record<'static> {
        Record {
            created_at: i64::MIN,
            action: Action::FailedRotate,
            status: 503,
            key_version: Some(i32::MAX),
            user_id: Some(&bytes[..USER_ID_MAX]),
            kek_id: Some(&bytes[..KEK_ID_MAX]),
            db_role: &bytes[..MAX_DB_ROLE],
            login_role: &bytes[..MAX_DB_ROLE],
            application_name: Some(&bytes[..MAX_APPLICATION_NAME]),
            ip_address: Some(&bytes[..MAX_IP_ADDRESS]),
            user_agent: Some(&bytes[..MAX_USER_AGENT]),
            request_id: Some(&bytes[..MAX_REQUEST_ID]),
            context: Some(&bytes[..MAX_CONTEXT]),
            evidence: Evidence {
                identity: Some(IdentityKind::Grant),
                issuer: Some(&bytes[..MAX_ISSUER]),
                token_id: Some(&bytes[..MAX_TOKEN_ID]),
                token_kid: Some(&bytes[..MAX_TOKEN_KID]),
                actor: Some(&bytes[..MAX_DB_ROLE]),
                grant_id: Some(i64::MAX),
            },
        }
    }

    #[test]
    fn the_longest_record_fits_and_comes_back() {
        round_trip(&longest(Box::leak("x".repeat(1000).into_boxed_str())));
    }

    #[test]
    fn an_empty_text_becomes_null() {
        let longest = longest(Box::leak("x".repeat(1000).into_boxed_str()));
        let record = Record { context: Some(""), ..longest.clone() };
        let mut buffer = [0; RECORD_BYTES];
        let length = record.encode(&mut buffer);
        assert_eq!(Record::decode(&buffer[..length]), Ok(Record { context: None, ..longest }));
    }

    #[test]
    fn a_text_over_its_bound_is_cut_between_characters() {
        let long = "é".repeat(300);
        let record = Record { user_agent: Some(&long), ..longest(Box::leak("x".repeat(1000).into_boxed_str())) };
        let mut buffer = [0; RECORD_BYTES];
        let length = record.encode(&mut buffer);
        assert_eq!(Record::decode(&buffer[..length]).unwrap().user_agent, Some("é".repeat(128).as_str()));
    }

    #[test]
    fn every_action_has_a_code_of_its_own() {
        for action in Action::ALL {
            assert_eq!(Action::from_code(action as u8), Some(action));
            assert_eq!(Action::ALL[action.place()], action);
        }
        assert_eq!(Action::from_code(0), None);
    }

    #[test]
    fn claims_cannot_break_a_line_or_reorder_it() {
        assert_eq!(sanitized(b"curl/8\r\nSet: x", 64).unwrap(), "curl/8\\u{d}\\u{a}Set: x");
        assert_eq!(sanitized("a\u{202e}b".as_bytes(), 64).unwrap(), "a\\u{202e}b");
        assert_eq!(sanitized("a\u{61c}b".as_bytes(), 64).unwrap(), "a\\u{61c}b");
        assert_eq!(sanitized(b"\xff", 64).unwrap(), "\u{fffd}");
        assert_eq!(sanitized(b"", 64), None);
    }

    proptest! {
        #[test]
        fn any_record_comes_back(
            created_at: i64, status: u16, key_version in 1..=i32::MAX,
            user_id in proptest::option::of("\\PC{1,60}"), context in proptest::option::of("\\PC{1,30}"),
            db_role in "\\PC{1,15}",
        ) {
            round_trip(&Record {
                created_at, action: Action::Fetch, status, key_version: Some(key_version),
                user_id: user_id.as_deref(), kek_id: None, db_role: &db_role, login_role: "l", application_name: None,
                ip_address: None, user_agent: None, request_id: Some("r"), context: context.as_deref(),
                evidence: Evidence { identity: Some(IdentityKind::Token), issuer: Some("i"), ..Evidence::default() },
            });
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Record::decode(&bytes);
        }

        #[test]
        fn any_claim_becomes_short_printable_text(claim in proptest::collection::vec(any::<u8>(), 0..400), max in 1usize..130) {
            if let Some(text) = sanitized(&claim, max) {
                prop_assert!(text.len() <= max);
                prop_assert!(!text.chars().any(is_unsafe_to_show));
            }
        }
    }
}
