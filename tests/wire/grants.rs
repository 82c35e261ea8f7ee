//! Grants: a service works for a user who is not there, never for anybody else, and never longer or more often than granted.

use std::time::Duration;

use postgres::{Client, Error};
use serde_json::json;

use crate::harness::{Db, VaultKey, claims, eventually, expect_error, expect_vault_error, init, shared_db, token_db};

fn fetch_of(client: &mut Client, user: &str) -> Result<VaultKey, Error> {
    let sql = format!("SELECT {} FROM vault_get_master_key_of($1)", VaultKey::COLUMNS);
    let row = client.query_one(&sql, &[&user])?;
    Ok(VaultKey { master_key: row.get(0), format_version: row.get(1), kek_id: row.get(2), key_version: row.get(3) })
}

fn grant(client: &mut Client, more: &str) -> i64 {
    client.query_one(&format!("SELECT vault_grant(NULL, {more})"), &[]).unwrap().get(0)
}

fn yes(client: &mut Client, sql: &str) -> bool {
    client.query_one(sql, &[]).unwrap_or_else(|e| panic!("{sql}: {e:?}")).get(0)
}

/// The trail's last row as `action status user identity actor grant context`.
fn last(db: &Db) -> String {
    let sql = "SELECT concat_ws(' ', action, status, user_id, identity, actor, grant_id, context)
        FROM vault_ext.encryption_vault_audit ORDER BY id DESC LIMIT 1";
    db.superuser().query_one(sql, &[]).unwrap().get(0)
}

#[test]
fn a_service_fetches_the_key_of_a_user_who_granted_it_and_of_nobody_else() {
    let db = shared_db();
    let (alice, bob) = (init(&mut db.app_for("alice")).unwrap(), init(&mut db.app_for("bob")).unwrap());
    let mut service = db.conn("wire_service");
    expect_vault_error(fetch_of(&mut service, "alice"), "42501");
    assert_eq!(last(&db), "failed_fetch 403 alice grant wire_service no-grant");
    let id = grant(&mut db.app_for("alice"), "'wire_service', '1 day', 'nightly report'");
    assert_eq!(last(&db), format!("grant 200 alice asserted {id}"));
    assert_eq!(fetch_of(&mut service, "alice").unwrap(), alice);
    assert_eq!(last(&db), format!("fetch 200 alice grant wire_service {id}"));
    assert_ne!(alice, bob);
    for user in ["bob", "%", "alic_", "*", "ALICE", "alice "] {
        expect_vault_error(fetch_of(&mut service, user), "42501");
    }
    expect_error(fetch_of(&mut service, ""), "22023");
    // The service may do nothing else, and nobody else may do that.
    expect_error(service.query("SELECT vault_get_master_key()", &[]), "42501");
    expect_error(service.query("SELECT * FROM vault_ext.grants", &[]), "42501");
    db.force("CREATE ROLE other_service LOGIN; GRANT vault_ext_service TO other_service");
    expect_vault_error(fetch_of(&mut db.conn("other_service"), "alice"), "42501");
    db.force("GRANT wire_service TO other_service");
    assert_eq!(fetch_of(&mut db.conn("other_service"), "alice").unwrap(), alice, "a member of the grantee");
    db.force("REVOKE wire_service FROM other_service; DROP ROLE other_service");
    // The user sees what was done.
    let mut app = db.app_for("alice");
    let row = app.query_one("SELECT grantee::text, uses, reason, granted_by FROM vault_ext.own_grants", &[]).unwrap();
    let seen: (String, i64, String, String) = (row.get(0), row.get(1), row.get(2), row.get(3));
    assert_eq!(seen, ("wire_service".into(), 2, "nightly report".into(), "wire_app".into()));
    assert_eq!(
        app.query("SELECT FROM vault_ext.own_audit WHERE identity = 'grant' AND status = 200", &[]).unwrap().len(),
        2
    );
    assert_eq!(db.app_for("bob").query("SELECT FROM vault_ext.own_grants", &[]).unwrap().len(), 0);
}

#[test]
fn a_grant_ends_at_once_when_it_is_revoked_or_given_back() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    init(&mut app).unwrap();
    let mut service = db.conn("wire_service");
    for (who, sql) in [
        ("wire_app", "SELECT vault_revoke_grant(ID)"),
        ("wire_grantor", "SELECT vault_revoke_grant(ID)"),
        ("wire_admin", "SELECT vault_revoke_grant(ID)"),
        ("wire_service", "SELECT vault_retire_grant(ID)"),
    ] {
        let id = grant(&mut app, "'wire_service', '1 day', 'x'");
        fetch_of(&mut service, "alice").unwrap();
        // Not by another user, and not by a role that does not hold it.
        assert!(!yes(&mut db.app_for("bob"), &format!("SELECT vault_revoke_grant({id})")));
        let sql = sql.replace("ID", &id.to_string());
        let mut client = if who == "wire_app" { db.app_for("alice") } else { db.conn(who) };
        assert!(yes(&mut client, &sql), "{who}");
        expect_vault_error(fetch_of(&mut service, "alice"), "28000");
        assert!(last(&db).ends_with("grant-revoked"), "{}", last(&db));
        assert!(!yes(&mut client, &sql), "{who}: it was ended before");
    }
    // Another grant counts in its place.
    grant(&mut app, "'wire_service', '1 day', 'again'");
    fetch_of(&mut service, "alice").unwrap();
    // A revocation that is rolled back has not happened, and the trail says so.
    app.batch_execute("BEGIN; SELECT vault_revoke_grant(max(id)) FROM vault_ext.own_grants; ROLLBACK").unwrap();
    fetch_of(&mut service, "alice").unwrap();
    assert_eq!(db.audit().iter().filter(|row| row.context.as_deref() == Some("rolled-back")).count(), 1);
}

#[test]
fn a_grant_expires_and_has_a_beginning() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    init(&mut app).unwrap();
    let mut service = db.conn("wire_service");
    grant(&mut app, "'wire_service', '4 s', 'short'");
    fetch_of(&mut service, "alice").unwrap();
    eventually(Duration::from_secs(30), "the grant expires", || fetch_of(&mut service, "alice").is_err());
    expect_vault_error(fetch_of(&mut service, "alice"), "28000");
    assert!(last(&db).ends_with("grant-expired"));
    grant(&mut app, "'wire_service', '2 h', 'later', NULL, now() + interval '1 h'");
    expect_vault_error(fetch_of(&mut service, "alice"), "28000");
    assert!(last(&db).ends_with("grant-not-yet-valid"));
    for bad in [
        "'wire_service', '0', 'x'",
        "'wire_service', '-1 day', 'x'",
        "'wire_service', '31 days', 'x'",
        "'wire_service', '178000000 years', 'x'",
        "'wire_service', '1 day', ' '",
        "'vault_ext_service', '1 day', 'everybody'",
        "'vault_ext_user', '1 day', 'everybody'",
        "'wire_service', '1 day', 'x', 0",
        "'wire_service', '1 day', 'x', NULL, now() + interval '2 days'",
        "'wire_service', '1 day', 'x', NULL, 'infinity'",
        "'wire_service', NULL, 'x'",
        "NULL, '1 day', 'x'",
        "'wire_service', '1 day', NULL",
    ] {
        let error = app.query(&format!("SELECT vault_grant(NULL, {bad})"), &[]);
        assert_eq!(error.expect_err(bad).code().unwrap().code(), "22023", "{bad}");
    }
    expect_error(app.query("SELECT vault_grant(NULL, 'nobody_here', '1 day', 'x')", &[]), "42704");
    expect_error(app.batch_execute("SET vault_ext.grant_max_lifetime = '60d'"), "42501");
    db.force(&format!("ALTER DATABASE {} SET vault_ext.grant_max_lifetime = '60d'", db.name));
    grant(&mut db.app_for("alice"), "'wire_service', '31 days', 'x'");
}

#[test]
fn the_uses_of_a_grant_are_counted_whatever_rolls_back() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    init(&mut app).unwrap();
    grant(&mut app, "'wire_service', '1 day', 'three times', 3");
    let mut service = db.conn("wire_service");
    service.batch_execute("BEGIN").unwrap();
    fetch_of(&mut service, "alice").unwrap();
    service.batch_execute("ROLLBACK; BEGIN").unwrap();
    fetch_of(&mut service, "alice").unwrap();
    fetch_of(&mut service, "alice").unwrap();
    expect_vault_error(fetch_of(&mut service, "alice"), "53400");
    service.batch_execute("ROLLBACK").unwrap();
    expect_vault_error(fetch_of(&mut service, "alice"), "53400");
    assert!(last(&db).ends_with("grant-used-up"));
    // Purging the trail gives no use back.
    db.conn("wire_admin").query("SELECT vault_purge_audit('0')", &[]).unwrap();
    expect_vault_error(fetch_of(&mut service, "alice"), "53400");
    // An old snapshot cannot count.
    grant(&mut app, "'wire_service', '1 day', 'twice', 2");
    service.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
    expect_vault_error(fetch_of(&mut service, "alice"), "25001");
    service.batch_execute("ROLLBACK").unwrap();
    fetch_of(&mut service, "alice").unwrap();
}

#[test]
fn many_clients_together_use_a_grant_as_often_as_granted() {
    const MOST: usize = 100;
    let db = shared_db();
    let mut app = db.app_for("alice");
    init(&mut app).unwrap();
    grant(&mut app, &format!("'wire_service', '1 day', 'x', {MOST}"));
    let used: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..32)
            .map(|n| {
                let mut service = db.conn("wire_service");
                scope.spawn(move || {
                    let mut used = 0;
                    for turn in 0..10 {
                        service.batch_execute("BEGIN").unwrap();
                        match fetch_of(&mut service, "alice") {
                            Ok(_) => used += 1,
                            Err(error) => assert_eq!(error.code().unwrap().code(), "53400", "{error:?}"),
                        }
                        service.batch_execute(if (n + turn) % 2 == 0 { "COMMIT" } else { "ROLLBACK" }).unwrap();
                    }
                    used
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!(used, MOST);
    let rows: i64 =
        db.value("SELECT count(*) FROM vault_ext.encryption_vault_audit WHERE identity = 'grant' AND status = 200");
    assert_eq!(rows, MOST as i64);
}

#[test]
fn grants_end_with_the_vault_that_they_were_given_for() {
    let db = shared_db();
    let mut service = db.conn("wire_service");
    for (user, end) in [
        ("alice", "SELECT vault_erase('alice')"),
        ("bob", "SELECT vault_rename_user('bob', 'robert')"),
        (
            "carol",
            "CREATE TABLE users AS SELECT 'carol' AS id; CREATE TRIGGER erase AFTER DELETE ON users FOR EACH ROW
            EXECUTE FUNCTION vault_erase_on_delete('id'); DELETE FROM users; DROP TABLE users",
        ),
    ] {
        let mut app = db.app_for(user);
        init(&mut app).unwrap();
        grant(&mut app, "'wire_service', '1 day', 'x'");
        fetch_of(&mut service, user).unwrap();
        db.force(end);
        // Somebody else's vault under the same id.
        init(&mut app).unwrap();
        expect_vault_error(fetch_of(&mut service, user), "28000");
    }
    expect_vault_error(fetch_of(&mut service, "robert"), "42501");
}

#[test]
fn breaking_glass_takes_two() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    let mut service = db.conn("wire_service");
    let give = "SELECT vault_grant_for('alice', 'wire_service', '1 hour', 'incident 7')";
    let give = |client: &mut Client| -> i64 { client.query_one(give, &[]).unwrap().get(0) };
    // Without approvals one is enough.
    let id = give(&mut db.conn("wire_grantor"));
    fetch_of(&mut service, "alice").unwrap();
    assert!(yes(&mut db.conn("wire_grantor"), &format!("SELECT vault_revoke_grant({id})")));
    db.force(&format!("ALTER DATABASE {} SET vault_ext.grant_approvals = 1", db.name));
    let mut grantor = db.conn("wire_grantor");
    expect_error(grantor.batch_execute("SET vault_ext.grant_approvals = 0"), "42501");
    let id = give(&mut grantor);
    expect_vault_error(fetch_of(&mut service, "alice"), "42501");
    assert!(last(&db).ends_with("grant-not-approved"));
    let approve = format!("SELECT vault_approve_grant({id})");
    assert!(!yes(&mut grantor, &approve), "not by oneself");
    expect_error(db.app_for("alice").query(&approve, &[]), "42501");
    let mut second = db.conn("wire_grantor2");
    assert!(yes(&mut second, &approve));
    assert!(!yes(&mut second, &approve), "once");
    fetch_of(&mut service, "alice").unwrap();
    let approvals = db.audit_where("action = 'approve_grant' AND user_id = 'alice'");
    assert_eq!(approvals.iter().map(|row| row.db_role.as_str()).collect::<Vec<_>>(), ["wire_grantor2"]);
    // A user's own grant needs nobody else's word.
    let mut bob = db.app_for("bob");
    init(&mut bob).unwrap();
    grant(&mut bob, "'wire_service', '1 day', 'x'");
    fetch_of(&mut service, "bob").unwrap();
}

#[test]
fn a_role_that_was_dropped_takes_its_grants_along() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    init(&mut app).unwrap();
    let make = "CREATE ROLE passing_service LOGIN; GRANT vault_ext_service TO passing_service";
    db.force(make);
    grant(&mut app, "'passing_service', '1 day', 'x'");
    fetch_of(&mut db.conn("passing_service"), "alice").unwrap();
    db.force("DROP ROLE passing_service");
    db.force(make);
    expect_vault_error(fetch_of(&mut db.conn("passing_service"), "alice"), "42501");
    db.force("DROP ROLE passing_service");
}

#[test]
fn in_the_mode_token_a_grant_takes_a_token_as_an_argument() {
    let (db, keys) = token_db();
    let mut app = db.app();
    let token = keys[0].token_of("alice");
    app.query("SELECT vault_init($1::text)", &[&token]).unwrap();
    app.batch_execute("BEGIN").unwrap();
    app.query("SELECT vault_login($1)", &[&token]).unwrap();
    expect_vault_error(app.query("SELECT vault_grant(NULL, 'wire_service', '1 day', 'injected')", &[]), "28000");
    app.batch_execute("ROLLBACK").unwrap();
    let sql = "SELECT vault_grant($1, 'wire_service', '1 day', 'by the user')";
    let id: i64 = app.query_one(sql, &[&token]).unwrap().get(0);
    let mut service = db.conn("wire_service");
    fetch_of(&mut service, "u-alice").unwrap();
    expect_vault_error(fetch_of(&mut service, "u-bob"), "42501");
    // Another user's token ends nothing.
    let revoke = "SELECT vault_revoke_grant($1, $2)";
    assert!(!app.query_one(revoke, &[&keys[0].token_of("bob"), &id]).unwrap().get::<_, bool>(0));
    let mut expired = claims("alice");
    expired["exp"] = json!(1);
    expect_vault_error(app.query(revoke, &[&keys[0].token(&expired), &id]), "28000");
    fetch_of(&mut service, "u-alice").unwrap();
    assert!(app.query_one(revoke, &[&token, &id]).unwrap().get::<_, bool>(0));
    expect_vault_error(fetch_of(&mut service, "u-alice"), "28000");
}

#[test]
fn grants_survive_a_dump_and_mean_the_same_role() {
    let db = shared_db();
    let key = init(&mut db.app_for("alice")).unwrap();
    grant(&mut db.app_for("alice"), "'wire_service', '1 day', 'x'");
    db.force("CREATE ROLE gone_service");
    grant(&mut db.app_for("alice"), "'gone_service', '1 day', 'x'");
    db.force("DROP ROLE gone_service");
    let file = crate::harness::scratch_dir().join("dump");
    let mut dump = db.cluster.program("pg_dump", "postgres");
    crate::harness::succeed(dump.args(["-Fc", "-d", &db.name, "-f"]).arg(&file));
    let copy = db.cluster.empty_database(&format!("{}_copy", db.name));
    crate::backup::restore(&copy, "custom", &file);
    assert_eq!(fetch_of(&mut copy.conn("wire_service"), "alice").unwrap(), key);
    assert_eq!(copy.value::<i64>("SELECT count(*) FROM vault_ext.grants"), 1, "the dropped role's is left out");
    let next = grant(&mut copy.app_for("alice"), "'wire_service', '1 day', 'x'");
    assert!(next > 2, "the ids go on");
}
