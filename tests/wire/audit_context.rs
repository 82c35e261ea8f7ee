//! The caller's context in an audit row.

use crate::harness::{AuditRow, Db, init, set_user, shared_db};

/// The row of an init under these settings.
fn row_with(db: &Db, settings: &[(&str, &str)]) -> AuditRow {
    let user = format!("user-{}", db.audit().len());
    let mut app = db.app_for(&user);
    for (name, value) in settings {
        app.execute("SELECT set_config($1, $2, false)", &[name, value]).unwrap();
    }
    init(&mut app).unwrap();
    let mut rows = db.audit_of(&user);
    assert_eq!(rows.len(), 1);
    rows.remove(0)
}

/// The text that the row stores for this value of a setting.
fn stored(db: &Db, setting: &str, value: &str) -> String {
    let row = row_with(db, &[(setting, value)]);
    match setting {
        "app.client_ip" => row.ip_address,
        "app.user_agent" => row.user_agent,
        _ => row.request_id,
    }
    .unwrap_or_default()
}

const SETTINGS: [(&str, usize); 3] = [("app.client_ip", 64), ("app.user_agent", 256), ("app.request_id", 128)];

#[test]
fn the_application_s_settings_are_recorded() {
    let db = shared_db();
    let row = row_with(
        &db,
        &[("app.client_ip", "203.0.113.7"), ("app.user_agent", "Mozilla/5.0 (ünïcode)"), ("app.request_id", "req-1")],
    );
    assert_eq!(row.ip_address.as_deref(), Some("203.0.113.7"));
    assert_eq!(row.user_agent.as_deref(), Some("Mozilla/5.0 (ünïcode)"));
    assert_eq!(row.request_id.as_deref(), Some("req-1"));
    assert_eq!(row.db_role, "wire_app");
}

#[test]
fn without_settings_there_is_only_the_connection_s_address() {
    let db = shared_db();
    let row = row_with(&db, &[]);
    assert_eq!((row.user_agent, row.request_id), (None, None));
    let mut over_tcp = db.cluster.tcp_conn("wire_app", &db.name);
    set_user(&mut over_tcp, "tcp");
    init(&mut over_tcp).unwrap();
    let rows = db.audit_of("tcp");
    assert_eq!(rows[0].ip_address.as_deref(), Some("127.0.0.1"));
}

#[test]
fn empty_settings_count_as_absent() {
    let db = shared_db();
    let row = row_with(&db, &[("app.client_ip", ""), ("app.user_agent", ""), ("app.request_id", "")]);
    assert_eq!((row.user_agent, row.request_id), (None, None));
    assert_ne!(row.ip_address.as_deref(), Some(""));
}

#[test]
fn postgrest_s_headers_are_read() {
    let db = shared_db();
    let headers =
        r#"{"x-forwarded-for": "203.0.113.9, 10.0.0.1, 10.0.0.2", "user-agent": "curl/8.0", "accept": "*/*"}"#;
    let row = row_with(&db, &[("request.headers", headers)]);
    assert_eq!(row.ip_address.as_deref(), Some("203.0.113.9"));
    assert_eq!(row.user_agent.as_deref(), Some("curl/8.0"));
    let row = row_with(&db, &[("request.headers", r#"{"x-real-ip": "2001:db8::1"}"#)]);
    assert_eq!(row.ip_address.as_deref(), Some("2001:db8::1"));
    assert_eq!(row.user_agent, None);
}

#[test]
fn the_application_s_settings_take_precedence_over_the_headers() {
    let db = shared_db();
    let row = row_with(
        &db,
        &[
            ("request.headers", r#"{"x-forwarded-for": "10.0.0.1", "user-agent": "curl"}"#),
            ("app.client_ip", "203.0.113.7"),
        ],
    );
    assert_eq!(row.ip_address.as_deref(), Some("203.0.113.7"));
    assert_eq!(row.user_agent.as_deref(), Some("curl"));
}

#[test]
fn headers_that_are_not_an_object_of_strings_are_ignored() {
    let db = shared_db();
    for headers in [
        "",
        "not json",
        "[]",
        "null",
        "42",
        "\"text\"",
        r#"{"user-agent": 42, "x-forwarded-for": ["10.0.0.1"]}"#,
        r#"{"user-agent": null, "x-real-ip": {}}"#,
        r#"{"user-agent": "unfinished"#,
    ] {
        let row = row_with(&db, &[("request.headers", headers)]);
        assert_eq!((row.user_agent, row.request_id), (None, None), "{headers}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(row_with(&db, &[("request.headers", &deep)]).user_agent, None);
}

#[test]
fn long_values_are_cut_to_their_bound() {
    let db = shared_db();
    for (setting, bound) in SETTINGS {
        assert_eq!(stored(&db, setting, &"x".repeat(bound)).len(), bound);
        for length in [bound + 1, 1000, 100_000] {
            assert_eq!(stored(&db, setting, &"x".repeat(length)).len(), bound, "{setting}");
        }
    }
}

#[test]
fn values_are_cut_between_characters() {
    let db = shared_db();
    for (setting, bound) in SETTINGS {
        for (character, shift) in [("é", 1), ("€", 1), ("€", 2), ("🔑", 1), ("🔑", 2), ("🔑", 3)] {
            let value = "x".repeat(shift) + &character.repeat(bound);
            let text = stored(&db, setting, &value);
            assert!(value.starts_with(&text), "{setting} {character}: {text}");
            assert!(text.len() <= bound && text.len() + character.len() > bound, "{}", text.len());
        }
    }
}

#[test]
fn control_characters_are_escaped() {
    let db = shared_db();
    for control in ["\n", "\r", "\t", "\u{1b}[31m", "\u{7f}", "\u{85}", "\u{1}", "\u{9f}"] {
        for (setting, _) in SETTINGS {
            let text = stored(&db, setting, &format!("before{control}after"));
            assert!(!text.chars().any(char::is_control), "{setting}: {text:?}");
            assert!(text.starts_with("before") && text.ends_with("after"), "{text:?}");
            assert!(text.len() > "beforeafter".len(), "the character was dropped, not escaped: {text:?}");
        }
    }
    let forged = r#"{"user-agent": "curl\n2030-01-01 forged line"}"#;
    let agent = row_with(&db, &[("request.headers", forged)]).user_agent.unwrap();
    assert!(!agent.contains('\n') && agent.contains("forged line"), "{agent:?}");
}

#[test]
fn many_control_characters_stay_within_the_bound() {
    let db = shared_db();
    for (setting, bound) in SETTINGS {
        let text = stored(&db, setting, &"\u{1}".repeat(1000));
        assert!(!text.is_empty() && text.len() <= bound, "{setting}: {}", text.len());
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
}

#[test]
fn quotes_and_sql_in_values_are_only_text() {
    let db = shared_db();
    let hostile = "'); DROP TABLE vault_ext.encryption_vault_audit; -- \\ \" {} $1 %s";
    for (setting, _) in SETTINGS {
        let text = stored(&db, setting, hostile);
        assert!(hostile.starts_with(&text) && text.len() >= 60, "{text}");
    }
}

#[test]
fn the_identity_s_control_characters_do_not_break_the_trail() {
    let db = shared_db();
    let user = "al\u{1}i\nce";
    let mut app = db.app_for(user);
    init(&mut app).unwrap();
    assert_eq!(db.audit().len(), 1);
    assert_eq!(db.audit()[0].user_id.as_deref(), Some(user), "the id is a key, so it is stored unchanged");
}

#[test]
fn the_recorded_role_is_the_caller_s() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    init(&mut app).unwrap();
    app.batch_execute("SET ROLE vault_ext_user").unwrap();
    init(&mut app).unwrap();
    let roles: Vec<_> = db.audit_of("alice").into_iter().map(|row| row.db_role).collect();
    assert!(roles[0] == "wire_app" && roles[1].contains("vault_ext_user") || roles[1] == "wire_app", "{roles:?}");
    assert!(!roles.iter().any(|role| role == "vault_ext_owner"), "{roles:?}");
}

#[test]
fn a_failure_s_row_has_the_same_context() {
    let db = shared_db();
    let mut app = db.app();
    for (name, value) in [("app.client_ip", "203.0.113.7"), ("app.request_id", "req-9")] {
        app.execute("SELECT set_config($1, $2, false)", &[&name, &value]).unwrap();
    }
    init(&mut app).unwrap_err();
    let rows = db.audit();
    assert_eq!(rows[0].status, 401);
    assert_eq!(rows[0].ip_address.as_deref(), Some("203.0.113.7"));
    assert_eq!(rows[0].request_id.as_deref(), Some("req-9"));
}
