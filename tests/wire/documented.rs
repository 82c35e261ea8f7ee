//! The commands of the documentation, run one after the other as they stand there.

use std::process::Command;

use crate::harness::{Cluster, fetch, init, kek, keyring_line, scratch_dir, succeed};

/// The lines of all blocks of shell commands.
fn commands(document: &str) -> String {
    let mut commands = String::new();
    let mut inside = false;
    for line in document.lines().map(|line| line.strip_prefix("   ").unwrap_or(line)) {
        match line.strip_prefix("```") {
            Some(kind) => inside = kind == "sh",
            None if inside => commands += &format!("{line}\n"),
            None => {}
        }
    }
    commands
}

/// Bash in a folder of its own, from which the tests' scripts can be called as from the clone.
fn bash(commands: &str) -> Command {
    let dir = scratch_dir();
    std::os::unix::fs::symlink(concat!(env!("CARGO_MANIFEST_DIR"), "/tests"), dir.join("tests")).expect("a link");
    let mut bash = Command::new("/bin/bash");
    // Debian's own Python, for which python3-cryptography is installed.
    bash.args(["-euo", "pipefail", "-c", &format!("python3() {{ /usr/bin/python3 \"$@\"; }}\n{commands}")]);
    bash.current_dir(dir);
    bash
}

#[test]
fn the_documented_recipient_opens_what_was_sealed() {
    let commands = commands(include_str!("../../docs/seal-section.md"));
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let key = init(&mut cluster.database("d").app_for("alice")).unwrap();
    let mut bash = bash(&commands);
    bash.env("PGHOST", cluster.dir()).env("PGPORT", cluster.port().to_string());
    let printed = succeed(bash.env("PGUSER", "wire_app").env("PGDATABASE", "d"));
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines.len(), 2, "the master key and the mission's: {printed}");
    assert_eq!(lines[0], key.master_key);
}

#[test]
fn the_documented_move_brings_every_vault_over() {
    let commands = commands(include_str!("../../docs/transfer-section.md"));
    let start = |seed| {
        let keyring = keyring_line(&format!("k{seed}"), &kek(seed));
        Cluster::builder().keyring(&keyring).without_fsync().start()
    };
    let (one, two) = (start(1), start(2));
    let (source, target) = (one.database("app"), two.database("app"));
    source.force("CREATE TABLE users AS SELECT generate_series(1, 3) AS id; GRANT SELECT ON users TO wire_admin");
    let users = ["1", "2", "3"];
    let keys = users.map(|user| init(&mut source.app_for(user)).unwrap().master_key);
    let connection = |cluster: &Cluster| {
        format!("host={} port={} dbname=app user=wire_admin", cluster.dir().display(), cluster.port())
    };
    succeed(bash(&commands).env("SOURCE", connection(&one)).env("TARGET", connection(&two)));
    assert_eq!(users.map(|user| fetch(&mut target.app_for(user)).unwrap().master_key), keys);
    let setting: String = source.value("SELECT current_setting('vault_ext.export_recipients')");
    assert_eq!(setting, "");
}
