//! All SQL of the extension, a file for each table. Plain SQL through SPI, the schema of every operator, function and type
//! named: a caller's search_path cannot lead it elsewhere, and row-level security, triggers and partitioning all apply. Three accesses
//! go past the executor where the table is as CREATE EXTENSION made it: `vaults::find`, `trail::insert_audit_batch` and
//! `wraps::rewrap`.

pub mod catalog;
pub mod database_keys;
pub mod erasures;
pub mod grants;
pub mod honey;
pub mod keks;
pub mod maintenance;
pub mod nodes;
pub mod old_keys;
pub mod rewraps;
pub mod trail;
pub mod transfers;
pub mod tree;
pub mod vaults;
pub mod version;
pub mod wraps;

use std::ffi::CStr;

/// The role that owns the tables and the definer functions; row-level security binds it.
pub const OWNER: &CStr = c"vault_ext_owner";

/// The schema that CREATE EXTENSION makes.
pub const SCHEMA: &CStr = c"vault_ext";

/// The name of the table of vaults in it.
pub const VAULTS: &CStr = c"encryption_vaults";

/// The name of the table of old keys in it, which is new in 0.3.0.
pub const OLD_KEYS: &CStr = c"old_keys";
