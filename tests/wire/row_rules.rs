//! The CHECKs of the tables that hold wraps: what they let through, what they say, and who may be checked.

use std::io::Write;

use crate::harness::{Cluster, Db, base64, expect_error, expect_vault_error, fetch, init, rotate, shared_db, succeed};

/// The rules as PostgreSQL's own expressions: those that the tables had as one CHECK each.
const RULES: [(&str, &str, &[&str]); 2] = [
    (
        "encryption_vaults",
        "is_sound_vault(r.user_id, r.wrapped_mk, r.wrap_iv, r.format_version, r.kek_id, r.key_version, r.recovery_wrapped_mk,
            r.recovery_iv, r.recovery_set_at, r.zero_knowledge, r.key_check, r.erase_after)",
        &[
            "octet_length(r.user_id) BETWEEN 1 AND 255",
            "octet_length(r.wrapped_mk) = 64",
            "octet_length(r.wrap_iv) = CASE r.format_version WHEN 1 THEN 16 WHEN 2 THEN 32 END",
            "r.format_version IN (1, 2)",
            "octet_length(r.kek_id) BETWEEN 1 AND 64",
            "r.key_version >= 1",
            "(r.wrapped_mk IS NULL) = (r.wrap_iv IS NULL)",
            "(r.recovery_wrapped_mk IS NULL) = (r.recovery_iv IS NULL) AND (r.recovery_wrapped_mk IS NULL) = (r.recovery_set_at IS NULL)",
            "octet_length(r.recovery_wrapped_mk) BETWEEN 1 AND 1024 AND octet_length(r.recovery_iv) BETWEEN 1 AND 64",
            "NOT r.zero_knowledge OR (r.wrapped_mk IS NULL AND r.recovery_wrapped_mk IS NOT NULL)",
            "r.zero_knowledge OR (r.wrapped_mk IS NULL) = (r.erase_after IS NOT NULL)",
            "r.key_check ~ '^[0-9a-f]{32}$'",
        ],
    ),
    (
        "old_keys",
        "is_sound_old_key(r.user_id, r.key_version, r.wrapped_mk, r.wrap_iv, r.format_version, r.kek_id, r.state, r.destroy_after,
            r.destroyed_at)",
        &[
            "octet_length(r.user_id) BETWEEN 1 AND 255",
            "octet_length(r.wrapped_mk) = 64",
            "octet_length(r.wrap_iv) = CASE r.format_version WHEN 1 THEN 16 WHEN 2 THEN 32 END",
            "r.format_version IN (1, 2)",
            "octet_length(r.kek_id) BETWEEN 1 AND 64",
            "r.key_version >= 1",
            "r.state IN ('decrypt_only', 'disabled', 'destroy_scheduled', 'destroyed')",
            "(r.wrapped_mk IS NULL) = (r.state = 'destroyed') AND (r.wrap_iv IS NULL) = (r.state = 'destroyed')",
            "r.state = 'destroyed' OR (r.destroy_after IS NOT NULL) = (r.state = 'destroy_scheduled')",
            "(r.destroyed_at IS NOT NULL) = (r.state = 'destroyed')",
        ],
    ),
];

/// What may stand in a column. Each list begins with the values of sound rows.
const VALUES: [(&str, &str); 15] = [
    ("user_id", "'a'; 'a'; 'a'; 'a'; repeat('ä', 127); repeat('ä', 128); ''; NULL"),
    (
        "wrapped_mk",
        "repeat('A', 64); repeat('A', 64); repeat('A', 64); NULL; NULL; NULL; repeat('ä', 32); repeat('ä', 64); ''",
    ),
    (
        "wrap_iv",
        "repeat('A', 32); repeat('A', 32); NULL; NULL; NULL; repeat('A', 16); repeat('ä', 8); repeat('A', 28); ''",
    ),
    ("format_version", "2; 2; 2; 1; 1; 0; 3; NULL"),
    ("kek_id", "'k'; 'k'; 'k'; 'k'; repeat('k', 64); repeat('k', 65); ''; NULL"),
    ("key_version", "1; 1; 1; 2147483647; 0; -1; NULL"),
    ("recovery_wrapped_mk", "NULL; NULL; NULL; 'x'; 'x'; repeat('x', 1024); repeat('x', 1025); ''"),
    ("recovery_iv", "NULL; NULL; NULL; 'x'; 'x'; repeat('x', 64); repeat('x', 65); ''"),
    ("recovery_set_at", "NULL; now(); 'infinity'"),
    ("zero_knowledge", "false; false; false; true; true; NULL"),
    (
        "key_check",
        "NULL; NULL; NULL; repeat('0f', 16); repeat('0F', 16); repeat('0', 32) || E'\\n'; repeat('0', 31); 'g'",
    ),
    ("erase_after", "NULL; NULL; now(); '-infinity'"),
    ("state", "'decrypt_only'; 'disabled'; 'destroy_scheduled'; 'destroyed'; 'destroyed'; 'Destroyed'; ''; NULL"),
    ("destroy_after", "NULL; NULL; now()"),
    ("destroyed_at", "NULL; NULL; now()"),
];

#[test]
fn the_rules_are_those_that_the_tables_had_as_checks_of_their_own() {
    let db = shared_db();
    let mut superuser = db.superuser();
    for (table, function, rules) in RULES {
        let rules = rules.iter().map(|rule| format!("({rule}) IS NOT FALSE")).collect::<Vec<_>>().join(" AND ");
        let columns: Vec<String> = superuser
            .query(
                "SELECT attname::text FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
                &[&format!("vault_ext.{table}")],
            )
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect();
        let value = |column: &String| match VALUES.iter().find(|(name, _)| name == column) {
            Some((_, values)) => {
                let values: Vec<_> = values.split("; ").collect();
                format!("(ARRAY[{}])[1 + floor(random() * {})] AS {column}", values.join(", "), values.len())
            }
            None => format!("NULL AS {column}"),
        };
        let values = columns.iter().map(value).collect::<Vec<_>>().join(", ");
        superuser
            .batch_execute(&format!(
                "SELECT setseed(0.5);
                 CREATE TEMP TABLE {table}_rows (LIKE vault_ext.{table});
                 DO $$ DECLARE c name; BEGIN
                     FOR c IN SELECT attname FROM pg_attribute WHERE attrelid = 'pg_temp.{table}_rows'::regclass AND attnum > 0 AND attnotnull LOOP
                         EXECUTE format('ALTER TABLE pg_temp.{table}_rows ALTER %I DROP NOT NULL', c);
                     END LOOP;
                 END $$;
                 INSERT INTO {table}_rows SELECT {values} FROM generate_series(1, 30000);
                 CREATE FUNCTION pg_temp.sound(r {table}_rows) RETURNS boolean LANGUAGE plpgsql AS $$
                     BEGIN RETURN vault_ext.{function}; EXCEPTION WHEN check_violation THEN RETURN false; END $$"
            ))
            .unwrap_or_else(|e| panic!("{table}: {e:?}"));
        let sql = format!(
            "SELECT count(*) FILTER (WHERE found IS DISTINCT FROM expected), count(*) FILTER (WHERE expected), count(*) FILTER (WHERE NOT expected)
                FROM (SELECT {rules} AS expected, pg_temp.sound(r) AS found FROM {table}_rows r OFFSET 0) o"
        );
        let row = superuser.query_one(&sql, &[]).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        assert_eq!(row.get::<_, i64>(0), 0, "{table}: rows that the function and the rules judge differently");
        assert!(
            row.get::<_, i64>(1) > 50 && row.get::<_, i64>(2) > 10_000,
            "{table}: too few rows of one kind: {row:?}"
        );
        superuser.batch_execute("DROP FUNCTION pg_temp.sound").unwrap();
    }
}

/// Rules that an UPDATE by hand breaks, and how the error begins.
const BROKEN: [(&str, &str, &str); 14] = [
    ("encryption_vaults", "user_id = ''", "user_id in vault_ext.encryption_vaults must have 1 to 255 bytes"),
    (
        "encryption_vaults",
        "wrapped_mk = left(wrapped_mk, 60)",
        "wrapped_mk in vault_ext.encryption_vaults must have 64 bytes",
    ),
    (
        "encryption_vaults",
        "wrap_iv = left(wrap_iv, 28)",
        "wrap_iv in vault_ext.encryption_vaults must have 16 bytes in format 1",
    ),
    ("encryption_vaults", "format_version = 3", "format_version in vault_ext.encryption_vaults must be 1 or 2"),
    ("encryption_vaults", "kek_id = repeat('k', 65)", "kek_id in vault_ext.encryption_vaults must have 1 to 64 bytes"),
    ("encryption_vaults", "key_version = 0", "key_version in vault_ext.encryption_vaults must be at least 1"),
    (
        "encryption_vaults",
        "wrap_iv = NULL",
        "wrapped_mk and wrap_iv in vault_ext.encryption_vaults must be NULL together",
    ),
    (
        "encryption_vaults",
        "recovery_iv = 'x'",
        "recovery_wrapped_mk, recovery_iv and recovery_set_at in vault_ext.encryption_vaults must",
    ),
    (
        "encryption_vaults",
        "zero_knowledge = true",
        "zero_knowledge in vault_ext.encryption_vaults must only be true with",
    ),
    (
        "encryption_vaults",
        "erase_after = now()",
        "wrapped_mk in vault_ext.encryption_vaults must be NULL while erase_after is set",
    ),
    (
        "encryption_vaults",
        "key_check = repeat('A', 32)",
        "key_check in vault_ext.encryption_vaults must have 32 hexadecimal digits",
    ),
    (
        "old_keys",
        "state = 'unknown'",
        "state in vault_ext.old_keys must be decrypt_only, disabled, destroy_scheduled or destroyed",
    ),
    (
        "old_keys",
        "state = 'destroyed'",
        "wrapped_mk and wrap_iv in vault_ext.old_keys must be NULL in the state destroyed",
    ),
    (
        "old_keys",
        "destroy_after = now()",
        "destroy_after in vault_ext.old_keys must be set in the state destroy_scheduled",
    ),
];

/// A wrap that no error may show.
fn wrap_of(db: &Db, table: &str) -> String {
    db.value(&format!("SELECT wrapped_mk FROM vault_ext.{table}"))
}

#[test]
fn a_broken_rule_is_named_and_no_value_of_the_row_is_shown() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.database("d");
    let mut app = db.app_for("alice");
    init(&mut app).unwrap();
    let key = rotate(&mut app).unwrap();
    let mut superuser = db.superuser();
    for (table, assignment, message) in BROKEN {
        let result = superuser.execute(&format!("UPDATE vault_ext.{table} SET {assignment}"), &[]);
        let refusal = expect_vault_error(result, "23514");
        assert!(refusal.message.starts_with(message), "{assignment}: {refusal:?}");
        assert!(refusal.hint.as_deref().unwrap_or_default().contains(&format!("{table}_sound")), "{refusal:?}");
        assert_eq!(refusal.detail, None, "{assignment}");
    }
    for table in ["encryption_vaults", "old_keys"] {
        let rules: String = db.value(&format!(
            "SELECT obj_description(oid, 'pg_constraint') FROM pg_constraint WHERE conname = '{table}_sound' AND contype = 'c'"
        ));
        for rule in ["1 to 255 bytes", "wrapped_mk 64", "16 in format 1 and 32 in format 2", "1 or 2", "at least 1"] {
            assert!(rules.contains(rule), "{table}: {rules}");
        }
        // As the hint says.
        let mut psql = cluster.program("psql", "postgres");
        let shown = succeed(psql.args(["-X", "-At", "-d", &db.name, "-c", &format!("\\dd vault_ext.{table}_sound")]));
        assert!(shown.contains(&rules), "{shown}");
        let wrap = wrap_of(&db, table);
        assert_eq!(wrap.len(), 64);
        assert!(!cluster.log().contains(&wrap[..60]), "{table}: the log shows a wrap");
    }
    assert_eq!(fetch(&mut app).unwrap(), key);
}

/// Rows of both tables as COPY reads them. Their wraps open nowhere.
fn copy_lines(user: &str, key_version: i32) -> [(String, String); 2] {
    let (wrap, nonce) = (base64(&[7; 48]), base64(&[8; 24]));
    [
        (
            "encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_version)".into(),
            format!("{user}\t{wrap}\t{nonce}\t2\tk1\t{key_version}\n"),
        ),
        (
            "old_keys (user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_version, state, superseded_at)".into(),
            format!("{user}\t{wrap}\t{nonce}\t2\tk1\t{key_version}\tdecrypt_only\t2026-01-01\n"),
        ),
    ]
}

fn copy(client: &mut postgres::Client, (table, line): &(String, String)) -> Result<u64, postgres::Error> {
    let mut writer = client.copy_in(&format!("COPY vault_ext.{table} FROM STDIN"))?;
    writer.write_all(line.as_bytes()).expect("a line can be sent");
    writer.finish()
}

/// A dump is restored with COPY, also into a server that does not preload the library.
#[test]
fn rows_are_checked_where_the_library_is_not_preloaded() {
    let cluster = Cluster::builder().not_preloaded().without_fsync().start();
    let db = cluster.database("d");
    // The second time in a session that has not loaded the library yet.
    for user in ["alice", "bob"] {
        for line in &copy_lines(user, 1) {
            assert_eq!(copy(&mut db.superuser(), line).unwrap(), 1);
        }
        for line in &copy_lines(&format!("{user}-2"), 0) {
            let refusal = expect_vault_error(copy(&mut db.superuser(), line), "23514");
            assert!(refusal.message.starts_with("key_version in vault_ext."), "{refusal:?}");
        }
    }
    db.force("UPDATE vault_ext.encryption_vaults SET key_version = 2");
    let bad = db.superuser().batch_execute("UPDATE vault_ext.encryption_vaults SET wrapped_mk = NULL");
    expect_vault_error(bad, "23514");
    assert_eq!(db.value::<i64>("SELECT count(*) FROM vault_ext.encryption_vaults"), 2);
}

/// Row-level security keeps everybody else away. The CHECK runs with the rights of whoever writes the row.
#[test]
fn whoever_row_level_security_lets_write_is_checked() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.database("d");
    db.force(
        "CREATE ROLE importer LOGIN BYPASSRLS IN ROLE pg_write_all_data; GRANT USAGE ON SCHEMA vault_ext TO importer;
         CREATE ROLE writer LOGIN IN ROLE pg_write_all_data; GRANT USAGE ON SCHEMA vault_ext TO writer;
         GRANT SELECT ON vault_ext.encryption_vaults, vault_ext.old_keys TO importer",
    );
    for line in &copy_lines("alice", 1) {
        assert_eq!(copy(&mut db.conn("importer"), line).unwrap(), 1);
    }
    for line in &copy_lines("bob", -1) {
        expect_vault_error(copy(&mut db.conn("importer"), line), "23514");
    }
    // COPY refuses a table with row-level security by itself (0A000).
    let insert = "INSERT INTO vault_ext.encryption_vaults (user_id, format_version, kek_id, key_version) VALUES ('x', 1, 'k', -1)";
    let refusal = expect_error(db.conn("writer").batch_execute(insert), "42501");
    assert!(refusal.message.contains("row-level security"), "{refusal:?}");
    let call =
        "SELECT vault_ext.is_sound_vault(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)";
    assert!(db.value::<bool>(call));
    expect_error(db.app_for("alice").simple_query(call), "42501");
    expect_error(db.conn("wire_admin").simple_query(call), "42501");
}
