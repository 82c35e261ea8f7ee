//! The second row: when the transaction of a recorded change rolls back, the trail says so.

use std::cell::RefCell;
use std::time::Instant;

use vault_core::audit::record::{Action, Record};

use super::leave;
use crate::error::VaultError;
use crate::pg::session;
use crate::pg::xact::{self, Callbacks};

/// Status and context of the second row.
const STATUS: u16 = 409;
const CONTEXT: &str = "rolled-back";

/// A change whose transaction has not ended yet: the row to write if it rolls back, ready made, since an abort can
/// neither fail nor look anything up.
struct Pending {
    level: i32,
    bytes: Vec<u8>,
}

thread_local! {
    static PENDING: RefCell<Vec<Pending>> = const { RefCell::new(Vec::new()) };
}

static CALLBACKS: Callbacks = Callbacks { committed, aborted, level_committed, level_aborted, before_prepare };

/// Remembers a change until its transaction ends. The record is that of the change itself.
pub fn watch(record: &Record<'_>) {
    xact::listen(&CALLBACKS);
    // Whoever verifies the trail must know which of them did not take place.
    let context = match (record.action, record.context) {
        (Action::Purge | Action::Redact, Some(context)) => &format!("{CONTEXT} {context}"),
        _ => CONTEXT,
    };
    let bytes = Record { status: STATUS, context: Some(context), ..record.clone() }.encoded();
    let pending = Pending { level: xact::nesting_level(), bytes };
    PENDING.with(|list| list.borrow_mut().push(pending));
}

fn committed() {
    let _ = PENDING.try_with(|list| list.try_borrow_mut().map(|mut list| list.clear()));
}

fn aborted() {
    record_rollbacks(0);
}

fn level_committed(level: i32) {
    let _ = PENDING.try_with(|list| {
        if let Ok(mut list) = list.try_borrow_mut() {
            list.iter_mut().filter(|pending| pending.level >= level).for_each(|pending| pending.level = level - 1);
        }
    });
}

fn level_aborted(level: i32) {
    record_rollbacks(level);
}

fn before_prepare() {
    if PENDING.with(|list| !list.borrow().is_empty()) {
        VaultError::Prepared.raise();
    }
}

/// Queues the rows of all changes at this nesting level and deeper. Nobody waits for them; a lost one is counted.
fn record_rollbacks(level: i32) {
    let taken = PENDING.try_with(|list| {
        let mut list = list.try_borrow_mut().ok()?;
        Some(list.extract_if(.., |pending| pending.level >= level).collect::<Vec<_>>())
    });
    let Ok(Some(taken)) = taken else { return };
    let deadline = Instant::now() + leave::PATIENCE;
    for mut pending in taken {
        pending.bytes[..8].copy_from_slice(&session::now().to_le_bytes());
        leave::leave_encoded(&pending.bytes, deadline);
    }
}
