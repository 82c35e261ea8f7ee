//! vault_ext over the wire: real servers, ordinary roles, many sessions.
//!
//! `VAULT_EXT_PG_CONFIG` names the pg_config of a PostgreSQL tree that has the extension installed. Every server runs in
//! its own folder below /tmp. It goes away together with this process, however the process ends.

mod harness;

mod admin;
mod alarms;
mod attacks;
mod audit_context;
mod audit_failures;
mod audit_rollback;
mod audit_rows;
mod audit_storm;
mod backup;
mod backup_physical;
mod better_auth;
mod catalog;
mod check;
#[cfg(feature = "citus")]
mod citus;
mod clock;
mod concurrency;
#[cfg(feature = "cores")]
mod core_file;
mod crash;
mod data;
mod databases;
mod default_privileges;
#[cfg(feature = "mounts")]
mod disk_full;
mod distribution;
mod documented;
mod documented_audit;
mod documented_how_to;
mod documented_reference;
mod dropping;
mod erasure;
mod extension_dumps;
mod extension_upgrade;
mod extension_versions;
mod formats;
mod golden;
mod grants;
mod grants_many;
mod health;
mod heavy;
mod identity;
mod install;
mod integrity;
mod isolation;
mod isolation_sql;
mod issuers;
mod kek_files;
mod kek_providers;
mod kek_reload;
mod kek_restore;
mod kek_retire;
mod kek_secrecy;
mod kek_settings;
mod kek_signal;
mod kek_sources;
mod kek_text;
mod kek_wrong;
mod keyring;
mod keys;
mod ledger;
mod load;
mod lookup;
#[cfg(feature = "upgrade")]
mod major_upgrade;
#[cfg(feature = "monitoring")]
mod monitoring;
mod nasty_text;
mod neighbours;
#[cfg(feature = "patroni")]
mod patroni;
mod pipelines;
mod pooler;
mod psql_width;
mod recovery;
mod recovery_client;
mod recovery_secrecy;
mod recovery_states;
mod reencrypt;
mod rename;
mod replication;
mod resources;
mod rewrap;
mod rewrap_kill;
mod row_rules;
mod runbook;
mod seal;
mod search_path;
mod self_check;
mod soak;
mod stand_ins;
mod standby;
mod standby_failover;
mod standby_reads;
mod stat;
mod statements;
mod storm;
mod tampering;
mod threats;
mod tokens;
mod tokens_life;
mod trail;
mod trail_attacks;
mod trail_proofs;
mod trail_waits;
mod transactions;
mod transfer;
mod versions;
mod who;
