//! The table of vaults: one wrapped master key for each user.

use vault_core::crypto::wrap::{Kind, StoredWrap, Wrap};

use super::{SCHEMA, VAULTS, catalog, maintenance};
use crate::identity;
use crate::pg::lookup::{self, Lookup};
use crate::pg::session;
use crate::pg::spi::{Arg, Rows, Statement};
use crate::pg::table::{self, Access, Table, Type};

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

/// A user's row without the server's wrap: what the recovery code and zero-knowledge mode are about.
pub struct RecoveryState {
    pub kek_id: String,
    pub key_version: i32,
    /// The wrapped key of the recovery wrap and its nonce.
    pub wrap: Option<(String, String)>,
    pub zero_knowledge: bool,
    /// Of the key, where only the client has it.
    pub key_check: Option<String>,
    /// When the vault is to be erased, in microseconds since 2000-01-01 00:00 UTC.
    pub erase_after: Option<i64>,
    /// As in `Vault`, where it is always read.
    pub tokens_valid_from: Option<i64>,
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
            kind: Kind::MasterKey,
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

macro_rules! recovery_columns {
    () => {
        "kek_id, key_version, recovery_wrapped_mk, recovery_iv, zero_knowledge, key_check, erase_after, tokens_valid_from"
    };
}

/// What an opening of a vault reads.
const OPENING: Table<6> = Table {
    schema: SCHEMA,
    name: VAULTS,
    policies: &[c"encryption_vaults_user_isolation"],
    access: Access::Read,
    columns: [
        (c"wrapped_mk", Type::Text),
        (c"wrap_iv", Type::Text),
        (c"format_version", Type::Int2),
        (c"kek_id", Type::Text),
        (c"key_version", Type::Int4),
        (c"tokens_valid_from", Type::Timestamp),
    ],
};

thread_local! {
    static BY_USER: Lookup<6> = const { Lookup::new(OPENING, c"user_id") };
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
    static KEEP: Statement = const { Statement::planned_once(concat!(
        "SELECT ", columns!(), " FROM vault_ext.encryption_vaults WHERE user_id OPERATOR(pg_catalog.=) $1 FOR KEY SHARE"
    )) };
    static KEEP_FOR_TOKEN: Statement = const { Statement::planned_once(concat!(
        "SELECT ", columns!(), ", tokens_valid_from FROM vault_ext.encryption_vaults \
         WHERE user_id OPERATOR(pg_catalog.=) $1 FOR KEY SHARE"
    )) };
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
         key_version = $5, rotated_at = $7 \
         WHERE user_id OPERATOR(pg_catalog.=) $1 AND wrapped_mk OPERATOR(pg_catalog.=) $6"
    ) };
    // A recovery wrap fits the old key.
    static REPLACE_AND_CLEAR: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.encryption_vaults SET wrapped_mk = $2, wrap_iv = $3, format_version = 2, kek_id = $4, \
         key_version = $5, rotated_at = $7, recovery_wrapped_mk = NULL, recovery_iv = NULL, \
         recovery_set_at = NULL, key_check = NULL \
         WHERE user_id OPERATOR(pg_catalog.=) $1 AND wrapped_mk OPERATOR(pg_catalog.=) $6"
    ) };
    static EXISTS: Statement = const { Statement::new(
        "SELECT FROM vault_ext.encryption_vaults WHERE user_id OPERATOR(pg_catalog.=) $1"
    ) };
    static ERASE: Statement = const { Statement::planned_once(
        "DELETE FROM vault_ext.encryption_vaults WHERE user_id OPERATOR(pg_catalog.=) $1 RETURNING kek_id, key_version, created_at"
    ) };
    static CLOSE: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.encryption_vaults SET wrapped_mk = NULL, wrap_iv = NULL, erase_after = $2 \
         WHERE user_id OPERATOR(pg_catalog.=) $1 AND erase_after IS NULL"
    ) };
    static REOPEN: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.encryption_vaults SET wrapped_mk = $2, wrap_iv = $3, format_version = $4::pg_catalog.int2, kek_id = $5, \
         erase_after = NULL \
         WHERE user_id OPERATOR(pg_catalog.=) $1 AND erase_after IS NOT NULL AND wrapped_mk IS NULL AND NOT zero_knowledge"
    ) };
    static REOPEN_ZERO_KNOWLEDGE: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.encryption_vaults SET erase_after = NULL \
         WHERE user_id OPERATOR(pg_catalog.=) $1 AND erase_after IS NOT NULL AND zero_knowledge"
    ) };
    static RENAME_CLOSED: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.encryption_vaults SET user_id = $2 WHERE user_id OPERATOR(pg_catalog.=) $1 AND wrapped_mk IS NULL"
    ) };
    static RENAME: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.encryption_vaults SET user_id = $2, wrapped_mk = $3, wrap_iv = $4, format_version = 2, kek_id = $5 \
         WHERE user_id OPERATOR(pg_catalog.=) $1 AND wrapped_mk OPERATOR(pg_catalog.=) $6"
    ) };
    static RECOVERY: Statement = const { Statement::planned_once(concat!(
        "SELECT ", recovery_columns!(), " FROM vault_ext.encryption_vaults WHERE user_id OPERATOR(pg_catalog.=) $1"
    )) };
    static LOCK_RECOVERY: Statement = const { Statement::planned_once(concat!(
        "SELECT ", recovery_columns!(), " FROM vault_ext.encryption_vaults WHERE user_id OPERATOR(pg_catalog.=) $1 FOR UPDATE"
    )) };
    static SET_RECOVERY: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.encryption_vaults SET recovery_wrapped_mk = $2, recovery_iv = $3, recovery_format_version = 1, \
         recovery_set_at = $4 WHERE user_id OPERATOR(pg_catalog.=) $1"
    ) };
    static CLEAR_RECOVERY: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.encryption_vaults SET recovery_wrapped_mk = NULL, recovery_iv = NULL, recovery_set_at = NULL \
         WHERE user_id OPERATOR(pg_catalog.=) $1 AND NOT zero_knowledge"
    ) };
    static GIVE_AWAY: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.encryption_vaults SET wrapped_mk = NULL, wrap_iv = NULL, zero_knowledge = true, key_check = $2 \
         WHERE user_id OPERATOR(pg_catalog.=) $1 AND wrapped_mk OPERATOR(pg_catalog.=) $3 AND recovery_wrapped_mk IS NOT NULL"
    ) };
    static TAKE_BACK: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.encryption_vaults SET wrapped_mk = $2, wrap_iv = $3, format_version = 2, kek_id = $4, \
         zero_knowledge = false, key_check = NULL \
         WHERE user_id OPERATOR(pg_catalog.=) $1 AND zero_knowledge AND key_version OPERATOR(pg_catalog.=) $5"
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

fn read_vault(row: &lookup::Row<'_, 6>) -> Option<Vault> {
    Some(Vault {
        wrapped_mk: row.get(0)?,
        wrap_iv: row.get(1)?,
        format_version: row.get(2)?,
        kek_id: row.get(3)?,
        key_version: row.get(4)?,
        tokens_valid_from: Some(row.get(5)),
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
    // The policies compare with the user in force, too.
    if identity::is_in_force(user) {
        match BY_USER.with(|vaults| vaults.find(user, read_vault)) {
            lookup::Found::Row(found) => return found.map_or(Found::Closed, Found::Open),
            lookup::Found::Nothing => return Found::Nothing,
            lookup::Found::AskSql => {}
        }
    }
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

/// The same, kept from `lock` of others until the transaction ends.
pub fn keep(user: &str, for_token: bool) -> Found<Vault> {
    if for_token {
        KEEP_FOR_TOKEN.with(|statement| statement.run(&[Arg::Text(user)], first_vault_for_token))
    } else {
        KEEP.with(|statement| statement.run(&[Arg::Text(user)], first_vault))
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
    // Citus would copy what a statement selects to every node before it inserts it.
    let plain = !catalog::is_of_0_3() || catalog::has_nodes();
    let statement = if plain { &INSERT } else { &INSERT_WITHOUT_OLD_KEYS };
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
        Arg::Timestamp(session::now()),
    ];
    let statement = if catalog::is_of_0_3() { &REPLACE_AND_CLEAR } else { &REPLACE };
    statement.with(|statement| statement.run(&args, Rows::count)) == 1
}

/// What is left to say of a row that was deleted.
pub struct ErasedVault {
    pub kek_id: String,
    pub key_version: i32,
    /// Microseconds since 2000-01-01 00:00 UTC.
    pub created_at: i64,
}

/// Deletes a user's row; None if there was none. Only in maintenance does the policy let it.
pub fn erase(user: &str) -> Option<ErasedVault> {
    let erased = |rows: &Rows| {
        (rows.count() > 0).then_some(())?;
        Some(ErasedVault { kek_id: rows.get(0, 0)?, key_version: rows.get(0, 1)?, created_at: rows.get(0, 2)? })
    };
    maintenance::run(|| ERASE.with(|statement| statement.run(&[Arg::Text(user)], erased)))
}

/// Takes the wrap out of a row that is to be erased after that time, in microseconds since 2000-01-01 00:00 UTC. False if the
/// row is not there, or closed already. Only in maintenance.
pub fn close(user: &str, erase_after: i64) -> bool {
    let args = [Arg::Text(user), Arg::Timestamp(erase_after)];
    CLOSE.with(|statement| statement.run(&args, Rows::count)) == 1
}

/// Puts the wrap back into a row that was closed. False if the row is not there, not closed, or has a wrap. Only in maintenance.
pub fn reopen(user: &str, wrap: &StoredWrap<'_>) -> bool {
    let args = [
        Arg::Text(user),
        Arg::Text(wrap.wrapped_mk),
        Arg::Text(wrap.wrap_iv),
        Arg::Int4(wrap.format_version.into()),
        Arg::Text(wrap.kek_id),
    ];
    REOPEN.with(|statement| statement.run(&args, Rows::count)) == 1
}

/// The same for a row in zero-knowledge mode, which has no such wrap.
pub fn reopen_zero_knowledge(user: &str) -> bool {
    REOPEN_ZERO_KNOWLEDGE.with(|statement| statement.run(&[Arg::Text(user)], Rows::count)) == 1
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

fn recovery_state(rows: &Rows) -> Option<RecoveryState> {
    (rows.count() > 0).then_some(())?;
    Some(RecoveryState {
        kek_id: rows.get(0, 0)?,
        key_version: rows.get(0, 1)?,
        wrap: rows.get(0, 2).zip(rows.get(0, 3)),
        zero_knowledge: rows.get(0, 4)?,
        key_check: rows.get(0, 5),
        erase_after: rows.get(0, 6),
        tokens_valid_from: rows.get(0, 7),
    })
}

/// What the recovery code and zero-knowledge mode are about; None if the user has no vault.
pub fn recovery(user: &str) -> Option<RecoveryState> {
    RECOVERY.with(|statement| statement.run(&[Arg::Text(user)], recovery_state))
}

/// The same, locked until the transaction ends.
pub fn lock_recovery(user: &str) -> Option<RecoveryState> {
    LOCK_RECOVERY.with(|statement| statement.run(&[Arg::Text(user)], recovery_state))
}

/// Replaces the recovery wrap. False if the user has no vault.
pub fn set_recovery(user: &str, wrapped_mk: &str, iv: &str) -> bool {
    let args = [Arg::Text(user), Arg::Text(wrapped_mk), Arg::Text(iv), Arg::Timestamp(session::now())];
    SET_RECOVERY.with(|statement| statement.run(&args, Rows::count)) == 1
}

/// Removes the recovery wrap. False if the user has no vault, or one that nothing else opens.
pub fn clear_recovery(user: &str) -> bool {
    CLEAR_RECOVERY.with(|statement| statement.run(&[Arg::Text(user)], Rows::count)) == 1
}

/// Removes the server's own wrap, which was read before, so that only the recovery wrap is left. False if the row is not the same
/// any more.
pub fn give_away(user: &str, wrapped_mk: &str, key_check: &str) -> bool {
    let args = [Arg::Text(user), Arg::Text(key_check), Arg::Text(wrapped_mk)];
    GIVE_AWAY.with(|statement| statement.run(&args, Rows::count)) == 1
}

/// Gives a vault in zero-knowledge mode a wrap of the server's again. False if it is not in that mode, or has another version of
/// the key.
pub fn take_back(user: &str, new: &NewWrap<'_>) -> bool {
    let args = [
        Arg::Text(user),
        Arg::Text(new.wrap.wrapped_mk()),
        Arg::Text(new.wrap.wrap_iv()),
        Arg::Text(new.kek_id),
        Arg::Int4(new.key_version),
    ];
    TAKE_BACK.with(|statement| statement.run(&args, Rows::count)) == 1
}

/// Call this before making a wrap, and take the ring only afterwards: the removal of a KEK waits until this transaction ends
/// (`wraps::exclude_writers`).
pub fn begin_write() {
    // Citus would lock the table on every node. The removal does that, so this node's lock is enough.
    if catalog::has_nodes() {
        table::lock_here(SCHEMA, VAULTS, Access::Insert, true);
    } else {
        BEGIN_WRITE.with(|statement| statement.run(&[], |_| ()));
    }
}

/// Whether a user, who need not be the caller's, has a vault.
pub fn exists(user: &str) -> bool {
    maintenance::run(|| EXISTS.with(|statement| statement.run(&[Arg::Text(user)], Rows::count))) > 0
}
