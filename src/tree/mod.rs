//! The audit trail's Merkle tree in the server: how the audit writer grows it ([`growth`]), what it is now ([`head`]), what it proves
//! ([`proofs`]), the rows that are older than it ([`old_rows`]), and the key that signs checkpoints ([`key`]). The tree itself, the
//! leaf's format and the checkpoint's are in the crate `vault_trail`, which the program `vault-trail` shares; the SQL is in `store::tree`.

pub mod growth;
pub mod head;
pub mod key;
pub mod old_rows;
pub mod proofs;
