//! What an administrator does with issuers: reload them, and see what became of their tokens.

use vault_core::audit::record::Action;

use super::call::Call;
use crate::error::VaultError;
use crate::identity::issuers::{self, unverified};
use crate::pg::{process, session, wait};

/// Reads the issuers again for the whole server and says what is loaded.
pub fn reload() -> Result<String, VaultError> {
    let call = Call::without_user(Action::ReloadIssuers).map_err(|error| match error {
        VaultError::Standby => VaultError::ReloadOnStandby,
        error => error,
    })?;
    let description = call.attempt(|_| {
        let outcome = issuers::reload(&mut process::is_interrupted);
        // A termination that stopped the reading takes effect here.
        wait::check_for_interrupts();
        Ok(outcome?)
    })?;
    call.record(200, None, Some(&description))?;
    pgrx::log!("vault_ext: issuers reloaded by {}: {description}", session::caller());
    Ok(description)
}

/// A key, and what became of its tokens since the server started.
pub struct KeyStatus {
    /// None for the tokens that no key verified.
    pub issuer: Option<String>,
    pub kid: Option<String>,
    pub algorithm: Option<&'static str>,
    /// Microseconds since 2000-01-01 00:00 UTC.
    pub loaded_at: Option<i64>,
    pub accepted: u64,
    pub refused: u64,
    pub last_refusal: Option<i64>,
}

/// One for each key, and a last one for the tokens that no key verified.
pub fn status() -> Result<Vec<KeyStatus>, VaultError> {
    use std::sync::atomic::Ordering::Relaxed;
    let current = issuers::current()?;
    let mut rows = Vec::new();
    for (position, issuer) in current.issuers.issuers.iter().enumerate() {
        for (index, key) in issuer.keys.iter().enumerate() {
            let count = current.count(position, index);
            rows.push(KeyStatus {
                issuer: Some(issuer.name.clone()),
                kid: key.kid.clone(),
                algorithm: Some(key.algorithm.name()),
                loaded_at: Some(current.loaded_at),
                accepted: count.map_or(0, |count| count.accepted.load(Relaxed)),
                refused: count.map_or(0, |count| count.refused.load(Relaxed)),
                last_refusal: count.and_then(vault_core::identity::counts::Count::last_refusal),
            });
        }
    }
    let count = unverified();
    rows.push(KeyStatus {
        issuer: None,
        kid: None,
        algorithm: None,
        loaded_at: None,
        accepted: 0,
        refused: count.map_or(0, |count| count.refused.load(Relaxed)),
        last_refusal: count.and_then(vault_core::identity::counts::Count::last_refusal),
    });
    Ok(rows)
}
