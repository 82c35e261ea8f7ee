//! The instructions that a backend executes for one call, counted by callgrind. The server runs under valgrind, and
//! calls of two otherwise unused functions mark the beginning and the end of the count.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use postgres::Client;
use rustix::process::{Pid, Signal, kill_process};

use crate::figures::{Figure, Goal};
use crate::harness::{eventually, server_command};
use crate::options::Options;
use crate::report::Report;
use crate::sections::Section;
use crate::server::{APP, FIRST_USER, Server, mint};

pub const SECTION: Section = Section { name: "cpu", title: "instructions of a backend per call", run };

const DATABASE: &str = "instructions";
/// The number of calls before the count. It is enough for generic plans and warm caches.
const WARM_UP: usize = 50;
const BEGIN: &str = "pg_backend_pid";
const END: &str = "pg_my_temp_schema";
const PATIENCE: Duration = Duration::from_secs(120);

const FETCH: &str = "SELECT * FROM vault_get_master_key()";
const LOOKUP: &str = "SELECT * FROM bench.lookup()";
const SELECT: &str =
    "SELECT wrapped_mk, wrap_iv, format_version, kek_id, key_version FROM bench.vaults WHERE user_id = $1";

fn run(options: &Options, report: &mut Report) {
    let mut server = Server::start(&["shared_buffers = 64MB", "max_connections = 20"]);
    let mut db = server.database(DATABASE);
    mint(&mut db, 100);
    db.batch_execute(include_str!("../sql/baselines.sql")).expect("the baselines' tables");
    server.micro_benchmark(&mut db, "bench.lookup() RETURNS vault_key SECURITY DEFINER", "bench_lookup");
    db.batch_execute("ALTER FUNCTION bench.lookup() OWNER TO vault_ext_owner")
        .expect("the same owner as the extension's functions");
    drop(db);
    server.cluster.stop(crate::harness::Stop::Fast);

    let valgrind = Valgrind::start(&server);
    let profile = |sql: &str| Profile::of(&server, sql, options.pick(2_000, 300));
    let (fetch, lookup, select) = (profile(FETCH), profile(LOOKUP), profile(SELECT));
    valgrind.stop();

    let figure = |name: &str, ours: f64, base: f64| Figure::ratio("cpu", name, "instructions", &[ours], &[base]);
    let name = "fetch without waiting against the SELECT of the row alone, through SPI";
    report.add(figure(name, fetch.total, lookup.total).goal(Goal::AtMost(2.5)));
    report.add(figure("the same against a plain SELECT of the client", fetch.total, select.total));
    report.list(
        "Where the instructions of one fetch go (of all functions with a name, what they call included):",
        fetch.largest(),
    );
}

/// The instructions of one call.
struct Profile {
    total: f64,
    by_function: HashMap<String, f64>,
}

impl Profile {
    /// Runs the statement `calls` times in its own session and reads the dump of its backend.
    fn of(server: &Server, sql: &str, calls: usize) -> Self {
        let user = (FIRST_USER + 1).to_string();
        let mut client = server.cluster.conn(APP, DATABASE);
        client.execute("SELECT set_config('app.current_user_id', $1, false)", &[&user]).expect("set_config");
        let statement = client.prepare(sql).expect("the statement");
        let call = |client: &mut Client| {
            let rows = match statement.params() {
                [] => client.query(&statement, &[]),
                _ => client.query(&statement, &[&user]),
            };
            assert_eq!(rows.expect("the call").len(), 1);
        };
        (0..WARM_UP).for_each(|_| call(&mut client));
        let pid: i32 = client.query_one(&format!("SELECT {BEGIN}()"), &[]).expect("a backend").get(0);
        (0..calls).for_each(|_| call(&mut client));
        client.execute(&format!("SELECT {END}()"), &[]).expect("the mark");
        let path = server.file(&format!("callgrind.{pid}.1"));
        let text = fs::read_to_string(&path).expect("callgrind dumped at the mark");
        let total = text.lines().rev().find_map(|line| line.strip_prefix("totals: ")).expect("a complete dump");
        let total: f64 = total.trim().parse().expect("a number");
        let mut by_function = by_function(&path);
        by_function.values_mut().for_each(|cost| *cost /= calls as f64);
        Self { total: total / calls as f64, by_function }
    }

    fn largest(&self) -> Vec<String> {
        let least = |name: &str| if name.ends_with("(vault_ext.so)") { 0.01 } else { 0.05 };
        let mut all: Vec<_> = self
            .by_function
            .iter()
            .filter(|(name, cost)| (least(name)..0.99).contains(&(**cost / self.total)))
            .collect();
        all.sort_by(|a, b| b.1.total_cmp(a.1));
        let share = |cost: f64| 100.0 * cost / self.total;
        all.iter().map(|(name, cost)| format!("{:.0} ({:.0} %): {name}", cost, share(**cost))).collect()
    }
}

/// A server under callgrind.
struct Valgrind {
    postmaster: Child,
}

impl Valgrind {
    fn start(server: &Server) -> Self {
        let dir = server.cluster.dir();
        let log = fs::File::create(server.file("valgrind.log")).expect("a log file");
        let postmaster = server_command("valgrind", dir)
            .args(["--tool=callgrind", "--quiet"])
            .arg(format!("--zero-before={BEGIN}"))
            .arg(format!("--dump-before={END}"))
            .arg(format!("--callgrind-out-file={}/callgrind.%p", dir.display()))
            .arg(crate::harness::bindir().join("postgres"))
            .arg("-D")
            .arg(server.cluster.data())
            .stdout(log.try_clone().expect("its handle"))
            .stderr(log)
            .spawn()
            .expect("valgrind is installed (scripts/setup valgrind)");
        eventually(PATIENCE, "the server under valgrind accepts connections", || {
            server.cluster.try_conn("postgres", "postgres").is_ok()
        });
        Self { postmaster }
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.postmaster), Signal::INT).expect("the postmaster takes the signal");
        self.postmaster.wait().expect("the postmaster ends");
    }
}

/// The inclusive cost of each function of the server and of vault_ext, from the output of callgrind_annotate. Its lines
/// are `cost (percent)  file:function [object]`. Functions of a stripped program have addresses for names and are left
/// out.
fn by_function(path: &Path) -> HashMap<String, f64> {
    let output = Command::new("callgrind_annotate")
        .args(["--inclusive=yes", "--threshold=100", "--auto=no"])
        .arg(path)
        .output()
        .expect("callgrind_annotate starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut all = HashMap::new();
    for line in text.lines() {
        let Some((cost, rest)) = line.trim().split_once(" (") else { continue };
        let Ok(cost) = cost.replace(',', "").parse::<f64>() else { continue };
        let Some((_, rest)) = rest.split_once(')') else { continue };
        let Some((name, object)) = rest.trim().trim_end_matches(']').rsplit_once(" [") else { continue };
        let object = object.rsplit('/').next().unwrap_or(object);
        let function = name.split_once(':').map_or(name, |(_file, function)| function);
        // An address replaces a stripped name. The suffix '2 marks the inner frames of a recursion.
        let has_name = !function.starts_with("0x") && !function.ends_with("'2");
        if has_name && ["postgres", "vault_ext.so"].contains(&object) {
            *all.entry(format!("{function} ({object})")).or_insert(0.0) += cost;
        }
    }
    all
}
