//! The table of old keys: what a rotation has replaced and a user may still open.

use vault_core::crypto::wrap::{Kind, StoredWrap};

use super::vaults::{NewWrap, Vault};
use super::{catalog, maintenance};
use crate::pg::session;
use crate::pg::spi::{Arg, Rows, Statement, Tid};

/// What an old version of a key is good for (NIST SP 800-57 part 1, 7.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Opens what it has encrypted and encrypts nothing new.
    DecryptOnly,
    /// Closed until it is restored.
    Disabled,
    /// Closed, and destroyed when its time has come.
    DestroyScheduled,
    /// The wrap is gone.
    Destroyed,
}

impl State {
    const ALL: [Self; 4] = [Self::DecryptOnly, Self::Disabled, Self::DestroyScheduled, Self::Destroyed];

    /// The text of the column `state`.
    pub fn name(self) -> &'static str {
        match self {
            Self::DecryptOnly => "decrypt_only",
            Self::Disabled => "disabled",
            Self::DestroyScheduled => "destroy_scheduled",
            Self::Destroyed => "destroyed",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// An old version of a user's key.
pub struct OldKey {
    /// Without a wrap once it is destroyed.
    pub key: StoredKey,
    pub state: State,
    /// Microseconds since 2000-01-01 00:00 UTC, like the two others.
    pub superseded_at: i64,
    pub destroy_after: Option<i64>,
    pub destroyed_at: Option<i64>,
}

/// A version's wrap, if there is one, and what it is bound to beside the user.
pub struct StoredKey {
    /// The wrap and its nonce.
    pub wrap: Option<(String, String)>,
    pub format_version: i16,
    pub kek_id: String,
    pub key_version: i32,
}

impl StoredKey {
    /// The wrap, if there is one.
    pub fn stored<'a>(&'a self, user_id: &'a str) -> Option<StoredWrap<'a>> {
        let (wrapped_mk, wrap_iv) = self.wrap.as_ref()?;
        Some(StoredWrap {
            kind: Kind::MasterKey,
            user_id,
            wrapped_mk,
            wrap_iv,
            format_version: self.format_version,
            kek_id: &self.kek_id,
            key_version: self.key_version,
        })
    }
}

macro_rules! columns {
    () => {
        "key_version, state, format_version, kek_id, wrapped_mk, wrap_iv, superseded_at, destroy_after, destroyed_at"
    };
}

thread_local! {
    static INSERT: Statement = const { Statement::planned_once(
        "INSERT INTO vault_ext.old_keys (user_id, key_version, wrapped_mk, wrap_iv, format_version, kek_id, state, superseded_at, \
            destroy_after, destroyed_at) \
         VALUES ($1, $2, $3, $4, $5::pg_catalog.int2, $6, $7, $9, $8, $10)"
    ) };
    static FIND: Statement = const { Statement::planned_once(concat!(
        "SELECT ", columns!(), " FROM vault_ext.old_keys \
         WHERE user_id OPERATOR(pg_catalog.=) $1 AND key_version OPERATOR(pg_catalog.=) $2"
    )) };
    static LOCK: Statement = const { Statement::planned_once(concat!(
        "SELECT ", columns!(), " FROM vault_ext.old_keys \
         WHERE user_id OPERATOR(pg_catalog.=) $1 AND key_version OPERATOR(pg_catalog.=) $2 FOR UPDATE"
    )) };
    static LIST: Statement = const { Statement::planned_once(concat!(
        "SELECT ", columns!(), " FROM vault_ext.old_keys \
         WHERE user_id OPERATOR(pg_catalog.=) $1 ORDER BY key_version DESC"
    )) };
    static LOCK_ALL: Statement = const { Statement::planned_once(concat!(
        "SELECT ", columns!(), " FROM vault_ext.old_keys \
         WHERE user_id OPERATOR(pg_catalog.=) $1 ORDER BY key_version DESC FOR UPDATE"
    )) };
    static SET_STATE: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.old_keys SET state = $3, destroy_after = $4 \
         WHERE user_id OPERATOR(pg_catalog.=) $1 AND key_version OPERATOR(pg_catalog.=) $2 AND state OPERATOR(pg_catalog.<>) 'destroyed'"
    ) };
    // The current key of a vault that is to be erased goes with the vault, or stays with it.
    static LOCK_DUE: Statement = const { Statement::new(
        "SELECT o.user_id, o.key_version, o.kek_id, o.ctid FROM vault_ext.old_keys o \
         WHERE o.state OPERATOR(pg_catalog.=) 'destroy_scheduled' AND o.destroy_after OPERATOR(pg_catalog.<=) $1 \
         AND NOT EXISTS (SELECT FROM vault_ext.encryption_vaults v \
            WHERE v.user_id OPERATOR(pg_catalog.=) o.user_id AND v.key_version OPERATOR(pg_catalog.=) o.key_version) \
         ORDER BY o.destroy_after LIMIT $2 FOR UPDATE OF o SKIP LOCKED"
    ) };
    // The two for many nodes: each key is locked on its own afterwards.
    static LIST_DUE: Statement = const { Statement::new(
        "SELECT o.user_id, o.key_version, o.kek_id FROM vault_ext.old_keys o \
         LEFT JOIN vault_ext.encryption_vaults v ON v.user_id OPERATOR(pg_catalog.=) o.user_id AND v.key_version OPERATOR(pg_catalog.=) o.key_version \
         WHERE o.state OPERATOR(pg_catalog.=) 'destroy_scheduled' AND o.destroy_after OPERATOR(pg_catalog.<=) $1 AND v.user_id IS NULL \
         ORDER BY o.destroy_after, o.user_id, o.key_version LIMIT $2"
    ) };
    static DESTROY_ONE: Statement = const { Statement::new(
        "UPDATE vault_ext.old_keys SET state = 'destroyed', wrapped_mk = NULL, wrap_iv = NULL, destroyed_at = $3 \
         WHERE user_id OPERATOR(pg_catalog.=) $1 AND key_version OPERATOR(pg_catalog.=) $2 AND state OPERATOR(pg_catalog.=) 'destroy_scheduled'"
    ) };
    static DESTROY: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.old_keys AS o SET state = 'destroyed', wrapped_mk = NULL, wrap_iv = NULL, \
            destroyed_at = $2 \
         FROM (SELECT pg_catalog.unnest($1)) AS n (place) \
         WHERE o.ctid OPERATOR(pg_catalog.=) n.place AND o.state OPERATOR(pg_catalog.=) 'destroy_scheduled'"
    ) };
    static REMOVE: Statement = const { Statement::planned_once(
        "DELETE FROM vault_ext.old_keys WHERE user_id OPERATOR(pg_catalog.=) $1 AND key_version OPERATOR(pg_catalog.=) $2"
    ) };
    static ERASE: Statement = const { Statement::planned_once(
        "DELETE FROM vault_ext.old_keys WHERE user_id OPERATOR(pg_catalog.=) $1 RETURNING key_version, kek_id"
    ) };
    static RENAME: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.old_keys SET user_id = $2, wrapped_mk = $4, wrap_iv = $5, \
            format_version = CASE WHEN $4 IS NULL THEN format_version ELSE 2 END, kek_id = $6 \
         WHERE user_id OPERATOR(pg_catalog.=) $1 AND key_version OPERATOR(pg_catalog.=) $3"
    ) };
}

fn old_key(rows: &Rows, row: u64) -> Option<OldKey> {
    Some(OldKey {
        key: StoredKey {
            wrap: rows.get(row, 4).zip(rows.get(row, 5)),
            format_version: rows.get(row, 2)?,
            kek_id: rows.get(row, 3)?,
            key_version: rows.get(row, 0)?,
        },
        state: State::from_name(rows.text(row, 1)?)?,
        superseded_at: rows.get(row, 6)?,
        destroy_after: rows.get(row, 7),
        destroyed_at: rows.get(row, 8),
    })
}

fn first(rows: &Rows) -> Option<OldKey> {
    if rows.count() == 0 { None } else { old_key(rows, 0) }
}

fn args<'a>(user: &'a str, key_version: i32) -> [Arg<'a>; 2] {
    [Arg::Text(user), Arg::Int4(key_version)]
}

/// Keeps the wrap of a vault as an old key. `destroy_after` (microseconds since 2000-01-01 00:00 UTC) goes with the state
/// `DestroyScheduled`. In the state `Destroyed` only the version is kept.
pub fn insert(user: &str, old: &Vault, state: State, destroy_after: Option<i64>) {
    let (wrap, now) = ((state != State::Destroyed).then_some(old), session::now());
    let args = [
        Arg::Text(user),
        Arg::Int4(old.key_version),
        Arg::MaybeText(wrap.map(|old| old.wrapped_mk.as_str())),
        Arg::MaybeText(wrap.map(|old| old.wrap_iv.as_str())),
        Arg::Int4(old.format_version.into()),
        Arg::Text(&old.kek_id),
        Arg::Text(state.name()),
        Arg::MaybeTimestamp(destroy_after),
        Arg::Timestamp(now),
        Arg::MaybeTimestamp((state == State::Destroyed).then_some(now)),
    ];
    INSERT.with(|statement| statement.run(&args, |_| ()));
}

/// One old version of a user's key.
pub fn find(user: &str, key_version: i32) -> Option<OldKey> {
    FIND.with(|statement| statement.run(&args(user, key_version), first))
}

/// The same, locked until the transaction ends.
pub fn lock(user: &str, key_version: i32) -> Option<OldKey> {
    LOCK.with(|statement| statement.run(&args(user, key_version), first))
}

/// All old versions of a user's key, the newest first.
pub fn list(user: &str) -> Vec<OldKey> {
    LIST.with(|statement| statement.run(&[Arg::Text(user)], |rows| rows.collect(|row| old_key(rows, row))))
}

/// The same, locked until the transaction ends.
pub fn lock_all(user: &str) -> Vec<OldKey> {
    LOCK_ALL.with(|statement| statement.run(&[Arg::Text(user)], |rows| rows.collect(|row| old_key(rows, row))))
}

/// Changes the state of a version that is not destroyed. False if there is none.
pub fn set_state(user: &str, key_version: i32, state: State, destroy_after: Option<i64>) -> bool {
    let args = [Arg::Text(user), Arg::Int4(key_version), Arg::Text(state.name()), Arg::MaybeTimestamp(destroy_after)];
    SET_STATE.with(|statement| statement.run(&args, Rows::count)) == 1
}

/// A version whose time has come, locked until the transaction ends.
pub struct DueKey {
    pub user_id: String,
    pub key_version: i32,
    pub kek_id: String,
    /// None on many nodes.
    place: Option<Tid>,
}

/// The next versions that were to be destroyed by that time, in microseconds since 2000-01-01 00:00 UTC. Those that others have
/// locked are left out: they may be about to be restored. Only in maintenance.
pub fn lock_due(now: i64, limit: i32) -> Vec<DueKey> {
    let has_nodes = catalog::has_nodes();
    let due = |rows: &Rows, row| {
        Some(DueKey {
            user_id: rows.get(row, 0)?,
            key_version: rows.get(row, 1)?,
            kek_id: rows.get(row, 2)?,
            place: if has_nodes { None } else { Some(rows.tid(row, 3)?) },
        })
    };
    let args = [Arg::Timestamp(now), Arg::Int4(limit)];
    if has_nodes {
        let mut listed = LIST_DUE.with(|statement| statement.run(&args, |rows| rows.collect(|row| due(rows, row))));
        listed.retain(|key: &DueKey| {
            let locked = lock(&key.user_id, key.key_version);
            locked.is_some_and(|old| {
                old.state == State::DestroyScheduled && old.destroy_after.is_some_and(|at| at <= now)
            })
        });
        return listed;
    }
    LOCK_DUE.with(|statement| statement.run(&args, |rows| rows.collect(|row| due(rows, row))))
}

/// Destroys the wraps of locked versions, keeps the rest, and says how many they were. Only in maintenance.
pub fn destroy(due: &[DueKey]) -> usize {
    let places: Option<Vec<_>> = due.iter().map(|key| key.place).collect();
    let Some(places) = places else {
        let one = |key: &DueKey| {
            let args = [Arg::Text(&key.user_id), Arg::Int4(key.key_version), Arg::Timestamp(session::now())];
            DESTROY_ONE.with(|statement| statement.run(&args, Rows::count)) as usize
        };
        return due.iter().map(one).sum();
    };
    DESTROY.with(|statement| statement.run(&[Arg::TidArray(&places), Arg::Timestamp(session::now())], Rows::count))
        as usize
}

/// Removes the row of a version whose wrap is the current one again. Only in maintenance.
pub fn remove(user: &str, key_version: i32) -> bool {
    REMOVE.with(|statement| statement.run(&args(user, key_version), Rows::count)) == 1
}

/// Deletes all old keys of a user, and gives the version and the KEK of each. Only in maintenance.
pub fn erase(user: &str) -> Vec<(i32, String)> {
    let erased = |rows: &Rows| rows.collect(|row| Some((rows.get(row, 0)?, rows.get(row, 1)?)));
    maintenance::run(|| ERASE.with(|statement| statement.run(&[Arg::Text(user)], erased)))
}

/// Gives an old version to another user, with the wrap that is bound to that one; without a wrap where it is destroyed. Only in
/// maintenance.
pub fn rename(old_user: &str, new_user: &str, old: &OldKey, new: Option<&NewWrap<'_>>) {
    let args = [
        Arg::Text(old_user),
        Arg::Text(new_user),
        Arg::Int4(old.key.key_version),
        Arg::MaybeText(new.map(|new| new.wrap.wrapped_mk())),
        Arg::MaybeText(new.map(|new| new.wrap.wrap_iv())),
        Arg::Text(new.map_or(&old.key.kek_id, |new| new.kek_id)),
    ];
    RENAME.with(|statement| statement.run(&args, |_| ()));
}
