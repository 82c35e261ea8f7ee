//! What the trail's tree, its limits and its retention cost, and how long its verification takes.

use std::io::{BufReader, BufWriter, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vault_trail::leaf::{Leaf, Personal};
use vault_trail::tree::Frontier;
use vault_trail::verify::{RowsOnly, Verifier};
use vault_trail_cli::rows::{self, to_hex};

use crate::figures::{Figure, Goal};
use crate::machine;
use crate::options::Options;
use crate::pgbench::Load;
use crate::report::Report;
use crate::rounds::interleave;
use crate::sections::Section;
use crate::server::{APP, Server, mint};

pub const SECTION: Section =
    Section { name: "trail", title: "the trail's tree, limits, verification and retention", run };

const USERS: i64 = 10_000;
const CLIENTS: [u32; 3] = [1, 8, 32];
const WITH_TREE: f64 = 0.97;
const WITH_LIMITS: f64 = 0.98;
const WHILE_PURGING: f64 = 0.8;
const START: f64 = 50.0;
const VERIFY: f64 = 10.0;

fn run(options: &Options, report: &mut Report) {
    verify(options, report);
    // An idle writer stays, so that no round has to start one.
    let server = Server::start(&["vault_ext.audit_idle_exit = 4s"]);
    for name in ["tree", "limits"] {
        mint(&mut server.database(name), USERS);
    }
    // The SQL of 0.2.0 has neither the tree nor its columns, nor those that say what established the user.
    server.superuser("postgres").batch_execute("CREATE DATABASE no_tree").expect("a new database");
    let mut db = server.superuser("no_tree");
    db.batch_execute(&format!("CREATE EXTENSION vault_ext VERSION '0.2.0'; GRANT vault_ext_user TO {APP}"))
        .expect("the released script of 0.2.0 is installed");
    mint(&mut db, USERS);
    for name in ["alarm_users", "max_users", "alarm_failures", "max_failures"] {
        let sql = format!("ALTER DATABASE limits SET vault_ext.{name}_per_minute = 49152");
        server.superuser("postgres").batch_execute(&sql).expect("a limit");
    }
    server.settle();
    let fetch = include_str!("../sql/fetch_any_user.sql");
    let load = |db: &'static str| Load::new(&server, db, db, &[fetch]).variable("users", USERS);
    let sides = [load("tree"), load("no_tree"), load("limits")];
    for clients in CLIENTS {
        let samples = interleave(&sides, clients, options);
        let ratio = |name: &str, index: usize, against: usize, goal| {
            let figure = Figure::ratio("trail", name, "/s", &samples[index].tps, &samples[against].tps);
            figure.clients(clients).goal(Goal::AtLeast(goal))
        };
        report.add(ratio("fetch with the tree against the SQL of 0.2.0 without it", 0, 1, WITH_TREE));
        report.add(ratio("fetch with limits and alarms against without", 2, 0, WITH_LIMITS));
    }
    start(&server, report);
    purge(&server, options, report);
}

/// The time of a first call with a new writer, in a small trail and in one of fifty million rows.
fn start(server: &Server, report: &mut Report) {
    let mut large = server.database("large");
    mint(&mut large, 1);
    // Only the tiles that a writer reads are there: the last ones of each level.
    large
        .batch_execute(
            "INSERT INTO vault_ext.audit_tiles (level, index, hashes, root)
             SELECT l.level, i, decode(repeat('00', 8192), 'hex'), sha256(int8send(i))
             FROM (VALUES (0, 195072, 195311), (1, 512, 761), (2, 0, 1)) l (level, first, last), generate_series(l.first, l.last) i;
             UPDATE vault_ext.encryption_vault_audit SET leaf = 195312 * 256 + 127",
        )
        .expect("a large tree");
    large.batch_execute("VACUUM ANALYZE").expect("vacuum");
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..10 {
        for (name, times) in ["tree", "large"].into_iter().zip(&mut times) {
            let mut db = server.superuser(name);
            db.batch_execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE backend_type = 'vault_ext audit writer' AND datname = current_database(); SET app.current_user_id = 'nobody'")
                .expect("a writer that ends");
            let begun = Instant::now();
            db.batch_execute("SELECT vault_health()").expect("a writer that starts");
            times.push(begun.elapsed().as_secs_f64() * 1000.0);
        }
    }
    let more: Vec<f64> = times[1].iter().zip(&times[0]).map(|(large, small)| large - small).collect();
    report.add(
        Figure::plain("trail", "a writer's start with 50 million rows, more than with 10 thousand", "ms", &more)
            .goal(Goal::AtMost(START)),
    );
}

/// Fetches while a purge in batches runs, against fetches without one.
fn purge(server: &Server, options: &Options, report: &mut Report) {
    let rows: i64 = options.pick(10_000_000, 500_000);
    let mut db = server.database("purged");
    mint(&mut db, USERS);
    let fill = format!(
        "INSERT INTO vault_ext.encryption_vault_audit (user_id, action, status, kek_id, key_version, db_role, created_at)
         SELECT (n % 1000)::text, 'fetch', 200, 'env-v1', 1, 'bench_app', now() - interval '2 years' FROM generate_series(1, {rows}) n"
    );
    db.batch_execute(&fill).expect("old rows");
    db.batch_execute("VACUUM ANALYZE").expect("vacuum");
    server.settle();
    let load =
        Load::new(server, "purged", "purged", &[include_str!("../sql/fetch_any_user.sql")]).variable("users", USERS);
    let (purging, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let (mut without, mut during) = (Vec::new(), Vec::new());
    let mut took = 0.0;
    thread::scope(|scope| {
        load.run(8, Duration::from_secs(1));
        (0..options.rounds()).for_each(|_| without.push(load.run(8, options.round()).tps));
        let purge = scope.spawn(|| {
            purging.store(true, Ordering::SeqCst);
            let begun = Instant::now();
            server.superuser("purged").batch_execute("CALL vault_purge_audit('1 year', 10000)").expect("a purge");
            ended.store(true, Ordering::SeqCst);
            begun.elapsed().as_secs_f64()
        });
        while during.len() < without.len() && !ended.load(Ordering::SeqCst) {
            during.push(load.run(8, options.round()).tps);
        }
        took = purge.join().expect("the purge");
    });
    without.truncate(during.len());
    let name = format!("fetch while {rows} rows are purged in batches against without");
    report.add(Figure::ratio("trail", name, "/s", &during, &without).clients(8).goal(Goal::AtLeast(WHILE_PURGING)));
    report.add(Figure::plain("trail", format!("purge of {rows} rows in batches, beside 8 clients"), "s", &[took]));
}

/// Verifies a million rows as `vault-trail verify trail.csv` does, on one core.
fn verify(options: &Options, report: &mut Report) {
    const ROWS: u64 = 1_000_000;
    let path = std::env::temp_dir().join(format!("vault_ext-trail-{}.csv", std::process::id()));
    let root = write_rows(&path, ROWS);
    let (mut times, mut memory) = (Vec::new(), Vec::new());
    let own = |label| machine::kilobytes(std::process::id() as i32, "status", label).unwrap_or_default();
    for _ in 0..options.rounds() {
        let before = own("VmRSS:");
        let begun = Instant::now();
        let mut verifier = Verifier::new([], RowsOnly);
        let file = std::fs::File::open(&path).expect("the rows");
        rows::read(BufReader::with_capacity(1 << 16, file), |row| {
            verifier.row(row);
            true
        })
        .expect("rows");
        let (summary, finding) = verifier.finish();
        assert_eq!((summary.rows, summary.root, finding), (ROWS, Some(root), None));
        times.push(begun.elapsed().as_secs_f64());
        memory.push((own("VmRSS:") - before).max(0.0));
    }
    std::fs::remove_file(&path).expect("the file goes");
    report
        .add(Figure::plain("trail", "offline verification of a million rows", "s", &times).goal(Goal::AtMost(VERIFY)));
    report.add(Figure::plain("trail", "memory that it needs more than before", "kB", &memory));
}

/// Writes rows such as fetches leave, as COPY writes them, and gives the root of their tree.
fn write_rows(path: &std::path::Path, rows: u64) -> vault_trail::Hash {
    let mut file = BufWriter::with_capacity(1 << 20, std::fs::File::create(path).expect("a file"));
    writeln!(file, "id,user_id,action,status,kek_id,key_version,db_role,ip_address,user_agent,request_id,created_at,identity,login_role,application_name,leaf,leaf_hash,salt").unwrap();
    let mut tree = Frontier::default();
    for leaf in 0..rows {
        let (user, request) = (format!("user-{}", leaf % 5000), format!("request-{leaf}"));
        let mut salt = [0; 16];
        salt[..8].copy_from_slice(&leaf.to_le_bytes());
        let personal = Personal {
            user_id: Some(&user),
            ip_address: Some("192.0.2.7"),
            user_agent: Some("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"),
            request_id: Some(&request),
            application_name: Some("shop"),
            ..Personal::default()
        };
        let fields = Leaf {
            created_at: 0,
            action: "fetch",
            status: 200,
            kek_id: Some("env-v1"),
            key_version: Some(1),
            db_role: "app",
            login_role: Some("app"),
            identity: Some("asserted"),
            ..Leaf::default()
        };
        let hash = fields.hash(&personal.digest(&salt));
        tree.push(hash);
        writeln!(
            file,
            "{},{user},fetch,200,env-v1,1,app,192.0.2.7,Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36,{request},2000-01-01 00:00:00+00,asserted,app,shop,{leaf},{},{}",
            leaf + 1,
            to_hex(&hash),
            to_hex(&salt)
        )
        .unwrap();
    }
    file.flush().unwrap();
    tree.root()
}
