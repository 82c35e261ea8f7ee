//! Proofs that a leaf is in a tree, and that a tree has only grown (RFC 9162, sections 2.1.3 and 2.1.4).

use crate::Hash;
use crate::tree::hash_node;

/// Where a proof takes its hashes from.
pub trait Nodes {
    type Error;

    /// The hash of the full subtree of 2^level leaves with that index: it begins at the leaf index · 2^level.
    fn node(&self, level: u32, index: u64) -> Result<Hash, Self::Error>;
}

/// The hash over the leaves from `first` up to `end`. `first` is a multiple of the power of two that is not less than their number.
fn range<N: Nodes>(first: u64, end: u64, nodes: &N) -> Result<Hash, N::Error> {
    let count = end - first;
    if count.is_power_of_two() {
        return nodes.node(count.trailing_zeros(), first / count);
    }
    let left = 1u64 << count.ilog2();
    Ok(hash_node(&range(first, first + left, nodes)?, &range(first + left, end, nodes)?))
}

/// The number of leaves in the left child of a tree with more than one leaf.
fn left_of(size: u64) -> u64 {
    1u64 << (size - 1).ilog2()
}

/// The hashes that lead from a leaf to the root of a tree of that size, the lowest first.
///
/// # Panics
/// If the tree has no such leaf.
pub fn prove_inclusion<N: Nodes>(leaf: u64, size: u64, nodes: &N) -> Result<Vec<Hash>, N::Error> {
    assert!(leaf < size, "leaf {leaf} of {size}");
    let (mut first, mut end) = (0, size);
    let mut proof = Vec::new();
    while end - first > 1 {
        let middle = first + left_of(end - first);
        if leaf < middle {
            proof.push(range(middle, end, nodes)?);
            end = middle;
        } else {
            proof.push(range(first, middle, nodes)?);
            first = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// Whether the proof leads from that leaf to that root.
pub fn check_inclusion(leaf: u64, hash: &Hash, size: u64, root: &Hash, proof: &[Hash]) -> bool {
    if leaf >= size {
        return false;
    }
    let (mut index, mut last, mut computed) = (leaf, size - 1, *hash);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if index % 2 == 1 || index == last {
            computed = hash_node(sibling, &computed);
            while index.is_multiple_of(2) && index != 0 {
                index >>= 1;
                last >>= 1;
            }
        } else {
            computed = hash_node(&computed, sibling);
        }
        index >>= 1;
        last >>= 1;
    }
    last == 0 && computed == *root
}

/// The hashes that show that the tree of the new size begins with that of the old size. Empty where one of them is empty, and
/// where both are the same.
///
/// # Panics
/// If the old size is the larger one.
pub fn prove_consistency<N: Nodes>(old: u64, new: u64, nodes: &N) -> Result<Vec<Hash>, N::Error> {
    assert!(old <= new, "from {old} to {new}");
    let mut proof = Vec::new();
    if old == 0 || old == new {
        return Ok(proof);
    }
    // RFC 9162, section 2.1.4.1: SUBPROOF from the top down, so its hashes come in reverse.
    let (mut first, mut end, mut whole) = (0, new, true);
    while old != end {
        let middle = first + left_of(end - first);
        if old <= middle {
            proof.push(range(middle, end, nodes)?);
            end = middle;
        } else {
            proof.push(range(first, middle, nodes)?);
            first = middle;
            whole = false;
        }
    }
    if !whole {
        proof.push(range(first, end, nodes)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Whether the proof shows that the new tree begins with the old one.
pub fn check_consistency(old: u64, old_root: &Hash, new: u64, new_root: &Hash, proof: &[Hash]) -> bool {
    if old == new {
        return proof.is_empty() && old_root == new_root;
    }
    if old == 0 {
        return proof.is_empty() && *old_root == crate::tree::Frontier::default().root();
    }
    if old > new {
        return false;
    }
    let mut hashes = proof.iter();
    let start = if old.is_power_of_two() { Some(old_root) } else { hashes.next() };
    let Some(start) = start else { return false };
    let (mut index, mut last) = (old - 1, new - 1);
    while index % 2 == 1 {
        index >>= 1;
        last >>= 1;
    }
    let (mut of_old, mut of_new) = (*start, *start);
    for sibling in hashes {
        if last == 0 {
            return false;
        }
        if index % 2 == 1 || index == last {
            of_old = hash_node(sibling, &of_old);
            of_new = hash_node(sibling, &of_new);
            while index.is_multiple_of(2) && index != 0 {
                index >>= 1;
                last >>= 1;
            }
        } else {
            of_new = hash_node(&of_new, sibling);
        }
        index >>= 1;
        last >>= 1;
    }
    last == 0 && of_old == *old_root && of_new == *new_root
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tests::{leaves, mth};

    struct Leaves<'a>(&'a [Hash]);

    impl Nodes for Leaves<'_> {
        type Error = std::convert::Infallible;

        fn node(&self, level: u32, index: u64) -> Result<Hash, Self::Error> {
            let (first, count) = ((index as usize) << level, 1 << level);
            Ok(mth(&self.0[first..first + count]))
        }
    }

    #[test]
    fn each_leaf_of_each_tree_is_proven_and_nothing_else() {
        let all = leaves(70);
        for size in 1..=all.len() {
            let (some, root) = (Leaves(&all[..size]), mth(&all[..size]));
            for leaf in 0..size {
                let Ok(proof) = prove_inclusion(leaf as u64, size as u64, &some);
                let check = |leaf: usize, hash: &Hash, size: usize, proof: &[Hash]| {
                    check_inclusion(leaf as u64, hash, size as u64, &root, proof)
                };
                assert!(check(leaf, &all[leaf], size, &proof), "{leaf} of {size}");
                assert!(!check(leaf, &all[(leaf + 1) % 70], size, &proof) || size == 70 && leaf == 70);
                assert!(!check(size, &all[leaf], size, &proof));
                if size > 1 {
                    assert!(!check((leaf + 1) % size, &all[leaf], size, &proof));
                    assert!(!check(leaf, &all[leaf], size, &proof[1..]));
                    let longer = [&proof[..], &[all[0]]].concat();
                    assert!(!check(leaf, &all[leaf], size, &longer));
                }
            }
        }
    }

    #[test]
    fn each_growth_is_proven_and_nothing_else() {
        let all = leaves(70);
        for new in 0..=all.len() {
            let (some, new_root) = (Leaves(&all[..new]), mth(&all[..new]));
            for old in 0..=new {
                let old_root = mth(&all[..old]);
                let Ok(proof) = prove_consistency(old as u64, new as u64, &some);
                let check = |old: usize, old_root: &Hash, new_root: &Hash, proof: &[Hash]| {
                    check_consistency(old as u64, old_root, new as u64, new_root, proof)
                };
                assert!(check(old, &old_root, &new_root, &proof), "{old} to {new}");
                assert!(!check(old, &[9; 32], &new_root, &proof));
                if old > 0 {
                    assert!(!check(old, &old_root, &[9; 32], &proof));
                }
                if old > 0 && old < new {
                    assert!(!check(old, &old_root, &new_root, &proof[1..]));
                    assert!(!check(old, &old_root, &new_root, &[&proof[..], &[all[0]]].concat()));
                }
            }
        }
    }
}
