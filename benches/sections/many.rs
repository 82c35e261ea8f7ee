//! The keys of many users in one statement, for a service that holds their grants.

use crate::figures::{Figure, Goal};
use crate::options::Options;
use crate::pgbench::Load;
use crate::report::Report;
use crate::rounds::interleave;
use crate::sections::Section;
use crate::server::{APP, FIRST_USER, Server, mint, number};

pub const SECTION: Section = Section { name: "many", title: "vault_get_master_keys() of 100 users and of one", run };

const USERS: i64 = 1_000;
/// benches/sql/many.sql has this number, too.
const MANY: u64 = 100;
const GOAL: f64 = 5.0;

fn run(options: &Options, report: &mut Report) {
    let server = Server::start(&[]);
    let mut db = server.database("many");
    mint(&mut db, USERS);
    let grants = format!(
        "SELECT count(vault_grant_for(({FIRST_USER} + n)::text, '{APP}', '1 day', 'benchmark')) FROM generate_series(1, {USERS}) n"
    );
    db.batch_execute(&format!("GRANT vault_ext_service TO {APP}")).expect("the service's role");
    assert_eq!(number(&mut db, &grants), USERS);
    db.batch_execute("VACUUM ANALYZE").expect("vacuum");

    let load = |name, script: &str| Load::new(&server, name, "many", &[script]).variable("users", USERS);
    let sides = [
        load("one key by the list", include_str!("../sql/many_of_one.sql")),
        load("one key by the single call", include_str!("../sql/fetch_by_grant.sql")),
        load("100 keys", include_str!("../sql/many.sql")),
    ];
    server.settle();
    let rows = "SELECT count(*) FROM vault_ext.encryption_vault_audit WHERE action = 'fetch' AND status = 200";
    let before = number(&mut db, rows);
    let samples = interleave(&sides, 1, options);
    let keys = samples[0].transactions + samples[1].transactions + MANY * samples[2].transactions;
    assert_eq!(number(&mut db, rows) - before, keys as i64, "an audit row for each key");

    let milliseconds = |side: usize| -> Vec<f64> { samples[side].tps.iter().map(|tps| 1e3 / tps).collect() };
    let (one, single, many) = (milliseconds(0), milliseconds(1), milliseconds(2));
    let figure = |name, base: &[f64]| Figure::ratio("many", name, "ms", &many, base).clients(1);
    report.add(figure("100 keys against one key, both by vault_get_master_keys()", &one).goal(Goal::AtMost(GOAL)));
    report.add(figure("100 keys against one key by vault_get_master_key_of()", &single));
}
