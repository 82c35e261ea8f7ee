//! What the catalogs say of the extension's own objects.

use std::cell::Cell;

use vault_core::integrity::{self, Distribution, Fact, Kind, Policy, Problem};

use super::{OLD_KEYS, SCHEMA, VAULTS};
use crate::pg::spi::{Arg, Rows, Statement};
use crate::pg::table::{self, Access};
use crate::pg::{inval, session};

thread_local! {
    static LOCK_TRAIL: Statement = const { Statement::new(
        "LOCK TABLE vault_ext.encryption_vault_audit IN ACCESS SHARE MODE"
    ) };
    static LOCK_VAULTS: Statement = const { Statement::new(
        "LOCK TABLE vault_ext.encryption_vaults IN ACCESS SHARE MODE NOWAIT"
    ) };
    // One row for each fact: its kind, then its details.
    static FACTS: Statement = const { Statement::of_latest(
        "WITH own AS ( \
            SELECT c.* FROM pg_catalog.pg_class c \
            JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
                AND n.nspname OPERATOR(pg_catalog.=) 'vault_ext'::pg_catalog.name \
            WHERE c.relname OPERATOR(pg_catalog.=) ANY \
                ('{encryption_vaults,encryption_vault_audit,keks,grants,old_keys,erasures,database_keys,honey_users,audit_trails,audit_tiles,audit_checkpoints}'::pg_catalog.name[])) \
         SELECT 'table', c.relname::pg_catalog.text, c.oid::pg_catalog.text, pg_catalog.pg_get_userbyid(c.relowner)::pg_catalog.text, \
            pg_catalog.concat(c.relkind, c.relpersistence), \
            pg_catalog.concat_ws(' ', CASE WHEN c.relrowsecurity THEN 'row-security' END, \
                CASE WHEN c.relforcerowsecurity THEN 'forced' END, \
                CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_depend d \
                    JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid \
                        AND e.extname OPERATOR(pg_catalog.=) 'vault_ext'::pg_catalog.name \
                    WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid \
                    AND d.objid OPERATOR(pg_catalog.=) c.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog.\"char\") THEN 'member' END, \
                CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_rewrite r WHERE r.ev_class OPERATOR(pg_catalog.=) c.oid) THEN 'rules' END, \
                CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent OPERATOR(pg_catalog.=) c.oid \
                    OR i.inhrelid OPERATOR(pg_catalog.=) c.oid) THEN 'inherits' END), \
            NULL::pg_catalog.text, NULL::pg_catalog.text \
         FROM own c \
         UNION ALL \
         SELECT 'columns', c.relname::pg_catalog.text, pg_catalog.array_to_string(ARRAY(SELECT a.attname::pg_catalog.text \
            FROM pg_catalog.pg_attribute a WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid \
            AND a.attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2 AND NOT a.attisdropped ORDER BY a.attnum), ' '), \
            NULL, NULL, NULL, NULL, NULL \
         FROM own c \
         UNION ALL \
         SELECT CASE WHEN p.polpermissive THEN 'policy' ELSE 'restrictive' END, c.relname::pg_catalog.text, p.polname::pg_catalog.text, p.polcmd::pg_catalog.text, \
            pg_catalog.array_to_string(ARRAY(SELECT CASE WHEN r.oid OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'public' \
                ELSE pg_catalog.pg_get_userbyid(r.oid)::pg_catalog.text END \
                FROM pg_catalog.unnest(p.polroles) r (oid) ORDER BY 1), ','), \
            pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid), NULL \
         FROM own c JOIN pg_catalog.pg_policy p ON p.polrelid OPERATOR(pg_catalog.=) c.oid \
         WHERE c.relname::pg_catalog.text OPERATOR(pg_catalog.=) ANY ($1) \
         UNION ALL \
         SELECT 'definer', p.oid::pg_catalog.regprocedure::pg_catalog.text, pg_catalog.pg_get_userbyid(p.proowner)::pg_catalog.text, \
            NULL, NULL, NULL, NULL, NULL \
         FROM pg_catalog.pg_proc p \
         JOIN pg_catalog.pg_depend d ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid \
            AND d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog.\"char\" \
         JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid \
            AND e.extname OPERATOR(pg_catalog.=) 'vault_ext'::pg_catalog.name \
         WHERE p.prosecdef \
         UNION ALL \
         SELECT 'schema', pg_catalog.pg_get_userbyid(n.nspowner)::pg_catalog.text, NULL, NULL, NULL, NULL, NULL, NULL \
         FROM pg_catalog.pg_namespace n WHERE n.nspname OPERATOR(pg_catalog.=) 'vault_ext'::pg_catalog.name \
         UNION ALL \
         SELECT 'owner', may.what, NULL, NULL, NULL, NULL, NULL, NULL \
         FROM pg_catalog.pg_roles r, LATERAL (VALUES (r.rolsuper, 'SUPERUSER'), (r.rolbypassrls, 'BYPASSRLS'), (r.rolcanlogin, 'LOGIN')) may (is_so, what) \
         WHERE r.rolname OPERATOR(pg_catalog.=) 'vault_ext_owner'::pg_catalog.name AND may.is_so \
         UNION ALL \
         SELECT 'replaced', p.proname::pg_catalog.text, NULL, NULL, NULL, NULL, NULL, NULL \
         FROM pg_catalog.pg_proc p \
         JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace \
            AND n.nspname OPERATOR(pg_catalog.=) 'vault_ext'::pg_catalog.name \
         JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) p.prolang \
         WHERE p.proname OPERATOR(pg_catalog.=) ANY ('{in_maintenance,current_user_id,is_audit_writer,is_node}'::pg_catalog.name[]) \
            AND p.pronargs OPERATOR(pg_catalog.=) 0::pg_catalog.int2 \
            AND (l.lanname OPERATOR(pg_catalog.<>) 'c'::pg_catalog.name OR p.prosrc OPERATOR(pg_catalog.<>) pg_catalog.concat(p.proname, '_wrapper')) \
         UNION ALL \
         SELECT 'citus', NULL, NULL, NULL, NULL, NULL, NULL, NULL \
         FROM pg_catalog.pg_extension e WHERE e.extname OPERATOR(pg_catalog.=) 'citus'::pg_catalog.name \
            AND pg_catalog.to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL"
    ) };
    // Citus keeps a row for each table that it manages, whose rows may be on other nodes or in another table of this one.
    static DISTRIBUTED: Statement = const { Statement::of_latest(
        "SELECT c.relname::pg_catalog.text, \
            CASE WHEN d.partmethod OPERATOR(pg_catalog.=) 'h'::pg_catalog.\"char\" AND EXISTS (SELECT FROM pg_catalog.pg_attribute a \
                    WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid AND a.attname OPERATOR(pg_catalog.=) 'user_id'::pg_catalog.name \
                    AND a.attnum::pg_catalog.text OPERATOR(pg_catalog.=) pg_catalog.substring(d.partkey, ':varattno (\\d+)')) \
                THEN 'user' \
                WHEN d.partmethod OPERATOR(pg_catalog.=) 'n'::pg_catalog.\"char\" AND d.repmodel OPERATOR(pg_catalog.=) 't'::pg_catalog.\"char\" \
                THEN 'reference' END, \
            d.colocationid \
         FROM pg_catalog.pg_dist_partition d \
         JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) d.logicalrelid::pg_catalog.oid \
         JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
            AND n.nspname OPERATOR(pg_catalog.=) 'vault_ext'::pg_catalog.name \
         ORDER BY c.relname"
    ) };
    static IS_INSTALLED: Statement = const { Statement::new(
        "SELECT FROM pg_catalog.pg_extension WHERE extname OPERATOR(pg_catalog.=) 'vault_ext'::pg_catalog.name"
    ) };
    /// Whether the table of old keys was found: an update of the extension adds it, and none takes it away.
    static IS_OF_0_3: Cell<bool> = const { Cell::new(false) };
    static HAS_TREES: Statement = const { Statement::new(
        "SELECT pg_catalog.to_regclass('vault_ext.audit_trails') IS NOT NULL"
    ) };
    static HAS_NODES: Statement = const { Statement::of_latest(
        "SELECT FROM pg_catalog.pg_policy p \
         JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) p.polrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
         WHERE n.nspname OPERATOR(pg_catalog.=) 'vault_ext'::pg_catalog.name \
            AND c.relname OPERATOR(pg_catalog.=) 'encryption_vaults'::pg_catalog.name \
            AND p.polname OPERATOR(pg_catalog.=) 'encryption_vaults_nodes'::pg_catalog.name"
    ) };
    static HAS_CITUS: Statement = const { Statement::new(
        "SELECT pg_catalog.to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL"
    ) };
    static SQL_VERSION: Statement = const { Statement::new(
        "SELECT extversion FROM pg_catalog.pg_extension WHERE extname OPERATOR(pg_catalog.=) 'vault_ext'"
    ) };
}

/// The version of the extension's SQL in this database.
pub fn sql_version() -> Option<String> {
    SQL_VERSION.with(|statement| statement.run(&[], |rows| if rows.count() == 0 { None } else { rows.get(0, 0) }))
}

/// Whether the SQL of this database is that of 0.3.0 or newer, with grants, old keys and erasures. Every backend asks with its first
/// fetch, so no statement does: its plan alone would take 40 kB.
pub fn is_of_0_3() -> bool {
    IS_OF_0_3.get() || {
        IS_OF_0_3.set(table::exists(SCHEMA, OLD_KEYS));
        IS_OF_0_3.get()
    }
}

/// Whether the vaults may be on other nodes, too: vault_ext.distribute() was called. Costs nothing on a server without Citus.
pub fn has_nodes() -> bool {
    session::has_citus() && HAS_NODES.with(|statement| statement.run(&[], Rows::count)) > 0
}

/// Whether Citus has made the vaults part of its cluster. In the middle of a DROP the policy that `has_nodes` looks for may be gone
/// already.
pub fn are_vaults_distributed() -> bool {
    if !session::has_citus() || !HAS_CITUS.with(|statement| statement.run(&[], |rows| rows.get(0, 0) == Some(true))) {
        return false;
    }
    let is_vaults = |rows: &Rows| (0..rows.count()).any(|row| rows.text(row, 0) == VAULTS.to_str().ok());
    DISTRIBUTED.with(|statement| statement.run(&[], is_vaults))
}

/// Whether the audit trail's tree has its tables: an update of the extension adds them.
pub fn has_trees() -> bool {
    HAS_TREES.with(|statement| statement.run(&[], |rows| rows.get(0, 0).unwrap_or(false)))
}

/// Lists what is not as CREATE EXTENSION made it, the worst first. Empty in a database without the extension.
pub fn problems() -> Vec<Problem> {
    if IS_INSTALLED.with(|statement| statement.run(&[], Rows::count)) == 0 {
        return Vec::new();
    }
    integrity::problems(&facts(|_| true))
}

/// Watches the tables that these facts are about, instead of the previous ones.
pub fn watch_tables(facts: &[Fact]) {
    let oid = |fact: &Fact| if let Fact::Table { oid, .. } = fact { Some(*oid) } else { None };
    inval::watch(&facts.iter().filter_map(oid).collect::<Vec<_>>());
}

/// Locks the trail so that nobody alters it until the transaction ends. Waits as long as necessary.
pub fn lock_trail() {
    LOCK_TRAIL.with(|statement| statement.run(&[], |_| ()));
}

/// The same for the vaults, but raises 55P03 instead of waiting.
pub fn lock_vaults() {
    // Citus would lock the table on every node, and a node that is down would keep all others from writing their trails.
    if has_nodes() {
        table::lock_here(SCHEMA, VAULTS, Access::Read, false);
    } else {
        LOCK_VAULTS.with(|statement| statement.run(&[], |_| ()));
    }
}

/// What the catalogs say of the extension's tables, policies, functions and owner.
///
/// Reading a policy's expression locks its table, and waits for it as long as necessary: only those of some tables are read.
pub fn facts(has_policies: impl Fn(&str) -> bool) -> Vec<Fact> {
    let mut has_citus = false;
    let names = integrity::TABLES.iter().filter_map(|table| table.to_str().ok());
    let names: Vec<_> = names.filter(|table| has_policies(table)).collect();
    let mut facts = FACTS.with(|statement| {
        statement.run(&[Arg::TextArray(&names)], |rows| {
            has_citus = (0..rows.count()).any(|row| rows.text(row, 0) == Some("citus"));
            rows.collect(|row| fact(rows, row))
        })
    });
    if has_citus {
        let table = |rows: &Rows, row| {
            let how = match (rows.text(row, 1), rows.get::<i32>(row, 2)) {
                (Some("user"), Some(group)) => Distribution::ByUser { group: group.cast_unsigned() },
                (Some("reference"), _) => Distribution::Reference,
                _ => Distribution::Otherwise,
            };
            Some(Fact::Distributed { table: rows.get(row, 0)?, how })
        };
        facts.extend(DISTRIBUTED.with(|statement| statement.run(&[], |rows| rows.collect(|row| table(rows, row)))));
    }
    facts
}

fn fact(rows: &Rows, row: u64) -> Option<Fact> {
    let text = |column| rows.get::<String>(row, column).unwrap_or_default();
    match rows.text(row, 0)? {
        "table" => {
            let (kind, flags) = (text(4), text(5));
            let is = |flag: &str| flags.split(' ').any(|word| word == flag);
            let kind = Kind {
                relkind: kind.chars().next()?,
                persistence: kind.chars().nth(1)?,
                row_security: is("row-security"),
                forced: is("forced"),
                is_member: is("member"),
                has_rules: is("rules"),
                inherits: is("inherits"),
            };
            Some(Fact::Table { name: text(1), oid: text(2).parse().ok()?, kind, owner: text(3) })
        }
        "columns" => Some(Fact::Columns { table: text(1), names: text(2) }),
        kind @ ("policy" | "restrictive") => Some(Fact::Policy(Policy {
            table: text(1),
            name: text(2),
            command: text(3),
            permissive: kind == "policy",
            roles: text(4),
            using: text(5),
            check: text(6),
        })),
        "definer" => Some(Fact::Definer { name: text(1), owner: text(2) }),
        "schema" => Some(Fact::SchemaOwner(text(1))),
        "owner" => Some(Fact::OwnerMay(text(1))),
        "replaced" => Some(Fact::Replaced(text(1))),
        _ => None,
    }
}
