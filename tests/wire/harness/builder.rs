//! Builds a server from a copy of a cached initdb and some configuration lines.

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex};

use super::Cluster;
use super::cluster::{PORT, bindir};
use super::neighbours;
use super::os::server_command;
use super::scratch::scratch_dir;

/// One data directory for each installation, created once.
static TEMPLATES: LazyLock<Mutex<HashMap<PathBuf, PathBuf>>> = LazyLock::new(Mutex::default);

fn template(bindir: &Path) -> PathBuf {
    let mut templates = TEMPLATES.lock().unwrap_or_else(|e| e.into_inner());
    templates.entry(bindir.to_owned()).or_insert_with(|| initdb(bindir)).clone()
}

fn initdb(bindir: &Path) -> PathBuf {
    let dir = scratch_dir();
    let output = server_command(bindir.join("initdb"), &dir)
        .args(["-U", "postgres", "-A", "trust", "-E", "UTF8"])
        .args(["--locale=C.UTF-8", "--data-checksums", "--no-sync", "--no-instructions", "-D"])
        .arg(dir.join("data"))
        .output()
        .expect("initdb starts");
    assert!(output.status.success(), "initdb failed: {output:?}");
    dir.join("data")
}

pub struct Builder {
    conf: Vec<String>,
    env: Vec<(String, String)>,
    keyring: Option<String>,
    preload: Vec<&'static str>,
    tcp: bool,
    data: Option<PathBuf>,
    bindir: PathBuf,
}

impl Builder {
    /// Runs the programs in this directory instead of those of the installation under test.
    #[cfg(feature = "upgrade")]
    pub fn bindir(mut self, bindir: &Path) -> Self {
        self.bindir = bindir.to_owned();
        self
    }

    /// Starts from a copy of this data directory (a backup, for example) instead of a fresh one.
    pub fn data_from(mut self, data: &Path) -> Self {
        self.data = Some(data.to_owned());
        self
    }

    /// Appends a line to postgresql.conf, where it overrides everything the harness wrote.
    pub fn conf(mut self, line: &str) -> Self {
        self.conf.push(line.to_owned());
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the text of the file that `vault_ext.kek_file` names.
    pub fn keyring(mut self, text: &str) -> Self {
        self.keyring = Some(text.to_owned());
        self
    }

    pub fn not_preloaded(mut self) -> Self {
        self.preload = neighbours::preloaded(false);
        self
    }

    /// Preloads exactly these libraries, in this order.
    pub fn preload(mut self, libraries: &[&'static str]) -> Self {
        self.preload = libraries.to_vec();
        self
    }

    /// Speeds up tests that need not survive a crash of the machine. Commits stay synchronous.
    pub fn without_fsync(self) -> Self {
        self.conf("fsync = off")
    }

    /// Listens on a free port of 127.0.0.1 too.
    pub fn tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// Creates the data directory and its configuration without starting the server.
    pub fn prepare(self) -> Cluster {
        let dir = scratch_dir();
        let source = self.data.unwrap_or_else(|| template(&self.bindir));
        let status = Command::new("cp").arg("-a").arg(&source).arg(dir.join("data")).status().expect("cp starts");
        assert!(status.success(), "cannot copy {}", source.display());
        let tcp_port = self.tcp.then(free_port);
        let mut cluster = Cluster {
            dir,
            bindir: self.bindir,
            env: self.env,
            tcp_port,
            postmaster: None,
            log_from: 0,
            installing: Mutex::new(()),
        };
        let dir = cluster.dir.display().to_string();
        cluster.configure(&format!("unix_socket_directories = '{dir}'"));
        cluster.configure(&format!("port = {}", tcp_port.unwrap_or(PORT)));
        let listen = if self.tcp { "127.0.0.1" } else { "" };
        cluster.configure(&format!("listen_addresses = '{listen}'"));
        cluster.configure("log_line_prefix = '%m [%p] %q%u@%d '");
        cluster.configure("max_wal_size = 128MB");
        cluster.configure(&format!("shared_preload_libraries = '{}'", self.preload.join(", ")));
        for line in self.preload.iter().flat_map(|library| neighbours::verbose_settings(library)) {
            cluster.configure(line);
        }
        if let Some(text) = self.keyring {
            let path = cluster.write_kek("keyring", text, 0o600);
            cluster.configure(&format!("vault_ext.kek_file = '{}'", path.display()));
        }
        for line in self.conf {
            cluster.configure(&line);
        }
        cluster
    }

    pub fn start(self) -> Cluster {
        let mut cluster = self.prepare();
        cluster.start();
        cluster
    }
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .expect("a free port on 127.0.0.1")
        .port()
}

impl Cluster {
    pub fn builder() -> Builder {
        Builder {
            conf: Vec::new(),
            env: Vec::new(),
            keyring: None,
            preload: neighbours::preloaded(true),
            tcp: false,
            data: None,
            bindir: bindir().to_owned(),
        }
    }
}
