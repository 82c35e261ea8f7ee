//! The extension's calls, with their rows as Rust values.

use std::time::SystemTime;

use postgres::{Error, GenericClient, Row, SimpleQueryMessage};

#[derive(Clone, Debug, PartialEq)]
pub struct VaultKey {
    pub master_key: String,
    pub format_version: i16,
    pub kek_id: String,
    pub key_version: i32,
}

impl VaultKey {
    pub const COLUMNS: &str = "master_key, format_version, kek_id, key_version";

    /// Parses the row that a simple query returned, in which every value is text.
    pub fn from_simple_query(messages: &[SimpleQueryMessage]) -> Self {
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let row = row.expect("a call returns a row");
        let field = |column| row.get(column).expect("no part of a key is NULL");
        let number = |column| field(column).parse().expect("a number");
        VaultKey {
            master_key: field(0).to_owned(),
            format_version: i16::try_from(number(1)).expect("a format"),
            kek_id: field(2).to_owned(),
            key_version: number(3),
        }
    }
}

#[derive(Debug, PartialEq)]
pub struct Status {
    pub exists: bool,
    pub format_version: Option<i16>,
    pub kek_id: Option<String>,
    pub key_version: Option<i32>,
    pub created_at: Option<SystemTime>,
    pub rotated_at: Option<SystemTime>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AuditRow {
    pub id: i64,
    pub user_id: Option<String>,
    pub action: String,
    pub status: i32,
    pub kek_id: Option<String>,
    pub key_version: Option<i32>,
    pub db_role: String,
    pub ip_address: Option<String>,
    pub user_agent: Option<String>,
    pub request_id: Option<String>,
    pub context: Option<String>,
    pub created_at: SystemTime,
}

impl AuditRow {
    pub const COLUMNS: &str = "id, user_id, action, status, kek_id, key_version, db_role::text, ip_address::text, \
        user_agent, request_id, context, created_at";

    pub fn new(row: &Row) -> Self {
        AuditRow {
            id: row.get(0),
            user_id: row.get(1),
            action: row.get(2),
            status: row.get(3),
            kek_id: row.get(4),
            key_version: row.get(5),
            db_role: row.get(6),
            ip_address: row.get(7),
            user_agent: row.get(8),
            request_id: row.get(9),
            context: row.get(10),
            created_at: row.get(11),
        }
    }

    /// Action, status and context, named as in the predecessor's table of actions.
    pub fn what(&self) -> (&str, i32, Option<&str>) {
        (&self.action, self.status, self.context.as_deref())
    }
}

fn call(client: &mut impl GenericClient, call: &str) -> Result<VaultKey, Error> {
    let sql = format!("SELECT {} FROM {call}", VaultKey::COLUMNS);
    let row = client.query_one(&sql, &[])?;
    Ok(VaultKey { master_key: row.get(0), format_version: row.get(1), kek_id: row.get(2), key_version: row.get(3) })
}

pub fn init(client: &mut impl GenericClient) -> Result<VaultKey, Error> {
    call(client, "vault_init()")
}

pub fn fetch(client: &mut impl GenericClient) -> Result<VaultKey, Error> {
    call(client, "vault_get_master_key()")
}

pub fn rotate(client: &mut impl GenericClient) -> Result<VaultKey, Error> {
    call(client, "vault_rotate()")
}

/// A rotation that leaves no old key.
pub fn rotate_and_destroy(client: &mut impl GenericClient) -> Result<VaultKey, Error> {
    call(client, "vault_rotate(destroy_old => true)")
}

pub fn status(client: &mut impl GenericClient) -> Result<Status, Error> {
    let sql = "SELECT \"exists\", format_version, kek_id, key_version, created_at, rotated_at FROM vault_status()";
    let row = client.query_one(sql, &[])?;
    Ok(Status {
        exists: row.get(0),
        format_version: row.get(1),
        kek_id: row.get(2),
        key_version: row.get(3),
        created_at: row.get(4),
        rotated_at: row.get(5),
    })
}

/// Sets the identity for the rest of the session.
pub fn set_user(client: &mut impl GenericClient, user: &str) {
    let sql = "SELECT set_config('app.current_user_id', $1, false)";
    client.execute(sql, &[&user]).expect("set_config works");
}

pub fn forget_user(client: &mut impl GenericClient) {
    client.batch_execute("RESET app.current_user_id").expect("RESET works");
}
