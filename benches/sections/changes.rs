//! New vaults and new keys, compared with handwritten transactions that do the same writes.

use crate::figures::{Figure, Goal};
use crate::options::Options;
use crate::pgbench::Load;
use crate::report::Report;
use crate::rounds::interleave;
use crate::sections::Section;
use crate::server::{Server, mint, number};

pub const INIT: Section = Section { name: "init", title: "vault_init() of new users", run: init };
pub const ROTATE: Section = Section { name: "rotate", title: "vault_rotate()", run: rotate };

const CLIENTS: u32 = 32;
const USERS: i64 = 10_000;
const GOAL: f64 = 0.90;

fn init(options: &Options, report: &mut Report) {
    let scripts = [include_str!("../sql/init.sql"), include_str!("../sql/init_by_hand.sql")];
    let figure = compare(options, "init", scripts, "action = 'init' AND status = 201");
    report.add(Figure { name: "vault_init() of new users against the same writes by hand".into(), ..figure });
}

fn rotate(options: &Options, report: &mut Report) {
    let scripts = [include_str!("../sql/rotate.sql"), include_str!("../sql/rotate_by_hand.sql")];
    let figure = compare(options, "rotate", scripts, "action = 'rotate' AND status = 200");
    let name = "vault_rotate(), which keeps the old key, against a transaction by hand that does not".into();
    report.add(Figure { name, ..figure }.goal(Goal::AtLeast(ROTATE_GOAL)));
}

/// A rotation keeps the old key, which the handwritten transaction does not.
const ROTATE_GOAL: f64 = 0.85;

/// Compares our script with the second one. `rows` selects the audit rows of our calls, one for each call.
fn compare(options: &Options, section: &'static str, scripts: [&str; 2], rows: &str) -> Figure {
    let server = Server::start(&[]);
    let mut db = server.database("changes");
    mint(&mut db, USERS);
    db.batch_execute(include_str!("../sql/baselines.sql")).expect("the baselines' tables");
    db.batch_execute("VACUUM ANALYZE").expect("vacuum");
    server.settle();
    let names = ["vault_ext", "by hand"];
    let sides: Vec<_> =
        (0..2).map(|i| Load::new(&server, names[i], "changes", &[scripts[i]]).variable("users", USERS)).collect();

    let trail = format!("SELECT count(*) FROM vault_ext.encryption_vault_audit WHERE {rows}");
    let before = number(&mut db, &trail);
    let samples = interleave(&sides, CLIENTS, options);
    let (calls, rows) = (samples[0].transactions, number(&mut db, &trail) - before);
    assert_eq!(rows, calls as i64, "{calls} calls left {rows} audit rows");
    Figure::ratio(section, "", "/s", &samples[0].tps, &samples[1].tps).clients(CLIENTS).goal(Goal::AtLeast(GOAL))
}
