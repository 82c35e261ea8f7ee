use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::super::MAX_TEXT;
use super::*;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

fn run(command: &str, limit: Duration) -> Result<SecretText, CommandProblem> {
    output(command, limit, &mut || false)
}

fn error(command: &str, limit: Duration) -> CommandProblem {
    run(command, limit).err().expect("an error")
}

/// A command that writes its shell's and a grandchild's process ids to a file and then does `rest`.
struct Family {
    folder: tempfile::TempDir,
}

impl Family {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn command(&self, rest: &str) -> String {
        let pids = self.folder.path().join("pids");
        format!("sleep 60 & echo $$ $! > {0}.new; mv {0}.new {0}; {rest}", pids.display())
    }

    fn pids(&self) -> Option<Vec<u32>> {
        let text = fs::read_to_string(self.folder.path().join("pids")).ok()?;
        Some(text.split_whitespace().map(|pid| pid.parse().expect("a process id")).collect())
    }

    /// Both are gone, a zombie that init has yet to reap aside.
    fn assert_gone(&self) {
        let pids = self.pids().expect("the command has started");
        assert_eq!(pids.len(), 2);
        let gone = || pids.iter().all(|pid| !runs(*pid));
        let start = Instant::now();
        while !gone() && start.elapsed() < LONG {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(gone(), "a process survived");
        assert!(!Path::new(&format!("/proc/{}", pids[0])).exists(), "the shell was not reaped");
    }
}

fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn what_it_prints_is_the_text() {
    let text = run("echo 'a b'; sleep 0.2; echo c; echo not this >&2", LONG).expect("the text");
    assert_eq!(text.expose_secret(), b"a b\nc\n");
    let most = run(&format!("head -c {MAX_TEXT} /dev/zero"), LONG).expect("the text");
    assert_eq!(most.expose_secret().len(), MAX_TEXT);
}

#[test]
fn its_input_is_empty_and_its_group_its_own() {
    let text = run("cat; echo $$; ps -o pgid= -p $$ 2>/dev/null || cut -d ' ' -f 5 /proc/$$/stat", LONG);
    let text = text.expect("the text");
    let ids: Vec<&str> = str::from_utf8(text.expose_secret()).expect("digits").split_whitespace().collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn each_failure_has_its_own_error() {
    assert!(matches!(error("exit 3", LONG), CommandProblem::ExitCode(3)));
    assert!(matches!(error("echo a key; false", LONG), CommandProblem::ExitCode(1)));
    assert!(matches!(error("/nowhere/at-all", LONG), CommandProblem::ExitCode(127)));
    assert!(matches!(error("kill -TERM $$", LONG), CommandProblem::Signal(15)));
    assert!(matches!(error("true", LONG), CommandProblem::Nothing));
    assert!(matches!(error("a\0b", LONG), CommandProblem::Start(_)));
}

#[test]
fn too_much_output_ends_it() {
    assert!(matches!(error("yes", LONG), CommandProblem::TooLarge));
}

#[test]
fn the_deadline_ends_it_and_its_children() {
    // It hangs; it hangs with its output closed; only a grandchild holds the output.
    for rest in ["wait", "exec >&-; kill $!; sleep 60 >/dev/null & echo $$ $! > $F; wait", "echo text"] {
        let family = Family::new();
        let rest = rest.replace("$F", &family.folder.path().join("pids").display().to_string());
        let start = Instant::now();
        assert!(matches!(error(&family.command(&rest), SHORT), CommandProblem::TimedOut { .. }), "{rest}");
        assert!(start.elapsed() >= SHORT && start.elapsed() < LONG, "{rest}: {:?}", start.elapsed());
        family.assert_gone();
    }
}

#[test]
fn an_interrupt_that_unwinds_ends_it() {
    let family = Family::new();
    let command = family.command("wait");
    let mut interrupted = || {
        assert!(family.pids().is_none(), "interrupted");
        false
    };
    let unwound = catch_unwind(AssertUnwindSafe(|| output(&command, LONG, &mut interrupted)));
    assert!(unwound.is_err());
    family.assert_gone();
}

#[test]
fn an_interrupt_that_is_told_ends_it() {
    for keep_open in ["wait", "exec >&-; wait"] {
        let family = Family::new();
        let command = family.command(keep_open);
        let ended = output(&command, LONG, &mut || family.pids().is_some());
        assert!(matches!(ended, Err(CommandProblem::Interrupted)));
        family.assert_gone();
    }
}

#[test]
fn interrupts_are_looked_for_all_the_time() {
    let mut calls = 0;
    let _ = output("exec >&-; sleep 0.6", LONG, &mut || {
        calls += 1;
        false
    });
    let _ = output("sleep 0.6", LONG, &mut || {
        calls += 1;
        false
    });
    assert!(calls >= 10, "{calls} calls in 1.2 s");
}

#[test]
fn a_background_process_of_a_successful_command_is_left_alone() {
    let text = run("sleep 60 >/dev/null & echo $!", LONG).expect("the text");
    let pid: i32 = str::from_utf8(text.expose_secret()).expect("digits").trim().parse().expect("a process id");
    assert!(runs(pid as u32));
    rustix::process::kill_process(Pid::from_raw(pid).expect("a process id"), Signal::KILL).expect("it was there");
}

/// An ignored `SIGCHLD` is inherited, and coreutils' `env` ignores it without `unsafe`: the test
/// runs itself under that.
#[test]
fn an_ignored_sigchld_gives_an_unknown_status() {
    const INNER: &str = "VAULT_EXT_TEST_SIGCHLD_IGNORED";
    if env::var_os(INNER).is_some() {
        assert!(matches!(error("echo text", LONG), CommandProblem::UnknownStatus));
        assert!(matches!(error("exec >&-; sleep 60", SHORT), CommandProblem::TimedOut { .. }));
        return;
    }
    let ended = Command::new("env")
        .arg("--ignore-signal=CHLD")
        .arg(env::current_exe().expect("this test's path"))
        .arg("an_ignored_sigchld_gives_an_unknown_status")
        .env(INNER, "1")
        .output()
        .expect("coreutils");
    let shown = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && shown.contains("1 passed"), "{shown}");
}
