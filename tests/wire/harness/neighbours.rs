//! Other libraries that the test servers load: `VAULT_EXT_PRELOAD` lists their shared_preload_libraries, in order.

use std::sync::LazyLock;

use super::Cluster;

static PRELOAD: LazyLock<Vec<String>> = LazyLock::new(|| {
    let list = std::env::var("VAULT_EXT_PRELOAD").unwrap_or_else(|_| "vault_ext".into());
    let list: Vec<_> = list.split(',').map(|library| library.trim().to_owned()).collect();
    assert!(list.iter().any(|library| library == "vault_ext"), "VAULT_EXT_PRELOAD={list:?} lacks vault_ext");
    list
});

/// The settings that make a library log as much as it can.
pub fn verbose_settings(library: &str) -> &'static [&'static str] {
    match library {
        "vault_ext" => &[],
        "pgaudit" => &[
            "pgaudit.log = all",
            "pgaudit.log_catalog = on",
            "pgaudit.log_parameter = on",
            "pgaudit.log_relation = on",
            "pgaudit.log_rows = on",
            "pgaudit.log_statement = on",
        ],
        "auto_explain" => &[
            "auto_explain.log_min_duration = 0",
            "auto_explain.log_analyze = on",
            "auto_explain.log_buffers = on",
            "auto_explain.log_nested_statements = on",
            "auto_explain.log_triggers = on",
            "auto_explain.log_verbose = on",
        ],
        "pg_stat_statements" => &["pg_stat_statements.track = all", "pg_stat_statements.track_utility = on"],
        "pg_cron" => &["cron.use_background_workers = on", "cron.log_statement = on", "cron.log_run = on"],
        "citus" => &["citus.log_remote_commands = on"],
        other => panic!("no settings make {other} verbose yet"),
    }
}

/// The libraries that this run's servers preload, with or without vault_ext.
pub(super) fn preloaded(vault_ext: bool) -> Vec<&'static str> {
    PRELOAD.iter().map(String::as_str).filter(|library| vault_ext || *library != "vault_ext").collect()
}

pub fn is_neighbour(library: &str) -> bool {
    PRELOAD.iter().any(|preloaded| preloaded == library)
}

/// A max_worker_processes line that leaves this many to vault_ext and the server itself.
pub fn worker_slots(number: u32) -> String {
    format!("max_worker_processes = {}", number + u32::from(is_neighbour("pg_cron")))
}

impl Cluster {
    /// The major version of its data directory.
    pub fn major(&self) -> u32 {
        let version = std::fs::read_to_string(self.data().join("PG_VERSION")).expect("a data directory");
        version.trim().parse().expect("a major version")
    }

    /// Neighbours write bound parameters to the log by settings of their own: see docs/keys.md. Call this before the start.
    pub fn keep_neighbours_from_logging_parameters(&mut self) {
        if is_neighbour("pgaudit") {
            self.configure("pgaudit.log_parameter = off");
        }
        if is_neighbour("auto_explain") {
            // It prints a plan's expressions, and parameters are constants in most plans.
            self.configure("auto_explain.log_verbose = off");
            if self.major() >= 16 {
                self.configure("auto_explain.log_parameter_max_length = 0");
            }
        }
    }

    /// Gives pg_cron a job for every minute, if it is a neighbour.
    pub(super) fn keep_neighbours_busy(&self) {
        if is_neighbour("pg_cron") {
            self.superuser("postgres")
                .batch_execute(
                    "CREATE EXTENSION pg_cron; SELECT cron.schedule('* * * * *', 'SELECT count(*) FROM pg_locks')",
                )
                .expect("pg_cron takes a job");
        }
    }
}
