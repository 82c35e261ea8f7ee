//! Every error that a caller can see: the only place that names an SQLSTATE. Messages are lower case and hold no secret;
//! each comes with a hint in the imperative.

use std::time::Duration;

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::{ErrorReport, ErrorReportable};
use vault_core::crypto::wrap::USER_ID_MAX;
use vault_core::data::value::Type;
use vault_core::identity::token::TokenError;
use vault_core::integrity::Problem;
use vault_core::seal::PublicKeyError;
use vault_core::transfer::{BadBundle, BadRecord, TargetError};

use crate::pg::subxact::unpack_sqlstate;

/// Why there is no user, or not one who may do this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("app.current_user_id is not set")]
    Missing,
    #[error("app.current_user_id is longer than {USER_ID_MAX} bytes")]
    TooLong,
    #[error("app.current_user_id is not valid UTF-8")]
    NotText,
    #[error("there is no token")]
    NoToken,
    #[error("{0}")]
    Token(#[from] TokenError),
    #[error("vault_ext has no issuers: {0}")]
    NoIssuers(String),
    #[error("this transaction has begun with another user")]
    Changed,
}

impl IdentityError {
    /// What the audit row says.
    pub fn context(&self) -> &'static str {
        match self {
            Self::Missing => "no-identity",
            Self::TooLong => "identity-too-long",
            Self::NotText => "identity-not-text",
            Self::NoToken => "no-token",
            Self::Token(error) => error.context(),
            Self::NoIssuers(_) => "no-issuers",
            Self::Changed => "identity-changed",
        }
    }

    /// HTTP-like, for the audit row.
    pub fn status(&self) -> u16 {
        match self {
            Self::Token(error) if error.is_insufficient() => 403,
            Self::NoIssuers(_) => 503,
            _ => 401,
        }
    }

    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            Self::Token(error) if error.is_insufficient() => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            Self::NoIssuers(_) => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            _ => PgSqlErrorCode::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
        }
    }

    /// What a client can act on (RFC 9470, section 3).
    fn detail(&self) -> Option<String> {
        let Self::Token(TokenError::StepUp { max_age, acr }) = self else { return None };
        let mut detail = "insufficient_user_authentication".to_owned();
        if let Some(max_age) = max_age {
            detail += &format!(", max_age={max_age}");
        }
        if !acr.is_empty() {
            detail += &format!(", acr_values=\"{}\"", acr.join(" "));
        }
        Some(detail)
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::Missing | Self::TooLong | Self::NotText => {
                "Run SET LOCAL app.current_user_id = '<user>' in this transaction (or SET in this session) first."
            }
            Self::NoToken => {
                "Give the user's token to the function, or call vault_login(token) in this transaction first."
            }
            Self::Token(TokenError::Expired) => "Get a new token from the issuer.",
            Self::Token(TokenError::StepUp { .. }) => {
                "Let the user sign in again as the detail says, and call with the new token."
            }
            Self::Token(TokenError::Scope(_)) => "Ask the issuer for a token with this scope.",
            Self::Token(TokenError::Role(_)) => "Connect as one of the roles that the issuers file allows.",
            Self::Token(TokenError::NotBound("transaction")) => {
                "Ask for SELECT vault_challenge() in this transaction and for a token with it."
            }
            Self::Token(TokenError::NotBound(_)) => {
                "Ask for SELECT vault_session() in this session and for a token with it and a rising seq."
            }
            Self::Token(TokenError::Replayed) => "Use each token once; its seq must rise within a session.",
            Self::Token(_) => {
                "Get a token that one of the issuers made for this database; SELECT * FROM vault_explain_token(token) tells an administrator more."
            }
            Self::NoIssuers(_) => {
                "Set vault_ext.issuers_file or vault_ext.issuers_command, or correct what it gives and call vault_reload_issuers()."
            }
            Self::Changed => "Use one transaction for each user (vault_ext.pin_identity).",
        }
    }
}

/// Why a service may not act for a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    #[error("this user has granted nothing to a role of yours")]
    None,
    #[error("the grant is not approved yet")]
    NotApproved,
    #[error("the grant is revoked")]
    Revoked,
    #[error("the grant has expired")]
    Expired,
    #[error("the grant is not valid yet")]
    NotYet,
    #[error("the grant is used up")]
    UsedUp,
    #[error("a grant with max_uses cannot be used in a REPEATABLE READ or SERIALIZABLE transaction")]
    OldSnapshot,
}

impl GrantError {
    /// What the audit row says.
    pub fn context(self) -> &'static str {
        match self {
            Self::None => "no-grant",
            Self::NotApproved => "grant-not-approved",
            Self::Revoked => "grant-revoked",
            Self::Expired => "grant-expired",
            Self::NotYet => "grant-not-yet-valid",
            Self::UsedUp => "grant-used-up",
            Self::OldSnapshot => "grant-old-snapshot",
        }
    }

    fn sqlstate(self) -> PgSqlErrorCode {
        match self {
            Self::None | Self::NotApproved => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            Self::Revoked | Self::Expired | Self::NotYet => PgSqlErrorCode::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
            Self::UsedUp => PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            Self::OldSnapshot => PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Self::NotApproved => "Let another member of vault_ext_grantor call vault_approve_grant().",
            Self::OldSnapshot => "Use READ COMMITTED, so that each use is counted.",
            _ => "Ask the user for vault_grant(), or a member of vault_ext_grantor for vault_grant_for().",
        }
    }
}

/// Why a key that exists is not given, or not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("the vault of this user is to be erased after {0}")]
    EraseScheduled(String),
    #[error("the vault of this user was erased on {0}")]
    Erased(String),
    #[error("the vault of this user is in zero-knowledge mode: the server does not have its key")]
    ZeroKnowledge,
    #[error("the vault of this user is in zero-knowledge mode: only the client could replace its key")]
    RotateInZeroKnowledge,
    #[error("the key of this user has no version {0}")]
    NoVersion(i32),
    #[error("version {0} of this user's key is disabled")]
    Disabled(i32),
    #[error("version {0} of this user's key is to be destroyed")]
    DestroyScheduled(i32),
    #[error("version {0} of this user's key is destroyed")]
    Destroyed(i32),
    #[error("version {0} is the current one of this user's key")]
    Current(i32),
}

impl KeyError {
    /// What the audit row says.
    pub fn context(&self) -> &'static str {
        match self {
            Self::EraseScheduled(_) => "erase-scheduled",
            Self::Erased(_) => "erased",
            Self::ZeroKnowledge => "zk-active",
            Self::RotateInZeroKnowledge => "zk-rotate-forbidden",
            Self::NoVersion(_) => "no-version",
            Self::Disabled(_) => "version-disabled",
            Self::DestroyScheduled(_) => "version-destroy-scheduled",
            Self::Destroyed(_) => "version-destroyed",
            Self::Current(_) => "version-current",
        }
    }

    /// HTTP-like, for the audit row.
    pub fn status(&self) -> u16 {
        match self {
            Self::NoVersion(_) => 404,
            Self::Destroyed(_) | Self::Erased(_) => 410,
            _ => 409,
        }
    }

    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            Self::NoVersion(_) | Self::Erased(_) => PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
            _ => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::EraseScheduled(_) => "Let an administrator call vault_cancel_erase() if it is not to be erased.",
            Self::ZeroKnowledge => {
                "Open the recovery wrap in the client, or leave the mode with vault_disable_zero_knowledge()."
            }
            Self::RotateInZeroKnowledge => {
                "Call vault_disable_zero_knowledge() with the key first, then rotate, and enable the mode with a new recovery code."
            }
            Self::NoVersion(_) => "SELECT * FROM vault_key_versions() lists the versions.",
            Self::Disabled(_) | Self::DestroyScheduled(_) => "Call vault_restore_key_version() to open it again.",
            Self::Destroyed(_) | Self::Erased(_) => {
                "Restore a backup of the database from before; nothing else brings this key back."
            }
            Self::Current(_) => "Call vault_rotate() first: only an old version can be closed.",
        }
    }
}

/// Why a value is not encrypted or decrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    #[error("the value does not open")]
    DoesNotOpen,
    #[error("the value holds {}, not what this function gives", type_name(*.0))]
    OtherType(Type),
    #[error("a value must not be longer than 64 MiB")]
    TooLong,
    #[error("this transaction has decrypted vault_ext.max_decrypts = {0} values")]
    TooManyDecrypts(u32),
}

fn type_name(kind: Type) -> &'static str {
    match kind {
        Type::Bytea => "bytea",
        Type::Text => "text",
        Type::Json => "jsonb",
    }
}

impl DataError {
    /// What the audit row says.
    pub fn context(self) -> &'static str {
        match self {
            Self::DoesNotOpen => "value-does-not-open",
            Self::OtherType(_) => "value-of-other-type",
            Self::TooLong => "value-too-long",
            Self::TooManyDecrypts(_) => "too-many-decrypts",
        }
    }

    /// HTTP-like, for the audit row.
    pub fn status(self) -> u16 {
        match self {
            Self::DoesNotOpen => 500,
            Self::OtherType(_) | Self::TooLong => 400,
            Self::TooManyDecrypts(_) => 429,
        }
    }

    fn sqlstate(self) -> PgSqlErrorCode {
        match self {
            Self::DoesNotOpen => PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            Self::OtherType(_) => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            Self::TooLong => PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            Self::TooManyDecrypts(_) => PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Self::DoesNotOpen => {
                "Give the user, the context and the purpose with which it was encrypted; if these are right, it was changed."
            }
            Self::OtherType(Type::Bytea) => "Use vault_decrypt().",
            Self::OtherType(Type::Text) => "Use vault_decrypt_text().",
            Self::OtherType(Type::Json) => "Use vault_decrypt_json().",
            Self::TooLong => "Encrypt it in pieces, or keep it outside the database under a key of vault_derive_key().",
            Self::TooManyDecrypts(_) => "Decrypt less in one transaction; an administrator can raise the limit.",
        }
    }
}

/// Why a recovery code is not accepted, or zero-knowledge mode not entered or left. The contexts are the predecessor's where it
/// had one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    #[error("no vault for this user")]
    NoVault,
    #[error("this user has no recovery wrap")]
    NoWrap,
    #[error("the recovery wrap is all that opens the key of this user")]
    InUse,
    #[error("old versions of this user's key can still be opened by the server")]
    OldVersions,
    #[error("nobody has shown that the recovery wrap of this user opens")]
    NotProven,
    #[error("this is not the key of this user")]
    KeyDiffers,
    #[error("nothing tells whether this is the key of this user")]
    NoKeyCheck,
}

impl RecoveryError {
    /// What the audit row says.
    pub fn context(self) -> &'static str {
        match self {
            Self::NoVault => "no-vault",
            Self::NoWrap => "no-recovery-wrap",
            Self::InUse => "zk-active",
            Self::OldVersions => "old-versions",
            Self::NotProven => "recovery-not-proven",
            Self::KeyDiffers => "key-differs",
            Self::NoKeyCheck => "no-key-check",
        }
    }

    /// HTTP-like, for the audit row.
    pub fn status(self) -> u16 {
        match self {
            Self::NoVault => 404,
            Self::NoWrap => 400,
            Self::NotProven | Self::KeyDiffers => 403,
            Self::InUse | Self::OldVersions | Self::NoKeyCheck => 409,
        }
    }

    fn sqlstate(self) -> PgSqlErrorCode {
        match self {
            Self::NoVault => PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
            // As for a token without the right scope: it is clear who the user is (else 28000), and not that he may do this.
            Self::NotProven | Self::KeyDiffers => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            _ => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Self::NoVault => "Call vault_init() once for this user.",
            Self::NoWrap => "Wrap the key with a recovery code in the client, and call vault_set_recovery() first.",
            Self::InUse => {
                "Call vault_disable_zero_knowledge() with the key first; after vault_set_recovery() with a new wrap the mode can be enabled again."
            }
            Self::OldVersions => {
                "Retire them with vault_retire_key_version() and enable the mode when they are destroyed; vault_rotate(destroy_old => true) leaves none behind."
            }
            Self::NotProven => {
                "Call vault_recovery_challenge(), open the stored recovery wrap with the code, and give HMAC-SHA256 of the key over \"vault_ext.recovery-proof.v1\" and the challenge, in this session and once."
            }
            Self::KeyDiffers => "Give the key that the recovery wrap of vault_get_master_key() holds.",
            Self::NoKeyCheck => {
                "Make sure in the client that this key opens the user's data; then let a superuser set vault_ext.require_recovery_proof = off for this call: the vault was moved in without a check value."
            }
        }
    }
}

/// Why a vault does not leave for another server, or does not arrive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    #[error("{0}")]
    Target(#[from] TargetError),
    #[error("this server exports no vaults")]
    NoRecipients,
    #[error("this server exports no vaults to the import key {0}")]
    NotRecipient(String),
    #[error("{0}")]
    Bundle(#[from] BadBundle),
    #[error("the bundle was made for the KEK \"{0}\", which is not loaded")]
    OtherKek(String),
    #[error("the bundle does not open")]
    DoesNotOpen,
    #[error("{0}")]
    Record(#[from] BadRecord),
    #[error("the bundle holds no valid vault: {0}")]
    Invalid(&'static str),
    #[error("old keys of a deleted vault of \"{0}\" are left")]
    OldKeysLeft(String),
}

impl TransferError {
    /// What the audit row says.
    pub fn context(&self) -> &'static str {
        match self {
            Self::Target(_) => "bad-import-key",
            Self::NoRecipients => "no-recipients",
            Self::NotRecipient(_) => "not-a-recipient",
            Self::Bundle(_) => "bad-bundle",
            Self::OtherKek(_) => "kek-not-loaded",
            Self::DoesNotOpen => "bundle-does-not-open",
            Self::Record(_) | Self::Invalid(_) => "bad-record",
            Self::OldKeysLeft(_) => "old-keys-left",
        }
    }

    /// HTTP-like, for the audit row.
    pub fn status(&self) -> u16 {
        match self {
            Self::NoRecipients | Self::NotRecipient(_) => 403,
            Self::OtherKek(_) => 503,
            Self::OldKeysLeft(_) => 409,
            _ => 400,
        }
    }

    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            Self::Target(_) | Self::Bundle(_) => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            Self::NoRecipients | Self::NotRecipient(_) | Self::OtherKek(_) => {
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            Self::DoesNotOpen | Self::Record(_) | Self::Invalid(_) => PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            Self::OldKeysLeft(_) => PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::Target(error) => error.hint(),
            Self::NoRecipients | Self::NotRecipient(_) => {
                "Let a superuser add the fingerprint to vault_ext.export_recipients, after comparing it with what vault_import_key() shows on the target server."
            }
            Self::Bundle(error) => error.hint(),
            Self::OtherKek(_) => {
                "Import it on the server that it was made for, or put that KEK back into the keyring, behind the first line."
            }
            Self::DoesNotOpen => {
                "Export the vault again, for the import key that this server shows now: the bundle was changed, cut off or made for another server."
            }
            Self::Record(_) | Self::Invalid(_) => {
                "Export the vault again, with the version of vault_ext that this server has; import nothing of unknown origin."
            }
            Self::OldKeysLeft(_) => {
                "Let a superuser delete them from vault_ext.old_keys if nobody needs them, and import the vault again."
            }
        }
    }
}

/// Why the trail could not be written. Nothing was released.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditFailure {
    #[error("the audit row was not written within {} ms", .limit.as_millis())]
    TimedOut { limit: Duration, waits_for: Option<String> },
    #[error("no background worker slot is free for the audit writer")]
    NoWorkerSlot,
    #[error("the audit writer cannot connect to this database")]
    CannotConnect,
    #[error("every audit slot of this session is taken by calls that were cancelled or refused")]
    NoSlot,
    #[error("the audit row could not be written")]
    Rejected { sqlstate: String },
    #[error("the audit row could not be written: {what}")]
    Broken { what: String, hint: String },
}

impl AuditFailure {
    /// A limit of the server that a DBA can raise, in contrast to a state that has to be repaired.
    pub fn is_a_limit(&self) -> bool {
        matches!(self, Self::NoWorkerSlot | Self::NoSlot)
    }

    pub fn detail(&self) -> Option<String> {
        match self {
            Self::TimedOut { waits_for, .. } => waits_for.clone(),
            Self::Rejected { sqlstate } => Some(format!("The audit writer got SQLSTATE {sqlstate}.")),
            _ => None,
        }
    }

    pub fn hint(&self) -> String {
        match self {
            Self::TimedOut { waits_for: Some(_), .. } => "End what holds the lock, or try again later; vault_ext.audit_timeout is the time limit.",
            Self::TimedOut { waits_for: None, .. } => "Look at the vault_ext audit writer in pg_stat_activity and at the server log; vault_ext.audit_timeout is the time limit.",
            Self::NoWorkerSlot => "Raise max_worker_processes: each database in use needs one worker for its audit trail.",
            Self::CannotConnect => "Look in the server log for the FATAL message of the vault_ext audit writer.",
            Self::NoSlot => "Try again when the audit writer has caught up; vault_ext.audit_slots is the limit.",
            Self::Rejected { .. } => "Look in the server log for the audit writer's message, and at constraints, triggers and privileges on vault_ext.encryption_vault_audit.",
            Self::Broken { hint, .. } => hint,
        }
        .into()
    }

    /// What the writer said of a record that it did not write: an SQLSTATE or, where the vault is not as it was made, what is
    /// wrong and how to mend it (a reason that the writer sends).
    pub fn rejected(sqlstate: i32, reason: Option<String>) -> Self {
        match reason.as_deref().and_then(|reason| reason.split_once('\n')) {
            Some((what, hint)) => Self::Broken { what: what.into(), hint: hint.into() },
            None => Self::Rejected { sqlstate: unpack_sqlstate(sqlstate) },
        }
    }
}

/// What a call of the vault can fail with. `sqlstate()` and `hint()` give the rest of the report.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("vault_ext is not in shared_preload_libraries")]
    NotPreloaded,
    #[error("vault_ext has no usable KEK: {0}")]
    NoKek(String),
    #[error("{0}")]
    Identity(#[from] IdentityError),
    #[error("the issuers were not reloaded: {0}")]
    IssuersRefused(String, String),
    #[error("{0}")]
    Grant(#[from] GrantError),
    #[error("{0}")]
    Key(#[from] KeyError),
    #[error("{0}")]
    Recovery(#[from] RecoveryError),
    #[error("{0}")]
    PublicKey(#[from] PublicKeyError),
    #[error("{0}")]
    Transfer(#[from] TransferError),
    #[error("{0}")]
    Data(#[from] DataError),
    #[error("the system gave no memory for a key")]
    NoMemory,
    #[error("row-level security is off in this session")]
    RowSecurityOff,
    #[error("no vault for this user")]
    NoVault,
    #[error("the user \"{0}\" has a vault already")]
    UserHasVault(String),
    #[error("the KEK \"{0}\" of this vault is not loaded")]
    KekNotLoaded(String),
    #[error("the loaded KEK \"{kek_id}\" is not the one that this database knows under that id")]
    KekDiffers { kek_id: String, loaded: String, known: Option<String> },
    #[error("the KEK \"{0}\" is retired in this database")]
    KekRetired(String),
    #[error("the wrapped master key does not open")]
    DoesNotOpen,
    #[error("{0}; nothing was released")]
    Audit(#[from] AuditFailure),
    #[error("cannot use a vault on a hot standby")]
    Standby,
    #[error("cannot prepare a transaction that has called vault_init() or vault_rotate()")]
    Prepared,
    #[error("the vault of this user changed at each of {0} attempts")]
    Contended(u32),
    #[error("the vault of this user changed while the statement ran")]
    ChangedMeanwhile,
    #[error("the operating system gave no random bytes")]
    NoRandomness,
    #[error("this key has been rotated as often as its version number can count")]
    VersionsExhausted,
    #[error("vault_ext refuses to start: {0}")]
    RefusedStart(String, String),
    #[error("the keyring was not reloaded: {0}")]
    ReloadRefused(String, String),
    #[error("the keyring was not reloaded: it has another KEK under the id \"{kek_id}\"")]
    ReloadDiffers { kek_id: String, new: String, known: String, by: &'static str },
    #[error("the keyring was not reloaded: it lacks KEKs that vaults need")]
    ReloadLacks(Vec<(String, i64)>),
    #[error("the keyring was not reloaded: its first KEK, \"{0}\", is retired in this database")]
    ReloadRetired(String),
    #[error("cannot reload the keyring of a hot standby by a function: it leaves an audit row")]
    ReloadOnStandby,
    #[error("transactions that have written vaults are still open")]
    OpenWriters,
    #[error("this database does not know a KEK \"{0}\"")]
    KekUnknown(String),
    #[error("the KEK \"{0}\" is the active one")]
    KekActive(String),
    #[error("the KEK \"{kek_id}\" is needed by {wraps} key(s)")]
    KekNeeded { kek_id: String, wraps: i64 },
    #[error("row-level security would hide vaults from {0}: {1}")]
    HiddenVaults(&'static str, String),
    #[error("{0} cannot run in a transaction block or a function")]
    NotOnItsOwn(&'static str),
    #[error("{0} cannot run in a REPEATABLE READ or SERIALIZABLE transaction")]
    OldSnapshot(&'static str),
    #[error("this would destroy the keys of {vaults} vault(s) for good")]
    WouldDestroy { vaults: u64 },
    #[error("{}", .0.what)]
    Broken(Problem),
    #[error("this statement would break a promise of the vault: {}", .0.what)]
    WouldBreak(Problem),
    #[error("{0}")]
    BadArgument(&'static str, &'static str),
}

impl VaultError {
    /// The SQLSTATE (PostgreSQL documentation, appendix A).
    pub fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            Self::NotPreloaded
            | Self::NoKek(_)
            | Self::KekNotLoaded(_)
            | Self::KekDiffers { .. }
            | Self::KekRetired(_)
            | Self::ReloadDiffers { .. }
            | Self::ReloadLacks(_)
            | Self::ReloadRetired(_)
            | Self::KekActive(_)
            | Self::KekNeeded { .. }
            | Self::HiddenVaults(..)
            | Self::RowSecurityOff
            | Self::Broken(_)
            | Self::WouldBreak(_)
            | Self::WouldDestroy { .. } => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::Identity(error) => error.sqlstate(),
            Self::Grant(error) => error.sqlstate(),
            Self::Key(error) => error.sqlstate(),
            Self::Recovery(error) => error.sqlstate(),
            Self::Transfer(error) => error.sqlstate(),
            Self::Data(error) => error.sqlstate(),
            Self::NoMemory => PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
            Self::NoVault => PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
            Self::DoesNotOpen => PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            Self::Audit(failure) if failure.is_a_limit() => PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            Self::Audit(_) => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::Standby | Self::ReloadOnStandby => PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION,
            Self::Prepared => PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            Self::Contended(_) | Self::ChangedMeanwhile => PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            Self::UserHasVault(_) => PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
            Self::NoRandomness => PgSqlErrorCode::ERRCODE_SYSTEM_ERROR,
            Self::VersionsExhausted => PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            Self::RefusedStart(..) | Self::ReloadRefused(..) | Self::IssuersRefused(..) => {
                PgSqlErrorCode::ERRCODE_CONFIG_FILE_ERROR
            }
            Self::OpenWriters => PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
            Self::NotOnItsOwn(_) | Self::OldSnapshot(_) => PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            Self::KekUnknown(_) | Self::PublicKey(_) | Self::BadArgument(..) => {
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
            }
        }
    }

    pub fn detail(&self) -> Option<String> {
        match self {
            Self::KekDiffers { loaded, known: Some(known), .. } => {
                Some(format!("Check value of the loaded KEK: {loaded}; known in this database: {known}."))
            }
            Self::KekDiffers { loaded, known: None, .. } => {
                Some(format!("Check value of the loaded KEK: {loaded}; it opens none of the vaults under that id."))
            }
            Self::ReloadDiffers { new, known, by, .. } => {
                Some(format!("Check value of the KEK in the keyring: {new}; known by {by}: {known}."))
            }
            Self::ReloadLacks(keks) => {
                let needed: Vec<_> = keks.iter().map(|(id, wraps)| format!("\"{id}\" by {wraps} key(s)")).collect();
                Some(format!("Needed in this database: {}.", needed.join(", ")))
            }
            Self::WouldDestroy { .. } => Some(
                "The table vault_ext.encryption_vaults would be dropped; with the extension goes the audit trail too."
                    .into(),
            ),
            Self::Audit(failure) => failure.detail(),
            Self::Identity(error) => error.detail(),
            _ => None,
        }
    }

    pub fn hint(&self) -> String {
        match self {
            Self::NotPreloaded => {
                "Add vault_ext to shared_preload_libraries in postgresql.conf and restart the server.".into()
            }
            Self::NoKek(_) => {
                "Configure vault_ext.kek_file, vault_ext.kek_command or vault_ext.kek and restart the server.".into()
            }
            Self::Identity(error) => error.hint().into(),
            Self::Grant(error) => error.hint().into(),
            Self::Key(error) => error.hint().into(),
            Self::Recovery(error) => error.hint().into(),
            Self::PublicKey(error) => error.hint().into(),
            Self::Transfer(error) => error.hint().into(),
            Self::Data(error) => error.hint().into(),
            Self::NoMemory => "Free some memory; mmap(2) failed.".into(),
            Self::RowSecurityOff => {
                "SET row_security = on: it is off by a setting of this session, role, database or function. Leave FORCE ROW LEVEL SECURITY on the vault's tables as it is.".into()
            }
            Self::NoVault => "Call vault_init() once for this user.".into(),
            Self::UserHasVault(_) => "Erase that vault first if it is not needed, or choose another user id.".into(),
            Self::KekNotLoaded(_) => {
                "Put this KEK back into the keyring; a KEK may only be removed when no vault needs it.".into()
            }
            Self::KekDiffers { .. } => {
                "Load the KEK that this database was used with, or give the new KEK an id of its own.".into()
            }
            Self::KekRetired(_) => "Make another KEK the first line of the keyring.".into(),
            Self::DoesNotOpen => {
                "Restore this row from a backup: it was changed, moved from another user, or wrapped with another KEK. A user id is changed by vault_rename_user() alone."
                    .into()
            }
            Self::Audit(failure) => failure.hint(),
            Self::Standby => "Connect to the primary: a key leaves only after its audit row is written.".into(),
            Self::Prepared => {
                "Use COMMIT instead of PREPARE TRANSACTION: the audit trail could not tell how the transaction ended."
                    .into()
            }
            Self::Contended(_) | Self::ChangedMeanwhile => "Try the transaction again.".into(),
            Self::NoRandomness => "Look at the operating system's log; getrandom(2) failed.".into(),
            Self::VersionsExhausted => "Erase this vault and call vault_init() again.".into(),
            Self::RefusedStart(_, hint) | Self::ReloadRefused(_, hint) | Self::IssuersRefused(_, hint) => hint.clone(),
            Self::ReloadDiffers { .. } => {
                "Give the new KEK an id of its own: an id stands for one KEK for ever. The old ring stays in use.".into()
            }
            Self::ReloadLacks(_) => {
                "Put these KEKs back behind the first line; remove a KEK only after CALL vault_rewrap(). If they are lost, see keep_missing in the KEK runbook.".into()
            }
            Self::ReloadRetired(_) => "Make another KEK the first line. The old ring stays in use.".into(),
            Self::ReloadOnStandby => "Run SELECT pg_reload_conf(): a signal reloads the keyring of a standby.".into(),
            Self::OpenWriters => {
                "End them (pg_locks shows who holds a lock on vault_ext.encryption_vaults), or try again later.".into()
            }
            Self::KekUnknown(_) => "Choose one of SELECT kek_id FROM vault_kek_status().".into(),
            Self::KekActive(_) => {
                "Make another KEK the first line of the keyring, call vault_reload_kek() and CALL vault_rewrap() first."
                    .into()
            }
            Self::KekNeeded { .. } => "CALL vault_rewrap() first; vault_check() names the vaults that do not open.".into(),
            Self::HiddenVaults(..) => {
                "Restore the policies on vault_ext.encryption_vaults that CREATE EXTENSION made.".into()
            }
            Self::NotOnItsOwn(_) => "CALL it outside BEGIN and COMMIT: it commits each batch.".into(),
            Self::OldSnapshot(_) => "Use READ COMMITTED (default_transaction_isolation), so that it sees every vault.".into(),
            Self::WouldDestroy { .. } => {
                "Make a dump first, and SET vault_ext.allow_drop = on in this session if you mean it.".into()
            }
            Self::Broken(problem) => problem.hint.clone(),
            Self::WouldBreak(problem) => {
                format!("{} If you mean this statement, SET vault_ext.allow_alter = on in this session first: calls then fail as long as a promise is broken.", problem.hint)
            }
            Self::BadArgument(_, hint) => (*hint).into(),
        }
    }
}

impl VaultError {
    /// Raises it as a PostgreSQL error.
    pub fn raise(self) -> ! {
        match Err::<std::convert::Infallible, _>(ErrorReport::from(self)).unwrap_or_report() {}
    }
}

impl From<VaultError> for ErrorReport {
    #[track_caller]
    fn from(error: VaultError) -> Self {
        let report = ErrorReport::new(error.sqlstate(), error.to_string(), "vault_ext").set_hint(error.hint());
        match error.detail() {
            Some(detail) => report.set_detail(detail),
            None => report,
        }
    }
}
