//! Unwraps one row with cached keys, inside the server.

use crate::figures::{Figure, Goal};
use crate::options::Options;
use crate::report::Report;
use crate::sections::Section;
use crate::server::Server;

pub const SECTION: Section = Section { name: "unwrap", title: "opening a wrap, inside the server", run };

const ROUNDS: usize = 7;

fn run(options: &Options, report: &mut Report) {
    let server = Server::start(&[]);
    let mut db = server.superuser("postgres");
    let declaration = "nanoseconds(what text, rounds int) RETURNS float8 STRICT";
    server.micro_benchmark(&mut db, declaration, "bench_nanoseconds");
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
        report.add(Figure::plain("unwrap", "its AES blocks and key schedules alone (AES-NI)", "ns", floor));
    }
    report.add(Figure::plain("unwrap", "AES-256-GCM of 32 bytes alone", "ns", &nanoseconds("AES-256-GCM of 32 bytes")));
}
