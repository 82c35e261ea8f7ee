//! Sealed release: a key that leaves the server only encrypted to a public key of the caller's.

use vault_core::audit::record::{Action, MAX_CONTEXT, sanitized};
use vault_core::data::derive::{self, Purpose};
use vault_core::seal::binding::PURPOSE_MAX;
use vault_core::seal::{Binding, KeyKind, Recipient, SealError, Sealed};

use super::call::Call;
use super::key::{KeyId, UserKey};
use super::versions;
use crate::error::{KeyError, VaultError};
use crate::identity::Caller;
use crate::pg::secret;

/// Which key is wanted.
#[derive(Clone, Copy)]
pub enum Wanted<'a> {
    Master,
    /// Derived for a purpose of the application's.
    Derived {
        purpose: &'a str,
    },
    /// Derived as an existing client does it.
    General {
        salt: &'a [u8],
        info: &'a str,
    },
}

/// A sealed key and what the caller gets to know of it.
pub struct SealedKey {
    pub sealed: Vec<u8>,
    pub algorithm: &'static str,
    /// Of the public key.
    pub fingerprint: String,
    /// Of the master key, also for a derived key.
    pub key_version: i32,
    pub kek_id: String,
}

/// The user's key, or one derived from it, sealed to a public key. Without a version, the current one.
pub fn seal(public_key: &str, wanted: Wanted<'_>, key_version: Option<i32>) -> Result<SealedKey, VaultError> {
    let call = Call::begin(Action::Seal, Caller::OfSession)?;
    let seal = |user: &str| {
        let recipient = Recipient::parse(public_key)?;
        check(wanted)?;
        let key = versions::open(&call, user, key_version)?;
        let Sealed { bytes, algorithm } = seal_to(&recipient, wanted, user, &key)?;
        let fingerprint = recipient.fingerprint().to_string();
        Ok(SealedKey { sealed: bytes, algorithm, fingerprint, key_version: key.key_version, kek_id: key.kek_id })
    };
    let sealed = secret::scrubbed(|| call.attempt(seal))?;
    let context = match wanted {
        Wanted::Master => sealed.fingerprint.clone(),
        Wanted::Derived { purpose } => format!("{} {purpose}", sealed.fingerprint),
        Wanted::General { info, .. } => format!("{} {info}", sealed.fingerprint),
    };
    let key = KeyId { kek_id: &sealed.kek_id, key_version: sealed.key_version };
    call.record(200, Some(key), sanitized(context.trim_end().as_bytes(), MAX_CONTEXT).as_deref())?;
    Ok(sealed)
}

/// Whether a key can be bound to that, before any key is opened.
fn check(wanted: Wanted<'_>) -> Result<(), VaultError> {
    match wanted {
        Wanted::Master => Ok(()),
        Wanted::Derived { purpose } => purpose_of(purpose).map(drop),
        Wanted::General { salt, info } if salt.len() > PURPOSE_MAX || info.len() > PURPOSE_MAX => {
            Err(VaultError::BadArgument("salt and info have at most 65535 bytes each", "Give shorter ones."))
        }
        Wanted::General { .. } => Ok(()),
    }
}

fn purpose_of(text: &str) -> Result<Purpose<'_>, VaultError> {
    const HINT: &str = "Name what the key is for, such as 'files'.";
    Purpose::new(text).map_err(|_| VaultError::BadArgument("a purpose has 1 to 255 bytes", HINT))
}

fn reserved() -> VaultError {
    VaultError::BadArgument(
        "an info that begins with vault_ext. is reserved",
        "Give another info, or a purpose without a salt.",
    )
}

fn seal_to(recipient: &Recipient, wanted: Wanted<'_>, user: &str, key: &UserKey) -> Result<Sealed, VaultError> {
    let master_key = key.master_key().ok_or(KeyError::ZeroKnowledge)?;
    let sealed = |kind, bytes: &[u8; 32]| {
        let binding = Binding { kind, user_id: user, key_version: key.key_version };
        recipient.seal(bytes, &binding).map_err(|error| match error {
            SealError::Rng(_) => VaultError::NoRandomness,
            SealError::Binding(_) => {
                VaultError::BadArgument("the key cannot be bound to these arguments", "Give a shorter purpose.")
            }
        })
    };
    match wanted {
        Wanted::Master => sealed(KeyKind::Master, master_key.expose_secret()),
        Wanted::Derived { purpose } => {
            let derived = derive::derived_key(master_key, purpose_of(purpose)?);
            sealed(KeyKind::Derived { purpose }, derived.expose_secret())
        }
        Wanted::General { salt, info } => {
            let derived = derive::derive(master_key, salt, info.as_bytes()).map_err(|_| reserved())?;
            sealed(KeyKind::General { salt, info }, derived.expose_secret())
        }
    }
}
