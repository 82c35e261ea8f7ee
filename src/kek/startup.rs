//! The KEK at server start: one source, read, validated and published, or the server does as vault_ext.on_bad_kek says.

use std::path::PathBuf;

use super::keyring::{KekId, Keyring};
use super::ring;
use super::source::Source;
use crate::crypto::secret::SecretText;
use crate::pg::{guc, process};
use crate::settings::{self, OnBadKek};

/// The KEK of vault_ext.dev_mode.
const DEV_KEK_ID: &str = "dev-insecure";

/// Why there is no ring: one message and what to do.
#[derive(Debug)]
pub struct BadKek {
    pub message: String,
    pub hint: String,
}

impl BadKek {
    fn new(message: impl ToString, hint: impl ToString) -> Self {
        Self { message: message.to_string(), hint: hint.to_string() }
    }
}

/// Loads the ring in the postmaster. `Err` means that the server must not start.
pub fn load() -> Result<(), BadKek> {
    let protection = ring::create().ok_or_else(|| BadKek::new("no memory for the KEK", "Free some memory."))?;
    if !protection.locked {
        pgrx::warning!("vault_ext: the KEK's memory could not be locked and may be swapped out; raise RLIMIT_MEMLOCK");
    }
    if !protection.undumpable {
        pgrx::warning!("vault_ext: the KEK's memory could not be excluded from core files");
    }
    match read_source() {
        Ok((keyring, from)) => {
            ring::publish(&keyring);
            pgrx::log!(
                "vault_ext: {} KEK(s) loaded from {from}, active: \"{}\"",
                keyring.entries().len(),
                keyring.active().id.as_str()
            );
            Ok(())
        }
        Err(bad) if settings::on_bad_kek() == OnBadKek::Disable => {
            pgrx::warning!("vault_ext is disabled: {} ({})", bad.message, bad.hint);
            ring::publish_reason(&bad.message);
            Ok(())
        }
        Err(bad) => Err(bad),
    }
}

fn read_source() -> Result<(Keyring, &'static str), BadKek> {
    if settings::kek_id().is_empty() {
        return Err(BadKek::new("vault_ext.kek_id is empty", "Give a bare KEK an id, or leave the setting out."));
    }
    let bare_id = KekId::new(&settings::kek_id())
        .map_err(|bad| BadKek::new(format!("vault_ext.kek_id: {bad}"), "Use 1 to 64 characters of A-Za-z0-9._:/- ."))?;
    let (source, name) = match (settings::kek_file(), settings::kek_command(), guc::take_kek()) {
        (Some(path), None, None) => (Source::File(PathBuf::from(path)), "vault_ext.kek_file"),
        (None, Some(command), None) => (Source::Command(command), "vault_ext.kek_command"),
        (None, None, Some(text)) => {
            pgrx::warning!(
                "vault_ext.kek holds the KEK in the configuration; vault_ext.kek_file keeps it apart from it"
            );
            (Source::Setting(text), "vault_ext.kek")
        }
        (None, None, None) if settings::dev_mode() => return dev_keyring(),
        (None, None, None) => {
            return Err(BadKek::new(
                "no KEK is configured: vault_ext.kek_file, vault_ext.kek_command and vault_ext.kek are all empty",
                "Set one of them; vault_ext.kek_file is recommended.",
            ));
        }
        _ => {
            return Err(BadKek::new(
                "more than one source of the KEK is configured",
                "Keep one of vault_ext.kek_file, vault_ext.kek_command and vault_ext.kek.",
            ));
        }
    };
    let text = source
        .read(&process::data_directory(), settings::kek_command_timeout(), &mut || ())
        .map_err(|error| BadKek::new(&error, error.hint()))?;
    parse(&text, &bare_id)
        .map(|keyring| (keyring, name))
        .map_err(|bad| BadKek { message: format!("{name}: {}", bad.message), ..bad })
}

fn parse(text: &SecretText, bare_id: &KekId) -> Result<Keyring, BadKek> {
    Keyring::parse(text.expose_secret(), bare_id, false).map_err(|error| BadKek::new(&error, error.hint()))
}

fn dev_keyring() -> Result<(Keyring, &'static str), BadKek> {
    pgrx::warning!(
        "vault_ext.dev_mode is on: the KEK is 32 zero bytes, and whoever has the data has the keys; never use this outside development"
    );
    let id = KekId::new(DEV_KEK_ID).expect("a valid id");
    let zero = b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    Keyring::parse(zero, &id, true)
        .map(|keyring| (keyring, "vault_ext.dev_mode"))
        .map_err(|error| BadKek::new(&error, error.hint()))
}
