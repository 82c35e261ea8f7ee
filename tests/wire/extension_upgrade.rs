//! From each released version of the extension to this one: `ALTER EXTENSION vault_ext UPDATE`. The install scripts of
//! released versions are kept in sql/released, never to be edited.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postgres::{Client, NoTls};

use crate::backup::{dump, restore, some_vaults};
use crate::catalog::{assert_same, differences, facts, facts_seen_by};
use crate::golden::objects;
use crate::harness::{
    Cluster, Db, bindir, expect_error, expect_vault_error, fetch, init, rotate, scratch_dir, set_user, status, succeed,
    without_deadlock,
};
use crate::keyring::{cluster, kek_status, rewrap, switch};
use crate::ledger::{Call, Ledger};
use crate::load::Load;
use crate::rewrap::{all_rewrapped, users, vaults};

const CURRENT: &str = env!("CARGO_PKG_VERSION");
const RELEASED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/released");
const FRESH: &str = "CREATE EXTENSION vault_ext";
const UPDATE: &str = "ALTER EXTENSION vault_ext UPDATE";

/// The scripts of all versions but this one, by version.
fn released_scripts() -> Vec<(String, PathBuf)> {
    let files = fs::read_dir(RELEASED).expect("sql/released");
    let scripts = files.filter_map(|file| {
        let path = file.expect("an entry of sql/released").path();
        let name = path.file_name()?.to_str()?;
        let version = name.strip_prefix("vault_ext--")?.strip_suffix(".sql")?.to_owned();
        Some((version, path))
    });
    scripts.filter(|(version, _)| version != CURRENT).collect()
}

pub fn released() -> Vec<String> {
    let versions: Vec<_> = released_scripts().into_iter().map(|(version, _)| version).collect();
    assert!(!versions.is_empty(), "no older version is in {RELEASED}");
    versions
}

/// A database with the SQL of that version; the library is this one's.
pub fn database_of<'c>(cluster: &'c Cluster, version: &str, name: &str) -> Db<'c> {
    cluster.database_by(name, &format!("{FRESH} VERSION '{version}'"))
}

pub fn sql_version(db: &Db) -> String {
    db.value("SELECT extversion FROM pg_extension WHERE extname = 'vault_ext'")
}

fn server() -> Cluster {
    Cluster::builder().with_wire_kek().without_fsync().start()
}

/// Everything in the tables, and where the trail's ids stand.
fn data(db: &Db) -> String {
    let mut client = db.superuser();
    let mut text = String::new();
    for table in ["encryption_vaults", "encryption_vault_audit", "keks", "rewraps", "encryption_vault_audit_id_seq"] {
        let sql = format!("SELECT row(t.*)::text FROM vault_ext.{table} t ORDER BY 1");
        let rows = client.query(&sql, &[]).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        assert!(!rows.is_empty(), "nothing in {table}");
        rows.iter().for_each(|row| text.push_str(&format!("{table}: {}\n", row.get::<_, &str>(0))));
    }
    text
}

#[test]
fn the_released_scripts_are_as_they_were_released() {
    let listed = fs::read_to_string(Path::new(RELEASED).join("SHA256SUMS")).expect("SHA256SUMS");
    for (version, _) in released_scripts() {
        assert!(listed.contains(&format!("  vault_ext--{version}.sql\n")), "{version} is not in SHA256SUMS");
    }
    succeed(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(RELEASED));
}

#[test]
fn an_upgraded_database_has_exactly_the_objects_of_a_fresh_one() {
    let cluster = server();
    let fresh = facts(&cluster.database_by("fresh", FRESH));
    for version in released() {
        let db = database_of(&cluster, &version, &format!("from {version}"));
        assert_eq!(sql_version(&db), version);
        let old = facts(&db);
        db.force(UPDATE);
        assert_eq!(sql_version(&db), CURRENT);
        assert!(!differences(&old, &fresh).is_empty(), "{version} has the same objects, and even the same number");
        assert_same(&fresh, &facts(&db));
    }
}

#[test]
fn the_comparison_sees_whatever_is_changed() {
    let cluster = server();
    let db = cluster.database_by("d", FRESH);
    let before = facts(&db);
    assert_same(&before, &facts(&db));
    let mut client = db.superuser();
    for change in [
        "ALTER FUNCTION vault_init() COST 2",
        "ALTER FUNCTION vault_init() STABLE",
        "ALTER FUNCTION vault_init() SECURITY INVOKER",
        "ALTER FUNCTION vault_retire_kek(text) SET lock_timeout = '4s'",
        "ALTER FUNCTION vault_init() OWNER TO postgres",
        "ALTER FUNCTION vault_status() RENAME TO vault_state",
        "ALTER FUNCTION vault_init() SET SCHEMA vault_ext",
        "GRANT EXECUTE ON FUNCTION vault_erase(text) TO vault_ext_user",
        "GRANT SELECT (user_id) ON vault_ext.encryption_vaults TO vault_ext_admin",
        "GRANT TRUNCATE ON vault_ext.encryption_vaults TO PUBLIC",
        "GRANT CREATE ON SCHEMA vault_ext TO vault_ext_user",
        "REVOKE USAGE ON TYPE vault_key FROM PUBLIC",
        "COMMENT ON FUNCTION vault_init() IS 'another'",
        "COMMENT ON COLUMN vault_ext.keks.kek_id IS 'another'",
        "COMMENT ON EXTENSION vault_ext IS 'another'",
        "ALTER TABLE vault_ext.keks ADD note text",
        "ALTER TABLE vault_ext.keks ADD note text; ALTER TABLE vault_ext.keks DROP note",
        "ALTER TABLE vault_ext.keks ALTER first_seen DROP DEFAULT",
        "ALTER TABLE vault_ext.keks ALTER first_seen DROP NOT NULL",
        "ALTER TABLE vault_ext.keks ALTER kek_id TYPE text COLLATE \"default\"",
        "ALTER TABLE vault_ext.keks DROP CONSTRAINT keks_check_value_hex",
        "ALTER TABLE vault_ext.keks SET (fillfactor = 50)",
        "ALTER TABLE vault_ext.encryption_vaults NO FORCE ROW LEVEL SECURITY",
        "ALTER POLICY encryption_vault_audit_writer ON vault_ext.encryption_vault_audit WITH CHECK (true)",
        "ALTER POLICY encryption_vault_audit_auditor ON vault_ext.encryption_vault_audit TO PUBLIC",
        "DROP INDEX vault_ext.encryption_vault_audit_by_time",
        "CREATE INDEX ON vault_ext.keks (first_seen)",
        "CREATE TRIGGER t BEFORE DELETE ON vault_ext.keks FOR EACH ROW EXECUTE FUNCTION vault_erase_on_delete('kek_id')",
        "ALTER VIEW vault_ext.own_audit SET (security_barrier = false)",
        "CREATE OR REPLACE VIEW vault_ext.audit_stats AS SELECT * FROM vault_ext.audit_counters() LIMIT 1",
        "ALTER SEQUENCE vault_ext.encryption_vault_audit_id_seq INCREMENT 2",
        "ALTER TYPE vault_key ADD ATTRIBUTE note text",
        "ALTER EXTENSION vault_ext DROP FUNCTION vault_status()",
        "UPDATE pg_extension SET extcondition[1] = 'WHERE false' WHERE extname = 'vault_ext'",
        "UPDATE pg_extension SET extconfig = extconfig[2:], extcondition = extcondition[2:] WHERE extname = 'vault_ext'",
        "DELETE FROM pg_init_privs WHERE objoid = 'vault_init()'::regprocedure",
    ] {
        client.batch_execute(&format!("BEGIN; {change}")).unwrap_or_else(|e| panic!("{change}: {e:?}"));
        let differences = differences(&before, &facts_seen_by(&mut client));
        client.batch_execute("ROLLBACK").unwrap();
        assert!(!differences.is_empty(), "not seen: {change}");
    }
    assert_same(&before, &facts(&db));
}

/// Every way in that 0.1.0 had, under the SQL that the database has: also a rotation of the KEK from k1 to k2.
fn every_call_works(db: &Db) {
    let names = users(10);
    let keys = vaults(db, &names);
    some_vaults(db);
    assert!(status(&mut db.app_for(&names[0])).unwrap().exists);
    assert_eq!(kek_status(db)[0].4, 30);

    switch(db, &[("k2", 2), ("k1", 1)]).unwrap();
    assert_eq!(rewrap(db, 7).unwrap(), (30, 0, 0));
    all_rewrapped(db, &names, &keys, "k2");
    let mut admin = db.conn("wire_admin");
    let retired: bool = admin.query_one("SELECT vault_retire_kek('k1')", &[]).unwrap().get(0);
    assert!(retired);
    switch(db, &[("k2", 2)]).unwrap();
    let opened: i64 =
        admin.query_one("SELECT sum(vaults)::bigint FROM vault_check() WHERE outcome = 'opens'", &[]).unwrap().get(0);
    assert_eq!(opened, 30);
    let done: i64 = admin.query_one("SELECT done FROM vault_ext.rewrap_progress", &[]).unwrap().get(0);
    assert_eq!(done, 30);
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
    // Under k2 from here on.
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
        let db = database_of(&cluster, &version, "d");
        every_call_works(&db);
        assert_eq!(sql_version(&db), version);
    }
}

#[test]
fn an_upgrade_keeps_all_data_and_every_call_works_after_it() {
    for version in released() {
        let cluster = cluster(&[("k1", 1)]);
        let db = database_of(&cluster, &version, "d");
        rewrap(&db, 10).unwrap();
        let ledger = some_vaults(&db);
        let before = data(&db);
        db.force(UPDATE);
        assert_eq!(data(&db), before);
        ledger.end_checks(&db, &format!("ALTER EXTENSION UPDATE from {version}"), 1);
        db.force("DELETE FROM vault_ext.encryption_vaults; TRUNCATE vault_ext.rewraps");
        every_call_works(&db);
    }
}

#[test]
fn an_upgrade_that_is_rolled_back_changes_nothing() {
    let cluster = server();
    for version in released() {
        let db = database_of(&cluster, &version, &version);
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
        let db = database_of(&cluster, &version, &version);
        let mut prepared = db.app_for("prepared");
        let mint = prepared.prepare("SELECT master_key FROM vault_init()").unwrap();
        let get = prepared.prepare("SELECT master_key FROM vault_get_master_key()").unwrap();
        let key: String = prepared.query_one(&mint, &[]).unwrap().get(0);
        // Often enough for the server to keep its plans.
        for _ in 0..10 {
            assert_eq!(prepared.query_one(&get, &[]).unwrap().get::<_, String>(0), key);
        }
        // A transaction that has minted holds nothing that an upgrade waits for, and is not cut off.
        let mut open = db.app_for("open");
        open.batch_execute("BEGIN").unwrap();
        let minted = init(&mut open).unwrap();

        let load = Load::start(&db, 8);
        load.let_through(50);
        let upgrade = |statements: &str| {
            let (mut client, statements) = (db.superuser(), statements.to_owned());
            without_deadlock(Duration::from_secs(60), "ALTER EXTENSION UPDATE", move || {
                client.batch_execute(&statements).unwrap();
            });
        };
        for _ in 0..10 {
            upgrade(&format!("BEGIN; {UPDATE}; ROLLBACK"));
            load.let_through(10);
        }
        upgrade(UPDATE);
        load.let_through(100);
        let ledger = load.stop();
        assert_eq!(ledger.failed_calls(), 0, "{:?}", ledger.failures);

        assert_eq!(prepared.query_one(&get, &[]).unwrap().get::<_, String>(0), key);
        assert_eq!(fetch(&mut open).unwrap(), minted);
        open.batch_execute("COMMIT").unwrap();
        assert_eq!(fetch(&mut db.app_for("open")).unwrap(), minted);
        assert_eq!(sql_version(&db), CURRENT);
        ledger.end_checks(&db, &format!("ALTER EXTENSION UPDATE from {version} under load"), 1);
    }
}

/// What vault_version() says: library, SQL, hint.
fn versions(db: &Db) -> (String, String, Option<String>) {
    let row = db.conn("wire_admin").query_one("SELECT library_version, sql_version, hint FROM vault_version()", &[]);
    let row = row.unwrap();
    (row.get(0), row.get(1), row.get(2))
}

#[test]
fn administrators_see_the_versions_and_others_do_not() {
    let cluster = server();
    let db = cluster.database("d");
    assert_eq!(versions(&db), (CURRENT.to_owned(), CURRENT.to_owned(), None));
    for role in ["wire_app", "wire_auditor", "wire_stranger"] {
        expect_error(db.conn(role).execute("SELECT vault_version()", &[]), "42501");
    }
    for (sql, words) in [("0.1.0", "ALTER EXTENSION vault_ext UPDATE"), ("99.0.0", "restart the server")] {
        db.force(&format!("UPDATE pg_extension SET extversion = '{sql}' WHERE extname = 'vault_ext'"));
        let (library, found, hint) = versions(&db);
        assert_eq!((library.as_str(), found.as_str()), (CURRENT, sql));
        assert!(hint.as_ref().is_some_and(|hint| hint.contains(words)), "{hint:?}");
    }
}

/// The warnings that come with a statement of that role.
fn warnings_of(role: &str, db: &Db, statement: &str) -> Vec<String> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let mut config = db.cluster.config(role, &db.name);
    let listener = heard.clone();
    config.notice_callback(move |notice| listener.lock().unwrap().push(notice.message().to_owned()));
    let mut client: Client = config.connect(NoTls).unwrap();
    client.batch_execute(statement).unwrap();
    drop(client);
    let heard = heard.lock().unwrap().clone();
    heard
}

#[test]
fn an_administrator_is_told_of_an_upgrade_that_is_due() {
    let cluster = server();
    for version in released() {
        let db = database_of(&cluster, &version, &version);
        let calls = ["SELECT * FROM vault_kek_status()", "SELECT * FROM vault_check()"];
        for call in calls {
            let heard = warnings_of("wire_admin", &db, call);
            assert_eq!(heard.len(), 1, "{heard:?}");
            for words in [&version, CURRENT, UPDATE] {
                assert!(heard[0].contains(words), "{heard:?}");
            }
        }
        db.force(UPDATE);
        for call in calls {
            assert_eq!(warnings_of("wire_admin", &db, call), [""; 0]);
        }
    }
}

/// A folder with a library that lacks the newest function, as an older version does.
fn older_library() -> PathBuf {
    let pg_config = bindir().join("pg_config");
    let folder = succeed(Command::new(pg_config).arg("--pkglibdir"));
    let mut library = fs::read(Path::new(folder.trim()).join("vault_ext.so")).expect("the library");
    let (new, none) = (b"vault_version_wrapper", b"vault_versionless_wrap");
    let (new, none) = (&new[..], &none[..new.len()]);
    let places: Vec<_> =
        library.windows(new.len()).enumerate().filter(|(_, part)| *part == new).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "the library has no symbol to hide");
    for at in places {
        library[at..at + new.len()].copy_from_slice(none);
    }
    let dir = scratch_dir();
    fs::write(dir.join("vault_ext.so"), library).expect("the scratch folder is writable");
    dir
}

#[test]
fn an_update_before_the_restart_is_refused_and_changes_nothing() {
    let path = |dir: &Path| format!("dynamic_library_path = '{}'", dir.display());
    let mut cluster = Cluster::builder().with_wire_kek().without_fsync().conf(&path(&older_library())).start();
    for version in released() {
        let ledger = {
            let db = database_of(&cluster, &version, &version);
            let ledger = some_vaults(&db);
            let before = facts(&db);
            let refusal = expect_vault_error(db.superuser().batch_execute(UPDATE), "55000");
            assert!(refusal.hint.is_some_and(|hint| hint.contains("Restart the server")));
            assert_same(&before, &facts(&db));
            ledger.end_checks(&db, &format!("ALTER EXTENSION UPDATE from {version} before the restart: refused"), 1);
            ledger
        };
        cluster.configure("dynamic_library_path = '$libdir'");
        cluster.restart();
        let db = cluster.existing_database(&version);
        db.force(UPDATE);
        ledger.end_checks(&db, &format!("ALTER EXTENSION UPDATE from {version} after the restart"), 1);
        drop(db);
        cluster.configure(&path(&older_library()));
        cluster.restart();
    }
}

#[test]
fn a_dump_of_an_older_version_restores_into_the_objects_of_this_one() {
    let cluster = server();
    let fresh = facts(&cluster.database_by("fresh", FRESH));
    for version in released() {
        let db = database_of(&cluster, &version, &version);
        let ledger = some_vaults(&db);
        for format in ["plain", "custom"] {
            let file = dump(&db, format, &[], &ledger);
            let copy = cluster.empty_database(&format!("{version} {format}"));
            restore(&copy, format, &file);
            assert_eq!(copy.audit(), db.audit());
            assert_same(&fresh, &facts(&copy));
            ledger.end_checks(&copy, &format!("pg_dump, {format}, of {version} into {CURRENT}"), 1);
        }
    }
}

#[test]
fn a_dump_of_an_upgraded_database_restores_into_the_same_objects() {
    let cluster = server();
    for version in released() {
        let db = database_of(&cluster, &version, &version);
        let ledger = some_vaults(&db);
        db.force(UPDATE);
        let file = dump(&db, "plain", &[], &ledger);
        let copy = cluster.empty_database(&format!("{version} copy"));
        restore(&copy, "plain", &file);
        assert_same(&facts(&db), &facts(&copy));
        ledger.end_checks(&copy, &format!("pg_dump of a database that came from {version}"), 1);
    }
}

/// A server whose package is the older one makes the older objects; here they are made before the restore.
#[test]
fn a_dump_of_this_version_restores_into_an_older_one() {
    let cluster = server();
    let db = cluster.database_by("d", FRESH);
    let ledger = some_vaults(&db);
    for version in released() {
        let file = dump(&db, "custom", &[], &ledger);
        let copy = database_of(&cluster, &version, &version);
        restore(&copy, "custom", &file);
        assert_eq!(sql_version(&copy), version);
        assert_eq!(copy.audit(), db.audit());
        ledger.end_checks(&copy, &format!("pg_dump of {CURRENT} into {version}"), 1);
        copy.force(UPDATE);
        ledger.end_checks(&copy, &format!("pg_dump of {CURRENT} into {version}, then upgraded"), 1);
    }
}

#[test]
fn a_function_that_is_in_the_way_of_an_upgrade_is_not_taken_over() {
    let cluster = server();
    for version in released() {
        let db = database_of(&cluster, &version, &version);
        let evil = "CREATE FUNCTION vault_version(OUT library_version text, OUT sql_version text, OUT hint text)
            LANGUAGE sql AS $$ SELECT 'a', 'b', 'c' $$";
        db.force(evil);
        expect_error(db.superuser().batch_execute(UPDATE), "42723");
        assert_eq!(sql_version(&db), version);
        db.force(&format!("DROP FUNCTION vault_version(); {UPDATE}"));
    }
}

#[test]
fn the_updating_session_s_search_path_does_not_matter() {
    let cluster = server();
    let fresh = facts(&cluster.database_by("fresh", FRESH));
    for version in released() {
        let db = database_of(&cluster, &version, &version);
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
fn an_extension_in_a_schema_of_its_own_is_upgraded_there() {
    let cluster = server();
    for version in released() {
        let db =
            cluster.database_by(&version, &format!("CREATE SCHEMA crypto; {FRESH} VERSION '{version}' SCHEMA crypto"));
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

/// What an administrator may have arranged for all new objects, for another purpose.
const DEFAULT_PRIVILEGES: &str = "
    ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC, \"other \"\"app\";
    ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO PUBLIC, \"other \"\"app\";
    ALTER DEFAULT PRIVILEGES GRANT ALL ON ROUTINES TO \"other \"\"app\";
    ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO PUBLIC, \"other \"\"app\";
    ALTER DEFAULT PRIVILEGES GRANT ALL ON TYPES TO \"other \"\"app\";
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON ROUTINES TO PUBLIC, \"other \"\"app\";
    ALTER DEFAULT PRIVILEGES FOR ROLE vault_ext_owner GRANT ALL ON TABLES TO \"other \"\"app\"";

/// The server's lists of who may do what, without what concerns the type, whose use gives nothing.
fn privileges(db: &Db) -> Vec<String> {
    objects(db).lines().filter(|line| !line.starts_with("type ")).map(str::to_owned).collect()
}

#[test]
fn default_privileges_give_nobody_a_part_of_the_vault() {
    let cluster = server();
    let fresh = privileges(&cluster.database_by("fresh", FRESH));
    cluster.superuser("postgres").batch_execute("CREATE ROLE \"other \"\"app\" LOGIN").unwrap();
    let to_users = "ALTER DEFAULT PRIVILEGES GRANT ALL ON ROUTINES TO vault_ext_user";
    let db = cluster.database_by("d", &format!("{DEFAULT_PRIVILEGES}; {to_users}; {FRESH}"));
    assert_eq!(differences(&fresh, &privileges(&db)), [""; 0]);
    let ledger = some_vaults(&db);
    let mut other = db.conn("other \"app");
    for sql in [
        "SELECT vault_init()",
        "SELECT vault_erase('alice')",
        "TRUNCATE vault_ext.encryption_vaults",
        "TRUNCATE vault_ext.encryption_vault_audit",
        "SELECT nextval('vault_ext.encryption_vault_audit_id_seq')",
    ] {
        expect_error(other.batch_execute(sql), "42501");
    }
    expect_error(db.app().batch_execute("SELECT vault_erase('alice')"), "42501");
    ledger.end_checks(&db, "an installation under default privileges", 1);
}

#[test]
fn an_upgrade_takes_back_what_default_privileges_gave() {
    let cluster = server();
    let fresh = privileges(&cluster.database_by("fresh", FRESH));
    cluster.superuser("postgres").batch_execute("CREATE ROLE \"other \"\"app\" LOGIN").unwrap();
    let db = cluster.database_by("d", &format!("{DEFAULT_PRIVILEGES}; {FRESH} VERSION '0.1.0'"));
    let ledger = some_vaults(&db);
    // On purpose, by an administrator: it stays, and dumps know of it.
    db.force("CREATE ROLE monitoring; GRANT SELECT ON vault_ext.keks TO monitoring");
    let heard = warnings_of("postgres", &db, UPDATE);
    // What 0.1.0 kept no record of.
    for table in [
        "TABLE vault_ext.encryption_vaults",
        "TABLE vault_ext.rewraps",
        "SEQUENCE vault_ext.encryption_vault_audit_id_seq",
    ] {
        for who in ["PUBLIC", "\"other \"\"app\""] {
            assert!(heard.contains(&format!("{who} has privileges on {table}")), "{heard:?}");
            db.force(&format!("REVOKE ALL ON {table} FROM {who}"));
        }
    }
    assert_eq!(heard.len(), 6, "{heard:?}");
    db.force("REVOKE ALL ON vault_ext.keks FROM monitoring");
    assert_eq!(differences(&fresh, &privileges(&db)), [""; 0]);
    ledger.end_checks(&db, "an upgrade of an installation under default privileges", 1);
}

#[test]
fn what_an_administrator_granted_survives_an_upgrade_and_the_dump_after_it() {
    let cluster = server();
    for version in released() {
        let db = database_of(&cluster, &version, &version);
        let ledger = some_vaults(&db);
        db.force("CREATE ROLE monitoring; GRANT SELECT ON vault_ext.keks, vault_ext.audit_stats TO monitoring");
        let granted = |db: &Db| -> bool {
            db.value("SELECT bool_and(has_table_privilege('monitoring', t, 'SELECT')) FROM unnest('{vault_ext.keks,vault_ext.audit_stats}'::regclass[]) t")
        };
        assert_eq!(warnings_of("postgres", &db, UPDATE), [""; 0]);
        assert!(granted(&db));
        let file = dump(&db, "custom", &[], &ledger);
        let copy = cluster.empty_database("copy");
        restore(&copy, "custom", &file);
        assert!(granted(&copy));
        ledger.end_checks(&copy, &format!("pg_dump of grants that an upgrade from {version} left alone"), 1);
        db.force("DROP OWNED BY monitoring");
        copy.force("DROP OWNED BY monitoring; DROP ROLE monitoring");
    }
}
