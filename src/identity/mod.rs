//! Who is the user of this transaction: the one place that answers it. Today the application asserts it in a setting;
//! verified tokens plug in here.

use vault_core::crypto::wrap::USER_ID_MAX;

use crate::error::IdentityError;
use crate::pg::session;

/// The setting that names the user.
pub const USER_ID_SETTING: &std::ffi::CStr = c"app.current_user_id";

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
