//! Privileges: every kind of role tries every function, procedure, table, view and sequence of the extension. The
//! expected outcomes come from the table in SECURITY.md, so that the table is true and complete.

use std::collections::{BTreeMap, BTreeSet};

use postgres::{Client, SimpleQueryMessage};

use crate::harness::{Db, init, rotate, set_user, shared_db};

const SECURITY: &str = include_str!("../../SECURITY.md");

/// The columns of the table, each with a login role or a role that a superuser switches to.
const ROLES: [(&str, &str); 9] = [
    ("nobody", "wire_stranger"),
    ("`vault_ext_user`", "wire_app"),
    ("`vault_ext_crypt`", "wire_crypt"),
    ("`vault_ext_admin`", "wire_admin"),
    ("`vault_ext_auditor`", "wire_auditor"),
    ("`vault_ext_grantor`", "wire_grantor"),
    ("`vault_ext_service`", "wire_service"),
    ("`vault_ext_owner`", "vault_ext_owner"),
    ("superuser", "postgres"),
];

fn become_role(db: &Db, role: &str) -> Client {
    let mut client = if role == "vault_ext_owner" {
        let mut superuser = db.superuser();
        superuser.batch_execute("SET ROLE vault_ext_owner").unwrap();
        superuser
    } else {
        db.conn(role)
    };
    set_user(&mut client, "alice");
    client
}

/// The statement that calls a function. A new function without a line here fails the test.
pub fn call_of(name: &str) -> &'static str {
    match name {
        "vault_init()" => "SELECT vault_init()",
        "vault_get_master_key()" => "SELECT vault_get_master_key()",
        "vault_rotate()" => "SELECT vault_rotate()",
        "vault_status()" => "SELECT vault_status()",
        "vault_init(text)" => "SELECT vault_init('x')",
        "vault_get_master_key(text)" => "SELECT vault_get_master_key('x')",
        "vault_rotate(text)" => "SELECT vault_rotate('x')",
        "vault_status(text)" => "SELECT vault_status('x')",
        "vault_grant(text,regrole,interval,text,integer,timestamp with time zone)" => {
            "SELECT vault_grant(NULL, 'wire_service', '1 day', 'test')"
        }
        "vault_grant_for(text,regrole,interval,text,integer,timestamp with time zone)" => {
            "SELECT vault_grant_for('carol', 'wire_service', '1 day', 'test')"
        }
        "vault_approve_grant(bigint)" => "SELECT vault_approve_grant(1)",
        "vault_revoke_grant(bigint)" => "SELECT vault_revoke_grant(1)",
        "vault_revoke_grant(text,bigint)" => "SELECT vault_revoke_grant('x', 1)",
        "vault_retire_grant(bigint)" => "SELECT vault_retire_grant(1)",
        "vault_get_master_key_of(text)" => "SELECT vault_get_master_key_of('carol')",
        "vault_get_master_keys(text[])" => "SELECT * FROM vault_get_master_keys(ARRAY['carol'])",
        "vault_set_recovery(text,text)" => "SELECT vault_set_recovery('x', 'x')",
        "vault_clear_recovery()" => "SELECT vault_clear_recovery()",
        "vault_recovery_challenge()" => "SELECT vault_recovery_challenge()",
        "vault_enable_zero_knowledge(bytea)" => "SELECT vault_enable_zero_knowledge()",
        "vault_disable_zero_knowledge(text)" => "SELECT vault_disable_zero_knowledge('x')",
        "vault_seal_master_key(text,integer)" => {
            "SELECT vault_seal_master_key('W97SEWH7RyiC/6n1DwmsIKgFu8v1ZVuAfKy2ITNX+XY=')"
        }
        "vault_seal_derived_key(text,text,integer)" => {
            "SELECT vault_seal_derived_key('W97SEWH7RyiC/6n1DwmsIKgFu8v1ZVuAfKy2ITNX+XY=', 'files')"
        }
        "vault_seal_derived_key(text,bytea,text)" => {
            "SELECT vault_seal_derived_key('W97SEWH7RyiC/6n1DwmsIKgFu8v1ZVuAfKy2ITNX+XY=', ''::bytea, 'files')"
        }
        "vault_import_key()" => "SELECT * FROM vault_import_key()",
        "vault_export(text,text,text)" => {
            "SELECT vault_export('carol', 'wire-1', 'W97SEWH7RyiC/6n1DwmsIKgFu8v1ZVuAfKy2ITNX+XY=')"
        }
        "vault_import(text)" => "SELECT vault_import('x')",
        "vault_user_id()" => "SELECT vault_user_id()",
        "vault_claims()" => "SELECT vault_claims()",
        "vault_whoami()" => "SELECT vault_whoami()",
        "vault_login(text)" => "SELECT vault_login('x')",
        "vault_session()" => "SELECT vault_session()",
        "vault_challenge()" => "SELECT vault_challenge()",
        "vault_reload_issuers()" => "SELECT vault_reload_issuers()",
        "vault_identity_status()" => "SELECT vault_identity_status()",
        "vault_revoke_tokens(text,timestamp with time zone)" => "SELECT vault_revoke_tokens('carol')",
        "vault_explain_token(text)" => "SELECT vault_explain_token('x')",
        "vault_ext.current_user_id()" => "SELECT vault_ext.current_user_id()",
        "vault_health()" => "SELECT * FROM vault_health()",
        "vault_rename_user(text,text)" => "SELECT vault_rename_user('carol', 'caroline')",
        "vault_erase(text)" => "SELECT vault_erase('carol')",
        "vault_erase_on_delete()" => {
            "CREATE TEMP TABLE users (id text); CREATE TRIGGER erase AFTER DELETE ON users FOR EACH ROW
                EXECUTE FUNCTION vault_erase_on_delete('id'); INSERT INTO users VALUES ('carol'); DELETE FROM users"
        }
        "vault_purge_audit(interval)" => "SELECT vault_purge_audit('1 day')",
        "vault_purge_audit(interval,integer,bigint)" => "CALL vault_purge_audit('1 day', 100)",
        "vault_redact_audit(text)" => "SELECT vault_redact_audit('carol')",
        "vault_mark_honey(text,boolean)" => "SELECT vault_mark_honey('carol')",
        "vault_ext.action_stats()" => "SELECT * FROM vault_ext.action_stats()",
        "vault_ext.wait_stats()" => "SELECT * FROM vault_ext.wait_stats()",
        "vault_ext.writer_stats()" => "SELECT * FROM vault_ext.writer_stats()",
        "vault_ext.nodes()" => "SELECT * FROM vault_ext.nodes()",
        "vault_ext.audit_of_nodes(timestamp with time zone,timestamp with time zone)" => {
            "SELECT * FROM vault_ext.audit_of_nodes()"
        }
        "vault_ext.distribute(integer)" => "SELECT vault_ext.distribute()",
        "vault_ext.rebalance()" => "CALL vault_ext.rebalance()",
        "vault_ext.become_a_node()" => "SELECT vault_ext.become_a_node()",
        "vault_ext.why_not_a_node()" => "SELECT vault_ext.why_not_a_node()",
        "vault_ext.keyring()" => "SELECT * FROM vault_ext.keyring()",
        "vault_ext.is_node()" => "SELECT vault_ext.is_node()",
        "vault_ext.stat_reset()" => "SELECT vault_ext.stat_reset()",
        "vault_ext.alarm_counters()" => "SELECT * FROM vault_ext.alarm_counters()",
        "vault_audit_checkpoint()" => "SELECT vault_audit_checkpoint()",
        "vault_audit_verify(text)" => "SELECT * FROM vault_audit_verify()",
        "vault_audit_key()" => "SELECT vault_audit_key()",
        "vault_audit_proof(bigint)" => "SELECT vault_audit_proof(1)",
        "vault_audit_consistency(bigint)" => "SELECT vault_audit_consistency(1)",
        "vault_new_trail()" => "SELECT vault_new_trail()",
        "vault_ext.commit_to_old_audit_rows()" => "SELECT vault_ext.commit_to_old_audit_rows()",
        "vault_reload_kek(boolean)" => "SELECT * FROM vault_reload_kek()",
        "vault_retire_kek(text)" => "SELECT vault_retire_kek('gone')",
        "vault_kek_status()" => "SELECT * FROM vault_kek_status()",
        "vault_check(integer)" => "SELECT * FROM vault_check()",
        "vault_create()" => "SELECT vault_create()",
        "vault_create_key_version()" => "SELECT vault_create_key_version()",
        "vault_encrypt(bytea,text,text)" => "SELECT vault_encrypt('x'::bytea, 'x')",
        "vault_encrypt(text,text,text)" => "SELECT vault_encrypt('x'::text, 'x')",
        "vault_encrypt(jsonb,text,text)" => "SELECT vault_encrypt('1'::jsonb, 'x')",
        "vault_decrypt(bytea,text,text)" => "SELECT vault_decrypt('x', 'x')",
        "vault_decrypt_text(bytea,text,text)" => "SELECT vault_decrypt_text('x', 'x')",
        "vault_decrypt_json(bytea,text,text)" => "SELECT vault_decrypt_json('x', 'x')",
        "vault_reencrypt(bytea,text,text)" => "SELECT vault_reencrypt('x', 'x')",
        "vault_ciphertext_version(bytea)" => "SELECT vault_ciphertext_version('x')",
        "vault_derive_key(text,integer)" => "SELECT vault_derive_key('x'::text)",
        "vault_derive_key(bytea,text)" => "SELECT vault_derive_key('x'::bytea, 'x')",
        "vault_blind_index(text,text,integer,integer)" => "SELECT vault_blind_index('x', 'x')",
        "vault_lookup_index(text,text,integer)" => "SELECT vault_lookup_index('x', 'x')",
        "vault_client_blob(jsonb)" => "SELECT vault_client_blob('1')",
        "vault_open_client_blob(text,integer)" => "SELECT vault_open_client_blob('x')",
        "vault_rotate(boolean)" => "SELECT vault_rotate(false)",
        "vault_rotate(text,boolean)" => "SELECT vault_rotate('x', false)",
        "vault_key_versions()" => "SELECT * FROM vault_key_versions()",
        "vault_get_key_version(integer)" => "SELECT vault_get_key_version(1)",
        "vault_retire_key_version(integer,interval)" => "SELECT vault_retire_key_version(1)",
        "vault_disable_key_version(integer)" => "SELECT vault_disable_key_version(1)",
        "vault_restore_key_version(integer)" => "SELECT vault_restore_key_version(1)",
        "vault_schedule_erase(text,interval,text)" => "SELECT vault_schedule_erase('carol', '30 days', 'test')",
        "vault_cancel_erase(text)" => "SELECT vault_cancel_erase('carol')",
        "vault_erasure_status(text)" => "SELECT * FROM vault_erasure_status('carol')",
        "vault_destroy_due(integer,bigint,bigint)" => "CALL vault_destroy_due()",
        "vault_rewrap(integer,bigint,bigint,bigint)" => "CALL vault_rewrap()",
        "vault_version()" => "SELECT * FROM vault_version()",
        "vault_ext.in_maintenance()" => "SELECT vault_ext.in_maintenance()",
        "vault_ext.is_audit_writer()" => "SELECT vault_ext.is_audit_writer()",
        "vault_ext.audit_batch()" => "SELECT * FROM vault_ext.audit_batch()",
        "vault_ext.is_sound_vault(text,text,text,smallint,text,integer,text,text,timestamp with time zone,boolean,text,timestamp with time zone)" => {
            "SELECT vault_ext.is_sound_vault('u', NULL, NULL, 2::smallint, 'k', 1, 'w', 'i', now(), true, NULL, NULL)"
        }
        "vault_ext.is_sound_old_key(text,integer,text,text,smallint,text,text,timestamp with time zone,timestamp with time zone)" => {
            "SELECT vault_ext.is_sound_old_key('u', 1, NULL, NULL, 2::smallint, 'k', 'destroyed', NULL, now())"
        }
        "vault_ext.audit_counters()" => "SELECT * FROM vault_ext.audit_counters()",
        _ => panic!("{name} is new: add its call here, and to SECURITY.md who may call it"),
    }
}

/// The statements to try on a relation. INSERT and UPDATE use a row that meets every constraint.
fn uses_of(relation: &str) -> Vec<(&'static str, String)> {
    let (insert, update) = match relation {
        "vault_ext.encryption_vaults" => (
            "(user_id, wrapped_mk, wrap_iv, format_version, kek_id) VALUES ('alice', repeat('A', 64), repeat('A', 32), 2, 'wire-1')
                ON CONFLICT (user_id) DO NOTHING",
            "wrapped_mk = repeat('A', 64)",
        ),
        "vault_ext.encryption_vault_audit" => ("(user_id, action, status, db_role) VALUES ('alice', 'x', 200, 'x')", "status = 201"),
        "vault_ext.keks" => ("(kek_id, check_value) VALUES ('forged', repeat('0', 32))", "retired_at = NULL"),
        "vault_ext.rewraps" => {
            ("(started_at, pid, db_role, kek_id, total) VALUES (clock_timestamp(), 1, 'x', 'x', 1)", "done = 0")
        }
        "vault_ext.grants" => (
            "(user_id, grantee, not_before, expires_at, reason, granted_by)
                VALUES ('alice', 'wire_service', now(), now() + interval '1 day', 'x', 'x')",
            "max_uses = 1000",
        ),
        "vault_ext.old_keys" => (
            "(user_id, key_version, wrapped_mk, wrap_iv, format_version, kek_id, state, superseded_at) VALUES ('alice', 7,
                repeat('A', 64), repeat('A', 32), 2, 'wire-1', 'decrypt_only', now()) ON CONFLICT DO NOTHING",
            "wrapped_mk = repeat('A', 64)",
        ),
        "vault_ext.database_keys" => (
            "(name, wrapped_mk, wrap_iv, format_version, kek_id)
                VALUES ('lookup-index', repeat('A', 64), repeat('A', 32), 2, 'wire-1') ON CONFLICT DO NOTHING",
            "wrapped_mk = repeat('A', 64)",
        ),
        "vault_ext.erasures" => (
            "(user_id, reason, scheduled_by, erase_after, vault_created_at) VALUES ('alice', 'x', 'x', now(), now())",
            "reason = 'y'",
        ),
        "vault_ext.honey_users" => ("(user_id, marked_by) VALUES ('alice', 'x') ON CONFLICT DO NOTHING", "marked_by = 'y'"),
        "vault_ext.stat" | "vault_ext.stat_wait" => ("(action) VALUES ('x')", "action = 'x'"),
        "vault_ext.stat_writer" => ("(pid) VALUES (1)", "pid = 1"),
        "vault_ext.stat_alarms" => ("(role) VALUES ('x')", "role = 'x'"),
        "vault_ext.audit_trails" => ("(trail_id, origin, first_leaf) VALUES (gen_random_uuid(), 'x', 0)", "origin = 'x'"),
        "vault_ext.audit_tiles" => {
            ("(level, index, hashes) VALUES (-1, 7, sha256('')) ON CONFLICT DO NOTHING", "index = index")
        }
        "vault_ext.audit_checkpoints" => {
            ("(size, root, note) VALUES (7, sha256(''), 'x') ON CONFLICT DO NOTHING", "note = 'y'")
        }
        "vault_ext.own_grants" => ("(reason) VALUES ('x')", "max_uses = 1000"),
        "vault_ext.identity_modes" => ("(identity) VALUES ('x')", "identity = 'x'"),
        "vault_ext.own_audit" => ("(action, status, db_role) VALUES ('x', 200, 'x')", "status = 201"),
        "vault_ext.audit_stats" => ("(calls) VALUES (1)", "calls = 1"),
        "vault_ext.rewrap_progress" => ("(pid) VALUES (1)", "done = 0"),
        "vault_ext.encryption_vault_audit_id_seq" | "vault_ext.grants_id_seq" | "vault_ext.erasures_id_seq" => {
            return vec![
                ("SELECT", format!("SELECT * FROM {relation}")),
                ("nextval", format!("SELECT nextval('{relation}')")),
                ("setval", format!("SELECT setval('{relation}', 1000)")),
            ];
        }
        _ => panic!("{relation} is new: add its statements here, and to SECURITY.md who may run them"),
    };
    let mut uses = vec![
        ("SELECT", format!("SELECT * FROM {relation}")),
        ("INSERT", format!("INSERT INTO {relation} {insert}")),
        ("UPDATE", format!("UPDATE {relation} SET {update}")),
        ("DELETE", format!("DELETE FROM {relation}")),
    ];
    if ![
        "own_audit",
        "own_grants",
        "identity_modes",
        "audit_stats",
        "stat",
        "stat_wait",
        "stat_writer",
        "stat_alarms",
        "rewrap_progress",
    ]
    .iter()
    .any(|view| relation.ends_with(view))
    {
        uses.push(("TRUNCATE", format!("TRUNCATE {relation}")));
    }
    uses
}

/// Returns `yes`, `no` for 42501, or another SQLSTATE. For a statement on rows that does not reach all rows, returns
/// `own` or `none`.
fn outcome(db: &Db, role: &str, sql: &str, all_rows: Option<u64>) -> String {
    let mut client = become_role(db, role);
    // A procedure that commits cannot run in a transaction block. Everything else is rolled back.
    let in_block = !sql.starts_with("CALL");
    if in_block {
        client.batch_execute("BEGIN").unwrap();
    }
    let result = client.simple_query(sql);
    if in_block {
        client.batch_execute("ROLLBACK").unwrap();
    }
    let messages = match result {
        Ok(messages) => messages,
        Err(error) => match error.code().map(|code| code.code()) {
            Some("42501") => return "no".to_owned(),
            Some(code) => return code.to_owned(),
            None => panic!("{role}: {sql}: {error:?}"),
        },
    };
    let Some(all) = all_rows else { return "yes".to_owned() };
    let Some(SimpleQueryMessage::CommandComplete(rows)) = messages.last() else { panic!("{sql}: {messages:?}") };
    assert!(all > 0, "{sql}: there are no rows to read or change");
    match *rows {
        0 => "none",
        rows if rows < all => "own",
        _ => "yes",
    }
    .to_owned()
}

fn names(db: &Db, sql: &str) -> BTreeSet<String> {
    db.superuser().query(sql, &[]).expect("the catalogs").iter().map(|row| row.get(0)).collect()
}

/// Every function and procedure of the extension, with the types of its arguments.
pub fn functions(db: &Db) -> BTreeSet<String> {
    names(
        db,
        "SELECT objid::regprocedure::text FROM pg_depend JOIN pg_extension e ON e.oid = refobjid AND extname = 'vault_ext'
            WHERE refclassid = 'pg_extension'::regclass AND classid = 'pg_proc'::regclass AND deptype = 'e'",
    )
}

fn measured(db: &Db) -> BTreeMap<String, Vec<String>> {
    let relations = names(
        db,
        "SELECT objid::regclass::text FROM pg_depend JOIN pg_extension e ON e.oid = refobjid AND extname = 'vault_ext'
            JOIN pg_class c ON c.oid = objid AND relkind IN ('r', 'v', 'S', 'm', 'p', 'f')
            WHERE refclassid = 'pg_extension'::regclass AND classid = 'pg_class'::regclass AND deptype = 'e'
         UNION SELECT oid::regclass::text FROM pg_class
            WHERE relnamespace = 'vault_ext'::regnamespace AND relkind IN ('r', 'v', 'S', 'm', 'p', 'f')",
    );
    let mut table = BTreeMap::new();
    let outcomes =
        |sql: &str, all_rows| ROLES.iter().map(|(_, role)| outcome(db, role, sql, all_rows)).collect::<Vec<_>>();
    for function in functions(db) {
        table.insert(format!("`{function}`"), outcomes(call_of(&function), None));
    }
    for relation in relations {
        // Verbs with the same outcomes share a row.
        let mut verbs_of: BTreeMap<Vec<String>, Vec<&str>> = BTreeMap::new();
        for (verb, sql) in uses_of(&relation) {
            let of_rows = ["SELECT", "UPDATE", "DELETE"].contains(&verb);
            let all_rows = of_rows.then(|| {
                let mut superuser = become_role(db, "postgres");
                let count = superuser.query_one(&format!("SELECT count(*) FROM {relation}"), &[]).unwrap();
                u64::try_from(count.get::<_, i64>(0)).unwrap()
            });
            verbs_of.entry(outcomes(&sql, all_rows)).or_default().push(verb);
        }
        for (outcomes, verbs) in verbs_of {
            table.insert(format!("{} `{relation}`", verbs.join(", ")), outcomes);
        }
    }
    table
}

/// The rows of the table in SECURITY.md whose header names the roles.
fn documented() -> BTreeMap<String, Vec<String>> {
    let header = format!("| | {} |", ROLES.map(|(title, _)| title).join(" | "));
    let mut lines =
        SECURITY.lines().skip_while(|line| *line != header).skip(2).take_while(|line| line.starts_with('|'));
    let mut table = BTreeMap::new();
    for line in &mut lines {
        let mut cells = line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned());
        let outcomes = |cells: &mut dyn Iterator<Item = String>| cells.collect::<Vec<_>>();
        let name = cells.next().expect("a first cell");
        let duplicate = table.insert(name.clone(), outcomes(&mut cells));
        assert_eq!(duplicate, None, "SECURITY.md lists {name} twice");
    }
    table
}

#[test]
fn the_privilege_table_of_security_md_is_true() {
    let db = shared_db();
    for user in ["alice", "carol"] {
        init(&mut db.app_for(user)).unwrap();
    }
    db.force("INSERT INTO vault_ext.keks (kek_id, check_value) VALUES ('gone', repeat('0', 32))");
    db.force(&format!("ALTER DATABASE {} SET vault_ext.identity = 'asserted'", db.name));
    for user in ["alice", "carol"] {
        let sql = "SELECT vault_grant(NULL, 'wire_service', '1 day', 'test')";
        db.app_for(user).query(sql, &[]).unwrap();
        // An old version and an erasure of each, which is cancelled.
        rotate(&mut db.app_for(user)).unwrap();
        let schedule = "SELECT vault_schedule_erase($1, '30 days', 'test')";
        db.conn("wire_admin").query(schedule, &[&user]).unwrap();
        db.conn("wire_admin").query("SELECT vault_cancel_erase($1)", &[&user]).unwrap();
    }
    db.conn("wire_crypt").query("SELECT vault_lookup_index('x', 'y')", &[]).unwrap();
    db.force("ALTER ROLE wire_app SET vault_ext.alarm_users_per_minute = 1000");
    init(&mut db.app_for("alice")).unwrap();
    db.force("ALTER ROLE wire_app RESET vault_ext.alarm_users_per_minute");
    db.conn("wire_admin").query("SELECT vault_mark_honey('alice')", &[]).unwrap();
    db.force("INSERT INTO vault_ext.audit_tiles (level, index, hashes) VALUES (-1, 7, sha256(''))");
    let (measured, documented) = (measured(&db), documented());
    if measured != documented {
        for (name, outcomes) in &measured {
            eprintln!("| {name} | {} |", outcomes.join(" | "));
        }
    }
    let missing: Vec<_> = documented.keys().filter(|name| !measured.contains_key(*name)).collect();
    assert!(missing.is_empty(), "SECURITY.md lists objects that are not installed: {missing:?}");
    for (name, outcomes) in &measured {
        assert_eq!(documented.get(name), Some(outcomes), "{name}: left in SECURITY.md, right the actual outcomes");
    }
}
