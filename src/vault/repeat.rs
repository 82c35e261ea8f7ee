//! Repeated calls for one user within one statement give one stored key.
//!
//! PostgreSQL may call a function several times where the text of a statement has one call: `SELECT (vault_rotate()).*` calls it
//! once for each column. A row made of such calls must not mix two keys. A statement that has rotated a key must not rotate it
//! again, because the key that it released first would be stored nowhere. So a statement that wrote a user's key gets the same
//! key again, and a statement that has read a user's vault does not read it a second time.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use crate::error::VaultError;
use crate::pg::session::{self, Statement};
use crate::pg::xact::{self, Callbacks};
use crate::store::vaults::{self, Found, Vault, VaultStatus};

/// A change of a user's key by the transaction in progress.
struct Change {
    /// The first command that sees it.
    seen_from: u32,
    /// The nesting level of the (sub)transaction that made it.
    level: i32,
}

/// What a statement last read about a user.
struct Reading<T> {
    statement: Statement,
    user: String,
    read: T,
}

impl<T> Reading<T> {
    fn is_of(&self, statement: Option<Statement>, user: &str) -> bool {
        Some(self.statement) == statement && self.user == user
    }
}

thread_local! {
    static CHANGES: RefCell<HashMap<String, Change>> = RefCell::new(HashMap::new());
    /// Grows with each change, and with each that is taken back.
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static VAULT: RefCell<Option<Reading<Vault>>> = const { RefCell::new(None) };
    static STATUS: RefCell<Option<Reading<Option<VaultStatus>>>> = const { RefCell::new(None) };
}

static CALLBACKS: Callbacks = Callbacks {
    committed: forget,
    aborted: forget,
    level_committed: |level| {
        with_changes(|changes| {
            changes.values_mut().filter(|change| change.level >= level).for_each(|change| change.level = level - 1);
        });
    },
    level_aborted: |level| {
        forget_readings();
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        with_changes(|changes| changes.retain(|_, change| change.level < level));
    },
    before_prepare: || (),
};

/// Never fails: it also runs while a transaction ends.
fn with_changes(work: impl FnOnce(&mut HashMap<String, Change>)) {
    let _ = CHANGES.try_with(|changes| changes.try_borrow_mut().map(|mut changes| work(&mut changes)));
}

fn forget_readings() {
    let _ = VAULT.try_with(|reading| reading.try_borrow_mut().map(|mut reading| *reading = None));
    let _ = STATUS.try_with(|reading| reading.try_borrow_mut().map(|mut reading| *reading = None));
}

fn forget() {
    forget_readings();
    with_changes(HashMap::clear);
}

/// Remembers that this transaction wrote, moved or deleted the user's key.
pub fn note_change(user: &str) {
    xact::listen(&CALLBACKS);
    forget_readings();
    let change = Change { seen_from: session::next_command(), level: xact::nesting_level() };
    CHANGES.with_borrow_mut(|changes| changes.insert(user.to_owned(), change));
    COUNT.set(COUNT.get() + 1);
}

/// A number that stays the same as long as this process changes no user's key, and takes no change back.
pub fn changes() -> u64 {
    COUNT.get()
}

/// Remembers that this transaction wrote the user's row and left the key as it was. A rotation in the same statement is still one.
pub fn note_change_beside_key() {
    xact::listen(&CALLBACKS);
    forget_readings();
}

/// Whether the calling statement has already written the user's key: then it began before that change.
pub fn was_changed_by_this_statement(user: &str) -> bool {
    let seen_from = CHANGES.with_borrow(|changes| changes.get(user).map(|change| change.seen_from));
    let is_later = |seen_from| Statement::current().is_some_and(|statement| statement.began_before(seen_from));
    seen_from.is_some_and(is_later)
}

/// Calls `work` with the user's vault: as the calling statement read it before, or else as it is now. `for_token`: see
/// `vaults::find`.
pub fn with_vault<T>(
    user: &str,
    for_token: bool,
    work: impl FnOnce(Found<&Vault>) -> Result<T, VaultError>,
) -> Result<T, VaultError> {
    let statement = Statement::current();
    let is_enough = |vault: &Vault| !for_token || vault.tokens_valid_from.is_some();
    // Taken out meanwhile: `work` may come back here.
    if let Some(reading) = VAULT.take().filter(|reading| reading.is_of(statement, user) && is_enough(&reading.read)) {
        let done = work(Found::Open(&reading.read)).map_err(|error| match error {
            // It opened a moment ago: the vault was rewrapped, and the KEK has left the keyring since.
            VaultError::KekNotLoaded(_) => VaultError::ChangedMeanwhile,
            error => error,
        })?;
        VAULT.set(Some(reading));
        return Ok(done);
    }
    match vaults::find(user, for_token) {
        Found::Open(vault) => {
            let done = work(Found::Open(&vault))?;
            VAULT.set(statement.map(|statement| Reading { statement, user: user.to_owned(), read: vault }));
            Ok(done)
        }
        Found::Closed => work(Found::Closed),
        Found::Nothing => work(Found::Nothing),
    }
}

/// The same for the user's row without the wrap.
pub fn status(user: &str) -> Option<VaultStatus> {
    let statement = Statement::current();
    if let Some(reading) = STATUS.take().filter(|reading| reading.is_of(statement, user)) {
        let status = reading.read.clone();
        STATUS.set(Some(reading));
        return status;
    }
    let status = vaults::status(user);
    STATUS.set(statement.map(|statement| Reading { statement, user: user.to_owned(), read: status.clone() }));
    status
}
