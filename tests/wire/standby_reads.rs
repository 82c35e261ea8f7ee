//! A standby's copy of the vault may be old, so nothing is released from it (decision 14): what works there, what does not, and what an
//! application does that reads its data from a standby.

use std::collections::BTreeSet;
use std::time::Duration;

use postgres::Client;
use vault_core::crypto::secret::MasterKey;
use vault_core::data::derive::{Purpose, data_key};
use vault_core::data::value::{Binding, Cipher, Type, header};

use crate::documented::{section, sql_blocks};
use crate::harness::{
    Cluster, Db, Stop, decode, eventually, expect_error, expect_vault_error, fetch, init, rotate, set_user, status,
};
use crate::standby_failover::{primary, promote, standby_of};
use crate::who::{call_of, functions};

const SOON: Duration = Duration::from_secs(60);
const RELIABILITY: &str = include_str!("../../docs/reliability.md");
const FUNCTIONS: &str = include_str!("../../docs/reference/functions.md");

/// Waits until the standby has applied everything that the primary has committed.
fn catch_up(primary: &Db, standby: &Db) {
    // What is not flushed has not been committed, and may stay here for as long as nothing else is written.
    let position: String = primary.value("SELECT pg_current_wal_flush_lsn()::text");
    eventually(SOON, "the standby has applied everything", || {
        standby.value(&format!("SELECT pg_last_wal_replay_lsn() >= '{position}'"))
    });
}

/// Stops the standby's replay. What it receives from now on is not seen there.
fn pause(standby: &Db) {
    standby.force("SELECT pg_wal_replay_pause()");
    eventually(SOON, "the replay is paused", || standby.value("SELECT pg_get_wal_replay_pause_state() = 'paused'"));
}

/// How many vaults and old keys open.
fn opening(db: &Db) -> i64 {
    let sql = "SELECT COALESCE(sum(vaults + old_keys), 0)::bigint FROM vault_check() WHERE outcome = 'opens'";
    db.conn("wire_admin").query_one(sql, &[]).unwrap().get(0)
}

/// The SQLSTATE of a statement, `yes` if it has none.
fn outcome(client: &mut Client, sql: &str) -> String {
    match client.simple_query(sql) {
        Ok(_) => "yes".to_owned(),
        Err(error) => error.code().unwrap_or_else(|| panic!("{sql}: {error:?}")).code().to_owned(),
    }
}

/// The functions that docs/reference/functions.md says answer on a standby.
fn documented() -> BTreeSet<String> {
    let (_, list) = FUNCTIONS.split_once("\n### On a standby\n").expect("the section");
    let (list, _) = list.split_once("\n## ").expect("its end");
    let rows = list.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.flat_map(|row| row.split(" | ").next().expect("a cell").split('`'))
        .filter_map(|name| name.strip_suffix("()"))
        .map(str::to_owned)
        .collect()
}

/// Functions that fail on this standby as they would on its primary.
const WITHOUT_WHAT_IT_NEEDS: [&str; 8] = [
    "vault_identity_status()",
    "vault_login(text)",
    "vault_recovery_challenge()",
    "vault_status(text)",
    "vault_ext.audit_of_nodes(timestamp with time zone,timestamp with time zone)",
    "vault_ext.become_a_node()",
    "vault_ext.distribute(integer)",
    "vault_ext.rebalance()",
];

fn without_arguments(function: &str) -> String {
    function.split('(').next().expect("a name").to_owned()
}

#[test]
fn a_standby_that_lags_has_what_the_primary_has_destroyed_and_releases_nothing() {
    let mut primary = primary().start();
    let db = primary.database("d");
    let mut alice = db.app_for("alice");
    init(&mut alice).unwrap();
    rotate(&mut alice).unwrap();
    alice.batch_execute("SELECT vault_grant(NULL, 'wire_service', '1 day', 'test')").unwrap();
    let value: Vec<u8> = alice.query_one("SELECT vault_encrypt('secret'::text, 'x')", &[]).unwrap().get(0);
    let blob: String = alice.query_one("SELECT vault_client_blob('1')", &[]).unwrap().get(0);
    alice.batch_execute("SELECT vault_lookup_index('x', 'y')").unwrap();
    init(&mut db.app_for("carol")).unwrap();
    rotate(&mut db.app_for("carol")).unwrap();
    init(&mut db.app_for("dave")).unwrap();
    db.app_for("dave").batch_execute("SELECT vault_grant(NULL, 'wire_service', '1 day', 'test')").unwrap();
    let standby = standby_of(&primary);
    let copy = standby.existing_database("d");
    catch_up(&db, &copy);
    pause(&copy);
    let before = opening(&copy);

    db.conn("wire_admin").batch_execute("SELECT vault_erase('alice')").unwrap();
    db.app_for("carol").batch_execute("SELECT vault_disable_key_version(1)").unwrap();
    rotate(&mut db.app_for("carol")).unwrap();
    db.app_for("dave").batch_execute("SELECT vault_revoke_grant(min(id)) FROM vault_ext.own_grants").unwrap();
    db.conn("wire_admin").batch_execute("SELECT vault_mark_honey('dave')").unwrap();

    // On the standby, all of that has not happened: every wrap is there and opens.
    assert!(!status(&mut db.app_for("alice")).unwrap().exists);
    assert!(status(&mut copy.app_for("alice")).unwrap().exists);
    assert_eq!(opening(&copy), before);
    let keys = "SELECT count(*) FROM vault_ext.old_keys WHERE state = 'decrypt_only'";
    assert_eq!((db.value::<i64>(keys), copy.value::<i64>(keys)), (1, 2));
    let grants = "SELECT count(*) FROM vault_ext.grants WHERE revoked_at IS NULL AND user_id = 'dave'";
    assert_eq!((db.value::<i64>(grants), copy.value::<i64>(grants)), (0, 1));
    assert_eq!(copy.value::<i64>("SELECT count(*) FROM vault_ext.honey_users"), 0);

    // Every function, as a superuser and as the application, for each of these users.
    let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
    let with_values = |name: &str| match without_arguments(name).as_str() {
        open @ ("vault_decrypt_text" | "vault_reencrypt") => format!("SELECT {open}('\\x{hex}', 'x')"),
        "vault_open_client_blob" => format!("SELECT vault_open_client_blob('{blob}')"),
        "vault_get_master_key_of" => "SELECT vault_get_master_key_of('dave')".to_owned(),
        "vault_get_master_keys" => "SELECT * FROM vault_get_master_keys(ARRAY['dave'])".to_owned(),
        _ => call_of(name).to_owned(),
    };
    let mut sessions = Vec::new();
    for role in ["postgres", "wire_app", "wire_service"] {
        for user in ["alice", "carol", "dave"] {
            let mut client = copy.conn(role);
            set_user(&mut client, user);
            sessions.push((role, user, client));
        }
    }
    let documented = documented();
    let mut answered = BTreeSet::new();
    for name in functions(&copy) {
        let sql = with_values(&name);
        for (role, user, client) in &mut sessions {
            let outcome = outcome(client, &sql);
            let is_right = match outcome.as_str() {
                "yes" => documented.contains(&without_arguments(&name)),
                "25006" => !documented.contains(&without_arguments(&name)),
                "42501" => *role != "postgres",
                // There are no issuers, there is no recovery wrap, and no Citus.
                "55000" => WITHOUT_WHAT_IT_NEEDS.contains(&name.as_str()),
                _ => false,
            };
            assert!(is_right, "{role}, {user}: {sql}: {outcome}");
            if outcome == "yes" {
                answered.insert(without_arguments(&name));
            }
        }
    }
    assert_eq!(answered, documented);

    // Tables and views can be read by those who may.
    let sql = "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'vault_ext'::regnamespace AND relkind IN ('r', 'v')";
    for row in copy.superuser().query(sql, &[]).unwrap() {
        let relation: String = row.get(0);
        for role in ["postgres", "wire_app", "wire_admin", "wire_auditor"] {
            let outcome = outcome(&mut copy.conn(role), &format!("SELECT * FROM {relation}"));
            assert!(outcome == "yes" || outcome == "42501" && role != "postgres", "{role}: {relation}: {outcome}");
        }
    }
    let health = copy.conn("wire_admin").query_one("SELECT ok, problem FROM vault_health()", &[]).unwrap();
    assert!(!health.get::<_, bool>(0));
    assert_eq!(health.get::<_, &str>(1), "cannot use a vault on a hot standby");

    // Before a standby becomes a primary it applies what it has received, also if its replay was paused.
    let position: String = db.value("SELECT pg_current_wal_flush_lsn()::text");
    eventually(SOON, "the standby has received everything", || {
        copy.value(&format!("SELECT pg_last_wal_receive_lsn() >= '{position}'"))
    });
    drop((alice, db, sessions));
    primary.stop(Stop::Immediate);
    promote(&standby);
    expect_vault_error(fetch(&mut copy.app_for("alice")), "P0002");
    let of_dave = "SELECT vault_get_master_key_of('dave')";
    expect_vault_error(copy.conn("wire_service").batch_execute(of_dave), "28000");
    expect_vault_error(copy.app_for("carol").batch_execute("SELECT vault_get_key_version(1)"), "55000");
}

/// Decrypts a value as an application does with the key that it has fetched.
fn open_in_client(master_key: &str, user: &str, context: &str, value: &[u8]) -> String {
    let master_key = MasterKey::from_slice(&decode(master_key)).unwrap();
    let purpose = Purpose::new("data").unwrap();
    let binding = Binding::new(user, header(value).unwrap().key_version, purpose, context).unwrap();
    let mut plain = Vec::new();
    Cipher::new(&data_key(&master_key, purpose)).open(&binding, &[Type::Text], value, &mut plain).unwrap();
    String::from_utf8(plain).unwrap()
}

/// What the audit trail has of the users' data, newest last.
fn uses(db: &Db) -> Vec<String> {
    let row = |row: &crate::harness::AuditRow| {
        format!("{} {} {}", row.action, row.status, row.context.as_deref().unwrap_or("-"))
    };
    db.audit_where("action LIKE '%fetch%' OR action LIKE '%decrypt%' OR action LIKE '%index%'")
        .iter()
        .map(row)
        .collect()
}

/// Makes a table of alice's encrypted notes.
fn make_notes(db: &Db) {
    db.force(
        "CREATE TABLE notes (id bigint PRIMARY KEY, day date, word bytea, body bytea);
         GRANT SELECT, INSERT ON notes TO wire_app",
    );
    let mut alice = db.app_for("alice");
    init(&mut alice).unwrap();
    let sql = "INSERT INTO notes SELECT n, date '2031-01-01' + n, vault_blind_index('word ' || n % 10, 'notes.word'),
                vault_encrypt('note ' || n, 'notes.body:' || n) FROM generate_series(1, 1000) n";
    alice.batch_execute(sql).unwrap();
}

/// A standby for reports, with neither the library nor a KEK.
fn reports_of(primary: &Cluster) -> Cluster {
    let standby = Cluster::builder().not_preloaded().data_from(&primary.base_backup(&["-R"])).start();
    catch_up(&primary.existing_database("d"), &standby.existing_database("d"));
    standby
}

/// The blocks of SQL in docs/reliability.md: for a client that sends values to the primary, and for a standby that does.
fn documented_sql() -> [String; 2] {
    let page = section(RELIABILITY, "Reading from a standby").replace("\n   ", "\n");
    let blocks: Vec<_> = sql_blocks(&page).into_iter().map(|(_, sql)| sql).collect();
    blocks.try_into().expect("two blocks of SQL")
}

/// The second column, as texts.
fn texts(rows: &[postgres::Row]) -> Vec<String> {
    rows.iter().map(|row| row.get(1)).collect()
}

#[test]
fn an_application_reads_data_from_the_standby_and_keys_from_the_primary() {
    let primary = primary().start();
    let db = primary.database("d");
    make_notes(&db);
    let standby = reports_of(&primary);
    let copy = standby.existing_database("d");
    let (mut there, mut here) = (copy.app_for("alice"), db.app_for("alice"));
    let trail = uses(&db).len();

    // The standby finds the rows; the primary computes what to look for.
    let word: Vec<u8> = here.query_one("SELECT vault_blind_index('word 7', 'notes.word')", &[]).unwrap().get(0);
    let sql = "SELECT id, body FROM notes WHERE word = $1 AND day > '2031-02-01' ORDER BY id";
    let found = there.query(sql, &[&word]).unwrap();
    let (ids, bodies): (Vec<i64>, Vec<Vec<u8>>) =
        found.iter().map(|row| (row.get::<_, i64>(0), row.get::<_, Vec<u8>>(1))).unzip();
    let wanted: Vec<_> = ids.iter().map(|id| format!("note {id}")).collect();
    assert_eq!(wanted.len(), 97);
    assert_eq!(uses(&db)[trail..], ["index 200 purpose notes.word"]);

    // The application has the key.
    let key = fetch(&mut here).unwrap();
    let open =
        |(id, body): (&i64, &Vec<u8>)| open_in_client(&key.master_key, "alice", &format!("notes.body:{id}"), body);
    assert_eq!(ids.iter().zip(&bodies).map(open).collect::<Vec<_>>(), wanted);
    assert_eq!(uses(&db)[trail + 1..], ["fetch 200 -"]);

    // Or it sends the values to the primary.
    let [sent, _] = documented_sql();
    assert_eq!(texts(&here.query(&sent, &[&ids, &bodies]).unwrap()), wanted);
    let rows = || uses(&db)[trail + 2..].to_vec();
    eventually(SOON, "both rows", || rows() == ["decrypt 200 purpose data", "decrypt 200 purpose data: 97 uses"]);

    // Both see an erasure at once, however old the standby is.
    pause(&copy);
    db.conn("wire_admin").batch_execute("SELECT vault_erase('alice')").unwrap();
    assert!(copy.vault_row("alice").is_some());
    expect_vault_error(fetch(&mut there), "55000");
    expect_vault_error(fetch(&mut here), "P0002");
    expect_vault_error(here.query(&sent, &[&ids, &bodies]), "P0002");
}

/// scripts/test leaves this out where the installation has no contrib modules, and says so.
#[test]
fn a_standby_sends_values_to_the_primary_by_dblink() {
    let primary = primary().start();
    let db = primary.database("d");
    make_notes(&db);
    db.force(&format!(
        "CREATE EXTENSION dblink;
         CREATE SERVER vault_primary FOREIGN DATA WRAPPER dblink_fdw OPTIONS (host '{}', port '{}', dbname 'd');
         CREATE USER MAPPING FOR postgres SERVER vault_primary OPTIONS (user 'wire_app')",
        primary.dir().display(),
        primary.port()
    ));
    let standby = reports_of(&primary);
    let copy = standby.existing_database("d");
    let trail = uses(&db).len();
    let [_, by_dblink] = documented_sql();
    let opened = texts(&copy.superuser().query(&by_dblink, &[]).unwrap());
    assert_eq!(opened, (32..=1000).map(|id| format!("note {id}")).collect::<Vec<_>>());
    let rows = ["decrypt 200 purpose data", "decrypt 200 purpose data: 969 uses"];
    eventually(SOON, "both rows", || uses(&db)[trail..] == rows);

    pause(&copy);
    db.conn("wire_admin").batch_execute("SELECT vault_erase('alice')").unwrap();
    expect_error(copy.superuser().query(&by_dblink, &[]), "P0002");
}
