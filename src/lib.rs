//! vault_ext: one encryption key per application user, inside PostgreSQL, with an audit trail that survives rollback.

mod alarms;
mod api;
mod audit;
mod data;
mod error;
mod guard;
mod identity;
mod kek;
mod keyring;
mod listener;
#[allow(unsafe_code)]
mod pg;
#[cfg(any(test, feature = "pg_test"))]
mod pg_tests;
mod settings;
mod store;
mod trail;
mod tree;
mod vault;

pgrx::pg_module_magic!(name, version);

pgrx::extension_sql_file!("../sql/010_roles.sql", name = "roles", bootstrap);
pgrx::extension_sql_file!("../sql/020_tables.sql", name = "tables", requires = ["roles"]);
pgrx::extension_sql_file!("../sql/025_nodes.sql", name = "nodes", requires = ["tables"]);
pgrx::extension_sql_file!("../sql/030_functions.sql", name = "functions", requires = ["nodes"]);
pgrx::extension_sql_file!("../sql/040_policies.sql", name = "policies", requires = ["functions"]);
pgrx::extension_sql_file!("../sql/050_grants.sql", name = "grants", requires = ["policies"], finalize);

/// Called when the library is loaded: by the postmaster at server start, where everything is set up, or later by a
/// backend of a server that does not preload it, where every function then says so that needs what was not set up.
#[pgrx::pg_guard]
extern "C-unwind" fn _PG_init() {
    pg::process::forbid_backtraces();
    pg::entry::set(pg::entry::Entries {
        audit_writer: audit::writer::run,
        configuration_listener: listener::run,
        rewrap: api::admin::vault_rewrap,
        destroy_due: api::erasure::vault_destroy_due,
        purge_audit: api::trail::vault_purge_audit_in_batches,
        erase_on_delete: api::admin::vault_erase_on_delete,
    });
    if !pg::process::is_preloading() {
        return;
    }
    settings::define();
    if pg::process::is_binary_upgrade() {
        return;
    }
    audit::memory::request(settings::audit_slots());
    pg::utility::listen(pg::utility::Callbacks {
        before_database_statement: audit::submit::ask_idle_writers_to_leave,
        around_alteration: guard::alter::around,
        before_shard: guard::shards::before_shard,
        guarded: pg::utility::Guarded {
            schema: store::SCHEMA,
            tables: &vault_core::integrity::TABLES,
            sharded: &vault_core::integrity::BY_USER,
            owner: store::OWNER,
        },
    });
    pg::drop::before_drop_of(store::SCHEMA, store::VAULTS, guard::drop::before_drop);
    if listener::has_work() {
        pg::worker::start_configuration_listener();
    }
    if let Err(bad) = keyring::startup::load() {
        error::VaultError::RefusedStart(bad.message, bad.hint).raise();
    }
    if let Err(bad) = tree::key::load() {
        error::VaultError::RefusedStart(bad.message, bad.hint).raise();
    }
    if !alarms::share() || !audit::stats::share() {
        error::VaultError::RefusedStart("no memory for alarms and statistics".into(), "Free some memory.".into())
            .raise();
    }
    if let Err(bad) = identity::issuers::load() {
        error::VaultError::RefusedStart(bad.message, bad.hint.into()).raise();
    }
}

/// What `cargo pgrx test` asks for.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec!["shared_preload_libraries = 'vault_ext'", "vault_ext.dev_mode = on"]
    }
}
