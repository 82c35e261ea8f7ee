//! Everything in the catalogs about the extension's objects, as text without OIDs: two installations with the same text
//! are the same. Unlike the golden list, this text may differ between majors, so nothing has to be left out.

use postgres::Client;

use crate::harness::{Cluster, Db};

/// The extension's members and everything that belongs to them: indexes, constraints, defaults, policies, rules, row
/// types, sequences, toast tables.
const OBJECTS: &str = "
CREATE FUNCTION pg_temp.name(class oid, object oid, part int DEFAULT 0) RETURNS text LANGUAGE sql AS $$
    SELECT regexp_replace(pg_describe_object(class, object, part), 'pg_toast_[0-9]+', 'pg_toast_N', 'g')
$$;
CREATE VIEW pg_temp.object AS
WITH RECURSIVE object(classid, objid) AS (
    SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'vault_ext'
    WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
  UNION
    SELECT d.classid, d.objid FROM pg_depend d JOIN object o ON d.refclassid = o.classid AND d.refobjid = o.objid
    WHERE d.deptype IN ('a', 'i')
)
SELECT classid, objid, pg_temp.name(classid, objid) AS name FROM object";

const QUERIES: &[(&str, &str)] = &[
    (
        "extension",
        "SELECT (to_jsonb(e) - '{oid,extowner,extnamespace,extconfig}'::text[])::text || extowner::regrole || ' '
            || extnamespace::regnamespace || extconfig::regclass[]::text FROM pg_extension e WHERE extname = 'vault_ext'",
    ),
    ("object", "SELECT name FROM pg_temp.object"),
    (
        "dependency",
        "SELECT concat_ws(' ', pg_temp.name(d.classid, d.objid, d.objsubid), d.deptype, pg_temp.name(refclassid, refobjid, refobjsubid))
        FROM pg_depend d JOIN pg_temp.object o USING (classid, objid)",
    ),
    (
        "role",
        "SELECT concat_ws(' ', o.name, d.deptype, pg_temp.name(refclassid, refobjid)) FROM pg_shdepend d
        JOIN pg_temp.object o USING (classid, objid) WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
    ),
    (
        "schema",
        "SELECT concat_ws(' ', nspname, nspowner::regrole, nspacl) FROM pg_namespace n
        JOIN pg_temp.object ON classid = 'pg_namespace'::regclass AND objid = n.oid",
    ),
    (
        "routine",
        "SELECT concat_ws(' ', pg_get_functiondef(p.oid), proowner::regrole, proacl) FROM pg_proc p
        JOIN pg_temp.object ON classid = 'pg_proc'::regclass AND objid = p.oid",
    ),
    (
        "relation",
        "SELECT name || ' ' || relowner::regrole || ' ' || coalesce(amname, '') || (to_jsonb(c) - '{oid,relname,relnamespace,
            reltype,reloftype,relowner,relam,relfilenode,relpages,reltuples,relallvisible,relallfrozen,reltoastrelid,
            relfrozenxid,relminmxid}'::text[])::text
        FROM pg_class c LEFT JOIN pg_am m ON m.oid = relam
        JOIN pg_temp.object ON classid = 'pg_class'::regclass AND objid = c.oid",
    ),
    // Some minor releases keep a version number among a column's options.
    (
        "column",
        "SELECT concat_ws(' ', name, format_type(atttypid, atttypmod), attcollation::regcollation,
            pg_get_expr(adbin, adrelid), ARRAY(SELECT o FROM unnest(attoptions) o WHERE o NOT LIKE 'pg_attver=%'),
            to_jsonb(a) - '{attrelid,atttypid,attcollation,attoptions,atthasmissing,attmissingval}'::text[])
        FROM pg_attribute a LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        JOIN pg_temp.object ON classid = 'pg_class'::regclass AND objid = attrelid WHERE attnum > 0",
    ),
    (
        "constraint",
        "SELECT concat_ws(' ', name, pg_get_constraintdef(c.oid), contype, condeferrable, convalidated, conislocal, connoinherit, conkey)
        FROM pg_constraint c JOIN pg_temp.object ON classid = 'pg_constraint'::regclass AND objid = c.oid",
    ),
    (
        "index",
        "SELECT concat_ws(' ', name, CASE WHEN name NOT LIKE '%pg_toast_N%' THEN pg_get_indexdef(indexrelid) END,
            to_jsonb(i) - '{indexrelid,indrelid,indcollation,indclass,indcheckxmin,indpred}'::text[])
        FROM pg_index i JOIN pg_temp.object ON classid = 'pg_class'::regclass AND objid = indexrelid",
    ),
    (
        "policy",
        "SELECT concat_ws(' ', name, polcmd, polpermissive, polroles::regrole[], pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
        FROM pg_policy p JOIN pg_temp.object ON classid = 'pg_policy'::regclass AND objid = p.oid",
    ),
    (
        "trigger",
        "SELECT concat_ws(' ', pg_get_triggerdef(t.oid), tgenabled) FROM pg_trigger t
        JOIN pg_temp.object ON classid = 'pg_class'::regclass AND objid = tgrelid",
    ),
    (
        "rule",
        "SELECT concat_ws(' ', pg_get_ruledef(r.oid), ev_enabled) FROM pg_rewrite r
        JOIN pg_temp.object ON classid = 'pg_rewrite'::regclass AND objid = r.oid",
    ),
    (
        "type",
        "SELECT name || ' ' || typowner::regrole || (to_jsonb(t) - '{oid,typname,typnamespace,typowner,typrelid,typelem,typarray}'::text[])::text
        FROM pg_type t JOIN pg_temp.object ON classid = 'pg_type'::regclass AND objid = t.oid",
    ),
    (
        "sequence",
        "SELECT name || (to_jsonb(s) - '{seqrelid}'::text[])::text
        FROM pg_sequence s JOIN pg_temp.object ON classid = 'pg_class'::regclass AND objid = seqrelid",
    ),
    (
        "comment",
        "SELECT concat_ws(' ', pg_temp.name(d.classoid, d.objoid, d.objsubid), description) FROM pg_description d
        JOIN pg_temp.object ON classid = classoid AND objid = objoid
        UNION ALL SELECT obj_description(oid, 'pg_extension') FROM pg_extension WHERE extname = 'vault_ext'",
    ),
    // pg_dump assumes these privileges, and dumps only those that differ.
    (
        "initial privileges",
        "SELECT concat_ws(' ', pg_temp.name(p.classoid, p.objoid, p.objsubid), privtype, initprivs) FROM pg_init_privs p
        JOIN pg_temp.object ON classid = classoid AND objid = objoid",
    ),
];

/// One line for each fact. Equal facts are repeated.
pub fn facts_seen_by(client: &mut Client) -> Vec<String> {
    client
        .batch_execute("DROP VIEW IF EXISTS pg_temp.object; DROP FUNCTION IF EXISTS pg_temp.name(oid, oid, int)")
        .unwrap();
    client.batch_execute(OBJECTS).expect("the list of objects can be created");
    let mut facts = Vec::new();
    for (kind, query) in QUERIES {
        let rows = client.query(*query, &[]).unwrap_or_else(|e| panic!("{kind}: {e:?}"));
        facts.extend(
            rows.iter().map(|row| format!("{kind}: {}", row.get::<_, Option<String>>(0).expect("a fact is not NULL"))),
        );
    }
    facts.sort();
    facts
}

pub fn facts(db: &Db) -> Vec<String> {
    facts_seen_by(&mut db.superuser())
}

/// The facts that only one of the two has, marked with - and +.
pub fn differences(one: &[String], other: &[String]) -> Vec<String> {
    let only = |mark: char, these: &[String], those: &[String]| {
        let mut rest = those.to_vec();
        let mut lines = Vec::new();
        for fact in these {
            match rest.iter().position(|line| line == fact) {
                Some(at) => drop(rest.swap_remove(at)),
                None => lines.push(format!("{mark} {fact}")),
            }
        }
        lines
    };
    [only('-', one, other), only('+', other, one)].concat()
}

#[track_caller]
pub fn assert_same(one: &[String], other: &[String]) {
    for kind in [
        "extension",
        "object",
        "dependency",
        "role",
        "schema",
        "routine",
        "relation",
        "column",
        "constraint",
        "index",
        "policy",
        "rule",
        "type",
        "sequence",
        "comment",
        "initial privileges",
    ] {
        assert!(one.iter().any(|fact| fact.starts_with(&format!("{kind}: "))), "no {kind} was found");
    }
    let differences = differences(one, other);
    assert!(differences.is_empty(), "the catalogs differ:\n{}", differences.join("\n"));
}

#[test]
fn the_comparison_sees_every_change() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.database("d");
    let before = facts(&db);
    assert_same(&before, &facts(&db));
    let mut client = db.superuser();
    client.batch_execute("SET vault_ext.allow_alter = on").unwrap();
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
        assert!(!differences.is_empty(), "the comparison does not see: {change}");
    }
    assert_same(&before, &facts(&db));
}
