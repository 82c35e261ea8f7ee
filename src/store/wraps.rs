//! Every wrap of a database, of vaults and of old keys: what the functions on KEKs count, open and rewrap.

use vault_core::crypto::wrap::{Kind, StoredWrap, Wrap};

use super::{catalog, maintenance};
use crate::pg::spi::{Arg, Rows, Statement, Tid};

/// The tables that have wraps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    Vaults,
    OldKeys,
    /// The keys of the database itself.
    DatabaseKeys,
}

/// The tables that this database has: the old keys are new in 0.3.0.
pub fn tables() -> &'static [Table] {
    const ALL: [Table; 3] = [Table::Vaults, Table::OldKeys, Table::DatabaseKeys];
    if catalog::is_of_0_3() { &ALL } else { &ALL[..1] }
}

/// The statements on one of the tables.
struct Statements {
    every: Statement,
    count_to_rewrap: Statement,
    lock_to_rewrap: Statement,
    rewrap: Statement,
    /// The two for a table that is on many nodes: nothing is locked, and a row that has changed is left alone.
    page_to_rewrap: Statement,
    rewrap_one: Statement,
}

macro_rules! statements {
    ($table:literal, $owner:literal) => {
        Statements {
            every: Statement::new(concat!(
                "SELECT ", $owner, ", wrapped_mk, wrap_iv, format_version, kek_id, key_version FROM vault_ext.", $table, " \
                 WHERE wrapped_mk IS NOT NULL"
            )),
            count_to_rewrap: Statement::new(concat!(
                "SELECT pg_catalog.count(*) FROM vault_ext.", $table, " \
                 WHERE (kek_id OPERATOR(pg_catalog.<>) $1 OR format_version OPERATOR(pg_catalog.<>) 2) AND wrapped_mk IS NOT NULL"
            )),
            lock_to_rewrap: Statement::new(concat!(
                "SELECT ", $owner, ", wrapped_mk, wrap_iv, format_version, kek_id, key_version, ctid FROM vault_ext.", $table, " \
                 WHERE ", $owner, " OPERATOR(pg_catalog.>=) $1 AND ROW(", $owner, ", key_version) OPERATOR(pg_catalog.>) ROW($1, $2) \
                 AND (kek_id OPERATOR(pg_catalog.<>) $3 OR format_version OPERATOR(pg_catalog.<>) 2) AND wrapped_mk IS NOT NULL \
                 ORDER BY ", $owner, ", key_version LIMIT $4 FOR NO KEY UPDATE SKIP LOCKED"
            )),
            rewrap: Statement::planned_once(concat!(
                "UPDATE vault_ext.", $table, " AS v \
                 SET wrapped_mk = n.wrapped_mk, wrap_iv = n.wrap_iv, format_version = 2, kek_id = $1 \
                 FROM (SELECT pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5)) \
                 AS n (place, old_wrapped_mk, wrapped_mk, wrap_iv) \
                 WHERE v.ctid OPERATOR(pg_catalog.=) n.place AND v.wrapped_mk OPERATOR(pg_catalog.=) n.old_wrapped_mk"
            )),
            page_to_rewrap: Statement::new(concat!(
                "SELECT ", $owner, ", wrapped_mk, wrap_iv, format_version, kek_id, key_version FROM vault_ext.", $table, " \
                 WHERE ", $owner, " OPERATOR(pg_catalog.>=) $1 AND ROW(", $owner, ", key_version) OPERATOR(pg_catalog.>) ROW($1, $2) \
                 AND (kek_id OPERATOR(pg_catalog.<>) $3 OR format_version OPERATOR(pg_catalog.<>) 2) AND wrapped_mk IS NOT NULL \
                 ORDER BY ", $owner, ", key_version LIMIT $4"
            )),
            rewrap_one: Statement::new(concat!(
                "UPDATE vault_ext.", $table, " \
                 SET wrapped_mk = $4, wrap_iv = $5, format_version = 2, kek_id = $6 \
                 WHERE ", $owner, " OPERATOR(pg_catalog.=) $1 AND key_version OPERATOR(pg_catalog.=) $2 \
                 AND wrapped_mk OPERATOR(pg_catalog.=) $3"
            )),
        }
    };
}

thread_local! {
    static OF_VAULTS: Statements = const { statements!("encryption_vaults", "user_id") };
    static OF_OLD_KEYS: Statements = const { statements!("old_keys", "user_id") };
    static BY_KEK: Statement = const { Statement::new(
        "SELECT kek_id, pg_catalog.count(*) FROM vault_ext.encryption_vaults \
         WHERE kek_id OPERATOR(pg_catalog.=) ANY ($1) AND wrapped_mk IS NOT NULL GROUP BY kek_id ORDER BY kek_id"
    ) };
    // One statement: a wrap that moves from one table to the other meanwhile is seen in one of them.
    static BY_KEK_AND_OLD: Statement = const { Statement::new(
        "SELECT w.kek_id, pg_catalog.count(*) FROM ( \
            SELECT kek_id FROM vault_ext.encryption_vaults WHERE kek_id OPERATOR(pg_catalog.=) ANY ($1) AND wrapped_mk IS NOT NULL \
            UNION ALL \
            SELECT kek_id FROM vault_ext.old_keys WHERE kek_id OPERATOR(pg_catalog.=) ANY ($1) AND wrapped_mk IS NOT NULL \
            UNION ALL \
            SELECT kek_id FROM vault_ext.database_keys WHERE kek_id OPERATOR(pg_catalog.=) ANY ($1)) w \
         GROUP BY w.kek_id ORDER BY w.kek_id"
    ) };
    static OF_DATABASE_KEYS: Statements = const { statements!("database_keys", "name") };
    static OF_KEK: Statement = const { Statement::new(
        "SELECT user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_version FROM vault_ext.encryption_vaults \
         WHERE kek_id OPERATOR(pg_catalog.=) $1 AND wrapped_mk IS NOT NULL LIMIT 8"
    ) };
    static OF_KEK_AND_OLD: Statement = const { Statement::new(
        "(SELECT user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_version FROM vault_ext.encryption_vaults \
         WHERE kek_id OPERATOR(pg_catalog.=) $1 AND wrapped_mk IS NOT NULL LIMIT 8) \
         UNION ALL \
         (SELECT user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_version FROM vault_ext.old_keys \
         WHERE kek_id OPERATOR(pg_catalog.=) $1 AND wrapped_mk IS NOT NULL LIMIT 8) LIMIT 8"
    ) };
    static EXCLUDE_WRITERS: Statement = const { Statement::new(
        "LOCK TABLE vault_ext.encryption_vaults IN SHARE MODE"
    ) };
}

impl Table {
    /// What kind of keys it has.
    fn kind(self) -> Kind {
        match self {
            Self::Vaults | Self::OldKeys => Kind::MasterKey,
            Self::DatabaseKeys => Kind::DatabaseKey,
        }
    }

    fn with<T>(self, work: impl FnOnce(&Statements) -> T) -> T {
        match self {
            Self::Vaults => OF_VAULTS.with(work),
            Self::OldKeys => OF_OLD_KEYS.with(work),
            Self::DatabaseKeys => OF_DATABASE_KEYS.with(work),
        }
    }
}

/// Shows up to eight wraps under a KEK to `look`, until it says true; whether it did, or None if there is no wrap.
pub fn any_of_kek(kek_id: &str, look: impl FnMut(StoredWrap<'_>) -> bool) -> Option<bool> {
    let statement = if catalog::is_of_0_3() { &OF_KEK_AND_OLD } else { &OF_KEK };
    let look_at = |rows: &Rows| {
        (rows.count() > 0)
            .then(|| (0..rows.count()).filter_map(|row| stored_wrap(Kind::MasterKey, rows, row)).any(look))
    };
    maintenance::run(|| statement.with(|statement| statement.run(&[Arg::Text(kek_id)], look_at)))
}

/// Waits until all transactions that have begun to write have ended, and blocks new ones. Whoever writes an old key takes the lock
/// of `vaults::begin_write` first, too.
pub fn exclude_writers() {
    EXCLUDE_WRITERS.with(|statement| statement.run(&[], |_| ()));
}

/// How many wraps are under each of these KEKs; those without any are left out.
pub fn count_by_kek(kek_ids: &[String]) -> Vec<(String, i64)> {
    let kek_ids: Vec<_> = kek_ids.iter().map(String::as_str).collect();
    let statement = if catalog::is_of_0_3() { &BY_KEK_AND_OLD } else { &BY_KEK };
    let counts = |rows: &Rows| rows.collect(|row| Some((rows.get(row, 0)?, rows.get(row, 1)?)));
    maintenance::run(|| statement.with(|statement| statement.run(&[Arg::TextArray(&kek_ids)], counts)))
}

fn stored_wrap(kind: Kind, rows: &Rows, row: u64) -> Option<StoredWrap<'_>> {
    Some(StoredWrap {
        kind,
        user_id: rows.text(row, 0)?,
        wrapped_mk: rows.text(row, 1)?,
        wrap_iv: rows.text(row, 2)?,
        format_version: rows.get(row, 3)?,
        kek_id: rows.text(row, 4)?,
        key_version: rows.get(row, 5)?,
    })
}

/// Shows every wrap of a table to `look`.
pub fn for_each(table: Table, mut look: impl FnMut(StoredWrap<'_>)) {
    let look_at =
        |rows: &Rows| (0..rows.count()).filter_map(|row| stored_wrap(table.kind(), rows, row)).for_each(&mut look);
    maintenance::run(|| table.with(|of| of.every.scan(&[], look_at)));
}

/// How many wraps are not under that KEK in the newest format.
pub fn count_to_rewrap(kek_id: &str) -> i64 {
    let count = |table: &Table| {
        table.with(|of| of.count_to_rewrap.run(&[Arg::Text(kek_id)], |rows| rows.get(0, 0).unwrap_or(0)))
    };
    maintenance::run(|| tables().iter().map(count).sum())
}

/// A wrap that nobody else changes until the transaction ends; on many nodes one that may change, and is then left as it is.
pub struct LockedWrap<'a> {
    pub wrap: StoredWrap<'a>,
    /// None on many nodes.
    place: Option<Tid>,
}

/// Where a run through a table stands: the last user and version that it has seen.
#[derive(Default, Clone)]
pub struct Position {
    pub user_id: String,
    pub key_version: i32,
}

/// Hands over the next wraps of a table, in the order of their users and versions, that are not under that KEK in the newest
/// format, locked until the transaction ends. Those that others have locked are left out. Only in maintenance.
pub fn lock_to_rewrap<T>(
    table: Table,
    after: &Position,
    kek_id: &str,
    limit: i32,
    work: impl FnOnce(&[LockedWrap<'_>]) -> T,
) -> T {
    let args = [Arg::Text(&after.user_id), Arg::Int4(after.key_version), Arg::Text(kek_id), Arg::Int4(limit)];
    let has_nodes = catalog::has_nodes();
    table.with(|of| {
        let statement = if has_nodes { &of.page_to_rewrap } else { &of.lock_to_rewrap };
        statement.run(&args, |rows| {
            let place = |row| if has_nodes { Some(None) } else { rows.tid(row, 6).map(Some) };
            let locked = |row| Some(LockedWrap { wrap: stored_wrap(table.kind(), rows, row)?, place: place(row)? });
            work(&rows.collect(locked))
        })
    })
}

/// A new wrap of the same key.
pub struct Rewrapped<'a> {
    pub old: &'a LockedWrap<'a>,
    pub wrap: Wrap,
}

/// Replaces wraps of a table where the row is still as it was read, and says in how many. Only in maintenance, and in the
/// transaction that locked them.
pub fn rewrap(table: Table, kek_id: &str, rewrapped: &[Rewrapped<'_>]) -> i64 {
    fn texts<'a>(rewrapped: &'a [Rewrapped<'a>], of: impl Fn(&'a Rewrapped<'a>) -> &'a str) -> Vec<&'a str> {
        rewrapped.iter().map(of).collect()
    }
    let places: Option<Vec<_>> = rewrapped.iter().map(|row| row.old.place).collect();
    let Some(places) = places else { return rewrap_one_by_one(table, kek_id, rewrapped) };
    let args = [
        Arg::Text(kek_id),
        Arg::TidArray(&places),
        Arg::TextArray(&texts(rewrapped, |row| row.old.wrap.wrapped_mk)),
        Arg::TextArray(&texts(rewrapped, |row| row.wrap.wrapped_mk())),
        Arg::TextArray(&texts(rewrapped, |row| row.wrap.wrap_iv())),
    ];
    table.with(|of| of.rewrap.run(&args, Rows::count)) as i64
}

/// The same on many nodes: each row on its own.
fn rewrap_one_by_one(table: Table, kek_id: &str, rewrapped: &[Rewrapped<'_>]) -> i64 {
    let one = |row: &Rewrapped<'_>| {
        let old = &row.old.wrap;
        let args = [
            Arg::Text(old.user_id),
            Arg::Int4(old.key_version),
            Arg::Text(old.wrapped_mk),
            Arg::Text(row.wrap.wrapped_mk()),
            Arg::Text(row.wrap.wrap_iv()),
            Arg::Text(kek_id),
        ];
        table.with(|of| of.rewrap_one.run(&args, Rows::count)) as i64
    };
    rewrapped.iter().map(one).sum()
}
