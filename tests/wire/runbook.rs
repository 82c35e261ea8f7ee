//! Runs the KEK runbook from start to end on fresh servers, as a new DBA would, and compares the outputs with those it
//! shows. `UPDATE_GOLDEN=1` writes the new outputs into the runbook.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::harness::{Cluster, PREDECESSOR_KEK, base64, bindir, chown_to_server, scratch_dir, server_command};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/kek-runbook.md");

/// The predecessor's table: one user, with the test vector of its format.
const PREDECESSOR: &str = "
    CREATE SCHEMA auth;
    CREATE TABLE auth.encryption_vaults (user_id text PRIMARY KEY, wrapped_mk text, wrap_iv text, format_version smallint,
        kek_id text, created_at timestamptz, rotated_at timestamptz);
    INSERT INTO auth.encryption_vaults VALUES ('zoe', 'EkoYuy/eugLj+TUwymd4xT07qypjikNu+XfObRXpLsp1LPM+pXxISRohaJtl0f9/',
        'EBESExQVFhcYGRob', 1, 'env-v1', '2025-01-01', NULL)";

/// A fenced block: the words after the opening fence, and its lines.
struct Block {
    kind: String,
    text: String,
    /// The number of the line after the opening fence, from 0.
    at: usize,
}

fn blocks(document: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for (number, line) in document.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(kind) if !open => {
                blocks.push(Block { kind: kind.to_owned(), text: String::new(), at: number + 1 });
                open = true;
            }
            Some(_) => open = false,
            None if open => {
                let block = blocks.last_mut().expect("a block is open");
                block.text += line;
                block.text += "\n";
            }
            None => {}
        }
    }
    assert!(!open, "the last block has no end");
    blocks
}

struct Walk {
    safe: PathBuf,
    server: Cluster,
    new_server: Cluster,
}

impl Walk {
    fn begin() -> Self {
        let safe = scratch_dir();
        let fresh = || Cluster::builder().not_preloaded().without_fsync().start();
        Self { safe, server: fresh(), new_server: fresh() }
    }

    /// Runs a block and returns its output and whether it succeeded.
    fn run(&self, kind: &str, text: &str) -> (String, bool) {
        let words: Vec<_> = kind.split(' ').collect();
        let server = if words.last() == Some(&"new") { &self.new_server } else { &self.server };
        let mut command = match words[..] {
            ["sh", ..] => {
                let mut command = server_command("/bin/bash", server.dir());
                command.args(["-euo", "pipefail", "-c", &self.adapt_paths(server, text)]);
                command.env("PGUSER", "postgres");
                command
            }
            ["sql", role, ..] => {
                let user = match role {
                    "superuser" => "postgres",
                    "admin" => "key_admin",
                    "app" => "my_app",
                    other => panic!("unknown role {other}"),
                };
                let mut command = server_command(bindir().join("psql"), server.dir());
                command.args(["-X", "-v", "ON_ERROR_STOP=1", "-U", user, "-d", "app"]);
                for statement in statements(text) {
                    command.args(["-c", &statement]);
                }
                command
            }
            _ => panic!("unknown kind of block: {kind}"),
        };
        // Not a pipe, because a server started by the block would keep it open.
        let path = self.safe.join("output");
        let output = File::create(&path).expect("a file for the output");
        let status = command
            .env("PGHOST", server.dir())
            .env("PGPORT", server.port().to_string())
            .env("PGDATA", server.data())
            .env("OLD_KEK", base64(&PREDECESSOR_KEK))
            .env("PATH", format!("{}:{}", bindir().display(), std::env::var("PATH").unwrap_or_default()))
            .stdout(output.try_clone().expect("the same file"))
            .stderr(output)
            .status()
            .expect("the block starts");
        (fs::read_to_string(path).expect("the output"), status.success())
    }

    /// Replaces paths and options that need root or a private /etc, which the test does not have.
    fn adapt_paths(&self, server: &Cluster, text: &str) -> String {
        text.replace("/etc/vault_ext", &server.dir().join("etc").display().to_string())
            .replace("/mnt/safe", &self.safe.display().to_string())
            .replace("-o postgres -g postgres ", "")
    }
}

fn statements(text: &str) -> Vec<String> {
    let mut statements = vec![String::new()];
    for line in text.lines() {
        let last = statements.last_mut().expect("one is there");
        *last += line;
        *last += "\n";
        let code = line.split(" --").next().unwrap_or_default().trim_end();
        if code.ends_with(';') {
            statements.push(String::new());
        }
    }
    statements.retain(|statement| !statement.trim().is_empty());
    statements
}

/// Replaces dates and check values, which differ in each run, with fixed ones.
fn normalised(text: &str) -> String {
    let mut result = String::new();
    for part in text.trim_end().split_inclusive(|c: char| !(c.is_ascii_alphanumeric() || c == '-')) {
        let word = part.trim_end_matches(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        let is_check = word.len() == 32 && word.chars().all(|c| c.is_ascii_hexdigit());
        let is_date = word.len() == 10
            && word.char_indices().all(|(i, c)| if i == 4 || i == 7 { c == '-' } else { c.is_ascii_digit() });
        match word {
            _ if is_check => result += &part.replace(word, "9a7eb36f2af1cd36e1ef4272d593dc59"),
            _ if is_date => result += &part.replace(word, "2026-11-24"),
            _ => result += part,
        }
    }
    result.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

fn with_outputs(document: &str, outputs: &[(usize, String)]) -> String {
    let lines: Vec<_> = document.lines().collect();
    let mut result = String::new();
    let mut number = 0;
    while number < lines.len() {
        if let Some((_, output)) = outputs.iter().find(|(at, _)| *at == number) {
            result += output;
            result += "\n";
            while lines[number] != "```" {
                number += 1;
            }
        }
        result += lines[number];
        result += "\n";
        number += 1;
    }
    result
}

#[test]
fn the_runbook_works_from_start_to_end() {
    let document = fs::read_to_string(Path::new(PATH)).expect("the runbook");
    let blocks = blocks(&document);
    let walk = Walk::begin();
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut outputs = Vec::new();
    let mut commands = 0;
    for (block, next) in blocks.iter().zip(blocks.iter().skip(1).map(Some).chain([None])) {
        if block.kind == "text" {
            continue;
        }
        if block.text.contains("FROM auth.encryption_vaults") {
            walk.server.superuser("app").batch_execute(PREDECESSOR).expect("the predecessor's table");
        }
        let expected = next.filter(|next| next.kind == "text");
        let (output, succeeded) = walk.run(&block.kind, &block.text);
        let output = normalised(&output);
        let line = block.at + 1;
        commands += 1;
        match expected {
            Some(expected) if update => outputs.push((expected.at, output.clone())),
            Some(expected) => assert_eq!(output, normalised(&expected.text), "the block at line {line}"),
            None => {}
        }
        let refused = expected.is_some_and(|_| output.contains("ERROR:"));
        assert!(succeeded || refused, "the block at line {line} failed:\n{output}");
    }
    assert!(commands > 25, "{commands} blocks");
    if update {
        fs::write(PATH, with_outputs(&document, &outputs)).expect("the runbook is writable");
    }
    chown_to_server(&walk.safe);
    crate::harness::assert_no_secrets(&walk.server, &[], &[PREDECESSOR_KEK.to_vec()]);
}
