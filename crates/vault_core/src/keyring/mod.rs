//! KEKs outside a server: the text of a keyring ([`text`]), where it comes from ([`source`]), and what another one changes
//! ([`change`]). The ring that a server has in use is not here.

pub mod change;
pub mod text;

use crate::crypto::check::CheckValue;

/// What is public of a KEK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub id: String,
    pub check: CheckValue,
}
