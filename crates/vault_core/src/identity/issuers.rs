//! The issuers whose tokens are believed, as the issuers file gives them.

use std::fmt;

use serde_json::{Map, Value, json};

use super::json;
use super::jwk::{self, Algorithm, Key};
use crate::crypto::wrap::USER_ID_MAX;

/// Issuers of one file.
pub const MAX_ISSUERS: usize = 16;
/// Longest name of an issuer, in bytes: what the audit trail keeps of it.
pub const MAX_NAME: usize = 63;
/// Longest lifetime that may be configured, in seconds.
const MAX_LIFETIME: i64 = 86_400;
const DEFAULT_LIFETIME: i64 = 3_600;
/// Clocks that differ by more than this need repair.
const MAX_LEEWAY: i64 = 300;
const DEFAULT_LEEWAY: i64 = 30;

/// What a token is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Init,
    Fetch,
    Rotate,
    /// Encrypting, decrypting, deriving and indexing in SQL.
    Use,
    /// Giving and revoking grants.
    Grant,
    /// The recovery code and zero-knowledge mode.
    Recovery,
    /// Status, claims, row-level security: nothing leaves that a scope would guard.
    Identify,
}

impl Purpose {
    const CONFIGURABLE: [Self; 6] = [Self::Init, Self::Fetch, Self::Rotate, Self::Use, Self::Grant, Self::Recovery];

    pub fn name(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Fetch => "fetch",
            Self::Rotate => "rotate",
            Self::Use => "use",
            Self::Grant => "grant",
            Self::Recovery => "recovery",
            Self::Identify => "identify",
        }
    }
}

/// What a token must be bound to, besides its user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Binding {
    #[default]
    None,
    /// The backend's nonce, with a number that rises from token to token.
    Session,
    /// The transaction's nonce.
    Transaction,
}

/// How fresh and how strong the user's authentication must be (RFC 9470).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepUp {
    /// Seconds since `auth_time`.
    pub max_age: Option<i64>,
    /// One of these must be the token's `acr`.
    pub acr: Vec<String>,
}

/// One issuer.
#[derive(Debug)]
pub struct Issuer {
    /// The name in the audit trail and in messages.
    pub name: String,
    /// The claim `iss`, compared byte by byte.
    pub iss: String,
    /// One of these must be among the claim `aud`.
    pub audiences: Vec<String>,
    pub algorithms: Vec<Algorithm>,
    pub keys: Vec<Key>,
    /// Media types that the header's `typ` may have; None: `JWT`, `at+jwt`, or no `typ` at all.
    pub types: Option<Vec<String>>,
    /// JSON pointer (RFC 6901) to the claim that holds the user's id.
    pub user: String,
    /// Stands before the id, so that two issuers cannot mean one user by accident.
    pub user_prefix: String,
    /// Where its tokens count; empty: everywhere.
    pub databases: Vec<String>,
    pub roles: Vec<String>,
    /// Seconds from `iat` to `exp`.
    pub max_lifetime: i64,
    /// Seconds that clocks may differ.
    pub leeway: i64,
    pub binding: Binding,
    scopes: Vec<(Purpose, String)>,
    step_up: Vec<(Purpose, StepUp)>,
}

impl Issuer {
    /// The scope that a token needs for that.
    pub fn scope(&self, purpose: Purpose) -> Option<&str> {
        self.scopes.iter().find(|(other, _)| *other == purpose).map(|(_, scope)| scope.as_str())
    }

    pub fn step_up(&self, purpose: Purpose) -> Option<&StepUp> {
        self.step_up.iter().find(|(other, _)| *other == purpose).map(|(_, step_up)| step_up)
    }

    fn counts_where(&self, other: &Self) -> bool {
        self.databases.is_empty()
            || other.databases.is_empty()
            || self.databases.iter().any(|database| other.databases.contains(database))
    }
}

/// All issuers, and the text that gives them to other processes.
pub struct Issuers {
    pub issuers: Vec<Issuer>,
    /// The same as JSON with the keys in it; holds secrets where one of them has HS256.
    text: String,
}

/// Why an issuers file is refused: file, issuer, key, reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadIssuers(String);

fn bad<T>(message: impl Into<String>) -> Result<T, BadIssuers> {
    Err(BadIssuers(message.into()))
}

impl fmt::Debug for Issuers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.issuers).finish()
    }
}

impl Issuers {
    /// Reads an issuers file. `read_jwks` gives the text of a JWK set by the path that the file names.
    ///
    /// # Errors
    /// [`BadIssuers`], a message that names the place. It never quotes a key.
    pub fn parse(text: &[u8], mut read_jwks: impl FnMut(&str) -> Result<Vec<u8>, String>) -> Result<Self, BadIssuers> {
        let file = json::parse(text).or_else(|error| bad(error.to_string()))?;
        let Value::Object(file) = file else { return bad("is not a JSON object") };
        only(&file, &["issuers"]).or_else(bad)?;
        let Some(Value::Array(list)) = file.get("issuers") else { return bad("has no member \"issuers\" with a list") };
        if list.is_empty() || list.len() > MAX_ISSUERS {
            return bad(format!("has {} issuers; allowed are 1 to {MAX_ISSUERS}", list.len()));
        }
        let mut issuers: Vec<Issuer> = Vec::with_capacity(list.len());
        let mut published = Vec::with_capacity(list.len());
        for (position, value) in list.iter().enumerate() {
            let name = value.get("name").and_then(Value::as_str).map(str::to_owned);
            let place = name.map_or_else(|| format!("issuer {}", position + 1), |name| format!("issuer {name:?}"));
            let (issuer, self_contained) =
                issuer(value, &mut read_jwks).or_else(|reason| bad(format!("{place}: {reason}")))?;
            if let Some(reason) = issuers.iter().find_map(|other| conflict(&issuer, other)) {
                return bad(format!("{place}: {reason}"));
            }
            issuers.push(issuer);
            published.push(self_contained);
        }
        Ok(Self { issuers, text: json!({ "issuers": published }).to_string() })
    }

    /// What `parse` reads again without any other file.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn has_secrets(&self) -> bool {
        self.issuers.iter().any(|issuer| issuer.keys.iter().any(Key::is_secret))
    }
}

/// Why two issuers cannot stand side by side.
fn conflict(issuer: &Issuer, other: &Issuer) -> Option<String> {
    if issuer.name == other.name {
        return Some("its name is that of another issuer".into());
    }
    if issuer.iss == other.iss {
        return Some(format!("its iss is that of issuer {:?}", other.name));
    }
    let prefixes = (issuer.user_prefix.as_str(), other.user_prefix.as_str());
    let may_collide = prefixes.0.starts_with(prefixes.1) || prefixes.1.starts_with(prefixes.0);
    // RFC 7519, section 4.1.2: a subject is unique within its issuer only.
    (may_collide && issuer.counts_where(other)).then(|| {
        format!(
            "its user ids could be those of issuer {:?}: give each a user_prefix that does not begin with the other's, \
             or databases of its own",
            other.name
        )
    })
}

const MEMBERS: [&str; 16] = [
    "name",
    "iss",
    "aud",
    "jwks_file",
    "jwks",
    "algs",
    "typ",
    "user",
    "user_prefix",
    "databases",
    "roles",
    "max_lifetime",
    "leeway",
    "bind",
    "scope",
    "step_up",
];

fn only(object: &Map<String, Value>, known: &[&str]) -> Result<(), String> {
    match object.keys().find(|name| !known.contains(&name.as_str())) {
        Some(unknown) => Err(format!("unknown member {unknown:?}")),
        None => Ok(()),
    }
}

fn issuer(
    value: &Value,
    read_jwks: &mut impl FnMut(&str) -> Result<Vec<u8>, String>,
) -> Result<(Issuer, Value), String> {
    let object = value.as_object().ok_or("is not a JSON object")?;
    only(object, &MEMBERS)?;
    let algorithms = algorithms(object)?;
    let set = match (object.get("jwks_file"), object.get("jwks")) {
        (Some(Value::String(path)), None) => {
            let text = read_jwks(path)?;
            json::parse(&text).map_err(|error| format!("jwks_file {path:?}: {error}"))?
        }
        (None, Some(set)) => set.clone(),
        _ => return Err("give either jwks_file (a path) or jwks (a JWK set)".into()),
    };
    let keys = jwk::parse_set(&set, &algorithms).map_err(|reason| match object.get("jwks_file") {
        Some(Value::String(path)) => format!("jwks_file {path:?}: {reason}"),
        _ => reason,
    })?;
    let name = text(object, "name")?;
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(format!("name must have 1 to {MAX_NAME} bytes and no control characters"));
    }
    let user = optional_text(object, "user")?.unwrap_or("/sub").to_owned();
    if !user.starts_with('/') {
        return Err("user must be a JSON pointer such as \"/sub\"".into());
    }
    let user_prefix = optional_text(object, "user_prefix")?.unwrap_or_default().to_owned();
    if user_prefix.len() >= USER_ID_MAX {
        return Err("user_prefix leaves no room for a user id".into());
    }
    let iss = text(object, "iss")?.to_owned();
    if iss.is_empty() {
        return Err("iss is empty".into());
    }
    let audiences = texts(object, "aud")?.unwrap_or_default();
    if audiences.is_empty() || audiences.iter().any(String::is_empty) {
        return Err("aud must be a list of one or more texts".into());
    }
    let issuer = Issuer {
        name: name.to_owned(),
        iss,
        audiences,
        algorithms,
        keys,
        types: some_texts(object, "typ")?,
        user,
        user_prefix,
        databases: some_texts(object, "databases")?.unwrap_or_default(),
        roles: some_texts(object, "roles")?.unwrap_or_default(),
        max_lifetime: seconds(object, "max_lifetime", 1, MAX_LIFETIME)?.unwrap_or(DEFAULT_LIFETIME),
        leeway: seconds(object, "leeway", 0, MAX_LEEWAY)?.unwrap_or(DEFAULT_LEEWAY),
        binding: match optional_text(object, "bind")? {
            None | Some("none") => Binding::None,
            Some("session") => Binding::Session,
            Some("transaction") => Binding::Transaction,
            Some(_) => return Err("bind must be \"none\", \"session\" or \"transaction\"".into()),
        },
        scopes: per_purpose(object, "scope", |value| {
            let scope = value.as_str().ok_or("must be a text")?;
            // RFC 6749, section 3.3.
            if scope.is_empty() || scope.contains(' ') { Err("must be one scope".into()) } else { Ok(scope.to_owned()) }
        })?,
        step_up: per_purpose(object, "step_up", step_up)?,
    };
    let mut self_contained = object.clone();
    self_contained.remove("jwks_file");
    let keys: Vec<Value> = issuer.keys.iter().map(Key::jwk).collect();
    self_contained.insert("jwks".into(), json!({ "keys": keys }));
    Ok((issuer, Value::Object(self_contained)))
}

fn algorithms(object: &Map<String, Value>) -> Result<Vec<Algorithm>, String> {
    let names = texts(object, "algs")?.unwrap_or_default();
    if names.is_empty() {
        return Err("algs must be a list of one or more of EdDSA, ES256, RS256, PS256, HS256".into());
    }
    names
        .iter()
        .map(|name| Algorithm::from_name(name).ok_or_else(|| format!("algs has the unknown algorithm {name:?}")))
        .collect()
}

fn step_up(value: &Value) -> Result<StepUp, String> {
    let object = value.as_object().ok_or("must be an object")?;
    only(object, &["max_age", "acr"])?;
    let step_up = StepUp {
        max_age: seconds(object, "max_age", 0, 31_536_000)?,
        acr: some_texts(object, "acr")?.unwrap_or_default(),
    };
    if step_up == StepUp::default() { Err("must have max_age or acr".into()) } else { Ok(step_up) }
}

fn per_purpose<T>(
    object: &Map<String, Value>,
    name: &str,
    read: impl Fn(&Value) -> Result<T, String>,
) -> Result<Vec<(Purpose, T)>, String> {
    let Some(value) = object.get(name) else { return Ok(Vec::new()) };
    let object = value.as_object().ok_or_else(|| format!("{name} must be an object"))?;
    object
        .iter()
        .map(|(purpose, value)| {
            let known = Purpose::CONFIGURABLE.into_iter().find(|known| known.name() == purpose);
            let known = known.ok_or_else(|| format!("{name} has the unknown member {purpose:?}"))?;
            Ok((known, read(value).map_err(|reason| format!("{name} of {purpose:?} {reason}"))?))
        })
        .collect()
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    optional_text(object, name)?.ok_or_else(|| format!("lacks {name}"))
}

fn optional_text<'a>(object: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, String> {
    object.get(name).map(|value| value.as_str().ok_or_else(|| format!("{name} must be a text"))).transpose()
}

fn texts(object: &Map<String, Value>, name: &str) -> Result<Option<Vec<String>>, String> {
    let Some(value) = object.get(name) else { return Ok(None) };
    value
        .as_array()
        .and_then(|list| list.iter().map(|text| text.as_str().map(str::to_owned)).collect())
        .map(Some)
        .ok_or_else(|| format!("{name} must be a list of texts"))
}

/// An empty list could be read as "everything" as well as "nothing".
fn some_texts(object: &Map<String, Value>, name: &str) -> Result<Option<Vec<String>>, String> {
    match texts(object, name)? {
        Some(list) if list.is_empty() => Err(format!("{name} must not be an empty list; leave it out instead")),
        list => Ok(list),
    }
}

fn seconds(object: &Map<String, Value>, name: &str, min: i64, max: i64) -> Result<Option<i64>, String> {
    let Some(value) = object.get(name) else { return Ok(None) };
    let seconds = value.as_i64().filter(|seconds| (min..=max).contains(seconds));
    seconds.map(Some).ok_or_else(|| format!("{name} must be a whole number of seconds from {min} to {max}"))
}

#[cfg(test)]
mod tests;
