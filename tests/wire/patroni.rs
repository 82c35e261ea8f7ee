//! Failover as in production: two servers under Patroni with its built-in Raft, a third voter, and synchronous mode.
//! Needs Debian's patroni: make test-patroni.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::harness::{Cluster, bindir, chown_to_server, eventually, kek, keyring_line, scratch_dir, server_command};
use crate::load::Load;

/// Patroni waits for the lost leader's key to expire, which takes at least 20 seconds.
const FAILOVER: Duration = Duration::from_secs(120);

/// Ports that were free a moment ago.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [_; N] = std::array::from_fn(|_| TcpListener::bind(("127.0.0.1", 0)).expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}

struct Node {
    cluster: Cluster,
    /// The port of Patroni's REST API.
    api: u16,
    patroni: Option<Child>,
}

impl Node {
    fn new(name: &str, raft: u16, partners: [u16; 2]) -> Self {
        // Patroni creates the data directory itself. The harness only provides the folder and the port.
        let cluster = Cluster::builder().tcp().prepare();
        fs::remove_dir_all(cluster.data()).unwrap();
        cluster.write_kek("keyring", keyring_line("wire-1", &kek(1)), 0o600);
        let (dir, port, [api]) = (cluster.dir().display(), cluster.port(), free_ports());
        let [first, second] = partners;
        let bindir = bindir().display();
        let yaml = format!(
            "
scope: vault
name: {name}
restapi: {{listen: '127.0.0.1:{api}', connect_address: '127.0.0.1:{api}'}}
raft:
  data_dir: {dir}/raft
  self_addr: 127.0.0.1:{raft}
  partner_addrs: ['127.0.0.1:{first}', '127.0.0.1:{second}']
bootstrap:
  dcs: {{ttl: 20, loop_wait: 1, retry_timeout: 3, synchronous_mode: true, postgresql: {{use_pg_rewind: true}}}}
  initdb: [{{encoding: UTF8}}, {{locale: C.UTF-8}}, data-checksums]
postgresql:
  listen: 127.0.0.1:{port}
  connect_address: 127.0.0.1:{port}
  data_dir: {dir}/data
  bin_dir: {bindir}
  pgpass: {dir}/pgpass
  authentication: {{superuser: {{username: postgres}}, replication: {{username: postgres}}}}
  pg_hba: [local all all trust, host all all 127.0.0.1/32 trust, host replication all 127.0.0.1/32 trust]
  parameters:
    unix_socket_directories: {dir}
    max_connections: 60
    shared_preload_libraries: vault_ext
    vault_ext.kek_file: {dir}/keyring
"
        );
        fs::write(cluster.dir().join("patroni.yml"), yaml).unwrap();
        chown_to_server(&cluster.dir().join("patroni.yml"));
        Node { cluster, api, patroni: None }
    }

    fn start(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.cluster.dir().join("log")).unwrap();
        let mut patroni = server_command("/usr/bin/patroni", self.cluster.dir());
        patroni.arg(self.cluster.dir().join("patroni.yml")).process_group(0).stdin(Stdio::null());
        patroni.stdout(log.try_clone().unwrap()).stderr(log);
        self.patroni = Some(patroni.spawn().expect("patroni starts"));
    }

    /// Kills Patroni and the server, as if the machine had lost power.
    fn kill(&mut self) {
        if let Some(mut patroni) = self.patroni.take() {
            let _ = patroni.kill();
            let _ = patroni.wait();
        }
        self.cluster.crash();
    }

    fn answers_true(&self, sql: &str) -> bool {
        let answer = self.cluster.try_conn("postgres", "postgres").and_then(|mut client| client.query_one(sql, &[]));
        answer.is_ok_and(|row| row.get(0))
    }

    #[track_caller]
    fn wait_until_leader(&self) {
        eventually(FAILOVER, "this server leads", || self.answers_true("SELECT NOT pg_is_in_recovery()"));
    }

    /// Patroni's view of the cluster, as an HTTP response with JSON.
    fn cluster_view(&self) -> std::io::Result<String> {
        let mut answer = String::new();
        let mut stream = TcpStream::connect(("127.0.0.1", self.api))?;
        stream.write_all(b"GET /cluster HTTP/1.0\r\n\r\n")?;
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Patroni fails over only to a server that it has recorded as synchronous, which happens slightly after PostgreSQL
    /// reports it as synchronous.
    #[track_caller]
    fn wait_for_synchronous_standby(&self) {
        eventually(FAILOVER, "Patroni has recorded a synchronous standby", || {
            self.cluster_view().is_ok_and(|view| view.contains("\"sync_standby\""))
        });
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.cluster.dir().join("log")).unwrap_or_default();
            eprintln!("--- patroni's log\n{log}");
        }
    }
}

/// The third voter, without a database.
struct Witness(Child);

impl Witness {
    fn start(raft: u16, partners: [u16; 2]) -> Self {
        let dir = scratch_dir();
        let [first, second] = partners;
        let yaml = format!(
            "raft:\n  data_dir: {}/raft\n  self_addr: 127.0.0.1:{raft}\n  partner_addrs: ['127.0.0.1:{first}', '127.0.0.1:{second}']\n",
            dir.display()
        );
        fs::write(dir.join("raft.yml"), yaml).unwrap();
        chown_to_server(&dir.join("raft.yml"));
        let mut controller = server_command("/usr/bin/patroni_raft_controller", &dir);
        controller.arg(dir.join("raft.yml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Witness(controller.spawn().expect("patroni_raft_controller starts"))
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_failover_there_and_back_keeps_every_key_that_went_out() {
    let [first, second, third] = free_ports();
    let _witness = Witness::start(third, [first, second]);
    let mut a = Node::new("a", first, [second, third]);
    let mut b = Node::new("b", second, [first, third]);
    a.start();
    a.wait_until_leader();
    b.start();
    a.wait_for_synchronous_standby();
    let load = Load::start(&a.cluster.database("d"), 16);
    load.wait_for_keys(200);
    a.kill();
    b.wait_until_leader();
    load.redirect(&b.cluster.existing_database("d"));
    load.wait_for_keys(200);
    // Patroni brings the old leader back, using pg_rewind if necessary.
    a.start();
    b.wait_for_synchronous_standby();
    load.wait_for_keys(200);
    b.kill();
    a.wait_until_leader();
    load.redirect(&a.cluster.existing_database("d"));
    load.wait_for_keys(200);
    load.stop().end_checks(
        &a.cluster.existing_database("d"),
        "Patroni: failover and back, synchronous mode, 16 clients",
        2,
    );
}
