//! The checks that every bad KEK gets: the server reports each cause in its own words, and shows no key.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

use super::calls::{fetch, init, rotate, status};
use super::{Cluster, assert_no_secrets, expect_vault_error};

/// The cause of each message, over all tests of this run.
static MESSAGES: LazyLock<Mutex<HashMap<String, &'static str>>> = LazyLock::new(Mutex::default);

/// The reason in the log, without the parts that differ between runs.
fn reason(cluster: &Cluster, log: &str) -> String {
    let line =
        log.lines().find_map(|line| line.split_once("FATAL:  ")).unwrap_or_else(|| panic!("no FATAL line:\n{log}"));
    line.1.replace(&cluster.dir().display().to_string(), "DIR")
}

/// Asserts that the server refuses to start. With `on_bad_kek = disable` it starts, and every call fails for the same
/// reason.
///
/// The message must contain each of `words`, in which `|` separates alternatives.
#[track_caller]
pub fn refuses_kek(cause: &'static str, mut cluster: Cluster, words: &[&str], secrets: &[Vec<u8>]) {
    let log = cluster.start_expect_failure();
    let message = reason(&cluster, &log);
    assert!(log.contains("HINT:  "), "{cause} has no hint:\n{log}");
    assert_words(cause, &message, words);
    assert_no_secrets(&cluster, &[], secrets);
    let other = MESSAGES.lock().unwrap_or_else(|e| e.into_inner()).insert(message.clone(), cause);
    assert!(other.is_none_or(|other| other == cause), "{cause} and {other:?} have the same message: {message}");

    cluster.configure("vault_ext.on_bad_kek = disable");
    cluster.start();
    let db = cluster.database("disabled");
    let mut app = db.app_for("alice");
    let refusals = [
        expect_vault_error(init(&mut app), "55000"),
        expect_vault_error(fetch(&mut app), "55000"),
        expect_vault_error(rotate(&mut app), "55000"),
        expect_vault_error(status(&mut app), "55000"),
    ];
    for refusal in &refusals {
        assert_words(cause, &refusal.text(), words);
    }
    assert!(cluster.log().contains("WARNING:  "), "{cause}: no warning");
    assert_eq!(db.vault_row("alice"), None);
    let statuses: Vec<_> = db.audit_of("alice").iter().map(|row| row.status).collect();
    assert_eq!(statuses, [503; 3], "{cause}");
    let texts: Vec<_> = refusals.iter().map(|refusal| refusal.text()).collect();
    assert_no_secrets(&cluster, &texts, secrets);
}

#[track_caller]
fn assert_words(cause: &str, message: &str, words: &[&str]) {
    let message = message.to_lowercase();
    for word in words {
        assert!(word.split('|').any(|word| message.contains(word)), "{cause}: {word:?} is not in: {message}");
    }
}
