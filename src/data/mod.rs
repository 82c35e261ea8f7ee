//! Keys in use in SQL, where no key leaves the server: values, blind indexes and the predecessor's client blobs ([`values`]), under
//! keys that a transaction has unlocked ([`unlocked`]), and keys derived for the application ([`derive`]). Who the user is and what
//! the trail says is in `identity` and `vault`; the formats are in `vault_core::data`.

pub mod derive;
mod unlocked;
pub mod values;
