//! Tokens: JSON Web Tokens (RFC 7519) in the compact form of JSON Web Signatures (RFC 7515).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::issuers::{Binding, Issuer, Issuers, Purpose};
use super::json;
use super::jwk::{Algorithm, Key};
use crate::crypto::wrap::USER_ID_MAX;

/// Longest token, in bytes.
pub const MAX_TOKEN: usize = 8_192;

/// Why a token is not accepted. The messages of a wrong key, key id and algorithm are the same, so that nobody learns from
/// them which keys there are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    #[error("the token's signature cannot be verified")]
    Signature,
    /// As [`TokenError::Signature`] to the caller: no key has that id or algorithm.
    #[error("the token's signature cannot be verified")]
    NoKey,
    #[error("the token's issuer is not known here")]
    Issuer,
    #[error("the token is meant for another audience")]
    Audience,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token's lifetime of {lifetime} s is longer than the {max} s allowed")]
    Lifetime { lifetime: i64, max: i64 },
    #[error("the token is of another type")]
    Type,
    #[error("the token names no user: {0}")]
    User(&'static str),
    #[error("the token's issuer does not count in this database")]
    Database,
    #[error("the token's issuer does not count for the role \"{0}\"")]
    Role(String),
    #[error("the token lacks the scope \"{0}\"")]
    Scope(String),
    #[error("the user must authenticate again, or more strongly")]
    StepUp { max_age: Option<i64>, acr: Vec<String> },
    #[error("the token was used before, or a later one was")]
    Replayed,
    #[error("the token is not bound to this {0}")]
    NotBound(&'static str),
    #[error("the token was revoked")]
    Revoked,
}

impl TokenError {
    /// What the audit row says.
    pub fn context(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "token-malformed",
            Self::Signature => "token-signature",
            Self::NoKey => "token-kid",
            Self::Issuer => "token-issuer",
            Self::Audience => "token-audience",
            Self::Expired => "token-expired",
            Self::NotYetValid => "token-not-yet-valid",
            Self::Lifetime { .. } => "token-lifetime",
            Self::Type => "token-type",
            Self::User(_) => "token-user",
            Self::Database => "token-database",
            Self::Role(_) => "token-role",
            Self::Scope(_) => "token-scope",
            Self::StepUp { .. } => "step-up",
            Self::Replayed => "token-replayed",
            Self::NotBound(_) => "token-not-bound",
            Self::Revoked => "token-revoked",
        }
    }

    /// Whether the token is good and only not enough for what was asked.
    pub fn is_insufficient(&self) -> bool {
        matches!(self, Self::Role(_) | Self::Scope(_) | Self::StepUp { .. })
    }
}

/// A token whose signature and form have been verified. Whether it may be used at a time and place is asked each time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// With the issuer's prefix.
    pub user: String,
    /// The positions of the issuer and of its key.
    issuer: usize,
    key: usize,
    pub kid: Option<String>,
    pub algorithm: Algorithm,
    /// The claim `jti`; None where there is none.
    pub token_id: Option<String>,
    /// Seconds since 1970-01-01 00:00 UTC.
    pub expires: i64,
    pub issued_at: i64,
    not_before: Option<i64>,
    auth_time: Option<i64>,
    acr: Option<String>,
    pub scopes: Vec<String>,
    session: Option<String>,
    sequence: Option<u64>,
    challenge: Option<String>,
    /// The claims, as JSON.
    pub claims: String,
}

/// Where, when and for what a token is used.
#[derive(Debug, Clone, Copy)]
pub struct Use<'a> {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub now: i64,
    pub database: &'a str,
    pub role: &'a str,
    pub purpose: Purpose,
    /// The nonces of this backend and of its transaction.
    pub session: &'a str,
    pub challenge: &'a str,
}

/// Verifies form, issuer, signature and the claims that do not depend on time and place.
///
/// # Errors
/// [`TokenError`], which quotes nothing of the token.
pub fn verify(token: &[u8], issuers: &Issuers) -> Result<Verified, TokenError> {
    if token.len() > MAX_TOKEN {
        return Err(TokenError::Malformed("it is longer than 8 KiB"));
    }
    let mut parts = token.split(|byte| *byte == b'.');
    let (Some(header), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenError::Malformed("it has not three parts"));
    };
    let signed = &token[..header.len() + 1 + payload.len()];
    let header = object(header, "its header is not base64url of a JSON object")?;
    let payload_text = decode(payload).ok_or(TokenError::Malformed("its payload is not base64url"))?;
    let claims = parse_object(&payload_text, "its payload is not a JSON object")?;
    let signature = decode(signature).ok_or(TokenError::Malformed("its signature is not base64url"))?;

    let algorithm = check_header(&header)?;
    let iss = claims.get("iss").and_then(Value::as_str).ok_or(TokenError::Issuer)?;
    let position = issuers.issuers.iter().position(|issuer| issuer.iss == iss).ok_or(TokenError::Issuer)?;
    let issuer = &issuers.issuers[position];
    let key = find_key(issuer, &header, algorithm)?;
    if !key.verifies(signed, &signature) {
        return Err(TokenError::Signature);
    }
    // From here on the claims are the issuer's own.
    check_type(issuer, &header)?;
    check_audience(issuer, &claims)?;
    let issued_at = time(&claims, "iat")?.ok_or(TokenError::Malformed("it has no iat"))?;
    let expires = time(&claims, "exp")?.ok_or(TokenError::Malformed("it has no exp"))?;
    let lifetime = expires - issued_at;
    if lifetime <= 0 {
        return Err(TokenError::Malformed("its exp is not after its iat"));
    }
    if lifetime > issuer.max_lifetime {
        return Err(TokenError::Lifetime { lifetime, max: issuer.max_lifetime });
    }
    Ok(Verified {
        user: user(issuer, &claims)?,
        issuer: position,
        key: issuer.keys.iter().position(|other| std::ptr::eq(other, key)).unwrap_or_default(),
        kid: key.kid.clone(),
        algorithm: key.algorithm,
        token_id: optional_text(&claims, "jti")?,
        expires,
        issued_at,
        not_before: time(&claims, "nbf")?,
        auth_time: time(&claims, "auth_time")?,
        acr: optional_text(&claims, "acr")?,
        scopes: scopes(&claims)?,
        session: optional_text(&claims, "vault_session")?,
        sequence: claims
            .get("seq")
            .map(|seq| seq.as_u64().ok_or(TokenError::Malformed("its seq is not a number")))
            .transpose()?,
        challenge: optional_text(&claims, "vault_challenge")?,
        claims: String::from_utf8(payload_text).map_err(|_| TokenError::Malformed("its payload is not UTF-8"))?,
    })
}

impl Verified {
    /// The issuer; it must be of the issuers that verified the token.
    pub fn issuer<'a>(&self, issuers: &'a Issuers) -> &'a Issuer {
        &issuers.issuers[self.issuer]
    }

    /// The positions of the issuer and of the key that verified the token.
    pub fn place(&self) -> (usize, usize) {
        (self.issuer, self.key)
    }

    /// Whether the token may be used now, here and for this.
    ///
    /// # Errors
    /// Those of [`TokenError`] that depend on time and place.
    pub fn check(&self, issuers: &Issuers, at: &Use<'_>) -> Result<(), TokenError> {
        let issuer = self.issuer(issuers);
        if at.now >= self.expires + issuer.leeway {
            return Err(TokenError::Expired);
        }
        if self.issued_at > at.now + issuer.leeway || self.not_before.is_some_and(|from| from > at.now + issuer.leeway)
        {
            return Err(TokenError::NotYetValid);
        }
        let counts = |list: &[String], name: &str| list.is_empty() || list.iter().any(|other| other == name);
        if !counts(&issuer.databases, at.database) {
            return Err(TokenError::Database);
        }
        if !counts(&issuer.roles, at.role) {
            return Err(TokenError::Role(at.role.to_owned()));
        }
        match issuer.binding {
            Binding::None => {}
            Binding::Session if self.session.as_deref() == Some(at.session) && self.sequence.is_some() => {}
            Binding::Session => return Err(TokenError::NotBound("session")),
            Binding::Transaction if self.challenge.as_deref() == Some(at.challenge) => {}
            Binding::Transaction => return Err(TokenError::NotBound("transaction")),
        }
        if let Some(scope) = issuer.scope(at.purpose)
            && !self.scopes.iter().any(|other| other == scope)
        {
            return Err(TokenError::Scope(scope.to_owned()));
        }
        if let Some(step_up) = issuer.step_up(at.purpose) {
            let is_fresh = step_up.max_age.is_none_or(|max_age| {
                self.auth_time.is_some_and(|at_time| {
                    at_time <= at.now + issuer.leeway && at.now - at_time <= max_age + issuer.leeway
                })
            });
            let is_strong = step_up.acr.is_empty() || self.acr.as_ref().is_some_and(|acr| step_up.acr.contains(acr));
            if !is_fresh || !is_strong {
                return Err(TokenError::StepUp { max_age: step_up.max_age, acr: step_up.acr.clone() });
            }
        }
        Ok(())
    }

    /// The number of a token that is bound to a session: it must rise from token to token.
    pub fn sequence(&self, issuers: &Issuers) -> Option<u64> {
        (self.issuer(issuers).binding == Binding::Session).then_some(self.sequence).flatten()
    }

    pub fn is_bound(&self, issuers: &Issuers) -> bool {
        self.issuer(issuers).binding != Binding::None
    }
}

fn decode(part: &[u8]) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok()
}

fn object(part: &[u8], what: &'static str) -> Result<Value, TokenError> {
    parse_object(&decode(part).ok_or(TokenError::Malformed(what))?, what)
}

fn parse_object(text: &[u8], what: &'static str) -> Result<Value, TokenError> {
    json::parse(text).ok().filter(Value::is_object).ok_or(TokenError::Malformed(what))
}

/// The algorithm that the header claims. It only helps to find the key, which has its own.
fn check_header(header: &Value) -> Result<Algorithm, TokenError> {
    // Extensions that must be understood, and an unencoded payload (RFC 7797): none is. A key or its address that comes
    // with the token (jwk, jku, x5c, x5u) is never looked at.
    if header.get("crit").is_some() || header.get("b64").is_some() {
        return Err(TokenError::Malformed("it has extensions (crit, b64)"));
    }
    match header.get("alg").and_then(Value::as_str) {
        None => Err(TokenError::Malformed("it has no alg")),
        Some(name) => Algorithm::from_name(name).ok_or(TokenError::NoKey),
    }
}

fn find_key<'a>(issuer: &'a Issuer, header: &Value, algorithm: Algorithm) -> Result<&'a Key, TokenError> {
    let mut fitting = issuer.keys.iter().filter(|key| key.algorithm == algorithm);
    match header.get("kid") {
        Some(Value::String(kid)) => fitting.find(|key| key.kid.as_ref() == Some(kid)).ok_or(TokenError::NoKey),
        Some(_) => Err(TokenError::Malformed("its kid is not a text")),
        None => match (fitting.next(), fitting.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(TokenError::NoKey),
        },
    }
}

/// RFC 7515, section 4.1.9: "application/" may be left out, and case does not matter.
fn check_type(issuer: &Issuer, header: &Value) -> Result<(), TokenError> {
    let given = match header.get("typ") {
        None => None,
        Some(Value::String(given)) => Some(normal_type(given)),
        Some(_) => return Err(TokenError::Type),
    };
    let fits = match (&issuer.types, &given) {
        (None, None) => true,
        (None, Some(given)) => ["jwt", "at+jwt"].contains(&given.as_str()),
        (Some(types), Some(given)) => types.iter().any(|allowed| normal_type(allowed) == *given),
        // An empty text in the issuer's list stands for no type.
        (Some(types), None) => types.iter().any(String::is_empty),
    };
    if fits { Ok(()) } else { Err(TokenError::Type) }
}

fn normal_type(given: &str) -> String {
    let lower = given.to_ascii_lowercase();
    lower.strip_prefix("application/").map(str::to_owned).unwrap_or(lower)
}

fn check_audience(issuer: &Issuer, claims: &Value) -> Result<(), TokenError> {
    let is_ours =
        |audience: &Value| audience.as_str().is_some_and(|text| issuer.audiences.iter().any(|ours| ours == text));
    let fits = match claims.get("aud") {
        Some(Value::Array(list)) => list.iter().all(Value::is_string) && list.iter().any(is_ours),
        Some(one) => is_ours(one),
        None => false,
    };
    if fits { Ok(()) } else { Err(TokenError::Audience) }
}

/// A NumericDate (RFC 7519, section 2), of which only whole seconds up to the year 9999 are accepted.
fn time(claims: &Value, name: &str) -> Result<Option<i64>, TokenError> {
    const END_OF_9999: i64 = 253_402_300_799;
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_i64().filter(|seconds| (0..=END_OF_9999).contains(seconds));
    seconds.map(Some).ok_or(TokenError::Malformed("a time of it is not a whole number of seconds since 1970"))
}

fn optional_text(claims: &Value, name: &str) -> Result<Option<String>, TokenError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(TokenError::Malformed("a claim of it is not a text")),
    }
}

/// RFC 8693, section 4.2: texts between spaces. Some issuers give a list, or call it scp.
fn scopes(claims: &Value) -> Result<Vec<String>, TokenError> {
    let not_scopes = TokenError::Malformed("its scopes are not texts");
    match claims.get("scope").or_else(|| claims.get("scp")) {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(text.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned).collect()),
        Some(Value::Array(list)) => {
            list.iter().map(|scope| scope.as_str().map(str::to_owned)).collect::<Option<_>>().ok_or(not_scopes)
        }
        Some(_) => Err(not_scopes),
    }
}

fn user(issuer: &Issuer, claims: &Value) -> Result<String, TokenError> {
    match claims.pointer(&issuer.user) {
        None => Err(TokenError::User("the issuer's claim is absent")),
        Some(Value::String(id)) if id.is_empty() => Err(TokenError::User("the issuer's claim is empty")),
        Some(Value::String(id)) if issuer.user_prefix.len() + id.len() > USER_ID_MAX => {
            Err(TokenError::User("the id is longer than 255 bytes"))
        }
        Some(Value::String(id)) => Ok(format!("{}{id}", issuer.user_prefix)),
        Some(_) => Err(TokenError::User("the issuer's claim is not a text")),
    }
}

#[cfg(test)]
mod tests;
