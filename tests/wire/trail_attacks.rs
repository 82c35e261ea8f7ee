//! What is done to the trail behind its back, by those who can do everything in the database, and whether an auditor who has kept a
//! checkpoint outside sees it.

use vault_trail::checkpoint::Checkpoint;
use vault_trail::verify::Kind;

use crate::harness::{Cluster, Db, fetch, init, rotate, shared_db};
use crate::trail::{checkpoint, is_whole, logged, verify};

/// A trail with more than one full tile: some 620 rows.
fn fill(db: &Db) {
    for user in 0..20 {
        let mut app = db.app_for(&format!("user-{user}"));
        init(&mut app).unwrap();
        rotate(&mut app).unwrap();
        app.batch_execute("DO $$ BEGIN FOR i IN 1..29 LOOP PERFORM vault_get_master_key(); END LOOP; END $$").unwrap();
    }
}

/// A database with a trail, and the checkpoint that an auditor has kept of it.
fn trail() -> (Db<'static>, Vec<Checkpoint>) {
    let db = shared_db();
    fill(&db);
    let summary = is_whole(&db);
    assert!(summary.size > 600 && summary.rows == summary.size, "{summary:?}");
    let kept = vec![checkpoint(&db)];
    (db, kept)
}

#[track_caller]
fn finds(db: &Db, kept: &[Checkpoint], kind: Kind, leaf: Option<u64>) {
    let (_, finding) = verify(db, kept);
    let finding = finding.expect("a finding");
    assert_eq!((finding.kind, finding.leaf), (kind, leaf), "{}", finding.text);
    // The function in the server says the same.
    let note = kept.last().map(Checkpoint::text);
    let row = db.conn("wire_auditor").query_one("SELECT verdict, leaf FROM vault_audit_verify($1)", &[&note]).unwrap();
    if kept.len() < 2 {
        assert_eq!(row.get::<_, &str>(0), finding.kind.name());
    }
}

const TRAIL: &str = "vault_ext.encryption_vault_audit";

#[test]
fn rows_that_are_edited_deleted_inserted_or_swapped_are_named() {
    type Attack = (&'static str, Kind, Option<u64>);
    let attacks: [Attack; 8] = [
        ("UPDATE $t SET user_id = 'mallory' WHERE leaf = 300", Kind::Altered, Some(300)),
        ("UPDATE $t SET created_at = created_at + interval '1 hour' WHERE leaf = 5", Kind::Altered, Some(5)),
        (
            "UPDATE $t SET salt = NULL, user_id = NULL, redacted_digest = sha256('') WHERE leaf = 7",
            Kind::Altered,
            Some(7),
        ),
        ("DELETE FROM $t WHERE leaf = 300", Kind::Removed, Some(300)),
        (
            "INSERT INTO $t (user_id, action, status, db_role) VALUES ('mallory', 'fetch', 200, 'app')",
            Kind::Inserted,
            None,
        ),
        (
            "INSERT INTO $t (user_id, action, status, db_role, leaf, leaf_hash, salt)
                SELECT 'mallory', action, status, db_role, leaf, leaf_hash, salt FROM $t WHERE leaf = 12",
            Kind::Inserted,
            Some(12),
        ),
        ("UPDATE $t SET leaf = 50 - leaf WHERE leaf IN (20, 30)", Kind::Altered, Some(30)),
        ("DELETE FROM $t", Kind::Shorter, Some(0)),
    ];
    let (db, kept) = trail();
    for (sql, kind, leaf) in attacks {
        let attack = format!("BEGIN; SET LOCAL vault_ext.allow_alter = on; {}", sql.replace("$t", TRAIL));
        // Each in a copy of its own: the writer does not see what a rollback takes back, and neither may the auditor.
        let copy = format!("{}_x", db.name);
        db.force(&format!("CREATE DATABASE {copy} TEMPLATE {}", db.name));
        let other = db.cluster.existing_database(&copy);
        other.force(&format!("{attack}; COMMIT"));
        finds(&other, &kept, kind, leaf);
        db.force(&format!("DROP DATABASE {copy}"));
    }
    is_whole(&db);
}

#[test]
fn a_row_that_is_changed_with_its_hash_is_known_to_the_tile_and_with_the_tile_to_the_checkpoint() {
    let (db, kept) = trail();
    // What an attacker with this source code can compute, this test takes from another row.
    db.force(&format!(
        "UPDATE {TRAIL} a SET user_id = b.user_id, action = b.action, status = b.status, kek_id = b.kek_id, key_version = b.key_version,
            db_role = b.db_role, login_role = b.login_role, ip_address = b.ip_address, user_agent = b.user_agent, request_id = b.request_id,
            context = b.context, application_name = b.application_name, created_at = b.created_at, identity = b.identity, salt = b.salt,
            leaf_hash = b.leaf_hash
         FROM {TRAIL} b WHERE a.leaf = 100 AND b.leaf = 200"
    ));
    finds(&db, &[], Kind::Altered, Some(100));
    db.force(&format!(
        "UPDATE vault_ext.audit_tiles SET hashes = overlay(hashes PLACING (SELECT leaf_hash FROM {TRAIL} WHERE leaf = 100) FROM 100 * 32 + 1)
            WHERE level = 0 AND index = 0"
    ));
    assert_eq!(verify(&db, &[]).1, None, "without a checkpoint nobody can tell");
    let (_, finding) = verify(&db, &kept);
    assert_eq!(finding.unwrap().kind, Kind::Forked);
}

#[test]
fn a_cut_tail_is_noticed_also_when_the_tree_goes_on() {
    let (db, kept) = trail();
    let size = kept[0].size;
    db.force(&format!("DELETE FROM {TRAIL} WHERE leaf >= {}", size - 5));
    finds(&db, &kept, Kind::Shorter, Some(size - 5));
    // A new writer goes on after what is left, and says so.
    let copy = format!("{}_cut", db.name);
    db.force(&format!("CREATE DATABASE {copy} TEMPLATE {}", db.name));
    let other = db.cluster.existing_database(&copy);
    other
        .force(&format!("INSERT INTO vault_ext.audit_checkpoints (size, root, note) VALUES ({size}, sha256(''), 'x')"));
    for _ in 0..10 {
        fetch(&mut other.app_for("user-1")).unwrap();
    }
    let (_, finding) = verify(&other, &kept);
    let finding = finding.unwrap();
    assert_eq!((finding.kind, finding.leaf), (Kind::Forked, Some(size - 1)), "{}", finding.text);
    let log = other.cluster.log();
    let said = format!("the audit trail was cut: it has {} leaves, and a checkpoint of {size} was logged", size - 5);
    assert!(log.contains(&said), "{log}");
    db.force(&format!("DROP DATABASE {copy}"));
}

#[test]
fn an_emptied_trail_with_its_tiles_begins_again_and_does_not_agree_with_what_was_kept() {
    let (db, kept) = trail();
    let copy = format!("{}_new", db.name);
    db.force(&format!(
        "BEGIN; SET LOCAL vault_ext.allow_alter = on; TRUNCATE {TRAIL}, vault_ext.audit_tiles, vault_ext.audit_checkpoints; COMMIT"
    ));
    db.force(&format!("CREATE DATABASE {copy} TEMPLATE {}", db.name));
    let other = db.cluster.existing_database(&copy);
    fill(&other);
    fill(&other);
    is_whole(&other);
    let (_, finding) = verify(&other, &kept);
    assert_eq!(finding.unwrap().kind, Kind::Forked);
    db.force(&format!("DROP DATABASE {copy}"));
}

#[test]
fn a_copy_that_goes_on_is_a_fork_until_it_begins_a_new_trail() {
    let (db, kept) = trail();
    let copy = format!("{}_fork", db.name);
    db.force(&format!("CREATE DATABASE {copy} TEMPLATE {}", db.name));
    let other = db.cluster.existing_database(&copy);
    fetch(&mut db.app_for("user-1")).unwrap();
    fetch(&mut other.app_for("user-2")).unwrap();
    let (here, there) = (checkpoint(&db), checkpoint(&other));
    assert_eq!((here.size, &here.origin), (there.size, &there.origin));
    assert_ne!(here.root, there.root, "two checkpoints of one size prove the fork");
    let (_, finding) = verify(&other, &[kept[0].clone(), here.clone()]);
    assert_eq!(finding.unwrap().kind, Kind::Forked);
    // With an origin of its own, the copy is another trail with the same beginning.
    let origin: String = other.conn("wire_admin").query_one("SELECT vault_new_trail()", &[]).unwrap().get(0);
    let new = checkpoint(&other);
    assert_eq!(new.origin, origin);
    assert_ne!(new.origin, here.origin);
    let (summary, finding) = verify(&other, &[kept[0].clone(), new]);
    assert_eq!((finding, summary.agreed.len()), (None, 2));
    let row = other.audit_where("action = 'new_trail'");
    assert_eq!(row[0].context.as_deref(), Some(here.origin.as_str()));
    is_whole(&db);
    db.force(&format!("DROP DATABASE {copy}"));
}

/// Such as the trail of another system that moves in. They have no place in the tree, and their ids are newer than its last row.
#[test]
fn rows_of_a_superuser_hide_the_tree_from_no_new_writer() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    db.force(
        "INSERT INTO vault_ext.encryption_vault_audit (user_id, action, status, db_role)
         SELECT 'old', 'fetch', 200, 'other' FROM generate_series(1, 300)",
    );
    db.force(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
         WHERE backend_type = 'vault_ext audit writer' AND datname = current_database()",
    );
    fetch(&mut db.app_for("alice")).unwrap();
    let leaves: Vec<i64> =
        db.value("SELECT array_agg(leaf ORDER BY id) FROM vault_ext.encryption_vault_audit WHERE leaf IS NOT NULL");
    assert_eq!(leaves, [0, 1]);
    db.force("DELETE FROM vault_ext.encryption_vault_audit WHERE leaf IS NULL");
    is_whole(&db);
}

#[test]
fn a_sequence_that_is_reset_or_moved_costs_no_row_its_place() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    init(&mut app).unwrap();
    db.force("SELECT setval('vault_ext.encryption_vault_audit_id_seq', 5000)");
    fetch(&mut app).unwrap();
    assert_eq!(is_whole(&db).size, 2);
    // Set back, it gives ids that are taken: no key goes out, and nothing of the tree is lost.
    db.force("SELECT setval('vault_ext.encryption_vault_audit_id_seq', 1, false)");
    fetch(&mut app).unwrap_err();
    assert_eq!(is_whole(&db).size, 2);
    db.force("SELECT setval('vault_ext.encryption_vault_audit_id_seq', 6000)");
    fetch(&mut app).unwrap();
    assert_eq!(is_whole(&db).size, 3);
}

#[test]
fn yesterdays_base_backup_is_older_than_the_checkpoint_and_a_fork_when_it_goes_on() {
    let cluster = Cluster::builder().with_wire_kek().start();
    let db = cluster.database("d");
    fill(&db);
    let early = checkpoint(&db);
    let backup = cluster.base_backup(&[]);
    (0..20).for_each(|_| drop(fetch(&mut db.app_for("user-1")).unwrap()));
    let kept = [early, checkpoint(&db)];
    assert_eq!(verify(&db, &kept).1, None);
    let mut restored = Cluster::builder().with_wire_kek().data_from(&backup).prepare();
    restored.start();
    let old = restored.existing_database("d");
    let (_, finding) = verify(&old, &kept);
    assert_eq!(finding.unwrap().kind, Kind::Shorter);
    (0..30).for_each(|_| drop(fetch(&mut old.app_for("user-2")).unwrap()));
    let (summary, finding) = verify(&old, &kept);
    assert_eq!(finding.unwrap().kind, Kind::Forked);
    assert_eq!(summary.agreed, [kept[0].size]);
}

#[test]
fn the_writer_logs_a_checkpoint_when_there_are_new_rows_and_the_interval_has_passed() {
    let mut cluster =
        Cluster::builder().with_wire_kek().without_fsync().conf("vault_ext.audit_checkpoint_interval = 1h").start();
    {
        let db = cluster.database("d");
        init(&mut db.app_for("alice")).unwrap();
        fetch(&mut db.app_for("alice")).unwrap();
        assert_eq!(
            logged(&db).iter().map(|kept| kept.size).collect::<Vec<_>>(),
            [1],
            "the first row at once, then once an hour"
        );
        db.force("UPDATE vault_ext.audit_checkpoints SET created_at = created_at - interval '2 hours'");
    }
    let log = cluster.log();
    cluster.restart();
    let db = cluster.existing_database("d");
    fetch(&mut db.app_for("alice")).unwrap();
    fetch(&mut db.app_for("alice")).unwrap();
    assert_eq!(logged(&db).iter().map(|kept| kept.size).collect::<Vec<_>>(), [1, 3]);
    let lines = vault_trail_cli::notes::checkpoints(&(log + &cluster.log()), None).unwrap();
    assert_eq!(lines, logged(&db));
    is_whole(&db);
}
