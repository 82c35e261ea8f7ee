//! The memory of a backend and of the audit writer: the cost of the first call, and the growth over millions of calls.

use std::thread::sleep;
use std::time::Duration;

use postgres::Client;

use crate::figures::{Figure, Goal, number as text};
use crate::machine::kilobytes;
use crate::options::Options;
use crate::pgbench::{IDENTITY, Load};
use crate::report::Report;
use crate::sections::Section;
use crate::server::{APP, FIRST_USER, Server, mint};

pub const SECTION: Section = Section { name: "memory", title: "memory of backends and of the audit writer", run };

const CLIENTS: u32 = 32;
const USERS: i64 = 10_000;
const FIRST_CALL: f64 = 290.0;
/// Growth up to this many kB counts as flat. It would still reveal a leak of one byte in forty calls.
pub const FLAT: f64 = 256.0;
const SELECT: &str =
    "SELECT wrapped_mk, wrap_iv, format_version, kek_id, key_version FROM bench.vaults WHERE user_id = $1";

fn run(options: &Options, report: &mut Report) {
    // Memory does not depend on the disk, and without waiting for the disk the calls take half the time.
    let server = Server::start(&["fsync = off"]);
    let mut db = server.database("memory");
    mint(&mut db, USERS);
    db.batch_execute(include_str!("../sql/baselines.sql")).expect("the baselines' tables");
    db.batch_execute("VACUUM ANALYZE").expect("vacuum");

    let fetch: Work = |client| {
        assert_eq!(client.query("SELECT * FROM vault_get_master_key()", &[]).expect("a key").len(), 1);
    };
    let select: Work = |client| {
        let user = (FIRST_USER + 1).to_string();
        assert_eq!(client.query(SELECT, &[&user]).expect("a row").len(), 1);
    };
    let add = |before: &[Work], work: Work| -> Vec<f64> { (0..5).map(|_| first_use(&server, before, work)).collect() };
    let cold = Figure::plain("memory", "a backend's first fetch adds", "kB", &add(&[], fetch));
    report.add(cold.goal(Goal::AtMost(FIRST_CALL)));
    let after = "a first fetch after a plain SELECT of another table adds";
    report.add(Figure::plain("memory", after, "kB", &add(&[select], fetch)));
    report.add(Figure::plain("memory", "a backend's first plain SELECT adds", "kB", &add(&[], select)));

    let calls: u64 = options.pick(10_000_000, 200_000);
    let each = (calls / u64::from(CLIENTS)).to_string();
    let load = Load::new(&server, "fetch", "memory", &[IDENTITY, include_str!("../sql/fetch.sql")]);
    let mut running = load.variable("users", USERS).start(CLIENTS, &["-t", &each]);
    let mut samples: Vec<(i64, f64, f64)> = Vec::new();
    let (start, mut last) = (audited(&mut db), 0);
    while !running.has_ended() {
        let done = audited(&mut db) - start;
        // Sample after every twentieth of the calls.
        if done - last >= calls as i64 / 20 {
            last = done;
            samples.extend(largest(&mut db).map(|(backend, writer)| (done, backend, writer)));
        }
        sleep(Duration::from_millis(50));
    }
    running.outcome();
    // The first tenth of the calls is the warm-up.
    let warm =
        samples.iter().find(|sample| sample.0 >= calls as i64 / 10).expect("a sample after a tenth of the calls");
    let (_, backend, writer) = samples.last().expect("samples");
    let over = format!("over {} calls ({} kB at its end)", text(calls as f64 * 0.9), "{}");
    let line = |who: &str, at_end: f64, growth: f64| {
        let name = format!("growth of {who} {}", over.replace("{}", &text(at_end)));
        Figure::plain("memory", name, "kB", &[growth]).once().goal(Goal::AtMost(FLAT))
    };
    report.add(line("the largest backend", *backend, backend - warm.1));
    report.add(line("the audit writer", *writer, writer - warm.2));
}

type Work = fn(&mut Client);

/// The memory in kB that the first use adds to a fresh backend.
fn first_use(server: &Server, before: &[Work], work: Work) -> f64 {
    let mut client = server.cluster.conn(APP, "memory");
    let user = (FIRST_USER + 1).to_string();
    client.execute("SELECT set_config('app.current_user_id', $1, false)", &[&user]).expect("set_config");
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).expect("a backend").get(0);
    before.iter().for_each(|earlier| earlier(&mut client));
    let before = kilobytes(pid, "smaps_rollup", "Pss_Anon:").expect("the backend's memory");
    work(&mut client);
    kilobytes(pid, "smaps_rollup", "Pss_Anon:").expect("the backend's memory") - before
}

/// The private memory of the load's largest backend and of the writer. None if no writer runs at the moment.
fn largest(db: &mut Client) -> Option<(f64, f64)> {
    let rows = db
        .query(
            "SELECT pid, backend_type FROM pg_stat_activity WHERE datname = 'memory' AND pid <> pg_backend_pid()",
            &[],
        )
        .expect("pg_stat_activity");
    let memory = |writers: bool| {
        let of_kind = rows.iter().filter(move |row| (row.get::<_, &str>(1) == "vault_ext audit writer") == writers);
        of_kind.filter_map(|row| kilobytes(row.get(0), "status", "RssAnon:")).reduce(f64::max)
    };
    Some((memory(false)?, memory(true)?))
}

fn audited(db: &mut Client) -> i64 {
    crate::server::number(db, "SELECT rows_written FROM vault_ext.audit_stats")
}
