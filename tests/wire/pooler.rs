//! pgbouncer in transaction mode: clients share server sessions, so SET LOCAL must set the identity.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::harness::{Db, chown_to_server, eventually, expect_vault_error, scratch_dir, server_command, shared_db};

const PROGRAM: &str = "/usr/sbin/pgbouncer";

pub struct Pooler {
    dir: PathBuf,
    process: Child,
}

impl Pooler {
    /// `mode` says how long a client keeps a server connection. All clients share `size` of them.
    pub fn start(db: &Db, mode: &str, size: usize) -> Self {
        assert!(Path::new(PROGRAM).exists(), "{PROGRAM} is missing: apt-get install pgbouncer");
        let dir = scratch_dir();
        let here = dir.display();
        let config = format!(
            "[databases]\nvault = host={} port={} dbname={} user=wire_app\n[pgbouncer]\nlisten_addr =\nlisten_port = 6432\n\
             unix_socket_dir = {here}\nauth_type = any\npool_mode = {mode}\ndefault_pool_size = {size}\nmax_client_conn = 300\n\
             logfile = {here}/log\n",
            db.cluster.dir().display(),
            db.cluster.port(),
            db.name,
        );
        let path = dir.join("pgbouncer.ini");
        fs::write(&path, config).expect("the pooler's configuration");
        chown_to_server(&path);
        let process = server_command(PROGRAM, &dir)
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pgbouncer starts");
        let pooler = Pooler { dir, process };
        eventually(Duration::from_secs(20), "pgbouncer answers", || pooler.try_connect().is_ok());
        pooler
    }

    fn try_connect(&self) -> Result<Client, postgres::Error> {
        let mut config = Config::new();
        config.host_path(&self.dir).port(6432);
        config.user("wire_app").dbname("vault").connect(NoTls)
    }

    pub fn connect(&self) -> Client {
        self.try_connect().expect("a connection through pgbouncer")
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            eprintln!("--- pgbouncer\n{log}");
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns the first column of a simple query's rows. Named statements do not survive this pooler.
pub fn column(client: &mut Client, sql: &str) -> Result<Vec<String>, postgres::Error> {
    let messages = client.simple_query(sql)?;
    Ok(messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .collect())
}

fn call(client: &mut Client, user: &str, function: &str) -> Result<String, postgres::Error> {
    let sql = format!("BEGIN; SET LOCAL app.current_user_id = '{user}'; SELECT master_key FROM {function}(); COMMIT");
    match column(client, &sql) {
        Ok(keys) => Ok(keys.concat()),
        Err(error) => {
            client.batch_execute("ROLLBACK")?;
            Err(error)
        }
    }
}

#[test]
fn set_local_carries_the_identity_through_a_transaction_pooler() {
    let db = shared_db();
    let pooler = Pooler::start(&db, "transaction", 2);
    let keys: Vec<(String, String)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|i| {
                let pooler = &pooler;
                scope.spawn(move || {
                    let mut client = pooler.connect();
                    let user = format!("user-{i}");
                    let key = call(&mut client, &user, "vault_init").unwrap();
                    for _ in 0..20 {
                        let same = call(&mut client, &user, "vault_get_master_key").unwrap();
                        assert_eq!(same, key);
                    }
                    let rotated = call(&mut client, &user, "vault_rotate").unwrap();
                    assert_ne!(rotated, key);
                    assert_eq!(call(&mut client, &user, "vault_init").unwrap(), rotated);
                    (user, rotated)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    for (user, key) in &keys {
        assert_eq!(db.audit_of(user).len(), 23);
        assert!(keys.iter().filter(|(_, other)| other == key).count() == 1);
    }
    let servers: i64 =
        db.value("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'wire_app'");
    assert!(servers <= 2, "{servers} connections: the pooler did not share them");
}

#[test]
fn the_next_client_of_a_pooled_session_has_no_identity() {
    let db = shared_db();
    let pooler = Pooler::start(&db, "transaction", 2);
    call(&mut pooler.connect(), "alice", "vault_init").unwrap();
    for _ in 0..6 {
        let result = column(&mut pooler.connect(), "SELECT master_key FROM vault_get_master_key()");
        expect_vault_error(result, "28000");
    }
    assert_eq!(db.audit().iter().filter(|row| row.status == 401).count(), 6);
}

#[test]
fn an_error_in_a_pooled_transaction_leaves_the_session_usable() {
    let db = shared_db();
    let pooler = Pooler::start(&db, "transaction", 2);
    let mut client = pooler.connect();
    for _ in 0..5 {
        expect_vault_error(call(&mut client, "alice", "vault_get_master_key"), "P0002");
    }
    let key = call(&mut client, "alice", "vault_init").unwrap();
    assert_eq!(call(&mut pooler.connect(), "alice", "vault_get_master_key").unwrap(), key);
}
