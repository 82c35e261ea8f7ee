//! The recovery code and zero-knowledge mode: one client from the first day to the last, the proof, transactions, and what others
//! may and may not do meanwhile. `recovery_states` has every call in every state.

use std::collections::BTreeSet;
use std::time::Duration;

use postgres::{Client, Error};
use ring::hmac;
use serde_json::json;

use crate::harness::{
    Db, base64, claims, decode, eventually, expect_error, expect_vault_error, fetch, init, kek, rotate, set_user,
    shared_db, token_db,
};
use crate::keyring::{cluster, kek_status, rewrap, switch};
use crate::recovery_client::{
    Recovery, VECTOR_CHECK, VECTOR_IV, VECTOR_WRAP, VECTOR_WRAPPED_MK, blob, challenge, clear_recovery, code_of,
    disable, enable, fresh, hkdf_sha256, key_of_code, open, parts, proof, require_proof, seal, secret_of, set_recovery,
    vector_key, with_code, with_zero_knowledge,
};
use crate::recovery_states::make;
use crate::trail::{trail_of, wait_for_trail};

#[test]
fn the_code_is_the_predecessor_s() {
    let secret: Vec<u8> = (0..32).collect();
    let code = code_of(&secret);
    assert_eq!(code.len(), 79);
    assert!(code.starts_with("0001-0203-0405-"), "{code}");
    assert_eq!(secret_of(&code.to_lowercase().replace('-', " ")), secret);
    let key = key_of_code(&code);
    assert_eq!(
        key.map(|byte| format!("{byte:02x}")).concat(),
        "e29b7101bde0a9a100f34002714421915c750f10a44c0cd963356057733d0cd4"
    );
    assert_eq!(base64(&seal(&key, &decode(VECTOR_IV), &vector_key())), VECTOR_WRAP);
}

#[test]
fn a_client_sets_a_code_lets_the_server_forget_the_key_opens_it_and_gives_it_back() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let first = init(&mut app).unwrap();
    let key = decode(&first.master_key);
    let status = |client: &mut Client| -> (bool, bool, bool) {
        let sql = "SELECT has_recovery_wrap, zero_knowledge, recovery_set_at IS NOT NULL FROM vault_status()";
        let row = client.query_one(sql, &[]).unwrap();
        (row.get(0), row.get(1), row.get(2))
    };
    assert_eq!(status(&mut app), (false, false, false));
    let recovery = Recovery::of(&key);
    set_recovery(&mut app, &recovery).unwrap();
    assert_eq!(status(&mut app), (true, false, true));
    assert_eq!(fetch(&mut app).unwrap(), first, "the code changes nothing for who has the server's key");
    assert_eq!(blob(&mut app, "vault_get_master_key"), (Some(first.master_key.clone()), false, None, None, 2, 1));

    // The client opens what the server has stored, and not what it believes to have sent.
    let nonce = challenge(&mut app).unwrap();
    assert_eq!(nonce.len(), 32);
    let (wrapped_mk, iv): (String, String) = {
        let sql = "SELECT recovery_wrapped_mk, recovery_iv FROM vault_ext.encryption_vaults WHERE user_id = 'alice'";
        let row = db.superuser().query_one(sql, &[]).unwrap();
        (row.get(0), row.get(1))
    };
    let opened = open(&key_of_code(&recovery.code), &decode(&iv), &decode(&wrapped_mk)).unwrap();
    assert!(enable(&mut app, Some(&proof(&opened, &nonce))).unwrap());
    assert_eq!(status(&mut app), (true, true, true));
    assert_eq!(parts(&db, "alice"), "recovery zk check");
    let check: String = db.value("SELECT key_check FROM vault_ext.encryption_vaults");
    let expected: [u8; 16] = hkdf_sha256(&key, b"vault_ext.master-key-check.v1");
    assert_eq!(check, expected.map(|byte| format!("{byte:02x}")).concat());
    let nonce = challenge(&mut app).unwrap();
    assert!(!enable(&mut app, Some(&proof(&key, &nonce))).unwrap());
    assert!(!enable(&mut app, None).unwrap(), "who is there already has nothing to show");

    // Another day, another device.
    let mut app = db.app_for("alice");
    for function in ["vault_init", "vault_get_master_key"] {
        let (master_key, required, wrapped_mk, iv, format_version, key_version) = blob(&mut app, function);
        assert_eq!((master_key, required, format_version, key_version), (None, true, 1, 1), "{function}");
        let typed = recovery.code.to_lowercase().replace('-', "  ");
        let opened = open(&key_of_code(&typed), &decode(&iv.unwrap()), &decode(&wrapped_mk.unwrap())).unwrap();
        assert_eq!(opened, key, "{function}");
    }
    expect_vault_error(rotate(&mut app), "55000");

    assert!(disable(&mut app, &key).unwrap());
    assert!(!disable(&mut app, &key).unwrap());
    assert_eq!(fetch(&mut app).unwrap(), first);
    assert_eq!(status(&mut app), (true, false, true), "the code stays");
    let second = rotate(&mut app).unwrap();
    assert_eq!(status(&mut app), (false, false, false), "it fits the old key alone");
    assert_eq!(second.key_version, 2);
    assert_eq!(
        trail_of(&db, "alice"),
        [
            "init 201 created",
            "recovery_set 200",
            "fetch 200",
            "fetch 200",
            "zk_enable 200",
            "zk_enable 200 already-enabled",
            "zk_enable 200 already-enabled",
            "init 200 already-exists-zk",
            "fetch 200 zk-recovery-blob",
            "rotate 409 zk-rotate-forbidden",
            "zk_disable 200",
            "zk_disable 200 already-disabled",
            "fetch 200",
            "rotate 200",
        ]
    );
    let keys: BTreeSet<_> =
        db.audit_where("action LIKE 'zk%'").into_iter().map(|row| (row.kek_id, row.key_version)).collect();
    assert_eq!(keys, BTreeSet::from([(Some("wire-1".to_owned()), Some(1))]));
}

// The proof -----------------------------------------------------------------------------------------------------------

#[test]
fn a_proof_counts_once_for_one_user_one_wrap_and_one_session() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let (key, recovery) = with_code(&mut app);
    let refused = |client: &mut Client, proof: &[u8]| {
        expect_vault_error(enable(client, Some(proof)), "42501");
        assert_eq!(trail_of(&db, "alice").last().unwrap(), "zk_enable 403 recovery-not-proven");
        assert_eq!(parts(&db, "alice"), "wrap recovery");
    };
    // Missing, and for a challenge that nobody has given.
    expect_vault_error(enable(&mut app, None), "42501");
    refused(&mut app, &proof(&key, &[0; 32]));
    // A wrong one uses the challenge up.
    let nonce = challenge(&mut app).unwrap();
    refused(&mut app, &proof(&fresh(), &nonce));
    refused(&mut app, &proof(&key, &nonce));
    // The nonce itself, the key itself, and the key over the nonce alone are no proofs.
    let plain = |key: &[u8], nonce: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), nonce).as_ref().to_vec();
    for make in [|_: &[u8], nonce: &[u8]| nonce.to_vec(), |key: &[u8], _: &[u8]| key.to_vec(), plain] {
        let nonce = challenge(&mut app).unwrap();
        refused(&mut app, &make(&key, &nonce));
    }
    // A newer challenge voids an older one.
    let older = challenge(&mut app).unwrap();
    let newer = challenge(&mut app).unwrap();
    assert_ne!(older, newer);
    refused(&mut app, &proof(&key, &older));
    refused(&mut app, &proof(&key, &newer));
    // Another session.
    let nonce = challenge(&mut app).unwrap();
    let mut other = db.app_for("alice");
    refused(&mut other, &proof(&key, &nonce));
    challenge(&mut other).unwrap();
    refused(&mut other, &proof(&key, &nonce));
    // Another user of the same session, who answers with his own key what alice was asked.
    let nonce = challenge(&mut app).unwrap();
    set_user(&mut app, "bob");
    let (bobs_key, _) = with_code(&mut app);
    expect_vault_error(enable(&mut app, Some(&proof(&bobs_key, &nonce))), "42501");
    challenge(&mut app).unwrap();
    expect_vault_error(enable(&mut app, Some(&proof(&bobs_key, &nonce))), "42501");
    assert_eq!(parts(&db, "bob"), "wrap recovery");
    // Bob's calls have not used up what alice was asked. But a replaced wrap has, also one that was put back.
    set_user(&mut app, "alice");
    set_recovery(&mut app, &Recovery::of(&key)).unwrap();
    refused(&mut app, &proof(&key, &nonce));
    let nonce = challenge(&mut app).unwrap();
    set_recovery(&mut db.app_for("alice"), &recovery).unwrap();
    refused(&mut app, &proof(&key, &nonce));
    // A removed one has, too, and a rotation.
    let nonce = challenge(&mut app).unwrap();
    clear_recovery(&mut app).unwrap();
    set_recovery(&mut app, &Recovery::of(&key)).unwrap();
    refused(&mut app, &proof(&key, &nonce));
    let nonce = challenge(&mut app).unwrap();
    let rotated = app.query_one("SELECT master_key FROM vault_rotate(destroy_old => true)", &[]).unwrap();
    let new_key = decode(&rotated.get::<_, String>(0));
    expect_vault_error(enable(&mut app, Some(&proof(&new_key, &nonce))), "55000");
    set_recovery(&mut app, &Recovery::of(&new_key)).unwrap();
    refused(&mut app, &proof(&new_key, &nonce));
    // And then it works.
    let nonce = challenge(&mut app).unwrap();
    assert!(enable(&mut app, Some(&proof(&new_key, &nonce))).unwrap());
}

#[test]
fn a_wrap_that_nobody_can_open_never_becomes_the_only_one() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let key = decode(&init(&mut app).unwrap().master_key);
    // The client wraps with a damaged key, and shows what it has opened.
    let wrong = Recovery::of(&fresh());
    set_recovery(&mut app, &wrong).unwrap();
    let nonce = challenge(&mut app).unwrap();
    let opened = open(&key_of_code(&wrong.code), &decode(&wrong.iv), &decode(&wrong.wrapped_mk)).unwrap();
    expect_vault_error(enable(&mut app, Some(&proof(&opened, &nonce))), "42501");
    assert_eq!(decode(&fetch(&mut app).unwrap().master_key), key);
    // The application cannot switch the demand off.
    expect_error(app.batch_execute("SET vault_ext.require_recovery_proof = off"), "42501");
    expect_error(app.batch_execute("SET LOCAL vault_ext.require_recovery_proof = off"), "42501");
    assert_eq!(db.value::<String>("SHOW vault_ext.require_recovery_proof"), "on");
}

#[test]
fn a_challenge_outlives_its_transaction_and_a_used_one_stays_used() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let (key, _) = with_code(&mut app);
    for end in ["COMMIT", "ROLLBACK"] {
        app.batch_execute("BEGIN").unwrap();
        let nonce = challenge(&mut app).unwrap();
        app.batch_execute(&format!("{end}; BEGIN")).unwrap();
        assert!(enable(&mut app, Some(&proof(&key, &nonce))).unwrap(), "{end}");
        app.batch_execute("ROLLBACK").unwrap();
        expect_vault_error(enable(&mut app, Some(&proof(&key, &nonce))), "42501");
    }
    // In one transaction, for clients of poolers.
    app.batch_execute("BEGIN").unwrap();
    let nonce = challenge(&mut app).unwrap();
    assert!(enable(&mut app, Some(&proof(&key, &nonce))).unwrap());
    app.batch_execute("COMMIT").unwrap();
    assert_eq!(parts(&db, "alice"), "recovery zk check");
}

#[test]
fn many_users_of_one_session_have_their_challenges() {
    let db = shared_db();
    let mut app = db.app();
    let mut asked = Vec::new();
    for number in 0..16 {
        let user = format!("user-{number}");
        set_user(&mut app, &user);
        let (key, _) = with_code(&mut app);
        asked.push((user, key, challenge(&mut app).unwrap()));
    }
    for (user, key, nonce) in &asked {
        set_user(&mut app, user);
        assert!(enable(&mut app, Some(&proof(key, nonce))).unwrap(), "{user}");
    }
}

// Transactions, statements, sessions ----------------------------------------------------------------------------------

#[test]
fn a_rollback_leaves_the_old_state_and_a_second_row() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let (key, _) = with_code(&mut app);
    let rolled_back = |client: &mut Client, state: &str, what: &str, change: &dyn Fn(&mut Client)| {
        for (begin, end) in [("BEGIN", "ROLLBACK"), ("BEGIN; SAVEPOINT a", "ROLLBACK TO SAVEPOINT a; COMMIT")] {
            let (row, before) = (db.vault_row("alice"), trail_of(&db, "alice").len());
            client.batch_execute(begin).unwrap();
            change(client);
            assert_eq!(parts(&db, "alice"), state, "{what} is not committed");
            client.batch_execute(end).unwrap();
            assert_eq!(db.vault_row("alice"), row, "{what}");
            let expected = [format!("{what} 200"), format!("{what} 409 rolled-back")];
            eventually(Duration::from_secs(20), what, || trail_of(&db, "alice").len() >= before + 2);
            assert_eq!(trail_of(&db, "alice").split_off(before), expected);
        }
    };
    rolled_back(&mut app, "wrap recovery", "recovery_set", &|app| set_recovery(app, &Recovery::of(&key)).unwrap());
    rolled_back(&mut app, "wrap recovery", "recovery_clear", &|app| assert!(clear_recovery(app).unwrap()));
    rolled_back(&mut app, "wrap recovery", "zk_enable", &|app| {
        let nonce = challenge(app).unwrap();
        assert!(enable(app, Some(&proof(&key, &nonce))).unwrap());
        assert!(app.query_one("SELECT zero_knowledge FROM vault_status()", &[]).unwrap().get::<_, bool>(0));
    });
    assert_eq!(decode(&fetch(&mut app).unwrap().master_key), key);
    let nonce = challenge(&mut app).unwrap();
    enable(&mut app, Some(&proof(&key, &nonce))).unwrap();
    rolled_back(&mut app, "recovery zk check", "zk_disable", &|app| assert!(disable(app, &key).unwrap()));
    assert_eq!(blob(&mut app, "vault_get_master_key").0, None);
    // The trail could not tell how a prepared transaction ends.
    app.batch_execute("BEGIN").unwrap();
    disable(&mut app, &key).unwrap();
    expect_vault_error(app.batch_execute("PREPARE TRANSACTION 'zk'"), "0A000");
    assert_eq!(parts(&db, "alice"), "recovery zk check");
}

#[test]
fn a_statement_sees_its_own_changes() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let (key, _) = with_code(&mut app);
    // A rotation beside another change is still one, and clears the wrap that was set for the old key.
    let new = Recovery::of(&key);
    let sql = "SELECT vault_get_master_key(), vault_set_recovery($1, $2), (vault_rotate(true)).key_version";
    let row = app.query_one(sql, &[&new.wrapped_mk, &new.iv]).unwrap();
    assert_eq!(row.get::<_, i32>(2), 2);
    assert_eq!(parts(&db, "alice"), "wrap");
    let key = decode(&fetch(&mut app).unwrap().master_key);
    set_recovery(&mut app, &Recovery::of(&key)).unwrap();
    // Enabling ends what the statement has read before.
    let nonce = challenge(&mut app).unwrap();
    let sql = "SELECT (vault_get_master_key()).master_key, vault_enable_zero_knowledge($1), (vault_get_master_key()).master_key,
        (vault_status()).zero_knowledge";
    let row = app.query_one(sql, &[&proof(&key, &nonce)]).unwrap();
    assert_eq!(row.get::<_, Option<String>>(0), Some(base64(&key)));
    assert_eq!(row.get::<_, Option<String>>(2), None);
    assert!(row.get::<_, bool>(3));
    // What leaves the mode and rotates in one statement rotates.
    let sql = "SELECT vault_disable_zero_knowledge($1), (vault_rotate(true)).key_version";
    assert_eq!(app.query_one(sql, &[&base64(&key)]).unwrap().get::<_, i32>(1), 3);
    // A statement that has rotated and then given the key away has none to give a second time.
    let key = decode(&fetch(&mut app).unwrap().master_key);
    require_proof(&db, false);
    let mut app = db.app_for("alice");
    let other = Recovery::of(&key);
    let sql = "SELECT (vault_rotate(true)).key_version, vault_set_recovery($1, $2), vault_enable_zero_knowledge(), vault_rotate()";
    expect_vault_error(app.query_one(sql, &[&other.wrapped_mk, &other.iv]), "55000");
    wait_until_last(&db, "alice", "rolled-back");
    assert_eq!(decode(&fetch(&mut app).unwrap().master_key), key);
}

fn wait_until_last(db: &Db, user: &str, context: &str) {
    let last = || trail_of(db, user).last().is_some_and(|row| row.ends_with(context));
    eventually(Duration::from_secs(20), context, last);
}

#[test]
fn two_sessions_take_turns() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let (key, recovery) = with_code(&mut app);
    let waits = || {
        let waiting: i64 = db.value(&format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND wait_event_type = 'Lock'",
            db.name
        ));
        waiting > 0
    };
    let waits = || eventually(Duration::from_secs(20), "the other session waits", waits);
    // A rotation that began while another session enabled the mode finds it enabled.
    app.batch_execute("BEGIN").unwrap();
    let nonce = challenge(&mut app).unwrap();
    enable(&mut app, Some(&proof(&key, &nonce))).unwrap();
    std::thread::scope(|scope| {
        let mut other = db.app_for("alice");
        let rotation = scope.spawn(move || rotate(&mut other));
        waits();
        app.batch_execute("COMMIT").unwrap();
        expect_vault_error(rotation.join().unwrap(), "55000");
    });
    disable(&mut app, &key).unwrap();
    // And the other way round: a rotation has cleared the wrap that was to become the only one.
    let mut other = db.app_for("alice");
    let nonce = challenge(&mut other).unwrap();
    app.batch_execute("BEGIN").unwrap();
    app.execute("SELECT vault_rotate(destroy_old => true)", &[]).unwrap();
    std::thread::scope(|scope| {
        let proof = proof(&key, &nonce);
        let enabling = scope.spawn(move || enable(&mut other, Some(&proof)));
        waits();
        app.batch_execute("COMMIT").unwrap();
        expect_vault_error(enabling.join().unwrap(), "55000");
    });
    assert_eq!(parts(&db, "alice"), "wrap");
    // Two that disable: the first does it, the second finds it done.
    set_recovery(&mut app, &recovery).unwrap();
    let key = decode(&fetch(&mut app).unwrap().master_key);
    let nonce = challenge(&mut app).unwrap();
    enable(&mut app, Some(&proof(&key, &nonce))).unwrap();
    app.batch_execute("BEGIN").unwrap();
    assert!(disable(&mut app, &key).unwrap());
    std::thread::scope(|scope| {
        let mut other = db.app_for("alice");
        let key = &key;
        let disabling = scope.spawn(move || disable(&mut other, key));
        waits();
        app.batch_execute("COMMIT").unwrap();
        assert!(!disabling.join().unwrap().unwrap());
    });
    assert_eq!(decode(&fetch(&mut app).unwrap().master_key), key);
}

// Others --------------------------------------------------------------------------------------------------------------

#[test]
fn nobody_else_gets_a_key_that_the_server_does_not_have() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    init(&mut app).unwrap();
    app.execute("SELECT vault_grant(NULL, 'wire_service', '1 day', 'report', 1)", &[]).unwrap();
    let (key, _) = with_zero_knowledge(&mut app);
    let mut service = db.conn("wire_service");
    let of = "SELECT master_key, recovery_wrapped_mk FROM vault_get_master_key_of('alice')";
    let refusal = expect_vault_error(service.query_one(of, &[]), "55000");
    assert!(refusal.message.contains("zero-knowledge"), "{refusal:?}");
    assert_eq!(trail_of(&db, "alice").last().unwrap(), "failed_fetch 409 zk-active");
    expect_vault_error(app.query_one("SELECT vault_get_key_version(1)", &[]), "55000");
    assert_eq!(trail_of(&db, "alice").last().unwrap(), "failed_fetch 409 zk-active");
    // A refused use of the grant is none.
    disable(&mut app, &key).unwrap();
    assert_eq!(service.query_one(of, &[]).unwrap().get::<_, String>(0), base64(&key));
    // Other users see and change their own code alone.
    let mut bob = db.app_for("bob");
    expect_vault_error(clear_recovery(&mut bob), "P0002");
    expect_vault_error(disable(&mut bob, &key), "P0002");
    assert_eq!(parts(&db, "alice"), "wrap recovery");
    expect_vault_error(clear_recovery(&mut db.app()), "28000");
    expect_vault_error(challenge(&mut db.app()), "28000");
}

#[test]
fn an_administrator_s_calls_leave_a_zero_knowledge_vault_as_it_is() {
    let cluster = cluster(&[("k1", 1)]);
    let db = cluster.database("d");
    let mut app = db.app_for("alice");
    init(&mut db.app_for("bob")).unwrap();
    let (key, _) = with_zero_knowledge(&mut app);
    let row = db.vault_row("alice");
    let mut admin = db.conn("wire_admin");
    switch(&db, &[("k2", 2), ("k1", 1)]).unwrap();
    let k1 = || kek_status(&db).into_iter().find(|kek| kek.0 == "k1").map(|kek| (kek.4, kek.6)).unwrap();
    assert_eq!(k1(), (1, false), "bob needs it, and alice does not");
    expect_vault_error(admin.query_one("SELECT vault_retire_kek('k1')", &[]), "55000");
    assert_eq!(rewrap(&db, 1000).unwrap(), (1, 0, 0));
    assert_eq!(k1(), (0, true), "nothing of alice needs a KEK");
    let checked: Vec<(String, String, i64)> = admin
        .query("SELECT kek_id, outcome, vaults FROM vault_check()", &[])
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect();
    assert_eq!(checked, [("k2".to_owned(), "opens".to_owned(), 1)], "bob's alone");
    switch(&db, &[("k2", 2)]).unwrap();
    assert!(admin.query_one("SELECT vault_retire_kek('k1')", &[]).unwrap().get::<_, bool>(0));
    assert_eq!(db.vault_row("alice"), row);
    assert_eq!(blob(&mut app, "vault_get_master_key").0, None, "it is read without a KEK");
    // A new name, and the key comes back under the active KEK.
    admin.execute("SELECT vault_rename_user('alice', 'alina')", &[]).unwrap();
    assert_eq!((parts(&db, "alina").as_str(), parts(&db, "alice").as_str()), ("recovery zk check", "none"));
    let mut app = db.app_for("alina");
    expect_vault_error(disable(&mut app, &kek(2)), "42501");
    assert!(disable(&mut app, &key).unwrap());
    let back = fetch(&mut app).unwrap();
    assert_eq!((decode(&back.master_key), back.format_version), (key.clone(), 2));
    assert_eq!((back.kek_id.as_str(), back.key_version), ("k2", 1));
    let nonce = challenge(&mut app).unwrap();
    enable(&mut app, Some(&proof(&key, &nonce))).unwrap();
    assert!(admin.query_one("SELECT vault_erase('alina')", &[]).unwrap().get::<_, bool>(0));
    expect_vault_error(fetch(&mut app), "P0002");
}

#[test]
fn a_vault_of_the_predecessor_s_in_the_mode_moves_in_with_its_code() {
    let db = shared_db();
    let mut app = db.app();
    let key = make(&db, &mut app, "moved", "alice");
    let (_, required, wrapped_mk, iv, format_version, _) = blob(&mut app, "vault_init");
    assert!(required);
    assert_eq!(format_version, 1);
    let code = code_of(&(0..32).collect::<Vec<_>>());
    assert_eq!(open(&key_of_code(&code), &decode(&iv.unwrap()), &decode(&wrapped_mk.unwrap())).unwrap(), key);
    let refusal = expect_vault_error(disable(&mut app, &key), "55000");
    assert!(refusal.hint.unwrap().contains("vault_ext.require_recovery_proof"), "the way out");
    require_proof(&db, false);
    let mut app = db.app_for("alice");
    assert!(disable(&mut app, &key).unwrap());
    assert_eq!(decode(&fetch(&mut app).unwrap().master_key), key);
    // From now on there is a check value.
    require_proof(&db, true);
    let mut app = db.app_for("alice");
    let nonce = challenge(&mut app).unwrap();
    assert!(enable(&mut app, Some(&proof(&key, &nonce))).unwrap());
    expect_vault_error(disable(&mut app, &fresh()), "42501");
    assert!(disable(&mut app, &key).unwrap());
}

#[test]
fn a_key_that_the_predecessor_wrapped_goes_into_the_mode_and_comes_back_in_format_2() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    db.superuser()
        .execute(
            "INSERT INTO vault_ext.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id)
                VALUES ('alice', $1, $2, 1, 'env-v1')",
            &[&VECTOR_WRAPPED_MK, &VECTOR_IV],
        )
        .unwrap();
    let sql = "SELECT vault_set_recovery($1, $2)";
    app.execute(sql, &[&VECTOR_WRAP, &VECTOR_IV]).unwrap();
    let nonce = challenge(&mut app).unwrap();
    assert!(enable(&mut app, Some(&proof(&vector_key(), &nonce))).unwrap());
    assert_eq!(db.value::<String>("SELECT key_check FROM vault_ext.encryption_vaults"), VECTOR_CHECK);
    assert!(disable(&mut app, &vector_key()).unwrap());
    let back = fetch(&mut app).unwrap();
    assert_eq!((decode(&back.master_key), back.format_version), (vector_key(), 2));
    assert_eq!((back.kek_id.as_str(), back.key_version), ("wire-1", 1));
}

#[test]
fn old_versions_stand_in_the_way_until_they_are_destroyed() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    init(&mut app).unwrap();
    let key = decode(&rotate(&mut app).unwrap().master_key);
    set_recovery(&mut app, &Recovery::of(&key)).unwrap();
    for state in [
        "state = 'decrypt_only', destroy_after = NULL",
        "state = 'disabled', destroy_after = NULL",
        "state = 'destroy_scheduled', destroy_after = now() + interval '9 days'",
        // Its time has come, and its wrap is still there.
        "state = 'destroy_scheduled', destroy_after = now() - interval '9 days'",
    ] {
        db.force(&format!("UPDATE vault_ext.old_keys SET {state}"));
        let nonce = challenge(&mut app).unwrap();
        let refusal = expect_vault_error(enable(&mut app, Some(&proof(&key, &nonce))), "55000");
        assert!(refusal.hint.unwrap().contains("vault_retire_key_version"), "{state}");
    }
    db.force(
        "UPDATE vault_ext.old_keys SET state = 'destroyed', wrapped_mk = NULL, wrap_iv = NULL, destroyed_at = now()",
    );
    let nonce = challenge(&mut app).unwrap();
    assert!(enable(&mut app, Some(&proof(&key, &nonce))).unwrap());
}

#[test]
fn tokens_are_asked_for_a_scope_and_revoked_ones_refused() {
    let (db, keys) = token_db();
    let mut app = db.app();
    let login = |client: &mut Client, scope: &str| {
        let mut claims = claims("alice");
        claims["scope"] = json!(scope);
        client.batch_execute("BEGIN").unwrap();
        client.query_one("SELECT vault_login($1)", &[&keys[0].token(&claims)]).unwrap();
    };
    login(&mut app, "");
    let key = decode(&init(&mut app).unwrap().master_key);
    app.batch_execute("COMMIT").unwrap();
    type Attempt<'a> = &'a dyn Fn(&mut Client) -> Result<(), Error>;
    let calls: [Attempt<'_>; 5] = [
        &|app| set_recovery(app, &Recovery::of(&key)),
        &|app| challenge(app).map(|_| ()),
        &|app| enable(app, None).map(|_| ()),
        &|app| disable(app, &key).map(|_| ()),
        &|app| clear_recovery(app).map(|_| ()),
    ];
    for call in calls {
        login(&mut app, "vault.rotate vault.read");
        let refusal = expect_vault_error(call(&mut app), "42501");
        assert!(refusal.message.contains("vault.recovery"), "{refusal:?}");
        app.batch_execute("ROLLBACK").unwrap();
    }
    assert_eq!(db.audit_where("context = 'token-scope'").len(), 4, "a challenge is not audited");
    login(&mut app, "vault.recovery");
    set_recovery(&mut app, &Recovery::of(&key)).unwrap();
    let nonce = challenge(&mut app).unwrap();
    app.batch_execute("COMMIT").unwrap();
    login(&mut app, "vault.recovery");
    db.conn("wire_admin").execute("SELECT vault_revoke_tokens('u-alice', now() + interval '9 s')", &[]).unwrap();
    expect_vault_error(enable(&mut app, Some(&proof(&key, &nonce))), "28000");
    app.batch_execute("ROLLBACK").unwrap();
    for call in [calls[0], calls[2], calls[3], calls[4]] {
        login(&mut app, "vault.recovery");
        expect_vault_error(call(&mut app), "28000");
        app.batch_execute("ROLLBACK").unwrap();
    }
    assert_eq!(parts(&db, "u-alice"), "wrap recovery");
    assert_eq!(db.audit_where("context = 'token-revoked'").len(), 5);
}

#[test]
fn the_second_row_of_a_refused_and_rolled_back_call_stays() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    with_code(&mut app);
    app.batch_execute("BEGIN").unwrap();
    expect_vault_error(enable(&mut app, None), "42501");
    app.batch_execute("ROLLBACK").unwrap();
    wait_for_trail(&db, "alice", &["init 201 created", "recovery_set 200", "zk_enable 403 recovery-not-proven"]);
}
