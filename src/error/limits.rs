//! Errors of the limits on what a login role may ask for.

use pgrx::PgSqlErrorCode;

/// Why a call is refused. Nothing was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    #[error("this role has asked for the keys of {0} users within a minute, and may ask for no more")]
    Users(u64),
    #[error("{0} calls of this role have failed within a minute; it gets no key until there are fewer")]
    Failures(u64),
    #[error("too many roles are counted at the same time, and this one has a limit")]
    NoRoom,
}

impl LimitError {
    pub fn sqlstate(self) -> PgSqlErrorCode {
        PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED
    }

    pub fn hint(self) -> &'static str {
        match self {
            Self::Users(_) => {
                "Try again in a minute. If the application needs more, a superuser raises vault_ext.max_users_per_minute for this role."
            }
            Self::Failures(_) => {
                "Find out why calls fail: the audit trail has a row for each. vault_ext.max_failures_per_minute is the limit."
            }
            Self::NoRoom => {
                "Try again in a minute, or let fewer login roles call the vault: 64 are counted at the same time."
            }
        }
    }

    /// What the trail says of it.
    pub fn context(self) -> &'static str {
        match self {
            Self::Users(_) => "too-many-users",
            Self::Failures(_) => "too-many-failures",
            Self::NoRoom => "too-many-roles",
        }
    }
}
