//! Rewrapping and checking a table of a million vaults.

use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;

use super::memory::FLAT;
use crate::figures::{Figure, Goal, number as text};
use crate::machine::kilobytes;
use crate::options::Options;
use crate::pgbench::Load;
use crate::report::Report;
use crate::sections::Section;
use crate::server::{FIRST_USER, Server, fill_with_format_1, number};

pub const REWRAP: Section = Section { name: "rewrap", title: "vault_rewrap() against a plain UPDATE", run: rewrap };
pub const CHECK: Section = Section { name: "check", title: "vault_check() against a plain SELECT", run: check };

const BATCH: u32 = 1_000;
const CLIENTS: u32 = 8;
const SLOWER_THAN_UPDATE: f64 = 1.15;
const FETCHES_MEANWHILE: f64 = 0.7;
const SLOWER_THAN_SELECT: f64 = 2.0;
const LINEAR_IN_WRAPS: f64 = 0.9;

/// A member of `vault_ext_admin`.
const ADMIN: &str = "bench_admin";
const DATABASE: &str = "rewraps";

fn rewrap(options: &Options, report: &mut Report) {
    let Some((server, mut db)) = prepare("vault_rewrap", report) else { return };
    let vaults: i64 = options.pick(1_000_000, 200_000);
    db.batch_execute(include_str!("../sql/rewrap_by_hand.sql")).expect("the baseline's procedure");

    let (mut ours, mut by_hand, mut growth) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..options.rounds() {
        for side in [round % 2, (round + 1) % 2] {
            fill(&server, &mut db, vaults);
            let start = Instant::now();
            if side == 0 {
                growth.push(watched_rewrap(&server));
                ours.push(start.elapsed().as_secs_f64());
            } else {
                db.batch_execute(&format!("CALL bench.rewrap_by_hand({BATCH})")).expect("the plain update");
                by_hand.push(start.elapsed().as_secs_f64());
            }
            println!(
                "    round {}: {:.1} s  {}",
                round + 1,
                start.elapsed().as_secs_f64(),
                ["vault_ext", "by hand"][side]
            );
            let done =
                "SELECT count(*) FROM vault_ext.encryption_vaults WHERE kek_id = 'bench-1' AND format_version = 2";
            assert_eq!(number(&mut db, done), vaults, "every vault is under the active KEK");
        }
    }
    let what = format!("rewrap of {} vaults against a plain UPDATE", text(vaults as f64));
    report.add(Figure::ratio("rewrap", what, "s", &ours, &by_hand).goal(Goal::AtMost(SLOWER_THAN_UPDATE)));
    let memory =
        Figure::plain("rewrap", "growth of the backend that rewraps, after a tenth of its time", "kB", &growth);
    report.add(memory.goal(Goal::AtMost(FLAT)));

    let fetch = Load::new(&server, "fetch", DATABASE, &[include_str!("../sql/fetch_any_user.sql")]);
    let fetch = fetch.variable("users", vaults);
    println!("    fetches, without and with a rewrap meanwhile");
    let (mut quiet, mut meanwhile) = (Vec::new(), Vec::new());
    for round in 0..options.rounds() {
        fill(&server, &mut db, vaults);
        fetch.run(CLIENTS, Duration::from_secs(1));
        if round % 2 == 0 {
            quiet.push(fetch.run(CLIENTS, options.round()).tps);
        }
        thread::scope(|scope| {
            let rewrap = scope.spawn(|| watched_rewrap(&server));
            let begun = format!(
                "SELECT format_version::bigint FROM vault_ext.encryption_vaults WHERE user_id = '{}'",
                FIRST_USER + 1
            );
            while number(&mut db, &begun) == 1 {
                assert!(!rewrap.is_finished(), "the rewrap ended and left out the first user's vault");
                thread::sleep(Duration::from_millis(5));
            }
            meanwhile.push(fetch.run(CLIENTS, options.round()).tps);
            assert!(!rewrap.is_finished(), "the rewrap ended before the round: it needs more vaults");
        });
        if round % 2 == 1 {
            quiet.push(fetch.run(CLIENTS, options.round()).tps);
        }
    }
    let figure = Figure::ratio("rewrap", "fetch while a rewrap runs, against without", "/s", &meanwhile, &quiet);
    report.add(figure.clients(CLIENTS).goal(Goal::AtLeast(FETCHES_MEANWHILE)));
    if exists(&mut db, "vault_key_versions") {
        versions(&server, &mut db, vaults / 2, options, report);
    }
}

/// A rewrap takes as long for three old versions of a key as for three more vaults.
fn versions(server: &Server, db: &mut Client, wraps: i64, options: &Options, report: &mut Report) {
    let (mut with_old, mut without) = (Vec::new(), Vec::new());
    for round in 0..options.rounds() {
        for side in [round % 2, (round + 1) % 2] {
            if side == 0 {
                fill(server, db, wraps / 4);
                // Format 1 binds no version, so that one wrap serves for all.
                db.batch_execute(
                    "UPDATE vault_ext.encryption_vaults SET key_version = 4;
                     INSERT INTO vault_ext.old_keys (user_id, key_version, wrapped_mk, wrap_iv, format_version, kek_id, state, superseded_at)
                        SELECT user_id, n, wrapped_mk, wrap_iv, format_version, kek_id, 'decrypt_only', now()
                        FROM vault_ext.encryption_vaults, generate_series(1, 3) n",
                )
                .expect("old keys");
                for vacuum in ["VACUUM FULL vault_ext.encryption_vaults", "VACUUM ANALYZE"] {
                    db.batch_execute(vacuum).expect("vacuum");
                }
                server.settle();
            } else {
                fill(server, db, wraps);
            }
            let start = Instant::now();
            watched_rewrap(server);
            let rate = wraps as f64 / start.elapsed().as_secs_f64();
            if side == 0 {
                with_old.push(rate)
            } else {
                without.push(rate)
            }
            let left = "SELECT (SELECT count(*) FROM vault_ext.encryption_vaults WHERE format_version = 1)
                + (SELECT count(*) FROM vault_ext.old_keys WHERE format_version = 1)";
            assert_eq!(number(db, left), 0, "every wrap is converted");
            db.batch_execute("TRUNCATE vault_ext.old_keys").expect("truncate");
        }
    }
    let name = "rewrap of vaults with three old keys each, against as many wraps of vaults alone";
    let figure = Figure::ratio("rewrap", name, "wraps/s", &with_old, &without);
    report.add(figure.goal(Goal::AtLeast(LINEAR_IN_WRAPS)));
}

fn check(options: &Options, report: &mut Report) {
    let Some((server, mut db)) = prepare("vault_check", report) else { return };
    let vaults: i64 = options.pick(1_000_000, 200_000);
    fill(&server, &mut db, vaults);
    if exists(&mut db, "vault_rewrap") {
        // Convert the vaults to format 2, the format of normal vaults.
        watched_rewrap(&server);
        db.batch_execute("VACUUM ANALYZE vault_ext.encryption_vaults").expect("vacuum");
        server.settle();
    }
    let mut admin = server.cluster.conn(ADMIN, DATABASE);
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..options.rounds() {
        let mut order = [0, 1, 2];
        if round % 2 == 1 {
            order.reverse();
        }
        for side in order {
            let start = Instant::now();
            match side {
                0 => assert_eq!(number(&mut admin, CHECK_ALL), vaults, "every vault opens"),
                1 => assert_eq!(read(&mut db), vaults),
                _ => assert!(number(&mut db, READ_INSIDE) > 0),
            }
            times[side].push(start.elapsed().as_secs_f64());
        }
    }
    let what = format!("vault_check() of {} vaults against a SELECT of the same columns", text(vaults as f64));
    report.add(Figure::ratio("check", what, "s", &times[0], &times[1]).goal(Goal::AtMost(SLOWER_THAN_SELECT)));
    let what = "the same against a SELECT whose rows stay in the server";
    report.add(Figure::ratio("check", what, "s", &times[0], &times[2]));
}

const CHECK_ALL: &str = "SELECT coalesce(sum(vaults), 0)::bigint FROM vault_check() WHERE outcome = 'opens'";
const READ: &str =
    "SELECT user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_version FROM vault_ext.encryption_vaults";
const READ_INSIDE: &str = "SELECT sum(octet_length(user_id) + octet_length(wrapped_mk) + octet_length(wrap_iv) +
    format_version + octet_length(kek_id) + key_version)::bigint FROM vault_ext.encryption_vaults";

/// Reads all rows one by one and discards them.
fn read(db: &mut Client) -> i64 {
    let none: [&str; 0] = [];
    let rows = db.query_raw(READ, none).expect("a select");
    rows.count().expect("rows") as i64
}

/// Starts a server and a database. Returns None and adds a note if this version has no such function.
fn prepare(function: &str, report: &mut Report) -> Option<(Server, Client)> {
    // One side of the check cannot use parallel workers, so neither side may.
    let server = Server::start(&["max_parallel_workers_per_gather = 0"]);
    let mut db = server.database(DATABASE);
    if !exists(&mut db, function) {
        report.note(format!("{function}() is not in this version"));
        return None;
    }
    db.batch_execute(&format!("CREATE ROLE {ADMIN} LOGIN; GRANT vault_ext_admin TO {ADMIN}"))
        .expect("an administrator");
    Some((server, db))
}

fn exists(db: &mut Client, function: &str) -> bool {
    number(db, &format!("SELECT count(*) FROM pg_proc WHERE proname = '{function}'")) > 0
}

/// Replaces all vaults with vaults in the predecessor's format.
fn fill(server: &Server, db: &mut Client, vaults: i64) {
    let table = "vault_ext.encryption_vaults";
    db.batch_execute(&format!("TRUNCATE {table}; {}", fill_with_format_1(table, vaults))).expect("the vaults");
    db.batch_execute(&format!("VACUUM ANALYZE {table}")).expect("vacuum");
    server.settle();
}

/// Rewraps everything as an administrator. Returns the growth of its backend in kB after the first tenth of the time.
fn watched_rewrap(server: &Server) -> f64 {
    let mut admin = server.cluster.conn(ADMIN, DATABASE);
    let pid: i32 = admin.query_one("SELECT pg_backend_pid()", &[]).expect("a backend").get(0);
    let mut samples = Vec::new();
    thread::scope(|scope| {
        let call = scope.spawn(|| admin.batch_execute(&format!("CALL vault_rewrap({BATCH})")).expect("the rewrap"));
        while !call.is_finished() {
            samples.extend(kilobytes(pid, "status", "RssAnon:"));
            thread::sleep(Duration::from_millis(10));
        }
    });
    match samples.get(samples.len() / 10..) {
        Some([first, rest @ ..]) => rest.iter().copied().fold(*first, f64::max) - first,
        _ => f64::NAN,
    }
}
