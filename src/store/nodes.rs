//! The nodes of a cluster, where the vaults are on many.

use super::catalog;
use crate::pg::spi::{Arg, Rows, Statement};
use crate::pg::xact;

thread_local! {
    static OTHERS: Statement = const { Statement::new(
        "SELECT CASE WHEN reachable THEN COALESCE(active_kek, '') END FROM vault_ext.nodes() WHERE NOT here"
    ) };
    static WRAPPING_WITH: Statement = const { Statement::new(
        "SELECT pg_catalog.concat(node, CASE WHEN reachable THEN ' wraps with it' ELSE ' does not answer' END) FROM vault_ext.nodes() \
         WHERE NOT here AND (reachable IS NOT TRUE OR active_kek OPERATOR(pg_catalog.=) ANY ($1))"
    ) };
    static MAKERS: Statement = const { Statement::of_latest(
        "SELECT d.xmin::pg_catalog.text::pg_catalog.int8 FROM pg_catalog.pg_dist_partition d \
         WHERE d.logicalrelid OPERATOR(pg_catalog.=) 'vault_ext.encryption_vaults'::pg_catalog.regclass"
    ) };
    static LOCKS_OUT_CALLS: Statement = const { Statement::of_latest(
        "SELECT FROM pg_catalog.pg_locks l \
         JOIN pg_catalog.pg_database d ON d.oid OPERATOR(pg_catalog.=) l.database AND d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database() \
         WHERE l.relation OPERATOR(pg_catalog.=) 'vault_ext.encryption_vaults'::pg_catalog.regclass::pg_catalog.oid AND l.granted \
            AND l.mode OPERATOR(pg_catalog.=) 'AccessExclusiveLock'"
    ) };
}

/// Whether this transaction is the one that distributes the vaults. For a database with Citus.
pub fn is_being_distributed() -> bool {
    let maker = MAKERS
        .with(|statement| statement.run(&[], |rows| if rows.count() == 0 { None } else { rows.get::<i64>(0, 0) }));
    maker.and_then(|xid| u32::try_from(xid).ok()).is_some_and(xact::is_current)
}

/// Whether some session has locked the vaults on this node, so that calls wait until its transaction ends.
pub fn are_calls_locked_out() -> bool {
    LOCKS_OUT_CALLS.with(|statement| statement.run(&[], Rows::count)) > 0
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
