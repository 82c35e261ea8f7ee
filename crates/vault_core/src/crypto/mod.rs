//! Keys and what is done with them: no database, no I/O, no `unsafe`.
//!
//! [`secret`] owns the bytes, [`wrap`] seals and opens a user's master key, [`check`] names a key
//! without revealing it, and `aad` puts together what a ciphertext is bound to.

pub(crate) mod aad;
pub mod check;
pub mod secret;
pub mod wrap;
