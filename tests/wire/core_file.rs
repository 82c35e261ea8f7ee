//! When a server process is killed, the kernel writes a core file. It contains no KEK: not raw, not as text, and no
//! part of the key schedule from which the KEK could be computed. The tests find the KEK in the process's memory, so
//! the process did have it.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use vault_trail::checkpoint::AuditKey;

use crate::harness::{
    Cluster, Db, assert_no_secrets_in_files, decode, eventually, expect_vault_error, fetch, init, kek, keyring_line,
    rotate, server_command,
};

const SOON: Duration = Duration::from_secs(60);

/// The 15 round keys of AES-256. Any two in a row give the key.
fn key_schedule(key: &[u8; 32]) -> Vec<u8> {
    let double = |x: u8| (x << 1) ^ if x & 0x80 == 0 { 0 } else { 0x1b };
    // Stepping through the powers of 3 and of its inverse in parallel gives the inverses that make up the S-box.
    let mut sbox = [0x63u8; 256];
    let (mut p, mut q) = (1u8, 1u8);
    loop {
        p ^= double(p);
        q ^= q << 1;
        q ^= q << 2;
        q ^= q << 4;
        q ^= if q & 0x80 == 0 { 0 } else { 0x09 };
        sbox[usize::from(p)] = q ^ q.rotate_left(1) ^ q.rotate_left(2) ^ q.rotate_left(3) ^ q.rotate_left(4) ^ 0x63;
        if p == 1 {
            break;
        }
    }
    let mut words: Vec<[u8; 4]> = key.chunks_exact(4).map(|word| word.try_into().expect("four bytes")).collect();
    let mut round = 1u8;
    for i in 8..60 {
        let mut word = words[i - 1];
        if i % 8 == 0 {
            word.rotate_left(1);
        }
        if i % 4 == 0 {
            word = word.map(|byte| sbox[usize::from(byte)]);
        }
        if i % 8 == 0 {
            word[0] ^= round;
            round = double(round);
        }
        let before = words[i - 8];
        words.push([0, 1, 2, 3].map(|j| word[j] ^ before[j]));
    }
    words.concat()
}

#[test]
fn the_key_schedule_is_that_of_the_standard() {
    // FIPS 197, appendix A.3.
    let hex = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4";
    let key: Vec<u8> = (0..64).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
    let schedule = key_schedule(&key.try_into().unwrap());
    assert_eq!(schedule.len(), 240);
    assert_eq!(schedule[32..36], [0x9b, 0xa3, 0x54, 0x11]);
    assert_eq!(schedule[236..], [0x70, 0x6c, 0x63, 0x1e]);
}

fn pid(number: i32) -> Pid {
    Pid::from_raw(number).expect("a process id")
}

/// Lets every process of the server write a core file of any size.
fn allow_cores(cluster: &Cluster) {
    for process in cluster.processes() {
        // As the server's user: root needs a capability to change others' limits, and containers drop it.
        let mut prlimit = server_command("prlimit", cluster.dir());
        let output = prlimit
            .args(["--core=unlimited:unlimited", "--pid", &process.to_string()])
            .output()
            .expect("prlimit starts");
        // The process may have ended in the meantime.
        let gone = || !fs::exists(format!("/proc/{process}")).unwrap_or(false);
        assert!(output.status.success() || gone(), "{output:?}");
    }
}

/// Whether the bytes are in a running process's memory.
fn in_memory(process: i32, wanted: &[u8]) -> bool {
    // The process may have ended in the meantime.
    let Ok(maps) = fs::read_to_string(format!("/proc/{process}/maps")) else { return false };
    let Ok(mut memory) = File::open(format!("/proc/{process}/mem")) else { return false };
    maps.lines().any(|line| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let [from, to] = [range.0, range.1].map(|hex| u64::from_str_radix(hex, 16).expect("an address"));
        if to - from > 16 << 20 {
            return false; // PostgreSQL's shared memory takes long to search
        }
        let mut bytes = vec![0; usize::try_from(to - from).expect("a length")];
        // Some of the kernel's mappings cannot be read.
        let read = memory.seek(SeekFrom::Start(from)).and_then(|_| memory.read_exact(&mut bytes));
        read.is_ok() && holds(&bytes, wanted)
    })
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    aho_corasick::AhoCorasick::new([wanted]).expect("one pattern").is_match(bytes)
}

/// Kills a process and returns its complete core file, moved so that the next one does not overwrite it.
fn kill_and_take_core(cluster: &Cluster, process: i32, signal: Signal) -> PathBuf {
    kill_process(pid(process), signal).expect("the process takes the signal");
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").expect("core_pattern is readable");
    let prefix = pattern.trim().split('%').next().unwrap_or_default().to_owned();
    let mut found = None;
    eventually(SOON, "the kernel writes a core file", || {
        let gone = !fs::exists(format!("/proc/{process}/maps")).unwrap_or(false)
            || fs::read(format!("/proc/{process}/maps")).is_ok_and(|maps| maps.is_empty());
        let cores = fs::read_dir(cluster.data()).expect("the data directory is readable").flatten();
        found = cores.map(|entry| entry.path()).find(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)) && path.is_file()
        });
        gone && found.is_some()
    });
    let core = cluster.dir().join(format!("the-core-of-{process}"));
    fs::rename(found.expect("a core file was found"), &core).expect("the core file can be moved");
    core
}

/// The least that may stay behind: what a register holds.
const REGISTER_BYTES: usize = 8;

/// Asserts that the core contains none of these secrets, in no notation, and no register full of one.
#[track_caller]
fn assert_no_secret(core: &Path, secrets: &[Vec<u8>]) {
    assert_no_secrets_in_files(&[core], secrets);
    let bytes = fs::read(core).expect("the core file is readable");
    let parts = secrets.iter().flat_map(|secret| secret.chunks_exact(REGISTER_BYTES));
    let search = aho_corasick::AhoCorasick::new(parts).expect("the parts make a search");
    if let Some(found) = search.find(&bytes) {
        panic!(
            "part {} of the secrets appears in {} at byte {}",
            found.pattern().as_usize(),
            core.display(),
            found.start()
        );
    }
}

/// Asserts that the core contains the marker, which is no secret, and nothing of the KEKs. Removes the core.
fn assert_no_kek(core: &PathBuf, marker: &str, keks: &[[u8; 32]]) {
    let bytes = fs::read(core).expect("the core file is readable");
    assert!(bytes.starts_with(b"\x7fELF"));
    assert!(holds(&bytes, marker.as_bytes()), "{marker} is not in {}: is it whole?", core.display());
    let mut traces = Vec::new();
    for kek in keks {
        let schedule = key_schedule(kek);
        // The last piece overlaps the one before: a shorter one would be found by chance.
        traces.extend((0..schedule.len()).step_by(32).map(|start| {
            let start = start.min(schedule.len() - 32);
            schedule[start..start + 32].to_vec()
        }));
        // The words as SHA-256 reads them to derive the check value.
        traces.push(kek.chunks_exact(4).flat_map(|word| word.iter().rev().copied()).collect());
    }
    assert_no_secret(core, &traces);
    fs::remove_file(core).expect("the core file can be removed");
}

/// The process title as ps shows it, or nothing if the process is gone.
fn title(process: i32) -> String {
    fs::read(format!("/proc/{process}/cmdline"))
        .map(|title| String::from_utf8_lossy(&title).into_owned())
        .unwrap_or_default()
}

/// The server's process with such a title, once it is there and has the secret in its memory.
#[track_caller]
fn process_with(cluster: &Cluster, kind: &str, secret: &[u8]) -> i32 {
    let mut found = None;
    eventually(SOON, &format!("{kind} is there and has the secret"), || {
        found = cluster.processes().into_iter().find(|process| title(*process).contains(kind));
        found.is_some_and(|process| in_memory(process, secret))
    });
    found.expect("it was found")
}

fn backend_pid(client: &mut postgres::Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0)
}

fn server(sources: impl FnOnce(&mut Cluster)) -> Cluster {
    let mut cluster = Cluster::builder()
        .without_fsync()
        .conf("shared_buffers = 16MB")
        .conf("vault_ext.audit_idle_exit = 4000")
        .conf("restart_after_crash = on")
        .conf("cluster_name = 'marker-of-the-server'")
        .prepare();
    sources(&mut cluster);
    cluster.start();
    cluster
}

const KEKS: [u64; 2] = [140, 141];

fn keks() -> [[u8; 32]; 2] {
    KEKS.map(kek)
}

fn keyring() -> String {
    keyring_line("one", &kek(KEKS[0])) + &keyring_line("two", &kek(KEKS[1]))
}

/// Runs every path that touches a KEK in a backend.
fn use_keks(db: &Db) -> (postgres::Client, String) {
    let mut app = db.app_for("marker-of-the-session");
    init(&mut app).unwrap();
    rotate(&mut app).unwrap();
    db.force("UPDATE vault_ext.encryption_vaults SET key_version = key_version + 1");
    expect_vault_error(fetch(&mut app), "XX001");
    db.force("UPDATE vault_ext.encryption_vaults SET key_version = key_version - 1");
    let key = fetch(&mut app).unwrap().master_key;
    (app, key)
}

#[test]
fn the_core_of_a_backend_holds_no_kek() {
    let cluster = server(|cluster| {
        let path = cluster.write_kek("keyring", keyring(), 0o600);
        cluster.configure(&format!("vault_ext.kek_file = '{}'", path.display()));
    });
    let db = cluster.database("d");
    for signal in [Signal::ABORT, Signal::SEGV] {
        let (mut app, key) = use_keks(&db);
        let process = backend_pid(&mut app);
        assert!(in_memory(process, &kek(KEKS[0])), "the backend must have the KEK");
        assert!(in_memory(process, &key_schedule(&kek(KEKS[1]))[64..96]), "the backend must have both KEKs, expanded");
        allow_cores(&cluster);
        let core = kill_and_take_core(&cluster, process, signal);
        // PostgreSQL's buffers still hold what it sent last, which shows that the search finds a key.
        assert!(holds(&fs::read(&core).unwrap(), key.as_bytes()), "the core lacks the master key that was sent last");
        assert_no_kek(&core, "marker-of-the-session", &keks());
        eventually(SOON, "the server is back", || cluster.try_conn("postgres", "d").is_ok());
        db.force("DELETE FROM vault_ext.encryption_vaults; DELETE FROM vault_ext.old_keys");
    }
}

#[test]
fn the_core_of_an_administrator_s_backend_holds_no_kek() {
    for by_command in [false, true] {
        let cluster = server(|cluster| {
            let path = cluster.write_kek("keyring", keyring(), 0o600);
            let path = path.display();
            cluster.configure(&if by_command {
                format!("vault_ext.kek_command = 'cat {path}'")
            } else {
                format!("vault_ext.kek_file = '{path}'")
            });
        });
        let db = cluster.database("d");
        init(&mut db.app_for("alice")).unwrap();
        db.force("UPDATE vault_ext.encryption_vaults SET kek_id = 'two'");
        let mut admin = db.conn("wire_admin");
        for sql in [
            "SET application_name = 'marker-of-the-session'",
            "SELECT * FROM vault_reload_kek()",
            "SELECT * FROM vault_check()",
            "CALL vault_rewrap()",
            "SELECT * FROM vault_kek_status()",
        ] {
            admin.simple_query(sql).unwrap();
        }
        let process = backend_pid(&mut admin);
        assert!(in_memory(process, &kek(KEKS[1])));
        allow_cores(&cluster);
        assert_no_kek(&kill_and_take_core(&cluster, process, Signal::ABORT), "marker-of-the-session", &keks());
    }
}

/// The import key of a KEK, and what HKDF computes it from.
fn import_secrets(kek: &[u8]) -> [Vec<u8>; 2] {
    let sign = |key: &[u8], message: &[u8]| {
        ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key), message).as_ref().to_vec()
    };
    let extracted = sign(&[], kek);
    let import_key = sign(&extracted, b"vault_ext.import-key.v1\x01");
    [extracted, import_key]
}

#[test]
fn the_core_of_a_backend_that_sealed_and_moved_keys_holds_none() {
    let cluster = server(|cluster| {
        let path = cluster.write_kek("keyring", keyring(), 0o600);
        cluster.configure(&format!("vault_ext.kek_file = '{}'", path.display()));
    });
    let db = cluster.database("d");
    let mut app = db.app_for("alice");
    let keys = [init(&mut app).unwrap(), rotate(&mut app).unwrap()].map(|key| decode(&key.master_key));
    let import_key = db.conn("wire_admin").query_one("SELECT * FROM vault_import_key()", &[]).unwrap();
    let (kek_id, public_key): (String, String) = (import_key.get(0), import_key.get(1));
    let fingerprint: String = import_key.get(2);
    db.force(&format!("ALTER DATABASE d SET vault_ext.export_recipients = '{fingerprint}'"));
    let rsa = include_str!("../../crates/vault_core/src/seal/keys/rsa_2048_public.pem");
    // A superuser may be the user and the administrator in one session.
    let mut client = db.superuser();
    client.batch_execute("SET application_name = 'marker-of-the-session'; SET app.current_user_id = 'alice'").unwrap();
    client.query("SELECT * FROM vault_import_key()", &[]).unwrap();
    for recipient in [public_key.as_str(), rsa] {
        client.query("SELECT vault_seal_master_key($1)", &[&recipient]).unwrap();
        client.query("SELECT vault_seal_master_key($1, 1)", &[&recipient]).unwrap();
        client.query("SELECT vault_seal_derived_key($1, 'files'::text)", &[&recipient]).unwrap();
        client.query("SELECT vault_seal_derived_key($1, ''::bytea, 'info')", &[&recipient]).unwrap();
    }
    let sql = "SELECT vault_export('alice', $1, $2)";
    let bundle: String = client.query_one(sql, &[&kek_id, &public_key]).unwrap().get(0);
    for _ in 0..2 {
        client.query("SELECT vault_import($1)", &[&bundle]).unwrap();
        client.query("SELECT vault_erase('alice')", &[]).unwrap();
    }
    let process = backend_pid(&mut client);
    assert!(in_memory(process, &kek(KEKS[0])));
    allow_cores(&cluster);
    let core = kill_and_take_core(&cluster, process, Signal::ABORT);
    let secrets: Vec<_> = keys.into_iter().chain(import_secrets(&kek(KEKS[0]))).collect();
    assert_no_secret(&core, &secrets);
    assert_no_kek(&core, "marker-of-the-session", &keks());
}

/// A server that signs checkpoints, the key, and what gives it away.
fn signing_server() -> (Cluster, AuditKey, [Vec<u8>; 4]) {
    let key = AuditKey::from_seed(&kek(142));
    let cluster = server(|cluster| {
        let path = cluster.write_kek("keyring", keyring(), 0o600);
        cluster.configure(&format!("vault_ext.kek_file = '{}'", path.display()));
        let path = cluster.write_kek("audit.pem", key.to_pkcs8_pem().as_bytes(), 0o600);
        cluster.configure(&format!("vault_ext.audit_key_file = '{}'", path.display()));
    });
    // What RFC 8032 makes of the seed: the scalar, before and after clamping, and the prefix.
    let hash = ring::digest::digest(&ring::digest::SHA512, key.seed());
    let (scalar, prefix) = hash.as_ref().split_at(32);
    let mut clamped = scalar.to_vec();
    (clamped[0], clamped[31]) = (clamped[0] & 248, clamped[31] & 127 | 64);
    let secrets = [key.seed().to_vec(), scalar.to_vec(), clamped, prefix.to_vec()];
    (cluster, key, secrets)
}

#[test]
fn the_cores_of_those_who_sign_checkpoints_hold_no_audit_key() {
    let (cluster, key, secrets) = signing_server();
    let db = cluster.database("d");
    init(&mut db.app_for("alice")).unwrap();
    let mut auditor = db.conn("wire_auditor");
    auditor.batch_execute("SET application_name = 'marker-of-the-session'").unwrap();
    let note: String = auditor.query_one("SELECT vault_audit_checkpoint()", &[]).unwrap().get(0);
    assert!(vault_trail::checkpoint::Checkpoint::open(&note, Some(&key.public())).is_ok());
    let backend = backend_pid(&mut auditor);
    let writer: i32 = db.value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'vault_ext audit writer'");
    assert!(db.value::<bool>("SELECT count(*) = 1 FROM vault_ext.audit_checkpoints"), "the writer has signed one, too");
    assert!(in_memory(backend, key.seed()), "the process has the key in the memory that all share");
    // The backend ends with the crash of the writer, so another one signs after it.
    for of_writer in [true, false] {
        let process = if of_writer { writer } else { sign_again(&db) };
        allow_cores(&cluster);
        let core = kill_and_take_core(&cluster, process, Signal::ABORT);
        assert_no_secret(&core, &secrets);
        assert_no_kek(&core, "marker-of-the-server", &keks());
        eventually(SOON, "the server is back", || cluster.try_conn("postgres", "d").is_ok());
    }
}

/// They have the stack of the postmaster, which has read the key.
#[test]
fn the_cores_of_processes_that_sign_nothing_hold_no_audit_key() {
    let (mut cluster, _, secrets) = signing_server();
    for kind in [": checkpointer", ": walwriter", "vault_ext keyring listener"] {
        // All processes have the key in the memory that they share.
        let process = process_with(&cluster, kind, &secrets[0]);
        allow_cores(&cluster);
        let core = kill_and_take_core(&cluster, process, Signal::ABORT);
        assert_no_secret(&core, &secrets);
        assert_no_kek(&core, "marker-of-the-server", &keks());
        // A server that restarts by itself may still show processes that it is about to end.
        cluster.crash();
        cluster.start();
    }
    let postmaster = cluster.postmaster_pid();
    allow_cores(&cluster);
    let core = kill_and_take_core(&cluster, postmaster, Signal::SEGV);
    assert_no_secret(&core, &secrets);
    assert_no_kek(&core, "marker-of-the-server", &keks());
    cluster.crash();
}

/// A session of an auditor who has asked for a checkpoint; it stays open.
fn sign_again(db: &Db) -> i32 {
    let mut auditor = db.conn("wire_auditor");
    auditor.query("SELECT vault_audit_checkpoint()", &[]).unwrap();
    let process = backend_pid(&mut auditor);
    std::mem::forget(auditor);
    process
}

#[test]
fn the_cores_of_the_server_s_own_processes_hold_no_kek() {
    let mut cluster = server(|cluster| {
        let path = cluster.write_kek("keyring", keyring(), 0o600);
        cluster.configure(&format!("vault_ext.kek_file = '{}'", path.display()));
    });
    let db = cluster.database("d");
    for kind in ["vault_ext audit writer", "vault_ext keyring listener", ": checkpointer"] {
        let (mut app, _) = use_keks(&db);
        // SIGHUP makes the listener read the keyring.
        cluster.signal_postmaster(Signal::HUP);
        fetch(&mut app).unwrap(); // the writer exits when there is nothing to write
        let process = process_with(&cluster, kind, &kek(KEKS[0]));
        allow_cores(&cluster);
        assert_no_kek(&kill_and_take_core(&cluster, process, Signal::ABORT), "marker-of-the-server", &keks());
        eventually(SOON, "the server is back", || cluster.try_conn("postgres", "d").is_ok());
        db.force("DELETE FROM vault_ext.encryption_vaults; DELETE FROM vault_ext.old_keys");
    }
    drop(db);
    let postmaster = cluster.postmaster_pid();
    assert!(in_memory(postmaster, &kek(KEKS[0])));
    allow_cores(&cluster);
    assert_no_kek(&kill_and_take_core(&cluster, postmaster, Signal::SEGV), "marker-of-the-server", &keks());
    cluster.crash();
}
