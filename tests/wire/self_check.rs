//! Tests of the harness itself, mostly on a server without the extension. A check that cannot fail would prove nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::harness::raw::{Answer, RawClient};
use crate::harness::{
    Cluster, Stop, assert_no_secrets, base64, decode, eventually, expect_error, kek, without_deadlock,
};
use crate::ledger::{Call, Ledger};

fn plain() -> Cluster {
    Cluster::builder().not_preloaded().without_fsync().start()
}

fn fails(check: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(check)).is_err()
}

#[test]
fn a_server_restarts_crashes_and_leaves_nothing_behind() {
    let mut cluster = plain();
    cluster.superuser("postgres").batch_execute("CREATE TABLE t AS SELECT 1 AS one").unwrap();
    cluster.restart();
    cluster.crash();
    assert_eq!(cluster.processes(), [] as [i32; 0]);
    cluster.start();
    let one: i32 = cluster.superuser("postgres").query_one("SELECT one FROM t", &[]).unwrap().get(0);
    assert_eq!(one, 1);
    let (dir, data) = (cluster.dir().to_owned(), cluster.data());
    drop(cluster);
    assert!(!dir.exists(), "{}", data.display());
}

#[test]
fn a_server_that_refuses_its_settings_is_noticed() {
    let mut cluster = Cluster::builder().not_preloaded().conf("max_connections = 0").prepare();
    assert!(cluster.start_expect_failure().contains("max_connections"));
    cluster.configure("max_connections = 10");
    assert!(fails(|| drop(cluster.start_expect_failure())));
    cluster.stop(Stop::Immediate);
}

#[test]
fn a_secret_in_the_log_or_a_text_is_found_in_every_notation() {
    let cluster = plain();
    let secrets = [kek(900).to_vec()];
    let clean = ["nothing here".to_owned()];
    assert_no_secrets(&cluster, &clean, &secrets);
    let hex: String = kek(900).iter().map(|b| format!("{b:02x}")).collect();
    let debug = format!("{:?}", kek(900));
    for leak in [base64(&kek(900)), hex.to_uppercase(), hex[10..].to_owned(), debug] {
        assert!(fails(|| assert_no_secrets(&cluster, std::slice::from_ref(&leak), &secrets)), "{leak}");
    }
    let leak = format!("SELECT '{}' nonsense here", base64(&kek(900)));
    expect_error(cluster.superuser("postgres").simple_query(&leak), "42601");
    assert!(fails(|| assert_no_secrets(&cluster, &clean, &secrets)));
}

#[test]
fn the_end_checks_notice_every_kind_of_damage() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.database("d");
    let mut ledger = Ledger::default();
    let mut app = db.app();
    for user in ["alice", "bob"] {
        ledger.call(&mut app, user, Call::Init).unwrap();
    }
    let check = || ledger.end_checks(&db, "a healthy vault", 1);
    check();
    let trail = "vault_ext.encryption_vault_audit";
    let first = format!("SELECT * FROM {trail} WHERE user_id = 'alice' ORDER BY id LIMIT 1");
    db.force(&format!("CREATE TABLE trail AS {first}; CREATE TABLE vaults AS TABLE vault_ext.encryption_vaults"));
    let back = format!("INSERT INTO {trail} OVERRIDING SYSTEM VALUE TABLE trail");
    for (damage, repair) in [
        // A row is missing, names another user, names another key, or is there twice.
        (format!("DELETE FROM {trail} WHERE id = (SELECT id FROM trail)"), back.as_str()),
        (
            format!("UPDATE {trail} SET user_id = 'bob' WHERE id = (SELECT id FROM trail)"),
            "UPDATE vault_ext.encryption_vault_audit SET user_id = 'alice' WHERE id = (SELECT id FROM trail)",
        ),
        (
            format!("UPDATE {trail} SET key_version = 2 WHERE id = (SELECT id FROM trail)"),
            "UPDATE vault_ext.encryption_vault_audit SET key_version = 1 WHERE id = (SELECT id FROM trail)",
        ),
        (format!("UPDATE trail SET id = -1; {back}"), "DELETE FROM vault_ext.encryption_vault_audit WHERE id = -1"),
        // A vault is missing. Afterwards, another key is in its place.
        ("DELETE FROM vault_ext.encryption_vaults WHERE user_id = 'bob'".to_owned(), ""),
    ] {
        db.force(&damage);
        assert!(fails(check), "{damage}");
        db.force(repair);
    }
    Ledger::default().call(&mut app, "bob", Call::Init).unwrap();
    assert!(fails(check), "another key of the same version");
    db.force("DELETE FROM vault_ext.encryption_vaults; INSERT INTO vault_ext.encryption_vaults TABLE vaults");
    check();
    // No call of the ledger explains this key version.
    Ledger::default().call(&mut app, "bob", Call::Rotate).unwrap();
    assert!(fails(check), "a rotation outside the ledger");
    db.force("DELETE FROM vault_ext.encryption_vaults; INSERT INTO vault_ext.encryption_vaults TABLE vaults");
    check();
    let leak = cluster.data().join("leak");
    for secret in
        [ledger.key("bob").master_key.clone().into_bytes(), decode(&ledger.key("bob").master_key), kek(1).to_vec()]
    {
        std::fs::write(&leak, secret).unwrap();
        assert!(fails(check), "a key in a file");
    }
    std::fs::remove_file(leak).unwrap();
    check();
}

#[test]
fn an_expected_error_of_another_code_fails() {
    let cluster = plain();
    let mut client = cluster.superuser("postgres");
    let refusal = expect_error(client.simple_query("SELECT 1/0"), "22012");
    assert_eq!(refusal.message, "division by zero");
    assert!(fails(|| drop(expect_error(client.simple_query("SELECT 1/0"), "28000"))));
    assert!(fails(|| drop(expect_error(client.simple_query("SELECT 1"), "22012"))));
}

#[test]
fn a_pipeline_stops_at_its_error_and_goes_on_after_the_sync() {
    let cluster = plain();
    let mut client = RawClient::connect(&cluster, "postgres", "postgres");
    for sql in ["SELECT 'a', NULL::text", "SELECT 1/0", "SELECT 'skipped'"] {
        client.queue(sql);
    }
    client.sync();
    client.queue("SELECT 'b'");
    client.sync();
    client.send();
    let row = Answer::Row(vec![Some("a".to_owned()), None]);
    let error = Answer::Error("22012".to_owned());
    assert_eq!(client.answers(), [row, error, Answer::Ready('I')]);
    let row = Answer::Row(vec![Some("b".to_owned())]);
    assert_eq!(client.answers(), [row, Answer::Ready('I')]);
}

#[test]
fn deadlines_end_waits_for_events_that_never_happen() {
    let soon = Duration::from_millis(50);
    assert!(fails(|| eventually(soon, "never", || false)));
    assert!(fails(|| without_deadlock(soon, "a long wait", || { std::thread::park_timeout(Duration::from_secs(5)) })));
}
