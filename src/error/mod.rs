//! Every error that a caller can see: the only folder that names an SQLSTATE. Messages are lower case and hold no secret;
//! each comes with a hint in the imperative. The errors of a subject have a file each; [`VaultError`] is all of them.

mod audit;
mod data;
mod grants;
mod identity;
mod keys;
mod limits;
mod nodes;
mod recovery;
mod trail;
mod transfer;

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::{ErrorReport, ErrorReportable};
use vault_core::integrity::Problem;
use vault_core::rows::Unsound;
use vault_core::seal::PublicKeyError;

pub use audit::AuditFailure;
pub use data::DataError;
pub use grants::GrantError;
pub use identity::IdentityError;
pub use keys::KeyError;
pub use limits::LimitError;
pub use nodes::NodesError;
pub use recovery::RecoveryError;
pub use trail::TrailError;
pub use transfer::TransferError;

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
    #[error("{0}")]
    Trail(#[from] TrailError),
    #[error("{0}")]
    Limit(#[from] LimitError),
    #[error("{0}")]
    Nodes(#[from] NodesError),
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
    #[error("row-level security would hide rows from this call: {}", .0.what)]
    Hidden(Problem),
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
    Unsound(#[from] Unsound),
    #[error("{0}")]
    BadArgument(&'static str, &'static str),
    #[error("user_ids has {given} elements, and one call takes at most {most}")]
    ListTooLong { given: usize, most: usize },
    /// Some users of a list were refused. The error is that of the first one; positions count from 1.
    #[error("position {position} of user_ids: {error}")]
    InList { position: usize, error: Box<VaultError>, refused: Vec<usize> },
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
            | Self::Hidden(_)
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
            Self::Trail(error) => error.sqlstate(),
            Self::Limit(error) => error.sqlstate(),
            Self::Nodes(error) => error.sqlstate(),
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
            Self::Unsound(_) => PgSqlErrorCode::ERRCODE_CHECK_VIOLATION,
            Self::OpenWriters => PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
            Self::NotOnItsOwn(_) | Self::OldSnapshot(_) => PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            Self::KekUnknown(_) | Self::PublicKey(_) | Self::BadArgument(..) | Self::ListTooLong { .. } => {
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
            }
            Self::InList { error, .. } => error.sqlstate(),
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
            Self::Nodes(error) => error.detail(),
            Self::InList { error, refused, .. } => {
                let positions: Vec<_> = refused.iter().map(usize::to_string).collect();
                let refused = format!("Refused positions: {}. No key was released.", positions.join(", "));
                Some(error.detail().map_or_else(|| refused.clone(), |detail| format!("{refused} {detail}")))
            }
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
            Self::Trail(error) => error.hint().into(),
            Self::Limit(error) => error.hint().into(),
            Self::Nodes(error) => error.hint().into(),
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
            Self::NotOnItsOwn(_) => "CALL it outside BEGIN and COMMIT: it commits each batch.".into(),
            Self::OldSnapshot(_) => "Use READ COMMITTED (default_transaction_isolation), so that it sees every vault.".into(),
            Self::WouldDestroy { .. } => {
                "Make a dump first, and SET vault_ext.allow_drop = on in this session if you mean it.".into()
            }
            Self::Broken(problem) | Self::Hidden(problem) => problem.hint.clone(),
            Self::WouldBreak(problem) => {
                format!("{} If you mean this statement, SET vault_ext.allow_alter = on in this session first: calls then fail as long as a promise is broken.", problem.hint)
            }
            Self::Unsound(unsound) => {
                format!("Correct this row; \\dd vault_ext.{}_sound in psql shows all rules.", unsound.table)
            }
            Self::BadArgument(_, hint) => (*hint).into(),
            Self::ListTooLong { most, .. } => format!("Call it for each {most} users."),
            Self::InList { error, .. } => error.hint(),
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
