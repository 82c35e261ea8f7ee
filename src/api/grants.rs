//! Grants: for users, services, and those who give grants for others.

use pgrx::datum::Interval;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::user::{columns, vault_key};
use super::{admin, or_raise};
use crate::error::VaultError;
use crate::identity::Caller;
use crate::pg::composite::{Row, RowSet};
use crate::vault::grants::{self, Terms};
use crate::vault::many;

fn terms<'a>(
    grantee: Option<pg_sys::Oid>,
    expires_in: Option<Interval>,
    reason: Option<&'a str>,
    max_uses: Option<i32>,
    not_before: Option<TimestampWithTimeZone>,
) -> Terms<'a> {
    let (Some(grantee), Some(expires_in), Some(reason)) = (grantee, expires_in, reason) else {
        VaultError::BadArgument(
            "grantee, expires_in and reason must not be NULL",
            "Name a role, give an interval, and say what the service is to do.",
        )
        .raise()
    };
    Terms {
        grantee: grantee.to_u32(),
        expires_in: i64::try_from(expires_in.as_micros()).unwrap_or(i64::MAX),
        not_before: not_before.map(Into::into),
        max_uses,
        reason,
    }
}

/// The user gives a grant. Its id. A NULL token stands for the user of the session, in every mode but `token`. 22023, 28000,
/// 42501.
#[pg_extern(sql = false)]
fn vault_grant(
    token: Option<&str>,
    grantee: Option<pg_sys::Oid>,
    expires_in: Option<Interval>,
    reason: Option<&str>,
    max_uses: Option<i32>,
    not_before: Option<TimestampWithTimeZone>,
) -> i64 {
    let caller = token.map_or(Caller::OfSession, |token| Caller::WithToken(Some(token)));
    or_raise(grants::give(caller, &terms(grantee, expires_in, reason, max_uses, not_before)))
}

/// A grantor gives a grant for a user.
#[pg_extern(sql = false)]
fn vault_grant_for(
    user_id: Option<String>,
    grantee: Option<pg_sys::Oid>,
    expires_in: Option<Interval>,
    reason: Option<&str>,
    max_uses: Option<i32>,
    not_before: Option<TimestampWithTimeZone>,
) -> i64 {
    let user_id = user_id.unwrap_or_default();
    admin::check_user_id(&user_id);
    or_raise(grants::give_for(user_id, &terms(grantee, expires_in, reason, max_uses, not_before)))
}

/// Approves a grant that another login has given for a user; false if there is none.
#[pg_extern(sql = false)]
fn vault_approve_grant(id: i64) -> bool {
    or_raise(grants::approve(id))
}

/// Revokes a grant at once; false if there is none.
#[pg_extern(sql = false)]
fn vault_revoke_grant(id: i64) -> bool {
    or_raise(grants::revoke(Caller::OfSession, id))
}

/// The same for the user that a token names.
#[pg_extern(sql = false)]
fn vault_revoke_grant_with_token(token: Option<&str>, id: i64) -> bool {
    or_raise(grants::revoke(Caller::WithToken(token), id))
}

/// A service gives a grant back; false if it holds none with that id.
#[pg_extern(sql = false)]
fn vault_retire_grant(id: i64) -> bool {
    or_raise(grants::retire(id))
}

/// The key of a user who has granted that to a role of the caller. 28000, 42501, 53400, 55000, P0002, XX001.
#[pg_extern(sql = false)]
fn vault_get_master_key_of(user_id: String) -> Row<7> {
    admin::check_user_id(&user_id);
    vault_key(grants::get_of(user_id))
}

/// The keys of many users at once, or none: user_id, then the columns of `vault_key`. 22023, and what `vault_get_master_key_of` gives.
#[pg_extern(sql = false)]
fn vault_get_master_keys(user_ids: Option<Array<'_, &str>>) -> RowSet<8> {
    let ids: Option<Vec<_>> = user_ids.and_then(|ids| ids.iter().map(|id| id.map(str::to_owned)).collect());
    let Some(ids) = ids else {
        VaultError::BadArgument(
            "user_ids must not be NULL and must have no NULL elements",
            "Give an array of user ids.",
        )
        .raise()
    };
    ids.iter().for_each(|id| admin::check_user_id(id));
    let users = or_raise(many::get_of_each(ids));
    RowSet::of_secrets(move |rows| {
        for listed in &users {
            let Some(key) = listed.key() else { continue };
            let [master_key, format_version, kek_id, key_version, requires_code, wrapped_mk, iv] = columns(key);
            let user_id = listed.user.as_str().into_datum();
            rows.put([user_id, master_key, format_version, kek_id, key_version, requires_code, wrapped_mk, iv]);
        }
    })
}
