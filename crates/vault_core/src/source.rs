//! Where the text of a keyring or of an issuers file comes from: a file, a command's standard output, or a setting.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::crypto::secret::SecretText;

mod command;
mod file;

pub use command::{CommandProblem, output};
pub use file::{FileProblem, Readers, Text, read as read_file};

/// The longest text, in bytes.
pub const MAX_TEXT: usize = 64 * 1024;

/// The one configured source.
pub enum Source {
    /// `vault_ext.kek_file`
    File(PathBuf),
    /// `vault_ext.kek_command`
    Command(String),
    /// `vault_ext.kek`
    Setting(SecretText),
}

/// Why a source gave no text; without the text, and without the command, which may hold
/// credentials.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("vault_ext.kek_file {path:?} {problem}")]
    File { path: PathBuf, problem: FileProblem },
    #[error("vault_ext.kek_command {0}")]
    Command(CommandProblem),
}

impl SourceError {
    pub fn hint(&self) -> &'static str {
        match self {
            Self::File { problem, .. } => problem.hint(),
            Self::Command(problem) => problem.hint(),
        }
    }
}

impl Source {
    /// Reads the text, at most [`MAX_TEXT`] bytes of it; whether it is a keyring is not looked at.
    ///
    /// A command may run for `command_timeout`. Meanwhile `interrupted` is called at least every
    /// 100 ms; if it says yes or unwinds, the command is killed. `data_directory` is where no key file
    /// may be.
    ///
    /// # Errors
    /// [`SourceError`]; a setting cannot fail.
    pub fn read(
        &self,
        data_directory: &Path,
        command_timeout: Duration,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<SecretText, SourceError> {
        match self {
            Self::File(path) => file::read(path, data_directory, Readers::OwnerOnly)
                .map(|text| text.text)
                .map_err(|problem| SourceError::File { path: path.clone(), problem }),
            Self::Command(command) => {
                command::output(command, command_timeout, interrupted).map_err(SourceError::Command)
            }
            Self::Setting(text) => Ok(SecretText::new(text.expose_secret().to_vec())),
        }
    }
}

/// Gathers at most [`MAX_TEXT`] bytes in a buffer that never grows, since growing leaves copies
/// behind.
struct Collector {
    /// One byte more than may be used, so that an excess is seen.
    buffer: SecretText,
    len: usize,
}

/// What one read led to.
enum Progress {
    More,
    End,
    TooLarge,
}

impl Collector {
    fn new() -> Self {
        Self { buffer: SecretText::zeroed(MAX_TEXT + 1), len: 0 }
    }

    /// Reads once.
    fn read_from(&mut self, reader: &mut impl Read) -> io::Result<Progress> {
        match reader.read(&mut self.buffer.expose_secret_mut()[self.len..]) {
            Ok(0) => Ok(Progress::End),
            Ok(read) => {
                self.len += read;
                Ok(if self.len > MAX_TEXT { Progress::TooLarge } else { Progress::More })
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Progress::More),
            Err(error) => Err(error),
        }
    }

    /// The text; `None` if it is empty.
    fn finish(mut self) -> Option<SecretText> {
        self.buffer.truncate(self.len);
        (self.len > 0).then_some(self.buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_copied() {
        let source = Source::Setting(SecretText::new(b"env-v1 key".to_vec()));
        let text = source.read(Path::new("/"), Duration::ZERO, &mut || false).expect("the text");
        assert_eq!(text.expose_secret(), b"env-v1 key");
    }

    #[test]
    fn errors_name_the_setting_and_the_path_but_not_the_command() {
        let read = |source: Source| {
            let error = source.read(Path::new("/"), Duration::from_secs(10), &mut || false).err().expect("an error");
            (error.to_string(), format!("{error:?}"))
        };
        let (shown, _) = read(Source::File("/nowhere/kek\n".into()));
        assert_eq!(shown, r#"vault_ext.kek_file "/nowhere/kek\n" does not exist"#);
        let (shown, debug) = read(Source::Command("exit 3 # t0ken".into()));
        assert_eq!(shown, "vault_ext.kek_command ended with exit code 3");
        assert!(!debug.contains("t0ken"), "{debug}");
    }
}
