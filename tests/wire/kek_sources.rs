//! No source, several sources, and every way in which `vault_ext.kek_command` can fail.

use std::time::{Duration, Instant};

use crate::harness::{Cluster, base64, eventually, kek, refuses_kek};

fn without_kek() -> Cluster {
    Cluster::builder().without_fsync().prepare()
}

fn secret() -> Vec<u8> {
    kek(80).to_vec()
}

fn with_command(command: &str) -> Cluster {
    let mut cluster = without_kek();
    let quoted = command.replace('\'', "''");
    cluster.configure(&format!("vault_ext.kek_command = '{quoted}'"));
    cluster
}

#[test]
fn two_sources_are_refused() {
    let pairs = [["kek_file", "kek_command"], ["kek_file", "kek"], ["kek_command", "kek"]];
    for pair in pairs {
        let mut cluster = without_kek();
        let path = cluster.write_kek("keyring", base64(&kek(80)), 0o600);
        for setting in pair {
            let value = match setting {
                "kek_file" => path.display().to_string(),
                "kek_command" => format!("cat {}", path.display()),
                _ => base64(&kek(80)),
            };
            cluster.configure(&format!("vault_ext.{setting} = '{value}'"));
        }
        refuses_kek("two sources", cluster, &["only one|exactly one|more than one"], &[secret()]);
    }
}

#[test]
fn no_source_is_refused() {
    refuses_kek("none", without_kek(), &["kek_file", "kek_command"], &[]);
}

#[test]
fn a_failing_command_is_refused_and_its_output_is_not_shown() {
    let command = format!("echo {}; exit 3", base64(&kek(80)));
    refuses_kek("failing", with_command(&command), &["kek_command", "3"], &[secret()]);
}

#[test]
fn a_command_that_does_not_exist_is_refused() {
    refuses_kek("failing to run", with_command("/does/not/exist"), &["kek_command", "127"], &[]);
}

#[test]
fn a_command_that_is_killed_is_refused() {
    refuses_kek("killed", with_command("kill -9 $$"), &["kek_command", "signal"], &[]);
}

#[test]
fn a_silent_command_is_refused() {
    refuses_kek("silent", with_command("true"), &["kek_command", "empty|nothing|no kek|no output"], &[]);
}

#[test]
fn a_command_that_prints_rubbish_is_refused_without_quoting_it() {
    let command = format!("echo two words {}", base64(&kek(80)));
    refuses_kek("rubbish", with_command(&command), &["line 1"], &[secret()]);
}

#[test]
fn a_hanging_command_is_killed_at_its_time_limit() {
    let mut cluster = with_command("echo $$ > pid-of-command; sleep 120");
    cluster.configure("vault_ext.kek_command_timeout = 500");
    let data = cluster.data();
    let start = Instant::now();
    refuses_kek("hanging", cluster, &["kek_command", "time|within"], &[]);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    // refuses_kek removed the server and everything that ran in its folder. The command must not outlive its limit.
    assert!(!data.exists());
}

#[test]
fn a_hanging_command_leaves_no_process_behind() {
    let mut cluster = with_command("sleep 121 & sleep 122");
    cluster.configure("vault_ext.kek_command_timeout = 300");
    cluster.start_expect_failure();
    eventually(Duration::from_secs(5), "the command's processes are gone", || cluster.processes().is_empty());
}

#[test]
fn a_command_whose_child_keeps_the_pipe_open_does_not_hang_the_start() {
    let command = format!("sleep 123 & echo {}", base64(&kek(80)));
    let mut cluster = with_command(&command);
    cluster.configure("vault_ext.kek_command_timeout = 500");
    let start = Instant::now();
    cluster.start_expect_failure();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn a_command_that_never_stops_printing_is_refused() {
    let cluster = with_command("cat /dev/zero");
    refuses_kek("endless", cluster, &["kek_command", "too large|larger than|at most|more than"], &[]);
}
