//! What users' keys go through: the service ([`service`], [`versions`], [`rename`]), the recovery code ([`recovery`]), the end of a key
//! and of a vault ([`destruction`], [`erasure`]), the audited call ([`call`]), wraps ([`wrapping`]), calls that a statement repeats
//! ([`repeat`]), whether keys can be released at all ([`health`]), grants ([`grants`], [`many`]), honey users ([`honey`]), the database's own keys ([`database_key`]), keys that leave sealed ([`mod@seal`],
//! [`transfer`]), and the issuers as an administrator sees them
//! ([`issuers`]). What an administrator does with KEKs is in `kek`.

pub mod call;
pub mod database_key;
pub mod destruction;
pub mod erasure;
pub mod grants;
pub mod health;
pub mod honey;
pub mod issuers;
pub mod key;
pub mod many;
pub mod recovery;
pub mod rename;
pub mod repeat;
pub mod seal;
pub mod service;
pub mod transfer;
pub mod versions;
pub mod wrapping;
