//! What is done with a user's master key beside wrapping it: proofs of possession and check values.

pub mod recovery;
