//! SIGHUP reloads the keyring once per server, also on a standby, and the log shows the outcome.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Cluster, Stop, assert_no_secrets, eventually, expect_vault_error, fetch, init, kek, kill9};
use crate::keyring::{cluster, keyring, loaded, reload, write};

const SOON: Duration = Duration::from_secs(30);

/// Sends SIGHUP and waits until the log has this many more lines with these words.
#[track_caller]
fn sighup_and_wait_for_log(cluster: &Cluster, words: &str, lines: usize) {
    let count = || cluster.log().matches(words).count();
    let before = count();
    cluster.signal_postmaster(Signal::HUP);
    eventually(SOON, &format!("the log says: {words}"), || count() >= before + lines);
}

fn listener(cluster: &Cluster) -> Option<i32> {
    let titled = |pid: &i32| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|title| String::from_utf8_lossy(&title).contains("keyring listener"))
    };
    cluster.processes().into_iter().find(titled)
}

#[test]
fn a_signal_reloads_once_per_server() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    let mut sessions: Vec<_> = (0..20).map(|i| db.app_for(&format!("user-{i}"))).collect();
    for session in &mut sessions {
        init(session).unwrap();
    }
    write(&cluster, &keyring(&[("k2", 2), ("k1", 1)]));
    sighup_and_wait_for_log(&cluster, "vault_ext: keyring reloaded: active k2; added k2", 1);
    assert_eq!(init(&mut db.app_for("new")).unwrap().kek_id, "k2");
    for session in &mut sessions {
        assert_eq!(fetch(session).unwrap().kek_id, "k1");
    }
    // By now each session has received its own SIGHUP, but only the listener reloaded.
    assert_eq!(cluster.log().matches("keyring reloaded").count(), 1);
    assert_no_secrets(&cluster, &[], &[kek(1).to_vec(), kek(2).to_vec()]);
}

#[test]
fn a_keyring_that_a_signal_cannot_check_is_refused_and_logged() {
    let cluster = cluster(&[("k1", 1), ("k2", 2)]);
    let db = cluster.database("d");
    let key = init(&mut db.app_for("alice")).unwrap();
    for (text, words) in [
        (keyring(&[("k1", 1)]), "not reloaded, the old one stays in use: it lacks k2"),
        (keyring(&[("k1", 2), ("k2", 1)]), "another KEK under the id \"k1\""),
        ("garbage".into(), "line 1 of the keyring"),
        (String::new(), "is empty"),
    ] {
        write(&cluster, &text);
        sighup_and_wait_for_log(&cluster, words, 1);
        assert_eq!(loaded(&db), ["k1", "k2"]);
    }
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
    // The signal leaves this decision to an administrator, who sees the vaults.
    write(&cluster, &keyring(&[("k1", 1)]));
    reload(&db).unwrap();
    assert_eq!(loaded(&db), ["k1"]);
}

#[test]
fn a_signal_for_other_reasons_logs_no_reload() {
    let mut cluster = cluster(&[("k1", 1)]);
    cluster.database("d");
    cluster.configure("log_min_messages = debug1");
    sighup_and_wait_for_log(&cluster, "the keyring is unchanged", 1);
    let log = cluster.log();
    assert!(!log.contains("keyring reloaded") && !log.contains("not reloaded"), "{log}");
}

#[test]
fn a_signal_makes_a_disabled_vault_work() {
    let mut cluster = Cluster::builder().without_fsync().conf("vault_ext.on_bad_kek = disable").prepare();
    let path = cluster.dir().join("keyring");
    cluster.configure(&format!("vault_ext.kek_file = '{}'", path.display()));
    cluster.start();
    let db = cluster.database("d");
    expect_vault_error(init(&mut db.app_for("alice")), "55000");
    write(&cluster, &keyring(&[("k1", 1)]));
    sighup_and_wait_for_log(&cluster, "keyring reloaded: active k1; added k1", 1);
    init(&mut db.app_for("alice")).unwrap();
}

#[test]
fn a_standby_reloads_on_a_signal_and_is_ready_when_promoted() {
    let mut cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    let key = init(&mut db.app_for("alice")).unwrap();
    drop(db);
    cluster.restart_as_standby();
    let db = cluster.existing_database("d");
    let refusal = expect_vault_error(reload(&db), "25006");
    assert!(refusal.hint.unwrap_or_default().contains("pg_reload_conf"));
    write(&cluster, &keyring(&[("k2", 2), ("k1", 1)]));
    sighup_and_wait_for_log(&cluster, "keyring reloaded: active k2; added k2", 1);
    assert_eq!(loaded(&db), ["k2", "k1"]);
    db.force("SELECT pg_promote(true, 30)");
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
    assert_eq!(init(&mut db.app_for("bob")).unwrap().kek_id, "k2");
}

#[test]
fn the_listener_comes_back_and_stops_with_the_server() {
    let mut cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    let key = init(&mut db.app_for("alice")).unwrap();
    write(&cluster, &keyring(&[("k2", 2), ("k1", 1)]));
    sighup_and_wait_for_log(&cluster, "keyring reloaded", 1);
    let mut ended = Vec::new();
    for end in ["terminate", "kill"] {
        eventually(SOON, "the listener runs", || listener(&cluster).is_some_and(|pid| !ended.contains(&pid)));
        let pid = listener(&cluster).unwrap();
        ended.push(pid);
        if end == "kill" {
            kill9(pid);
        } else {
            rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
        }
        eventually(SOON, "another one runs", || listener(&cluster).is_some_and(|new| !ended.contains(&new)));
        eventually(SOON, "the server answers", || cluster.try_conn("postgres", "d").is_ok());
    }
    // The keyring survives the crash that kill -9 causes.
    assert_eq!(loaded(&db), ["k2", "k1"]);
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
    write(&cluster, &keyring(&[("k3", 3), ("k2", 2), ("k1", 1)]));
    // The new listener may not have its handler yet when the first signal arrives.
    eventually(SOON, "the new listener reloads", || {
        cluster.signal_postmaster(Signal::HUP);
        loaded(&db) == ["k3", "k2", "k1"]
    });
    drop(db);
    cluster.stop(Stop::Fast);
}

#[test]
fn a_slow_command_does_not_hold_up_a_shutdown() {
    let mut cluster = Cluster::builder().without_fsync().prepare();
    cluster.write_kek("keyring", keyring(&[("k1", 1)]), 0o600);
    let dir = cluster.dir().display().to_string();
    cluster.write_kek("command", format!("cat {dir}/keyring"), 0o600);
    cluster.configure(&format!("vault_ext.kek_command = '. {dir}/command'"));
    cluster.start();
    cluster.write_kek("command", format!("echo $$ > {dir}/running; sleep 25"), 0o600);
    cluster.signal_postmaster(Signal::HUP);
    let mut shell = String::new();
    eventually(SOON, "the command runs", || {
        shell = fs::read_to_string(cluster.dir().join("running")).unwrap_or_default().trim().to_owned();
        !shell.is_empty()
    });
    cluster.stop(Stop::Fast);
    eventually(Duration::from_secs(5), "the command is gone", || !fs::exists(format!("/proc/{shell}")).unwrap());
}
