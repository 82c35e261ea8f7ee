//! Errors of who the user is.

use pgrx::PgSqlErrorCode;
use vault_core::crypto::wrap::USER_ID_MAX;
use vault_core::identity::token::TokenError;

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

    pub(super) fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            Self::Token(error) if error.is_insufficient() => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            Self::NoIssuers(_) => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            _ => PgSqlErrorCode::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
        }
    }

    /// What a client can act on (RFC 9470, section 3).
    pub(super) fn detail(&self) -> Option<String> {
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

    pub(super) fn hint(&self) -> &'static str {
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
