//! Reloads the keyring by an administrator's call, which knows what the database needs.

use vault_core::audit::kek_registration::Known;
use vault_core::audit::record::Action;
use vault_core::integrity::Scope;
use vault_core::keyring::change::Change;

use super::exclusion::{no_other_node_wraps, only_in_read_committed, without_writers};
use crate::error::VaultError;
use crate::guard::blind;
use crate::keyring::reload::Proposal;
use crate::pg::{process, session, wait};
use crate::store::{keks, wraps};
use crate::vault::call::Call;

/// How often a reload that was overtaken by another one is tried.
const ATTEMPTS: u32 = 8;

/// Reads the source again and makes it the ring of the whole server, or changes nothing. `keep_missing`: the KEKs that
/// the source lacks stay loaded; after a loss that is the way to rewrap what is under them.
pub fn reload(keep_missing: bool) -> Result<Change, VaultError> {
    let call = Call::without_user(Action::Reload).map_err(|error| match error {
        VaultError::Standby => VaultError::ReloadOnStandby,
        error => error,
    })?;
    let (proposal, retired) = call.attempt(|_| try_reload(keep_missing))?;
    let change = proposal.change;
    let kept = if proposal.kept.is_empty() { String::new() } else { format!("; kept {}", proposal.kept.join(" ")) };
    let description = change.describe() + &kept;
    call.record(200, None, Some(&description))?;
    pgrx::log!("vault_ext: keyring reloaded by {}: {description}", session::caller());
    for kek_id in retired {
        pgrx::warning!("the KEK \"{kek_id}\" is retired in this database and still in the keyring; remove it there");
    }
    for kek_id in proposal.kept {
        pgrx::warning!("the KEK \"{kek_id}\" is in this server's memory only; CALL vault_rewrap() before it stops");
    }
    Ok(change)
}

fn try_reload(keep_missing: bool) -> Result<(Proposal, Vec<String>), VaultError> {
    // A ring that was published stays, and the row about it could not be written.
    blind::refuse(Scope::Own)?;
    for _ in 0..ATTEMPTS {
        let proposal = Proposal::read(&mut process::is_interrupted);
        // A termination that stopped the reading takes effect here.
        wait::check_for_interrupts();
        let mut proposal = proposal?;
        if keep_missing {
            proposal.keep_missing()?;
        }
        let retired = compare_with_database(&proposal.change)?;
        let published =
            if proposal.change.removed.is_empty() { proposal.publish() } else { publish_removal(&proposal)? };
        if published {
            return Ok((proposal, retired));
        }
    }
    Err(VaultError::Contended(ATTEMPTS))
}

/// Refuses a KEK that this database knows under the same id as another one. Returns the ids that are retired here.
fn compare_with_database(change: &Change) -> Result<Vec<String>, VaultError> {
    let mut retired = Vec::new();
    for (position, entry) in change.entries.iter().enumerate() {
        let Some(known) = keks::known_kek(&entry.id) else { continue };
        match known.compare(entry.check) {
            Known::Other(check) => {
                return Err(VaultError::ReloadDiffers {
                    kek_id: entry.id.clone(),
                    new: entry.check.to_hex(),
                    known: check.to_hex(),
                    by: "this database",
                });
            }
            Known::Retired if position == 0 => return Err(VaultError::ReloadRetired(entry.id.clone())),
            Known::Retired => retired.push(entry.id.clone()),
            Known::Same | Known::OpensNothing => {}
        }
    }
    Ok(retired)
}

/// Publishes a ring that lacks KEKs of the present one, if no vault of this database needs them, committed or not.
///
/// Whoever writes a wrap first takes a lock on the vaults, and then the ring (`vaults::begin_write`). Once we have held
/// the opposite lock, every wrap under an older ring is committed and counted, and all later ones use the present ring.
/// The lock is held on only where the KEK that wraps is to go, since then new rows would need it while we count.
fn publish_removal(proposal: &Proposal) -> Result<bool, VaultError> {
    const CALL: &str = "vault_reload_kek()";
    only_in_read_committed(CALL)?;
    blind::refuse(Scope::Vaults)?;
    no_other_node_wraps(&proposal.change.removed)?;
    let count_and_publish = || {
        let needed = blind::unless(Scope::Vaults, || Ok(wraps::count_by_kek(&proposal.change.removed)))?;
        if needed.is_empty() { Ok(proposal.publish()) } else { Err(VaultError::ReloadLacks(needed)) }
    };
    if proposal.change.removes_active {
        without_writers(count_and_publish)?
    } else {
        without_writers(|| ())?;
        count_and_publish()
    }
}
