//! The list of everything that the extension installs. Changes must be deliberate: `UPDATE_GOLDEN=1` writes the list.
//!
//! One list serves every major version, so it leaves out catalog text that differs between them: view definitions, NOT
//! NULL constraints (in pg_constraint from 18 on), the MAINTAIN privilege (from 17 on), row types and array types
//! (members of an extension from 18 on).

use std::fs;

use crate::harness::{Cluster, Db, shared_db};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire/golden/objects.txt");

const ACL: &str = "
CREATE FUNCTION pg_temp.acl(acl aclitem[], kind \"char\", owner oid) RETURNS text LANGUAGE sql AS $$
    SELECT coalesce(string_agg(who || '=' || what, ' ' ORDER BY who), 'nobody') FROM (
        SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS who,
            string_agg(privilege_type || CASE WHEN is_grantable THEN '*' ELSE '' END, ',' ORDER BY privilege_type) AS what
        FROM aclexplode(coalesce(acl, acldefault(kind, owner))) WHERE privilege_type <> 'MAINTAIN' GROUP BY 1) g
$$";

const QUERIES: &[&str] = &[
    "SELECT format('role %s: login=%s superuser=%s bypassrls=%s createrole=%s createdb=%s replication=%s member_of=%s',
        rolname, rolcanlogin, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication,
        ARRAY(SELECT roleid::regrole::text FROM pg_auth_members WHERE member = r.oid ORDER BY 1))
    FROM pg_roles r WHERE rolname LIKE 'vault\\_ext\\_%'",
    "SELECT format('extension %s: relocatable=%s dumped=%s', extname, extrelocatable,
        ARRAY(SELECT c::regclass::text FROM unnest(extconfig) c ORDER BY 1)) FROM pg_extension WHERE extname = 'vault_ext'",
    "SELECT format('schema %s: owner=%s acl=%s', nspname, nspowner::regrole, pg_temp.acl(nspacl, 'n', nspowner))
    FROM pg_namespace WHERE nspname = 'vault_ext'",
    "SELECT format('%s %s: owner=%s rls=%s forced=%s options=%s acl=%s',
        CASE relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'composite'
            WHEN 'm' THEN 'materialized view' ELSE relkind::text END,
        c.oid::regclass, relowner::regrole, relrowsecurity, relforcerowsecurity, reloptions,
        CASE WHEN relkind = 'c' THEN 'none' ELSE pg_temp.acl(relacl, CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::\"char\", relowner) END)
    FROM pg_class c WHERE relkind NOT IN ('i', 't') AND (relnamespace = 'vault_ext'::regnamespace OR c.oid IN (
        SELECT t.typrelid FROM pg_type t JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid
        WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'))",
    "SELECT format('column %s.%s: %s type=%s not_null=%s identity=%s collation=%s default=%s', attrelid::regclass, attname, attnum,
        format_type(atttypid, atttypmod), attnotnull, nullif(attidentity, ''),
        (SELECT collname FROM pg_collation WHERE oid = attcollation), pg_get_expr(adbin, adrelid))
    FROM pg_attribute a LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    JOIN pg_class c ON c.oid = attrelid
    WHERE attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'v', 'c')
    AND (relnamespace = 'vault_ext'::regnamespace OR relname = 'vault_key')",
    "SELECT format('column grant %s.%s: %s', attrelid::regclass, attname, attacl)
    FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
    WHERE attacl IS NOT NULL AND relnamespace = 'vault_ext'::regnamespace",
    "SELECT format('constraint %s on %s: %s', conname, conrelid::regclass, pg_get_constraintdef(oid))
    FROM pg_constraint WHERE connamespace = 'vault_ext'::regnamespace AND contype <> 'n'",
    "SELECT 'index ' || pg_get_indexdef(c.oid) FROM pg_class c
    WHERE relkind = 'i' AND relnamespace = 'vault_ext'::regnamespace",
    "SELECT format('policy %s on %s: %s %s to=%s using=%s check=%s', policyname, tablename, permissive, cmd, roles, qual, with_check)
    FROM pg_policies WHERE schemaname = 'vault_ext'",
    "SELECT format('trigger on %s: %s', tgrelid::regclass, pg_get_triggerdef(t.oid)) FROM pg_trigger t
    JOIN pg_class c ON c.oid = tgrelid WHERE relnamespace = 'vault_ext'::regnamespace AND NOT tgisinternal",
    "SELECT format('rule on %s: %s', ev_class::regclass, rulename) FROM pg_rewrite
    JOIN pg_class c ON c.oid = ev_class WHERE relnamespace = 'vault_ext'::regnamespace",
    "SELECT format('function %s.%s(%s) returns %s: owner=%s language=%s volatile=%s parallel=%s definer=%s strict=%s leakproof=%s set=%s acl=%s',
        pronamespace::regnamespace, proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), proowner::regrole,
        lanname, provolatile, proparallel, prosecdef, proisstrict, proleakproof, proconfig, pg_temp.acl(proacl, 'f', proowner))
    FROM pg_proc p JOIN pg_language l ON l.oid = prolang
    WHERE pronamespace = 'vault_ext'::regnamespace OR p.oid IN (SELECT objid FROM pg_depend d
        JOIN pg_extension e ON e.oid = refobjid AND extname = 'vault_ext'
        WHERE refclassid = 'pg_extension'::regclass AND classid = 'pg_proc'::regclass AND deptype = 'e')",
    "SELECT format('type %s: kind=%s owner=%s acl=%s', t.oid::regtype, typtype, typowner::regrole, pg_temp.acl(typacl, 'T', typowner))
    FROM pg_type t JOIN pg_depend d ON d.objid = t.oid AND d.classid = 'pg_type'::regclass AND deptype = 'e'
    JOIN pg_extension e ON e.oid = refobjid AND refclassid = 'pg_extension'::regclass AND extname = 'vault_ext'
    WHERE t.typelem = 0 AND NOT EXISTS (SELECT FROM pg_class WHERE oid = typrelid AND relkind <> 'c')",
    "SELECT format('member %s', pg_describe_object(classid, objid, objsubid)) FROM pg_depend
    JOIN pg_extension e ON e.oid = refobjid AND extname = 'vault_ext'
    WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e' AND NOT (classid = 'pg_type'::regclass AND EXISTS (
        SELECT FROM pg_type t LEFT JOIN pg_class c ON c.oid = typrelid WHERE t.oid = objid AND (typelem <> 0 OR relkind <> 'c')))",
];

pub fn objects(db: &Db) -> String {
    let mut client = db.superuser();
    client.batch_execute(ACL).expect("the ACL formatter can be created");
    let mut list = String::new();
    for query in QUERIES {
        let rows = client.query(*query, &[]).expect("the catalogs can be read");
        let mut lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        lines.sort();
        for line in lines {
            list.push_str(&line.split_whitespace().collect::<Vec<_>>().join(" "));
            list.push('\n');
        }
    }
    list
}

#[test]
fn the_installed_objects_are_the_ones_on_the_list() {
    let found = objects(&shared_db());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(PATH, &found).expect("the golden list is writable");
    }
    let listed = fs::read_to_string(PATH).unwrap_or_else(|e| panic!("{PATH}: {e}; UPDATE_GOLDEN=1 writes it"));
    let missing: Vec<_> = listed
        .lines()
        .filter(|line| !found.lines().any(|other| other == *line))
        .map(|line| format!("- {line}"))
        .collect();
    let new: Vec<_> = found
        .lines()
        .filter(|line| !listed.lines().any(|other| other == *line))
        .map(|line| format!("+ {line}"))
        .collect();
    assert!(
        missing.is_empty() && new.is_empty(),
        "the installed objects changed (set UPDATE_GOLDEN=1 if this is intended):\n{}\n{}",
        missing.join("\n"),
        new.join("\n")
    );
    assert_eq!(listed.lines().count(), found.lines().count());
}

/// What psql's `\dx+`, `\d+`, `\df+`, `\dn+` and `\du+` and the view pg_settings would leave unexplained. Row types and array types are no
/// objects of their own, and vault_ext.token is in no view: `documented_reference` looks for it.
const UNEXPLAINED: &str = "
    SELECT pg_describe_object(classid, objid, 0) AS what, obj_description(objid, classid::regclass::text::name) AS text FROM pg_depend
    JOIN pg_extension e ON e.oid = refobjid AND extname = 'vault_ext'
    WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e' AND NOT (classid = 'pg_type'::regclass AND EXISTS (
        SELECT FROM pg_type t LEFT JOIN pg_class c ON c.oid = typrelid WHERE t.oid = objid AND (typelem <> 0 OR relkind <> 'c')))
    UNION ALL SELECT format('column %s.%s', attrelid::regclass, attname), col_description(attrelid, attnum)
    FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
    WHERE attnum > 0 AND NOT attisdropped AND (relkind = 'c' AND reltype = 'vault_key'::regtype
        OR relkind NOT IN ('i', 'S', 't') AND relnamespace = 'vault_ext'::regnamespace)
    UNION ALL SELECT format('role %s', rolname), shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname LIKE 'vault\\_ext\\_%'
    UNION ALL SELECT format('setting %s', name), short_desc || ' ' || extra_desc FROM pg_settings WHERE name LIKE 'vault\\_ext.%'
    UNION ALL SELECT format('extension %s', extname), obj_description(oid, 'pg_extension') FROM pg_extension WHERE extname = 'vault_ext'";

/// Fails unless everything has a comment in the catalogs.
#[track_caller]
pub fn assert_all_explained(db: &Db) {
    let unexplained = |client: &mut postgres::Client| -> Vec<String> {
        let rows = client.query(&format!("SELECT what FROM ({UNEXPLAINED}) o WHERE trim(text) IS NULL"), &[]).unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    let mut client = db.superuser();
    assert_eq!(unexplained(&mut client), [""; 0]);
    let kinds: Vec<String> = client
        .query(&format!("SELECT DISTINCT split_part(what, ' ', 1) FROM ({UNEXPLAINED}) o ORDER BY 1"), &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    let all = ["column", "extension", "function", "role", "schema", "sequence", "setting", "table", "type", "view"];
    assert_eq!(kinds, all);
    let mut transaction = client.transaction().unwrap();
    transaction
        .batch_execute("COMMENT ON COLUMN vault_ext.stat.calls IS NULL; COMMENT ON ROLE vault_ext_user IS NULL")
        .unwrap();
    let rows =
        transaction.query(&format!("SELECT what FROM ({UNEXPLAINED}) o WHERE text IS NULL ORDER BY 1"), &[]).unwrap();
    let found: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(found, ["column vault_ext.stat.calls", "role vault_ext_user"]);
}

#[test]
fn everything_that_is_installed_explains_itself() {
    assert_all_explained(&shared_db());
}

#[test]
fn the_comment_that_an_administrator_gave_a_role_stays() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    cluster
        .superuser("postgres")
        .batch_execute("CREATE ROLE vault_ext_user; COMMENT ON ROLE vault_ext_user IS 'ours'")
        .unwrap();
    let db = cluster.database("d");
    let comment: String = db.value("SELECT shobj_description('vault_ext_user'::regrole, 'pg_authid')");
    assert_eq!(comment, "ours");
}

#[test]
fn public_may_do_nothing() {
    let list = objects(&shared_db());
    let open: Vec<_> = list.lines().filter(|line| line.contains("PUBLIC=") && !line.starts_with("type ")).collect();
    assert_eq!(open, [""; 0]);
}

#[test]
fn only_the_functions_that_say_who_the_user_is_are_stable() {
    let db = shared_db();
    let exposed: Vec<String> = db
        .superuser()
        .query(
            "SELECT proname::text FROM pg_proc WHERE proname LIKE 'vault\\_%' AND prokind = 'f'
                AND (proparallel <> 'u' OR provolatile <> 'v' OR proleakproof) ORDER BY 1",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    // The version that a ciphertext names is a function of its bytes alone.
    assert_eq!(
        exposed,
        [
            "vault_challenge",
            "vault_ciphertext_version",
            "vault_claims",
            "vault_session",
            "vault_user_id",
            "vault_whoami"
        ]
    );
}
