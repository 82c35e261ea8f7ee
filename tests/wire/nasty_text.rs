//! Text that breaks other software, used as user ids and as client claims. It is either stored and returned exactly, or
//! refused.

use std::collections::HashSet;
use std::error::Error;

use postgres::Client;
use postgres::types::private::BytesMut;
use postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::harness::raw::{Answer, RawClient};
use crate::harness::{
    AuditRow, Cluster, Db, expect_error, expect_vault_error, fetch, init, rotate, set_user, shared_db,
};

const MEGABYTE: usize = 1 << 20;

/// Every text is within the length limits of an id and of every claim.
const NASTY: [&str; 48] = [
    " ",
    "   ",
    " leading",
    "trailing ",
    "\u{a0}",
    "\u{3000}",
    "\t",
    "\n",
    "\r\n",
    "line one\nline two",
    "\u{1}",
    "\u{1f}",
    "\u{7f}",
    "\u{85}",
    "\u{9f}",
    "\u{1b}[31mred\u{1b}[0m",
    "\u{8}\u{8}\u{8}",
    "\u{200e}",
    "\u{202e}ecila",
    "\u{2066}alice\u{2069}",
    "\u{61c}alice",
    "\u{2028}",
    "שלום",
    "مرحبا alice",
    "e\u{301}",
    "\u{e9}",
    "Z\u{351}\u{36b}\u{343}\u{36a}a\u{310}\u{302}l\u{352}\u{364}g\u{369}o\u{31a}",
    "👩‍👩‍👧‍👦",
    "🏴\u{e0067}\u{e0062}\u{e007f}",
    "\u{200b}",
    "ali\u{200d}ce",
    "\u{feff}alice",
    "\u{fffd}",
    "\u{ffff}",
    "\u{10ffff}",
    "ΑLICE",
    "ﬁ",
    "İ",
    "'",
    "\"",
    "\\",
    "$$",
    "'; DROP TABLE vault_ext.encryption_vaults; --",
    "1' OR '1'='1",
    "%s%n $1 {} {0} ${HOME} $(id)",
    r#"{"sub": "alice", "role": "postgres"}"#,
    r"\u0000 \000 E'\x00' \x616c696365",
    "null",
];

/// A text parameter with arbitrary bytes.
#[derive(Debug)]
struct Bytes<'a>(&'a [u8]);

impl ToSql for Bytes<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(self.0);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT
    }

    to_sql_checked!();
}

fn set_bytes(client: &mut Client, setting: &str, value: &[u8]) -> Result<u64, postgres::Error> {
    client.execute("SELECT set_config($1, $2, false)", &[&setting, &Bytes(value)])
}

/// The ids of all vaults.
fn vault_ids(db: &Db) -> Vec<String> {
    let rows = db.superuser().query("SELECT user_id FROM vault_ext.encryption_vaults", &[]).expect("the vaults");
    rows.iter().map(|row| row.get(0)).collect()
}

/// A claim as the trail shows it: characters that could break or reorder a line are escaped.
fn escaped(claim: &str) -> String {
    let escape = |c: char| {
        let reorders =
            matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || reorders { c.escape_unicode().to_string() } else { c.to_string() }
    };
    claim.chars().map(escape).collect()
}

#[test]
fn every_text_is_a_separate_user_and_its_id_is_stored_exactly() {
    let db = shared_db();
    let longest = ["\u{1}".repeat(255), "'".repeat(255), "🔑".repeat(63) + "abc", "\u{202e}".repeat(85)];
    let users: Vec<&str> = NASTY.into_iter().chain(longest.iter().map(String::as_str)).collect();
    let mut app = db.app();
    let mut keys = HashSet::new();
    for user in &users {
        set_user(&mut app, user);
        let key = init(&mut app).unwrap();
        assert!(keys.insert(key.master_key.clone()), "{user:?} has another user's key");
        assert_eq!(fetch(&mut app).unwrap(), key, "{user:?}");
        let own: i64 = app.query_one("SELECT count(*) FROM vault_ext.own_audit", &[]).unwrap().get(0);
        assert_eq!(own, 2, "{user:?}");
    }
    let expected: HashSet<String> = users.iter().map(|user| (*user).to_owned()).collect();
    assert_eq!(expected.len(), users.len());
    let stored = vault_ids(&db);
    assert_eq!((stored.len(), stored.into_iter().collect::<HashSet<_>>()), (users.len(), expected.clone()));

    let mut admin = db.conn("wire_admin");
    for user in &users {
        assert!(admin.query_one("SELECT vault_erase($1)", &[user]).unwrap().get::<_, bool>(0), "{user:?}");
    }
    assert_eq!(vault_ids(&db), [""; 0]);
    let rows = db.audit();
    assert_eq!(rows.len(), 3 * users.len());
    assert_eq!(rows.into_iter().filter_map(|row| row.user_id).collect::<HashSet<_>>(), expected);
}

#[test]
fn claims_are_stored_exactly_with_unsafe_characters_escaped() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let check = |row: &AuditRow, claim: &str| {
        assert_eq!(row.user_agent, Some(escaped(claim)), "{claim:?}");
        assert_eq!(row.request_id, Some(escaped(claim)), "{claim:?}");
    };
    for claim in NASTY {
        for setting in ["app.user_agent", "app.request_id"] {
            set_bytes(&mut app, setting, claim.as_bytes()).unwrap();
        }
        init(&mut app).unwrap();
    }
    app.batch_execute("RESET app.user_agent; RESET app.request_id").unwrap();
    for claim in NASTY {
        let headers = serde_json::json!({"user-agent": claim, "x-request-id": claim}).to_string();
        set_bytes(&mut app, "request.headers", headers.as_bytes()).unwrap();
        init(&mut app).unwrap();
    }
    let rows = db.audit_of("alice");
    assert_eq!(rows.len(), 2 * NASTY.len());
    let (of_settings, of_headers) = rows.split_at(NASTY.len());
    for (claim, row) in NASTY.iter().zip(of_settings) {
        check(row, claim);
    }
    for (claim, row) in NASTY.iter().zip(of_headers) {
        // Blanks around a header's value are ignored.
        match claim.trim() {
            "" => assert_eq!((&row.user_agent, &row.request_id), (&None, &None), "{claim:?}"),
            trimmed => check(row, trimmed),
        }
    }
}

#[test]
fn a_megabyte_is_refused_as_an_id_and_cut_as_a_claim() {
    let db = shared_db();
    let long = "é".repeat(MEGABYTE / 2);
    let mut app = db.app_for(&long);
    expect_vault_error(init(&mut app), "28000");
    expect_vault_error(fetch(&mut app), "28000");
    expect_vault_error(rotate(&mut app), "28000");
    expect_vault_error(db.conn("wire_admin").execute("SELECT vault_erase($1)", &[&long]), "22023");
    let rows = db.audit();
    assert_eq!(rows.len(), 3);
    assert!(rows.iter().all(|row| row.what().1 == 401 && row.user_id.is_none()), "{rows:?}");

    set_user(&mut app, "alice");
    for setting in ["app.client_ip", "app.user_agent", "app.request_id"] {
        set_bytes(&mut app, setting, long.as_bytes()).unwrap();
    }
    init(&mut app).unwrap();
    app.batch_execute("RESET app.client_ip; RESET app.user_agent; RESET app.request_id").unwrap();
    let headers = [
        serde_json::json!({"x-forwarded-for": long, "user-agent": long, "x-request-id": long}).to_string(),
        serde_json::json!({"cookie": long, "user-agent": "curl/8", "x-request-id": "r"}).to_string(),
        "[".repeat(MEGABYTE),
        format!("{}1", r#"{"a":"#.repeat(MEGABYTE / 5)),
    ];
    for headers in &headers {
        set_bytes(&mut app, "request.headers", headers.as_bytes()).unwrap();
        fetch(&mut app).unwrap();
    }
    let rows = db.audit_of("alice");
    assert_eq!(rows.len(), 5);
    for row in &rows[..2] {
        assert_eq!(row.ip_address, Some("é".repeat(32)));
        assert_eq!(row.user_agent, Some("é".repeat(128)));
        assert_eq!(row.request_id, Some("é".repeat(64)));
    }
    assert_eq!((rows[2].user_agent.as_deref(), rows[2].request_id.as_deref()), (Some("curl/8"), Some("r")));
    for row in &rows[3..] {
        assert_eq!((&row.user_agent, &row.request_id), (&None, &None));
    }
    assert_eq!(vault_ids(&db), ["alice"]);
}

#[test]
fn the_server_refuses_bytes_that_are_not_text() {
    let db = shared_db();
    let invalid: [&[u8]; 8] =
        [b"al\0ice", b"\0", b"\xff", b"alice\x80", b"\xc0\x80", b"\xed\xa0\x80", b"\xf0\x9f\x94", b"\xf5\x80\x80\x80"];
    for encoding in ["UTF8", "SQL_ASCII"] {
        let mut app = db.app();
        app.batch_execute(&format!("SET client_encoding = {encoding}")).unwrap();
        for bytes in invalid {
            for setting in ["app.current_user_id", "app.client_ip", "app.request_id", "request.headers"] {
                expect_error(set_bytes(&mut app, setting, bytes), "22021");
            }
            let erase = db.conn("wire_admin").execute("SELECT vault_erase($1)", &[&Bytes(bytes)]);
            expect_error(erase, "22021");
        }
        expect_vault_error(init(&mut app), "28000");
    }
    assert_eq!(db.audit().len(), 2);
    assert_eq!(vault_ids(&db), [""; 0]);
}

#[test]
fn a_client_in_another_encoding_is_the_same_user() {
    let db = shared_db();
    for (encoding, bytes, user) in [
        ("LATIN1", &b"ren\xe9"[..], "ren\u{e9}"),
        ("LATIN1", b"\xc3\xa9", "\u{c3}\u{a9}"),
        ("LATIN1", b"\x85", "\u{85}"),
        ("WIN1252", b"\x80uro", "\u{20ac}uro"),
        ("EUC_JP", b"\xc6\xfc\xcb\xdc", "\u{65e5}\u{672c}"),
        ("SQL_ASCII", "\u{1f511}".as_bytes(), "\u{1f511}"),
    ] {
        let key = init(&mut db.app_for(user)).unwrap();
        let mut app = db.app();
        app.batch_execute(&format!("SET client_encoding = '{encoding}'")).unwrap();
        set_bytes(&mut app, "app.current_user_id", bytes).unwrap();
        set_bytes(&mut app, "app.user_agent", bytes).unwrap();
        assert_eq!(fetch(&mut app).unwrap(), key, "{encoding}");
        let rows = db.audit_of(user);
        assert_eq!(rows.len(), 2, "{encoding}");
        assert_eq!(rows[1].user_agent, Some(escaped(user)), "{encoding}");
    }
    // This byte is no character in that encoding.
    let mut app = db.app();
    app.batch_execute("SET client_encoding = 'WIN1252'").unwrap();
    expect_error(set_bytes(&mut app, "app.current_user_id", b"\x81"), "22P05");
}

#[test]
fn a_client_whose_encoding_lacks_a_character_still_gets_its_key() {
    let db = shared_db();
    let mut app = db.app_for("\u{1f511}");
    set_bytes(&mut app, "app.user_agent", "\u{1f511}".as_bytes()).unwrap();
    let key = init(&mut app).unwrap();
    app.batch_execute("SET client_encoding = 'LATIN1'").unwrap();
    assert_eq!(fetch(&mut app).unwrap(), key);
    assert_eq!(db.audit_of("\u{1f511}").len(), 2);
    expect_error(app.query("SELECT user_agent FROM vault_ext.own_audit", &[]), "22P05");
}

/// The server does not check the encoding of settings in the connection options.
#[test]
fn invalid_bytes_in_connection_options_are_refused_as_an_id_and_readable_as_a_claim() {
    let db = shared_db();
    let call = |options: &[u8]| {
        let mut app = RawClient::connect_with(db.cluster, "wire_app", &db.name, options);
        app.queue("SELECT (vault_init()).kek_id");
        app.sync();
        app.send();
        app.answers()
    };
    for user in [&b"\xff"[..], b"alice\xc3", b"\xed\xa0\x80", b"\xc0\xaf"] {
        let answers = call(&[b"-c app.current_user_id=", user].concat());
        assert_eq!(answers, [Answer::Error("28000".into()), Answer::Ready('I')], "{user:?}");
    }
    let rows = db.audit();
    assert_eq!(rows.len(), 4);
    for row in rows {
        assert_eq!(row.what(), ("failed_init", 401, Some("identity-not-text")));
        assert_eq!(row.user_id, None);
    }

    let options = b"-c app.current_user_id=alice -c app.client_ip=192.0.2.\xff -c app.user_agent=a\xc3 -c app.request_id=\xf0\x9f";
    assert_eq!(call(options), [Answer::Row(vec![Some("wire-1".into())]), Answer::Ready('I')]);
    let options = b"-c app.current_user_id=alice -c request.headers={\"user-agent\":\"\xff\"}";
    assert_eq!(call(options), [Answer::Row(vec![Some("wire-1".into())]), Answer::Ready('I')]);
    let rows = db.audit_of("alice");
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].ip_address.as_deref(), Some("192.0.2.\u{fffd}"));
    assert_eq!(rows[0].user_agent.as_deref(), Some("a\u{fffd}"));
    assert_eq!(rows[0].request_id.as_deref(), Some("\u{fffd}"));
    assert_eq!(rows[1].user_agent, None, "headers that are not UTF-8 are not JSON");
}

/// All databases share the role names, and a database in another encoding can create names in that encoding.
#[test]
fn a_role_name_in_another_encoding_is_recorded_readably() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.database("d");
    db.force("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    // 63 bytes. Each of the last 60 is a character in LATIN1 and invalid in UTF-8.
    let make = "DO $$ DECLARE name text := 'app' || repeat(chr(233), 60); BEGIN
        EXECUTE format('CREATE ROLE %I', name);
        EXECUTE format('GRANT vault_ext_user TO %I', name);
        EXECUTE format('GRANT %I TO wire_app', name);
    END $$";
    cluster.superuser("latin").batch_execute(make).unwrap();
    let mut app = db.app_for("alice");
    let set_role = "DO $$ BEGIN
        EXECUTE format('SET ROLE %I', (SELECT rolname FROM pg_roles WHERE left(encode(rolname::bytea, 'hex'), 8) = '617070e9'));
    END $$";
    app.batch_execute(set_role).unwrap();
    let key = init(&mut app).unwrap();
    app.batch_execute("RESET ROLE").unwrap();
    assert_eq!(fetch(&mut app).unwrap(), key);
    let roles: Vec<_> = db.audit_of("alice").into_iter().map(|row| row.db_role).collect();
    assert_eq!(roles, ["app".to_owned() + &"\u{fffd}".repeat(20), "wire_app".to_owned()]);
}
