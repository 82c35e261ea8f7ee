//! KEKs as an administrator of one database sees them: reloading the ring, their status, retiring one.

use pgrx::datum::Date;

use crate::audit::record::Action;
use crate::audit::registration::Known;
use crate::error::VaultError;
use crate::kek::change::Change;
use crate::kek::reload::Proposal;
use crate::kek::ring;
use crate::pg::{process, session, subxact};
use crate::store;
use crate::vault::Call;
use crate::version;

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
    for _ in 0..ATTEMPTS {
        let proposal = Proposal::read(&mut process::is_interrupted);
        // A termination that stopped the reading takes effect here.
        crate::pg::wait::check_for_interrupts();
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

/// Refuses what this database knows otherwise; gives the ids that it knows as retired.
fn compare_with_database(change: &Change) -> Result<Vec<String>, VaultError> {
    let mut retired = Vec::new();
    for (position, entry) in change.entries.iter().enumerate() {
        let Some(known) = store::known_kek(&entry.id) else { continue };
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
/// Whoever writes a wrap first takes a lock on the vaults, and then the ring (`store::begin_write`). Once we have held
/// the opposite lock, every wrap under an older ring is committed and counted, and all later ones use the present ring.
/// The lock is held on only where the KEK that wraps is to go, since then new rows would need it while we count.
fn publish_removal(proposal: &Proposal) -> Result<bool, VaultError> {
    const CALL: &str = "vault_reload_kek()";
    only_in_read_committed(CALL)?;
    store::all_vaults_are_visible(CALL)?;
    let count_and_publish = || {
        let needed = store::vaults_by_kek(&proposal.change.removed);
        if needed.is_empty() { Ok(proposal.publish()) } else { Err(VaultError::ReloadLacks(needed)) }
    };
    if proposal.change.removes_active {
        without_writers(count_and_publish)?
    } else {
        without_writers(|| ())?;
        count_and_publish()
    }
}

/// Works while no transaction has written vaults and is still open. Undoes what `work` does in the database, and with it
/// the lock.
fn without_writers<T>(work: impl FnOnce() -> T) -> Result<T, VaultError> {
    subxact::undone(|| {
        store::exclude_writers();
        work()
    })
    .or_else(open_writers)
}

/// A lock timeout says that writers are still there; any other error goes on as it is.
fn open_writers<T>(raised: pgrx::pg_sys::panic::CaughtError) -> Result<T, VaultError> {
    if subxact::sqlstate(&raised) == "55P03" { Err(VaultError::OpenWriters) } else { raised.rethrow() }
}

fn only_in_read_committed(call: &'static str) -> Result<(), VaultError> {
    if session::has_old_snapshot() { Err(VaultError::OldSnapshot(call)) } else { Ok(()) }
}

/// A KEK that the ring or the database knows.
pub struct Status {
    pub kek_id: String,
    pub active: bool,
    pub loaded: bool,
    /// The database's where it knows the KEK, else the ring's.
    pub check_value: Option<String>,
    /// Whether both have the same; None where one of them does not have the KEK.
    pub matches: Option<bool>,
    pub vaults: i64,
    pub oldest: Option<Date>,
    pub first_seen: Option<Date>,
    pub retired: Option<Date>,
    pub safe_to_remove: bool,
}

/// One row per KEK: the active one, the others of the ring in its order, then those that are not loaded.
pub fn status() -> Result<Vec<Status>, VaultError> {
    version::warn_if_they_differ();
    if !session::has_row_security() {
        return Err(VaultError::RowSecurityOff);
    }
    store::all_vaults_are_visible("vault_kek_status()")?;
    let entries = ring::entries()?;
    if let (true, Err(reason)) = (entries.is_empty(), ring::current()) {
        pgrx::warning!("{reason}");
    }
    let mut rows = store::kek_usage();
    let loaded = entries.iter().enumerate().map(|(position, entry)| {
        let at = rows.iter().position(|usage| usage.kek_id == entry.id);
        let usage = at.map_or_else(|| store::KekUsage::none(&entry.id), |at| rows.remove(at));
        let check = entry.check.to_hex();
        Status {
            active: position == 0,
            loaded: true,
            matches: usage.check_value.as_ref().map(|known| *known == check),
            check_value: Some(usage.check_value.unwrap_or(check)),
            safe_to_remove: position != 0 && usage.vaults == 0,
            kek_id: usage.kek_id,
            vaults: usage.vaults,
            oldest: usage.oldest,
            first_seen: usage.first_seen,
            retired: usage.retired,
        }
    });
    let mut status: Vec<_> = loaded.collect();
    status.extend(rows.into_iter().map(|usage| Status {
        active: false,
        loaded: false,
        matches: None,
        safe_to_remove: usage.vaults == 0,
        kek_id: usage.kek_id,
        check_value: usage.check_value,
        vaults: usage.vaults,
        oldest: usage.oldest,
        first_seen: usage.first_seen,
        retired: usage.retired,
    }));
    Ok(status)
}

/// Marks a KEK as gone: nothing is wrapped with it any more in this database. False if it was so already.
pub fn retire(kek_id: &str) -> Result<bool, VaultError> {
    const CALL: &str = "vault_retire_kek()";
    let call = Call::without_user(Action::Retire)?;
    let retired = call.attempt(|_| {
        only_in_read_committed(CALL)?;
        store::all_vaults_are_visible(CALL)?;
        if store::known_kek(kek_id).is_none() {
            return Err(VaultError::KekUnknown(kek_id.into()));
        }
        // Kept until this transaction ends: whoever mints next sees the retirement. See `publish_removal`.
        subxact::catch(store::exclude_writers).or_else(open_writers)?;
        if ring::entries()?.first().is_some_and(|active| active.id == kek_id) {
            return Err(VaultError::KekActive(kek_id.into()));
        }
        match store::vaults_by_kek(&[kek_id.into()]).pop() {
            Some((kek_id, vaults)) => Err(VaultError::KekNeeded { kek_id, vaults }),
            None => Ok(store::retire_kek(kek_id)),
        }
    })?;
    call.record_change(200, None, Some(&format!("kek {kek_id}{}", if retired { "" } else { " was retired before" })))?;
    if ring::entries()?.iter().any(|entry| entry.id == kek_id) {
        pgrx::notice!("the KEK \"{kek_id}\" is still in the keyring; remove it there and call vault_reload_kek()");
    }
    Ok(retired)
}
