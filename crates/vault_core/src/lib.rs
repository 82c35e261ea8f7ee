//! What vault_ext does without a server: wraps ([`crypto`]), what is done with a master key ([`data`]), keyrings ([`keyring`]), what the audit trail holds ([`audit`]),
//! who a token says the user is ([`identity`]), and what the promises rest on in the catalogs ([`integrity`]). No pgrx, no unsafe: the extension, the fuzz targets and
//! command-line tools share it.

#![forbid(unsafe_code)]

pub mod audit;
pub mod crypto;
pub mod data;
pub mod identity;
pub mod integrity;
pub mod keyring;
pub mod source;
