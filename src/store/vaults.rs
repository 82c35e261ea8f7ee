//! The table of vaults: one wrapped master key for each user.

use vault_core::crypto::wrap::{StoredWrap, Wrap};

use super::maintenance;
use crate::error::VaultError;
use crate::pg::spi::{Arg, Rows, Statement, Tid};

/// The table's name in the extension's schema.
pub const VAULTS: &std::ffi::CStr = c"encryption_vaults";

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
    static LOCK: Statement = const { Statement::planned_once(concat!(
        "SELECT ", columns!(), " FROM vault_ext.encryption_vaults WHERE user_id OPERATOR(pg_catalog.=) $1 FOR UPDATE"
    )) };
    static INSERT: Statement = const { Statement::planned_once(
        "INSERT INTO vault_ext.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_version) \
         VALUES ($1, $2, $3, 2, $4, $5) ON CONFLICT (user_id) DO NOTHING"
    ) };
    static REPLACE: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.encryption_vaults SET wrapped_mk = $2, wrap_iv = $3, format_version = 2, kek_id = $4, \
         key_version = $5, rotated_at = pg_catalog.clock_timestamp() \
         WHERE user_id OPERATOR(pg_catalog.=) $1 AND wrapped_mk OPERATOR(pg_catalog.=) $6"
    ) };
    static ERASE: Statement = const { Statement::planned_once(
        "DELETE FROM vault_ext.encryption_vaults WHERE user_id OPERATOR(pg_catalog.=) $1"
    ) };
    static RENAME: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.encryption_vaults SET user_id = $2, wrapped_mk = $3, wrap_iv = $4, format_version = 2, kek_id = $5 \
         WHERE user_id OPERATOR(pg_catalog.=) $1 AND wrapped_mk OPERATOR(pg_catalog.=) $6"
    ) };
    static OF_KEK: Statement = const { Statement::new(concat!(
        "SELECT ", columns!(), ", user_id FROM vault_ext.encryption_vaults WHERE kek_id OPERATOR(pg_catalog.=) $1 LIMIT 8"
    )) };
    static BEGIN_WRITE: Statement = const { Statement::new(
        "LOCK TABLE vault_ext.encryption_vaults IN ROW EXCLUSIVE MODE"
    ) };
    static EXCLUDE_WRITERS: Statement = const { Statement::new(
        "LOCK TABLE vault_ext.encryption_vaults IN SHARE MODE"
    ) };
    // What may hide rows from the owner in maintenance: a restrictive policy, or the lack of the permissive one. The text of an
    // expression has quotes where the session has set quote_all_identifiers.
    static WHY_HIDDEN: Statement = const { Statement::new(
        "WITH policies AS ( \
            SELECT p.polname, p.polcmd, p.polpermissive, pg_catalog.replace(pg_catalog.pg_get_expr(p.polqual, p.polrelid), '\"', '') AS qual \
            FROM pg_catalog.pg_policy p \
            WHERE p.polrelid OPERATOR(pg_catalog.=) 'vault_ext.encryption_vaults'::pg_catalog.regclass \
            AND p.polcmd OPERATOR(pg_catalog.=) ANY ('{r,w,*}'::pg_catalog.\"char\"[]) \
            AND p.polroles OPERATOR(pg_catalog.&&) ARRAY[0::pg_catalog.oid, 'vault_ext_owner'::pg_catalog.regrole::pg_catalog.oid]) \
         SELECT CASE \
            WHEN NOT (SELECT c.relrowsecurity FROM pg_catalog.pg_class c \
                WHERE c.oid OPERATOR(pg_catalog.=) 'vault_ext.encryption_vaults'::pg_catalog.regclass) THEN NULL \
            WHEN EXISTS (SELECT FROM policies WHERE NOT polpermissive) THEN 'the policy \"' \
                OPERATOR(pg_catalog.||) (SELECT pg_catalog.min(polname::pg_catalog.text) FROM policies WHERE NOT polpermissive) \
                OPERATOR(pg_catalog.||) '\" is restrictive' \
            WHEN NOT vault_ext.in_maintenance() THEN 'vault_ext.in_maintenance() was replaced' \
            WHEN (SELECT pg_catalog.count(DISTINCT polcmd) FROM policies \
                WHERE polcmd OPERATOR(pg_catalog.<>) '*' AND qual OPERATOR(pg_catalog.=) ANY \
                (ARRAY['vault_ext.in_maintenance()', 'in_maintenance()', 'true'])) OPERATOR(pg_catalog.<) 2 \
                THEN 'a policy for maintenance is missing or changed' \
         END"
    ) };
    static VAULTS_BY_KEK: Statement = const { Statement::new(
        "SELECT kek_id, pg_catalog.count(*) FROM vault_ext.encryption_vaults \
         WHERE kek_id OPERATOR(pg_catalog.=) ANY ($1) GROUP BY kek_id ORDER BY kek_id"
    ) };
    static EVERY_WRAP: Statement = const { Statement::new(
        "SELECT user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_version FROM vault_ext.encryption_vaults"
    ) };
    static COUNT_TO_REWRAP: Statement = const { Statement::new(
        "SELECT pg_catalog.count(*) FROM vault_ext.encryption_vaults \
         WHERE kek_id OPERATOR(pg_catalog.<>) $1 OR format_version OPERATOR(pg_catalog.<>) 2"
    ) };
    static LOCK_TO_REWRAP: Statement = const { Statement::new(
        "SELECT user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_version, ctid FROM vault_ext.encryption_vaults \
         WHERE user_id OPERATOR(pg_catalog.>) $1 \
         AND (kek_id OPERATOR(pg_catalog.<>) $2 OR format_version OPERATOR(pg_catalog.<>) 2) \
         ORDER BY user_id LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED"
    ) };
    static REWRAP: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.encryption_vaults AS v \
         SET wrapped_mk = n.wrapped_mk, wrap_iv = n.wrap_iv, format_version = 2, kek_id = $1 \
         FROM (SELECT pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5)) \
         AS n (place, old_wrapped_mk, wrapped_mk, wrap_iv) \
         WHERE v.ctid OPERATOR(pg_catalog.=) n.place AND v.wrapped_mk OPERATOR(pg_catalog.=) n.old_wrapped_mk"
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

fn first_vault(rows: &Rows) -> Option<Vault> {
    if rows.count() == 0 { None } else { vault(rows, 0) }
}

fn first_vault_for_token(rows: &Rows) -> Option<Vault> {
    let vault = first_vault(rows)?;
    Some(Vault { tokens_valid_from: Some(rows.get(0, 5)), ..vault })
}

/// The user's row; for a token with the time from which tokens count.
pub fn find(user: &str, for_token: bool) -> Option<Vault> {
    if for_token {
        FIND_FOR_TOKEN.with(|statement| statement.run(&[Arg::Text(user)], first_vault_for_token))
    } else {
        FIND.with(|statement| statement.run(&[Arg::Text(user)], first_vault))
    }
}

/// Lets tokens that were issued before that time, in microseconds since 2000-01-01 00:00 UTC, count no more. False if the user
/// has no vault. Only in maintenance.
pub fn revoke_tokens(user: &str, issued_before: i64) -> bool {
    let args = [Arg::Text(user), Arg::Timestamp(issued_before)];
    maintenance::run(|| REVOKE_TOKENS.with(|statement| statement.run(&args, Rows::count))) == 1
}

/// The user's row without the wrap.
pub fn status(user: &str) -> Option<VaultStatus> {
    let status = |rows: &Rows| {
        (rows.count() > 0).then_some(())?;
        Some(VaultStatus {
            format_version: rows.get(0, 0)?,
            kek_id: rows.get(0, 1)?,
            key_version: rows.get(0, 2)?,
            created_at: rows.get(0, 3)?,
            rotated_at: rows.get(0, 4),
        })
    };
    STATUS.with(|statement| statement.run(&[Arg::Text(user)], status))
}

/// The same, locked until the transaction ends.
pub fn lock(user: &str, for_token: bool) -> Option<Vault> {
    if for_token {
        LOCK_FOR_TOKEN.with(|statement| statement.run(&[Arg::Text(user)], first_vault_for_token))
    } else {
        LOCK.with(|statement| statement.run(&[Arg::Text(user)], first_vault))
    }
}

/// Inserts the user's row; false if another transaction did meanwhile.
pub fn insert(user: &str, new: &NewWrap<'_>) -> bool {
    let args = [
        Arg::Text(user),
        Arg::Text(new.wrap.wrapped_mk()),
        Arg::Text(new.wrap.wrap_iv()),
        Arg::Text(new.kek_id),
        Arg::Int4(new.key_version),
    ];
    INSERT.with(|statement| statement.run(&args, Rows::count)) == 1
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
    REPLACE.with(|statement| statement.run(&args, Rows::count)) == 1
}

/// Deletes a user's row; false if there was none. Only in maintenance does the policy let it.
pub fn erase(user: &str) -> bool {
    maintenance::run(|| ERASE.with(|statement| statement.run(&[Arg::Text(user)], Rows::count))) == 1
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

/// Up to eight rows under a KEK, with their users.
pub fn some_vaults_of_kek(kek_id: &str) -> Vec<(String, Vault)> {
    maintenance::run(|| {
        OF_KEK.with(|statement| {
            statement.run(&[Arg::Text(kek_id)], |rows| {
                rows.collect(|row| Some((rows.get::<String>(row, 5)?, vault(rows, row)?)))
            })
        })
    })
}

/// Call this before making a wrap, and take the ring only afterwards: the removal of a KEK waits until this transaction ends
/// (`exclude_writers`).
pub fn begin_write() {
    BEGIN_WRITE.with(|statement| statement.run(&[], |_| ()));
}

/// Waits until all transactions that have begun to write have ended, and blocks new ones.
pub fn exclude_writers() {
    EXCLUDE_WRITERS.with(|statement| statement.run(&[], |_| ()));
}

/// Fails if row-level security would hide vaults from maintenance: a count of the rest would be wrong.
pub fn all_vaults_are_visible(call: &'static str) -> Result<(), VaultError> {
    let why: Option<String> =
        maintenance::run(|| WHY_HIDDEN.with(|statement| statement.run(&[], |rows| rows.get(0, 0))));
    why.map_or(Ok(()), |why| Err(VaultError::HiddenVaults(call, why)))
}

/// How many vaults are under each of these KEKs; those without any are left out.
pub fn vaults_by_kek(kek_ids: &[String]) -> Vec<(String, i64)> {
    let kek_ids: Vec<_> = kek_ids.iter().map(String::as_str).collect();
    maintenance::run(|| {
        VAULTS_BY_KEK.with(|statement| {
            statement.run(&[Arg::TextArray(&kek_ids)], |rows| {
                rows.collect(|row| Some((rows.get(row, 0)?, rows.get(row, 1)?)))
            })
        })
    })
}

fn stored_wrap(rows: &Rows, row: u64) -> Option<StoredWrap<'_>> {
    Some(StoredWrap {
        user_id: rows.text(row, 0)?,
        wrapped_mk: rows.text(row, 1)?,
        wrap_iv: rows.text(row, 2)?,
        format_version: rows.get(row, 3)?,
        kek_id: rows.text(row, 4)?,
        key_version: rows.get(row, 5)?,
    })
}

/// Shows every wrap to `look`.
pub fn for_each_wrap(mut look: impl FnMut(StoredWrap<'_>)) {
    let look_at = |rows: &Rows| (0..rows.count()).filter_map(|row| stored_wrap(rows, row)).for_each(&mut look);
    maintenance::run(|| EVERY_WRAP.with(|statement| statement.scan(look_at)));
}

/// How many vaults are not under that KEK in the newest format.
pub fn count_to_rewrap(kek_id: &str) -> i64 {
    maintenance::run(|| {
        COUNT_TO_REWRAP.with(|statement| statement.run(&[Arg::Text(kek_id)], |rows| rows.get(0, 0).unwrap_or(0)))
    })
}

/// A vault that nobody else changes until the transaction ends.
pub struct LockedWrap<'a> {
    pub wrap: StoredWrap<'a>,
    place: Tid,
}

/// Hands over the next vaults, in the order of their users, that are not under that KEK in the newest format, locked
/// until the transaction ends. Those that others have locked are left out. Only in maintenance.
pub fn lock_to_rewrap<T>(after: &str, kek_id: &str, limit: i32, work: impl FnOnce(&[LockedWrap<'_>]) -> T) -> T {
    LOCK_TO_REWRAP.with(|statement| {
        statement.run(&[Arg::Text(after), Arg::Text(kek_id), Arg::Int4(limit)], |rows| {
            let locked = |row| Some(LockedWrap { wrap: stored_wrap(rows, row)?, place: rows.tid(row, 6)? });
            work(&rows.collect(locked))
        })
    })
}

/// A vault's new wrap of the same key.
pub struct Rewrapped<'a> {
    pub old: &'a LockedWrap<'a>,
    pub wrap: Wrap,
}

/// Replaces wraps where the row is still as it was read, and says in how many. Only in maintenance, and in the transaction
/// that locked them.
pub fn rewrap(kek_id: &str, rewrapped: &[Rewrapped<'_>]) -> i64 {
    fn texts<'a>(rewrapped: &'a [Rewrapped<'a>], of: impl Fn(&'a Rewrapped<'a>) -> &'a str) -> Vec<&'a str> {
        rewrapped.iter().map(of).collect()
    }
    let args = [
        Arg::Text(kek_id),
        Arg::TidArray(&rewrapped.iter().map(|row| row.old.place).collect::<Vec<_>>()),
        Arg::TextArray(&texts(rewrapped, |row| row.old.wrap.wrapped_mk)),
        Arg::TextArray(&texts(rewrapped, |row| row.wrap.wrapped_mk())),
        Arg::TextArray(&texts(rewrapped, |row| row.wrap.wrap_iv())),
    ];
    REWRAP.with(|statement| statement.run(&args, Rows::count)) as i64
}
