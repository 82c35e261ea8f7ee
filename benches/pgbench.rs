//! Runs of pgbench. None of their transactions may fail.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::harness::bindir;
use crate::server::{APP, Server};

/// Sets a connection's identity once. Each connection has its own user.
pub const IDENTITY: &str = include_str!("sql/identity.sql");

/// One kind of load: a role runs a script in a database of a server.
#[derive(Clone)]
pub struct Load<'s> {
    pub name: &'static str,
    server: &'s Server,
    db: String,
    role: &'static str,
    options: Vec<String>,
    /// A server-wide setting that is on during the run.
    setting: Option<&'static str>,
}

/// The result of a pgbench run.
pub struct Outcome {
    pub tps: f64,
    pub transactions: u64,
}

impl<'s> Load<'s> {
    /// Joins the parts of the script in order. The application's role runs it.
    pub fn new(server: &'s Server, name: &'static str, db: &str, script: &[&str]) -> Self {
        let path = server.file(&format!("{}.sql", name.replace(' ', "_")));
        fs::write(&path, script.concat()).expect("the script is writable");
        let load = Self { name, server, db: db.to_owned(), role: APP, options: Vec::new(), setting: None };
        load.options(&["-D", "first=1", "-f", &path.display().to_string()])
    }

    /// One of pgbench's built-in scripts, run by the superuser.
    pub fn builtin(server: &'s Server, name: &'static str, db: &str, script: &str) -> Self {
        let load = Self { name, server, db: db.to_owned(), role: "postgres", options: Vec::new(), setting: None };
        load.options(&["-b", script])
    }

    pub fn variable(mut self, name: &str, value: impl ToString) -> Self {
        self.options.extend(["-D".to_owned(), format!("{name}={}", value.to_string())]);
        self
    }

    pub fn options(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|option| (*option).to_owned()));
        self
    }

    pub fn by_superuser(mut self) -> Self {
        self.role = "postgres";
        self
    }

    pub fn with(mut self, setting: &'static str) -> Self {
        self.setting = Some(setting);
        self
    }

    pub fn run(&self, clients: u32, time: Duration) -> Outcome {
        if let Some(setting) = self.setting {
            self.server.set(setting, "on");
        }
        let outcome = self.start(clients, &["-T", &time.as_secs().to_string()]).outcome();
        if let Some(setting) = self.setting {
            self.server.set(setting, "off");
        }
        outcome
    }

    /// Starts a run that the caller watches. `until` says how long it runs.
    pub fn start(&self, clients: u32, until: &[&str]) -> Running {
        let mut command = Command::new(bindir().join("pgbench"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        let dir = self.server.cluster.dir();
        let child = command
            .current_dir(dir)
            .arg("-h")
            .arg(dir)
            .args(["-p", &self.server.cluster.port().to_string(), "-U", self.role, "-n", "-M", "prepared"])
            .args(["-c", &clients.to_string(), "-j", &clients.min(2).to_string()])
            .args(until)
            .args(&self.options)
            .arg(&self.db)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("pgbench starts");
        Running { name: self.name, child }
    }
}

/// A pgbench run in progress.
pub struct Running {
    name: &'static str,
    child: Child,
}

impl Running {
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("pgbench can be waited for").is_some()
    }

    /// Waits for the run to end.
    pub fn outcome(self) -> Outcome {
        let output = self.child.wait_with_output().expect("pgbench can be waited for");
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}: pgbench fails ({}):\n{text}{errors}", self.name, output.status);
        Outcome::read(&text).unwrap_or_else(|why| panic!("{}: {why}:\n{text}{errors}", self.name))
    }
}

impl Outcome {
    /// Reads pgbench's summary. A failed transaction makes the run worthless.
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
