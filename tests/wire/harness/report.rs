//! What a run counted, for the table of docs/reliability.md.

use std::fs::OpenOptions;
use std::io::Write;

/// How often a scenario with rounds is run: few in an ordinary run, more where VAULT_EXT_ROUNDS says so.
pub fn rounds() -> usize {
    std::env::var("VAULT_EXT_ROUNDS").map_or(2, |text| text.parse().expect("VAULT_EXT_ROUNDS is a number"))
}

/// Appends a line to the file that VAULT_EXT_COUNTS names, if it does: called when everything about it has been checked.
pub fn report(scenario: &str, runs: usize, counted: &str) {
    let Some(path) = std::env::var_os("VAULT_EXT_COUNTS") else { return };
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("the file of counts opens");
    let line = format!("{scenario}\t{runs}\t{counted}\tkept\n");
    file.write_all(line.as_bytes()).expect("the file of counts is writable");
}
