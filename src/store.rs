//! All SQL on the vault's tables. Plain SQL through SPI with `user_id = …`, every schema and operator named in full: a
//! caller's search_path cannot lead it elsewhere, and row-level security, triggers and partitioning all apply.

use std::ffi::CStr;

use pgrx::datum::Interval;

use crate::audit::registration::Known;
use crate::crypto::check::CheckValue;
use crate::crypto::wrap::Wrap;
use crate::pg::spi::{Arg, Rows, Statement};

/// The role that owns the tables and the definer functions; row-level security binds it.
pub const OWNER: &CStr = c"vault_ext_owner";

/// A user's row.
pub struct Vault {
    pub wrapped_mk: String,
    pub wrap_iv: String,
    pub format_version: i16,
    pub kek_id: String,
    pub key_version: i32,
    /// Microseconds since 2000-01-01 00:00 UTC.
    pub created_at: i64,
    pub rotated_at: Option<i64>,
}

/// What a database knows of a KEK.
pub struct KnownKek {
    check: Option<CheckValue>,
    retired: bool,
}

impl KnownKek {
    pub fn compare(&self, check: CheckValue) -> Known {
        match self.check {
            Some(known) if known != check => Known::Other(known),
            _ if self.retired => Known::Retired,
            _ => Known::Same,
        }
    }
}

macro_rules! columns {
    () => {
        "wrapped_mk, wrap_iv, format_version, kek_id, key_version, created_at, rotated_at"
    };
}

thread_local! {
    static FIND: Statement = const { Statement::new(concat!(
        "SELECT ", columns!(), " FROM vault_ext.encryption_vaults WHERE user_id OPERATOR(pg_catalog.=) $1"
    )) };
    static LOCK: Statement = const { Statement::new(concat!(
        "SELECT ", columns!(), " FROM vault_ext.encryption_vaults WHERE user_id OPERATOR(pg_catalog.=) $1 FOR UPDATE"
    )) };
    static INSERT: Statement = const { Statement::new(
        "INSERT INTO vault_ext.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_version) \
         VALUES ($1, $2, $3, 2, $4, $5) ON CONFLICT (user_id) DO NOTHING"
    ) };
    static REPLACE: Statement = const { Statement::new(
        "UPDATE vault_ext.encryption_vaults SET wrapped_mk = $2, wrap_iv = $3, format_version = 2, kek_id = $4, \
         key_version = $5, rotated_at = pg_catalog.clock_timestamp() \
         WHERE user_id OPERATOR(pg_catalog.=) $1 AND wrapped_mk OPERATOR(pg_catalog.=) $6"
    ) };
    static ERASE: Statement = const { Statement::new(
        "DELETE FROM vault_ext.encryption_vaults WHERE user_id OPERATOR(pg_catalog.=) $1"
    ) };
    static OF_KEK: Statement = const { Statement::new(concat!(
        "SELECT ", columns!(), ", user_id FROM vault_ext.encryption_vaults WHERE kek_id OPERATOR(pg_catalog.=) $1 LIMIT 8"
    )) };
    static KNOWN_KEK: Statement = const { Statement::new(
        "SELECT check_value, retired_at IS NOT NULL FROM vault_ext.keks WHERE kek_id OPERATOR(pg_catalog.=) $1"
    ) };
    static REGISTER_KEK: Statement = const { Statement::new(
        "INSERT INTO vault_ext.keks (kek_id, check_value) VALUES ($1, $2) ON CONFLICT (kek_id) DO NOTHING"
    ) };
    static INSERT_AUDIT: Statement = const { Statement::new(
        "INSERT INTO vault_ext.encryption_vault_audit (user_id, action, status, kek_id, key_version, db_role, \
         ip_address, user_agent, request_id, context, created_at) \
         SELECT * FROM vault_ext.audit_batch()"
    ) };
    static PURGE_AUDIT: Statement = const { Statement::new(
        "DELETE FROM vault_ext.encryption_vault_audit \
         WHERE created_at OPERATOR(pg_catalog.<) (pg_catalog.now() OPERATOR(pg_catalog.-) $1)"
    ) };
}

fn vault(rows: &Rows, row: u64) -> Option<Vault> {
    Some(Vault {
        wrapped_mk: rows.get(row, 0)?,
        wrap_iv: rows.get(row, 1)?,
        format_version: rows.get(row, 2)?,
        kek_id: rows.get(row, 3)?,
        key_version: rows.get(row, 4)?,
        created_at: rows.get(row, 5)?,
        rotated_at: rows.get(row, 6),
    })
}

fn first_vault(rows: &Rows) -> Option<Vault> {
    if rows.count() == 0 { None } else { vault(rows, 0) }
}

/// The user's row.
pub fn find(user: &str) -> Option<Vault> {
    FIND.with(|statement| statement.run(&[Arg::Text(user)], first_vault))
}

/// The user's row, locked until the transaction ends.
pub fn lock(user: &str) -> Option<Vault> {
    LOCK.with(|statement| statement.run(&[Arg::Text(user)], first_vault))
}

/// Inserts the user's row; false if another transaction did meanwhile.
pub fn insert(user: &str, wrap: &Wrap, kek_id: &str, key_version: i32) -> bool {
    let args = [
        Arg::Text(user),
        Arg::Text(wrap.wrapped_mk()),
        Arg::Text(wrap.wrap_iv()),
        Arg::Text(kek_id),
        Arg::Int4(key_version),
    ];
    INSERT.with(|statement| statement.run(&args, Rows::count)) == 1
}

/// Replaces the wrap that was read before; false if the row is not the same any more.
pub fn replace(user: &str, old: &Vault, wrap: &Wrap, kek_id: &str, key_version: i32) -> bool {
    let args = [
        Arg::Text(user),
        Arg::Text(wrap.wrapped_mk()),
        Arg::Text(wrap.wrap_iv()),
        Arg::Text(kek_id),
        Arg::Int4(key_version),
        Arg::Text(&old.wrapped_mk),
    ];
    REPLACE.with(|statement| statement.run(&args, Rows::count)) == 1
}

/// Deletes a user's row; false if there was none. Only in maintenance does the policy let it.
pub fn erase(user: &str) -> bool {
    crate::maintenance::run(|| ERASE.with(|statement| statement.run(&[Arg::Text(user)], Rows::count))) == 1
}

/// Up to eight rows under a KEK, with their users.
pub fn some_vaults_of_kek(kek_id: &str) -> Vec<(String, Vault)> {
    crate::maintenance::run(|| {
        OF_KEK.with(|statement| {
            statement.run(&[Arg::Text(kek_id)], |rows| {
                (0..rows.count()).filter_map(|row| Some((rows.get::<String>(row, 7)?, vault(rows, row)?))).collect()
            })
        })
    })
}

/// What this database knows of a KEK.
pub fn known_kek(kek_id: &str) -> Option<KnownKek> {
    KNOWN_KEK.with(|statement| {
        statement.run(&[Arg::Text(kek_id)], |rows| {
            (rows.count() > 0).then(|| KnownKek {
                check: rows.get::<String>(0, 0).and_then(|text| CheckValue::from_hex(&text)),
                retired: rows.get(0, 1).unwrap_or(false),
            })
        })
    })
}

/// Records the check value of a KEK, unless one is recorded.
pub fn register_kek(kek_id: &str, check: CheckValue) {
    let hex = check.to_hex();
    REGISTER_KEK.with(|statement| statement.run(&[Arg::Text(kek_id), Arg::Text(&hex)], |_| ()));
}

/// Inserts the batch that the audit writer holds (`writer::batch`) and says how many rows that were. Only in the audit
/// writer does the policy let it.
pub fn insert_audit_batch() -> u64 {
    INSERT_AUDIT.with(|statement| statement.run(&[], Rows::count))
}

/// Deletes audit rows older than that and says how many. Only in maintenance does the policy let it.
pub fn purge_audit(older_than: Interval) -> u64 {
    crate::maintenance::run(|| PURGE_AUDIT.with(|statement| statement.run(&[Arg::Interval(older_than)], Rows::count)))
}
