//! The versions of a user's key.

use pgrx::datum::Interval;
use pgrx::prelude::*;

use super::or_raise;
use super::user::vault_key;
use crate::pg::composite::Row;
use crate::vault::versions;

/// key_version, state, format_version, kek_id, superseded_at, destroy_after, destroyed_at, the newest first. 28000.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of the result")]
fn vault_key_versions() -> TableIterator<
    'static,
    (
        name!(key_version, i32),
        name!(state, &'static str),
        name!(format_version, i16),
        name!(kek_id, String),
        name!(superseded_at, Option<TimestampWithTimeZone>),
        name!(destroy_after, Option<TimestampWithTimeZone>),
        name!(destroyed_at, Option<TimestampWithTimeZone>),
    ),
> {
    let time = |at: Option<i64>| at.and_then(|at| TimestampWithTimeZone::try_from(at).ok());
    TableIterator::new(or_raise(versions::list()).into_iter().map(move |version| {
        (
            version.key_version,
            version.state,
            version.format_version,
            version.kek_id,
            time(version.superseded_at),
            time(version.destroy_after),
            time(version.destroyed_at),
        )
    }))
}

/// One version of the user's key. P0002 if there never was one, 55000 if it is closed; 28000, 42501, XX001, 53400.
#[pg_extern(sql = false)]
fn vault_get_key_version(key_version: i32) -> Row<7> {
    vault_key(versions::get(key_version))
}

/// Closes an old version now and lets it be destroyed later: the time of that. 22023, 28000, 42501, 55000, P0002.
#[pg_extern(sql = false)]
fn vault_retire_key_version(key_version: i32, wait: Interval) -> Option<TimestampWithTimeZone> {
    let wait = i64::try_from(wait.as_micros()).unwrap_or(i64::MAX);
    TimestampWithTimeZone::try_from(or_raise(versions::retire(key_version, wait))).ok()
}

/// Closes an old version until it is restored; false if it was disabled. 28000, 42501, 55000, P0002.
#[pg_extern(sql = false)]
fn vault_disable_key_version(key_version: i32) -> bool {
    or_raise(versions::disable(key_version))
}

/// Opens an old version again; false if it is open. 28000, 42501, 55000, P0002.
#[pg_extern(sql = false)]
fn vault_restore_key_version(key_version: i32) -> bool {
    or_raise(versions::restore(key_version))
}
