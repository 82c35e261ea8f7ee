//! Loading the keyring at server start: the one configured source is read, validated and published. If that fails,
//! vault_ext.on_bad_kek decides. Also reads the same source again for a reload.

use std::path::PathBuf;

use vault_core::crypto::secret::SecretText;
use vault_core::keyring::text::{KekId, Keyring};
use vault_core::source::Source;

use super::ring;
use crate::pg::{guc, process, secret};
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
    // Every later process inherits the postmaster's stack.
    secret::scrubbed(|| match read_source() {
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
    })
}

fn read_source() -> Result<(Keyring, &'static str), BadKek> {
    let bare_id = bare_id()?;
    let given = guc::take_kek();
    let (source, name) = match configured()? {
        Configured::Again(source, name) => (source, name),
        Configured::Once => {
            pgrx::warning!(
                "vault_ext.kek holds the KEK in the configuration; vault_ext.kek_file keeps it apart from it"
            );
            let text = given.ok_or_else(|| BadKek::new("vault_ext.kek is empty", "Set vault_ext.kek_file instead."))?;
            (Source::Setting(text), "vault_ext.kek")
        }
        Configured::Dev => return dev_keyring(),
    };
    read(&source, name, &bare_id, &mut || false).map(|keyring| (keyring, name))
}

/// Reads the source again that the server was started with. `interrupted`: see `Source::read`.
pub fn read_again(interrupted: &mut dyn FnMut() -> bool) -> Result<Keyring, BadKek> {
    const HINT: &str = "Restart the server to change it; vault_ext.kek_file and vault_ext.kek_command can be reloaded.";
    match configured()? {
        Configured::Again(source, name) => read(&source, name, &bare_id()?, interrupted),
        Configured::Once => Err(BadKek::new("the KEK is in vault_ext.kek, which is read at server start only", HINT)),
        Configured::Dev => Err(BadKek::new("vault_ext.dev_mode is on and no KEK is configured", HINT)),
    }
}

/// Whether `read_again` has something to read.
pub fn is_reloadable() -> bool {
    matches!(configured(), Ok(Configured::Again(..)))
}

fn bare_id() -> Result<KekId, BadKek> {
    if settings::kek_id().is_empty() {
        return Err(BadKek::new("vault_ext.kek_id is empty", "Give a bare KEK an id, or leave the setting out."));
    }
    KekId::new(&settings::kek_id())
        .map_err(|bad| BadKek::new(format!("vault_ext.kek_id: {bad}"), "Use 1 to 64 characters of A-Za-z0-9._:/- ."))
}

/// The source that the settings name.
enum Configured {
    /// It can be read any time.
    Again(Source, &'static str),
    /// vault_ext.kek, whose text is not kept.
    Once,
    Dev,
}

fn configured() -> Result<Configured, BadKek> {
    match (settings::kek_file(), settings::kek_command(), guc::kek_is_set()) {
        (Some(path), None, false) => Ok(Configured::Again(Source::File(PathBuf::from(path)), "vault_ext.kek_file")),
        (None, Some(command), false) => Ok(Configured::Again(Source::Command(command), "vault_ext.kek_command")),
        (None, None, true) => Ok(Configured::Once),
        (None, None, false) if settings::dev_mode() => Ok(Configured::Dev),
        (None, None, false) => Err(BadKek::new(
            "no KEK is configured: vault_ext.kek_file, vault_ext.kek_command and vault_ext.kek are all empty",
            "Set one of them; vault_ext.kek_file is recommended.",
        )),
        _ => Err(BadKek::new(
            "more than one source of the KEK is configured",
            "Keep one of vault_ext.kek_file, vault_ext.kek_command and vault_ext.kek.",
        )),
    }
}

fn read(
    source: &Source,
    name: &str,
    bare_id: &KekId,
    interrupted: &mut dyn FnMut() -> bool,
) -> Result<Keyring, BadKek> {
    let text = source
        .read(&process::data_directory(), settings::kek_command_timeout(), interrupted)
        .map_err(|error| BadKek::new(&error, error.hint()))?;
    parse(&text, bare_id).map_err(|bad| BadKek { message: format!("{name}: {}", bad.message), ..bad })
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
