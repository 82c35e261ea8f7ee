//! A file with keys. It is opened once and judged by its descriptor, so that what was checked is what
//! is read.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Collector, Progress};
use crate::crypto::secret::SecretText;

/// Why a file is refused; reads as the end of a sentence that begins with its path.
#[derive(Debug, thiserror::Error)]
pub enum FileProblem {
    #[error("is not an absolute path")]
    Relative,
    #[error("does not exist")]
    Absent,
    #[error("cannot be opened: permission denied")]
    PermissionDenied,
    #[error("is a directory")]
    Directory,
    #[error("is not a regular file")]
    NotRegular,
    #[error("belongs to user {owner}, not to the server's user {server} or root")]
    Owner { owner: u32, server: u32 },
    #[error("has mode {mode:04o}, which gives access to its group or to others")]
    Mode { mode: u32 },
    #[error("has mode {mode:04o}, which lets its group or others write it")]
    Writable { mode: u32 },
    #[error("lies inside the data directory, so that base backups would copy it with the data")]
    InsideDataDirectory,
    #[error("was replaced while it was read")]
    Replaced,
    #[error("is empty")]
    Empty,
    #[error("is larger than 64 KiB")]
    TooLarge,
    #[error("cannot be read: {0}")]
    Io(io::Error),
    #[error("cannot be compared with the data directory: {0}")]
    DataDirectory(io::Error),
}

impl FileProblem {
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Relative => "Write the whole path, beginning with /.",
            Self::Absent => "Create the file, or correct the path.",
            Self::PermissionDenied => "Let the server's user own the file and enter the directories above it.",
            Self::Directory | Self::NotRegular => "Name a regular file.",
            Self::Owner { .. } => "Run chown on it, so that it belongs to the server's operating-system user.",
            Self::Mode { .. } => "Run chmod 600 on it.",
            Self::Writable { .. } => "Run chmod 644 or chmod 600 on it.",
            Self::InsideDataDirectory => "Move it out of the data directory, and keep it out of the data's backups.",
            Self::Replaced => "Try again.",
            Self::Empty => {
                "Put the text into it: for a keyring a line with an id and a key; \"openssl rand -base64 32\" makes a key."
            }
            Self::TooLarge => {
                "Check that this is the file that is meant: a keyring has one line per key, an id and 44 characters of base64."
            }
            Self::Io(_) | Self::DataDirectory(_) => "Check the file, its directories and its file system.",
        }
    }
}

impl From<Errno> for FileProblem {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT | Errno::NOTDIR => Self::Absent,
            Errno::ACCESS | Errno::PERM => Self::PermissionDenied,
            // What opening a socket gives.
            Errno::NXIO => Self::NotRegular,
            errno => Self::Io(errno.into()),
        }
    }
}

/// How often a file is tried that is replaced just then, as somebody else's rename may do at any time.
const ATTEMPTS: usize = 8;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    OwnerOnly,
    Anyone,
}

/// The text of a file.
pub struct Text {
    pub text: SecretText,
    /// Whether its owner alone may read it.
    pub is_private: bool,
}

/// Reads the file behind `path`, which nobody but its owner, the server's user or root, may write. Symbolic links are
/// followed: Kubernetes mounts secrets that way.
///
/// # Errors
/// [`FileProblem`].
pub fn read(path: &Path, data_directory: &Path, readers: Readers) -> Result<Text, FileProblem> {
    for _ in 1..ATTEMPTS {
        match read_once(path, data_directory, readers) {
            Err(FileProblem::Replaced) => {}
            outcome => return outcome,
        }
    }
    read_once(path, data_directory, readers)
}

fn read_once(path: &Path, data_directory: &Path, readers: Readers) -> Result<Text, FileProblem> {
    if !path.is_absolute() {
        return Err(FileProblem::Relative);
    }
    // NONBLOCK: opening a FIFO must not wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let opened = rustix::fs::open(path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&opened)?;
    check_file(&stat, rustix::process::geteuid().as_raw(), readers)?;
    check_place(path, &stat, data_directory)?;

    let mut file = File::from(opened);
    let mut text = Collector::new();
    loop {
        match text.read_from(&mut file).map_err(FileProblem::Io)? {
            Progress::More => {}
            Progress::End => {
                let is_private = stat.st_mode & 0o077 == 0;
                return text.finish().map(|text| Text { text, is_private }).ok_or(FileProblem::Empty);
            }
            Progress::TooLarge => return Err(FileProblem::TooLarge),
        }
    }
}

fn check_file(stat: &Stat, server: u32, readers: Readers) -> Result<(), FileProblem> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(FileProblem::Directory),
        _ => return Err(FileProblem::NotRegular),
    }
    let owner = stat.st_uid;
    if owner != server && owner != 0 {
        return Err(FileProblem::Owner { owner, server });
    }
    let mode = stat.st_mode & 0o7777;
    match readers {
        Readers::OwnerOnly if mode & 0o077 != 0 => Err(FileProblem::Mode { mode }),
        Readers::Anyone if mode & 0o022 != 0 => Err(FileProblem::Writable { mode }),
        _ => Ok(()),
    }
}

/// `stat` is that of the opened file: the path must still lead to it when its place is judged.
fn check_place(path: &Path, stat: &Stat, data_directory: &Path) -> Result<(), FileProblem> {
    let place = fs::canonicalize(path).map_err(FileProblem::Io)?;
    let found = fs::metadata(&place).map_err(FileProblem::Io)?;
    if (found.dev(), found.ino()) != (stat.st_dev, stat.st_ino) {
        return Err(FileProblem::Replaced);
    }
    let data_directory = fs::canonicalize(data_directory).map_err(FileProblem::DataDirectory)?;
    if place.starts_with(data_directory) {
        return Err(FileProblem::InsideDataDirectory);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
