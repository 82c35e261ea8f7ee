//! The audit trail as something that proves itself: the bytes of a row ([`leaf`]), the Merkle tree over them ([`tree`]), proofs
//! ([`proof`]), checkpoints ([`checkpoint`]) and what rows say about the tree itself ([`context`]); and
//! the verification of all that ([`verify`]). The extension writes with it, and `vault-trail` verifies with it, without the server.
//! Pure: no server, no unsafe.

pub mod checkpoint;
pub mod context;
pub mod leaf;
pub mod proof;
pub mod tree;
pub mod verify;

/// SHA-256.
pub type Hash = [u8; 32];
