//! Errors of those who ask what the trail proves.

use pgrx::PgSqlErrorCode;

/// Why there is no proof.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrailError {
    #[error("the audit trail has no row yet")]
    Empty,
    #[error("the audit trail has no row with the id {0}")]
    NoRow(i64),
    #[error("the row with the id {0} is older than the audit trail's tree")]
    OlderThanTree(i64),
    #[error("the audit trail has {size} leaves only")]
    Smaller { size: u64 },
    #[error("the audit trail's tree lacks hashes")]
    Incomplete,
    #[error("this checkpoint cannot be read: {0}")]
    BadCheckpoint(String),
}

impl TrailError {
    pub fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            Self::NoRow(_) => PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
            Self::Empty | Self::OlderThanTree(_) => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::Smaller { .. } | Self::BadCheckpoint(_) => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            Self::Incomplete => PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        }
    }

    pub fn hint(&self) -> &'static str {
        match self {
            Self::Empty => "The first audited call begins the tree.",
            Self::NoRow(_) => {
                "Choose an id of vault_ext.encryption_vault_audit. A row that was purged can no longer be shown."
            }
            Self::OlderThanTree(_) => {
                "The first leaf commits to all rows from before the update to 0.3.0; vault-trail verify checks them together."
            }
            Self::Smaller { .. } => {
                "If a checkpoint has that size, the database was rolled back or its trail was cut: vault-trail verify says more."
            }
            Self::Incomplete => "Rows or tiles were taken away: vault-trail verify says which.",
            Self::BadCheckpoint(_) => "Pass the text that vault_audit_checkpoint() gave, with all its lines.",
        }
    }
}
