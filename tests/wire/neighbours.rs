//! Libraries that log a server's activity, at their most verbose and loaded before and after vault_ext. They see every
//! statement and no key. `make test-neighbours` also runs all other tests beside these libraries.

use std::fs;

use crate::harness::{Builder, Cluster, Db, expect_vault_error, fetch, init};
use crate::ledger::{Call, Ledger};

const CONTRIB: [&str; 2] = ["pg_stat_statements", "auto_explain"];

/// Two servers, one that loads these libraries after vault_ext and one before it. Both log all that PostgreSQL can log.
fn both_orders(neighbours: &[&'static str]) -> [Builder; 2] {
    let [mut first, mut last] = [vec!["vault_ext"], neighbours.to_vec()];
    first.extend(neighbours);
    last.push("vault_ext");
    [first, last].map(|libraries| {
        Cluster::builder()
            .preload(&libraries)
            .with_wire_kek()
            .without_fsync()
            .conf("log_statement = all")
            .conf("log_duration = on")
            .conf("log_min_duration_statement = 0")
            .conf("log_parameter_max_length = -1")
            .conf("log_parameter_max_length_on_error = -1")
            .conf("log_error_verbosity = verbose")
            .conf("debug_print_plan = on")
            .conf("debug_print_rewritten = on")
    })
}

/// Makes every kind of call in every form of statement, including calls that fail.
fn use_everything(db: &Db) -> Ledger {
    let mut ledger = Ledger::default();
    let mut app = db.app();
    for user in ["alice", "bob"] {
        for call in [Call::Init, Call::Rotate, Call::Fetch, Call::Init] {
            ledger.call(&mut app, user, call).unwrap();
        }
    }
    let mut app = db.app_for("alice");
    let key = ledger.key("alice").master_key.clone();
    let row = app.query_one("SELECT master_key FROM vault_get_master_key() WHERE kek_id <> $1", &[&"x"]).unwrap();
    assert_eq!(row.get::<_, String>(0), key);
    // pgaudit skips the statements of a definer function, unless the caller is a member of its owner, as every
    // superuser is.
    let mut superuser = db.superuser();
    for call in [Call::Init, Call::Rotate, Call::Fetch] {
        ledger.call(&mut superuser, "carol", call).unwrap();
    }
    // The key in an expression and in a cursor. The logs show both plans.
    app.batch_execute(
        "SELECT length(master_key) FROM vault_get_master_key();
         BEGIN; DECLARE c CURSOR FOR SELECT * FROM vault_get_master_key(); FETCH c; ROLLBACK",
    )
    .unwrap();
    app.batch_execute("BEGIN; SAVEPOINT s; SELECT vault_rotate(); ROLLBACK TO s; COMMIT").unwrap();
    expect_vault_error(fetch(&mut db.app_for("nobody")), "P0002");
    expect_vault_error(fetch(&mut db.app()), "28000");
    db.force(
        "INSERT INTO vault_ext.encryption_vaults SELECT 'mallory', wrapped_mk, wrap_iv, format_version, kek_id
        FROM vault_ext.encryption_vaults WHERE user_id = 'alice'",
    );
    expect_vault_error(fetch(&mut db.app_for("mallory")), "XX001");
    let mut admin = db.conn("wire_admin");
    admin.batch_execute("SELECT vault_erase('mallory')").unwrap();
    admin.batch_execute("CALL vault_rewrap()").unwrap();
    admin
        .batch_execute(
            "SELECT * FROM vault_check(); SELECT * FROM vault_kek_status(); SELECT * FROM vault_reload_kek()",
        )
        .unwrap();
    ledger
}

#[track_caller]
fn assert_log_shows(cluster: &Cluster, texts: &[&str]) {
    let log = cluster.log();
    for text in texts {
        assert!(log.contains(text), "the log does not show {text:?}");
    }
}

#[track_caller]
fn assert_statistics_have(db: &Db, statement: &str) {
    let sql = "SELECT sum(calls)::bigint FROM pg_stat_statements WHERE query ILIKE '%' || $1 || '%'
        AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let calls: Option<i64> = db.superuser().query_one(sql, &[&statement]).unwrap().get(0);
    assert!(calls > Some(0), "pg_stat_statements has no {statement}");
}

#[test]
fn statistics_and_plans_show_every_statement_and_no_key() {
    for builder in both_orders(&CONTRIB) {
        let mut cluster = builder.prepare();
        // Since PostgreSQL 16, auto_explain can log a plan's parameters.
        if cluster.major() >= 16 {
            cluster.configure("auto_explain.log_parameter_max_length = -1");
        }
        cluster.start();
        let db = cluster.database("d");
        db.force("CREATE EXTENSION pg_stat_statements");
        let ledger = use_everything(&db);
        for statement in ["FROM vault_init()", "FROM vault_ext.encryption_vaults WHERE user_id", "CALL vault_rewrap()"]
        {
            assert_statistics_have(&db, statement);
        }
        assert_log_shows(
            &cluster,
            &["Query Text: SELECT master_key, format_version, kek_id, key_version FROM vault_init()"],
        );
        assert_log_shows(&cluster, &["Query Text: UPDATE vault_ext.encryption_vaults SET wrapped_mk = $2"]);
        let texts = "pg_stat_tmp/pgss_query_texts.stat";
        let kept = fs::read_to_string(cluster.data().join(texts)).unwrap();
        assert!(kept.contains("vault_get_master_key"), "{texts} has moved");
        ledger.end_checks(&db, "pg_stat_statements and auto_explain as neighbours", 1);
        drop(db);
        // A shutdown writes the statistics to a file.
        cluster.restart();
        let db = cluster.existing_database("d");
        assert_statistics_have(&db, "FROM vault_init()");
        ledger.end_checks(&db, "pg_stat_statements and auto_explain as neighbours, after a restart", 1);
    }
}

#[test]
fn neighbours_also_see_the_statements_that_vault_ext_inspects() {
    for builder in both_orders(&CONTRIB) {
        let cluster = builder.start();
        let db = cluster.database("d");
        db.force("CREATE EXTENSION pg_stat_statements");
        // The audit writer is connected to the template, and vault_ext asks it to leave.
        let key = init(&mut db.app_for("alice")).unwrap();
        db.cluster.superuser("postgres").batch_execute("CREATE DATABASE copy TEMPLATE d").unwrap();
        let copy = cluster.existing_database("copy");
        assert_eq!(fetch(&mut copy.app_for("alice")).unwrap(), key);
        expect_vault_error(copy.superuser().batch_execute("DROP EXTENSION vault_ext"), "55000");
        copy.force("SET vault_ext.allow_drop = on; DROP EXTENSION vault_ext");
        assert_statistics_have(&copy, "DROP EXTENSION vault_ext");
        let created: i64 = db.value("SELECT count(*) FROM pg_stat_statements WHERE query LIKE 'CREATE DATABASE copy%'");
        assert_eq!(created, 1);
    }
}

#[cfg(feature = "neighbours")]
mod packaged {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use postgres::NoTls;

    use super::*;
    use crate::harness::{assert_no_secrets_in_files, decode, eventually, kek, rotate};

    #[test]
    fn pgaudit_shows_every_statement_and_no_key() {
        for builder in both_orders(&["pgaudit"]) {
            let cluster = builder.start();
            let db = cluster.database("d");
            db.force("CREATE EXTENSION pgaudit");
            let ledger = use_everything(&db);
            assert_log_shows(
                &cluster,
                &[
                    // From pgaudit's hook on object access. vault_ext uses the same hook.
                    "FUNCTION,EXECUTE,FUNCTION,public.vault_get_master_key,",
                    "READ,SELECT,TABLE,vault_ext.encryption_vaults,",
                    "WRITE,UPDATE,TABLE,vault_ext.encryption_vaults,\"UPDATE vault_ext.encryption_vaults SET wrapped_mk = $2",
                    "MISC,CALL,,,CALL vault_rewrap()",
                ],
            );
            ledger.end_checks(&db, "pgaudit as a neighbour", 1);
            expect_vault_error(db.superuser().batch_execute("DROP EXTENSION vault_ext"), "55000");
            db.force("SET vault_ext.allow_drop = on; DROP EXTENSION vault_ext");
            assert_log_shows(&cluster, &["DDL,DROP EXTENSION,"]);
        }
    }

    /// The limit of this protection: PL/pgSQL variables are parameters of the statements that use them.
    #[test]
    fn a_key_in_other_sql_is_logged_like_any_value() {
        let [builder, _] = both_orders(&["pgaudit"]);
        let cluster = builder.start();
        let mut app = cluster.database("d").app_for("alice");
        let key = init(&mut app).unwrap().master_key;
        assert!(!cluster.log().contains(&key));
        app.batch_execute(
            "DO $$ DECLARE k text := (vault_get_master_key()).master_key; BEGIN PERFORM (SELECT length(k)); END $$",
        )
        .unwrap();
        assert!(cluster.log().contains(&key), "pgaudit no longer logs this parameter: update docs/reliability.md");
    }

    /// With pgaudit.log_client, the caller receives the statements inside a call together with their parameters.
    #[test]
    fn pgaudit_sends_no_key_to_the_client() {
        for builder in both_orders(&["pgaudit"]) {
            let cluster = builder.conf("pgaudit.log_client = on").conf("pgaudit.log_level = notice").start();
            cluster.database("d");
            let notices = Arc::new(Mutex::new(String::new()));
            let mut config = cluster.config("wire_app", "d");
            let heard = Arc::clone(&notices);
            config.notice_callback(move |notice| *heard.lock().unwrap() += &format!("{notice:?}\n"));
            let mut app = config.connect(NoTls).unwrap();
            crate::harness::set_user(&mut app, "alice");
            let keys = [init(&mut app), rotate(&mut app), fetch(&mut app)].map(|key| decode(&key.unwrap().master_key));
            let notices = notices.lock().unwrap().clone();
            assert!(notices.contains("UPDATE vault_ext.encryption_vaults SET wrapped_mk = $2"), "{notices}");
            let file = cluster.dir().join("notices");
            fs::write(&file, &notices).unwrap();
            let secrets: Vec<_> = keys.into_iter().chain([kek(1).to_vec()]).collect();
            assert_no_secrets_in_files(&[&file], &secrets);
        }
    }

    /// Runs a pg_cron job that returns a key. pg_cron fetches the key like any client, and its job log does not contain
    /// it.
    fn assert_a_job_shows_no_key(in_workers: bool) {
        for builder in both_orders(&["pg_cron"]) {
            let workers = format!("cron.use_background_workers = {in_workers}");
            let cluster = builder.tcp().conf("cron.host = '127.0.0.1'").conf(&workers).start();
            let db = cluster.database("d");
            let mut ledger = Ledger::default();
            ledger.call(&mut db.app(), "alice", Call::Init).unwrap();
            db.force("ALTER ROLE wire_app IN DATABASE d SET app.current_user_id = 'alice'");
            let mut cron = cluster.superuser("postgres");
            cron.batch_execute(
                "CREATE EXTENSION pg_cron;
                 SELECT cron.schedule_in_database('job', '* * * * *', 'SELECT master_key FROM vault_get_master_key()', 'd', 'wire_app')",
            )
            .unwrap();
            let sql = "SELECT status, return_message, d::text FROM cron.job_run_details d WHERE end_time IS NOT NULL";
            let mut run = None;
            eventually(Duration::from_secs(100), "the job runs", || {
                run = cron.query_opt(sql, &[]).unwrap();
                run.is_some()
            });
            let run = run.unwrap();
            let (status, message): (String, String) = (run.get(0), run.get(1));
            assert_eq!(status, "succeeded", "{message}");
            assert!(db.audit().iter().any(|row| row.what() == ("fetch", 200, None) && row.db_role == "wire_app"));
            ledger.end_checks(&db, "a job of pg_cron that fetches a key", 1);
        }
    }

    #[test]
    fn a_job_of_pg_cron_in_a_worker_shows_no_key() {
        assert_a_job_shows_no_key(true);
    }

    #[test]
    fn a_job_of_pg_cron_over_a_connection_shows_no_key() {
        assert_a_job_shows_no_key(false);
    }
}
