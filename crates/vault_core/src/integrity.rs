//! Compares what the catalogs say now with what CREATE EXTENSION made, as far as the vault's promises depend on it. Pure: the
//! extension reads the facts.

/// The tables that the promises rest on.
pub const TABLES: [&std::ffi::CStr; 11] = [
    c"encryption_vaults",
    c"encryption_vault_audit",
    c"keks",
    c"grants",
    c"old_keys",
    c"erasures",
    c"database_keys",
    c"honey_users",
    c"audit_trails",
    c"audit_tiles",
    c"audit_checkpoints",
];

const VAULTS: &str = "encryption_vaults";
const TRAIL: &str = "encryption_vault_audit";
/// Since 0.3.0, like those after it.
const GRANTS: &str = "grants";
const OLD_KEYS: &str = "old_keys";
const ERASURES: &str = "erasures";
const DATABASE_KEYS: &str = "database_keys";
const HONEY: &str = "honey_users";
const TRAILS: &str = "audit_trails";
const TILES: &str = "audit_tiles";
const CHECKPOINTS: &str = "audit_checkpoints";
const SINCE_0_3: [&str; 8] = [GRANTS, OLD_KEYS, ERASURES, DATABASE_KEYS, HONEY, TRAILS, TILES, CHECKPOINTS];
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
    /// The owner of the extension's schema.
    SchemaOwner(String),
    /// A dangerous attribute that the role vault_ext_owner has.
    OwnerMay(String),
    /// A table that Citus has made part of its cluster: it stays a plain table, but its rows may be elsewhere.
    Distributed {
        table: String,
        how: Distribution,
    },
    /// A function that the policies ask, and that is not the extension's own any more.
    Replaced(String),
}

/// How Citus distributes a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// By a hash of the column `user_id`; tables of one group have a user's rows on one node.
    ByUser {
        group: u32,
    },
    /// Whole on every node.
    Reference,
    Otherwise,
}

/// What somebody is about to work on across users, where rows that policies hide would be missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One user's own rows: policies are meant to hide the others.
    Own,
    /// Vaults, with all that belongs to them.
    Vaults,
    /// Rows of the audit trail that are to be deleted or changed.
    Trail,
    /// What the trail proves. The other tables do not matter: somebody may look into it because of them.
    Proofs,
}

impl Scope {
    pub const ALL: [Self; 4] = [Self::Own, Self::Vaults, Self::Trail, Self::Proofs];
}

impl Scope {
    /// Whether work of that kind reads or writes a table across users.
    fn has(self, table: &str) -> bool {
        let is_of_trail = [TRAIL, TRAILS, TILES, CHECKPOINTS].contains(&table);
        match self {
            Self::Own => false,
            Self::Vaults => !is_of_trail,
            // A purge leaves the rows of grants that can be used.
            Self::Trail => is_of_trail || table == GRANTS,
            Self::Proofs => is_of_trail,
        }
    }

    /// Whether the policies of a table are among the facts for work of that kind. Reading them waits for whoever has locked the table, so
    /// they are read where the work waits for it, too.
    pub fn needs_policies_of(self, table: &str) -> bool {
        match self {
            Self::Own => Self::Vaults.has(table),
            scope => scope.has(table),
        }
    }

    /// Whether work of that kind runs a command of which a policy has this letter.
    fn runs(self, command: &str) -> bool {
        self != Self::Proofs || command == "r" || command == "*"
    }

    /// Whether that problem matters.
    fn suffers(self, problem: &Problem) -> bool {
        let mut words = problem.what.split(|c: char| !c.is_alphanumeric() && c != '_');
        self != Self::Proofs || words.any(|word| self.has(word) || word == "in_maintenance")
    }
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

impl Problem {
    /// The owner that a table or a function should not have, if that is the problem.
    fn stray_owner(&self) -> Option<&str> {
        self.what.strip_suffix(" and not to vault_ext_owner")?.rsplit_once(" belongs to ").map(|(_, owner)| owner)
    }
}

const ISOLATION: &str = "(user_id = current_user_id())";
/// The same in the SQL of 0.2.0 and older.
const OLD_ISOLATION: &str = "(user_id = NULLIF(current_setting('app.current_user_id'::text, true), ''::text))";
const MAINTENANCE: &str = "in_maintenance()";
const NODE: &str = "is_node()";

/// What vault_ext.distribute() makes of tables: those by user, and those that every node has.
pub const BY_USER: [&str; 2] = [VAULTS, OLD_KEYS];
const EVERYWHERE: [&str; 4] = ["keks", DATABASE_KEYS, HONEY, ERASURES];

/// The end of the name of the policy that vault_ext.distribute() adds to a table: the table's rows may be on other nodes.
pub const NODES_POLICY: &str = "_nodes";

/// table, name, command, roles, USING, WITH CHECK, and whether a promise rests on it.
type ExpectedPolicy = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str, bool);

const INSERT_SINCE_0_3: &str = "encryption_vaults_vault_maintenance_insert";
const UPDATE_SINCE_0_3: &str = "encryption_vault_audit_maintenance_update";

/// The policies of sql/040_policies.sql. Those on which only maintenance rests are missed by `blinds`.
const POLICIES: [ExpectedPolicy; 49] = [
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
    (TRAIL, UPDATE_SINCE_0_3, "w", OWNER, MAINTENANCE, MAINTENANCE, false),
    (HONEY, "honey_users_maintenance", "r", OWNER, MAINTENANCE, "", true),
    (HONEY, "honey_users_maintenance_insert", "a", OWNER, "", MAINTENANCE, false),
    (HONEY, "honey_users_maintenance_update", "w", OWNER, MAINTENANCE, MAINTENANCE, false),
    (HONEY, "honey_users_maintenance_delete", "d", OWNER, MAINTENANCE, "", false),
    (HONEY, "honey_users_reader", "r", "vault_ext_admin,vault_ext_auditor", "true", "", false),
    (TRAILS, "audit_trails_maintenance", "r", OWNER, MAINTENANCE, "", true),
    (TRAILS, "audit_trails_maintenance_insert", "a", OWNER, "", MAINTENANCE, true),
    (TRAILS, "audit_trails_auditor", "r", "vault_ext_auditor", "true", "", false),
    (TILES, "audit_tiles_maintenance", "r", OWNER, MAINTENANCE, "", true),
    (TILES, "audit_tiles_maintenance_insert", "a", OWNER, "", MAINTENANCE, true),
    (TILES, "audit_tiles_maintenance_delete", "d", OWNER, MAINTENANCE, "", false),
    (TILES, "audit_tiles_auditor", "r", "vault_ext_auditor", "true", "", false),
    (CHECKPOINTS, "audit_checkpoints_maintenance", "r", OWNER, MAINTENANCE, "", false),
    (CHECKPOINTS, "audit_checkpoints_maintenance_insert", "a", OWNER, "", MAINTENANCE, false),
    (CHECKPOINTS, "audit_checkpoints_reader", "r", "pg_monitor,vault_ext_auditor", "true", "", false),
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
             identity issuer token_id token_kid actor grant_id login_role application_name leaf leaf_hash salt redacted_digest",
        ],
        GRANTS => &[
            "id user_id grantee not_before expires_at max_uses reason granted_by approved_by revoked_at revoked_by created_at",
        ],
        OLD_KEYS => &[
            "user_id key_version wrapped_mk wrap_iv format_version kek_id state superseded_at destroy_after destroyed_at",
        ],
        HONEY => &["user_id marked_by marked_at"],
        TRAILS => &["trail_id origin first_leaf begun_at old_rows old_rows_last_id old_rows_root"],
        TILES => &["level index hashes root"],
        CHECKPOINTS => &["size root created_at note"],
        DATABASE_KEYS => &["name key_version wrapped_mk wrap_iv format_version kek_id created_at"],
        ERASURES => &[
            "id user_id reason scheduled_by scheduled_at erase_after vault_created_at cancelled_by cancelled_at erased_at kek_ids",
        ],
        _ => &["kek_id check_value first_seen retired_at"],
    }
}

/// Whether the trail has a tree, and says what established the user: since 0.3.0.
pub fn trail_has_tree(facts: &[Fact]) -> bool {
    facts.iter().any(|fact| {
        matches!(fact, Fact::Columns { table, names } if table == TRAIL && names.split(' ').any(|name| name == "leaf"))
    })
}

/// Whether Citus distributes exactly what vault_ext.distribute() does, and as it does.
pub fn is_scaled_out(facts: &[Fact]) -> bool {
    let how = |wanted: &str| {
        facts.iter().find_map(|fact| match fact {
            Fact::Distributed { table, how } if table == wanted => Some(*how),
            _ => None,
        })
    };
    let is_one_of_ours = |table: &str| BY_USER.contains(&table) || EVERYWHERE.contains(&table);
    let is_known = |table: &str| TABLES.iter().any(|known| known.to_bytes() == table.as_bytes());
    let group = how(VAULTS);
    matches!(group, Some(Distribution::ByUser { .. }))
        && BY_USER.iter().all(|table| how(table) == group)
        && EVERYWHERE.iter().all(|table| how(table) == Some(Distribution::Reference))
        && !facts
            .iter()
            .any(|fact| matches!(fact, Fact::Distributed { table, .. } if is_known(table) && !is_one_of_ours(table)))
}

/// Whether vault_ext.distribute() has begun: other nodes are to reach this one's rows.
fn is_for_nodes(facts: &[Fact]) -> bool {
    has_nodes_policy(facts, VAULTS) || is_scaled_out(facts)
}

fn has_nodes_policy(facts: &[Fact], table: &str) -> bool {
    facts.iter().any(|fact| matches!(fact, Fact::Policy(policy) if policy.table == table && is_of_nodes(policy)))
}

/// Whether it is the policy for sessions of other nodes.
fn is_of_nodes(policy: &Policy) -> bool {
    (BY_USER.contains(&policy.table.as_str()) || EVERYWHERE.contains(&policy.table.as_str()))
        && policy.name.strip_suffix(NODES_POLICY) == Some(policy.table.as_str())
        && policy.command == "*"
        && policy.permissive
        && is_made_now(policy, OWNER, NODE, NODE)
}

/// What is not as it was made, the worst first. `facts` are those of a database that has the extension.
pub fn problems(facts: &[Fact]) -> Vec<Problem> {
    problems_of(facts, |_| true)
}

/// The same where only the policies of some tables are among the facts.
fn problems_of(facts: &[Fact], has_policies: impl Fn(&str) -> bool) -> Vec<Problem> {
    let mut found = Vec::new();
    let is_of_0_3 = trail_has_tree(facts);
    let (is_scaled_out, is_for_nodes) = (is_scaled_out(facts), is_for_nodes(facts));
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
                        VAULTS | OLD_KEYS | HONEY => "user_id",
                        TRAILS => "trail_id",
                        TILES => "level and index",
                        CHECKPOINTS => "size",
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
            Fact::SchemaOwner(owner) if owner != OWNER => report(
                true,
                format!("the schema vault_ext belongs to {owner} and not to {OWNER}"),
                format!("ALTER SCHEMA vault_ext OWNER TO {OWNER}."),
            ),
            Fact::SchemaOwner(_) => {}
            // As which the nodes of a cluster reach each other's rows.
            Fact::OwnerMay(what) if what == "LOGIN" && is_for_nodes => {}
            Fact::OwnerMay(what) => report(
                what != "LOGIN",
                format!("the role {OWNER} has {what}"),
                format!("ALTER ROLE {OWNER} NOLOGIN NOSUPERUSER NOBYPASSRLS."),
            ),
            Fact::Distributed { .. } if is_scaled_out => {}
            Fact::Distributed { table, .. } if !TABLES.iter().any(|known| known.to_bytes() == table.as_bytes()) => {}
            Fact::Distributed { table, .. } => report(
                true,
                format!("Citus distributes the table vault_ext.{table}, so its rows may be on other nodes"),
                format!(
                    "Let vault_ext.distribute() do that, and nothing else: SELECT undistribute_table('vault_ext.{table}'), or restore a backup that is older than the distribution."
                ),
            ),
            Fact::Replaced(function) => report(
                true,
                format!("the function vault_ext.{function}() was replaced, and row-level security rests on it"),
                format!("CREATE OR REPLACE FUNCTION vault_ext.{function}() as CREATE EXTENSION made it."),
            ),
        }
    }
    for expected in POLICIES.iter().filter(|expected| has_policies(expected.0) && (is_of_0_3 || !is_new(expected))) {
        missing_policy(expected, facts, &mut report);
    }
    if is_for_nodes && !facts.iter().any(|fact| matches!(fact, Fact::Distributed { .. })) {
        report(
            true,
            "this server is to be a node of a cluster, and is not one yet".into(),
            "Add it to the nodes, and call vault_ext.distribute() on the coordinator: docs/scale-out.md.".into(),
        );
    }
    if is_scaled_out {
        // The trail stays where it is, and a table without row-level security needs no policy.
        let missing = |table: &&str| has_policies(table) && *table != "keks" && !has_nodes_policy(facts, table);
        for table in BY_USER.iter().chain(&EVERYWHERE).copied().filter(missing) {
            report(
                true,
                format!("the policy {table}{NODES_POLICY} on vault_ext.{table} is missing or changed"),
                "Call vault_ext.distribute() again on the coordinator: without it, nodes do not see each other's rows."
                    .into(),
            );
        }
    }
    found.sort_by_key(|problem| !problem.voids);
    found
}

/// The same problems with those of one cause as one: REASSIGN OWNED gives every table and every function another owner.
pub fn summed_up(mut problems: Vec<Problem>) -> Vec<Problem> {
    let mut at = 0;
    while let Some(owner) = problems.get(at).map(|problem| problem.stray_owner().map(str::to_owned)) {
        let is_of_owner = |problem: &Problem| owner.is_some() && problem.stray_owner() == owner.as_deref();
        let count = problems[at..].iter().filter(|problem| is_of_owner(problem)).count();
        if let (Some(owner), true) = (&owner, count > 1) {
            let (what, hint) = (
                format!("{count} objects of the vault belong to {owner} and not to {OWNER}"),
                "Give them back: \"Changing the vault's own objects\" in docs/reliability.md has a statement for all of them.",
            );
            let rest = problems.split_off(at).into_iter().filter(|problem| !is_of_owner(problem));
            let rest: Vec<_> = rest.collect();
            problems.push(Problem { what, hint: hint.into(), voids: true });
            problems.extend(rest);
        }
        at += 1;
    }
    problems
}

/// What keeps work of that kind from seeing every row, or None. An answer such as 0 or false would be wrong then, and a change
/// would miss rows.
pub fn blinds(facts: &[Fact], scope: Scope) -> Option<Problem> {
    let problems = problems_of(facts, |table| scope.needs_policies_of(table));
    let worst = summed_up(problems).into_iter().find(|problem| problem.voids && scope.suffers(problem));
    if worst.is_some() || scope == Scope::Own {
        return worst;
    }
    let mut found = Vec::new();
    let mut report = |voids: bool, what: String, hint: String| found.push(Problem { what, hint, voids });
    for fact in facts {
        if let Fact::Policy(policy) = fact
            && scope.has(&policy.table)
            && scope.runs(&policy.command)
        {
            restrictive_policy(policy, &mut report);
        }
    }
    let is_of_0_3 = trail_has_tree(facts);
    let of_maintenance =
        |expected: &&ExpectedPolicy| expected.3 == OWNER && scope.has(expected.0) && scope.runs(expected.2);
    for expected in POLICIES.iter().filter(of_maintenance).filter(|expected| is_of_0_3 || !is_new(expected)) {
        missing_policy(expected, facts, &mut report);
    }
    found.into_iter().next()
}

/// A policy that takes rows away from the vault's own functions, whatever the other policies let through.
fn restrictive_policy(policy: &Policy, report: &mut impl FnMut(bool, String, String)) {
    let concerns_us = policy.roles.split(',').any(|role| role == "public" || role == OWNER);
    // One for INSERT hides nothing: what it refuses is an error.
    if !policy.permissive && concerns_us && policy.command != "a" {
        let (name, table) = (&policy.name, &policy.table);
        report(
            false,
            format!("the policy {name} on vault_ext.{table} is restrictive"),
            format!("DROP POLICY {name} ON vault_ext.{table}, or give it TO a role of yours."),
        );
    }
}

/// Whether 0.2.0 did not have this policy.
fn is_new(expected: &ExpectedPolicy) -> bool {
    SINCE_0_3.contains(&expected.0) || [INSERT_SINCE_0_3, UPDATE_SINCE_0_3].contains(&expected.1)
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
    if policy.permissive && concerns_us && !is_ours && !is_harmless && !is_of_nodes(policy) {
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
        facts.push(Fact::SchemaOwner(OWNER.into()));
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
        // The columns that the hint names are there.
        for at in 0..TABLES.len() {
            let mut facts = as_installed();
            let Fact::Columns { names, .. } = &mut facts[TABLES.len() + at] else { panic!("columns") };
            let before = names.clone();
            names.push_str(" note");
            let hint = worst(&facts).hint;
            let named = hint.split("refers to ").nth(1).and_then(|rest| rest.split(": ").next()).expect("columns");
            assert!(named.split(" and ").all(|name| before.split(' ').any(|column| column == name)), "{hint}");
        }
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
    fn maintenance_is_blind_where_policies_hide_rows() {
        assert_eq!(Scope::ALL.map(|scope| blinds(&as_installed(), scope)), [None, None, None, None]);
        let blinds = |facts: &[Fact]| Scope::ALL.map(|scope| blinds(facts, scope).is_some());
        // What voids a promise blinds everybody.
        let mut facts = as_installed();
        facts.push(Fact::Replaced("in_maintenance".into()));
        assert_eq!(blinds(&facts), [true, true, true, true]);
        // The table of vaults has no part in what the trail proves.
        for (table, proofs) in [(0, false), (1, true)] {
            let mut facts = as_installed();
            let Fact::Table { kind, .. } = &mut facts[table] else { panic!("a table") };
            kind.relkind = 'v';
            assert_eq!(blinds(&facts), [true, true, true, proofs]);
        }
        // A policy for maintenance is missing.
        let without = |name: &str| {
            let mut facts = as_installed();
            facts.retain(|fact| !matches!(fact, Fact::Policy(policy) if policy.name == name));
            blinds(&facts)
        };
        assert_eq!(without("encryption_vaults_vault_maintenance_delete"), [false, true, false, false]);
        assert_eq!(without("encryption_vault_audit_maintenance"), [false, false, true, true]);
        assert_eq!(without("encryption_vault_audit_maintenance_delete"), [false, false, true, false]);
        assert_eq!(without("encryption_vault_audit_auditor"), [false, false, false, false]);
        // A policy of somebody else takes rows away.
        let restrictive = |table: &str, command: &str, roles: &str| {
            let mut facts = as_installed();
            let [table, name, command, roles] = [table, "extra", command, roles].map(str::to_owned);
            facts.push(Fact::Policy(Policy {
                table,
                name,
                command,
                roles,
                using: "false".into(),
                ..Policy::default()
            }));
            blinds(&facts)
        };
        assert_eq!(restrictive(VAULTS, "d", "public"), [false, true, false, false]);
        assert_eq!(restrictive(VAULTS, "a", "public"), [false, false, false, false]);
        assert_eq!(restrictive(VAULTS, "*", "reporting"), [false, false, false, false]);
        assert_eq!(restrictive(TRAIL, "r", "a,vault_ext_owner"), [false, false, true, true]);
        assert_eq!(restrictive(GRANTS, "r", "public"), [false, true, true, false]);
    }

    #[test]
    fn what_citus_distributes_and_what_was_replaced_is_named() {
        for (fact, says) in [
            (
                Fact::Distributed { table: VAULTS.into(), how: Distribution::ByUser { group: 1 } },
                "Citus distributes the table vault_ext.encryption_vaults",
            ),
            (Fact::Replaced("in_maintenance".into()), "the function vault_ext.in_maintenance() was replaced"),
        ] {
            let mut facts = as_installed();
            facts.push(fact);
            let found = worst(&facts);
            assert!(found.voids && found.what.contains(says), "{found:?}");
        }
    }

    fn scaled_out() -> Vec<Fact> {
        let mut facts = as_installed();
        let distributed = |table: &str, how| Fact::Distributed { table: table.into(), how };
        facts.extend(BY_USER.map(|table| distributed(table, Distribution::ByUser { group: 7 })));
        facts.extend(EVERYWHERE.map(|table| distributed(table, Distribution::Reference)));
        facts.extend([VAULTS, OLD_KEYS, DATABASE_KEYS, HONEY, ERASURES].map(|table| {
            Fact::Policy(Policy {
                table: table.into(),
                name: format!("{table}{NODES_POLICY}"),
                command: "*".into(),
                permissive: true,
                roles: OWNER.into(),
                using: NODE.into(),
                check: NODE.into(),
            })
        }));
        facts.push(Fact::OwnerMay("LOGIN".into()));
        facts
    }

    #[test]
    fn what_distribute_makes_is_whole_and_anything_else_is_not() {
        assert_eq!(problems(&scaled_out()), []);
        assert_eq!(Scope::ALL.map(|scope| blinds(&scaled_out(), scope)), [None, None, None, None]);
        let change = |change: &dyn Fn(&mut Fact)| {
            let mut facts = scaled_out();
            facts.iter_mut().for_each(change);
            problems(&facts).first().is_some_and(|problem| problem.voids)
        };
        for table in BY_USER.iter().chain(&EVERYWHERE) {
            for other in [Distribution::ByUser { group: 8 }, Distribution::Reference, Distribution::Otherwise] {
                let differs =
                    |fact: &Fact| matches!(fact, Fact::Distributed { table: of, how } if of == table && *how != other);
                if scaled_out().iter().any(differs) {
                    let set = |fact: &mut Fact| {
                        if let Fact::Distributed { table: of, how } = fact
                            && of == table
                        {
                            *how = other;
                        }
                    };
                    assert!(change(&set), "{table} {other:?}");
                }
            }
            let policy_of = |fact: &Fact| matches!(fact, Fact::Policy(policy) if policy.table == *table && policy.name.ends_with(NODES_POLICY));
            let changes: [fn(&mut Policy); 4] = [
                |policy| policy.using = "true".into(),
                |policy| policy.roles = "public".into(),
                |policy| policy.command = "r".into(),
                |policy| policy.permissive = false,
            ];
            for set in changes.iter().filter(|_| *table != "keks") {
                let set = |fact: &mut Fact| match fact {
                    Fact::Policy(policy) if policy_of(&Fact::Policy(policy.clone())) => set(policy),
                    _ => {}
                };
                assert!(change(&set), "the policy of {table}");
            }
        }
        // The trail, and the grants, stay on their nodes.
        for table in [TRAIL, TILES, GRANTS] {
            let mut facts = scaled_out();
            facts.push(Fact::Distributed { table: table.into(), how: Distribution::Reference });
            assert!(worst(&facts).voids, "{table}");
        }
        // Before the distribution the policies are there already, and the login: what is done then would be hidden by it.
        let mut facts = scaled_out();
        facts.retain(|fact| !matches!(fact, Fact::Distributed { .. }));
        assert!(worst(&facts).voids && worst(&facts).what.contains("not one yet"));
        let mut facts = scaled_out();
        // The policy is for sessions of nodes alone: on the trail it would open it.
        facts.push(Fact::Policy(Policy {
            table: TRAIL.into(),
            name: format!("{TRAIL}{NODES_POLICY}"),
            command: "*".into(),
            permissive: true,
            roles: OWNER.into(),
            using: NODE.into(),
            check: NODE.into(),
        }));
        assert!(worst(&facts).voids);
    }

    #[test]
    fn many_objects_of_one_stray_owner_are_one_problem() {
        let mut facts = as_installed();
        for fact in &mut facts[..3] {
            let Fact::Table { owner, .. } = fact else { panic!("a table") };
            *owner = "postgres".into();
        }
        facts.push(Fact::Definer { name: "vault_rotate()".into(), owner: "postgres".into() });
        facts.push(Fact::Definer { name: "vault_erase(text)".into(), owner: "bob".into() });
        facts.push(Fact::OwnerMay("LOGIN".into()));
        let before = problems(&facts);
        assert_eq!(before.len(), 6, "each has a problem of its own, so that each can be mended");
        let whats: Vec<_> = summed_up(before).into_iter().map(|problem| problem.what).collect();
        assert_eq!(
            whats,
            [
                "4 objects of the vault belong to postgres and not to vault_ext_owner",
                "the function vault_erase(text) belongs to bob and not to vault_ext_owner",
                "the role vault_ext_owner has LOGIN",
            ]
        );
        assert_eq!(summed_up(Vec::new()), []);
    }

    #[test]
    fn owners_and_their_rights_are_named() {
        let mut facts = as_installed();
        facts.push(Fact::Definer { name: "vault_rotate()".into(), owner: "postgres".into() });
        assert!(worst(&facts).what.contains("vault_rotate() belongs to postgres"));
        let mut facts = as_installed();
        facts.push(Fact::SchemaOwner("postgres".into()));
        assert!(worst(&facts).what.contains("the schema vault_ext belongs to postgres"));
        for (what, voids) in [("SUPERUSER", true), ("BYPASSRLS", true), ("LOGIN", false)] {
            let mut facts = as_installed();
            facts.push(Fact::OwnerMay(what.into()));
            assert_eq!(worst(&facts).voids, voids, "{what}");
        }
    }
}
