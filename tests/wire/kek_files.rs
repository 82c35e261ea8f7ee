//! Every way in which `vault_ext.kek_file` can be wrong.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::harness::{Cluster, base64, kek, refuses_kek, server_command};

fn without_kek() -> Cluster {
    Cluster::builder().without_fsync().prepare()
}

fn secret() -> Vec<u8> {
    kek(80).to_vec()
}

fn set_kek_file(path: &std::path::Path, cluster: &mut Cluster) {
    cluster.configure(&format!("vault_ext.kek_file = '{}'", path.display()));
}

/// A server whose key file has a good key and this mode.
fn with_mode(mode: u32) -> Cluster {
    let mut cluster = without_kek();
    let path = cluster.write_kek("keyring", base64(&kek(80)), mode);
    set_kek_file(&path, &mut cluster);
    cluster
}

#[test]
fn an_absent_file_is_refused() {
    let mut cluster = without_kek();
    let path = cluster.dir().join("not-there");
    set_kek_file(&path, &mut cluster);
    refuses_kek("absent", cluster, &["no such file|does not exist"], &[]);
}

#[test]
fn an_unreadable_file_is_refused() {
    refuses_kek("unreadable", with_mode(0o000), &["permission|cannot read"], &[secret()]);
}

#[test]
fn a_group_readable_file_is_refused() {
    refuses_kek("group", with_mode(0o640), &["group|mode|permissions"], &[secret()]);
}

#[test]
fn a_world_readable_file_is_refused() {
    refuses_kek("world", with_mode(0o604), &["world|other|mode|permissions"], &[secret()]);
}

#[test]
fn a_group_or_world_writable_file_is_refused() {
    for mode in [0o620, 0o602] {
        let mut cluster = with_mode(mode);
        let log = cluster.start_expect_failure();
        assert!(log.contains("FATAL:  "), "{mode:o}: {log}");
    }
}

#[test]
fn a_file_inside_the_data_directory_is_refused() {
    let mut cluster = without_kek();
    let path = cluster.write_kek("data/keyring", base64(&kek(80)), 0o600);
    set_kek_file(&path, &mut cluster);
    refuses_kek("inside", cluster, &["data directory"], &[secret()]);
}

#[test]
fn a_link_into_the_data_directory_is_refused() {
    let mut cluster = without_kek();
    let path = cluster.write_kek("data/keyring", base64(&kek(80)), 0o600);
    let link = cluster.dir().join("link");
    symlink(path, &link).unwrap();
    set_kek_file(&link, &mut cluster);
    refuses_kek("inside", cluster, &["data directory"], &[secret()]);
}

#[test]
fn a_path_through_dots_into_the_data_directory_is_refused() {
    let mut cluster = without_kek();
    cluster.write_kek("data/keyring", base64(&kek(80)), 0o600);
    let path = cluster.dir().join("data/base/../../data/keyring");
    set_kek_file(&path, &mut cluster);
    refuses_kek("inside", cluster, &["data directory"], &[secret()]);
}

#[test]
fn a_directory_is_refused() {
    let mut cluster = without_kek();
    let path = cluster.dir().join("folder");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
    crate::harness::chown_to_server(&path);
    set_kek_file(&path, &mut cluster);
    refuses_kek("directory", cluster, &["directory|regular file"], &[]);
}

#[test]
fn a_pipe_is_refused_and_does_not_hang_the_start() {
    let mut cluster = without_kek();
    let path = cluster.dir().join("fifo");
    let status = server_command("/usr/bin/mkfifo", cluster.dir()).args(["-m", "600"]).arg(&path).status().unwrap();
    assert!(status.success());
    set_kek_file(&path, &mut cluster);
    refuses_kek("pipe", cluster, &["regular file|not a file"], &[]);
}

#[test]
fn a_relative_path_is_refused() {
    let mut cluster = without_kek();
    cluster.configure("vault_ext.kek_file = 'keyring'");
    refuses_kek("relative", cluster, &["absolute"], &[]);
}
