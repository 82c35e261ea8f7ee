//! The keys of many users in one statement, for a service that holds their grants: as by single calls, but all or none.

use std::time::Duration;

use postgres::{Client, Error};

use crate::harness::{Cluster, Db, VaultKey, eventually, expect_error, expect_vault_error, shared_db};

const SOON: Duration = Duration::from_secs(30);
/// As `vault::many::MOST_USERS`.
const MOST: usize = 1_000;
const QUEUED: &str = "SELECT queued FROM vault_health()";
const LOCK: &str = "BEGIN; LOCK TABLE vault_ext.encryption_vault_audit IN ACCESS EXCLUSIVE MODE";

fn fetch_all(client: &mut Client, users: &[String]) -> Result<Vec<(String, VaultKey)>, Error> {
    let sql = format!("SELECT user_id, {} FROM vault_get_master_keys($1)", VaultKey::COLUMNS);
    let rows = client.query(&sql, &[&users])?;
    let key = |row: &postgres::Row| VaultKey {
        master_key: row.get(1),
        format_version: row.get(2),
        kek_id: row.get(3),
        key_version: row.get(4),
    };
    Ok(rows.iter().map(|row| (row.get(0), key(row))).collect())
}

fn fetch_of(client: &mut Client, user: &str) -> Result<VaultKey, Error> {
    let sql = format!("SELECT {} FROM vault_get_master_key_of($1)", VaultKey::COLUMNS);
    let row = client.query_one(&sql, &[&user])?;
    Ok(VaultKey { master_key: row.get(0), format_version: row.get(1), kek_id: row.get(2), key_version: row.get(3) })
}

fn list(users: &[&str]) -> Vec<String> {
    users.iter().map(|user| (*user).to_owned()).collect()
}

/// Vaults of `u1`, `u2` and so on, the last ones first, each with a grant for wire_service.
fn granted(db: &Db, count: i64) -> Vec<String> {
    let each = |call: &str| {
        let sql = format!(
            "SELECT count(CASE WHEN set_config('app.current_user_id', 'u' || n, false) IS NOT NULL THEN {call} END)
             FROM generate_series(1, {count}) n"
        );
        assert_eq!(db.app().query_one(&sql, &[]).unwrap().get::<_, i64>(0), count);
    };
    each("vault_init()");
    each("vault_grant(NULL, 'wire_service', '1 day', 'mailing')");
    (1..=count).rev().map(|n| format!("u{n}")).collect()
}

/// The trail's rows on fetches as `action status user identity actor context`, the oldest first.
fn fetches(db: &Db) -> Vec<String> {
    let sql =
        "SELECT concat_ws(' ', action, status, user_id, identity, actor, context) FROM vault_ext.encryption_vault_audit
        WHERE action IN ('fetch', 'failed_fetch') ORDER BY id";
    db.superuser().query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

fn batches(db: &Db) -> i64 {
    db.value("SELECT batches FROM vault_ext.audit_stats")
}

#[test]
fn one_statement_gives_what_a_hundred_single_calls_give() {
    let db = shared_db();
    let users = granted(&db, 100);
    let mut service = db.conn("wire_service");
    let singles: Vec<_> = users.iter().map(|user| (user.clone(), fetch_of(&mut service, user).unwrap())).collect();
    let columns =
        "user_id, action, status, kek_id, key_version, db_role, login_role, identity, actor, grant_id, context";
    let rows = |order: &str| -> Vec<String> {
        let sql = format!(
            "SELECT ROW({columns})::text FROM vault_ext.encryption_vault_audit WHERE action = 'fetch' ORDER BY {order}"
        );
        db.superuser().query(&sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    let of_singles = rows("id");
    assert_eq!(of_singles.len(), 100);
    // In the order of the list, also in a transaction that is rolled back.
    service.batch_execute("BEGIN").unwrap();
    assert_eq!(fetch_all(&mut service, &users).unwrap(), singles);
    service.batch_execute("ROLLBACK").unwrap();
    assert_eq!(rows("id")[100..], of_singles);
    // One row for each user, however often the list names it, and in a select list, too.
    let [a, b] = [&singles[0], &singles[1]];
    let twice = fetch_all(&mut service, &list(&[&b.0, &a.0, &b.0, &a.0])).unwrap();
    assert_eq!(twice, [b.clone(), a.clone()]);
    assert_eq!(rows("id").len(), 202);
    let sql = "SELECT (vault_get_master_keys(ARRAY[ARRAY[$1::text], ARRAY[$2]])).user_id";
    let selected: Vec<String> = service.query(sql, &[&a.0, &b.0]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(selected, [a.0.clone(), b.0.clone()]);
    // The columns of vault_key are complete.
    let sql = "SELECT requires_recovery_code, recovery_wrapped_mk, recovery_iv FROM vault_get_master_keys(ARRAY['u1'])";
    let row = service.query_one(sql, &[]).unwrap();
    assert_eq!((row.get(0), row.get(1), row.get(2)), (false, None::<String>, None::<String>));
}

#[test]
fn no_list_and_a_bad_one_leave_no_row() {
    let db = shared_db();
    let users = granted(&db, 1);
    let mut service = db.conn("wire_service");
    assert_eq!(fetch_all(&mut service, &[]).unwrap(), []);
    for bad in ["NULL", "ARRAY['u1', NULL]", "ARRAY['u1', '']", "ARRAY['u1', repeat('x', 256)]"] {
        expect_error(service.query(&format!("SELECT * FROM vault_get_master_keys({bad})"), &[]), "22023");
    }
    let refusal = expect_vault_error(fetch_all(&mut service, &vec!["u1".to_owned(); MOST + 1]), "22023");
    assert!(refusal.message.contains("1001") && refusal.message.contains("1000"), "{refusal:?}");
    for role in ["wire_app", "wire_admin", "wire_grantor", "wire_stranger"] {
        expect_error(db.conn(role).query("SELECT * FROM vault_get_master_keys(ARRAY['u1'])", &[]), "42501");
    }
    assert_eq!(fetches(&db), [""; 0]);
    assert_eq!(fetch_all(&mut service, &vec!["u1".to_owned(); MOST]).unwrap().len(), 1);
    assert_eq!(fetches(&db), ["fetch 200 u1 grant wire_service"]);
    assert_eq!(users, ["u1"]);
}

#[test]
fn one_refused_user_keeps_back_every_key_and_each_refused_one_has_its_row() {
    let db = shared_db();
    granted(&db, 8);
    let mut service = db.conn("wire_service");
    for (user, sql) in [
        ("u3", "SELECT vault_revoke_grant(max(id)) FROM vault_ext.own_grants"),
        (
            "u5",
            "SELECT vault_revoke_grant(max(id)) FROM vault_ext.own_grants; SELECT vault_grant(NULL, 'wire_service', '1 day', 'once', 1)",
        ),
        ("none", "SELECT vault_init()"),
    ] {
        db.app_for(user).batch_execute(sql).unwrap();
    }
    let mut admin = db.superuser();
    admin.batch_execute("SELECT vault_schedule_erase('u4', '30 days', 'wish')").unwrap();
    admin.batch_execute("DELETE FROM vault_ext.encryption_vaults WHERE user_id = 'u6'").unwrap();
    admin
        .batch_execute("UPDATE vault_ext.grants SET expires_at = not_before + interval '1 us' WHERE user_id = 'u7'")
        .unwrap();
    // What a single call says of each.
    let mut alone = |user: &str| {
        let refusal = fetch_of(&mut service, user).expect_err(user);
        let refusal = refusal.as_db_error().unwrap().clone();
        (refusal.code().code().to_owned(), refusal.message().to_owned())
    };
    let refused = ["none", "u7", "u3", "u4", "u6", "u99"];
    let single: Vec<_> = refused.iter().map(|user| alone(user)).collect();
    let codes: Vec<_> = single.iter().map(|(code, _)| code.as_str()).collect();
    assert_eq!(codes, ["42501", "28000", "28000", "55000", "P0002", "42501"]);
    let of_singles = fetches(&db);
    assert_eq!(of_singles.len(), refused.len());
    // A list of each with two others.
    for (user, (code, message)) in refused.iter().zip(&single) {
        let refusal = expect_vault_error(fetch_all(&mut service, &list(&["u1", "u2", user])), code);
        assert_eq!(refusal.message, format!("position 3 of user_ids: {message}"));
        assert_eq!(refusal.detail.as_deref(), Some("Refused positions: 3. No key was released."));
    }
    let mut rows = fetches(&db);
    assert_eq!(rows.split_off(of_singles.len()), of_singles, "the same rows, and none on users who were not refused");
    // All of them in one list, behind one that uses up its grant only if the keys leave.
    let all: Vec<&str> = ["u5"].into_iter().chain(refused).chain(["u1", "none"]).collect();
    let refusal = expect_vault_error(fetch_all(&mut service, &list(&all)), "42501");
    assert!(refusal.message.starts_with("position 2 of user_ids: "), "{refusal:?}");
    assert_eq!(refusal.detail.as_deref(), Some("Refused positions: 2, 3, 4, 5, 6, 7. No key was released."));
    let mut rows = fetches(&db).split_off(2 * of_singles.len());
    rows.sort();
    let mut expected = of_singles.clone();
    expected.sort();
    assert_eq!(rows, expected);
    // The grant that is used once: a refused list was no use of it, and a rollback gives the use not back.
    service.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
    expect_vault_error(fetch_all(&mut service, &list(&["u1", "u5"])), "25001");
    service.batch_execute("ROLLBACK; BEGIN").unwrap();
    assert_eq!(fetch_all(&mut service, &list(&["u5", "u1"])).unwrap().len(), 2);
    service.batch_execute("ROLLBACK").unwrap();
    expect_vault_error(fetch_all(&mut service, &list(&["u1", "u5"])), "53400");
    assert_eq!(fetches(&db).last().unwrap(), "failed_fetch 403 u5 grant wire_service grant-used-up");
}

#[test]
fn each_user_of_a_list_counts_for_limits_and_alarms() {
    let db = shared_db();
    let users = granted(&db, 4);
    let mut admin = db.superuser();
    for user in ["u2", "u3"] {
        admin.query("SELECT vault_mark_honey($1)", &[&user]).unwrap();
    }
    let alarms = || {
        let sql = "SELECT concat_ws(' ', login_role, status, user_id, context) FROM vault_ext.encryption_vault_audit
            WHERE action = 'alarm' ORDER BY id";
        let rows = db.superuser().query(sql, &[]).unwrap();
        rows.iter().map(|row| row.get(0)).collect::<Vec<String>>()
    };
    let honey = ["wire_service 200 u2 honey", "wire_service 200 u3 honey"];
    assert_eq!(fetch_all(&mut db.conn("wire_service"), &users).unwrap().len(), 4);
    eventually(SOON, "an alarm for each", || alarms().len() == 2);
    assert_eq!(alarms(), honey);
    let set = |setting: &str| db.force(&format!("ALTER DATABASE {} SET vault_ext.{setting}", db.name));
    set("honey_fetch = 'fail'");
    let refusal = expect_vault_error(fetch_all(&mut db.conn("wire_service"), &users), "P0002");
    assert_eq!(refusal.detail.as_deref(), Some("Refused positions: 2, 3. No key was released."));
    let not_there = |user: &str| format!("failed_fetch 404 {user} grant wire_service not-initialised");
    assert_eq!(fetches(&db)[4..], [not_there("u2"), not_there("u3")]);
    eventually(SOON, "an alarm for each", || alarms().len() == 4);
    db.force("DELETE FROM vault_ext.honey_users");
    set("max_users_per_minute = 3");
    // Counting begins with the limit, and u1 to u3 come first.
    let refusal = expect_error(fetch_all(&mut db.conn("wire_service"), &users), "53400");
    assert_eq!(refusal.detail.as_deref(), Some("Refused positions: 1. No key was released."));
    assert_eq!(fetches(&db)[6..], ["failed_fetch 429 u4 grant wire_service too-many-users"]);
    assert_eq!(fetch_all(&mut db.conn("wire_service"), &users[1..]).unwrap().len(), 3);
    eventually(SOON, "the alarm on the limit", || alarms().len() == 5);
    assert_eq!(alarms()[4], "wire_service 200 users_per_minute=4 limit=3");
}

/// With the fewest slots of its own, a session needs the shared ones for a list.
#[test]
fn nothing_leaves_while_the_trail_fails_and_no_slot_is_lost_whatever_ends_the_wait() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().conf("vault_ext.audit_slots = 2");
    let cluster = cluster.conf("work_mem = 64kB").conf("log_temp_files = 0").start();
    let db = cluster.database("d");
    // More than there are slots for.
    let users = granted(&db, 600);
    let mut service = db.conn("wire_service");
    let keys = fetch_all(&mut service, &users).unwrap();
    assert_eq!(keys.len(), users.len());
    let rows_of = |user: &str| -> i64 {
        db.value(&format!(
            "SELECT count(*) FROM vault_ext.encryption_vault_audit WHERE action = 'fetch' AND user_id = '{user}'"
        ))
    };
    // One row that cannot be written.
    db.force(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
         CREATE TRIGGER no BEFORE INSERT ON vault_ext.encryption_vault_audit FOR EACH ROW
            WHEN (NEW.user_id = 'u77' AND NEW.action = 'fetch') EXECUTE FUNCTION no()",
    );
    expect_vault_error(fetch_all(&mut service, &users), "55000");
    expect_vault_error(fetch_all(&mut service, &users[500..]), "55000");
    db.force("DROP TRIGGER no ON vault_ext.encryption_vault_audit");
    assert_eq!(rows_of("u77"), 1);
    assert_eq!(fetch_all(&mut service, &users).unwrap(), keys);
    // Nobody can write: timeout, cancel, and the end of the session.
    let pid_of = |client: &mut Client| -> i32 { client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0) };
    let queued = || db.conn("wire_admin").query_one(QUEUED, &[]).map_or(-1, |row| row.get::<_, i64>(0));
    for end in
        ["", "SELECT pg_cancel_backend($1)", "SELECT pg_terminate_backend($1)", "SELECT pg_terminate_backend($1)"]
    {
        let mut locker = db.superuser();
        locker.batch_execute(LOCK).unwrap();
        let mut waiting = db.conn("wire_service");
        let pid = pid_of(&mut waiting);
        if end.is_empty() {
            db.force("ALTER ROLE wire_service SET vault_ext.audit_timeout = '300ms'");
            waiting = db.conn("wire_service");
            db.force("ALTER ROLE wire_service RESET vault_ext.audit_timeout");
        }
        let users = users.clone();
        let result = std::thread::spawn(move || {
            let outcome = fetch_all(&mut waiting, &users);
            (outcome, waiting)
        });
        let waits = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND state = 'active' AND wait_event_type = 'Extension'"
        );
        if !end.is_empty() {
            eventually(SOON, "the call waits for its rows", || db.value::<i64>(&waits) == 1);
            locker.query(end, &[&pid]).unwrap();
        }
        let (outcome, mut client) = result.join().unwrap();
        let error = outcome.expect_err(end);
        match error.code().map(|code| code.code()) {
            Some(code) if end.is_empty() => assert_eq!(code, "55000"),
            Some(code) if end.contains("cancel") => assert_eq!(code, "57014"),
            code => assert!(code.is_none_or(|code| code == "57P01"), "{error:?}"),
        }
        locker.batch_execute("ROLLBACK").unwrap();
        eventually(SOON, "the writer settles what was left", || queued() == 0);
        if !end.contains("terminate") {
            assert_eq!(fetch_all(&mut client, &list(&["u1", "u2"])).unwrap().len(), 2);
        }
    }
    // The shared slots are all there: with the two of its own alone, this session would need 50 batches.
    let before = batches(&db);
    assert_eq!(fetch_all(&mut service, &users[..100]).unwrap(), keys[..100]);
    let needed = batches(&db) - before;
    assert!(needed <= 5, "{needed} batches");
    // Several sessions share them.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(fetch_all(&mut db.conn("wire_service"), &users).unwrap(), keys));
        }
    });
    // The writer's temporary files, with so little work_mem, hold rows of the trail.
    let log = cluster.log();
    let files: Vec<_> = log.lines().filter(|line| line.contains("wire_service@d LOG:  temporary file")).collect();
    assert!(files.is_empty(), "keys went to a file: {files:?}");
}
