//! The text of a keyring from any source: what it may contain, and the errors about everything else.

use crate::harness::{Cluster, PREDECESSOR_KEK, base64, decode, fetch, init, kek, keyring_line, refuses_kek};

/// The first two lines of a keyring, which are fine.
const TWO_LINES: &str = "# a comment\n\n";

/// A server whose key file contains this text.
fn with_file(text: impl AsRef<[u8]>) -> Cluster {
    let mut cluster = Cluster::builder().without_fsync().prepare();
    let path = cluster.write_kek("keyring", text, 0o600);
    cluster.configure(&format!("vault_ext.kek_file = '{}'", path.display()));
    cluster
}

/// A keyring whose third line has these bytes as the key.
fn third_line(bytes: &[u8]) -> String {
    format!("{TWO_LINES}third {}\n", base64(bytes))
}

#[track_caller]
fn expect_refused(cause: &'static str, text: impl AsRef<[u8]>, words: &[&str], secret: &[u8]) {
    refuses_kek(cause, with_file(text), words, &[secret.to_vec()]);
}

#[test]
fn an_empty_file_is_refused() {
    expect_refused("empty", "", &["empty|no kek"], &kek(40));
}

#[test]
fn a_file_of_comments_and_blank_lines_counts_as_empty() {
    expect_refused("empty", "# nothing\n\n   \n", &["empty|no kek"], &kek(40));
}

#[test]
fn a_huge_file_is_refused() {
    let mut text = "# filler\n".repeat(300_000);
    text.push_str(&keyring_line("a", &kek(41)));
    expect_refused("too large", text, &["too large|larger than|at most|more than"], &kek(41));
}

#[test]
fn a_key_of_31_bytes_is_refused() {
    expect_refused("wrong length", third_line(&kek(42)[..31]), &["line 3", "32"], &kek(42)[..31]);
}

#[test]
fn a_key_of_33_bytes_is_refused() {
    let key = [&kek(43)[..], b"!"].concat();
    expect_refused("wrong length", third_line(&key), &["line 3", "32"], &key);
}

#[test]
fn a_key_of_16_bytes_is_refused() {
    expect_refused("wrong length", third_line(&kek(44)[..16]), &["line 3", "32"], &kek(44)[..16]);
}

#[test]
fn a_bare_key_of_the_wrong_length_is_refused_too() {
    let text = base64(&kek(45)[..24]);
    expect_refused("wrong length of a bare key", text, &["line 1", "32"], &kek(45)[..24]);
}

#[test]
fn text_that_is_not_base64_is_refused() {
    let text = base64(&kek(46)).replacen(|c: char| c.is_ascii_lowercase(), "*", 3);
    expect_refused("bad base64", format!("{TWO_LINES}third {text}\n"), &["line 3", "base64"], &kek(46));
}

#[test]
fn padding_in_the_middle_is_refused() {
    let mut text = base64(&kek(47));
    text.replace_range(20..21, "=");
    expect_refused("bad base64", format!("{TWO_LINES}third {text}\n"), &["line 3", "base64"], &kek(47));
}

#[test]
fn the_url_safe_alphabet_is_refused_by_name() {
    let seed = (0..).find(|seed| base64(&kek(1000 + seed)).contains('/')).map(|seed| 1000 + seed);
    let key = kek(seed.expect("some key has a slash"));
    let text = base64(&key).replace('/', "_").replace('+', "-");
    expect_refused("wrong alphabet", format!("{TWO_LINES}third {text}\n"), &["line 3", "alphabet|url"], &key);
}

#[test]
fn hexadecimal_is_refused() {
    let hex: String = kek(48).iter().map(|b| format!("{b:02x}")).collect();
    // 64 hex digits are base64 of 48 bytes.
    expect_refused("wrong length", format!("{TWO_LINES}third {hex}\n"), &["line 3", "32"], &kek(48));
}

#[test]
fn a_duplicate_id_is_refused() {
    let text = [keyring_line("a", &kek(49)), keyring_line("b", &kek(50)), keyring_line("a", &kek(51))];
    expect_refused("duplicate id", text.concat(), &["line 3", "duplicate|twice|already|repeats"], &kek(51));
}

#[test]
fn an_all_zero_key_is_refused() {
    refuses_kek("all zero", with_file(third_line(&[0; 32])), &["zero"], &[]);
}

#[test]
fn an_all_zero_key_behind_a_good_one_is_refused() {
    let text = keyring_line("a", &kek(52)) + &third_line(&[0; 32]);
    expect_refused("all zero behind another", text, &["line 4", "zero"], &kek(52));
}

#[test]
fn an_id_with_non_ascii_characters_is_refused() {
    let text = TWO_LINES.to_owned() + &keyring_line("ke\u{fc}", &kek(53));
    expect_refused("bad id", text, &["line 3", "ascii"], &kek(53));
}

#[test]
fn an_id_of_65_characters_is_refused() {
    let text = TWO_LINES.to_owned() + &keyring_line(&"k".repeat(65), &kek(54));
    expect_refused("long id", text, &["line 3", "id", "64"], &kek(54));
}

#[test]
fn a_key_before_its_id_is_refused_and_not_shown() {
    // The most common mistake puts the key in the place of the id. An error that quotes ids would print it.
    let text = format!("{} mine\n", base64(&kek(55)).replace('=', ""));
    expect_refused("swapped", text, &["line 1"], &kek(55));
}

#[test]
fn a_third_word_on_a_line_is_refused() {
    let text = format!("{TWO_LINES}third {} more\n", base64(&kek(56)));
    expect_refused("third word", text, &["line 3"], &kek(56));
}

#[test]
fn two_bare_keys_are_refused() {
    let text = format!("{}\n{}\n", base64(&kek(57)), base64(&kek(58)));
    expect_refused("two bare lines", text, &["line 1", "single key"], &kek(57));
}

#[test]
fn a_file_that_is_not_text_is_refused() {
    expect_refused("not text", kek(59), &["text|utf-8|ascii"], &kek(59));
}

/// Starts the server and returns the id of the KEK that wraps a new key.
fn start_and_mint(cluster: &mut Cluster) -> String {
    cluster.start();
    let db = cluster.database("d");
    let key = init(&mut db.app_for("alice")).unwrap();
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap(), key);
    assert_eq!(decode(&key.master_key).len(), 32);
    key.kek_id
}

#[test]
fn a_bare_key_is_a_keyring_of_one_kek_named_env_v1() {
    for text in [
        format!("{}\n", base64(&kek(60))),
        base64(&kek(60)),
        base64(&kek(60)).trim_end_matches('=').to_owned(),
        format!("{TWO_LINES}{}\n\n# end", base64(&kek(60))),
    ] {
        assert_eq!(start_and_mint(&mut with_file(&text)), "env-v1", "{text:?}");
    }
}

#[test]
fn the_id_of_a_bare_key_can_be_set() {
    let mut cluster = with_file(base64(&kek(61)));
    cluster.configure("vault_ext.kek_id = 'prod:2025-11/a_b.c-d'");
    assert_eq!(start_and_mint(&mut cluster), "prod:2025-11/a_b.c-d");
}

#[test]
fn a_bad_id_for_a_bare_key_is_refused() {
    for (cause, id) in [("bad kek_id", "two words"), ("empty kek_id", "")] {
        let mut cluster = with_file(base64(&kek(62)));
        cluster.configure(&format!("vault_ext.kek_id = '{id}'"));
        refuses_kek(cause, cluster, &["kek_id|id"], &[kek(62).to_vec()]);
    }
}

#[test]
fn the_first_key_of_a_keyring_is_active_and_the_others_open() {
    let (old, new) = (keyring_line("old", &kek(63)), keyring_line("new", &kek(64)));
    let mut cluster = with_file(format!("{TWO_LINES}{old}{new}"));
    assert_eq!(start_and_mint(&mut cluster), "old");
    cluster.write_kek("keyring", format!("{new}\n# kept for old rows\n{old}"), 0o600);
    cluster.restart();
    let db = cluster.existing_database("d");
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap().kek_id, "old");
    assert_eq!(init(&mut db.app_for("bob")).unwrap().kek_id, "new");
}

#[test]
fn blanks_and_tabs_around_the_words_do_not_matter() {
    let text = format!("  spaced \t {}  \n", base64(&PREDECESSOR_KEK));
    assert_eq!(start_and_mint(&mut with_file(text)), "spaced");
}

#[test]
fn a_keyring_of_64_keys_is_accepted_and_one_of_65_is_refused() {
    let keyring = |keys| (0..keys).map(|i| keyring_line(&format!("kek-{i}"), &kek(2000 + i))).collect::<String>();
    expect_refused("too many keys", keyring(65), &["65", "64"], &kek(2000));
    let mut cluster = with_file(keyring(64));
    assert_eq!(start_and_mint(&mut cluster), "kek-0");
}
