//! The audit writer alone: what it commits when backends feed it from inside the server, without clients between.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use postgres::Client;

use crate::figures::{Figure, Goal, Spread, number as text};
use crate::machine::scheduled;
use crate::options::Options;
use crate::report::Report;
use crate::sections::Section;
use crate::server::{APP, FIRST_USER, Server, number};

pub const SECTION: Section = Section { name: "writer", title: "rows that the audit writer commits", run };

const DATABASE: &str = "writer";
const USERS: i64 = 10_000;
/// Backends, and the records that each keeps at the writer.
const FEEDS: [(u32, u32); 6] = [(1, 1), (1, 8), (2, 8), (2, 32), (4, 64), (8, 64)];
/// One that is like real calls, each of which waits for its own record. The model does not use it.
const CALLERS: (u32, u32) = (64, 1);
const ROWS_A_CORE: f64 = 200_000.0;
/// Rows of a batch that the model is asked about.
const ASKED: [f64; 3] = [8.0, 64.0, 512.0];

fn run(options: &Options, report: &mut Report) {
    let server = Server::start(&[
        "vault_ext.audit_idle_exit = 4s",
        "vault_ext.audit_slots = 64",
        // Polling would count as processor time of a row.
        "vault_ext.audit_spin = off",
    ]);
    let mut db = server.database(DATABASE);
    db.batch_execute(&format!("CREATE SCHEMA bench; GRANT USAGE ON SCHEMA bench TO {APP}")).expect("a schema");
    let declaration = "bench.generate(records bigint, in_flight int, users bigint) RETURNS void";
    server.micro_benchmark(&mut db, declaration, "bench_generate");

    let feeds: Vec<(u32, u32)> = FEEDS.into_iter().chain([CALLERS]).collect();
    let mut rounds: Vec<Vec<Round>> = feeds.iter().map(|_| Vec::new()).collect();
    for round in 0..=options.rounds() {
        for (feed, rounds) in feeds.iter().zip(&mut rounds) {
            // The round before says how many records fill the time. The first one is short, warms up and does not count.
            let rate = rounds.last().map_or(1_000.0, |last| f64::from(last.rows) / last.seconds);
            let seconds = if round == 0 { 1.0 } else { options.round().as_secs_f64() };
            let this = Round::of(&server, &mut db, *feed, (rate * seconds) as u32);
            println!(
                "    {:>2} backends, {:>3} records each: {:>9} /s, {:>6} a batch, {:>6} µs a row",
                feed.0,
                feed.1,
                text(f64::from(this.rows) / this.seconds),
                text(this.rows_a_batch()),
                text(this.processor_a_row() * 1e6)
            );
            rounds.push(this);
        }
    }
    for rounds in &mut rounds {
        rounds.remove(0);
    }

    let largest = FEEDS.len() - 1;
    for (index, (feed, rounds)) in feeds.iter().zip(&rounds).enumerate() {
        let (backends, each) = *feed;
        let mut add = |what: &str, unit, of: fn(&Round) -> f64, goal: Option<Goal>| {
            let name = format!("{backends} × {each} records at the writer: {what}");
            let values: Vec<f64> = rounds.iter().map(of).collect();
            report.add(Figure::plain("writer", name, unit, &values).goal_if(goal));
        };
        add("rows committed", "/s", |round| f64::from(round.rows) / round.seconds, None);
        add("rows of a batch", "rows", Round::rows_a_batch, None);
        add("the writer's processor time of a row", "µs", |round| round.processor_a_row() * 1e6, None);
        add("write-ahead log of a row", "bytes", |round| round.wal / f64::from(round.rows), None);
        if index == largest {
            let goal = Some(Goal::AtLeast(ROWS_A_CORE));
            add("rows of a second of its processor time", "/s a core", |round| 1.0 / round.processor_a_row(), goal);
        }
    }
    model(report, &rounds[..FEEDS.len()]);
}

/// What one round used.
struct Round {
    rows: u32,
    batches: u32,
    seconds: f64,
    /// Seconds that the writer ran, and those that it could have run if a processor had been free.
    processor: f64,
    delay: f64,
    wal: f64,
}

impl Round {
    /// Lets the backends hand about so many records to the writer.
    fn of(server: &Server, db: &mut Client, (backends, each): (u32, u32), records: u32) -> Self {
        let share = (records / backends).max(10 * each);
        let barrier = Barrier::new(backends as usize + 1);
        thread::scope(|scope| {
            let feeds: Vec<_> = (0..backends)
                .map(|backend| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        let mut client = server.cluster.conn(APP, DATABASE);
                        let user = (FIRST_USER + 1 + i64::from(backend)).to_string();
                        client
                            .execute("SELECT set_config('app.current_user_id', $1, false)", &[&user])
                            .expect("a user");
                        let statement = client.prepare("SELECT bench.generate($1, $2, $3)").expect("the generator");
                        let mut generate = |records: u32| {
                            client
                                .execute(&statement, &[&i64::from(records), &(each as i32), &USERS])
                                .unwrap_or_else(|e| panic!("generate: {e:?}\n{}", server.cluster.log()));
                        };
                        // Starts a writer if none runs, and attaches the memory.
                        generate(each);
                        barrier.wait();
                        barrier.wait();
                        generate(share);
                    })
                })
                .collect();
            barrier.wait();
            let sql = "SELECT pid::bigint FROM pg_stat_activity WHERE backend_type = 'vault_ext audit writer'";
            let writer = number(db, sql) as i32;
            let before = counters(db);
            let (processor, delay) = scheduled(writer).expect("the writer runs");
            let begun = Instant::now();
            barrier.wait();
            feeds.into_iter().for_each(|feed| feed.join().expect("a feed"));
            let seconds = begun.elapsed().as_secs_f64();
            let (processor_after, delay_after) = scheduled(writer).expect("the writer still runs");
            let after = counters(db);
            let of = |index: usize| after[index] - before[index];
            assert_eq!(of(0), f64::from(share * backends), "every record is a row");
            Self {
                rows: share * backends,
                batches: of(1) as u32,
                seconds,
                processor: processor_after - processor,
                delay: delay_after - delay,
                wal: of(2),
            }
        })
    }

    fn rows_a_batch(&self) -> f64 {
        f64::from(self.rows) / f64::from(self.batches)
    }

    fn processor_a_row(&self) -> f64 {
        self.processor / f64::from(self.rows)
    }
}

/// Rows and batches that were written, and the position in the write-ahead log.
fn counters(db: &mut Client) -> Vec<f64> {
    let sql =
        "SELECT ARRAY[rows_written, batches, pg_current_wal_insert_lsn() - '0/0']::float8[] FROM vault_ext.audit_stats";
    db.query_one(sql, &[]).expect("the counters").get(0)
}

/// A line through points: the time of a batch is `batch` + `row` × its rows.
#[derive(Clone, Copy)]
pub struct Line {
    pub batch: f64,
    pub row: f64,
    /// The largest distance of a point from it, as a part of the point.
    pub deviation: f64,
}

impl Line {
    /// By least squares of the relative distances: the time of a large batch is a hundred times that of a small one.
    pub fn through(points: &[(f64, f64)]) -> Self {
        let sum = |of: &dyn Fn(f64, f64) -> f64| points.iter().map(|(rows, time)| of(*rows, *time)).sum::<f64>();
        let (s, sx, sxx) = (
            sum(&|_, time| time.powi(-2)),
            sum(&|rows, time| rows / time.powi(2)),
            sum(&|rows, time| (rows / time).powi(2)),
        );
        let (sy, sxy) = (sum(&|_, time| 1.0 / time), sum(&|rows, time| rows / time));
        let row = (s * sxy - sx * sy) / (s * sxx - sx * sx);
        let batch = (sy - row * sx) / s;
        let distance = |(rows, time): &(f64, f64)| ((batch + row * rows) / time - 1.0).abs();
        Self { batch, row, deviation: points.iter().map(distance).fold(0.0, f64::max) }
    }

    fn rows_a_second(self, rows: f64) -> f64 {
        rows / (self.batch + self.row * rows)
    }
}

/// Fits the model of docs/benchmarks.md to the medians of each feed, and says what follows from it.
fn model(report: &mut Report, feeds: &[Vec<Round>]) {
    let median =
        |rounds: &[Round], of: fn(&Round) -> f64| Spread::of(&rounds.iter().map(of).collect::<Vec<_>>()).median;
    let through = |of: fn(&Round) -> f64| {
        let point = |rounds: &Vec<Round>| (median(rounds, Round::rows_a_batch), median(rounds, of));
        Line::through(&feeds.iter().map(point).collect::<Vec<_>>())
    };
    let lines = [
        ("its processor time", through(|round| round.processor / f64::from(round.batches))),
        (
            "all its time but that for which no processor was free",
            through(|round| (round.seconds - round.delay) / f64::from(round.batches)),
        ),
        ("all its time", through(|round| round.seconds / f64::from(round.batches))),
    ];
    let describe = |(name, line): &(&str, Line)| {
        let rates: Vec<_> = ASKED.iter().map(|rows| format!("{} at {rows}", text(line.rows_a_second(*rows)))).collect();
        format!(
            "{name}: {} µs a batch + {} µs a row; largest deviation {:.0} %; rows/s at batches of {}; at most {}",
            text(line.batch * 1e6),
            text(line.row * 1e6),
            100.0 * line.deviation,
            rates.join(", "),
            text(1.0 / line.row)
        )
    };
    let largest = feeds.last().expect("feeds");
    let wal = median(largest, |round| round.wal / f64::from(round.rows));
    let mut all: Vec<_> = lines.iter().map(describe).collect();
    all.push(format!("a hundred thousand rows/s write {} MB/s of write-ahead log", text(wal / 10.0)));
    report.list("A model of the audit writer, fitted to these points (rows of a batch, time of a batch):", all);
}
