//! The commands of the documentation, run one after the other as they stand there.

use std::process::Command;

use crate::harness::{Cluster, fetch, init, kek, keyring_line, scratch_dir, succeed};

/// The lines of all blocks of shell commands.
pub fn commands(document: &str) -> String {
    let mut commands = String::new();
    let mut inside = false;
    for line in document.lines().map(|line| line.strip_prefix("   ").unwrap_or(line)) {
        match line.strip_prefix("```") {
            Some(kind) => inside = kind == "sh",
            None if inside => commands += &format!("{line}\n"),
            None => {}
        }
    }
    commands
}

const KEYS: &str = include_str!("../../docs/keys.md");

/// The part of a document that begins with this heading.
pub fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let start = document.find(&format!("\n## {heading}")).expect("the heading") + 1;
    let rest = &document[start..];
    rest[3..].find("\n## ").map_or(rest, |end| &rest[..end + 3])
}

/// The blocks of SQL and what stands behind their `sql`.
pub fn sql_blocks(document: &str) -> Vec<(String, String)> {
    let mut blocks: Vec<(String, String)> = Vec::new();
    let mut inside = false;
    for line in document.lines() {
        match (line.strip_prefix("```"), inside) {
            (Some(kind), false) if kind.starts_with("sql") => {
                blocks.push((kind[3..].trim().to_owned(), String::new()));
                inside = true;
            }
            (Some(_), _) => inside = false,
            (None, true) => blocks.last_mut().expect("a block").1 += &format!("{line}\n"),
            (None, false) => {}
        }
    }
    blocks
}

#[test]
fn the_documented_way_leads_from_the_first_column_to_a_finished_rotation() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.database("d");
    let psql = |role: &str, sql: &str| {
        let mut psql = cluster.program("psql", role);
        succeed(psql.args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", "d", "-c", sql]))
    };
    let blocks = sql_blocks(section(KEYS, "Encryption in SQL"));
    assert_eq!(blocks.len(), 6, "{blocks:?}");
    for (kind, sql) in blocks {
        match kind.as_str() {
            "superuser" => drop(psql("postgres", &sql)),
            "repeat" => while !psql("notes_app", &sql).contains("UPDATE 0") {},
            _ => {
                let printed = psql("notes_app", &sql);
                if sql.contains("vault_decrypt_text") {
                    assert!(printed.contains("Buy milk\n2500"), "{printed}");
                }
            }
        }
    }
    let versions: Vec<(i32, i64)> = db
        .superuser()
        .query("SELECT vault_ciphertext_version(body), count(*) FROM notes GROUP BY 1", &[])
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    assert_eq!(versions, [(2, 2500)]);
    let state: String = db.value("SELECT state FROM vault_ext.old_keys");
    assert_eq!(state, "destroy_scheduled");
}

#[test]
fn the_documented_statements_on_versions_and_erasure_work() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.database("d");
    init(&mut db.app_for("alice")).unwrap();
    for (_, sql) in sql_blocks(section(KEYS, "Versions")) {
        db.app().batch_execute(&sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    assert_eq!(fetch(&mut db.app_for("alice")).unwrap().key_version, 2);
    let blocks = sql_blocks(section(KEYS, "Erasure of a person"));
    assert_eq!(blocks.len(), 3, "{blocks:?}");
    for (kind, sql) in blocks {
        // The job of pg_cron is run by hand.
        let sql = if kind == "cron" { sql.split('\'').nth(5).expect("the command").to_owned() } else { sql };
        db.conn("wire_admin").batch_execute(&sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    let states: Vec<String> = db
        .superuser()
        .query("SELECT state FROM vault_erasure_status('alice')", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(states, ["cancelled"]);
}

#[test]
fn the_documented_client_enters_zero_knowledge_mode_and_gets_its_key_back() {
    let document = section(KEYS, "Recovery code and zero-knowledge mode");
    let (_, code) = document.split_once("```python\n").expect("the client");
    let (code, _) = code.split_once("```").expect("its end");
    let python = |main: &str, arguments: &[&str]| {
        let mut python = Command::new("/usr/bin/python3");
        succeed(python.args(["-c", &format!("import sys\n{code}\n{main}")]).args(arguments))
    };
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.database("d");
    let mut app = db.app_for("alice");
    let key = init(&mut app).unwrap().master_key;
    let made = python("c = new_code(); print(c, *wrap(c, base64.b64decode(sys.argv[1])))", &[&key]);
    let [code_of_user, wrapped_mk, iv] = made.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{made}") };
    assert_eq!(code_of_user.len(), 79);
    app.execute("SELECT vault_set_recovery($1, $2)", &[&wrapped_mk, &iv]).unwrap();
    let challenge: Vec<u8> = app.query_one("SELECT vault_recovery_challenge()", &[]).unwrap().get(0);
    let challenge: String = challenge.iter().map(|byte| format!("{byte:02x}")).collect();
    let prove = "print(proof(unwrap(*sys.argv[1:4]), bytes.fromhex(sys.argv[4])).hex())";
    let proof = python(prove, &[code_of_user, wrapped_mk, iv, &challenge]);
    let enable = format!("SELECT vault_enable_zero_knowledge('\\x{}')", proof.trim());
    app.batch_execute(&enable).unwrap();
    let row = app.query_one("SELECT * FROM vault_get_master_key()", &[]).unwrap();
    assert_eq!(row.get::<_, Option<String>>("master_key"), None);
    let (wrapped_mk, iv): (String, String) = (row.get("recovery_wrapped_mk"), row.get("recovery_iv"));
    let opened = python("print(base64.b64encode(unwrap(*sys.argv[1:4])).decode())", &[code_of_user, &wrapped_mk, &iv]);
    assert_eq!(opened.trim(), key);
    app.execute("SELECT vault_disable_zero_knowledge($1)", &[&key]).unwrap();
    assert_eq!(fetch(&mut app).unwrap().master_key, key);
}

/// Bash in a folder of its own, from which the tests' scripts can be called as from the clone.
fn bash(commands: &str) -> Command {
    let dir = scratch_dir();
    std::os::unix::fs::symlink(concat!(env!("CARGO_MANIFEST_DIR"), "/tests"), dir.join("tests")).expect("a link");
    let mut bash = Command::new("/bin/bash");
    // Debian's own Python, for which python3-cryptography is installed.
    bash.args(["-euo", "pipefail", "-c", &format!("python3() {{ /usr/bin/python3 \"$@\"; }}\n{commands}")]);
    bash.current_dir(dir);
    bash
}

#[test]
fn the_documented_recipient_opens_what_was_sealed() {
    let commands = commands(section(KEYS, "Sealed release"));
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let key = init(&mut cluster.database("d").app_for("alice")).unwrap();
    let mut bash = bash(&commands);
    bash.env("PGHOST", cluster.dir()).env("PGPORT", cluster.port().to_string());
    let printed = succeed(bash.env("PGUSER", "wire_app").env("PGDATABASE", "d"));
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines.len(), 2, "the master key and the mission's: {printed}");
    assert_eq!(lines[0], key.master_key);
}

#[test]
fn the_documented_move_brings_every_vault_over() {
    let commands = commands(section(KEYS, "Moving vaults"));
    let start = |seed| {
        let keyring = keyring_line(&format!("k{seed}"), &kek(seed));
        Cluster::builder().keyring(&keyring).without_fsync().start()
    };
    let (one, two) = (start(1), start(2));
    let (source, target) = (one.database("app"), two.database("app"));
    source.force("CREATE TABLE users AS SELECT generate_series(1, 3) AS id; GRANT SELECT ON users TO wire_admin");
    let users = ["1", "2", "3"];
    let keys = users.map(|user| init(&mut source.app_for(user)).unwrap().master_key);
    let connection = |cluster: &Cluster| {
        format!("host={} port={} dbname=app user=wire_admin", cluster.dir().display(), cluster.port())
    };
    succeed(bash(&commands).env("SOURCE", connection(&one)).env("TARGET", connection(&two)));
    assert_eq!(users.map(|user| fetch(&mut target.app_for(user)).unwrap().master_key), keys);
    let setting: String = source.value("SELECT current_setting('vault_ext.export_recipients')");
    assert_eq!(setting, "");
}

#[test]
fn the_documented_limits_and_honey_users_can_be_set_as_they_stand_there() {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.database("d");
    init(&mut db.app_for("user-000017")).unwrap();
    db.force("CREATE ROLE my_app LOGIN; GRANT vault_ext_user TO my_app");
    let blocks = sql_blocks(include_str!("../../docs/alarms.md"));
    assert_eq!(blocks.len(), 4, "{blocks:?}");
    for (_, sql) in blocks {
        let role = if sql.starts_with("ALTER ROLE") { "postgres" } else { "wire_admin" };
        db.conn(role).batch_execute(&sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    let mut app = db.conn("my_app");
    let limits = "SELECT current_setting('vault_ext.max_users_per_minute') || current_setting('vault_ext.alarm_users_per_minute')";
    assert_eq!(app.query_one(limits, &[]).unwrap().get::<_, &str>(0), "1000200");
    assert_eq!(db.value::<String>("SELECT user_id FROM vault_ext.honey_users"), "user-000017");
}
