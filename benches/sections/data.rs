//! Encryption in SQL: decryption of a table in one transaction, compared with pgcrypto.

use std::time::Instant;

use postgres::Client;

use crate::figures::{Figure, Goal};
use crate::machine::scheduled;
use crate::options::Options;
use crate::report::Report;
use crate::sections::Section;
use crate::server::{Server, mint};

pub const SECTION: Section = Section { name: "data", title: "vault_decrypt() against pgcrypto", run };

/// Rows a second of one statement that reads them all.
fn rows_per_second(db: &mut Client, sql: &str, rows: i64) -> f64 {
    let start = Instant::now();
    let count: i64 = db.query_one(sql, &[]).unwrap_or_else(|e| panic!("{sql}: {e:?}")).get(0);
    assert_eq!(count, rows, "{sql}");
    rows as f64 / start.elapsed().as_secs_f64()
}

/// Microseconds of its backend's processor for each of these values, which the client sends a thousand at a time and gets back
/// decrypted. One transaction.
fn sent_microseconds(db: &mut Client, values: &[Vec<u8>]) -> f64 {
    let pid: i32 = db.query_one("SELECT pg_backend_pid()", &[]).expect("a backend").get(0);
    let sent = db.prepare("SELECT vault_decrypt(v, 'notes.body') FROM unnest($1::bytea[]) v").expect("the statement");
    let (before, _) = scheduled(pid).expect("the backend runs");
    let mut transaction = db.transaction().expect("a transaction");
    for some in values.chunks(1_000) {
        assert_eq!(transaction.query(&sent, &[&some]).expect("values").len(), some.len());
    }
    transaction.commit().expect("the end of the transaction");
    let (after, _) = scheduled(pid).expect("the backend runs");
    1e6 * (after - before) / values.len() as f64
}

fn run(options: &Options, report: &mut Report) {
    let server = Server::start(&[]);
    let mut db = server.database("data");
    mint(&mut db, 1);
    let rows: i64 = options.pick(200_000, 20_000);
    let few = rows / 100;
    db.batch_execute(&format!(
        "CREATE EXTENSION pgcrypto; CREATE SCHEMA bench;
         SELECT set_config('app.current_user_id', (SELECT user_id FROM vault_ext.encryption_vaults LIMIT 1), false);
         SET max_parallel_workers_per_gather = 0;
         CREATE TABLE bench.plain AS SELECT n, convert_to(rpad(n::text, 64, 'x'), 'UTF8') AS v FROM generate_series(1, {rows}) n;
         CREATE TABLE bench.ours AS SELECT n, vault_encrypt(v, 'notes.body') AS v FROM bench.plain;
         CREATE TABLE bench.raw AS SELECT n, encrypt(v, '\\x00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff', 'aes') AS v FROM bench.plain;
         CREATE TABLE bench.cheapest AS
            SELECT n, pgp_sym_encrypt_bytea(v, 'passphrase', 'cipher-algo=aes256, s2k-mode=0, compress-algo=0') AS v FROM bench.plain;
         CREATE TABLE bench.by_default AS SELECT n, pgp_sym_encrypt_bytea(v, 'passphrase') AS v FROM bench.plain WHERE n <= {few}"
    ))
    .expect("tables of encrypted values");
    db.batch_execute("VACUUM ANALYZE").expect("vacuum");
    server.settle();
    let key = "'\\x00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff'";
    let sides = [
        ("SELECT count(vault_decrypt(v, 'notes.body')) FROM bench.ours".to_owned(), rows),
        (format!("SELECT count(decrypt(v, {key}, 'aes')) FROM bench.raw"), rows),
        ("SELECT count(pgp_sym_decrypt_bytea(v, 'passphrase')) FROM bench.cheapest".to_owned(), rows),
        ("SELECT count(pgp_sym_decrypt_bytea(v, 'passphrase')) FROM bench.by_default".to_owned(), few),
        ("SELECT count(vault_encrypt(v, 'notes.body')) FROM bench.plain".to_owned(), rows),
        ("SELECT count(vault_reencrypt(v, 'notes.body')) FROM bench.ours".to_owned(), rows),
        ("SELECT count(vault_blind_index(n::text, 'number')) FROM bench.plain".to_owned(), rows),
    ];
    let values: Vec<Vec<u8>> =
        db.query("SELECT v FROM bench.ours", &[]).expect("the values").iter().map(|row| row.get(0)).collect();
    let mut samples = vec![Vec::new(); sides.len()];
    let mut sent = Vec::new();
    for round in 0..=options.rounds() {
        for ((sql, rows), samples) in sides.iter().zip(&mut samples) {
            let rate = rows_per_second(&mut db, sql, *rows);
            // The first round fills the caches.
            if round > 0 {
                samples.push(rate);
            }
        }
    }
    for round in 0..=options.rounds() {
        let microseconds = sent_microseconds(&mut db, &values);
        if round > 0 {
            sent.push(microseconds);
        }
    }
    let name = "vault_decrypt() of 64 bytes in one transaction";
    report.add(Figure::plain("data", name, "rows/s", &samples[0]).goal(Goal::AtLeast(500_000.0)));
    for (side, against, goal) in [
        (1, "raw decrypt(…, 'aes')", 1.2),
        (2, "pgp_sym_decrypt at its cheapest", 5.0),
        (3, "pgp_sym_decrypt by default", 100.0),
    ] {
        let name = format!("vault_decrypt() against {against}");
        report.add(Figure::ratio("data", &name, "rows/s", &samples[0], &samples[side]).goal(Goal::AtLeast(goal)));
    }
    for (side, name) in [(4, "vault_encrypt()"), (5, "vault_reencrypt() of current values"), (6, "vault_blind_index()")]
    {
        report.add(Figure::plain("data", name, "rows/s", &samples[side]));
    }
    let name = "values of 64 bytes that a client has read elsewhere and sends in arrays of 1,000: the backend's processor time";
    report.add(Figure::plain("data", name, "µs a value", &sent));
}
