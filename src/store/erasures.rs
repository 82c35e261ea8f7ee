//! The table of erasures: each end of a vault, scheduled, cancelled or done.

use super::{catalog, maintenance, vaults};
use crate::pg::session;
use crate::pg::spi::{Arg, Rows, Statement};

/// An erasure; all times in microseconds since 2000-01-01 00:00 UTC.
pub struct Erasure {
    pub id: i64,
    pub reason: String,
    pub scheduled_by: String,
    pub scheduled_at: i64,
    pub erase_after: i64,
    pub vault_created_at: i64,
    pub cancelled: Option<(String, i64)>,
    pub erased_at: Option<i64>,
    /// What the keys were wrapped under when they were erased.
    pub kek_ids: Vec<String>,
}

impl Erasure {
    /// Whether it is still to come.
    pub fn is_scheduled(&self) -> bool {
        self.cancelled.is_none() && self.erased_at.is_none()
    }
}

/// An erasure that is recorded, and why.
pub struct NewErasure<'a> {
    pub user: &'a str,
    pub reason: &'a str,
    /// The login.
    pub by: &'a str,
    /// Microseconds since 2000-01-01 00:00 UTC.
    pub vault_created_at: i64,
}

thread_local! {
    static SCHEDULE: Statement = const { Statement::planned_once(
        "INSERT INTO vault_ext.erasures (user_id, reason, scheduled_by, vault_created_at, erase_after) VALUES ($1, $2, $3, $4, $5)"
    ) };
    static ERASED_AT_ONCE: Statement = const { Statement::planned_once(
        "INSERT INTO vault_ext.erasures (user_id, reason, scheduled_by, vault_created_at, scheduled_at, erase_after, erased_at, kek_ids) \
         VALUES ($1, $2, $3, $4, $6, $6, $6, $5)"
    ) };
    static CANCEL: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.erasures SET cancelled_by = $2, cancelled_at = $3 \
         WHERE user_id OPERATOR(pg_catalog.=) $1 AND cancelled_at IS NULL AND erased_at IS NULL"
    ) };
    static FINISH: Statement = const { Statement::planned_once(
        "UPDATE vault_ext.erasures SET erased_at = $3, kek_ids = $2 \
         WHERE user_id OPERATOR(pg_catalog.=) $1 AND cancelled_at IS NULL AND erased_at IS NULL"
    ) };
    static LIST: Statement = const { Statement::new(
        "SELECT id, reason, scheduled_by, scheduled_at, erase_after, vault_created_at, cancelled_by, cancelled_at, erased_at, kek_ids \
         FROM vault_ext.erasures WHERE user_id OPERATOR(pg_catalog.=) $1 ORDER BY id DESC"
    ) };
    static LAST_ERASED: Statement = const { Statement::planned_once(
        "SELECT pg_catalog.max(erased_at) FROM vault_ext.erasures WHERE user_id OPERATOR(pg_catalog.=) $1"
    ) };
    // The wrap of the current key is among the old ones meanwhile, and may have been rewrapped there.
    static LOCK_DUE: Statement = const { Statement::new(
        "SELECT v.user_id, v.key_version, COALESCE(o.kek_id, v.kek_id) FROM vault_ext.erasures e \
         JOIN vault_ext.encryption_vaults v ON v.user_id OPERATOR(pg_catalog.=) e.user_id \
         LEFT JOIN vault_ext.old_keys o ON o.user_id OPERATOR(pg_catalog.=) v.user_id AND o.key_version OPERATOR(pg_catalog.=) v.key_version \
         WHERE e.erase_after OPERATOR(pg_catalog.<=) $1 AND e.cancelled_at IS NULL AND e.erased_at IS NULL \
         AND v.erase_after OPERATOR(pg_catalog.<=) $1 \
         ORDER BY e.erase_after LIMIT $2 FOR UPDATE OF v SKIP LOCKED"
    ) };
    // The same for many nodes: each vault is locked on its own afterwards.
    static LIST_DUE: Statement = const { Statement::new(
        "SELECT v.user_id, v.key_version, COALESCE(o.kek_id, v.kek_id) FROM vault_ext.erasures e \
         JOIN vault_ext.encryption_vaults v ON v.user_id OPERATOR(pg_catalog.=) e.user_id \
         LEFT JOIN vault_ext.old_keys o ON o.user_id OPERATOR(pg_catalog.=) v.user_id AND o.key_version OPERATOR(pg_catalog.=) v.key_version \
         WHERE e.erase_after OPERATOR(pg_catalog.<=) $1 AND e.cancelled_at IS NULL AND e.erased_at IS NULL \
         AND v.erase_after OPERATOR(pg_catalog.<=) $1 \
         ORDER BY e.erase_after, v.user_id LIMIT $2"
    ) };
    static KEKS: Statement = const { Statement::new(
        "SELECT w.kek_id, k.first_seen, k.retired_at FROM ( \
            SELECT kek_id FROM vault_ext.keks \
            WHERE first_seen OPERATOR(pg_catalog.<=) $3 AND (retired_at IS NULL OR retired_at OPERATOR(pg_catalog.>=) $2) \
            UNION SELECT pg_catalog.unnest($4) \
            UNION SELECT kek_id FROM vault_ext.encryption_vault_audit \
            WHERE user_id OPERATOR(pg_catalog.=) $1 AND kek_id IS NOT NULL \
            AND created_at OPERATOR(pg_catalog.>=) $2 AND created_at OPERATOR(pg_catalog.<=) $3) w (kek_id) \
         LEFT JOIN vault_ext.keks k ON k.kek_id OPERATOR(pg_catalog.=) w.kek_id \
         ORDER BY k.first_seen, w.kek_id"
    ) };
    static KEKS_NOW: Statement = const { Statement::new(
        "SELECT kek_id FROM vault_ext.encryption_vaults WHERE user_id OPERATOR(pg_catalog.=) $1 \
         UNION SELECT kek_id FROM vault_ext.old_keys WHERE user_id OPERATOR(pg_catalog.=) $1"
    ) };
}

/// Records that a vault is to be erased after that time, in microseconds since 2000-01-01 00:00 UTC. In maintenance.
pub fn schedule(new: &NewErasure<'_>, erase_after: i64) {
    let args = [
        Arg::Text(new.user),
        Arg::Text(new.reason),
        Arg::Text(new.by),
        Arg::Timestamp(new.vault_created_at),
        Arg::Timestamp(erase_after),
    ];
    SCHEDULE.with(|statement| statement.run(&args, |_| ()));
}

/// Records that a vault was erased without a wait. In maintenance.
pub fn record_at_once(new: &NewErasure<'_>, kek_ids: &[&str]) {
    let args = [
        Arg::Text(new.user),
        Arg::Text(new.reason),
        Arg::Text(new.by),
        Arg::Timestamp(new.vault_created_at),
        Arg::TextArray(kek_ids),
        Arg::Timestamp(session::now()),
    ];
    ERASED_AT_ONCE.with(|statement| statement.run(&args, |_| ()));
}

/// Records that the scheduled erasure of a user does not happen. In maintenance.
pub fn cancel(user: &str, by: &str) {
    CANCEL.with(|statement| statement.run(&[Arg::Text(user), Arg::Text(by), Arg::Timestamp(session::now())], |_| ()));
}

/// Records that the scheduled erasure of a user, if there is one, has happened. In maintenance.
pub fn finish(user: &str, kek_ids: &[&str]) {
    let args = [Arg::Text(user), Arg::TextArray(kek_ids), Arg::Timestamp(session::now())];
    FINISH.with(|statement| statement.run(&args, |_| ()));
}

fn erasure(rows: &Rows, row: u64) -> Option<Erasure> {
    Some(Erasure {
        id: rows.get(row, 0)?,
        reason: rows.get(row, 1)?,
        scheduled_by: rows.get(row, 2)?,
        scheduled_at: rows.get(row, 3)?,
        erase_after: rows.get(row, 4)?,
        vault_created_at: rows.get(row, 5)?,
        cancelled: rows.get(row, 6).zip(rows.get(row, 7)),
        erased_at: rows.get(row, 8),
        kek_ids: rows.get(row, 9).unwrap_or_default(),
    })
}

/// The erasures of a user, the newest first.
pub fn list(user: &str) -> Vec<Erasure> {
    let list = |rows: &Rows| rows.collect(|row| erasure(rows, row));
    maintenance::run(|| LIST.with(|statement| statement.run(&[Arg::Text(user)], list)))
}

/// When a vault of that user was erased last, in microseconds since 2000-01-01 00:00 UTC. In maintenance.
pub fn last_erased(user: &str) -> Option<i64> {
    LAST_ERASED.with(|statement| statement.run(&[Arg::Text(user)], |rows| rows.get(0, 0)))
}

/// A vault whose time has come, locked until the transaction ends.
pub struct DueVault {
    pub user_id: String,
    pub key_version: i32,
    pub kek_id: String,
}

/// The next vaults that were to be erased by that time, in microseconds since 2000-01-01 00:00 UTC. Those that others have
/// locked are left out: their erasure may be about to be cancelled. In maintenance.
pub fn lock_due(now: i64, limit: i32) -> Vec<DueVault> {
    let due = |rows: &Rows, row| {
        Some(DueVault { user_id: rows.get(row, 0)?, key_version: rows.get(row, 1)?, kek_id: rows.get(row, 2)? })
    };
    let args = [Arg::Timestamp(now), Arg::Int4(limit)];
    if catalog::has_nodes() {
        let mut listed = LIST_DUE.with(|statement| statement.run(&args, |rows| rows.collect(|row| due(rows, row))));
        listed.retain(|vault: &DueVault| {
            let locked = vaults::lock_recovery(&vault.user_id);
            locked.is_some_and(|locked| {
                locked.erase_after.is_some_and(|at| at <= now) && locked.key_version == vault.key_version
            })
        });
        return listed;
    }
    LOCK_DUE.with(|statement| statement.run(&args, |rows| rows.collect(|row| due(rows, row))))
}

/// A KEK that may have wrapped a user's keys. A database knows no times of one that only opened rows from elsewhere.
pub struct Kek {
    pub kek_id: String,
    /// Microseconds since 2000-01-01 00:00 UTC, like the other one.
    pub first_seen: Option<i64>,
    pub retired_at: Option<i64>,
}

/// Every KEK that may have wrapped the keys of an erasure: what this database knew between the creation of the vault and its
/// end, what the keys were under at the end or are under now, and what the trail names.
pub fn keks(user: &str, erasure: &Erasure, now: i64) -> Vec<Kek> {
    let end = erasure.erased_at.or(erasure.cancelled.as_ref().map(|(_, at)| *at)).unwrap_or(now);
    maintenance::run(|| {
        let at_present: Vec<String> = if erasure.is_scheduled() {
            let kek_ids = |rows: &Rows| rows.collect(|row| rows.get(row, 0));
            KEKS_NOW.with(|statement| statement.run(&[Arg::Text(user)], kek_ids))
        } else {
            Vec::new()
        };
        let named: Vec<_> = erasure.kek_ids.iter().chain(&at_present).map(String::as_str).collect();
        let args =
            [Arg::Text(user), Arg::Timestamp(erasure.vault_created_at), Arg::Timestamp(end), Arg::TextArray(&named)];
        let kek = |rows: &Rows, row| {
            Some(Kek { kek_id: rows.get(row, 0)?, first_seen: rows.get(row, 1), retired_at: rows.get(row, 2) })
        };
        KEKS.with(|statement| statement.run(&args, |rows| rows.collect(|row| kek(rows, row))))
    })
}
