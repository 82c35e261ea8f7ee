//! SQL gives a user nothing that belongs to another user, for every role that an application can have or take.

use crate::harness::{expect_error, expect_vault_error, fetch, init, set_user, shared_db};

const TABLES: [&str; 3] = ["vault_ext.encryption_vaults", "vault_ext.encryption_vault_audit", "vault_ext.keks"];
const LOGINS: [&str; 4] = ["wire_app", "wire_admin", "wire_auditor", "wire_stranger"];

/// Whether a role may read a table (design, section 2).
fn may_read(role: &str, table: &str) -> bool {
    match role {
        "wire_auditor" => table != "vault_ext.encryption_vaults",
        "wire_admin" => table == "vault_ext.keks",
        _ => false,
    }
}

#[test]
fn no_role_reads_a_table_that_the_design_does_not_give_it() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    for role in LOGINS {
        let mut client = db.conn(role);
        set_user(&mut client, "alice");
        for table in TABLES {
            let reads = [
                format!("SELECT * FROM {table}"),
                format!("SELECT count(*) FROM {table}"),
                format!("COPY {table} TO STDOUT"),
                format!("SELECT 1 FROM {table} FOR UPDATE"),
            ];
            for (i, sql) in reads.iter().enumerate() {
                let result = client.simple_query(sql);
                if may_read(role, table) && i < 2 {
                    assert!(result.is_ok(), "{role}: {sql}: {result:?}");
                } else if !may_read(role, table) || i == 3 {
                    expect_error(result, "42501");
                }
            }
        }
    }
}

#[test]
fn no_role_writes_any_table() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    for role in LOGINS {
        let mut client = db.conn(role);
        set_user(&mut client, "alice");
        for table in TABLES {
            for sql in [
                format!("DELETE FROM {table}"),
                format!("TRUNCATE {table}"),
                format!("INSERT INTO {table} DEFAULT VALUES"),
                format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"),
                format!("ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY"),
                format!("ALTER TABLE {table} OWNER TO {role}"),
                format!("CREATE POLICY p ON {table} USING (true)"),
                format!(
                    "CREATE TRIGGER t BEFORE INSERT ON {table} EXECUTE FUNCTION suppress_redundant_updates_trigger()"
                ),
                format!("CREATE RULE r AS ON INSERT TO {table} DO INSTEAD NOTHING"),
                format!("GRANT ALL ON {table} TO {role}"),
                format!("DROP TABLE {table}"),
                format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"),
            ] {
                let result = client.simple_query(&sql);
                // Without a grant option, GRANT gives a warning or an error.
                if sql.starts_with("GRANT") && result.is_ok() {
                    expect_error(client.simple_query(&format!("DELETE FROM {table}")), "42501");
                    continue;
                }
                let code = result.as_ref().err().and_then(|e| e.code()).map(|c| c.code().to_owned());
                // Outside a transaction block, LOCK fails with 25P01 before privileges are checked.
                assert!(matches!(code.as_deref(), Some("42501" | "25P01")), "{role}: {sql}: {result:?}");
            }
            client.batch_execute("BEGIN").unwrap();
            expect_error(client.batch_execute(&format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")), "42501");
            client.batch_execute("ROLLBACK").unwrap();
        }
        for sql in [
            "UPDATE vault_ext.encryption_vaults SET user_id = 'mallory'",
            "UPDATE vault_ext.encryption_vault_audit SET status = 200",
            "UPDATE vault_ext.keks SET retired_at = now()",
            "SELECT setval('vault_ext.encryption_vault_audit_id_seq', 1)",
            "SELECT nextval('vault_ext.encryption_vault_audit_id_seq')",
        ] {
            expect_error(client.simple_query(sql), "42501");
        }
    }
    assert_eq!(db.audit().len(), 1);
}

#[test]
fn no_role_becomes_the_owner() {
    let db = shared_db();
    for role in LOGINS {
        let mut client = db.conn(role);
        for sql in [
            "SET ROLE vault_ext_owner",
            "SET LOCAL ROLE vault_ext_owner",
            "SELECT set_config('role', 'vault_ext_owner', false)",
            "SET SESSION AUTHORIZATION vault_ext_owner",
            "GRANT vault_ext_owner TO current_user",
            "ALTER ROLE vault_ext_owner LOGIN",
            "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION pg_temp.f() OWNER TO vault_ext_owner",
            "DROP OWNED BY vault_ext_owner",
            "REASSIGN OWNED BY vault_ext_owner TO current_user",
        ] {
            expect_error(client.batch_execute(sql), "42501");
        }
        assert!(db.cluster.try_conn("vault_ext_owner", &db.name).is_err());
    }
}

#[test]
fn the_group_roles_cannot_log_in_and_give_no_more_than_their_members_have() {
    let db = shared_db();
    init(&mut db.app_for("bob")).unwrap();
    for group in ["vault_ext_user", "vault_ext_admin", "vault_ext_auditor"] {
        assert!(db.cluster.try_conn(group, &db.name).is_err(), "{group}");
    }
    let mut app = db.app_for("alice");
    for group in ["vault_ext_admin", "vault_ext_auditor"] {
        expect_error(app.batch_execute(&format!("SET ROLE {group}")), "42501");
    }
    app.batch_execute("SET ROLE vault_ext_user").unwrap();
    expect_vault_error(fetch(&mut app), "P0002");
    expect_error(app.simple_query("SELECT * FROM vault_ext.encryption_vaults"), "42501");
}

#[test]
fn no_role_may_call_the_internal_functions() {
    let db = shared_db();
    let calls: Vec<String> = db
        .superuser()
        .query(
            "SELECT CASE prokind WHEN 'p' THEN 'CALL ' ELSE 'SELECT ' END || oid::regprocedure FROM pg_proc WHERE pronamespace = 'vault_ext'::regnamespace
                AND pronargs = 0 AND proname NOT IN ('audit_counters', 'alarm_counters', 'action_stats', 'wait_stats', 'writer_stats',
                    'stat_reset', 'in_maintenance', 'current_user_id', 'nodes')",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(!calls.is_empty());
    for role in LOGINS {
        let mut client = db.conn(role);
        for call in &calls {
            expect_error(client.simple_query(call), "42501");
        }
    }
    // The policies behind a view call this one with the reader's rights. So it may be called, but always returns false.
    let in_maintenance: bool = db.conn("wire_app").query_one("SELECT vault_ext.in_maintenance()", &[]).unwrap().get(0);
    assert!(!in_maintenance);
}

#[test]
fn a_flag_that_the_policies_trust_cannot_be_set_from_sql() {
    let db = shared_db();
    init(&mut db.app_for("bob")).unwrap();
    let mut superuser = db.superuser();
    superuser.batch_execute("SET ROLE vault_ext_owner").unwrap();
    set_user(&mut superuser, "alice");
    // The policies apply even to the owner role in its own SQL.
    let row = superuser
        .query_one(
            "SELECT (SELECT count(*) FROM vault_ext.encryption_vaults), (SELECT count(*) FROM vault_ext.encryption_vault_audit),
                vault_ext.in_maintenance(), vault_ext.is_audit_writer()",
            &[],
        )
        .unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (0, 0));
    assert!(!row.get::<_, bool>(2) && !row.get::<_, bool>(3));
    expect_error(
        superuser.simple_query(
            "INSERT INTO vault_ext.encryption_vault_audit (action, status, db_role) VALUES ('forged', 200, 'x')",
        ),
        "42501",
    );
    for sql in [
        "DELETE FROM vault_ext.encryption_vault_audit",
        "UPDATE vault_ext.encryption_vault_audit SET status = 200",
        "DELETE FROM vault_ext.encryption_vaults",
        "UPDATE vault_ext.encryption_vaults SET key_version = 7",
    ] {
        assert_eq!(superuser.execute(sql, &[]).unwrap(), 0, "{sql}");
    }
}

#[test]
fn own_audit_shows_a_user_only_its_own_rows() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    init(&mut db.app_for("bob")).unwrap();
    fetch(&mut db.app_for("bob")).unwrap();
    let count = "SELECT count(*) FROM vault_ext.own_audit";
    let mut app = db.app_for("alice");
    let rows = |app: &mut postgres::Client| app.query_one(count, &[]).unwrap().get::<_, i64>(0);
    assert_eq!(rows(&mut app), 1);
    set_user(&mut app, "bob");
    assert_eq!(rows(&mut app), 2);
    for nobody in ["", "carol"] {
        set_user(&mut app, nobody);
        assert_eq!(rows(&mut app), 0);
    }
    for sql in [
        "DELETE FROM vault_ext.own_audit",
        "UPDATE vault_ext.own_audit SET status = 200",
        "INSERT INTO vault_ext.own_audit (action, status, db_role) VALUES ('forged', 200, 'x')",
    ] {
        expect_error(app.simple_query(sql), "42501");
    }
    for role in ["wire_stranger", "wire_admin"] {
        expect_error(db.conn(role).simple_query(count), "42501");
    }
}

#[test]
fn own_audit_leaks_nothing_through_a_cheap_function() {
    let db = shared_db();
    init(&mut db.app_for("bob-the-secret-user")).unwrap();
    db.force("CREATE SCHEMA own AUTHORIZATION wire_app");
    let mut app = db.app_for("alice");
    init(&mut app).unwrap();
    app.batch_execute(
        "CREATE TABLE own.seen (what text);
         CREATE FUNCTION own.leak(id bigint, role text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
            $$ BEGIN INSERT INTO own.seen VALUES (id::text); RETURN true; END $$",
    )
    .unwrap();
    let visible = app.query("SELECT id FROM vault_ext.own_audit WHERE own.leak(id, db_role)", &[]).unwrap().len();
    let seen: i64 = app.query_one("SELECT count(DISTINCT what) FROM own.seen", &[]).unwrap().get(0);
    assert_eq!((visible, seen), (1, 1));
}

#[test]
fn an_auditor_reads_the_whole_trail_and_no_vault() {
    let db = shared_db();
    for user in ["alice", "bob"] {
        init(&mut db.app_for(user)).unwrap();
    }
    let mut auditor = db.conn("wire_auditor");
    let users: i64 =
        auditor.query_one("SELECT count(DISTINCT user_id) FROM vault_ext.encryption_vault_audit", &[]).unwrap().get(0);
    assert_eq!(users, 2);
    auditor.simple_query("SELECT * FROM vault_ext.audit_stats").unwrap();
}

#[test]
fn statistics_of_the_tables_show_no_wrap_to_an_application() {
    let db = shared_db();
    for i in 0..20 {
        init(&mut db.app_for(&format!("user-{i}"))).unwrap();
    }
    db.force("ANALYZE vault_ext.encryption_vaults; ANALYZE vault_ext.encryption_vault_audit");
    for role in LOGINS {
        let rows = db
            .conn(role)
            .query(
                "SELECT attname FROM pg_stats WHERE schemaname = 'vault_ext' AND tablename = 'encryption_vaults'",
                &[],
            )
            .unwrap();
        assert_eq!(rows.len(), 0, "{role}");
    }
}
