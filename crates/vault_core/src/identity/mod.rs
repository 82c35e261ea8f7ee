//! Who a token says the user is: its parts ([`token`]), the keys that verify it ([`jwk`]), and the issuers that are believed
//! ([`issuers`]). RFC 8725 is the checklist. Nothing here opens a file or a connection.

pub mod counts;
#[cfg(test)]
mod differential;
pub mod headers;
pub mod issuers;
pub mod json;
pub mod jwk;
#[cfg(test)]
mod mint;
pub mod nonce;
pub mod token;
#[cfg(test)]
mod vectors;
