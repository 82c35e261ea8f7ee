//! The keys that a transaction has unlocked: opened and audited once, used many times, forgotten when it ends.
//!
//! The trail gets a row before the first use of a key, and when the transaction ends another one with the number of uses, if there
//! was more than one. Nobody waits for the second row; a lost one is counted.

use std::cell::{Cell, RefCell};

use vault_core::audit::record::Action;
use vault_core::crypto::secret::MasterKey;
use vault_core::data::derive::{self, Purpose};
use vault_core::data::index::BlindIndex;
use vault_core::data::value::Cipher;
use vault_core::identity::issuers;

use crate::audit::leave;
use crate::error::{DataError, KeyError, VaultError};
use crate::identity::Caller;
use crate::pg::secret::{self, SecretPages};
use crate::pg::session::{self, Statement};
use crate::pg::xact::{self, Callbacks};
use crate::settings::{self, AuditDecrypts};
use crate::store;
use crate::store::database_keys::LOOKUP_INDEX;
use crate::vault::call::Call;
use crate::vault::key::{KeyId, UserKey};
use crate::vault::{database_key, repeat, service, versions};

/// The most keys that a transaction has unlocked at a time. The one that was not used for longest makes room.
const MOST: usize = 64;

/// What a key is unlocked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    Encrypt,
    Decrypt,
    /// Decrypt and encrypt without giving the plaintext to anybody.
    Reencrypt,
    Index,
    /// The same across users, under a key of the database.
    Lookup,
    /// Write and read what the predecessor's clients encrypt.
    WriteBlob,
    ReadBlob,
}

impl Use {
    fn action(self) -> Action {
        match self {
            Self::Encrypt | Self::WriteBlob => Action::Encrypt,
            Self::Decrypt | Self::ReadBlob => Action::Decrypt,
            Self::Reencrypt => Action::Reencrypt,
            Self::Index | Self::Lookup => Action::Index,
        }
    }

    /// Whether a plaintext comes out.
    fn releases(self) -> bool {
        matches!(self, Self::Decrypt | Self::ReadBlob)
    }

    /// Whether what is made under the current version must outlive the transaction: then that version must not be destroyed
    /// meanwhile.
    fn keeps_current(self) -> bool {
        matches!(self, Self::Encrypt | Self::Reencrypt | Self::WriteBlob)
    }
}

/// The key itself, on a page of its own that is left out of core files.
pub enum Material {
    Values(SecretPages<Cipher>),
    Index(SecretPages<BlindIndex>),
    Master(SecretPages<MasterKey>),
}

/// A key that the transaction has unlocked.
pub struct Unlocked {
    by: Use,
    pub user: String,
    purpose: String,
    pub key_version: i32,
    kek_id: String,
    /// The state of the user's keys (`repeat::changes`) in which this version is the current one, if it was looked up as that.
    current_in: Option<u64>,
    /// Nesting level of the transaction that unlocked it.
    level: i32,
    pub material: Material,
    uses: u64,
    /// The statement that the last row of the trail is about.
    audited: Option<Statement>,
    call: Call,
}

impl Unlocked {
    /// Records that this use failed, and gives the error to raise.
    pub fn failed(&self, error: impl Into<VaultError>) -> VaultError {
        self.call.failed(error.into())
    }

    fn id(&self) -> KeyId<'_> {
        KeyId { kek_id: &self.kek_id, key_version: self.key_version }
    }

    /// Accounts for one use, before it happens.
    fn count(&mut self) -> Result<(), VaultError> {
        if self.by.releases() {
            let (done, most) = (RELEASED.get() + 1, settings::max_decrypts());
            if most > 0 && done > u64::from(most) {
                return Err(self.failed(DataError::TooManyDecrypts(most)));
            }
            RELEASED.set(done);
            if self.uses > 0 {
                self.audit_again()?;
            }
        }
        self.uses += 1;
        Ok(())
    }

    /// Writes one more row where vault_ext.audit_decrypts asks for it.
    fn audit_again(&mut self) -> Result<(), VaultError> {
        let is_due = match settings::audit_decrypts() {
            AuditDecrypts::Transaction => false,
            AuditDecrypts::Statement => self.audited.is_none() || self.audited != Statement::current(),
            AuditDecrypts::Value => true,
        };
        if is_due {
            self.call.record(200, Some(self.id()), Some(&context(&self.purpose)))?;
            self.audited = Statement::current();
        }
        Ok(())
    }
}

thread_local! {
    /// The last one is the one used last.
    static KEYS: RefCell<Vec<Unlocked>> = const { RefCell::new(Vec::new()) };
    /// The plaintexts that this transaction has released.
    static RELEASED: Cell<u64> = const { Cell::new(0) };
}

static CALLBACKS: Callbacks = Callbacks {
    committed: forget,
    aborted: forget,
    level_committed: |level| {
        with_keys(|keys| {
            keys.iter_mut().filter(|key| key.level >= level).for_each(|key| key.level = level - 1);
        });
    },
    // The lock on the vault is gone with the level, and so may be a key of the database.
    level_aborted: |level| {
        with_keys(|keys| {
            keys.extract_if(.., |key| key.level >= level && key.by == Use::Lookup).for_each(|key| end(&key));
            keys.iter_mut().filter(|key| key.level >= level).for_each(|key| key.current_in = None);
        });
    },
    before_prepare: forget,
};

/// Never fails: it also runs while a transaction ends.
fn with_keys(work: impl FnOnce(&mut Vec<Unlocked>)) {
    let _ = KEYS.try_with(|keys| keys.try_borrow_mut().map(|mut keys| work(&mut keys)));
}

fn forget() {
    with_keys(|keys| {
        if !keys.is_empty() {
            secret::scrubbed(|| keys.drain(..).for_each(|key| end(&key)));
        }
    });
    let _ = RELEASED.try_with(|released| released.set(0));
}

/// Leaves the row with the number of uses.
fn end(key: &Unlocked) {
    if key.uses > 1 {
        let context = format!("{}: {} uses", context(&key.purpose), key.uses);
        leave::leave(&key.call.as_row(200, Some(key.id()), Some(&context)));
    }
}

fn context(purpose: &str) -> String {
    format!("purpose {purpose}")
}

/// Does `work` with a version of the user's key that is unlocked for that; `None` is the current version.
pub fn with_key<T>(
    by: Use,
    key_version: Option<i32>,
    purpose: Purpose<'_>,
    work: impl FnOnce(&Unlocked) -> Result<T, VaultError>,
) -> Result<T, VaultError> {
    let Ok(identity) = Caller::OfSession.identify(issuers::Purpose::Use) else {
        // The call refuses it once more, and records that.
        return Err(match Call::begin(by.action(), Caller::OfSession) {
            Err(error) => error,
            Ok(_) => VaultError::ChangedMeanwhile,
        });
    };
    let is_it = |key: &Unlocked| {
        key.by == by
            && key.purpose == purpose.as_str()
            && key.user == identity.user
            && match key_version {
                Some(version) => key.key_version == version,
                None => key.current_in == Some(repeat::changes()),
            }
    };
    use_or_unlock(is_it, || unlock(by, key_version, purpose), work)
}

/// Does `work` with the key of lookup indexes, which belongs to no user.
pub fn with_lookup_key<T>(
    purpose: Purpose<'_>,
    work: impl FnOnce(&Unlocked) -> Result<T, VaultError>,
) -> Result<T, VaultError> {
    let is_it = |key: &Unlocked| key.by == Use::Lookup && key.purpose == purpose.as_str();
    let unlock = || {
        xact::listen(&CALLBACKS);
        let call = Call::without_user(Action::Index)?;
        let open = || session::as_role(store::OWNER, || database_key::open_or_create(LOOKUP_INDEX));
        let key = call.attempt(|_| open())?;
        finish(call, Use::Lookup, None, purpose, &key)
    };
    use_or_unlock(is_it, unlock, work)
}

/// Does `work` with the key that is unlocked already, or is now.
fn use_or_unlock<T>(
    is_it: impl Fn(&Unlocked) -> bool,
    unlock: impl FnOnce() -> Result<Unlocked, VaultError>,
    work: impl FnOnce(&Unlocked) -> Result<T, VaultError>,
) -> Result<T, VaultError> {
    let is_unlocked = KEYS.with_borrow_mut(|keys| {
        let at = keys.iter().rposition(is_it);
        if let Some(at) = at.filter(|at| at + 1 < keys.len()) {
            let key = keys.remove(at);
            keys.push(key);
        }
        at.is_some()
    });
    if !is_unlocked {
        // With nothing borrowed: the statements on the tables may call others.
        let key = unlock()?;
        KEYS.with_borrow_mut(|keys| {
            if keys.len() == MOST {
                end(&keys.remove(0));
            }
            keys.push(key);
        });
    }
    KEYS.with_borrow_mut(|keys| {
        let key = keys.last_mut().expect("the key that was found or unlocked");
        key.count()?;
        work(key)
    })
}

fn unlock(by: Use, key_version: Option<i32>, purpose: Purpose<'_>) -> Result<Unlocked, VaultError> {
    xact::listen(&CALLBACKS);
    let call = Call::begin(by.action(), Caller::OfSession)?;
    let key = call.attempt(|user| {
        session::as_role(store::OWNER, || {
            if key_version.is_none() && by.keeps_current() {
                service::open_and_keep(&call, user)?.ok_or(VaultError::NoVault)
            } else {
                versions::open(&call, user, key_version)
            }
        })
    })?;
    finish(call, by, key_version, purpose, &key)
}

/// Records the first use of a key, and gives what the transaction keeps of it.
fn finish(
    call: Call,
    by: Use,
    key_version: Option<i32>,
    purpose: Purpose<'_>,
    key: &UserKey,
) -> Result<Unlocked, VaultError> {
    let current_in = key_version.is_none().then(repeat::changes);
    let (id, material) = match material(by, purpose, key) {
        Ok(material) => (key.id(), material),
        Err(error) => return Err(call.failed(error)),
    };
    call.record(200, Some(id), Some(&context(purpose.as_str())))?;
    Ok(Unlocked {
        by,
        user: call.user().to_owned(),
        purpose: purpose.as_str().to_owned(),
        key_version: id.key_version,
        kek_id: id.kek_id.to_owned(),
        current_in,
        level: xact::nesting_level(),
        material,
        uses: 0,
        audited: Statement::current(),
        call,
    })
}

fn material(by: Use, purpose: Purpose<'_>, key: &UserKey) -> Result<Material, VaultError> {
    let master_key = key.master_key().ok_or(KeyError::ZeroKnowledge)?;
    let material = || match by {
        Use::Encrypt | Use::Decrypt | Use::Reencrypt => {
            SecretPages::build(1, |_| Cipher::new(&derive::data_key(master_key, purpose))).map(Material::Values)
        }
        Use::Index | Use::Lookup => {
            SecretPages::build(1, |_| BlindIndex::new(&derive::index_key(master_key, purpose))).map(Material::Index)
        }
        Use::WriteBlob | Use::ReadBlob => SecretPages::build(1, |_| {
            let mut copy = MasterKey::zeroed();
            copy.expose_secret_mut().copy_from_slice(master_key.expose_secret());
            copy
        })
        .map(Material::Master),
    };
    secret::scrubbed_cipher(material).ok_or(VaultError::NoMemory)
}
