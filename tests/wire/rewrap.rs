//! `CALL vault_rewrap()` wraps every vault under the active KEK, while other calls continue.

use std::time::Duration;

use postgres::Client;

use crate::harness::{
    Db, VaultKey, assert_no_secrets, decode, eventually, expect_error, expect_vault_error, fetch, init, kek, rotate,
    rotate_and_destroy, set_user, without_deadlock,
};
use crate::keyring::{cluster, kek_status, keyring, rewrap, rewrap_in, switch, write};

const SOON: Duration = Duration::from_secs(30);
/// Two rows in the predecessor's format.
const FORMAT_1: &str = "
    INSERT INTO vault_ext.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id, created_at)
    VALUES ('old-1', 'EkoYuy/eugLj+TUwymd4xT07qypjikNu+XfObRXpLsp1LPM+pXxISRohaJtl0f9/', 'EBESExQVFhcYGRob', 1, 'env-v1', '2020-01-01'),
           ('old-2', 'EkoYuy/eugLj+TUwymd4xT07qypjikNu+XfObRXpLsp1LPM+pXxISRohaJtl0f9/', 'EBESExQVFhcYGRob', 1, 'env-v1', '2020-01-01')";

pub fn user_ids(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("user-{i:03}")).collect()
}

/// Creates a vault for each user.
pub fn mint_vaults(db: &Db, users: &[String]) -> Vec<VaultKey> {
    let mut app = db.app();
    let mint = |user: &String| {
        set_user(&mut app, user);
        init(&mut app).unwrap()
    };
    users.iter().map(mint).collect()
}

/// Checks that every user's master key is unchanged and is wrapped under that KEK in format 2.
#[track_caller]
pub fn assert_all_rewrapped(db: &Db, users: &[String], keys: &[VaultKey], kek_id: &str) {
    let mut app = db.app();
    for (user, key) in users.iter().zip(keys) {
        set_user(&mut app, user);
        let now = fetch(&mut app).unwrap();
        assert!(now.master_key == key.master_key && now.key_version == key.key_version, "{user}");
        assert_eq!((now.kek_id.as_str(), now.format_version), (kek_id, 2), "{user}");
    }
}

/// The trail's rows about rewrap runs, without the rows about single users.
pub fn run_rows(db: &Db) -> Vec<String> {
    let rows = db.audit();
    let of_runs = rows.iter().filter(|row| row.action.ends_with("rewrap") && row.user_id.is_none());
    of_runs.map(|row| format!("{} {} {}", row.action, row.status, row.context.as_deref().unwrap_or_default())).collect()
}

fn progress(db: &Db) -> Vec<(i64, i64, i64, i64, String)> {
    let sql = "SELECT total, done, skipped, failed, state FROM vault_ext.rewrap_progress";
    let rows = db.conn("wire_admin").query(sql, &[]).unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4))).collect()
}

#[test]
fn every_vault_is_rewrapped_and_keeps_its_key_version_and_times() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    let users = user_ids(25);
    let mut keys = mint_vaults(&db, &users);
    keys[3] = rotate_and_destroy(&mut db.app_for(&users[3])).unwrap();
    let unchanged = "SELECT string_agg((user_id, key_version, created_at, rotated_at)::text, ',' ORDER BY user_id) FROM vault_ext.encryption_vaults";
    let wraps = "SELECT count(DISTINCT wrapped_mk) + count(DISTINCT wrap_iv) FROM vault_ext.encryption_vaults";
    let before: String = db.value(unchanged);
    switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    assert_eq!(rewrap(&db, 10).unwrap(), (25, 0, 0));
    assert_eq!(db.value::<String>(unchanged), before);
    assert_eq!(db.value::<i64>(wraps), 50);
    assert_all_rewrapped(&db, &users, &keys, "k2");
    assert_eq!(
        run_rows(&db),
        ["rewrap 200 started: 25 vaults to k2", "rewrap 200 finished: 25 done, 0 skipped, 0 failed"]
    );
    assert_eq!(progress(&db), [(25, 25, 0, 0, "finished".into())]);
    // No vault is left to rewrap, and the old KEK can be removed.
    assert_eq!(rewrap(&db, 10).unwrap(), (0, 0, 0));
    switch(&db, &[("k2", 2)]).unwrap();
    assert_all_rewrapped(&db, &users, &keys, "k2");
    let mut secrets = vec![kek(1).to_vec(), kek(2).to_vec()];
    secrets.extend(keys.iter().map(|key| decode(&key.master_key)));
    assert_no_secrets(&cluster, &[], &secrets);
}

#[test]
fn a_rewrap_converts_the_predecessors_format_even_under_the_active_kek() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    db.force(FORMAT_1);
    let own = keyring(&[("k1", 1)]);
    write(&cluster, &format!("env-v1 AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=\n{own}"));
    crate::keyring::reload(&db).unwrap();
    assert_eq!(rewrap(&db, 1000).unwrap(), (2, 0, 0));
    for user in ["old-1", "old-2"] {
        let key = fetch(&mut db.app_for(user)).unwrap();
        assert_eq!((key.format_version, key.kek_id.as_str(), key.key_version), (2, "env-v1", 1));
        assert_eq!(decode(&key.master_key), (0xa0..=0xbf).collect::<Vec<u8>>());
    }
    assert_eq!(db.value::<i64>("SELECT count(*) FROM vault_ext.encryption_vaults WHERE created_at = '2020-01-01'"), 2);
}

#[test]
fn every_allowed_batch_size_gives_the_same_result_and_others_are_refused() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    let users = user_ids(7);
    let keys = mint_vaults(&db, &users);
    let mut previous = vec![("k1".to_owned(), 1)];
    for (i, batch_size) in [1, 2, 6, 7, 8, 100_000].into_iter().enumerate() {
        let id = format!("n{i}");
        previous.insert(0, (id.clone(), 50 + i as u64));
        let keks: Vec<_> = previous.iter().map(|(id, seed)| (id.as_str(), *seed)).collect();
        switch(&db, &keks).unwrap();
        assert_eq!(rewrap(&db, batch_size).unwrap(), (7, 0, 0), "{batch_size}");
        assert_all_rewrapped(&db, &users, &keys, &id);
    }
    for batch_size in ["0", "-1", "100001", "NULL"] {
        let call = format!("CALL vault_rewrap({batch_size})");
        expect_vault_error(db.conn("wire_admin").simple_query(&call), "22023");
    }
}

#[test]
fn a_rewrap_cannot_run_inside_a_transaction_or_a_function() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    mint_vaults(&db, &user_ids(3));
    switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    let mut admin = db.conn("wire_admin");
    for sql in [
        "BEGIN; CALL vault_rewrap(); COMMIT",
        "CREATE FUNCTION pg_temp.f() RETURNS void LANGUAGE plpgsql AS 'BEGIN EXECUTE ''CALL vault_rewrap()''; END'; SELECT pg_temp.f()",
    ] {
        expect_vault_error(admin.batch_execute(sql), "25001");
        admin.batch_execute("ROLLBACK").unwrap();
    }
    // A top-level DO block may commit, and so may a CALL in it. A driver's prepared CALL may commit too.
    admin
        .batch_execute(
            "DO $$ DECLARE d bigint; s bigint; f bigint; BEGIN CALL vault_rewrap(2, d, s, f); ASSERT d = 3; END $$",
        )
        .unwrap();
    let row = admin.query_one("CALL vault_rewrap()", &[]).unwrap();
    assert_eq!(row.get::<_, i64>("done"), 0);
    assert_eq!(kek_status(&db)[0].4, 3);
}

#[test]
fn vaults_that_do_not_open_are_reported_and_left_alone() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    let users = user_ids(9);
    let keys = mint_vaults(&db, &users);
    db.force(
        "UPDATE vault_ext.encryption_vaults SET wrapped_mk = reverse(wrapped_mk) WHERE user_id = 'user-000';
         UPDATE vault_ext.encryption_vaults SET kek_id = 'lost' WHERE user_id IN ('user-004', 'user-008')",
    );
    let rows = || -> Vec<_> { [0, 4, 8].map(|i| db.vault_row(&users[i])).to_vec() };
    let before = rows();
    switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    // Run again with batches of one, of a few and of all vaults.
    for (i, batch_size) in [1, 3, 1000].into_iter().enumerate() {
        assert_eq!(rewrap(&db, batch_size).unwrap(), (if i == 0 { 6 } else { 0 }, 0, 3));
        assert_eq!(rows(), before);
    }
    let good: Vec<_> = [1, 2, 3, 5, 6, 7].into_iter().collect();
    let pick = |i: &usize| (users[*i].clone(), keys[*i].clone());
    let (users, keys): (Vec<_>, Vec<_>) = good.iter().map(pick).unzip();
    assert_all_rewrapped(&db, &users, &keys, "k2");
    let what = |user: &str| -> Vec<String> {
        let rows = db.audit_of(user);
        let failures = rows.iter().filter(|row| row.action == "failed_rewrap");
        failures.map(|row| format!("{} {}", row.status, row.context.as_deref().unwrap_or_default())).collect()
    };
    assert_eq!(what("user-000"), ["500 unwrap-failed"; 3]);
    assert_eq!(what("user-004"), ["500 kek-not-loaded"; 3]);
    assert_eq!(run_rows(&db)[1], "rewrap 200 finished: 6 done, 0 skipped, 3 failed");
}

#[test]
fn a_rewrap_leaves_a_locked_vault_for_the_next_run() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    let users = user_ids(12);
    let keys = mint_vaults(&db, &users);
    switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    // Another session locks a vault and does not finish.
    let mut holder = db.superuser();
    holder
        .batch_execute("BEGIN; SELECT FROM vault_ext.encryption_vaults WHERE user_id = 'user-005' FOR UPDATE")
        .unwrap();
    let totals = without_deadlock(SOON, "the rewrap", {
        let mut admin = db.conn("wire_admin");
        move || rewrap_in(&mut admin, 5)
    });
    assert_eq!(totals.unwrap(), (11, 1, 0));
    holder.batch_execute("ROLLBACK").unwrap();
    assert_eq!(rewrap(&db, 5).unwrap(), (1, 0, 0));
    assert_all_rewrapped(&db, &users, &keys, "k2");
}

/// What makes a rewrap wait for an advisory lock.
#[derive(Clone, Copy)]
pub enum Stop {
    /// A trigger, which only SQL fires: the rewrap locks all rows of a batch before it changes the first.
    Trigger,
    /// A CHECK, which every change of a row passes: the rewrap takes the rows one after the other.
    Check,
}

/// Makes a rewrap wait for an advisory lock when it reaches that user's vault. The returned session holds the lock.
pub fn block_rewrap_at(db: &Db, user: &str, stop: Stop) -> Client {
    db.force(
        "CREATE OR REPLACE FUNCTION public.stop_here() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared(4711); RETURN NEW; END $$;
         CREATE OR REPLACE FUNCTION public.goes_on() RETURNS boolean LANGUAGE plpgsql AS $$
         BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared(4711); RETURN true; END $$",
    );
    let mut holder = db.superuser();
    holder.batch_execute("SELECT pg_advisory_lock(4711)").unwrap();
    let on = "ON vault_ext.encryption_vaults";
    db.force(&match stop {
        Stop::Trigger => format!(
            "CREATE OR REPLACE TRIGGER stop_here BEFORE UPDATE {on} FOR EACH ROW
                WHEN (NEW.user_id = '{user}') EXECUTE FUNCTION public.stop_here()"
        ),
        Stop::Check => format!(
            "SET vault_ext.allow_alter = on;
             ALTER TABLE vault_ext.encryption_vaults ADD CONSTRAINT stop_here
                CHECK (user_id <> '{user}' OR public.goes_on()) NOT VALID"
        ),
    });
    holder
}

pub fn unblock_rewrap(db: &Db, mut holder: Client) {
    holder.batch_execute("SELECT pg_advisory_unlock_all()").unwrap();
    remove_block(db);
}

/// Takes the trigger or the CHECK away, once nobody waits in it.
pub fn remove_block(db: &Db) {
    db.force(
        "SET vault_ext.allow_alter = on;
         DROP TRIGGER IF EXISTS stop_here ON vault_ext.encryption_vaults;
         ALTER TABLE vault_ext.encryption_vaults DROP CONSTRAINT IF EXISTS stop_here",
    );
}

/// Waits until a rewrap waits for the lock, and returns its process id.
pub fn wait_until_blocked(db: &Db) -> i32 {
    let sql = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    let mut pid = None;
    eventually(SOON, "the rewrap waits for the lock", || {
        pid = db.superuser().query_opt(sql, &[]).unwrap().map(|row| row.get(0));
        pid.is_some()
    });
    pid.expect("the rewrap waits")
}

#[test]
fn fetch_init_rotate_erase_and_a_second_rewrap_work_in_the_middle_of_a_batch() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    let users = user_ids(20);
    let mut keys = mint_vaults(&db, &users);
    switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    let holder = block_rewrap_at(&db, "user-010", Stop::Trigger);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| rewrap(&db, 8).unwrap());
        wait_until_blocked(&db);
        assert_eq!(progress(&db), [(20, 8, 0, 0, "running".into())]);
        // Every vault can be read: those already done, those in the batch and those still to come.
        let mut app = db.app();
        for (user, key) in users.iter().zip(&keys) {
            set_user(&mut app, user);
            assert_eq!(fetch(&mut app).unwrap().master_key, key.master_key);
        }
        // Calls for vaults outside the batch do not wait.
        set_user(&mut app, "user-001");
        keys[1] = rotate_and_destroy(&mut app).unwrap();
        set_user(&mut app, "user-019");
        keys[19] = rotate_and_destroy(&mut app).unwrap();
        set_user(&mut app, "user-new");
        assert_eq!(init(&mut app).unwrap().kek_id, "k2");
        db.conn("wire_admin").execute("SELECT vault_erase('user-018')", &[]).unwrap();
        // A second run takes the free vaults: 8 are done, 8 are in the first run's batch, one is rotated and one
        // erased.
        assert_eq!(rewrap(&db, 3).unwrap(), (2, 8, 0));
        unblock_rewrap(&db, holder);
        assert_eq!(first.join().unwrap(), (16, 0, 0));
    });
    let (mut left, mut of_left) = (users.clone(), keys.clone());
    left.remove(18);
    of_left.remove(18);
    assert_all_rewrapped(&db, &left, &of_left, "k2");
    expect_vault_error(fetch(&mut db.app_for("user-018")), "P0002");
    assert_eq!(kek_status(&db).iter().map(|row| (row.0.as_str(), row.4)).collect::<Vec<_>>(), [("k2", 20), ("k1", 0)]);
}

#[test]
fn a_rotate_of_a_vault_in_the_batch_waits_and_keeps_the_later_key() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    let users = user_ids(6);
    mint_vaults(&db, &users);
    for (round, stop) in [Stop::Trigger, Stop::Check].into_iter().enumerate() {
        let new = ["k2", "k3"][round];
        switch(&db, &[("k3", 3), ("k2", 2), ("k1", 1)][1 - round..]).unwrap();
        let holder = block_rewrap_at(&db, "user-003", stop);
        std::thread::scope(|scope| {
            let rewrapping = scope.spawn(|| rewrap(&db, 10).unwrap());
            wait_until_blocked(&db);
            let rotating = scope.spawn(|| rotate_and_destroy(&mut db.app_for("user-001")).unwrap());
            eventually(SOON, "the rotate waits", || {
                db.value::<i64>(
                    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'wire_app'",
                ) == 1
            });
            unblock_rewrap(&db, holder);
            assert_eq!(rewrapping.join().unwrap(), (6, 0, 0));
            let key = rotating.join().unwrap();
            assert_eq!((key.key_version, key.kek_id.as_str()), (2 + round as i32, new));
            assert_eq!(fetch(&mut db.app_for("user-001")).unwrap(), key);
        });
    }
}

#[test]
fn a_rotate_of_a_vault_that_a_batch_has_not_reached_wins() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    let users = user_ids(6);
    let mut keys = mint_vaults(&db, &users);
    switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    let holder = block_rewrap_at(&db, "user-003", Stop::Check);
    std::thread::scope(|scope| {
        let rewrapping = scope.spawn(|| rewrap(&db, 10).unwrap());
        wait_until_blocked(&db);
        // The batch has the old row of user-005 in its snapshot, and no lock on it yet. One more is changed and not committed.
        keys[5] = rotate_and_destroy(&mut db.app_for("user-005")).unwrap();
        let mut open = db.app_for("user-004");
        open.batch_execute("BEGIN").unwrap();
        keys[4] = rotate_and_destroy(&mut open).unwrap();
        unblock_rewrap_while(&db, holder, || {
            assert_eq!(rewrapping.join().unwrap(), (4, 1, 0));
            open.batch_execute("COMMIT").unwrap();
        });
    });
    assert_all_rewrapped(&db, &users, &keys, "k2");
    assert_eq!(rewrap(&db, 10).unwrap(), (0, 0, 0));
}

/// The same as `unblock_rewrap` with work between the two steps: taking the block away waits for open transactions.
fn unblock_rewrap_while(db: &Db, mut holder: Client, work: impl FnOnce()) {
    holder.batch_execute("SELECT pg_advisory_unlock_all()").unwrap();
    work();
    remove_block(db);
}

#[test]
fn a_lock_that_lets_others_change_the_row_does_not_hold_a_rewrap_up() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    let users = user_ids(5);
    let keys = mint_vaults(&db, &users);
    switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    // What a foreign key takes, by one session and by two.
    let lock = |users: &str| {
        let mut holder = db.superuser();
        let sql = format!("SELECT FROM vault_ext.encryption_vaults WHERE user_id IN ({users}) FOR KEY SHARE");
        holder.batch_execute(&format!("BEGIN; {sql}")).unwrap();
        holder
    };
    let holders = [lock("'user-001', 'user-002'"), lock("'user-002'")];
    let totals = without_deadlock(SOON, "the rewrap", {
        let mut admin = db.conn("wire_admin");
        move || rewrap_in(&mut admin, 2)
    });
    assert_eq!(totals.unwrap(), (5, 0, 0));
    // They still hold it: whoever wants to delete the row has to wait.
    let delete = "SET lock_timeout = '100ms'; DELETE FROM vault_ext.encryption_vaults WHERE user_id = 'user-002'";
    expect_error(db.superuser().batch_execute(delete), "55P03");
    drop(holders);
    assert_all_rewrapped(&db, &users, &keys, "k2");
}

#[test]
fn a_rewrap_does_the_same_whatever_becomes_of_table_and_indexes() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    let users = user_ids(5);
    let mut keys = mint_vaults(&db, &users);
    for (user, key) in users.iter().zip(&mut keys).take(2) {
        *key = rotate(&mut db.app_for(user)).unwrap();
    }
    let mut admin = db.conn("wire_admin");
    let statements = [
        "VACUUM FULL vault_ext.encryption_vaults",
        "CLUSTER vault_ext.encryption_vaults USING encryption_vaults_pkey",
        "REINDEX TABLE CONCURRENTLY vault_ext.encryption_vaults",
        "CREATE INDEX by_kek ON vault_ext.encryption_vaults (kek_id) WHERE format_version = 2",
        "ALTER TABLE vault_ext.encryption_vaults ADD note text DEFAULT 'x', ADD gone text DEFAULT 'y'",
        "ALTER TABLE vault_ext.encryption_vaults DROP gone",
        "ALTER TABLE vault_ext.encryption_vaults ADD of_kek text GENERATED ALWAYS AS (upper(kek_id)) STORED",
        "ALTER TABLE vault_ext.encryption_vaults DROP of_kek",
        "ALTER TABLE vault_ext.encryption_vaults DROP CONSTRAINT encryption_vaults_pkey, ADD PRIMARY KEY (kek_id, user_id)",
        "ALTER TABLE vault_ext.encryption_vaults DROP CONSTRAINT encryption_vaults_pkey",
        "CREATE UNIQUE INDEX down ON vault_ext.encryption_vaults (user_id DESC)",
        "ALTER TABLE vault_ext.encryption_vaults ADD PRIMARY KEY (user_id)",
        "ALTER TABLE vault_ext.old_keys ADD CHECK (kek_id <> 'nobody')",
        "CREATE INDEX by_hash ON vault_ext.old_keys USING hash (kek_id)",
        "CREATE TABLE noted (user_id text, kek_id text);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
            'BEGIN INSERT INTO public.noted VALUES (NEW.user_id, NEW.kek_id); RETURN NULL; END';
         CREATE TRIGGER note AFTER UPDATE ON vault_ext.old_keys FOR EACH ROW EXECUTE FUNCTION note()",
    ];
    for (i, statement) in statements.into_iter().enumerate() {
        let (old, new) = (format!("k{}", i + 1), format!("k{}", i + 2));
        switch(&db, &[(&new, i as u64 + 2), (&old, i as u64 + 1)]).unwrap();
        let mut superuser = db.superuser();
        superuser.batch_execute("SET vault_ext.allow_alter = on").unwrap();
        superuser.batch_execute(statement).unwrap();
        // Five vaults and two old keys.
        assert_eq!(rewrap_in(&mut admin, 2).unwrap(), (7, 0, 0), "after {statement}");
        assert_all_rewrapped(&db, &users, &keys, &new);
        let left = "SELECT count(*) FROM vault_ext.old_keys WHERE kek_id <> $1";
        assert_eq!(superuser.query_one(left, &[&new]).unwrap().get::<_, i64>(0), 0, "after {statement}");
        for index in [true, false] {
            superuser
                .batch_execute(&format!("SET enable_seqscan = {}; SET enable_indexscan = {index}", !index))
                .unwrap();
            let found = "SELECT count(*) FROM vault_ext.encryption_vaults WHERE user_id >= 'user-002'";
            assert_eq!(superuser.query_one(found, &[]).unwrap().get::<_, i64>(0), 3, "after {statement}");
        }
    }
    assert_eq!(db.value::<i64>("SELECT count(*) FROM noted"), 2);
    assert_eq!(db.value::<i64>("SELECT count(*) FROM vault_ext.encryption_vaults WHERE note = 'x'"), 5);
}

#[test]
fn a_kek_activated_during_a_rewrap_is_used_from_the_next_batch_on() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    let users = user_ids(9);
    let keys = mint_vaults(&db, &users);
    switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    let holder = block_rewrap_at(&db, "user-004", Stop::Check);
    std::thread::scope(|scope| {
        let rewrapping = scope.spawn(|| rewrap(&db, 3).unwrap());
        wait_until_blocked(&db);
        switch(&db, &[("k3", 3), ("k2", 2), ("k1", 1)]).unwrap();
        unblock_rewrap(&db, holder);
        // Six vaults were wrapped under the KEK that is now old, so the run reports them as left over.
        assert_eq!(rewrapping.join().unwrap(), (9, 6, 0));
    });
    assert_eq!(rewrap(&db, 3).unwrap(), (6, 0, 0));
    assert_all_rewrapped(&db, &users, &keys, "k3");
}

#[test]
fn a_wrong_or_missing_keyring_rewraps_nothing() {
    let mut cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    let users = user_ids(3);
    let keys = mint_vaults(&db, &users);
    drop(db);
    write(&cluster, &keyring(&[("k1", 7)]));
    cluster.restart();
    let db = cluster.existing_database("d");
    let refusal = expect_vault_error(rewrap(&db, 10), "55000");
    assert!(refusal.detail.unwrap_or_default().contains("known in this database"));
    assert_eq!(run_rows(&db), ["failed_rewrap 503 kek-differs"]);
    drop(db);
    cluster.configure("vault_ext.on_bad_kek = disable");
    write(&cluster, "nonsense");
    cluster.restart();
    let db = cluster.existing_database("d");
    expect_vault_error(rewrap(&db, 10), "55000");
    write(&cluster, &keyring(&[("k1", 1)]));
    crate::keyring::reload(&db).unwrap();
    assert_all_rewrapped(&db, &users, &keys, "k1");
}
