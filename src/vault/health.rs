//! Whether keys can be released now: for monitoring and load balancers.

use super::{call, wrapping};
use crate::audit::health::{self, Progress};
use crate::error::VaultError;
use crate::keyring::ring;

/// What prevents the vault from releasing keys, and the state of the audit writer.
pub struct Health {
    pub problem: Option<VaultError>,
    /// None where the library was not preloaded, and on a standby.
    pub progress: Option<Progress>,
}

/// Tries everything that a release needs except a user's row. Leaves nothing behind.
pub fn health() -> Health {
    if let Err(error) = call::can_be_audited() {
        return Health { problem: Some(error), progress: None };
    }
    let problem = try_it().err();
    Health { problem, progress: Some(health::progress()) }
}

fn try_it() -> Result<(), VaultError> {
    let ring = ring::current()?;
    wrapping::compare(ring.active().0)?;
    Ok(health::probe()?)
}
