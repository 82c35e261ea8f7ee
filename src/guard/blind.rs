//! Refuses work across users while it could not see every row: an answer such as 0 or false would be wrong, and a change would miss
//! rows.

use std::cell::RefCell;

use vault_core::integrity::{self, Problem, Scope};

use crate::error::VaultError;
use crate::pg::{inval, session};
use crate::store::catalog;

/// How often the catalogs are read if they change meanwhile.
const ATTEMPTS: u32 = 8;

/// What a look at the catalogs has found for one kind of work.
#[derive(Clone)]
enum Sight {
    Unknown,
    Whole,
    Blind(Problem),
}

thread_local! {
    /// What was found since the last change, for each kind of work. Not used in the audit writer, which keeps its own.
    static SIGHT: RefCell<[Sight; Scope::ALL.len()]> = const { RefCell::new([const { Sight::Unknown }; Scope::ALL.len()]) };
}

/// Fails if something hides rows from work of that kind.
///
/// Call it before the work, and again before what was found is relied on: the work locks its tables, and whatever changed before
/// that is known from then on. The catalogs are read only after a change.
pub fn refuse(scope: Scope) -> Result<(), VaultError> {
    // PostgreSQL would refuse every statement on the vault's tables, and advise to weaken them.
    if !session::has_row_security() {
        return Err(VaultError::RowSecurityOff);
    }
    // Reading takes locks, and with them comes the news of changes.
    for _ in 0..ATTEMPTS {
        if inval::has_changed() {
            inval::forget_changes();
            SIGHT.set([const { Sight::Unknown }; Scope::ALL.len()]);
        }
        let known = SIGHT.with_borrow(|sight| sight[scope as usize].clone());
        let sight = if matches!(known, Sight::Unknown) { look(scope) } else { known };
        match sight {
            _ if inval::has_changed() => {}
            Sight::Blind(problem) if problem.voids => return Err(VaultError::Broken(problem)),
            Sight::Blind(problem) => return Err(VaultError::Hidden(problem)),
            Sight::Whole | Sight::Unknown => return Ok(()),
        }
    }
    Err(VaultError::ChangedMeanwhile)
}

/// Gives what the work found, if nothing hid rows from it.
pub fn unless<T>(scope: Scope, work: impl FnOnce() -> Result<T, VaultError>) -> Result<T, VaultError> {
    refuse(scope)?;
    let found = work()?;
    refuse(scope)?;
    Ok(found)
}

fn look(scope: Scope) -> Sight {
    let facts = catalog::facts(|table| scope.needs_policies_of(table));
    catalog::watch_tables(&facts);
    let sight = integrity::blinds(&facts, scope).map_or(Sight::Whole, Sight::Blind);
    // A table that has lost its name is not watched, so nobody would notice that it has it back: the next call looks again.
    if !matches!(&sight, Sight::Blind(problem) if problem.voids) {
        SIGHT.with_borrow_mut(|known| known[scope as usize] = sight.clone());
    }
    sight
}
