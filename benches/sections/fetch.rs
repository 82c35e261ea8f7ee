//! The audited fetch, compared with its alternatives.

use crate::figures::{Figure, Goal};
use crate::options::Options;
use crate::pgbench::{IDENTITY, Load};
use crate::report::Report;
use crate::rounds::interleave;
use crate::sections::Section;
use crate::server::{Server, mint, number};

pub const SECTION: Section = Section { name: "fetch", title: "vault_get_master_key() against plain PostgreSQL", run };

const USERS: i64 = 10_000;
const SPIN: &str = "vault_ext.audit_spin";
const CLIENTS: [u32; 4] = [1, 8, 32, 64];

/// The goals against the bare INSERT and the predecessor, by clients.
const BARE_INSERT: [f64; 4] = [0.85, 1.05, 1.25, 1.20];
const PREDECESSOR: [f64; 4] = [2.3, 2.1, 3.5, 4.0];
const PGCRYPTO: f64 = 3.0;

fn run(options: &Options, report: &mut Report) {
    let server = Server::start(&[]);
    let mut db = server.database("fetches");
    mint(&mut db, USERS);
    db.batch_execute(include_str!("../sql/baselines.sql")).expect("the baselines' tables");
    let passphrase = crate::harness::base64(&crate::harness::kek(7));
    let pgcrypto = has_pgcrypto(&mut db);
    if pgcrypto {
        db.batch_execute(&format!("SET bench.passphrase = '{passphrase}'")).expect("a setting");
        db.batch_execute(include_str!("../sql/pgcrypto_setup.sql")).expect("pgcrypto's table");
    } else {
        report.note("pgcrypto is not installed here: its lines are missing");
    }
    db.batch_execute("VACUUM ANALYZE").expect("vacuum");

    let load = |name, parts: &[&str]| Load::new(&server, name, "fetches", parts).variable("users", USERS);
    let fetch = [IDENTITY, include_str!("../sql/fetch.sql")];
    for (index, clients) in CLIENTS.into_iter().enumerate() {
        let mut sides = vec![
            load(OURS[0], &fetch),
            load("bare INSERT", &[IDENTITY, include_str!("../sql/bare_insert.sql")]),
            load("predecessor", &[include_str!("../sql/predecessor.sql")]),
            load("plain SELECT", &[IDENTITY, include_str!("../sql/plain_select.sql")]),
            load(OURS[2], &[include_str!("../sql/fetch_any_user.sql")]),
        ];
        if pgcrypto {
            let script = [IDENTITY, include_str!("../sql/pgcrypto.sql")];
            sides.push(load("pgcrypto with audit", &script).variable("passphrase", &passphrase));
        }
        if clients == 1 && server.has_setting(SPIN) {
            sides.push(load(OURS[1], &fetch).with(SPIN, "on"));
            sides.push(load(OURS[3], &fetch).with(SPIN, "off"));
        }

        server.settle();
        let before = audited(&mut db);
        let samples = interleave(&sides, clients, options);
        let calls: u64 = sides
            .iter()
            .zip(&samples)
            .filter(|(side, _)| OURS.contains(&side.name))
            .map(|(_, samples)| samples.transactions)
            .sum();
        let rows = audited(&mut db) - before;
        assert_eq!(rows, calls as i64, "{calls} calls left {rows} audit rows");

        let of =
            |name: &str| sides.iter().position(|side| side.name == name).map(|index| samples[index].tps.as_slice());
        let figure =
            |name: &str, a: &str, b: &str| Some(Figure::ratio("fetch", name, "/s", of(a)?, of(b)?).clients(clients));
        let lines = [
            (figure("fetch against bare INSERT", OURS[0], "bare INSERT"), Some(BARE_INSERT[index])),
            (figure("fetch with audit_spin = on against bare INSERT", OURS[1], "bare INSERT"), None),
            (figure("fetch with audit_spin = off against bare INSERT", OURS[3], "bare INSERT"), None),
            (figure("fetch against the predecessor", OURS[0], "predecessor"), Some(PREDECESSOR[index])),
            (figure("fetch against pgcrypto with audit", OURS[0], "pgcrypto with audit"), Some(PGCRYPTO)),
            (figure("fetch against a plain SELECT", OURS[0], "plain SELECT"), None),
            (figure("fetch of another user each call against bare INSERT", OURS[2], "bare INSERT"), None),
        ];
        for (line, goal) in lines {
            if let Some(line) = line {
                report.add(line.goal_if(goal.map(Goal::AtLeast)));
            }
        }
        // Leave the plain SELECT out of the chart: it would dwarf the sides that write a durable row.
        for (side, samples) in sides.iter().zip(&samples).filter(|(side, _)| side.name != "plain SELECT") {
            report.throughput(side.name, clients, &samples.tps);
        }
    }
}

/// The sides that write a row to our trail.
const OURS: [&str; 4] =
    ["vault_get_master_key()", "with audit_spin = on", "another user each call", "with audit_spin = off"];

fn audited(db: &mut postgres::Client) -> i64 {
    number(db, "SELECT count(*) FROM vault_ext.encryption_vault_audit WHERE action = 'fetch' AND status = 200")
}

fn has_pgcrypto(db: &mut postgres::Client) -> bool {
    number(db, "SELECT count(*) FROM pg_available_extensions WHERE name = 'pgcrypto'") == 1
}
