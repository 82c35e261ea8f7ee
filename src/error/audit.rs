//! Errors of the trail.

use std::time::Duration;

use crate::pg::subxact::unpack_sqlstate;

/// Why the trail could not be written. Nothing was released.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditFailure {
    #[error("the audit row was not written within {} ms", .limit.as_millis())]
    TimedOut { limit: Duration, waits_for: Option<String> },
    #[error("no background worker slot is free for the audit writer")]
    NoWorkerSlot,
    #[error("the audit writer cannot connect to this database")]
    CannotConnect,
    #[error("every audit slot of this session is taken by calls that were cancelled or refused")]
    NoSlot,
    #[error("the audit row could not be written")]
    Rejected { sqlstate: String },
    #[error("the audit row could not be written: {what}")]
    Broken { what: String, hint: String },
}

impl AuditFailure {
    /// A limit of the server that a DBA can raise, in contrast to a state that has to be repaired.
    pub fn is_a_limit(&self) -> bool {
        matches!(self, Self::NoWorkerSlot | Self::NoSlot)
    }

    pub fn detail(&self) -> Option<String> {
        match self {
            Self::TimedOut { waits_for, .. } => waits_for.clone(),
            Self::Rejected { sqlstate } => Some(format!("The audit writer got SQLSTATE {sqlstate}.")),
            _ => None,
        }
    }

    pub fn hint(&self) -> String {
        match self {
            Self::TimedOut { waits_for: Some(_), .. } => "End what holds the lock, or try again later; vault_ext.audit_timeout is the time limit.",
            Self::TimedOut { waits_for: None, .. } => "Look at the vault_ext audit writer in pg_stat_activity and at the server log; vault_ext.audit_timeout is the time limit.",
            Self::NoWorkerSlot => "Raise max_worker_processes: each database in use needs one worker for its audit trail.",
            Self::CannotConnect => "Look in the server log for the FATAL message of the vault_ext audit writer.",
            Self::NoSlot => "Try again when the audit writer has caught up; vault_ext.audit_slots is the limit.",
            Self::Rejected { .. } => "Look in the server log for the audit writer's message, and at constraints, triggers and privileges on vault_ext.encryption_vault_audit.",
            Self::Broken { hint, .. } => hint,
        }
        .into()
    }

    /// What the writer said of a record that it did not write: an SQLSTATE or, where the vault is not as it was made, what is
    /// wrong and how to mend it (a reason that the writer sends).
    pub fn rejected(sqlstate: i32, reason: Option<String>) -> Self {
        match reason.as_deref().and_then(|reason| reason.split_once('\n')) {
            Some((what, hint)) => Self::Broken { what: what.into(), hint: hint.into() },
            None => Self::Rejected { sqlstate: unpack_sqlstate(sqlstate) },
        }
    }
}
