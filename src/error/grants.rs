//! Errors of grants.

use pgrx::PgSqlErrorCode;

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

    pub(super) fn sqlstate(self) -> PgSqlErrorCode {
        match self {
            Self::None | Self::NotApproved => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            Self::Revoked | Self::Expired | Self::NotYet => PgSqlErrorCode::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
            Self::UsedUp => PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            Self::OldSnapshot => PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
        }
    }

    pub(super) fn hint(self) -> &'static str {
        match self {
            Self::NotApproved => "Let another member of vault_ext_grantor call vault_approve_grant().",
            Self::OldSnapshot => "Use READ COMMITTED, so that each use is counted.",
            _ => "Ask the user for vault_grant(), or a member of vault_ext_grantor for vault_grant_for().",
        }
    }
}
