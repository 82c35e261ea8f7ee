//! What a node of a cluster says of itself. The rest of scaling out is SQL (sql/025_nodes.sql).

use pgrx::prelude::*;

use super::or_raise;
use crate::keyring::ring;

/// The KEKs of the ring with their check values; the first one wraps.
#[pg_extern(sql = false)]
fn keyring() -> TableIterator<
    'static,
    (name!(position, Option<i32>), name!(kek_id, Option<String>), name!(check_value, Option<String>)),
> {
    let entries = or_raise(ring::entries());
    TableIterator::new(
        entries.into_iter().zip(1..).map(|(entry, at)| (Some(at), Some(entry.id), Some(entry.check.to_hex()))),
    )
}
