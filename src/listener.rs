//! The worker that listens for SIGHUP and reads again what stands outside the database: the keyring and the issuers.

use std::time::Duration;

use crate::identity::issuers;
use crate::keyring::{reload, startup};
use crate::pg::{process, wait, worker};

/// Whether there is something that a signal can reload.
pub fn has_work() -> bool {
    startup::is_reloadable() || issuers::is_configured()
}

/// Runs the worker until it is asked to end. It has no database connection.
pub fn run() {
    worker::accept_signals();
    while !process::is_terminating() {
        if worker::reload_configuration_if_asked() {
            if startup::is_reloadable() {
                reload::reload_by_signal();
            }
            issuers::reload_by_signal();
        }
        wait::sleep_until_signal(Duration::from_secs(600));
    }
}
