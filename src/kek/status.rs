//! Every KEK as an administrator of one database sees it.

use pgrx::datum::Date;
use vault_core::integrity::Scope;

use crate::error::VaultError;
use crate::guard::blind;
use crate::keyring::ring;
use crate::store::keks::KekUsage;
use crate::store::{keks, nodes, version};

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
    pub old_keys: i64,
    pub oldest: Option<Date>,
    pub first_seen: Option<Date>,
    pub retired: Option<Date>,
    pub safe_to_remove: bool,
}

/// One row per KEK: the active one, the others of the ring in its order, then those that are not loaded.
pub fn status() -> Result<Vec<Status>, VaultError> {
    version::warn_if_they_differ();
    let entries = ring::entries()?;
    if let (true, Err(reason)) = (entries.is_empty(), ring::current()) {
        pgrx::warning!("{reason}");
    }
    let mut rows = blind::unless(Scope::Vaults, || Ok(keks::kek_usage()))?;
    let others = nodes::others_wrap_with();
    let is_free = |usage: &KekUsage| {
        usage.is_unused() && others.iter().all(|active| active.as_ref().is_some_and(|active| *active != usage.kek_id))
    };
    let loaded = entries.iter().enumerate().map(|(position, entry)| {
        let at = rows.iter().position(|usage| usage.kek_id == entry.id);
        let usage = at.map_or_else(|| KekUsage::none(&entry.id), |at| rows.remove(at));
        let check = entry.check.to_hex();
        Status {
            active: position == 0,
            loaded: true,
            matches: usage.check_value.as_ref().map(|known| *known == check),
            safe_to_remove: position != 0 && is_free(&usage),
            check_value: Some(usage.check_value.unwrap_or(check)),
            kek_id: usage.kek_id,
            vaults: usage.vaults,
            old_keys: usage.old_keys,
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
        safe_to_remove: is_free(&usage),
        kek_id: usage.kek_id,
        check_value: usage.check_value,
        vaults: usage.vaults,
        old_keys: usage.old_keys,
        oldest: usage.oldest,
        first_seen: usage.first_seen,
        retired: usage.retired,
    }));
    Ok(status)
}
