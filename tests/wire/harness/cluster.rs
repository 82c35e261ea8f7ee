//! A test's own server: created from a cached initdb, configured, started, watched and removed.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use postgres::{Client, Config, NoTls};
use rustix::process::{Pid, Signal, kill_process};

use super::expect::eventually;
use super::os::{chown_to_server, processes_in, server_command, succeed};
use super::scratch::{remove, scratch_dir};

const PATIENCE: Duration = Duration::from_secs(60);
pub(super) const PORT: u16 = 5432;

static BINDIR: LazyLock<PathBuf> = LazyLock::new(|| bindir_of("VAULT_EXT_PG_CONFIG"));

/// The program directory of the installation whose pg_config this environment variable names.
pub fn bindir_of(variable: &str) -> PathBuf {
    let pg_config = std::env::var_os(variable).unwrap_or_else(|| {
        panic!("{variable} must name the pg_config of a PostgreSQL tree that has vault_ext installed (see make help)")
    });
    let output = Command::new(&pg_config)
        .arg("--bindir")
        .output()
        .unwrap_or_else(|e| panic!("cannot run {}: {e}", pg_config.to_string_lossy()));
    assert!(output.status.success(), "pg_config --bindir: {output:?}");
    PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
}

pub fn bindir() -> &'static Path {
    &BINDIR
}

#[derive(Clone, Copy, Debug)]
pub enum Stop {
    Fast,
    Immediate,
}

pub struct Cluster {
    pub(super) dir: PathBuf,
    pub(super) bindir: PathBuf,
    pub(super) env: Vec<(String, String)>,
    pub(super) tcp_port: Option<u16>,
    pub(super) postmaster: Option<Child>,
    pub(super) log_from: usize,
    /// CREATE EXTENSION creates cluster-wide roles, so only one may run at a time.
    pub(super) installing: Mutex<()>,
}

impl Cluster {
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The port number, which is also part of the socket file's name.
    pub fn port(&self) -> u16 {
        self.tcp_port.unwrap_or(PORT)
    }

    /// Appends a line to postgresql.conf; the caller restarts or reloads.
    pub fn configure(&mut self, line: &str) {
        let path = self.data().join("postgresql.conf");
        let mut file = OpenOptions::new().append(true).open(&path).expect("postgresql.conf opens");
        writeln!(file, "{line}").expect("postgresql.conf is writable");
    }

    /// Writes a file beside the data directory, owned by the server's user.
    pub fn write_kek(&self, name: &str, text: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.dir.join(name);
        fs::write(&path, text).expect("the key file is writable");
        chown_to_server(&path);
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("the key file's mode can be set");
        path
    }

    fn spawn(&mut self) {
        assert!(self.postmaster.is_none(), "the server is already running");
        let log = self.open_log();
        self.log_from = self.whole_log().len();
        let child = server_command(self.bindir.join("postgres"), &self.dir)
            .arg("-D")
            .arg(self.data())
            .envs(self.env.iter().cloned())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log file's handle can be copied"))
            .stderr(log)
            .spawn()
            .expect("postgres starts");
        self.postmaster = Some(child);
    }

    fn open_log(&self) -> File {
        OpenOptions::new().create(true).append(true).open(self.dir.join("log")).expect("the log file opens")
    }

    pub fn start(&mut self) {
        self.spawn();
        eventually(PATIENCE, "the server answers", || {
            if let Some(status) = self.exited() {
                panic!("the server did not start ({status}):\n{}", self.log());
            }
            self.try_conn("postgres", "postgres").is_ok()
        });
    }

    /// Restarts the server as a hot standby of nobody: what it has is all that it gets.
    pub fn restart_as_standby(&mut self) {
        self.stop(Stop::Fast);
        let signal = self.data().join("standby.signal");
        fs::write(&signal, "").expect("the signal file");
        chown_to_server(&signal);
        self.start();
    }

    /// Starts a server that has to refuse, and gives the log of that attempt.
    pub fn start_expect_failure(&mut self) -> String {
        self.spawn();
        let mut status = None;
        eventually(PATIENCE, "the server gives up", || {
            if self.try_conn("postgres", "postgres").is_ok() {
                panic!("the server started but should not have:\n{}", self.log());
            }
            status = self.exited();
            status.is_some()
        });
        self.postmaster = None;
        let log = self.log();
        assert!(!status.is_some_and(|s| s.success()), "the server exited with status 0:\n{log}");
        assert!(!log.contains("panicked at"), "the server panicked during startup:\n{log}");
        log
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        let child = self.postmaster.as_mut().expect("the server was started");
        child.try_wait().expect("the server's status is available")
    }

    pub fn stop(&mut self, mode: Stop) {
        let signal = match mode {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        };
        self.signal_postmaster(signal);
        eventually(PATIENCE, "the server stops", || self.exited().is_some());
        self.postmaster = None;
    }

    pub fn restart(&mut self) {
        self.stop(Stop::Fast);
        self.start();
    }

    /// Kills the postmaster and every child with SIGKILL, like a power cut.
    pub fn crash(&mut self) {
        self.kill_everything();
        self.postmaster = None;
    }

    pub fn signal_postmaster(&self, signal: Signal) {
        let child = self.postmaster.as_ref().expect("the server runs");
        let pid = Pid::from_child(child);
        kill_process(pid, signal).expect("the postmaster takes the signal");
    }

    fn kill_everything(&mut self) {
        let data = self.data();
        // The postmaster goes first, or it would start new children.
        if let Some(child) = self.postmaster.as_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        eventually(PATIENCE, "every process of the server is gone", || {
            let left = processes_in(&data);
            left.iter().for_each(|pid| kill9(*pid));
            left.is_empty()
        });
    }

    /// The operating system's ids of the server's processes.
    pub fn processes(&self) -> Vec<i32> {
        processes_in(&self.data())
    }

    pub fn postmaster_pid(&self) -> i32 {
        let child = self.postmaster.as_ref().expect("the server runs");
        i32::try_from(child.id()).expect("a pid")
    }

    /// A PostgreSQL client program that connects to this server as this role.
    pub fn program(&self, name: &str, role: &str) -> Command {
        let mut command = server_command(self.bindir.join(name), &self.dir);
        command.arg("-h").arg(&self.dir).arg("-p").arg(self.port().to_string()).args(["-U", role]);
        command
    }

    /// Takes a base backup of the running server, with the WAL that it needs.
    pub fn base_backup(&self, options: &[&str]) -> PathBuf {
        let dir = scratch_dir().join("data");
        succeed(
            self.program("pg_basebackup", "postgres")
                .args(["-c", "fast", "-X", "stream", "-D"])
                .arg(&dir)
                .args(options),
        );
        dir
    }

    pub fn config(&self, role: &str, db: &str) -> Config {
        let mut config = Config::new();
        config.host_path(&self.dir).port(self.port());
        config.user(role).dbname(db);
        config
    }

    pub fn try_conn(&self, role: &str, db: &str) -> Result<Client, postgres::Error> {
        self.config(role, db).connect(NoTls)
    }

    pub fn conn(&self, role: &str, db: &str) -> Client {
        self.try_conn(role, db).unwrap_or_else(|e| panic!("{role} cannot connect to {db}: {e:?}\n{}", self.log()))
    }

    pub fn tcp_conn(&self, role: &str, db: &str) -> Client {
        let mut config = Config::new();
        config.host("127.0.0.1").user(role).dbname(db);
        config.port(self.tcp_port.expect("built with tcp()"));
        config.connect(NoTls).expect("a connection over TCP")
    }

    pub fn superuser(&self, db: &str) -> Client {
        self.conn("postgres", db)
    }

    fn whole_log(&self) -> String {
        let bytes = fs::read(self.dir.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The log since the server's last start.
    pub fn log(&self) -> String {
        self.whole_log().split_off(self.log_from)
    }

    pub fn log_bytes(&self) -> Vec<u8> {
        fs::read(self.dir.join("log")).expect("the log file is readable")
    }
}

pub fn kill9(pid: i32) {
    send(pid, Signal::KILL);
}

/// Sends a signal to a process, which may have exited in the meantime.
pub fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- server log of {}\n{}", self.dir.display(), self.whole_log());
        }
        if let Some(child) = self.postmaster.as_mut() {
            let _ = kill_process(Pid::from_child(child), Signal::QUIT);
            let deadline = std::time::Instant::now() + Duration::from_secs(10);
            while matches!(child.try_wait(), Ok(None)) && std::time::Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
            self.kill_everything();
        }
        remove(&self.dir);
    }
}
