//! `ALTER EXTENSION vault_ext UPDATE` from each released version to this one. sql/released keeps the install scripts of
//! released versions. They must never be edited.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::backup::some_vaults;
use crate::catalog::{assert_same, differences, facts};
use crate::golden::assert_all_explained;
use crate::harness::{
    Cluster, Db, expect_error, expect_vault_error, fetch, init, rotate, set_user, shared_db, status, succeed,
    without_deadlock,
};
use crate::keyring::{cluster, kek_status, rewrap, switch};
use crate::ledger::{Call, Ledger};
use crate::load::Load;
use crate::rewrap::{assert_all_rewrapped, mint_vaults, user_ids};

pub const CURRENT: &str = env!("CARGO_PKG_VERSION");
const RELEASED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/released");
pub const FRESH: &str = "CREATE EXTENSION vault_ext";
pub const UPDATE: &str = "ALTER EXTENSION vault_ext UPDATE";

/// The versions other than this one, with their scripts.
fn released_scripts() -> Vec<(String, PathBuf)> {
    let files = fs::read_dir(RELEASED).expect("sql/released is readable");
    let scripts = files.filter_map(|file| {
        let path = file.expect("sql/released has readable entries").path();
        let name = path.file_name()?.to_str()?;
        let version = name.strip_prefix("vault_ext--")?.strip_suffix(".sql")?.to_owned();
        Some((version, path))
    });
    scripts.filter(|(version, _)| version != CURRENT).collect()
}

pub fn released() -> Vec<String> {
    let versions: Vec<_> = released_scripts().into_iter().map(|(version, _)| version).collect();
    assert!(!versions.is_empty(), "{RELEASED} has no older version");
    versions
}

/// A database with the SQL of this version and the current library.
pub fn database_at_version<'c>(cluster: &'c Cluster, version: &str, name: &str) -> Db<'c> {
    cluster.database_installed_by(name, &format!("{FRESH} VERSION '{version}'"))
}

pub fn sql_version(db: &Db) -> String {
    db.value("SELECT extversion FROM pg_extension WHERE extname = 'vault_ext'")
}

pub fn server() -> Cluster {
    Cluster::builder().with_wire_kek().without_fsync().start()
}

/// The contents of all tables, without the columns that the upgrade adds, and the state of the trail's sequence.
fn table_contents(db: &Db) -> String {
    let mut client = db.superuser();
    let mut text = String::new();
    const NEW: &str = "'{tokens_valid_from,recovery_wrapped_mk,recovery_iv,recovery_format_version,recovery_set_at,zero_knowledge,key_check,
        erase_after,identity,issuer,token_id,token_kid,actor,grant_id,login_role,application_name,leaf,leaf_hash,salt,redacted_digest}'::text[]";
    let of_table = |table| (table, format!("SELECT (to_jsonb(t) - {NEW})::text FROM vault_ext.{table} t ORDER BY 1"));
    let mut sources = ["encryption_vaults", "encryption_vault_audit", "keks", "rewraps"].map(of_table).to_vec();
    let ids = "encryption_vault_audit_id_seq";
    sources.push((ids, format!("SELECT last_value::text FROM vault_ext.{ids}")));
    for (table, sql) in sources {
        let rows = client.query(&sql, &[]).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        assert!(!rows.is_empty(), "{table} is empty");
        rows.iter().for_each(|row| text.push_str(&format!("{table}: {}\n", row.get::<_, &str>(0))));
    }
    text
}

#[test]
fn the_released_scripts_are_as_they_were_released() {
    let listed = fs::read_to_string(Path::new(RELEASED).join("SHA256SUMS")).expect("SHA256SUMS is readable");
    for (version, _) in released_scripts() {
        assert!(listed.contains(&format!("  vault_ext--{version}.sql\n")), "{version} is not in SHA256SUMS");
    }
    succeed(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(RELEASED));
}

#[test]
fn the_test_databases_are_installed_as_configured() {
    let db = shared_db();
    let database_tag = format!("@{} ", db.name);
    let log = db.cluster.log();
    let upgraded = log.lines().any(|line| line.contains(&database_tag) && line.contains(UPDATE));
    assert_eq!(upgraded, std::env::var_os("VAULT_EXT_INSTALL_FROM").is_some());
    assert_eq!(sql_version(&db), CURRENT);
}

#[test]
fn an_upgraded_database_has_exactly_the_objects_of_a_fresh_one() {
    let cluster = server();
    let fresh = facts(&cluster.database_installed_by("fresh", FRESH));
    for version in released() {
        let db = database_at_version(&cluster, &version, &format!("from {version}"));
        assert_eq!(sql_version(&db), version);
        let old = facts(&db);
        db.force(UPDATE);
        assert_eq!(sql_version(&db), CURRENT);
        assert!(!differences(&old, &fresh).is_empty(), "{version} has the same objects and the same version number");
        assert_same(&fresh, &facts(&db));
    }
}

/// A server for each version: the roles and their comments are the whole server's.
#[test]
fn everything_in_an_upgraded_server_explains_itself() {
    for version in released() {
        let cluster = server();
        let db = database_at_version(&cluster, &version, "d");
        db.force(UPDATE);
        assert_all_explained(&db);
    }
}

/// Makes every call that 0.1.0 had, with the database's version of the SQL, and rotates the KEK from k1 to k2.
fn every_call_works(db: &Db) {
    let names = user_ids(10);
    let keys = mint_vaults(db, &names);
    some_vaults(db);
    assert!(status(&mut db.app_for(&names[0])).unwrap().exists);
    assert_eq!(kek_status(db)[0].4, 30);

    switch(db, &[("k2", 2), ("k1", 1)]).unwrap();
    // The SQL of 0.2.0 and older keeps no old keys.
    let has_old_keys: bool = db.value("SELECT to_regclass('vault_ext.old_keys') IS NOT NULL");
    let old_keys: i64 = if has_old_keys { db.value("SELECT count(*) FROM vault_ext.old_keys") } else { 0 };
    assert_eq!(old_keys > 0, has_old_keys, "some vaults were rotated");
    let wraps = 30 + old_keys;
    assert_eq!(rewrap(db, 7).unwrap(), (wraps, 0, 0));
    assert_all_rewrapped(db, &names, &keys, "k2");
    let mut admin = db.conn("wire_admin");
    let retired: bool = admin.query_one("SELECT vault_retire_kek('k1')", &[]).unwrap().get(0);
    assert!(retired);
    switch(db, &[("k2", 2)]).unwrap();
    let opened: i64 =
        admin.query_one("SELECT sum(vaults)::bigint FROM vault_check() WHERE outcome = 'opens'", &[]).unwrap().get(0);
    assert_eq!(opened, 30);
    let done: i64 = admin.query_one("SELECT done FROM vault_ext.rewrap_progress", &[]).unwrap().get(0);
    assert_eq!(done, wraps);
    let erased: bool = admin.query_one("SELECT vault_erase($1)", &[&names[0]]).unwrap().get(0);
    assert!(erased);
    expect_vault_error(fetch(&mut db.app_for(&names[0])), "P0002");
    db.force(
        "CREATE TABLE users (id text); INSERT INTO users VALUES ('user-001');
         CREATE TRIGGER erase_vault AFTER DELETE ON users FOR EACH ROW EXECUTE FUNCTION vault_erase_on_delete('id');
         DELETE FROM users",
    );
    expect_vault_error(fetch(&mut db.app_for("user-001")), "P0002");
    db.force("DROP TABLE users");
    let purged: i64 = admin.query_one("SELECT vault_purge_audit('100 years')", &[]).unwrap().get(0);
    assert_eq!(purged, 0);
    let own: i64 = db.app_for("user-002").query_one("SELECT count(*) FROM vault_ext.own_audit", &[]).unwrap().get(0);
    assert!(own >= 2);
    let mut auditor = db.conn("wire_auditor");
    let rows: i64 = auditor.query_one("SELECT count(*) FROM vault_ext.encryption_vault_audit", &[]).unwrap().get(0);
    assert_eq!(rows, db.audit().len() as i64);
    auditor.execute("SELECT * FROM vault_ext.keks, vault_ext.audit_stats", &[]).unwrap();
    expect_error(db.app().execute("SELECT vault_erase('user-002')", &[]), "42501");
    expect_error(admin.execute("SELECT vault_init()", &[]), "42501");
    // From here on, the active KEK is k2.
    let mut ledger = Ledger::default();
    let mut app = db.app();
    for call in [Call::Init, Call::Fetch, Call::Rotate, Call::Fetch] {
        ledger.call(&mut app, "late", call).unwrap();
    }
    ledger.end_checks(db, &format!("every call under the SQL of {}", sql_version(db)), 1);
}

#[test]
fn every_call_works_with_the_new_library_and_the_old_sql() {
    for version in released() {
        let cluster = cluster(&[("k1", 1)]);
        let db = database_at_version(&cluster, &version, "d");
        every_call_works(&db);
        assert_eq!(sql_version(&db), version);
    }
}

#[test]
fn an_upgrade_keeps_all_data_and_every_call_works_after_it() {
    for version in released() {
        let cluster = cluster(&[("k1", 1)]);
        let db = database_at_version(&cluster, &version, "d");
        rewrap(&db, 10).unwrap();
        let ledger = some_vaults(&db);
        let before = table_contents(&db);
        db.force(UPDATE);
        assert_eq!(table_contents(&db), before);
        ledger.end_checks(&db, &format!("ALTER EXTENSION UPDATE from {version}"), 1);
        db.force("DELETE FROM vault_ext.encryption_vaults; DELETE FROM vault_ext.old_keys; TRUNCATE vault_ext.rewraps");
        every_call_works(&db);
    }
}

#[test]
fn an_upgrade_that_is_rolled_back_changes_nothing() {
    let cluster = server();
    for version in released() {
        let db = database_at_version(&cluster, &version, &version);
        let ledger = some_vaults(&db);
        let before = facts(&db);
        db.force(&format!("BEGIN; {UPDATE}; ROLLBACK"));
        assert_same(&before, &facts(&db));
        ledger.end_checks(&db, &format!("ALTER EXTENSION UPDATE from {version}, rolled back"), 1);
    }
}

#[test]
fn sessions_under_load_notice_nothing_of_an_upgrade() {
    let cluster = server();
    for version in released() {
        let db = database_at_version(&cluster, &version, &version);
        let mut prepared = db.app_for("prepared");
        let mint = prepared.prepare("SELECT master_key FROM vault_init()").unwrap();
        let get = prepared.prepare("SELECT master_key FROM vault_get_master_key()").unwrap();
        let key: String = prepared.query_one(&mint, &[]).unwrap().get(0);
        // Often enough that the server caches the plan.
        for _ in 0..10 {
            assert_eq!(prepared.query_one(&get, &[]).unwrap().get::<_, String>(0), key);
        }
        // An upgrade changes the tables, so it waits for a transaction that has minted. With lock_timeout it gives up instead.
        let mut open = db.app_for("open");
        open.batch_execute("BEGIN").unwrap();
        let minted = init(&mut open).unwrap();
        expect_error(db.superuser().batch_execute(&format!("SET lock_timeout = '200ms'; {UPDATE}")), "55P03");
        assert_eq!(sql_version(&db), version);
        open.batch_execute("COMMIT").unwrap();

        let load = Load::start(&db, 8);
        load.wait_for_keys(50);
        let upgrade = |statements: &str| {
            let (mut client, statements) = (db.superuser(), statements.to_owned());
            without_deadlock(Duration::from_secs(60), "ALTER EXTENSION UPDATE", move || {
                client.batch_execute(&statements).unwrap();
            });
        };
        for _ in 0..10 {
            upgrade(&format!("BEGIN; {UPDATE}; ROLLBACK"));
            load.wait_for_keys(10);
        }
        upgrade(UPDATE);
        load.wait_for_keys(100);
        let ledger = load.stop();
        assert_eq!(ledger.failed_calls(), 0, "{:?}", ledger.failures);

        assert_eq!(prepared.query_one(&get, &[]).unwrap().get::<_, String>(0), key);
        assert_eq!(fetch(&mut db.app_for("open")).unwrap(), minted);
        assert_eq!(sql_version(&db), CURRENT);
        ledger.end_checks(&db, &format!("ALTER EXTENSION UPDATE from {version} under load"), 1);
    }
}

#[test]
fn an_upgrade_does_not_take_over_an_existing_function() {
    let cluster = server();
    for version in released() {
        let db = database_at_version(&cluster, &version, &version);
        let new = [
            "vault_version()",
            "vault_health()",
            "vault_rename_user(text, text)",
            "vault_get_master_key(text)",
            "vault_user_id()",
        ];
        for new in new {
            let is_new: bool = db.value(&format!("SELECT to_regprocedure('{new}') IS NULL"));
            if is_new {
                db.force(&format!("CREATE FUNCTION {new} RETURNS int LANGUAGE sql AS 'SELECT 1'"));
                expect_error(db.superuser().batch_execute(UPDATE), "42723");
                assert_eq!(sql_version(&db), version);
                db.force(&format!("DROP FUNCTION {new}"));
            }
        }
        db.force(UPDATE);
    }
}

#[test]
fn the_updating_session_s_search_path_does_not_matter() {
    let cluster = server();
    let fresh = facts(&cluster.database_installed_by("fresh", FRESH));
    for version in released() {
        let db = database_at_version(&cluster, &version, &version);
        db.force(&format!(
            "CREATE SCHEMA evil; CREATE FUNCTION evil.format(text, VARIADIC text[]) RETURNS text LANGUAGE sql AS $$ SELECT 'SELECT 1/0' $$;
             CREATE FUNCTION evil.always(name, name) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;
             CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = name, FUNCTION = evil.always);
             CREATE TEMP TABLE pg_roles AS SELECT 'postgres'::name AS rolname, 10::oid AS oid;
             SET search_path = evil, pg_temp, pg_catalog, public; {UPDATE}"
        ));
        assert_same(&fresh, &facts(&db));
    }
}

#[test]
fn an_extension_in_its_own_schema_is_upgraded_there() {
    let cluster = server();
    for version in released() {
        let db = cluster.database_installed_by(
            &version,
            &format!("CREATE SCHEMA crypto; {FRESH} VERSION '{version}' SCHEMA crypto"),
        );
        db.force(&format!("GRANT USAGE ON SCHEMA crypto TO PUBLIC; {UPDATE}"));
        let mut app = db.app();
        set_user(&mut app, "alice");
        app.batch_execute("SET search_path = crypto").unwrap();
        let key = init(&mut app).unwrap();
        assert_eq!(fetch(&mut app).unwrap(), key);
        assert_ne!(rotate(&mut app).unwrap(), key);
        let row = db.conn("wire_admin").query_one("SELECT sql_version FROM crypto.vault_version()", &[]).unwrap();
        assert_eq!(row.get::<_, &str>(0), CURRENT);
    }
}
