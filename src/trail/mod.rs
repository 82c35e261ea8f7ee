//! What is done with the audit trail as a whole: deleting what is old ([`retention`]), taking personal fields away ([`redaction`]),
//! verifying it ([`verification`]), and a new origin for a copy ([`origin`]). Who writes the trail is in `audit`, its tree in `tree`.

pub mod origin;
pub mod redaction;
pub mod retention;
pub mod verification;
