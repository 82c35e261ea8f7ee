//! A file system of a few megabytes that a test can fill. Mounting it requires root.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::os::{chown_to_server, succeed};
use super::scratch::scratch_dir;

pub struct SmallFileSystem {
    dir: PathBuf,
}

impl SmallFileSystem {
    pub fn new(megabytes: usize) -> Self {
        let dir = scratch_dir();
        succeed(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m,mode=700"), "tmpfs"])
                .arg(&dir),
        );
        chown_to_server(&dir);
        SmallFileSystem { dir }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Uses up all the space that is left.
    pub fn fill(&self) {
        let mut filler = File::create(self.dir.join("filler")).expect("the filler can be created");
        let copied = std::io::copy(&mut std::io::repeat(b'x'), &mut filler);
        assert_eq!(copied.expect_err("the file system is too big to fill").kind(), std::io::ErrorKind::StorageFull);
    }

    pub fn make_room(&self) {
        fs::remove_file(self.dir.join("filler")).expect("the filler can be removed");
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        // Lazily, because a server may still be shutting down.
        let _ = Command::new("umount").arg("-l").arg(&self.dir).status();
    }
}
