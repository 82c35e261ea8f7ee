//! Who the user is: for applications and their own row-level security, and for administrators of issuers.

use pgrx::JsonB;
use pgrx::prelude::*;
use vault_core::audit::record::IdentityKind;

use super::{admin, or_raise};
use crate::error::{IdentityError, VaultError};
use crate::identity::{self, Caller, nonces};
use crate::pg::composite::Row;
use crate::pg::session;
use crate::vault::{issuers, service};

/// Verifies a token and makes it the one of this transaction. 28000.
#[pg_extern(sql = false)]
fn vault_login(token: Option<&str>) -> String {
    or_raise(service::login(token))
}

/// The user; NULL where nobody has said who it is. 28000 for a bad token.
#[pg_extern(sql = false)]
fn vault_user_id() -> Option<String> {
    or_raise(identity::visible_user().map_err(VaultError::from))
}

/// The claims of the user's token; NULL without one. 28000 for a bad token.
#[pg_extern(sql = false)]
fn vault_claims() -> Option<JsonB> {
    let identity = or_raise(identity::known().map_err(VaultError::from))?;
    let token = identity.token?;
    Some(JsonB(serde_json::from_str(&token.verified.claims).expect("a verified token's claims are JSON")))
}

/// user_id, identity, issuer, token_id, token_kid, issued_at, expires_at, bound, scopes; all NULL where nobody has said who it is.
#[pg_extern(sql = false)]
fn vault_whoami() -> Row<9> {
    let Some(identity) = or_raise(identity::known().map_err(VaultError::from)) else { return Row([None; 9]) };
    let time = |seconds: i64| TimestampWithTimeZone::try_from((seconds - session::EPOCH) * 1_000_000).ok().into_datum();
    let evidence = identity.evidence();
    let token = identity.token.as_deref();
    Row([
        identity.user.as_str().into_datum(),
        evidence.identity.map(IdentityKind::name).into_datum(),
        evidence.issuer.into_datum(),
        evidence.token_id.into_datum(),
        evidence.token_kid.into_datum(),
        token.and_then(|token| time(token.verified.issued_at)),
        token.and_then(|token| time(token.verified.expires)),
        token.map(|token| token.is_bound).into_datum(),
        token.map(|token| token.verified.scopes.clone()).into_datum(),
    ])
}

/// The nonce of this backend, for tokens that are bound to a session.
#[pg_extern(sql = false)]
fn vault_session() -> String {
    nonces::session()
}

/// The nonce of this transaction, for tokens that are bound to it.
#[pg_extern(sql = false)]
fn vault_challenge() -> String {
    nonces::transaction()
}

/// Reads the issuers again for the whole server and says what is loaded. F0000, and the old ones stay.
#[pg_extern(sql = false)]
fn vault_reload_issuers() -> String {
    or_raise(issuers::reload())
}

/// One row for each key of each issuer, and a last one for tokens that no key verified. The key's id comes last: it may be long.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of the result")]
fn vault_identity_status() -> TableIterator<
    'static,
    (
        name!(issuer, Option<String>),
        name!(algorithm, Option<&'static str>),
        name!(loaded_at, Option<TimestampWithTimeZone>),
        name!(accepted, i64),
        name!(refused, i64),
        name!(last_refusal, Option<TimestampWithTimeZone>),
        name!(token_kid, Option<String>),
    ),
> {
    let time = |at: i64| TimestampWithTimeZone::try_from(at).ok();
    TableIterator::new(or_raise(issuers::status()).into_iter().map(move |key| {
        (
            key.issuer,
            key.algorithm,
            key.loaded_at.and_then(time),
            key.accepted as i64,
            key.refused as i64,
            key.last_refusal.and_then(time),
            key.kid,
        )
    }))
}

/// Lets a user's tokens that were issued before a time count no more. False if the user has no vault. 22023.
#[pg_extern(sql = false)]
fn vault_revoke_tokens(user_id: String, issued_before: TimestampWithTimeZone) -> bool {
    admin::check_user_id(&user_id);
    or_raise(service::revoke_tokens(user_id, issued_before.into()))
}

/// accepted, user_id, issuer, token_id, token_kid, reason (as in the trail), problem, hint: whether a token would be accepted here and now,
/// and why not.
#[pg_extern(sql = false)]
fn vault_explain_token(token: Option<&str>) -> Row<8> {
    let (identity, problem) = match or_raise(service::explain(Caller::WithToken(token))) {
        Ok(identity) => (Some(identity), None),
        Err(problem) => (None, Some(problem)),
    };
    let evidence = identity.as_ref().map(identity::Identity::evidence).unwrap_or_default();
    let reason = problem.as_ref().map(IdentityError::context);
    let problem = problem.map(VaultError::from);
    Row([
        problem.is_none().into_datum(),
        identity.as_ref().map(|identity| identity.user.as_str()).into_datum(),
        evidence.issuer.into_datum(),
        evidence.token_id.into_datum(),
        evidence.token_kid.into_datum(),
        reason.into_datum(),
        problem.as_ref().map(ToString::to_string).into_datum(),
        problem.as_ref().map(VaultError::hint).into_datum(),
    ])
}
