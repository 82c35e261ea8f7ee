//! ALTER DEFAULT PRIVILEGES must not grant access to any part of the vault. Privileges that an administrator grants on
//! purpose must survive an upgrade.

use crate::backup::{dump, restore, some_vaults};
use crate::catalog::differences;
use crate::extension_upgrade::{FRESH, UPDATE, database_at_version, released, server};
use crate::extension_versions::warnings_of;
use crate::golden::objects;
use crate::harness::{Db, expect_error};

/// Default privileges that an administrator may have set for all new objects, for another purpose.
const DEFAULT_PRIVILEGES: &str = "
    ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC, \"other \"\"app\";
    ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO PUBLIC, \"other \"\"app\";
    ALTER DEFAULT PRIVILEGES GRANT ALL ON ROUTINES TO \"other \"\"app\";
    ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO PUBLIC, \"other \"\"app\";
    ALTER DEFAULT PRIVILEGES GRANT ALL ON TYPES TO \"other \"\"app\";
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON ROUTINES TO PUBLIC, \"other \"\"app\";
    ALTER DEFAULT PRIVILEGES FOR ROLE vault_ext_owner GRANT ALL ON TABLES TO \"other \"\"app\"";

/// The lists of who may do what, except those of types: the use of a type gives access to nothing.
fn privileges(db: &Db) -> Vec<String> {
    objects(db).lines().filter(|line| !line.starts_with("type ")).map(str::to_owned).collect()
}

#[test]
fn default_privileges_give_nobody_a_part_of_the_vault() {
    let cluster = server();
    let fresh = privileges(&cluster.database_installed_by("fresh", FRESH));
    cluster.superuser("postgres").batch_execute("CREATE ROLE \"other \"\"app\" LOGIN").unwrap();
    let to_users = "ALTER DEFAULT PRIVILEGES GRANT ALL ON ROUTINES TO vault_ext_user";
    let db = cluster.database_installed_by("d", &format!("{DEFAULT_PRIVILEGES}; {to_users}; {FRESH}"));
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
fn an_upgrade_revokes_what_default_privileges_granted() {
    let cluster = server();
    let fresh = privileges(&cluster.database_installed_by("fresh", FRESH));
    cluster.superuser("postgres").batch_execute("CREATE ROLE \"other \"\"app\" LOGIN").unwrap();
    let db = cluster.database_installed_by("d", &format!("{DEFAULT_PRIVILEGES}; {FRESH} VERSION '0.1.0'"));
    let ledger = some_vaults(&db);
    // An administrator grants this on purpose, so it stays, and dumps contain it.
    db.force("CREATE ROLE monitoring; GRANT SELECT ON vault_ext.keks TO monitoring");
    let warnings = warnings_of("postgres", &db, UPDATE);
    // 0.1.0 kept no record of these.
    for table in [
        "TABLE vault_ext.encryption_vaults",
        "TABLE vault_ext.rewraps",
        "SEQUENCE vault_ext.encryption_vault_audit_id_seq",
    ] {
        for who in ["PUBLIC", "\"other \"\"app\""] {
            assert!(warnings.contains(&format!("{who} has privileges on {table}")), "{warnings:?}");
            db.force(&format!("REVOKE ALL ON {table} FROM {who}"));
        }
    }
    assert_eq!(warnings.len(), 6, "{warnings:?}");
    db.force("REVOKE ALL ON vault_ext.keks FROM monitoring");
    assert_eq!(differences(&fresh, &privileges(&db)), [""; 0]);
    ledger.end_checks(&db, "an upgrade of an installation under default privileges", 1);
}

#[test]
fn grants_of_an_administrator_survive_an_upgrade_and_the_next_dump() {
    let cluster = server();
    for version in released() {
        let db = database_at_version(&cluster, &version, &version);
        let ledger = some_vaults(&db);
        db.force("CREATE ROLE monitoring; GRANT SELECT ON vault_ext.keks, vault_ext.audit_stats TO monitoring");
        let granted = |db: &Db| -> bool {
            db.value("SELECT bool_and(has_table_privilege('monitoring', t, 'SELECT')) FROM unnest('{vault_ext.keks,vault_ext.audit_stats}'::regclass[]) t")
        };
        assert_eq!(warnings_of("postgres", &db, UPDATE), [""; 0]);
        assert!(granted(&db));
        let file = dump(&db, "custom", &[], &ledger);
        let copy = cluster.empty_database(&format!("copy of {version}"));
        restore(&copy, "custom", &file);
        assert!(granted(&copy));
        ledger.end_checks(&copy, &format!("pg_dump of grants that an upgrade from {version} left alone"), 1);
        db.force("DROP OWNED BY monitoring");
        copy.force("DROP OWNED BY monitoring; DROP ROLE monitoring");
    }
}
