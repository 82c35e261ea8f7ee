use std::sync::LazyLock;

use proptest::prelude::*;

use super::super::mint::{self, Signer};
use super::*;

fn no_files(path: &str) -> Result<Vec<u8>, String> {
    panic!("{path} is read");
}

fn parse(text: impl AsRef<[u8]>) -> Result<Issuers, BadIssuers> {
    Issuers::parse(text.as_ref(), no_files)
}

#[track_caller]
fn error(text: impl AsRef<[u8]>) -> String {
    match parse(text) {
        Ok(issuers) => panic!("accepted: {issuers:?}"),
        Err(bad) => bad.to_string(),
    }
}

/// An ordinary issuer with an Ed25519 key, changed. A null removes.
fn idp(changes: Value) -> Value {
    mint::issuer(changes, &[Signer::ed25519()])
}

/// One with every member, and a key for each algorithm.
fn every_member() -> Value {
    mint::issuer(
        json!({
            "typ": ["JWT", "application/at+jwt", ""],
            "user": "/https:~1~1id.example~1user/id",
            "user_prefix": "idp:",
            "databases": ["app", "other"],
            "roles": ["my_app"],
            "max_lifetime": 600,
            "leeway": 0,
            "bind": "session",
            "scope": {"init": "vault.init", "fetch": "vault.read", "rotate": "vault.rotate", "grant": "vault.grant",
                "recovery": "vault.recovery"},
            "step_up": {"rotate": {"max_age": 300, "acr": ["urn:mfa", "urn:hw"]}, "grant": {"acr": ["urn:hw"]},
                "recovery": {"max_age": 60}},
        }),
        &Signer::all(),
    )
}

#[test]
fn what_is_left_out_has_a_default() {
    let issuers = mint::issuers(&[idp(json!({}))]);
    let issuer = &issuers.issuers[0];
    assert_eq!((issuer.name.as_str(), issuer.iss.as_str()), ("idp", mint::ISS));
    assert_eq!(issuer.audiences, [mint::AUD]);
    assert_eq!(issuer.algorithms, [Algorithm::EdDsa]);
    assert_eq!(issuer.keys.len(), 1);
    assert_eq!(issuer.types, None);
    assert_eq!((issuer.user.as_str(), issuer.user_prefix.as_str()), ("/sub", ""));
    assert!(issuer.databases.is_empty() && issuer.roles.is_empty());
    assert_eq!((issuer.max_lifetime, issuer.leeway), (3600, 30));
    assert_eq!(issuer.binding, Binding::None);
    for purpose in
        [Purpose::Init, Purpose::Fetch, Purpose::Rotate, Purpose::Grant, Purpose::Recovery, Purpose::Identify]
    {
        assert_eq!((issuer.scope(purpose), issuer.step_up(purpose)), (None, None));
    }
    assert!(!issuers.has_secrets());
}

#[test]
fn every_member_is_read() {
    let issuers = mint::issuers(&[every_member()]);
    let issuer = &issuers.issuers[0];
    assert_eq!(issuer.algorithms, Algorithm::ALL);
    assert_eq!(issuer.keys.len(), 5);
    assert_eq!(issuer.types.as_deref(), Some(&["JWT", "application/at+jwt", ""].map(str::to_owned)[..]));
    assert_eq!((issuer.user.as_str(), issuer.user_prefix.as_str()), ("/https:~1~1id.example~1user/id", "idp:"));
    assert_eq!(
        (&issuer.databases[..], &issuer.roles[..]),
        (&["app", "other"].map(str::to_owned)[..], &["my_app".to_owned()][..])
    );
    assert_eq!((issuer.max_lifetime, issuer.leeway), (600, 0));
    assert_eq!(issuer.binding, Binding::Session);
    assert_eq!(issuer.scope(Purpose::Init), Some("vault.init"));
    assert_eq!(issuer.scope(Purpose::Fetch), Some("vault.read"));
    assert_eq!(issuer.scope(Purpose::Rotate), Some("vault.rotate"));
    assert_eq!(issuer.scope(Purpose::Grant), Some("vault.grant"));
    assert_eq!(issuer.scope(Purpose::Recovery), Some("vault.recovery"));
    assert_eq!(issuer.scope(Purpose::Identify), None);
    let acr = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    let rotate = StepUp { max_age: Some(300), acr: acr(&["urn:mfa", "urn:hw"]) };
    assert_eq!(issuer.step_up(Purpose::Rotate), Some(&rotate));
    assert_eq!(issuer.step_up(Purpose::Grant), Some(&StepUp { max_age: None, acr: acr(&["urn:hw"]) }));
    assert_eq!(issuer.step_up(Purpose::Recovery), Some(&StepUp { max_age: Some(60), acr: Vec::new() }));
    assert_eq!(issuer.step_up(Purpose::Fetch), None);
    assert!(issuers.has_secrets());
}

#[test]
fn each_member_is_checked() {
    let long = |count: usize| "ü".repeat(count);
    let algs = "algs must be a list of one or more of EdDSA, ES256, RS256, PS256, HS256";
    let jwks = "give either jwks_file (a path) or jwks (a JWK set)";
    let name = "name must have 1 to 63 bytes and no control characters";
    let aud = "aud must be a list of one or more texts";
    for (changes, reason) in [
        (json!({"jkws": {}}), r#"unknown member "jkws""#),
        (json!({"alg": "EdDSA"}), r#"unknown member "alg""#),
        (json!({"name": null}), "lacks name"),
        (json!({"name": 1}), "name must be a text"),
        (json!({"name": ""}), name),
        (json!({"name": "a\nb"}), name),
        (json!({"name": long(32)}), name),
        (json!({"iss": null}), "lacks iss"),
        (json!({"iss": ""}), "iss is empty"),
        (json!({"iss": ["https://id.example/"]}), "iss must be a text"),
        (json!({"aud": null}), aud),
        (json!({"aud": []}), aud),
        (json!({"aud": [""]}), aud),
        (json!({"aud": "https://db.example/vault"}), "aud must be a list of texts"),
        (json!({"aud": ["a", 1]}), "aud must be a list of texts"),
        (json!({"algs": null}), algs),
        (json!({"algs": []}), algs),
        (json!({"algs": ["EdDSA", "none"]}), r#"algs has the unknown algorithm "none""#),
        (json!({"algs": ["eddsa"]}), r#"algs has the unknown algorithm "eddsa""#),
        (json!({"algs": "EdDSA"}), "algs must be a list of texts"),
        (json!({"jwks": null}), jwks),
        (json!({"jwks_file": "/both"}), jwks),
        (json!({"jwks": null, "jwks_file": 1}), jwks),
        (json!({"jwks": []}), r#"the JWK set has no member "keys" with a list"#),
        (
            json!({"algs": ["ES256"]}),
            "key 1 (kid \"EdDSA\") is for the algorithm EdDSA, which is not in the issuer's algs",
        ),
        (json!({"typ": "JWT"}), "typ must be a list of texts"),
        (json!({"user": "sub"}), r#"user must be a JSON pointer such as "/sub""#),
        (json!({"user": ""}), r#"user must be a JSON pointer such as "/sub""#),
        (json!({"user_prefix": "p".repeat(255)}), "user_prefix leaves no room for a user id"),
        (json!({"user_prefix": 1}), "user_prefix must be a text"),
        (json!({"databases": "app"}), "databases must be a list of texts"),
        (json!({"roles": [null]}), "roles must be a list of texts"),
        (json!({"max_lifetime": 0}), "max_lifetime must be a whole number of seconds from 1 to 86400"),
        (json!({"max_lifetime": 86_401}), "max_lifetime must be a whole number of seconds from 1 to 86400"),
        (json!({"max_lifetime": "900"}), "max_lifetime must be a whole number of seconds from 1 to 86400"),
        (json!({"leeway": -1}), "leeway must be a whole number of seconds from 0 to 300"),
        (json!({"leeway": 301}), "leeway must be a whole number of seconds from 0 to 300"),
        (json!({"leeway": 1.5}), "leeway must be a whole number of seconds from 0 to 300"),
        (json!({"bind": "backend"}), r#"bind must be "none", "session" or "transaction""#),
        (json!({"bind": true}), "bind must be a text"),
        (json!({"scope": "vault"}), "scope must be an object"),
        (json!({"scope": {"status": "vault"}}), r#"scope has the unknown member "status""#),
        (json!({"scope": {"identify": "vault"}}), r#"scope has the unknown member "identify""#),
        (json!({"scope": {"fetch": ["vault"]}}), r#"scope of "fetch" must be a text"#),
        (json!({"scope": {"fetch": "vault read"}}), r#"scope of "fetch" must be one scope"#),
        (json!({"scope": {"fetch": ""}}), r#"scope of "fetch" must be one scope"#),
        (json!({"step_up": {"rotate": 300}}), r#"step_up of "rotate" must be an object"#),
        (json!({"step_up": {"rotate": {}}}), r#"step_up of "rotate" must have max_age or acr"#),
        (
            json!({"step_up": {"rotate": {"acr": []}}}),
            r#"step_up of "rotate" acr must not be an empty list; leave it out instead"#,
        ),
        (json!({"databases": []}), "databases must not be an empty list; leave it out instead"),
        (json!({"roles": []}), "roles must not be an empty list; leave it out instead"),
        (json!({"typ": []}), "typ must not be an empty list; leave it out instead"),
        (json!({"step_up": {"rotate": {"amr": ["mfa"]}}}), r#"step_up of "rotate" unknown member "amr""#),
        (
            json!({"step_up": {"rotate": {"max_age": -1}}}),
            r#"step_up of "rotate" max_age must be a whole number of seconds from 0 to 31536000"#,
        ),
    ] {
        let with_name = changes.get("name").is_none();
        let changed = idp(changes);
        let shown = error(mint::file(std::slice::from_ref(&changed)));
        assert!(shown.ends_with(&format!(": {reason}")), "{changed}: {shown}");
        assert!(!with_name || shown.starts_with("issuer \"idp\": "), "{shown}");
    }
}

#[test]
fn a_file_is_an_object_with_1_to_16_issuers() {
    let many = |count: usize| -> Vec<Value> {
        let number = |i| json!({"name": format!("{i}"), "iss": format!("{i}"), "user_prefix": format!("{i:02}")});
        (0..count).map(|i| idp(number(i))).collect()
    };
    assert_eq!(mint::issuers(&many(MAX_ISSUERS)).issuers.len(), MAX_ISSUERS);
    for (text, message) in [
        (mint::file(&many(MAX_ISSUERS + 1)), "has 17 issuers; allowed are 1 to 16"),
        (mint::file(&[]), "has 0 issuers; allowed are 1 to 16"),
        (mint::file(&[json!("idp")]), "issuer 1: is not a JSON object"),
        (mint::file(&[idp(json!({})), json!({"iss": "x"})]), r#"issuer 2: algs must be a list"#),
        ("[]".into(), "is not a JSON object"),
        ("{}".into(), "has no member \"issuers\" with a list"),
        (r#"{"issuers":{}}"#.into(), "has no member \"issuers\" with a list"),
        (r#"{"issuers":[],"issuer":[]}"#.into(), "unknown member \"issuer\""),
    ] {
        let shown = error(&text);
        assert!(shown.starts_with(message), "{shown}");
    }
}

#[test]
fn bad_json_names_line_and_column() {
    let good = serde_json::to_string_pretty(&json!({"issuers": [idp(json!({}))]})).expect("JSON");
    assert!(parse(&good).is_ok());
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    for (from, to, says, line) in [
        ("\"aud\": [", "\"aud\" [", "expected `:`", 7),
        ("\"iss\": ", "\"name\": ", "twice", 30),
        ("\"kty\": ", "\"crv\": ", "twice", 30),
        ("\"OKP\"", &deep, "too deep", 30),
        ("\"OKP\"", "\"\\u0000\"", "NUL", 30),
        ("\"OKP\"", "\"\u{1}\"", "control character", 30),
        ("\"OKP\"", "\"OKP", "", 30),
        ("\"OKP\"", "1e999", "out of range", 30),
        ("\n}", "\n", "EOF", 30),
        ("\n}", "\n}}", "trailing", 30),
    ] {
        assert!(good.contains(from), "{from} in {good}");
        let shown = error(good.replacen(from, to, 1));
        assert!(shown.contains(says), "{shown}");
        let (_, place) = shown.rsplit_once(" at line ").unwrap_or_else(|| panic!("{shown}"));
        let (number, column) = place.split_once(" column ").unwrap_or_else(|| panic!("{shown}"));
        assert!((2..=line).contains(&number.parse().expect("a line")), "{shown}");
        column.parse::<usize>().expect("a column");
    }
}

#[test]
fn issuers_that_could_mean_one_user_are_refused() {
    let other = |changes: Value| {
        let mut other = json!({"name": "other", "iss": "https://other.example"});
        other.as_object_mut().expect("an object").extend(changes.as_object().expect("an object").clone());
        idp(other)
    };
    let collision =
        |first: Value, second: Value| parse(mint::file(&[idp(first), other(second)])).err().map(|bad| bad.0);
    let prefix = |prefix: &str| json!({"user_prefix": prefix});
    let databases = |databases: &[&str]| json!({"databases": databases});

    for (first, second) in [
        (json!({}), json!({})),
        (prefix(""), prefix("a:")),
        (prefix("a:"), prefix("")),
        (prefix("a"), prefix("a:")),
        (prefix("a:b:"), prefix("a:")),
        (prefix("a:"), prefix("a:")),
        (databases(&["app"]), json!({})),
        (databases(&["app", "x"]), databases(&["x", "y"])),
    ] {
        let message = collision(first, second).expect("a refusal");
        assert!(message.starts_with("issuer \"other\": its user ids could be those of issuer \"idp\""), "{message}");
    }
    for (first, second) in [
        (prefix("a:"), prefix("b:")),
        (prefix("ab"), prefix("aa")),
        (databases(&["app"]), databases(&["App"])),
        (databases(&["a", "b"]), databases(&["c"])),
    ] {
        assert_eq!(collision(first, second), None);
    }

    let apart = json!({"user_prefix": "a:", "databases": ["a"]});
    let twin = |changes: Value| collision(apart.clone(), changes).expect("a refusal");
    let same_name = json!({"name": "idp", "user_prefix": "b:", "databases": ["b"]});
    assert_eq!(twin(same_name), "issuer \"idp\": its name is that of another issuer");
    let same_iss = json!({"iss": mint::ISS, "user_prefix": "b:", "databases": ["b"]});
    assert_eq!(twin(same_iss), "issuer \"other\": its iss is that of issuer \"idp\"");
    // Byte by byte: these are two.
    let no_slash = json!({"iss": mint::ISS.trim_end_matches('/'), "user_prefix": "b:"});
    assert_eq!(collision(apart.clone(), no_slash), None);
}

#[test]
fn a_jwks_file_is_read_by_its_path() {
    let by_path = mint::file(&[idp(json!({"jwks": null, "jwks_file": "/etc/idp.jwks"}))]);
    let with = |result: Result<&str, &str>| {
        Issuers::parse(by_path.as_bytes(), |path| {
            assert_eq!(path, "/etc/idp.jwks");
            result.map(|text| text.as_bytes().to_vec()).map_err(str::to_owned)
        })
        .map(|issuers| issuers.issuers[0].keys.len())
        .map_err(|bad| bad.0)
    };
    let set = |keys: &[Value]| json!({ "keys": keys }).to_string();
    assert_eq!(with(Ok(&set(&[Signer::ed25519().jwk()]))), Ok(1));
    for (result, message) in [
        (Err("/etc/idp.jwks: no such file"), "issuer \"idp\": /etc/idp.jwks: no such file"),
        (
            Ok("{\n \"keys\": ["),
            "issuer \"idp\": jwks_file \"/etc/idp.jwks\": EOF while parsing a list at line 2 column 10",
        ),
        (
            Ok(r#"{"keys":[],"keys":[]}"#),
            "issuer \"idp\": jwks_file \"/etc/idp.jwks\": a member appears twice at line 1",
        ),
        (Ok("{}"), "issuer \"idp\": jwks_file \"/etc/idp.jwks\": the JWK set has no member"),
        (Ok(r#"{"keys":[{}]}"#), "issuer \"idp\": jwks_file \"/etc/idp.jwks\": key 1 lacks kty"),
    ] {
        let shown = with(result).expect_err("a refusal");
        assert!(shown.starts_with(message), "{shown}");
    }
}

/// What one reads in it; the keys by what they verify.
fn view(issuers: &Issuers) -> String {
    let verified: Vec<Vec<bool>> = issuers
        .issuers
        .iter()
        .flat_map(|issuer| &issuer.keys)
        .map(|key| Signer::all().iter().map(|signer| key.verifies(b"message", &signer.sign(b"message"))).collect())
        .collect();
    assert!(verified.iter().all(|signers| signers.contains(&true)));
    format!("{:?} {verified:?}", issuers.issuers)
}

#[test]
fn the_text_gives_the_same_issuers_without_files() {
    let named = json!({"name": "file", "iss": "file", "user_prefix": "f:", "jwks": null, "jwks_file": "/etc/idp.jwks"});
    let text = mint::file(&[every_member(), idp(named)]);
    let mut ignored = Signer::ed25519().with_kid(Some("enc")).jwk();
    ignored["use"] = "enc".into();
    let set = json!({"keys": [Signer::ed25519().with_kid(None).jwk(), ignored]}).to_string();
    let issuers = Issuers::parse(text.as_bytes(), |_| Ok(set.clone().into_bytes())).expect("issuers");
    let again = parse(issuers.text()).expect("the text is an issuers file");
    assert_eq!(view(&again), view(&issuers));
    assert_eq!(again.text(), issuers.text());
    assert_eq!(again.has_secrets(), issuers.has_secrets());
    assert!(!issuers.text().contains("jwks_file"));
}

#[test]
fn a_key_without_alg_keeps_its_algorithm_in_the_text() {
    for algorithm in [Algorithm::Rs256, Algorithm::Ps256] {
        let signer = Signer::new(algorithm, 7);
        let mut jwk = signer.jwk();
        jwk.as_object_mut().expect("an object").remove("alg");
        let issuers = mint::issuers(&[mint::issuer(json!({"jwks": {"keys": [jwk]}}), &[signer])]);
        assert_eq!(view(&parse(issuers.text()).expect("issuers")), view(&issuers));
    }
}

#[test]
fn what_else_is_in_a_jwk_does_not_matter() {
    // As deep as a file may be: in the text it would be deeper.
    let deep = |depth| (0..depth).fold(json!(1), |value, _| json!([value]));
    let depth = json::MAX_DEPTH - 3;
    for (name, value) in
        [("x5c", deep(depth)), ("key_ops", json!(["verify", deep(depth - 1)])), ("x-number", json!(0.1 + 0.2))]
    {
        let mut jwk = Signer::ed25519().jwk();
        jwk[name] = value;
        let set = json!({"keys": [jwk]}).to_string();
        let text = mint::file(&[idp(json!({"jwks": null, "jwks_file": "/etc/idp.jwks"}))]);
        let issuers = Issuers::parse(text.as_bytes(), |_| Ok(set.clone().into_bytes())).expect("issuers");
        let again = parse(issuers.text()).unwrap_or_else(|bad| panic!("{name}: {bad}"));
        assert_eq!(view(&again), view(&issuers));
    }
}

#[test]
fn no_message_quotes_a_secret() {
    let secret = mint::base64(b"a secret key for HS256, 32 bytes");
    let with = |k: &str, changes: Value| {
        let jwk = json!({"kty": "oct", "kid": "k1", "alg": "HS256", "k": k});
        let mut issuer = mint::issuer(json!({"jwks": {"keys": [jwk]}}), &[Signer::new(Algorithm::Hs256, 7)]);
        issuer.as_object_mut().expect("an object").extend(changes.as_object().expect("an object").clone());
        mint::file(&[issuer])
    };
    let issuers = parse(with(&secret, json!({}))).expect("issuers");
    assert!(!format!("{issuers:?}").contains(&secret[..8]), "{issuers:?}");
    assert!(issuers.text().contains(&secret));
    let spoiled = with(&secret, json!({})).replace(&format!("\"{secret}\""), &format!("\"{secret}"));
    for text in [
        with(&format!("{secret}="), json!({})),
        with(&secret[..40], json!({})),
        with(&format!("{secret}\u{0}"), json!({})),
        with(&secret, json!({"aud": []})),
        with(&secret, json!({"algs": ["EdDSA"]})),
        with(&secret, json!({"jwks": secret})),
        with(&secret, json!({"jwks": {"keys": [secret]}})),
        with(&secret, json!({"jwks": {"keys": secret}})),
        spoiled,
    ] {
        let shown = error(&text);
        assert!(!shown.contains(&secret[..8]), "{shown}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "[\\[\\]{}\",:a-z0-9]{0,60}") {
        let _ = parse(text);
    }

    #[test]
    fn a_damaged_file_is_refused_without_a_word_of_its_secrets(at: prop::sample::Index, byte: u8, cut: bool) {
        static TEXT: LazyLock<String> = LazyLock::new(|| mint::file(&[every_member()]));
        let mut text = TEXT.as_bytes().to_vec();
        let at = at.index(text.len());
        if cut { text.truncate(at) } else { text[at] = byte };
        match Issuers::parse(&text, |_| Err("there is no such file".into())) {
            Ok(issuers) => {
                let again = parse(issuers.text()).expect("issuers");
                prop_assert_eq!(again.text(), issuers.text());
            }
            Err(bad) => {
                let k = mint::base64([7; 32]);
                prop_assert!(!bad.0.contains(&k[..8]), "{}", bad);
            }
        }
    }
}
