//! Checks that the source has no import cycles and that `pg` imports none of the modules built on it. The test reads
//! the source as text and looks for `crate::…` and `super::…`. `IMPORTS_DOT=FILE cargo test -p vault_core --test
//! imports` writes the graph of the rooms for Graphviz.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of one crate, each with the text of its file.
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
    // The root declares and starts everything, and no module imports it.
    modules.remove("lib");
    Crate { name, modules }
}

/// The paths that begin with `start`, each as a list of segments. A list in braces gives one path for each item.
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

/// The imports of each file.
fn imports(source: &Crate) -> Graph {
    // A path refers to the longest module name that it begins with.
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

/// The imports of each room. A room is the first part of a module's name.
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

/// Finds a cycle, if there is one, by repeatedly removing the modules that import none of the remaining ones.
fn cycle(graph: &Graph) -> Option<Vec<String>> {
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
    // Every remaining module leads into a cycle: follow the imports until a name repeats.
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
fn there_are_no_import_cycles() {
    for source in crates() {
        let files = imports(&source);
        assert!(files.values().map(BTreeSet::len).sum::<usize>() > 5, "{}: too few imports were found", source.name);
        assert_eq!(cycle(&files), None, "files of {}", source.name);
        assert_eq!(cycle(&rooms(&files)), None, "rooms of {}", source.name);
    }
}

#[test]
fn pg_imports_no_module_that_is_built_on_it() {
    let [extension, _] = crates();
    let of_pg = &rooms(&imports(&extension))["pg"];
    assert!(of_pg.is_empty(), "pg imports {of_pg:?}");
}

#[test]
fn the_pure_crate_imports_no_pgrx_and_unsafe_code_stays_in_pg() {
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
fn the_search_finds_a_cycle_and_the_imported_paths() {
    let graph = |edges: &[(&str, &str)]| {
        let mut graph = Graph::new();
        for (from, to) in edges {
            graph.entry((*from).into()).or_default().insert((*to).into());
            graph.entry((*to).into()).or_default();
        }
        graph
    };
    assert_eq!(cycle(&graph(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    assert_eq!(cycle(&graph(&[("a", "b"), ("b", "c"), ("c", "b")])), Some(vec!["b".into(), "c".into()]));
    let text =
        "use crate::pg::{session, spi::Arg};\nlet x = crate::audit::submit::write(y); // not vault_core::crate::x";
    let paths = paths_after(text, "crate::");
    assert_eq!(paths, [vec!["pg", "session"], vec!["pg", "spi"], vec!["audit", "submit", "write"]]);
}

#[test]
fn the_import_graph_can_be_drawn() {
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
