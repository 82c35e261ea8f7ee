//! The audit trail's table.

use pgrx::datum::{Interval, TimestampWithTimeZone};
use vault_trail::Hash;
use vault_trail::leaf::{Leaf, OldPersonal, OldRow, Personal};
use vault_trail::verify::Row;

use super::{SCHEMA, maintenance};
use crate::pg::bulk::{Bulk, Values};
use crate::pg::spi::{Arg, Rows, Statement};
use crate::pg::table::{Access, Table, Type};

/// The number of columns that the audit writer fills.
pub const COLUMNS: usize = 22;

/// The trail with its tree.
const TRAIL: Table<COLUMNS> = Table {
    schema: SCHEMA,
    name: c"encryption_vault_audit",
    policies: &[c"encryption_vault_audit_writer"],
    access: Access::Insert,
    columns: [
        (c"user_id", Type::Text),
        (c"action", Type::Text),
        (c"status", Type::Int4),
        (c"kek_id", Type::Text),
        (c"key_version", Type::Int4),
        (c"db_role", Type::Text),
        (c"ip_address", Type::Text),
        (c"user_agent", Type::Text),
        (c"request_id", Type::Text),
        (c"context", Type::Text),
        (c"created_at", Type::Timestamp),
        (c"identity", Type::Text),
        (c"issuer", Type::Text),
        (c"token_id", Type::Text),
        (c"token_kid", Type::Text),
        (c"actor", Type::Text),
        (c"grant_id", Type::Int8),
        (c"login_role", Type::Text),
        (c"application_name", Type::Text),
        (c"leaf", Type::Int8),
        (c"leaf_hash", Type::Bytes),
        (c"salt", Type::Bytes),
    ],
};

thread_local! {
    static AUDIT: Bulk<COLUMNS> = const { Bulk::new(TRAIL, c"id") };
    static INSERT_AUDIT: Statement = const { Statement::new(
        "INSERT INTO vault_ext.encryption_vault_audit (user_id, action, status, kek_id, key_version, db_role, \
         ip_address, user_agent, request_id, context, created_at, \
         identity, issuer, token_id, token_kid, actor, grant_id, \
         login_role, application_name, leaf, leaf_hash, salt) \
         SELECT * FROM vault_ext.audit_batch()"
    ) };
    // For the SQL of 0.2.0 and older, until ALTER EXTENSION vault_ext UPDATE has run.
    static INSERT_AUDIT_WITHOUT_TREE: Statement = const { Statement::new(
        "INSERT INTO vault_ext.encryption_vault_audit (user_id, action, status, kek_id, key_version, db_role, \
         ip_address, user_agent, request_id, context, created_at) \
         SELECT * FROM vault_ext.audit_batch()"
    ) };
    static LEAF_OF: Statement = const { Statement::new(
        "SELECT leaf FROM vault_ext.encryption_vault_audit WHERE id OPERATOR(pg_catalog.=) $1"
    ) };
    // Rows that are older than the tree. Before ALTER EXTENSION vault_ext UPDATE adds the columns of the tree, all rows are.
    static OLD_ROWS: Statement = const { Statement::new(
        "SELECT id, created_at, action, status, kek_id, key_version, db_role, user_id, ip_address, user_agent, request_id, context \
         FROM vault_ext.encryption_vault_audit WHERE id OPERATOR(pg_catalog.>) $1 ORDER BY id"
    ) };
    static ROWS_WITHOUT_LEAF: Statement = const { Statement::new(
        "SELECT id, created_at, action, status, kek_id, key_version, db_role, user_id, ip_address, user_agent, request_id, context \
         FROM vault_ext.encryption_vault_audit WHERE id OPERATOR(pg_catalog.>) $1 AND leaf IS NULL ORDER BY id"
    ) };
    static EVERY_ROW: Statement = const { Statement::new(
        "SELECT id, leaf, leaf_hash, salt, redacted_digest, created_at, action, status, kek_id, key_version, db_role, login_role, identity, \
            issuer, token_kid, grant_id, user_id, ip_address, user_agent, request_id, context, application_name, token_id, actor \
         FROM vault_ext.encryption_vault_audit ORDER BY id"
    ) };
    static COUNT_UP_TO: Statement = const { Statement::new(
        "SELECT pg_catalog.count(*) FROM vault_ext.encryption_vault_audit WHERE id OPERATOR(pg_catalog.<=) $1"
    ) };
    static PURGE_AUDIT: Statement = const { Statement::new(
        "DELETE FROM vault_ext.encryption_vault_audit \
         WHERE created_at OPERATOR(pg_catalog.<) (pg_catalog.now() OPERATOR(pg_catalog.-) $1)"
    ) };
    // The rows that a purge takes: those of grants that can be used stay, since they count the uses, and those that explain to a verifier what
    // is missing. The first number is that of the rows of the
    // tree; the last, that of the rows that are older.
    static DUE: Statement = const { Statement::new(
        "SELECT pg_catalog.count(d.leaf), pg_catalog.min(d.leaf), pg_catalog.max(d.leaf), pg_catalog.max(d.id), \
            pg_catalog.count(*) OPERATOR(pg_catalog.-) pg_catalog.count(d.leaf) \
         FROM (SELECT a.id, a.leaf FROM vault_ext.encryption_vault_audit a \
            WHERE a.created_at OPERATOR(pg_catalog.<) $1 AND a.id OPERATOR(pg_catalog.>) $2 \
            AND a.action OPERATOR(pg_catalog.<>) ALL ('{purge,redact,old_rows,new_trail}'::pg_catalog.text[]) \
            AND NOT EXISTS (SELECT FROM vault_ext.grants g WHERE g.id OPERATOR(pg_catalog.=) a.grant_id \
                AND g.expires_at OPERATOR(pg_catalog.>) pg_catalog.now()) \
            ORDER BY a.id LIMIT $3) d"
    ) };
    static KEEP_HASHES: Statement = const { Statement::new(
        "INSERT INTO vault_ext.audit_tiles (level, index, hashes) \
         SELECT -1, a.leaf, a.leaf_hash FROM vault_ext.encryption_vault_audit a \
         WHERE a.created_at OPERATOR(pg_catalog.<) $1 AND a.id OPERATOR(pg_catalog.>) $2 AND a.id OPERATOR(pg_catalog.<=) $3 \
         AND a.leaf OPERATOR(pg_catalog.>=) $4 AND a.action OPERATOR(pg_catalog.<>) ALL ('{purge,redact,old_rows,new_trail}'::pg_catalog.text[]) \
            AND NOT EXISTS (SELECT FROM vault_ext.grants g WHERE g.id OPERATOR(pg_catalog.=) a.grant_id \
            AND g.expires_at OPERATOR(pg_catalog.>) pg_catalog.now()) \
         ON CONFLICT (level, index) DO NOTHING"
    ) };
    static FORGET_HASHES: Statement = const { Statement::new(
        "DELETE FROM vault_ext.audit_tiles WHERE level OPERATOR(pg_catalog.<) 0::pg_catalog.int2 AND index OPERATOR(pg_catalog.<) $1"
    ) };
    static DELETE_DUE: Statement = const { Statement::new(
        "DELETE FROM vault_ext.encryption_vault_audit a \
         WHERE a.created_at OPERATOR(pg_catalog.<) $1 AND a.id OPERATOR(pg_catalog.>) $2 AND a.id OPERATOR(pg_catalog.<=) $3 \
         AND a.action OPERATOR(pg_catalog.<>) ALL ('{purge,redact,old_rows,new_trail}'::pg_catalog.text[]) \
            AND NOT EXISTS (SELECT FROM vault_ext.grants g WHERE g.id OPERATOR(pg_catalog.=) a.grant_id \
            AND g.expires_at OPERATOR(pg_catalog.>) pg_catalog.now())"
    ) };
    static CUTOFF: Statement = const { Statement::new("SELECT pg_catalog.now() OPERATOR(pg_catalog.-) $1") };
    // A renaming names the other user in its context.
    static PERSONAL: Statement = const { Statement::new(
        "SELECT id, leaf, salt, user_id, ip_address, user_agent, request_id, context, application_name, token_id, actor \
         FROM vault_ext.encryption_vault_audit \
         WHERE (user_id OPERATOR(pg_catalog.=) $1 OR action OPERATOR(pg_catalog.=) 'rename' \
            AND context OPERATOR(pg_catalog.=) ANY (ARRAY[$2, $3])) AND redacted_digest IS NULL \
         ORDER BY id FOR UPDATE"
    ) };
    static REDACT: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.encryption_vault_audit SET user_id = NULL, ip_address = NULL, user_agent = NULL, request_id = NULL, \
            context = NULL, application_name = NULL, token_id = NULL, actor = NULL, salt = NULL, redacted_digest = $2 \
         WHERE id OPERATOR(pg_catalog.=) $1"
    ) };
}

/// Inserts the batch that the audit writer holds (`writer::batch`) and says how many rows that were. Only in the audit
/// writer does the policy let it.
///
/// `has_tree`: whether the table has the columns of the tree, and those that say what established the user. `batch` puts the rows
/// where the table is as CREATE EXTENSION made it; everywhere else a statement asks for them.
pub fn insert_audit_batch(has_tree: bool, batch: impl FnOnce(&mut dyn FnMut(Values<COLUMNS>))) -> u64 {
    if has_tree && let Some(inserted) = AUDIT.with(|audit| audit.insert(batch)) {
        return inserted;
    }
    let statement = if has_tree { &INSERT_AUDIT } else { &INSERT_AUDIT_WITHOUT_TREE };
    statement.with(|statement| statement.run(&[], Rows::count))
}

/// Deletes audit rows older than that and says how many, in a database whose SQL is older than the tree. Only in maintenance does the
/// policy let it.
pub fn purge_without_tree(older_than: Interval) -> u64 {
    maintenance::run(|| PURGE_AUDIT.with(|statement| statement.run(&[Arg::Interval(older_than)], Rows::count)))
}

/// The time so long ago, in microseconds since 2000-01-01 00:00 UTC.
pub fn cutoff(older_than: Interval) -> i64 {
    CUTOFF.with(|statement| {
        statement.run(&[Arg::Interval(older_than)], |rows| {
            rows.get::<TimestampWithTimeZone>(0, 0).map_or(i64::MIN, i64::from)
        })
    })
}

/// Rows that a purge takes.
#[derive(Debug, Clone, Copy)]
pub struct Due {
    /// Rows older than this time, in microseconds since 2000-01-01 00:00 UTC, ...
    pub cutoff: i64,
    /// ... after this id, ...
    pub after: i64,
    /// ... up to this one.
    pub last_id: i64,
    /// The number of those in the tree, and the first and last leaf.
    pub rows: u64,
    pub leaves: Option<(u64, u64)>,
    /// The number of those that are older than the tree.
    pub old_rows: u64,
}

/// The next rows that a purge takes, at most `limit`. None if there are none.
pub fn due(cutoff: i64, after: i64, limit: Option<i32>) -> Option<Due> {
    let args = [Arg::Timestamp(cutoff), Arg::Int8(after), Arg::MaybeInt8(limit.map(i64::from))];
    maintenance::run(|| {
        DUE.with(|statement| {
            statement.run(&args, |rows| {
                let number = |column| rows.get::<i64>(0, column);
                let leaves = number(1).zip(number(2)).map(|(first, last)| (first as u64, last as u64));
                Some(Due {
                    cutoff,
                    after,
                    last_id: number(3)?,
                    rows: number(0)? as u64,
                    leaves,
                    old_rows: number(4)? as u64,
                })
            })
        })
    })
}

/// Deletes them and says how many there were. Their hashes stay in the tiles; `open_from` is the first leaf that is in none yet, and
/// from there on they are kept one by one.
pub fn purge(due: &Due, open_from: u64) -> u64 {
    let (cutoff, after, last, open) =
        (Arg::Timestamp(due.cutoff), Arg::Int8(due.after), Arg::Int8(due.last_id), Arg::Int8(open_from as i64));
    maintenance::run(|| {
        KEEP_HASHES.with(|statement| statement.run(&[cutoff, after, last, open], |_| ()));
        FORGET_HASHES.with(|statement| statement.run(&[open], |_| ()));
        DELETE_DUE.with(|statement| statement.run(&[cutoff, after, last], Rows::count))
    })
}

/// What a redaction takes from a row.
pub struct ToRedact {
    pub id: i64,
    pub leaf: Option<u64>,
    /// The hash that stays.
    pub digest: Hash,
}

/// Locks the rows that name a user, and gives what a redaction would leave of each. Rows that were redacted before are left out.
pub fn lock_personal(user: &str, renamed: [&str; 2]) -> Vec<ToRedact> {
    let args = [Arg::Text(user), Arg::Text(renamed[0]), Arg::Text(renamed[1])];
    maintenance::run(|| {
        PERSONAL.with(|statement| statement.run(&args, |rows| rows.collect(|row| to_redact(rows, row))))
    })
}

fn to_redact(rows: &Rows, row: u64) -> Option<ToRedact> {
    let text = |column| rows.text(row, column);
    let leaf = rows.get::<i64>(row, 1).and_then(|leaf| u64::try_from(leaf).ok());
    let (user_id, ip_address, user_agent, request_id, context) = (text(3), text(4), text(5), text(6), text(7));
    let digest = match rows.bytes(row, 2).and_then(|salt| salt.try_into().ok()) {
        Some(salt) => {
            let (application_name, token_id, actor) = (text(8), text(9), text(10));
            Personal { user_id, ip_address, user_agent, request_id, context, application_name, token_id, actor }
                .digest(salt)
        }
        None => OldPersonal { user_id, ip_address, user_agent, request_id, context }.digest(),
    };
    Some(ToRedact { id: rows.get(row, 0)?, leaf, digest })
}

/// Takes the personal fields from a row and leaves their hash.
pub fn redact(row: &ToRedact) {
    let args = [Arg::Int8(row.id), Arg::MaybeBytes(Some(&row.digest))];
    maintenance::run(|| REDACT.with(|statement| statement.run(&args, |_| ())));
}

/// A row's place in the tree: None if there is no such row, and Some(None) if it is older than the tree.
pub fn leaf_of(id: i64) -> Option<Option<u64>> {
    maintenance::run(|| {
        LEAF_OF.with(|statement| {
            statement.run(&[Arg::Int8(id)], |rows| {
                (rows.count() > 0).then(|| rows.get::<i64>(0, 0).and_then(|leaf| leaf.try_into().ok()))
            })
        })
    })
}

/// The number of rows with that id or a smaller one.
pub fn count_up_to(id: i64) -> u64 {
    maintenance::run(|| {
        COUNT_UP_TO.with(|statement| statement.run(&[Arg::Int8(id)], |rows| rows.get::<i64>(0, 0).unwrap_or(0) as u64))
    })
}

/// Shows the rows after an id as they were before the tree, in the order of their ids. `without_leaf`: only those that have no
/// place in it.
pub fn for_each_old_row(after: i64, without_leaf: bool, mut show: impl FnMut(&OldRow<'_>, &OldPersonal<'_>)) {
    let statement = if without_leaf { &ROWS_WITHOUT_LEAF } else { &OLD_ROWS };
    let mut read = |rows: &Rows| {
        for row in 0..rows.count() {
            let created_at: Option<TimestampWithTimeZone> = rows.get(row, 1);
            let old = OldRow {
                id: rows.get(row, 0).unwrap_or_default(),
                created_at: created_at.map_or(0, i64::from),
                action: rows.text(row, 2).unwrap_or_default(),
                status: rows.get(row, 3).unwrap_or_default(),
                kek_id: rows.text(row, 4),
                key_version: rows.get(row, 5),
                db_role: rows.text(row, 6).unwrap_or_default(),
            };
            let personal = OldPersonal {
                user_id: rows.text(row, 7),
                ip_address: rows.text(row, 8),
                user_agent: rows.text(row, 9),
                request_id: rows.text(row, 10),
                context: rows.text(row, 11),
            };
            show(&old, &personal);
        }
    };
    maintenance::run(|| statement.with(|statement| statement.scan(&[Arg::Int8(after)], &mut read)));
}

/// Shows every row in the order of the ids, under one snapshot and in flat memory.
pub fn for_each_row(mut show: impl FnMut(&Row<'_>)) {
    let mut read = |rows: &Rows| {
        for row in 0..rows.count() {
            let text = |column| rows.text(row, column);
            show(&Row {
                id: rows.get(row, 0).unwrap_or_default(),
                leaf: rows.get::<i64>(row, 1).and_then(|leaf| leaf.try_into().ok()),
                leaf_hash: rows.bytes(row, 2),
                salt: rows.bytes(row, 3),
                redacted_digest: rows.bytes(row, 4),
                fields: Leaf {
                    created_at: rows.get::<TimestampWithTimeZone>(row, 5).map_or(0, i64::from),
                    action: text(6).unwrap_or_default(),
                    status: rows.get(row, 7).unwrap_or_default(),
                    kek_id: text(8),
                    key_version: rows.get(row, 9),
                    db_role: text(10).unwrap_or_default(),
                    login_role: text(11),
                    identity: text(12),
                    issuer: text(13),
                    token_kid: text(14),
                    grant_id: rows.get(row, 15),
                },
                personal: Personal {
                    user_id: text(16),
                    ip_address: text(17),
                    user_agent: text(18),
                    request_id: text(19),
                    context: text(20),
                    application_name: text(21),
                    token_id: text(22),
                    actor: text(23),
                },
            });
        }
    };
    maintenance::run(|| EVERY_ROW.with(|statement| statement.scan(&[], &mut read)));
}
