//! Every wrap of a database, of vaults and of old keys: what the functions on KEKs count, open and rewrap.

use std::ffi::CStr;

use pgrx::IntoDatum;
use vault_core::crypto::wrap::{FORMAT_2, Kind, StoredWrap, Wrap};

use super::{SCHEMA, catalog, maintenance};
use crate::pg::spi::{Arg, Rows, Statement, Tid};
use crate::pg::sweep::{Next, Row, Sweep};
use crate::pg::table::{self, Access, Type};

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

/// What a rewrap reads of a row past the executor.
const fn columns(owner: &'static CStr) -> [(&'static CStr, Type); 6] {
    [
        (owner, Type::Text),
        (c"key_version", Type::Int4),
        (c"wrapped_mk", Type::Text),
        (c"wrap_iv", Type::Text),
        (c"format_version", Type::Int2),
        (c"kek_id", Type::Text),
    ]
}

/// The numbers of those that it changes.
const RENEWED: [usize; 4] = [2, 3, 4, 5];

const VAULTS: table::Table<6> = table::Table {
    schema: SCHEMA,
    name: super::VAULTS,
    policies: &[c"encryption_vaults_vault_maintenance", c"encryption_vaults_vault_maintenance_update"],
    access: Access::Update,
    columns: columns(c"user_id"),
};

const OLD_KEYS: table::Table<6> = table::Table {
    schema: SCHEMA,
    name: super::OLD_KEYS,
    policies: &[c"old_keys_vault_maintenance", c"old_keys_vault_maintenance_update"],
    access: Access::Update,
    columns: columns(c"user_id"),
};

thread_local! {
    static SWEEP_VAULTS: Sweep<6, 4> = const { Sweep::new(VAULTS, &[c"user_id"], RENEWED) };
    static SWEEP_OLD_KEYS: Sweep<6, 4> = const { Sweep::new(OLD_KEYS, &[c"user_id", c"key_version"], RENEWED) };
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

/// Where a run through a table stands: the last user and version that it has seen.
#[derive(Default, Clone)]
pub struct Position {
    pub user_id: String,
    pub key_version: i32,
}

/// What becomes of a wrap.
pub enum Renewal<F> {
    Renewed(Wrap),
    /// It stays for the next run.
    Later,
    /// It does not open, and why.
    Failed(F),
}

/// What was done with the next wraps of a table.
pub struct Batch<F> {
    pub done: i64,
    /// The users whose wraps do not open, and why.
    pub failed: Vec<(String, F)>,
    /// Where the next batch goes on; None if this was the last of its table.
    pub last: Option<Position>,
}

/// Replaces the next wraps of a table, in the order of their users and versions, that are not under that KEK in the newest format by
/// what `renew` makes of each, with that KEK. Leaves out those that others have locked, or change meanwhile. What was
/// done before an error of `renew` is for the caller to undo. Only in maintenance.
pub fn rewrap<F, E>(
    table: Table,
    after: &Position,
    kek_id: &str,
    limit: i32,
    mut renew: impl FnMut(&StoredWrap<'_>) -> Result<Renewal<F>, E>,
) -> Result<Batch<F>, E> {
    match sweep(table, after, kek_id, limit, &mut renew) {
        Some(batch) => batch,
        None => rewrap_by_statements(table, after, kek_id, limit, &mut renew),
    }
}

/// The same past the executor. None, and nothing done, where that must not be.
fn sweep<F, E>(
    table: Table,
    after: &Position,
    kek_id: &str,
    limit: i32,
    mut renew: impl FnMut(&StoredWrap<'_>) -> Result<Renewal<F>, E>,
) -> Option<Result<Batch<F>, E>> {
    let sweep = match table {
        Table::Vaults => &SWEEP_VAULTS,
        Table::OldKeys => &SWEEP_OLD_KEYS,
        Table::DatabaseKeys => return None,
    };
    let (mut failed, mut last) = (Vec::new(), Position::default());
    let look = |row: &Row<'_, 6>| {
        let Some(old) = swept_wrap(table.kind(), row) else { return Ok(Next::Pass) };
        let is_after = (old.user_id, old.key_version) > (&after.user_id, after.key_version);
        if !is_after || (old.kek_id == kek_id && old.format_version == FORMAT_2) {
            return Ok(Next::Pass);
        }
        last.user_id.clear();
        last.user_id.push_str(old.user_id);
        last.key_version = old.key_version;
        Ok(match renew(&old)? {
            Renewal::Renewed(wrap) => Next::Change([
                wrap.wrapped_mk().into_datum(),
                wrap.wrap_iv().into_datum(),
                FORMAT_2.into_datum(),
                kek_id.into_datum(),
            ]),
            Renewal::Later => Next::Keep,
            Renewal::Failed(why) => {
                // Where somebody else is at it, it may open when he has finished.
                if row.lock() {
                    failed.push((old.user_id.to_owned(), why));
                }
                Next::Keep
            }
        })
    };
    let swept = sweep.with(|sweep| sweep.run(&after.user_id, limit as u64, look))?;
    Some(swept.map(|swept| Batch { done: swept.changed as i64, failed, last: swept.is_full.then_some(last) }))
}

fn swept_wrap<'a>(kind: Kind, row: &'a Row<'_, 6>) -> Option<StoredWrap<'a>> {
    Some(StoredWrap {
        kind,
        user_id: row.text(0)?,
        key_version: row.get(1)?,
        wrapped_mk: row.text(2)?,
        wrap_iv: row.text(3)?,
        format_version: row.get(4)?,
        kek_id: row.text(5)?,
    })
}

/// The same with SQL: locks the rows, and updates those that are still as they were read. On many nodes nothing is locked.
fn rewrap_by_statements<F, E>(
    table: Table,
    after: &Position,
    kek_id: &str,
    limit: i32,
    renew: impl FnMut(&StoredWrap<'_>) -> Result<Renewal<F>, E>,
) -> Result<Batch<F>, E> {
    let args = [Arg::Text(&after.user_id), Arg::Int4(after.key_version), Arg::Text(kek_id), Arg::Int4(limit)];
    let has_nodes = catalog::has_nodes();
    let place = |rows: &Rows, row| if has_nodes { Some(None) } else { rows.tid(row, 6).map(Some) };
    let found = |rows: &Rows| {
        let found = rows.collect(|row| Some((stored_wrap(table.kind(), rows, row)?, place(rows, row)?)));
        renew_found(table, kek_id, limit, &found, renew)
    };
    table.with(|of| if has_nodes { &of.page_to_rewrap } else { &of.lock_to_rewrap }.run(&args, found))
}

/// A wrap, and where its row is, if it is locked there.
type FoundWrap<'a> = (StoredWrap<'a>, Option<Tid>);

fn renew_found<F, E>(
    table: Table,
    kek_id: &str,
    limit: i32,
    found: &[FoundWrap<'_>],
    mut renew: impl FnMut(&StoredWrap<'_>) -> Result<Renewal<F>, E>,
) -> Result<Batch<F>, E> {
    let (mut failed, mut renewed) = (Vec::new(), Vec::with_capacity(found.len()));
    for old in found {
        match renew(&old.0)? {
            Renewal::Renewed(wrap) => renewed.push((old, wrap)),
            Renewal::Later => {}
            Renewal::Failed(why) => failed.push((old.0.user_id.to_owned(), why)),
        }
    }
    let done = replace(table, kek_id, &renewed);
    let position =
        |(last, _): &FoundWrap<'_>| Position { user_id: last.user_id.to_owned(), key_version: last.key_version };
    Ok(Batch { done, failed, last: found.last().filter(|_| found.len() == limit as usize).map(position) })
}

/// Replaces wraps where the row is still as it was read, and says in how many.
fn replace(table: Table, kek_id: &str, renewed: &[(&FoundWrap<'_>, Wrap)]) -> i64 {
    let places: Option<Vec<_>> = renewed.iter().map(|((_, place), _)| *place).collect();
    let Some(places) = places else {
        return renewed.iter().map(|((old, _), wrap)| replace_one(table, kek_id, old, wrap)).sum();
    };
    let args = [
        Arg::Text(kek_id),
        Arg::TidArray(&places),
        Arg::TextArray(&renewed.iter().map(|((old, _), _)| old.wrapped_mk).collect::<Vec<_>>()),
        Arg::TextArray(&renewed.iter().map(|(_, wrap)| wrap.wrapped_mk()).collect::<Vec<_>>()),
        Arg::TextArray(&renewed.iter().map(|(_, wrap)| wrap.wrap_iv()).collect::<Vec<_>>()),
    ];
    table.with(|of| of.rewrap.run(&args, Rows::count)) as i64
}

fn replace_one(table: Table, kek_id: &str, old: &StoredWrap<'_>, wrap: &Wrap) -> i64 {
    let args = [
        Arg::Text(old.user_id),
        Arg::Int4(old.key_version),
        Arg::Text(old.wrapped_mk),
        Arg::Text(wrap.wrapped_mk()),
        Arg::Text(wrap.wrap_iv()),
        Arg::Text(kek_id),
    ];
    table.with(|of| of.rewrap_one.run(&args, Rows::count)) as i64
}
