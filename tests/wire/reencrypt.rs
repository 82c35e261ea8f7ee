//! A table goes from one version of a key to the next, beside live traffic and across a crash, by the loop of docs/keys.md. An
//! ordinary run has fewer rows than `make reliability`, which has a million.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::{Cluster, Db, eventually, init, kill9, scenario_size, set_user};

const SOON: Duration = Duration::from_secs(60);

/// One step of the loop: no rows are left when it changes none.
const STEP: &str = "
    WITH batch AS (
        SELECT id FROM notes
        WHERE vault_ciphertext_version(body) < (SELECT key_version FROM vault_status())
        LIMIT 1000 FOR UPDATE SKIP LOCKED)
    UPDATE notes n SET body = vault_reencrypt(n.body, 'notes.body:' || n.id)
    FROM batch WHERE n.id = batch.id";

/// Ends the traffic, also when the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How many rows are under each version.
fn versions(db: &Db) -> Vec<(i32, i64)> {
    let sql = "SELECT vault_ciphertext_version(body), count(*) FROM notes GROUP BY 1 ORDER BY 1";
    db.superuser().query(sql, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[test]
fn a_table_is_reencrypted_beside_live_traffic_and_across_a_kill() {
    let rows = scenario_size(5_000, 1_000_000) as i64;
    let cluster = Cluster::builder().with_wire_kek().without_fsync().conf("restart_after_crash = on").start();
    let db = cluster.database("d");
    init(&mut db.app_for("alice")).unwrap();
    db.force("CREATE TABLE notes (id bigint PRIMARY KEY, body bytea NOT NULL); GRANT ALL ON notes TO wire_crypt");
    let mut app = db.crypt_for("alice");
    let fill = "INSERT INTO notes SELECT n, vault_encrypt('note ' || n, 'notes.body:' || n) FROM generate_series(1, $1::bigint) n";
    app.execute(fill, &[&rows]).unwrap();
    db.force("CREATE INDEX notes_version ON notes (vault_ciphertext_version(body)); ANALYZE notes");
    app.execute("SELECT vault_create_key_version()", &[]).unwrap();
    assert_eq!(versions(&db), [(1, rows)]);

    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Readers and writers go on, on connections that the crash may take from them.
        let traffic = scope.spawn(|| {
            let (mut calls, mut id) = (0u64, 1);
            while !is_done.load(Ordering::Relaxed) {
                let Ok(mut client) = cluster.try_conn("wire_crypt", "d") else { continue };
                set_user(&mut client, "alice");
                while !is_done.load(Ordering::Relaxed) {
                    id = id % rows + 1;
                    let read = client.query_one(
                        "SELECT vault_decrypt_text(body, 'notes.body:' || id) FROM notes WHERE id = $1",
                        &[&id],
                    );
                    let Ok(row) = read else { break };
                    assert_eq!(row.get::<_, &str>(0), format!("note {id}"));
                    let write = client.execute(
                        "UPDATE notes SET body = vault_encrypt('note ' || id, 'notes.body:' || id) WHERE id = $1",
                        &[&(rows - id + 1)],
                    );
                    if write.is_err() {
                        break;
                    }
                    calls += 1;
                }
            }
            calls
        });
        let ends = Ends(&is_done);
        let pid: i32 = app.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
        app.execute(STEP, &[]).unwrap();
        app.batch_execute("BEGIN").unwrap();
        assert_eq!(app.execute(STEP, &[]).unwrap(), 1000);
        kill9(pid);
        let starts = || cluster.log().matches("database system is ready to accept connections").count();
        eventually(SOON, "the server is back", || starts() == 2);
        let mut app = db.crypt_for("alice");
        let left = versions(&db);
        assert!(left[0].1 > rows - 2000 - rows / 2, "the batch of the killed session is undone: {left:?}");
        // A batch may also be empty because others hold the last rows.
        while app.execute(STEP, &[]).unwrap() > 0 || versions(&db).iter().any(|(version, _)| *version == 1) {}
        drop(ends);
        assert!(traffic.join().expect("the traffic saw no wrong value") > 0);
    });
    assert_eq!(versions(&db), [(2, rows)]);
    let mut app = db.crypt_for("alice");
    // Nothing needs the old version any more.
    app.execute("SELECT vault_disable_key_version(1)", &[]).unwrap();
    let sql = "SELECT count(*) FROM notes WHERE vault_decrypt_text(body, 'notes.body:' || id) = 'note ' || id";
    let good: i64 = app.query_one(sql, &[]).unwrap().get(0);
    assert_eq!(good, rows);
    let uses = format!("purpose data: {rows} uses");
    eventually(SOON, "the row with the uses is there", || {
        db.audit_where(&format!("action = 'decrypt' AND context = '{uses}'")).len() == 1
    });
}

/// The memory of a server process in kB, without files and without what it shares with others.
fn anonymous_memory(pid: i32) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("a line of the status");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).expect("a number of kB")
}

#[test]
fn very_many_decryptions_in_one_transaction_keep_memory_flat() {
    let count = scenario_size(100_000, 10_000_000) as i64;
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.database("d");
    init(&mut db.app_for("alice")).unwrap();
    let mut app = db.crypt_for("alice");
    let value: Vec<u8> = app.query_one("SELECT vault_encrypt(repeat('x', 64), 'c')", &[]).unwrap().get(0);
    let pid: i32 = app.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    // The planner compiles a long statement, which takes some MB.
    app.batch_execute("SET jit = off").unwrap();
    let mut tx = app.transaction().unwrap();
    // A generate_series in FROM would be materialized, and memory would grow by that.
    let sql = "SELECT count(vault_decrypt_text($1, 'c')) FROM (SELECT generate_series(1, $2::bigint) OFFSET 0) n";
    // The first statements of a process make its caches.
    tx.query_one(sql, &[&value, &(count / 10)]).unwrap();
    let before = anonymous_memory(pid);
    assert_eq!(tx.query_one(sql, &[&value, &count]).unwrap().get::<_, i64>(0), count);
    let grown = anonymous_memory(pid) - before;
    assert!(grown < 1024, "{grown} kB more after {count} decryptions");
    tx.commit().unwrap();
    let rows = || db.audit_where("action = 'decrypt'").len();
    eventually(SOON, "one row before and one after", || rows() == 2);
}
