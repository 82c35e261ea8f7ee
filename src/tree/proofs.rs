//! Proofs for auditors: that a row is in the tree, and that the tree has only grown.

use vault_trail::Hash;
use vault_trail::checkpoint::{Checkpoint, ConsistencyProof, InclusionProof};
use vault_trail::proof::{self, Nodes};
use vault_trail::tree::{TILE_WIDTH, Tree, hash_node};

use super::head;
use crate::error::TrailError;
use crate::store::{trail, tree};

/// The nodes of the tree: from full tiles, and from the open ones in memory.
struct Tiles<'a>(&'a Tree);

impl Nodes for Tiles<'_> {
    type Error = TrailError;

    fn node(&self, level: u32, index: u64) -> Result<Hash, TrailError> {
        let (tile_level, above) = ((level / 8) as u8, level % 8);
        let first = index << above;
        let (tile, at) = (first / TILE_WIDTH as u64, (first % TILE_WIDTH as u64) as usize);
        let stored;
        let hashes = if tile == self.0.full_tiles(tile_level) {
            self.0.open(tile_level)
        } else {
            stored = tree::tile(tile_level.into(), tile).ok_or(TrailError::Incomplete)?;
            &stored
        };
        let mut nodes = hashes.get(at..at + (1 << above)).ok_or(TrailError::Incomplete)?.to_vec();
        while nodes.len() > 1 {
            nodes = nodes.chunks(2).map(|pair| hash_node(&pair[0], &pair[1])).collect();
        }
        Ok(nodes[0])
    }
}

fn current() -> Result<(Tree, Checkpoint), TrailError> {
    let trail = tree::current_trail().ok_or(TrailError::Empty)?;
    let (tree, _) = head::read();
    let checkpoint = Checkpoint { origin: trail.origin, size: tree.size(), root: tree.root() };
    Ok((tree, checkpoint))
}

/// Proves that the row is in the tree as it is now.
pub fn inclusion(id: i64) -> Result<InclusionProof, TrailError> {
    let leaf = trail::leaf_of(id).ok_or(TrailError::NoRow(id))?.ok_or(TrailError::OlderThanTree(id))?;
    let (tree, checkpoint) = current()?;
    if leaf >= checkpoint.size {
        return Err(TrailError::Incomplete);
    }
    let hashes = proof::prove_inclusion(leaf, checkpoint.size, &Tiles(&tree))?;
    Ok(InclusionProof { index: leaf, hashes, checkpoint: head::note(&checkpoint) })
}

/// Proves that the tree as it is now begins with the one of that size.
pub fn consistency(old_size: u64) -> Result<ConsistencyProof, TrailError> {
    let (tree, checkpoint) = current()?;
    if old_size > checkpoint.size {
        return Err(TrailError::Smaller { size: checkpoint.size });
    }
    let hashes = proof::prove_consistency(old_size, checkpoint.size, &Tiles(&tree))?;
    Ok(ConsistencyProof { old_size, hashes, checkpoint: head::note(&checkpoint) })
}
