//! The table of vaults: one wrapped master key for each user.

use vault_core::crypto::wrap::{StoredWrap, Wrap};

use super::{catalog, maintenance};
use crate::pg::spi::{Arg, Rows, Statement};

/// The table's name in the extension's schema.
pub const VAULTS: &std::ffi::CStr = c"encryption_vaults";

/// What there is of a user's vault.
pub enum Found<V> {
    Nothing,
    /// A vault that the server can open.
    Open(V),
    /// One that it cannot: see `closed`.
    Closed,
}

/// A vault without a wrap of the server's.
pub struct ClosedVault {
    pub kek_id: String,
    pub key_version: i32,
    /// When it is to be erased, in microseconds since 2000-01-01 00:00 UTC.
    pub erase_after: Option<i64>,
    /// The user's own wrap, in zero-knowledge mode.
    pub recovery: Option<RecoveryWrap>,
    /// As in `Vault`, where it is always read.
    pub tokens_valid_from: Option<i64>,
}

/// A wrap that only the user's recovery code opens.
pub struct RecoveryWrap {
    pub wrapped_mk: String,
    pub iv: String,
    pub format_version: i16,
}

/// A user's row.
pub struct Vault {
    pub wrapped_mk: String,
    pub wrap_iv: String,
    pub format_version: i16,
    pub kek_id: String,
    pub key_version: i32,
    /// Tokens that were issued before this time do not count, in microseconds since 2000-01-01 00:00 UTC. None where it was not
    /// read; Some(None) where there is no such time.
    pub tokens_valid_from: Option<Option<i64>>,
}

/// A wrap that a row is to have, and what it is bound to beside the user.
pub struct NewWrap<'a> {
    pub wrap: &'a Wrap,
    pub kek_id: &'a str,
    pub key_version: i32,
}

/// What a user may see of the row without its key.
#[derive(Clone)]
pub struct VaultStatus {
    pub format_version: i16,
    pub kek_id: String,
    pub key_version: i32,
    /// Microseconds since 2000-01-01 00:00 UTC.
    pub created_at: i64,
    pub rotated_at: Option<i64>,
    pub recovery_set_at: Option<i64>,
    pub zero_knowledge: bool,
}

impl Vault {
    /// The wrap of this row.
    pub fn stored<'a>(&'a self, user_id: &'a str) -> StoredWrap<'a> {
        StoredWrap {
            user_id,
            wrapped_mk: &self.wrapped_mk,
            wrap_iv: &self.wrap_iv,
            format_version: self.format_version,
            kek_id: &self.kek_id,
            key_version: self.key_version,
        }
    }
}

macro_rules! columns {
    () => {
        "wrapped_mk, wrap_iv, format_version, kek_id, key_version"
    };
}

thread_local! {
    static FIND: Statement = const { Statement::planned_once(concat!(
        "SELECT ", columns!(), " FROM vault_ext.encryption_vaults WHERE user_id OPERATOR(pg_catalog.=) $1"
    )) };
    static FIND_FOR_TOKEN: Statement = const { Statement::planned_once(concat!(
        "SELECT ", columns!(), ", tokens_valid_from FROM vault_ext.encryption_vaults WHERE user_id OPERATOR(pg_catalog.=) $1"
    )) };
    static LOCK_FOR_TOKEN: Statement = const { Statement::planned_once(concat!(
        "SELECT ", columns!(), ", tokens_valid_from FROM vault_ext.encryption_vaults \
         WHERE user_id OPERATOR(pg_catalog.=) $1 FOR UPDATE"
    )) };
    static REVOKE_TOKENS: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.encryption_vaults SET tokens_valid_from = GREATEST(tokens_valid_from, $2) \
         WHERE user_id OPERATOR(pg_catalog.=) $1"
    ) };
    static STATUS: Statement = const { Statement::planned_once(
        "SELECT format_version, kek_id, key_version, created_at, rotated_at \
         FROM vault_ext.encryption_vaults WHERE user_id OPERATOR(pg_catalog.=) $1"
    ) };
    static STATUS_WITH_RECOVERY: Statement = const { Statement::planned_once(
        "SELECT format_version, kek_id, key_version, created_at, rotated_at, recovery_set_at, zero_knowledge \
         FROM vault_ext.encryption_vaults WHERE user_id OPERATOR(pg_catalog.=) $1"
    ) };
    static CLOSED: Statement = const { Statement::planned_once(
        "SELECT kek_id, key_version, erase_after, recovery_wrapped_mk, recovery_iv, recovery_format_version, tokens_valid_from \
         FROM vault_ext.encryption_vaults WHERE user_id OPERATOR(pg_catalog.=) $1"
    ) };
    static LOCK: Statement = const { Statement::planned_once(concat!(
        "SELECT ", columns!(), " FROM vault_ext.encryption_vaults WHERE user_id OPERATOR(pg_catalog.=) $1 FOR UPDATE"
    )) };
    static INSERT: Statement = const { Statement::planned_once(
        "INSERT INTO vault_ext.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_version) \
         VALUES ($1, $2, $3, 2, $4, $5) ON CONFLICT (user_id) DO NOTHING"
    ) };
    // A vault that was deleted past vault_erase() has left old keys: the new one must not take their numbers.
    static INSERT_WITHOUT_OLD_KEYS: Statement = const { Statement::planned_once(
        "INSERT INTO vault_ext.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_version) \
         SELECT $1, $2, $3, 2, $4, $5 \
         WHERE NOT EXISTS (SELECT FROM vault_ext.old_keys o WHERE o.user_id OPERATOR(pg_catalog.=) $1 \
            AND o.key_version OPERATOR(pg_catalog.>=) $5) \
         ON CONFLICT (user_id) DO NOTHING"
    ) };
    static REPLACE: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.encryption_vaults SET wrapped_mk = $2, wrap_iv = $3, format_version = 2, kek_id = $4, \
         key_version = $5, rotated_at = pg_catalog.clock_timestamp() \
         WHERE user_id OPERATOR(pg_catalog.=) $1 AND wrapped_mk OPERATOR(pg_catalog.=) $6"
    ) };
    // A recovery wrap fits the old key.
    static REPLACE_AND_CLEAR: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.encryption_vaults SET wrapped_mk = $2, wrap_iv = $3, format_version = 2, kek_id = $4, \
         key_version = $5, rotated_at = pg_catalog.clock_timestamp(), recovery_wrapped_mk = NULL, recovery_iv = NULL, \
         recovery_set_at = NULL, key_check = NULL \
         WHERE user_id OPERATOR(pg_catalog.=) $1 AND wrapped_mk OPERATOR(pg_catalog.=) $6"
    ) };
    static ERASE: Statement = const { Statement::planned_once(
        "DELETE FROM vault_ext.encryption_vaults WHERE user_id OPERATOR(pg_catalog.=) $1"
    ) };
    static RENAME_CLOSED: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.encryption_vaults SET user_id = $2 WHERE user_id OPERATOR(pg_catalog.=) $1 AND wrapped_mk IS NULL"
    ) };
    static RENAME: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.encryption_vaults SET user_id = $2, wrapped_mk = $3, wrap_iv = $4, format_version = 2, kek_id = $5 \
         WHERE user_id OPERATOR(pg_catalog.=) $1 AND wrapped_mk OPERATOR(pg_catalog.=) $6"
    ) };
    static BEGIN_WRITE: Statement = const { Statement::new(
        "LOCK TABLE vault_ext.encryption_vaults IN ROW EXCLUSIVE MODE"
    ) };
}

fn vault(rows: &Rows, row: u64) -> Option<Vault> {
    Some(Vault {
        wrapped_mk: rows.get(row, 0)?,
        wrap_iv: rows.get(row, 1)?,
        format_version: rows.get(row, 2)?,
        kek_id: rows.get(row, 3)?,
        key_version: rows.get(row, 4)?,
        tokens_valid_from: None,
    })
}

fn first_vault(rows: &Rows) -> Found<Vault> {
    if rows.count() == 0 { Found::Nothing } else { vault(rows, 0).map_or(Found::Closed, Found::Open) }
}

fn first_vault_for_token(rows: &Rows) -> Found<Vault> {
    match first_vault(rows) {
        Found::Open(vault) => Found::Open(Vault { tokens_valid_from: Some(rows.get(0, 5)), ..vault }),
        other => other,
    }
}

/// The user's row; for a token with the time from which tokens count.
pub fn find(user: &str, for_token: bool) -> Found<Vault> {
    if for_token {
        FIND_FOR_TOKEN.with(|statement| statement.run(&[Arg::Text(user)], first_vault_for_token))
    } else {
        FIND.with(|statement| statement.run(&[Arg::Text(user)], first_vault))
    }
}

/// A vault that was found closed; None if it is gone.
pub fn closed(user: &str) -> Option<ClosedVault> {
    let closed = |rows: &Rows| {
        (rows.count() > 0).then_some(())?;
        let recovery = |(wrapped_mk, iv)| Some(RecoveryWrap { wrapped_mk, iv, format_version: rows.get(0, 5)? });
        Some(ClosedVault {
            kek_id: rows.get(0, 0)?,
            key_version: rows.get(0, 1)?,
            erase_after: rows.get(0, 2),
            recovery: rows.get(0, 3).zip(rows.get(0, 4)).and_then(recovery),
            tokens_valid_from: rows.get(0, 6),
        })
    };
    CLOSED.with(|statement| statement.run(&[Arg::Text(user)], closed))
}

/// Lets tokens that were issued before that time, in microseconds since 2000-01-01 00:00 UTC, count no more. False if the user
/// has no vault. Only in maintenance.
pub fn revoke_tokens(user: &str, issued_before: i64) -> bool {
    let args = [Arg::Text(user), Arg::Timestamp(issued_before)];
    maintenance::run(|| REVOKE_TOKENS.with(|statement| statement.run(&args, Rows::count))) == 1
}

/// The user's row without the wrap.
pub fn status(user: &str) -> Option<VaultStatus> {
    let is_of_0_3 = catalog::is_of_0_3();
    let status = |rows: &Rows| {
        (rows.count() > 0).then_some(())?;
        Some(VaultStatus {
            format_version: rows.get(0, 0)?,
            kek_id: rows.get(0, 1)?,
            key_version: rows.get(0, 2)?,
            created_at: rows.get(0, 3)?,
            rotated_at: rows.get(0, 4),
            recovery_set_at: if is_of_0_3 { rows.get(0, 5) } else { None },
            zero_knowledge: is_of_0_3 && rows.get(0, 6) == Some(true),
        })
    };
    let statement = if is_of_0_3 { &STATUS_WITH_RECOVERY } else { &STATUS };
    statement.with(|statement| statement.run(&[Arg::Text(user)], status))
}

/// The same, locked until the transaction ends.
pub fn lock(user: &str, for_token: bool) -> Found<Vault> {
    if for_token {
        LOCK_FOR_TOKEN.with(|statement| statement.run(&[Arg::Text(user)], first_vault_for_token))
    } else {
        LOCK.with(|statement| statement.run(&[Arg::Text(user)], first_vault))
    }
}

/// Inserts the user's row; false if another transaction did meanwhile, or if there is an old key with this version or a later one.
pub fn insert(user: &str, new: &NewWrap<'_>) -> bool {
    let args = [
        Arg::Text(user),
        Arg::Text(new.wrap.wrapped_mk()),
        Arg::Text(new.wrap.wrap_iv()),
        Arg::Text(new.kek_id),
        Arg::Int4(new.key_version),
    ];
    let statement = if catalog::is_of_0_3() { &INSERT_WITHOUT_OLD_KEYS } else { &INSERT };
    statement.with(|statement| statement.run(&args, Rows::count)) == 1
}

/// Replaces the wrap that was read before; false if the row is not the same any more.
pub fn replace(user: &str, old: &Vault, new: &NewWrap<'_>) -> bool {
    let args = [
        Arg::Text(user),
        Arg::Text(new.wrap.wrapped_mk()),
        Arg::Text(new.wrap.wrap_iv()),
        Arg::Text(new.kek_id),
        Arg::Int4(new.key_version),
        Arg::Text(&old.wrapped_mk),
    ];
    let statement = if catalog::is_of_0_3() { &REPLACE_AND_CLEAR } else { &REPLACE };
    statement.with(|statement| statement.run(&args, Rows::count)) == 1
}

/// Deletes a user's row; false if there was none. Only in maintenance does the policy let it.
pub fn erase(user: &str) -> bool {
    maintenance::run(|| ERASE.with(|statement| statement.run(&[Arg::Text(user)], Rows::count))) == 1
}

/// Changes the user of a vault that has no wrap of the server's. Returns false if it has one; raises 23505 if the new user has a
/// vault. Only in maintenance.
pub fn rename_closed(old_user: &str, new_user: &str) -> bool {
    RENAME_CLOSED.with(|statement| statement.run(&[Arg::Text(old_user), Arg::Text(new_user)], Rows::count)) == 1
}

/// Changes the user of a row that was locked before, together with the wrap that is bound to the user. Returns false if the row
/// has changed; raises 23505 if the new user has a vault. Only in maintenance.
pub fn rename(old_user: &str, new_user: &str, old: &Vault, new: &NewWrap<'_>) -> bool {
    let args = [
        Arg::Text(old_user),
        Arg::Text(new_user),
        Arg::Text(new.wrap.wrapped_mk()),
        Arg::Text(new.wrap.wrap_iv()),
        Arg::Text(new.kek_id),
        Arg::Text(&old.wrapped_mk),
    ];
    RENAME.with(|statement| statement.run(&args, Rows::count)) == 1
}

/// Call this before making a wrap, and take the ring only afterwards: the removal of a KEK waits until this transaction ends
/// (`wraps::exclude_writers`).
pub fn begin_write() {
    BEGIN_WRITE.with(|statement| statement.run(&[], |_| ()));
}
