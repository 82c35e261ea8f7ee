//! Searches everything that a server keeps on disk for keys, in any usual notation.

use std::fs;
use std::path::{Path, PathBuf};

use super::secrets::Traces;

/// Collects every file below a folder. A running server may remove files meanwhile.
fn files_below(dir: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path(), files),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
}

/// Asserts that none of these files, and no file below these folders, contains a trace of a key. Returns the number of
/// bytes searched.
#[track_caller]
pub fn assert_no_secrets_in_files(dirs: &[&Path], keys: &[Vec<u8>]) -> usize {
    let traces = Traces::of(keys);
    let mut files = Vec::new();
    for dir in dirs {
        if dir.is_file() {
            files.push(dir.to_path_buf());
        }
        files_below(dir, &mut files);
    }
    let mut searched = 0;
    for file in files {
        let Ok(bytes) = fs::read(&file) else { continue };
        searched += bytes.len();
        if let Some((key, at)) = traces.find(&bytes) {
            panic!("key {key} of {} appears in {} at byte {at}", keys.len(), file.display());
        }
    }
    assert!(searched > 0, "there was nothing to search in {dirs:?}");
    searched
}
