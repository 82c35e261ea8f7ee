//! What goes into the audit trail, and its way to the writer: a row ([`record`]), an alarm ([`alarm`]), what the client says of itself ([`claims`]),
//! the slots and lists in shared memory ([`queue`]), statistics ([`stats`]), when to poll for it ([`spin`]), and the question whether a database knows a KEK
//! ([`kek_registration`]). Who writes it is not here.

pub mod alarm;
pub mod claims;
pub mod kek_registration;
pub mod queue;
pub mod record;
pub mod spin;
pub mod stats;
