//! What is sent to leave zero-knowledge mode is a master key: it must not show up anywhere, and neither must a recovery code.

use crate::harness::{
    Cluster, Stop, assert_no_secrets, assert_no_secrets_in_files, base64, decode, expect_error, expect_vault_error,
    fetch, init, shared_db,
};
use crate::recovery_client::{
    Recovery, challenge, disable, enable, fresh, key_of_code, parts, proof, secret_of, with_code, with_zero_knowledge,
};

#[test]
fn a_recovery_wrap_has_the_form_of_format_1() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let key = decode(&init(&mut app).unwrap().master_key);
    let Recovery { wrapped_mk, iv, .. } = Recovery::of(&key);
    let url_safe = |text: &str| text.replace('+', "-").replace('/', "_");
    let bad: Vec<(Option<String>, Option<String>)> = vec![
        (None, Some(iv.clone())),
        (Some(wrapped_mk.clone()), None),
        (None, None),
        (Some(String::new()), Some(iv.clone())),
        (Some(wrapped_mk.clone()), Some(String::new())),
        (Some(iv.clone()), Some(wrapped_mk.clone())),
        (Some(wrapped_mk[4..].to_owned()), Some(iv.clone())),
        (Some(format!("AAAA{wrapped_mk}")), Some(iv.clone())),
        (Some(wrapped_mk.clone()), Some(format!("{iv}AAAA"))),
        (Some(wrapped_mk.clone()), Some(base64(&[0; 24]))),
        (Some(format!(" {wrapped_mk}")), Some(iv.clone())),
        (Some(format!("{wrapped_mk}\n")), Some(iv.clone())),
        (Some(url_safe(&base64(&[0xfb; 48]))), Some(iv.clone())),
        (Some(wrapped_mk.clone()), Some(url_safe(&base64(&[0xff; 12])))),
        (Some("A".repeat(1_000_000)), Some(iv.clone())),
    ];
    for (wrapped_mk, iv) in &bad {
        let result = app.execute("SELECT vault_set_recovery($1, $2)", &[wrapped_mk, iv]);
        let refusal = expect_vault_error(result, "22023");
        assert!(wrapped_mk.as_ref().is_none_or(|text| text.is_empty() || !refusal.text().contains(text)));
    }
    assert_eq!(parts(&db, "alice"), "wrap");
    assert_eq!(db.audit_where("action = 'recovery_set' AND context = 'bad-argument'").len(), bad.len());
}

#[test]
fn disabling_reads_canonical_base64_of_32_bytes_alone_and_never_repeats_it() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let (key, _) = with_zero_knowledge(&mut app);
    let text = base64(&key);
    let hex = key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let bad: Vec<Option<String>> = vec![
        None,
        Some(String::new()),
        Some(text.trim_end_matches('=').to_owned()),
        Some(format!("{text}=")),
        Some(format!(" {text}")),
        Some(format!("{text}\n")),
        Some(hex),
        Some(base64(&key[..31])),
        Some(base64(&[&key[..], b"x"].concat())),
        Some("é".repeat(22)),
        Some("A".repeat(1_000_000)),
    ];
    for master_key in &bad {
        let result = app.query_one("SELECT vault_disable_zero_knowledge($1)", &[master_key]);
        let refusal = expect_vault_error(result, "22023");
        assert!(!refusal.text().contains(&text[..40]), "{refusal:?}");
    }
    assert_eq!(parts(&db, "alice"), "recovery zk check");
    assert!(disable(&mut app, &key).unwrap());
}

/// A server that logs what it can.
fn logging_cluster(parameters: &str) -> Cluster {
    let mut cluster = Cluster::builder()
        .with_wire_kek()
        .without_fsync()
        .conf("log_statement = all")
        .conf("log_min_duration_statement = 0")
        .conf("log_min_messages = debug1")
        .conf("log_error_verbosity = verbose")
        .conf(parameters)
        .prepare();
    cluster.keep_neighbours_from_logging_parameters();
    cluster.start();
    cluster
}

#[test]
fn no_key_and_no_code_appears_in_a_log_an_error_or_a_file() {
    // For bound parameters PostgreSQL's own default is to log them with the statement.
    let mut cluster = logging_cluster("log_parameter_max_length = 0");
    let (texts, secrets) = {
        let db = cluster.database("d");
        let mut app = db.app_for("alice");
        let (key, recovery) = with_code(&mut app);
        let mut refusals = vec![
            expect_vault_error(enable(&mut app, None), "42501"),
            expect_vault_error(enable(&mut app, Some(&proof(&key, &[1; 32]))), "42501"),
            expect_vault_error(enable(&mut app, Some(&key[..31])), "22023"),
        ];
        let nonce = challenge(&mut app).unwrap();
        assert!(enable(&mut app, Some(&proof(&key, &nonce))).unwrap());
        let other = fresh();
        refusals.push(expect_vault_error(disable(&mut app, &other), "42501"));
        refusals.push(expect_vault_error(disable(&mut app, &[&key[..], b"x"].concat()), "22023"));
        refusals.push(expect_vault_error(disable(&mut db.app(), &key), "28000"));
        // An error that PostgreSQL raises inside the call, with the row in it.
        db.force("ALTER TABLE vault_ext.encryption_vaults ADD CONSTRAINT no CHECK (zero_knowledge) NOT VALID");
        refusals.push(expect_error(disable(&mut app, &key), "23514"));
        db.force("ALTER TABLE vault_ext.encryption_vaults DROP CONSTRAINT no");
        assert!(disable(&mut app, &key).unwrap());
        assert_eq!(decode(&fetch(&mut app).unwrap().master_key), key);
        let mut texts: Vec<String> = refusals.iter().map(|refusal| refusal.text()).collect();
        for sql in [
            "SELECT a::text FROM pg_stat_activity a",
            "SELECT a::text FROM vault_ext.encryption_vault_audit a",
            "SELECT v::text FROM vault_ext.encryption_vaults v",
        ] {
            texts.extend(db.superuser().query(sql, &[]).unwrap().iter().map(|row| row.get::<_, String>(0)));
        }
        let code = secret_of(&recovery.code);
        (texts, vec![key, other.to_vec(), code, key_of_code(&recovery.code).to_vec()])
    };
    assert_no_secrets(&cluster, &texts, &secrets);
    cluster.stop(Stop::Fast);
    assert!(assert_no_secrets_in_files(&[&cluster.data()], &secrets) > 1_000_000);
}

#[test]
fn with_postgresql_s_defaults_a_log_of_statements_has_bound_keys() {
    // What SECURITY.md warns of. If this fails one day, take the warning out.
    let cluster = logging_cluster("log_parameter_max_length = -1");
    let db = cluster.database("d");
    let mut app = db.app_for("alice");
    let (key, _) = with_zero_knowledge(&mut app);
    disable(&mut app, &key).unwrap();
    let text = base64(&key);
    assert!(cluster.log().contains(&text));
    // Plans as a developer prints them have it byte by byte, over several lines.
    let bytes: Vec<String> = text.bytes().map(|byte| byte.to_string()).collect();
    assert!(!cluster.log().contains(&bytes[..8].join(" ")));
    app.batch_execute("SET debug_print_plan = on").unwrap();
    disable(&mut app, &key).unwrap();
    assert!(cluster.log().contains(&bytes[..8].join(" ")));
    // The remedy that SECURITY.md gives, which the application cannot undo.
    db.force("ALTER ROLE wire_app SET log_parameter_max_length = 0");
    let mut bob = db.app_for("bob");
    expect_error(bob.batch_execute("SET log_parameter_max_length = -1"), "42501");
    let (key, _) = with_zero_knowledge(&mut bob);
    disable(&mut bob, &key).unwrap();
    assert_no_secrets(&cluster, &[], &[key]);
}
