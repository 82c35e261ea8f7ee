//! Notes that are encrypted with their owner's key before they reach the database. With sqlx and its pool.

use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::convert::Infallible;

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{Aead, Generate, KeyInit, Nonce};
use axum::extract::{FromRequestParts, State};
use axum::http::{StatusCode, request::Parts};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64ct::{Base64, Encoding};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, Postgres};
use zeroize::Zeroizing;

// --- The glue: who the user is, and what is encrypted ---

/// A transaction for one user. The settings end with it, so the next user of the connection starts without any.
///
/// `persistent(false)` means no named statement, which works behind a pooler in transaction mode, too.
async fn begin_as(pool: &PgPool, user: &str, request_id: &str) -> sqlx::Result<sqlx::Transaction<'static, Postgres>> {
    let mut tx = pool.begin().await?;
    sqlx::query("SELECT set_config('app.current_user_id', $1, true), set_config('app.request_id', $2, true)")
        .bind(user)
        .bind(request_id)
        .persistent(false)
        .execute(&mut *tx)
        .await?;
    Ok(tx)
}

/// A key of the user. The cipher clears its memory when it is dropped.
struct Key {
    version: i32,
    cipher: Aes256Gcm,
}

impl Key {
    fn new((master_key, version): (String, i32)) -> Result<Self, Error> {
        let (master_key, mut bytes) = (Zeroizing::new(master_key), Zeroizing::new([0; 32]));
        let bytes = Base64::decode(master_key.as_bytes(), &mut *bytes)?;
        Ok(Self { version, cipher: Aes256Gcm::new_from_slice(bytes)? })
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
        let database_error = self.0.downcast_ref().and_then(sqlx::Error::as_database_error);
        let (status, text) = match database_error.and_then(|error| error.code()).as_deref() {
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

async fn add_note(State(pool): State<PgPool>, caller: Caller, text: String) -> Result<(StatusCode, Json<()>), Error> {
    let mut tx = begin_as(&pool, &caller.user, &caller.request_id).await?;
    let key = key(&mut tx, "SELECT master_key, key_version FROM vault_init()").await?;
    sqlx::query("INSERT INTO notes (body, key_version) VALUES ($1, $2)")
        .bind(key.encrypt(&text)?)
        .bind(key.version)
        .persistent(false)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(())))
}

async fn notes(State(pool): State<PgPool>, caller: Caller) -> Result<Json<Vec<String>>, Error> {
    let mut tx = begin_as(&pool, &caller.user, &caller.request_id).await?;
    let key = key(&mut tx, "SELECT master_key, key_version FROM vault_get_master_key()").await?;
    let notes = opened(&mut tx, &key).await?;
    tx.commit().await?;
    Ok(Json(notes.into_iter().map(|(_, text)| text).collect()))
}

async fn key(connection: &mut PgConnection, sql: &'static str) -> Result<Key, Error> {
    Key::new(sqlx::query_as(sql).persistent(false).fetch_one(connection).await?)
}

/// The ids and the texts. A note that was written during a rotation may still be under an older key.
async fn opened(connection: &mut PgConnection, current: &Key) -> Result<Vec<(i64, String)>, Error> {
    let rows: Vec<(i64, String, i32)> = sqlx::query_as("SELECT id, body, key_version FROM notes ORDER BY id")
        .persistent(false)
        .fetch_all(&mut *connection)
        .await?;
    let mut older = HashMap::new();
    let mut notes = Vec::new();
    for (id, body, version) in rows {
        let key = match older.entry(version) {
            _ if version == current.version => current,
            Occupied(known) => known.into_mut(),
            Vacant(new) => new.insert(Key::new(
                sqlx::query_as("SELECT master_key, key_version FROM vault_get_key_version($1)")
                    .bind(version)
                    .persistent(false)
                    .fetch_one(&mut *connection)
                    .await?,
            )?),
        };
        notes.push((id, key.decrypt(&body)?));
    }
    Ok(notes)
}

async fn rotate(State(pool): State<PgPool>, caller: Caller) -> Result<Json<()>, Error> {
    let mut tx = begin_as(&pool, &caller.user, &caller.request_id).await?;
    let key = key(&mut tx, "SELECT master_key, key_version FROM vault_rotate()").await?;
    for (id, text) in opened(&mut tx, &key).await? {
        sqlx::query("UPDATE notes SET body = $1, key_version = $2 WHERE id = $3")
            .bind(key.encrypt(&text)?)
            .bind(key.version)
            .bind(id)
            .persistent(false)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(Json(()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The usual variables (PGHOST, PGUSER…) say where the database is.
    let pool = PgPoolOptions::new().max_connections(4).connect_with(PgConnectOptions::new()).await?;
    let routes =
        Router::new().route("/notes", get(notes).post(add_note)).route("/rotate", post(rotate)).with_state(pool);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", std::env::var("PORT")?.parse()?)).await?;
    Ok(axum::serve(listener, routes).await?)
}
