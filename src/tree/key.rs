//! The key that signs checkpoints: read at server start, kept in memory like the KEKs.

use std::cell::Cell;
use std::path::PathBuf;

use vault_core::source::Source;
use vault_trail::checkpoint::AuditKey;
use zeroize::Zeroizing;

use crate::pg::process;
use crate::pg::secret::{self, SharedSecret};
use crate::settings;

/// An Ed25519 seed.
type SharedSeed = SharedSecret<32>;

thread_local! {
    static SHARED: Cell<Option<&'static SharedSeed>> = const { Cell::new(None) };
}

/// Why the server must not start: a message and what to do.
pub struct BadAuditKey {
    pub message: String,
    pub hint: String,
}

/// Loads vault_ext.audit_key_file in the postmaster, if it is set. Every later process inherits the postmaster's stack.
pub fn load() -> Result<(), BadAuditKey> {
    secret::scrubbed(read)
}

fn read() -> Result<(), BadAuditKey> {
    const MAKE_ONE: &str =
        "\"vault-trail keygen FILE\" and \"openssl genpkey -algorithm ed25519 -out FILE\" make such a file.";
    let bad = |message: String, hint: &str| BadAuditKey { message, hint: hint.into() };
    let Some(path) = settings::audit_key_file() else { return Ok(()) };
    let text = Source::File(PathBuf::from(path))
        .read(&process::data_directory(), settings::kek_command_timeout(), &mut || false)
        .map_err(|error| bad(format!("vault_ext.audit_key_file: {error}"), error.hint()))?;
    let key = std::str::from_utf8(text.expose_secret())
        .ok()
        .and_then(|text| AuditKey::from_pkcs8_pem(text).ok())
        .ok_or_else(|| bad("vault_ext.audit_key_file is not the PKCS#8 PEM of an Ed25519 key".into(), MAKE_ONE))?;
    let Some((shared, _)) = SharedSeed::map() else {
        return Err(bad("no memory for the audit key".into(), "Free some memory."));
    };
    shared.publish(&Zeroizing::new(*key.seed()));
    SHARED.set(Some(shared));
    Ok(())
}

/// Does something with the key; None if this server has none.
pub fn with<T>(work: impl FnOnce(&AuditKey) -> T) -> Option<T> {
    let shared = SHARED.get()?;
    Some(secret::scrubbed(|| {
        let mut seed = Zeroizing::new([0; 32]);
        shared.read(&mut seed);
        work(&AuditKey::from_seed(&seed))
    }))
}
