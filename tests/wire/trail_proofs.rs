//! What the trail proves while it is used: checkpoints and their signatures, proofs, purges and redactions that leave it verifiable, and the
//! rows from before the tree.

use std::process::Command;
use std::time::Duration;

use vault_trail::checkpoint::{AuditKey, Checkpoint, ConsistencyProof, InclusionProof, PublicKey};
use vault_trail::proof::{check_consistency, check_inclusion};
use vault_trail::verify::Kind;

use crate::extension_upgrade::{UPDATE, database_at_version, server};
use crate::harness::{Cluster, Db, eventually, expect_error, expect_vault_error, fetch, init, rotate, shared_db};
use crate::trail::{checkpoint, is_whole, verify};

fn many_fetches(db: &Db, user: &str, number: usize) {
    let loop_ = format!("DO $$ BEGIN FOR i IN 1..{number} LOOP PERFORM vault_get_master_key(); END LOOP; END $$");
    db.app_for(user).batch_execute(&loop_).unwrap();
}

fn text(db: &Db, role: &str, sql: &str) -> String {
    db.conn(role).query_one(sql, &[]).unwrap().get(0)
}

#[test]
fn checkpoints_are_signed_by_the_key_of_the_server_and_shown_to_those_who_keep_them() {
    let key = AuditKey::generate().unwrap();
    let mut cluster = Cluster::builder().with_wire_kek().without_fsync().prepare();
    let file = cluster.write_kek("audit.pem", key.to_pkcs8_pem().as_bytes(), 0o600);
    cluster.configure(&format!("vault_ext.audit_key_file = '{}'", file.display()));
    cluster.start();
    let db = cluster.database("my app");
    let mut auditor = db.conn("wire_auditor");
    let nothing: Option<String> = auditor.query_one("SELECT vault_audit_checkpoint()", &[]).unwrap().get(0);
    assert_eq!(nothing, None);
    init(&mut db.app_for("alice")).unwrap();
    let vkey = text(&db, "wire_admin", "SELECT vault_audit_key()");
    assert_eq!(PublicKey::parse(&vkey), Ok(key.public()));
    assert!(vkey.starts_with("vault_ext/my%20app/"), "{vkey}");
    db.force("CREATE ROLE exporter LOGIN; GRANT pg_monitor TO exporter");
    for role in ["wire_auditor", "wire_admin", "exporter"] {
        let note = text(&db, role, "SELECT vault_audit_checkpoint()");
        let open = Checkpoint::open(&note, Some(&key.public())).unwrap();
        assert_eq!((open.size, vkey.split('+').next()), (1, Some(open.origin.as_str())));
    }
    expect_error(db.app_for("alice").query("SELECT vault_audit_checkpoint()", &[]), "42501");
    // The one in the log is signed as well, and nobody sees the key.
    let log = cluster.log();
    assert_eq!(vault_trail_cli::notes::checkpoints(&log, Some(&key.public())).unwrap().len(), 1, "{log}");
    let shown: String = db.superuser().query_one("SHOW vault_ext.audit_key_file", &[]).unwrap().get(0);
    assert_eq!(shown, file.display().to_string());
    let pem = key.to_pkcs8_pem();
    let secret = pem.lines().nth(1).unwrap();
    assert!(!log.contains(secret));
}

#[test]
fn the_server_does_not_start_with_a_bad_audit_key() {
    for (name, text, mode, words) in [
        ("open.pem", "x", 0o644, "has mode 0644"),
        ("bad.pem", "no key at all\n", 0o600, "is not the PKCS#8 PEM of an Ed25519 key"),
        ("", "", 0o600, "does not exist"),
    ] {
        let mut cluster = Cluster::builder().with_wire_kek().without_fsync().prepare();
        let file = if name.is_empty() { "/nowhere/audit.pem".into() } else { cluster.write_kek(name, text, mode) };
        cluster.configure(&format!("vault_ext.audit_key_file = '{}'", file.display()));
        let log = cluster.start_expect_failure();
        assert!(log.contains("vault_ext refuses to start") && log.contains(words), "{log}");
    }
}

#[test]
fn a_row_and_the_growth_of_the_trail_are_proven_at_every_distance() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    many_fetches(&db, "alice", 20);
    let early = checkpoint(&db);
    many_fetches(&db, "alice", 700);
    let mut auditor = db.conn("wire_auditor");
    let rows = auditor
        .query("SELECT id, leaf, leaf_hash FROM vault_ext.encryption_vault_audit WHERE leaf IN (0, 7, 255, 256, 511, 600, 720) ORDER BY id", &[])
        .unwrap();
    assert_eq!(rows.len(), 7);
    for row in rows {
        let (id, leaf, hash): (i64, i64, &[u8]) = (row.get(0), row.get(1), row.get(2));
        let text: String = auditor.query_one("SELECT vault_audit_proof($1)", &[&id]).unwrap().get(0);
        let proof = InclusionProof::parse(&text).unwrap();
        let now = Checkpoint::open(&proof.checkpoint, None).unwrap();
        assert_eq!(proof.index, leaf as u64);
        assert!(check_inclusion(proof.index, hash.try_into().unwrap(), now.size, &now.root, &proof.hashes));
    }
    let text: String = auditor.query_one("SELECT vault_audit_consistency($1)", &[&(early.size as i64)]).unwrap().get(0);
    let proof = ConsistencyProof::parse(&text).unwrap();
    let now = Checkpoint::open(&proof.checkpoint, None).unwrap();
    assert!(check_consistency(early.size, &early.root, now.size, &now.root, &proof.hashes));
    expect_vault_error(auditor.query("SELECT vault_audit_proof(99999999)", &[]), "P0002");
    expect_vault_error(auditor.query("SELECT vault_audit_consistency(99999999)", &[]), "22023");
    expect_vault_error(auditor.query("SELECT vault_audit_consistency(-1)", &[]), "22023");
    expect_vault_error(auditor.query("SELECT * FROM vault_audit_verify('x')", &[]), "22023");
    let row = auditor.query_one("SELECT verdict, size, rows FROM vault_audit_verify($1)", &[&early.text()]).unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i64>(1)), ("intact", row.get::<_, i64>(2)));
}

#[test]
fn the_login_and_the_application_stand_in_the_trail() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    let role = format!("auth_{}", db.name);
    db.force(&format!("CREATE ROLE {role} LOGIN NOINHERIT; GRANT wire_app TO {role}"));
    let mut client = db.conn(&role);
    client
        .batch_execute("SET application_name = 'my app'; SET ROLE wire_app; SET app.current_user_id = 'alice'")
        .unwrap();
    fetch(&mut client).unwrap();
    let sql = "SELECT concat_ws(' ', db_role, login_role, application_name) FROM vault_ext.encryption_vault_audit ORDER BY id DESC LIMIT 1";
    assert_eq!(db.value::<String>(sql), format!("wire_app {role} my app"));
    let own = "SELECT login_role, leaf FROM vault_ext.own_audit ORDER BY id DESC LIMIT 1";
    assert_eq!(client.query_one(own, &[]).unwrap().get::<_, &str>(0), role);
    drop(client);
    db.force(&format!("DROP ROLE {role}"));
}

#[test]
fn purges_in_batches_leave_the_rest_verifiable_and_can_be_interrupted_and_repeated() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    many_fetches(&db, "alice", 700);
    let kept = [checkpoint(&db)];
    // The rows become old without losing their hashes: the clock is part of them, so the purge is told a short age instead.
    let mut admin = db.conn("wire_admin");
    expect_error(admin.batch_execute("BEGIN; CALL vault_purge_audit('0 s', 100)"), "25001");
    admin.batch_execute("ROLLBACK").unwrap();
    expect_vault_error(admin.query("CALL vault_purge_audit('-1 s', 100)", &[]), "22023");
    expect_error(db.app().query("CALL vault_purge_audit('0 s', 100)", &[]), "42501");
    // One that is rolled back deletes nothing and says so.
    admin.batch_execute("BEGIN; SELECT vault_purge_audit('0 s'); ROLLBACK").unwrap();
    crate::harness::eventually(std::time::Duration::from_secs(20), "the second row", || {
        db.audit_where("action = 'purge' AND status = 409").len() == 1
    });
    assert_eq!(verify(&db, &kept).1, None);
    let purged: i64 = admin.query_one("CALL vault_purge_audit('0 s', 100)", &[]).unwrap().get(0);
    assert_eq!(purged, 701);
    assert_eq!(db.audit_where("action = 'purge' AND status = 200").len(), 1 + 8);
    let (summary, finding) = verify(&db, &kept);
    assert_eq!((finding, summary.purged, summary.agreed.len()), (None, 701, 1));
    // The writer that comes next goes on with the tree whose newest rows are gone.
    drop(admin);
    let copy = format!("{}_p", db.name);
    db.force(&format!("CREATE DATABASE {copy} TEMPLATE {}", db.name));
    let other = db.cluster.existing_database(&copy);
    many_fetches(&other, "alice", 300);
    let (summary, finding) = verify(&other, &kept);
    assert_eq!((finding, summary.purged, summary.agreed.len()), (None, 701, 1));
    let again: i64 = other.conn("wire_admin").query_one("CALL vault_purge_audit('0 s', 100000)", &[]).unwrap().get(0);
    assert_eq!(again, 300);
    let now = checkpoint(&other);
    let (summary, finding) = verify(&other, &[kept[0].clone(), now]);
    assert_eq!((finding, summary.purged), (None, 1001));
    // One row more, and the auditor sees it.
    many_fetches(&other, "alice", 3);
    other.force("DELETE FROM vault_ext.encryption_vault_audit WHERE id IN (SELECT id FROM vault_ext.encryption_vault_audit WHERE action = 'fetch' LIMIT 1)");
    assert_eq!(verify(&other, &kept).1.unwrap().kind, Kind::Removed);
    db.force(&format!("DROP DATABASE {copy}"));
}

#[test]
fn a_redaction_takes_the_person_out_of_the_trail_and_leaves_the_proof() {
    let db = shared_db();
    for user in ["alice", "bob"] {
        init(&mut db.app_for(user)).unwrap();
        rotate(&mut db.app_for(user)).unwrap();
    }
    let mut admin = db.conn("wire_admin");
    admin.batch_execute("SELECT vault_rename_user('alice', 'alicia')").unwrap();
    let kept = [checkpoint(&db)];
    expect_error(db.app().query("SELECT vault_redact_audit('alice')", &[]), "42501");
    expect_error(admin.query("SELECT vault_redact_audit('')", &[]), "22023");
    let redacted = |admin: &mut postgres::Client, user: &str| -> i64 {
        admin.query_one("SELECT vault_redact_audit($1)", &[&user]).unwrap().get(0)
    };
    admin.batch_execute("BEGIN").unwrap();
    assert_eq!(redacted(&mut admin, "alice"), 4);
    admin.batch_execute("ROLLBACK").unwrap();
    assert_eq!(db.audit_of("alice").len(), 3);
    crate::harness::eventually(std::time::Duration::from_secs(20), "the second row", || {
        db.audit_where("action = 'redact' AND status = 409").len() == 1
    });
    // Her rows, and the one that says from whom alicia has the vault.
    assert_eq!(redacted(&mut admin, "alice"), 4);
    assert_eq!(redacted(&mut admin, "alice"), 0);
    let left = "SELECT count(*) FROM vault_ext.encryption_vault_audit a WHERE a::text LIKE '%alice%'";
    assert_eq!(db.value::<i64>(left), 0);
    assert_eq!(db.audit_of("bob").len(), 2);
    let (summary, finding) = verify(&db, &kept);
    assert_eq!((finding, summary.redacted, summary.agreed.len()), (None, 4, 1));
    let what = "SELECT count(*) FROM vault_ext.encryption_vault_audit WHERE redacted_digest IS NOT NULL AND action IS NOT NULL AND db_role IS NOT NULL
        AND salt IS NULL AND ip_address IS NULL AND context IS NULL";
    assert_eq!(db.value::<i64>(what), 4);
    // Who takes fields away without saying so is found out.
    db.force("UPDATE vault_ext.encryption_vault_audit SET user_id = NULL, context = NULL, application_name = NULL, salt = NULL, redacted_digest = sha256('') WHERE user_id = 'bob'");
    assert_eq!(verify(&db, &kept).1.unwrap().kind, Kind::Altered);
}

#[test]
fn an_upgrade_commits_to_the_rows_that_are_older_than_the_tree() {
    let cluster = server();
    let db = database_at_version(&cluster, "0.2.0", "old");
    for user in ["alice", "bob"] {
        init(&mut db.app_for(user)).unwrap();
        many_fetches(&db, user, 20);
    }
    db.force(UPDATE);
    assert_eq!(db.value::<i64>("SELECT old_rows FROM vault_ext.audit_trails"), 42);
    fetch(&mut db.app_for("alice")).unwrap();
    let summary = is_whole(&db);
    assert_eq!((summary.old_rows, summary.size), (42, 2));
    let kept = [checkpoint(&db)];
    for (sql, kind) in [
        ("UPDATE vault_ext.encryption_vault_audit SET user_id = 'mallory' WHERE id = 7", Kind::Altered),
        ("DELETE FROM vault_ext.encryption_vault_audit WHERE id = 7", Kind::Removed),
    ] {
        db.force("CREATE DATABASE x TEMPLATE old");
        let other = cluster.existing_database("x");
        other.force(sql);
        assert_eq!(verify(&other, &kept).1.unwrap().kind, kind);
        db.force("DROP DATABASE x");
    }
    let mut admin = db.conn("wire_admin");
    let redacted: i64 = admin.query_one("SELECT vault_redact_audit('bob')", &[]).unwrap().get(0);
    assert_eq!(redacted, 21);
    assert_eq!(verify(&db, &kept).1, None);
    expect_vault_error(db.conn("wire_auditor").query("SELECT vault_audit_proof(3)", &[]), "55000");
    let purged: i64 = admin.query_one("CALL vault_purge_audit('0 s', 30)", &[]).unwrap().get(0);
    assert_eq!(purged, 42 + 1);
    let (summary, finding) = verify(&db, &kept);
    assert_eq!((finding, summary.old_rows, summary.purged), (None, 0, 1));
}

#[test]
fn a_writer_that_starts_does_not_read_the_rows_that_are_older_than_the_tree() {
    const SOON: Duration = Duration::from_secs(60);
    let db = shared_db();
    let pids = |of: &str| -> Vec<i32> {
        let sql = format!("SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND {of}");
        db.superuser().query(&sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    let writers = || pids("backend_type = 'vault_ext audit writer'");
    let mut loader = db.superuser();
    loader
        .batch_execute(
            "SET application_name = 'loader';
             INSERT INTO vault_ext.encryption_vault_audit (user_id, action, status, db_role) SELECT 'alice', 'fetch', 200, 'app' FROM generate_series(1, 30000);
             SELECT vault_ext.commit_to_old_audit_rows(); ANALYZE vault_ext.encryption_vault_audit",
        )
        .unwrap();
    drop(loader);
    // A session that has ended has sent its statistics.
    eventually(SOON, "the session ends", || pids("application_name = 'loader'").is_empty());
    let scans = || -> i64 { db.value("SELECT pg_stat_get_numscans('vault_ext.encryption_vault_audit'::regclass)") };
    let before = scans();
    init(&mut db.app_for("alice")).unwrap();
    for _ in 0..3 {
        for writer in writers() {
            db.superuser().execute("SELECT pg_terminate_backend($1)", &[&writer]).unwrap();
            eventually(SOON, "the writer ends", || !writers().contains(&writer));
        }
        fetch(&mut db.app_for("alice")).unwrap();
    }
    assert_eq!(scans(), before);
    is_whole(&db);
}

#[test]
fn the_restore_of_a_dump_goes_on_with_the_tree_also_if_the_dump_is_older_than_the_tree() {
    let cluster = server();
    for (version, leaf_of_first) in [("0.2.0", None), (crate::extension_upgrade::CURRENT, Some(0))] {
        let name = format!("from_{}", leaf_of_first.map_or("old", |_| "new"));
        let db = database_at_version(&cluster, version, &name);
        init(&mut db.app_for("alice")).unwrap();
        many_fetches(&db, "alice", 300);
        let kept: Vec<Checkpoint> = leaf_of_first.map(|_: i64| checkpoint(&db)).into_iter().collect();
        let file = cluster.dir().join(format!("{name}.dump"));
        let run = |program: &str, arguments: &[&str]| {
            let mut command: Command = cluster.program(program, "postgres");
            crate::harness::succeed(command.args(arguments));
        };
        run("pg_dump", &["-Fc", "-f", file.to_str().unwrap(), &name]);
        for is_hashed_before in [false, true] {
            let restored = format!("{name}_restored_{is_hashed_before}");
            cluster.superuser("postgres").batch_execute(&format!("CREATE DATABASE {restored}")).unwrap();
            run("pg_restore", &["--exit-on-error", "-d", &restored, file.to_str().unwrap()]);
            let other = cluster.existing_database(&restored);
            let old = if leaf_of_first.is_none() { 301 } else { 0 };
            if is_hashed_before {
                assert_eq!(other.value::<i64>("SELECT vault_ext.commit_to_old_audit_rows()"), old as i64);
            }
            many_fetches(&other, "alice", 10);
            let summary = is_whole(&other);
            assert_eq!((summary.old_rows, summary.size), (old, if old > 0 { 11 } else { 311 }), "{version}");
            assert_eq!(verify(&other, &kept).1, None);
        }
    }
}
