//! docs/reference: what stands there between two marks is made from an installed catalog and from the sources. `UPDATE_GOLDEN=1` writes it
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use vault_core::audit::record::Action;

use crate::harness::{Db, bindir, shared_db, succeed};
use crate::psql_width::WIDE;

const END: &str = "<!-- end -->";

fn path(page: &str) -> String {
    format!("{}/docs/reference/{page}.md", env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

/// A page with its generated parts made anew. A part is asked for by `<!-- generated: KIND NAME… -->`.
fn render(page: &str, mut part: impl FnMut(&str, &[&str]) -> String) -> String {
    let (mut rendered, mut inside) = (String::new(), false);
    for line in page.lines() {
        if line == END {
            inside = false;
        }
        if !inside {
            rendered += &format!("{line}\n");
        }
        if let Some(mark) = line.strip_prefix("<!-- generated: ").and_then(|mark| mark.strip_suffix(" -->")) {
            assert!(!inside, "{line} comes before the end of the part before");
            inside = true;
            let words: Vec<_> = mark.split_whitespace().collect();
            rendered += &format!("\n{}\n\n", part(words[0], &words[1..]).trim_end());
        }
    }
    assert!(!inside, "a part has no end");
    rendered
}

/// Compares a page with what it should be.
fn check(page: &str, part: impl FnMut(&str, &[&str]) -> String) {
    let path = path(page);
    let found = read(&path);
    let wanted = render(&found, part);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &wanted).expect("the page is writable");
        return;
    }
    let only = |one: &str, other: &str| -> Vec<String> {
        one.lines().filter(|line| !other.lines().any(|found| found == *line)).map(str::to_owned).collect()
    };
    let (lacks, has) = (only(&wanted, &found), only(&found, &wanted));
    assert!(
        found == wanted,
        "docs/reference/{page}.md is stale (UPDATE_GOLDEN=1 writes it): it lacks {lacks:#?} and should not have {has:#?}"
    );
}

/// Takes the parts of the names from everything that there is, and fails if one is unknown. What is left has no place in the page.
fn take(all: &mut BTreeMap<String, String>, names: &[&str]) -> String {
    names
        .iter()
        .map(|name| all.remove(*name).unwrap_or_else(|| panic!("there is no {name}, or it is named twice")))
        .collect()
}

fn rows(db: &Db, sql: &str) -> Vec<postgres::Row> {
    db.superuser().query(sql, &[]).unwrap_or_else(|e| panic!("{sql}: {e:?}"))
}

fn code_list(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Breaks a signature between its arguments.
fn wrapped(signature: &str) -> String {
    let (mut lines, mut line) = (String::new(), String::new());
    for word in signature.split_inclusive(", ") {
        if line.len() + word.trim_end().len() > 110 {
            lines += &format!("{}\n    ", line.trim_end());
            line.clear();
        }
        line += word;
    }
    lines + &line
}

/// A comment as a sentence of a page: it begins with a capital letter, unless that is the name of something.
fn sentence(comment: &str) -> String {
    let first = comment.split([' ', ',']).next().unwrap_or_default();
    let text = comment.replace('*', "\\*").replace('|', "\\|");
    if first.contains(['_', '(']) { text } else { text[..1].to_uppercase() + &text[1..] }
}

/// Who may call or read, beside the owner.
const GRANTEES: &str = "ARRAY(SELECT grantee::regrole::text FROM aclexplode(acl) WHERE grantee <> owner AND privilege_type IN ('EXECUTE', 'SELECT') ORDER BY 1)";

/// The functions and procedures by their names, each with a heading; functions of one name share it.
fn functions(db: &Db) -> BTreeMap<String, String> {
    let sql = format!(
        "SELECT name, kind, arguments, result, comment, {GRANTEES} FROM (
            SELECT CASE WHEN pronamespace = 'vault_ext'::regnamespace THEN 'vault_ext.' ELSE '' END || proname AS name, prokind::text AS kind,
                pg_get_function_arguments(p.oid) AS arguments, pg_get_function_result(p.oid) AS result,
                obj_description(p.oid, 'pg_proc') AS comment, proacl AS acl, proowner AS owner
            FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
            JOIN pg_extension e ON e.oid = d.refobjid AND extname = 'vault_ext') f ORDER BY name, length(arguments), arguments"
    );
    let mut functions = BTreeMap::new();
    for row in rows(db, &sql) {
        let (name, kind, arguments, result): (String, String, String, Option<String>) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let (comment, grantees): (String, Vec<String>) = (row.get(4), row.get(5));
        let signature = match kind.as_str() {
            "p" => format!("CALL {name}({arguments})"),
            _ => format!("{name}({arguments}) RETURNS {}", result.expect("a result")),
        };
        let roles = if grantees.is_empty() { "nobody: the vault itself".to_owned() } else { code_list(&grantees) };
        let text: &mut String = functions.entry(name.clone()).or_insert_with(|| format!("### {name}\n\n"));
        text.push_str(&format!(
            "```text\n{}\n```\n\n{}. Callers: {roles}.\n\n",
            wrapped(&signature),
            sentence(&comment)
        ));
    }
    functions
}

#[test]
fn the_page_of_functions_is_that_of_the_catalog() {
    let mut functions = functions(&shared_db());
    check("functions", |kind, names| match kind {
        "functions" => take(&mut functions, names),
        "wide" => WIDE.iter().map(|(name, why)| format!("- `{name}`: {why}\n")).collect(),
        _ => panic!("{kind}"),
    });
    assert!(functions.is_empty(), "no part names {:?}", functions.keys());
}

/// A number of a setting with its unit, as one writes it in postgresql.conf.
fn value(number: &str, unit: Option<&str>) -> String {
    let (Ok(number), Some(unit)) = (number.parse::<i64>(), unit) else { return number.to_owned() };
    let ms = number * if unit == "s" { 1000 } else { 1 };
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s"), (1, "ms")];
    let (size, name) = units.into_iter().find(|(size, _)| ms != 0 && ms % size == 0).unwrap_or((1, ""));
    format!("{}{name}", ms / size)
}

fn settings(db: &Db) -> BTreeMap<String, String> {
    let sql =
        "SELECT name, boot_val, unit, vartype, min_val, max_val, enumvals, context, short_desc || ' ' || extra_desc
        FROM pg_settings WHERE name LIKE 'vault\\_ext.%'";
    let line = |row: &postgres::Row| {
        let name: String = row.get(0);
        let (boot, unit): (Option<String>, Option<String>) = (row.get(1), row.get(2));
        let of = |number: Option<&str>| value(number.unwrap_or_default(), unit.as_deref());
        let values = match row.get::<_, &str>(3) {
            "bool" => "on, off".to_owned(),
            "enum" => row.get::<_, Vec<String>>(6).join(", "),
            "integer" => format!("{} to {}", of(row.get(4)), of(row.get(5))),
            _ => "text".to_owned(),
        };
        let changes = match row.get::<_, &str>(7) {
            "postmaster" => "restart",
            "sighup" => "reload",
            "superuser" => "superusers",
            "user" => "everybody",
            other => panic!("{other}"),
        };
        let (default, meaning) = (of(boot.as_deref()), sentence(row.get(8)));
        let default = if default.is_empty() { default } else { format!("`{default}`") };
        (name.clone(), format!("| `{name}` | {default} | {values} | {changes} | {meaning} |\n"))
    };
    rows(db, sql).iter().map(line).collect()
}

#[test]
fn the_page_of_settings_is_that_of_the_catalog() {
    let db = shared_db();
    let mut settings = settings(&db);
    check("settings", |_, names| {
        let names: Vec<_> = names.iter().map(|name| format!("vault_ext.{name}")).collect();
        let lines = take(&mut settings, &names.iter().map(String::as_str).collect::<Vec<_>>());
        format!("| setting | default | values | change | meaning |\n|---|---|---|---|---|\n{lines}")
    });
    assert!(settings.is_empty(), "no part names {:?}", settings.keys());
    // The only one that is in no view.
    assert!(read(path("settings")).contains("`vault_ext.token`"));
    db.superuser().batch_execute("SHOW vault_ext.token").unwrap();
}

#[test]
fn the_page_of_roles_is_that_of_the_catalog() {
    let db = shared_db();
    let sql = "SELECT rolname::text, shobj_description(r.oid, 'pg_authid'),
            ARRAY(SELECT DISTINCT CASE WHEN pronamespace = 'vault_ext'::regnamespace THEN 'vault_ext.' ELSE '' END || proname || '()'
                FROM pg_proc, aclexplode(proacl) WHERE grantee = r.oid AND proowner = 'vault_ext_owner'::regrole ORDER BY 1),
            ARRAY(SELECT c.oid::regclass::text || CASE privilege_type WHEN 'SELECT' THEN '' ELSE ' (' || privilege_type || ')' END
                FROM pg_class c, aclexplode(relacl) WHERE grantee = r.oid AND relnamespace = 'vault_ext'::regnamespace ORDER BY 1)
        FROM pg_roles r WHERE rolname LIKE 'vault\\_ext\\_%' AND rolname <> 'vault_ext_owner' OR rolname = 'pg_monitor' ORDER BY 1";
    let list = |names: Vec<String>| if names.is_empty() { "nothing".to_owned() } else { code_list(&names) };
    let mut roles: BTreeMap<String, String> = rows(&db, sql)
        .iter()
        .map(|row| {
            let name: String = row.get(0);
            let (calls, reads) = (list(row.get(2)), list(row.get(3)));
            let purpose = if name == "pg_monitor" { "PostgreSQL's role for monitoring" } else { row.get(1) };
            (name.clone(), format!("### {name}\n\n{}.\n\n- calls {calls}\n- reads {reads}\n\n", sentence(purpose)))
        })
        .collect();
    check("roles", |_, names| take(&mut roles, names));
    assert!(roles.is_empty(), "no part names {:?}", roles.keys());
}

#[test]
fn the_page_of_views_and_the_list_of_actions_are_those_of_the_catalog_and_the_code() {
    let db = shared_db();
    let sql = format!(
        "SELECT name, comment, {GRANTEES}, ARRAY(SELECT format('| `%s` | %s | %s |', attname, format_type(atttypid, atttypmod), col_description(attrelid, attnum))
                FROM pg_attribute WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped ORDER BY attnum)
        FROM (SELECT oid::regclass::text AS name, oid AS relation, obj_description(oid, 'pg_class') AS comment, relacl AS acl, relowner AS owner
            FROM pg_class WHERE relkind IN ('r', 'v') AND relnamespace = 'vault_ext'::regnamespace) c"
    );
    let mut relations: BTreeMap<String, String> = rows(&db, &sql)
        .iter()
        .map(|row| {
            let (name, comment, readers): (String, String, Vec<String>) = (row.get(0), row.get(1), row.get(2));
            let readers = if readers.is_empty() { "superusers alone".to_owned() } else { code_list(&readers) };
            let columns = row.get::<_, Vec<String>>(3).join("\n");
            let head = format!(
                "### {name}\n\n{}. Readers: {readers}.\n\n| column | type | meaning |\n|---|---|---|\n",
                sentence(&comment)
            );
            (name, format!("{head}{columns}\n\n"))
        })
        .collect();
    check("views", |kind, names| match kind {
        "relations" => take(&mut relations, names),
        "actions" => code_list(&Action::ALL.map(|action| action.name().to_owned())),
        _ => panic!("{kind}"),
    });
    assert!(relations.is_empty(), "no part names {:?}", relations.keys());
}

/// The SQLSTATE and PL/pgSQL's name behind each macro of PostgreSQL, `ERRCODE_…`.
fn sqlstates() -> BTreeMap<String, (String, String)> {
    let sharedir = succeed(Command::new(bindir().join("pg_config")).arg("--sharedir"));
    let lines = read(Path::new(sharedir.trim()).join("errcodes.txt"));
    let fields = lines.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields
        .filter(|fields| fields.len() == 4 && !fields[0].starts_with('#'))
        .map(|fields| (fields[2].to_owned(), (fields[0].to_owned(), fields[3].to_owned())))
        .collect()
}

#[test]
fn the_page_of_errors_has_every_sqlstate_that_the_code_can_raise_and_no_other() {
    let known = sqlstates();
    let mut raised = BTreeMap::<(String, String), BTreeSet<String>>::new();
    let mut files: Vec<_> =
        fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/error")).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    for file in files {
        let (source, subject) = (read(&file), file.file_stem().unwrap().to_str().unwrap().to_owned());
        for after in source.split("PgSqlErrorCode::").skip(1) {
            let name =
                after.split(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit() && c != '_').next().unwrap();
            if name.starts_with("ERRCODE_") {
                let state = known.get(name).unwrap_or_else(|| panic!("{name} is not in errcodes.txt")).clone();
                raised.entry(state).or_default().insert(if subject == "mod" {
                    "vault".into()
                } else {
                    subject.clone()
                });
            }
        }
    }
    // What the scripts raise that install and update.
    let scripts = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/sql")).unwrap().map(|f| f.unwrap().path());
    for script in scripts.filter(|path| path.extension().is_some_and(|e| e == "sql")) {
        for after in read(&script).split("ERRCODE = '").skip(1) {
            let name = after.split('\'').next().unwrap();
            let state = known.values().find(|(_, condition)| condition == name).unwrap_or_else(|| panic!("{name}"));
            raised.entry(state.clone()).or_default().insert("installation".into());
        }
    }
    assert!(raised.len() > 15, "{raised:?}");
    check("errors", |_, _| {
        let line = |((state, name), subjects): (&(String, String), &BTreeSet<String>)| {
            format!("| {state} | `{name}` | {} |\n", subjects.iter().cloned().collect::<Vec<_>>().join(", "))
        };
        let lines: String = raised.iter().map(line).collect();
        format!("| SQLSTATE | in PL/pgSQL | raised about |\n|---|---|---|\n{lines}")
    });
    let page = read(path("errors"));
    let (failures, _) = page.split_once("<!-- generated").expect("the generated part comes after the failures");
    let listed: BTreeSet<&str> = failures
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.rsplit_once("| "))
        .flat_map(|(_, states)| states.split(|c: char| !c.is_ascii_alphanumeric()))
        .filter(|word| word.len() == 5 && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit()))
        .collect();
    let raised: BTreeSet<&str> = raised.keys().map(|(state, _)| state.as_str()).collect();
    assert_eq!(listed, raised, "the table of failures, and the code");
}
