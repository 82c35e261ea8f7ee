//! The fetch with millions of vaults and with a trail of millions of rows.

use std::thread;

use crate::figures::{Figure, Goal, number as text};
use crate::machine;
use crate::options::Options;
use crate::pgbench::Load;
use crate::report::Report;
use crate::rounds::interleave;
use crate::sections::Section;
use crate::server::{FIRST_USER, Server, fill_with_format_1, free_space};

pub const SECTION: Section = Section { name: "growth", title: "the fetch with large tables", run };

const CLIENTS: u32 = 8;
const FEW: i64 = 10_000;
const MANY_VAULTS: f64 = 0.95;
const LONG_TRAIL: f64 = 0.85;
const PREWARM: &str = "CREATE EXTENSION pg_prewarm;
    SELECT pg_prewarm('vault_ext.encryption_vaults'), pg_prewarm('vault_ext.encryption_vaults_pkey')";
/// A lookup by primary key, without row-level security and audit. It shows the cost of the table's size alone.
const SELECT: &str = "\\set user 100000000000000000 + random(1, :users)
SELECT wrapped_mk, wrap_iv, format_version, kek_id, key_version FROM vault_ext.encryption_vaults WHERE user_id = :user;
";

fn run(options: &Options, report: &mut Report) {
    let vaults: i64 = options.pick(10_000_000, 300_000);
    let rows: i64 = options.pick(50_000_000, 1_000_000);
    // Measurements gave 400 bytes for each vault and 450 for each audit row, including indexes and write-ahead log.
    let needed = (400 * vaults + 450 * rows) as u64 + 2_000_000_000;
    if free_space() < needed {
        report.note(format!("growth is not measured: it needs {} GB of disk", needed / 1_000_000_000 + 1));
        return;
    }
    // A quarter of the memory, as PostgreSQL's documentation recommends. With less, the server has to copy pages one by
    // one from the kernel's cache.
    let buffers = format!("shared_buffers = {}MB", (machine::memory() >> 20) / 4);
    let server = Server::start(&["max_wal_size = 2GB", &buffers]);
    for name in ["small", "many_vaults", "long_trail"] {
        server.database(name);
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            for (name, count) in [("small", FEW), ("long_trail", FEW), ("many_vaults", vaults)] {
                let fill = fill_with_format_1("vault_ext.encryption_vaults", count);
                server.superuser(name).batch_execute(&fill).unwrap_or_else(|e| panic!("{name}: {e:?}"));
            }
        });
        scope.spawn(|| fill_trail(&server, rows));
    });
    for name in ["small", "many_vaults", "long_trail"] {
        server.superuser(name).batch_execute("VACUUM ANALYZE").expect("vacuum");
    }
    for name in ["small", "many_vaults"] {
        server.superuser(name).batch_execute(PREWARM).expect("the vaults are loaded into memory");
    }
    server.settle();

    let fetch = include_str!("../sql/fetch_any_user.sql");
    let load = |db: &'static str, users: i64| Load::new(&server, db, db, &[fetch]).variable("users", users);
    let sides = [load("small", FEW), load("many_vaults", vaults), load("long_trail", FEW)];
    let samples = interleave(&sides, CLIENTS, options);
    let select = |name: &'static str, db: &str, users: i64| {
        Load::new(&server, name, db, &[SELECT]).variable("users", users).by_superuser()
    };
    let selects = [select("select small", "small", FEW), select("select many_vaults", "many_vaults", vaults)];
    let selects = interleave(&selects, CLIENTS, options);
    let add = |report: &mut Report, name: String, index: usize, goal: f64| {
        let figure = Figure::ratio("growth", name, "/s", &samples[index].tps, &samples[0].tps);
        report.add(figure.clients(CLIENTS).goal(Goal::AtLeast(goal)));
    };
    let count = |n: i64| text(n as f64);
    add(report, format!("fetch with {} vaults against {}", count(vaults), count(FEW)), 1, MANY_VAULTS);
    let name = format!("plain SELECT from {} vaults against {}", count(vaults), count(FEW));
    report.add(Figure::ratio("growth", name, "/s", &selects[1].tps, &selects[0].tps).clients(CLIENTS));
    add(report, format!("fetch with {} audit rows against an empty trail", count(rows)), 2, LONG_TRAIL);
}

/// Inserts rows such as past fetches leave. Creating the indexes afterwards is faster.
fn fill_trail(server: &Server, rows: i64) {
    let mut db = server.superuser("long_trail");
    let indexes = "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
                   WHERE indrelid = 'vault_ext.encryption_vault_audit'::regclass AND NOT indisprimary";
    let indexes: Vec<(String, String)> =
        db.query(indexes, &[]).expect("the indexes").iter().map(|row| (row.get(0), row.get(1))).collect();
    for (name, _) in &indexes {
        db.batch_execute(&format!("DROP INDEX {name}")).unwrap_or_else(|e| panic!("{name}: {e:?}"));
    }
    let fill = format!(
        "INSERT INTO vault_ext.encryption_vault_audit
             (user_id, action, status, kek_id, key_version, db_role, created_at)
         SELECT ({FIRST_USER} + 1 + floor(random() * {FEW}))::bigint::text, 'fetch', 200, 'env-v1', 1, 'bench_app',
                now() - ({rows} - n) * interval '1 second'
         FROM generate_series(1, {rows}) n"
    );
    db.batch_execute(&fill).expect("the trail");
    for (name, definition) in &indexes {
        db.batch_execute(definition).unwrap_or_else(|e| panic!("{name}: {e:?}"));
    }
    // As an update of the extension does. Otherwise the writer would, before its first row, for longer than a call waits.
    db.batch_execute("SELECT vault_ext.commit_to_old_audit_rows()").expect("the tree begins after these rows");
}
