//! The processor time and the context switches of all processes of the server, for one call, while the clients stay connected.

use std::thread::sleep;
use std::time::Duration;

use postgres::Client;

use crate::figures::{Figure, Goal};
use crate::machine::{scheduled, voluntary_switches};
use crate::options::Options;
use crate::pgbench::{IDENTITY, Load, now};
use crate::report::Report;
use crate::sections::Section;
use crate::server::{Server, mint};

pub const SECTION: Section =
    Section { name: "processor", title: "processor time and context switches of the server per call", run };

const USERS: i64 = 10_000;
const CLIENTS: [u32; 2] = [32, 64];
/// At 64 clients, in microseconds.
const BEYOND_SELECT: f64 = 30.0;
/// At 32 clients.
const SWITCHES: f64 = 1.3;

fn run(options: &Options, report: &mut Report) {
    // The writer of a fetch must not end while another side is watched.
    let server = Server::start(&["vault_ext.audit_idle_exit = 100ms"]);
    let mut db = server.database("processor");
    mint(&mut db, USERS);
    db.batch_execute(include_str!("../sql/baselines.sql")).expect("the baselines' tables");
    db.batch_execute("VACUUM ANALYZE").expect("vacuum");
    let load = |name, script: &str| Load::new(&server, name, "processor", &[IDENTITY, script]).variable("users", USERS);
    let sides = [
        load("fetch", include_str!("../sql/fetch.sql")),
        load("plain SELECT", include_str!("../sql/plain_select.sql")),
        load("bare INSERT", include_str!("../sql/bare_insert.sql")),
    ];
    for clients in CLIENTS {
        server.settle();
        let mut used: [Vec<Used>; 3] = Default::default();
        for round in 0..options.rounds() {
            let mut order = [0, 1, 2];
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let load = &sides[index];
                let this = measure(&server, &mut db, load, clients, options.pick(5, 2));
                println!(
                    "    {clients:>3} clients, round {}: {:>6.1} µs, {:.2} switches, {:>7.0} calls/s  {}",
                    round + 1,
                    this.microseconds,
                    this.switches,
                    this.calls_a_second,
                    load.name
                );
                used[index].push(this);
            }
        }
        let [fetch, select, insert] = &used;
        let values = |side: &[Used], of: fn(&Used) -> f64| side.iter().map(of).collect::<Vec<_>>();
        let mut add = |name: &str, unit, values: &[f64], goal: Option<Goal>| {
            report.add(Figure::plain("processor", name, unit, values).clients(clients).goal_if(goal));
        };
        let goal = |at: u32, bound: f64| (clients == at).then_some(Goal::AtMost(bound));
        let beyond: Vec<f64> =
            fetch.iter().zip(select).map(|(fetch, select)| fetch.microseconds - select.microseconds).collect();
        let name = "the server's processor time of a fetch beyond that of a plain SELECT";
        add(name, "µs", &beyond, goal(CLIENTS[1], BEYOND_SELECT));
        for (name, side) in [("fetch", fetch), ("plain SELECT", select), ("bare INSERT", insert)] {
            add(&format!("{name}: the server's processor time"), "µs", &values(side, |used| used.microseconds), None);
        }
        let name = "fetch: voluntary context switches of the server";
        add(name, "a call", &values(fetch, |used| used.switches), goal(CLIENTS[0], SWITCHES));
        for (name, side) in [("plain SELECT", select), ("bare INSERT", insert)] {
            let name = format!("{name}: voluntary context switches of the server");
            add(&name, "a call", &values(side, |used| used.switches), None);
        }
        let beyond: Vec<f64> =
            fetch.iter().zip(select).map(|(fetch, select)| fetch.switches - select.switches).collect();
        add("fetch: voluntary context switches of the server beyond a plain SELECT's", "a call", &beyond, None);
        add("fetch: the audit writer's processor time", "µs", &values(fetch, |used| used.writer_microseconds), None);
        add(
            "fetch: the audit writer's voluntary context switches",
            "a call",
            &values(fetch, |used| used.writer_switches),
            None,
        );
    }
}

/// What the server used for one call.
struct Used {
    microseconds: f64,
    switches: f64,
    /// The audit writer's part.
    writer_microseconds: f64,
    writer_switches: f64,
    calls_a_second: f64,
}

/// Watches all processes of the server for some seconds of a load, and divides by the calls that ended meanwhile.
fn measure(server: &Server, db: &mut Client, load: &Load<'_>, clients: u32, seconds: u64) -> Used {
    const AROUND: u64 = 1;
    let load = load.clone().logged();
    let running = load.start(clients, &["-T", &(seconds + 2 * AROUND + 1).to_string()]);
    // Wait until the clients are connected and the caches are warm.
    sleep(Duration::from_secs(AROUND));
    let processes = server.cluster.processes();
    assert!(processes.len() > clients as usize, "all clients are connected");
    let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'vault_ext audit writer'";
    let writer: Vec<i32> = db.query(sql, &[]).expect("pg_stat_activity").iter().map(|row| row.get(0)).collect();
    let begin = (sample(&processes), sample(&writer));
    sleep(Duration::from_secs(seconds));
    let end = (sample(&processes), sample(&writer));
    running.outcome();
    let calls = load.calls().iter().filter(|(ended, _)| (begin.0.at..end.0.at).contains(ended)).count() as f64;
    let microseconds = |begin: &Sample, end: &Sample| 1e6 * (end.processor - begin.processor) / calls;
    let switches = |begin: &Sample, end: &Sample| (end.switches - begin.switches) / calls;
    Used {
        microseconds: microseconds(&begin.0, &end.0),
        switches: switches(&begin.0, &end.0),
        writer_microseconds: microseconds(&begin.1, &end.1),
        writer_switches: switches(&begin.1, &end.1),
        calls_a_second: calls / (end.0.at - begin.0.at),
    }
}

struct Sample {
    at: f64,
    processor: f64,
    switches: f64,
}

/// None of the processes may end meanwhile.
fn sample(processes: &[i32]) -> Sample {
    let sum = |of: fn(i32) -> Option<f64>| processes.iter().map(|pid| of(*pid).expect("a process of the server")).sum();
    Sample { at: now(), processor: sum(|pid| scheduled(pid).map(|(ran, _)| ran)), switches: sum(voluntary_switches) }
}
