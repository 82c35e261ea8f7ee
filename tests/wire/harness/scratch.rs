//! The folder that holds every server of this process, and the guard that removes it.
//!
//! libtest does not drop statics, and it does not survive a kill. So a small shell waits on a pipe that only this
//! process holds open. When the pipe closes, for whatever reason, the shell ends all processes below the folder and
//! removes it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

const GUARD: &str = r#"
trap '' INT HUP TERM
read -r _
signal() {
    found=1
    for process in /proc/[0-9]*; do
        case "$(readlink "$process/cwd" 2>/dev/null)" in
            "$0"/*) found=0; kill "-$1" "${process#/proc/}" 2>/dev/null ;;
        esac
    done
    return $found
}
signal QUIT
for _ in 1 2 3 4 5 6 7 8 9 10; do
    signal CONT || break
    sleep 0.3
done
signal KILL && sleep 0.3
while read -r _ mount _; do
    case "$mount" in "$0"/*) umount -l "$mount" ;; esac
done < /proc/mounts
rm -rf "$0"
"#;

struct Scratch {
    dir: PathBuf,
    _held_open: ChildStdin,
}

static SCRATCH: LazyLock<Scratch> = LazyLock::new(|| {
    // TMPDIR is ignored, since a Unix socket's path has at most 107 bytes.
    let parent = std::env::var_os("VAULT_EXT_SCRATCH").unwrap_or_else(|| "/tmp".into());
    let dir =
        tempfile::Builder::new().prefix("vx-").tempdir_in(&parent).expect("a scratch folder can be created").keep();
    fs::set_permissions(&dir, Permissions::from_mode(0o755)).expect("the scratch folder's mode can be set");
    #[expect(clippy::zombie_processes, reason = "the guard outlives this process")]
    let mut guard = Command::new("/bin/sh")
        .arg("-c")
        .arg(GUARD)
        .arg(&dir)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("/bin/sh starts");
    let held_open = guard.stdin.take().expect("stdin is piped");
    Scratch { dir, _held_open: held_open }
});

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Creates a folder owned by the servers' user.
pub fn scratch_dir() -> PathBuf {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = SCRATCH.dir.join(number.to_string());
    fs::create_dir(&dir).expect("a folder below the scratch folder can be created");
    super::os::chown_to_server(&dir);
    dir
}

pub fn remove(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir) {
        eprintln!("cannot remove {}: {error}", dir.display());
    }
}
