//! The effect of a preloaded vault_ext on other users of the server. There should be none.

use std::time::Duration;

use crate::figures::{Figure, Goal};
use crate::harness::{bindir, server_command};
use crate::options::Options;
use crate::pgbench::{IDENTITY, Load};
use crate::report::Report;
use crate::rounds::rounds;
use crate::sections::Section;
use crate::server::{Server, mint};

pub const SECTION: Section =
    Section { name: "neighbours", title: "a server with vault_ext idle against one without", run };

const CLIENTS: u32 = 8;
const TPC_B: f64 = 0.99;
const TPC_B_BESIDE_A_FETCH: f64 = 0.97;
const CONNECTIONS: f64 = 0.95;

fn run(options: &Options, report: &mut Report) {
    let servers = [Server::start(&[]), Server::without_vault_ext()];
    for server in &servers {
        let mut command = server_command(bindir().join("pgbench"), server.cluster.dir());
        command.args(["-i", "-q", "-s", options.pick("50", "10"), "-U", "postgres", "-h"]).arg(server.cluster.dir());
        let output = command.args(["-p", &server.cluster.port().to_string(), "postgres"]).output().expect("pgbench");
        assert!(output.status.success(), "pgbench -i: {output:?}");
        server.settle();
    }
    let names = ["with vault_ext", "without"];
    let sides = |script: &str, options: &[&str]| -> Vec<Load<'_>> {
        let side = |i: usize| Load::builtin(&servers[i], names[i], "postgres", script).options(options);
        vec![side(0), side(1)]
    };
    // The goals are close to 1, so this section needs more rounds than others.
    let (count, time) = (options.pick(7, 3), options.round().max(Duration::from_secs(2)));
    let lines = [
        ("TPC-B with vault_ext preloaded and idle against without", sides("tpcb-like", &[]), TPC_B),
        ("new connections (pgbench -C) likewise", sides("select-only", &["-C"]), CONNECTIONS),
    ];
    for (name, sides, goal) in lines {
        let samples = rounds(&sides, CLIENTS, count, time);
        let figure = Figure::ratio("neighbours", name, "/s", &samples[0].tps, &samples[1].tps);
        report.add(figure.clients(CLIENTS).goal(Goal::AtLeast(goal)));
    }

    let mut db = servers[0].database("fetches");
    mint(&mut db, 100);
    let fetch = Load::new(&servers[0], "fetch", "fetches", &[IDENTITY, include_str!("../sql/fetch.sql")]);
    let beside = |name, value| {
        let load = Load::builtin(&servers[0], name, "postgres", "tpcb-like").with("vault_ext.audit_spin", value);
        load.beside(fetch.clone().variable("users", 100), 1)
    };
    let samples =
        rounds(&[beside("audit_spin = auto", "auto"), beside("audit_spin = off", "off")], CLIENTS, count, time);
    let name = "TPC-B beside one client that fetches, with audit_spin = auto against off";
    let figure = Figure::ratio("neighbours", name, "/s", &samples[0].tps, &samples[1].tps);
    report.add(figure.clients(CLIENTS).goal(Goal::AtLeast(TPC_B_BESIDE_A_FETCH)));
}
