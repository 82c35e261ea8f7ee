//! The end of a key and of a vault: locked at once, brought back within the wait, destroyed when due and never without a row.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postgres::{Client, Error, SimpleQueryMessage};

use crate::backup::restore;
use crate::harness::{
    Db, VaultKey, eventually, expect_error, expect_vault_error, fetch, init, kill9, rotate, scratch_dir, set_user,
    shared_db, succeed, without_deadlock,
};
use crate::keyring::{cluster, kek_status, rewrap, switch};
use crate::rewrap::user_ids;
use crate::trail::{trail_of, wait_for_trail};
use crate::versions::{assert_open, states, version, versions_of};

const SOON: Duration = Duration::from_secs(60);

/// Lets sessions that begin later retire and schedule without a wait.
pub fn allow_no_wait(db: &Db) {
    db.force(&format!("ALTER DATABASE \"{}\" SET vault_ext.min_destroy_wait = 0", db.name));
}

/// Keys and vaults that a run has destroyed.
pub fn destroy_due(db: &Db, batch_size: i32) -> Result<(i64, i64), Error> {
    destroy_due_in(&mut db.conn("wire_admin"), batch_size)
}

fn destroy_due_in(client: &mut Client, batch_size: i32) -> Result<(i64, i64), Error> {
    let messages = client.simple_query(&format!("CALL vault_destroy_due({batch_size})"))?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            let number = |column| row.get(column).and_then(|text| text.parse().ok()).expect("a number");
            Some((number("keys"), number("vaults")))
        }
        _ => None,
    });
    Ok(row.expect("the call returns the totals"))
}

fn schedule(db: &Db, user: &str, wait: &str) -> Result<u64, Error> {
    let sql = "SELECT vault_schedule_erase($1, $2::text::interval, 'request 17')";
    db.conn("wire_admin").execute(sql, &[&user, &wait])
}

fn cancel(db: &Db, user: &str) -> Result<bool, Error> {
    Ok(db.conn("wire_admin").query_one("SELECT vault_cancel_erase($1)", &[&user])?.get(0))
}

fn fetch_of(client: &mut Client, user: &str) -> Result<Option<String>, Error> {
    Ok(client.query_one("SELECT master_key FROM vault_get_master_key_of($1)", &[&user])?.get(0))
}

/// The erasures of a user, each with its KEKs: `scheduled k1+ k2-`; `+` for a KEK that is loaded, `!` for one that is retired.
fn status(db: &Db, role: &str, user: &str) -> Vec<String> {
    let sql = "SELECT state || coalesce(string_agg(' ' || kek_id || CASE WHEN kek_loaded THEN '+' ELSE '-' END ||
            CASE WHEN kek_retired_at IS NULL THEN '' ELSE '!' END, '' ORDER BY kek_id), '')
        FROM vault_erasure_status($1) GROUP BY erasure_id, state ORDER BY erasure_id";
    db.conn(role).query(sql, &[&user]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// Puts a vault into zero-knowledge mode, as a client would that keeps its own wrap.
const ZERO_KNOWLEDGE: &str =
    "UPDATE vault_ext.encryption_vaults SET zero_knowledge = true, wrapped_mk = NULL, wrap_iv = NULL,
    recovery_wrapped_mk = 'cmVjb3Zlcnk=', recovery_iv = 'aXY=', recovery_set_at = now()";

#[test]
fn a_scheduled_erasure_locks_every_call_at_once_and_a_cancellation_brings_all_back() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let keys = versions_of(&mut app, 3);
    app.query("SELECT vault_disable_key_version(2), vault_retire_key_version(1)", &[]).unwrap();
    app.query("SELECT vault_grant(NULL, 'wire_service', '1 day', 'report')", &[]).unwrap();
    let mut service = db.conn("wire_service");
    fetch_of(&mut service, "alice").unwrap();
    let before = db.vault_row("alice");
    let old_keys = "SELECT string_agg(o::text, ',' ORDER BY key_version) FROM vault_ext.old_keys o";
    let old_keys_before: String = db.value(old_keys);
    let mut admin = db.conn("wire_admin");
    let row = admin.query_one(
        "SELECT round(extract(epoch FROM vault_schedule_erase('alice', reason => 'request 17') - clock_timestamp()) / 86400)::int",
        &[],
    );
    assert_eq!(row.unwrap().get::<_, i32>(0), 30);
    let last = &db.audit_of("alice").pop().unwrap();
    assert_eq!((last.action.as_str(), last.status, last.key_version), ("schedule_erase", 200, Some(4)));
    assert!(last.context.as_ref().unwrap().ends_with(": request 17") && last.kek_id.as_deref() == Some("wire-1"));
    let calls = [
        ("SELECT vault_get_master_key()", "failed_fetch"),
        ("SELECT vault_init()", "failed_init"),
        ("SELECT vault_rotate()", "failed_rotate"),
        ("SELECT vault_rotate(destroy_old => true)", "failed_rotate"),
        ("SELECT vault_get_key_version(4)", "failed_fetch"),
        ("SELECT vault_get_key_version(3)", "failed_fetch"),
        ("SELECT vault_get_key_version(99)", "failed_fetch"),
        ("SELECT vault_retire_key_version(3)", "retire_version"),
        ("SELECT vault_disable_key_version(3)", "disable_version"),
        ("SELECT vault_restore_key_version(4)", "restore_version"),
        ("SELECT vault_restore_key_version(1)", "restore_version"),
        ("SELECT vault_clear_recovery()", "recovery_clear"),
        ("SELECT vault_enable_zero_knowledge()", "zk_enable"),
        ("SELECT vault_create()", "failed_init"),
        ("SELECT vault_create_key_version()", "failed_rotate"),
    ];
    let locked = |refusal: crate::harness::Refusal, action: &str| {
        assert!(refusal.message.contains("is to be erased after"), "{refusal:?}");
        assert_eq!(trail_of(&db, "alice").pop().unwrap(), format!("{action} 409 erase-scheduled"));
    };
    for (sql, action) in calls {
        locked(expect_vault_error(app.query(sql, &[]), "55000"), action);
    }
    let result = service.query("SELECT vault_get_master_key_of('alice')", &[]);
    locked(expect_vault_error(result, "55000"), "failed_fetch");
    let result = admin.query("SELECT vault_rename_user('alice', 'bob')", &[]);
    locked(expect_vault_error(result, "55000"), "rename");
    // The name is not free either.
    init(&mut db.app_for("carol")).unwrap();
    expect_vault_error(admin.query("SELECT vault_rename_user('carol', 'alice')", &[]), "23505");
    // Twice is refused: it could shorten the wait.
    locked(expect_vault_error(schedule(&db, "alice", "8 days"), "55000"), "schedule_erase");
    assert_eq!(states(&mut app), "4 destroy_scheduled, 3 decrypt_only, 2 disabled, 1 destroy_scheduled");
    assert_eq!(db.value::<i64>("SELECT count(*) FROM vault_ext.grants WHERE revoked_at IS NULL"), 1, "grants stay");
    assert_eq!(destroy_due(&db, 10).unwrap(), (0, 0), "nothing is due");
    assert_eq!(status(&db, "wire_admin", "alice"), ["scheduled wire-1+"]);

    assert!(cancel(&db, "alice").unwrap());
    assert_eq!(trail_of(&db, "alice").pop().unwrap(), "cancel_erase 200");
    assert_eq!(db.vault_row("alice"), before);
    assert_eq!(db.value::<String>(old_keys), old_keys_before);
    assert_eq!(fetch(&mut app).unwrap(), keys[3]);
    assert_open(&mut app, &keys[2..]);
    fetch_of(&mut service, "alice").unwrap();
    assert_eq!(rotate(&mut app).unwrap().key_version, 5);
    assert_open(&mut app, &keys[2..]);
    assert!(!cancel(&db, "alice").unwrap());
    assert_eq!(trail_of(&db, "alice").pop().unwrap(), "cancel_erase 200 not-scheduled");
    assert!(!cancel(&db, "nobody").unwrap());
    // And once more.
    schedule(&db, "alice", "7 days").unwrap();
    assert_eq!(status(&db, "wire_auditor", "alice"), ["cancelled wire-1+", "scheduled wire-1+"]);
}

#[test]
fn a_schedule_has_a_reason_a_wait_and_a_vault() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    let mut admin = db.conn("wire_admin");
    for arguments in [
        "'alice'",
        "'alice', '30 days'",
        "'alice', '30 days', NULL",
        "'alice', '30 days', ' '",
        "'alice', '6 days', 'x'",
        "'alice', '0', 'x'",
        "'alice', '-30 days', 'x'",
        "'alice', '170000000 years', 'x'",
        "'alice', NULL, 'x'",
        "NULL, '30 days', 'x'",
        "'', '30 days', 'x'",
        "repeat('x', 256), '30 days', 'x'",
    ] {
        expect_vault_error(admin.query(&format!("SELECT vault_schedule_erase({arguments})"), &[]), "22023");
    }
    assert_eq!(trail_of(&db, "alice").pop().unwrap(), "schedule_erase 400 bad-argument");
    expect_vault_error(schedule(&db, "nobody", "30 days"), "P0002");
    assert_eq!(trail_of(&db, "nobody"), ["schedule_erase 404 not-initialised"]);
    for role in ["wire_app", "wire_auditor", "wire_grantor", "wire_service", "wire_stranger"] {
        let mut client = db.conn(role);
        for sql in [
            "SELECT vault_schedule_erase('alice', '30 days', 'x')",
            "SELECT vault_cancel_erase('alice')",
            "CALL vault_destroy_due()",
            "INSERT INTO vault_ext.erasures (user_id) VALUES ('alice')",
            "DELETE FROM vault_ext.erasures",
        ] {
            expect_error(client.simple_query(sql), "42501");
        }
    }
    fetch(&mut db.app_for("alice")).unwrap();
    assert_eq!(status(&db, "wire_admin", "alice"), [""; 0]);
}

#[test]
fn a_schedule_or_a_cancellation_that_is_rolled_back_has_not_happened() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let keys = versions_of(&mut app, 1);
    let mut admin = db.conn("wire_admin");
    admin.batch_execute("BEGIN; SELECT vault_schedule_erase('alice', '30 days', 'x'); ROLLBACK").unwrap();
    assert_open(&mut app, &keys);
    assert_eq!(status(&db, "wire_admin", "alice"), [""; 0]);
    schedule(&db, "alice", "30 days").unwrap();
    admin.batch_execute("BEGIN; SELECT vault_cancel_erase('alice'); ROLLBACK").unwrap();
    expect_vault_error(fetch(&mut app), "55000");
    assert_eq!(status(&db, "wire_admin", "alice"), ["scheduled wire-1+"]);
    let rows: Vec<_> = trail_of(&db, "alice").into_iter().filter(|row| row.ends_with("rolled-back")).collect();
    assert_eq!(rows, ["schedule_erase 409 rolled-back", "cancel_erase 409 rolled-back"]);
    // Within one transaction and one statement, too.
    admin
        .batch_execute("BEGIN; SELECT vault_cancel_erase('alice'), vault_schedule_erase('alice', '30 days', 'x')")
        .unwrap();
    admin.batch_execute("SELECT vault_cancel_erase('alice'); COMMIT").unwrap();
    assert_open(&mut app, &keys);
    assert_eq!(status(&db, "wire_admin", "alice"), ["cancelled wire-1+", "cancelled wire-1+"]);
}

#[test]
fn a_vault_that_is_due_is_erased_with_everything_that_it_has() {
    let db = shared_db();
    allow_no_wait(&db);
    let mut app = db.app_for("alice");
    let keys = versions_of(&mut app, 2);
    let bob = init(&mut db.app_for("bob")).unwrap();
    app.query("SELECT vault_grant(NULL, 'wire_service', '1 day', 'report')", &[]).unwrap();
    schedule(&db, "alice", "0").unwrap();
    schedule(&db, "bob", "7 days").unwrap();
    assert_eq!(destroy_due(&db, 10).unwrap(), (0, 1));
    assert_eq!(db.vault_row("alice"), None);
    assert_eq!(db.value::<i64>("SELECT count(*) FROM vault_ext.old_keys WHERE user_id = 'alice'"), 0);
    let rows = db.audit_where("action IN ('erase', 'destroy')");
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].what(), ("erase", 200, Some("scheduled")));
    assert_eq!((rows[0].user_id.as_deref(), rows[0].key_version), (Some("alice"), Some(3)));
    assert_eq!((rows[0].kek_id.as_deref(), rows[0].db_role.as_str()), (Some("wire-1"), "wire_admin"));
    assert_eq!(status(&db, "wire_auditor", "alice"), ["erased wire-1+"]);
    // Too late, and not to be taken for "there was nothing to cancel".
    let refusal = expect_vault_error(cancel(&db, "alice"), "P0002");
    assert!(refusal.message.contains("was erased on"), "{refusal:?}");
    assert_eq!(trail_of(&db, "alice").pop().unwrap(), "cancel_erase 410 erased");
    expect_vault_error(fetch(&mut app), "P0002");
    // Another vault under that id has nothing of the old one.
    let new = init(&mut app).unwrap();
    assert!(keys.iter().all(|key| key.master_key != new.master_key));
    assert_eq!(states(&mut app), "1 current");
    expect_vault_error(fetch_of(&mut db.conn("wire_service"), "alice"), "28000");
    assert!(!cancel(&db, "alice").unwrap());
    assert!(cancel(&db, "bob").unwrap());
    assert_eq!(fetch(&mut db.app_for("bob")).unwrap(), bob);
}

#[test]
fn an_immediate_erasure_is_recorded_and_ends_the_scheduled_one() {
    let db = shared_db();
    for user in ["alice", "bob", "carol"] {
        versions_of(&mut db.app_for(user), 1);
    }
    schedule(&db, "alice", "30 days").unwrap();
    let mut admin = db.conn("wire_admin");
    assert!(admin.query_one("SELECT vault_erase('alice')", &[]).unwrap().get::<_, bool>(0));
    assert_eq!(status(&db, "wire_admin", "alice"), ["erased wire-1+", "erased wire-1+"]);
    schedule(&db, "bob", "30 days").unwrap();
    assert!(cancel(&db, "bob").unwrap());
    db.force(
        "CREATE TABLE users AS SELECT * FROM (VALUES ('bob'), ('carol')) v (id); CREATE TRIGGER erase AFTER DELETE ON users
            FOR EACH ROW EXECUTE FUNCTION vault_erase_on_delete('id'); DELETE FROM users",
    );
    let sql = "SELECT concat_ws(' ', user_id, reason, scheduled_by, erased_at IS NOT NULL, cancelled_by, kek_ids::text)
        FROM vault_ext.erasures ORDER BY id";
    let rows: Vec<String> = db.conn("wire_auditor").query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(
        rows,
        [
            "alice request 17 wire_admin t {wire-1}",
            "alice vault_erase() wire_admin t {wire-1}",
            "bob request 17 wire_admin f wire_admin",
            "bob account deleted postgres t {wire-1}",
            "carol account deleted postgres t {wire-1}",
        ]
    );
    assert_eq!(db.value::<i64>("SELECT count(*) FROM vault_ext.old_keys"), 0);
    let erased = db.audit_where("action = 'erase'");
    assert!(erased.iter().all(|row| row.key_version == Some(2) && row.kek_id.as_deref() == Some("wire-1")));
    // No vault, no erasure.
    assert!(!admin.query_one("SELECT vault_erase('alice')", &[]).unwrap().get::<_, bool>(0));
    assert_eq!(db.value::<i64>("SELECT count(*) FROM vault_ext.erasures"), 5);
    admin.batch_execute("BEGIN; SELECT vault_erase('nobody'); ROLLBACK").unwrap();
}

#[test]
fn a_vault_in_zero_knowledge_mode_is_locked_and_brought_back_too() {
    let db = shared_db();
    allow_no_wait(&db);
    let mut app = db.app_for("alice");
    versions_of(&mut app, 1);
    db.force(ZERO_KNOWLEDGE);
    let before = db.vault_row("alice");
    schedule(&db, "alice", "7 days").unwrap();
    for call in ["vault_get_master_key()", "vault_init()", "vault_rotate()", "vault_get_key_version(1)"] {
        expect_vault_error(app.query(&format!("SELECT {call}"), &[]), "55000");
        assert!(trail_of(&db, "alice").pop().unwrap().ends_with(" 409 erase-scheduled"));
    }
    assert!(cancel(&db, "alice").unwrap());
    assert_eq!(db.vault_row("alice"), before);
    let row =
        app.query_one("SELECT requires_recovery_code, recovery_wrapped_mk FROM vault_get_master_key()", &[]).unwrap();
    assert_eq!((row.get(0), row.get(1)), (true, "cmVjb3Zlcnk="));
    schedule(&db, "alice", "0").unwrap();
    assert_eq!(destroy_due(&db, 1).unwrap(), (0, 1));
    assert_eq!((db.vault_row("alice"), db.value::<i64>("SELECT count(*) FROM vault_ext.old_keys")), (None, 0));
}

#[test]
fn what_is_due_is_destroyed_in_batches_of_any_size_each_with_its_row() {
    let db = shared_db();
    allow_no_wait(&db);
    for (turn, batch) in [1, 3, 7, 8, 100_000].into_iter().enumerate() {
        let users: Vec<_> = (0..7).map(|n| format!("user-{turn}-{n}")).collect();
        for (n, user) in users.iter().enumerate() {
            let mut app = db.app_for(user);
            versions_of(&mut app, 3);
            app.query("SELECT vault_retire_key_version(1, '0'), vault_retire_key_version(2, '1 day')", &[]).unwrap();
            if n >= 4 {
                schedule(&db, user, if n == 6 { "1 day" } else { "0" }).unwrap();
            }
        }
        // The keys of the two vaults that are due go with them.
        assert_eq!(destroy_due(&db, batch).unwrap(), (5, 2), "batches of {batch}");
        assert_eq!(destroy_due(&db, batch).unwrap(), (0, 0), "batches of {batch}");
        for (n, user) in users.iter().enumerate() {
            let rows = db.audit_of(user);
            let ends: Vec<_> = rows
                .iter()
                .filter(|row| row.action == "destroy" || row.action == "erase")
                .map(|row| (row.what(), row.key_version, row.kek_id.as_deref()))
                .collect();
            let expected = match n {
                4 | 5 => (("erase", 200, Some("scheduled")), Some(4), Some("wire-1")),
                _ => (("destroy", 200, None), Some(1), Some("wire-1")),
            };
            assert_eq!(ends, [expected], "{user}");
            let now = if n == 6 { "destroy_scheduled" } else { "current" };
            let all = match n {
                4 | 5 => String::new(),
                _ => format!("4 {now}, 3 decrypt_only, 2 destroy_scheduled, 1 destroyed"),
            };
            assert_eq!(states(&mut db.app_for(user)), all, "{user}");
        }
    }
    let mut admin = db.conn("wire_admin");
    for batch in ["0", "-1", "100001", "NULL"] {
        expect_vault_error(admin.simple_query(&format!("CALL vault_destroy_due({batch})")), "22023");
    }
    expect_vault_error(admin.batch_execute("BEGIN; CALL vault_destroy_due(); COMMIT"), "25001");
    admin.batch_execute("ROLLBACK; SET default_transaction_isolation = 'repeatable read'").unwrap();
    expect_vault_error(admin.batch_execute("CALL vault_destroy_due()"), "25001");
    admin.batch_execute("RESET default_transaction_isolation").unwrap();
    admin
        .batch_execute(
            "DO $$ DECLARE k bigint; v bigint; BEGIN CALL vault_destroy_due(2, k, v); ASSERT k = 0 AND v = 0; END $$",
        )
        .unwrap();
    // A policy that hides rows would leave keys for ever.
    db.force(
        "SET vault_ext.allow_alter = on; CREATE POLICY p ON vault_ext.old_keys AS RESTRICTIVE FOR SELECT USING (false)",
    );
    let refused = admin.batch_execute("CALL vault_destroy_due()");
    expect_vault_error(refused, "55000");
}

#[test]
fn a_row_that_somebody_holds_is_left_for_the_next_run() {
    let db = shared_db();
    allow_no_wait(&db);
    let mut app = db.app_for("alice");
    let keys = versions_of(&mut app, 2);
    let bob = init(&mut db.app_for("bob")).unwrap();
    let due = |app: &mut Client| {
        app.query("SELECT vault_retire_key_version(1, '0'), vault_retire_key_version(2, '0')", &[]).unwrap();
        schedule(&db, "bob", "0").unwrap();
    };
    let in_time = || {
        let mut admin = db.conn("wire_admin");
        without_deadlock(SOON, "the run", move || destroy_due_in(&mut admin, 10).unwrap())
    };
    due(&mut app);
    let mut admin = db.conn("wire_admin");
    // Both come back.
    app.batch_execute("BEGIN; SELECT vault_restore_key_version(1)").unwrap();
    admin.batch_execute("BEGIN; SELECT vault_cancel_erase('bob')").unwrap();
    assert_eq!(in_time(), (1, 0));
    app.batch_execute("COMMIT").unwrap();
    admin.batch_execute("COMMIT").unwrap();
    assert_eq!(destroy_due(&db, 10).unwrap(), (0, 0));
    assert_eq!(states(&mut app), "3 current, 2 destroyed, 1 decrypt_only");
    assert_open(&mut app, &[keys[0].clone(), keys[2].clone()]);
    assert_eq!(fetch(&mut db.app_for("bob")).unwrap(), bob);
    // Both change their minds.
    app.query("SELECT vault_retire_key_version(1, '0')", &[]).unwrap();
    schedule(&db, "bob", "0").unwrap();
    app.batch_execute("BEGIN; SELECT vault_restore_key_version(1)").unwrap();
    admin.batch_execute("BEGIN; SELECT vault_cancel_erase('bob')").unwrap();
    assert_eq!(in_time(), (0, 0));
    app.batch_execute("ROLLBACK").unwrap();
    admin.batch_execute("ROLLBACK").unwrap();
    assert_eq!(destroy_due(&db, 10).unwrap(), (1, 1));
    // A transaction that only holds the row, as one that works with the key may.
    let mut carol = db.app_for("carol");
    versions_of(&mut carol, 1);
    carol.query("SELECT vault_retire_key_version(1, '0')", &[]).unwrap();
    let mut holder = db.superuser();
    holder.batch_execute("BEGIN; SELECT FROM vault_ext.old_keys WHERE user_id = 'carol' FOR KEY SHARE").unwrap();
    assert_eq!(in_time(), (0, 0));
    holder.batch_execute("COMMIT").unwrap();
    assert_eq!(destroy_due(&db, 10).unwrap(), (1, 0));
}

/// Stops a run at its first change of that table, after its rows are in the trail. The returned session holds the lock.
fn block_at(db: &Db, table: &str, event: &str, condition: &str) -> Client {
    db.force(
        "CREATE OR REPLACE FUNCTION public.stop_here() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared(4711); RETURN coalesce(NEW, OLD); END $$",
    );
    let mut holder = db.superuser();
    holder.batch_execute("SELECT pg_advisory_lock(4711)").unwrap();
    db.force(&format!(
        "CREATE OR REPLACE TRIGGER stop_here BEFORE {event} ON vault_ext.{table} FOR EACH ROW WHEN ({condition})
            EXECUTE FUNCTION public.stop_here()"
    ));
    holder
}

fn wait_for_lock(db: &Db, query: &str) {
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%{query}%' AND wait_event_type = 'Lock'
            AND datname = current_database() AND pid <> pg_backend_pid())"
    );
    eventually(SOON, &format!("{query} waits"), || db.value(&sql));
}

#[test]
fn whoever_comes_too_late_hears_that_it_is_destroyed() {
    let db = shared_db();
    allow_no_wait(&db);
    let mut app = db.app_for("alice");
    versions_of(&mut app, 1);
    init(&mut db.app_for("bob")).unwrap();
    app.query("SELECT vault_retire_key_version(1, '0')", &[]).unwrap();
    let holder = block_at(&db, "old_keys", "UPDATE", "NEW.state = 'destroyed'");
    std::thread::scope(|scope| {
        let run = scope.spawn(|| destroy_due(&db, 10).unwrap());
        wait_for_lock(&db, "vault_destroy_due");
        let late = scope.spawn(|| db.app_for("alice").execute("SELECT vault_restore_key_version(1)", &[]));
        wait_for_lock(&db, "vault_restore_key_version");
        assert_eq!(trail_of(&db, "alice").pop().unwrap(), "destroy 200", "the row comes first");
        release(holder);
        assert_eq!(run.join().unwrap(), (1, 0));
        let refusal = expect_vault_error(late.join().unwrap(), "55000");
        assert!(refusal.message.contains("version 1 of this user's key is destroyed"), "{refusal:?}");
    });
    db.force("DROP TRIGGER stop_here ON vault_ext.old_keys");
    schedule(&db, "bob", "0").unwrap();
    let holder = block_at(&db, "encryption_vaults", "DELETE", "true");
    std::thread::scope(|scope| {
        let run = scope.spawn(|| destroy_due(&db, 10).unwrap());
        wait_for_lock(&db, "vault_destroy_due");
        let late = scope.spawn(|| cancel(&db, "bob"));
        wait_for_lock(&db, "vault_cancel_erase");
        assert_eq!(trail_of(&db, "bob").pop().unwrap(), "erase 200 scheduled", "the row comes first");
        release(holder);
        assert_eq!(run.join().unwrap(), (0, 1));
        let refusal = expect_vault_error(late.join().unwrap(), "P0002");
        assert!(refusal.message.contains("was erased on"), "{refusal:?}");
    });
    db.force("DROP TRIGGER stop_here ON vault_ext.encryption_vaults");
}

/// Lets a stopped run go on.
fn release(mut holder: Client) {
    holder.batch_execute("SELECT pg_advisory_unlock_all()").unwrap();
}

#[test]
fn without_its_row_nothing_is_destroyed() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    allow_no_wait(&db);
    let mut app = db.app_for("alice");
    versions_of(&mut app, 2);
    init(&mut db.app_for("bob")).unwrap();
    app.query("SELECT vault_retire_key_version(1, '0'), vault_retire_key_version(2, '0')", &[]).unwrap();
    schedule(&db, "bob", "0").unwrap();
    db.force("ALTER DATABASE d SET vault_ext.audit_timeout = '300ms'");
    let mut holder = db.superuser();
    holder.batch_execute("BEGIN; LOCK TABLE vault_ext.encryption_vault_audit").unwrap();
    expect_vault_error(destroy_due(&db, 10), "55000");
    holder.batch_execute("ROLLBACK").unwrap();
    assert!(db.vault_row("bob").is_some());
    // A row that the trail refuses in the middle of a batch undoes the batch.
    db.force(
        "ALTER DATABASE d RESET vault_ext.audit_timeout; ALTER TABLE vault_ext.encryption_vault_audit
        ADD CONSTRAINT c CHECK (action <> 'destroy' OR key_version <> 2) NOT VALID",
    );
    let refused = destroy_due(&db, 10);
    expect_vault_error(refused, "55000");
    assert_eq!(states(&mut app), "3 current, 2 destroy_scheduled, 1 destroy_scheduled");
    assert_eq!(db.vault_row("bob"), None, "the batch of vaults was committed before");
    let second_row =
        "SELECT count(*) FROM vault_ext.encryption_vault_audit WHERE action = 'destroy' AND key_version = 1
        AND status = 409 AND context = 'rolled-back'";
    eventually(SOON, "the trail takes it back", || db.value::<i64>(second_row) == 1);
    db.force("ALTER TABLE vault_ext.encryption_vault_audit DROP CONSTRAINT c");
    assert_eq!(destroy_due(&db, 10).unwrap(), (2, 0));
    // The same for a cancelled call.
    app.query("SELECT vault_rotate()", &[]).unwrap();
    app.query("SELECT vault_retire_key_version(3, '0')", &[]).unwrap();
    let holder = block_at(&db, "old_keys", "UPDATE", "NEW.state = 'destroyed'");
    std::thread::scope(|scope| {
        let run = scope.spawn(|| destroy_due(&db, 10));
        wait_for_lock(&db, "vault_destroy_due");
        db.force("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%vault_destroy_due%' AND pid <> pg_backend_pid()");
        expect_error(run.join().unwrap(), "57014");
    });
    release(holder);
    db.force("DROP TRIGGER stop_here ON vault_ext.old_keys");
    assert_eq!(states(&mut app), "4 current, 3 destroy_scheduled, 2 destroyed, 1 destroyed");
    assert_eq!(db.audit_where("action = 'destroy' AND context = 'error-57014'").len(), 1);
}

#[test]
fn a_run_whose_backend_is_killed_is_finished_by_the_next() {
    const KEYS: i64 = 240;
    const VAULTS: i64 = 60;
    const BATCH: i64 = 25;
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    allow_no_wait(&db);
    // Each user has a key that is kept, too.
    let mut app = db.app();
    let mut kept = Vec::new();
    for n in 0..KEYS + VAULTS {
        let user = format!("user-{n:03}");
        set_user(&mut app, &user);
        kept.push((user.clone(), versions_of(&mut app, 2).split_off(1)));
        if n < KEYS {
            app.query("SELECT vault_retire_key_version(1, '0')", &[]).unwrap();
        } else {
            schedule(&db, &user, "0").unwrap();
        }
    }
    drop(app);
    let destroyed = "SELECT count(*) FROM vault_ext.old_keys WHERE state = 'destroyed'";
    let erased = format!("SELECT {KEYS} + {VAULTS} - count(*) FROM vault_ext.encryption_vaults");
    let without_row = "SELECT count(*) FROM vault_ext.old_keys o WHERE state = 'destroyed' AND NOT EXISTS (
            SELECT FROM vault_ext.encryption_vault_audit a WHERE a.action = 'destroy' AND a.status = 200
            AND a.user_id = o.user_id AND a.key_version = o.key_version)";
    let erased_without_row = "SELECT count(*) FROM vault_ext.erasures e WHERE (erased_at IS NOT NULL) <> EXISTS (
            SELECT FROM vault_ext.encryption_vault_audit a WHERE a.action = 'erase' AND a.user_id = e.user_id)
            AND NOT EXISTS (SELECT FROM vault_ext.encryption_vaults v WHERE v.user_id = e.user_id)";
    let stops = [
        ("encryption_vaults", "DELETE", "OLD.user_id = 'user-270'"),
        ("old_keys", "UPDATE", "NEW.state = 'destroyed' AND NEW.user_id = 'user-060'"),
        ("old_keys", "UPDATE", "NEW.state = 'destroyed' AND NEW.user_id = 'user-130'"),
        ("old_keys", "UPDATE", "NEW.state = 'destroyed' AND NEW.user_id = 'user-239'"),
    ];
    for (table, event, condition) in stops {
        let holder = block_at(&db, table, event, condition);
        let pid = std::thread::scope(|scope| {
            let run = scope.spawn(|| destroy_due(&db, BATCH as i32));
            let pid = crate::rewrap::wait_until_blocked(&db);
            kill9(pid);
            assert!(run.join().unwrap().is_err(), "{condition}");
            pid
        });
        drop(holder);
        // The crash ends every session. Wait until this one is certainly gone.
        eventually(SOON, "the server has recovered", || {
            cluster.try_conn("postgres", "d").is_ok_and(|mut client| {
                let alive = client.query_one("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", &[&pid]);
                alive.is_ok_and(|row| row.get::<_, i64>(0) == 0)
            })
        });
        db.force(&format!("DROP TRIGGER stop_here ON vault_ext.{table}"));
        // Whole batches, each with its rows.
        let (keys, vaults): (i64, i64) =
            (db.value(destroyed), i64::from(db.value::<i32>(&format!("SELECT ({erased})::int"))));
        assert!(keys % BATCH == 0 && (vaults % BATCH == 0 || vaults == VAULTS), "{condition}: {keys} {vaults}");
        assert_eq!(db.value::<i64>(without_row), 0);
        assert_eq!(db.value::<i64>(erased_without_row), 0);
    }
    let before: i64 = db.value(destroyed);
    assert!(before > 0 && before < KEYS);
    assert_eq!(destroy_due(&db, BATCH as i32).unwrap(), (KEYS - before, 0));
    assert_eq!(db.value::<i64>(destroyed), KEYS);
    assert_eq!(db.value::<i64>(without_row) + db.value::<i64>(erased_without_row), 0);
    let mut app = db.app();
    for (n, (user, keys)) in kept.iter().enumerate() {
        set_user(&mut app, user);
        if (n as i64) < KEYS {
            assert_open(&mut app, keys);
            expect_vault_error(version(&mut app, 1), "55000");
        } else {
            expect_vault_error(fetch(&mut app), "P0002");
        }
    }
}

/// Retires, restores, schedules, cancels, rotates, rewraps and destroys at the same time. In the end each released key either
/// opens, or its destruction is in the trail.
#[test]
fn a_storm_of_changes_and_destructions_leaves_nothing_half_done() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    allow_no_wait(&db);
    let users = user_ids(6);
    let stop = AtomicBool::new(false);
    let refused = |error: Error| {
        let code = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
        assert!(["55000", "P0002", "40001"].contains(&code.as_str()), "{error:?}");
    };
    let keys: Vec<Vec<VaultKey>> = std::thread::scope(|scope| {
        let destroyers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while !stop.load(Ordering::SeqCst) {
                        destroy_due(&db, 2).unwrap();
                    }
                })
            })
            .collect();
        // The vaults of the others stay open all the time.
        let admins: Vec<_> = users[3..]
            .iter()
            .map(|user| {
                scope.spawn(|| {
                    while !stop.load(Ordering::SeqCst) {
                        let _ = schedule(&db, user, "2 s").map_err(refused);
                        let _ = cancel(&db, user).map_err(refused);
                        destroy_due(&db, 2).unwrap();
                    }
                })
            })
            .collect();
        let apps: Vec<_> = users
            .iter()
            .map(|user| {
                let db = &db;
                scope.spawn(move || {
                    let mut app = db.app_for(user);
                    let mut keys = Vec::new();
                    for turn in 0..60 {
                        let key = if turn % 2 == 0 { rotate(&mut app) } else { fetch(&mut app) };
                        keys.extend(key.map_err(refused));
                        let version = turn / 3 + 1;
                        let wait = if turn % 3 == 0 { "0" } else { "1 day" };
                        let retire = format!("SELECT vault_retire_key_version({version}, '{wait}')");
                        let _ = app.execute(&retire, &[]).map_err(refused);
                        if turn % 2 == 0 {
                            let restore = format!("SELECT vault_restore_key_version({version})");
                            let _ = app.execute(&restore, &[]).map_err(refused);
                        }
                    }
                    keys
                })
            })
            .collect();
        let keys = apps.into_iter().map(|app| app.join().unwrap()).collect();
        stop.store(true, Ordering::SeqCst);
        for worker in destroyers.into_iter().chain(admins) {
            worker.join().unwrap();
        }
        keys
    });
    let gone: BTreeSet<(String, i32)> = db
        .audit_where("action = 'destroy' AND status = 200")
        .into_iter()
        .map(|row| (row.user_id.unwrap(), row.key_version.unwrap()))
        .collect();
    assert!(!gone.is_empty() && keys[..3].iter().all(|keys| keys.len() == 60), "{gone:?}");
    for (user, keys) in users.iter().zip(&keys) {
        let was_erased = !db.audit_where(&format!("action = 'erase' AND user_id = '{user}'")).is_empty();
        assert!(!was_erased, "2 s were enough for each cancellation");
        let _ = cancel(&db, user).unwrap();
        let mut app = db.app_for(user);
        let _ = app.query("SELECT vault_restore_key_version(key_version) FROM vault_key_versions() WHERE state <> 'destroyed' AND state <> 'current'", &[]).unwrap();
        for key in keys {
            match version(&mut app, key.key_version) {
                Ok(found) => assert_eq!(found.master_key, key.master_key),
                Err(error) => {
                    expect_vault_error(Err::<(), _>(error), "55000");
                    assert!(gone.contains(&(user.clone(), key.key_version)), "{user} {}", key.key_version);
                }
            }
        }
    }
    let without_row: i64 = db.value(
        "SELECT count(*) FROM vault_ext.old_keys o WHERE state = 'destroyed' AND NOT EXISTS (
            SELECT FROM vault_ext.encryption_vault_audit a WHERE a.action = 'destroy' AND a.user_id = o.user_id AND a.key_version = o.key_version)",
    );
    assert_eq!(without_row, 0);
}

#[test]
fn a_scheduled_vault_keeps_its_kek_until_it_is_erased() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    allow_no_wait(&db);
    let key = init(&mut db.app_for("alice")).unwrap();
    let keys = versions_of(&mut db.app_for("bob"), 1);
    schedule(&db, "alice", "7 days").unwrap();
    schedule(&db, "bob", "7 days").unwrap();
    switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    assert!(!kek_status(&db)[1].6);
    let refusal = expect_vault_error(switch(&db, &[("k2", 2)]), "55000");
    assert!(refusal.detail.unwrap().contains("\"k1\" by 3 key(s)"));
    let mut admin = db.conn("wire_admin");
    expect_vault_error(admin.query("SELECT vault_retire_kek('k1')", &[]), "55000");
    let check = "SELECT (sum(vaults), sum(old_keys))::text FROM vault_check() WHERE outcome = 'opens'";
    assert_eq!(admin.query_one(check, &[]).unwrap().get::<_, String>(0), "(0,3)");
    // What is rewrapped meanwhile comes back under its new KEK.
    assert_eq!(rewrap(&db, 10).unwrap(), (3, 0, 0));
    switch(&db, &[("k2", 2)]).unwrap();
    assert!(cancel(&db, "alice").unwrap());
    let back = fetch(&mut db.app_for("alice")).unwrap();
    assert_eq!((back.master_key, back.kek_id.as_str()), (key.master_key, "k2"));
    assert!(cancel(&db, "bob").unwrap());
    assert_open(&mut db.app_for("bob"), &keys);
    // Erased vaults need no KEK.
    for user in ["alice", "bob"] {
        schedule(&db, user, "0").unwrap();
    }
    switch(&db, &[("k3", 3), ("k2", 2)]).unwrap();
    assert!(!kek_status(&db)[1].6);
    assert_eq!(destroy_due(&db, 1).unwrap(), (0, 2));
    assert!(kek_status(&db)[1].6);
    let rows = db.audit_where("action = 'erase'");
    assert!(rows.iter().all(|row| row.kek_id.as_deref() == Some("k2")), "the KEK of the wrap that was erased");
    switch(&db, &[("k3", 3)]).unwrap();
}

#[test]
fn a_removal_of_a_kek_sees_a_wrap_that_moves_between_the_tables() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    let key = init(&mut db.app_for("alice")).unwrap();
    switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| {
            let mut admin = db.conn("wire_admin");
            while !stop.load(Ordering::SeqCst) {
                admin.batch_execute("SELECT vault_schedule_erase('alice', '30 days', 'x')").unwrap();
                admin.batch_execute("SELECT vault_cancel_erase('alice')").unwrap();
            }
        });
        let removed = (0..300).find(|_| match switch(&db, &[("k2", 2)]) {
            Ok(_) => true,
            Err(error) => {
                let code = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
                assert!(["55000", "55P03"].contains(&code.as_str()), "{error:?}");
                false
            }
        });
        stop.store(true, Ordering::SeqCst);
        moving.join().unwrap();
        assert_eq!(removed, None, "the KEK of a vault was removed");
    });
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
}

#[test]
fn data_of_a_scheduled_vault_is_locked_for_every_transaction_that_begins_later() {
    let db = shared_db();
    allow_no_wait(&db);
    let mut app = db.app_for("alice");
    versions_of(&mut app, 1);
    let value: Vec<u8> = app.query_one("SELECT vault_encrypt('secret', 'notes:1')", &[]).unwrap().get(0);
    let decrypt = "SELECT vault_decrypt_text($1, 'notes:1')";
    // One that has encrypted must not lose its key: the schedule waits for it.
    let mut open = db.app_for("alice");
    open.batch_execute("BEGIN; SELECT vault_encrypt('secret', 'notes:2')").unwrap();
    std::thread::scope(|scope| {
        let scheduling = scope.spawn(|| schedule(&db, "alice", "0").unwrap());
        wait_for_lock(&db, "vault_schedule_erase");
        open.query_one(decrypt, &[&value]).unwrap();
        open.batch_execute("COMMIT; BEGIN").unwrap();
        scheduling.join().unwrap();
    });
    for (call, action) in [
        ("vault_encrypt('secret', 'notes:3')", "encrypt"),
        ("vault_derive_key('exports')", "derive"),
        ("vault_blind_index('secret', 'email')", "index"),
    ] {
        expect_vault_error(app.query(&format!("SELECT {call}"), &[]), "55000");
        assert_eq!(trail_of(&db, "alice").pop().unwrap(), format!("{action} 409 erase-scheduled"));
    }
    for client in [&mut app, &mut open] {
        expect_vault_error(client.query(decrypt, &[&value]), "55000");
    }
    open.batch_execute("ROLLBACK").unwrap();
    assert!(cancel(&db, "alice").unwrap());
    // One that has unlocked the key keeps it until it ends; another one gets none.
    open.batch_execute("BEGIN").unwrap();
    open.query_one(decrypt, &[&value]).unwrap();
    schedule(&db, "alice", "0").unwrap();
    let text: String = open.query_one(decrypt, &[&value]).unwrap().get(0);
    assert_eq!(text, "secret");
    expect_vault_error(app.query(decrypt, &[&value]), "55000");
    assert_eq!(destroy_due(&db, 10).unwrap(), (0, 1));
    open.query_one(decrypt, &[&value]).unwrap();
    open.batch_execute("COMMIT").unwrap();
    expect_vault_error(open.query(decrypt, &[&value]), "P0002");
}

#[test]
fn a_standby_shows_the_status_and_destroys_nothing() {
    let mut cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    allow_no_wait(&db);
    init(&mut db.app_for("alice")).unwrap();
    schedule(&db, "alice", "0").unwrap();
    drop(db);
    cluster.restart_as_standby();
    let db = cluster.existing_database("d");
    assert_eq!(status(&db, "wire_auditor", "alice"), ["scheduled k1+"]);
    expect_vault_error(destroy_due(&db, 10), "25006");
    expect_vault_error(cancel(&db, "alice"), "25006");
    expect_vault_error(schedule(&db, "alice", "30 days"), "25006");
}

#[test]
fn the_status_names_every_kek_that_may_have_wrapped_the_keys() {
    let cluster = cluster(&[("k0", 9)]);
    let db = cluster.database("d");
    // Came and went before the vault.
    init(&mut db.app_for("early")).unwrap();
    switch(&db, &[("k1", 1), ("k0", 9)]).unwrap();
    rewrap(&db, 10).unwrap();
    let mut admin = db.conn("wire_admin");
    admin.query("SELECT vault_retire_kek('k0')", &[]).unwrap();
    versions_of(&mut db.app_for("alice"), 1);
    schedule(&db, "alice", "30 days").unwrap();
    assert_eq!(status(&db, "wire_admin", "alice"), ["scheduled k1+"]);
    switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    rewrap(&db, 10).unwrap();
    assert_eq!(status(&db, "wire_admin", "alice"), ["scheduled k1+ k2+"]);
    admin.query("SELECT vault_retire_kek('k1')", &[]).unwrap();
    admin.query("SELECT vault_erase('alice')", &[]).unwrap();
    assert_eq!(status(&db, "wire_auditor", "alice")[0], "erased k1+! k2+");
    // What comes afterwards wrapped nothing of hers, and what leaves the keyring is gone as far as the server knows.
    switch(&db, &[("k3", 3), ("k2", 2)]).unwrap();
    init(&mut db.app_for("late")).unwrap();
    assert_eq!(status(&db, "wire_auditor", "alice")[0], "erased k1-! k2+");
    rewrap(&db, 10).unwrap();
    admin.query("SELECT vault_retire_kek('k2')", &[]).unwrap();
    switch(&db, &[("k3", 3)]).unwrap();
    assert_eq!(status(&db, "wire_auditor", "alice"), ["erased k1-! k2-!", "erased k1-! k2-!"]);
    // A vault that came from elsewhere names its KEK, though this database has never wrapped with it.
    db.force(
        "INSERT INTO vault_ext.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id)
         VALUES ('old', 'EkoYuy/eugLj+TUwymd4xT07qypjikNu+XfObRXpLsp1LPM+pXxISRohaJtl0f9/', 'EBESExQVFhcYGRob', 1, 'env-v1')",
    );
    schedule(&db, "old", "30 days").unwrap();
    assert_eq!(status(&db, "wire_admin", "old"), ["scheduled env-v1- k3+"]);
    admin.query("SELECT vault_erase('old')", &[]).unwrap();
    admin.query("SELECT vault_purge_audit('0')", &[]).unwrap();
    assert_eq!(status(&db, "wire_admin", "old")[0], "erased env-v1- k3+", "without the trail, too");
    assert_eq!(status(&db, "wire_admin", "nobody"), [""; 0]);
    expect_vault_error(admin.query("SELECT * FROM vault_erasure_status('')", &[]), "22023");
    let columns = "SELECT erasure_id > 0, reason, scheduled_by, scheduled_at <= erased_at, erase_after > scheduled_at, cancelled_by,
        cancelled_at, kek_first_seen <= now() FROM vault_erasure_status('alice') WHERE reason = 'request 17' AND kek_id = 'k2'";
    let row = admin.query_one(columns, &[]).unwrap();
    assert!(row.get(0) && row.get(3) && row.get(4) && row.get(7));
    assert_eq!((row.get(1), row.get(2)), ("request 17", "wire_admin"));
    assert_eq!(row.get::<_, Option<String>>(5), None);
}

#[test]
fn a_cancellation_reopens_a_wrap_that_does_not_open_and_refuses_one_that_is_gone() {
    let db = shared_db();
    for user in ["alice", "bob"] {
        init(&mut db.app_for(user)).unwrap();
        schedule(&db, user, "30 days").unwrap();
    }
    db.force("UPDATE vault_ext.old_keys SET wrapped_mk = reverse(wrapped_mk) WHERE user_id = 'alice'");
    assert!(cancel(&db, "alice").unwrap(), "what is damaged can still be mended; what is erased cannot");
    assert_eq!(trail_of(&db, "alice").pop().unwrap(), "cancel_erase 200 does-not-open");
    expect_vault_error(fetch(&mut db.app_for("alice")), "XX001");
    let before = db.vault_row("bob");
    for damage in [
        "UPDATE vault_ext.old_keys SET state = 'destroyed', wrapped_mk = NULL, wrap_iv = NULL, destroyed_at = now()",
        "DELETE FROM vault_ext.old_keys",
    ] {
        db.force(damage);
        let refusal = expect_vault_error(cancel(&db, "bob"), "55000");
        assert!(refusal.message.contains("destroyed"), "{refusal:?}");
        assert_eq!(db.vault_row("bob"), before);
    }
    assert_eq!(trail_of(&db, "bob").pop().unwrap(), "cancel_erase 410 version-destroyed");
}

/// Users in every state that a vault and its versions can have.
fn every_state(db: &Db) -> Vec<VaultKey> {
    allow_no_wait(db);
    let mut app = db.app_for("all");
    let keys = versions_of(&mut app, 4);
    app.query(
        "SELECT vault_disable_key_version(3), vault_retire_key_version(2), vault_retire_key_version(1, '0')",
        &[],
    )
    .unwrap();
    versions_of(&mut db.app_for("zk"), 1);
    db.force(&format!("{ZERO_KNOWLEDGE} WHERE user_id = 'zk'"));
    for (user, wait) in [("scheduled", "30 days"), ("cancelled", "30 days"), ("erased", "0")] {
        versions_of(&mut db.app_for(user), 1);
        schedule(db, user, wait).unwrap();
    }
    schedule(db, "zk", "30 days").unwrap();
    assert!(cancel(db, "cancelled").unwrap());
    assert_eq!(destroy_due(db, 10).unwrap(), (1, 1));
    keys
}

fn contents(db: &Db) -> Vec<String> {
    let of = |table: &str| -> String {
        db.value(&format!("SELECT string_agg(t::text, E'\\n' ORDER BY t::text) FROM vault_ext.{table} t"))
    };
    ["encryption_vaults", "old_keys", "erasures", "keks"].into_iter().map(of).collect()
}

fn dump(db: &Db, format: &str) -> std::path::PathBuf {
    let file = scratch_dir().join("dump");
    let mut dump = db.cluster.program("pg_dump", "postgres");
    succeed(dump.args(["-F", format, "-d", &db.name, "-f"]).arg(&file));
    file
}

#[test]
fn a_dump_restores_every_state() {
    let db = shared_db();
    let keys = every_state(&db);
    for format in ["plain", "custom"] {
        let file = dump(&db, format);
        let copy = db.cluster.empty_database(&format!("{}_{format}", db.name));
        restore(&copy, format, &file);
        assert_eq!(contents(&copy), contents(&db), "{format}");
        let mut app = copy.app_for("all");
        assert_eq!(states(&mut app), "5 current, 4 decrypt_only, 3 disabled, 2 destroy_scheduled, 1 destroyed");
        assert_open(&mut app, &keys[3..]);
        for (call, rest) in
            [("SELECT vault_restore_key_version(3)", &keys[2..]), ("SELECT vault_restore_key_version(2)", &keys[1..])]
        {
            app.query(call, &[]).unwrap();
            assert_open(&mut app, rest);
        }
        for user in ["scheduled", "zk"] {
            expect_vault_error(fetch(&mut copy.app_for(user)), "55000");
            assert!(cancel(&copy, user).unwrap());
            copy.app_for(user).query("SELECT vault_get_master_key()", &[]).unwrap();
        }
        expect_vault_error(fetch(&mut copy.app_for("erased")), "P0002");
        expect_vault_error(cancel(&copy, "erased"), "P0002");
        assert_eq!(status(&copy, "wire_admin", "cancelled"), ["cancelled wire-1+"]);
        // The ids of erasures go on.
        schedule(&copy, "cancelled", "30 days").unwrap();
        let highest: bool =
            copy.value("SELECT max(id) = (SELECT count(*) FROM vault_ext.erasures) FROM vault_ext.erasures");
        assert!(highest);
    }
}

/// The documentation warns of this: a backup has what was destroyed after it was made.
#[test]
fn an_older_backup_brings_a_destroyed_key_back() {
    let db = shared_db();
    allow_no_wait(&db);
    let mut app = db.app_for("alice");
    let keys = versions_of(&mut app, 1);
    let bob = init(&mut db.app_for("bob")).unwrap();
    let backup = dump(&db, "custom");
    app.query("SELECT vault_retire_key_version(1, '0')", &[]).unwrap();
    schedule(&db, "bob", "0").unwrap();
    assert_eq!(destroy_due(&db, 10).unwrap(), (1, 1));
    expect_vault_error(version(&mut app, 1), "55000");
    let copy = db.cluster.empty_database(&format!("{}_before", db.name));
    restore(&copy, "custom", &backup);
    assert_open(&mut copy.app_for("alice"), &keys);
    assert_eq!(fetch(&mut copy.app_for("bob")).unwrap(), bob);
    // Nothing there says that they were destroyed: the backup is older than that.
    assert_eq!(status(&copy, "wire_admin", "bob"), [""; 0]);
    wait_for_trail(&copy, "alice", &["init 201 created", "rotate 200", "fetch 200 version", "fetch 200 version"]);
}
