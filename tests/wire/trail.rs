//! A short form of the trail's rows about a user, and the verification of the whole trail.

use std::time::Duration;

use vault_trail::checkpoint::Checkpoint;
use vault_trail::verify::{Finding, Summary};
use vault_trail_cli::{notes, server};

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

/// The libpq connection string of a role.
pub fn conninfo(db: &Db, role: &str) -> String {
    format!("host={} port={} user={role} dbname='{}'", db.cluster.dir().display(), db.cluster.port(), db.name)
}

/// Verifies the trail as an auditor outside the server does, with `vault-trail verify --db`.
pub fn verify(db: &Db, kept: &[Checkpoint]) -> (Summary, Option<Finding>) {
    server::verify(&conninfo(db, "wire_auditor"), kept.to_vec()).unwrap()
}

/// The checkpoints that the server has logged.
pub fn logged(db: &Db) -> Vec<Checkpoint> {
    let rows = db.superuser().query("SELECT note FROM vault_ext.audit_checkpoints ORDER BY size", &[]).unwrap();
    rows.iter().map(|row| Checkpoint::open(row.get(0), None).unwrap()).collect()
}

/// A checkpoint of now, as an auditor keeps it.
pub fn checkpoint(db: &Db) -> Checkpoint {
    let note: String = db.conn("wire_auditor").query_one("SELECT vault_audit_checkpoint()", &[]).unwrap().get(0);
    let checkpoints = notes::checkpoints(&note, None).unwrap();
    assert_eq!(checkpoints.len(), 1);
    checkpoints.into_iter().next().unwrap()
}

/// The trail verifies, and agrees with every checkpoint that the server has logged.
#[track_caller]
pub fn is_whole(db: &Db) -> Summary {
    if !db.value::<bool>("SELECT to_regclass('vault_ext.audit_tiles') IS NOT NULL") {
        return Summary::default();
    }
    let (summary, finding) = verify(db, &logged(db));
    assert_eq!(finding, None);
    summary
}
