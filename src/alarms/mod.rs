//! Alarms and limits: what a stolen application looks like from here. How many users a login role asks for and how many of its calls fail
//! within a minute ([`limits`]), and users that nobody should ask for ([`honey`]). The counts are `vault_core::watch`; an alarm is a row of
//! the trail, and its writer says it in the log and notifies who listens ([`notice`]).

pub mod honey;
pub mod limits;
mod memory;
pub mod notice;

pub use memory::share;
