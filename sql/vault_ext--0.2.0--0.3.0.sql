-- The new functions come first: a server that has not been restarted since the installation still runs the old library, which
-- does not have them.
DO $library$
BEGIN
    CREATE FUNCTION vault_rotate(destroy_old boolean) RETURNS vault_key
        LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_rotate_and_wrapper';
    CREATE FUNCTION vault_init(token text) RETURNS vault_key
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_init_with_token_wrapper';
    CREATE FUNCTION vault_get_master_key(token text) RETURNS vault_key
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_get_master_key_with_token_wrapper';
    CREATE FUNCTION vault_rotate(token text) RETURNS vault_key
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_rotate_with_token_wrapper';
    CREATE FUNCTION vault_rotate(token text, destroy_old boolean) RETURNS vault_key
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_rotate_and_with_token_wrapper';
    CREATE FUNCTION vault_status(
        token text, OUT "exists" boolean, OUT format_version smallint, OUT kek_id text, OUT key_version integer,
        OUT created_at timestamptz, OUT rotated_at timestamptz,
        OUT has_recovery_wrap boolean, OUT zero_knowledge boolean, OUT recovery_set_at timestamptz)
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_status_with_token_wrapper';
    CREATE FUNCTION vault_key_versions(
        OUT key_version integer, OUT state text, OUT format_version smallint, OUT kek_id text, OUT superseded_at timestamptz,
        OUT destroy_after timestamptz, OUT destroyed_at timestamptz) RETURNS SETOF record
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_key_versions_wrapper';
    CREATE FUNCTION vault_create() RETURNS boolean
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_create_wrapper';
    CREATE FUNCTION vault_create_key_version() RETURNS integer
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_create_key_version_wrapper';
    CREATE FUNCTION vault_get_key_version(key_version integer) RETURNS vault_key
        LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_get_key_version_wrapper';
    CREATE FUNCTION vault_retire_key_version(key_version integer, wait interval DEFAULT '30 days') RETURNS timestamptz
        LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_retire_key_version_wrapper';
    CREATE FUNCTION vault_disable_key_version(key_version integer) RETURNS boolean
        LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_disable_key_version_wrapper';
    CREATE FUNCTION vault_restore_key_version(key_version integer) RETURNS boolean
        LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_restore_key_version_wrapper';
    CREATE FUNCTION vault_set_recovery(recovery_wrapped_mk text, recovery_iv text) RETURNS void
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_set_recovery_wrapper';
    CREATE FUNCTION vault_clear_recovery() RETURNS boolean
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_clear_recovery_wrapper';
    CREATE FUNCTION vault_recovery_challenge() RETURNS bytea
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_recovery_challenge_wrapper';
    CREATE FUNCTION vault_enable_zero_knowledge(proof bytea DEFAULT NULL) RETURNS boolean
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_enable_zero_knowledge_wrapper';
    CREATE FUNCTION vault_disable_zero_knowledge(master_key text) RETURNS boolean
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_disable_zero_knowledge_wrapper';
    CREATE FUNCTION vault_encrypt(plaintext bytea, context text, purpose text DEFAULT 'data') RETURNS bytea
        LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_encrypt_bytea_wrapper';
    CREATE FUNCTION vault_encrypt(plaintext text, context text, purpose text DEFAULT 'data') RETURNS bytea
        LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_encrypt_text_wrapper';
    CREATE FUNCTION vault_encrypt(plaintext jsonb, context text, purpose text DEFAULT 'data') RETURNS bytea
        LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_encrypt_jsonb_wrapper';
    CREATE FUNCTION vault_decrypt(ciphertext bytea, context text, purpose text DEFAULT 'data') RETURNS bytea
        LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_decrypt_wrapper';
    CREATE FUNCTION vault_decrypt_text(ciphertext bytea, context text, purpose text DEFAULT 'data') RETURNS text
        LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_decrypt_text_wrapper';
    CREATE FUNCTION vault_decrypt_json(ciphertext bytea, context text, purpose text DEFAULT 'data') RETURNS jsonb
        LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_decrypt_json_wrapper';
    CREATE FUNCTION vault_reencrypt(ciphertext bytea, context text, purpose text DEFAULT 'data') RETURNS bytea
        LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_reencrypt_wrapper';
    CREATE FUNCTION vault_ciphertext_version(ciphertext bytea) RETURNS integer
        LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'vault_ciphertext_version_wrapper';
    CREATE FUNCTION vault_derive_key(purpose text, key_version integer DEFAULT NULL) RETURNS bytea
        LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_derive_key_wrapper';
    CREATE FUNCTION vault_derive_key(salt bytea, info text) RETURNS bytea
        LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_derive_key_from_wrapper';
    CREATE FUNCTION vault_blind_index(value text, purpose text, bits integer DEFAULT 256, key_version integer DEFAULT NULL) RETURNS bytea
        LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_blind_index_wrapper';
    CREATE FUNCTION vault_client_blob(value jsonb) RETURNS text
        LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_client_blob_wrapper';
    CREATE FUNCTION vault_open_client_blob(blob text, key_version integer DEFAULT NULL) RETURNS jsonb
        LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_open_client_blob_wrapper';
    CREATE FUNCTION vault_schedule_erase(user_id text, wait interval DEFAULT '30 days', reason text DEFAULT NULL) RETURNS timestamptz
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_schedule_erase_wrapper';
    CREATE FUNCTION vault_cancel_erase(user_id text) RETURNS boolean
        LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_cancel_erase_wrapper';
    CREATE FUNCTION vault_erasure_status(
        user_id text, OUT erasure_id bigint, OUT state text, OUT reason text, OUT scheduled_by text, OUT scheduled_at timestamptz,
        OUT erase_after timestamptz, OUT cancelled_by text, OUT cancelled_at timestamptz, OUT erased_at timestamptz,
        OUT kek_id text, OUT kek_first_seen timestamptz, OUT kek_retired_at timestamptz, OUT kek_loaded boolean) RETURNS SETOF record
        LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_erasure_status_wrapper';
    CREATE PROCEDURE vault_destroy_due(
        batch_size integer DEFAULT 1000, INOUT keys bigint DEFAULT NULL, INOUT vaults bigint DEFAULT NULL)
        LANGUAGE c AS 'MODULE_PATHNAME', 'vault_destroy_due_wrapper';
    CREATE FUNCTION vault_user_id() RETURNS text
        LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'vault_user_id_wrapper';
    CREATE FUNCTION vault_claims() RETURNS jsonb
        LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'vault_claims_wrapper';
    CREATE FUNCTION vault_whoami(
        OUT user_id text, OUT identity text, OUT issuer text, OUT token_id text, OUT token_kid text, OUT issued_at timestamptz,
        OUT expires_at timestamptz, OUT bound boolean, OUT scopes text[])
        LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'vault_whoami_wrapper';
    CREATE FUNCTION vault_login(token text) RETURNS text
        LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_login_wrapper';
    CREATE FUNCTION vault_session() RETURNS text
        LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'vault_session_wrapper';
    CREATE FUNCTION vault_challenge() RETURNS text
        LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'vault_challenge_wrapper';
    CREATE FUNCTION vault_grant(
        token text, grantee regrole, expires_in interval, reason text, max_uses integer DEFAULT NULL, not_before timestamptz DEFAULT NULL) RETURNS bigint
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_grant_wrapper';
    CREATE FUNCTION vault_grant_for(
        user_id text, grantee regrole, expires_in interval, reason text, max_uses integer DEFAULT NULL, not_before timestamptz DEFAULT NULL) RETURNS bigint
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_grant_for_wrapper';
    CREATE FUNCTION vault_approve_grant(id bigint) RETURNS boolean
        LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_approve_grant_wrapper';
    CREATE FUNCTION vault_revoke_grant(id bigint) RETURNS boolean
        LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_revoke_grant_wrapper';
    CREATE FUNCTION vault_revoke_grant(token text, id bigint) RETURNS boolean
        LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_revoke_grant_with_token_wrapper';
    CREATE FUNCTION vault_retire_grant(id bigint) RETURNS boolean
        LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_retire_grant_wrapper';
    CREATE FUNCTION vault_get_master_key_of(user_id text) RETURNS vault_key
        LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_get_master_key_of_wrapper';
    CREATE FUNCTION vault_health(
        OUT ok boolean, OUT problem text, OUT hint text, OUT writer_pid integer, OUT blocked_by integer[], OUT queued bigint,
        OUT last_written_at timestamptz, OUT last_error_at timestamptz, OUT last_error text)
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_health_wrapper';
    CREATE FUNCTION vault_rename_user(old_user_id text, new_user_id text) RETURNS void
        LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_rename_user_wrapper';
    CREATE FUNCTION vault_reload_issuers() RETURNS text
        LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_reload_issuers_wrapper';
    CREATE FUNCTION vault_identity_status(
        OUT issuer text, OUT token_kid text, OUT algorithm text, OUT loaded_at timestamptz, OUT accepted bigint, OUT refused bigint,
        OUT last_refusal timestamptz) RETURNS SETOF record
        LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_identity_status_wrapper';
    CREATE FUNCTION vault_revoke_tokens(user_id text, issued_before timestamptz DEFAULT clock_timestamp()) RETURNS boolean
        LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_revoke_tokens_wrapper';
    CREATE FUNCTION vault_explain_token(
        token text, OUT accepted boolean, OUT reason text, OUT problem text, OUT hint text, OUT user_id text, OUT issuer text,
        OUT token_id text, OUT token_kid text)
        LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_explain_token_wrapper';
    CREATE FUNCTION vault_ext.current_user_id() RETURNS text
        LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'current_user_id_wrapper';
    DROP FUNCTION vault_status();
    CREATE FUNCTION vault_status(
        OUT "exists" boolean, OUT format_version smallint, OUT kek_id text, OUT key_version integer,
        OUT created_at timestamptz, OUT rotated_at timestamptz,
        OUT has_recovery_wrap boolean, OUT zero_knowledge boolean, OUT recovery_set_at timestamptz)
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_status_wrapper';
    DROP FUNCTION vault_kek_status();
    CREATE FUNCTION vault_kek_status(
        OUT kek_id text, OUT active boolean, OUT loaded boolean, OUT check_value text, OUT matches boolean, OUT vaults bigint,
        OUT oldest date, OUT first_seen date, OUT retired date, OUT safe_to_remove boolean, OUT old_keys bigint) RETURNS SETOF record
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_kek_status_wrapper';
    DROP FUNCTION vault_check(integer);
    CREATE FUNCTION vault_check(
        max_user_ids integer DEFAULT 100,
        OUT kek_id text, OUT format_version smallint, OUT outcome text, OUT vaults bigint, OUT user_ids text[],
        OUT old_keys bigint) RETURNS SETOF record
        LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_check_wrapper';
    DROP FUNCTION vault_ext.audit_batch();
    CREATE FUNCTION vault_ext.audit_batch(
        OUT user_id text, OUT action text, OUT status integer, OUT kek_id text, OUT key_version integer, OUT db_role text,
        OUT ip_address text, OUT user_agent text, OUT request_id text, OUT context text, OUT created_at timestamptz,
        OUT identity text, OUT issuer text, OUT token_id text, OUT token_kid text, OUT actor text, OUT grant_id bigint)
        RETURNS SETOF record
        LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 32 AS 'MODULE_PATHNAME', 'audit_batch_wrapper';
EXCEPTION WHEN undefined_function THEN
    RAISE EXCEPTION 'the server still runs an older library of vault_ext'
        USING ERRCODE = 'object_not_in_prerequisite_state',
              HINT = 'Restart the server, then run ALTER EXTENSION vault_ext UPDATE again.';
END
$library$;
COMMENT ON FUNCTION vault_rotate(boolean) IS 'the same; with destroy_old the old key is gone for good, so re-encrypt what it has encrypted before this transaction commits';
COMMENT ON FUNCTION vault_init(text) IS 'the same for the user that a verified token names';
COMMENT ON FUNCTION vault_get_master_key(text) IS 'the same for the user that a verified token names';
COMMENT ON FUNCTION vault_rotate(text) IS 'the same for the user that a verified token names';
COMMENT ON FUNCTION vault_rotate(text, boolean) IS 'the same for the user that a verified token names';
COMMENT ON FUNCTION vault_status(text) IS 'the same for the user that a verified token names';
COMMENT ON FUNCTION vault_key_versions() IS 'the versions of the user''s key, the newest first, and their states; never a key; not audited';
COMMENT ON FUNCTION vault_create() IS 'creates the user''s vault and hands out no key; false if there is one';
COMMENT ON FUNCTION vault_create_key_version() IS 'vault_rotate() without handing out the key: gives the number of the new version';
COMMENT ON FUNCTION vault_get_key_version(integer) IS 'one version of the user''s master key; P0002 if there never was one, 55000 if it is disabled or destroyed';
COMMENT ON FUNCTION vault_retire_key_version(integer, interval) IS 'closes an old version at once, to be destroyed after the wait; gives that time';
COMMENT ON FUNCTION vault_disable_key_version(integer) IS 'closes an old version until it is restored; false if it was disabled before';
COMMENT ON FUNCTION vault_restore_key_version(integer) IS 'opens an old version again that is disabled or to be destroyed; false if it is open';
COMMENT ON FUNCTION vault_set_recovery(text, text) IS 'keeps a wrap of the user''s key that only the recovery code opens, in place of an earlier one';
COMMENT ON FUNCTION vault_clear_recovery() IS 'removes the recovery wrap, so that the code opens nothing any more; false if there was none; 55000 in zero-knowledge mode';
COMMENT ON FUNCTION vault_recovery_challenge() IS '32 random bytes for the proof that the stored recovery wrap opens; they count once, in this session; not audited';
COMMENT ON FUNCTION vault_enable_zero_knowledge(bytea) IS 'lets the server forget the user''s key: only the recovery code opens it then; proof is HMAC-SHA256 of the key over vault_ext.recovery-proof.v1 and the challenge; false if it is so already';
COMMENT ON FUNCTION vault_disable_zero_knowledge(text) IS 'gives the user''s key back to the server; bind it as a parameter; 42501 for any other key; false if the server has it already';
COMMENT ON FUNCTION vault_encrypt(bytea, text, text) IS 'encrypts under the user''s current key; the context binds the place (table, column, row)';
COMMENT ON FUNCTION vault_encrypt(text, text, text) IS 'the same for a text';
COMMENT ON FUNCTION vault_encrypt(jsonb, text, text) IS 'the same for a jsonb';
COMMENT ON FUNCTION vault_decrypt(bytea, text, text) IS 'the bytea that was encrypted with this context and purpose; XX001 if it does not open';
COMMENT ON FUNCTION vault_decrypt_text(bytea, text, text) IS 'the same for a text';
COMMENT ON FUNCTION vault_decrypt_json(bytea, text, text) IS 'the same for a jsonb';
COMMENT ON FUNCTION vault_reencrypt(bytea, text, text) IS 'the same plaintext under the user''s current key, without showing it; what is under that key stays as it is';
COMMENT ON FUNCTION vault_ciphertext_version(bytea) IS 'the version of the key that an encrypted value names; NULL if it is none';
COMMENT ON FUNCTION vault_derive_key(text, integer) IS '32 bytes that are derived from the user''s key for one purpose (HKDF-SHA256)';
COMMENT ON FUNCTION vault_derive_key(bytea, text) IS 'HKDF-SHA256 of the user''s key with this salt and info, 32 bytes, for keys that existing clients derive';
COMMENT ON FUNCTION vault_blind_index(text, text, integer, integer) IS 'finds equal values of one user without opening them: the same for the same text, purpose and version of the key';
COMMENT ON FUNCTION vault_client_blob(jsonb) IS 'encrypts as the predecessor''s clients do (enc:1:), with the user''s current key itself';
COMMENT ON FUNCTION vault_open_client_blob(text, integer) IS 'opens what the predecessor''s clients have encrypted; the blob does not say under which version of the key';
COMMENT ON FUNCTION vault_schedule_erase(text, interval, text) IS 'locks the vault of one user at once, to be erased after the wait; gives that time; a reason is required';
COMMENT ON FUNCTION vault_cancel_erase(text) IS 'opens a vault again whose erasure is scheduled; false if none is';
COMMENT ON FUNCTION vault_erasure_status(text) IS 'the erasures of one user, the newest first, each with every KEK that may have wrapped the user''s keys: copies of the wraps open as long as one of these exists anywhere';
COMMENT ON PROCEDURE vault_destroy_due(integer, bigint, bigint) IS 'erases the vaults and destroys the old keys whose time has come, in batches that are committed separately; to be called regularly';
COMMENT ON FUNCTION vault_user_id() IS 'the user, as vault_ext.identity says; NULL where nobody has said who it is; for row-level security of the application''s own tables';
COMMENT ON FUNCTION vault_claims() IS 'the claims of the user''s verified token; NULL without one';
COMMENT ON FUNCTION vault_whoami() IS 'the user and what established that; never the token';
COMMENT ON FUNCTION vault_login(text) IS 'verifies a token and makes it the one of this transaction; gives the user';
COMMENT ON FUNCTION vault_session() IS 'the nonce of this session, for the claim vault_session of a bound token';
COMMENT ON FUNCTION vault_challenge() IS 'the nonce of this transaction, for the claim vault_challenge of a bound token';
COMMENT ON FUNCTION vault_grant(text, regrole, interval, text, integer, timestamptz) IS 'lets the members of a role fetch the user''s key until it expires; a NULL token stands for the user of the session, where vault_ext.identity is not token';
COMMENT ON FUNCTION vault_grant_for(text, regrole, interval, text, integer, timestamptz) IS 'the same by a member of vault_ext_grantor, for a user; with vault_ext.grant_approvals = 1 another login must approve it';
COMMENT ON FUNCTION vault_approve_grant(bigint) IS 'approves a grant that another login has given for a user; false if there is none';
COMMENT ON FUNCTION vault_revoke_grant(bigint) IS 'ends a grant at once: the user''s own, or any for members of vault_ext_grantor and vault_ext_admin; false if there is none';
COMMENT ON FUNCTION vault_revoke_grant(text, bigint) IS 'the same for the user that a verified token names';
COMMENT ON FUNCTION vault_retire_grant(bigint) IS 'ends a grant that the caller holds; false if there is none';
COMMENT ON FUNCTION vault_get_master_key_of(text) IS 'the master key of a user who has granted that to a role of the caller';
COMMENT ON FUNCTION vault_health() IS 'whether keys can be released now: tries to write an audit row and takes it back; last_error is the SQLSTATE of the audit writer''s last failure';
COMMENT ON FUNCTION vault_rename_user(text, text) IS 'gives the vault of one user, with its key, to another user id; refused where that one has a vault';
COMMENT ON FUNCTION vault_reload_issuers() IS 'reads the issuers again for the whole server, or refuses and keeps the old ones';
COMMENT ON FUNCTION vault_identity_status() IS 'each key of each issuer and what became of its tokens since the server started; the last row is for tokens that no key verified';
COMMENT ON FUNCTION vault_revoke_tokens(text, timestamptz) IS 'lets the user''s tokens that were issued before that time open the vault no more; false if there is no vault';
COMMENT ON FUNCTION vault_explain_token(text) IS 'whether a token would be accepted here and now, and why not; the trail gets a row';
COMMENT ON FUNCTION vault_ext.current_user_id() IS 'the user whose rows policies let through; NULL while vault_ext itself works across users';
COMMENT ON FUNCTION vault_status() IS 'whether the user has a vault, and under which KEK; never a key; not audited';
COMMENT ON FUNCTION vault_kek_status() IS 'every KEK of the keyring or of this database, and how many of its vaults and old keys need it';
COMMENT ON FUNCTION vault_check(integer) IS 'opens every vault and every old key and releases nothing; user_ids names the first users who have one that does not open';
COMMENT ON FUNCTION vault_ext.audit_batch() IS 'the rows that the audit writer inserts next; none in any other process';
ALTER ROUTINE vault_rotate(boolean) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_init(text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_get_master_key(text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_rotate(text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_rotate(text, boolean) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_status(text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_key_versions() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_create() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_create_key_version() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_get_key_version(integer) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_retire_key_version(integer, interval) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_disable_key_version(integer) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_restore_key_version(integer) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_set_recovery(text, text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_clear_recovery() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_recovery_challenge() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_enable_zero_knowledge(bytea) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_disable_zero_knowledge(text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_encrypt(bytea, text, text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_encrypt(text, text, text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_encrypt(jsonb, text, text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_decrypt(bytea, text, text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_decrypt_text(bytea, text, text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_decrypt_json(bytea, text, text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_reencrypt(bytea, text, text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_ciphertext_version(bytea) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_derive_key(text, integer) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_derive_key(bytea, text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_blind_index(text, text, integer, integer) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_client_blob(jsonb) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_open_client_blob(text, integer) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_schedule_erase(text, interval, text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_cancel_erase(text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_erasure_status(text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_destroy_due(integer, bigint, bigint) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_user_id() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_claims() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_whoami() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_login(text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_session() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_challenge() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_grant(text, regrole, interval, text, integer, timestamptz) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_grant_for(text, regrole, interval, text, integer, timestamptz) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_approve_grant(bigint) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_revoke_grant(bigint) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_revoke_grant(text, bigint) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_retire_grant(bigint) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_get_master_key_of(text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_health() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_rename_user(text, text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_reload_issuers() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_identity_status() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_revoke_tokens(text, timestamptz) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_explain_token(text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_ext.current_user_id() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_status() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_kek_status() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_check(integer) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_ext.audit_batch() OWNER TO vault_ext_owner;

-- Who the user is stands in new columns, and one function answers it for all policies, which concern the vault's own functions
-- and views alone. The vaults come first: callers hold a lock on them while the audit writer locks the trail for them.
ALTER TABLE vault_ext.encryption_vaults
    ALTER COLUMN wrapped_mk DROP NOT NULL,
    ALTER COLUMN wrap_iv DROP NOT NULL,
    ADD COLUMN tokens_valid_from timestamptz,
    ADD COLUMN recovery_wrapped_mk text,
    ADD COLUMN recovery_iv text,
    ADD COLUMN recovery_format_version smallint NOT NULL DEFAULT 1,
    ADD COLUMN recovery_set_at timestamptz,
    ADD COLUMN zero_knowledge boolean NOT NULL DEFAULT false,
    ADD COLUMN key_check text,
    ADD COLUMN erase_after timestamptz,
    ADD CONSTRAINT encryption_vaults_wrap_whole CHECK ((wrapped_mk IS NULL) = (wrap_iv IS NULL)),
    ADD CONSTRAINT encryption_vaults_recovery_whole CHECK ((recovery_wrapped_mk IS NULL) = (recovery_iv IS NULL) AND (recovery_wrapped_mk IS NULL) = (recovery_set_at IS NULL)),
    ADD CONSTRAINT encryption_vaults_recovery_length CHECK (octet_length(recovery_wrapped_mk) BETWEEN 1 AND 1024 AND octet_length(recovery_iv) BETWEEN 1 AND 64),
    ADD CONSTRAINT encryption_vaults_zero_knowledge_means_recovery_wrap_only CHECK (NOT zero_knowledge OR (wrapped_mk IS NULL AND recovery_wrapped_mk IS NOT NULL)),
    ADD CONSTRAINT encryption_vaults_has_a_wrap CHECK (zero_knowledge OR (wrapped_mk IS NULL) = (erase_after IS NOT NULL)),
    ADD CONSTRAINT encryption_vaults_key_check_hex CHECK (key_check ~ '^[0-9a-f]{32}$');
ALTER TABLE vault_ext.encryption_vaults ALTER wrapped_mk SET STATISTICS 0, ALTER wrap_iv SET STATISTICS 0,
    ALTER recovery_wrapped_mk SET STATISTICS 0, ALTER recovery_iv SET STATISTICS 0, ALTER key_check SET STATISTICS 0;
ALTER TABLE vault_ext.encryption_vault_audit
    ADD COLUMN identity text, ADD COLUMN issuer text, ADD COLUMN token_id text, ADD COLUMN token_kid text, ADD COLUMN actor text, ADD COLUMN grant_id bigint;
ALTER TYPE vault_key ADD ATTRIBUTE requires_recovery_code boolean, ADD ATTRIBUTE recovery_wrapped_mk text, ADD ATTRIBUTE recovery_iv text;

ALTER POLICY encryption_vaults_user_isolation ON vault_ext.encryption_vaults TO vault_ext_owner USING (user_id = vault_ext.current_user_id());
ALTER POLICY encryption_vaults_user_isolation_insert ON vault_ext.encryption_vaults TO vault_ext_owner WITH CHECK (user_id = vault_ext.current_user_id());
ALTER POLICY encryption_vaults_user_isolation_update ON vault_ext.encryption_vaults TO vault_ext_owner USING (user_id = vault_ext.current_user_id()) WITH CHECK (user_id = vault_ext.current_user_id());
ALTER POLICY encryption_vault_audit_user_isolation ON vault_ext.encryption_vault_audit TO vault_ext_owner USING (user_id = vault_ext.current_user_id());

-- Roles are new. An attacker could have created one with such a name first, as at the installation.
DO $roles$
DECLARE
    name text;
    role record;
BEGIN
    FOREACH name IN ARRAY ARRAY['vault_ext_grantor', 'vault_ext_service', 'vault_ext_crypt'] LOOP
        SELECT r.* INTO role FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) name;
        IF NOT FOUND THEN
            EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', name);
        ELSIF role.rolcanlogin OR role.rolsuper OR role.rolbypassrls OR role.rolcreaterole OR role.rolreplication THEN
            RAISE EXCEPTION 'role "%" already exists and is not suitable for vault_ext', name
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      DETAIL = 'It may have LOGIN, SUPERUSER, BYPASSRLS, CREATEROLE or REPLICATION; vault_ext needs none of them.',
                      HINT = pg_catalog.format('Rename that role, or ALTER ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOREPLICATION after making sure who created it.', name);
        END IF;
    END LOOP;
END
$roles$;

CREATE TABLE vault_ext.grants (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id     text COLLATE "C" NOT NULL,
    grantee     regrole     NOT NULL,
    not_before  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    max_uses    integer,
    reason      text        NOT NULL,
    granted_by  text        NOT NULL,
    approved_by text,
    revoked_at  timestamptz,
    revoked_by  text,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT grants_user_id_length CHECK (octet_length(user_id) BETWEEN 1 AND 255),
    CONSTRAINT grants_expires_later CHECK (expires_at > not_before),
    CONSTRAINT grants_max_uses_positive CHECK (max_uses >= 1),
    CONSTRAINT grants_reason_not_empty CHECK (reason <> '')
);
COMMENT ON TABLE vault_ext.grants IS 'what a user lets a service do: one user, one role, always expiring; uses are counted in the audit trail';
CREATE INDEX grants_by_user ON vault_ext.grants (user_id, id);
ALTER TABLE vault_ext.grants OWNER TO vault_ext_owner;
SELECT pg_catalog.pg_extension_config_dump('vault_ext.grants', 'WHERE EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid OPERATOR(pg_catalog.=) grantee::pg_catalog.oid)');
SELECT pg_catalog.pg_extension_config_dump('vault_ext.grants_id_seq', '');

CREATE TABLE vault_ext.old_keys (
    user_id        text COLLATE "C" NOT NULL,
    key_version    integer     NOT NULL,
    wrapped_mk     text,
    wrap_iv        text,
    format_version smallint    NOT NULL,
    kek_id         text COLLATE "C" NOT NULL,
    state          text        NOT NULL,
    superseded_at  timestamptz NOT NULL,
    destroy_after  timestamptz,
    destroyed_at   timestamptz,
    PRIMARY KEY (user_id, key_version),
    CONSTRAINT old_keys_user_id_length CHECK (octet_length(user_id) BETWEEN 1 AND 255),
    CONSTRAINT old_keys_wrapped_mk_length CHECK (octet_length(wrapped_mk) = 64),
    CONSTRAINT old_keys_wrap_iv_length CHECK (octet_length(wrap_iv) = CASE format_version WHEN 1 THEN 16 WHEN 2 THEN 32 END),
    CONSTRAINT old_keys_format_version_known CHECK (format_version IN (1, 2)),
    CONSTRAINT old_keys_kek_id_length CHECK (octet_length(kek_id) BETWEEN 1 AND 64),
    CONSTRAINT old_keys_key_version_positive CHECK (key_version >= 1),
    CONSTRAINT old_keys_state_known CHECK (state IN ('decrypt_only', 'disabled', 'destroy_scheduled', 'destroyed')),
    CONSTRAINT old_keys_wrap_until_destroyed
        CHECK ((wrapped_mk IS NULL) = (state = 'destroyed') AND (wrap_iv IS NULL) = (state = 'destroyed')),
    CONSTRAINT old_keys_destroy_after_while_scheduled CHECK (state = 'destroyed' OR (destroy_after IS NOT NULL) = (state = 'destroy_scheduled')),
    CONSTRAINT old_keys_destroyed_at_when_destroyed CHECK ((destroyed_at IS NOT NULL) = (state = 'destroyed'))
);
ALTER TABLE vault_ext.old_keys ALTER wrapped_mk SET STATISTICS 0, ALTER wrap_iv SET STATISTICS 0;
COMMENT ON TABLE vault_ext.old_keys IS 'the keys that rotations have replaced, wrapped like the current one; bound to the user by row-level security';
CREATE INDEX old_keys_due ON vault_ext.old_keys (destroy_after) WHERE state = 'destroy_scheduled';
ALTER TABLE vault_ext.old_keys OWNER TO vault_ext_owner;
SELECT pg_catalog.pg_extension_config_dump('vault_ext.old_keys', '');

CREATE TABLE vault_ext.erasures (
    id               bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id          text COLLATE "C" NOT NULL,
    reason           text        NOT NULL,
    scheduled_by     text        NOT NULL,
    scheduled_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    erase_after      timestamptz NOT NULL,
    vault_created_at timestamptz NOT NULL,
    cancelled_by     text,
    cancelled_at     timestamptz,
    erased_at        timestamptz,
    -- What the keys were wrapped under when they were erased; vault_erasure_status() adds what may have wrapped them before.
    kek_ids          text[] COLLATE "C",
    CONSTRAINT erasures_user_id_length CHECK (octet_length(user_id) BETWEEN 1 AND 255),
    CONSTRAINT erasures_reason_not_empty CHECK (reason <> ''),
    CONSTRAINT erasures_ends_once CHECK (cancelled_at IS NULL OR erased_at IS NULL),
    CONSTRAINT erasures_keks_when_erased CHECK ((kek_ids IS NOT NULL) = (erased_at IS NOT NULL))
);
COMMENT ON TABLE vault_ext.erasures IS 'each erasure of a user''s vault: scheduled, cancelled or done';
CREATE INDEX erasures_by_user ON vault_ext.erasures (user_id, id);
CREATE INDEX erasures_due ON vault_ext.erasures (erase_after) WHERE cancelled_at IS NULL AND erased_at IS NULL;
ALTER TABLE vault_ext.erasures OWNER TO vault_ext_owner;
SELECT pg_catalog.pg_extension_config_dump('vault_ext.erasures', '');
SELECT pg_catalog.pg_extension_config_dump('vault_ext.erasures_id_seq', '');

CREATE INDEX encryption_vault_audit_by_grant ON vault_ext.encryption_vault_audit (grant_id) WHERE grant_id IS NOT NULL;
ALTER TABLE vault_ext.grants ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE vault_ext.old_keys ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE vault_ext.erasures ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY encryption_vaults_vault_maintenance_insert ON vault_ext.encryption_vaults
    FOR INSERT TO vault_ext_owner WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY grants_user_isolation ON vault_ext.grants
    FOR SELECT TO vault_ext_owner USING (user_id = vault_ext.current_user_id());
CREATE POLICY grants_user_isolation_insert ON vault_ext.grants
    FOR INSERT TO vault_ext_owner WITH CHECK (user_id = vault_ext.current_user_id());
CREATE POLICY grants_user_isolation_update ON vault_ext.grants
    FOR UPDATE TO vault_ext_owner USING (user_id = vault_ext.current_user_id()) WITH CHECK (user_id = vault_ext.current_user_id());
CREATE POLICY grants_vault_maintenance ON vault_ext.grants
    FOR SELECT TO vault_ext_owner USING (vault_ext.in_maintenance());
CREATE POLICY grants_vault_maintenance_insert ON vault_ext.grants
    FOR INSERT TO vault_ext_owner WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY grants_vault_maintenance_update ON vault_ext.grants
    FOR UPDATE TO vault_ext_owner USING (vault_ext.in_maintenance()) WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY grants_reader ON vault_ext.grants
    FOR SELECT TO vault_ext_grantor, vault_ext_admin, vault_ext_auditor USING (true);
CREATE POLICY old_keys_user_isolation ON vault_ext.old_keys
    FOR SELECT TO vault_ext_owner USING (user_id = vault_ext.current_user_id());
CREATE POLICY old_keys_user_isolation_insert ON vault_ext.old_keys
    FOR INSERT TO vault_ext_owner WITH CHECK (user_id = vault_ext.current_user_id());
CREATE POLICY old_keys_user_isolation_update ON vault_ext.old_keys
    FOR UPDATE TO vault_ext_owner USING (user_id = vault_ext.current_user_id()) WITH CHECK (user_id = vault_ext.current_user_id());
CREATE POLICY old_keys_vault_maintenance ON vault_ext.old_keys
    FOR SELECT TO vault_ext_owner USING (vault_ext.in_maintenance());
CREATE POLICY old_keys_vault_maintenance_insert ON vault_ext.old_keys
    FOR INSERT TO vault_ext_owner WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY old_keys_vault_maintenance_update ON vault_ext.old_keys
    FOR UPDATE TO vault_ext_owner USING (vault_ext.in_maintenance()) WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY old_keys_vault_maintenance_delete ON vault_ext.old_keys
    FOR DELETE TO vault_ext_owner USING (vault_ext.in_maintenance());
CREATE POLICY erasures_vault_maintenance ON vault_ext.erasures
    FOR SELECT TO vault_ext_owner USING (vault_ext.in_maintenance());
CREATE POLICY erasures_vault_maintenance_insert ON vault_ext.erasures
    FOR INSERT TO vault_ext_owner WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY erasures_vault_maintenance_update ON vault_ext.erasures
    FOR UPDATE TO vault_ext_owner USING (vault_ext.in_maintenance()) WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY erasures_reader ON vault_ext.erasures
    FOR SELECT TO vault_ext_admin, vault_ext_auditor USING (true);

CREATE VIEW vault_ext.own_grants WITH (security_barrier) AS
    SELECT g.id, g.grantee, g.not_before, g.expires_at, g.max_uses,
        (SELECT count(*) FROM vault_ext.encryption_vault_audit a
            WHERE a.grant_id = g.id AND a.user_id = g.user_id AND a.action = 'fetch' AND a.status = 200) AS uses,
        g.reason, g.granted_by, g.approved_by, g.revoked_at, g.revoked_by, g.created_at
    FROM vault_ext.grants g
    WHERE g.user_id = vault_ext.current_user_id();
COMMENT ON VIEW vault_ext.own_grants IS 'the grants of the user';
ALTER VIEW vault_ext.own_grants OWNER TO vault_ext_owner;
CREATE OR REPLACE VIEW vault_ext.own_audit WITH (security_barrier) AS
    SELECT id, action, status, kek_id, key_version, db_role, ip_address, user_agent, request_id, context, created_at,
        identity, issuer, token_id, token_kid, actor, grant_id
    FROM vault_ext.encryption_vault_audit
    WHERE user_id = vault_ext.current_user_id();
CREATE VIEW vault_ext.identity_modes AS
    SELECT d.datname::text AS database, r.rolname::text AS role, split_part(c.setting, '=', 2) AS identity
    FROM pg_db_role_setting s
        CROSS JOIN LATERAL unnest(s.setconfig) c (setting)
        LEFT JOIN pg_database d ON d.oid = s.setdatabase
        LEFT JOIN pg_roles r ON r.oid = s.setrole
    WHERE split_part(c.setting, '=', 1) = 'vault_ext.identity';
COMMENT ON VIEW vault_ext.identity_modes IS 'what ALTER DATABASE and ALTER ROLE have set vault_ext.identity to; NULL stands for every database or role';
ALTER VIEW vault_ext.identity_modes OWNER TO vault_ext_owner;

-- Revoke what ALTER DEFAULT PRIVILEGES has granted on the new objects.
DO $nobody$
DECLARE
    revoke text;
BEGIN
    FOR revoke IN
        SELECT DISTINCT pg_catalog.format('REVOKE ALL ON ROUTINE %s FROM %s', p.oid::pg_catalog.regprocedure,
            CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC' ELSE a.grantee::pg_catalog.regrole::pg_catalog.text END)
        FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(COALESCE(p.proacl, pg_catalog.acldefault('f'::pg_catalog."char", p.proowner))) a
        WHERE p.oid OPERATOR(pg_catalog.=) ANY (ARRAY['vault_rotate(boolean)',
            'vault_init(text)',
            'vault_get_master_key(text)',
            'vault_rotate(text)',
            'vault_rotate(text, boolean)',
            'vault_status(text)',
            'vault_key_versions()',
            'vault_create()',
            'vault_create_key_version()',
            'vault_get_key_version(integer)',
            'vault_retire_key_version(integer, interval)',
            'vault_disable_key_version(integer)',
            'vault_restore_key_version(integer)',
            'vault_set_recovery(text, text)',
            'vault_clear_recovery()',
            'vault_recovery_challenge()',
            'vault_enable_zero_knowledge(bytea)',
            'vault_disable_zero_knowledge(text)',
            'vault_encrypt(bytea, text, text)',
            'vault_encrypt(text, text, text)',
            'vault_encrypt(jsonb, text, text)',
            'vault_decrypt(bytea, text, text)',
            'vault_decrypt_text(bytea, text, text)',
            'vault_decrypt_json(bytea, text, text)',
            'vault_reencrypt(bytea, text, text)',
            'vault_ciphertext_version(bytea)',
            'vault_derive_key(text, integer)',
            'vault_derive_key(bytea, text)',
            'vault_blind_index(text, text, integer, integer)',
            'vault_client_blob(jsonb)',
            'vault_open_client_blob(text, integer)',
            'vault_schedule_erase(text, interval, text)',
            'vault_cancel_erase(text)',
            'vault_erasure_status(text)',
            'vault_destroy_due(integer, bigint, bigint)',
            'vault_user_id()',
            'vault_claims()',
            'vault_whoami()',
            'vault_login(text)',
            'vault_session()',
            'vault_challenge()',
            'vault_grant(text, regrole, interval, text, integer, timestamptz)',
            'vault_grant_for(text, regrole, interval, text, integer, timestamptz)',
            'vault_approve_grant(bigint)',
            'vault_revoke_grant(bigint)',
            'vault_revoke_grant(text, bigint)',
            'vault_retire_grant(bigint)',
            'vault_get_master_key_of(text)',
            'vault_health()',
            'vault_rename_user(text, text)',
            'vault_reload_issuers()',
            'vault_identity_status()',
            'vault_revoke_tokens(text, timestamptz)',
            'vault_explain_token(text)',
            'vault_ext.current_user_id()',
            'vault_status()',
            'vault_kek_status()',
            'vault_check(integer)',
            'vault_ext.audit_batch()']::pg_catalog.regprocedure[]::pg_catalog.oid[])
        AND a.grantee OPERATOR(pg_catalog.<>) p.proowner
        UNION
        SELECT pg_catalog.format('REVOKE ALL ON %s %s FROM %s', CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
            c.oid::pg_catalog.regclass,
            CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC' ELSE a.grantee::pg_catalog.regrole::pg_catalog.text END)
        FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
        WHERE c.oid OPERATOR(pg_catalog.=) ANY (ARRAY['vault_ext.grants',
            'vault_ext.old_keys',
            'vault_ext.erasures',
            'vault_ext.grants_id_seq',
            'vault_ext.erasures_id_seq',
            'vault_ext.own_grants',
            'vault_ext.identity_modes']::pg_catalog.regclass[]::pg_catalog.oid[])
        AND a.grantee OPERATOR(pg_catalog.<>) c.relowner
    LOOP
        EXECUTE revoke;
    END LOOP;
END
$nobody$;
GRANT USAGE ON SCHEMA vault_ext TO vault_ext_user, vault_ext_admin, vault_ext_auditor, vault_ext_crypt;
GRANT EXECUTE ON FUNCTION vault_init(), vault_get_master_key(), vault_rotate(), vault_status() TO vault_ext_user;
GRANT EXECUTE ON FUNCTION vault_init(text), vault_get_master_key(text), vault_rotate(text), vault_status(text) TO vault_ext_user;
GRANT EXECUTE ON FUNCTION vault_status() TO vault_ext_crypt;
GRANT EXECUTE ON FUNCTION vault_rotate(boolean), vault_rotate(text, boolean), vault_get_key_version(integer) TO vault_ext_user;
GRANT EXECUTE ON FUNCTION vault_encrypt(bytea, text, text), vault_encrypt(text, text, text), vault_encrypt(jsonb, text, text),
    vault_decrypt(bytea, text, text), vault_decrypt_text(bytea, text, text), vault_decrypt_json(bytea, text, text),
    vault_reencrypt(bytea, text, text), vault_derive_key(text, integer), vault_derive_key(bytea, text),
    vault_blind_index(text, text, integer, integer), vault_client_blob(jsonb), vault_open_client_blob(text, integer)
    TO vault_ext_user, vault_ext_crypt;
GRANT EXECUTE ON FUNCTION vault_ciphertext_version(bytea) TO vault_ext_user, vault_ext_crypt, vault_ext_admin, vault_ext_auditor;
GRANT EXECUTE ON FUNCTION vault_create(), vault_create_key_version(), vault_key_versions(), vault_retire_key_version(integer, interval), vault_disable_key_version(integer),
    vault_restore_key_version(integer) TO vault_ext_user, vault_ext_crypt;
GRANT EXECUTE ON FUNCTION vault_set_recovery(text, text), vault_clear_recovery(), vault_recovery_challenge(),
    vault_enable_zero_knowledge(bytea), vault_disable_zero_knowledge(text) TO vault_ext_user;
GRANT EXECUTE ON FUNCTION vault_user_id(), vault_claims(), vault_whoami(), vault_login(text), vault_session(), vault_challenge() TO vault_ext_user, vault_ext_crypt;
GRANT SELECT ON vault_ext.own_audit TO vault_ext_user, vault_ext_crypt;
GRANT EXECUTE ON FUNCTION vault_grant(text, regrole, interval, text, integer, timestamptz) TO vault_ext_user;
GRANT EXECUTE ON FUNCTION vault_revoke_grant(bigint), vault_revoke_grant(text, bigint) TO vault_ext_user;
GRANT SELECT ON vault_ext.own_grants TO vault_ext_user;
GRANT EXECUTE ON FUNCTION vault_grant_for(text, regrole, interval, text, integer, timestamptz), vault_approve_grant(bigint) TO vault_ext_grantor;
GRANT EXECUTE ON FUNCTION vault_revoke_grant(bigint) TO vault_ext_grantor, vault_ext_admin;
GRANT EXECUTE ON FUNCTION vault_get_master_key_of(text), vault_retire_grant(bigint) TO vault_ext_service;
GRANT SELECT ON vault_ext.grants TO vault_ext_grantor, vault_ext_admin, vault_ext_auditor;
GRANT USAGE ON SCHEMA vault_ext TO vault_ext_grantor;
GRANT SELECT ON vault_ext.erasures TO vault_ext_admin, vault_ext_auditor;
GRANT SELECT ON vault_ext.identity_modes TO vault_ext_admin, vault_ext_auditor;
GRANT EXECUTE ON FUNCTION vault_health() TO vault_ext_user, vault_ext_admin, vault_ext_auditor, pg_monitor;
GRANT EXECUTE ON FUNCTION vault_ext.in_maintenance(), vault_ext.current_user_id() TO vault_ext_user, vault_ext_crypt;
GRANT EXECUTE ON FUNCTION vault_erase(text), vault_rename_user(text, text), vault_erase_on_delete(), vault_purge_audit(interval) TO vault_ext_admin;
GRANT EXECUTE ON FUNCTION vault_schedule_erase(text, interval, text), vault_cancel_erase(text) TO vault_ext_admin;
GRANT EXECUTE ON PROCEDURE vault_destroy_due(integer, bigint, bigint) TO vault_ext_admin;
GRANT EXECUTE ON FUNCTION vault_erasure_status(text) TO vault_ext_admin, vault_ext_auditor;
GRANT EXECUTE ON FUNCTION vault_reload_kek(boolean), vault_retire_kek(text), vault_kek_status(), vault_check(integer) TO vault_ext_admin;
GRANT EXECUTE ON FUNCTION vault_reload_issuers(), vault_identity_status(), vault_revoke_tokens(text, timestamptz), vault_explain_token(text) TO vault_ext_admin;

-- Some comments have a new wording.
COMMENT ON TYPE vault_key IS 'a user''s master key (32 bytes in standard base64) and what wraps it; in zero-knowledge mode master_key is NULL, and the recovery wrap comes instead';
COMMENT ON FUNCTION vault_init() IS 'the master key of the user, created if there is none; idempotent';
COMMENT ON FUNCTION vault_get_master_key() IS 'the master key of the user; P0002 if there is no vault';
COMMENT ON FUNCTION vault_rotate() IS 'a fresh master key becomes the current one; the old one can still be opened: vault_get_key_version()';
COMMENT ON FUNCTION vault_retire_kek(text) IS 'marks a KEK as retired: this database never wraps with it again; refused while a vault needs it; false if it was retired before';
COMMENT ON PROCEDURE vault_rewrap(integer, bigint, bigint, bigint) IS 'rewraps every vault and every old key that is not under the active KEK, in batches that are committed separately; call it again after an interruption';
COMMENT ON FUNCTION vault_version() IS 'the versions of the server''s library and of this database''s SQL, and what to do if they differ';
COMMENT ON TABLE vault_ext.encryption_vaults IS 'one wrapped master key per user; bound to the user by row-level security';
COMMENT ON TABLE vault_ext.rewraps IS 'one row per CALL of vault_rewrap(), updated with each batch; read it through vault_ext.rewrap_progress';
COMMENT ON VIEW vault_ext.own_audit IS 'the audit rows of the user';
