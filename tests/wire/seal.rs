//! Sealed release: keys leave encrypted to a public key, and the scripts in tests/independent open them with none of the
//! project's code.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use postgres::types::ToSql;
use postgres::{Client, Error, SimpleQueryMessage};
use serde_json::json;

use crate::formats::{insert_predecessor_row, seal as wrap};
use crate::harness::{
    AuditRow, Cluster, Db, ISS, PREDECESSOR_KEK, Signer, assert_no_secrets, base64, claims, decode, expect_error,
    expect_vault_error, fail, fetch, init, issuer, issuers, kek, keyring_line, rotate, scratch_dir, shared_db, succeed,
    token_db,
};
use crate::trail::trail_of;

const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/independent/open_sealed.py");
const NODE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/independent/open_sealed.mjs");

const HPKE: &str = "HPKE-X25519-HKDF-SHA256-AES-256-GCM";
const RSA_OAEP: &str = "RSA-OAEP-256";

/// The pair of a recipient, as openssl makes it.
pub struct Pair {
    private: PathBuf,
    /// PEM.
    pub public: String,
    /// The DER of the public key.
    der: Vec<u8>,
}

impl Pair {
    fn new(arguments: &[&str]) -> Self {
        let dir = scratch_dir();
        let (private, public, der) = (dir.join("private.pem"), dir.join("public.pem"), dir.join("public.der"));
        succeed(Command::new("openssl").args(["genpkey", "-algorithm"]).args(arguments).arg("-out").arg(&private));
        let public_from = |form, out: &Path| {
            let mut command = Command::new("openssl");
            succeed(command.args(["pkey", "-pubout", "-outform", form, "-in"]).arg(&private).arg("-out").arg(out));
        };
        public_from("PEM", &public);
        public_from("DER", &der);
        let public = std::fs::read_to_string(public).expect("the public key");
        Self { private, public, der: std::fs::read(der).expect("the public key") }
    }

    fn private_pem(&self) -> String {
        std::fs::read_to_string(&self.private).expect("the private key")
    }

    fn fingerprint(&self) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.der);
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hex}")
    }

    fn command(&self, script: &str, sealed: &[u8], bound: &Bound<'_>) -> Command {
        let mut command = interpreter(script);
        command.arg(&self.private).arg(base64(sealed)).args([bound.kind, bound.user]);
        command.args([&bound.version.to_string(), bound.purpose]);
        command
    }

    /// What both scripts find.
    #[track_caller]
    fn open(&self, sealed: &[u8], bound: &Bound<'_>) -> Vec<u8> {
        let opened = [PYTHON, NODE].map(|script| decode(succeed(&mut self.command(script, sealed, bound)).trim()));
        assert_eq!(opened[0], opened[1]);
        let [opened, _] = opened;
        opened
    }

    #[track_caller]
    fn does_not_open(&self, sealed: &[u8], bound: &Bound<'_>) {
        for script in [PYTHON, NODE] {
            let said = fail(&mut self.command(script, sealed, bound));
            assert!(said.contains("does not open"), "{said}");
        }
    }
}

/// Debian's own Python has the package python3-cryptography; another one in the PATH may not.
fn interpreter(script: &str) -> Command {
    let program = if script == PYTHON { "/usr/bin/python3" } else { "node" };
    let mut command = Command::new(program);
    command.arg(script);
    command
}

/// What a sealed key is bound to.
#[derive(Clone, Copy)]
struct Bound<'a> {
    kind: &'a str,
    user: &'a str,
    version: i32,
    purpose: &'a str,
}

const MASTER: Bound<'_> = Bound { kind: "master", user: "alice", version: 1, purpose: "" };

static X25519: LazyLock<Pair> = LazyLock::new(|| Pair::new(&["X25519"]));
static RSA: LazyLock<Pair> = LazyLock::new(|| Pair::new(&["RSA", "-pkeyopt", "rsa_keygen_bits:2048"]));

#[derive(Debug)]
struct Sealed {
    bytes: Vec<u8>,
    algorithm: String,
    fingerprint: String,
    key_version: i32,
    kek_id: String,
}

fn seal(client: &mut Client, call: &str, arguments: &[&(dyn ToSql + Sync)]) -> Result<Sealed, Error> {
    let sql = format!("SELECT sealed, algorithm, fingerprint, key_version, kek_id FROM {call}");
    let row = client.query_one(&sql, arguments)?;
    Ok(Sealed {
        bytes: row.get(0),
        algorithm: row.get(1),
        fingerprint: row.get(2),
        key_version: row.get(3),
        kek_id: row.get(4),
    })
}

fn seal_master(client: &mut Client, public_key: &str) -> Result<Sealed, Error> {
    seal(client, "vault_seal_master_key($1)", &[&public_key])
}

fn seal_version(client: &mut Client, public_key: &str, version: i32) -> Result<Sealed, Error> {
    seal(client, "vault_seal_master_key($1, $2)", &[&public_key, &version])
}

fn seal_derived(client: &mut Client, public_key: &str, purpose: &str) -> Result<Sealed, Error> {
    seal(client, "vault_seal_derived_key($1, $2)", &[&public_key, &purpose])
}

fn seal_general(client: &mut Client, public_key: &str, salt: &[u8], info: &str) -> Result<Sealed, Error> {
    seal(client, "vault_seal_derived_key($1, $2::bytea, $3)", &[&public_key, &salt, &info])
}

/// HKDF-SHA256 with the code of another crate than the extension's.
fn hkdf(key: &[u8], salt: &[u8], info: &[u8]) -> Vec<u8> {
    struct Bytes32;
    impl ring::hkdf::KeyType for Bytes32 {
        fn len(&self) -> usize {
            32
        }
    }
    let prk = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, salt).extract(key);
    let mut derived = vec![0; 32];
    let info = [info];
    prk.expand(&info, Bytes32).and_then(|okm| okm.fill(&mut derived)).expect("32 bytes");
    derived
}

#[test]
fn the_scripts_open_the_vector_of_the_standard() {
    for script in [PYTHON, NODE] {
        assert_eq!(succeed(interpreter(script).arg("--check")), "ok\n");
    }
}

#[test]
fn a_sealed_master_key_opens_with_the_private_key() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let key = decode(&init(&mut app).unwrap().master_key);
    let raw = base64(&X25519.der[12..]);
    for (pair, public, algorithm, length) in [
        (&*X25519, X25519.public.as_str(), HPKE, 80),
        (&*X25519, raw.as_str(), HPKE, 80),
        (&*RSA, RSA.public.as_str(), RSA_OAEP, 256),
    ] {
        let sealed = seal_master(&mut app, public).unwrap();
        assert_eq!((sealed.algorithm.as_str(), sealed.bytes.len()), (algorithm, length));
        assert_eq!((sealed.key_version, sealed.kek_id.as_str()), (1, "wire-1"));
        assert_eq!(sealed.fingerprint, pair.fingerprint());
        assert_eq!(pair.open(&sealed.bytes, &MASTER), key);
        assert_ne!(seal_master(&mut app, public).unwrap().bytes, sealed.bytes, "sealed twice alike");
    }
}

#[test]
fn hpke_binds_the_key_to_its_kind_user_version_and_purpose() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    init(&mut app).unwrap();
    let sealed = seal_master(&mut app, &X25519.public).unwrap().bytes;
    for bound in [
        Bound { user: "bob", ..MASTER },
        Bound { version: 2, ..MASTER },
        Bound { kind: "derived", ..MASTER },
        Bound { purpose: "files", ..MASTER },
    ] {
        X25519.does_not_open(&sealed, &bound);
    }
    let mut changed = sealed.clone();
    changed[40] ^= 1;
    X25519.does_not_open(&changed, &MASTER);
    Pair::new(&["X25519"]).does_not_open(&sealed, &MASTER);
}

#[test]
fn a_sealed_derived_key_is_the_one_of_its_purpose() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let first = decode(&init(&mut app).unwrap().master_key);
    let second = decode(&rotate(&mut app).unwrap().master_key);
    let of = |key: &[u8], purpose: &str| {
        let length = u16::try_from(purpose.len()).unwrap().to_be_bytes();
        hkdf(key, b"", &[b"vault_ext.derived-key.v1".as_slice(), &length, purpose.as_bytes()].concat())
    };
    let derived = Bound { kind: "derived", version: 2, purpose: "files", ..MASTER };
    let sealed = seal_derived(&mut app, &X25519.public, "files").unwrap();
    assert_eq!((sealed.algorithm.as_str(), sealed.key_version), (HPKE, 2));
    assert_eq!(X25519.open(&sealed.bytes, &derived), of(&second, "files"));
    let unsealed: Vec<u8> = app.query_one("SELECT vault_derive_key('files')", &[]).unwrap().get(0);
    assert_eq!(unsealed, of(&second, "files"));
    X25519.does_not_open(&sealed.bytes, &Bound { purpose: "mail", ..derived });
    X25519.does_not_open(&sealed.bytes, &Bound { kind: "master", ..derived });
    let sealed = seal_derived(&mut app, &RSA.public, "files").unwrap();
    assert_eq!(RSA.open(&sealed.bytes, &derived), of(&second, "files"));
    let call = "vault_seal_derived_key($1, $2::text, $3::integer)";
    let sealed = seal(&mut app, call, &[&X25519.public, &"files", &1]).unwrap();
    assert_eq!(X25519.open(&sealed.bytes, &Bound { version: 1, ..derived }), of(&first, "files"));
    for purpose in ["", &"x".repeat(256)] {
        expect_vault_error(seal_derived(&mut app, &X25519.public, purpose), "22023");
    }
    expect_vault_error(seal(&mut app, call, &[&X25519.public, &None::<&str>, &1]), "22023");
}

#[test]
fn the_predecessor_s_mission_grants_can_be_reproduced() {
    const MISSION: &str = "mana-ai-mission-grant:v1:tables=notes,tasks:ids=notes:n1,tasks:t1";
    // Computed with Python's cryptography; the master key is 01 02 .. 20.
    const KEY: &str = "7538df66c51d3ddb667c0135feb4ac7c2800ba372babc7e61e9423d6a9a65628";
    let db = shared_db();
    let master_key: Vec<u8> = (1..=32).collect();
    let iv = [9; 12];
    insert_predecessor_row(&db, "alice", &base64(&wrap(&PREDECESSOR_KEK, &iv, &master_key)), &base64(&iv));
    let mut app = db.app_for("alice");
    assert_eq!(decode(&fetch(&mut app).unwrap().master_key), master_key);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let bound = Bound { kind: "hkdf", purpose: &format!("{}:{MISSION}", hex(b"mission-abc")), ..MASTER };
    for pair in [&RSA, &X25519] {
        let sealed = seal_general(&mut app, &pair.public, b"mission-abc", MISSION).unwrap();
        assert_eq!((sealed.key_version, sealed.kek_id.as_str()), (1, "env-v1"));
        assert_eq!(hex(&pair.open(&sealed.bytes, &bound)), KEY);
    }
    let sealed = seal_general(&mut app, &X25519.public, b"mission-abc", MISSION).unwrap();
    for purpose in
        [MISSION.to_owned(), format!("{}:{MISSION}", hex(b"mission-abd")), format!("{}:x", hex(b"mission-abc"))]
    {
        let kind = if purpose == MISSION { "derived" } else { "hkdf" };
        X25519.does_not_open(&sealed.bytes, &Bound { kind, purpose: &purpose, ..bound });
    }
    let unsealed = app.query_one("SELECT vault_derive_key($1::bytea, $2)", &[&&b"mission-abc"[..], &MISSION]).unwrap();
    assert_eq!(hex(unsealed.get(0)), KEY);
    // Neither a salt nor an info is needed; what the vault derives for itself is out of reach.
    let sealed = seal_general(&mut app, &RSA.public, b"", "").unwrap();
    assert_eq!(RSA.open(&sealed.bytes, &bound), hkdf(&master_key, b"", b""));
    for info in ["vault_ext.", "vault_ext.data-key.v1\0\u{4}data"] {
        let info = info.replace('\0', "");
        expect_vault_error(seal_general(&mut app, &RSA.public, b"x", &info), "22023");
    }
    expect_vault_error(seal_general(&mut app, &RSA.public, &[0; 65536], "x"), "22023");
    let call = "vault_seal_derived_key($1, $2::bytea, $3)";
    expect_vault_error(seal(&mut app, call, &[&RSA.public, &None::<&[u8]>, &"x"]), "22023");
    assert_eq!(
        trail_of(&db, "alice")[1],
        format!("seal 200 {} mana-ai-mission-grant:v1:tables=notes,tasks:ids=notes:n1", RSA.fingerprint())
    );
}

#[test]
fn a_bad_public_key_is_refused_with_a_hint_and_a_row_and_never_shown() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    init(&mut app).unwrap();
    let small = Pair::new(&["RSA", "-pkeyopt", "rsa_keygen_bits:1024"]);
    let ed25519 = Pair::new(&["ED25519"]);
    let zero = base64(&[0; 32]);
    let cut = RSA.public.replacen('A', "", 1);
    let bad = [
        ("", "neither"),
        ("hello", "neither"),
        (zero.as_str(), "low order"),
        (small.public.as_str(), "1024 bits"),
        (ed25519.public.as_str(), "1.3.101.112"),
        (cut.as_str(), "malformed"),
    ];
    for (public_key, message) in bad {
        let refusal = expect_vault_error(seal_master(&mut app, public_key), "22023");
        assert!(refusal.message.contains(message), "{public_key}: {refusal:?}");
        let text = public_key.trim();
        assert!(text.is_empty() || !refusal.text().contains(text), "{refusal:?}");
        expect_vault_error(seal_derived(&mut app, public_key, "files"), "22023");
        expect_vault_error(seal_general(&mut app, public_key, b"x", "files"), "22023");
    }
    expect_vault_error(seal(&mut app, "vault_seal_master_key(NULL)", &[]), "22023");
    let rows = trail_of(&db, "alice");
    assert_eq!(rows.len(), 1 + 3 * bad.len() + 1);
    assert!(rows[1..].iter().all(|row| row == "seal 400 bad-public-key"), "{rows:?}");

    let mut said = Vec::new();
    for pair in [&*X25519, &*RSA, &ed25519] {
        let refusal = expect_vault_error(seal_master(&mut app, &pair.private_pem()), "22023");
        assert!(refusal.hint.as_ref().is_some_and(|hint| hint.contains("exposed")), "{refusal:?}");
        said.push(refusal.text());
    }
    assert_eq!(trail_of(&db, "alice").iter().filter(|row| *row == "seal 400 private-key").count(), 3);
    said.extend(db.audit().into_iter().filter_map(|row| row.context));
    let body =
        |pair: &Pair| decode(&pair.private_pem().lines().filter(|line| !line.starts_with('-')).collect::<String>());
    // The beginning of the DER is the same in each key.
    let secrets: Vec<_> = [&*X25519, &ed25519].map(|pair| body(pair)[16..].to_vec()).into();
    for text in &said {
        assert!(!text.contains("MC4CAQ") && !text.contains("PRIVATE KEY-"), "{text}");
    }
    assert_no_secrets_but_in_parameters(&db, &said, &secrets);
}

/// With `log_statement = all` the shared server logs the parameters of each call, private keys among them.
fn assert_no_secrets_but_in_parameters(db: &Db, texts: &[String], keys: &[Vec<u8>]) {
    let traces: Vec<String> = keys.iter().map(|key| base64(key)).collect();
    let log = db.cluster.log();
    let lines = log.lines().filter(|line| line.contains("ERROR") || line.contains("HINT") || line.contains("WARNING"));
    for text in lines.map(str::to_owned).chain(texts.iter().cloned()) {
        assert!(traces.iter().all(|trace| !text.contains(&trace[..20])), "{text}");
    }
}

#[test]
fn no_key_is_in_the_answer_or_the_log() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().conf("log_statement = all").start();
    let db = cluster.database("d");
    let mut app = db.app_for("alice");
    let key = decode(&init(&mut app).unwrap().master_key);
    let purpose = [b"vault_ext.derived-key.v1".as_slice(), b"\0\x05files"].concat();
    let keys = [key.clone(), hkdf(&key, b"", &purpose), hkdf(&key, b"salt", b"info"), kek(1).to_vec()];
    let mut answers = Vec::new();
    for public in [&X25519.public, &RSA.public] {
        for call in [
            format!("vault_seal_master_key('{public}')"),
            format!("vault_seal_derived_key('{public}', 'files')"),
            format!("vault_seal_derived_key('{public}', 'salt'::bytea, 'info')"),
        ] {
            for message in app.simple_query(&format!("SELECT * FROM {call}")).unwrap() {
                if let SimpleQueryMessage::Row(row) = message {
                    answers.extend((0..row.len()).map(|i| row.get(i).unwrap_or_default().to_owned()));
                }
            }
        }
    }
    assert_eq!(answers.len(), 6 * 5);
    answers.extend(db.audit().iter().map(|row| format!("{row:?}")));
    assert_no_secrets(&cluster, &answers, &keys);
}

#[test]
fn each_sealing_has_a_row_with_the_fingerprint() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    expect_vault_error(seal_master(&mut app, &X25519.public), "P0002");
    init(&mut app).unwrap();
    app.batch_execute("BEGIN READ ONLY").unwrap();
    seal_master(&mut app, &X25519.public).unwrap();
    assert_eq!(db.audit_of("alice").len(), 3, "the row is there before the transaction ends");
    app.batch_execute("ROLLBACK").unwrap();
    seal_derived(&mut app, &RSA.public, "line\nfeed").unwrap();
    seal_derived(&mut app, &RSA.public, &"ü".repeat(100)).unwrap();
    let rows = db.audit_of("alice");
    let what: Vec<_> = rows.iter().map(AuditRow::what).collect();
    let (x25519, rsa) = (X25519.fingerprint(), RSA.fingerprint());
    assert_eq!(what[0], ("seal", 404, Some("not-initialised")));
    assert_eq!(what[2], ("seal", 200, Some(x25519.as_str())));
    assert_eq!(what[3], ("seal", 200, Some(format!("{rsa} line\\u{{a}}feed").as_str())));
    assert_eq!(what[4], ("seal", 200, Some(format!("{rsa} {}", "ü".repeat(28)).as_str())));
    for row in &rows[2..] {
        assert_eq!((row.key_version, row.kek_id.as_deref()), (Some(1), Some("wire-1")));
    }
    // A call without a user, and one whose row cannot be written.
    expect_vault_error(seal_master(&mut db.app(), &X25519.public), "28000");
    assert_eq!(db.audit().last().unwrap().what(), ("seal", 401, Some("no-identity")));
    let mut locker = db.superuser();
    locker.batch_execute("BEGIN; LOCK TABLE vault_ext.encryption_vault_audit IN ACCESS EXCLUSIVE MODE").unwrap();
    let mut hurried = db.superuser();
    hurried.batch_execute("SET vault_ext.audit_timeout = 300; SET app.current_user_id = 'alice'").unwrap();
    expect_vault_error(seal_master(&mut hurried, &X25519.public), "55000");
    locker.batch_execute("ROLLBACK").unwrap();
}

#[test]
fn each_version_is_sealed_as_itself_unless_it_is_closed() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    let mut keys = vec![init(&mut app).unwrap()];
    for _ in 0..2 {
        keys.push(rotate(&mut app).unwrap());
    }
    for (version, key) in (1..).zip(&keys) {
        let sealed = seal_version(&mut app, &X25519.public, version).unwrap();
        assert_eq!(sealed.key_version, version);
        assert_eq!(X25519.open(&sealed.bytes, &Bound { version, ..MASTER }), decode(&key.master_key));
    }
    assert_eq!(seal_master(&mut app, &X25519.public).unwrap().key_version, 3);
    app.query("SELECT vault_disable_key_version(1)", &[]).unwrap();
    app.query("SELECT vault_retire_key_version(2)", &[]).unwrap();
    for version in [1, 2] {
        expect_vault_error(seal_version(&mut app, &X25519.public, version), "55000");
    }
    expect_vault_error(seal_version(&mut app, &X25519.public, 9), "P0002");
    let rows = trail_of(&db, "alice");
    let refused = ["seal 409 version-disabled", "seal 409 version-destroy-scheduled", "seal 404 no-version"];
    assert_eq!(rows[rows.len() - 3..], refused);
}

/// Leaves the user's vault in zero-knowledge mode, with a recovery wrap.
pub fn go_zero_knowledge(db: &Db, user: &str) {
    db.force(&format!(
        "UPDATE vault_ext.encryption_vaults SET wrapped_mk = NULL, wrap_iv = NULL, zero_knowledge = true,
             recovery_wrapped_mk = repeat('r', 64), recovery_iv = repeat('i', 16), recovery_set_at = '2026-02-03 04:05:06.789+00'
         WHERE user_id = '{user}'"
    ));
}

#[test]
fn nothing_is_sealed_in_zero_knowledge_mode() {
    let db = shared_db();
    let mut app = db.app_for("alice");
    init(&mut app).unwrap();
    go_zero_knowledge(&db, "alice");
    expect_vault_error(seal_master(&mut app, &X25519.public), "55000");
    expect_vault_error(seal_version(&mut app, &X25519.public, 1), "55000");
    expect_vault_error(seal_derived(&mut app, &X25519.public, "files"), "55000");
    expect_vault_error(seal_general(&mut app, &X25519.public, b"x", "y"), "55000");
    assert_eq!(trail_of(&db, "alice")[1..], ["seal 409 zk-active"; 4]);
}

#[test]
fn only_users_seal() {
    let db = shared_db();
    init(&mut db.app_for("alice")).unwrap();
    for role in ["wire_crypt", "wire_admin", "wire_auditor", "wire_service", "wire_stranger"] {
        let mut client = db.conn(role);
        crate::harness::set_user(&mut client, "alice");
        expect_error(seal_master(&mut client, &X25519.public), "42501");
        expect_error(seal_derived(&mut client, &X25519.public, "files"), "42501");
        expect_error(seal_general(&mut client, &X25519.public, b"x", "y"), "42501");
    }
}

#[test]
fn a_token_says_whose_key_is_sealed() {
    let (db, keys) = token_db();
    let mut app = db.app();
    expect_vault_error(seal_master(&mut app, &X25519.public), "28000");
    assert_eq!(db.audit().last().unwrap().what(), ("seal", 401, Some("no-token")));
    app.query("SELECT vault_init($1::text)", &[&keys[0].token_of("alice")]).unwrap();
    app.batch_execute("BEGIN").unwrap();
    app.query("SELECT vault_login($1)", &[&keys[0].token_of("alice")]).unwrap();
    let key = decode(&fetch(&mut app).unwrap().master_key);
    let sealed = seal_master(&mut app, &X25519.public).unwrap();
    app.batch_execute("COMMIT").unwrap();
    assert_eq!(X25519.open(&sealed.bytes, &Bound { user: "u-alice", ..MASTER }), key);
}

#[test]
fn a_sealed_key_needs_the_scope_of_a_fetch() {
    let signer = Signer::new("EdDSA", "k");
    let mut cluster = Cluster::builder().keyring(&keyring_line("wire-1", &kek(1))).without_fsync().prepare();
    let mut idp = issuer("idp", ISS, &[&signer]);
    idp["scope"] = json!({"fetch": "keys.read"});
    let file = cluster.write_kek("issuers", issuers(&[idp]), 0o600);
    cluster.configure(&format!("vault_ext.issuers_file = '{}'", file.display()));
    cluster.configure("vault_ext.identity = 'token'");
    cluster.start();
    let db = cluster.database("d");
    let mut app = db.app();
    let mut allowed = claims("alice");
    allowed["scope"] = json!("keys.read");
    app.query("SELECT vault_init($1::text)", &[&signer.token(&allowed)]).unwrap();
    let mut with = |token: &str| {
        app.query("SELECT set_config('vault_ext.token', $1, false)", &[&token]).unwrap();
        seal_master(&mut app, &X25519.public)
    };
    expect_vault_error(with(&signer.token(&claims("alice"))), "42501");
    with(&signer.token(&allowed)).unwrap();
    let seals = db.audit_where("action = 'seal'");
    assert_eq!(seals.iter().map(|row| row.status).collect::<Vec<_>>(), [403, 200]);
}
