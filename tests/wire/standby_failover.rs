//! Streaming replication: when a server may release keys, which keys survive a failover, and how the old primary
//! returns.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::{
    Builder, Cluster, Db, Stop, bindir, eventually, expect_vault_error, rounds, server_command, succeed,
};
use crate::ledger::{Call, Ledger};
use crate::load::Load;

const SOON: Duration = Duration::from_secs(60);
const WRITER: &str = "FROM pg_stat_activity WHERE backend_type = 'vault_ext audit writer'";

pub fn primary() -> Builder {
    Cluster::builder()
        .with_wire_kek()
        .conf("wal_log_hints = on")
        .conf("wal_keep_size = 256MB")
        .conf("max_connections = 60")
}

/// Starts a streaming standby of that server.
pub fn standby_of(primary: &Cluster) -> Cluster {
    let backup = primary.base_backup(&["-R"]);
    Cluster::builder().with_wire_kek().data_from(&backup).start()
}

fn is_streaming(primary: &Cluster, state: &str) -> bool {
    let sql = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = $1";
    primary.superuser("postgres").query_one(sql, &[&state]).unwrap().get::<_, i64>(0) > 0
}

/// Makes each commit wait until the standby has applied it, so that queries on the standby see it.
fn make_synchronous(primary: &mut Cluster) {
    primary.configure("synchronous_standby_names = '*'");
    primary.configure("synchronous_commit = remote_apply");
    primary.superuser("postgres").batch_execute("SELECT pg_reload_conf()").unwrap();
    eventually(SOON, "the standby is synchronous", || is_streaming(primary, "sync"));
}

pub fn promote(standby: &Cluster) {
    let promoted: bool = standby.superuser("postgres").query_one("SELECT pg_promote(true, 60)", &[]).unwrap().get(0);
    assert!(promoted);
}

/// Stops a promoted server from waiting for standbys, since it has none.
fn stop_waiting_for_standbys(cluster: &mut Cluster) {
    cluster.configure("synchronous_standby_names = ''");
    cluster.superuser("postgres").batch_execute("SELECT pg_reload_conf()").unwrap();
}

#[test]
fn a_streaming_standby_refuses_calls_that_it_cannot_record() {
    let primary = primary().start();
    let db = primary.database("d");
    let mut ledger = Ledger::default();
    ledger.call(&mut db.app(), "alice", Call::Init).unwrap();
    let standby = standby_of(&primary);
    eventually(SOON, "the standby streams", || is_streaming(&primary, "async"));
    let copy = standby.existing_database("d");
    let mut app = copy.app();
    for call in [Call::Init, Call::Fetch, Call::Rotate] {
        for user in ["alice", "nobody"] {
            let refusal = expect_vault_error(Ledger::default().call(&mut app, user, call), "25006");
            assert!(refusal.hint.unwrap_or_default().contains("primary"));
        }
    }
    ledger.end_checks(&db, "a streaming standby refuses with 25006", 6);

    // These work on a standby and write no row, so that no audit writer looks at the catalogs for them.
    let calls = ["SELECT * FROM vault_check()", "SELECT * FROM vault_kek_status()"];
    let mut admin = copy.conn("wire_admin");
    calls.iter().for_each(|sql| admin.batch_execute(sql).unwrap());
    db.force(
        "SET vault_ext.allow_alter = on; ALTER TABLE vault_ext.encryption_vaults RENAME TO mine;
         CREATE VIEW vault_ext.encryption_vaults AS SELECT * FROM vault_ext.mine WHERE false;
         ALTER VIEW vault_ext.encryption_vaults OWNER TO vault_ext_owner",
    );
    let has_view = "SELECT EXISTS (SELECT FROM pg_class WHERE relname = 'encryption_vaults' AND relkind = 'v')";
    eventually(SOON, "the standby has the view", || copy.value(has_view));
    for sql in calls {
        let refusal = expect_vault_error(admin.batch_execute(sql), "55000");
        assert!(refusal.message.contains("not the one that CREATE EXTENSION made"), "{sql}: {refusal:?}");
    }
}

#[test]
fn promotion_under_load_keeps_every_key_that_went_out() {
    for _ in 0..rounds() {
        let mut primary = primary().start();
        let load = {
            let db = primary.database("d");
            Load::start(&db, 16)
        };
        let mut standby = standby_of(&primary);
        make_synchronous(&mut primary);
        load.wait_for_keys(100);
        primary.stop(Stop::Immediate);
        stop_waiting_for_standbys(&mut standby);
        promote(&standby);
        let db = standby.existing_database("d");
        load.redirect(&db);
        load.wait_for_keys(100);
        load.stop().end_checks(&db, "failover to a synchronous standby, 16 clients", 1);
    }
}

/// An application may choose asynchronous commits. A failover must not lose the only copy of a key because of that.
#[test]
fn promotion_keeps_the_keys_of_sessions_that_commit_asynchronously() {
    for settings in ["SET synchronous_commit = off", "SET synchronous_commit = local"] {
        let mut primary = primary().conf("wal_writer_delay = 10s").start();
        let load = {
            let db = primary.database("d");
            Load::with_settings(&db, 16, settings)
        };
        let mut standby = standby_of(&primary);
        make_synchronous(&mut primary);
        load.wait_for_keys(100);
        primary.stop(Stop::Immediate);
        stop_waiting_for_standbys(&mut standby);
        promote(&standby);
        let db = standby.existing_database("d");
        load.redirect(&db);
        load.wait_for_keys(100);
        load.stop().end_checks(&db, &format!("failover to a synchronous standby, sessions with {settings}"), 1);
    }
}

#[test]
fn no_key_goes_out_before_the_standby_has_its_row() {
    let mut primary = primary().start();
    primary.database("d");
    let standby = standby_of(&primary);
    make_synchronous(&mut primary);
    let (db, copy) = (primary.existing_database("d"), standby.existing_database("d"));
    let (done, hits) = (AtomicBool::new(false), AtomicUsize::new(0));
    // On a fast machine the wait for the standby is short and hard to hit, so the calls continue until enough hits are
    // counted.
    let enough = |released: usize| released >= 50 && hits.load(Ordering::Relaxed) > 10 || released >= 20_000;
    let mut ledger = std::thread::scope(|scope| {
        let disturber = scope.spawn(|| {
            let mut superuser = db.superuser();
            while !done.load(Ordering::Relaxed) {
                for how in ["pg_cancel_backend", "pg_terminate_backend"] {
                    let sql = format!("SELECT {how}(pid) {WRITER} AND wait_event = 'SyncRep'");
                    hits.fetch_add(superuser.query(&sql, &[]).unwrap().len(), Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        let callers: Vec<_> = (0..4)
            .map(|i| {
                let (db, copy, enough) = (&db, &copy, &enough);
                scope.spawn(move || {
                    let (mut app, mut there) = (db.app(), copy.superuser());
                    let mut ledger = Ledger::default();
                    let user = format!("user-{i}");
                    while !enough(ledger.released()) {
                        let call = if ledger.released() == 0 { Call::Init } else { Call::Fetch };
                        if ledger.call(&mut app, &user, call).is_ok() {
                            let sql = "SELECT count(*) FROM vault_ext.encryption_vault_audit WHERE request_id = $1";
                            let rows: i64 = there.query_one(sql, &[&ledger.last_request()]).unwrap().get(0);
                            assert_eq!(rows, 1, "{} is not on the standby", ledger.last_request());
                        }
                    }
                    ledger
                })
            })
            .collect();
        let mut ledger = Ledger::default();
        let ledgers: Vec<_> = callers.into_iter().map(|caller| caller.join()).collect();
        done.store(true, Ordering::Relaxed);
        for part in ledgers {
            ledger.merge(part.unwrap_or_else(|cause| std::panic::resume_unwind(cause)));
        }
        disturber.join().unwrap();
        ledger
    });
    let hits = hits.into_inner();
    assert!(hits > 10, "the writer was hit only {hits} times");
    ledger.call(&mut db.app(), "user-0", Call::Rotate).unwrap();
    ledger.end_checks(&db, "synchronous replication, the writer cancelled or terminated while it waits", hits);
}

/// Waits until the writer waits for the standby.
fn wait_until_writer_waits(db: &Db) {
    eventually(SOON, "the writer waits for the standby", || {
        db.value::<i64>(&format!("SELECT count(*) {WRITER} AND wait_event = 'SyncRep'")) == 1
    });
}

#[test]
fn a_writer_that_is_hit_while_it_waits_for_a_lost_standby_releases_nothing() {
    let mut primary = primary().conf("vault_ext.audit_timeout = 60s").start();
    primary.database("d");
    let mut standby = standby_of(&primary);
    let mut ledger = Ledger::default();
    {
        let db = primary.existing_database("d");
        ledger.call(&mut db.app(), "alice", Call::Init).unwrap();
    }
    make_synchronous(&mut primary);
    let db = primary.existing_database("d");
    for how in ["pg_cancel_backend", "pg_terminate_backend"] {
        standby.stop(Stop::Fast);
        let mut app = db.app();
        let mut part = ledger.clone();
        let call = std::thread::spawn(move || {
            let result = part.call(&mut app, "alice", Call::Fetch);
            (part, result)
        });
        wait_until_writer_waits(&db);
        for _ in 0..20 {
            db.force(&format!("SELECT {how}(pid) {WRITER}"));
            assert!(how == "pg_terminate_backend" || !call.is_finished(), "a cancelled wait released the key");
            std::thread::sleep(Duration::from_millis(10));
        }
        if how == "pg_cancel_backend" {
            wait_until_writer_waits(&db);
            standby.start();
            let (part, result) = call.join().unwrap();
            result.unwrap();
            ledger = part;
        } else {
            let (_, result) = call.join().unwrap();
            expect_vault_error(result, "55000");
            standby.start();
        }
        eventually(SOON, "the standby is synchronous again", || is_streaming(&primary, "sync"));
    }
    ledger.call(&mut db.app(), "alice", Call::Rotate).unwrap();
    ledger.end_checks(&db, "the synchronous standby lost, the writer cancelled or terminated meanwhile", 2);
}

#[test]
fn the_old_primary_comes_back_by_pg_rewind() {
    let mut old = primary().start();
    let mut ledger = Ledger::default();
    {
        let db = old.database("d");
        let mut app = db.app();
        for i in 0..10 {
            ledger.call(&mut app, &format!("user-{i}"), Call::Init).unwrap();
        }
    }
    let mut new = standby_of(&old);
    eventually(SOON, "the standby streams", || is_streaming(&old, "async"));
    let kept = ledger.clone();
    eventually(SOON, "the standby has the whole trail", || {
        new.existing_database("d").audit().len() == old.existing_database("d").audit().len()
    });
    // The old primary's changes from here on are lost, because the standby does not receive them.
    new.stop(Stop::Fast);
    ledger.call(&mut old.existing_database("d").app(), "user-0", Call::Rotate).unwrap();
    ledger.call(&mut old.existing_database("d").app(), "lost", Call::Init).unwrap();
    old.stop(Stop::Immediate);
    new.start();
    promote(&new);
    let mut ledger = kept;
    {
        let db = new.existing_database("d");
        let mut app = db.app();
        for i in 0..10 {
            ledger.call(&mut app, &format!("user-{i}"), Call::Rotate).unwrap();
        }
        db.force("CHECKPOINT");
        ledger.end_checks(&db, "the standby promoted after the primary was lost", 1);
    }
    let conf = std::fs::read(old.data().join("postgresql.conf")).unwrap();
    let source = format!("host={} port={} user=postgres dbname=postgres", new.dir().display(), new.port());
    succeed(server_command(bindir().join("pg_rewind"), old.dir()).arg("-D").arg(old.data()).args([
        "--source-server",
        &source,
        "-R",
        "--no-sync",
    ]));
    // pg_rewind copied the source's configuration, including its socket folder.
    std::fs::write(old.data().join("postgresql.conf"), conf).unwrap();
    old.start();
    eventually(SOON, "the old primary streams from the new one", || is_streaming(&new, "async"));
    let trail = new.existing_database("d").audit();
    eventually(SOON, "the old primary has caught up", || old.existing_database("d").audit() == trail);
    new.stop(Stop::Fast);
    promote(&old);
    ledger.end_checks(&old.existing_database("d"), "the old primary after pg_rewind, promoted again", 1);
}
