//! The ring of KEKs that this server has in use: loaded at start ([`startup`]), read again ([`reload`]), shared by all processes
//! ([`ring`]). Parsing is in `vault_core::keyring`; what an administrator does with KEKs is in `kek`.

pub mod reload;
pub mod ring;
pub mod startup;
