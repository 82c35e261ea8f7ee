//! Every state of the recovery code and of zero-knowledge mode, and every call in it: the result, the row and the trail.

use postgres::{Client, Error};

use crate::harness::{Db, decode, expect_error, expect_vault_error, init, set_user, shared_db};
use crate::recovery_client::{
    Recovery, VECTOR_IV, VECTOR_WRAP, challenge, clear_recovery, disable, enable, fresh, parts, proof, require_proof,
    set_recovery, vector_key,
};
use crate::trail::trail_of;

/// The states, and what is in the row. `old` has an old version of the key that the server can open, `gone` one that is destroyed;
/// `moved` came from the predecessor, without a check value; in the last three an erasure is scheduled.
const STATES: [(&str, &str); 10] = [
    ("none", "none"),
    ("plain", "wrap"),
    ("recovery", "wrap recovery"),
    ("old", "wrap recovery"),
    ("gone", "wrap recovery"),
    ("zk", "recovery zk check"),
    ("moved", "recovery zk"),
    ("erase", "erase"),
    ("erase-recovery", "recovery erase"),
    ("erase-zk", "recovery zk check erase"),
];

/// The calls that each state is tried with.
const CALLS: [&str; 13] = [
    "set",
    "set-bad",
    "clear",
    "challenge",
    "enable",
    "prove",
    "prove-wrong",
    "prove-short",
    "disable",
    "disable-other",
    "disable-garbage",
    "rotate",
    "fetch",
];

/// States; calls; whether a proof is required (`on`, `off`, `any`); the result or the SQLSTATE; what is in the row afterwards (`=`:
/// what was there); status and context in the trail (`-`: no row).
const TABLE: &[(&str, &str, &str, &str, &str, &str)] = &[
    ("none", "set clear enable prove prove-wrong disable disable-other", "any", "P0002", "=", "404 no-vault"),
    ("none", "challenge", "any", "P0002", "=", "-"),
    ("none", "rotate", "any", "ok", "wrap", "201 init-on-rotate"),
    ("none", "fetch", "any", "P0002", "=", "404 not-initialised"),
    // What is refused before the vault is looked at.
    (
        "none plain recovery old gone zk moved erase erase-recovery erase-zk",
        "set-bad prove-short disable-garbage",
        "any",
        "22023",
        "=",
        "400 bad-argument",
    ),
    (
        "erase erase-recovery erase-zk",
        "set clear enable prove prove-wrong disable disable-other rotate fetch",
        "any",
        "55000",
        "=",
        "409 erase-scheduled",
    ),
    ("erase erase-recovery erase-zk", "challenge", "any", "55000", "=", "-"),
    // The code.
    ("plain recovery old gone", "set", "any", "ok", "wrap recovery", "200"),
    ("zk moved", "set", "on", "55000", "=", "409 zk-active"),
    ("zk moved", "set", "off", "ok", "=", "200"),
    ("plain", "clear", "any", "f", "=", "200"),
    ("recovery old gone", "clear", "any", "t", "wrap", "200"),
    ("zk moved", "clear", "any", "55000", "=", "409 zk-active"),
    ("plain", "challenge", "any", "55000", "=", "-"),
    ("recovery old gone zk moved", "challenge", "any", "ok", "=", "-"),
    // Into the mode.
    ("plain", "enable prove prove-wrong", "any", "55000", "=", "400 no-recovery-wrap"),
    ("old", "enable prove prove-wrong", "any", "55000", "=", "409 old-versions"),
    ("recovery gone", "enable", "on", "42501", "=", "403 recovery-not-proven"),
    ("recovery gone", "enable", "off", "t", "recovery zk check", "200"),
    ("recovery gone", "prove", "any", "t", "recovery zk check", "200"),
    ("recovery gone", "prove-wrong", "any", "42501", "=", "403 recovery-not-proven"),
    ("zk moved", "enable prove prove-wrong", "any", "f", "=", "200 already-enabled"),
    // Out of it.
    ("plain recovery old gone", "disable disable-other", "any", "f", "=", "200 already-disabled"),
    ("zk", "disable", "any", "t", "wrap recovery", "200"),
    ("zk", "disable-other", "any", "42501", "=", "403 key-differs"),
    ("moved", "disable disable-other", "on", "55000", "=", "409 no-key-check"),
    ("moved", "disable disable-other", "off", "t", "wrap recovery", "200"),
    // The key itself.
    ("plain recovery old gone", "rotate", "any", "ok", "wrap", "200"),
    ("plain recovery old gone", "fetch", "any", "ok", "=", "200"),
    ("zk moved", "rotate", "any", "55000", "=", "409 zk-rotate-forbidden"),
    ("zk moved", "fetch", "any", "ok", "=", "200 zk-recovery-blob"),
];

/// Makes a user in that state, of the client, and gives the key.
pub fn make(db: &Db, client: &mut Client, state: &str, user: &str) -> Vec<u8> {
    set_user(client, user);
    let force = |sql: &str| {
        assert_eq!(db.superuser().execute(sql, &[&user]).unwrap(), 1, "{sql}");
    };
    match state {
        "none" => return fresh().to_vec(),
        "moved" => {
            let sql = "INSERT INTO vault_ext.encryption_vaults
                    (user_id, format_version, kek_id, recovery_wrapped_mk, recovery_iv, recovery_set_at, zero_knowledge)
                VALUES ($1, 1, 'env-v1', $2, $3, now(), true)";
            db.superuser().execute(sql, &[&user, &VECTOR_WRAP, &VECTOR_IV]).unwrap();
            return vector_key();
        }
        _ => {}
    }
    let mut key = decode(&init(client).unwrap().master_key);
    if matches!(state, "old" | "gone") {
        let sql = format!("SELECT master_key FROM vault_rotate(destroy_old => {})", state == "gone");
        key = decode(&client.query_one(&sql, &[]).unwrap().get::<_, String>(0));
    }
    if !matches!(state, "plain" | "erase") {
        set_recovery(client, &Recovery::of(&key)).unwrap();
    }
    if matches!(state, "zk" | "erase-zk") {
        let nonce = challenge(client).unwrap();
        assert!(enable(client, Some(&proof(&key, &nonce))).unwrap());
    }
    if state.starts_with("erase") {
        force(
            "UPDATE vault_ext.encryption_vaults SET wrapped_mk = NULL, wrap_iv = NULL, erase_after = now() + interval '9 days'
                WHERE user_id = $1",
        );
    }
    key
}

/// Makes a call and gives its result as a word.
fn make_call(client: &mut Client, call: &str, key: &[u8]) -> Result<String, Error> {
    let word = |done: bool| if done { "t" } else { "f" }.to_owned();
    let ok = || "ok".to_owned();
    match call {
        "set" => set_recovery(client, &Recovery::of(key)).map(|()| ok()),
        "set-bad" => client.execute("SELECT vault_set_recovery('x', 'y')", &[]).map(|_| ok()),
        "clear" => clear_recovery(client).map(word),
        "challenge" => challenge(client).map(|_| ok()),
        "enable" => client.query_one("SELECT vault_enable_zero_knowledge()", &[]).map(|row| word(row.get(0))),
        "prove" | "prove-wrong" => {
            // Where there is no challenge, any 32 bytes are as wrong as others.
            let nonce = challenge(client).unwrap_or(vec![0; 32]);
            let other = fresh();
            let key = if call == "prove" { key } else { &other };
            enable(client, Some(&proof(key, &nonce))).map(word)
        }
        "prove-short" => enable(client, Some(&[1; 31])).map(word),
        "disable" => disable(client, key).map(word),
        "disable-other" => disable(client, &fresh()).map(word),
        "disable-garbage" => disable(client, &key[1..]).map(word),
        "rotate" => client.execute("SELECT vault_rotate()", &[]).map(|_| ok()),
        "fetch" => client.execute("SELECT vault_get_master_key()", &[]).map(|_| ok()),
        other => panic!("no call {other}"),
    }
}

fn action_of(call: &str, context: &str, failed: bool) -> &'static str {
    match call.split('-').next().expect("a word") {
        "set" => "recovery_set",
        "clear" => "recovery_clear",
        "enable" | "prove" => "zk_enable",
        "disable" => "zk_disable",
        "rotate" if failed && context != "409 zk-rotate-forbidden" => "failed_rotate",
        "rotate" => "rotate",
        "fetch" if failed => "failed_fetch",
        "fetch" => "fetch",
        other => panic!("no action for {other}"),
    }
}

fn words<'a>(list: &'a str) -> impl Iterator<Item = &'a str> + 'a {
    list.split(' ')
}

#[test]
fn every_call_in_every_state() {
    let db = shared_db();
    for required in ["on", "off"] {
        require_proof(&db, required == "on");
        let mut app = db.app();
        for (state, before) in STATES {
            for call in CALLS {
                let mut lines = TABLE.iter().filter(|(states, calls, when, ..)| {
                    words(states).any(|word| word == state)
                        && words(calls).any(|word| word == call)
                        && (*when == required || *when == "any")
                });
                let (Some(line), None) = (lines.next(), lines.next()) else {
                    panic!("{call} in {state} with proof {required} must have one line in the table")
                };
                let (_, _, _, result, after, trail) = *line;
                let what = format!("{call} in {state} with proof {required}");
                let user = what.replace(' ', "_");
                let key = make(&db, &mut app, state, &user);
                assert_eq!(parts(&db, &user), before, "{what}: before");
                let (row, rows) = (db.vault_row(&user), trail_of(&db, &user).len());
                let got = make_call(&mut app, call, &key);
                let is_error = result.len() == 5;
                match got {
                    Err(error) if is_error => drop(expect_vault_error::<()>(Err(error), result)),
                    other => assert_eq!(other.unwrap_or_else(|error| format!("{error:?}")), result, "{what}"),
                }
                assert_eq!(parts(&db, &user), if after == "=" { before } else { after }, "{what}: after");
                if is_error {
                    assert_eq!(db.vault_row(&user), row, "{what}: the row has changed");
                }
                let more = trail_of(&db, &user).split_off(rows);
                match trail {
                    "-" => assert!(more.is_empty(), "{what}: {more:?}"),
                    _ => assert_eq!(more, [format!("{} {trail}", action_of(call, trail, is_error))], "{what}"),
                }
            }
        }
    }
}

#[test]
fn rows_that_would_lose_a_key_or_half_of_it_are_impossible() {
    let db = shared_db();
    let (wrap, recovery) = ("wrapped_mk = repeat('A', 64), wrap_iv = repeat('A', 32)", "recovery_wrapped_mk = 'x'");
    let none = "wrapped_mk = NULL, wrap_iv = NULL";
    let no_recovery = "recovery_wrapped_mk = NULL, recovery_iv = NULL, recovery_set_at = NULL";
    let whole = "recovery_wrapped_mk = 'x', recovery_iv = 'x', recovery_set_at = now()";
    init(&mut db.app_for("alice")).unwrap();
    let mut superuser = db.superuser();
    let mut update = |columns: &[&str]| {
        superuser.batch_execute("BEGIN").unwrap();
        let result = superuser.execute(&format!("UPDATE vault_ext.encryption_vaults SET {}", columns.join(", ")), &[]);
        superuser.batch_execute("ROLLBACK").unwrap();
        result
    };
    for good in [
        &[wrap, no_recovery, "zero_knowledge = false"][..],
        &[wrap, whole, "zero_knowledge = false"],
        &[none, whole, "zero_knowledge = true"],
        &[none, whole, "zero_knowledge = true", "key_check = repeat('0', 32)"],
    ] {
        assert_eq!(update(good).unwrap(), 1, "{good:?}");
    }
    for bad in [
        &[none, no_recovery, "zero_knowledge = false"][..],
        &[none, whole, "zero_knowledge = false"],
        &[none, no_recovery, "zero_knowledge = true"],
        &[wrap, whole, "zero_knowledge = true"],
        &[wrap, no_recovery, "zero_knowledge = true"],
        &["wrapped_mk = NULL"],
        &["wrap_iv = NULL"],
        &[recovery],
        &[recovery, "recovery_iv = 'x'"],
        &["recovery_iv = 'x'", "recovery_set_at = now()"],
        &[none, whole, "zero_knowledge = true", "key_check = repeat('A', 32)"],
    ] {
        expect_error(update(bad), "23514");
    }
}
