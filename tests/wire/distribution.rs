//! META.json as the PGXN Meta Spec 1.0.0 wants it, and the files that name the version in their text.

use std::path::Path;

use serde_json::Value;

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn meta() -> Value {
    serde_json::from_str(include_str!("../../META.json")).unwrap()
}

#[track_caller]
fn text(value: &Value) -> &str {
    value.as_str().filter(|text| !text.trim().is_empty()).unwrap_or_else(|| panic!("no text: {value}"))
}

/// A name of a distribution, an extension or a tag.
fn assert_term(term: &str) {
    assert!(term.len() >= 2 && !term.contains(['/', '\\']) && !term.contains(char::is_control), "{term}");
}

/// Exactly what Cargo accepts too, but without `+build`.
fn assert_version(version: &str) {
    let parts: Vec<&str> = version.split('.').collect();
    let is_number = |part: &&str| part.parse::<u64>().is_ok_and(|number| number.to_string() == **part);
    assert!(parts.len() == 3 && parts.iter().all(is_number), "{version}");
}

#[test]
fn meta_json_keeps_to_the_specification() {
    let meta = meta();
    let meta = meta.as_object().unwrap();
    let known = [
        "name",
        "abstract",
        "description",
        "version",
        "maintainer",
        "license",
        "provides",
        "prereqs",
        "tags",
        "meta-spec",
    ];
    assert_eq!(
        meta.keys().filter(|key| !known.contains(&key.as_str())).count(),
        0,
        "a key that the test does not check"
    );
    for key in known {
        assert!(meta.contains_key(key), "{key} is missing");
    }
    assert_term(text(&meta["name"]));
    for key in ["abstract", "description"] {
        text(&meta[key]);
    }
    assert_version(text(&meta["version"]));
    assert!(text(&meta["maintainer"]).ends_with('>'), "a name and an address");
    // The specification's names of the two licences in Cargo.toml.
    assert_eq!(env!("CARGO_PKG_LICENSE"), "Apache-2.0 OR MIT");
    assert_eq!(meta["license"], serde_json::json!(["apache_2_0", "mit"]));
    assert_eq!(meta["meta-spec"]["version"], "1.0.0");
    assert_eq!(meta["prereqs"], serde_json::json!({"runtime": {"requires": {"PostgreSQL": "15.0.0"}}}));
    meta["tags"].as_array().unwrap().iter().for_each(|tag| assert_term(text(tag)));
    let provides = meta["provides"].as_object().unwrap();
    assert_eq!(provides.keys().collect::<Vec<_>>(), ["vault_ext"]);
    for extension in provides.values() {
        text(&extension["abstract"]);
        assert_version(text(&extension["version"]));
        for file in ["file", "docfile"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(text(&extension[file]));
            assert!(path.is_file(), "{} is missing", path.display());
        }
    }
}

#[test]
fn every_file_names_the_version_of_cargo_toml() {
    let meta = meta();
    assert_eq!(meta["version"], VERSION);
    assert_eq!(meta["provides"]["vault_ext"]["version"], VERSION);
    for text in
        [include_str!("../../packaging/container/compose.yaml"), include_str!("../../docs/how-to/containers.md")]
    {
        let tags: Vec<&str> = text.split("localhost/vault_ext:").skip(1).collect();
        assert!(!tags.is_empty());
        tags.iter().for_each(|tag| assert!(tag.starts_with(&format!("{VERSION}-pg15")), "{}", &tag[..20]));
    }
}
