//! The latency of the fetch, undisturbed and during a checkpoint or a VACUUM of the trail.

use std::time::Duration;

use crate::figures::{Figure, Goal, percentile};
use crate::options::Options;
use crate::pgbench::{Call, IDENTITY, Load, now};
use crate::report::Report;
use crate::sections::Section;
use crate::server::{APP, FIRST_USER, Server, mint};

pub const SECTION: Section = Section { name: "latency", title: "percentiles of the fetch", run };

const CLIENTS: u32 = 32;
const USERS: i64 = 10_000;
const QUIET: f64 = 2.2;
const DISTURBED: f64 = 10.0;
const PERCENTILES: [f64; 6] = [50.0, 75.0, 90.0, 95.0, 99.0, 99.9];

fn run(options: &Options, report: &mut Report) {
    let server = Server::start(&[]);
    let mut db = server.database("latency");
    mint(&mut db, USERS);
    db.batch_execute(include_str!("../sql/baselines.sql")).expect("the baselines' tables");
    let pages: i64 = options.pick(50_000, 10_000);
    let filler = format!(
        "CREATE TABLE filler AS SELECT n, repeat('x', 7000) AS body FROM generate_series(1, {pages}) n;
         ALTER TABLE filler ALTER body SET STORAGE PLAIN"
    );
    db.batch_execute(&filler).expect("a table to dirty");
    let load = |name, script: &str| Load::new(&server, name, "latency", &[IDENTITY, script]).variable("users", USERS);
    let fetch = load("fetch", include_str!("../sql/fetch.sql"));
    let insert = load("bare INSERT", include_str!("../sql/bare_insert.sql"));
    let time = options.pick(8, 3);

    let mut rounds = Rounds::default();
    for _ in 0..options.rounds() {
        server.settle();
        let (calls, _) = observe(&fetch, time, || ());
        rounds.add("fetch", calls);
        let (calls, _) = observe(&insert, time, || ());
        rounds.add("bare INSERT", calls);

        // Make every page of that table dirty before the checkpoint.
        db.batch_execute("UPDATE filler SET n = n + 1").expect("dirty pages");
        let (calls, window) = observe(&fetch, time, || {
            server.superuser("latency").batch_execute("CHECKPOINT").expect("a checkpoint");
            // After the checkpoint, the first change of each page writes the whole page to the log. This is part of the
            // checkpoint's cost.
            std::thread::sleep(Duration::from_secs(1));
        });
        rounds.add("fetch during a checkpoint", within(calls, window));

        db.batch_execute(&dead_rows(options.pick(500_000, 100_000))).expect("dead rows");
        let (calls, window) = observe(&fetch, time, || {
            let vacuum = "VACUUM vault_ext.encryption_vault_audit";
            server.superuser("latency").batch_execute(vacuum).expect("vacuum");
        });
        rounds.add("fetch during a VACUUM of the trail", within(calls, window));
        db.batch_execute("VACUUM filler").expect("vacuum");
    }

    let quiet = rounds.percentiles("fetch", 50.0);
    let lines = [
        ("fetch: p99 against its median", "fetch", Some(QUIET)),
        ("fetch during a checkpoint: p99 against the undisturbed median", "fetch during a checkpoint", Some(DISTURBED)),
        ("fetch during a VACUUM of the trail: likewise", "fetch during a VACUUM of the trail", Some(DISTURBED)),
    ];
    for (name, situation, goal) in lines {
        let p99 = rounds.percentiles(situation, 99.0);
        let figure = Figure::ratio("latency", name, "ms", &p99, &quiet).clients(CLIENTS);
        report.add(figure.goal_if(goal.map(Goal::AtMost)));
    }
    let (p99, median) = (rounds.percentiles("bare INSERT", 99.0), rounds.percentiles("bare INSERT", 50.0));
    report.add(Figure::ratio("latency", "bare INSERT: p99 against its median", "ms", &p99, &median).clients(CLIENTS));
    for situation in ["fetch", "bare INSERT", "fetch during a checkpoint", "fetch during a VACUUM of the trail"] {
        for share in PERCENTILES {
            report.latency(situation, share, crate::figures::Spread::of(&rounds.percentiles(situation, share)).median);
        }
    }
}

/// Sorted latencies in milliseconds, with a list for each situation and round.
#[derive(Default)]
struct Rounds(Vec<(&'static str, Vec<f64>)>);

impl Rounds {
    fn add(&mut self, situation: &'static str, calls: Vec<Call>) {
        let mut latencies: Vec<f64> = calls.iter().map(|call| call.1 * 1_000.0).collect();
        assert!(latencies.len() >= 100, "{situation}: only {} calls, too few to judge", latencies.len());
        latencies.sort_by(f64::total_cmp);
        let (p50, p99) = (percentile(&latencies, 0.5), percentile(&latencies, 0.99));
        println!("    {} calls, p50 {p50:.2} ms, p99 {p99:.2} ms: {situation}", latencies.len());
        self.0.push((situation, latencies));
    }

    fn percentiles(&self, situation: &str, share: f64) -> Vec<f64> {
        self.0.iter().filter(|round| round.0 == situation).map(|round| percentile(&round.1, share / 100.0)).collect()
    }
}

/// Runs the load for some seconds and a disturbance in the middle. Returns the calls and the time window of the
/// disturbance.
fn observe(load: &Load<'_>, seconds: u64, disturb: impl FnOnce()) -> (Vec<Call>, (f64, f64)) {
    let load = load.clone().logged();
    let running = load.start(CLIENTS, &["-T", &seconds.to_string()]);
    // Wait until the clients are connected and the caches are warm.
    std::thread::sleep(Duration::from_secs(1));
    let begin = now();
    disturb();
    let window = (begin, now());
    running.outcome();
    let mut calls = load.calls();
    // Drop the calls of the first second.
    calls.retain(|call| call.0 - call.1 >= begin);
    (calls, window)
}

/// The calls that overlap with the window.
fn within(mut calls: Vec<Call>, (begin, end): (f64, f64)) -> Vec<Call> {
    calls.retain(|(ended, took)| *ended >= begin && ended - took <= end);
    calls
}

/// Adds twice `count` rows to the trail and deletes half of them.
fn dead_rows(count: i64) -> String {
    format!(
        "INSERT INTO vault_ext.encryption_vault_audit (user_id, action, status, db_role)
         SELECT ({FIRST_USER} + n % {USERS})::text, CASE WHEN n % 2 = 0 THEN 'dead' ELSE 'fetch' END, 200, '{APP}'
         FROM generate_series(1, {count} * 2) n;
         DELETE FROM vault_ext.encryption_vault_audit WHERE action = 'dead'"
    )
}
