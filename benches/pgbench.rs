//! Runs of pgbench. None of their transactions may fail.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
    /// A server-wide setting and its value during the run.
    setting: Option<(&'static str, &'static str)>,
    /// A load that runs at the same time, with its clients.
    companion: Option<(Box<Load<'s>>, u32)>,
}

/// The end of one call, in seconds since 1970, and how long it took, in seconds.
pub type Call = (f64, f64);

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
        let load =
            Self { name, server, db: db.to_owned(), role: APP, options: Vec::new(), setting: None, companion: None };
        load.options(&["-D", "first=1", "-f", &path.display().to_string()])
    }

    /// One of pgbench's built-in scripts, run by the superuser.
    pub fn builtin(server: &'s Server, name: &'static str, db: &str, script: &str) -> Self {
        let load = Self {
            name,
            server,
            db: db.to_owned(),
            role: "postgres",
            options: Vec::new(),
            setting: None,
            companion: None,
        };
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

    pub fn with(mut self, setting: &'static str, value: &'static str) -> Self {
        self.setting = Some((setting, value));
        self
    }

    pub fn beside(mut self, companion: Load<'s>, clients: u32) -> Self {
        self.companion = Some((Box::new(companion), clients));
        self
    }

    /// Keeps a log of each call for `calls`.
    pub fn logged(self) -> Self {
        let prefix = format!("--log-prefix={}", self.server.file(LOG).display());
        self.options(&["-l", &prefix])
    }

    /// The calls of a run that was logged and has ended.
    pub fn calls(&self) -> Vec<Call> {
        let mut calls = Vec::new();
        for entry in fs::read_dir(self.server.cluster.dir()).expect("the server's folder") {
            let path = entry.expect("an entry").path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{LOG}."))) {
                calls.extend(fs::read_to_string(&path).expect("pgbench's log").lines().map(call));
                fs::remove_file(&path).expect("pgbench's log is ours");
            }
        }
        calls
    }

    pub fn run(&self, clients: u32, time: Duration) -> Outcome {
        if let Some((setting, value)) = self.setting {
            self.server.set(setting, value);
        }
        let until = ["-T", &time.as_secs().to_string()];
        let companion = self.companion.as_ref().map(|(companion, clients)| companion.start(*clients, &until));
        let outcome = self.start(clients, &until).outcome();
        if let Some(companion) = companion {
            companion.outcome();
        }
        if let Some((setting, _)) = self.setting {
            self.server.reset(setting);
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

const LOG: &str = "calls";

/// Reads a line of pgbench's log: client, transaction, microseconds, script, and the end time in seconds and
/// microseconds.
fn call(line: &str) -> Call {
    let fields: Vec<f64> = line.split(' ').map(|field| field.parse().expect("a number")).collect();
    (fields[4] + fields[5] / 1e6, fields[2] / 1e6)
}

/// The time in the log's seconds.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
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
