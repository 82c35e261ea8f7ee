//! The user who runs the servers: `postgres` if the tests run as root (PostgreSQL refuses root), else the tests' user.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

struct Account {
    uid: u32,
    gid: u32,
}

static SERVER_ACCOUNT: LazyLock<Option<Account>> =
    LazyLock::new(|| rustix::process::geteuid().is_root().then(|| account("postgres")));

fn account(name: &str) -> Account {
    let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name)).unwrap_or_else(|| {
        panic!("to run as root, the tests need the system user {name}: install PostgreSQL's package or run as an ordinary user")
    });
    let mut fields = line.split(':').skip(2);
    let mut number = || fields.next().and_then(|field| field.parse().ok());
    match (number(), number()) {
        (Some(uid), Some(gid)) => Account { uid, gid },
        _ => panic!("/etc/passwd has no user and group ids for {name}"),
    }
}

/// A command that runs as the servers' user in `dir`, without the caller's PostgreSQL and backtrace settings.
pub fn server_command(program: impl AsRef<Path>, dir: &Path) -> Command {
    let mut command = Command::new(program.as_ref());
    command.current_dir(dir);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("PG") || text.starts_with("LC_") || text.starts_with("RUST_") {
            command.env_remove(&name);
        }
    }
    command.env("LANG", "C.UTF-8");
    if let Some(account) = SERVER_ACCOUNT.as_ref() {
        command.uid(account.uid).gid(account.gid);
    }
    command
}

/// Runs a command that must succeed, and returns its output.
#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    let (printed, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed ({}):\n{printed}{errors}", output.status);
    printed.into_owned()
}

/// Runs a command that must fail, and returns its error output.
#[track_caller]
pub fn fail(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    assert!(!output.status.success(), "{command:?} succeeded");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn chown_to_server(path: &Path) {
    if let Some(account) = SERVER_ACCOUNT.as_ref() {
        chown(path, Some(account.uid), Some(account.gid))
            .unwrap_or_else(|e| panic!("cannot chown {}: {e}", path.display()));
    }
}

/// Every process whose working directory is `dir` or below it. A server's processes all work in its data directory.
pub fn processes_in(dir: &Path) -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc is readable");
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir)))
        .collect()
}
