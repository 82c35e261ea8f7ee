//! The audit trail's table.

use pgrx::datum::Interval;

use super::maintenance;
use crate::pg::spi::{Arg, Rows, Statement};

thread_local! {
    static INSERT_AUDIT: Statement = const { Statement::new(
        "INSERT INTO vault_ext.encryption_vault_audit (user_id, action, status, kek_id, key_version, db_role, \
         ip_address, user_agent, request_id, context, created_at, \
         identity, issuer, token_id, token_kid, actor, grant_id) \
         SELECT * FROM vault_ext.audit_batch()"
    ) };
    // For the SQL of 0.2.0 and older, until ALTER EXTENSION vault_ext UPDATE has run.
    static INSERT_AUDIT_WITHOUT_IDENTITY: Statement = const { Statement::new(
        "INSERT INTO vault_ext.encryption_vault_audit (user_id, action, status, kek_id, key_version, db_role, \
         ip_address, user_agent, request_id, context, created_at) \
         SELECT * FROM vault_ext.audit_batch()"
    ) };
    static PURGE_AUDIT: Statement = const { Statement::new(
        "DELETE FROM vault_ext.encryption_vault_audit \
         WHERE created_at OPERATOR(pg_catalog.<) (pg_catalog.now() OPERATOR(pg_catalog.-) $1)"
    ) };
    // The uses of a grant are counted by its rows, for as long as it can be used.
    static PURGE_AUDIT_BUT_USES: Statement = const { Statement::new(
        "DELETE FROM vault_ext.encryption_vault_audit a \
         WHERE a.created_at OPERATOR(pg_catalog.<) (pg_catalog.now() OPERATOR(pg_catalog.-) $1) \
         AND NOT EXISTS (SELECT FROM vault_ext.grants g WHERE g.id OPERATOR(pg_catalog.=) a.grant_id \
            AND g.expires_at OPERATOR(pg_catalog.>) pg_catalog.now())"
    ) };
}

/// Inserts the batch that the audit writer holds (`writer::batch`) and says how many rows that were. Only in the audit
/// writer does the policy let it.
///
/// `has_identity`: whether the table has the columns that say what established the user.
pub fn insert_audit_batch(has_identity: bool) -> u64 {
    let statement = if has_identity { &INSERT_AUDIT } else { &INSERT_AUDIT_WITHOUT_IDENTITY };
    statement.with(|statement| statement.run(&[], Rows::count))
}

/// Deletes audit rows older than that and says how many. Only in maintenance does the policy let it.
///
/// `has_grants`: whether the database has grants, whose uses stay.
pub fn purge_audit(older_than: Interval, has_grants: bool) -> u64 {
    let statement = if has_grants { &PURGE_AUDIT_BUT_USES } else { &PURGE_AUDIT };
    maintenance::run(|| statement.with(|statement| statement.run(&[Arg::Interval(older_than)], Rows::count)))
}
