-- All functions, written out so that a DBA can read here what CREATE EXTENSION installs. The SECURITY DEFINER functions run
-- as vault_ext_owner, which is subject to row-level security. They need no SET search_path: the SQL inside them
-- schema-qualifies every object and operator.

CREATE TYPE vault_key AS (
    master_key     text,
    format_version smallint,
    kek_id         text,
    key_version    integer,
    requires_recovery_code boolean,
    recovery_wrapped_mk text,
    recovery_iv    text
);
COMMENT ON TYPE vault_key IS 'a user''s master key (32 bytes in standard base64) and what wraps it; in zero-knowledge mode master_key is NULL, and the recovery wrap comes instead';
COMMENT ON COLUMN vault_key.master_key IS 'the key: 32 bytes in standard base64; NULL in zero-knowledge mode';
COMMENT ON COLUMN vault_key.format_version IS 'format of the wrap: 1 is the predecessor''s, 2 is what vault_ext writes';
COMMENT ON COLUMN vault_key.kek_id IS 'id of the KEK that wraps the key';
COMMENT ON COLUMN vault_key.key_version IS 'version of the key';
COMMENT ON COLUMN vault_key.requires_recovery_code IS 'true in zero-knowledge mode: only the recovery code opens the key';
COMMENT ON COLUMN vault_key.recovery_wrapped_mk IS 'in zero-knowledge mode the wrap that the recovery code opens, else NULL';
COMMENT ON COLUMN vault_key.recovery_iv IS 'the client''s nonce of recovery_wrapped_mk, else NULL';

-- for applications ---------------------------------------------------------------------------------------------------

CREATE FUNCTION vault_init() RETURNS vault_key
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_init_wrapper';
COMMENT ON FUNCTION vault_init() IS 'the master key of the user, created if there is none; idempotent';

CREATE FUNCTION vault_get_master_key() RETURNS vault_key
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_get_master_key_wrapper';
COMMENT ON FUNCTION vault_get_master_key() IS 'the master key of the user; P0002 if there is no vault';

CREATE FUNCTION vault_rotate() RETURNS vault_key
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_rotate_wrapper';
COMMENT ON FUNCTION vault_rotate() IS 'a fresh master key becomes the current one; the old one can still be opened: vault_get_key_version()';

CREATE FUNCTION vault_rotate(destroy_old boolean) RETURNS vault_key
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_rotate_and_wrapper';
COMMENT ON FUNCTION vault_rotate(boolean) IS 'vault_rotate() that can destroy the old key for good (destroy_old): re-encrypt what it has encrypted before this transaction commits';

CREATE FUNCTION vault_status(
    OUT "exists" boolean, OUT format_version smallint, OUT kek_id text, OUT key_version integer,
    OUT created_at timestamptz, OUT rotated_at timestamptz,
    OUT has_recovery_wrap boolean, OUT zero_knowledge boolean, OUT recovery_set_at timestamptz)
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_status_wrapper';
COMMENT ON FUNCTION vault_status() IS 'whether the user has a vault, and under which KEK; never a key; not audited';

CREATE FUNCTION vault_init(token text) RETURNS vault_key
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_init_with_token_wrapper';
COMMENT ON FUNCTION vault_init(text) IS 'vault_init() for the user that a verified token names';

CREATE FUNCTION vault_get_master_key(token text) RETURNS vault_key
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_get_master_key_with_token_wrapper';
COMMENT ON FUNCTION vault_get_master_key(text) IS 'vault_get_master_key() for the user that a verified token names';

CREATE FUNCTION vault_rotate(token text) RETURNS vault_key
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_rotate_with_token_wrapper';
COMMENT ON FUNCTION vault_rotate(text) IS 'vault_rotate() for the user that a verified token names';

CREATE FUNCTION vault_rotate(token text, destroy_old boolean) RETURNS vault_key
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_rotate_and_with_token_wrapper';
COMMENT ON FUNCTION vault_rotate(text, boolean) IS 'vault_rotate(destroy_old) for the user that a verified token names';

CREATE FUNCTION vault_status(
    token text, OUT "exists" boolean, OUT format_version smallint, OUT kek_id text, OUT key_version integer,
    OUT created_at timestamptz, OUT rotated_at timestamptz,
    OUT has_recovery_wrap boolean, OUT zero_knowledge boolean, OUT recovery_set_at timestamptz)
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_status_with_token_wrapper';
COMMENT ON FUNCTION vault_status(text) IS 'vault_status() for the user that a verified token names';

-- versions of a key ----------------------------------------------------------------------------------------------------

CREATE FUNCTION vault_key_versions(
    OUT key_version integer, OUT state text, OUT format_version smallint, OUT kek_id text, OUT superseded_at timestamptz,
    OUT destroy_after timestamptz, OUT destroyed_at timestamptz) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_key_versions_wrapper';
COMMENT ON FUNCTION vault_key_versions() IS 'the versions of the user''s key, the newest first, and their states; never a key; not audited';

CREATE FUNCTION vault_create() RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_create_wrapper';
COMMENT ON FUNCTION vault_create() IS 'creates the user''s vault and hands out no key; false if there is one';

CREATE FUNCTION vault_create_key_version() RETURNS integer
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_create_key_version_wrapper';
COMMENT ON FUNCTION vault_create_key_version() IS 'vault_rotate() without handing out the key: gives the number of the new version';

CREATE FUNCTION vault_get_key_version(key_version integer) RETURNS vault_key
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_get_key_version_wrapper';
COMMENT ON FUNCTION vault_get_key_version(integer) IS 'one version of the user''s master key; P0002 if there never was one, 55000 if it is disabled or destroyed';

CREATE FUNCTION vault_retire_key_version(key_version integer, wait interval DEFAULT '30 days') RETURNS timestamptz
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_retire_key_version_wrapper';
COMMENT ON FUNCTION vault_retire_key_version(integer, interval) IS 'closes an old version at once, to be destroyed after the wait; gives that time';

CREATE FUNCTION vault_disable_key_version(key_version integer) RETURNS boolean
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_disable_key_version_wrapper';
COMMENT ON FUNCTION vault_disable_key_version(integer) IS 'closes an old version until it is restored; false if it was disabled before';

CREATE FUNCTION vault_restore_key_version(key_version integer) RETURNS boolean
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_restore_key_version_wrapper';
COMMENT ON FUNCTION vault_restore_key_version(integer) IS 'opens an old version again that is disabled or to be destroyed; false if it is open';

-- recovery code and zero-knowledge mode --------------------------------------------------------------------------------

CREATE FUNCTION vault_set_recovery(recovery_wrapped_mk text, recovery_iv text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_set_recovery_wrapper';
COMMENT ON FUNCTION vault_set_recovery(text, text) IS 'keeps a wrap of the user''s key that only the recovery code opens, in place of an earlier one';

CREATE FUNCTION vault_clear_recovery() RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_clear_recovery_wrapper';
COMMENT ON FUNCTION vault_clear_recovery() IS 'removes the recovery wrap, so that the code opens nothing any more; false if there was none; 55000 in zero-knowledge mode';

CREATE FUNCTION vault_recovery_challenge() RETURNS bytea
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_recovery_challenge_wrapper';
COMMENT ON FUNCTION vault_recovery_challenge() IS '32 random bytes for the proof that the stored recovery wrap opens; they count once, in this session; not audited';

CREATE FUNCTION vault_enable_zero_knowledge(proof bytea DEFAULT NULL) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_enable_zero_knowledge_wrapper';
COMMENT ON FUNCTION vault_enable_zero_knowledge(bytea) IS 'lets the server forget the user''s key: only the recovery code opens it then; proof is HMAC-SHA256 of the key over vault_ext.recovery-proof.v1 and the challenge; false if it is so already';

CREATE FUNCTION vault_disable_zero_knowledge(master_key text) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_disable_zero_knowledge_wrapper';
COMMENT ON FUNCTION vault_disable_zero_knowledge(text) IS 'gives the user''s key back to the server; bind it as a parameter; 42501 for any other key; false if the server has it already';

-- use in SQL -----------------------------------------------------------------------------------------------------------

-- Not SECURITY DEFINER: only the first call of a transaction touches the tables, and it switches to vault_ext_owner by itself.
-- VOLATILE, so that no plaintext gets into an index, a generated column or a plan.
CREATE FUNCTION vault_encrypt(plaintext bytea, context text, purpose text DEFAULT 'data') RETURNS bytea
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_encrypt_bytea_wrapper';
COMMENT ON FUNCTION vault_encrypt(bytea, text, text) IS 'encrypts a bytea under the user''s current key; the context binds the place (table, column, row)';

CREATE FUNCTION vault_encrypt(plaintext text, context text, purpose text DEFAULT 'data') RETURNS bytea
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_encrypt_text_wrapper';
COMMENT ON FUNCTION vault_encrypt(text, text, text) IS 'encrypts a text under the user''s current key; the context binds the place (table, column, row)';

CREATE FUNCTION vault_encrypt(plaintext jsonb, context text, purpose text DEFAULT 'data') RETURNS bytea
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_encrypt_jsonb_wrapper';
COMMENT ON FUNCTION vault_encrypt(jsonb, text, text) IS 'encrypts a jsonb under the user''s current key; the context binds the place (table, column, row)';

CREATE FUNCTION vault_decrypt(ciphertext bytea, context text, purpose text DEFAULT 'data') RETURNS bytea
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_decrypt_wrapper';
COMMENT ON FUNCTION vault_decrypt(bytea, text, text) IS 'the bytea that was encrypted with this context and purpose; XX001 if it does not open';

CREATE FUNCTION vault_decrypt_text(ciphertext bytea, context text, purpose text DEFAULT 'data') RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_decrypt_text_wrapper';
COMMENT ON FUNCTION vault_decrypt_text(bytea, text, text) IS 'the text that was encrypted with this context and purpose; XX001 if it does not open';

CREATE FUNCTION vault_decrypt_json(ciphertext bytea, context text, purpose text DEFAULT 'data') RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_decrypt_json_wrapper';
COMMENT ON FUNCTION vault_decrypt_json(bytea, text, text) IS 'the jsonb that was encrypted with this context and purpose; XX001 if it does not open';

CREATE FUNCTION vault_reencrypt(ciphertext bytea, context text, purpose text DEFAULT 'data') RETURNS bytea
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_reencrypt_wrapper';
COMMENT ON FUNCTION vault_reencrypt(bytea, text, text) IS 'the same plaintext under the user''s current key, without showing it; what is under that key stays as it is';

CREATE FUNCTION vault_ciphertext_version(ciphertext bytea) RETURNS integer
    LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'vault_ciphertext_version_wrapper';
COMMENT ON FUNCTION vault_ciphertext_version(bytea) IS 'the version of the key that an encrypted value names; NULL if it is none';

CREATE FUNCTION vault_derive_key(purpose text, key_version integer DEFAULT NULL) RETURNS bytea
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_derive_key_wrapper';
COMMENT ON FUNCTION vault_derive_key(text, integer) IS '32 bytes that are derived from the user''s key for one purpose (HKDF-SHA256)';

CREATE FUNCTION vault_derive_key(salt bytea, info text) RETURNS bytea
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_derive_key_from_wrapper';
COMMENT ON FUNCTION vault_derive_key(bytea, text) IS 'HKDF-SHA256 of the user''s key with this salt and info, 32 bytes, for keys that existing clients derive';

CREATE FUNCTION vault_blind_index(value text, purpose text, bits integer DEFAULT 256, key_version integer DEFAULT NULL) RETURNS bytea
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_blind_index_wrapper';
COMMENT ON FUNCTION vault_blind_index(text, text, integer, integer) IS 'finds equal values of one user without opening them: the same for the same text, purpose and version of the key';

CREATE FUNCTION vault_lookup_index(value text, purpose text, bits integer DEFAULT 256) RETURNS bytea
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_lookup_index_wrapper';
COMMENT ON FUNCTION vault_lookup_index(text, text, integer) IS 'finds equal values of all users, under a key of the database: to find a user by an e-mail address';

CREATE FUNCTION vault_client_blob(value jsonb) RETURNS text
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_client_blob_wrapper';
COMMENT ON FUNCTION vault_client_blob(jsonb) IS 'encrypts as the predecessor''s clients do (enc:1:), with the user''s current key itself';

CREATE FUNCTION vault_open_client_blob(blob text, key_version integer DEFAULT NULL) RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_open_client_blob_wrapper';
COMMENT ON FUNCTION vault_open_client_blob(text, integer) IS 'opens what the predecessor''s clients have encrypted; the blob does not say under which version of the key';

-- sealed release -------------------------------------------------------------------------------------------------------

CREATE FUNCTION vault_seal_master_key(
    public_key text, key_version integer DEFAULT NULL,
    OUT sealed bytea, OUT algorithm text, OUT fingerprint text, OUT key_version integer, OUT kek_id text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_seal_master_key_wrapper';
COMMENT ON FUNCTION vault_seal_master_key(text, integer) IS 'the user''s master key, encrypted to a public key (X25519 or RSA): only the private key opens it; without a version, the current one';

CREATE FUNCTION vault_seal_derived_key(
    public_key text, purpose text, key_version integer DEFAULT NULL,
    OUT sealed bytea, OUT algorithm text, OUT fingerprint text, OUT key_version integer, OUT kek_id text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_seal_derived_key_wrapper';
COMMENT ON FUNCTION vault_seal_derived_key(text, text, integer) IS 'the key that vault_derive_key() gives for a purpose, encrypted to a public key (X25519 or RSA)';

CREATE FUNCTION vault_seal_derived_key(
    public_key text, salt bytea, info text,
    OUT sealed bytea, OUT algorithm text, OUT fingerprint text, OUT key_version integer, OUT kek_id text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_seal_derived_key_with_salt_wrapper';
COMMENT ON FUNCTION vault_seal_derived_key(text, bytea, text) IS 'a key that existing clients derive, encrypted to a public key: HKDF-SHA256 of the current master key with this salt and this info';

-- erasure of a person --------------------------------------------------------------------------------------------------

-- Not STRICT: a NULL must not pass for a refusal that nobody notices.
CREATE FUNCTION vault_schedule_erase(user_id text, wait interval DEFAULT '30 days', reason text DEFAULT NULL) RETURNS timestamptz
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_schedule_erase_wrapper';
COMMENT ON FUNCTION vault_schedule_erase(text, interval, text) IS 'locks the vault of one user at once, to be erased after the wait; gives that time; a reason is required';

CREATE FUNCTION vault_cancel_erase(user_id text) RETURNS boolean
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_cancel_erase_wrapper';
COMMENT ON FUNCTION vault_cancel_erase(text) IS 'opens a vault again whose erasure is scheduled; false if none is';

CREATE FUNCTION vault_erasure_status(
    user_id text, OUT erasure_id bigint, OUT state text, OUT reason text, OUT scheduled_by text, OUT scheduled_at timestamptz,
    OUT erase_after timestamptz, OUT cancelled_by text, OUT cancelled_at timestamptz, OUT erased_at timestamptz,
    OUT kek_id text, OUT kek_first_seen timestamptz, OUT kek_retired_at timestamptz, OUT kek_loaded boolean) RETURNS SETOF record
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_erasure_status_wrapper';
COMMENT ON FUNCTION vault_erasure_status(text) IS 'the erasures of one user, the newest first, each with every KEK that may have wrapped the user''s keys: copies of the wraps open as long as one of these exists anywhere';

-- Not SECURITY DEFINER, for the same reason as vault_rewrap().
CREATE PROCEDURE vault_destroy_due(
    batch_size integer DEFAULT 1000, INOUT keys bigint DEFAULT NULL, INOUT vaults bigint DEFAULT NULL)
    LANGUAGE c AS 'MODULE_PATHNAME', 'vault_destroy_due_wrapper';
COMMENT ON PROCEDURE vault_destroy_due(integer, bigint, bigint) IS 'erases the vaults and destroys the old keys whose time has come, in batches that are committed separately; to be called regularly';

-- moving vaults between servers ----------------------------------------------------------------------------------------

CREATE FUNCTION vault_import_key(OUT kek_id text, OUT public_key text, OUT fingerprint text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_import_key_wrapper';
COMMENT ON FUNCTION vault_import_key() IS 'the public key to which other servers seal vaults for this one, and the KEK that opens them; no secret; not audited';

CREATE FUNCTION vault_export(user_id text, kek_id text, public_key text) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_export_wrapper';
COMMENT ON FUNCTION vault_export(text, text, text) IS 'the vault of one user as a bundle that only the server with this import key opens; refused unless vault_ext.export_recipients lists its fingerprint';

CREATE FUNCTION vault_import(bundle text) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_import_wrapper';
COMMENT ON FUNCTION vault_import(text) IS 'takes in the vault of a bundle that was made for this server, and gives its user; the same vault again changes nothing, another one is refused';

-- who the user is ------------------------------------------------------------------------------------------------------

-- PARALLEL RESTRICTED: a worker has no nonces of its leader's. Write (SELECT vault_user_id()) in policies: it is then called once
-- and not for each row, and the rest of the scan may be parallel.
CREATE FUNCTION vault_user_id() RETURNS text
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'vault_user_id_wrapper';
COMMENT ON FUNCTION vault_user_id() IS 'the user, as vault_ext.identity says; NULL where nobody has said who it is; for row-level security of the application''s own tables';

CREATE FUNCTION vault_claims() RETURNS jsonb
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'vault_claims_wrapper';
COMMENT ON FUNCTION vault_claims() IS 'the claims of the user''s verified token; NULL without one';

CREATE FUNCTION vault_whoami(
    OUT user_id text, OUT identity text, OUT issuer text, OUT token_id text, OUT token_kid text, OUT issued_at timestamptz,
    OUT expires_at timestamptz, OUT bound boolean, OUT scopes text[])
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'vault_whoami_wrapper';
COMMENT ON FUNCTION vault_whoami() IS 'the user and what established that; never the token';

CREATE FUNCTION vault_login(token text) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_login_wrapper';
COMMENT ON FUNCTION vault_login(text) IS 'verifies a token and makes it the one of this transaction; gives the user';

CREATE FUNCTION vault_session() RETURNS text
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'vault_session_wrapper';
COMMENT ON FUNCTION vault_session() IS 'the nonce of this session, for the claim vault_session of a bound token';

CREATE FUNCTION vault_challenge() RETURNS text
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'vault_challenge_wrapper';
COMMENT ON FUNCTION vault_challenge() IS 'the nonce of this transaction, for the claim vault_challenge of a bound token';

-- grants ---------------------------------------------------------------------------------------------------------------

CREATE FUNCTION vault_grant(
    token text, grantee regrole, expires_in interval, reason text, max_uses integer DEFAULT NULL, not_before timestamptz DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_grant_wrapper';
COMMENT ON FUNCTION vault_grant(text, regrole, interval, text, integer, timestamptz) IS 'lets the members of a role fetch the user''s key until it expires; a NULL token stands for the user of the session, where vault_ext.identity is not token';

CREATE FUNCTION vault_grant_for(
    user_id text, grantee regrole, expires_in interval, reason text, max_uses integer DEFAULT NULL, not_before timestamptz DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_grant_for_wrapper';
COMMENT ON FUNCTION vault_grant_for(text, regrole, interval, text, integer, timestamptz) IS 'vault_grant() by a member of vault_ext_grantor, for a user; with vault_ext.grant_approvals = 1 another login must approve it';

CREATE FUNCTION vault_approve_grant(id bigint) RETURNS boolean
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_approve_grant_wrapper';
COMMENT ON FUNCTION vault_approve_grant(bigint) IS 'approves a grant that another login has given for a user; false if there is none';

CREATE FUNCTION vault_revoke_grant(id bigint) RETURNS boolean
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_revoke_grant_wrapper';
COMMENT ON FUNCTION vault_revoke_grant(bigint) IS 'ends a grant at once: the user''s own, or any for members of vault_ext_grantor and vault_ext_admin; false if there is none';

CREATE FUNCTION vault_revoke_grant(token text, id bigint) RETURNS boolean
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_revoke_grant_with_token_wrapper';
COMMENT ON FUNCTION vault_revoke_grant(text, bigint) IS 'vault_revoke_grant() for the user that a verified token names';

CREATE FUNCTION vault_retire_grant(id bigint) RETURNS boolean
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_retire_grant_wrapper';
COMMENT ON FUNCTION vault_retire_grant(bigint) IS 'ends a grant that the caller holds; false if there is none';

CREATE FUNCTION vault_get_master_key_of(user_id text) RETURNS vault_key
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_get_master_key_of_wrapper';
COMMENT ON FUNCTION vault_get_master_key_of(text) IS 'the master key of a user who has granted that to a role of the caller';

CREATE FUNCTION vault_get_master_keys(user_ids text[])
    RETURNS TABLE (user_id text, master_key text, format_version smallint, kek_id text, key_version integer, requires_recovery_code boolean,
        recovery_wrapped_mk text, recovery_iv text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_get_master_keys_wrapper';
COMMENT ON FUNCTION vault_get_master_keys(text[]) IS 'vault_get_master_key_of() for up to 1,000 users at once, a row for each: all of them, or an error and no key';

-- for monitoring and load balancers ---------------------------------------------------------------------------------

CREATE FUNCTION vault_health(
    OUT ok boolean, OUT queued bigint, OUT writer_pid integer, OUT blocked_by integer[], OUT last_written_at timestamptz,
    OUT last_error_at timestamptz, OUT last_error text, OUT problem text, OUT hint text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_health_wrapper';
COMMENT ON FUNCTION vault_health() IS 'whether keys can be released now: tries to write an audit row and takes it back; last_error is the SQLSTATE of the audit writer''s last failure';

-- for administrators -------------------------------------------------------------------------------------------------

CREATE FUNCTION vault_erase(user_id text) RETURNS boolean
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_erase_wrapper';
COMMENT ON FUNCTION vault_erase(text) IS 'deletes the vault of one user, for good; the audit trail stays and gets a row; false if there was none';

CREATE FUNCTION vault_rename_user(old_user_id text, new_user_id text) RETURNS void
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_rename_user_wrapper';
COMMENT ON FUNCTION vault_rename_user(text, text) IS 'gives the vault of one user, with its key, to another user id; refused where that one has a vault';

CREATE FUNCTION vault_erase_on_delete() RETURNS trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_erase_on_delete_wrapper';
COMMENT ON FUNCTION vault_erase_on_delete() IS 'AFTER DELETE row trigger for the application''s users table; its argument names the column that holds the user id';

CREATE FUNCTION vault_purge_audit(older_than interval) RETURNS bigint
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_purge_audit_wrapper';
COMMENT ON FUNCTION vault_purge_audit(interval) IS 'deletes audit rows older than that and says how many; the deletion leaves a row itself';

CREATE PROCEDURE vault_purge_audit(older_than interval, batch_size integer, INOUT purged bigint DEFAULT NULL)
    LANGUAGE c AS 'MODULE_PATHNAME', 'vault_purge_audit_in_batches_wrapper';
COMMENT ON PROCEDURE vault_purge_audit(interval, integer, bigint) IS 'vault_purge_audit() in batches that are committed separately; call it again after an interruption';

CREATE FUNCTION vault_redact_audit(user_id text) RETURNS bigint
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_redact_audit_wrapper';
COMMENT ON FUNCTION vault_redact_audit(text) IS 'takes the personal fields out of every audit row that names the user, and leaves their hash, so that the trail still verifies; gives the number of rows';

-- The lock_timeout limits how long these two functions wait for transactions that have created keys. While they wait, all
-- other calls that create keys wait behind them.
CREATE FUNCTION vault_reload_kek(
    keep_missing boolean DEFAULT false, OUT kek_id text, OUT active boolean, OUT change text) RETURNS SETOF record
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET lock_timeout = '3s' AS 'MODULE_PATHNAME', 'vault_reload_kek_wrapper';
COMMENT ON FUNCTION vault_reload_kek(boolean) IS 'reads the keyring again for the whole server, or refuses and keeps the old one; keep_missing leaves KEKs loaded that the keyring lacks';

CREATE FUNCTION vault_retire_kek(kek_id text) RETURNS boolean
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET lock_timeout = '3s' AS 'MODULE_PATHNAME', 'vault_retire_kek_wrapper';
COMMENT ON FUNCTION vault_retire_kek(text) IS 'marks a KEK as retired: this database never wraps with it again; refused while a vault needs it; false if it was retired before';

CREATE FUNCTION vault_kek_status(
    OUT kek_id text, OUT active boolean, OUT loaded boolean, OUT check_value text, OUT matches boolean, OUT vaults bigint,
    OUT oldest date, OUT first_seen date, OUT retired date, OUT safe_to_remove boolean, OUT old_keys bigint) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_kek_status_wrapper';
COMMENT ON FUNCTION vault_kek_status() IS 'every KEK of the keyring or of this database, and how many of its vaults and old keys need it';

CREATE FUNCTION vault_check(
    max_user_ids integer DEFAULT 100,
    OUT kek_id text, OUT format_version smallint, OUT outcome text, OUT vaults bigint, OUT user_ids text[],
    OUT old_keys bigint) RETURNS SETOF record
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_check_wrapper';
COMMENT ON FUNCTION vault_check(integer) IS 'opens every vault and every old key and releases nothing; user_ids names the first users who have one that does not open';

-- Not SECURITY DEFINER, since such a procedure cannot commit. It switches to vault_ext_owner by itself for each batch.
CREATE PROCEDURE vault_rewrap(
    batch_size integer DEFAULT 1000,
    INOUT done bigint DEFAULT NULL, INOUT skipped bigint DEFAULT NULL, INOUT failed bigint DEFAULT NULL)
    LANGUAGE c AS 'MODULE_PATHNAME', 'vault_rewrap_wrapper';
COMMENT ON PROCEDURE vault_rewrap(integer, bigint, bigint, bigint) IS 'rewraps every vault and every old key that is not under the active KEK, in batches that are committed separately; call it again after an interruption';

CREATE FUNCTION vault_reload_issuers() RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_reload_issuers_wrapper';
COMMENT ON FUNCTION vault_reload_issuers() IS 'reads the issuers again for the whole server, or refuses and keeps the old ones';

CREATE FUNCTION vault_identity_status(
    OUT issuer text, OUT algorithm text, OUT loaded_at timestamptz, OUT accepted bigint, OUT refused bigint,
    OUT last_refusal timestamptz, OUT token_kid text) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_identity_status_wrapper';
COMMENT ON FUNCTION vault_identity_status() IS 'each key of each issuer and what became of its tokens since the server started; the last row is for tokens that no key verified';

CREATE FUNCTION vault_revoke_tokens(user_id text, issued_before timestamptz DEFAULT clock_timestamp()) RETURNS boolean
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_revoke_tokens_wrapper';
COMMENT ON FUNCTION vault_revoke_tokens(text, timestamptz) IS 'lets the user''s tokens that were issued before that time open the vault no more; false if there is no vault';

CREATE FUNCTION vault_explain_token(
    token text, OUT accepted boolean, OUT user_id text, OUT issuer text, OUT token_id text, OUT token_kid text, OUT reason text,
    OUT problem text, OUT hint text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_explain_token_wrapper';
COMMENT ON FUNCTION vault_explain_token(text) IS 'whether a token would be accepted here and now, and why not; the trail gets a row';

CREATE FUNCTION vault_version(OUT library_version text, OUT sql_version text, OUT hint text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_version_wrapper';
COMMENT ON FUNCTION vault_version() IS 'the versions of the server''s library and of this database''s SQL, and what to do if they differ';

-- the trail that proves itself ------------------------------------------------------------------------------------------

CREATE FUNCTION vault_audit_checkpoint() RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_audit_checkpoint_wrapper';
COMMENT ON FUNCTION vault_audit_checkpoint() IS 'a checkpoint of the audit trail as it is now (C2SP tlog-checkpoint), signed if vault_ext.audit_key_file is set; NULL before the first row; keep it outside the database';

CREATE FUNCTION vault_audit_key() RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_audit_key_wrapper';
COMMENT ON FUNCTION vault_audit_key() IS 'the public key that verifies this trail''s checkpoints, as a C2SP verifier key; NULL without vault_ext.audit_key_file';

CREATE FUNCTION vault_audit_proof(id bigint) RETURNS text
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_audit_proof_wrapper';
COMMENT ON FUNCTION vault_audit_proof(bigint) IS 'proves that a row is in the audit trail (C2SP tlog-proof, with a checkpoint); P0002 if there is no such row, 55000 if it is older than the tree';

CREATE FUNCTION vault_audit_consistency(old_size bigint) RETURNS text
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_audit_consistency_wrapper';
COMMENT ON FUNCTION vault_audit_consistency(bigint) IS 'proves that the trail has only grown since a checkpoint of that size (the request of C2SP tlog-witness, with a checkpoint)';

CREATE FUNCTION vault_audit_verify(
    since text DEFAULT NULL, OUT verdict text, OUT size bigint, OUT rows bigint, OUT redacted bigint, OUT purged bigint, OUT old_rows bigint,
    OUT leaf bigint, OUT id bigint, OUT finding text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_audit_verify_wrapper';
COMMENT ON FUNCTION vault_audit_verify(text) IS 'verifies the whole trail, against a kept checkpoint if one is given; a superuser can replace this function, vault-trail verifies outside the server';

CREATE FUNCTION vault_new_trail() RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_new_trail_wrapper';
COMMENT ON FUNCTION vault_new_trail() IS 'for a copy of a database that goes on beside the original: the tree goes on under a new origin, which it gives';

-- alarms ---------------------------------------------------------------------------------------------------------------

CREATE FUNCTION vault_mark_honey(user_id text, honey boolean DEFAULT true) RETURNS boolean
    LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_mark_honey_wrapper';
COMMENT ON FUNCTION vault_mark_honey(text, boolean) IS 'marks a user as honey, so that any call for its key raises an alarm; false if nothing changed; P0002 without a vault';

-- internal -----------------------------------------------------------------------------------------------------------

-- Backend-local flags that only the extension's own code sets, so that policies can tell its statements from all other SQL.
-- STABLE and never IMMUTABLE: a generic plan would keep the first answer.
CREATE FUNCTION vault_ext.in_maintenance() RETURNS boolean
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'in_maintenance_wrapper';
COMMENT ON FUNCTION vault_ext.in_maintenance() IS 'true only while vault_ext itself erases, checks, rewraps or purges';

CREATE FUNCTION vault_ext.current_user_id() RETURNS text
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'current_user_id_wrapper';
COMMENT ON FUNCTION vault_ext.current_user_id() IS 'the user whose rows policies let through; NULL while vault_ext itself works across users';

CREATE FUNCTION vault_ext.is_audit_writer() RETURNS boolean
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'is_audit_writer_wrapper';
COMMENT ON FUNCTION vault_ext.is_audit_writer() IS 'true only in the background worker that writes the audit trail';

CREATE FUNCTION vault_ext.audit_batch(
    OUT user_id text, OUT action text, OUT status integer, OUT kek_id text, OUT key_version integer, OUT db_role text,
    OUT ip_address text, OUT user_agent text, OUT request_id text, OUT context text, OUT created_at timestamptz,
    OUT identity text, OUT issuer text, OUT token_id text, OUT token_kid text, OUT actor text, OUT grant_id bigint,
    OUT login_role text, OUT application_name text, OUT leaf bigint, OUT leaf_hash bytea, OUT salt bytea)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 32 AS 'MODULE_PATHNAME', 'audit_batch_wrapper';
COMMENT ON FUNCTION vault_ext.audit_batch() IS 'the rows that the audit writer inserts next; none in any other process';

CREATE FUNCTION vault_ext.commit_to_old_audit_rows() RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'commit_to_old_audit_rows_wrapper';
COMMENT ON FUNCTION vault_ext.commit_to_old_audit_rows() IS 'for the update of the extension: hashes the rows that are older than the tree, so that its first leaf can commit to them; gives their number';

CREATE FUNCTION vault_ext.alarm_counters(
    OUT database text, OUT role text, OUT users_last_minute bigint, OUT failures_last_minute bigint, OUT alarms bigint, OUT refused bigint)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 16 AS 'MODULE_PATHNAME', 'alarm_counters_wrapper';
COMMENT ON FUNCTION vault_ext.alarm_counters() IS 'what is counted of each login role in each database; alarms and refusals since the server started';

CREATE FUNCTION vault_ext.action_stats(
    OUT datid oid, OUT datname text, OUT action text, OUT status integer, OUT calls bigint, OUT total_wait_time double precision,
    OUT max_wait_time double precision, OUT stats_reset timestamptz) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'action_stats_wrapper';
COMMENT ON FUNCTION vault_ext.action_stats() IS 'audited calls by database, action and status, and how long they waited for their audit rows (milliseconds)';

CREATE FUNCTION vault_ext.wait_stats(
    OUT datid oid, OUT datname text, OUT action text, OUT le double precision, OUT calls bigint) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'wait_stats_wrapper';
COMMENT ON FUNCTION vault_ext.wait_stats() IS 'how many calls waited at most so many milliseconds for their audit rows: a cumulative histogram';

CREATE FUNCTION vault_ext.writer_stats(
    OUT datid oid, OUT datname text, OUT pid integer, OUT state text, OUT starts bigint, OUT batches bigint, OUT rows_written bigint, OUT failures bigint,
    OUT records_lost bigint, OUT last_commit_at timestamptz, OUT last_error text, OUT last_error_at timestamptz, OUT stats_reset timestamptz)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'writer_stats_wrapper';
COMMENT ON FUNCTION vault_ext.writer_stats() IS 'what the audit writers of each database do (stopped, starting, idle, busy) and have done; last_error is an SQLSTATE';

CREATE FUNCTION vault_ext.stat_reset() RETURNS void
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'stat_reset_wrapper';
COMMENT ON FUNCTION vault_ext.stat_reset() IS 'begins the statistics of vault_ext.stat, stat_wait and stat_writer anew, for all databases';

CREATE FUNCTION vault_ext.audit_counters(
    OUT calls bigint, OUT rows_written bigint, OUT failures bigint, OUT batches bigint, OUT queued bigint,
    OUT longest_wait_us bigint, OUT records_lost bigint, OUT writers_started bigint)
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'audit_counters_wrapper';
COMMENT ON FUNCTION vault_ext.audit_counters() IS 'counters of the audit writers since the server started, all databases together';

DO $owners$
DECLARE
    f pg_catalog.regprocedure;
BEGIN
    FOREACH f IN ARRAY ARRAY[
        'vault_init()', 'vault_get_master_key()', 'vault_rotate()', 'vault_status()', 'vault_health()',
        'vault_rotate(boolean)', 'vault_rotate(text, boolean)', 'vault_create()', 'vault_create_key_version()', 'vault_key_versions()', 'vault_get_key_version(integer)',
        'vault_retire_key_version(integer, interval)', 'vault_disable_key_version(integer)', 'vault_restore_key_version(integer)',
        'vault_encrypt(bytea, text, text)', 'vault_encrypt(text, text, text)', 'vault_encrypt(jsonb, text, text)',
        'vault_decrypt(bytea, text, text)', 'vault_decrypt_text(bytea, text, text)', 'vault_decrypt_json(bytea, text, text)',
        'vault_reencrypt(bytea, text, text)', 'vault_ciphertext_version(bytea)', 'vault_derive_key(text, integer)',
        'vault_derive_key(bytea, text)', 'vault_blind_index(text, text, integer, integer)', 'vault_lookup_index(text, text, integer)', 'vault_client_blob(jsonb)',
        'vault_open_client_blob(text, integer)',
        'vault_set_recovery(text, text)', 'vault_clear_recovery()', 'vault_recovery_challenge()', 'vault_enable_zero_knowledge(bytea)',
        'vault_disable_zero_knowledge(text)',
        'vault_seal_master_key(text, integer)', 'vault_seal_derived_key(text, text, integer)', 'vault_seal_derived_key(text, bytea, text)',
        'vault_import_key()', 'vault_export(text, text, text)', 'vault_import(text)',
        'vault_init(text)', 'vault_get_master_key(text)', 'vault_rotate(text)', 'vault_status(text)', 'vault_user_id()', 'vault_claims()',
        'vault_whoami()', 'vault_login(text)', 'vault_session()', 'vault_challenge()',
        'vault_grant(text, regrole, interval, text, integer, timestamptz)', 'vault_grant_for(text, regrole, interval, text, integer, timestamptz)',
        'vault_approve_grant(bigint)', 'vault_revoke_grant(bigint)', 'vault_revoke_grant(text, bigint)', 'vault_retire_grant(bigint)', 'vault_get_master_key_of(text)',
        'vault_get_master_keys(text[])',
        'vault_reload_issuers()', 'vault_identity_status()', 'vault_revoke_tokens(text, timestamptz)', 'vault_explain_token(text)',
        'vault_schedule_erase(text, interval, text)', 'vault_cancel_erase(text)', 'vault_erasure_status(text)',
        'vault_destroy_due(integer, bigint, bigint)',
        'vault_erase(text)', 'vault_rename_user(text, text)', 'vault_erase_on_delete()', 'vault_purge_audit(interval)',
        'vault_reload_kek(boolean)', 'vault_retire_kek(text)', 'vault_kek_status()', 'vault_check(integer)',
        'vault_rewrap(integer, bigint, bigint, bigint)', 'vault_version()',
        'vault_audit_checkpoint()', 'vault_audit_key()', 'vault_audit_proof(bigint)', 'vault_audit_consistency(bigint)', 'vault_audit_verify(text)',
        'vault_new_trail()', 'vault_mark_honey(text, boolean)', 'vault_ext.alarm_counters()', 'vault_ext.action_stats()', 'vault_ext.wait_stats()',
        'vault_ext.writer_stats()', 'vault_ext.stat_reset()', 'vault_redact_audit(text)', 'vault_purge_audit(interval, integer, bigint)', 'vault_ext.commit_to_old_audit_rows()',
        'vault_ext.current_user_id()', 'vault_ext.in_maintenance()', 'vault_ext.is_audit_writer()',
        'vault_ext.is_node()', 'vault_ext.keyring()', 'vault_ext.why_not_a_node()', 'vault_ext.become_a_node()', 'vault_ext.nodes()',
        'vault_ext.audit_of_nodes(timestamptz, timestamptz)', 'vault_ext.distribute(integer)', 'vault_ext.rebalance()',
        'vault_ext.is_sound_vault(text, text, text, smallint, text, integer, text, text, timestamptz, boolean, text, timestamptz)',
        'vault_ext.is_sound_old_key(text, integer, text, text, smallint, text, text, timestamptz, timestamptz)',
        'vault_ext.audit_batch()', 'vault_ext.audit_counters()']::pg_catalog.regprocedure[]
    LOOP
        EXECUTE pg_catalog.format('ALTER ROUTINE %s OWNER TO vault_ext_owner', f);
        EXECUTE pg_catalog.format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', f);
    END LOOP;
END
$owners$;
ALTER TYPE vault_key OWNER TO vault_ext_owner;
