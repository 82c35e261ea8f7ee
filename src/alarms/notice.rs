//! What the audit writer does about an alarm beside its row: it notifies those who listen, in the transaction of the row, and warns in the
//! server's log when the row is committed.

use std::cell::RefCell;

use vault_core::audit::alarm::Alarm;
use vault_core::audit::record::{Action, Record};

use crate::pg::session;
use crate::store::honey;

thread_local! {
    /// The alarms of the batch in progress, as they are notified.
    static PAYLOADS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Looks whether a row of the batch is an alarm.
pub fn collect(record: &Record<'_>) {
    if record.action == Action::Alarm
        && let Some(alarm) = record.context.and_then(Alarm::parse)
    {
        PAYLOADS.with_borrow_mut(|payloads| payloads.push(alarm.to_json(&session::database_name(), record)));
    }
}

/// Notifies, in the transaction of the rows.
pub fn notify() {
    PAYLOADS.with_borrow(|payloads| payloads.iter().for_each(|payload| honey::notify(payload)));
}

/// The batch is over: warns if it was committed.
pub fn end(committed: bool) {
    for payload in PAYLOADS.take() {
        if committed {
            pgrx::warning!("vault_ext alarm: {payload}");
        }
    }
}
