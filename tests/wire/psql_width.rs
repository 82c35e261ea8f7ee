//! What administrators read fits a terminal of 120 columns as psql prints it.

use serde_json::json;

use crate::harness::{Cluster, Db, ISS, Signer, claims, fetch, init, issuer, issuers, rotate, succeed};
use crate::keyring::{keyring, switch};

const TERMINAL: usize = 120;
const USER: &str = "4e7f1f6a-9d0c-4b7e-8a63-0f6e6f3e1f20";

/// Long by nature. These columns come last, and what stands before them has to fit.
const PROSE: [&str; 4] = ["problem", "hint", "finding", "token_kid"];

/// Wider than a terminal, and why. docs/reference/functions.md lists them for `\x auto`.
pub const WIDE: [(&str, &str); 10] = [
    ("vault_kek_status()", "eleven columns, ten of them since 0.1.0"),
    ("vault_status()", "nine columns, six of them since 0.1.0"),
    ("vault_key_versions()", "three times in each row"),
    ("vault_whoami()", "the user, the token and its times"),
    ("vault_erasure_status()", "five times, two logins and a reason in each row"),
    ("vault_import_key()", "one row, with two keys in full to be copied and compared"),
    ("vault_ext.own_audit", "everything that the trail has about a call"),
    ("vault_ext.own_grants", "four times in each row"),
    ("vault_ext.rewrap_progress", "twelve columns, since 0.1.0"),
    ("vault_ext.stat_writer", "counters and times, as in PostgreSQL's own statistics"),
];

fn statement(name: &str, token: &str) -> String {
    match name {
        "vault_erasure_status()" => format!("SELECT * FROM vault_erasure_status('{USER}')"),
        "vault_explain_token()" => format!("SELECT * FROM vault_explain_token('{token}')"),
        "vault_purge_audit()" => "CALL vault_purge_audit('1 year', 1000)".into(),
        "vault_destroy_due()" | "vault_rewrap()" => format!("CALL {name}"),
        _ => format!("SELECT * FROM {name}"),
    }
}

/// The width of the table that psql printed, without columns of prose at its end.
fn width(printed: &str) -> usize {
    let lines: Vec<&str> = printed.lines().collect();
    let rule = lines.iter().position(|line| line.starts_with("--")).unwrap_or_else(|| panic!("no table: {printed}"));
    let mut columns: Vec<&str> = lines[rule - 1].split('|').map(str::trim).collect();
    let all = columns.len();
    while columns.last().is_some_and(|last| PROSE.contains(last)) {
        columns.pop();
    }
    if columns.len() == all {
        let rows = lines.iter().filter(|line| !line.starts_with('('));
        return rows.map(|line| line.trim_end().chars().count()).max().unwrap_or(0);
    }
    let kept: Vec<usize> = lines[rule].split('+').take(columns.len()).map(str::len).collect();
    kept.iter().sum::<usize>() + kept.len() - 1
}

/// What a server shows that has been in use for a while: its users have UUIDs, and something of everything has happened.
fn in_use(cluster: &Cluster) -> Db<'_> {
    let db = cluster.database("app");
    db.force(
        "CREATE ROLE my_app LOGIN IN ROLE vault_ext_user; CREATE ROLE mailer LOGIN IN ROLE vault_ext_service;
         CREATE ROLE dba LOGIN IN ROLE vault_ext_admin, vault_ext_auditor, vault_ext_user;
         ALTER ROLE my_app SET vault_ext.max_users_per_minute = 1000; ALTER ROLE mailer SET vault_ext.identity = 'role'",
    );
    for user in [USER, "0b6c4d0e-62a5-4d3f-9f0e-1c2d3e4f5a6b"] {
        let mut app = db.conn("my_app");
        crate::harness::set_user(&mut app, user);
        init(&mut app).unwrap();
        rotate(&mut app).unwrap();
        app.batch_execute(
            "SELECT vault_retire_key_version(1); SELECT vault_grant(NULL, 'mailer', '7 days', 'the weekly newsletter', 10)",
        )
        .unwrap();
        fetch(&mut app).unwrap();
    }
    switch(&db, &[("kek-2026", 2), ("kek-2025", 1)]).unwrap();
    let mut admin = db.conn("dba");
    for sql in [
        "CALL vault_rewrap()".to_owned(),
        format!("SELECT vault_schedule_erase('{USER}', '30 days', 'request of 2026-11-02')"),
        "SELECT vault_ext.stat_reset()".into(),
    ] {
        admin.batch_execute(&sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    // A call that fails: the writer's last error stays on record.
    db.force("ALTER TABLE vault_ext.encryption_vault_audit ADD CONSTRAINT no CHECK (false) NOT VALID");
    fetch(&mut db.app_for("0b6c4d0e-62a5-4d3f-9f0e-1c2d3e4f5a6b")).unwrap_err();
    db.force("ALTER TABLE vault_ext.encryption_vault_audit DROP CONSTRAINT no");
    fetch(&mut db.app_for("0b6c4d0e-62a5-4d3f-9f0e-1c2d3e4f5a6b")).unwrap();
    db
}

#[test]
fn what_administrators_read_fits_a_terminal() {
    let signer = Signer::new("EdDSA", "key-2026-11");
    let mut cluster = Cluster::builder().keyring(&keyring(&[("kek-2025", 1)])).without_fsync().prepare();
    let file = cluster.write_kek("issuers", issuers(&[issuer("idp", ISS, &[&signer])]), 0o600);
    cluster.configure(&format!("vault_ext.issuers_file = '{}'", file.display()));
    cluster.start();
    let db = in_use(&cluster);
    // Functions that give columns, but not those that give keys to programs, and all views.
    let names: Vec<String> = db
        .superuser()
        .query(
            "SELECT DISTINCT proname || '()' FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.deptype = 'e'
             WHERE d.classid = 'pg_proc'::regclass AND proname LIKE 'vault\\_%' AND proargmodes IS NOT NULL
                AND proname NOT LIKE 'vault\\_seal%' AND proname <> 'vault_get_master_keys'
             UNION ALL SELECT oid::regclass::text FROM pg_class WHERE relkind = 'v' AND relnamespace = 'vault_ext'::regnamespace ORDER BY 1",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(names.len() > 20, "{names:?}");
    let mut accepted = claims(USER);
    accepted["jti"] = json!("7d0f3a52-1a5e-4c0b-b1a4-5f5a3c1f6c11");
    let (accepted, refused) = (signer.token(&accepted), Signer::new("EdDSA", "key-2026-11").token_of(USER));
    let mut wrong = Vec::new();
    for name in &names {
        let wide = WIDE.iter().any(|(wide, _)| wide == name);
        for token in [&accepted, &refused] {
            let mut psql = cluster.program("psql", "dba");
            let sql = statement(name, token);
            let user = format!(
                "SET app.current_user_id = '{}'",
                if wide { USER } else { "0b6c4d0e-62a5-4d3f-9f0e-1c2d3e4f5a6b" }
            );
            let printed = succeed(psql.args(["-X", "-q", "-P", "pager=off", "-d", "app", "-c", &user, "-c", &sql]));
            let width = width(&printed);
            if (width > TERMINAL) != wide {
                wrong.push(format!("{name}: {width} columns\n{printed}"));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "these fit and are on the list, or are not on it and do not fit:\n{}", wrong.join("\n"));
    // What is wrong stands at the end of the row.
    db.force("ALTER TABLE vault_ext.encryption_vault_audit ADD CONSTRAINT no CHECK (false) NOT VALID");
    let health = "SELECT * FROM vault_health()";
    let printed = succeed(cluster.program("psql", "dba").args(["-X", "-P", "pager=off", "-d", "app", "-c", health]));
    assert!(printed.contains("could not be written") && width(&printed) <= TERMINAL, "{printed}");
    let listed: Vec<_> = WIDE.iter().filter(|(name, _)| !names.iter().any(|other| other == name)).collect();
    assert!(listed.is_empty(), "{listed:?}");
}
