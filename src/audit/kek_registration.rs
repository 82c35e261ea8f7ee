//! Making a KEK known to a database. The first use of an id records its check value, and every later use is compared with
//! it. The audit writer does it: in a transaction of its own, so that no open transaction of a caller can hold up others
//! or take it back, and not in a READ ONLY one.

use vault_core::audit::kek_registration::{Candidate, Known};
use vault_core::audit::queue::Kind;
use vault_core::audit::record::RECORD_BYTES;

use super::submit::submit_and_wait;
use crate::error::AuditFailure;
use crate::settings;

/// Makes the KEK known to this database, or says what the database knows instead.
pub fn register(candidate: &Candidate<'_>) -> Result<Known, AuditFailure> {
    submit_and_wait(Kind::RegisterKek, &candidate.encode(), settings::audit_timeout(), |slot| {
        let mut answer = [0; RECORD_BYTES];
        let length = slot.read(&mut answer);
        Known::decode(&answer[..length])
    })?
    .ok_or_else(|| AuditFailure::Rejected { sqlstate: "XX000".into() })
}
