//! `vault_reload_kek()`: either all sessions use the new keyring at once, or the old one stays unchanged.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::harness::{
    Cluster, Db, Refusal, assert_no_secrets, base64, eventually, expect_error, expect_vault_error, fetch, init, kek,
    rotate, rotate_and_destroy, without_deadlock,
};
use crate::keyring::{Reloaded, cluster, keyring, loaded, reload, rewrap, switch, write};

const SOON: Duration = Duration::from_secs(30);

fn changes(rows: &Reloaded) -> Vec<(&str, bool, &str)> {
    rows.iter().map(|(id, active, change)| (id.as_str(), *active, change.as_str())).collect()
}

/// Asserts that the reload fails, the old keyring stays in use, and every vault opens.
#[track_caller]
fn expect_refused(db: &Db, text: &str, code: &str) -> Refusal {
    let before = loaded(db);
    let key = init(&mut db.app_for("alice")).unwrap();
    write(db.cluster, text);
    let refusal = expect_vault_error(reload(db), code);
    assert_eq!(loaded(db), before);
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
    let rows = db.audit();
    let row = rows.iter().rev().find(|row| row.action == "reload").expect("a row for the reload");
    assert!(row.status >= 400, "{row:?}");
    assert_eq!(row.db_role, "wire_admin");
    refusal
}

#[test]
fn a_new_first_kek_wraps_at_once_and_the_old_kek_still_opens() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    let mut alice = db.app_for("alice");
    let key = init(&mut alice).unwrap();
    let rows = switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    assert_eq!(changes(&rows), [("k2", true, "added"), ("k1", false, "kept")]);
    assert_eq!(fetch(&mut alice).unwrap(), key, "a session from before the reload");
    assert_eq!(init(&mut db.app_for("bob")).unwrap().kek_id, "k2");
    assert_eq!(rotate_and_destroy(&mut alice).unwrap().kek_id, "k2");
    let rows = db.audit();
    let row = rows.iter().find(|row| row.action == "reload").expect("a row for the reload");
    assert_eq!(row.what(), ("reload", 200, Some("active k2; added k2")));
    let same = reload(&db).unwrap();
    assert_eq!(changes(&same), [("k2", true, "kept"), ("k1", false, "kept")]);
    let secrets = [kek(1).to_vec(), kek(2).to_vec()];
    assert_no_secrets(&cluster, &[], &secrets);
}

#[test]
fn a_kek_that_no_vault_needs_can_be_removed() {
    let cluster = cluster(&[("k2", 2), ("k1", 1)]);
    let db = cluster.database("d");
    let key = init(&mut db.app_for("alice")).unwrap();
    let rows = switch(&db, &[("k2", 2)]).unwrap();
    assert_eq!(changes(&rows), [("k2", true, "kept"), ("k1", false, "removed")]);
    assert_eq!(loaded(&db), ["k2"]);
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
}

#[test]
fn a_keyring_that_lacks_a_kek_that_vaults_need_is_refused() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    init(&mut db.app_for("bob")).unwrap();
    // The active KEK changes, but the old one is dropped too early.
    let refusal = expect_refused(&db, &keyring(&[("k2", 2)]), "55000");
    let detail = refusal.detail.unwrap_or_default();
    assert!(detail.contains("\"k1\" by 2 key"), "{detail}");
    assert_eq!(init(&mut db.app_for("carol")).unwrap().kek_id, "k1");
    // The same if the dropped KEK is not the active one.
    switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    expect_refused(&db, &keyring(&[("k2", 2)]), "55000");
}

#[test]
fn swapped_ids_are_refused_with_both_check_values() {
    let cluster = cluster(&[("k1", 1), ("k2", 2)]);
    let db = cluster.database("d");
    init(&mut db.app_for("alice")).unwrap();
    let check =
        |id: &str| -> String { db.value(&format!("SELECT check_value FROM vault_kek_status() WHERE kek_id = '{id}'")) };
    let (one, two) = (check("k1"), check("k2"));
    let refusal = expect_refused(&db, &keyring(&[("k1", 2), ("k2", 1)]), "55000");
    assert!(refusal.message.contains("\"k1\""), "{refusal:?}");
    let detail = refusal.detail.unwrap_or_default();
    assert!(detail.contains(&one) && detail.contains(&two), "{detail}");
}

#[test]
fn a_known_id_with_another_kek_is_refused() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    init(&mut db.app_for("alice")).unwrap();
    switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    // k1 leaves the keyring and comes back as another KEK.
    rotate_and_destroy(&mut db.app_for("alice")).unwrap();
    switch(&db, &[("k2", 2)]).unwrap();
    let known: String = db.value("SELECT check_value FROM vault_ext.keks WHERE kek_id = 'k1'");
    let refusal = expect_refused(&db, &keyring(&[("k2", 2), ("k1", 3)]), "55000");
    assert!(refusal.detail.unwrap_or_default().contains(&known));
}

#[test]
fn a_partly_written_file_is_refused_wherever_it_ends() {
    let cluster = cluster(&[("k2", 2), ("k1", 1)]);
    let db = cluster.database("d");
    db.force(
        "INSERT INTO vault_ext.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id)
            SELECT 'old', repeat('A', 64), repeat('A', 16), 1, 'k1'",
    );
    let whole = keyring(&[("k2", 2), ("k1", 1)]);
    // Without its padding, the last KEK is still complete, and so is the keyring.
    for length in 0..whole.trim_end().trim_end_matches('=').len() {
        write(&cluster, &whole[..length]);
        let code = if whole[..length].trim_end() == keyring(&[("k2", 2)]).trim_end()
            || whole[..length].trim_end() == keyring(&[("k2", 2)]).trim_end().trim_end_matches('=')
        {
            "55000"
        } else {
            "F0000"
        };
        expect_vault_error(reload(&db), code);
    }
    assert_eq!(loaded(&db), ["k2", "k1"]);
    write(&cluster, &whole);
    reload(&db).unwrap();
}

#[test]
fn an_error_about_the_file_does_not_show_its_content() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    let secrets = [kek(2).to_vec(), kek(3).to_vec()];
    let mut texts = Vec::new();
    let twice = keyring(&[("k1", 1), ("k2", 2), ("k2", 3)]);
    for (text, word) in [
        ("", "empty"),
        ("# nothing\n", "empty"),
        (&*format!("k1 {} rest", base64(&kek(2))), "line 1"),
        (&*twice, "line 3"),
    ] {
        let refusal = expect_refused(&db, text, "F0000");
        assert!(refusal.message.contains(word), "{refusal:?}");
        texts.push(refusal.text());
    }
    std::fs::remove_file(cluster.dir().join("keyring")).unwrap();
    let refusal = expect_vault_error(reload(&db), "F0000");
    assert!(refusal.message.contains("does not exist"), "{refusal:?}");
    cluster.write_kek("keyring", keyring(&[("k1", 1)]), 0o644);
    let refusal = expect_vault_error(reload(&db), "F0000");
    assert!(refusal.message.contains("0644"), "{refusal:?}");
    assert_no_secrets(&cluster, &texts, &secrets);
}

/// A server whose KEK command runs the commands in a file.
fn with_command(keks: &[(&str, u64)]) -> Cluster {
    let mut cluster = Cluster::builder().without_fsync().prepare();
    cluster.write_kek("command", format!("cat {}/keyring", cluster.dir().display()), 0o600);
    cluster.write_kek("keyring", keyring(keks), 0o600);
    let line = format!("vault_ext.kek_command = '. {}/command'", cluster.dir().display());
    cluster.configure(&line);
    cluster.configure("vault_ext.kek_command_timeout = 2s");
    cluster.start();
    cluster
}

#[test]
fn a_command_that_goes_wrong_changes_nothing() {
    let cluster = with_command(&[("k1", 1)]);
    let db = cluster.database("d");
    let key = init(&mut db.app_for("alice")).unwrap();
    let ring = format!("cat {}/keyring", cluster.dir().display());
    let leak = base64(&kek(2));
    let mut texts = Vec::new();
    for (command, word) in [
        (format!("echo {leak}; exit 7"), "exit code 7"),
        (format!("echo oops {leak} {leak}"), "line 1"),
        (format!("echo k2 {leak} >&2"), "printed nothing"),
        ("sleep 60".into(), "within 2s"),
        ("kill -9 $$".into(), "signal"),
    ] {
        cluster.write_kek("command", command, 0o600);
        let refusal = expect_vault_error(reload(&db), "F0000");
        assert!(refusal.message.contains(word), "{word}: {refusal:?}");
        texts.push(refusal.text());
        assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
    }
    // Output on standard error does not matter if the rest is good.
    cluster.write_kek("command", format!("echo k9 {leak} >&2; {ring}"), 0o600);
    write(&cluster, &keyring(&[("k3", 3), ("k1", 1)]));
    assert_eq!(changes(&reload(&db).unwrap()), [("k3", true, "added"), ("k1", false, "kept")]);
    assert_no_secrets(&cluster, &texts, &[kek(1).to_vec(), kek(2).to_vec(), kek(3).to_vec()]);
}

#[test]
fn a_slow_command_can_be_cancelled_and_terminated_and_leaves_nothing_running() {
    let mut cluster = with_command(&[("k1", 1)]);
    cluster.configure("vault_ext.kek_command_timeout = 100s");
    cluster.restart();
    let db = cluster.database("d");
    for (how, why) in [
        ("pg_cancel_backend", "canceling statement due to user request"),
        ("pg_terminate_backend", "terminating connection due to administrator command"),
    ] {
        let marker = cluster.dir().join(how);
        cluster.write_kek("command", format!("echo $$ > {}; sleep 99", marker.display()), 0o600);
        let mut admin = db.conn("wire_admin");
        let pid: i32 = admin.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
        let waiting = std::thread::spawn(move || admin.query("SELECT vault_reload_kek()", &[]).map(drop));
        let mut shell = String::new();
        eventually(SOON, "the command runs", || {
            shell = std::fs::read_to_string(&marker).unwrap_or_default().trim().to_owned();
            !shell.is_empty()
        });
        db.force(&format!("SELECT {how}({pid})"));
        let result = without_deadlock(SOON, "the reload", || waiting.join().unwrap());
        assert!(result.is_err(), "{how}");
        eventually(SOON, "the log says why", || cluster.log().contains(why));
        eventually(SOON, "the command is gone", || !std::path::Path::new(&format!("/proc/{shell}")).exists());
    }
    init(&mut db.app_for("alice")).unwrap();
}

#[test]
fn two_admins_at_once_both_get_a_correct_answer() {
    let cluster = with_command(&[("k1", 1)]);
    let db = cluster.database("d");
    // The first one reads the keyring, and the second one overtakes it before it publishes.
    let (reading, go) = (cluster.dir().join("reading"), cluster.dir().join("go"));
    let ring = cluster.dir().join("keyring");
    let slow = format!(
        "cat {ring}; if mkdir {reading} 2>/dev/null; then while ! [ -e {go} ]; do sleep 0.01; done; fi",
        ring = ring.display(),
        reading = reading.display(),
        go = go.display()
    );
    cluster.write_kek("command", slow, 0o600);
    write(&cluster, &keyring(&[("k2", 2), ("k1", 1)]));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| reload(&db).unwrap());
        eventually(SOON, "the first one reads", || reading.exists());
        write(&cluster, &keyring(&[("k3", 3), ("k1", 1)]));
        let second = reload(&db).unwrap();
        assert_eq!(changes(&second), [("k3", true, "added"), ("k1", false, "kept")]);
        std::fs::write(&go, "").unwrap();
        // Its first read was out of date, so it read again.
        assert_eq!(changes(&first.join().unwrap()), [("k3", true, "kept"), ("k1", false, "kept")]);
    });
    assert_eq!(loaded(&db), ["k3", "k1"]);
}

#[test]
fn many_admins_at_once_leave_the_keyring_of_the_file_loaded() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    std::thread::scope(|scope| {
        for i in 2..10 {
            let db = &db;
            scope.spawn(move || {
                let path =
                    db.cluster.write_kek(&format!("keyring.{i}"), keyring(&[(&format!("k{i}"), i), ("k1", 1)]), 0o600);
                std::fs::rename(path, db.cluster.dir().join("keyring")).unwrap();
                reload(db).unwrap();
            });
        }
    });
    let text = std::fs::read_to_string(cluster.dir().join("keyring")).unwrap();
    let ids: Vec<_> = text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(loaded(&db), ids);
}

#[test]
fn a_kek_in_the_configuration_and_the_development_kek_need_a_restart() {
    for line in [format!("vault_ext.kek = 'k1 {}'", base64(&kek(1))), "vault_ext.dev_mode = on".into()] {
        let mut cluster = Cluster::builder().without_fsync().prepare();
        cluster.configure(&line);
        cluster.start();
        let db = cluster.database("d");
        init(&mut db.app_for("alice")).unwrap();
        let refusal = expect_vault_error(reload(&db), "F0000");
        assert!(refusal.hint.unwrap_or_default().contains("Restart"));
        fetch(&mut db.app_for("alice")).unwrap();
    }
}

#[test]
fn a_disabled_vault_starts_to_work_with_a_good_keyring() {
    let mut cluster = Cluster::builder().without_fsync().conf("vault_ext.on_bad_kek = disable").prepare();
    let path = cluster.write_kek("keyring", "nonsense", 0o600);
    cluster.configure(&format!("vault_ext.kek_file = '{}'", path.display()));
    cluster.start();
    let db = cluster.database("d");
    let mut alice = db.app_for("alice");
    expect_vault_error(init(&mut alice), "55000");
    expect_vault_error(reload(&db), "F0000");
    expect_vault_error(init(&mut alice), "55000");
    assert_eq!(changes(&switch(&db, &[("k1", 1)]).unwrap()), [("k1", true, "added")]);
    assert_eq!(init(&mut alice).unwrap().kek_id, "k1");
}

#[test]
fn a_lost_kek_stays_loaded_until_its_vaults_are_rewrapped() {
    let cluster = cluster(&[("k1", 1), ("k0", 5)]);
    let db = cluster.database("d");
    let key = init(&mut db.app_for("alice")).unwrap();
    write(&cluster, &keyring(&[("k2", 2)]));
    expect_vault_error(reload(&db), "55000");
    let rows =
        db.conn("wire_admin").query("SELECT kek_id, active, change FROM vault_reload_kek(keep_missing => true)", &[]);
    let rows: Reloaded = rows.unwrap().iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(changes(&rows), [("k2", true, "added"), ("k1", false, "kept"), ("k0", false, "kept")]);
    let row = db.audit().pop().unwrap();
    assert_eq!(row.what(), ("reload", 200, Some("active k2; added k2; kept k1 k0")));
    assert!(cluster.log().contains("the KEK \"k1\" is in this server's memory only"));
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
    assert_eq!(rewrap(&db, 10).unwrap(), (1, 0, 0));
    let rows = reload(&db).unwrap();
    assert_eq!(changes(&rows), [("k2", true, "kept"), ("k1", false, "removed"), ("k0", false, "removed")]);
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap().master_key, key.master_key);
    // A kept id still cannot be given to another KEK.
    write(&cluster, &keyring(&[("k3", 3), ("k2", 9)]));
    expect_vault_error(db.conn("wire_admin").simple_query("SELECT vault_reload_kek(true)"), "55000");
}

#[test]
fn only_an_admin_reloads() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    for role in ["wire_app", "wire_auditor", "wire_stranger"] {
        for call in [
            "SELECT vault_reload_kek()",
            "SELECT * FROM vault_kek_status()",
            "SELECT * FROM vault_check()",
            "SELECT vault_retire_kek('k1')",
            "CALL vault_rewrap()",
        ] {
            expect_error(db.conn(role).simple_query(call), "42501");
        }
    }
}

#[test]
fn an_uncommitted_key_keeps_its_kek_from_being_removed() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    for end in ["COMMIT", "ROLLBACK"] {
        switch(&db, &[("k1", 1), ("k2", 2)]).unwrap();
        let mut alice = db.app_for(&format!("alice-{end}"));
        alice.batch_execute("BEGIN").unwrap();
        assert_eq!(init(&mut alice).unwrap().kek_id, "k1");
        switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
        // No visible vault needs k1. Only this transaction does.
        let refusal = expect_vault_error(switch(&db, &[("k2", 2)]), "55P03");
        assert!(refusal.hint.unwrap_or_default().contains("pg_locks"));
        assert_eq!(loaded(&db), ["k2", "k1"]);
        alice.batch_execute(end).unwrap();
        if end == "COMMIT" {
            expect_vault_error(switch(&db, &[("k2", 2)]), "55000");
            assert_eq!(rotate_and_destroy(&mut alice).unwrap().kek_id, "k2");
        }
        switch(&db, &[("k2", 2)]).unwrap();
        switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    }
}

#[test]
fn a_call_that_waited_for_a_reload_uses_the_new_keyring() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    // An open writer makes the reload wait, and the reload makes the next writer wait.
    let mut first = db.app_for("first");
    first.batch_execute("BEGIN").unwrap();
    init(&mut first).unwrap();
    write(&cluster, &keyring(&[("k2", 2)]));
    let blocked = |count: i64| {
        eventually(SOON, "sessions wait for a lock", || {
            db.value::<i64>("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'vault_ext.encryption_vaults'::regclass")
                == count
        });
    };
    std::thread::scope(|scope| {
        let reloading = scope.spawn(|| reload(&db));
        blocked(1);
        let waiting = scope.spawn(|| init(&mut db.app_for("second")).unwrap());
        blocked(2);
        first.batch_execute("ROLLBACK").unwrap();
        reloading.join().unwrap().unwrap();
        assert_eq!(waiting.join().unwrap().kek_id, "k2", "k1 is no longer in the keyring");
    });
    fetch(&mut db.app_for("second")).unwrap();
}

#[test]
fn a_removal_needs_a_transaction_that_sees_all_vaults() {
    let cluster = cluster(&[("k2", 2), ("k1", 1)]);
    let db = cluster.database("d");
    write(&cluster, &keyring(&[("k2", 2)]));
    let mut admin = db.conn("wire_admin");
    for call in ["SELECT vault_reload_kek()", "SELECT vault_retire_kek('k1')", "CALL vault_rewrap()"] {
        admin.batch_execute("SET default_transaction_isolation = 'repeatable read'").unwrap();
        expect_vault_error(admin.simple_query(call), "25001");
    }
}

#[test]
fn hidden_vaults_are_detected_by_every_administrative_call() {
    let cluster = cluster(&[("k2", 2), ("k1", 1)]);
    let db = cluster.database("d");
    init(&mut db.app_for("alice")).unwrap();
    write(&cluster, &keyring(&[("k1", 1)]));
    for (spoil, mend) in [
        (
            "CREATE POLICY extra ON vault_ext.encryption_vaults AS RESTRICTIVE USING (user_id <> 'alice')",
            "DROP POLICY extra ON vault_ext.encryption_vaults",
        ),
        (
            "ALTER POLICY encryption_vaults_vault_maintenance ON vault_ext.encryption_vaults USING (false)",
            "ALTER POLICY encryption_vaults_vault_maintenance ON vault_ext.encryption_vaults USING (vault_ext.in_maintenance())",
        ),
        (
            "DROP POLICY encryption_vaults_vault_maintenance_update ON vault_ext.encryption_vaults",
            "CREATE POLICY encryption_vaults_vault_maintenance_update ON vault_ext.encryption_vaults FOR UPDATE TO vault_ext_owner
                USING (vault_ext.in_maintenance()) WITH CHECK (vault_ext.in_maintenance())",
        ),
        (
            "CREATE OR REPLACE FUNCTION vault_ext.in_maintenance() RETURNS boolean LANGUAGE sql STABLE AS 'SELECT false'",
            "CREATE OR REPLACE FUNCTION vault_ext.in_maintenance() RETURNS boolean LANGUAGE c STABLE PARALLEL RESTRICTED
                AS '$libdir/vault_ext', 'in_maintenance_wrapper'",
        ),
    ] {
        db.force(&format!("SET vault_ext.allow_alter = on; {spoil}"));
        for call in [
            "SELECT vault_reload_kek()",
            "SELECT * FROM vault_kek_status()",
            "SELECT * FROM vault_check()",
            "SELECT vault_retire_kek('k2')",
            "CALL vault_rewrap()",
        ] {
            let refusal = expect_vault_error(db.conn("wire_admin").simple_query(call), "55000");
            assert!(refusal.message.contains("row-level security"), "{spoil}: {call}: {refusal:?}");
        }
        db.force(mend);
        crate::keyring::kek_status(&db);
    }
}

#[test]
fn fifty_busy_sessions_see_each_new_keyring_at_once_and_no_call_fails() {
    let cluster = cluster(&[("k0", 10)]);
    let db = cluster.database("d");
    let (stop, reloads, calls) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let sessions: Vec<_> = (0..50)
            .map(|i| {
                let (db, stop, reloads, calls) = (&db, &stop, &reloads, &calls);
                scope.spawn(move || {
                    let mut client = db.app_for(&format!("user-{i}"));
                    init(&mut client).unwrap();
                    while !stop.load(Ordering::SeqCst) {
                        let before = reloads.load(Ordering::SeqCst);
                        let key = rotate(&mut client).unwrap();
                        assert_eq!(fetch(&mut client).unwrap(), key);
                        let used: u64 = key.kek_id[1..].parse().unwrap();
                        assert!(used >= before, "reload {before} had returned, but the call used k{used}");
                        calls.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        // A failure here must not leave the sessions running.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for i in 1..=20u64 {
                let keks: Vec<_> = (0..=i).rev().map(|i| (format!("k{i}"), 10 + i)).collect();
                let keks: Vec<_> = keks.iter().map(|(id, seed)| (id.as_str(), *seed)).collect();
                switch(&db, &keks).unwrap();
                reloads.store(i, Ordering::SeqCst);
                let done = calls.load(Ordering::Relaxed);
                eventually(SOON, "calls continue", || calls.load(Ordering::Relaxed) > done + 20);
            }
        }));
        stop.store(true, Ordering::SeqCst);
        sessions.into_iter().for_each(|session| session.join().unwrap());
        outcome.unwrap();
    });
    assert_eq!(loaded(&db).len(), 21);
}
