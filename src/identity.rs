//! Who is the user of this transaction: the one place that answers it. Today the application asserts it in a setting;
//! verified tokens plug in here.

use crate::crypto::wrap::USER_ID_MAX;
use crate::pg::session;

/// The setting that names the user.
pub const USER_ID_SETTING: &std::ffi::CStr = c"app.current_user_id";

/// Why there is no user. SQLSTATE 28000 for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("app.current_user_id is not set")]
    Missing,
    #[error("app.current_user_id is longer than {USER_ID_MAX} bytes")]
    TooLong,
    #[error("app.current_user_id is not valid UTF-8")]
    NotText,
}

impl IdentityError {
    /// What the audit row says.
    pub fn context(self) -> &'static str {
        match self {
            Self::Missing => "no-identity",
            Self::TooLong => "identity-too-long",
            Self::NotText => "identity-not-text",
        }
    }
}

/// The user of the current transaction, 1 to 255 bytes of UTF-8.
///
/// After `SET LOCAL` ends the setting reads as an empty string and not as NULL; both mean "nobody".
pub fn current_user() -> Result<String, IdentityError> {
    match session::setting(USER_ID_SETTING) {
        None => Err(IdentityError::Missing),
        Some(bytes) if bytes.is_empty() => Err(IdentityError::Missing),
        Some(bytes) if bytes.len() > USER_ID_MAX => Err(IdentityError::TooLong),
        Some(bytes) => String::from_utf8(bytes).map_err(|_| IdentityError::NotText),
    }
}
