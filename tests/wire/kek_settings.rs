//! The KEK settings with good values. Misspelt names and changes at run time are refused.

use crate::harness::{Cluster, base64, decode, expect_error, fetch, init, kek, keyring_line};

fn without_kek() -> Cluster {
    Cluster::builder().without_fsync().prepare()
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
fn the_same_key_through_file_command_and_setting_opens_the_same_vault() {
    let mut cluster = without_kek();
    let text = keyring_line("one", &kek(81)) + &keyring_line("two", &kek(82));
    let path = cluster.write_kek("keyring", &text, 0o400);
    set_kek_file(&path, &mut cluster);
    cluster.start();
    let db = cluster.database("d");
    let key = init(&mut db.app_for("alice")).unwrap();
    assert_eq!(key.kek_id, "one");
    drop(db);
    cluster.configure(&format!("vault_ext.kek_file = ''\nvault_ext.kek_command = 'cat {}'", path.display()));
    cluster.restart();
    assert_eq!(fetch(&mut cluster.existing_database("d").app_for("alice")).unwrap(), key);
    let escaped = text.replace('\n', "\\n");
    cluster.configure(&format!("vault_ext.kek_command = ''\nvault_ext.kek = '{escaped}'"));
    cluster.restart();
    assert_eq!(fetch(&mut cluster.existing_database("d").app_for("alice")).unwrap(), key);
}

#[test]
fn a_key_in_the_setting_gives_a_warning_at_each_start_that_recommends_the_file() {
    let mut cluster = without_kek();
    cluster.configure(&format!("vault_ext.kek = '{}'", base64(&kek(83))));
    cluster.start();
    for _ in 0..2 {
        let log = cluster.log();
        let warned = log.contains("WARNING:  ") && log.contains("vault_ext.kek_file");
        assert!(warned, "{log}");
        cluster.restart();
    }
}

#[test]
fn dev_mode_uses_an_all_zero_kek_and_warns_at_each_start() {
    let mut cluster = without_kek();
    cluster.configure("vault_ext.dev_mode = on");
    cluster.start();
    assert!(cluster.log().contains("WARNING:  "), "{}", cluster.log());
    assert!(cluster.log().contains("dev_mode"), "{}", cluster.log());
    let db = cluster.database("d");
    let key = init(&mut db.app_for("alice")).unwrap();
    assert_eq!(key.kek_id, "dev-insecure");
    // The predecessor's vector under 32 zero bytes.
    db.force(
        "INSERT INTO vault_ext.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id)
            VALUES ('bob', 'NkC6jdrF7bn/MJH7pVb8jVNqoiASrx92pKh4zjq/zaEg4yTSYQT/j+yygfxceEEP', 'EBESExQVFhcYGRob', 1, 'dev-insecure')",
    );
    let fetched = fetch(&mut db.app_for("bob")).unwrap();
    assert_eq!(decode(&fetched.master_key), (0xa0..=0xbf).collect::<Vec<u8>>());
    drop(db);
    cluster.restart();
    assert!(cluster.log().contains("dev_mode"), "{}", cluster.log());
    assert_eq!(fetch(&mut cluster.existing_database("d").app_for("alice")).unwrap(), key);
}

#[test]
fn dev_mode_does_not_override_a_configured_key() {
    let mut cluster = with_mode(0o600);
    cluster.configure("vault_ext.dev_mode = on");
    cluster.start();
    let key = init(&mut cluster.database("d").app_for("alice")).unwrap();
    assert_eq!(key.kek_id, "env-v1");
}

#[test]
fn a_bad_key_is_refused_in_dev_mode_too() {
    let mut cluster = with_mode(0o644);
    cluster.configure("vault_ext.dev_mode = on");
    assert!(cluster.start_expect_failure().contains("FATAL:  "));
}

#[test]
fn a_misspelt_setting_fails() {
    let cluster = {
        let mut cluster = with_mode(0o600);
        cluster.configure("vault_ext.kek_fiel = '/somewhere'");
        cluster.start();
        cluster
    };
    let log = cluster.log();
    assert!(log.contains("WARNING:  ") && log.contains("vault_ext.kek_fiel"), "{log}");
    let mut superuser = cluster.superuser("postgres");
    for sql in [
        "SET vault_ext.kek_fiel = 'x'",
        "SELECT set_config('vault_ext.typo', 'x', false)",
        "ALTER SYSTEM SET vault_ext.typo = 'x'",
    ] {
        let error = superuser.batch_execute(sql).expect_err(sql);
        let code = error.code().map(|code| code.code().to_owned());
        assert!(matches!(code.as_deref(), Some("42602" | "42704")), "{sql}: {error:?}");
    }
}

#[test]
fn nobody_changes_a_key_setting_at_run_time() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    for name in ["kek", "kek_file", "kek_command", "kek_id", "on_bad_kek", "dev_mode", "audit_slots"] {
        let sql = format!("SET vault_ext.{name} = DEFAULT");
        expect_error(cluster.superuser("postgres").batch_execute(&sql), "55P02");
    }
    let db = cluster.database("d");
    for sql in ["SET vault_ext.audit_timeout = 100", "SET vault_ext.audit_idle_exit = 100"] {
        let error = db.app().batch_execute(sql).expect_err(sql);
        let code = error.code().map(|code| code.code().to_owned());
        assert!(matches!(code.as_deref(), Some("42501" | "55P02")), "{sql}: {error:?}");
    }
}

#[test]
fn an_invalid_value_gives_a_warning_and_the_default_applies() {
    // PostgreSQL warns at startup about such a value in a library's setting, and uses the default, which is safe.
    for (line, default) in [
        ("vault_ext.on_bad_kek = ignore", "refuse_start"),
        ("vault_ext.audit_slots = 0", "4"),
        ("vault_ext.audit_timeout = 0", "10s"),
        ("vault_ext.dev_mode = perhaps", "off"),
    ] {
        let mut cluster = with_mode(0o600);
        cluster.configure(line);
        cluster.start();
        let name = line.split(' ').next().unwrap();
        let log = cluster.log();
        assert!(log.contains("WARNING:") && log.contains(name), "{log}");
        let shown: String = cluster.superuser("postgres").query_one(&format!("SHOW {name}"), &[]).unwrap().get(0);
        assert_eq!(shown, default);
    }
}
