//! Moving vaults between servers that have different KEKs: a vault leaves as one line of text that only the target's
//! KEK opens.
//!
//! 1. The target derives an import key from its active KEK ([`ImportKey::derive`]) and shows the public half with the
//!    KEK's id. Nothing new has to be kept: the private half can be derived again as long as the KEK is in the keyring.
//! 2. The source seals each vault's record ([`record`]) to that key ([`Target::seal`]).
//! 3. The target finds the KEK by the id in the bundle, derives the private half and opens it ([`ImportKey::open`]).
//!
//! A bundle proves nothing about its origin: whoever has the public import key can make one with a key of his choice
//! for any user. So importing is for administrators, who compare the fingerprint of the import key on the source and
//! take bundles from there only. And a bundle stays readable to the KEK for ever: shredding a vault includes its
//! bundles.

pub mod bundle;
pub mod import_key;
pub mod record;

pub use self::bundle::{BadBundle, Bundle, ExportError, Target, TargetError};
pub use self::import_key::{ImportKey, OpenError};
pub use self::record::{BadRecord, KeyVersion, Recovery, VaultRecord};
