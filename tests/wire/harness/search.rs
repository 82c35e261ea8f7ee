//! Looking for keys in files: everything that a server keeps on disk, in any usual notation of a key.

use std::fs;
use std::path::{Path, PathBuf};

use super::secrets::Traces;

/// Every file at or below a folder. Files of a running server come and go.
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

/// No file at or below the folders holds a trace of one of the keys. Gives the number of bytes that were searched.
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
            panic!("key {key} of {} shows in {} at byte {at}", keys.len(), file.display());
        }
    }
    assert!(searched > 0, "there was nothing to search in {dirs:?}");
    searched
}
