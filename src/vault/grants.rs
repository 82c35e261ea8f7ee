//! Grants: a user lets a service work for him while he is not there. Always for one user and one role, always expiring, counted
//! by the trail, revocable at once.

use vault_core::audit::record::Action;
use vault_core::integrity::Scope;

use super::call::Call;
use super::key::UserKey;
use super::service::open_existing;
use crate::error::{GrantError, IdentityError, KeyError, VaultError};
use crate::guard::blind;
use crate::identity::Caller;
use crate::pg::session;
use crate::settings::{self, IdentityMode};
use crate::store::grants::{self, Grant, NewGrant};
use crate::store::maintenance;
use crate::store::vaults::{self, Found};

/// The role whose members give grants for others.
const GRANTOR: &std::ffi::CStr = c"vault_ext_grantor";
const ADMIN: &std::ffi::CStr = c"vault_ext_admin";

/// What a grant is to allow.
pub struct Terms<'a> {
    pub grantee: u32,
    /// Microseconds from now.
    pub expires_in: i64,
    /// Microseconds since 2000-01-01 00:00 UTC; None is now.
    pub not_before: Option<i64>,
    pub max_uses: Option<i32>,
    pub reason: &'a str,
}

impl Terms<'_> {
    fn check(&self) -> Result<(), VaultError> {
        let limit = settings::grant_max_lifetime().as_micros() as i64;
        let bad = |what, hint| Err(VaultError::BadArgument(what, hint));
        if self.expires_in <= 0 {
            return bad("expires_in must be positive", "Every grant expires: give an interval such as '1 day'.");
        }
        if self.expires_in > limit {
            return bad(
                "expires_in is longer than vault_ext.grant_max_lifetime",
                "Give a shorter interval, and another grant later.",
            );
        }
        // Whoever is a member of one of these would hold the grant.
        if session::role_name_of(self.grantee).starts_with("vault_ext_") {
            return bad("grantee is one of the vault's own roles", "Name the role of one service.");
        }
        if self.reason.trim().is_empty() {
            return bad("a grant needs a reason", "Say what the service is to do.");
        }
        if self.not_before.is_some_and(|from| from >= session::now() + self.expires_in) {
            return bad("the grant would expire before not_before", "expires_in counts from now.");
        }
        if self.max_uses.is_some_and(|uses| uses < 1) {
            return bad("max_uses must be at least 1", "Leave it out for any number of uses.");
        }
        Ok(())
    }
}

/// The user gives a grant. In the mode `token` the token must come as an argument: an ambient one would let injected SQL give
/// itself a lasting right.
pub fn give(caller: Caller<'_>, terms: &Terms<'_>) -> Result<i64, VaultError> {
    let call = match caller {
        Caller::OfSession if settings::identity() == IdentityMode::Token => {
            return Err(Call::without_user(Action::Grant)?.failed(IdentityError::NoToken.into()));
        }
        caller => Call::begin(Action::Grant, caller)?,
    };
    let by = session::login();
    let id = call.attempt(|user| {
        refuse_revoked(&call, user)?;
        terms.check()?;
        Ok(store(user, terms, &by, true))
    })?;
    call.record_change_of_grant(id)?;
    Ok(id)
}

/// A grantor gives a grant for a user. With vault_ext.grant_approvals another login must approve it.
pub fn give_for(user: String, terms: &Terms<'_>) -> Result<i64, VaultError> {
    let call = Call::on_behalf_of(Action::Grant, user)?;
    let by = session::login();
    let id = call.attempt(|user| {
        terms.check()?;
        Ok(maintenance::run(|| store(user, terms, &by, settings::grant_approvals() == 0)))
    })?;
    call.record_change_of_grant(id)?;
    Ok(id)
}

/// A stolen token that was revoked must not give itself a lasting right.
fn refuse_revoked(call: &Call, user: &str) -> Result<(), VaultError> {
    if !call.has_token() {
        return Ok(());
    }
    let issued_before = match vaults::find(user, true) {
        Found::Open(vault) => vault.tokens_valid_from.flatten(),
        Found::Closed => vaults::closed(user).and_then(|vault| vault.tokens_valid_from),
        Found::Nothing => None,
    };
    call.refuse_revoked(issued_before)
}

fn store(user: &str, terms: &Terms<'_>, by: &str, is_approved: bool) -> i64 {
    let now = session::now();
    grants::insert(&NewGrant {
        user,
        grantee: terms.grantee,
        not_before: terms.not_before.unwrap_or(now),
        expires_at: now + terms.expires_in,
        max_uses: terms.max_uses,
        reason: terms.reason,
        granted_by: by,
        is_approved,
    })
}

/// Another grantor approves. False if there is nothing to approve, or if it is the login's own.
pub fn approve(id: i64) -> Result<bool, VaultError> {
    change(Action::ApproveGrant, id, |by| grants::approve(id, by))
}

/// The user, a grantor or an administrator revokes. False if there is no such grant, or if it was revoked before.
pub fn revoke(caller: Caller<'_>, id: i64) -> Result<bool, VaultError> {
    if session::has_role(GRANTOR) || session::has_role(ADMIN) {
        return change(Action::RevokeGrant, id, |by| maintenance::run(|| grants::revoke(id, by)));
    }
    let call = Call::begin(Action::RevokeGrant, caller)?;
    let by = session::login();
    let user = call.attempt(|user| {
        refuse_revoked(&call, user)?;
        Ok(grants::revoke(id, &by))
    })?;
    match user {
        Some(_) => call.record_change_of_grant(id).map(|()| true),
        None => call.record(200, None, Some("no-grant")).map(|()| false),
    }
}

/// The service gives a grant back.
pub fn retire(id: i64) -> Result<bool, VaultError> {
    change(Action::RetireGrant, id, |by| grants::retire(id, by, session::caller_oid()))
}

fn change(action: Action, id: i64, change: impl FnOnce(&str) -> Option<String>) -> Result<bool, VaultError> {
    let mut call = Call::without_user(action)?;
    let by = session::login();
    // A user revokes what is his. The others work across users.
    match call.attempt(|_| blind::unless(Scope::Vaults, || Ok(change(&by))))? {
        Some(user) => {
            call.concern(user);
            call.record_change_of_grant(id).map(|()| true)
        }
        None => call.record(200, None, Some("no-grant")).map(|()| false),
    }
}

/// The key of a user who has granted that to a role which the caller holds.
pub fn get_of(user: String) -> Result<UserKey, VaultError> {
    let mut call = Call::for_service(Action::Fetch, user)?;
    let (id, key) = call.attempt(|user| open_by_grant(&call, user))?;
    call.by_grant(id);
    call.release(key, 200, None)
}

/// The key of a user, and the id of the grant that lets the service have it.
pub(super) fn open_by_grant(call: &Call, user: &str) -> Result<(i64, UserKey), VaultError> {
    let grant = usable(user)?;
    let key = open_existing(call, user)?.ok_or(VaultError::NoVault)?;
    // The recovery wrap is for those who know the code, and the user has granted a key.
    if key.master_key().is_none() {
        return Err(KeyError::ZeroKnowledge.into());
    }
    Ok((grant.id, key))
}

/// The newest grant that can be used now; else the error of the newest one.
fn usable(user: &str) -> Result<Grant, VaultError> {
    let mut why = GrantError::None;
    for grant in grants::for_service(user, session::caller_oid()) {
        match check(grant) {
            Ok(grant) => return Ok(grant),
            Err(error) if why == GrantError::None => why = error,
            Err(_) => {}
        }
    }
    Err(why.into())
}

fn check(grant: Grant) -> Result<Grant, GrantError> {
    // Counted under a lock: the row of each use is committed before the next one is counted. A revocation waits for it, or
    // comes first.
    let grant = if grant.max_uses.is_some() { grants::lock(grant.id).ok_or(GrantError::None)? } else { grant };
    let now = session::now();
    if grant.is_revoked {
        return Err(GrantError::Revoked);
    }
    if !grant.is_approved {
        return Err(GrantError::NotApproved);
    }
    if now >= grant.expires_at {
        return Err(GrantError::Expired);
    }
    if now < grant.not_before {
        return Err(GrantError::NotYet);
    }
    match grant.max_uses {
        Some(_) if session::has_old_snapshot() => Err(GrantError::OldSnapshot),
        Some(most) if grants::uses(grant.id) >= i64::from(most) => Err(GrantError::UsedUp),
        _ => Ok(grant),
    }
}
