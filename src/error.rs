//! Every error that a caller can see: the only place that names an SQLSTATE. Messages are lower case and hold no secret;
//! each comes with a hint in the imperative.

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;

use crate::audit::AuditFailure;
use crate::identity::IdentityError;

/// What a call of the vault can fail with. `sqlstate()` and `hint()` give the rest of the report.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("vault_ext is not in shared_preload_libraries")]
    NotPreloaded,
    #[error("vault_ext has no usable KEK: {0}")]
    NoKek(String),
    #[error("{0}")]
    Identity(#[from] IdentityError),
    #[error("no vault for this user")]
    NoVault,
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
    #[error("the operating system gave no random bytes")]
    NoRandomness,
    #[error("this key has been rotated as often as its version number can count")]
    VersionsExhausted,
    #[error("vault_ext refuses to start: {0}")]
    RefusedStart(String, String),
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
            | Self::KekRetired(_) => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::Identity(_) => PgSqlErrorCode::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
            Self::NoVault => PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
            Self::DoesNotOpen => PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            Self::Audit(failure) if failure.is_a_limit() => PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            Self::Audit(_) => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::Standby => PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION,
            Self::Prepared => PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            Self::Contended(_) => PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            Self::NoRandomness => PgSqlErrorCode::ERRCODE_SYSTEM_ERROR,
            Self::VersionsExhausted => PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            Self::RefusedStart(..) => PgSqlErrorCode::ERRCODE_CONFIG_FILE_ERROR,
            Self::BadArgument(..) => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Self::KekDiffers { loaded, known: Some(known), .. } => {
                Some(format!("Check value of the loaded KEK: {loaded}; known in this database: {known}."))
            }
            Self::KekDiffers { loaded, known: None, .. } => {
                Some(format!("Check value of the loaded KEK: {loaded}; it opens none of the vaults under that id."))
            }
            Self::Audit(failure) => failure.detail(),
            _ => None,
        }
    }

    fn hint(&self) -> String {
        match self {
            Self::NotPreloaded => {
                "Add vault_ext to shared_preload_libraries in postgresql.conf and restart the server.".into()
            }
            Self::NoKek(_) => {
                "Configure vault_ext.kek_file, vault_ext.kek_command or vault_ext.kek and restart the server.".into()
            }
            Self::Identity(_) => {
                "Run SET LOCAL app.current_user_id = '<user>' in this transaction (or SET in this session) first."
                    .into()
            }
            Self::NoVault => "Call vault_init() once for this user.".into(),
            Self::KekNotLoaded(_) => {
                "Put this KEK back into the keyring; a KEK may only be removed when no vault needs it.".into()
            }
            Self::KekDiffers { .. } => {
                "Load the KEK that this database was used with, or give the new KEK an id of its own.".into()
            }
            Self::KekRetired(_) => "Make another KEK the first line of the keyring.".into(),
            Self::DoesNotOpen => {
                "Restore this row from a backup: it was changed, moved from another user, or wrapped with another KEK."
                    .into()
            }
            Self::Audit(failure) => failure.hint(),
            Self::Standby => "Connect to the primary: a key leaves only after its audit row is written.".into(),
            Self::Prepared => {
                "Use COMMIT instead of PREPARE TRANSACTION: the audit trail could not tell how the transaction ended."
                    .into()
            }
            Self::Contended(_) => "Try the transaction again.".into(),
            Self::NoRandomness => "Look at the operating system's log; getrandom(2) failed.".into(),
            Self::VersionsExhausted => "Erase this vault and call vault_init() again.".into(),
            Self::RefusedStart(_, hint) => hint.clone(),
            Self::BadArgument(_, hint) => (*hint).into(),
        }
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
