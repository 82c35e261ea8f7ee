//! The unwrap of one row with cached keys, inside the server.

use crate::figures::{Figure, Goal};
use crate::options::Options;
use crate::report::Report;
use crate::sections::Section;
use crate::server::Server;

pub const SECTION: Section = Section { name: "unwrap", title: "opening a wrap, inside the server", run };

const ROUNDS: usize = 7;

fn run(options: &Options, report: &mut Report) {
    let library = std::env::var("VAULT_EXT_BENCH_LIBRARY")
        .expect("VAULT_EXT_BENCH_LIBRARY must name a build of vault_ext with the feature bench (see make bench)");
    let server = Server::start(&[]);
    let copy = server.file("vault_ext_bench.so");
    std::fs::copy(&library, &copy).unwrap_or_else(|e| panic!("{library}: {e}"));
    let mut db = server.superuser("postgres");
    db.batch_execute(&format!(
        "CREATE FUNCTION nanoseconds(what text, rounds int) RETURNS float8 STRICT LANGUAGE c
         AS '{}', 'bench_nanoseconds_wrapper'",
        copy.display()
    ))
    .expect("the micro benchmark's function");
    let mut nanoseconds = |what: &str| -> Vec<f64> {
        let rounds: i32 = options.pick(1_000_000, 100_000);
        let mut one = || db.query_one("SELECT nanoseconds($1, $2)", &[&what, &rounds]).expect(what).get(0);
        let _warm: f64 = one();
        (0..ROUNDS).map(|_| one()).collect()
    };
    let floors = [nanoseconds("AES blocks of format 1"), nanoseconds("AES blocks of format 2")];
    for (format, bound, floor) in [(1, 1_000.0, &floors[0]), (2, 1_500.0, &floors[1])] {
        let what = format!("unwrap of format {format}");
        report.add(Figure::plain("unwrap", &what, "ns", &nanoseconds(&what)).goal(Goal::AtMost(bound)));
        report.add(Figure::plain("unwrap", format!("its AES blocks and key schedules alone (AES-NI)"), "ns", floor));
    }
    report.add(Figure::plain("unwrap", "AES-256-GCM of 32 bytes alone", "ns", &nanoseconds("AES-256-GCM of 32 bytes")));
}
