//! All that the catalogs hold of the extension's objects, as text without OIDs: two installations that read alike are
//! alike. Unlike the golden list this text may differ between majors, so that nothing has to be left out.

use postgres::Client;

use crate::harness::Db;

/// The extension's members and all that belongs to one of them: indexes, constraints, defaults, policies, rules, row types,
/// sequences, toast tables.
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
    // Some minor releases keep a version of their own among a column's options.
    (
        "column",
        "SELECT concat_ws(' ', name, format_type(atttypid, atttypmod), attcollation::regcollation,
            pg_get_expr(adbin, adrelid), ARRAY(SELECT o FROM unnest(attoptions) o WHERE o NOT LIKE 'pg_attver=%'),
            to_jsonb(a) - '{attrelid,atttypid,attcollation,attoptions}'::text[])
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
            to_jsonb(i) - '{indexrelid,indrelid,indcollation,indclass,indcheckxmin}'::text[])
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
    // What pg_dump takes for granted: it dumps only the privileges that differ.
    (
        "initial privileges",
        "SELECT concat_ws(' ', pg_temp.name(p.classoid, p.objoid, p.objsubid), privtype, initprivs) FROM pg_init_privs p
        JOIN pg_temp.object ON classid = classoid AND objid = objoid",
    ),
];

/// One line for each fact; those that say the same are there as often as they are true.
pub fn facts_seen_by(client: &mut Client) -> Vec<String> {
    client
        .batch_execute("DROP VIEW IF EXISTS pg_temp.object; DROP FUNCTION IF EXISTS pg_temp.name(oid, oid, int)")
        .unwrap();
    client.batch_execute(OBJECTS).expect("the list of objects");
    let mut facts = Vec::new();
    for (kind, query) in QUERIES {
        let rows = client.query(*query, &[]).unwrap_or_else(|e| panic!("{kind}: {e:?}"));
        facts.extend(rows.iter().map(|row| format!("{kind}: {}", row.get::<_, Option<String>>(0).expect("a line"))));
    }
    facts.sort();
    facts
}

pub fn facts(db: &Db) -> Vec<String> {
    facts_seen_by(&mut db.superuser())
}

/// What only one of the two has, marked with - and +.
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
