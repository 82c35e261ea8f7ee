//! What the catalogs say of the extension's own objects.

use std::cell::Cell;

use vault_core::integrity::{self, Fact, Kind, Policy, Problem};

use crate::pg::spi::{Rows, Statement};

thread_local! {
    static LOCK_TRAIL: Statement = const { Statement::new(
        "LOCK TABLE vault_ext.encryption_vault_audit IN ACCESS SHARE MODE"
    ) };
    static LOCK_VAULTS: Statement = const { Statement::new(
        "LOCK TABLE vault_ext.encryption_vaults IN ACCESS SHARE MODE NOWAIT"
    ) };
    // One row for each fact: its kind, then its details.
    static FACTS: Statement = const { Statement::new(
        "WITH own AS ( \
            SELECT c.* FROM pg_catalog.pg_class c \
            JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
                AND n.nspname OPERATOR(pg_catalog.=) 'vault_ext'::pg_catalog.name \
            WHERE c.relname OPERATOR(pg_catalog.=) ANY \
                ('{encryption_vaults,encryption_vault_audit,keks,grants,old_keys,erasures,database_keys}'::pg_catalog.name[])) \
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
         SELECT 'owner', may.what, NULL, NULL, NULL, NULL, NULL, NULL \
         FROM pg_catalog.pg_roles r, LATERAL (VALUES (r.rolsuper, 'SUPERUSER'), (r.rolbypassrls, 'BYPASSRLS'), (r.rolcanlogin, 'LOGIN')) may (is_so, what) \
         WHERE r.rolname OPERATOR(pg_catalog.=) 'vault_ext_owner'::pg_catalog.name AND may.is_so"
    ) };
    static IS_INSTALLED: Statement = const { Statement::new(
        "SELECT FROM pg_catalog.pg_extension WHERE extname OPERATOR(pg_catalog.=) 'vault_ext'::pg_catalog.name"
    ) };
    static HAS_OLD_KEYS: Statement = const { Statement::new(
        "SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
         WHERE n.nspname OPERATOR(pg_catalog.=) 'vault_ext'::pg_catalog.name AND c.relname OPERATOR(pg_catalog.=) 'old_keys'::pg_catalog.name"
    ) };
    /// Whether `HAS_OLD_KEYS` found the table: an update of the extension adds it, and none takes it away.
    static IS_OF_0_3: Cell<bool> = const { Cell::new(false) };
    static SQL_VERSION: Statement = const { Statement::new(
        "SELECT extversion FROM pg_catalog.pg_extension WHERE extname OPERATOR(pg_catalog.=) 'vault_ext'"
    ) };
}

/// The version of the extension's SQL in this database.
pub fn sql_version() -> Option<String> {
    SQL_VERSION.with(|statement| statement.run(&[], |rows| if rows.count() == 0 { None } else { rows.get(0, 0) }))
}

/// Whether the SQL of this database is that of 0.3.0 or newer, with grants, old keys and erasures.
pub fn is_of_0_3() -> bool {
    IS_OF_0_3.get() || {
        IS_OF_0_3.set(HAS_OLD_KEYS.with(|statement| statement.run(&[], Rows::count)) > 0);
        IS_OF_0_3.get()
    }
}

/// Lists what is not as CREATE EXTENSION made it, the worst first. Empty in a database without the extension.
pub fn problems() -> Vec<Problem> {
    if IS_INSTALLED.with(|statement| statement.run(&[], Rows::count)) == 0 {
        return Vec::new();
    }
    integrity::problems(&facts())
}

/// Locks the trail so that nobody alters it until the transaction ends. Waits as long as necessary.
pub fn lock_trail() {
    LOCK_TRAIL.with(|statement| statement.run(&[], |_| ()));
}

/// The same for the vaults, but raises 55P03 instead of waiting.
pub fn lock_vaults() {
    LOCK_VAULTS.with(|statement| statement.run(&[], |_| ()));
}

/// What the catalogs say of the extension's tables, policies, functions and owner.
///
/// Reading a policy's expression locks its table.
pub fn facts() -> Vec<Fact> {
    FACTS.with(|statement| statement.run(&[], |rows| rows.collect(|row| fact(rows, row))))
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
        _ => Some(Fact::OwnerMay(text(1))),
    }
}
