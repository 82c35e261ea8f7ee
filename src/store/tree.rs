//! The tables of the audit trail's Merkle tree: whose tree it is, its tiles, the checkpoints that were logged.

use vault_trail::Hash;
use vault_trail::tree::Tile;

use super::maintenance;
use crate::pg::spi::{Arg, Rows, Statement};

thread_local! {
    static CURRENT_TRAIL: Statement = const { Statement::planned_once(
        "SELECT pg_catalog.replace(trail_id::pg_catalog.text, '-', ''), origin, first_leaf, old_rows, old_rows_last_id, old_rows_root \
         FROM vault_ext.audit_trails ORDER BY first_leaf DESC, begun_at DESC LIMIT 1"
    ) };
    static ADD_TRAIL: Statement = const { Statement::new(
        "INSERT INTO vault_ext.audit_trails (trail_id, origin, first_leaf, old_rows, old_rows_last_id, old_rows_root) \
         SELECT t.id, pg_catalog.concat($1, pg_catalog.replace(t.id::pg_catalog.text, '-', '')), $2, $3, $4, $5 \
         FROM (SELECT pg_catalog.gen_random_uuid() AS id) t RETURNING origin"
    ) };
    // Everything that is not in a full tile, as one snapshot sees it: the newest rows, the hashes of purged ones, and on each level the
    // roots of the tiles that belong to the open tile above. The newest row is among them, so that a tree that lacks rows shows. Rows
    // without a leaf may be newer, where a superuser has inserted them. OFFSET 0 keeps the planner from reading a long trail as a whole, which
    // it does where it believes that hardly a row has a leaf: after an update, with millions of older rows.
    static OPEN_TILES: Statement = const { Statement::planned_once(
        "WITH full_tiles AS (SELECT COALESCE(pg_catalog.max(index) OPERATOR(pg_catalog.+) 1::pg_catalog.int8, 0) AS n \
            FROM vault_ext.audit_tiles WHERE level OPERATOR(pg_catalog.=) 0::pg_catalog.int2) \
         SELECT -2, n, NULL::pg_catalog.bytea FROM full_tiles \
         UNION ALL \
         SELECT -1, r.leaf, r.leaf_hash FROM (SELECT a.leaf, a.leaf_hash FROM ( \
            SELECT leaf, leaf_hash FROM vault_ext.encryption_vault_audit \
            WHERE id OPERATOR(pg_catalog.>) (SELECT COALESCE(pg_catalog.max(old_rows_last_id), 0) FROM vault_ext.audit_trails) \
            ORDER BY id DESC OFFSET 0) a WHERE a.leaf IS NOT NULL LIMIT 256) r \
         UNION ALL \
         SELECT -1, t.index, t.hashes FROM vault_ext.audit_tiles t, full_tiles \
            WHERE t.level OPERATOR(pg_catalog.=) -1::pg_catalog.int2 AND t.index OPERATOR(pg_catalog.>=) (n OPERATOR(pg_catalog.<<) 8) \
         UNION ALL \
         SELECT l.level, t.index, t.root FROM full_tiles, pg_catalog.generate_series(0, 6) l (level), LATERAL ( \
            SELECT a.index, a.root FROM vault_ext.audit_tiles a WHERE a.level OPERATOR(pg_catalog.=) l.level::pg_catalog.int2 \
            AND a.index OPERATOR(pg_catalog.>=) ((n OPERATOR(pg_catalog.>>) (8 OPERATOR(pg_catalog.*) (l.level OPERATOR(pg_catalog.+) 1))) OPERATOR(pg_catalog.<<) 8)) t"
    ) };
    static ADD_TILE: Statement = const { Statement::planned_once(
        "INSERT INTO vault_ext.audit_tiles (level, index, hashes, root) VALUES ($1::pg_catalog.int2, $2, $3, $4)"
    ) };
    static TILE: Statement = const { Statement::planned_once(
        "SELECT hashes FROM vault_ext.audit_tiles WHERE level OPERATOR(pg_catalog.=) $1::pg_catalog.int2 AND index OPERATOR(pg_catalog.=) $2"
    ) };
    static NEWEST_CHECKPOINT: Statement = const { Statement::planned_once(
        "SELECT size, created_at FROM vault_ext.audit_checkpoints ORDER BY size DESC LIMIT 1"
    ) };
    static ADD_CHECKPOINT: Statement = const { Statement::new(
        "INSERT INTO vault_ext.audit_checkpoints (size, root, note) VALUES ($1, $2, $3) ON CONFLICT (size) DO NOTHING"
    ) };
}

/// Whose tree it is.
#[derive(Debug, Clone)]
pub struct Trail {
    /// The first line of each checkpoint.
    pub origin: String,
    pub old_rows: Option<OldRows>,
}

/// What the first leaf commits to: the rows that are older than the tree.
#[derive(Debug, Clone)]
pub struct OldRows {
    pub count: u64,
    pub last_id: i64,
    /// The head of the Merkle tree over their hashes (RFC 6962), in the order of their ids.
    pub root: Hash,
}

/// The trail whose checkpoints are made now; None before the first row.
pub fn current_trail() -> Option<Trail> {
    maintenance::run(|| {
        CURRENT_TRAIL.with(|statement| {
            statement.run(&[], |rows| {
                if rows.count() == 0 {
                    return None;
                }
                let old_rows = rows.hash(0, 5).map(|root| OldRows {
                    count: rows.get::<i64>(0, 3).unwrap_or_default() as u64,
                    last_id: rows.get(0, 4).unwrap_or_default(),
                    root,
                });
                Some(Trail { origin: rows.get(0, 1).unwrap_or_default(), old_rows })
            })
        })
    })
}

/// Adds a trail, whose origin is the prefix and a random id, and gives the origin.
pub fn add_trail(prefix: &str, first_leaf: u64, old_rows: Option<&OldRows>) -> String {
    let args = [
        Arg::Text(prefix),
        Arg::Int8(first_leaf as i64),
        Arg::Int8(old_rows.map_or(0, |old| old.count as i64)),
        Arg::MaybeInt8(old_rows.map(|old| old.last_id)),
        Arg::MaybeBytes(old_rows.map(|old| &old.root[..])),
    ];
    maintenance::run(|| ADD_TRAIL.with(|statement| statement.run(&args, |rows| rows.get(0, 0).unwrap_or_default())))
}

/// What the tables say of the tree, as far as it is not in full tiles.
#[derive(Debug, Default)]
pub struct Open {
    /// The number of full tiles of level 0.
    pub full_tiles: u64,
    /// Leaves and their hashes, in no order: at least those after the full tiles, if none was taken away.
    pub leaves: Vec<(u64, Hash)>,
    /// Level, index and root of full tiles, in no order.
    pub roots: Vec<(u8, u64, Hash)>,
}

/// Reads it, with one snapshot.
pub fn open() -> Open {
    maintenance::run(|| {
        OPEN_TILES.with(|statement| {
            statement.run(&[], |rows| {
                let mut open = Open::default();
                for row in 0..rows.count() {
                    let index = rows.get::<i64>(row, 1).and_then(|index| u64::try_from(index).ok());
                    match (rows.get::<i32>(row, 0), index, rows.hash(row, 2)) {
                        (Some(-2), Some(n), _) => open.full_tiles = n,
                        (Some(-1), Some(leaf), Some(hash)) => open.leaves.push((leaf, hash)),
                        (Some(level @ 0..), Some(index), Some(root)) => open.roots.push((level as u8, index, root)),
                        _ => {}
                    }
                }
                open
            })
        })
    })
}

/// Adds a full tile.
pub fn add_tile(tile: &Tile) {
    let hashes = tile.hashes.concat();
    let args = [
        Arg::Int4(tile.level.into()),
        Arg::Int8(tile.index as i64),
        Arg::MaybeBytes(Some(&hashes)),
        Arg::MaybeBytes(Some(&tile.root)),
    ];
    maintenance::run(|| ADD_TILE.with(|statement| statement.run(&args, |_| ())));
}

/// The hashes of a full tile; at level -1, the one of a purged row.
pub fn tile(level: i32, index: u64) -> Option<Vec<Hash>> {
    maintenance::run(|| {
        TILE.with(|statement| {
            statement.run(&[Arg::Int4(level), Arg::Int8(index as i64)], |rows| {
                if rows.count() == 0 { None } else { rows.bytes(0, 0).map(|bytes| bytes.as_chunks::<32>().0.to_vec()) }
            })
        })
    })
}

/// A checkpoint that was logged.
#[derive(Debug, Clone, Copy)]
pub struct Logged {
    pub size: u64,
    /// Microseconds since 2000-01-01 00:00 UTC.
    pub at: i64,
}

/// The newest checkpoint that was logged.
pub fn newest_checkpoint() -> Option<Logged> {
    maintenance::run(|| {
        NEWEST_CHECKPOINT.with(|statement| {
            statement.run(&[], |rows| {
                if rows.count() == 0 {
                    return None;
                }
                let size = rows.get::<i64>(0, 0)? as u64;
                let at = rows.get::<pgrx::datum::TimestampWithTimeZone>(0, 1)?;
                Some(Logged { size, at: at.into() })
            })
        })
    })
}

/// Keeps a checkpoint that is about to be logged. False if there is one of that size.
pub fn add_checkpoint(size: u64, root: &Hash, note: &str) -> bool {
    let args = [Arg::Int8(size as i64), Arg::MaybeBytes(Some(root)), Arg::Text(note)];
    maintenance::run(|| ADD_CHECKPOINT.with(|statement| statement.run(&args, Rows::count))) > 0
}
