//! A short form of the trail's rows about a user.

use std::time::Duration;

use crate::harness::{Db, eventually};

const SOON: Duration = Duration::from_secs(20);

/// A user's rows as `action status context`, oldest first.
pub fn trail_of(db: &Db, user: &str) -> Vec<String> {
    let rows = db.audit_of(user);
    rows.iter()
        .map(|row| match &row.context {
            Some(context) => format!("{} {} {context}", row.action, row.status),
            None => format!("{} {}", row.action, row.status),
        })
        .collect()
}

/// Waits until the trail is as expected. No caller waits for the second row of a rolled-back change.
#[track_caller]
pub fn wait_for_trail(db: &Db, user: &str, expected: &[&str]) {
    eventually(SOON, &format!("the trail of {user} reads {expected:?}"), || trail_of(db, user).len() >= expected.len());
    assert_eq!(trail_of(db, user), expected);
}
