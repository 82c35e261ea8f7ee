//! Keys that the application derives from the user's master key: each leaves with a row of the trail.

use vault_core::audit::record::Action;
use vault_core::crypto::secret::MasterKey;
use vault_core::data::derive::{self, DerivedKey, Purpose};

use crate::error::{KeyError, VaultError};
use crate::identity::Caller;
use crate::pg::{secret, session};
use crate::store;
use crate::vault::call::Call;
use crate::vault::versions;

/// The key of a purpose, from a version of the user's key; `None` is the current one.
pub fn for_purpose(purpose: Purpose<'_>, key_version: Option<i32>) -> Result<DerivedKey, VaultError> {
    let context = format!("purpose {}", purpose.as_str());
    derive(key_version, &context, |key| Ok(derive::derived_key(key, purpose)))
}

/// The general form, for keys that existing clients derive.
pub fn general(salt: &[u8], info: &str) -> Result<DerivedKey, VaultError> {
    let context = format!("info {info}");
    derive(None, &context, |key| {
        derive::derive(key, salt, info.as_bytes()).map_err(|_| {
            VaultError::BadArgument(
                "an info that begins with vault_ext. is reserved",
                "Use vault_derive_key(purpose), or an info of your own.",
            )
        })
    })
}

fn derive(
    key_version: Option<i32>,
    context: &str,
    derive: impl FnOnce(&MasterKey) -> Result<DerivedKey, VaultError>,
) -> Result<DerivedKey, VaultError> {
    let call = Call::begin(Action::Derive, Caller::OfSession)?;
    let (key, derived) = call.attempt(|user| {
        let key = session::as_role(store::OWNER, || versions::open(&call, user, key_version))?;
        let master_key = key.master_key().ok_or(KeyError::ZeroKnowledge)?;
        let derived = secret::scrubbed_cipher(|| derive(master_key))?;
        Ok((key, derived))
    })?;
    let context = vault_core::audit::record::sanitized(context.as_bytes(), vault_core::audit::record::MAX_CONTEXT);
    call.record(200, Some(key.id()), context.as_deref())?;
    Ok(derived)
}
