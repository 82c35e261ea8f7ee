//! The table of grants: what a user lets a service do while he is not there.

use super::{catalog, maintenance};
use crate::pg::spi::{Arg, Rows, Statement};

/// A grant as it is given.
pub struct NewGrant<'a> {
    pub user: &'a str,
    /// OID of the role that may use it.
    pub grantee: u32,
    /// Microseconds since 2000-01-01 00:00 UTC.
    pub not_before: i64,
    pub expires_at: i64,
    pub max_uses: Option<i32>,
    pub reason: &'a str,
    pub granted_by: &'a str,
    /// False if another login has to approve it first.
    pub is_approved: bool,
}

/// A grant as a service meets it.
pub struct Grant {
    pub id: i64,
    pub not_before: i64,
    pub expires_at: i64,
    pub max_uses: Option<i32>,
    pub is_approved: bool,
    pub is_revoked: bool,
}

thread_local! {
    static INSERT: Statement = const { Statement::planned_once(
        "INSERT INTO vault_ext.grants (user_id, grantee, not_before, expires_at, max_uses, reason, granted_by, approved_by) \
         VALUES ($1, $2::pg_catalog.oid::pg_catalog.regrole, $3, $4, NULLIF($5, 0), $6, $7, NULLIF($8, '')) RETURNING id"
    ) };
    // The newest first: a later grant may replace one that is used up.
    static FOR_SERVICE: Statement = const { Statement::planned_once(
        "SELECT id, not_before, expires_at, max_uses, approved_by IS NOT NULL, revoked_at IS NOT NULL FROM vault_ext.grants \
         WHERE user_id OPERATOR(pg_catalog.=) $1 \
         AND pg_catalog.pg_has_role($2::pg_catalog.oid, grantee::pg_catalog.oid, 'USAGE') ORDER BY id DESC LIMIT 100"
    ) };
    static LOCK: Statement = const { Statement::planned_once(
        "SELECT id, not_before, expires_at, max_uses, approved_by IS NOT NULL, revoked_at IS NOT NULL FROM vault_ext.grants \
         WHERE id OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE"
    ) };
    static USES: Statement = const { Statement::planned_once(
        "SELECT pg_catalog.count(*) FROM vault_ext.encryption_vault_audit \
         WHERE grant_id OPERATOR(pg_catalog.=) $1 AND status OPERATOR(pg_catalog.=) 200 AND action OPERATOR(pg_catalog.=) 'fetch'"
    ) };
    static REVOKE: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.grants SET revoked_at = pg_catalog.clock_timestamp(), revoked_by = $2 \
         WHERE id OPERATOR(pg_catalog.=) $1 AND revoked_at IS NULL RETURNING user_id"
    ) };
    static RETIRE: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.grants SET revoked_at = pg_catalog.clock_timestamp(), revoked_by = $2 \
         WHERE id OPERATOR(pg_catalog.=) $1 AND revoked_at IS NULL \
         AND pg_catalog.pg_has_role($3::pg_catalog.oid, grantee::pg_catalog.oid, 'USAGE') RETURNING user_id"
    ) };
    static END_ALL: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.grants SET revoked_at = pg_catalog.clock_timestamp(), revoked_by = $2 \
         WHERE user_id OPERATOR(pg_catalog.=) $1 AND revoked_at IS NULL"
    ) };
    static APPROVE: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.grants SET approved_by = $2 \
         WHERE id OPERATOR(pg_catalog.=) $1 AND approved_by IS NULL AND revoked_at IS NULL \
         AND granted_by OPERATOR(pg_catalog.<>) $2 RETURNING user_id"
    ) };
}

/// Stores a grant and gives its id. Only for the user in force, or in maintenance.
pub fn insert(grant: &NewGrant<'_>) -> i64 {
    let args = [
        Arg::Text(grant.user),
        Arg::Int8(grant.grantee.into()),
        Arg::Timestamp(grant.not_before),
        Arg::Timestamp(grant.expires_at),
        Arg::Int4(grant.max_uses.unwrap_or(0)),
        Arg::Text(grant.reason),
        Arg::Text(grant.granted_by),
        Arg::Text(if grant.is_approved { grant.granted_by } else { "" }),
    ];
    INSERT.with(|statement| statement.run(&args, |rows| rows.get(0, 0))).unwrap_or_default()
}

fn grant(rows: &Rows, row: u64) -> Option<Grant> {
    Some(Grant {
        id: rows.get(row, 0)?,
        not_before: rows.get(row, 1)?,
        expires_at: rows.get(row, 2)?,
        max_uses: rows.get(row, 3),
        is_approved: rows.get(row, 4)?,
        is_revoked: rows.get(row, 5)?,
    })
}

/// The grants of a user to roles that the role with that OID holds, the newest first.
pub fn for_service(user: &str, role: u32) -> Vec<Grant> {
    let args = [Arg::Text(user), Arg::Int8(role.into())];
    maintenance::run(|| FOR_SERVICE.with(|statement| statement.run(&args, |rows| rows.collect(|row| grant(rows, row)))))
}

/// A grant as it is now, locked until the transaction ends.
pub fn lock(id: i64) -> Option<Grant> {
    maintenance::run(|| {
        LOCK.with(|statement| {
            statement.run(&[Arg::Int8(id)], |rows| if rows.count() == 0 { None } else { grant(rows, 0) })
        })
    })
}

/// How often a grant was used: the rows of the trail, which a rollback does not take back.
pub fn uses(id: i64) -> i64 {
    maintenance::run(|| USES.with(|statement| statement.run(&[Arg::Int8(id)], |rows| rows.get(0, 0))))
        .unwrap_or_default()
}

fn one_user(statement: &'static std::thread::LocalKey<Statement>, args: &[Arg<'_>]) -> Option<String> {
    statement.with(|statement| statement.run(args, |rows| if rows.count() == 0 { None } else { rows.get(0, 0) }))
}

/// Revokes a grant and gives its user; None if there is none that is not revoked. Only for the user in force, or in
/// maintenance.
pub fn revoke(id: i64, by: &str) -> Option<String> {
    one_user(&REVOKE, &[Arg::Int8(id), Arg::Text(by)])
}

/// Revokes every grant of a user id that loses its vault: a later vault under that id is somebody else's to grant.
pub fn end_all(user: &str, by: &str) {
    if catalog::is_of_0_3() {
        maintenance::run(|| END_ALL.with(|statement| statement.run(&[Arg::Text(user), Arg::Text(by)], |_| ())));
    }
}

/// The same for a role that holds the grant.
pub fn retire(id: i64, by: &str, role: u32) -> Option<String> {
    maintenance::run(|| one_user(&RETIRE, &[Arg::Int8(id), Arg::Text(by), Arg::Int8(role.into())]))
}

/// Approves a grant that another login has given, and gives its user; None if there is none.
pub fn approve(id: i64, by: &str) -> Option<String> {
    maintenance::run(|| one_user(&APPROVE, &[Arg::Int8(id), Arg::Text(by)]))
}
