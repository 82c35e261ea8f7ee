//! The counts of a run, for the table in docs/reliability.md.

use std::fs::OpenOptions;
use std::io::Write;

/// How many rounds a scenario runs: a few in an ordinary run, more if VAULT_EXT_ROUNDS says so.
pub fn rounds() -> usize {
    std::env::var("VAULT_EXT_ROUNDS").map_or(2, |text| text.parse().expect("VAULT_EXT_ROUNDS is a number"))
}

/// How big a load scenario is: `short` in an ordinary run, `full` if there are as many rounds as in the table.
pub fn scenario_size(short: usize, full: usize) -> usize {
    if rounds() < 20 { short } else { full }
}

/// The counts from a scenario's end checks.
pub struct Counts<'a> {
    pub scenario: &'a str,
    pub runs: usize,
    pub released: usize,
    pub rows: i64,
    pub opened: usize,
    pub bytes_searched: usize,
    pub failed_calls: usize,
    /// The versions of the installed extension and of the server.
    pub versions: (String, String),
}

/// Appends a line to the file that VAULT_EXT_COUNTS names, if it is set. The caller has checked everything by then.
/// The thread's name is the test's name.
pub fn report(counts: &Counts<'_>) {
    let Some(path) = std::env::var_os("VAULT_EXT_COUNTS") else { return };
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("the counts file opens");
    let thread = std::thread::current();
    let Counts { scenario, runs, released, rows, opened, bytes_searched, failed_calls, versions } = counts;
    let test = thread.name().unwrap_or("unnamed");
    let line = format!(
        "{test}\t{scenario}\t{runs}\t{released}\t{rows}\t{opened}\t{bytes_searched}\t{failed_calls}\t{}\t{}\n",
        versions.0, versions.1
    );
    file.write_all(line.as_bytes()).expect("the counts file is writable");
}
