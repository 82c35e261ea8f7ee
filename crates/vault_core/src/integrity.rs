//! Compares what the catalogs say now with what CREATE EXTENSION made, as far as the vault's promises depend on it. Pure: the
//! extension reads the facts.

/// The tables that the promises rest on.
pub const TABLES: [&std::ffi::CStr; 7] =
    [c"encryption_vaults", c"encryption_vault_audit", c"keks", c"grants", c"old_keys", c"erasures", c"database_keys"];

const VAULTS: &str = "encryption_vaults";
const TRAIL: &str = "encryption_vault_audit";
/// Since 0.3.0, like the three after it.
const GRANTS: &str = "grants";
const OLD_KEYS: &str = "old_keys";
const ERASURES: &str = "erasures";
const DATABASE_KEYS: &str = "database_keys";
const SINCE_0_3: [&str; 4] = [GRANTS, OLD_KEYS, ERASURES, DATABASE_KEYS];
const OWNER: &str = "vault_ext_owner";

/// A fact of the catalogs, as `store::catalog` reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    Table {
        name: String,
        oid: u32,
        kind: Kind,
        owner: String,
    },
    Columns {
        table: String,
        names: String,
    },
    Policy(Policy),
    /// A SECURITY DEFINER function of the extension, and its owner.
    Definer {
        name: String,
        owner: String,
    },
    /// A dangerous attribute that the role vault_ext_owner has.
    OwnerMay(String),
}

/// What there is to know of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// pg_class.relkind: `r` for a plain table.
    pub relkind: char,
    /// pg_class.relpersistence: `p` for a table that survives a crash.
    pub persistence: char,
    /// Whether row-level security is enabled, and forced on the owner too.
    pub row_security: bool,
    pub forced: bool,
    /// Whether it is the extension's own table.
    pub is_member: bool,
    pub has_rules: bool,
    pub inherits: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    pub table: String,
    pub name: String,
    /// pg_policy.polcmd: `r`, `a`, `w`, `d` or `*`.
    pub command: String,
    pub permissive: bool,
    /// Names in alphabetical order, separated by commas; `public` for everybody.
    pub roles: String,
    pub using: String,
    pub check: String,
}

/// Something that is not as CREATE EXTENSION made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What it is, as the end of a sentence.
    pub what: String,
    /// How to mend it.
    pub hint: String,
    /// True if a promise is broken as long as the problem lasts, so that no key may be released. False if only a later event
    /// is endangered, such as the restore of a dump.
    pub voids: bool,
}

const ISOLATION: &str = "(user_id = current_user_id())";
/// The same in the SQL of 0.2.0 and older.
const OLD_ISOLATION: &str = "(user_id = NULLIF(current_setting('app.current_user_id'::text, true), ''::text))";
const MAINTENANCE: &str = "in_maintenance()";

/// table, name, command, roles, USING, WITH CHECK, and whether a promise rests on it.
type ExpectedPolicy = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str, bool);

const INSERT_SINCE_0_3: &str = "encryption_vaults_vault_maintenance_insert";

/// The policies of sql/040_policies.sql. Maintenance looks for its own policies by itself (`store::all_vaults_are_visible`).
const POLICIES: [ExpectedPolicy; 33] = [
    (VAULTS, "encryption_vaults_user_isolation", "r", OWNER, ISOLATION, "", true),
    (VAULTS, "encryption_vaults_user_isolation_insert", "a", OWNER, "", ISOLATION, true),
    (VAULTS, "encryption_vaults_user_isolation_update", "w", OWNER, ISOLATION, ISOLATION, true),
    (VAULTS, "encryption_vaults_vault_maintenance", "r", OWNER, MAINTENANCE, "", false),
    (VAULTS, INSERT_SINCE_0_3, "a", OWNER, "", MAINTENANCE, false),
    (VAULTS, "encryption_vaults_vault_maintenance_update", "w", OWNER, MAINTENANCE, MAINTENANCE, false),
    (VAULTS, "encryption_vaults_vault_maintenance_delete", "d", OWNER, MAINTENANCE, "", false),
    (TRAIL, "encryption_vault_audit_user_isolation", "r", OWNER, ISOLATION, "", true),
    (TRAIL, "encryption_vault_audit_auditor", "r", "vault_ext_auditor", "true", "", false),
    (TRAIL, "encryption_vault_audit_writer", "a", OWNER, "", "is_audit_writer()", true),
    (TRAIL, "encryption_vault_audit_maintenance", "r", OWNER, MAINTENANCE, "", false),
    (TRAIL, "encryption_vault_audit_maintenance_delete", "d", OWNER, MAINTENANCE, "", false),
    (GRANTS, "grants_user_isolation", "r", OWNER, ISOLATION, "", true),
    (GRANTS, "grants_user_isolation_insert", "a", OWNER, "", ISOLATION, true),
    (GRANTS, "grants_user_isolation_update", "w", OWNER, ISOLATION, ISOLATION, true),
    (GRANTS, "grants_vault_maintenance", "r", OWNER, MAINTENANCE, "", true),
    (GRANTS, "grants_vault_maintenance_insert", "a", OWNER, "", MAINTENANCE, true),
    (GRANTS, "grants_vault_maintenance_update", "w", OWNER, MAINTENANCE, MAINTENANCE, true),
    (OLD_KEYS, "old_keys_user_isolation", "r", OWNER, ISOLATION, "", true),
    (OLD_KEYS, "old_keys_user_isolation_insert", "a", OWNER, "", ISOLATION, true),
    (OLD_KEYS, "old_keys_user_isolation_update", "w", OWNER, ISOLATION, ISOLATION, true),
    (OLD_KEYS, "old_keys_vault_maintenance", "r", OWNER, MAINTENANCE, "", true),
    (OLD_KEYS, "old_keys_vault_maintenance_insert", "a", OWNER, "", MAINTENANCE, true),
    (OLD_KEYS, "old_keys_vault_maintenance_update", "w", OWNER, MAINTENANCE, MAINTENANCE, true),
    (OLD_KEYS, "old_keys_vault_maintenance_delete", "d", OWNER, MAINTENANCE, "", true),
    (DATABASE_KEYS, "database_keys_vault_maintenance", "r", OWNER, MAINTENANCE, "", true),
    (DATABASE_KEYS, "database_keys_vault_maintenance_insert", "a", OWNER, "", MAINTENANCE, true),
    (DATABASE_KEYS, "database_keys_vault_maintenance_update", "w", OWNER, MAINTENANCE, MAINTENANCE, true),
    (ERASURES, "erasures_vault_maintenance", "r", OWNER, MAINTENANCE, "", true),
    (ERASURES, "erasures_vault_maintenance_insert", "a", OWNER, "", MAINTENANCE, true),
    (ERASURES, "erasures_vault_maintenance_update", "w", OWNER, MAINTENANCE, MAINTENANCE, true),
    (ERASURES, "erasures_reader", "r", "vault_ext_admin,vault_ext_auditor", "true", "", false),
    (GRANTS, "grants_reader", "r", "vault_ext_admin,vault_ext_auditor,vault_ext_grantor", "true", "", false),
];

/// The columns of each table, in order: what this version makes, and before it what older versions made.
fn columns(table: &str) -> &'static [&'static str] {
    match table {
        VAULTS => &[
            "user_id wrapped_mk wrap_iv format_version kek_id key_version created_at rotated_at",
            "user_id wrapped_mk wrap_iv format_version kek_id key_version created_at rotated_at tokens_valid_from \
             recovery_wrapped_mk recovery_iv recovery_format_version recovery_set_at zero_knowledge key_check erase_after",
        ],
        TRAIL => &[
            "id user_id action status kek_id key_version db_role ip_address user_agent request_id context created_at",
            "id user_id action status kek_id key_version db_role ip_address user_agent request_id context created_at \
             identity issuer token_id token_kid actor grant_id",
        ],
        GRANTS => &[
            "id user_id grantee not_before expires_at max_uses reason granted_by approved_by revoked_at revoked_by created_at",
        ],
        OLD_KEYS => &[
            "user_id key_version wrapped_mk wrap_iv format_version kek_id state superseded_at destroy_after destroyed_at",
        ],
        DATABASE_KEYS => &["name key_version wrapped_mk wrap_iv format_version kek_id created_at"],
        ERASURES => &[
            "id user_id reason scheduled_by scheduled_at erase_after vault_created_at cancelled_by cancelled_at erased_at kek_ids",
        ],
        _ => &["kek_id check_value first_seen retired_at"],
    }
}

/// Whether the trail has the columns that say what established the user: since 0.3.0.
pub fn trail_has_identity(facts: &[Fact]) -> bool {
    facts.iter().any(|fact| {
        matches!(fact, Fact::Columns { table, names } if table == TRAIL && names.split(' ').any(|name| name == "identity"))
    })
}

/// What is not as it was made, the worst first. `facts` are those of a database that has the extension.
pub fn problems(facts: &[Fact]) -> Vec<Problem> {
    let mut found = Vec::new();
    let is_of_0_3 = trail_has_identity(facts);
    let mut report = |voids: bool, what: String, hint: String| found.push(Problem { what, hint, voids });
    for table in TABLES.map(|name| name.to_str().expect("ASCII")) {
        let is_this = |fact: &&Fact| matches!(fact, Fact::Table { name, .. } if name == table);
        if SINCE_0_3.contains(&table) && !is_of_0_3 {
            continue;
        }
        let Some(Fact::Table { kind, owner, .. }) = facts.iter().find(is_this) else {
            report(
                true,
                format!("there is no table vault_ext.{table}"),
                format!("Rename the table that CREATE EXTENSION made back to vault_ext.{table}."),
            );
            continue;
        };
        table_problems(table, *kind, owner, &mut report);
    }
    for fact in facts {
        match fact {
            Fact::Table { .. } => {}
            Fact::Columns { table, names } if !columns(table).contains(&names.as_str()) => report(
                false,
                format!("the table vault_ext.{table} has other columns than CREATE EXTENSION made"),
                format!(
                    "Keep such values in a table of your own that refers to {}: pg_restore cannot load a dump of \
                     vault_ext.{table} with another set of columns, and restores none of its rows.",
                    match table.as_str() {
                        VAULTS | OLD_KEYS => "user_id",
                        TRAIL | GRANTS | ERASURES => "id",
                        DATABASE_KEYS => "name",
                        _ => "kek_id",
                    }
                ),
            ),
            Fact::Columns { .. } => {}
            Fact::Policy(policy) => foreign_policy(policy, &mut report),
            Fact::Definer { name, owner } if owner != OWNER => report(
                true,
                format!("the function {name} belongs to {owner} and not to {OWNER}"),
                format!("ALTER ROUTINE {name} OWNER TO {OWNER}: its SECURITY DEFINER functions run as their owner."),
            ),
            Fact::Definer { .. } => {}
            Fact::OwnerMay(what) => report(
                what != "LOGIN",
                format!("the role {OWNER} has {what}"),
                format!("ALTER ROLE {OWNER} NOLOGIN NOSUPERUSER NOBYPASSRLS."),
            ),
        }
    }
    for expected in POLICIES.iter().filter(|expected| is_of_0_3 || !is_new(expected)) {
        missing_policy(expected, facts, &mut report);
    }
    found.sort_by_key(|problem| !problem.voids);
    found
}

/// Whether 0.2.0 did not have this policy.
fn is_new(expected: &ExpectedPolicy) -> bool {
    SINCE_0_3.contains(&expected.0) || expected.1 == INSERT_SINCE_0_3
}

fn table_problems(table: &str, kind: Kind, owner: &str, report: &mut impl FnMut(bool, String, String)) {
    let alter = |what: &str| format!("ALTER TABLE vault_ext.{table} {what}.");
    let mut void = |is: bool, what: &str, hint: String| {
        if is {
            report(true, format!("the table vault_ext.{table} {what}"), hint);
        }
    };
    void(
        !kind.is_member || kind.relkind != 'r',
        "is not the one that CREATE EXTENSION made",
        format!("Give the extension's own table its name back, vault_ext.{table}: it alone is guarded and dumped."),
    );
    void(kind.persistence != 'p', "is not logged, and a crash would empty it", alter("SET LOGGED"));
    void(owner != OWNER, &format!("belongs to {owner} and not to {OWNER}"), alter(&format!("OWNER TO {OWNER}")));
    void(kind.has_rules, "has a rule", format!("DROP RULE … ON vault_ext.{table}."));
    void(kind.inherits, "is part of an inheritance tree", alter("NO INHERIT …"));
    if table != "keks" {
        void(!kind.row_security, "has no row-level security", alter("ENABLE ROW LEVEL SECURITY"));
        void(!kind.forced, "does not force row-level security on its owner", alter("FORCE ROW LEVEL SECURITY"));
    }
}

fn missing_policy(
    (table, name, command, roles, using, check, voids): &ExpectedPolicy,
    facts: &[Fact],
    report: &mut impl FnMut(bool, String, String),
) {
    let is_there = facts.iter().any(|fact| {
        matches!(fact, Fact::Policy(policy) if policy.table == *table && policy.name == *name
            && policy.command == *command && policy.permissive
            && (is_made_now(policy, roles, using, check) || is_made_before(policy, using, check)))
    });
    if !is_there {
        report(
            *voids,
            format!("the policy {name} on vault_ext.{table} is missing or changed"),
            "Restore the policy that CREATE EXTENSION made.".into(),
        );
    }
}

/// A policy that is not ours and lets the vault's own functions, or everybody, reach more rows than ours do.
fn foreign_policy(policy: &Policy, report: &mut impl FnMut(bool, String, String)) {
    let is_ours = POLICIES.iter().any(|(table, name, ..)| policy.table == *table && policy.name == *name);
    let concerns_us = policy.roles.split(',').any(|role| role == "public" || role == OWNER);
    let is_harmless = policy.table == TRAIL && policy.command == "r";
    if policy.permissive && concerns_us && !is_ours && !is_harmless {
        report(
            true,
            format!(
                "the policy {} on vault_ext.{} opens it to more than CREATE EXTENSION did",
                policy.name, policy.table
            ),
            format!("DROP POLICY {} ON vault_ext.{}, or give it TO a role of yours.", policy.name, policy.table),
        );
    }
}

fn is_made_now(policy: &Policy, roles: &str, using: &str, check: &str) -> bool {
    policy.roles == roles && normal(&policy.using) == using && normal(&policy.check) == check
}

/// Whether it is a user's policy as 0.2.0 and older made it.
fn is_made_before(policy: &Policy, using: &str, check: &str) -> bool {
    let before =
        |expression: &str| if expression == ISOLATION { OLD_ISOLATION.to_owned() } else { expression.to_owned() };
    (using == ISOLATION || check == ISOLATION) && is_made_now(policy, "public", &before(using), &before(check))
}

/// The text of an expression as every session would show it: without the quotes of quote_all_identifiers and the schemas
/// that depend on search_path.
fn normal(expression: &str) -> String {
    expression.replace('"', "").replace("vault_ext.", "").replace("pg_catalog.", "").replace("OPERATOR(=)", "=")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> Fact {
        let secured = name != "keks";
        let kind = Kind {
            relkind: 'r',
            persistence: 'p',
            row_security: secured,
            forced: secured,
            is_member: true,
            has_rules: false,
            inherits: false,
        };
        Fact::Table { name: name.into(), oid: 1, kind, owner: OWNER.into() }
    }

    fn policy((table, name, command, roles, using, check, _): &ExpectedPolicy) -> Policy {
        let [table, name, command, roles, using, check] =
            [table, name, command, roles, using, check].map(|text| (*text).to_owned());
        Policy { table, name, command, permissive: true, roles, using, check }
    }

    fn as_installed() -> Vec<Fact> {
        let mut facts: Vec<_> = TABLES.map(|name| table(name.to_str().expect("ASCII"))).into();
        facts.extend(TABLES.map(|name| name.to_str().expect("ASCII")).map(|name| Fact::Columns {
            table: name.into(),
            names: columns(name).last().copied().unwrap_or_default().into(),
        }));
        facts.extend(POLICIES.iter().map(|expected| Fact::Policy(policy(expected))));
        facts.push(Fact::Definer { name: "vault_init()".into(), owner: OWNER.into() });
        facts
    }

    fn worst(facts: &[Fact]) -> Problem {
        problems(facts).into_iter().next().expect("a problem")
    }

    #[test]
    fn what_create_extension_makes_is_whole() {
        assert_eq!(problems(&as_installed()), []);
    }

    #[test]
    fn each_change_of_a_table_is_named() {
        type Change = fn(&mut Kind);
        let changes: [(Change, &str); 7] = [
            (|kind| kind.relkind = 'p', "not the one"),
            (|kind| kind.is_member = false, "not the one"),
            (|kind| kind.persistence = 'u', "not logged"),
            (|kind| kind.row_security = false, "no row-level security"),
            (|kind| kind.forced = false, "does not force"),
            (|kind| kind.has_rules = true, "rule"),
            (|kind| kind.inherits = true, "inheritance"),
        ];
        for position in 0..2 {
            for (change, says) in changes {
                let mut facts = as_installed();
                let Fact::Table { kind, .. } = &mut facts[position] else { panic!("a table") };
                change(kind);
                let found = worst(&facts);
                assert!(found.voids && found.what.contains(says), "{found:?}");
            }
        }
        let mut facts = as_installed();
        let Fact::Table { owner, .. } = &mut facts[2] else { panic!("a table") };
        *owner = "postgres".into();
        assert!(worst(&facts).what.contains("keks belongs to postgres"));
        facts.remove(0);
        assert!(worst(&facts).what.contains("no table vault_ext.encryption_vaults"));
    }

    #[test]
    fn another_column_endangers_dumps_and_voids_nothing_yet() {
        let mut facts = as_installed();
        let Fact::Columns { names, .. } = &mut facts[TABLES.len() + 1] else { panic!("columns") };
        names.push_str(" note");
        let found = worst(&facts);
        assert!(!found.voids && found.what.contains("encryption_vault_audit") && found.hint.contains("refers to id"));
    }

    #[test]
    fn policies_are_compared_whatever_the_session_shows() {
        for expected in &POLICIES {
            let mut facts = as_installed();
            let at = facts.iter().position(|fact| matches!(fact, Fact::Policy(policy) if policy.name == expected.1));
            let at = at.expect("the policy");
            facts[at] = Fact::Policy(Policy {
                using: policy(expected)
                    .using
                    .replace("in_maintenance", "vault_ext.\"in_maintenance\"")
                    .replace(" = ", " OPERATOR(pg_catalog.=) "),
                ..policy(expected)
            });
            assert_eq!(problems(&facts), [], "{}", expected.1);
            let old = |text: &str| text.replace(ISOLATION, OLD_ISOLATION);
            if [expected.4, expected.5].contains(&ISOLATION) {
                let (using, check) = (old(expected.4), old(expected.5));
                facts[at] = Fact::Policy(Policy { roles: "public".into(), using, check, ..policy(expected) });
                assert_eq!(problems(&facts), [], "{} of 0.2.0", expected.1);
                facts[at] = Fact::Policy(Policy { roles: "public".into(), ..policy(expected) });
                assert_eq!(problems(&facts).len(), 1, "no version made that");
            }
            facts[at] = Fact::Policy(Policy { roles: "someone".into(), ..policy(expected) });
            let found = worst(&facts);
            assert!(found.what.contains(expected.1) && found.voids == expected.6, "{found:?}");
            facts.remove(at);
            assert!(worst(&facts).what.contains("missing"));
        }
    }

    #[test]
    fn a_policy_of_others_matters_where_it_opens_more() {
        let extra = |table: &str, command: &str, roles: &str, permissive| {
            let mut facts = as_installed();
            facts.push(Fact::Policy(Policy {
                table: table.into(),
                name: "extra".into(),
                command: command.into(),
                permissive,
                roles: roles.into(),
                using: "true".into(),
                check: String::new(),
            }));
            problems(&facts).len()
        };
        assert_eq!(extra(VAULTS, "r", "public", true), 1);
        assert_eq!(extra(VAULTS, "*", "a,vault_ext_owner", true), 1);
        assert_eq!(extra(TRAIL, "w", "public", true), 1);
        assert_eq!(extra(TRAIL, "r", "public", true), 0);
        assert_eq!(extra(VAULTS, "r", "reporting", true), 0);
        assert_eq!(extra(VAULTS, "*", "public", false), 0);
    }

    #[test]
    fn owners_and_their_rights_are_named() {
        let mut facts = as_installed();
        facts.push(Fact::Definer { name: "vault_rotate()".into(), owner: "postgres".into() });
        assert!(worst(&facts).what.contains("vault_rotate() belongs to postgres"));
        for (what, voids) in [("SUPERUSER", true), ("BYPASSRLS", true), ("LOGIN", false)] {
            let mut facts = as_installed();
            facts.push(Fact::OwnerMay(what.into()));
            assert_eq!(worst(&facts).voids, voids, "{what}");
        }
    }
}
