//! Key-encryption keys: their text ([`keyring`]) and where the text comes from ([`source`]).

pub mod keyring;
pub mod ring;
pub mod source;
pub mod startup;
