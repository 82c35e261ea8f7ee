//! The nodes of a cluster, where the vaults are on many.

use crate::pg::spi::{Arg, Statement};

thread_local! {
    static WRAPPING_WITH: Statement = const { Statement::new(
        "SELECT pg_catalog.concat(node, CASE WHEN reachable THEN ' wraps with it' ELSE ' does not answer' END) FROM vault_ext.nodes() \
         WHERE NOT here AND (reachable IS NOT TRUE OR active_kek OPERATOR(pg_catalog.=) ANY ($1))"
    ) };
}

/// The other nodes whose active KEK is one of these, and those that do not say. For a database that has nodes.
pub fn wrapping_with(kek_ids: &[String]) -> Vec<String> {
    let kek_ids: Vec<_> = kek_ids.iter().map(String::as_str).collect();
    let nodes =
        |statement: &Statement| statement.run(&[Arg::TextArray(&kek_ids)], |rows| rows.collect(|row| rows.get(row, 0)));
    WRAPPING_WITH.with(nodes)
}
