//! One audited call: who calls, what the trail says of it, and what it may hand out.

use pgrx::pg_sys::panic::CaughtError;
use vault_core::audit::alarm::Alarm;
use vault_core::audit::claims::Claims;
use vault_core::audit::record::{Action, Evidence, IdentityKind, Record};
use vault_core::identity::issuers::Purpose;
use vault_core::identity::token::TokenError;
use vault_core::integrity::Scope;
use vault_core::seal::PublicKeyError;

use super::key::{KeyId, UserKey};
use crate::alarms::{honey, limits};
use crate::audit::{leave, memory, rolled_back, submit};
use crate::error::{IdentityError, KeyError, NodesError, VaultError};
use crate::guard::blind;
use crate::identity::{self, Caller, Identity};
use crate::pg::{session, spi, subxact, xact};
use crate::settings::{self, HoneyFetch};
use crate::store::{OWNER, catalog};

/// Whether this server can write audit rows at all.
pub fn can_be_audited() -> Result<(), VaultError> {
    if memory::get().is_none() {
        return Err(VaultError::NotPreloaded);
    }
    if session::is_standby() {
        return Err(VaultError::Standby);
    }
    Ok(())
}

/// One audited call.
pub struct Call {
    action: Action,
    /// The user that the call concerns.
    user: Option<String>,
    /// Who calls for himself.
    identity: Option<Identity>,
    /// Who calls by a grant.
    service: Option<Service>,
    db_role: String,
    login_role: String,
    claims: Claims,
}

impl Call {
    /// Begins a call of the current user; a missing identity is recorded and refused here.
    pub fn begin(action: Action, caller: Caller<'_>) -> Result<Self, VaultError> {
        let mut call = Self::without_user(action)?;
        match caller.identify(purpose(action)) {
            Ok(identity) => {
                call.user = Some(identity.user.clone());
                call.identity = Some(identity);
            }
            Err(error) => return Err(call.failed(error.into())),
        }
        Ok(call)
    }

    /// Begins a call that concerns another user than the current one.
    pub fn on_behalf_of(action: Action, user: String) -> Result<Self, VaultError> {
        let mut call = Self::without_user(action)?;
        call.user = Some(user);
        Ok(call)
    }

    /// Begins a call of a service for a user who has granted that.
    pub fn for_service(action: Action, user: String) -> Result<Self, VaultError> {
        let mut call = Self::on_behalf_of(action, user)?;
        call.service = Some(Service { grant: None });
        Ok(call)
    }

    /// The call turned out to concern that user, or goes on to that one.
    pub(super) fn concern(&mut self, user: String) {
        self.user = Some(user);
        if let Some(service) = &mut self.service {
            service.grant = None;
        }
    }

    /// The call turned out to use that grant.
    pub(super) fn by_grant(&mut self, id: i64) {
        if let Some(service) = &mut self.service {
            service.grant = Some(id);
        }
    }

    pub fn without_user(action: Action) -> Result<Self, VaultError> {
        can_be_audited()?;
        // Nodes fetch each other's rows. Whoever has stolen that login must not get keys opened with it.
        if session::has_citus() && session::is_login_of(OWNER) {
            return Err(NodesError::NodesLogin.into());
        }
        submit::announce();
        let claims = Claims::gather(session::setting, session::connection_address);
        Ok(Self {
            action,
            user: None,
            identity: None,
            service: None,
            db_role: session::caller(),
            login_role: session::login(),
            claims,
        })
    }

    /// The user that the call concerns.
    pub fn user(&self) -> &str {
        self.user.as_deref().unwrap_or_default()
    }

    /// Does the work in a subtransaction, so that a failure inside can be recorded before it goes on to the caller.
    pub fn attempt<T>(&self, work: impl FnOnce(&str) -> Result<T, VaultError>) -> Result<T, VaultError> {
        // PostgreSQL would refuse every statement on the vault's tables, and advise to weaken them.
        if !session::has_row_security() {
            return Err(self.failed(VaultError::RowSecurityOff));
        }
        self.refuse_on_many_nodes().map_err(|error| self.failed(error))?;
        self.admit()?;
        let in_force = match &self.service {
            Some(_) => self.user.as_deref(),
            None => self.identity.as_ref().map(|identity| identity.user.as_str()),
        };
        let work = || {
            self.look_for_honey()?;
            match scope(self.action) {
                Some(scope) => blind::unless(scope, || work(self.user())),
                None => work(self.user()),
            }
        };
        match identity::in_force(in_force, || subxact::catch(work)) {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(self.failed(error)),
            Err(raised) => {
                spi::forget_plans();
                limits::note_failure(|alarm| self.raise_alarm(alarm));
                let (status, context) = describe_raised(&raised);
                match self.row(self.action.failed(), status, None, Some(&context)) {
                    Ok(()) => raised.rethrow(),
                    Err(failure) => Err(failure),
                }
            }
        }
    }

    /// Refuses what only a vault on one node has.
    pub(super) fn refuse_on_many_nodes(&self) -> Result<(), VaultError> {
        let is_of_one_node = self.service.is_some() || is_of_one_node(self.action);
        if is_of_one_node && catalog::has_nodes() { Err(NodesError::NotOnNodes.into()) } else { Ok(()) }
    }

    /// Refuses what is more than this login role may ask for.
    fn admit(&self) -> Result<(), VaultError> {
        if !uses_a_key(self.action) {
            return Ok(());
        }
        limits::admit(self.user(), |alarm| self.raise_alarm(alarm)).map_err(|error| self.failed(error.into()))
    }

    /// Raises an alarm for a honey user, and fails like a call for a user who has no vault where vault_ext.honey_fetch says so.
    pub(super) fn look_for_honey(&self) -> Result<(), VaultError> {
        if !uses_a_key(self.action) || !honey::is_marked(self.user()) {
            return Ok(());
        }
        limits::count_alarm();
        let alarm = Alarm::Honey.to_string();
        leave::leave(&self.as_record(Action::Alarm, 200, None, Some(&alarm)));
        match settings::honey_fetch() {
            HoneyFetch::Succeed => Ok(()),
            HoneyFetch::Fail => Err(VaultError::NoVault),
        }
    }

    /// Leaves the row of an alarm about the login role. Nobody waits for it.
    pub(super) fn raise_alarm(&self, alarm: Alarm) {
        let context = alarm.to_string();
        leave::leave(&Record { user_id: None, ..self.as_record(Action::Alarm, 200, None, Some(&context)) });
    }

    /// Whether the caller's token was revoked by vault_revoke_tokens() for all that were issued before that time, in
    /// microseconds since 2000-01-01 00:00 UTC.
    pub fn refuse_revoked(&self, issued_before: Option<i64>) -> Result<(), VaultError> {
        let token = self.identity.as_ref().and_then(|identity| identity.token.as_ref());
        match (token, issued_before) {
            (Some(token), Some(limit)) if token.is_older_than(limit) => {
                Err(IdentityError::Token(TokenError::Revoked).into())
            }
            _ => Ok(()),
        }
    }

    /// Whether a token says who the user is.
    pub fn has_token(&self) -> bool {
        self.identity.as_ref().is_some_and(|identity| identity.token.is_some())
    }

    /// Records a failure and gives the error to raise: the failure itself, or that the trail cannot be written.
    pub fn failed(&self, error: VaultError) -> VaultError {
        let (action, status, context) = self.failure(&error);
        match self.row(action, status, None, Some(context)) {
            Ok(()) => error,
            Err(failure) => failure,
        }
    }

    /// Counts a failure, and gives what the trail says of it.
    pub(super) fn failure(&self, error: &VaultError) -> (Action, u16, &'static str) {
        let (status, context) = describe(error);
        // What is refused for its number must not prolong that.
        if !matches!(error, VaultError::Limit(_)) {
            limits::note_failure(|alarm| self.raise_alarm(alarm));
        }
        let action = match error {
            // The predecessor's name for it.
            VaultError::Key(KeyError::RotateInZeroKnowledge) => self.action,
            _ => self.action.failed(),
        };
        (action, status, context)
    }

    /// Hands out a key whose row is on disk.
    pub(super) fn release(&self, key: UserKey, status: u16, context: Option<&str>) -> Result<UserKey, VaultError> {
        self.record(status, Some(key.id()), context)?;
        Ok(key)
    }

    /// The same for a key that this transaction wrote: if it rolls back, a second row says so.
    pub(super) fn change(&self, key: UserKey, status: u16, context: Option<&str>) -> Result<UserKey, VaultError> {
        self.record_change(status, Some(key.id()), context)?;
        Ok(key)
    }

    pub fn record(&self, status: u16, key: Option<KeyId<'_>>, context: Option<&str>) -> Result<(), VaultError> {
        self.row(self.action, status, key, context)
    }

    pub fn record_change(&self, status: u16, key: Option<KeyId<'_>>, context: Option<&str>) -> Result<(), VaultError> {
        // The caller is about to rely on the change; a commit that nobody waits for could take it back in a crash.
        xact::commit_durably();
        rolled_back::watch(&self.as_record(self.action, status, key, context));
        self.row(self.action, status, key, context)
    }

    /// A row on a grant that was given, approved or ended.
    pub(super) fn record_change_of_grant(&self, id: i64) -> Result<(), VaultError> {
        xact::commit_durably();
        let mut record = self.as_record(self.action, 200, None, None);
        record.evidence.grant_id = Some(id);
        rolled_back::watch(&record);
        Ok(submit::write(&record)?)
    }

    /// A row on one user in the course of a call that concerns many.
    pub fn record_about(&self, action: Action, user: &str, status: u16, context: &str) -> Result<(), VaultError> {
        let record = Record { user_id: Some(user), ..self.as_record(action, status, None, Some(context)) };
        Ok(submit::write(&record)?)
    }

    /// A row on what is done to one user's key in the course of a call that concerns many; if that rolls back, a second row says so.
    pub(super) fn record_change_about(
        &self,
        action: Action,
        user: &str,
        key: KeyId<'_>,
        context: Option<&str>,
    ) -> Result<(), VaultError> {
        xact::commit_durably();
        let record = Record { user_id: Some(user), ..self.as_record(action, 200, Some(key), context) };
        rolled_back::watch(&record);
        Ok(submit::write(&record)?)
    }

    fn evidence(&self) -> Evidence<'_> {
        match (&self.service, &self.identity) {
            (Some(service), _) => Evidence {
                identity: Some(IdentityKind::Grant),
                actor: Some(&self.login_role),
                grant_id: service.grant,
                ..Evidence::default()
            },
            (None, Some(identity)) => identity.evidence(),
            (None, None) => Evidence::default(),
        }
    }

    /// The row of this call, for one that nobody waits for.
    pub fn as_row<'a>(&'a self, status: u16, key: Option<KeyId<'a>>, context: Option<&'a str>) -> Record<'a> {
        self.as_record(self.action, status, key, context)
    }

    fn row(
        &self,
        action: Action,
        status: u16,
        key: Option<KeyId<'_>>,
        context: Option<&str>,
    ) -> Result<(), VaultError> {
        Ok(submit::write(&self.as_record(action, status, key, context))?)
    }

    fn as_record<'a>(
        &'a self,
        action: Action,
        status: u16,
        key: Option<KeyId<'a>>,
        context: Option<&'a str>,
    ) -> Record<'a> {
        Record {
            created_at: session::now(),
            action,
            status,
            key_version: key.map(|key| key.key_version),
            user_id: self.user.as_deref(),
            kek_id: key.map(|key| key.kek_id),
            db_role: &self.db_role,
            login_role: &self.login_role,
            application_name: self.claims.application_name.as_deref(),
            ip_address: self.claims.ip_address.as_deref(),
            user_agent: self.claims.user_agent.as_deref(),
            request_id: self.claims.request_id.as_deref(),
            context,
            evidence: self.evidence(),
        }
    }
}

/// A service that acts by a grant.
struct Service {
    grant: Option<i64>,
}

/// Whether a call opens a key of its user, or makes one.
fn uses_a_key(action: Action) -> bool {
    matches!(purpose(action), Purpose::Init | Purpose::Fetch | Purpose::Rotate | Purpose::Use | Purpose::Recovery)
}

/// Whether the call works with what other nodes would not know of (grants, whose uses the trail of one node counts), or moves a
/// vault to another user's node.
fn is_of_one_node(action: Action) -> bool {
    matches!(
        action,
        Action::Grant
            | Action::ApproveGrant
            | Action::RevokeGrant
            | Action::RetireGrant
            | Action::Rename
            | Action::Export
            | Action::Import
    )
}

/// What an action works on, if policies let it work across users and nothing else would say that they hide some.
fn scope(action: Action) -> Option<Scope> {
    match action {
        Action::Erase
        | Action::ScheduleErase
        | Action::CancelErase
        | Action::Rename
        | Action::Rewrap
        | Action::Retire
        | Action::Check
        | Action::Destroy
        | Action::MarkHoney
        | Action::Export
        | Action::Import
        | Action::RevokeTokens
        | Action::ApproveGrant
        | Action::RetireGrant => Some(Scope::Vaults),
        Action::Purge | Action::Redact | Action::NewTrail => Some(Scope::Trail),
        _ => None,
    }
}

/// What a token must be good for.
fn purpose(action: Action) -> Purpose {
    match action {
        Action::Init => Purpose::Init,
        Action::Fetch | Action::Seal => Purpose::Fetch,
        Action::Rotate | Action::RetireVersion | Action::DisableVersion | Action::RestoreVersion => Purpose::Rotate,
        Action::Grant | Action::RevokeGrant => Purpose::Grant,
        Action::Encrypt | Action::Decrypt | Action::Reencrypt | Action::Index | Action::Derive => Purpose::Use,
        Action::RecoverySet | Action::RecoveryClear | Action::ZkEnable | Action::ZkDisable => Purpose::Recovery,
        _ => Purpose::Identify,
    }
}

/// Status and context of a failure in the trail; the names are the predecessor's where it had one.
pub fn describe(error: &VaultError) -> (u16, &'static str) {
    match error {
        VaultError::Identity(error) => (error.status(), error.context()),
        VaultError::IssuersRefused(..) => (503, "issuers-refused"),
        VaultError::Grant(error) => (403, error.context()),
        VaultError::Key(error) => (error.status(), error.context()),
        VaultError::Data(error) => (error.status(), error.context()),
        VaultError::Limit(error) => (429, error.context()),
        VaultError::Recovery(error) => (error.status(), error.context()),
        VaultError::PublicKey(PublicKeyError::PrivateKey) => (400, "private-key"),
        VaultError::PublicKey(_) => (400, "bad-public-key"),
        VaultError::Transfer(error) => (error.status(), error.context()),
        VaultError::BadArgument(..) => (400, "bad-argument"),
        VaultError::NoVault => (404, "not-initialised"),
        VaultError::UserHasVault(_) => (409, "vault-exists"),
        VaultError::RowSecurityOff => (500, "row-security-off"),
        VaultError::ChangedMeanwhile => (409, "changed-meanwhile"),
        VaultError::DoesNotOpen => (500, "unwrap-failed"),
        VaultError::KekNotLoaded(_) => (503, "kek-not-loaded"),
        VaultError::KekDiffers { .. } => (503, "kek-differs"),
        VaultError::KekRetired(_) => (503, "kek-retired"),
        VaultError::NoKek(_) => (503, "no-kek"),
        VaultError::Contended(_) => (409, "contended"),
        VaultError::ReloadRefused(..) => (503, "keyring-refused"),
        VaultError::ReloadDiffers { .. } => (503, "kek-differs"),
        VaultError::ReloadRetired(_) => (503, "kek-retired"),
        VaultError::ReloadLacks(_) | VaultError::KekNeeded { .. } => (409, "kek-needed"),
        VaultError::KekActive(_) => (409, "kek-active"),
        VaultError::KekUnknown(_) => (404, "kek-unknown"),
        VaultError::OpenWriters | VaultError::Nodes(NodesError::NotLocked) => (409, "open-writers"),
        VaultError::Nodes(_) => (409, "many-nodes"),
        VaultError::Hidden(_) => (500, "vaults-hidden"),
        _ => (500, "error"),
    }
}

/// The same of an error that PostgreSQL raised.
pub(super) fn describe_raised(error: &CaughtError) -> (u16, String) {
    let sqlstate = subxact::sqlstate(error);
    let status = if matches!(sqlstate.as_str(), "40001" | "40P01") { 409 } else { 500 };
    (status, format!("error-{sqlstate}"))
}
