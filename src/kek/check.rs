//! Opens every wrap without releasing a key: is a restore, a standby or a rotation complete?

use vault_core::audit::kek_registration::Known;
use vault_core::audit::record::Action;
use vault_core::crypto::wrap::StoredWrap;
use vault_core::integrity::{self, Scope};
use vault_core::keyring::Entry;

use crate::error::VaultError;
use crate::guard::blind;
use crate::keyring::ring::{self, Ring};
use crate::pg::session;
use crate::store::wraps::{self, Table};
use crate::store::{catalog, keks, version};
use crate::vault::call::{Call, describe};

const OPENS: &str = "opens";

/// Wraps of one KEK and format with the same outcome.
pub struct Finding {
    pub kek_id: String,
    pub format_version: i16,
    /// `opens`, or why not, in the words of the trail.
    pub outcome: &'static str,
    pub vaults: i64,
    pub old_keys: i64,
    /// The first users who have wraps that do not open, in no particular order.
    pub user_ids: Vec<String>,
}

/// Opens everything. On a standby this leaves no row in the trail: none can be written there, and nothing is released.
pub fn run(max_user_ids: usize) -> Result<Vec<Finding>, VaultError> {
    version::warn_if_they_differ();
    for problem in integrity::summed_up(catalog::problems()) {
        pgrx::warning!("{} ({})", problem.what, problem.hint);
    }
    if !session::has_row_security() {
        return Err(VaultError::RowSecurityOff);
    }
    if session::is_standby() {
        return blind::unless(Scope::Vaults, || open_all(max_user_ids));
    }
    let call = Call::without_user(Action::Check)?;
    let findings = call.attempt(|_| open_all(max_user_ids))?;
    let sum = |opens: bool| -> i64 {
        let some = findings.iter().filter(|finding| (finding.outcome == OPENS) == opens);
        some.map(|finding| finding.vaults + finding.old_keys).sum()
    };
    call.record(200, None, Some(&format!("{} open, {} do not", sum(true), sum(false))))?;
    Ok(findings)
}

fn open_all(max_user_ids: usize) -> Result<Vec<Finding>, VaultError> {
    let ring = ring::current()?;
    let mut findings: Vec<Finding> = Vec::new();
    let mut last = 0;
    let mut differing = Differing::default();
    let mut look = |table: Table, wrap: StoredWrap<'_>| {
        let outcome = outcome(&ring, &mut differing, &wrap);
        let fits = |finding: &Finding| {
            finding.outcome == outcome && finding.format_version == wrap.format_version && finding.kek_id == wrap.kek_id
        };
        if !findings.get(last).is_some_and(fits) {
            last = findings.iter().position(fits).unwrap_or_else(|| {
                findings.push(Finding {
                    kek_id: wrap.kek_id.into(),
                    format_version: wrap.format_version,
                    outcome,
                    vaults: 0,
                    old_keys: 0,
                    user_ids: Vec::new(),
                });
                findings.len() - 1
            });
        }
        let finding = &mut findings[last];
        match table {
            Table::Vaults => finding.vaults += 1,
            Table::OldKeys | Table::DatabaseKeys => finding.old_keys += 1,
        }
        let is_named = finding.user_ids.iter().any(|user| user == wrap.user_id);
        if outcome != OPENS && finding.user_ids.len() < max_user_ids && !is_named {
            finding.user_ids.push(wrap.user_id.into());
        }
    };
    for table in wraps::tables() {
        wraps::for_each(*table, |wrap| look(*table, wrap));
    }
    findings.sort_by(|a, b| (&a.kek_id, a.format_version, a.outcome).cmp(&(&b.kek_id, b.format_version, b.outcome)));
    Ok(findings)
}

fn outcome(ring: &Ring, differing: &mut Differing, wrap: &StoredWrap<'_>) -> &'static str {
    match (ring.open(wrap), ring.find(wrap.kek_id)) {
        (Ok(_), _) => OPENS,
        (Err(VaultError::DoesNotOpen), Some((entry, _))) if differing.contains(entry) => "kek-differs",
        (Err(error), _) => describe(&error).1,
    }
}

/// Which loaded KEKs are not the ones that this database knows; each is looked up once.
#[derive(Default)]
struct Differing(Vec<(String, bool)>);

impl Differing {
    fn contains(&mut self, entry: &Entry) -> bool {
        if let Some((_, differs)) = self.0.iter().find(|(id, _)| *id == entry.id) {
            return *differs;
        }
        let known = keks::known_kek(&entry.id).map(|known| known.compare(entry.check));
        let differs = matches!(known, Some(Known::Other(_)));
        self.0.push((entry.id.clone(), differs));
        differs
    }
}
