//! Reading the configured source again while the server runs: by an administrator's call, which also looks at what the
//! database needs, and by a signal, once per server.

use vault_core::crypto::check::CheckValue;
use vault_core::keyring::Entry;
use vault_core::keyring::change::Change;
use vault_core::keyring::text::{Keyring, MAX_KEKS};

use super::ring;
use super::startup::{self, BadKek};
use crate::error::VaultError;
use crate::pg::{process, secret};

/// A validated keyring that may replace the ring in use.
pub struct Proposal {
    generation: u64,
    keyring: Keyring,
    pub change: Change,
    /// KEKs of the ring in use that stay, though the keyring lacks them.
    pub kept: Vec<String>,
}

impl Proposal {
    /// Reads the source and compares it with the ring in use. `interrupted`: see `Source::read`.
    pub fn read(interrupted: &mut dyn FnMut() -> bool) -> Result<Self, VaultError> {
        // Before the source is read, so that another reload in between is noticed when this one is published.
        let generation = ring::generation()?;
        secret::scrubbed(|| Self::of(generation, interrupted))
    }

    fn of(generation: u64, interrupted: &mut dyn FnMut() -> bool) -> Result<Self, VaultError> {
        let keyring = startup::read_again(interrupted)
            .map_err(|BadKek { message, hint }| VaultError::ReloadRefused(message, hint))?;
        let new: Vec<Entry> = keyring
            .entries()
            .iter()
            .map(|entry| Entry { id: entry.id.as_str().into(), check: CheckValue::of(&entry.key) })
            .collect();
        let old = ring::entries()?;
        let change = Change::between(&old, &new).map_err(|differs| VaultError::ReloadDiffers {
            kek_id: differs.new.id.clone(),
            new: differs.new.check.to_hex(),
            known: differs.old.check.to_hex(),
            by: "the ring in use",
        })?;
        Ok(Self { generation, keyring, change, kept: Vec::new() })
    }

    /// Keeps the KEKs loaded that the keyring lacks: they are lost but for this server's memory.
    pub fn keep_missing(&mut self) -> Result<(), VaultError> {
        self.kept = self.change.keep_removed(&ring::entries()?);
        if self.change.entries.len() > MAX_KEKS {
            return Err(VaultError::ReloadRefused(
                format!("with those that are kept there are more than {MAX_KEKS} KEKs"),
                "Rewrap the rows of old keys and remove these keys.".into(),
            ));
        }
        Ok(())
    }

    /// Makes it the ring in use, at once for all processes. False if another reload was first: then it says nothing
    /// about the ring of this moment and is to be read anew.
    pub fn publish(&self) -> bool {
        if self.change.is_any {
            ring::replace(self.generation, &self.keyring, &self.kept)
        } else {
            ring::generation().is_ok_and(|generation| generation == self.generation)
        }
    }
}

/// Called by the process that listens for SIGHUP. It has no database connection, so it cannot tell whether vaults need a KEK: it
/// refuses a keyring that lacks a loaded one (which may also be a file that is only half written).
pub fn reload_by_signal() {
    loop {
        let proposal = match Proposal::read(&mut process::is_terminating) {
            Ok(proposal) => proposal,
            Err(_) if process::is_terminating() => return,
            Err(error) => return refused(&error.to_string(), error.detail().as_deref(), &error.hint()),
        };
        let change = &proposal.change;
        if !change.removed.is_empty() {
            let message =
                format!("it lacks {}, and a signal cannot tell whether vaults need it", change.removed.join(", "));
            return refused(&message, None, "Call vault_reload_kek() in each database, or put the KEK back.");
        }
        if proposal.publish() {
            if change.is_any {
                pgrx::log!("vault_ext: keyring reloaded: {}", change.describe());
            } else {
                pgrx::debug1!("vault_ext: the keyring is unchanged");
            }
            return;
        }
    }
}

fn refused(message: &str, detail: Option<&str>, hint: &str) {
    let detail = detail.map(|detail| format!(" {detail}")).unwrap_or_default();
    pgrx::warning!("vault_ext: the keyring was not reloaded, the old one stays in use: {message}.{detail} {hint}");
}
