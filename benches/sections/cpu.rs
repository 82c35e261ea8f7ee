//! The instructions that a backend executes for one call, and the audit writer for one row, counted by callgrind. The server runs
//! under valgrind. Calls of functions that nothing else calls meanwhile mark the beginning and the end of a count.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use postgres::Client;
use rustix::process::{Pid, Signal, kill_process};

use crate::figures::{Figure, Goal};
use crate::harness::{eventually, server_command};
use crate::options::Options;
use crate::report::Report;
use crate::sections::Section;
use crate::sections::writer::Line;
use crate::server::{APP, FIRST_USER, Server, fill_with_format_1, mint, number};

pub const SECTION: Section =
    Section { name: "cpu", title: "instructions of a backend per call, and of the audit writer per row", run };

const DATABASE: &str = "instructions";
/// The number of calls before the count. It is enough for generic plans and warm caches.
const WARM_UP: usize = 50;
/// Enough for indexes of three levels, which every trail soon has.
const OLD_ROWS: i64 = 200_000;
/// Marks of a backend, as SQL.
const BEGIN: &str = "pg_conf_load_time";
const END: &str = "pg_my_temp_schema";
/// The mark of a process that runs no SQL of ours: it reads the configuration when it gets SIGHUP. Callgrind dumps and zeroes
/// its counts before and after, so that the reading itself counts nowhere.
const CONFIGURATION: &str = "ProcessConfigFile";
const PATIENCE: Duration = Duration::from_secs(120);

const FETCH: &str = "SELECT * FROM vault_get_master_key()";
const LOOKUP: &str = "SELECT * FROM bench.lookup()";
const SELECT: &str =
    "SELECT wrapped_mk, wrap_iv, format_version, kek_id, key_version FROM bench.vaults WHERE user_id = $1";
const INSERT: &str = include_str!("../sql/bare_insert.sql");
const INIT: [&str; 2] = [include_str!("../sql/init.sql"), include_str!("../sql/init_by_hand.sql")];
const ROTATE: [&str; 2] = [include_str!("../sql/rotate.sql"), include_str!("../sql/rotate_by_hand.sql")];
/// Users who have vaults, and the first of those who have none.
const USERS: i64 = 100;
const FIRST_NEW_USER: i64 = 2 * FIRST_USER;
/// The two ways to write all vaults of a database anew, each in a database of its own.
const REWRAPS: [(&str, &str); 2] =
    [("rewrapped", "CALL vault_rewrap(1000)"), ("by_hand", "CALL bench.rewrap_by_hand(1000)")];
/// For a table as small as this one the planner would read all of it for each batch. A large one it updates by its key.
const AS_FOR_LARGE_TABLES: &str = "SET enable_hashjoin = off; SET enable_mergejoin = off";

/// The rows of a batch. The goal is about the batches in the middle.
const BATCHES: [u32; 3] = [1, 8, 64];
const BATCH: u32 = 8;

/// Valgrind's processor has no instructions for SHA-256, as most real ones have.
const SHA_256: &str = "sha2::sha256::compress256 (vault_ext.so)";

/// A processor takes some 50 ns for the 4 KiB. Valgrind counts an instruction for each byte.
const CLEARING: &str = "vault_ext::pg::secret::overwrite_stack (vault_ext.so)";

fn run(options: &Options, report: &mut Report) {
    // The writer must not end between two measurements, and one backend must be able to fill a batch.
    let settings = [
        "shared_buffers = 256MB",
        "max_connections = 20",
        "vault_ext.audit_idle_exit = 4s",
        "vault_ext.audit_slots = 64",
        // Under valgrind on a busy machine a writer takes long to start.
        "vault_ext.audit_timeout = 60s",
    ];
    let mut server = Server::start(&settings);
    let mut db = server.database(DATABASE);
    mint(&mut db, USERS);
    db.batch_execute(include_str!("../sql/baselines.sql")).expect("the baselines' tables");
    for table in ["vault_ext.encryption_vault_audit", "bench.audit"] {
        db.batch_execute(&old_rows(table)).expect("old rows");
    }
    server.micro_benchmark(&mut db, "bench.lookup() RETURNS vault_key SECURITY DEFINER", "bench_lookup");
    db.batch_execute("ALTER FUNCTION bench.lookup() OWNER TO vault_ext_owner")
        .expect("the same owner as the extension's functions");
    server.micro_benchmark(
        &mut db,
        "bench.batches(batches bigint, records int, users bigint) RETURNS void",
        "bench_batches",
    );
    let copy = "key_version int, kek_id text, wrapped_mk text) RETURNS void SECURITY DEFINER";
    server.micro_benchmark(&mut db, &format!("bench.checked_record(user_id text, {copy}"), "bench_checked_record");
    let copies = "key_versions int[], kek_ids text[], wrapped_mks text[]) RETURNS void SECURITY DEFINER";
    server.micro_benchmark(&mut db, &format!("bench.checked_records(users text[], {copies}"), "bench_checked_records");
    db.batch_execute(
        "ALTER FUNCTION bench.checked_record OWNER TO vault_ext_owner;
         ALTER FUNCTION bench.checked_records OWNER TO vault_ext_owner",
    )
    .expect("the same owner");
    let (checked_one, checked_batch) = (as_copies(&mut db, 1), as_copies(&mut db, BATCH));
    drop(db);
    let vaults: i64 = options.pick(50_000, 10_000);
    for (database, _) in REWRAPS {
        let mut db = server.database(database);
        db.batch_execute(include_str!("../sql/rewrap_by_hand.sql")).expect("the baseline's procedure");
        db.batch_execute(&fill_with_format_1("vault_ext.encryption_vaults", vaults)).expect("the vaults");
        db.batch_execute("VACUUM ANALYZE vault_ext.encryption_vaults").expect("vacuum");
    }
    server.cluster.stop(crate::harness::Stop::Fast);

    let valgrind = Valgrind::start(&server);
    let profile = |sql: &str| Profile::of(&server, sql, options.pick(2_000, 300));
    let (fetch, lookup, select) = (profile(FETCH), profile(LOOKUP), profile(SELECT));
    let insert = profile(&INSERT.replace(":user", "$1"));
    let (checked_one, mut checked_batch) = (profile(&checked_one), profile(&checked_batch));
    checked_batch.total /= f64::from(BATCH);
    // Rotations come after that: they change what was compared with copies.
    let calls = options.pick(2_000, 300);
    let new = INIT.map(|script| Profile::of_transaction(&server, script, calls, |n| FIRST_NEW_USER + n));
    let changed = ROTATE.map(|script| Profile::of_transaction(&server, script, calls, |n| FIRST_USER + 1 + n % USERS));
    let writer = BATCHES.map(|rows| Profile::of_writer(&server, options.pick(6_400, 1_280) / rows, rows));
    let [rewrap, by_hand] = REWRAPS.map(|(database, call)| Profile::of_procedure(&server, database, call, vaults));
    valgrind.stop();

    let figure = |name: &str, ours: f64, base: f64| Figure::ratio("cpu", name, "instructions", &[ours], &[base]).once();
    let row = |rows: u32| BATCHES.iter().zip(&writer).find(|(of, _)| **of == rows).expect("measured").1;
    let name =
        format!("fetch and the writer's share of its row, at batches of {BATCH}, against a bare INSERT of the client");
    report.add(figure(&name, fetch.total + row(BATCH).total, insert.total).goal(Goal::AtMost(1.0)));
    report.add(Figure::plain("cpu", "of these, the fetch", "instructions", &[fetch.total]));
    for (rows, profile) in BATCHES.iter().zip(&writer) {
        let name = format!("the audit writer, a row at batches of {rows}");
        report.add(Figure::plain("cpu", name, "instructions", &[profile.total]));
    }
    let points =
        BATCHES.map(f64::from).iter().zip(&writer).map(|(rows, of)| (*rows, rows * of.total)).collect::<Vec<_>>();
    let line = Line::through(&points);
    let name = format!("by a line through these points (deviation {:.1} %), a row", 100.0 * line.deviation);
    report.add(Figure::plain("cpu", name, "instructions", &[line.row]));
    report.add(Figure::plain("cpu", "by that line, a batch beyond its rows", "instructions", &[line.batch]));
    if let Some(hashing) = row(BATCH).by_function.get(SHA_256) {
        let name = format!("of a row at batches of {BATCH}, SHA-256, in software under valgrind");
        report.add(Figure::plain("cpu", name, "instructions", &[*hashing]));
    }
    let name = "fetch without waiting against the SELECT of the row alone, through SPI";
    report.add(figure(name, fetch.total, lookup.total).goal(Goal::AtMost(2.5)));
    let name = "the same against a plain SELECT of the client";
    report.add(figure(name, fetch.total, select.total).goal(Goal::AtMost(1.35)));
    let name = "vault_rewrap() against a plain UPDATE, a vault";
    report.add(figure(name, rewrap.total, by_hand.total).goal(Goal::AtMost(1.15)));
    if let Some(clearing) = rewrap.by_function.get(CLEARING) {
        let name = "of a rewrapped vault, clearing the stack, where valgrind counts each byte";
        report.add(Figure::plain("cpu", name, "instructions", &[*clearing]));
    }
    for (call, [ours, by_hand]) in [("vault_init() of a new user", &new), ("vault_rotate()", &changed)] {
        let name = format!("transaction with {call} and the writer's share of its row, against the same by hand");
        report.add(figure(&name, ours.total + row(BATCH).total, by_hand.total));
    }
    for (name, profile) in [
        ("what a primary would do for a key that a standby releases, against a fetch".to_owned(), &checked_one),
        (format!("the same for {BATCH} users in one call, a user, against a fetch"), &checked_batch),
    ] {
        report.add(figure(&name, profile.total, fetch.total));
        let with_row = [profile.total, fetch.total].map(|total| total + row(BATCH).total);
        report.add(figure(&format!("{name}, with the writer's share of the row"), with_row[0], with_row[1]));
    }
    let functions = "of all functions with a name, what they call included";
    report.list(format!("Where the instructions of one fetch go ({functions}):"), fetch.largest());
    report.list(format!("Where those of a bare INSERT go ({functions}):"), insert.largest());
    report.list(format!("Where those of a rewrapped vault go ({functions}):"), rewrap.largest());
    report.list(format!("Where those of a transaction with vault_init() go ({functions}):"), new[0].largest());
    report.list(format!("Where those of a transaction with vault_rotate() go ({functions}):"), changed[0].largest());
    for rows in [BATCH, 64] {
        let title = format!("Where the audit writer's instructions of one row go, at batches of {rows} ({functions}):");
        report.list(title, row(rows).largest());
    }
}

/// The instructions of one call, or of one row.
struct Profile {
    total: f64,
    by_function: HashMap<String, f64>,
}

impl Profile {
    /// Runs the statement `calls` times in its own session and reads the dump of its backend.
    fn of(server: &Server, sql: &str, calls: usize) -> Self {
        let user = (FIRST_USER + 1).to_string();
        let mut client = session(server);
        let statement = client.prepare(sql).expect("the statement");
        let call = |client: &mut Client| {
            let rows = match statement.params() {
                [] => client.execute(&statement, &[]),
                _ => client.execute(&statement, &[&user]),
            };
            assert_eq!(rows.expect("the call"), 1);
        };
        (0..WARM_UP).for_each(|_| call(&mut client));
        Self::between_marks(server, &mut client, calls as f64, |client| (0..calls).for_each(|_| call(client)))
    }

    /// Runs a procedure that writes so many rows, in a session of its own.
    fn of_procedure(server: &Server, database: &str, call: &str, rows: i64) -> Self {
        let mut client = server.superuser(database);
        client.batch_execute(AS_FOR_LARGE_TABLES).expect("settings");
        Self::between_marks(server, &mut client, rows as f64, |client| {
            client.batch_execute(call).expect("the procedure")
        })
    }

    fn between_marks(server: &Server, client: &mut Client, calls: f64, work: impl FnOnce(&mut Client)) -> Self {
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).expect("a backend").get(0);
        let mark = |client: &mut Client, mark| client.execute(&format!("SELECT {mark}()"), &[]).expect("the mark");
        mark(client, BEGIN);
        work(client);
        mark(client, END);
        let dump = dumps(server, pid, END).pop().expect("callgrind dumped at the mark");
        Self::read(&dump, calls)
    }

    /// Runs a script of pgbench so many times, each time for the user with the next number, in a session of its own.
    fn of_transaction(server: &Server, script: &str, calls: i64, user: impl Fn(i64) -> i64) -> Self {
        let mut client = session(server);
        let sql = script.lines().filter(|line| !line.starts_with('\\')).map(|line| line.replace(":user", "$1"));
        let statements: Vec<_> = sql.map(|sql| client.prepare(&sql).expect("the statement")).collect();
        let run = |client: &mut Client, number: i64| {
            let user = user(number).to_string();
            for statement in &statements {
                let executed = match statement.params() {
                    [] => client.execute(statement, &[]),
                    _ => client.execute(statement, &[&user]),
                };
                executed.expect("a statement of the transaction");
            }
        };
        let warm_up = WARM_UP as i64;
        (0..warm_up).for_each(|number| run(&mut client, number));
        Self::between_marks(server, &mut client, calls as f64, |client| {
            (warm_up..warm_up + calls).for_each(|number| run(client, number));
        })
    }

    /// Lets the audit writer write so many batches of so many rows.
    fn of_writer(server: &Server, batches: u32, rows: u32) -> Self {
        let mut client = session(server);
        // Fetches before it had the same user.
        let mut write = |batches: u32| {
            client
                .execute("SELECT bench.batches($1, $2, 1)", &[&i64::from(batches), &(rows as i32)])
                .unwrap_or_else(|e| panic!("batches: {e:?}\n{}", server.cluster.log()));
        };
        let mut db = server.superuser(DATABASE);
        let mut counts = || {
            let sql = "SELECT ARRAY[rows_written, batches] FROM vault_ext.audit_stats";
            db.query_one(sql, &[]).expect("the statistics").get::<_, Vec<i64>>(0)
        };
        write(WARM_UP as u32);
        let pid = writer(server);
        mark(server, pid);
        let before = counts();
        write(batches);
        let after = counts();
        mark(server, pid);
        let written = [after[0] - before[0], after[1] - before[1]];
        assert_eq!(written, [i64::from(batches * rows), i64::from(batches)], "rows and batches");
        // Two dumps for each mark: before the configuration was read, and after that.
        let dump = dumps(server, pid, CONFIGURATION).into_iter().rev().nth(1).expect("callgrind dumped at the marks");
        Self::read(&dump, f64::from(batches * rows))
    }

    /// Reads a dump. So many calls, or rows, were counted.
    fn read(dump: &Path, calls: f64) -> Self {
        let text = fs::read_to_string(dump).expect("a dump");
        let total = text.lines().rev().find_map(|line| line.strip_prefix("totals: ")).expect("a complete dump");
        let total: f64 = total.trim().parse().expect("a number");
        let mut by_function = by_function(dump);
        by_function.values_mut().for_each(|cost| *cost /= calls);
        Self { total: total / calls, by_function }
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

/// Adds rows to a trail: the instructions of an insertion grow with the indexes, so both sides begin with the same ones.
fn old_rows(table: &str) -> String {
    format!(
        "INSERT INTO {table} (user_id, action, status, kek_id, key_version, db_role, created_at)
         SELECT ({FIRST_USER} + n % 100)::text, 'fetch', 200, 'bench-1', 1, '{APP}', now() - ({OLD_ROWS} - n) * interval '1 second'
         FROM generate_series(1, {OLD_ROWS}) n"
    )
}

/// The statement that hands a primary so many users' rows as a standby has them.
fn as_copies(db: &mut Client, users: u32) -> String {
    let sql = format!(
        "SELECT CASE {users} WHEN 1
            THEN format('SELECT bench.checked_record(%L, %L, %L, %L)', min(user_id), min(key_version), min(kek_id), min(wrapped_mk))
            ELSE format('SELECT bench.checked_records(%L, %L, %L, %L)', array_agg(user_id), array_agg(key_version), array_agg(kek_id), array_agg(wrapped_mk)) END
         FROM (SELECT * FROM vault_ext.encryption_vaults ORDER BY user_id LIMIT {users}) v"
    );
    db.query_one(&sql, &[]).expect("vaults").get(0)
}

/// A session of the application for the first user.
fn session(server: &Server) -> Client {
    let mut client = server.cluster.conn(APP, DATABASE);
    let user = (FIRST_USER + 1).to_string();
    client.execute("SELECT set_config('app.current_user_id', $1, false)", &[&user]).expect("set_config");
    client
}

/// The process of the audit writer.
fn writer(server: &Server) -> i32 {
    let sql = "SELECT pid::bigint FROM pg_stat_activity WHERE backend_type = 'vault_ext audit writer'";
    number(&mut server.superuser(DATABASE), sql) as i32
}

/// Lets a process that is idle read its configuration, and waits until it has done so.
fn mark(server: &Server, pid: i32) {
    let before = dumps(server, pid, CONFIGURATION).len();
    kill_process(Pid::from_raw(pid).expect("a process"), Signal::HUP).expect("the process takes the signal");
    eventually(PATIENCE, "the process reads its configuration", || {
        dumps(server, pid, CONFIGURATION).len() == before + 2
    });
}

/// The dumps of a process at that mark, in the order in which they were made.
fn dumps(server: &Server, pid: i32, mark: &str) -> Vec<PathBuf> {
    let path = |number: u32| server.file(&format!("callgrind.{pid}.{number}"));
    let at_mark = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap_or_default();
        // The last line says that the dump is complete.
        text.contains("\ntotals: ")
            && text.lines().any(|line| line.starts_with("desc: Trigger: ") && line.ends_with(mark))
    };
    (1..).map(path).take_while(|path| path.exists()).filter(at_mark).collect()
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
            .args([format!("--dump-before={CONFIGURATION}"), format!("--dump-after={CONFIGURATION}")])
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
