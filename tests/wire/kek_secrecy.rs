//! No byte of a key appears where anyone but its user could read it.

use std::fs;

use postgres::{Client, SimpleQueryMessage};

use crate::harness::{
    Cluster, Db, Refusal, assert_no_secrets, base64, decode, eventually, expect_error, expect_vault_error, fetch, init,
    kek, keyring_line, rotate, set_user, status,
};

/// Everything that a query prints.
fn printed(client: &mut Client, sql: &str) -> String {
    let messages = client.simple_query(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    let mut text = String::new();
    for message in &messages {
        if let SimpleQueryMessage::Row(row) = message {
            for i in 0..row.len() {
                text.push_str(row.get(i).unwrap_or_default());
                text.push('\n');
            }
        }
    }
    text
}

/// Runs every kind of call and failure, and returns the master keys and the errors.
fn use_everything(db: &Db) -> (Vec<Vec<u8>>, Vec<Refusal>) {
    let mut app = db.app_for("alice");
    let mut keys = vec![init(&mut app).unwrap(), rotate(&mut app).unwrap()];
    keys.push(init(&mut db.app_for("mallory")).unwrap());
    status(&mut app).unwrap();
    let mut refusals = vec![
        expect_vault_error(fetch(&mut db.app()), "28000"),
        expect_vault_error(fetch(&mut db.app_for("nobody")), "P0002"),
        expect_error(app.simple_query("SELECT vault_get_master_key()::int"), "42846"),
        expect_error(db.conn("wire_stranger").simple_query("SELECT vault_init()"), "42501"),
    ];
    db.force("UPDATE vault_ext.encryption_vaults SET key_version = 9 WHERE user_id = 'mallory'");
    refusals.push(expect_vault_error(fetch(&mut db.app_for("mallory")), "XX001"));
    db.force("UPDATE vault_ext.encryption_vaults SET kek_id = 'gone' WHERE user_id = 'mallory'");
    refusals.push(expect_vault_error(fetch(&mut db.app_for("mallory")), "55000"));
    // Errors that SQL raises inside the calls: in a policy, and by a constraint that the new row breaks.
    db.force(
        "CREATE FUNCTION boom(id text) RETURNS boolean LANGUAGE plpgsql AS
            $$ BEGIN IF id = 'boom' THEN RAISE EXCEPTION 'boom'; END IF; RETURN true; END $$;
         CREATE POLICY boom ON vault_ext.encryption_vaults AS RESTRICTIVE FOR ALL USING (boom(user_id));
         ALTER TABLE vault_ext.encryption_vaults ADD CONSTRAINT no_carol CHECK (user_id <> 'carol')",
    );
    refusals.push(expect_error(init(&mut db.app_for("boom")), "P0001"));
    refusals.push(expect_error(init(&mut db.app_for("carol")), "23514"));
    db.force("DROP POLICY boom ON vault_ext.encryption_vaults; ALTER TABLE vault_ext.encryption_vaults DROP CONSTRAINT no_carol");
    let keys = keys.iter().map(|key| decode(&key.master_key)).collect();
    (keys, refusals)
}

/// Everything that a superuser may read in SQL or with ps: settings, activity, process titles, prepared statements.
fn outside_views(cluster: &Cluster, db: &Db) -> Vec<String> {
    let mut superuser = db.superuser();
    let mut texts: Vec<_> = [
        "SHOW ALL",
        "SHOW vault_ext.kek",
        "SELECT current_setting('vault_ext.kek')",
        "SELECT s::text FROM pg_settings s",
        "SELECT a::text FROM pg_stat_activity a",
        "SELECT p::text FROM pg_prepared_statements p",
        "SELECT s::text FROM pg_shmem_allocations s",
        "SELECT k::text FROM vault_ext.keks k",
        "SELECT a::text FROM vault_ext.encryption_vault_audit a",
        "SELECT v::text FROM vault_ext.encryption_vaults v",
        "SELECT s::text FROM vault_ext.audit_stats s",
    ]
    .iter()
    .map(|sql| printed(&mut superuser, sql))
    .collect();
    let processes = cluster.processes();
    assert!(processes.len() > 3, "{processes:?}");
    for pid in processes {
        // The process may have ended in the meantime.
        if let Ok(title) = fs::read(format!("/proc/{pid}/cmdline")) {
            texts.push(String::from_utf8_lossy(&title).into_owned());
        }
        if let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) {
            texts.push(String::from_utf8_lossy(&environment).into_owned());
        }
    }
    texts
}

fn assert_no_key_shows(mut cluster: Cluster, keks: &[[u8; 32]]) {
    cluster.configure("log_statement = all");
    cluster.configure("log_min_messages = debug1");
    cluster.configure("log_min_duration_statement = 0");
    cluster.start();
    let db = cluster.database("d");
    let (mut secrets, refusals) = use_everything(&db);
    let mut open_session = db.app_for("alice");
    secrets.push(decode(&fetch(&mut open_session).unwrap().master_key));
    secrets.extend(keks.iter().map(|key| key.to_vec()));
    let mut texts = outside_views(&cluster, &db);
    texts.extend(refusals.iter().map(Refusal::text));
    assert_no_secrets(&cluster, &texts, &secrets);
    drop(open_session);
    drop(db);
    cluster.restart();
    assert_no_secrets(&cluster, &[], &secrets);
}

#[test]
fn a_key_from_the_setting_shows_nowhere() {
    let mut cluster = Cluster::builder().without_fsync().env("RUST_BACKTRACE", "1").prepare();
    let text = keyring_line("one", &kek(120)) + &keyring_line("two", &kek(121));
    cluster.configure(&format!("vault_ext.kek = '{}'", text.replace('\n', "\\n")));
    assert_no_key_shows(cluster, &[kek(120), kek(121)]);
}

#[test]
fn a_key_from_the_file_shows_nowhere() {
    let cluster = Cluster::builder()
        .without_fsync()
        .env("RUST_BACKTRACE", "full")
        .keyring(&keyring_line("one", &kek(122)))
        .prepare();
    assert_no_key_shows(cluster, &[kek(122)]);
}

#[test]
fn a_key_from_the_command_shows_nowhere() {
    let mut cluster = Cluster::builder().without_fsync().prepare();
    let path = cluster.write_kek("from-kms", base64(&kek(123)), 0o600);
    cluster.configure(&format!("vault_ext.kek_command = 'cat {}'", path.display()));
    assert_no_key_shows(cluster, &[kek(123)]);
}

#[test]
fn the_setting_shows_as_stars_and_only_to_superusers() {
    let mut cluster = Cluster::builder().without_fsync().prepare();
    cluster.configure(&format!("vault_ext.kek = '{}'", base64(&kek(124))));
    cluster.start();
    let db = cluster.database("d");
    let shown = printed(&mut db.superuser(), "SHOW vault_ext.kek");
    assert_eq!(shown.trim(), "********");
    let listed = printed(
        &mut db.superuser(),
        "SELECT setting, boot_val, reset_val FROM pg_settings WHERE name = 'vault_ext.kek'",
    );
    assert!(listed.lines().all(|line| line.is_empty() || line == "********"), "{listed}");
    for name in ["kek", "kek_file", "kek_command"] {
        expect_error(db.app().simple_query(&format!("SHOW vault_ext.{name}")), "42501");
        let hidden =
            printed(&mut db.app(), &format!("SELECT setting FROM pg_settings WHERE name = 'vault_ext.{name}'"));
        assert_eq!(hidden.trim(), "");
    }
}

#[test]
fn backtraces_enabled_in_the_environment_reach_no_client() {
    for value in ["1", "full"] {
        let cluster = Cluster::builder()
            .with_wire_kek()
            .without_fsync()
            .env("RUST_BACKTRACE", value)
            .env("RUST_LIB_BACKTRACE", "1")
            .start();
        // expect_error checks each error.
        let (_, refusals) = use_everything(&cluster.database("d"));
        for refusal in refusals {
            let detail = refusal.detail.unwrap_or_default();
            assert!(!detail.contains("   0:") && detail.lines().count() < 3, "{detail}");
        }
    }
}

#[test]
fn the_keyring_s_memory_stays_out_of_core_dumps() {
    let excluded = |cluster: &Cluster| {
        let smaps = fs::read_to_string(format!("/proc/{}/smaps", cluster.postmaster_pid())).unwrap();
        smaps.lines().filter(|line| line.starts_with("VmFlags:") && line.split(' ').any(|flag| flag == "dd")).count()
    };
    let without = Cluster::builder().not_preloaded().without_fsync().start();
    let with = Cluster::builder().with_wire_kek().without_fsync().start();
    assert!(excluded(&with) > excluded(&without));
}

#[test]
fn the_trail_and_the_statistics_of_running_calls_hold_no_key() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().conf("track_activity_query_size = 4096").start();
    let db = cluster.database("d");
    let key = init(&mut db.app_for("alice")).unwrap();
    let mut locker = db.superuser();
    locker.batch_execute("BEGIN; LOCK TABLE vault_ext.encryption_vault_audit IN ACCESS EXCLUSIVE MODE").unwrap();
    let mut app = db.app_for("alice");
    let waiting = std::thread::spawn(move || fetch(&mut app));
    let mut watcher = cluster.superuser("postgres");
    let mut seen = String::new();
    eventually(std::time::Duration::from_secs(10), "the call appears in pg_stat_activity", || {
        seen = printed(
            &mut watcher,
            "SELECT a::text FROM pg_stat_activity a WHERE query LIKE '%vault_get%' AND usename = 'wire_app' AND state = 'active'",
        );
        !seen.is_empty()
    });
    locker.batch_execute("ROLLBACK").unwrap();
    assert_eq!(waiting.join().unwrap().unwrap(), key);
    set_user(&mut watcher, "alice");
    assert_no_secrets(&cluster, &[seen], &[decode(&key.master_key), kek(1).to_vec()]);
}
