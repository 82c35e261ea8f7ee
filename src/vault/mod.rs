//! What users' keys go through: the service ([`service`], [`versions`], [`rename`]), the recovery code ([`recovery`]), the end of a key
//! and of a vault ([`destruction`], [`erasure`]), the audited call ([`call`]), wraps ([`wrapping`]), calls that a statement repeats
//! ([`repeat`]), whether keys can be released at all ([`health`]), grants ([`grants`]), and the issuers as an administrator sees them
//! ([`issuers`]). What an administrator does with KEKs is in `kek`.

pub mod call;
pub mod destruction;
pub mod erasure;
pub mod grants;
pub mod health;
pub mod issuers;
pub mod key;
pub mod recovery;
pub mod rename;
pub mod repeat;
pub mod service;
pub mod versions;
pub mod wrapping;
