//! Verified identity: what a token costs a call, and row-level security by it.

use std::hint::black_box;
use std::time::Instant;

use postgres::Client;
use serde_json::json;
use vault_core::identity::issuers::Issuers;
use vault_core::identity::token;

use crate::figures::{Figure, Goal};
use crate::harness::{ISS, Signer, claims, issuer, issuers, now};
use crate::options::Options;
use crate::pgbench::Load;
use crate::report::Report;
use crate::rounds::interleave;
use crate::sections::Section;
use crate::server::{Server, mint};

pub const SECTION: Section = Section { name: "identity", title: "tokens against the application's word", run };

/// Users, and tokens of each algorithm: more than a backend remembers.
const USERS: i64 = 10_000;
const ALGORITHMS: [(&str, f64, f64); 3] = [("EdDSA", 75.0, 0.55), ("ES256", 100.0, 0.50), ("RS256", 40.0, 0.70)];
const SCANNED: i64 = 1_000_000;

fn run(options: &Options, report: &mut Report) {
    let signers: Vec<_> = ALGORITHMS.map(|(algorithm, ..)| Signer::new(algorithm, algorithm)).into();
    let mut ours = issuer("idp", ISS, &signers.iter().collect::<Vec<_>>());
    ours["max_lifetime"] = json!(86_400);
    let text = issuers(&[ours]);
    verification(&text, &signers, options, report);

    let file = std::env::temp_dir().join(format!("vault_ext-issuers-{}", std::process::id()));
    std::fs::write(&file, &text).expect("the issuers file");
    crate::harness::chown_to_server(&file);
    let server = Server::start(&[&format!("vault_ext.issuers_file = '{}'", file.display())]);
    let mut db = server.database("tokens");
    mint(&mut db, USERS);
    store_tokens(&mut db, &signers);
    calls(&server, options, report);
    hits_and_scan(&mut db, &signers[0], options, report);
    drop(server);
    std::fs::remove_file(file).expect("the issuers file");
}

fn long_claims(user: i64) -> serde_json::Value {
    let mut claims = claims(&user.to_string());
    claims["exp"] = json!(now() + 80_000);
    claims
}

/// Form, signature and claims, outside any server.
fn verification(text: &str, signers: &[Signer], options: &Options, report: &mut Report) {
    let issuers = Issuers::parse(text.as_bytes(), |_| unreachable!("the keys are in the text")).expect("issuers");
    let rounds = options.pick(20_000, 2_000);
    for (signer, (algorithm, goal, _)) in signers.iter().zip(ALGORITHMS) {
        let token = signer.token(&long_claims(1));
        let once = || {
            let start = Instant::now();
            for _ in 0..rounds {
                black_box(token::verify(black_box(token.as_bytes()), &issuers).expect("a good token"));
            }
            start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds)
        };
        once();
        let samples: Vec<f64> = (0..5).map(|_| once()).collect();
        let name = format!("verification of a token by {algorithm}");
        report.add(Figure::plain("identity", &name, "us", &samples).goal(Goal::AtMost(goal)));
    }
}

fn store_tokens(db: &mut Client, signers: &[Signer]) {
    use std::io::Write;
    db.batch_execute("CREATE SCHEMA bench; CREATE TABLE bench.tokens (algorithm text, id int, token text, PRIMARY KEY (algorithm, id))")
        .expect("a table");
    let mut rows = db.copy_in("COPY bench.tokens FROM STDIN").expect("COPY");
    for signer in signers {
        for user in 1..=USERS {
            let token = signer.token(&long_claims(100_000_000_000_000_000 + user));
            writeln!(rows, "{}\t{user}\t{token}", signer.algorithm).expect("a row");
        }
    }
    rows.finish().expect("COPY");
    db.batch_execute("GRANT USAGE ON SCHEMA bench TO PUBLIC; GRANT SELECT ON bench.tokens TO PUBLIC").expect("grants");
    db.batch_execute("VACUUM ANALYZE").expect("vacuum");
}

/// Every side looks a token up, so that all do the same beside the call itself.
fn calls(server: &Server, options: &Options, report: &mut Report) {
    let by_token = "SELECT * FROM vault_get_master_key(:token);\n";
    let by_word = "SELECT * FROM vault_get_master_key();\n";
    let pick = "SELECT token FROM bench.tokens WHERE algorithm = ALG AND id = random(1, :users) \\gset\n";
    let of = |algorithm: &str| {
        format!(
            "\\set id random(1, :users)\n{}",
            pick.replace("ALG", &format!("'{algorithm}'")).replace("random(1, :users)", ":id")
        )
    };
    let first = |what: &str| format!("\\if :first\n{what}\\set first 0\n\\endif\n");
    let word = "SELECT set_config('app.current_user_id', (100000000000000000 + :id)::text, false);\n";
    let load = |name, parts: &[&str]| Load::new(server, name, "tokens", parts).variable("users", USERS);
    let known = [first(&of("EdDSA")), by_token.to_owned()].concat();
    let asserted = [first(&format!("\\set id random(1, :users)\n{word}")), by_word.to_owned()].concat();
    let mut sides = vec![load("asserted", &[&asserted]), load("one token", &[&known])];
    let fresh_word = [of("EdDSA"), word.to_owned(), by_word.to_owned()].concat();
    sides.push(load("asserted, another user each call", &[&fresh_word]));
    let names = ["another token each call, EdDSA", "another token each call, ES256", "another token each call, RS256"];
    for (name, (algorithm, ..)) in names.into_iter().zip(ALGORITHMS) {
        sides.push(load(name, &[&of(algorithm), by_token]));
    }
    for clients in [8, 32] {
        server.settle();
        let samples = interleave(&sides, clients, options);
        let ratio = |name: &str, a: usize, b: usize| {
            Figure::ratio("identity", name, "/s", &samples[a].tps, &samples[b].tps).clients(clients)
        };
        report.add(ratio("fetch with one token against asserted", 1, 0).goal(Goal::AtLeast(0.97)));
        for (index, (algorithm, _, goal)) in ALGORITHMS.into_iter().enumerate() {
            let name = format!("fetch with another token each call, {algorithm}, against asserted");
            let line = ratio(&name, 3 + index, 2);
            report.add(if clients == 32 { line.goal(Goal::AtLeast(goal)) } else { line });
        }
    }
}

fn milliseconds(db: &mut Client, sql: &str) -> f64 {
    let start = Instant::now();
    db.batch_execute(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    start.elapsed().as_secs_f64() * 1e3
}

fn hits_and_scan(db: &mut Client, signer: &Signer, options: &Options, report: &mut Report) {
    let calls: i64 = options.pick(1_000_000, 100_000);
    let rows = options.pick(SCANNED, 100_000);
    db.batch_execute("SET vault_ext.identity = 'token'").expect("a setting");
    let token = signer.token(&long_claims(7));
    db.query("SELECT set_config('vault_ext.token', $1, false)", &[&token]).expect("a token");
    let per_call = |ms: f64| ms * 1e3 / calls as f64;
    let mut samples = Vec::new();
    for _ in 0..5 {
        let with = milliseconds(db, &format!("SELECT count(vault_user_id()) FROM generate_series(1, {calls})"));
        let without = milliseconds(db, &format!("SELECT count(pg_backend_pid()) FROM generate_series(1, {calls})"));
        samples.push(per_call(with - without));
    }
    report.add(
        Figure::plain("identity", "use of a token that was verified before", "us", &samples).goal(Goal::AtMost(0.2)),
    );

    db.batch_execute(&format!(
        "CREATE TABLE bench.notes AS SELECT CASE WHEN n % 2 = 0 THEN '7' ELSE 'x' END AS owner, n FROM generate_series(1, {rows}) n;
         SET max_parallel_workers_per_gather = 0"
    ))
    .expect("notes");
    db.batch_execute("VACUUM ANALYZE bench.notes").expect("vacuum");
    let (mut by_user, mut by_constant) = (Vec::new(), Vec::new());
    for _ in 0..options.pick(15, 5) {
        by_user.push(1e3 / milliseconds(db, "SELECT count(n) FROM bench.notes WHERE owner = (SELECT vault_user_id())"));
        by_constant.push(1e3 / milliseconds(db, "SELECT count(n) FROM bench.notes WHERE owner = '7'"));
    }
    let name = "scan of a million rows by (SELECT vault_user_id()) against a constant";
    report.add(Figure::ratio("identity", name, "/s", &by_user, &by_constant).goal(Goal::AtLeast(0.98)));
}
