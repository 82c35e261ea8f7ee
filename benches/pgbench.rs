//! Runs of pgbench, which must be without a single failure.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::harness::bindir;
use crate::server::{APP, Server};

/// The identity of a connection: a user of its own, set once.
pub const IDENTITY: &str = include_str!("sql/identity.sql");

/// One kind of load: a script in a database, as a role.
#[derive(Clone)]
pub struct Load {
    pub name: &'static str,
    script: PathBuf,
    db: String,
    role: &'static str,
    options: Vec<String>,
    /// A server-wide setting that must be on meanwhile.
    pub setting: Option<&'static str>,
}

/// What a run of pgbench did.
pub struct Outcome {
    pub tps: f64,
    pub transactions: u64,
}

impl Load {
    /// The parts of the script are put together in order.
    pub fn new(server: &Server, name: &'static str, db: &str, script: &[&str]) -> Self {
        let path = server.file(&format!("{}.sql", name.replace(' ', "_")));
        fs::write(&path, script.concat()).expect("the script is writable");
        let options = ["-n", "-M", "prepared", "-D", "first=1"].map(str::to_owned).to_vec();
        Self { name, script: path, db: db.to_owned(), role: APP, options, setting: None }
    }

    pub fn variable(mut self, name: &str, value: impl ToString) -> Self {
        self.options.extend(["-D".to_owned(), format!("{name}={}", value.to_string())]);
        self
    }

    pub fn option(mut self, option: impl Into<String>) -> Self {
        self.options.push(option.into());
        self
    }

    pub fn with(mut self, setting: &'static str) -> Self {
        self.setting = Some(setting);
        self
    }

    /// The command, for a caller that watches it run.
    pub fn command(&self, server: &Server, clients: u32, time: Duration) -> Command {
        let mut command = Command::new(bindir().join("pgbench"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command
            .current_dir(server.socket_dir())
            .arg("-h")
            .arg(server.socket_dir())
            .args(["-p", &server.cluster.port().to_string(), "-U", self.role])
            .args(&self.options)
            .args(["-c", &clients.to_string(), "-j", &clients.min(2).to_string()])
            .args(["-T", &time.as_secs().to_string(), "-f"])
            .arg(&self.script)
            .arg(&self.db);
        command
    }

    pub fn run(&self, server: &Server, clients: u32, time: Duration) -> Outcome {
        if let Some(setting) = self.setting {
            server.set(setting, "on");
        }
        let output = self.command(server, clients, time).output().expect("pgbench starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: pgbench fails ({}):\n{text}{errors}", self.name, output.status);
        if let Some(setting) = self.setting {
            server.set(setting, "off");
        }
        Outcome::read(&text).unwrap_or_else(|why| panic!("{}: {why}:\n{text}{errors}", self.name))
    }
}

impl Outcome {
    /// Reads pgbench's summary; a failed transaction makes it worthless.
    pub fn read(text: &str) -> Result<Self, String> {
        let number_after = |label: &str| -> Result<f64, String> {
            let line = text.lines().find_map(|line| line.strip_prefix(label)).ok_or(format!("no line {label:?}"))?;
            let word = line.split_whitespace().next().unwrap_or_default();
            word.split('/').next().unwrap_or_default().parse().map_err(|_| format!("{label:?} is followed by {word:?}"))
        };
        let failed = number_after("number of failed transactions: ")?;
        if failed != 0.0 {
            return Err(format!("{failed} transactions failed"));
        }
        let transactions = number_after("number of transactions actually processed: ")? as u64;
        if transactions == 0 {
            return Err("not one transaction was done".into());
        }
        Ok(Self { tps: number_after("tps = ")?, transactions })
    }
}
