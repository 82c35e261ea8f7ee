//! Verified tokens of this backend. A token is verified once and found by its hash afterwards; whether it may be used now, here
//! and for this is checked at each use. No token is kept.

use std::cell::RefCell;
use std::rc::Rc;

use sha2::{Digest, Sha256};
use vault_core::identity::issuers::{Binding, Purpose};
use vault_core::identity::token::{self, TokenError, Use, Verified};

use super::{issuers, nonces};
use crate::error::IdentityError;
use crate::pg::session::{self, Statement};
use crate::settings;

/// Tokens remembered by one backend: behind a pooler, the users of a few minutes.
const REMEMBERED: usize = 256;

/// A token that has been verified.
pub struct Token {
    pub verified: Verified,
    pub issuer_name: String,
    /// Its jti, or the beginning of its hash in hexadecimal.
    pub id: String,
    pub is_bound: bool,
    hash: Hash,
    generation: u64,
}

type Hash = [u8; 32];

/// The latest token of this backend that was bound to a session.
struct Latest {
    sequence: u64,
    hash: Hash,
    /// The statement that brought it as an argument: PostgreSQL may call a function several times where the text has one call.
    statement: Option<Statement>,
}

thread_local! {
    /// The newest last.
    static VERIFIED: RefCell<Vec<Rc<Token>>> = const { RefCell::new(Vec::new()) };
    /// The token of the setting, and how often the setting had changed then.
    static OF_SETTING: RefCell<Option<(u64, Rc<Token>)>> = const { RefCell::new(None) };
    static LATEST: RefCell<Option<Latest>> = const { RefCell::new(None) };
}

impl Token {
    /// Whether it was issued before a time in microseconds since 2000-01-01 00:00 UTC.
    pub fn is_older_than(&self, limit: i64) -> bool {
        (self.verified.issued_at - session::EPOCH).saturating_mul(1_000_000) < limit
    }
}

/// A token that came as an argument.
pub fn argument(token: &[u8], purpose: Purpose) -> Result<Rc<Token>, IdentityError> {
    used(token, purpose, true)
}

/// The token of a request's headers, which is used again and again.
pub fn of_headers(token: &[u8], purpose: Purpose) -> Result<Rc<Token>, IdentityError> {
    used(token, purpose, false)
}

/// The token of the setting, which is used again and again: not hashed each time. None where there is none.
pub fn of_setting(purpose: Purpose) -> Result<Option<Rc<Token>>, IdentityError> {
    let issuers = match issuers::current() {
        Err(_) if settings::token().is_none() => return Ok(None),
        issuers => issuers?,
    };
    let changes = settings::token_changes();
    let known = OF_SETTING.with_borrow(|known| {
        known
            .as_ref()
            .filter(|(when, token)| *when == changes && token.generation == issuers.generation)
            .map(|known| Rc::clone(&known.1))
    });
    let token = match known {
        Some(token) => token,
        None => {
            let Some(token) = settings::token() else { return Ok(None) };
            let token = verified(&token, &issuers)?;
            OF_SETTING.set(Some((changes, Rc::clone(&token))));
            token
        }
    };
    checked(token, &issuers, purpose, false).map(Some)
}

fn used(token: &[u8], purpose: Purpose, is_argument: bool) -> Result<Rc<Token>, IdentityError> {
    let issuers = issuers::current()?;
    let token = verified(token, &issuers)?;
    checked(token, &issuers, purpose, is_argument)
}

fn checked(
    token: Rc<Token>,
    issuers: &issuers::Current,
    purpose: Purpose,
    is_argument: bool,
) -> Result<Rc<Token>, IdentityError> {
    // Only what this issuer asks for: the same token is checked again and again.
    let issuer = token.verified.issuer(&issuers.issuers);
    let only_if = |asked: bool, ask: fn() -> String| if asked { ask() } else { String::new() };
    let at = Use {
        now: session::statement_time(),
        purpose,
        database: &only_if(!issuer.databases.is_empty(), session::database_name),
        role: &only_if(!issuer.roles.is_empty(), session::caller),
        session: &only_if(issuer.binding == Binding::Session, nonces::session),
        challenge: &only_if(issuer.binding == Binding::Transaction, nonces::transaction),
    };
    let usable = token.verified.check(&issuers.issuers, &at).and_then(|()| in_sequence(&token, issuers, is_argument));
    if let Some(count) = issuers.count_of(&token.verified) {
        match usable {
            Ok(()) => count.note_acceptance(),
            Err(_) => count.note_refusal(session::now()),
        }
    }
    usable?;
    Ok(token)
}

fn verified(token: &[u8], issuers: &issuers::Current) -> Result<Rc<Token>, IdentityError> {
    let hash: Hash = Sha256::digest(token).into();
    let known = VERIFIED.with_borrow(|tokens| {
        tokens.iter().rev().find(|known| known.hash == hash && known.generation == issuers.generation).cloned()
    });
    if let Some(known) = known {
        return Ok(known);
    }
    let verified = token::verify(token, &issuers.issuers).inspect_err(|_| {
        if let Some(count) = issuers::unverified() {
            count.note_refusal(session::now());
        }
    })?;
    let id = verified.token_id.clone().unwrap_or_else(|| {
        // Without the signature: one of ES256 has a twin that is good, too.
        let signed = &token[..token.iter().rposition(|byte| *byte == b'.').unwrap_or_default()];
        Sha256::digest(signed)[..16].iter().map(|byte| format!("{byte:02x}")).collect()
    });
    let token = Rc::new(Token {
        issuer_name: verified.issuer(&issuers.issuers).name.clone(),
        id,
        is_bound: verified.is_bound(&issuers.issuers),
        hash,
        generation: issuers.generation,
        verified,
    });
    VERIFIED.with_borrow_mut(|tokens| {
        tokens.retain(|known| known.generation == issuers.generation);
        if tokens.len() == REMEMBERED {
            tokens.remove(0);
        }
        tokens.push(Rc::clone(&token));
    });
    Ok(token)
}

/// The numbers of tokens that are bound to this session must rise. An ambient token may be used again, and so may an argument
/// within its statement.
fn in_sequence(token: &Token, issuers: &issuers::Current, is_argument: bool) -> Result<(), TokenError> {
    let Some(sequence) = token.verified.sequence(&issuers.issuers) else { return Ok(()) };
    let statement = Statement::current();
    LATEST.with_borrow_mut(|latest| {
        if let Some(latest) = latest {
            let is_same =
                latest.hash == token.hash && (!is_argument || (statement.is_some() && latest.statement == statement));
            if is_same {
                return Ok(());
            }
            if sequence <= latest.sequence {
                return Err(TokenError::Replayed);
            }
        }
        *latest = Some(Latest { sequence, hash: token.hash, statement });
        Ok(())
    })
}
