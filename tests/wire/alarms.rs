//! Alarms and limits: what a stolen application looks like, and what becomes of it.

use std::time::Duration;

use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;

use crate::harness::{Cluster, Db, eventually, expect_error, expect_vault_error, fetch, init, rotate, set_user};

const SOON: Duration = Duration::from_secs(20);

fn server() -> Cluster {
    Cluster::builder().with_wire_kek().without_fsync().start()
}

fn limit(db: &Db, role: &str, setting: &str) {
    db.force(&format!("ALTER ROLE {role} SET vault_ext.{setting}"));
}

/// Rows of that action as `db_role status context`, oldest first.
fn rows(db: &Db, action: &str) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', login_role, status, user_id, context) FROM vault_ext.encryption_vault_audit
        WHERE action = $1 ORDER BY id";
    db.superuser().query(sql, &[&action]).unwrap().iter().map(|row| row.get(0)).collect()
}

fn wait_for_alarms(db: &Db, expected: &[&str]) {
    eventually(SOON, "the alarms are in the trail", || rows(db, "alarm").len() >= expected.len());
    assert_eq!(rows(db, "alarm"), expected);
}

/// users, failures, alarms and refusals of a role.
fn counted(client: &mut Client, role: &str) -> (i64, i64, i64, i64) {
    let sql = "SELECT users_last_minute, failures_last_minute, alarms, refused FROM vault_ext.stat_alarms
        WHERE database = current_database() AND role = $1";
    let row = client.query_one(sql, &[&role]).unwrap();
    (row.get(0), row.get(1), row.get(2), row.get(3))
}

#[test]
fn more_users_than_the_limit_are_refused_over_all_sessions_of_a_role_and_the_first_ones_go_on() {
    let cluster = server();
    let db = cluster.database("d");
    for user in ["u1", "u2", "u3", "u4"] {
        init(&mut db.app_for(user)).unwrap();
    }
    limit(&db, "wire_app", "max_users_per_minute = 3");
    let mut app = db.app();
    for user in ["u1", "u2", "u1"] {
        set_user(&mut app, user);
        fetch(&mut app).unwrap();
    }
    // Another session of the same role counts as well, and so does every call that uses a key.
    rotate(&mut db.app_for("u3")).unwrap();
    let refusal = expect_error(fetch(&mut db.app_for("u4")), "53400");
    assert!(refusal.text().contains("3 users within a minute"), "{}", refusal.text());
    expect_error(init(&mut db.app_for("new")), "53400");
    expect_error(db.app_for("u4").query("SELECT vault_encrypt('x'::text, 'y')", &[]), "53400");
    fetch(&mut db.app_for("u1")).unwrap();
    assert_eq!(rows(&db, "failed_fetch"), ["wire_app 429 u4 too-many-users"]);
    assert_eq!(rows(&db, "failed_init"), ["wire_app 429 new too-many-users"]);
    assert_eq!(db.value::<i64>("SELECT count(*) FROM vault_ext.encryption_vaults WHERE user_id = 'new'"), 0);
    // One alarm, whatever goes on after it.
    wait_for_alarms(&db, &["wire_app 200 users_per_minute=4 limit=3"]);
    // Another role, and the same role in another database, have minutes of their own.
    fetch(&mut {
        let mut other = db.conn("wire_app2");
        set_user(&mut other, "u4");
        other
    })
    .unwrap();
    let second = cluster.database("e");
    init(&mut second.app_for("u4")).unwrap();
    assert_eq!(counted(&mut db.conn("wire_auditor"), "wire_app"), (3, 0, 1, 3));
    assert_eq!(counted(&mut second.conn("wire_admin"), "wire_app"), (1, 0, 0, 0));
    expect_error(db.app().query("SELECT * FROM vault_ext.stat_alarms", &[]), "42501");
    // Who may not set it cannot lift it.
    expect_error(app.batch_execute("SET vault_ext.max_users_per_minute = 0"), "42501");
}

#[test]
fn a_set_role_does_not_escape_the_limit_of_the_login() {
    let cluster = server();
    let db = cluster.database("d");
    for user in ["u1", "u2"] {
        init(&mut db.app_for(user)).unwrap();
    }
    db.force("CREATE ROLE authenticator LOGIN NOINHERIT; GRANT wire_app, wire_app2 TO authenticator");
    limit(&db, "authenticator", "max_users_per_minute = 1");
    let mut client = db.conn("authenticator");
    client.batch_execute("SET ROLE wire_app").unwrap();
    set_user(&mut client, "u1");
    fetch(&mut client).unwrap();
    client.batch_execute("SET ROLE wire_app2").unwrap();
    set_user(&mut client, "u2");
    expect_error(fetch(&mut client), "53400");
    assert_eq!(rows(&db, "failed_fetch"), ["authenticator 429 u2 too-many-users"]);
}

#[test]
fn an_alarm_reaches_those_who_listen_and_the_log_and_outlives_the_rollback_of_its_call() {
    let cluster = server();
    let db = cluster.database("d");
    for user in ["u1", "u2"] {
        init(&mut db.app_for(user)).unwrap();
    }
    limit(&db, "wire_app", "alarm_users_per_minute = 1");
    let mut listener = db.conn("wire_stranger");
    listener.batch_execute("LISTEN vault_ext_alarm").unwrap();
    let mut app = db.app_for("u1");
    app.batch_execute("BEGIN").unwrap();
    fetch(&mut app).unwrap();
    set_user(&mut app, "u2");
    fetch(&mut app).unwrap();
    app.batch_execute("ROLLBACK").unwrap();
    wait_for_alarms(&db, &["wire_app 200 users_per_minute=2 limit=1"]);
    let notification = listener.notifications().timeout_iter(SOON).next().unwrap().expect("a notification");
    assert_eq!(notification.channel(), "vault_ext_alarm");
    let payload: serde_json::Value = serde_json::from_str(notification.payload()).unwrap();
    let expected = serde_json::json!({"kind": "users_per_minute", "database": "d", "login_role": "wire_app", "db_role": "wire_app",
        "count": 2, "limit": 1});
    assert_eq!(payload, expected);
    let in_log = || cluster.log().contains("WARNING:  vault_ext alarm: {\"count\":2");
    eventually(SOON, "the alarm is in the log", in_log);
}

#[test]
fn failures_count_and_too_many_of_them_close_the_vault_to_the_role() {
    let cluster = server();
    let db = cluster.database("d");
    init(&mut db.app_for("u1")).unwrap();
    limit(&db, "wire_app", "alarm_failures_per_minute = 2");
    limit(&db, "wire_app", "max_failures_per_minute = 4");
    let mut app = db.app_for("nobody");
    for _ in 0..2 {
        expect_vault_error(fetch(&mut app), "P0002");
    }
    assert_eq!(rows(&db, "alarm"), [""; 0]);
    expect_vault_error(fetch(&mut app), "P0002");
    wait_for_alarms(&db, &["wire_app 200 failures_per_minute=3 limit=2"]);
    fetch(&mut db.app_for("u1")).unwrap();
    // A call that names nobody is a failure as well.
    expect_vault_error(fetch(&mut db.app()), "28000");
    expect_error(fetch(&mut db.app_for("u1")), "53400");
    expect_error(fetch(&mut db.app_for("u1")), "53400");
    assert_eq!(rows(&db, "failed_fetch").last().unwrap(), "wire_app 429 u1 too-many-failures");
    // What is refused does not prolong it, and nobody else is concerned.
    assert_eq!(counted(&mut db.conn("wire_admin"), "wire_app"), (0, 4, 1, 2));
    let mut other = db.conn("wire_app2");
    set_user(&mut other, "u1");
    fetch(&mut other).unwrap();
}

#[test]
fn a_honey_user_raises_an_alarm_with_each_call_and_can_look_like_no_vault() {
    let cluster = server();
    let db = cluster.database("d");
    let mut admin = db.conn("wire_admin");
    let mark = |client: &mut Client, user: &str, honey: bool| -> Result<bool, postgres::Error> {
        client.query_one("SELECT vault_mark_honey($1, $2)", &[&user, &honey]).map(|row| row.get(0))
    };
    expect_vault_error(mark(&mut admin, "bee", true), "P0002");
    let key = init(&mut db.app_for("bee")).unwrap();
    init(&mut db.app_for("u1")).unwrap();
    // This session has read that there are none.
    let mut app = db.app_for("bee");
    assert_eq!(fetch(&mut app).unwrap(), key);
    assert!(mark(&mut admin, "bee", true).unwrap());
    assert!(!mark(&mut admin, "bee", true).unwrap());
    expect_error(mark(&mut app, "bee", false), "42501");
    expect_error(app.query("SELECT * FROM vault_ext.honey_users", &[]), "42501");
    assert_eq!(fetch(&mut app).unwrap(), key);
    fetch(&mut db.app_for("u1")).unwrap();
    app.batch_execute("SELECT vault_encrypt('x'::text, 'y')").unwrap();
    let honey = "wire_app 200 bee honey";
    wait_for_alarms(&db, &[honey, honey]);
    // The user's own view does not betray it.
    let own =
        "SELECT count(*) FROM vault_ext.own_audit WHERE action IN ('alarm', 'mark_honey') OR context LIKE '%honey%'";
    assert_eq!(app.query_one(own, &[]).unwrap().get::<_, i64>(0), 0);
    assert_eq!(
        db.value::<i64>(
            "SELECT count(*) FROM vault_ext.encryption_vault_audit WHERE user_id = 'bee' AND action = 'alarm'"
        ),
        2
    );
    // It can look like a user without a vault.
    db.force("ALTER ROLE wire_app SET vault_ext.honey_fetch = 'fail'");
    let mut app = db.app_for("bee");
    let as_honey = expect_vault_error(fetch(&mut app), "P0002").text();
    let as_stranger = expect_vault_error(fetch(&mut db.app_for("stranger")), "P0002").text();
    assert_eq!(as_honey, as_stranger);
    assert_eq!(
        rows(&db, "failed_fetch"),
        ["wire_app 404 bee not-initialised", "wire_app 404 stranger not-initialised"]
    );
    wait_for_alarms(&db, &[honey, honey, honey]);
    // A mark that is rolled back does not count, a renamed user keeps it, an erased one loses it.
    admin.batch_execute("BEGIN; SELECT vault_mark_honey('bee', false); ROLLBACK").unwrap();
    expect_vault_error(fetch(&mut app), "P0002");
    admin.batch_execute("SELECT vault_rename_user('bee', 'wasp')").unwrap();
    expect_vault_error(fetch(&mut db.app_for("wasp")), "P0002");
    admin.batch_execute("SELECT vault_erase('wasp')").unwrap();
    let left: i64 = admin.query_one("SELECT count(*) FROM vault_ext.honey_users", &[]).unwrap().get(0);
    assert_eq!(left, 0);
    db.force("ALTER ROLE wire_app RESET ALL");
    init(&mut db.app_for("wasp")).unwrap();
    assert_eq!(rows(&db, "alarm").len(), 5);
}
