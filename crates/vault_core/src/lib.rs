//! What vault_ext does without a server: wraps ([`crypto`]), what a master key is used for ([`data`]), keyrings
//! ([`keyring`]), what the audit trail holds ([`audit`]), who a token says the user is ([`identity`]), what the promises rest
//! on in the catalogs ([`integrity`]), what rows with wraps must be ([`rows`]), and how keys leave encrypted for one recipient
//! ([`seal`]) or another server ([`transfer`]). No pgrx, no unsafe: the extension, the fuzz targets and command-line tools share it.

#![forbid(unsafe_code)]

pub mod audit;
pub mod crypto;
pub mod data;
pub mod identity;
pub mod integrity;
pub mod keyring;
pub mod rows;
pub mod seal;
pub mod source;
pub mod transfer;
pub mod watch;
