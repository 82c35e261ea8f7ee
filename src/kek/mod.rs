//! Key-encryption keys: their text ([`keyring`]) and where the text comes from ([`source`]).

pub mod change;
pub mod keyring;
pub mod reload;
pub mod ring;
pub mod source;
pub mod startup;
