//! The tree as the tables have it now, and the checkpoint that says so.

use vault_trail::checkpoint::Checkpoint;
use vault_trail::tree::Tree;

use super::key;
use crate::pg::session;
use crate::store::tree::{self, Open};

/// Reads the tree; and what shows that rows, hashes or tiles were taken away.
pub fn read() -> (Tree, Option<&'static str>) {
    let Open { full_tiles, leaves, roots } = tree::open();
    Tree::assemble(full_tiles, &leaves, &roots)
}

/// The first part of an origin of this database; a random id follows.
pub fn origin_prefix() -> String {
    vault_trail::checkpoint::origin_prefix(&session::database_name())
}

/// A checkpoint of the tree as it is; None before its first leaf.
pub fn checkpoint() -> Option<Checkpoint> {
    let trail = tree::current_trail()?;
    let (tree, _) = read();
    Some(Checkpoint { origin: trail.origin, size: tree.size(), root: tree.root() })
}

/// Its text: a signed note if this server has an audit key.
pub fn note(checkpoint: &Checkpoint) -> String {
    key::with(|key| checkpoint.sign(key)).unwrap_or_else(|| checkpoint.text())
}
