//! Objects with the same names as PostgreSQL's own, placed first in a caller's search_path or in the target schema
//! before CREATE EXTENSION. Each of them raises an error when it is used.

use postgres::Client;

use crate::harness::{Db, base64, decode, expect_error, fetch, init, set_user, shared_db};
use crate::recovery_client::{Recovery, challenge, clear_recovery, disable, enable, proof};

/// Creates a twin in schema `evil` for each function, operator, type and table of pg_catalog that can have one.
const TWINS: &str = r#"
CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC;
CREATE FUNCTION evil.reached(anyelement) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'reached a type'; END $$;
CREATE FUNCTION evil.reached() RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'reached a table'; END $$;
CREATE FUNCTION pg_temp.try(command text) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN EXECUTE command; EXCEPTION WHEN others THEN END $$;
SELECT count(pg_temp.try(format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql AS
        $f$ BEGIN RAISE EXCEPTION ''reached the function %s''; END $f$', proname,
        (SELECT string_agg(t::regtype::text, ', ' ORDER BY i) FROM unnest(proargtypes) WITH ORDINALITY a(t, i)),
        prorettype::regtype, proname)))
    FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND NOT proretset AND provariadic = 0;
SELECT count(pg_temp.try(format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql AS
            $f$ BEGIN RAISE EXCEPTION ''reached an operator''; END $f$;
        CREATE OPERATOR evil.%s (%s RIGHTARG = %s, FUNCTION = evil.%1$I)', 'op_' || oid,
        concat_ws(', ', nullif(oprleft, 0)::regtype, oprright::regtype), oprresult::regtype, oprname,
        CASE WHEN oprleft <> 0 THEN 'LEFTARG = ' || oprleft::regtype || ',' END, oprright::regtype)))
    FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprresult <> 0;
SELECT count(pg_temp.try(format('CREATE DOMAIN evil.%I AS %s CHECK (evil.reached(VALUE))', typname, oid::regtype)))
    FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r') AND typcategory <> 'A';
SELECT count(pg_temp.try(format('CREATE VIEW evil.%I AS SELECT evil.reached()', relname)))
    FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v');
GRANT SELECT ON ALL TABLES IN SCHEMA evil TO PUBLIC;
"#;

fn make_twins(db: &Db) {
    db.force(TWINS);
    let counts = "SELECT (SELECT count(*) FROM pg_proc WHERE pronamespace = 'evil'::regnamespace AND proname NOT LIKE 'op\\_%') > 2000
        AND (SELECT count(*) FROM pg_operator WHERE oprnamespace = 'evil'::regnamespace) > 700
        AND (SELECT count(*) FROM pg_type WHERE typnamespace = 'evil'::regnamespace AND typtype = 'd') > 60
        AND (SELECT count(*) FROM pg_class WHERE relnamespace = 'evil'::regnamespace AND relkind = 'v') > 100";
    assert!(db.value::<bool>(counts), "too few twins were created");
}

/// Checks that unprotected statements, which name no schema, reach each kind of twin in that session.
fn assert_twins_are_reached(client: &mut Client) {
    for (sql, what) in [
        ("SELECT now()", "reached the function now"),
        ("SELECT 1 + 1", "reached an operator"),
        ("SELECT '{r}'::\"char\"[]", "reached a type"),
        ("SELECT * FROM pg_policy", "reached a table"),
    ] {
        let refusal = expect_error(client.simple_query(sql), "P0001");
        assert_eq!(refusal.message, what);
    }
}

/// A row in the predecessor's format, which gives a rewrap something to do.
const OLD_ROW: &str = "INSERT INTO vault_ext.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id)
    VALUES ('old', 'EkoYuy/eugLj+TUwymd4xT07qypjikNu+XfObRXpLsp1LPM+pXxISRohaJtl0f9/', 'EBESExQVFhcYGRob', 1, 'env-v1')";

#[test]
fn no_call_reaches_a_twin_in_the_callers_search_path() {
    let db = shared_db();
    db.force(OLD_ROW);
    db.force("INSERT INTO vault_ext.keks (kek_id, check_value) VALUES ('gone', repeat('0', 32))");
    db.force(
        "CREATE TABLE users (id text); GRANT ALL ON users TO wire_app; INSERT INTO users VALUES ('alice');
         CREATE TRIGGER erase AFTER DELETE ON users FOR EACH ROW EXECUTE FUNCTION vault_erase_on_delete('id')",
    );
    let fingerprint: String = db.value("SELECT fingerprint FROM vault_import_key()");
    db.force(&format!("ALTER DATABASE {} SET vault_ext.export_recipients = '{fingerprint}'", db.name));
    make_twins(&db);
    // This applies to every session of the database, including the audit writer.
    db.force(&format!("ALTER DATABASE \"{}\" SET search_path = evil, pg_catalog, public", db.name));
    let mut app = db.app();
    assert_twins_are_reached(&mut app);
    app.batch_execute("SET app.current_user_id = 'alice'; SET app.client_ip = '192.0.2.1'").unwrap();
    for sql in [
        "SELECT vault_init()",
        "SELECT vault_get_master_key()",
        "SELECT vault_rotate()",
        "SELECT vault_status()",
        "SELECT * FROM vault_key_versions()",
        "SELECT vault_get_key_version(1)",
        "SELECT vault_disable_key_version(1)",
        "SELECT vault_restore_key_version(1)",
        "SELECT vault_seal_master_key('W97SEWH7RyiC/6n1DwmsIKgFu8v1ZVuAfKy2ITNX+XY=', 1)",
        "SELECT vault_seal_derived_key('W97SEWH7RyiC/6n1DwmsIKgFu8v1ZVuAfKy2ITNX+XY=', 'files')",
        "SELECT vault_lookup_index('x', 'y')",
        "SELECT vault_retire_key_version(1)",
        "SELECT vault_rotate(destroy_old => true)",
        "SELECT vault_grant(NULL, 'wire_service', '1 day', 'a test')",
        "SELECT vault_revoke_grant(1)",
        "SELECT vault_grant(NULL, 'wire_service', '1 day', 'a test', 3)",
        "SELECT * FROM vault_ext.own_grants",
        "SELECT vault_decrypt_text(vault_encrypt('x', 'c'), 'c')",
        "SELECT vault_reencrypt(vault_encrypt('x', 'c'), 'c')",
        "SELECT vault_blind_index('x', 'y')",
        "SELECT vault_derive_key('x', 3)",
        "SELECT * FROM vault_ext.own_audit",
        "DELETE FROM public.users",
        "SELECT vault_init()",
    ] {
        app.simple_query(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    for (login, sql) in [
        ("wire_grantor", "SELECT vault_grant_for('alice', 'wire_service', '1 day', 'a test', 3)"),
        ("wire_grantor2", "SELECT vault_approve_grant(3)"),
        (
            "wire_service",
            "SELECT vault_get_master_key_of('alice'); SELECT * FROM vault_get_master_keys(ARRAY['alice']); SELECT vault_retire_grant(3)",
        ),
    ] {
        let mut client = db.conn(login);
        assert_twins_are_reached(&mut client);
        client.simple_query(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    let mut admin = db.conn("wire_admin");
    assert_twins_are_reached(&mut admin);
    for sql in [
        "SELECT * FROM vault_check()",
        "SELECT * FROM vault_kek_status()",
        "SELECT * FROM vault_reload_kek()",
        "SELECT vault_retire_kek('gone')",
        "CALL vault_rewrap()",
        "SELECT * FROM vault_ext.rewrap_progress",
        "SELECT * FROM vault_ext.audit_stats",
        "SELECT * FROM vault_ext.keks",
        "SELECT * FROM vault_health()",
        "SELECT vault_rename_user('alice', 'alicia')",
        "CREATE TEMP TABLE moving AS SELECT vault_export('alicia', kek_id, public_key) AS bundle FROM vault_import_key()",
        "SELECT vault_import(bundle) FROM moving",
        "SELECT vault_erase('alicia')",
        "SELECT vault_import(bundle) FROM moving",
        "SELECT vault_erase('alicia')",
        "SELECT vault_purge_audit('1 day')",
    ] {
        admin.simple_query(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    db.conn("wire_auditor").simple_query("SELECT * FROM vault_ext.encryption_vault_audit").unwrap();
    db.force(&format!("ALTER DATABASE \"{}\" RESET search_path", db.name));
    let format: i16 = db.value("SELECT format_version FROM vault_ext.encryption_vaults WHERE user_id = 'old'");
    assert_eq!(format, 2, "the rewrap converted the row");
    assert_eq!(db.audit_of("alice").len(), 27);
}

#[test]
fn no_call_of_zero_knowledge_mode_reaches_one_either() {
    let db = shared_db();
    let key = decode(&init(&mut db.app_for("alice")).unwrap().master_key);
    let recovery = Recovery::of(&key);
    make_twins(&db);
    db.force(&format!("ALTER DATABASE \"{}\" SET search_path = evil, pg_catalog, public", db.name));
    let mut app = db.app();
    assert_twins_are_reached(&mut app);
    app.batch_execute("SET app.current_user_id = 'alice'").unwrap();
    // In the simple protocol: the client would look up other result types, in the catalogs that the twins stand before.
    let set = format!("SELECT vault_set_recovery('{}', '{}')", recovery.wrapped_mk, recovery.iv);
    app.batch_execute(&set).unwrap();
    let nonce = challenge(&mut app).unwrap();
    assert!(enable(&mut app, Some(&proof(&key, &nonce))).unwrap());
    app.batch_execute("SELECT vault_get_master_key()").unwrap();
    assert!(disable(&mut app, &key).unwrap());
    assert!(clear_recovery(&mut app).unwrap());
    db.force(&format!("ALTER DATABASE \"{}\" RESET search_path", db.name));
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap().master_key, base64(&key));
}

#[test]
fn no_call_of_an_erasure_reaches_one_either() {
    let db = shared_db();
    crate::erasure::allow_no_wait(&db);
    let keys = crate::versions::versions_of(&mut db.app_for("alice"), 3);
    crate::versions::versions_of(&mut db.app_for("bob"), 1);
    make_twins(&db);
    db.force(&format!("ALTER DATABASE \"{}\" SET search_path = evil, pg_catalog, public", db.name));
    let mut app = db.app();
    assert_twins_are_reached(&mut app);
    app.batch_execute("SET app.current_user_id = 'alice'").unwrap();
    let mut admin = db.conn("wire_admin");
    assert_twins_are_reached(&mut admin);
    app.batch_execute("SELECT vault_retire_key_version(1, '0'); SELECT vault_retire_key_version(2, '0')").unwrap();
    app.batch_execute("SELECT vault_restore_key_version(2)").unwrap();
    for sql in [
        "SELECT vault_schedule_erase('alice', '7 days', 'x')",
        "SELECT * FROM vault_erasure_status('alice')",
        "CALL vault_destroy_due()",
        "SELECT vault_cancel_erase('alice')",
        "SELECT vault_schedule_erase('bob', '0', 'x')",
        "CALL vault_destroy_due()",
        "SELECT * FROM vault_erasure_status('bob')",
    ] {
        admin.simple_query(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    db.force(&format!("ALTER DATABASE \"{}\" RESET search_path", db.name));
    let mut app = db.app_for("alice");
    assert_eq!(crate::versions::states(&mut app), "4 current, 3 decrypt_only, 2 decrypt_only, 1 destroyed");
    crate::versions::assert_open(&mut app, &keys[1..]);
    assert_eq!(db.vault_row("bob"), None);
}

#[test]
fn a_domain_named_like_a_type_does_not_run_as_the_owner() {
    let db = shared_db();
    init(&mut db.app_for("bob")).unwrap();
    db.force("CREATE SCHEMA evil AUTHORIZATION wire_admin");
    let mut admin = db.conn("wire_admin");
    admin
        .batch_execute(
            "CREATE TABLE evil.ran (who text); GRANT ALL ON evil.ran TO PUBLIC; GRANT USAGE ON SCHEMA evil TO PUBLIC;
             CREATE FUNCTION evil.run() RETURNS boolean LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO evil.ran VALUES (current_user); RETURN true; END $$;
             CREATE DOMAIN evil.\"char\" AS pg_catalog.\"char\" CHECK (evil.run());
             SET search_path = evil, pg_catalog, public",
        )
        .unwrap();
    for sql in [
        "SELECT * FROM vault_check()",
        "SELECT * FROM vault_kek_status()",
        "SELECT * FROM vault_reload_kek()",
        "CALL vault_rewrap()",
        "CALL vault_destroy_due()",
    ] {
        admin.simple_query(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    // As the owner, the function could have read every wrap while the policies allow maintenance.
    let ran = "SELECT string_agg(who, ' ') FROM evil.ran";
    assert_eq!(db.value::<Option<String>>(ran), None);
    admin.simple_query("SELECT '{r}'::\"char\"[]").unwrap();
    assert_eq!(db.value::<String>(ran), "wire_admin", "a cast without a schema runs it");
}

/// Operators and functions for argument types that PostgreSQL's own do not cover. They match exactly and so win over
/// every built-in that needs a conversion.
const BETTER_MATCHES: &str = r#"
DO $do$
DECLARE
    types regtype[] := '{smallint,integer,bigint,numeric,real,double precision,text,varchar,name,interval,timestamptz,timestamp,date,boolean,oid}';
    l regtype; r regtype; op text;
BEGIN
    FOREACH l IN ARRAY types LOOP
        FOREACH r IN ARRAY types LOOP
            EXECUTE format('CREATE FUNCTION public.reached(%s, %s) RETURNS boolean LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION ''reached as %%'', current_user; END $$', l, r);
            FOREACH op IN ARRAY '{=,<>,<,<=,>,>=,+,-,*,/,||,~}'::text[] LOOP
                CONTINUE WHEN EXISTS (SELECT FROM pg_operator WHERE oprname = op AND oprleft = l AND oprright = r);
                EXECUTE format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.reached)', op, l, r);
            END LOOP;
        END LOOP;
        FOREACH op IN ARRAY '{octet_length,round,current_setting,now,clock_timestamp,pg_is_in_recovery,pg_postmaster_start_time}'::text[] LOOP
            CONTINUE WHEN EXISTS (SELECT FROM pg_proc WHERE proname = op AND pronargs = 1 AND proargtypes[0] = l);
            EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS %2$s LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION ''reached as %%'', current_user; END $$', op, l);
        END LOOP;
    END LOOP;
END $do$"#;

#[test]
fn objects_in_the_target_schema_before_the_install_are_not_used() {
    let db = shared_db();
    db.force("DROP EXTENSION vault_ext; GRANT CREATE ON SCHEMA public TO wire_stranger");
    db.conn("wire_stranger").batch_execute(BETTER_MATCHES).unwrap();
    db.force("CREATE EXTENSION vault_ext SCHEMA public");
    let used: Vec<String> = db
        .superuser()
        .query(
            "SELECT DISTINCT format('%s uses %s', pg_describe_object(classid, objid, objsubid),
                pg_describe_object(refclassid, refobjid, refobjsubid))
             FROM pg_depend WHERE deptype = 'n' AND classid NOT IN ('pg_operator'::regclass, 'pg_proc'::regclass) AND (
                refclassid = 'pg_operator'::regclass AND refobjid IN (SELECT oid FROM pg_operator WHERE oprowner = 'wire_stranger'::regrole)
                OR refclassid = 'pg_proc'::regclass AND refobjid IN (SELECT oid FROM pg_proc WHERE proowner = 'wire_stranger'::regrole))",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(used, [""; 0]);
    // An unprotected view with such an operator runs the stranger's function with the rights of its reader.
    db.force("CREATE VIEW naive AS SELECT 1::bigint / 2::numeric AS half; GRANT SELECT ON naive TO wire_admin");
    let mut admin = db.conn("wire_admin");
    let refusal = expect_error(admin.simple_query("SELECT * FROM naive"), "P0001");
    assert_eq!(refusal.message, "reached as wire_admin");

    let mut app = db.app();
    app.batch_execute("SET app.current_user_id = 'alice'").unwrap();
    for sql in ["SELECT vault_init()", "SELECT vault_rotate()", "SELECT * FROM vault_ext.own_audit"] {
        app.simple_query(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    db.force(OLD_ROW);
    for sql in [
        "CALL vault_rewrap()",
        "SELECT * FROM vault_ext.rewrap_progress",
        "SELECT * FROM vault_check()",
        "SELECT * FROM vault_kek_status()",
        "SELECT * FROM vault_health()",
        "SELECT vault_schedule_erase('alice', '7 days', 'x')",
        "SELECT * FROM vault_erasure_status('alice')",
        "CALL vault_destroy_due()",
        "SELECT vault_cancel_erase('alice')",
        "SELECT vault_rename_user('alice', 'alicia')",
        "SELECT vault_erase('alicia')",
        "SELECT vault_purge_audit('1 day')",
    ] {
        admin.simple_query(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
}

#[test]
fn settings_that_change_how_sql_is_read_or_printed_do_not_change_results() {
    let db = shared_db();
    let key = init(&mut db.app_for("alice")).unwrap();
    for setting in [
        "quote_all_identifiers = on",
        "standard_conforming_strings = off",
        "transform_null_equals = on",
        "array_nulls = off",
        "DateStyle = 'German, DMY'",
        "IntervalStyle = 'sql_standard'",
        "TimeZone = 'Pacific/Chatham'",
        "extra_float_digits = -15",
        "search_path = ''",
        "search_path = 'vault_ext, public'",
        "enable_indexscan = off",
        "constraint_exclusion = off",
    ] {
        let mut app = db.app();
        set_user(&mut app, "alice");
        app.batch_execute(&format!("SET {setting}")).unwrap();
        let row = app.query_one("SELECT master_key FROM public.vault_get_master_key()", &[]).unwrap();
        assert_eq!(row.get::<_, String>(0), key.master_key, "{setting}");
        let mut admin = db.conn("wire_admin");
        admin.batch_execute(&format!("SET {setting}")).unwrap();
        let row = admin.query_one("SELECT outcome, vaults FROM public.vault_check()", &[]);
        let row = row.unwrap_or_else(|e| panic!("{setting}: {e:?}"));
        assert_eq!((row.get::<_, &str>(0), row.get::<_, i64>(1)), ("opens", 1), "{setting}");
    }
}
