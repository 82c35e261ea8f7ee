//! The Merkle tree of RFC 6962 and RFC 9162, and its tiles (C2SP tlog-tiles, of height 8).

use sha2::{Digest, Sha256};

use crate::Hash;

/// Hashes in a full tile.
pub const TILE_WIDTH: usize = 256;
/// Bits of an index within a tile.
const TILE_BITS: u32 = 8;

/// The hash of a leaf's bytes.
pub fn hash_leaf(bytes: &[u8]) -> Hash {
    Sha256::new_with_prefix([0]).chain_update(bytes).finalize().into()
}

/// The hash of a node by those of its children.
pub fn hash_node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new_with_prefix([1]).chain_update(left).chain_update(right).finalize().into()
}

/// A full tile: the hashes of 256 leaves, or of 256 tiles of the level below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tile {
    pub level: u8,
    pub index: u64,
    pub hashes: Vec<Hash>,
    /// The hash of the subtree over them.
    pub root: Hash,
}

/// The tree as far as it is not in full tiles, which is all that it takes to grow it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    /// The hashes of the tile of each level that is not full.
    open: Vec<Vec<Hash>>,
}

impl Tree {
    pub fn new() -> Self {
        Self::default()
    }

    /// A tree of that size with these open tiles. None if their widths are not those that the size gives.
    pub fn from_open_tiles(size: u64, open: Vec<Vec<Hash>>) -> Option<Self> {
        let tree = Self { size, open };
        let fits = |level: u8| tree.open(level).len() as u64 == tree.hashes_at(level) % TILE_WIDTH as u64;
        (tree.open.len() <= 8 && (0..8).all(fits)).then_some(tree)
    }

    /// Puts a tree together from the number of its full tiles on level 0, the hashes of the leaves after them (others are ignored), and the
    /// roots of tiles by level and index. What is missing is replaced by zeros, so that a damaged trail can go on and does not verify; the
    /// text says what was missing.
    pub fn assemble(
        full_tiles: u64,
        leaves: &[(u64, Hash)],
        roots: &[(u8, u64, Hash)],
    ) -> (Self, Option<&'static str>) {
        const MISSING: Hash = [0; 32];
        let mut problem = None;
        let first = full_tiles * TILE_WIDTH as u64;
        let mut open = vec![Vec::new()];
        let mut found = vec![None; TILE_WIDTH];
        for (leaf, hash) in leaves {
            match leaf.checked_sub(first) {
                Some(at) if at < TILE_WIDTH as u64 => found[at as usize] = Some(*hash),
                Some(_) => problem = Some("rows lie beyond its tiles"),
                None => {}
            }
        }
        let width = found.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        let size = first + width as u64;
        if found[..width].iter().any(Option::is_none) {
            problem = Some("a row is missing among the newest");
        }
        open[0].extend(found[..width].iter().map(|hash| hash.unwrap_or(MISSING)));
        let mut tiles = full_tiles;
        for level in 0..7u8 {
            let first = tiles >> TILE_BITS << TILE_BITS;
            let mut hashes = vec![None; (tiles - first) as usize];
            for (_, index, root) in roots.iter().filter(|(of, ..)| *of == level) {
                if let Some(place) = index.checked_sub(first).and_then(|at| hashes.get_mut(at as usize)) {
                    *place = Some(*root);
                }
            }
            if hashes.iter().any(Option::is_none) {
                problem = Some("a tile is missing");
            }
            open.push(hashes.into_iter().map(|hash| hash.unwrap_or(MISSING)).collect());
            tiles >>= TILE_BITS;
        }
        (Self { size, open }, problem)
    }

    /// The number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The hashes of the tile of a level that is not full yet.
    pub fn open(&self, level: u8) -> &[Hash] {
        self.open.get(level as usize).map_or(&[], Vec::as_slice)
    }

    /// The number of full tiles of a level: the index of its open one.
    pub fn full_tiles(&self, level: u8) -> u64 {
        self.hashes_at(level) >> TILE_BITS
    }

    /// The number of hashes of a level of tiles.
    fn hashes_at(&self, level: u8) -> u64 {
        self.size.checked_shr(TILE_BITS * u32::from(level)).unwrap_or(0)
    }

    /// Adds a leaf by its hash. The tiles that it fills are added to `full`.
    pub fn push(&mut self, leaf: Hash, full: &mut Vec<Tile>) {
        let mut hash = leaf;
        for level in 0u8.. {
            let index = self.full_tiles(level);
            if self.open.len() <= level.into() {
                self.open.push(Vec::new());
            }
            let open = &mut self.open[level as usize];
            open.push(hash);
            if open.len() < TILE_WIDTH {
                break;
            }
            let hashes = std::mem::take(open);
            hash = subtree(&hashes);
            full.push(Tile { level, index, hashes, root: hash });
        }
        self.size += 1;
    }

    /// The root hash: RFC 6962's Merkle tree hash. That of no leaves is SHA-256 of nothing.
    pub fn root(&self) -> Hash {
        let mut frontier = Frontier::default();
        for (level, hashes) in self.open.iter().enumerate().rev() {
            hashes.iter().for_each(|hash| frontier.append(TILE_BITS * level as u32, *hash));
        }
        frontier.root()
    }
}

/// The hash over a full tile.
fn subtree(hashes: &[Hash]) -> Hash {
    let mut nodes = hashes.to_vec();
    while nodes.len() > 1 {
        nodes = nodes.chunks_exact(2).map(|pair| hash_node(&pair[0], &pair[1])).collect();
    }
    nodes[0]
}

/// The roots of the full subtrees that a tree of some size consists of: enough for its root and to go on. At most 64 hashes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// The root of a subtree for each bit of the size that is set, the largest first.
    roots: Vec<Hash>,
}

impl Frontier {
    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn push(&mut self, leaf: Hash) {
        self.append(0, leaf);
    }

    /// Appends a full subtree of 2^level leaves. The size must be a multiple of that.
    pub fn append(&mut self, level: u32, root: Hash) {
        debug_assert!(self.size.trailing_zeros() >= level || self.size == 0);
        let mut hash = root;
        let mut bit = 1u64 << level;
        while self.size & bit != 0 {
            let left = self.roots.pop().expect("a root for each bit");
            hash = hash_node(&left, &hash);
            self.size &= !bit;
            bit <<= 1;
        }
        self.size |= bit;
        self.roots.push(hash);
    }

    pub fn root(&self) -> Hash {
        let mut roots = self.roots.iter().rev();
        match roots.next() {
            None => Sha256::digest([]).into(),
            Some(last) => roots.fold(*last, |right, left| hash_node(left, &right)),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// RFC 6962, section 2.1, word for word.
    pub fn mth(leaves: &[Hash]) -> Hash {
        match leaves.len() {
            0 => Sha256::digest([]).into(),
            1 => leaves[0],
            n => {
                let k = n.next_power_of_two() / 2;
                hash_node(&mth(&leaves[..k]), &mth(&leaves[k..]))
            }
        }
    }

    pub fn leaves(n: usize) -> Vec<Hash> {
        (0..n).map(|i| hash_leaf(&i.to_be_bytes())).collect()
    }

    #[test]
    fn tree_and_frontier_have_the_root_of_the_rfc_at_every_size() {
        let all = leaves(1100);
        let (mut tree, mut frontier, mut full) = (Tree::new(), Frontier::default(), Vec::new());
        for size in 0..=all.len() {
            let expected = mth(&all[..size]);
            assert_eq!((tree.root(), frontier.root()), (expected, expected), "{size}");
            assert_eq!((tree.size(), frontier.size()), (size as u64, size as u64));
            if let Some(leaf) = all.get(size) {
                tree.push(*leaf, &mut full);
                frontier.push(*leaf);
            }
        }
        assert_eq!(full.len(), 4);
    }

    #[test]
    fn known_roots() {
        // The roots of Certificate Transparency's reference implementation for its eight test leaves.
        let inputs: [&[u8]; 8] = [
            &[],
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
            &[0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f],
        ];
        let mut tree = Tree::new();
        inputs.iter().for_each(|input| tree.push(hash_leaf(input), &mut Vec::new()));
        let hex: String = tree.root().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328");
    }

    #[test]
    fn a_tree_is_read_back_from_its_tiles_at_every_size() {
        let all = leaves(256 * 257 + 3);
        let (mut tree, mut tiles) = (Tree::new(), Vec::new());
        for (at, leaf) in all.iter().enumerate() {
            tree.push(*leaf, &mut tiles);
            if at % 1000 != 0 && at + 4 < all.len() && at % 256 > 1 {
                continue;
            }
            let full = tiles.iter().filter(|tile| tile.level == 0).count() as u64;
            let newest: Vec<_> = (0..=at as u64).rev().take(256).map(|leaf| (leaf, all[leaf as usize])).collect();
            let roots: Vec<_> = tiles.iter().map(|tile| (tile.level, tile.index, tile.root)).collect();
            let (read, problem) = Tree::assemble(full, &newest, &roots);
            assert_eq!((read.size(), read.root(), problem), (tree.size(), tree.root(), None), "{at}");
        }
        assert_eq!(tiles.iter().filter(|tile| tile.level == 1).count(), 1);
    }

    #[test]
    fn what_is_missing_is_noticed_and_does_not_stop_the_tree() {
        let all = leaves(600);
        let (mut tree, mut tiles) = (Tree::new(), Vec::new());
        all.iter().for_each(|leaf| tree.push(*leaf, &mut tiles));
        let newest: Vec<_> = (400..600).map(|leaf| (leaf as u64, all[leaf])).collect();
        let roots: Vec<_> = tiles.iter().map(|tile| (tile.level, tile.index, tile.root)).collect();
        assert_eq!(Tree::assemble(2, &newest, &roots), Tree::assemble(2, &newest, &roots));
        assert_eq!(Tree::assemble(2, &newest, &roots).1, None);
        let hole: Vec<_> = newest.iter().copied().filter(|(leaf, _)| *leaf != 520).collect();
        let (read, problem) = Tree::assemble(2, &hole, &roots);
        assert_eq!((read.size(), problem.is_some()), (600, true));
        assert_ne!(read.root(), tree.root());
        assert!(Tree::assemble(2, &newest, &roots[1..]).1.is_some());
        assert!(Tree::assemble(1, &newest, &roots).1.is_some(), "rows beyond the tiles");
        assert_eq!(
            Tree::from_open_tiles(600, vec![all[512..].to_vec(), vec![tiles[0].root, tiles[1].root]]),
            Some(tree)
        );
        assert_eq!(Tree::from_open_tiles(601, vec![all[512..].to_vec()]), None);
    }
}
