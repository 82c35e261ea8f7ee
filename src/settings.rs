//! Every setting of vault_ext; nothing else reads one.

use std::ffi::CString;
use std::time::Duration;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

use crate::pg::guc;

/// What the server does if the KEK cannot be loaded.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum OnBadKek {
    #[name = c"refuse_start"]
    RefuseStart,
    #[name = c"disable"]
    Disable,
}

/// What says who the user is.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum IdentityMode {
    /// The application, in app.current_user_id.
    #[name = c"asserted"]
    Asserted,
    /// A token that an issuer has signed.
    #[name = c"token"]
    Token,
    /// The role that logged in.
    #[name = c"role"]
    Role,
}

/// What becomes of a call for a honey user.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum HoneyFetch {
    #[name = c"succeed"]
    Succeed,
    #[name = c"fail"]
    Fail,
}

/// Whether a caller and the audit writer poll for each other before they sleep.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum AuditSpin {
    #[name = c"off"]
    Off,
    /// Where it has paid lately.
    #[name = c"auto"]
    Auto,
    #[name = c"on"]
    On,
}

/// How often decryptions are audited.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum AuditDecrypts {
    #[name = c"transaction"]
    Transaction,
    #[name = c"statement"]
    Statement,
    #[name = c"value"]
    Value,
}

static KEK_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static KEK_COMMAND: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static KEK_COMMAND_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(30_000);
static KEK_ID: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"env-v1"));
static ON_BAD_KEK: GucSetting<OnBadKek> = GucSetting::<OnBadKek>::new(OnBadKek::RefuseStart);
static DEV_MODE: GucSetting<bool> = GucSetting::<bool>::new(false);
static AUDIT_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(10_000);
static AUDIT_SLOTS: GucSetting<i32> = GucSetting::<i32>::new(4);
static AUDIT_SPIN: GucSetting<AuditSpin> = GucSetting::<AuditSpin>::new(AuditSpin::Auto);
static AUDIT_IDLE_EXIT: GucSetting<i32> = GucSetting::<i32>::new(2_000);
static AUDIT_KEY_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static AUDIT_CHECKPOINT_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(3_600);
static IDENTITY: GucSetting<IdentityMode> = GucSetting::<IdentityMode>::new(IdentityMode::Asserted);
static PIN_IDENTITY: GucSetting<bool> = GucSetting::<bool>::new(false);
static TOKEN_FROM_HEADERS: GucSetting<bool> = GucSetting::<bool>::new(false);
static ISSUERS_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static ISSUERS_COMMAND: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static ISSUERS_COMMAND_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(30_000);
static GRANT_APPROVALS: GucSetting<i32> = GucSetting::<i32>::new(0);
static GRANT_MAX_LIFETIME: GucSetting<i32> = GucSetting::<i32>::new(30 * 86_400);
static MIN_DESTROY_WAIT: GucSetting<i32> = GucSetting::<i32>::new(7 * 86_400);
static AUDIT_DECRYPTS: GucSetting<AuditDecrypts> = GucSetting::<AuditDecrypts>::new(AuditDecrypts::Transaction);
static MAX_DECRYPTS: GucSetting<i32> = GucSetting::<i32>::new(0);
static ALARM_USERS_PER_MINUTE: GucSetting<i32> = GucSetting::<i32>::new(0);
static MAX_USERS_PER_MINUTE: GucSetting<i32> = GucSetting::<i32>::new(0);
static ALARM_FAILURES_PER_MINUTE: GucSetting<i32> = GucSetting::<i32>::new(0);
static MAX_FAILURES_PER_MINUTE: GucSetting<i32> = GucSetting::<i32>::new(0);
static HONEY_FETCH: GucSetting<HoneyFetch> = GucSetting::<HoneyFetch>::new(HoneyFetch::Succeed);
static REQUIRE_RECOVERY_PROOF: GucSetting<bool> = GucSetting::<bool>::new(true);
static EXPORT_RECIPIENTS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static ALLOW_DROP: GucSetting<bool> = GucSetting::<bool>::new(false);
static ALLOW_ALTER: GucSetting<bool> = GucSetting::<bool>::new(false);

/// Three quarters of the users that can be told apart: with more, limits would be reached too early.
const MOST_PER_MINUTE: i32 = (vault_core::watch::USERS / 4 * 3) as i32;

/// Defines the settings and reserves their prefix, so that a misspelt one fails. Only while preloading: settings that
/// hold for the whole server cannot be defined later.
pub fn define() {
    let superuser_only = GucFlags::SUPERUSER_ONLY;
    GucRegistry::define_string_guc(
        c"vault_ext.kek_file",
        c"Path of the keyring file.",
        c"Absolute, mode 0600 or stricter, owned by the server's user or by root, outside the data directory.",
        &KEK_FILE,
        GucContext::Postmaster,
        superuser_only,
    );
    GucRegistry::define_string_guc(
        c"vault_ext.kek_command",
        c"Shell command whose standard output is the keyring.",
        c"The hook for a KMS, a vault or an HSM. Its output is never logged.",
        &KEK_COMMAND,
        GucContext::Postmaster,
        superuser_only,
    );
    GucRegistry::define_int_guc(
        c"vault_ext.kek_command_timeout",
        c"How long vault_ext.kek_command may take.",
        c"It is killed after that, and the server does as vault_ext.on_bad_kek says.",
        &KEK_COMMAND_TIMEOUT,
        100,
        3_600_000,
        GucContext::Postmaster,
        GucFlags::UNIT_MS,
    );
    guc::define_kek();
    GucRegistry::define_string_guc(
        c"vault_ext.kek_id",
        c"Id of a KEK that is given as one bare line.",
        c"1 to 64 characters of A-Za-z0-9._:/- ; a keyring names its KEKs itself.",
        &KEK_ID,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"vault_ext.on_bad_kek",
        c"What to do when the KEK cannot be loaded at server start.",
        c"refuse_start: the server does not start. disable: it starts, and every vault function fails with the reason.",
        &ON_BAD_KEK,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"vault_ext.dev_mode",
        c"Uses 32 zero bytes as the KEK \"dev-insecure\" where none is configured.",
        c"For development only: whoever has the data has the keys.",
        &DEV_MODE,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"vault_ext.audit_timeout",
        c"How long a call waits for its audit row before it fails.",
        c"Nothing is released without the row, whatever it waits for. The value of the calling session counts.",
        &AUDIT_TIMEOUT,
        100,
        600_000,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"vault_ext.audit_slots",
        c"Audit records that one backend may have under way.",
        c"More than one, so that a call cancelled behind an unfinished record does not cost the next call its row.",
        &AUDIT_SLOTS,
        2,
        64,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"vault_ext.audit_idle_exit",
        c"How long an audit writer stays in its database with nothing to do.",
        c"While it stays, RENAME and CREATE DATABASE ... TEMPLATE of that database have to ask it to leave.",
        &AUDIT_IDLE_EXIT,
        100,
        4_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_enum_guc(
        c"vault_ext.audit_spin",
        c"Lets a caller and the audit writer look for each other for up to 0.3 ms before they sleep.",
        c"Shortens the calls of one client at a time; with more clients it does nothing. auto: as long as the other one comes in that time and nobody else needs the processor. on: always, at the price of processor time.",
        &AUDIT_SPIN,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"vault_ext.audit_key_file",
        c"Path of the file with the private key that signs the audit trail's checkpoints.",
        c"PKCS#8 PEM of an Ed25519 key, as vault-trail keygen makes it. Readable by the server's user alone, outside the data directory.",
        &AUDIT_KEY_FILE,
        GucContext::Postmaster,
        superuser_only,
    );
    GucRegistry::define_int_guc(
        c"vault_ext.audit_checkpoint_interval",
        c"How often the audit writer logs a checkpoint of the trail, if there are new rows.",
        c"0 means never; vault_audit_checkpoint() gives one at any time.",
        &AUDIT_CHECKPOINT_INTERVAL,
        0,
        7 * 86_400,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_enum_guc(
        c"vault_ext.identity",
        c"What says who the user is.",
        c"asserted: the application, in app.current_user_id. token: a token that one of the issuers has signed. role: the role that logged in.",
        &IDENTITY,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"vault_ext.pin_identity",
        c"Lets the first user of a transaction stand until it ends.",
        c"A call for another user in the same transaction fails.",
        &PIN_IDENTITY,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"vault_ext.token_from_headers",
        c"Takes the token from PostgREST's request.headers where vault_ext.token is not set.",
        c"PostgREST passes the header Authorization on.",
        &TOKEN_FROM_HEADERS,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"vault_ext.issuers_file",
        c"Path of the file that names the issuers whose tokens are believed.",
        c"Absolute, writable by the server's user or root alone, outside the data directory.",
        &ISSUERS_FILE,
        GucContext::Postmaster,
        superuser_only,
    );
    GucRegistry::define_string_guc(
        c"vault_ext.issuers_command",
        c"Shell command whose standard output is the text of an issuers file.",
        c"It runs at server start and at each reload.",
        &ISSUERS_COMMAND,
        GucContext::Postmaster,
        superuser_only,
    );
    GucRegistry::define_int_guc(
        c"vault_ext.issuers_command_timeout",
        c"How long vault_ext.issuers_command may take.",
        c"It is killed after that.",
        &ISSUERS_COMMAND_TIMEOUT,
        100,
        3_600_000,
        GucContext::Postmaster,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"vault_ext.grant_approvals",
        c"How many other logins must approve a grant that was given for a user.",
        c"0 or 1. Grants that users give themselves need none.",
        &GRANT_APPROVALS,
        0,
        1,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"vault_ext.grant_max_lifetime",
        c"The longest time that a grant may last.",
        c"Grants that were given before keep their time.",
        &GRANT_MAX_LIFETIME,
        60,
        366 * 86_400,
        GucContext::Suset,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"vault_ext.min_destroy_wait",
        c"The shortest time between the closing of a key or a vault and its destruction.",
        c"Within it, vault_restore_key_version() and vault_cancel_erase() bring it back.",
        &MIN_DESTROY_WAIT,
        0,
        366 * 86_400,
        GucContext::Suset,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_enum_guc(
        c"vault_ext.audit_decrypts",
        c"How often the decryptions of one key are audited.",
        c"transaction: before the first value of a transaction. statement: of each statement. value: each value.",
        &AUDIT_DECRYPTS,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"vault_ext.max_decrypts",
        c"How many values one transaction may decrypt.",
        c"0 means without limit.",
        &MAX_DECRYPTS,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::default(),
    );
    for (name, short, setting) in [
        (
            c"vault_ext.alarm_users_per_minute",
            c"Raises an alarm when a login role asks for the keys of more users within a minute.",
            &ALARM_USERS_PER_MINUTE,
        ),
        (
            c"vault_ext.max_users_per_minute",
            c"Refuses a login role the keys of more users within a minute.",
            &MAX_USERS_PER_MINUTE,
        ),
        (
            c"vault_ext.alarm_failures_per_minute",
            c"Raises an alarm when more calls of a login role fail within a minute.",
            &ALARM_FAILURES_PER_MINUTE,
        ),
        (
            c"vault_ext.max_failures_per_minute",
            c"Refuses every key to a login role of which so many calls have failed within a minute.",
            &MAX_FAILURES_PER_MINUTE,
        ),
    ] {
        GucRegistry::define_int_guc(
            name,
            short,
            c"0 means off. Counted in each database, over all sessions; ALTER ROLE ... SET fits it to an application.",
            setting,
            0,
            MOST_PER_MINUTE,
            GucContext::Suset,
            GucFlags::default(),
        );
    }
    GucRegistry::define_enum_guc(
        c"vault_ext.honey_fetch",
        c"What becomes of a call for a honey user, beside the alarm.",
        c"succeed: it works like any other. fail: it looks as if the user had no vault.",
        &HONEY_FETCH,
        GucContext::Suset,
        GucFlags::SUPERUSER_ONLY,
    );
    // Who may set it to off can let a user lock himself out for ever, so it is not the application's to choose.
    GucRegistry::define_bool_guc(
        c"vault_ext.require_recovery_proof",
        c"Lets only those enter or leave zero-knowledge mode who have shown that they have the key.",
        c"Off for the predecessor's clients: a recovery wrap that nobody can open then makes the key unreadable for ever.",
        &REQUIRE_RECOVERY_PROOF,
        GucContext::Suset,
        GucFlags::default(),
    );
    // Whoever receives a vault has its keys, so an administrator of the vault must not be able to name himself.
    GucRegistry::define_string_guc(
        c"vault_ext.export_recipients",
        c"Fingerprints of the import keys that vault_export() may seal vaults to, separated by commas.",
        c"Empty: nothing can be exported. vault_import_key() shows the fingerprint on the server that is to receive them.",
        &EXPORT_RECIPIENTS,
        GucContext::Suset,
        GucFlags::default(),
    );
    guc::define_token();
    // PostgreSQL decides who may drop. These two only ask whether the statement is intended, so everybody may set them.
    GucRegistry::define_bool_guc(
        c"vault_ext.allow_drop",
        c"Allows DROP EXTENSION, and every other statement that drops the vaults, to destroy every key of the database.",
        c"An empty vault can always be dropped. Meant to be SET in the session that drops.",
        &ALLOW_DROP,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"vault_ext.allow_alter",
        c"Allows statements that change the vault's own tables, policies, owners or functions in a way that breaks a promise.",
        c"Calls fail as long as the vault is not as CREATE EXTENSION made it.",
        &ALLOW_ALTER,
        GucContext::Userset,
        GucFlags::default(),
    );
    guc::reserve_prefix(c"vault_ext");
}

fn text(setting: &GucSetting<Option<CString>>) -> Option<String> {
    let value = setting.get()?.to_string_lossy().into_owned();
    (!value.is_empty()).then_some(value)
}

fn milliseconds(setting: &GucSetting<i32>) -> Duration {
    Duration::from_millis(setting.get().max(0) as u64)
}

pub fn kek_file() -> Option<String> {
    text(&KEK_FILE)
}

pub fn kek_command() -> Option<String> {
    text(&KEK_COMMAND)
}

pub fn kek_command_timeout() -> Duration {
    milliseconds(&KEK_COMMAND_TIMEOUT)
}

pub fn kek_id() -> String {
    text(&KEK_ID).unwrap_or_default()
}

pub fn on_bad_kek() -> OnBadKek {
    ON_BAD_KEK.get()
}

pub fn dev_mode() -> bool {
    DEV_MODE.get()
}

pub fn audit_timeout() -> Duration {
    milliseconds(&AUDIT_TIMEOUT)
}

pub fn audit_slots() -> u32 {
    AUDIT_SLOTS.get().max(2) as u32
}

pub fn audit_idle_exit() -> Duration {
    milliseconds(&AUDIT_IDLE_EXIT)
}

pub fn audit_spin() -> AuditSpin {
    AUDIT_SPIN.get()
}

pub fn audit_key_file() -> Option<String> {
    text(&AUDIT_KEY_FILE)
}

/// None means never.
pub fn audit_checkpoint_interval() -> Option<Duration> {
    let seconds = AUDIT_CHECKPOINT_INTERVAL.get();
    (seconds > 0).then(|| Duration::from_secs(seconds as u64))
}

pub fn identity() -> IdentityMode {
    IDENTITY.get()
}

pub fn pin_identity() -> bool {
    PIN_IDENTITY.get()
}

pub fn token_from_headers() -> bool {
    TOKEN_FROM_HEADERS.get()
}

pub fn issuers_file() -> Option<String> {
    text(&ISSUERS_FILE)
}

pub fn issuers_command() -> Option<String> {
    text(&ISSUERS_COMMAND)
}

pub fn issuers_command_timeout() -> Duration {
    milliseconds(&ISSUERS_COMMAND_TIMEOUT)
}

/// vault_ext.token, which no SQL can read.
pub fn token() -> Option<Vec<u8>> {
    guc::token()
}

pub fn grant_approvals() -> i32 {
    GRANT_APPROVALS.get()
}

pub fn grant_max_lifetime() -> Duration {
    Duration::from_secs(GRANT_MAX_LIFETIME.get().max(0) as u64)
}

pub fn audit_decrypts() -> AuditDecrypts {
    AUDIT_DECRYPTS.get()
}

/// 0 means without limit.
pub fn max_decrypts() -> u32 {
    MAX_DECRYPTS.get().max(0) as u32
}

/// The limits of a login role, each a number per minute; 0 means off.
#[derive(Clone, Copy)]
pub struct Limits {
    pub alarm_users: u64,
    pub max_users: u64,
    pub alarm_failures: u64,
    pub max_failures: u64,
}

pub fn limits() -> Limits {
    let of = |setting: &GucSetting<i32>| setting.get().max(0) as u64;
    Limits {
        alarm_users: of(&ALARM_USERS_PER_MINUTE),
        max_users: of(&MAX_USERS_PER_MINUTE),
        alarm_failures: of(&ALARM_FAILURES_PER_MINUTE),
        max_failures: of(&MAX_FAILURES_PER_MINUTE),
    }
}

pub fn honey_fetch() -> HoneyFetch {
    HONEY_FETCH.get()
}

pub fn require_recovery_proof() -> bool {
    REQUIRE_RECOVERY_PROOF.get()
}

/// The list as it was written; None where it is empty.
pub fn export_recipients() -> Option<String> {
    text(&EXPORT_RECIPIENTS).filter(|recipients| !recipients.trim().is_empty())
}

pub fn min_destroy_wait() -> Duration {
    Duration::from_secs(MIN_DESTROY_WAIT.get().max(0) as u64)
}

/// The same number as before stands for the same token as before.
pub fn token_changes() -> u64 {
    guc::token_changes()
}

pub fn allow_drop() -> bool {
    ALLOW_DROP.get()
}

pub fn allow_alter() -> bool {
    ALLOW_ALTER.get()
}
