//! Errors of keys and their versions.

use pgrx::PgSqlErrorCode;

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

    pub(super) fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            Self::NoVersion(_) | Self::Erased(_) => PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
            _ => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        }
    }

    pub(super) fn hint(&self) -> &'static str {
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
