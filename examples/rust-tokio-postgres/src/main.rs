//! Notes that are encrypted with their owner's key before they reach the database. With tokio-postgres and a pool of
//! deadpool-postgres.

use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::convert::Infallible;
use std::env::var;

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{Aead, Generate, KeyInit, Nonce};
use axum::extract::{FromRequestParts, State};
use axum::http::{StatusCode, request::Parts};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64ct::{Base64, Encoding};
use deadpool_postgres::{Client, Manager, Pool, Transaction};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{NoTls, Row};
use zeroize::Zeroizing;

// --- The glue: who the user is, and what is encrypted ---

/// A transaction for one user. The settings end with it, so the next user of the connection starts without any.
///
/// The `_typed` calls need one round trip and no named statement, so they also work behind a pooler in transaction mode.
async fn begin_as<'a>(
    client: &'a mut Client,
    user: &str,
    request_id: &str,
) -> Result<Transaction<'a>, tokio_postgres::Error> {
    let tx = client.transaction().await?;
    tx.query_typed(
        "SELECT set_config('app.current_user_id', $1, true), set_config('app.request_id', $2, true)",
        &[(&user, Type::TEXT), (&request_id, Type::TEXT)],
    )
    .await?;
    Ok(tx)
}

/// A key of the user. The cipher clears its memory when it is dropped.
struct Key {
    version: i32,
    cipher: Aes256Gcm,
}

impl Key {
    fn new(row: Row) -> Result<Self, Error> {
        let mut bytes = Zeroizing::new([0; 32]);
        let bytes = Base64::decode(row.try_get::<_, &str>("master_key")?, &mut *bytes)?;
        Ok(Self { version: row.try_get("key_version")?, cipher: Aes256Gcm::new_from_slice(bytes)? })
    }

    /// `enc:1:<iv>.<ciphertext and tag>`, AES-256-GCM over JSON: `vault_open_client_blob()` reads it, too.
    fn encrypt(&self, text: &str) -> Result<String, Error> {
        let iv = Nonce::<Aes256Gcm>::generate();
        let ciphertext = self.cipher.encrypt(&iv, &*serde_json::to_vec(text)?)?;
        Ok(format!("enc:1:{}.{}", Base64::encode_string(&iv), Base64::encode_string(&ciphertext)))
    }

    fn decrypt(&self, blob: &str) -> Result<String, Error> {
        let (iv, ciphertext) =
            blob.strip_prefix("enc:1:").and_then(|rest| rest.split_once('.')).ok_or("no client blob")?;
        let iv = Nonce::<Aes256Gcm>::try_from(&*Base64::decode_vec(iv)?)?;
        Ok(serde_json::from_slice(&self.cipher.decrypt(&iv, &*Base64::decode_vec(ciphertext)?)?)?)
    }
}

/// Any error. The SQLSTATE says how to answer.
struct Error(Box<dyn std::error::Error + Send + Sync>);

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Error {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let code = self.0.downcast_ref().and_then(tokio_postgres::Error::code);
        let (status, text) = match code.map(SqlState::code) {
            Some("P0002") => (StatusCode::NOT_FOUND, "this user has no vault yet"),
            Some("28000") => (StatusCode::UNAUTHORIZED, "who are you?"),
            _ => {
                eprintln!("{}", self.0);
                (StatusCode::INTERNAL_SERVER_ERROR, "something went wrong")
            }
        };
        (status, Json(serde_json::json!({ "error": text }))).into_response()
    }
}

// --- The application ---

/// X-User stands for what your session or your token says.
struct Caller {
    user: String,
    request_id: String,
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let header =
            |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        Ok(Self { user: header("x-user"), request_id: header("x-request-id") })
    }
}

async fn add_note(State(pool): State<Pool>, caller: Caller, text: String) -> Result<(StatusCode, Json<()>), Error> {
    let mut client = pool.get().await?;
    let tx = begin_as(&mut client, &caller.user, &caller.request_id).await?;
    let key = Key::new(tx.query_typed_one("SELECT master_key, key_version FROM vault_init()", &[]).await?)?;
    tx.execute_typed(
        "INSERT INTO notes (body, key_version) VALUES ($1, $2)",
        &[(&key.encrypt(&text)?, Type::TEXT), (&key.version, Type::INT4)],
    )
    .await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(())))
}

async fn notes(State(pool): State<Pool>, caller: Caller) -> Result<Json<Vec<String>>, Error> {
    let mut client = pool.get().await?;
    let tx = begin_as(&mut client, &caller.user, &caller.request_id).await?;
    let key = Key::new(tx.query_typed_one("SELECT master_key, key_version FROM vault_get_master_key()", &[]).await?)?;
    let notes = opened(&tx, &key).await?;
    tx.commit().await?;
    Ok(Json(notes.into_iter().map(|(_, text)| text).collect()))
}

/// The ids and the texts. A note that was written during a rotation may still be under an older key.
async fn opened(tx: &Transaction<'_>, current: &Key) -> Result<Vec<(i64, String)>, Error> {
    let mut older = HashMap::new();
    let mut notes = Vec::new();
    for row in tx.query_typed("SELECT id, body, key_version FROM notes ORDER BY id", &[]).await? {
        let version: i32 = row.try_get("key_version")?;
        let key = match older.entry(version) {
            _ if version == current.version => current,
            Occupied(known) => known.into_mut(),
            Vacant(new) => {
                let sql = "SELECT master_key, key_version FROM vault_get_key_version($1)";
                new.insert(Key::new(tx.query_typed_one(sql, &[(&version, Type::INT4)]).await?)?)
            }
        };
        notes.push((row.try_get("id")?, key.decrypt(row.try_get("body")?)?));
    }
    Ok(notes)
}

async fn rotate(State(pool): State<Pool>, caller: Caller) -> Result<Json<()>, Error> {
    let mut client = pool.get().await?;
    let tx = begin_as(&mut client, &caller.user, &caller.request_id).await?;
    let key = Key::new(tx.query_typed_one("SELECT master_key, key_version FROM vault_rotate()", &[]).await?)?;
    for (id, text) in opened(&tx, &key).await? {
        tx.execute_typed(
            "UPDATE notes SET body = $1, key_version = $2 WHERE id = $3",
            &[(&key.encrypt(&text)?, Type::TEXT), (&key.version, Type::INT4), (&id, Type::INT8)],
        )
        .await?;
    }
    tx.commit().await?;
    Ok(Json(()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = tokio_postgres::Config::new();
    config.host(var("PGHOST")?).port(var("PGPORT")?.parse()?).dbname(var("PGDATABASE")?);
    config.user(var("PGUSER")?).password(var("PGPASSWORD")?);
    let pool = Pool::builder(Manager::new(config, NoTls)).max_size(4).build()?;
    let routes =
        Router::new().route("/notes", get(notes).post(add_note)).route("/rotate", post(rotate)).with_state(pool);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", var("PORT")?.parse()?)).await?;
    Ok(axum::serve(listener, routes).await?)
}
