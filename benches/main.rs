//! `make bench`: every figure of docs/benchmarks.md, each ratio with both sides interleaved in one run.
//!
//! `VAULT_EXT_PG_CONFIG` names the pg_config of a PostgreSQL tree into which a release build was installed. The servers are
//! the tests' harness's: in folders of their own, gone when this process is. `QUICK=1` runs a short version, `ONLY=a,b` the
//! sections of that name. Results go to target/bench.

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
        // One section that fails does not take the results of the others along.
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
