//! What an administrator of one database does with KEKs: their status, a reload, a retirement, a check of all vaults and a
//! rewrap. The ring in use is in `keyring`.

pub mod check;
mod exclusion;
pub mod reload;
pub mod retire;
pub mod rewrap;
pub mod status;
