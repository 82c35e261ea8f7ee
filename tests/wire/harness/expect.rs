//! Expectations: SQLSTATEs, clean errors, deadlines.

use std::fmt::Debug;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use postgres::error::DbError;

/// A server error as the client saw it.
#[derive(Debug)]
pub struct Refusal {
    pub code: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl Refusal {
    fn new(error: &DbError) -> Self {
        Refusal {
            code: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: error.detail().map(str::to_owned),
            hint: error.hint().map(str::to_owned),
        }
    }

    /// The server's error in what a call gave back.
    #[track_caller]
    pub fn of(error: &postgres::Error) -> Self {
        Self::new(error.as_db_error().unwrap_or_else(|| panic!("the connection failed: {error:?}")))
    }

    /// The message, the detail and the hint together.
    pub fn text(&self) -> String {
        let part = |field: &Option<String>| field.clone().unwrap_or_default();
        format!("{}\n{}\n{}", self.message, part(&self.detail), part(&self.hint))
    }
}

/// Asserts that the result is an error with this SQLSTATE and shows nothing of the implementation.
#[track_caller]
pub fn expect_error<T: Debug>(result: Result<T, postgres::Error>, code: &str) -> Refusal {
    let error = match result {
        Ok(value) => panic!("expected error {code}, got {value:?}"),
        Err(error) => error,
    };
    let Some(db_error) = error.as_db_error() else {
        panic!("expected error {code}, but the connection failed: {error:?}");
    };
    let refusal = Refusal::new(db_error);
    assert_eq!(refusal.code, code, "{refusal:?}");
    assert_no_internals(&refusal);
    refusal
}

/// Asserts an error of the extension itself: it starts in lower case, has no full stop, and has a hint.
#[track_caller]
pub fn expect_vault_error<T: Debug>(result: Result<T, postgres::Error>, code: &str) -> Refusal {
    let refusal = expect_error(result, code);
    let first = refusal.message.chars().next();
    assert!(first.is_some_and(|c| !c.is_uppercase()), "{refusal:?}");
    assert!(!refusal.message.ends_with('.'), "{refusal:?}");
    let hint = refusal.hint.as_deref();
    assert!(hint.is_some_and(|h| !h.trim().is_empty()), "{refusal:?}");
    refusal
}

#[track_caller]
fn assert_no_internals(refusal: &Refusal) {
    let text = refusal.text().to_lowercase();
    for trace in ["backtrace", "panicked", ".rs:", "rust_", "core::", "std::", "pgrx", "/src/"] {
        assert!(!text.contains(trace), "{trace:?} appears in {refusal:?}");
    }
}

/// Polls until the condition holds, and fails at the deadline.
#[track_caller]
pub fn eventually(deadline: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    loop {
        if holds() {
            return;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs the work in a thread and fails if it does not end in time, so that a test fails instead of hanging.
#[track_caller]
pub fn without_deadlock<T: Send + 'static>(
    deadline: Duration,
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (sender, receiver) = channel();
    let thread = std::thread::spawn(move || {
        let _ = sender.send(work());
    });
    match receiver.recv_timeout(deadline) {
        Ok(value) => value,
        Err(RecvTimeoutError::Timeout) => panic!("still running after {deadline:?}: {what}"),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Err(cause) => std::panic::resume_unwind(cause),
            Ok(()) => panic!("{what} ended without a result"),
        },
    }
}
