//! CREATE EXTENSION and DROP EXTENSION: they work completely or not at all, and never use objects prepared by others.

use std::time::Duration;

use crate::harness::{
    Cluster, Db, Refusal, expect_error, expect_vault_error, fetch, init, rotate, set_user, shared_db, status,
    without_deadlock,
};

const ROLES: [&str; 7] = [
    "vault_ext_admin",
    "vault_ext_auditor",
    "vault_ext_crypt",
    "vault_ext_grantor",
    "vault_ext_owner",
    "vault_ext_service",
    "vault_ext_user",
];

/// Everything in the database that looks like a part of the extension.
fn leftovers(db: &Db) -> Vec<String> {
    let sql = "
        SELECT 'extension ' || extname FROM pg_extension WHERE extname LIKE 'vault%'
        UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname LIKE '%vault%'
        UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE proname LIKE '%vault%'
        UNION ALL SELECT 'relation ' || relname FROM pg_class WHERE relname LIKE '%vault%' OR relname = 'keks'
        UNION ALL SELECT 'type ' || typname FROM pg_type WHERE typname LIKE '%vault%'
        UNION ALL SELECT 'policy ' || polname FROM pg_policy
        ORDER BY 1";
    let rows = db.superuser().query(sql, &[]).expect("the catalogs can be read");
    rows.iter().map(|row| row.get(0)).collect()
}

fn vault_roles(db: &Db) -> Vec<String> {
    let sql = "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'vault%' ORDER BY 1";
    let rows = db.superuser().query(sql, &[]).expect("the roles can be read");
    rows.iter().map(|row| row.get(0)).collect()
}

/// Asserts that the installation is refused and that nothing is left of the attempt.
#[track_caller]
fn expect_refused(db: &Db, code: &str) -> Refusal {
    let before = (leftovers(db), vault_roles(db));
    let result = db.superuser().batch_execute("CREATE EXTENSION vault_ext");
    let refusal = expect_error(result, code);
    assert_eq!((leftovers(db), vault_roles(db)), before, "{refusal:?}");
    assert!(refusal.hint.is_some(), "{refusal:?}");
    refusal
}

#[test]
fn a_fresh_install_creates_roles_without_any_power() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.database("d");
    assert_eq!(vault_roles(&db), ROLES);
    let powerful: i64 = db.value(
        "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'vault%' AND (rolcanlogin OR rolsuper OR rolbypassrls
            OR rolcreaterole OR rolcreatedb OR rolreplication)",
    );
    assert_eq!(powerful, 0);
    let memberships_of_owner: i64 = db.value(
        "SELECT count(*) FROM pg_auth_members
            WHERE roleid = 'vault_ext_owner'::regrole OR member = 'vault_ext_owner'::regrole",
    );
    assert_eq!(memberships_of_owner, 0);
    let version: String = db.value("SELECT extversion FROM pg_extension WHERE extname = 'vault_ext'");
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
}

#[test]
fn every_object_belongs_to_the_owner_role() {
    let db = shared_db();
    let owned_by_others: i64 = db.value(
        "SELECT count(*) FROM (
            SELECT relowner AS owner FROM pg_class WHERE relnamespace = 'vault_ext'::regnamespace
            UNION ALL SELECT nspowner FROM pg_namespace WHERE nspname = 'vault_ext'
            UNION ALL SELECT proowner FROM pg_proc WHERE proname LIKE 'vault%' OR pronamespace = 'vault_ext'::regnamespace
        ) o WHERE owner <> 'vault_ext_owner'::regrole",
    );
    assert_eq!(owned_by_others, 0);
}

#[test]
fn a_second_database_of_the_cluster_has_its_own_vaults() {
    let (one, two) = (shared_db(), shared_db());
    let key = init(&mut one.app_for("alice")).unwrap();
    expect_vault_error(fetch(&mut two.app_for("alice")), "P0002");
    let other = init(&mut two.app_for("alice")).unwrap();
    assert_ne!(key.master_key, other.master_key);
    assert_eq!(fetch(&mut one.app_for("alice")).unwrap(), key);
}

#[test]
fn an_existing_role_with_power_is_refused() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.empty_database("d");
    for role in ROLES {
        for power in ["LOGIN", "SUPERUSER", "BYPASSRLS", "LOGIN SUPERUSER"] {
            db.force(&format!("CREATE ROLE {role} {power}"));
            let refusal = expect_refused(&db, "55000");
            assert!(refusal.message.contains(role), "{power}: {refusal:?}");
            db.force(&format!("DROP ROLE {role}"));
        }
    }
    db.force("CREATE ROLE vault_ext_user; CREATE ROLE vault_ext_owner");
    db.force("CREATE EXTENSION vault_ext");
}

#[test]
fn an_owner_role_with_members_or_groups_is_refused() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.empty_database("d");
    db.force("CREATE ROLE vault_ext_owner; CREATE ROLE mallory LOGIN");
    for grant in [
        "vault_ext_owner TO mallory",
        "mallory TO vault_ext_owner",
        "pg_read_all_data TO vault_ext_owner",
        "vault_ext_owner TO mallory WITH ADMIN OPTION",
    ] {
        db.force(&format!("GRANT {grant}"));
        let refusal = expect_refused(&db, "55000");
        assert!(refusal.message.contains("vault_ext_owner"), "{refusal:?}");
        let (role, member) = grant.split_once(" TO ").unwrap();
        let member = member.split(' ').next().unwrap();
        db.force(&format!("REVOKE {role} FROM {member}"));
    }
    db.force("CREATE EXTENSION vault_ext");
}

#[test]
fn an_existing_schema_is_refused() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.empty_database("d");
    db.force("CREATE ROLE mallory; CREATE SCHEMA vault_ext AUTHORIZATION mallory");
    let refusal = expect_refused(&db, "42P06");
    assert!(refusal.message.contains("vault_ext"), "{refusal:?}");
    let by_force = "CREATE EXTENSION vault_ext SCHEMA vault_ext";
    expect_error(db.superuser().batch_execute(by_force), "42P06");
    db.force("DROP SCHEMA vault_ext; CREATE EXTENSION vault_ext");
}

#[test]
fn an_existing_function_or_type_is_not_taken_over() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.empty_database("d");
    db.force("CREATE FUNCTION vault_get_master_key() RETURNS text LANGUAGE sql AS 'SELECT 1::text'");
    let before = leftovers(&db);
    expect_error(db.superuser().batch_execute("CREATE EXTENSION vault_ext"), "42723");
    assert_eq!(leftovers(&db), before);
    db.force("DROP FUNCTION vault_get_master_key(); CREATE TYPE vault_key AS (evil text)");
    expect_error(db.superuser().batch_execute("CREATE EXTENSION vault_ext"), "42710");
    assert_eq!(vault_roles(&db), [""; 0]);
}

#[test]
fn drop_extension_leaves_nothing_but_the_roles_and_a_reinstall_works() {
    let db = shared_db();
    let key = init(&mut db.app_for("alice")).unwrap();
    db.force("SET vault_ext.allow_drop = on; DROP EXTENSION vault_ext");
    assert_eq!(leftovers(&db), [""; 0]);
    assert_eq!(vault_roles(&db), ROLES);
    db.force("CREATE EXTENSION vault_ext");
    assert_eq!(db.audit(), []);
    assert_ne!(init(&mut db.app_for("alice")).unwrap(), key);
}

#[test]
fn a_drop_that_is_rolled_back_keeps_every_key() {
    let db = shared_db();
    let key = init(&mut db.app_for("alice")).unwrap();
    db.force("BEGIN; SET LOCAL vault_ext.allow_drop = on; DROP EXTENSION vault_ext; ROLLBACK");
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
    assert_eq!(db.audit().len(), 2);
}

#[test]
fn an_install_that_is_rolled_back_leaves_nothing() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.empty_database("d");
    db.force("BEGIN; CREATE EXTENSION vault_ext; ROLLBACK");
    assert_eq!(leftovers(&db), [""; 0]);
    assert_eq!(vault_roles(&db), [""; 0]);
}

#[test]
fn install_use_and_drop_in_one_transaction_leave_nothing() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.empty_database("d");
    let mut client = db.superuser();
    client.batch_execute("BEGIN; CREATE EXTENSION vault_ext; SET LOCAL vault_ext.audit_timeout = 500").unwrap();
    set_user(&mut client, "alice");
    // The writer cannot see a table that is not committed, so the call must fail soon.
    let client = without_deadlock(Duration::from_secs(20), "a call before COMMIT", move || {
        let result = init(&mut client);
        assert!(result.is_err(), "{result:?}");
        client
    });
    drop(client);
    assert_eq!(leftovers(&db), [""; 0]);
    db.force("CREATE EXTENSION vault_ext; DROP EXTENSION vault_ext");
    assert_eq!(leftovers(&db), [""; 0]);
}

#[test]
fn the_functions_are_in_the_requested_schema() {
    let db = shared_db();
    db.force("DROP EXTENSION vault_ext; CREATE SCHEMA crypto; CREATE EXTENSION vault_ext SCHEMA crypto");
    db.force("GRANT USAGE ON SCHEMA crypto TO PUBLIC");
    let mut app = db.app_for("alice");
    expect_error(init(&mut app), "42883");
    let row = app.query_one("SELECT (crypto.vault_init()).kek_id", &[]).unwrap();
    assert_eq!(row.get::<_, String>(0), "wire-1");
}

#[test]
fn without_preloading_every_function_says_which_setting_is_missing() {
    let cluster = Cluster::builder().not_preloaded().without_fsync().start();
    let db = cluster.database("d");
    let mut app = db.app_for("alice");
    let refusals = [
        expect_vault_error(init(&mut app), "55000"),
        expect_vault_error(fetch(&mut app), "55000"),
        expect_vault_error(rotate(&mut app), "55000"),
        expect_vault_error(status(&mut app), "55000"),
        expect_vault_error(db.conn("wire_admin").simple_query("SELECT vault_erase('alice')"), "55000"),
        expect_vault_error(db.conn("wire_admin").simple_query("SELECT vault_purge_audit('1 day')"), "55000"),
    ];
    for refusal in refusals {
        let hint = refusal.hint.as_deref().unwrap_or_default();
        assert!(hint.contains("shared_preload_libraries"), "{refusal:?}");
    }
    // A library that is loaded by hand must not seem to work.
    let mut superuser = db.superuser();
    superuser.batch_execute("LOAD 'vault_ext'").unwrap();
    set_user(&mut superuser, "alice");
    expect_vault_error(init(&mut superuser), "55000");
}

#[test]
fn a_database_in_another_encoding_is_refused() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    for encoding in ["SQL_ASCII", "LATIN1"] {
        cluster
            .superuser("postgres")
            .batch_execute(&format!("CREATE DATABASE d_{encoding} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"))
            .unwrap();
        let db = cluster.existing_database(&format!("d_{}", encoding.to_lowercase()));
        let refusal = expect_refused(&db, "0A000");
        assert!(refusal.text().contains("UTF8"), "{refusal:?}");
    }
}

#[test]
fn only_a_superuser_installs() {
    let db = shared_db();
    db.force("DROP EXTENSION vault_ext");
    db.force(&format!("GRANT CREATE ON DATABASE \"{}\" TO wire_app2", db.name));
    db.force("GRANT CREATE ON SCHEMA public TO wire_app2");
    expect_error(db.conn("wire_app2").batch_execute("CREATE EXTENSION vault_ext"), "42501");
    assert_eq!(leftovers(&db), [""; 0]);
}

#[test]
fn the_installing_session_s_search_path_does_not_matter() {
    let db = shared_db();
    db.force(
        "DROP EXTENSION vault_ext; CREATE SCHEMA evil;
         CREATE FUNCTION evil.format(text, VARIADIC text[]) RETURNS text LANGUAGE sql AS $$ SELECT 'SELECT 1/0' $$;
         CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT 'bob' $$;
         SET search_path = evil, pg_catalog, public; CREATE EXTENSION vault_ext SCHEMA public",
    );
    let key = init(&mut db.app_for("alice")).unwrap();
    expect_vault_error(fetch(&mut db.app_for("bob")), "P0002");
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
}
