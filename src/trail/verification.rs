//! Verifies the trail within the server, for convenience: a superuser could replace this function. `vault-trail` does the same outside.

use vault_trail::Hash;
use vault_trail::checkpoint::Checkpoint;
use vault_trail::verify::{Finding, Hashes, Summary, Verifier};

use crate::error::TrailError;
use crate::store::{trail, tree};

/// The tiles of this database.
struct Tiles;

impl Hashes for Tiles {
    fn tile(&mut self, level: u8, index: u64) -> Option<Vec<Hash>> {
        tree::tile(level.into(), index)
    }

    fn purged(&mut self, leaf: u64) -> Option<Hash> {
        tree::tile(-1, leaf)?.first().copied()
    }

    /// Tiles may be newer than the rows that one snapshot sees.
    fn full_tiles(&mut self) -> u64 {
        0
    }
}

/// Verifies all rows, and that the trail is that of a checkpoint that was kept.
pub fn verify(since: Option<&str>) -> Result<(Summary, Option<Finding>), TrailError> {
    let parse = |note: &str| Checkpoint::open(note, None).map_err(|error| TrailError::BadCheckpoint(error.to_string()));
    let kept = since.map(parse).transpose()?;
    let mut verifier = Verifier::new(kept, Tiles);
    trail::for_each_row(|row| verifier.row(row));
    Ok(verifier.finish())
}
