//! `make bench` measures every figure of docs/benchmarks.md. Each run interleaves both sides of a ratio.
//!
//! `VAULT_EXT_PG_CONFIG` names the pg_config of a PostgreSQL tree that has a release build installed. The tests'
//! harness starts the servers, each in its own folder, and they go away together with this process. `QUICK=1` runs a
//! short version, `ONLY=a,b` only the sections with these names. Results go to target/bench.

mod charts;
mod figures;
#[path = "../tests/wire/harness/mod.rs"]
#[allow(dead_code, unused_imports)]
mod harness;
mod machine;
mod options;
mod pgbench;
mod report;
mod rounds;
mod sections;
mod server;

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::time::Instant;

use options::Options;
use report::Report;

fn main() -> ExitCode {
    let names: Vec<_> = sections::ALL.iter().map(|section| section.name).collect();
    let options = Options::from_env(&names);
    let mut report = Report::begin(&options);
    let mut failed = Vec::new();
    for section in sections::ALL.iter().filter(|section| options.wants(section.name)) {
        let start = Instant::now();
        println!("\n==> {}: {}", section.name, section.title);
        // A section that fails must not lose the results of the others.
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| (section.run)(&options, &mut report)));
        if outcome.is_err() {
            failed.push(section.name);
            report.note(format!("the section {} FAILED; what it measured before stands above", section.name));
        }
        report.took(section.name, start.elapsed());
        report.write();
    }
    println!("\n{report}");
    if !failed.is_empty() {
        eprintln!("failed: {}", failed.join(", "));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
