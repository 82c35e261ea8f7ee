//! What calls cost in bytes, write-ahead log and processor time: the figures of docs/how-to/costs.md.

use std::time::Duration;

use postgres::Client;

use crate::figures::Figure;
use crate::harness::eventually;
use crate::machine::processor_time;
use crate::options::Options;
use crate::pgbench::Load;
use crate::report::Report;
use crate::sections::Section;
use crate::server::{APP, Server, number};

pub const SECTION: Section =
    Section { name: "costs", title: "bytes, write-ahead log and processor time of a call", run };

const ONE: u32 = 1;
/// benches/sql/costs_fetch.sql has this number, too.
const MANY: u32 = 16;
/// As many of a million calls a day come between two checkpoints, by PostgreSQL's default checkpoint_timeout of 5 minutes.
const BETWEEN_CHECKPOINTS: u32 = 1_000_000 / (24 * 12);

fn run(options: &Options, report: &mut Report) {
    let server = Server::start(&[]);
    let mut db = server.database("costs");
    let calls: u32 = options.pick(16_384, 4_096);
    let (mut inits, mut fetches) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let mut base = 0;
    for _ in 0..options.rounds() {
        for (index, clients) in [ONE, MANY].into_iter().enumerate() {
            base += 100_000_000;
            let init = Load::new(&server, "costs init", "costs", &[include_str!("../sql/costs_init.sql")]);
            let init = init.variable("base", base).variable("n", 0);
            inits[index].push(cost(&server, &mut db, &init, clients, calls));
        }
        let fetch = fetch(&server, base, calls);
        for (index, clients) in [ONE, MANY].into_iter().enumerate() {
            fetches[index].push(cost(&server, &mut db, &fetch, clients, calls));
        }
    }

    let mut add = |name: &str, unit, costs: &[Cost], clients: Option<u32>, of: fn(&Cost) -> f64| {
        let figure = Figure::plain("costs", name, unit, &costs.iter().map(of).collect::<Vec<_>>());
        report.add(if let Some(clients) = clients { figure.clients(clients) } else { figure });
    };
    // Indexes grow by many pages at a time, so only all rounds together give a figure.
    let (made, fetched) = ([mean(&inits.concat())], [mean(&fetches.concat())]);
    add("a user: in the table of vaults", "bytes", &made, None, |cost| cost[VAULTS]);
    add("a user: in its index", "bytes", &made, None, |cost| cost[VAULTS_INDEX]);
    add("a row of the trail: in the table", "bytes", &fetched, None, |cost| cost[TRAIL]);
    add("a row of the trail: in its indexes", "bytes", &fetched, None, |cost| cost[TRAIL_INDEXES]);
    add("a row of the trail: in the tree", "bytes", &fetched, None, |cost| cost[TREE]);
    for (call, costs) in [("fetch", &fetches), ("init", &inits)] {
        for (clients, costs) in [ONE, MANY].into_iter().zip(costs) {
            let mut add = |what, unit, of| add(&format!("{call}: {what}"), unit, costs, Some(clients), of);
            add("write-ahead log", "bytes", |cost| cost[WAL]);
            add("processor time of the server", "µs", |cost| 1e6 * cost[SECONDS]);
            add("rows of the trail in one commit", "rows", |cost| 1.0 / cost[COMMITS]);
        }
    }

    let rows: u32 = options.pick(2_000_000, 300_000);
    fill_trail(&mut db, base, calls, rows);
    for (compression, how) in [("off", ""), ("pglz", ", wal_compression = pglz")] {
        server.set("wal_compression", compression);
        let fetch = fetch(&server, base, calls);
        let costs: Vec<_> = (0..options.rounds())
            .map(|_| {
                server.settle();
                cost(&server, &mut db, &fetch, ONE, BETWEEN_CHECKPOINTS)
            })
            .collect();
        let name = format!("fetch after a checkpoint, {} rows in the trail{how}", crate::figures::number(rows.into()));
        add(&format!("{name}: write-ahead log"), "bytes", &costs, Some(ONE), |cost| cost[WAL]);
        // A million calls with so many bytes each.
        add(&format!("a million calls a day{how}: write-ahead log a day"), "GB", &costs, None, |cost| cost[WAL] / 1e3);
    }
    add("a million calls a day: processor time a day", "s", &fetches[0], None, |cost| 1e6 * cost[SECONDS]);
    add("a million calls a day: trail a year", "GB", &fetched, None, |cost| {
        365.0 * (cost[TRAIL] + cost[TRAIL_INDEXES] + cost[TREE]) / 1e3
    });
}

/// Fetches of the users that 16 clients made from this base on.
fn fetch<'s>(server: &'s Server, base: i64, calls: u32) -> Load<'s> {
    let load = Load::new(server, "costs fetch", "costs", &[include_str!("../sql/costs_fetch.sql")]);
    load.variable("base", base).variable("users", calls / MANY)
}

/// Adds rows such as past fetches of these users left.
fn fill_trail(db: &mut Client, base: i64, calls: u32, rows: u32) {
    let sql = format!(
        "INSERT INTO vault_ext.encryption_vault_audit (user_id, action, status, kek_id, key_version, db_role, created_at)
         SELECT md5(({base} + floor(random() * {MANY})::bigint * 1000000 + 1 + floor(random() * {})::bigint)::text)::uuid::text,
                'fetch', 200, 'bench-1', 1, '{APP}', now() - ({rows} - n) * interval '1 second'
         FROM generate_series(1, {rows}) n",
        calls / MANY
    );
    db.batch_execute(&sql).expect("old rows");
    db.batch_execute("VACUUM ANALYZE").expect("vacuum");
}

/// What `used` gives, for one call.
type Cost = [f64; 9];

const VAULTS: usize = 0;
const VAULTS_INDEX: usize = 1;
const TRAIL: usize = 2;
const TRAIL_INDEXES: usize = 3;
const TREE: usize = 4;
const WAL: usize = 5;
const ROWS: usize = 6;
const COMMITS: usize = 7;
const SECONDS: usize = 8;

/// Runs that many calls and divides what they used.
fn cost(server: &Server, db: &mut Client, load: &Load<'_>, clients: u32, calls: u32) -> Cost {
    let calls = calls / clients * clients;
    let before = used(server, db);
    let outcome = load.start(clients, &["-t", &(calls / clients).to_string()]).outcome();
    let after = used(server, db);
    println!("    {clients:>3} clients: {:>9.0} /s  {}", outcome.tps, load.name);
    let cost: Cost = std::array::from_fn(|index| (after[index] - before[index]) / f64::from(calls));
    assert_eq!(cost[ROWS], 1.0, "every one of {calls} calls leaves an audit row");
    cost
}

fn mean(costs: &[Cost]) -> Cost {
    std::array::from_fn(|index| costs.iter().map(|cost| cost[index]).sum::<f64>() / costs.len() as f64)
}

/// What the server has used so far: bytes, rows and commits of the trail, seconds of processor time.
fn used(server: &Server, db: &mut Client) -> Cost {
    // Until a backend has ended, its time may be missing.
    let sessions = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{APP}'");
    eventually(Duration::from_secs(10), "the sessions end", || number(db, &sessions) == 0);
    let sql = "SELECT ARRAY[
        pg_table_size('vault_ext.encryption_vaults'), pg_indexes_size('vault_ext.encryption_vaults'),
        pg_table_size('vault_ext.encryption_vault_audit'), pg_indexes_size('vault_ext.encryption_vault_audit'),
        pg_total_relation_size('vault_ext.audit_tiles') + pg_total_relation_size('vault_ext.audit_trails'),
        pg_current_wal_insert_lsn() - '0/0', rows_written, batches]::float8[] FROM vault_ext.audit_stats";
    let mut all: Vec<f64> = db.query_one(sql, &[]).expect("the sizes").get(0);
    all.push(server.cluster.processes().into_iter().filter_map(processor_time).sum());
    all.try_into().expect("nine numbers")
}
