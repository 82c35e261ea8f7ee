//! The table of KEKs that this database has seen, and what it has under each.

use pgrx::datum::Date;
use vault_core::audit::kek_registration::Known;
use vault_core::crypto::check::CheckValue;

use super::{catalog, maintenance};
use crate::pg::session;
use crate::pg::spi::{Arg, Rows, Statement};

/// What a database knows of a KEK.
pub struct KnownKek {
    check: Option<CheckValue>,
    retired: bool,
}

impl KnownKek {
    /// Whether it is the KEK with that check value, retired or not.
    pub fn is(&self, check: CheckValue) -> bool {
        self.check.is_none_or(|known| known == check)
    }

    pub fn compare(&self, check: CheckValue) -> Known {
        match self.check {
            Some(known) if known != check => Known::Other(known),
            _ if self.retired => Known::Retired,
            _ => Known::Same,
        }
    }
}

thread_local! {
    static KNOWN_KEK: Statement = const { Statement::planned_once(
        "SELECT check_value, retired_at IS NOT NULL FROM vault_ext.keks WHERE kek_id OPERATOR(pg_catalog.=) $1"
    ) };
    static REGISTER_KEK: Statement = const { Statement::new(
        "INSERT INTO vault_ext.keks (kek_id, check_value) VALUES ($1, $2) ON CONFLICT (kek_id) DO NOTHING"
    ) };
    static KEK_USAGE: Statement = const { Statement::new(
        "SELECT COALESCE(k.kek_id, v.kek_id), k.check_value, COALESCE(v.vaults, 0), v.oldest::pg_catalog.date, \
         k.first_seen::pg_catalog.date, k.retired_at::pg_catalog.date \
         FROM vault_ext.keks k FULL JOIN ( \
            SELECT kek_id, pg_catalog.count(*) AS vaults, pg_catalog.min(COALESCE(rotated_at, created_at)) AS oldest \
            FROM vault_ext.encryption_vaults GROUP BY kek_id) v ON v.kek_id OPERATOR(pg_catalog.=) k.kek_id \
         ORDER BY k.first_seen DESC, 1"
    ) };
    static KEK_USAGE_WITH_OLD_KEYS: Statement = const { Statement::new(
        "SELECT COALESCE(k.kek_id, u.kek_id), k.check_value, COALESCE(u.vaults, 0), u.oldest::pg_catalog.date, \
         k.first_seen::pg_catalog.date, k.retired_at::pg_catalog.date, COALESCE(u.old_keys, 0) \
         FROM vault_ext.keks k FULL JOIN ( \
            SELECT w.kek_id, pg_catalog.sum(w.vaults)::pg_catalog.int8 AS vaults, pg_catalog.sum(w.old_keys)::pg_catalog.int8 AS old_keys, \
                pg_catalog.min(w.oldest) AS oldest \
            FROM (SELECT kek_id, pg_catalog.count(*) AS vaults, 0 AS old_keys, pg_catalog.min(COALESCE(rotated_at, created_at)) AS oldest \
                FROM vault_ext.encryption_vaults WHERE wrapped_mk IS NOT NULL GROUP BY kek_id \
                UNION ALL \
                SELECT kek_id, 0, pg_catalog.count(*), pg_catalog.min(superseded_at) \
                FROM vault_ext.old_keys WHERE wrapped_mk IS NOT NULL GROUP BY kek_id \
                UNION ALL \
                SELECT kek_id, 0, pg_catalog.count(*), pg_catalog.min(created_at) \
                FROM vault_ext.database_keys GROUP BY kek_id) w \
            GROUP BY w.kek_id) u ON u.kek_id OPERATOR(pg_catalog.=) k.kek_id \
         ORDER BY k.first_seen DESC, 1"
    ) };
    static RETIRE_KEK: Statement = const { Statement::new(
        "UPDATE vault_ext.keks SET retired_at = $2 \
         WHERE kek_id OPERATOR(pg_catalog.=) $1 AND retired_at IS NULL"
    ) };
}

/// What this database knows of a KEK.
pub fn known_kek(kek_id: &str) -> Option<KnownKek> {
    KNOWN_KEK.with(|statement| {
        statement.run(&[Arg::Text(kek_id)], |rows| {
            (rows.count() > 0).then(|| KnownKek {
                check: rows.get::<String>(0, 0).and_then(|text| CheckValue::from_hex(&text)),
                retired: rows.get(0, 1).unwrap_or(false),
            })
        })
    })
}

/// Records the check value of a KEK, unless one is recorded.
pub fn register_kek(kek_id: &str, check: CheckValue) {
    let hex = check.to_hex();
    REGISTER_KEK.with(|statement| statement.run(&[Arg::Text(kek_id), Arg::Text(&hex)], |_| ()));
}

/// What this database has of a KEK.
pub struct KekUsage {
    pub kek_id: String,
    pub check_value: Option<String>,
    pub vaults: i64,
    pub old_keys: i64,
    pub oldest: Option<Date>,
    pub first_seen: Option<Date>,
    pub retired: Option<Date>,
}

impl KekUsage {
    pub fn none(kek_id: &str) -> Self {
        Self {
            kek_id: kek_id.into(),
            check_value: None,
            vaults: 0,
            old_keys: 0,
            oldest: None,
            first_seen: None,
            retired: None,
        }
    }

    /// Whether this database has nothing that is wrapped under it.
    pub fn is_unused(&self) -> bool {
        self.vaults == 0 && self.old_keys == 0
    }
}

/// Every KEK that this database knows or has vaults under, the newest first.
pub fn kek_usage() -> Vec<KekUsage> {
    let is_of_0_3 = catalog::is_of_0_3();
    let statement = if is_of_0_3 { &KEK_USAGE_WITH_OLD_KEYS } else { &KEK_USAGE };
    maintenance::run(|| {
        statement.with(|statement| {
            statement.run(&[], |rows| {
                let usage = |row| {
                    Some(KekUsage {
                        kek_id: rows.get(row, 0)?,
                        check_value: rows.get(row, 1),
                        vaults: rows.get(row, 2)?,
                        oldest: rows.get(row, 3),
                        first_seen: rows.get(row, 4),
                        retired: rows.get(row, 5),
                        old_keys: if is_of_0_3 { rows.get(row, 6)? } else { 0 },
                    })
                };
                rows.collect(usage)
            })
        })
    })
}

/// Marks a KEK as retired; false if it was so already.
pub fn retire_kek(kek_id: &str) -> bool {
    let args = [Arg::Text(kek_id), Arg::Timestamp(session::now())];
    RETIRE_KEK.with(|statement| statement.run(&args, Rows::count)) == 1
}
