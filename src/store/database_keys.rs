//! The table of the database's own keys, for what concerns no single user.

use vault_core::crypto::wrap::{Kind, StoredWrap};

use super::maintenance;
use super::vaults::NewWrap;
use crate::pg::spi::{Arg, Rows, Statement};

/// The key of vault_lookup_index().
pub const LOOKUP_INDEX: &str = "lookup-index";

/// A key of the database.
pub struct DatabaseKey {
    wrapped_mk: String,
    wrap_iv: String,
    format_version: i16,
    pub kek_id: String,
    pub key_version: i32,
}

impl DatabaseKey {
    /// The wrap of this row.
    pub fn stored<'a>(&'a self, name: &'a str) -> StoredWrap<'a> {
        StoredWrap {
            kind: Kind::DatabaseKey,
            user_id: name,
            wrapped_mk: &self.wrapped_mk,
            wrap_iv: &self.wrap_iv,
            format_version: self.format_version,
            kek_id: &self.kek_id,
            key_version: self.key_version,
        }
    }
}

thread_local! {
    static FIND: Statement = const { Statement::planned_once(
        "SELECT wrapped_mk, wrap_iv, format_version, kek_id, key_version FROM vault_ext.database_keys \
         WHERE name OPERATOR(pg_catalog.=) $1"
    ) };
    static INSERT: Statement = const { Statement::planned_once(
        "INSERT INTO vault_ext.database_keys (name, wrapped_mk, wrap_iv, format_version, kek_id, key_version) \
         VALUES ($1, $2, $3, 2, $4, $5) ON CONFLICT (name) DO NOTHING"
    ) };
}

/// The key of that name; None if there is none yet.
pub fn find(name: &str) -> Option<DatabaseKey> {
    let first = |rows: &Rows| {
        (rows.count() > 0).then_some(())?;
        Some(DatabaseKey {
            wrapped_mk: rows.get(0, 0)?,
            wrap_iv: rows.get(0, 1)?,
            format_version: rows.get(0, 2)?,
            kek_id: rows.get(0, 3)?,
            key_version: rows.get(0, 4)?,
        })
    };
    maintenance::run(|| FIND.with(|statement| statement.run(&[Arg::Text(name)], first)))
}

/// Stores a key; false if another transaction did meanwhile.
pub fn insert(name: &str, new: &NewWrap<'_>) -> bool {
    let args = [
        Arg::Text(name),
        Arg::Text(new.wrap.wrapped_mk()),
        Arg::Text(new.wrap.wrap_iv()),
        Arg::Text(new.kek_id),
        Arg::Int4(new.key_version),
    ];
    maintenance::run(|| INSERT.with(|statement| statement.run(&args, Rows::count))) == 1
}
