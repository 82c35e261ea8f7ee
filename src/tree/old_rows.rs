//! The rows that are older than the tree. Its first leaf commits to them: to their number, and to the head of a Merkle tree of
//! their own.

use std::cell::RefCell;

use vault_trail::leaf::{OldPersonal, OldRow};
use vault_trail::tree::Frontier;

use super::head;
use crate::pg::session;
use crate::store::tree::{self, OldRows};
use crate::store::{catalog, trail};

/// A head that is being computed.
#[derive(Clone, Default)]
struct Running {
    head: Frontier,
    last_id: i64,
}

thread_local! {
    /// What a transaction has hashed so far, and which one it is.
    static HASHED: RefCell<Option<(u32, Running)>> = const { RefCell::new(None) };
}

/// Hashes the rows that are there; a second call in the same transaction goes on after the last one. So an update of the extension
/// hashes most of them before it locks the trail. None if there are no rows.
fn hash_all() -> Option<OldRows> {
    let transaction = session::local_transaction();
    let before = HASHED.take().filter(|(of, _)| *of == transaction).map(|(_, running)| running);
    // Rows that were purged meanwhile are not committed to.
    let mut running =
        before.filter(|before| trail::count_up_to(before.last_id) == before.head.size()).unwrap_or_default();
    hash_after(&mut running, false);
    HASHED.set(Some((transaction, running.clone())));
    running.done()
}

/// Hashes them all and, once the tables of the tree are there, begins a trail that commits to them. Gives their number. Does nothing in a
/// trail that has begun.
pub fn commit() -> u64 {
    let has_tree = catalog::has_trees();
    if has_tree && tree::current_trail().is_some() {
        return 0;
    }
    let old_rows = hash_all();
    if let (true, Some(old_rows)) = (has_tree, &old_rows) {
        tree::add_trail(&head::origin_prefix(), 0, Some(old_rows));
    }
    old_rows.map_or(0, |old_rows| old_rows.count)
}

/// Hashes those that have no leaf: after the restore of a dump that an older version has made.
pub fn hash_without_leaf() -> Option<OldRows> {
    let mut running = Running::default();
    hash_after(&mut running, true);
    running.done()
}

/// What the first leaf says of them.
pub fn context(old_rows: &OldRows) -> String {
    vault_trail::context::OldRows { rows: old_rows.count, last_id: old_rows.last_id, root: old_rows.root }.to_string()
}

fn hash_after(running: &mut Running, without_leaf: bool) {
    trail::for_each_old_row(running.last_id, without_leaf, |row: &OldRow<'_>, personal: &OldPersonal<'_>| {
        running.head.push(row.hash(&personal.digest()));
        running.last_id = row.id;
    });
}

impl Running {
    fn done(self) -> Option<OldRows> {
        let count = self.head.size();
        (count > 0).then(|| OldRows { count, last_id: self.last_id, root: self.head.root() })
    }
}
