//! Whole vaults, on their way to another server or from one. Only in maintenance.

use vault_core::crypto::wrap::Wrap;
use vault_core::transfer::Recovery;

use super::old_keys::{OldKey, State, StoredKey};
use crate::pg::spi::{Arg, Rows, Statement};

/// A vault with all that belongs to it, as one snapshot shows it.
pub struct WholeVault {
    pub current: Current,
    /// The old versions, the oldest first.
    pub old: Vec<OldKey>,
}

/// The row of a vault. Times are in microseconds since 2000-01-01 00:00 UTC.
pub struct Current {
    pub key: StoredKey,
    pub recovery: Option<Recovery>,
    pub zero_knowledge: bool,
    pub key_check: Option<String>,
    pub created_at: i64,
    pub rotated_at: Option<i64>,
    pub tokens_valid_from: Option<i64>,
    pub erase_after: Option<i64>,
}

thread_local! {
    // One statement, so that a rotation in between cannot show a version twice or not at all.
    static FIND: Statement = const { Statement::planned_once(
        "SELECT v.wrapped_mk, v.wrap_iv, v.format_version, v.kek_id, v.key_version, \
            v.recovery_wrapped_mk, v.recovery_iv, v.recovery_format_version, v.recovery_set_at, v.zero_knowledge, v.key_check, \
            v.created_at, v.rotated_at, v.tokens_valid_from, v.erase_after, \
            o.wrapped_mk, o.wrap_iv, o.format_version, o.kek_id, o.key_version, o.state, o.superseded_at, o.destroy_after, o.destroyed_at \
         FROM vault_ext.encryption_vaults v LEFT JOIN vault_ext.old_keys o ON o.user_id OPERATOR(pg_catalog.=) v.user_id \
         WHERE v.user_id OPERATOR(pg_catalog.=) $1 ORDER BY o.key_version"
    ) };
    static INSERT: Statement = const { Statement::planned_once(
        "INSERT INTO vault_ext.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_version, \
            recovery_wrapped_mk, recovery_iv, recovery_format_version, recovery_set_at, zero_knowledge, key_check, created_at, \
            rotated_at, tokens_valid_from) \
         VALUES ($1, $2, $3, 2, $4, $5, $6, $7, $8::pg_catalog.int2, $9, $2 IS NULL, $10, $11, $12, $13) \
         ON CONFLICT (user_id) DO NOTHING"
    ) };
    static INSERT_OLD: Statement = const { Statement::planned_once(
        "INSERT INTO vault_ext.old_keys (user_id, key_version, wrapped_mk, wrap_iv, format_version, kek_id, state, superseded_at, \
            destroy_after) \
         VALUES ($1, $2, $3, $4, 2, $5, $6, $7, $8)"
    ) };
}

/// What there is of a user's vault; None if there is no vault.
pub fn find(user: &str) -> Option<WholeVault> {
    FIND.with(|statement| {
        statement.run(&[Arg::Text(user)], |rows| {
            (rows.count() > 0).then_some(())?;
            Some(WholeVault { current: current(rows)?, old: rows.collect(|row| old(rows, row)) })
        })
    })
}

/// The version whose five columns begin with that one.
fn key(rows: &Rows, row: u64, first: usize) -> Option<StoredKey> {
    Some(StoredKey {
        wrap: rows.get(row, first).zip(rows.get(row, first + 1)),
        format_version: rows.get(row, first + 2)?,
        kek_id: rows.get(row, first + 3)?,
        key_version: rows.get(row, first + 4)?,
    })
}

fn current(rows: &Rows) -> Option<Current> {
    let recovery =
        |(wrapped_mk, iv)| Some(Recovery { wrapped_mk, iv, format_version: rows.get(0, 7)?, set_at: rows.get(0, 8) });
    Some(Current {
        key: key(rows, 0, 0)?,
        recovery: rows.get(0, 5).zip(rows.get(0, 6)).and_then(recovery),
        zero_knowledge: rows.get(0, 9)?,
        key_check: rows.get(0, 10),
        created_at: rows.get(0, 11)?,
        rotated_at: rows.get(0, 12),
        tokens_valid_from: rows.get(0, 13),
        erase_after: rows.get(0, 14),
    })
}

fn old(rows: &Rows, row: u64) -> Option<OldKey> {
    Some(OldKey {
        key: key(rows, row, 15)?,
        state: State::from_name(rows.text(row, 20)?)?,
        superseded_at: rows.get(row, 21)?,
        destroy_after: rows.get(row, 22),
        destroyed_at: rows.get(row, 23),
    })
}

/// What a new row of a vault is to have.
pub struct NewVault<'a> {
    /// None in zero-knowledge mode.
    pub wrap: Option<&'a Wrap>,
    pub kek_id: &'a str,
    pub key_version: i32,
    pub recovery: Option<&'a Recovery>,
    pub key_check: Option<&'a str>,
    pub created_at: i64,
    pub rotated_at: Option<i64>,
    pub tokens_valid_from: Option<i64>,
}

/// Inserts the row of a vault; false if the user has one meanwhile.
pub fn insert(user: &str, new: &NewVault<'_>) -> bool {
    let args = [
        Arg::Text(user),
        Arg::MaybeText(new.wrap.map(Wrap::wrapped_mk)),
        Arg::MaybeText(new.wrap.map(Wrap::wrap_iv)),
        Arg::Text(new.kek_id),
        Arg::Int4(new.key_version),
        Arg::MaybeText(new.recovery.map(|recovery| recovery.wrapped_mk.as_str())),
        Arg::MaybeText(new.recovery.map(|recovery| recovery.iv.as_str())),
        Arg::Int4(new.recovery.map_or(1, |recovery| recovery.format_version.into())),
        Arg::MaybeTimestamp(new.recovery.and_then(|recovery| recovery.set_at)),
        Arg::MaybeText(new.key_check),
        Arg::Timestamp(new.created_at),
        Arg::MaybeTimestamp(new.rotated_at),
        Arg::MaybeTimestamp(new.tokens_valid_from),
    ];
    INSERT.with(|statement| statement.run(&args, Rows::count)) == 1
}

/// What a new row of an old version is to have.
pub struct NewOld<'a> {
    pub wrap: &'a Wrap,
    pub kek_id: &'a str,
    pub key_version: i32,
    pub state: State,
    pub superseded_at: i64,
    pub destroy_after: Option<i64>,
}

/// Inserts the row of an old version.
pub fn insert_old(user: &str, new: &NewOld<'_>) {
    let args = [
        Arg::Text(user),
        Arg::Int4(new.key_version),
        Arg::Text(new.wrap.wrapped_mk()),
        Arg::Text(new.wrap.wrap_iv()),
        Arg::Text(new.kek_id),
        Arg::Text(new.state.name()),
        Arg::Timestamp(new.superseded_at),
        Arg::MaybeTimestamp(new.destroy_after),
    ];
    INSERT_OLD.with(|statement| statement.run(&args, |_| ()));
}
