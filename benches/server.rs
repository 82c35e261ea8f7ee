//! A server configured the way a careful DBA would configure it, and the databases of the benchmarks.

use std::fs;
use std::path::PathBuf;

use postgres::Client;

use crate::harness::{Builder, Cluster, PREDECESSOR_KEK, kek, keyring_line};

/// An ordinary login role with `vault_ext_user`.
pub const APP: &str = "bench_app";

/// The base of the users' numbers. It gives ids of 18 characters, which pgbench can generate.
pub const FIRST_USER: i64 = 100_000_000_000_000_000;

/// The settings of every server that differ from PostgreSQL's defaults and could matter. The report lists them.
const SETTINGS: [&str; 9] = [
    "fsync = on",
    "synchronous_commit = on",
    "shared_buffers = 1GB",
    "max_connections = 200",
    // No checkpoint or autovacuum may disturb one side of a ratio, unless the benchmark measures it.
    "max_wal_size = 16GB",
    "checkpoint_timeout = 1h",
    "autovacuum = off",
    "bgwriter_lru_maxpages = 0",
    "maintenance_work_mem = 1GB",
];

pub struct Server {
    pub cluster: Cluster,
}

impl Server {
    /// A server with vault_ext. The first KEK wraps; `env-v1` opens rows of format 1.
    pub fn start(settings: &[&str]) -> Self {
        let keyring = [keyring_line("bench-1", &kek(1)), keyring_line("env-v1", &PREDECESSOR_KEK)].concat();
        Self::of(Cluster::builder().keyring(&keyring), settings)
    }

    /// The same server without vault_ext.
    pub fn without_vault_ext() -> Self {
        Self::of(Cluster::builder().not_preloaded(), &[])
    }

    fn of(mut builder: Builder, settings: &[&str]) -> Self {
        for line in SETTINGS.iter().chain(settings) {
            builder = builder.conf(line);
        }
        let server = Self { cluster: builder.start() };
        server
            .superuser("postgres")
            .batch_execute(&format!("CREATE ROLE {APP} LOGIN"))
            .expect("the application's role");
        server
    }

    pub fn superuser(&self, db: &str) -> Client {
        self.cluster.superuser(db)
    }

    /// Creates a database with the extension, which the application may use.
    pub fn database(&self, name: &str) -> Client {
        self.superuser("postgres").batch_execute(&format!("CREATE DATABASE {name}")).expect("a new database");
        let mut client = self.superuser(name);
        client
            .batch_execute(&format!("CREATE EXTENSION vault_ext; GRANT vault_ext_user TO {APP}"))
            .unwrap_or_else(|e| panic!("CREATE EXTENSION fails: {e:?}\n{}", self.cluster.log()));
        client
    }

    /// Writes everything that the preparations left unwritten, so that it does not slow down the first measurement.
    pub fn settle(&self) {
        self.superuser("postgres").batch_execute("CHECKPOINT").expect("a checkpoint");
        // The file system still has data to write and blocks of dropped tables to free, and every fsync would wait for
        // that.
        rustix::fs::sync();
    }

    /// A file beside the data directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.cluster.dir().join(name)
    }

    /// Creates a function from the build with the micro-benchmarks. `declaration` has its name, arguments and result.
    pub fn micro_benchmark(&self, db: &mut Client, declaration: &str, symbol: &str) {
        let library = std::env::var("VAULT_EXT_BENCH_LIBRARY")
            .expect("VAULT_EXT_BENCH_LIBRARY must name a build of vault_ext with the feature bench (see make bench)");
        let copy = self.file("vault_ext_bench.so");
        // A process may have loaded it already, and must not see it change.
        if !copy.exists() {
            fs::copy(&library, &copy).unwrap_or_else(|e| panic!("{library}: {e}"));
        }
        let sql = format!("CREATE FUNCTION {declaration} LANGUAGE c AS '{}', '{symbol}_wrapper'", copy.display());
        db.batch_execute(&sql).unwrap_or_else(|e| panic!("{symbol}: {e:?}"));
    }

    /// Changes a server-wide setting for sessions that start from now on.
    pub fn set(&self, name: &str, value: &str) {
        let mut client = self.superuser("postgres");
        client.batch_execute(&format!("ALTER SYSTEM SET {name} = {value}")).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        client.batch_execute("SELECT pg_reload_conf()").expect("a reload");
        crate::harness::eventually(std::time::Duration::from_secs(10), "the setting arrives", || {
            let row = self.superuser("postgres").query_one("SELECT current_setting($1)", &[&name]).expect("a setting");
            row.get::<_, &str>(0) == value
        });
    }

    /// Gives a setting its default.
    pub fn reset(&self, name: &str) {
        let row = self.superuser("postgres").query_one("SELECT boot_val FROM pg_settings WHERE name = $1", &[&name]);
        self.set(name, row.expect("a setting").get(0));
    }

    pub fn has_setting(&self, name: &str) -> bool {
        self.superuser("postgres")
            .query_opt("SELECT FROM pg_settings WHERE name = $1", &[&name])
            .expect("pg_settings")
            .is_some()
    }

    /// The name and value of each setting that is not PostgreSQL's default, except paths, ports and locales.
    pub fn unusual_settings(&self) -> Vec<(String, String)> {
        let rows = self.superuser("postgres").query(
            "SELECT name, current_setting(name) FROM pg_settings
             WHERE source = 'configuration file' AND setting IS DISTINCT FROM boot_val
               AND name !~ '^(lc_|log_|listen_|unix_|port$|.*_file$|TimeZone|DateStyle|default_text)'
             ORDER BY 1",
            &[],
        );
        rows.expect("pg_settings").iter().map(|row| (row.get(0), row.get(1))).collect()
    }
}

/// Creates the vaults of users 1 to `count` with the extension's own function.
pub fn mint(client: &mut Client, count: i64) {
    let sql = format!(
        "SELECT count(CASE WHEN set_config('app.current_user_id', ({FIRST_USER} + n)::text, true) IS NOT NULL
                           THEN vault_init() END)
         FROM generate_series(1, {count}) n"
    );
    let row = client.query_one(&sql, &[]).unwrap_or_else(|e| panic!("minting fails: {e:?}"));
    assert_eq!(row.get::<_, i64>(0), count);
}

/// Returns an INSERT of vaults for users 1 to `count`, all with the same known wrap of the predecessor. Format 1 binds
/// a wrap to no row, so every vault opens, and a table of millions is filled in seconds.
pub fn fill_with_format_1(table: &str, count: i64) -> String {
    format!(
        "INSERT INTO {table} (user_id, wrapped_mk, wrap_iv, format_version, kek_id)
         SELECT ({FIRST_USER} + n)::text, 'EkoYuy/eugLj+TUwymd4xT07qypjikNu+XfObRXpLsp1LPM+pXxISRohaJtl0f9/',
                'EBESExQVFhcYGRob', 1, 'env-v1'
         FROM generate_series(1, {count}) n"
    )
}

/// The free bytes on the file system of the servers.
pub fn free_space() -> u64 {
    let stat = rustix::fs::statvfs(crate::harness::scratch_dir()).expect("statvfs");
    stat.f_bavail * stat.f_frsize
}

/// Returns the number that a query gives.
pub fn number(client: &mut Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).unwrap_or_else(|e| panic!("{sql}: {e:?}")).get(0)
}
