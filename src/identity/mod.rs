//! Who the user is: the one place that answers it. By vault_ext.identity it is the application's word (app.current_user_id), a
//! verified token ([`tokens`], from the issuers in [`issuers`]), or the role that logged in. The answer is a pure function of
//! settings, the issuers' generation and the statement's time: nothing here can go stale.

use std::cell::RefCell;
use std::rc::Rc;

use vault_core::audit::record::{Evidence, IdentityKind};
use vault_core::crypto::wrap::USER_ID_MAX;
use vault_core::identity::headers;
use vault_core::identity::issuers::Purpose;

use crate::error::IdentityError;
use crate::pg::{session, xact};
use crate::settings::{self, IdentityMode};
use tokens::Token;

pub mod issuers;
pub mod nonces;
pub mod tokens;

/// The setting that names the user in the mode `asserted`.
const USER_ID_SETTING: &std::ffi::CStr = c"app.current_user_id";

/// The user of a call, and what established that.
#[derive(Clone)]
pub struct Identity {
    /// 1 to 255 bytes of UTF-8.
    pub user: String,
    pub kind: IdentityKind,
    pub token: Option<Rc<Token>>,
}

impl Identity {
    /// What the audit trail says of it.
    pub fn evidence(&self) -> Evidence<'_> {
        let token = self.token.as_deref();
        Evidence {
            identity: Some(self.kind),
            issuer: token.map(|token| token.issuer_name.as_str()),
            token_id: token.map(|token| token.id.as_str()),
            token_kid: token.and_then(|token| token.verified.kid.as_deref()),
            ..Evidence::default()
        }
    }
}

/// How a caller says who the user is.
#[derive(Clone, Copy)]
pub enum Caller<'a> {
    /// As vault_ext.identity says.
    OfSession,
    /// By a token that came as an argument; None is SQL's NULL. It counts in every mode.
    WithToken(Option<&'a str>),
}

impl Caller<'_> {
    /// The user, who may do that.
    pub fn identify(self, purpose: Purpose) -> Result<Identity, IdentityError> {
        match self {
            Self::OfSession => current(purpose),
            Self::WithToken(token) => of_token(token, purpose),
        }
    }
}

thread_local! {
    /// The user of the call in progress, for the policies: a token that came as an argument is in no setting.
    static IN_FORCE: RefCell<Option<String>> = const { RefCell::new(None) };
    /// The first user of a transaction, and the number of that transaction.
    static PINNED: RefCell<Option<(u32, String)>> = const { RefCell::new(None) };
}

/// The user of the current statement, for that purpose.
fn current(purpose: Purpose) -> Result<Identity, IdentityError> {
    let identity = match settings::identity() {
        IdentityMode::Asserted => by_name(session::setting(USER_ID_SETTING), IdentityKind::Asserted)?,
        IdentityMode::Role => by_name(Some(session::login().into_bytes()), IdentityKind::Role)?,
        IdentityMode::Token => match tokens::of_setting(purpose)? {
            Some(token) => by_token(token),
            None => by_token(tokens::of_headers(&token_of_headers().ok_or(IdentityError::NoToken)?, purpose)?),
        },
    };
    pin(identity)
}

fn of_token(token: Option<&str>, purpose: Purpose) -> Result<Identity, IdentityError> {
    let token = token.filter(|token| !token.is_empty()).ok_or(IdentityError::NoToken)?;
    pin(by_token(tokens::argument(token.as_bytes(), purpose)?))
}

/// The user as policies and the application's own row-level security see it. None where nobody has said who it is.
pub fn visible_user() -> Result<Option<String>, IdentityError> {
    if let Some(user) = IN_FORCE.with_borrow(Clone::clone) {
        return Ok(Some(user));
    }
    Ok(known()?.map(|identity| identity.user))
}

/// The user of the current statement; None where nobody has said who it is.
pub fn known() -> Result<Option<Identity>, IdentityError> {
    match current(Purpose::Identify) {
        Ok(identity) => Ok(Some(identity)),
        Err(IdentityError::Missing | IdentityError::NoToken) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Does `work` with that user in force for the policies. `work` may fail in every way that leaves by returning.
pub fn in_force<T>(user: Option<&str>, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<String>);
    impl Drop for Restore {
        fn drop(&mut self) {
            IN_FORCE.set(self.0.take());
        }
    }
    let _restore = Restore(IN_FORCE.replace(user.map(str::to_owned)));
    work()
}

/// Whether the policies let that user's rows through, in a call that has established the user.
pub fn is_in_force(user: &str) -> bool {
    IN_FORCE.with_borrow(|in_force| in_force.as_deref() == Some(user))
}

/// The token that came with PostgREST's request.
fn token_of_headers() -> Option<Vec<u8>> {
    let headers = settings::token_from_headers().then(|| session::setting(c"request.headers"))??;
    headers::bearer(&headers).map(String::into_bytes)
}

/// After `SET LOCAL` ends the setting reads as an empty string and not as NULL; both mean "nobody".
fn by_name(name: Option<Vec<u8>>, kind: IdentityKind) -> Result<Identity, IdentityError> {
    match name {
        None => Err(IdentityError::Missing),
        Some(bytes) if bytes.is_empty() => Err(IdentityError::Missing),
        Some(bytes) if bytes.len() > USER_ID_MAX => Err(IdentityError::TooLong),
        Some(bytes) => {
            let user = String::from_utf8(bytes).map_err(|_| IdentityError::NotText)?;
            Ok(Identity { user, kind, token: None })
        }
    }
}

fn by_token(token: Rc<Token>) -> Identity {
    let kind = if token.is_bound { IdentityKind::Bound } else { IdentityKind::Token };
    Identity { user: token.verified.user.clone(), kind, token: Some(token) }
}

/// With vault_ext.pin_identity, lets the first user of a transaction stand.
fn pin(identity: Identity) -> Result<Identity, IdentityError> {
    if !settings::pin_identity() {
        return Ok(identity);
    }
    PINNED.with_borrow_mut(|pinned| {
        let transaction = session::local_transaction();
        match pinned {
            Some((when, user)) if *when == transaction && *user != identity.user => Err(IdentityError::Changed),
            Some((when, _)) if *when == transaction => Ok(identity),
            _ => {
                *pinned = Some((transaction, identity.user.clone()));
                Ok(identity)
            }
        }
    })
}

/// Verifies a token and makes it the one of this transaction.
pub fn login(token: Option<&str>) -> Result<Identity, IdentityError> {
    let identity = of_token(token, Purpose::Identify)?;
    let value = std::ffi::CString::new(token.unwrap_or_default()).map_err(|_| IdentityError::NoToken)?;
    xact::set_local(c"vault_ext.token", &value);
    Ok(identity)
}
