//! The source has no circle of imports, and `pg` knows nothing of what is built on it. Reads the source as text: `crate::…`,
//! `super::…` and `vault_core::…`. `IMPORTS_DOT=FILE cargo test -p vault_core --test imports` writes the graph of the rooms
//! for Graphviz.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of one crate: each with its file's text.
struct Crate {
    name: &'static str,
    modules: BTreeMap<String, String>,
}

type Graph = BTreeMap<String, BTreeSet<String>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read_modules(dir: &Path, prefix: &str, modules: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).expect("a folder of the source") {
        let path = entry.expect("an entry of it").path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name").to_owned();
        let name = if prefix.is_empty() { stem.clone() } else { format!("{prefix}::{stem}") };
        if path.is_dir() {
            read_modules(&path, &name, modules);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = if stem == "mod" { prefix.to_owned() } else { name };
            modules.insert(name, fs::read_to_string(&path).expect("a source file"));
        }
    }
}

fn read_crate(name: &'static str, dir: &str) -> Crate {
    let mut modules = BTreeMap::new();
    read_modules(&root().join(dir), "", &mut modules);
    // The root declares and starts everything; nobody imports it.
    modules.remove("lib");
    Crate { name, modules }
}

/// The paths that begin with `start`, each as its segments; a list in braces gives one path for each of its parts.
fn paths_after<'a>(text: &'a str, start: &str) -> Vec<Vec<&'a str>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in text.match_indices(start) {
        if text[..at].chars().next_back().is_some_and(|before| is_word(before) || before == ':') {
            continue;
        }
        let mut rest = &text[at + start.len()..];
        let mut segments = Vec::new();
        loop {
            if let Some(list) = rest.strip_prefix('{') {
                let list = &list[..list.find("};").or_else(|| list.find('}')).unwrap_or(list.len())];
                for part in list.split(',').map(str::trim) {
                    let first = part.split(|c| !is_word(c)).next().unwrap_or_default();
                    found.push([segments.as_slice(), &[first]].concat());
                }
                break;
            }
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            segments.push(&rest[..end]);
            match rest[end..].strip_prefix("::") {
                Some(more) => rest = more,
                None => {
                    found.push(segments);
                    break;
                }
            }
        }
    }
    found
}

/// The part of a file that is built without tests.
fn without_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod tests").map_or(text, |at| &text[..at])
}

/// Who imports whom, by file.
fn imports(source: &Crate) -> Graph {
    // A path leads to the longest module that it begins with.
    let module_of = |segments: &[String]| {
        let names = (1..=segments.len()).rev().map(|count| segments[..count].join("::"));
        names.into_iter().find(|name| source.modules.contains_key(name))
    };
    let mut graph = Graph::new();
    for (module, text) in &source.modules {
        let text = without_tests(text);
        let mut targets = BTreeSet::new();
        let mut add = |base: &[&str], path: &[&str]| {
            let segments: Vec<_> = base.iter().chain(path).map(|segment| (*segment).to_owned()).collect();
            targets.extend(module_of(&segments).filter(|target| target != module));
        };
        paths_after(text, "crate::").iter().for_each(|path| add(&[], path));
        let segments: Vec<_> = module.split("::").collect();
        paths_after(text, "super::").iter().for_each(|path| add(&segments[..segments.len() - 1], path));
        graph.insert(module.clone(), targets);
    }
    graph
}

/// The same by room: the first part of each name.
fn rooms(files: &Graph) -> Graph {
    let room = |module: &str| module.split("::").next().unwrap_or_default().to_owned();
    let mut graph = Graph::new();
    for (module, targets) in files {
        let own = room(module);
        let others = targets.iter().map(|target| room(target)).filter(|target| *target != own);
        graph.entry(own.clone()).or_default().extend(others);
    }
    graph
}

/// A circle, if there is one: what remains when those who import nothing that is left are taken away again and again.
fn circle(graph: &Graph) -> Option<Vec<String>> {
    let mut left = graph.clone();
    loop {
        let free: Vec<_> = left
            .iter()
            .filter(|(_, to)| !to.iter().any(|name| left.contains_key(name)))
            .map(|(name, _)| name.clone())
            .collect();
        if free.is_empty() {
            break;
        }
        free.iter().for_each(|name| drop(left.remove(name)));
    }
    // Each of the rest leads into a circle: walk until a name comes again.
    let mut walk = vec![left.keys().next()?.clone()];
    loop {
        let next = left[walk.last()?].iter().find(|name| left.contains_key(*name))?.clone();
        if let Some(start) = walk.iter().position(|name| *name == next) {
            return Some(walk.split_off(start));
        }
        walk.push(next);
    }
}

fn crates() -> [Crate; 2] {
    [read_crate("vault_ext", "src"), read_crate("vault_core", "crates/vault_core/src")]
}

#[test]
fn there_is_no_circle_of_imports() {
    for source in crates() {
        let files = imports(&source);
        assert!(files.values().map(BTreeSet::len).sum::<usize>() > 5, "{}: hardly an import was found", source.name);
        assert_eq!(circle(&files), None, "files of {}", source.name);
        assert_eq!(circle(&rooms(&files)), None, "rooms of {}", source.name);
    }
}

#[test]
fn pg_knows_nothing_of_what_is_built_on_it() {
    let [extension, _] = crates();
    let of_pg = &rooms(&imports(&extension))["pg"];
    assert!(of_pg.is_empty(), "pg imports {of_pg:?}");
}

#[test]
fn the_pure_crate_and_unsafe_code_stay_in_their_places() {
    let [extension, core] = crates();
    for (module, text) in &core.modules {
        assert!(!text.contains("pgrx::"), "vault_core::{module} imports pgrx");
    }
    for (module, text) in &extension.modules {
        let is_unsafe = without_tests(text).lines().any(|line| {
            let code = line.split("//").next().unwrap_or_default();
            code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl")
        });
        assert!(!is_unsafe || module.starts_with("pg::"), "{module} has unsafe code");
    }
}

#[test]
fn a_circle_is_found_where_there_is_one() {
    let graph = |edges: &[(&str, &str)]| {
        let mut graph = Graph::new();
        for (from, to) in edges {
            graph.entry((*from).into()).or_default().insert((*to).into());
            graph.entry((*to).into()).or_default();
        }
        graph
    };
    assert_eq!(circle(&graph(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    assert_eq!(circle(&graph(&[("a", "b"), ("b", "c"), ("c", "b")])), Some(vec!["b".into(), "c".into()]));
    let text =
        "use crate::pg::{session, spi::Arg};\nlet x = crate::audit::submit::write(y); // not vault_core::crate::x";
    let paths = paths_after(text, "crate::");
    assert_eq!(paths, [vec!["pg", "session"], vec!["pg", "spi"], vec!["audit", "submit", "write"]]);
}

#[test]
fn the_graph_can_be_drawn() {
    let [extension, _] = crates();
    let mut dot = String::from("digraph imports {\n  rankdir=TB; node [shape=box, fontname=\"sans-serif\"];\n");
    for (room, targets) in rooms(&imports(&extension)) {
        for target in targets {
            dot += &format!("  {room} -> {target};\n");
        }
    }
    dot += "}\n";
    assert!(dot.contains("api -> vault;"), "{dot}");
    if let Some(file) = std::env::var_os("IMPORTS_DOT") {
        fs::write(file, dot).expect("the file can be written");
    }
}
