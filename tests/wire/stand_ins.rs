//! Something else in the place of a table of the vault, and policies that hide its rows: maintenance must not take what it does not
//! see for what is not there. Every call fails with 55000 and a hint, and changes nothing.

use postgres::Client;

use crate::harness::{Db, Refusal, VaultKey, fetch, init, rotate, set_user, shared_db, status};

const VAULTS: &str = "encryption_vaults";
const TRAIL: &str = "encryption_vault_audit";

/// What each call says where a table of another make has the name of one of the vault's.
const NOT_OURS: &str = "not the one that CREATE EXTENSION made";

/// The calls of administrators. Each would answer something, or change something, if it saw no vault and no row of the trail.
const MAINTENANCE: [&str; 21] = [
    "SELECT * FROM vault_check()",
    "SELECT * FROM vault_kek_status()",
    "CALL vault_rewrap()",
    "SELECT vault_retire_kek('spare')",
    "SELECT vault_reload_kek()",
    "SELECT vault_erase('alice')",
    "SELECT vault_erase('nobody')",
    "SELECT vault_schedule_erase('alice', reason => 'x')",
    "SELECT vault_cancel_erase('late')",
    "SELECT * FROM vault_erasure_status('late')",
    "CALL vault_destroy_due()",
    "SELECT vault_rename_user('alice', 'alicia')",
    "SELECT vault_mark_honey('alice')",
    "SELECT vault_mark_honey('nobody', false)",
    "SELECT vault_revoke_tokens('alice')",
    "SELECT vault_revoke_grant(1)",
    "SELECT vault_purge_audit('0 s')",
    "CALL vault_purge_audit('0 s', 10)",
    "SELECT vault_redact_audit('alice')",
    "SELECT vault_new_trail()",
    "DELETE FROM accounts",
];

/// The calls of auditors, on what the trail proves.
const PROOFS: [&str; 5] = [
    "SELECT vault_audit_checkpoint()",
    "SELECT vault_audit_key()",
    "SELECT vault_audit_proof(1)",
    "SELECT vault_audit_consistency(0)",
    "SELECT * FROM vault_audit_verify()",
];

/// Two vaults, one of which is about to be erased, an old key, and accounts whose deletion erases.
fn prepare(db: &Db) -> VaultKey {
    init(&mut db.app_for("late")).unwrap();
    db.conn("wire_admin").batch_execute("SELECT vault_schedule_erase('late', reason => 'x')").unwrap();
    init(&mut db.app_for("alice")).unwrap();
    let mut alice = db.app_for("alice");
    let key = rotate(&mut alice).unwrap();
    alice.batch_execute("SELECT vault_grant(NULL, 'wire_service', '1 day', 'x')").unwrap();
    db.force(
        "CREATE TABLE accounts (id text); INSERT INTO accounts VALUES ('alice'), ('nobody'); GRANT SELECT, DELETE ON accounts TO wire_admin;
         CREATE TRIGGER erase AFTER DELETE ON accounts FOR EACH ROW EXECUTE FUNCTION vault_erase_on_delete('id')",
    );
    key
}

/// Every row of every table of the vault, and of what stands in for one.
fn everything(db: &Db) -> Vec<(String, String)> {
    let mut superuser = db.superuser();
    let tables = "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r'
        AND (relnamespace = 'vault_ext'::regnamespace OR oid::regclass::text IN ('child', 'accounts')) ORDER BY 1";
    let tables: Vec<String> = superuser.query(tables, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    let mut rows_of = |table: &String| {
        let sql = format!("SELECT coalesce(string_agg(t::text, E'\\n' ORDER BY t::text), '') FROM ONLY {table} t");
        superuser.query_one(&sql, &[]).unwrap().get(0)
    };
    tables.iter().map(|table| (table.clone(), rows_of(table))).collect()
}

/// What is wrong with the answer to a call that should have failed for that reason; None if it did.
fn wrong(client: &mut Client, sql: &str, says: &str) -> Option<String> {
    let refusal = match client.simple_query(sql) {
        Ok(rows) => return Some(format!("{sql}: answers {rows:?}")),
        Err(error) => Refusal::of(&error),
    };
    let hint = refusal.hint.clone().unwrap_or_default();
    let is_right = refusal.code == "55000" && refusal.message.contains(says) && !hint.is_empty();
    (!is_right || hint.contains("NO FORCE")).then(|| format!("{sql}: {refusal:?}"))
}

#[track_caller]
fn expect_blind(client: &mut Client, sql: &str, says: &str) {
    assert_eq!(wrong(client, sql, says), None);
}

/// Asserts that no call answers as if the rows were not there, and that nothing has changed afterwards.
#[track_caller]
fn expect_all_blind(db: &Db, says: &str) {
    let before = everything(db);
    let mut found = Vec::new();
    let mut admin = db.conn("wire_admin");
    for sql in MAINTENANCE {
        found.extend(wrong(&mut admin, sql, says));
    }
    // The same in sessions that have not looked at the catalogs before.
    for sql in
        ["SELECT * FROM vault_kek_status()", "SELECT * FROM vault_erasure_status('late')", "DELETE FROM accounts"]
    {
        found.extend(wrong(&mut db.conn("wire_admin"), sql, says));
    }
    let mut app = db.app();
    for user in ["alice", "nobody"] {
        set_user(&mut app, user);
        for call in ["vault_init()", "vault_get_master_key()", "vault_rotate()", "vault_rotate(destroy_old => true)"] {
            found.extend(wrong(&mut app, &format!("SELECT master_key FROM {call}"), says));
        }
        found.extend(wrong(&mut app, "SELECT vault_create_key_version()", says));
        found.extend(wrong(&mut app, "SELECT * FROM vault_key_versions()", says));
    }
    found.extend(wrong(&mut app, "SELECT * FROM vault_status()", says));
    assert!(found.is_empty(), "{says}: {}", found.join("\n"));
    // What is there may be said, and what is not seen must not be called absent.
    set_user(&mut app, "alice");
    let status = status(&mut app).map(|status| status.exists);
    assert!(!matches!(status, Ok(false)), "vault_status() says that there is no vault");
    let health: Option<String> =
        db.conn("wire_admin").query_one("SELECT problem FROM vault_health()", &[]).unwrap().get(0);
    assert!(health.is_some_and(|problem| problem.contains(says)), "vault_health() does not say {says:?}");
    assert_eq!(everything(db), before, "nothing has changed");
}

/// Puts what `create` makes into the place of a table, with the owner that the vault's tables have.
fn swap(table: &str, create: &str) -> String {
    format!(
        "SET vault_ext.allow_alter = on; ALTER TABLE vault_ext.{table} RENAME TO mine; {create};
         ALTER TABLE vault_ext.{table} OWNER TO vault_ext_owner"
    )
}

fn swap_back(table: &str, kind: &str) -> String {
    format!(
        "SET vault_ext.allow_alter = on; DROP {kind} vault_ext.{table}; ALTER TABLE vault_ext.mine RENAME TO {table}"
    )
}

/// Makes the change, asserts that it is found, and that all is well after it is taken back.
#[track_caller]
fn found_and_mended(db: &Db, key: &VaultKey, change: &str, says: &str, mend: &str) {
    // This session looked at the catalogs when they were whole.
    let mut before = db.conn("wire_admin");
    before.batch_execute("SELECT * FROM vault_kek_status()").unwrap();
    db.force(change);
    expect_all_blind(db, says);
    expect_blind(&mut before, "SELECT * FROM vault_kek_status()", says);
    let mut auditor = db.conn("wire_auditor");
    let of_trail = change.contains(TRAIL);
    let answered = PROOFS.iter().filter(|sql| wrong(&mut auditor, sql, says).is_some()).count();
    assert_eq!(answered, if of_trail { 0 } else { PROOFS.len() }, "a look into the trail");
    db.force(mend);
    for admin in [&mut before, &mut db.conn("wire_admin")] {
        admin.batch_execute("SELECT * FROM vault_kek_status(); SELECT * FROM vault_check()").unwrap();
    }
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), *key);
}

#[test]
fn partitions() {
    let db = shared_db();
    let key = prepare(&db);
    for (table, column) in [(VAULTS, "user_id"), (TRAIL, "id")] {
        let create = format!(
            "CREATE TABLE vault_ext.{table} (LIKE vault_ext.mine INCLUDING ALL) PARTITION BY RANGE ({column});
             CREATE TABLE vault_ext.part PARTITION OF vault_ext.{table} DEFAULT"
        );
        found_and_mended(&db, &key, &swap(table, &create), NOT_OURS, &swap_back(table, "TABLE"));
    }
    // The vault's own table as a partition of another one: no statement on it is needed.
    let attach = format!(
        "CREATE TABLE parent (LIKE vault_ext.{VAULTS}) PARTITION BY RANGE (user_id);
         ALTER TABLE parent ATTACH PARTITION vault_ext.{VAULTS} DEFAULT"
    );
    let detach = format!("ALTER TABLE parent DETACH PARTITION vault_ext.{VAULTS}; DROP TABLE parent");
    found_and_mended(&db, &key, &attach, "inheritance", &detach);
}

#[test]
fn inheritance() {
    let db = shared_db();
    let key = prepare(&db);
    for table in [VAULTS, TRAIL] {
        let child = format!(
            "CREATE TABLE child () INHERITS (vault_ext.{table}); INSERT INTO child SELECT * FROM ONLY vault_ext.{table}"
        );
        found_and_mended(&db, &key, &child, "inheritance", "DROP TABLE child");
    }
    // A parent in the table's place, with all rows in a child that was the table.
    let parent = swap(VAULTS, &format!("CREATE TABLE vault_ext.{VAULTS} (LIKE vault_ext.mine INCLUDING ALL)"))
        + &format!("; ALTER TABLE vault_ext.mine INHERIT vault_ext.{VAULTS}");
    let mend = format!("ALTER TABLE vault_ext.mine NO INHERIT vault_ext.{VAULTS}; {}", swap_back(VAULTS, "TABLE"));
    found_and_mended(&db, &key, &parent, NOT_OURS, &mend);
}

#[test]
fn a_view() {
    let db = shared_db();
    let key = prepare(&db);
    // Two that show everything, and one that shows nothing.
    for (table, condition) in [(VAULTS, "true"), (VAULTS, "false"), (TRAIL, "true")] {
        let create = format!("CREATE VIEW vault_ext.{table} AS SELECT * FROM vault_ext.mine WHERE {condition}");
        found_and_mended(&db, &key, &swap(table, &create), NOT_OURS, &swap_back(table, "VIEW"));
    }
}

/// scripts/test leaves this out where the installation has no contrib modules, and says so.
#[test]
fn a_foreign_table_by_postgres_fdw() {
    let db = shared_db();
    let key = prepare(&db);
    db.force(&format!(
        "CREATE EXTENSION postgres_fdw;
         CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{}', port '{}', dbname '{}');
         CREATE USER MAPPING FOR PUBLIC SERVER elsewhere OPTIONS (user 'postgres', password_required 'false');
         CREATE TABLE elsewhere AS SELECT * FROM vault_ext.{VAULTS} WHERE false;
         GRANT USAGE ON FOREIGN SERVER elsewhere TO vault_ext_owner",
        db.cluster.dir().display(),
        db.cluster.port(),
        db.name,
    ));
    for (table, schema, remote) in [(VAULTS, "vault_ext", "mine"), (VAULTS, "public", "elsewhere")] {
        let columns: String = db.value(&format!(
            "SELECT string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum)
             FROM pg_attribute WHERE attrelid = 'vault_ext.{table}'::regclass AND attnum > 0 AND NOT attisdropped"
        ));
        let create = format!(
            "CREATE FOREIGN TABLE vault_ext.{table} ({columns}) SERVER elsewhere
                OPTIONS (schema_name '{schema}', table_name '{remote}')"
        );
        found_and_mended(&db, &key, &swap(table, &create), NOT_OURS, &swap_back(table, "FOREIGN TABLE"));
    }
}

/// The statement in docs/reliability.md that gives the vault's objects their owner back.
fn documented_mending() -> String {
    let page = include_str!("../../docs/reliability.md");
    let start = page.find("SELECT format('ALTER %s %s OWNER").expect("the statement");
    page[start..].split("\n\\gexec").next().unwrap().to_owned()
}

/// A superuser has no row-level security. One error names the cause, and vault_check() says it once.
#[test]
fn reassign_owned() {
    let db = shared_db();
    let key = prepare(&db);
    let objects = "SELECT string_agg(concat(pg_describe_object(classid, objid, objsubid), ' ', c.relacl, p.proacl, n.nspacl), E'\n' ORDER BY classid, objid)
        FROM pg_shdepend d LEFT JOIN pg_class c ON c.oid = objid LEFT JOIN pg_proc p ON p.oid = objid LEFT JOIN pg_namespace n ON n.oid = objid
        WHERE refobjid = 'vault_ext_owner'::regrole AND d.deptype = 'o' AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let before: String = db.value(objects);
    let mending: Vec<String> =
        db.superuser().query(&documented_mending(), &[]).unwrap().iter().map(|row| row.get(0)).collect();
    let reassign = "SET vault_ext.allow_alter = on; REASSIGN OWNED BY vault_ext_owner TO postgres";
    db.force(reassign);
    let mut psql = db.cluster.program("psql", "wire_admin");
    let check = psql.args(["-X", "-d", &db.name, "-c", "SELECT * FROM vault_check()"]).output().unwrap();
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    let of_owner: Vec<_> = said.lines().filter(|line| line.contains("belong")).collect();
    assert!(of_owner.len() == 2 && of_owner[0].contains("WARNING") && of_owner[1].contains("ERROR"), "{said}");
    // Each statement mends a part, and none needs allow_alter.
    db.force(&mending.join(";"));
    found_and_mended(&db, &key, reassign, "objects of the vault belong to postgres", &mending.join(";"));
    assert_eq!(db.value::<String>(objects), before);
}

/// Citus leaves a distributed table an ordinary one, with its rows on other nodes. All that shows it is a row in a catalog of its own.
///
/// This is what Citus leaves in the catalogs, without Citus: a row in pg_extension, and pg_dist_partition with the columns of its version 13.
/// Citus sends an invalidation of the table with such a row. Here a GRANT does.
#[test]
fn a_table_that_citus_distributes() {
    let db = shared_db();
    let key = prepare(&db);
    db.force(
        "SET allow_system_table_mods = on;
         CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass NOT NULL, partmethod \"char\" NOT NULL, partkey text,
            colocationid int NOT NULL DEFAULT 0, repmodel \"char\" NOT NULL DEFAULT 'c', autoconverted bool NOT NULL DEFAULT false);
         GRANT SELECT ON pg_catalog.pg_dist_partition TO public;
         CREATE TABLE other (id text);
         INSERT INTO pg_dist_partition VALUES ('other', 'h')",
    );
    for table in [VAULTS, "old_keys"] {
        let distribute = format!(
            "SET allow_system_table_mods = on;
             INSERT INTO pg_extension SELECT 424242, 'citus', extowner, 11, false, '13.0-1' FROM pg_extension WHERE extname = 'vault_ext';
             INSERT INTO pg_dist_partition VALUES ('vault_ext.{table}', 'h'); GRANT SELECT ON vault_ext.{table} TO postgres"
        );
        let undistribute = format!(
            "SET allow_system_table_mods = on; DELETE FROM pg_dist_partition WHERE logicalrelid = 'vault_ext.{table}'::regclass;
             GRANT SELECT ON vault_ext.{table} TO postgres; DELETE FROM pg_extension WHERE extname = 'citus'"
        );
        let says = format!("Citus distributes the table vault_ext.{table}");
        found_and_mended(&db, &key, &distribute, &says, &undistribute);
    }
    // Without the extension, a table of that name says nothing.
    db.force(&format!("INSERT INTO pg_dist_partition VALUES ('vault_ext.{VAULTS}', 'h'); GRANT SELECT ON vault_ext.{VAULTS} TO postgres"));
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
    db.force("SET allow_system_table_mods = on; DROP TABLE pg_catalog.pg_dist_partition");
}

#[test]
fn policies_that_hide_rows_from_maintenance() {
    let db = shared_db();
    let key = prepare(&db);
    let is_of_trail = |sql: &&str| ["purge", "redact", "new_trail"].iter().any(|word| sql.contains(word));
    let (trail, mut vaults): (Vec<&str>, Vec<&str>) = MAINTENANCE.into_iter().partition(is_of_trail);
    // It looks for vaults only where a KEK is to go (`kek_reload::hidden_vaults_are_detected_by_every_administrative_call`).
    vaults.retain(|sql| !sql.contains("vault_reload_kek"));
    let hide = |table: &str, name: &str| {
        (
            format!("ALTER POLICY {name} ON vault_ext.{table} USING (false)"),
            format!("ALTER POLICY {name} ON vault_ext.{table} USING (vault_ext.in_maintenance())"),
            "is missing or changed",
        )
    };
    let restrict = |table: &str, command: &str| {
        (
            format!("CREATE POLICY extra ON vault_ext.{table} AS RESTRICTIVE FOR {command} USING (false)"),
            format!("DROP POLICY extra ON vault_ext.{table}"),
            "is restrictive",
        )
    };
    for (calls, (change, mend, says)) in [
        (&PROOFS.to_vec(), restrict("audit_tiles", "SELECT")),
        (&PROOFS.to_vec(), hide(TRAIL, "encryption_vault_audit_maintenance")),
        (&vaults, hide(VAULTS, "encryption_vaults_vault_maintenance")),
        (&vaults, hide(VAULTS, "encryption_vaults_vault_maintenance_delete")),
        (&vaults, restrict(VAULTS, "DELETE")),
        (&vaults, restrict("old_keys", "SELECT")),
        (&vaults, restrict("erasures", "ALL")),
        (&trail, hide(TRAIL, "encryption_vault_audit_maintenance")),
        (&trail, hide(TRAIL, "encryption_vault_audit_maintenance_delete")),
        (&trail, restrict(TRAIL, "SELECT")),
        (&trail, restrict(TRAIL, "UPDATE")),
    ] {
        db.force(&format!("SET vault_ext.allow_alter = on; {change}"));
        let of_trail = format!("SELECT count(*) FROM vault_ext.{TRAIL} WHERE status < 400");
        let before: i64 = db.value(&of_trail);
        let vaults_before = [db.vault_row("alice"), db.vault_row("late")];
        let mut client = db.conn(if PROOFS.contains(&calls[0]) { "wire_auditor" } else { "wire_admin" });
        calls.iter().for_each(|sql| expect_blind(&mut client, sql, says));
        assert_eq!([db.vault_row("alice"), db.vault_row("late")], vaults_before, "{change}");
        assert_eq!(db.value::<i64>(&of_trail), before, "{change}");
        db.force(&mend);
        assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
    }
}

/// Wherever the setting comes from, the error is the vault's own: PostgreSQL's would advise NO FORCE ROW LEVEL SECURITY.
#[test]
fn row_security_is_off_in_a_session_a_role_or_the_database() {
    let db = shared_db();
    let key = prepare(&db);
    let says = "row-level security is off";
    let everybody = format!("DATABASE {:?}", db.name);
    let roles = ["wire_admin", "wire_app", "wire_auditor"];
    let some = roles.map(|role| format!("ROLE {role} IN {everybody}"));
    // The audit writer is a session of the database, too.
    for whose in [&[][..], &some, &[everybody]] {
        let set = |what: &str| whose.iter().for_each(|whose| db.force(&format!("ALTER {whose} {what}")));
        set("SET row_security = off");
        db.force(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
             WHERE backend_type = 'vault_ext audit writer' AND datname = current_database()",
        );
        let before = [db.vault_row("alice"), db.vault_row("late")];
        let mut clients = roles.map(|role| db.conn(role));
        if whose.is_empty() {
            clients.iter_mut().for_each(|client| client.batch_execute("SET row_security = off").unwrap());
        }
        let [admin, app, auditor] = &mut clients;
        set_user(app, "alice");
        let mut found: Vec<_> = MAINTENANCE.iter().filter_map(|sql| wrong(admin, sql, says)).collect();
        found.extend(PROOFS.iter().filter_map(|sql| wrong(auditor, sql, says)));
        for call in ["init", "get_master_key", "rotate", "status", "key_versions", "recovery_challenge"] {
            found.extend(wrong(app, &format!("SELECT * FROM vault_{call}()"), says));
        }
        assert!(found.is_empty(), "{whose:?}: {}", found.join("\n"));
        assert_eq!([db.vault_row("alice"), db.vault_row("late")], before);
        // A session with a setting of its own is not concerned, nor is the writer.
        clients.iter_mut().for_each(|client| client.batch_execute("SET row_security = on").unwrap());
        let [admin, app, auditor] = &mut clients;
        assert_eq!(fetch(app).unwrap(), key, "{whose:?}");
        admin.batch_execute("SELECT * FROM vault_check()").unwrap();
        auditor.batch_execute("SELECT * FROM vault_audit_verify()").unwrap();
        set("RESET row_security");
    }
}

/// The server itself uses the newest catalogs also in a transaction that keeps one snapshot.
#[test]
fn a_change_after_the_snapshot_counts() {
    let db = shared_db();
    prepare(&db);
    let mut admin = db.conn("wire_admin");
    admin.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class").unwrap();
    db.force(&swap(VAULTS, &format!("CREATE VIEW vault_ext.{VAULTS} AS SELECT * FROM vault_ext.mine WHERE false")));
    expect_blind(&mut admin, "SELECT * FROM vault_kek_status()", NOT_OURS);
    admin.batch_execute("ROLLBACK").unwrap();
    db.force(&swap_back(VAULTS, "VIEW"));
    admin.batch_execute("SELECT * FROM vault_kek_status()").unwrap();
}
