//! Attacks by roles that may use a database. Each test shows that its trick works where nothing prevents it, and yields
//! nothing here. The last part shows what PostgreSQL's own powerful roles and the application itself can do, as
//! SECURITY.md says.

use std::time::Duration;

use postgres::fallible_iterator::FallibleIterator;
use postgres::{Client, SimpleQueryMessage};

use crate::harness::{
    Cluster, assert_no_secrets, assert_no_secrets_in_files, decode, expect_error, expect_vault_error, fetch, init, kek,
    rotate, set_user, shared_db,
};

const OWN_SCHEMAS: &str =
    "CREATE SCHEMA app AUTHORIZATION wire_app; CREATE SCHEMA stranger AUTHORIZATION wire_stranger;
    GRANT USAGE ON SCHEMA app, stranger TO PUBLIC";

fn text(client: &mut Client, sql: &str) -> String {
    client.query_one(sql, &[]).unwrap_or_else(|e| panic!("{sql}: {e:?}")).get(0)
}

fn count(client: &mut Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).unwrap_or_else(|e| panic!("{sql}: {e:?}")).get(0)
}

fn printed(client: &mut Client, sql: &str) -> String {
    let messages = client.simple_query(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).filter_map(|i| row.get(i)).collect::<Vec<_>>().join("|")),
        _ => None,
    });
    rows.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_security_definer_wrapper_lends_its_owner_s_rights_and_the_trail_names_the_caller() {
    let db = shared_db();
    let key = init(&mut db.app_for("alice")).unwrap().master_key;
    db.force(OWN_SCHEMAS);
    for (role, schema) in [("wire_app", "app"), ("wire_stranger", "stranger")] {
        let function = format!(
            "CREATE FUNCTION {schema}.key() RETURNS text LANGUAGE sql SECURITY DEFINER
                AS 'SELECT master_key FROM public.vault_get_master_key()';
             CREATE FUNCTION {schema}.wraps() RETURNS text LANGUAGE plpgsql SECURITY DEFINER
                AS $$ BEGIN RETURN (SELECT string_agg(wrapped_mk, ' ') FROM vault_ext.encryption_vaults); END $$"
        );
        // PostgreSQL checks SQL functions against the tables when they are created.
        db.conn(role).batch_execute(&function).unwrap();
    }
    let mut stranger = db.conn("wire_stranger");
    set_user(&mut stranger, "alice");
    expect_error(stranger.simple_query("SELECT vault_get_master_key()"), "42501");
    expect_error(stranger.simple_query("SELECT stranger.key()"), "42501");
    // A member of vault_ext_user can share its access: for the session's user only, and the trail names the caller.
    assert_eq!(text(&mut stranger, "SELECT app.key()"), key);
    assert_eq!(db.audit_of("alice").last().unwrap().db_role, "wire_stranger");
    // In a wrapper whose owner has no rights, the caller has none either.
    expect_error(db.app_for("alice").simple_query("SELECT stranger.key()"), "42501");
    for schema in ["app", "stranger"] {
        expect_error(stranger.simple_query(&format!("SELECT {schema}.wraps()")), "42501");
        expect_error(db.conn("wire_auditor").simple_query(&format!("SELECT {schema}.wraps()")), "42501");
    }
}

#[test]
fn a_view_shows_only_the_rows_of_the_session_s_user() {
    let db = shared_db();
    for user in ["alice", "bob", "bob"] {
        init(&mut db.app_for(user)).unwrap();
    }
    db.force(OWN_SCHEMAS);
    db.app()
        .batch_execute(
            "CREATE VIEW app.plain AS SELECT * FROM vault_ext.own_audit;
             CREATE VIEW app.barrier WITH (security_barrier) AS SELECT * FROM vault_ext.own_audit;
             CREATE VIEW app.invoker WITH (security_invoker) AS SELECT * FROM vault_ext.own_audit;
             CREATE TABLE app.data AS SELECT 1; CREATE VIEW app.ordinary AS SELECT * FROM app.data;
             CREATE VIEW app.key AS SELECT * FROM vault_get_master_key();
             GRANT SELECT ON ALL TABLES IN SCHEMA app TO PUBLIC; REVOKE ALL ON app.data FROM PUBLIC",
        )
        .unwrap();
    let mut other = db.conn("wire_app2");
    let mut stranger = db.conn("wire_stranger");
    for (user, rows) in [("alice", 1), ("bob", 2), ("carol", 0), ("", 0)] {
        set_user(&mut other, user);
        set_user(&mut stranger, user);
        for view in ["plain", "barrier", "invoker"] {
            assert_eq!(count(&mut other, &format!("SELECT count(*) FROM app.{view}")), rows, "{view} for {user}");
            // The functions of policies and of views run with the reader's rights.
            expect_error(stranger.simple_query(&format!("SELECT * FROM app.{view}")), "42501");
        }
        expect_error(stranger.simple_query("SELECT * FROM app.key"), "42501");
    }
    assert_eq!(
        count(&mut stranger, "SELECT count(*) FROM app.ordinary"),
        1,
        "other views do lend their owner's rights"
    );
}

/// Statements that work on one's own table. {t} is the table, {s} a schema, {i} an index of the table.
const ON_A_TABLE: &[&str] = &[
    "CREATE TABLE {s}.child () INHERITS ({t})",
    "CREATE TABLE {s}.part (user_id text REFERENCES {t})",
    "CREATE TABLE {s}.alike (LIKE {t})",
    "CREATE TABLE {s}.copied AS SELECT * FROM {t}",
    "CREATE INDEX ON {t} (user_id)",
    "CREATE STATISTICS {s}.stats ON user_id, wrapped_mk FROM {t}",
    "CREATE TRIGGER t AFTER INSERT ON {t} EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE CONSTRAINT TRIGGER c AFTER INSERT ON {t} DEFERRABLE FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE RULE r AS ON SELECT TO {t} DO INSTEAD SELECT * FROM {t}",
    "CREATE RULE r AS ON UPDATE TO {t} DO ALSO NOTHING",
    "CREATE POLICY p ON {t} USING (true)",
    "CREATE PUBLICATION p_{s} FOR TABLE {t}",
    "COMMENT ON TABLE {t} IS 'x'",
    "ALTER TABLE {t} ADD COLUMN x text DEFAULT current_user",
    "ALTER TABLE {t} ADD CONSTRAINT c CHECK (user_id <> 'x')",
    "ALTER TABLE {t} DISABLE TRIGGER ALL",
    "ALTER TABLE {t} REPLICA IDENTITY FULL",
    "ALTER TABLE {t} SET SCHEMA {s}",
    "GRANT REFERENCES, TRIGGER ON {t} TO PUBLIC",
    "SELECT * FROM {t} FOR SHARE",
    "TABLE {t}",
    "COPY (SELECT * FROM {t}) TO STDOUT",
    "COPY {t} (user_id) TO STDOUT",
    "UPDATE {t} SET wrapped_mk = wrapped_mk RETURNING *",
    "INSERT INTO {t} (user_id, wrapped_mk) VALUES ('bob', 'x') ON CONFLICT (user_id) DO UPDATE SET wrapped_mk = 'x' RETURNING *",
    "DELETE FROM {t} RETURNING *",
    "MERGE INTO {t} v USING (VALUES ('bob')) n(id) ON v.user_id = n.id WHEN MATCHED THEN UPDATE SET wrapped_mk = 'x'",
    "WITH gone AS (DELETE FROM {t} RETURNING *) SELECT * FROM gone",
    "DECLARE c CURSOR WITH HOLD FOR SELECT * FROM {t}",
    "PREPARE p AS SELECT * FROM {t}; EXECUTE p; DEALLOCATE p",
    "DO $$ DECLARE r record; BEGIN FOR r IN SELECT * FROM {t} LOOP END LOOP; END $$",
    "SELECT query_to_xml('SELECT * FROM {t}', true, true, '')",
    "SELECT table_to_xml('{t}', true, true, '')",
    "EXPLAIN SELECT * FROM {t}",
    "CLUSTER {t} USING {i}",
    "REINDEX TABLE {t}",
    "DROP TABLE {t}",
];

fn run(client: &mut Client, sql: &str) -> Result<(), postgres::Error> {
    if !sql.starts_with("COPY") {
        return client.batch_execute(sql);
    }
    client.copy_out(sql).map(|mut rows| drop(std::io::copy(&mut rows, &mut std::io::sink())))
}

#[test]
fn statements_that_work_on_one_s_own_table_are_refused_on_the_vaults() {
    let db = shared_db();
    let before = {
        init(&mut db.app_for("bob")).unwrap();
        db.vault_row("bob")
    };
    for role in ["wire_app", "wire_admin", "wire_auditor", "wire_stranger"] {
        let schema = format!("s_{role}");
        db.force(&format!(
            "CREATE SCHEMA {schema} AUTHORIZATION {role}; GRANT CREATE ON DATABASE \"{}\" TO {role};
             CREATE TABLE {schema}.plain (LIKE vault_ext.encryption_vaults INCLUDING DEFAULTS INCLUDING INDEXES);
             ALTER TABLE {schema}.plain ALTER format_version DROP NOT NULL, ALTER wrap_iv DROP NOT NULL, ALTER kek_id DROP NOT NULL;
             ALTER TABLE {schema}.plain OWNER TO {role}; CREATE SCHEMA {schema}_2 AUTHORIZATION {role}",
            db.name
        ));
        let mut client = db.conn(role);
        set_user(&mut client, "bob");
        for template in ON_A_TABLE {
            let on = |table: &str, index: &str| {
                template.replace("{t}", table).replace("{s}", &format!("{schema}_2")).replace("{i}", index)
            };
            let own = on(&format!("{schema}.plain"), "plain_pkey");
            client.batch_execute("BEGIN").unwrap();
            let result = run(&mut client, &own);
            if template.contains("_to_xml") && result.as_ref().is_err_and(|e| format!("{e:?}").contains("libxml")) {
                client.batch_execute("ROLLBACK").unwrap();
                continue; // this server was built without libxml
            }
            // A rule ON SELECT is refused on any table.
            let works = result.is_ok() || template.contains("ON SELECT TO");
            assert!(works, "the trick does not even work on one's own table: {own}: {result:?}");
            client.batch_execute("ROLLBACK").unwrap();
            let sql = on("vault_ext.encryption_vaults", "encryption_vaults_pkey");
            client.batch_execute("BEGIN").unwrap();
            let result = run(&mut client, &sql);
            client.batch_execute("ROLLBACK").unwrap();
            if template.starts_with("GRANT") && result.is_ok() {
                continue; // only a warning that nothing was granted; the golden list of grants would show a grant
            }
            let code = result.as_ref().err().and_then(|e| e.code()).map(|code| code.code());
            assert_eq!(code, Some("42501"), "{role}: {sql}: {result:?}");
        }
    }
    assert_eq!(db.vault_row("bob"), before);
    assert!(
        !db.value::<bool>(
            "SELECT has_table_privilege('wire_app', 'vault_ext.encryption_vaults', 'REFERENCES, TRIGGER')"
        )
    );
}

#[test]
fn the_server_s_files_programs_and_functions_are_out_of_reach() {
    let db = shared_db();
    db.force("GRANT CREATE ON SCHEMA public TO PUBLIC");
    for role in ["wire_app", "wire_admin", "wire_auditor", "wire_stranger"] {
        let mut client = db.conn(role);
        for sql in [
            "COPY (SELECT 1) TO PROGRAM 'cat'",
            "COPY (SELECT 1) TO '/tmp/vault'",
            "CREATE TEMP TABLE t (x text); COPY t FROM PROGRAM 'id'",
            "CREATE TEMP TABLE t (x text); COPY t FROM '/etc/passwd'",
            "SELECT pg_read_file('postgresql.conf')",
            "SELECT pg_ls_dir('.')",
            "SELECT lo_import('/etc/passwd')",
            "SET session_replication_role = replica",
            "SET SESSION AUTHORIZATION postgres",
            "SET ROLE postgres",
            "CREATE FUNCTION leak(text) RETURNS boolean LANGUAGE sql LEAKPROOF AS 'SELECT true'",
            "CREATE FUNCTION c() RETURNS int LANGUAGE c AS 'vault_ext', 'vault_init_wrapper'",
            "CREATE OR REPLACE FUNCTION vault_get_master_key() RETURNS vault_key LANGUAGE sql AS 'SELECT NULL::vault_key'",
            "CREATE OR REPLACE FUNCTION vault_ext.in_maintenance() RETURNS boolean LANGUAGE sql AS 'SELECT true'",
            "ALTER FUNCTION vault_get_master_key() SECURITY INVOKER",
            "ALTER FUNCTION vault_get_master_key() SET search_path = 'evil'",
            "ALTER EXTENSION vault_ext DROP FUNCTION vault_init()",
            "DROP EXTENSION vault_ext CASCADE",
            "DROP SCHEMA vault_ext CASCADE",
            "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "SELECT pg_create_logical_replication_slot('s', 'test_decoding')",
            "CREATE SUBSCRIPTION s CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false)",
            "ALTER SYSTEM SET vault_ext.kek_file = '/tmp/mine'",
            "SET vault_ext.on_bad_kek = 'disable'",
        ] {
            client.batch_execute("BEGIN").unwrap();
            let result = client.batch_execute(sql);
            client.batch_execute("ROLLBACK").unwrap();
            let code = result.as_ref().err().and_then(|e| e.code()).map(|code| code.code());
            // 25001: not in a transaction block; 55P02: not without a restart.
            assert!(matches!(code, Some("42501" | "25001" | "55P02")), "{role}: {sql}: {result:?}");
        }
        expect_error(client.batch_execute("ALTER SYSTEM SET vault_ext.kek_file = '/tmp/mine'"), "42501");
    }
}

#[test]
fn an_error_shows_nothing_of_other_users_rows() {
    let db = shared_db();
    let claims = "SET app.client_ip = '192.0.2.77'; SET app.user_agent = 'the-agent-of-bob'; SET app.request_id = 'the-request-of-bob'";
    let mut bob = db.app_for("bob");
    bob.batch_execute(claims).unwrap();
    init(&mut bob).unwrap();
    let mut alice = db.app_for("alice");
    init(&mut alice).unwrap();
    let tricks = [
        "user_agent::integer = 1",
        "request_id::date = 'today'",
        "1 / (id - id) = 1 AND user_agent = 'the-agent-of-bob'",
    ];
    for (i, trick) in tricks.iter().enumerate() {
        // Without protection.
        let unprotected =
            db.superuser().simple_query(&format!("SELECT FROM vault_ext.encryption_vault_audit WHERE {trick}"));
        let message = unprotected.expect_err(trick).as_db_error().unwrap().message().to_owned();
        assert!(message.contains("of-bob") || i == 2, "{message}");
        let result = alice.simple_query(&format!("SELECT * FROM vault_ext.own_audit WHERE {trick}"));
        let message = result.err().map(|error| error.as_db_error().unwrap().message().to_owned()).unwrap_or_default();
        assert!(!message.contains("of-bob"), "{message}");
    }
    let mut auditor = db.conn("wire_auditor");
    assert!(printed(&mut auditor, "SELECT * FROM vault_ext.encryption_vault_audit").contains("the-agent-of-bob"));
}

#[test]
fn explain_shows_no_key_and_the_calls_it_runs_are_recorded() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let key = init(&mut app).unwrap().master_key;
    let mut plan = String::new();
    for call in
        ["SELECT vault_get_master_key()", "SELECT * FROM vault_get_master_key()", "SELECT * FROM vault_ext.own_audit"]
    {
        plan += &printed(&mut app, &format!("EXPLAIN (ANALYZE, VERBOSE, BUFFERS, SETTINGS) {call}"));
    }
    assert!(plan.contains("vault_get_master_key"));
    assert_no_secrets(db.cluster, &[plan], &[decode(&key)]);
    assert_eq!(db.audit_of("alice").len(), 3);
}

#[test]
fn a_cursor_across_a_change_of_user_holds_no_more_than_it_had_fetched() {
    let db = shared_db();
    let alice = init(&mut db.app_for("alice")).unwrap().master_key;
    let bob = init(&mut db.app_for("bob")).unwrap().master_key;
    let mut app = db.app_for("alice");
    app.batch_execute(
        "BEGIN; DECLARE lazy CURSOR FOR SELECT master_key FROM vault_get_master_key();
         DECLARE own CURSOR FOR SELECT id FROM vault_ext.own_audit;
         DECLARE kept CURSOR WITH HOLD FOR SELECT master_key FROM vault_get_master_key()",
    )
    .unwrap();
    let calls = db.audit_of("alice").len();
    assert_eq!(calls, 1, "no key has been released yet");
    set_user(&mut app, "bob");
    assert_eq!(
        printed(&mut app, "FETCH ALL FROM lazy"),
        bob,
        "the user at the time of the FETCH decides whose key it is"
    );
    let rows = printed(&mut app, "FETCH ALL FROM own").lines().count();
    assert!(rows <= 1, "never the rows of two users: {rows}");
    set_user(&mut app, "alice");
    app.batch_execute("COMMIT").unwrap();
    // A cursor WITH HOLD runs at COMMIT and belongs to the session from then on, so a pooler needs DISCARD ALL.
    set_user(&mut app, "bob");
    assert_eq!(printed(&mut app, "FETCH ALL FROM kept"), alice);
    app.batch_execute("DISCARD ALL").unwrap();
    expect_error(app.simple_query("FETCH ALL FROM kept"), "34000");
    expect_vault_error(fetch(&mut app), "28000");
    assert_eq!((db.audit_of("alice").len(), db.audit_of("bob").len()), (2, 2));
}

#[test]
fn a_cached_plan_follows_a_change_of_role() {
    let db = shared_db();
    for user in ["alice", "bob"] {
        init(&mut db.app_for(user)).unwrap();
    }
    for mode in ["force_generic_plan", "force_custom_plan"] {
        let mut client = db.superuser();
        set_user(&mut client, "alice");
        client
            .batch_execute(&format!(
                "SET plan_cache_mode = {mode}; PREPARE trail AS SELECT count(*)::text FROM vault_ext.encryption_vault_audit;
                 PREPARE wraps AS SELECT count(*)::text FROM vault_ext.encryption_vaults;
                 PREPARE key AS SELECT (vault_get_master_key()).kek_id"
            ))
            .unwrap();
        for _ in 0..3 {
            for (become_role, trail, wraps, key) in [
                ("RESET SESSION AUTHORIZATION", Ok(2), Ok(2), true),
                ("SET ROLE vault_ext_auditor", Ok(2), Err(()), false),
                ("SET ROLE vault_ext_owner", Ok(1), Ok(1), true),
                ("RESET ROLE; SET SESSION AUTHORIZATION wire_app", Err(()), Err(()), true),
                ("SET SESSION AUTHORIZATION wire_stranger", Err(()), Err(()), false),
            ] {
                client.batch_execute(become_role).unwrap();
                for (statement, rows) in [("trail", trail), ("wraps", wraps)] {
                    let result = client.simple_query(&format!("EXECUTE {statement}"));
                    match rows {
                        Err(()) => drop(expect_error(result, "42501")),
                        Ok(least) => {
                            result.unwrap();
                            let rows: i64 = printed(&mut client, &format!("EXECUTE {statement}")).parse().unwrap();
                            let exact = statement == "wraps" || become_role.contains("RESET SESSION");
                            assert!(
                                rows >= least && (!exact || statement == "trail" || rows == least),
                                "{become_role}: {rows}"
                            );
                        }
                    }
                }
                match key {
                    true => drop(client.simple_query("EXECUTE key").unwrap()),
                    false => drop(expect_error(client.simple_query("EXECUTE key"), "42501")),
                }
            }
        }
    }
    let roles: Vec<_> = db.audit_of("alice").into_iter().map(|row| row.db_role).collect();
    assert!(roles.contains(&"wire_app".to_owned()) && roles.contains(&"vault_ext_owner".to_owned()), "{roles:?}");
}

#[test]
fn parallel_workers_and_jit_change_nothing() {
    let db = shared_db();
    let version: i32 = db.value("SELECT current_setting('server_version_num')::integer");
    let force = if version < 160_000 { "force_parallel_mode" } else { "debug_parallel_query" };
    db.force(OWN_SCHEMAS);
    db.app()
        .batch_execute(
            "CREATE FUNCTION app.key() RETURNS text LANGUAGE sql PARALLEL SAFE AS 'SELECT master_key FROM public.vault_get_master_key()';
             CREATE FUNCTION app.made() RETURNS text LANGUAGE sql PARALLEL SAFE AS 'SELECT master_key FROM public.vault_init()';
             CREATE FUNCTION app.turned() RETURNS text LANGUAGE sql PARALLEL SAFE AS 'SELECT master_key FROM public.vault_rotate()'",
        )
        .unwrap();
    let bob = init(&mut db.app_for("bob")).unwrap();
    let mut app = db.app_for("alice");
    app.batch_execute(&format!(
        "SET {force} = on; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
         SET jit = on; SET jit_above_cost = 0; SET jit_inline_above_cost = 0; SET jit_optimize_above_cost = 0"
    ))
    .unwrap();
    assert!(printed(&mut app, "EXPLAIN SELECT app.key()").contains("Gather"), "the call must run in a worker");
    let mut released = 0;
    let key = init(&mut app).unwrap();
    assert_eq!(fetch(&mut app).unwrap(), key);
    assert_eq!(rotate(&mut app).unwrap().key_version, 2);
    let key = fetch(&mut app).unwrap().master_key;
    released += 4;
    // A wrapper falsely declared PARALLEL SAFE gives the right key or an error, and a row for each key.
    for (call, user, expected) in [
        ("SELECT app.key()", "alice", Some(&key)),
        ("SELECT app.made()", "alice", Some(&key)),
        ("SELECT app.turned()", "alice", None),
        ("SELECT app.key() FROM generate_series(1, 3) LIMIT 1", "alice", None),
    ] {
        set_user(&mut app, user);
        if let Ok(row) = app.query_one(call, &[]) {
            released += 1;
            let got: String = row.get(0);
            assert!(expected.is_none_or(|key| *key == got) && got != bob.master_key, "{call}");
        }
    }
    let rows = db.audit_of("alice").into_iter().filter(|row| row.status < 300).count();
    assert!(rows >= released, "{released} keys, {rows} rows");
    assert!(count(&mut app, "SELECT count(*) FROM vault_ext.own_audit") >= rows as i64);
    set_user(&mut app, "bob");
    assert_eq!(count(&mut app, "SELECT count(*) FROM vault_ext.own_audit"), 1);
    assert_eq!(fetch(&mut app).unwrap(), bob);
}

#[test]
fn calls_notify_nobody() {
    let db = shared_db();
    let mut listener = db.conn("wire_stranger");
    let channels = [
        "vault",
        "vault_ext",
        "vault_init",
        "vault_rotate",
        "encryption_vaults",
        "encryption_vault_audit",
        "keks",
        "audit",
    ];
    for channel in channels {
        listener.batch_execute(&format!("LISTEN {channel}")).unwrap();
    }
    let mut app = db.app_for("alice");
    init(&mut app).unwrap();
    rotate(&mut app).unwrap();
    db.conn("wire_admin").simple_query("SELECT vault_erase('alice')").unwrap();
    app.batch_execute("NOTIFY vault, 'by hand'").unwrap();
    let mut notifications = listener.notifications();
    let first = notifications.timeout_iter(Duration::from_secs(60)).next().unwrap();
    assert_eq!(
        first.map(|n| n.payload().to_owned()).as_deref(),
        Some("by hand"),
        "a notification of a call would come first"
    );
}

/// A server with logical decoding and the powerful roles of this part.
fn server_with_powers() -> Cluster {
    let cluster = Cluster::builder()
        .with_wire_kek()
        .without_fsync()
        .conf("wal_level = logical")
        .conf("log_statement = all")
        .start();
    cluster
        .superuser("postgres")
        .batch_execute(
            "CREATE ROLE reader LOGIN; GRANT pg_read_all_data TO reader; 
             CREATE ROLE read_write LOGIN; GRANT pg_read_all_data, pg_write_all_data TO read_write;
             CREATE ROLE monitor LOGIN; GRANT pg_monitor TO monitor;
             CREATE ROLE replicator LOGIN REPLICATION; CREATE ROLE creator LOGIN CREATEROLE",
        )
        .unwrap();
    cluster
}

const CALLS: [&str; 4] = ["vault_init", "vault_get_master_key", "vault_rotate", "vault_status"];

#[test]
fn pg_read_all_data_reads_what_security_md_says() {
    let cluster = server_with_powers();
    let db = cluster.database("d");
    for user in ["alice", "bob"] {
        init(&mut db.app_for(user)).unwrap();
    }
    db.force("ANALYZE");
    let mut reader = db.conn("reader");
    let counts = "SELECT format('%s %s %s', (SELECT count(*) FROM vault_ext.encryption_vaults),
        (SELECT count(*) FROM vault_ext.encryption_vault_audit), (SELECT count(*) FROM vault_ext.keks))";
    assert_eq!(text(&mut reader, counts), "0 0 1", "row-level security binds it");
    set_user(&mut reader, "bob");
    assert_eq!(text(&mut reader, counts), "0 0 1", "whoever it claims to act for");
    let stats = "SELECT string_agg(DISTINCT tablename, ' ') FROM pg_stats WHERE schemaname = 'vault_ext'";
    assert_eq!(text(&mut reader, stats), "keks", "it sees no statistics of tables with row-level security");
    assert!(db.value::<String>(stats).contains("encryption_vaults"), "the statistics do exist");
    for call in CALLS {
        expect_error(reader.simple_query(&format!("SELECT {call}()")), "42501");
    }
    expect_error(reader.simple_query("UPDATE vault_ext.encryption_vaults SET key_version = 2"), "42501");
    let rows: i64 = count(
        &mut db.conn("wire_stranger"),
        "SELECT reltuples::bigint FROM pg_class WHERE relname = 'encryption_vaults'",
    );
    assert_eq!(rows, 2, "everybody sees the number of vaults");
    let mut monitor = db.conn("monitor");
    expect_error(monitor.simple_query("SELECT * FROM vault_ext.keks"), "42501");
    assert_eq!(count(&mut monitor, "SELECT count(*) FROM pg_stats WHERE schemaname = 'vault_ext'"), 0);
}

#[test]
fn pg_write_all_data_writes_what_security_md_says() {
    let cluster = server_with_powers();
    let db = cluster.database("d");
    let bob = init(&mut db.app_for("bob")).unwrap();
    let trail = db.audit().len();
    let mut writer = db.conn("read_write");
    for user in ["nobody", "bob"] {
        set_user(&mut writer, user);
        writer.batch_execute("BEGIN").unwrap();
        for (sql, rows) in [
            ("UPDATE vault_ext.encryption_vaults SET wrapped_mk = repeat('A', 64)", 0),
            ("DELETE FROM vault_ext.encryption_vaults", 0),
            ("UPDATE vault_ext.encryption_vault_audit SET status = 500", 0),
            ("DELETE FROM vault_ext.encryption_vault_audit", 0),
            ("UPDATE vault_ext.keks SET retired_at = now()", 1),
            ("UPDATE vault_ext.keks SET check_value = repeat('0', 32)", 1),
        ] {
            assert_eq!(writer.execute(sql, &[]).unwrap(), rows, "{user}: {sql}");
        }
        writer.batch_execute("ROLLBACK").unwrap();
    }
    for sql in [
        "INSERT INTO vault_ext.encryption_vault_audit (user_id, action, status, db_role) VALUES ('bob', 'forged', 200, 'x')",
        "INSERT INTO vault_ext.own_audit (action, status, db_role) VALUES ('forged', 200, 'x')",
        "INSERT INTO vault_ext.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id)
            VALUES ('bob', repeat('A', 64), repeat('A', 32), 2, 'wire-1')",
        "TRUNCATE vault_ext.encryption_vault_audit",
        "LOCK TABLE vault_ext.encryption_vault_audit IN ACCESS EXCLUSIVE MODE",
        "ALTER TABLE vault_ext.keks DISABLE TRIGGER ALL",
    ] {
        writer.batch_execute("BEGIN").unwrap();
        let result = writer.batch_execute(sql);
        writer.batch_execute("ROLLBACK").unwrap();
        let code = result.as_ref().err().and_then(|e| e.code()).map(|code| code.code());
        // The DELETE privilege allows the lock. Callers then fail closed.
        let locks = sql.starts_with("LOCK") && result.is_ok();
        assert!(locks || code == Some("42501"), "{sql}: {result:?}");
    }
    for call in CALLS {
        expect_error(writer.simple_query(&format!("SELECT {call}()")), "42501");
    }
    assert_eq!(db.audit().len(), trail, "the trail is unchanged");
    assert_eq!(fetch(&mut db.app_for("bob")).unwrap(), bob);
    // It can make calls fail, and then no key is released.
    let last = "SELECT setval('vault_ext.encryption_vault_audit_id_seq', last_value) FROM vault_ext.encryption_vault_audit_id_seq";
    writer.simple_query(last).unwrap();
    writer.simple_query("UPDATE vault_ext.keks SET check_value = repeat('0', 32)").unwrap();
    expect_vault_error(init(&mut db.app_for("dave")), "55000");
    assert_eq!(db.vault_row("dave"), None);
}

#[test]
fn a_replication_role_sees_wraps_and_rows_and_no_key() {
    let cluster = server_with_powers();
    let db = cluster.database("d");
    let mut replicator = db.conn("replicator");
    db.force("CREATE PUBLICATION p FOR ALL TABLES");
    replicator.simple_query("SELECT pg_create_logical_replication_slot('s', 'pgoutput')").unwrap();
    let mut app = db.app_for("alice");
    let keys = [init(&mut app).unwrap(), rotate(&mut app).unwrap(), fetch(&mut app).unwrap()];
    let wrap: String = db.value("SELECT wrapped_mk FROM vault_ext.encryption_vaults");
    let sql = "SELECT encode(data, 'escape')
        FROM pg_logical_slot_get_binary_changes('s', NULL, NULL, 'proto_version', '1', 'publication_names', 'p')";
    let changes = printed(&mut replicator, sql);
    assert!(changes.contains(&wrap) && changes.contains("encryption_vault_audit"), "{changes}");
    expect_error(replicator.simple_query("SELECT * FROM vault_ext.encryption_vaults"), "42501");
    let mut secrets: Vec<_> = keys.iter().map(|key| decode(&key.master_key)).collect();
    secrets.push(kek(1).to_vec());
    assert_no_secrets(&cluster, &[changes], &secrets);
    assert_no_secrets_in_files(&[&cluster.data()], &secrets);
    drop(replicator);
    db.force("SELECT pg_drop_replication_slot('s')");
}

#[test]
fn a_createrole_role_can_become_the_owner_before_postgresql_16() {
    let cluster = server_with_powers();
    let db = cluster.database("d");
    for user in ["alice", "bob"] {
        init(&mut db.app_for(user)).unwrap();
    }
    let mut creator = db.conn("creator");
    let granted = creator.batch_execute("GRANT vault_ext_owner TO creator");
    if db.value::<i32>("SELECT current_setting('server_version_num')::integer") >= 160_000 {
        expect_error(granted, "42501");
        expect_error(creator.batch_execute("GRANT vault_ext_user TO creator"), "42501");
        return;
    }
    granted.unwrap();
    creator.batch_execute("SET ROLE vault_ext_owner").unwrap();
    let vaults = "SELECT count(*) FROM vault_ext.encryption_vaults";
    assert_eq!(count(&mut creator, vaults), 0, "the policies still apply");
    creator
        .batch_execute(
            "SET vault_ext.allow_alter = on; ALTER TABLE vault_ext.encryption_vaults DISABLE ROW LEVEL SECURITY",
        )
        .unwrap();
    assert_eq!(count(&mut creator, vaults), 2, "the owner can disable the policies");
}

#[test]
fn a_key_that_the_application_uses_in_sql_can_show_in_errors_and_logs() {
    let cluster = server_with_powers();
    let db = cluster.database("d");
    let mut app = db.app_for("alice");
    let key = init(&mut app).unwrap().master_key;
    assert_no_secrets(&cluster, &[], &[decode(&key)]);
    // PostgreSQL quotes values in error messages and logs parameters.
    let refusal = expect_error(app.simple_query("SELECT (vault_get_master_key()).master_key::integer"), "22P02");
    assert!(refusal.text().contains(&key));
    let key = rotate(&mut app).unwrap().master_key;
    app.query_one("SELECT length($1::text)", &[&key]).unwrap();
    let log = String::from_utf8_lossy(&cluster.log_bytes()).into_owned();
    assert!(log.contains(&key));
}
