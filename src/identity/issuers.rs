//! The issuers in use: read at server start and at each reload, published to all processes, parsed by each backend once a
//! generation.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;

use vault_core::crypto::secret::SecretText;
use vault_core::identity::counts::{Count, Counts};
use vault_core::identity::issuers::Issuers;
use vault_core::identity::token::Verified;
use vault_core::source::{self, MAX_TEXT, Readers};
use zeroize::{Zeroize, Zeroizing};

use crate::error::{IdentityError, VaultError};
use crate::pg::secret::{self, SharedSecret};
use crate::pg::{process, session, shmem};
use crate::settings::{self, OnBadKek};

/// When it was loaded (8), whether there are issuers (1), length (4), text.
const HEAD: usize = 13;
const BYTES: usize = HEAD + MAX_TEXT;

type Shared = SharedSecret<BYTES>;

thread_local! {
    static SHARED: Cell<Option<&'static Shared>> = const { Cell::new(None) };
    static COUNTS: Cell<Option<&'static Counts>> = const { Cell::new(None) };
    static PARSED: RefCell<Option<Rc<Current>>> = const { RefCell::new(None) };
}

/// The issuers of one generation.
pub struct Current {
    pub generation: u64,
    /// Microseconds since 2000-01-01 00:00 UTC.
    pub loaded_at: i64,
    pub issuers: Issuers,
}

/// Why there are none: one message and what to do.
pub struct BadIssuers {
    pub message: String,
    pub hint: &'static str,
}

const NOT_CONFIGURED: &str = "neither vault_ext.issuers_file nor vault_ext.issuers_command is set";
const HINT: &str = "Correct the issuers file (docs/identity.md describes it) and run SELECT vault_reload_issuers().";

/// Loads the issuers in the postmaster. `Err` means that the server must not start.
pub fn load() -> Result<(), BadIssuers> {
    let no_memory = || BadIssuers { message: "no memory for the issuers".into(), hint: "Free some memory." };
    let (shared, _) = Shared::map().ok_or_else(no_memory)?;
    SHARED.set(Some(shared));
    COUNTS.set(Some(secret::share().ok_or_else(no_memory)?));
    if !is_configured() {
        publish(Err(NOT_CONFIGURED));
        return Ok(());
    }
    // Every later process inherits the postmaster's stack.
    secret::scrubbed(|| match read(&mut || false) {
        Ok(issuers) => {
            publish(Ok(&issuers));
            pgrx::log!("vault_ext: {}", describe(&issuers));
            Ok(())
        }
        Err(bad) if settings::on_bad_kek() == OnBadKek::Disable => {
            pgrx::warning!("vault_ext believes no token: {} ({})", bad.message, bad.hint);
            publish(Err(&bad.message));
            Ok(())
        }
        Err(bad) => Err(bad),
    })
}

/// Whether there is something to read.
pub fn is_configured() -> bool {
    settings::issuers_file().is_some() || settings::issuers_command().is_some()
}

/// Reads the issuers again and publishes them, or keeps the old ones. Says what is loaded.
pub fn reload(interrupted: &mut dyn FnMut() -> bool) -> Result<String, BadIssuers> {
    if !is_configured() {
        return Err(BadIssuers { message: NOT_CONFIGURED.into(), hint: "Set one of them and restart the server." });
    }
    let issuers = read(interrupted)?;
    publish(Ok(&issuers));
    Ok(describe(&issuers))
}

/// Called by the process that listens for SIGHUP.
pub fn reload_by_signal() {
    if !is_configured() {
        return;
    }
    match reload(&mut process::is_terminating) {
        Ok(description) => pgrx::log!("vault_ext: {description}"),
        Err(_) if process::is_terminating() => {}
        Err(bad) => pgrx::warning!(
            "vault_ext: the issuers were not reloaded, the old ones stay in use: {}. {}",
            bad.message,
            bad.hint
        ),
    }
}

fn describe(issuers: &Issuers) -> String {
    let names: Vec<_> =
        issuers.issuers.iter().map(|issuer| format!("{:?} with {} key(s)", issuer.name, issuer.keys.len())).collect();
    format!("{} issuer(s) loaded: {}", names.len(), names.join(", "))
}

fn read(interrupted: &mut dyn FnMut() -> bool) -> Result<Issuers, BadIssuers> {
    let bad = |message: String| BadIssuers { message, hint: HINT };
    let directory = process::data_directory();
    let mut is_private = true;
    let mut read_file = |setting: &str, path: &str| -> Result<SecretText, String> {
        let file = source::read_file(Path::new(path), &directory, Readers::Anyone)
            .map_err(|problem| format!("{setting} {path:?} {problem} ({})", problem.hint()))?;
        is_private &= file.is_private;
        Ok(file.text)
    };
    let (text, place) = match (settings::issuers_file(), settings::issuers_command()) {
        (Some(path), None) => {
            (read_file("vault_ext.issuers_file", &path).map_err(bad)?, format!("vault_ext.issuers_file {path:?}"))
        }
        (None, Some(command)) => {
            let text = source::output(&command, settings::issuers_command_timeout(), interrupted)
                .map_err(|problem| bad(format!("vault_ext.issuers_command {problem} ({})", problem.hint())))?;
            (text, "vault_ext.issuers_command".to_owned())
        }
        _ => return Err(bad("both vault_ext.issuers_file and vault_ext.issuers_command are set".into())),
    };
    let issuers = Issuers::parse(text.expose_secret(), |path| {
        read_file("jwks_file", path).map(|text| text.expose_secret().to_vec())
    })
    .map_err(|reason| bad(format!("{place}: {reason}")))?;
    if issuers.has_secrets() && !is_private {
        return Err(bad(format!(
            "{place}: there is a symmetric key (HS256), so the file and every jwks_file must be readable by their owner alone"
        )));
    }
    if issuers.text().len() > MAX_TEXT {
        return Err(bad(format!("{place}: the issuers and their keys take more than 64 KiB together")));
    }
    Ok(issuers)
}

/// Publishes issuers, or the reason why there are none.
fn publish(issuers: Result<&Issuers, &str>) {
    let Some(shared) = SHARED.get() else { return };
    let (text, are_there) = match issuers {
        Ok(issuers) => (issuers.text(), true),
        Err(reason) => (&reason[..reason.floor_char_boundary(MAX_TEXT)], false),
    };
    let mut bytes = Zeroizing::new([0; BYTES]);
    bytes[..8].copy_from_slice(&session::now().to_le_bytes());
    bytes[8] = u8::from(are_there);
    bytes[9..HEAD].copy_from_slice(&(text.len() as u32).to_le_bytes());
    bytes[HEAD..HEAD + text.len()].copy_from_slice(text.as_bytes());
    if process::is_preloading() {
        shared.publish(&bytes);
    } else {
        shmem::locked(|| shared.publish(&bytes));
    }
}

/// The issuers in use.
pub fn current() -> Result<Rc<Current>, IdentityError> {
    let shared =
        SHARED.get().ok_or_else(|| IdentityError::NoIssuers("vault_ext is not in shared_preload_libraries".into()))?;
    let generation = shared.generation();
    PARSED.with_borrow_mut(|parsed| {
        if let Some(parsed) = parsed.as_ref().filter(|parsed| parsed.generation == generation) {
            return Ok(Rc::clone(parsed));
        }
        let current = Rc::new(parse(shared)?);
        *parsed = Some(Rc::clone(&current));
        Ok(current)
    })
}

fn parse(shared: &Shared) -> Result<Current, IdentityError> {
    let mut bytes = Zeroizing::new([0; BYTES]);
    let generation = shared.read(&mut bytes);
    let (head, text) = bytes.split_at(HEAD);
    let length = u32::from_le_bytes(head[9..].try_into().expect("four bytes")) as usize;
    let text = &text[..length];
    if head[8] == 0 {
        return Err(IdentityError::NoIssuers(String::from_utf8_lossy(text).into_owned()));
    }
    let loaded_at = i64::from_le_bytes(head[..8].try_into().expect("eight bytes"));
    let issuers = Issuers::parse(text, |_| unreachable!("the text has its keys in it"))
        .map_err(|reason| IdentityError::NoIssuers(reason.to_string()))?;
    bytes.zeroize();
    Ok(Current { generation, loaded_at, issuers })
}

impl Current {
    /// What became of the tokens of one key, by the positions of its issuer and of itself.
    pub fn count(&self, issuer: usize, key: usize) -> Option<&'static Count> {
        COUNTS.get()?.of_key(issuer, key)
    }

    /// What became of the tokens of the key that verified this one.
    pub fn count_of(&self, token: &Verified) -> Option<&'static Count> {
        let (issuer, key) = token.place();
        self.count(issuer, key)
    }
}

/// The tokens that no key verified.
pub fn unverified() -> Option<&'static Count> {
    COUNTS.get().map(|counts| &counts.unverified)
}

impl From<BadIssuers> for VaultError {
    fn from(bad: BadIssuers) -> Self {
        VaultError::IssuersRefused(bad.message, bad.hint.to_owned())
    }
}
