//! Errors of the recovery code and of zero-knowledge mode.

use pgrx::PgSqlErrorCode;

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

    pub(super) fn sqlstate(self) -> PgSqlErrorCode {
        match self {
            Self::NoVault => PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
            // As for a token without the right scope: it is clear who the user is (else 28000), and not that he may do this.
            Self::NotProven | Self::KeyDiffers => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            _ => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        }
    }

    pub(super) fn hint(self) -> &'static str {
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
