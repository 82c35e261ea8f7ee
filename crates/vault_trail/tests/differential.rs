//! Trees, tiles, proofs, checkpoints and notes against those of the crates `tlog_tiles` and `signed_note`, both ways: each accepts what the other makes, and
//! both refuse the same.

use std::convert::Infallible;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use proptest::prelude::*;
use signed_note::{Note, StandardSigner, StandardVerifier, VerifierList};
use tlog_tiles::tlog;
use vault_trail::Hash;
use vault_trail::checkpoint::{AuditKey, Checkpoint, CheckpointError, PublicKey, origin_prefix};
use vault_trail::proof::{Nodes, check_consistency, check_inclusion, prove_consistency, prove_inclusion};
use vault_trail::tree::{Frontier, Tile, Tree, hash_leaf, hash_node};

/// A tree as `tlog_tiles` stores it: the hashes of all full subtrees, in its order. Ours takes its nodes from there.
#[derive(Default)]
struct Stored {
    hashes: Vec<tlog::Hash>,
    size: u64,
}

impl Stored {
    fn of(leaves: impl IntoIterator<Item = Hash>) -> Self {
        let mut stored = Self::default();
        leaves.into_iter().for_each(|leaf| stored.push(leaf));
        stored
    }

    fn push(&mut self, leaf: Hash) {
        let added = tlog::stored_hashes_for_record_hash(self.size, tlog::Hash(leaf), self).unwrap();
        self.hashes.extend(added);
        self.size += 1;
    }

    fn root(&self, size: u64) -> Hash {
        tlog::tree_hash(size, self).unwrap().0
    }
}

impl tlog::HashReader for Stored {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog::Hash>, tlog::Error> {
        Ok(indexes.iter().map(|index| self.hashes[*index as usize]).collect())
    }
}

impl Nodes for Stored {
    type Error = Infallible;

    fn node(&self, level: u32, index: u64) -> Result<Hash, Infallible> {
        Ok(self.hashes[tlog::stored_hash_index(level as u8, index) as usize].0)
    }
}

fn leaves(count: u64) -> impl Iterator<Item = Hash> {
    (0..count).map(|at| hash_leaf(&at.to_be_bytes()))
}

fn theirs(proof: &[Hash]) -> Vec<tlog::Hash> {
    proof.iter().copied().map(tlog::Hash).collect()
}

fn ours(proof: Vec<tlog::Hash>) -> Vec<Hash> {
    proof.into_iter().map(|hash| hash.0).collect()
}

#[test]
fn roots_are_the_same_at_every_size() {
    let (mut tree, mut frontier, mut stored) = (Tree::new(), Frontier::default(), Stored::default());
    for leaf in leaves(3000) {
        assert_eq!((tree.root(), frontier.root()), (stored.root(stored.size), stored.root(stored.size)));
        tree.push(leaf, &mut Vec::new());
        frontier.push(leaf);
        stored.push(leaf);
    }
    assert_eq!(tree.root(), stored.root(3000));
    assert_eq!(hash_leaf(b"x"), tlog::record_hash(b"x").0);
    assert_eq!(hash_node(&[1; 32], &[2; 32]), tlog::node_hash(tlog::Hash([1; 32]), tlog::Hash([2; 32])).0);
}

#[test]
fn full_tiles_have_the_same_bytes() {
    const SIZE: u64 = 256 * 257 + 9;
    let (mut tree, mut tiles) = (Tree::new(), Vec::new());
    leaves(SIZE).for_each(|leaf| tree.push(leaf, &mut tiles));
    let stored = Stored::of(leaves(SIZE));
    let full = tlog_tiles::Tile::new_tiles(8, 0, SIZE).into_iter().filter(|tile| tile.width() == 256);
    let mut expected: Vec<Tile> = full
        .map(|tile| {
            let data = tile.read_data(&stored).unwrap();
            let hashes = data.as_chunks::<32>().0.to_vec();
            Tile {
                level: tile.level(),
                index: tile.level_index(),
                hashes,
                root: tlog_tiles::Tile::subtree_hash(&data).0,
            }
        })
        .collect();
    tiles.sort_by_key(|tile| (tile.level, tile.index));
    expected.sort_by_key(|tile| (tile.level, tile.index));
    assert_eq!(expected.len(), 258);
    assert!(tiles == expected);
}

/// A size, and two numbers below it.
fn sizes() -> impl Strategy<Value = (u64, u64, u64)> {
    (1u64..2000).prop_flat_map(|size| (Just(size), 0..size, 0..size))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn inclusion_is_proven_and_checked_alike((size, leaf, other) in sizes(), broken in any::<prop::sample::Index>()) {
        let stored = Stored::of(leaves(size));
        let (root, hash) = (stored.root(size), hash_leaf(&leaf.to_be_bytes()));
        let Ok(proof) = prove_inclusion(leaf, size, &stored);
        prop_assert_eq!(&proof, &ours(tlog::prove_record(size, leaf, &stored).unwrap()));
        // What one accepts, the other does, too.
        let check_of = |hash: Hash, size: u64, leaf: u64, root: Hash, proof: &[Hash]| {
            let theirs = tlog::check_record(&theirs(proof), size, tlog::Hash(root), leaf, tlog::Hash(hash)).is_ok();
            assert_eq!(theirs, check_inclusion(leaf, &hash, size, &root, proof), "leaf {leaf} of {size}");
            theirs
        };
        let check = |size, leaf, root, proof: &[Hash]| check_of(hash, size, leaf, root, proof);
        // A node is no leaf.
        let Ok(of_first) = prove_inclusion(0, size, &stored);
        if let [sibling, above @ ..] = &of_first[..] {
            prop_assert!(!check_of(hash_node(&hash_leaf(&0u64.to_be_bytes()), sibling), size, 0, root, above));
        }
        prop_assert!(check(size, leaf, root, &proof));
        prop_assert_eq!(check(size, other, root, &proof), other == leaf);
        prop_assert!(!check(size, leaf, [7; 32], &proof));
        prop_assert!(!check(size, size, root, &proof));
        prop_assert!(!check(size, leaf, root, &[&proof[..], &[root]].concat()));
        // A proof for one size may have the form of one for another, whose root is another one.
        check(size + 1, leaf, root, &proof);
        check(other, leaf, root, &proof);
        if !proof.is_empty() {
            let mut bad = proof.clone();
            bad[broken.index(proof.len())][0] ^= 1;
            prop_assert!(!check(size, leaf, root, &bad));
            prop_assert!(!check(size, leaf, root, &proof[1..]));
        }
    }

    #[test]
    fn growth_is_proven_and_checked_alike((size, old, other) in sizes(), broken in any::<prop::sample::Index>()) {
        let old = old + 1;
        let stored = Stored::of(leaves(size));
        let (root, old_root) = (stored.root(size), stored.root(old));
        let Ok(proof) = prove_consistency(old, size, &stored);
        prop_assert_eq!(&proof, &ours(tlog::prove_tree(size, old, &stored).unwrap()));
        let check = |size: u64, old: u64, root: Hash, old_root: Hash, proof: &[Hash]| {
            let theirs = tlog::check_tree(&theirs(proof), size, tlog::Hash(root), old, tlog::Hash(old_root)).is_ok();
            assert_eq!(theirs, check_consistency(old, &old_root, size, &root, proof), "from {old} to {size}");
            theirs
        };
        prop_assert!(check(size, old, root, old_root, &proof));
        prop_assert_eq!(check(size, other + 1, root, old_root, &proof), other + 1 == old);
        prop_assert!(!check(size, old, [7; 32], old_root, &proof));
        prop_assert!(!check(size, old, root, [7; 32], &proof));
        prop_assert!(!check(size, old, root, old_root, &[&proof[..], &[root]].concat()));
        check(size + 1, old, root, old_root, &proof);
        if !proof.is_empty() {
            let mut bad = proof.clone();
            bad[broken.index(proof.len())][0] ^= 1;
            prop_assert!(!check(size, old, root, old_root, &bad));
            prop_assert!(!check(size, old, root, old_root, &proof[1..]));
        }
    }

    #[test]
    fn each_opens_the_notes_of_the_other(
        seed: [u8; 32], database in "\\PC{1,20}", size: u64, root: [u8; 32], flipped in any::<prop::sample::Index>(),
    ) {
        let key = AuditKey::from_seed(&seed);
        let origin = format!("{}00112233445566778899aabbccddeeff", origin_prefix(&database));
        let checkpoint = Checkpoint { origin: origin.clone(), size, root };
        let verifiers = VerifierList::new(vec![Box::new(StandardVerifier::new(&key.public().vkey(&origin)).unwrap())]);
        let note = checkpoint.sign(&key);

        // Ours, opened by them.
        let opened = Note::from_bytes(note.as_bytes()).unwrap();
        let (good, unknown) = opened.verify(&verifiers).unwrap();
        prop_assert_eq!((good.len(), unknown.len()), (1, 0));
        let read = tlog_tiles::Checkpoint::from_bytes(opened.text()).unwrap();
        prop_assert_eq!((read.origin(), read.size(), read.hash().0, read.extension()), (&*origin, size, root, ""));

        // Theirs, opened by us. Both sign deterministically, so it is the same one.
        let vkey = key.public().vkey(&origin);
        let id = vkey.split('+').nth(1).unwrap();
        let secret = BASE64.encode([&[1][..], &seed].concat());
        let signer = StandardSigner::new(&format!("PRIVATE+KEY+{origin}+{id}+{secret}")).unwrap();
        let text = tlog_tiles::Checkpoint::new(&origin, size, tlog::Hash(root), "").unwrap().to_bytes();
        let mut signed = Note::new(&text, &[]).unwrap();
        signed.add_sigs(&[&signer]).unwrap();
        let signed = String::from_utf8(signed.to_bytes()).unwrap();
        prop_assert_eq!(&signed, &note);
        prop_assert_eq!(Checkpoint::open(&signed, Some(&key.public())), Ok(checkpoint));

        // A note with another byte anywhere, neither opens.
        let mut bytes = note.into_bytes();
        let at = flipped.index(bytes.len() - 1);
        bytes[at] ^= 1;
        let theirs = Note::from_bytes(&bytes).is_ok_and(|note| note.verify(&verifiers).is_ok());
        let ours = std::str::from_utf8(&bytes).is_ok_and(|note| Checkpoint::open(note, Some(&key.public())).is_ok());
        prop_assert!(!theirs && !ours, "byte {}", at);
    }
}

#[test]
fn a_witness_may_sign_beside_the_origin() {
    let (key, witness) = (AuditKey::from_seed(&[1; 32]), AuditKey::from_seed(&[2; 32]));
    let checkpoint = Checkpoint { origin: "vault_ext/d/1".into(), size: 7, root: [5; 32] };
    let vkey = witness.public().vkey("witness.example");
    let secret = BASE64.encode([&[1][..], witness.seed()].concat());
    let signer = format!("PRIVATE+KEY+witness.example+{}+{secret}", vkey.split('+').nth(1).unwrap());
    let mut note = Note::from_bytes(checkpoint.sign(&key).as_bytes()).unwrap();
    note.add_sigs(&[&StandardSigner::new(&signer).unwrap()]).unwrap();
    let note = String::from_utf8(note.to_bytes()).unwrap();
    assert_eq!(note.lines().count(), 6, "{note}");
    let open = |key: &PublicKey| Checkpoint::open(&note, Some(key));
    assert_eq!(open(&key.public()), Ok(checkpoint));
    // It is no signature of the origin.
    assert_eq!(open(&witness.public()), Err(CheckpointError::NotSigned));
}
