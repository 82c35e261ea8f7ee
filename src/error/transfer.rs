//! Errors of vaults that move to another server.

use pgrx::PgSqlErrorCode;
use vault_core::transfer::{BadBundle, BadRecord, TargetError};

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

    pub(super) fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            Self::Target(_) | Self::Bundle(_) => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            Self::NoRecipients | Self::NotRecipient(_) | Self::OtherKek(_) => {
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            Self::DoesNotOpen | Self::Record(_) | Self::Invalid(_) => PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            Self::OldKeysLeft(_) => PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
        }
    }

    pub(super) fn hint(&self) -> &'static str {
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
