//! The key command: the hook for a KMS, a vault server or an HSM.
//!
//! It runs as `/bin/sh -c …` in a process group of its own, with the server's environment and
//! working directory. Its standard output is the text. Its standard error goes nowhere: it may hold
//! secrets, and the server's log is read by many. No thread is started: PostgreSQL's processes have
//! one.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};

use super::{Collector, Progress};
use crate::crypto::secret::SecretText;

/// The longest time between two calls of `interrupted`.
const SLICE: Duration = Duration::from_millis(100);

/// Why a command gave no text; reads as the end of a sentence that begins with the setting's name.
#[derive(Debug, thiserror::Error)]
pub enum CommandProblem {
    #[error("cannot be started: {0}")]
    Start(io::Error),
    #[error("did not end within {limit:?}")]
    TimedOut { limit: Duration },
    #[error("printed more than 64 KiB")]
    TooLarge,
    #[error("ended with exit code {0}")]
    ExitCode(i32),
    #[error("was ended by signal {0}")]
    Signal(i32),
    /// Somebody else waited for it, or `SIGCHLD` is ignored: whether it succeeded cannot be known.
    #[error("ended with an unknown status")]
    UnknownStatus,
    #[error("printed nothing")]
    Nothing,
    #[error("cannot be read from: {0}")]
    Io(io::Error),
    #[error("was killed, since this process is to end")]
    Interrupted,
}

impl CommandProblem {
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Start(_) => "Check that /bin/sh exists and that the server may start processes.",
            Self::TimedOut { .. } => {
                "Make the command end sooner, and leave no process that holds its standard output."
            }
            Self::TooLarge | Self::Nothing => {
                "Make the command print the text that is asked of it, and nothing else, to standard output."
            }
            Self::ExitCode(_) | Self::Signal(_) => {
                "Run the command with /bin/sh -c as the server's user and see what it prints to \
                 standard error."
            }
            Self::UnknownStatus => "Start the server from a parent that does not ignore SIGCHLD.",
            Self::Io(_) | Self::Interrupted => "Try again.",
        }
    }
}

/// Runs `command` and gives what it printed. `interrupted` may say so or unwind; the command's
/// process group is killed then, as it is after any failure. What a successful command leaves running in the
/// background is left alone.
pub fn output(
    command: &str,
    limit: Duration,
    interrupted: &mut dyn FnMut() -> bool,
) -> Result<SecretText, CommandProblem> {
    let deadline = Deadline { start: Instant::now(), limit };
    let (mut running, mut stdout) = Running::start(command)?;
    let mut text = Collector::new();
    loop {
        if interrupted() {
            return Err(CommandProblem::Interrupted);
        }
        if !readable(&stdout, deadline.slice()?)? {
            continue;
        }
        match text.read_from(&mut stdout).map_err(CommandProblem::Io)? {
            Progress::More => {}
            Progress::End => break,
            Progress::TooLarge => return Err(CommandProblem::TooLarge),
        }
    }
    let status = running.wait(&deadline, interrupted)?;
    match (status.code(), status.signal()) {
        (Some(0), _) => text.finish().ok_or(CommandProblem::Nothing),
        (Some(code), _) => Err(CommandProblem::ExitCode(code)),
        (None, Some(signal)) => Err(CommandProblem::Signal(signal)),
        (None, None) => Err(CommandProblem::UnknownStatus),
    }
}

struct Deadline {
    start: Instant,
    limit: Duration,
}

impl Deadline {
    /// How long to wait at most before looking around again.
    fn slice(&self) -> Result<Duration, CommandProblem> {
        match self.limit.checked_sub(self.start.elapsed()) {
            Some(left) if !left.is_zero() => Ok(left.min(SLICE)),
            _ => Err(CommandProblem::TimedOut { limit: self.limit }),
        }
    }
}

/// Whether a read would not block, after waiting for `slice` at most; a signal ends the wait early.
fn readable(stdout: &ChildStdout, slice: Duration) -> Result<bool, CommandProblem> {
    let slice = Timespec::try_from(slice).expect("a slice is at most 100 ms");
    match poll(&mut [PollFd::new(stdout, PollFlags::IN)], Some(&slice)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(CommandProblem::Io(errno.into())),
    }
}

/// A started command; dropped before its end was seen, its process group is killed and the shell
/// reaped.
struct Running {
    shell: Child,
    ended: bool,
}

impl Running {
    fn start(command: &str) -> Result<(Self, ChildStdout), CommandProblem> {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", command])
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(CommandProblem::Start)?;
        let stdout = shell.stdout.take().expect("its standard output is piped");
        Ok((Self { shell, ended: false }, stdout))
    }

    /// Waits for the shell after the end of its output, which most often is the same moment.
    fn wait(
        &mut self,
        deadline: &Deadline,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<ExitStatus, CommandProblem> {
        let mut pause = Duration::from_millis(1);
        loop {
            let polled = self.shell.try_wait();
            self.ended = !matches!(polled, Ok(None));
            match polled {
                Ok(Some(status)) => return Ok(status),
                Ok(None) => {}
                Err(_) => return Err(CommandProblem::UnknownStatus),
            }
            if interrupted() {
                return Err(CommandProblem::Interrupted);
            }
            thread::sleep(deadline.slice()?.min(pause));
            pause *= 2;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // Until it is reaped, the shell's id is no other process's, and so its group's id is no
        // other group's.
        if let Some(group) = i32::try_from(self.shell.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.shell.wait();
    }
}

#[cfg(test)]
mod tests;
