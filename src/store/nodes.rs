//! The nodes of a cluster, where the vaults are on many.

use super::catalog;
use crate::pg::spi::{Arg, Statement};

thread_local! {
    static OTHERS: Statement = const { Statement::new(
        "SELECT CASE WHEN reachable THEN COALESCE(active_kek, '') END FROM vault_ext.nodes() WHERE NOT here"
    ) };
    static WRAPPING_WITH: Statement = const { Statement::new(
        "SELECT pg_catalog.concat(node, CASE WHEN reachable THEN ' wraps with it' ELSE ' does not answer' END) FROM vault_ext.nodes() \
         WHERE NOT here AND (reachable IS NOT TRUE OR active_kek OPERATOR(pg_catalog.=) ANY ($1))"
    ) };
}

/// What the other nodes wrap with; empty on one node. None for a node that does not answer.
pub fn others_wrap_with() -> Vec<Option<String>> {
    if !catalog::has_nodes() {
        return Vec::new();
    }
    OTHERS.with(|statement| statement.run(&[], |rows| rows.collect(|row| Some(rows.get(row, 0)))))
}

/// The other nodes whose active KEK is one of these, and those that do not say. For a database that has nodes.
pub fn wrapping_with(kek_ids: &[String]) -> Vec<String> {
    let kek_ids: Vec<_> = kek_ids.iter().map(String::as_str).collect();
    let nodes =
        |statement: &Statement| statement.run(&[Arg::TextArray(&kek_ids)], |rows| rows.collect(|row| rows.get(row, 0)));
    WRAPPING_WITH.with(nodes)
}
