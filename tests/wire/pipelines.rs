//! Pipelined calls: the client sends them without waiting for the previous answers.

use crate::harness::raw::{Answer, RawClient};
use crate::harness::{bindir, fetch, init, server_command, shared_db};

const KEY: &str = "SELECT master_key, key_version FROM ";

fn version(answer: &Answer) -> Option<String> {
    match answer {
        Answer::Row(values) => values.last().cloned().flatten(),
        _ => None,
    }
}

#[test]
fn a_pipeline_of_calls_answers_in_order() {
    let db = shared_db();
    let mut client = RawClient::connect(db.cluster, "wire_app", &db.name);
    client.queue("SET app.current_user_id = 'alice'");
    for call in ["vault_init", "vault_get_master_key", "vault_rotate", "vault_get_master_key"] {
        client.queue(&format!("{KEY}{call}()"));
    }
    client.sync();
    client.send();
    let answers = client.answers();
    let versions: Vec<_> = answers.iter().filter_map(version).collect();
    assert_eq!(versions, ["1", "1", "2", "2"]);
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[2], answers[3]);
    assert_ne!(answers[0], answers[2]);
    let stored = fetch(&mut db.app_for("alice")).unwrap();
    let expected = Answer::Row(vec![Some(stored.master_key), Some("2".to_owned())]);
    assert_eq!(answers[3], expected);
    assert_eq!(db.audit_of("alice").len(), 5);
}

#[test]
fn an_error_in_a_pipeline_rolls_back_its_implicit_transaction_but_not_the_trail() {
    let db = shared_db();
    let mut client = RawClient::connect(db.cluster, "wire_app", &db.name);
    client.queue("SET app.current_user_id = 'alice'");
    client.sync();
    client.queue(&format!("{KEY}vault_init()"));
    client.queue("SELECT 1/0");
    client.queue(&format!("{KEY}vault_get_master_key()"));
    client.sync();
    client.queue(&format!("{KEY}vault_get_master_key()"));
    client.sync();
    client.send();
    assert_eq!(client.answers(), [Answer::Ready('I')]);
    let answers = client.answers();
    assert_eq!(version(&answers[0]).as_deref(), Some("1"));
    assert_eq!(answers[1..], [Answer::Error("22012".to_owned()), Answer::Ready('I')]);
    let answers = client.answers();
    assert_eq!(answers, [Answer::Error("P0002".to_owned()), Answer::Ready('I')]);
    let rows = db.audit_of("alice");
    assert_eq!(rows[0].what(), ("init", 201, Some("created")));
    assert!(rows.iter().any(|row| row.what() == ("init", 409, Some("rolled-back"))));
    assert!(rows.iter().any(|row| row.what() == ("failed_fetch", 404, Some("not-initialised"))));
    assert_eq!(rows.len(), 3);
}

#[test]
fn each_of_hundreds_of_calls_in_one_pipeline_is_audited() {
    let db = shared_db();
    let key = init(&mut db.app_for("alice")).unwrap();
    let mut client = RawClient::connect(db.cluster, "wire_app", &db.name);
    client.queue("SET app.current_user_id = 'alice'");
    for _ in 0..300 {
        client.queue(&format!("{KEY}vault_get_master_key()"));
    }
    client.sync();
    client.send();
    let answers = client.answers();
    let row = Answer::Row(vec![Some(key.master_key), Some("1".to_owned())]);
    assert_eq!(answers.iter().filter(|answer| **answer == row).count(), 300);
    assert_eq!(db.audit_of("alice").len(), 301);
}

#[test]
fn libpq_pipelines_of_several_clients_work() {
    let db = shared_db();
    let script = db.cluster.write_kek(
        &format!("{}.sql", db.name),
        "\\startpipeline\nSELECT set_config('app.current_user_id', 'bench-' || :client_id, false);\n\
         SELECT vault_init();\nSELECT vault_get_master_key();\nSELECT vault_rotate();\n\\endpipeline\n",
        0o644,
    );
    for mode in ["extended", "prepared"] {
        let output = server_command(bindir().join("pgbench"), db.cluster.dir())
            .args(["-n", "-M", mode, "-c", "4", "-j", "2", "-t", "25", "-U", "wire_app", "-f"])
            .arg(&script)
            .args(["-p", &db.cluster.port().to_string(), "-h"])
            .arg(db.cluster.dir())
            .arg(&db.name)
            .output()
            .expect("pgbench starts");
        assert!(output.status.success(), "{output:?}");
    }
    let rows = db.audit();
    assert_eq!(rows.len(), 2 * 4 * 25 * 3);
    assert_eq!(rows.iter().filter(|row| row.status == 201).count(), 4);
    assert!(rows.iter().all(|row| matches!(row.status, 200 | 201)));
}
