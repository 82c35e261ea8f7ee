//! The tree as the audit writer grows it: what the last commit left, and what the batch in progress adds to it. A batch that fails
//! gives its places back.

use std::cell::RefCell;

use vault_core::audit::record::{IdentityKind, Record};
use vault_trail::Hash;
use vault_trail::leaf::{Leaf, Personal, SALT_BYTES, Salt};
use vault_trail::tree::{TILE_WIDTH, Tree};

use super::head;
use crate::error::VaultError;
use crate::store;

/// A row's part in the tree.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub leaf: u64,
    pub hash: Hash,
    pub salt: Salt,
}

/// What the batch in progress adds.
#[derive(Default)]
struct Addition {
    places: Vec<Place>,
    /// The tree with it, where it fills a tile.
    tree: Option<Tree>,
}

thread_local! {
    /// The tree as of the last commit; None before it has been read, and after a failure.
    static TREE: RefCell<Option<Tree>> = const { RefCell::new(None) };
    static ADDITION: RefCell<Addition> = const { RefCell::new(Addition { places: Vec::new(), tree: None }) };
}

/// Whether the tree has been read.
pub fn is_loaded() -> bool {
    TREE.with_borrow(Option::is_some)
}

/// Reads the tree from the tables, and says in the log what does not fit together. Gives its size.
pub fn load() -> u64 {
    let (tree, problem) = head::read();
    let size = tree.size();
    let logged = store::tree::newest_checkpoint().filter(|logged| logged.size > size);
    if let Some(problem) = problem {
        pgrx::warning!("vault_ext: the audit trail was changed: {problem}; vault-trail verify says where");
    } else if let Some(logged) = logged {
        pgrx::warning!(
            "vault_ext: the audit trail was cut: it has {size} leaves, and a checkpoint of {} was logged; vault-trail verify says more",
            logged.size
        );
    }
    TREE.set(Some(tree));
    size
}

/// Forgets what was read: the tables are read again before the next batch.
pub fn forget() {
    TREE.set(None);
    ADDITION.take();
}

/// Begins an addition of so many rows: gives each a salt.
pub fn begin(rows: usize) -> Result<(), VaultError> {
    let mut random = vec![0; rows * SALT_BYTES];
    vault_trail::leaf::random_salts(&mut random).map_err(|_| VaultError::NoRandomness)?;
    let first = size();
    let salts = random.as_chunks::<SALT_BYTES>().0.iter();
    let places = salts.zip(first..).map(|(salt, leaf)| Place { leaf, hash: [0; 32], salt: *salt }).collect();
    ADDITION.set(Addition { places, tree: None });
    Ok(())
}

/// Hashes the next row of the addition, in the order in which they are shown.
pub fn hash(number: usize, record: &Record<'_>) {
    ADDITION.with_borrow_mut(|addition| {
        let place = &mut addition.places[number];
        place.hash = leaf_hash(record, &place.salt);
    });
}

fn leaf_hash(record: &Record<'_>, salt: &Salt) -> Hash {
    let evidence = &record.evidence;
    let personal = Personal {
        user_id: record.user_id,
        ip_address: record.ip_address,
        user_agent: record.user_agent,
        request_id: record.request_id,
        context: record.context,
        application_name: record.application_name,
        token_id: evidence.token_id,
        actor: evidence.actor,
    };
    let leaf = Leaf {
        created_at: record.created_at,
        action: record.action.name(),
        status: record.status.into(),
        kek_id: record.kek_id,
        key_version: record.key_version,
        db_role: record.db_role,
        login_role: Some(record.login_role),
        identity: evidence.identity.map(IdentityKind::name),
        issuer: evidence.issuer,
        token_kid: evidence.token_kid,
        grant_id: evidence.grant_id,
    };
    leaf.hash(&personal.digest(salt))
}

/// The place of a row of the addition; None where this database has no tree.
pub fn place(number: usize) -> Option<Place> {
    ADDITION.with_borrow(|addition| addition.places.get(number).copied())
}

/// Stores the tiles that the addition fills, in the transaction of its rows.
pub fn store_tiles() {
    let full = TREE.with_borrow(|tree| {
        let tree = tree.as_ref().expect("the tree is read before rows are added");
        ADDITION.with_borrow_mut(|addition| {
            let mut full = Vec::new();
            if tree.open(0).len() + addition.places.len() >= TILE_WIDTH {
                let mut grown = tree.clone();
                addition.places.iter().for_each(|place| grown.push(place.hash, &mut full));
                addition.tree = Some(grown);
            }
            full
        })
    });
    full.iter().for_each(store::tree::add_tile);
}

/// The transaction of the addition has committed.
pub fn accept() {
    let addition = ADDITION.take();
    TREE.with_borrow_mut(|tree| match (tree.as_mut(), addition.tree) {
        (Some(tree), Some(grown)) => *tree = grown,
        // None of these fills a tile.
        (Some(tree), None) => addition.places.iter().for_each(|place| tree.push(place.hash, &mut Vec::new())),
        (None, _) => {}
    });
}

/// It has not, and its places are free again.
pub fn reject() {
    ADDITION.take();
}

/// The number of leaves that are committed.
pub fn size() -> u64 {
    TREE.with_borrow(|tree| tree.as_ref().map_or(0, Tree::size))
}

/// The root over them; None before the tree has been read.
pub fn root() -> Option<Hash> {
    TREE.with_borrow(|tree| tree.as_ref().map(Tree::root))
}
