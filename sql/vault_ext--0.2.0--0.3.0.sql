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
    CREATE FUNCTION vault_lookup_index(value text, purpose text, bits integer DEFAULT 256) RETURNS bytea
        LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_lookup_index_wrapper';
    CREATE FUNCTION vault_client_blob(value jsonb) RETURNS text
        LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_client_blob_wrapper';
    CREATE FUNCTION vault_open_client_blob(blob text, key_version integer DEFAULT NULL) RETURNS jsonb
        LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_open_client_blob_wrapper';
    CREATE FUNCTION vault_seal_master_key(
        public_key text, key_version integer DEFAULT NULL,
        OUT sealed bytea, OUT algorithm text, OUT fingerprint text, OUT key_version integer, OUT kek_id text)
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_seal_master_key_wrapper';
    CREATE FUNCTION vault_seal_derived_key(
        public_key text, purpose text, key_version integer DEFAULT NULL,
        OUT sealed bytea, OUT algorithm text, OUT fingerprint text, OUT key_version integer, OUT kek_id text)
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_seal_derived_key_wrapper';
    CREATE FUNCTION vault_seal_derived_key(
        public_key text, salt bytea, info text,
        OUT sealed bytea, OUT algorithm text, OUT fingerprint text, OUT key_version integer, OUT kek_id text)
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_seal_derived_key_with_salt_wrapper';
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
    CREATE FUNCTION vault_import_key(OUT kek_id text, OUT public_key text, OUT fingerprint text)
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_import_key_wrapper';
    CREATE FUNCTION vault_export(user_id text, kek_id text, public_key text) RETURNS text
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_export_wrapper';
    CREATE FUNCTION vault_import(bundle text) RETURNS text
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_import_wrapper';
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
    CREATE FUNCTION vault_get_master_keys(user_ids text[])
        RETURNS TABLE (user_id text, master_key text, format_version smallint, kek_id text, key_version integer, requires_recovery_code boolean,
            recovery_wrapped_mk text, recovery_iv text)
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_get_master_keys_wrapper';
    CREATE FUNCTION vault_health(
        OUT ok boolean, OUT queued bigint, OUT writer_pid integer, OUT blocked_by integer[], OUT last_written_at timestamptz,
        OUT last_error_at timestamptz, OUT last_error text, OUT problem text, OUT hint text)
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_health_wrapper';
    CREATE FUNCTION vault_rename_user(old_user_id text, new_user_id text) RETURNS void
        LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_rename_user_wrapper';
    CREATE PROCEDURE vault_purge_audit(older_than interval, batch_size integer, INOUT purged bigint DEFAULT NULL)
        LANGUAGE c AS 'MODULE_PATHNAME', 'vault_purge_audit_in_batches_wrapper';
    CREATE FUNCTION vault_redact_audit(user_id text) RETURNS bigint
        LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_redact_audit_wrapper';
    CREATE FUNCTION vault_reload_issuers() RETURNS text
        LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_reload_issuers_wrapper';
    CREATE FUNCTION vault_identity_status(
        OUT issuer text, OUT algorithm text, OUT loaded_at timestamptz, OUT accepted bigint, OUT refused bigint,
        OUT last_refusal timestamptz, OUT token_kid text) RETURNS SETOF record
        LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_identity_status_wrapper';
    CREATE FUNCTION vault_revoke_tokens(user_id text, issued_before timestamptz DEFAULT clock_timestamp()) RETURNS boolean
        LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_revoke_tokens_wrapper';
    CREATE FUNCTION vault_explain_token(
        token text, OUT accepted boolean, OUT user_id text, OUT issuer text, OUT token_id text, OUT token_kid text, OUT reason text,
        OUT problem text, OUT hint text)
        LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_explain_token_wrapper';
    CREATE FUNCTION vault_audit_checkpoint() RETURNS text
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_audit_checkpoint_wrapper';
    CREATE FUNCTION vault_audit_key() RETURNS text
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_audit_key_wrapper';
    CREATE FUNCTION vault_audit_proof(id bigint) RETURNS text
        LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_audit_proof_wrapper';
    CREATE FUNCTION vault_audit_consistency(old_size bigint) RETURNS text
        LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_audit_consistency_wrapper';
    CREATE FUNCTION vault_audit_verify(
        since text DEFAULT NULL, OUT verdict text, OUT size bigint, OUT rows bigint, OUT redacted bigint, OUT purged bigint, OUT old_rows bigint,
        OUT leaf bigint, OUT id bigint, OUT finding text)
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_audit_verify_wrapper';
    CREATE FUNCTION vault_new_trail() RETURNS text
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_new_trail_wrapper';
    CREATE FUNCTION vault_mark_honey(user_id text, honey boolean DEFAULT true) RETURNS boolean
        LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_mark_honey_wrapper';
    CREATE FUNCTION vault_ext.current_user_id() RETURNS text
        LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'current_user_id_wrapper';
    CREATE FUNCTION vault_ext.is_sound_vault(
        user_id text, wrapped_mk text, wrap_iv text, format_version smallint, kek_id text, key_version integer, recovery_wrapped_mk text,
        recovery_iv text, recovery_set_at timestamptz, zero_knowledge boolean, key_check text, erase_after timestamptz) RETURNS boolean
        LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'is_sound_vault_wrapper';
    CREATE FUNCTION vault_ext.is_sound_old_key(
        user_id text, key_version integer, wrapped_mk text, wrap_iv text, format_version smallint, kek_id text, state text,
        destroy_after timestamptz, destroyed_at timestamptz) RETURNS boolean
        LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'is_sound_old_key_wrapper';
    CREATE FUNCTION vault_ext.commit_to_old_audit_rows() RETURNS bigint
        LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'commit_to_old_audit_rows_wrapper';
    CREATE FUNCTION vault_ext.alarm_counters(
        OUT database text, OUT role text, OUT users_last_minute bigint, OUT failures_last_minute bigint, OUT alarms bigint, OUT refused bigint)
        RETURNS SETOF record
        LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 16 AS 'MODULE_PATHNAME', 'alarm_counters_wrapper';
    CREATE FUNCTION vault_ext.action_stats(
        OUT datid oid, OUT datname text, OUT action text, OUT status integer, OUT calls bigint, OUT total_wait_time double precision,
        OUT max_wait_time double precision, OUT stats_reset timestamptz) RETURNS SETOF record
        LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'action_stats_wrapper';
    CREATE FUNCTION vault_ext.wait_stats(
        OUT datid oid, OUT datname text, OUT action text, OUT le double precision, OUT calls bigint) RETURNS SETOF record
        LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'wait_stats_wrapper';
    CREATE FUNCTION vault_ext.writer_stats(
        OUT datid oid, OUT datname text, OUT pid integer, OUT state text, OUT starts bigint, OUT batches bigint, OUT rows_written bigint, OUT failures bigint,
        OUT records_lost bigint, OUT last_commit_at timestamptz, OUT last_error text, OUT last_error_at timestamptz, OUT stats_reset timestamptz)
        RETURNS SETOF record
        LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'writer_stats_wrapper';
    CREATE FUNCTION vault_ext.stat_reset() RETURNS void
        LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'stat_reset_wrapper';
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
        OUT identity text, OUT issuer text, OUT token_id text, OUT token_kid text, OUT actor text, OUT grant_id bigint,
        OUT login_role text, OUT application_name text, OUT leaf bigint, OUT leaf_hash bytea, OUT salt bytea)
        RETURNS SETOF record
        LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 32 AS 'MODULE_PATHNAME', 'audit_batch_wrapper';
EXCEPTION WHEN undefined_function THEN
    RAISE EXCEPTION 'the server still runs an older library of vault_ext'
        USING ERRCODE = 'object_not_in_prerequisite_state',
              HINT = 'Restart the server, then run ALTER EXTENSION vault_ext UPDATE again.';
END
$library$;
COMMENT ON FUNCTION vault_rotate(boolean) IS 'vault_rotate() that can destroy the old key for good (destroy_old): re-encrypt what it has encrypted before this transaction commits';
COMMENT ON FUNCTION vault_init(text) IS 'vault_init() for the user that a verified token names';
COMMENT ON FUNCTION vault_get_master_key(text) IS 'vault_get_master_key() for the user that a verified token names';
COMMENT ON FUNCTION vault_rotate(text) IS 'vault_rotate() for the user that a verified token names';
COMMENT ON FUNCTION vault_rotate(text, boolean) IS 'vault_rotate(destroy_old) for the user that a verified token names';
COMMENT ON FUNCTION vault_status(text) IS 'vault_status() for the user that a verified token names';
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
COMMENT ON FUNCTION vault_encrypt(bytea, text, text) IS 'encrypts a bytea under the user''s current key; the context binds the place (table, column, row)';
COMMENT ON FUNCTION vault_encrypt(text, text, text) IS 'encrypts a text under the user''s current key; the context binds the place (table, column, row)';
COMMENT ON FUNCTION vault_encrypt(jsonb, text, text) IS 'encrypts a jsonb under the user''s current key; the context binds the place (table, column, row)';
COMMENT ON FUNCTION vault_decrypt(bytea, text, text) IS 'the bytea that was encrypted with this context and purpose; XX001 if it does not open';
COMMENT ON FUNCTION vault_decrypt_text(bytea, text, text) IS 'the text that was encrypted with this context and purpose; XX001 if it does not open';
COMMENT ON FUNCTION vault_decrypt_json(bytea, text, text) IS 'the jsonb that was encrypted with this context and purpose; XX001 if it does not open';
COMMENT ON FUNCTION vault_reencrypt(bytea, text, text) IS 'the same plaintext under the user''s current key, without showing it; what is under that key stays as it is';
COMMENT ON FUNCTION vault_ciphertext_version(bytea) IS 'the version of the key that an encrypted value names; NULL if it is none';
COMMENT ON FUNCTION vault_derive_key(text, integer) IS '32 bytes that are derived from the user''s key for one purpose (HKDF-SHA256)';
COMMENT ON FUNCTION vault_derive_key(bytea, text) IS 'HKDF-SHA256 of the user''s key with this salt and info, 32 bytes, for keys that existing clients derive';
COMMENT ON FUNCTION vault_blind_index(text, text, integer, integer) IS 'finds equal values of one user without opening them: the same for the same text, purpose and version of the key';
COMMENT ON FUNCTION vault_lookup_index(text, text, integer) IS 'finds equal values of all users, under a key of the database: to find a user by an e-mail address';
COMMENT ON FUNCTION vault_client_blob(jsonb) IS 'encrypts as the predecessor''s clients do (enc:1:), with the user''s current key itself';
COMMENT ON FUNCTION vault_open_client_blob(text, integer) IS 'opens what the predecessor''s clients have encrypted; the blob does not say under which version of the key';
COMMENT ON FUNCTION vault_seal_master_key(text, integer) IS 'the user''s master key, encrypted to a public key (X25519 or RSA): only the private key opens it; without a version, the current one';
COMMENT ON FUNCTION vault_seal_derived_key(text, text, integer) IS 'the key that vault_derive_key() gives for a purpose, encrypted to a public key (X25519 or RSA)';
COMMENT ON FUNCTION vault_seal_derived_key(text, bytea, text) IS 'a key that existing clients derive, encrypted to a public key: HKDF-SHA256 of the current master key with this salt and this info';
COMMENT ON FUNCTION vault_schedule_erase(text, interval, text) IS 'locks the vault of one user at once, to be erased after the wait; gives that time; a reason is required';
COMMENT ON FUNCTION vault_cancel_erase(text) IS 'opens a vault again whose erasure is scheduled; false if none is';
COMMENT ON FUNCTION vault_erasure_status(text) IS 'the erasures of one user, the newest first, each with every KEK that may have wrapped the user''s keys: copies of the wraps open as long as one of these exists anywhere';
COMMENT ON PROCEDURE vault_destroy_due(integer, bigint, bigint) IS 'erases the vaults and destroys the old keys whose time has come, in batches that are committed separately; to be called regularly';
COMMENT ON FUNCTION vault_import_key() IS 'the public key to which other servers seal vaults for this one, and the KEK that opens them; no secret; not audited';
COMMENT ON FUNCTION vault_export(text, text, text) IS 'the vault of one user as a bundle that only the server with this import key opens; refused unless vault_ext.export_recipients lists its fingerprint';
COMMENT ON FUNCTION vault_import(text) IS 'takes in the vault of a bundle that was made for this server, and gives its user; the same vault again changes nothing, another one is refused';
COMMENT ON FUNCTION vault_user_id() IS 'the user, as vault_ext.identity says; NULL where nobody has said who it is; for row-level security of the application''s own tables';
COMMENT ON FUNCTION vault_claims() IS 'the claims of the user''s verified token; NULL without one';
COMMENT ON FUNCTION vault_whoami() IS 'the user and what established that; never the token';
COMMENT ON FUNCTION vault_login(text) IS 'verifies a token and makes it the one of this transaction; gives the user';
COMMENT ON FUNCTION vault_session() IS 'the nonce of this session, for the claim vault_session of a bound token';
COMMENT ON FUNCTION vault_challenge() IS 'the nonce of this transaction, for the claim vault_challenge of a bound token';
COMMENT ON FUNCTION vault_grant(text, regrole, interval, text, integer, timestamptz) IS 'lets the members of a role fetch the user''s key until it expires; a NULL token stands for the user of the session, where vault_ext.identity is not token';
COMMENT ON FUNCTION vault_grant_for(text, regrole, interval, text, integer, timestamptz) IS 'vault_grant() by a member of vault_ext_grantor, for a user; with vault_ext.grant_approvals = 1 another login must approve it';
COMMENT ON FUNCTION vault_approve_grant(bigint) IS 'approves a grant that another login has given for a user; false if there is none';
COMMENT ON FUNCTION vault_revoke_grant(bigint) IS 'ends a grant at once: the user''s own, or any for members of vault_ext_grantor and vault_ext_admin; false if there is none';
COMMENT ON FUNCTION vault_revoke_grant(text, bigint) IS 'vault_revoke_grant() for the user that a verified token names';
COMMENT ON FUNCTION vault_retire_grant(bigint) IS 'ends a grant that the caller holds; false if there is none';
COMMENT ON FUNCTION vault_get_master_key_of(text) IS 'the master key of a user who has granted that to a role of the caller';
COMMENT ON FUNCTION vault_get_master_keys(text[]) IS 'vault_get_master_key_of() for up to 1,000 users at once, a row for each: all of them, or an error and no key';
COMMENT ON FUNCTION vault_health() IS 'whether keys can be released now: tries to write an audit row and takes it back; last_error is the SQLSTATE of the audit writer''s last failure';
COMMENT ON FUNCTION vault_rename_user(text, text) IS 'gives the vault of one user, with its key, to another user id; refused where that one has a vault';
COMMENT ON PROCEDURE vault_purge_audit(interval, integer, bigint) IS 'vault_purge_audit() in batches that are committed separately; call it again after an interruption';
COMMENT ON FUNCTION vault_redact_audit(text) IS 'takes the personal fields out of every audit row that names the user, and leaves their hash, so that the trail still verifies; gives the number of rows';
COMMENT ON FUNCTION vault_reload_issuers() IS 'reads the issuers again for the whole server, or refuses and keeps the old ones';
COMMENT ON FUNCTION vault_identity_status() IS 'each key of each issuer and what became of its tokens since the server started; the last row is for tokens that no key verified';
COMMENT ON FUNCTION vault_revoke_tokens(text, timestamptz) IS 'lets the user''s tokens that were issued before that time open the vault no more; false if there is no vault';
COMMENT ON FUNCTION vault_explain_token(text) IS 'whether a token would be accepted here and now, and why not; the trail gets a row';
COMMENT ON FUNCTION vault_audit_checkpoint() IS 'a checkpoint of the audit trail as it is now (C2SP tlog-checkpoint), signed if vault_ext.audit_key_file is set; NULL before the first row; keep it outside the database';
COMMENT ON FUNCTION vault_audit_key() IS 'the public key that verifies this trail''s checkpoints, as a C2SP verifier key; NULL without vault_ext.audit_key_file';
COMMENT ON FUNCTION vault_audit_proof(bigint) IS 'proves that a row is in the audit trail (C2SP tlog-proof, with a checkpoint); P0002 if there is no such row, 55000 if it is older than the tree';
COMMENT ON FUNCTION vault_audit_consistency(bigint) IS 'proves that the trail has only grown since a checkpoint of that size (the request of C2SP tlog-witness, with a checkpoint)';
COMMENT ON FUNCTION vault_audit_verify(text) IS 'verifies the whole trail, against a kept checkpoint if one is given; a superuser can replace this function, vault-trail verifies outside the server';
COMMENT ON FUNCTION vault_new_trail() IS 'for a copy of a database that goes on beside the original: the tree goes on under a new origin, which it gives';
COMMENT ON FUNCTION vault_mark_honey(text, boolean) IS 'marks a user as honey, so that any call for its key raises an alarm; false if nothing changed; P0002 without a vault';
COMMENT ON FUNCTION vault_ext.current_user_id() IS 'the user whose rows policies let through; NULL while vault_ext itself works across users';
COMMENT ON FUNCTION vault_ext.is_sound_vault(text, text, text, smallint, text, integer, text, text, timestamptz, boolean, text, timestamptz) IS 'for the CHECK of vault_ext.encryption_vaults: raises 23514 with the columns and the rule if a row breaks one';
COMMENT ON FUNCTION vault_ext.is_sound_old_key(text, integer, text, text, smallint, text, text, timestamptz, timestamptz) IS 'for the CHECK of vault_ext.old_keys: raises 23514 with the columns and the rule if a row breaks one';
COMMENT ON FUNCTION vault_ext.commit_to_old_audit_rows() IS 'for the update of the extension: hashes the rows that are older than the tree, so that its first leaf can commit to them; gives their number';
COMMENT ON FUNCTION vault_ext.alarm_counters() IS 'what is counted of each login role in each database; alarms and refusals since the server started';
COMMENT ON FUNCTION vault_ext.action_stats() IS 'audited calls by database, action and status, and how long they waited for their audit rows (milliseconds)';
COMMENT ON FUNCTION vault_ext.wait_stats() IS 'how many calls waited at most so many milliseconds for their audit rows: a cumulative histogram';
COMMENT ON FUNCTION vault_ext.writer_stats() IS 'what the audit writers of each database do (stopped, starting, idle, busy) and have done; last_error is an SQLSTATE';
COMMENT ON FUNCTION vault_ext.stat_reset() IS 'begins the statistics of vault_ext.stat, stat_wait and stat_writer anew, for all databases';
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
ALTER ROUTINE vault_lookup_index(text, text, integer) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_client_blob(jsonb) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_open_client_blob(text, integer) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_seal_master_key(text, integer) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_seal_derived_key(text, text, integer) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_seal_derived_key(text, bytea, text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_schedule_erase(text, interval, text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_cancel_erase(text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_erasure_status(text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_destroy_due(integer, bigint, bigint) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_import_key() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_export(text, text, text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_import(text) OWNER TO vault_ext_owner;
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
ALTER ROUTINE vault_get_master_keys(text[]) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_health() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_rename_user(text, text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_purge_audit(interval, integer, bigint) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_redact_audit(text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_reload_issuers() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_identity_status() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_revoke_tokens(text, timestamptz) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_explain_token(text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_audit_checkpoint() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_audit_key() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_audit_proof(bigint) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_audit_consistency(bigint) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_audit_verify(text) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_new_trail() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_mark_honey(text, boolean) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_ext.current_user_id() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_ext.is_sound_vault(text, text, text, smallint, text, integer, text, text, timestamptz, boolean, text, timestamptz) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_ext.is_sound_old_key(text, integer, text, text, smallint, text, text, timestamptz, timestamptz) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_ext.commit_to_old_audit_rows() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_ext.alarm_counters() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_ext.action_stats() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_ext.wait_stats() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_ext.writer_stats() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_ext.stat_reset() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_status() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_kek_status() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_check(integer) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_ext.audit_batch() OWNER TO vault_ext_owner;

-- The rows that are there are older than the trail's tree, whose first leaf commits to them. This hashes them, about a million in a few
-- seconds, before the trail is locked; a second call below goes on from there.
SELECT vault_ext.commit_to_old_audit_rows();

-- What the vault remembers stands in new columns, and one CHECK has all rules: PostgreSQL parses the text of each CHECK anew for every
-- statement. The vaults come first: callers hold a lock on them while the audit writer locks the trail for them.
ALTER TABLE vault_ext.encryption_vaults
    DROP CONSTRAINT IF EXISTS encryption_vaults_user_id_length,
    DROP CONSTRAINT IF EXISTS encryption_vaults_wrapped_mk_length,
    DROP CONSTRAINT IF EXISTS encryption_vaults_wrap_iv_length,
    DROP CONSTRAINT IF EXISTS encryption_vaults_format_version_known,
    DROP CONSTRAINT IF EXISTS encryption_vaults_kek_id_length,
    DROP CONSTRAINT IF EXISTS encryption_vaults_key_version_positive,
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
    ADD CONSTRAINT encryption_vaults_sound CHECK (vault_ext.is_sound_vault(
        user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_version, recovery_wrapped_mk, recovery_iv, recovery_set_at,
        zero_knowledge, key_check, erase_after));
ALTER TABLE vault_ext.encryption_vaults ALTER wrapped_mk SET STATISTICS 0, ALTER wrap_iv SET STATISTICS 0,
    ALTER recovery_wrapped_mk SET STATISTICS 0, ALTER recovery_iv SET STATISTICS 0, ALTER key_check SET STATISTICS 0;
COMMENT ON CONSTRAINT encryption_vaults_sound ON vault_ext.encryption_vaults IS 'user_id has 1 to 255 bytes, wrapped_mk 64, wrap_iv 16 in format 1 and 32 in format 2, kek_id 1 to 64; format_version is 1 or 2; key_version is at least 1; wrapped_mk and wrap_iv are NULL together; recovery_wrapped_mk (1 to 1024 bytes), recovery_iv (1 to 64) and recovery_set_at are NULL together; with zero_knowledge there is a recovery_wrapped_mk and no wrapped_mk; without it wrapped_mk is NULL while erase_after is set, and only then; key_check has 32 hexadecimal digits in lower case';
ALTER TABLE vault_ext.encryption_vault_audit
    ADD COLUMN identity text,
    ADD COLUMN issuer text,
    ADD COLUMN token_id text,
    ADD COLUMN token_kid text,
    ADD COLUMN actor text,
    ADD COLUMN grant_id bigint,
    ADD COLUMN login_role text,
    ADD COLUMN application_name text,
    ADD COLUMN leaf bigint,
    ADD COLUMN leaf_hash bytea,
    ADD COLUMN salt bytea,
    ADD COLUMN redacted_digest bytea;
ALTER TABLE vault_ext.encryption_vault_audit ALTER leaf_hash SET STATISTICS 0, ALTER salt SET STATISTICS 0, ALTER redacted_digest SET STATISTICS 0;
ALTER TYPE vault_key ADD ATTRIBUTE requires_recovery_code boolean, ADD ATTRIBUTE recovery_wrapped_mk text, ADD ATTRIBUTE recovery_iv text;

ALTER POLICY encryption_vaults_user_isolation ON vault_ext.encryption_vaults TO vault_ext_owner USING (user_id = vault_ext.current_user_id());
ALTER POLICY encryption_vaults_user_isolation_insert ON vault_ext.encryption_vaults TO vault_ext_owner WITH CHECK (user_id = vault_ext.current_user_id());
ALTER POLICY encryption_vaults_user_isolation_update ON vault_ext.encryption_vaults TO vault_ext_owner USING (user_id = vault_ext.current_user_id()) WITH CHECK (user_id = vault_ext.current_user_id());
ALTER POLICY encryption_vault_audit_user_isolation ON vault_ext.encryption_vault_audit TO vault_ext_owner USING (user_id = vault_ext.current_user_id());

-- Some roles are new. An attacker could have created one with such a name first, as at the installation. All get comments.
DO $roles$
DECLARE
    name text;
    purpose text;
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
    FOR name, purpose IN VALUES
        ('vault_ext_owner', 'owns the objects of vault_ext; is granted to nobody'),
        ('vault_ext_user', 'applications: fetch, rotate, use and seal the key of the current user'),
        ('vault_ext_crypt', 'applications that use the key of the current user in SQL and never get it'),
        ('vault_ext_admin', 'administrators of the vault: KEKs, erasures, moves, purges; see no key and no wrap'),
        ('vault_ext_auditor', 'auditors: read and verify the audit trail; see no key and no wrap'),
        ('vault_ext_grantor', 'people who give, approve and revoke grants for users; see no key'),
        ('vault_ext_service', 'services that fetch the keys of users who have granted that')
    LOOP
        -- The roles outlive the extension and are shared by all databases, so an administrator's own comment stays.
        IF pg_catalog.shobj_description(name::pg_catalog.regrole::pg_catalog.oid, 'pg_authid') IS NULL THEN
            EXECUTE pg_catalog.format('COMMENT ON ROLE %I IS %L', name, purpose);
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
    CONSTRAINT old_keys_sound CHECK (vault_ext.is_sound_old_key(
        user_id, key_version, wrapped_mk, wrap_iv, format_version, kek_id, state, destroy_after, destroyed_at))
);
ALTER TABLE vault_ext.old_keys ALTER wrapped_mk SET STATISTICS 0, ALTER wrap_iv SET STATISTICS 0;
COMMENT ON CONSTRAINT old_keys_sound ON vault_ext.old_keys IS 'user_id has 1 to 255 bytes, wrapped_mk 64, wrap_iv 16 in format 1 and 32 in format 2, kek_id 1 to 64; format_version is 1 or 2; key_version is at least 1; state is decrypt_only, disabled, destroy_scheduled or destroyed; wrapped_mk and wrap_iv are NULL in the state destroyed, and in no other; destroy_after is set in the state destroy_scheduled, and in no other but destroyed; destroyed_at is set in the state destroyed, and in no other';
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

CREATE TABLE vault_ext.database_keys (
    name           text COLLATE "C" NOT NULL PRIMARY KEY,
    key_version    integer     NOT NULL DEFAULT 1,
    wrapped_mk     text        NOT NULL,
    wrap_iv        text        NOT NULL,
    format_version smallint    NOT NULL,
    kek_id         text COLLATE "C" NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT database_keys_name_known CHECK (name IN ('lookup-index')),
    CONSTRAINT database_keys_wrapped_mk_length CHECK (octet_length(wrapped_mk) = 64),
    CONSTRAINT database_keys_wrap_iv_length CHECK (octet_length(wrap_iv) = 32),
    CONSTRAINT database_keys_format_version_known CHECK (format_version = 2),
    CONSTRAINT database_keys_kek_id_length CHECK (octet_length(kek_id) BETWEEN 1 AND 64)
);
ALTER TABLE vault_ext.database_keys ALTER wrapped_mk SET STATISTICS 0, ALTER wrap_iv SET STATISTICS 0;
COMMENT ON TABLE vault_ext.database_keys IS 'keys of the database itself, wrapped: that of vault_lookup_index()';
ALTER TABLE vault_ext.database_keys OWNER TO vault_ext_owner;
SELECT pg_catalog.pg_extension_config_dump('vault_ext.database_keys', '');

CREATE TABLE vault_ext.honey_users (
    user_id   text COLLATE "C" NOT NULL PRIMARY KEY,
    marked_by text        NOT NULL,
    marked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT honey_users_user_id_length CHECK (octet_length(user_id) BETWEEN 1 AND 255)
);
COMMENT ON TABLE vault_ext.honey_users IS 'users that no application has: whoever asks for the key of one raises an alarm';
ALTER TABLE vault_ext.honey_users OWNER TO vault_ext_owner;
SELECT pg_catalog.pg_extension_config_dump('vault_ext.honey_users', '');

CREATE TABLE vault_ext.audit_trails (
    trail_id         uuid        NOT NULL PRIMARY KEY,
    origin           text        NOT NULL,
    first_leaf       bigint      NOT NULL,
    begun_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Rows that are older than the tree, which its first leaf commits to.
    old_rows         bigint      NOT NULL DEFAULT 0,
    old_rows_last_id bigint,
    old_rows_root    bytea,
    CONSTRAINT audit_trails_origin_not_empty CHECK (origin <> ''),
    CONSTRAINT audit_trails_old_rows_whole
        CHECK ((old_rows = 0) = (old_rows_root IS NULL) AND (old_rows = 0) = (old_rows_last_id IS NULL))
);
COMMENT ON TABLE vault_ext.audit_trails IS 'the origins of the audit trail''s checkpoints, and what was there before the tree';
ALTER TABLE vault_ext.audit_trails OWNER TO vault_ext_owner;
SELECT pg_catalog.pg_extension_config_dump('vault_ext.audit_trails', '');

CREATE TABLE vault_ext.audit_tiles (
    level  smallint NOT NULL,
    index  bigint   NOT NULL,
    hashes bytea    NOT NULL,
    root   bytea,
    PRIMARY KEY (level, index),
    CONSTRAINT audit_tiles_full CHECK (octet_length(hashes) = CASE WHEN level < 0 THEN 32 ELSE 8192 END),
    CONSTRAINT audit_tiles_root_of_a_full_one CHECK ((root IS NULL) = (level < 0))
);
ALTER TABLE vault_ext.audit_tiles ALTER hashes SET STORAGE EXTERNAL, ALTER hashes SET STATISTICS 0, ALTER root SET STATISTICS 0;
COMMENT ON TABLE vault_ext.audit_tiles IS 'the hashes of the audit trail''s Merkle tree; they stay when rows are purged';
ALTER TABLE vault_ext.audit_tiles OWNER TO vault_ext_owner;
SELECT pg_catalog.pg_extension_config_dump('vault_ext.audit_tiles', '');

CREATE TABLE vault_ext.audit_checkpoints (
    size       bigint      NOT NULL PRIMARY KEY,
    root       bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    note       text        NOT NULL
);
COMMENT ON TABLE vault_ext.audit_checkpoints IS 'the checkpoints that the audit writer has logged; keep copies of them outside the database';
ALTER TABLE vault_ext.audit_checkpoints OWNER TO vault_ext_owner;
SELECT pg_catalog.pg_extension_config_dump('vault_ext.audit_checkpoints', '');

CREATE INDEX encryption_vault_audit_by_grant ON vault_ext.encryption_vault_audit (grant_id) WHERE grant_id IS NOT NULL;
ALTER TABLE vault_ext.grants ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE vault_ext.old_keys ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE vault_ext.database_keys ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE vault_ext.erasures ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE vault_ext.honey_users ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE vault_ext.audit_trails ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE vault_ext.audit_tiles ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE vault_ext.audit_checkpoints ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY encryption_vaults_vault_maintenance_insert ON vault_ext.encryption_vaults
    FOR INSERT TO vault_ext_owner WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY encryption_vault_audit_maintenance_update ON vault_ext.encryption_vault_audit
    FOR UPDATE TO vault_ext_owner USING (vault_ext.in_maintenance()) WITH CHECK (vault_ext.in_maintenance());
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
CREATE POLICY database_keys_vault_maintenance ON vault_ext.database_keys
    FOR SELECT TO vault_ext_owner USING (vault_ext.in_maintenance());
CREATE POLICY database_keys_vault_maintenance_insert ON vault_ext.database_keys
    FOR INSERT TO vault_ext_owner WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY database_keys_vault_maintenance_update ON vault_ext.database_keys
    FOR UPDATE TO vault_ext_owner USING (vault_ext.in_maintenance()) WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY erasures_vault_maintenance ON vault_ext.erasures
    FOR SELECT TO vault_ext_owner USING (vault_ext.in_maintenance());
CREATE POLICY erasures_vault_maintenance_insert ON vault_ext.erasures
    FOR INSERT TO vault_ext_owner WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY erasures_vault_maintenance_update ON vault_ext.erasures
    FOR UPDATE TO vault_ext_owner USING (vault_ext.in_maintenance()) WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY erasures_reader ON vault_ext.erasures
    FOR SELECT TO vault_ext_admin, vault_ext_auditor USING (true);
CREATE POLICY honey_users_maintenance ON vault_ext.honey_users
    FOR SELECT TO vault_ext_owner USING (vault_ext.in_maintenance());
CREATE POLICY honey_users_maintenance_insert ON vault_ext.honey_users
    FOR INSERT TO vault_ext_owner WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY honey_users_maintenance_update ON vault_ext.honey_users
    FOR UPDATE TO vault_ext_owner USING (vault_ext.in_maintenance()) WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY honey_users_maintenance_delete ON vault_ext.honey_users
    FOR DELETE TO vault_ext_owner USING (vault_ext.in_maintenance());
CREATE POLICY honey_users_reader ON vault_ext.honey_users
    FOR SELECT TO vault_ext_admin, vault_ext_auditor USING (true);
CREATE POLICY audit_trails_maintenance ON vault_ext.audit_trails
    FOR SELECT TO vault_ext_owner USING (vault_ext.in_maintenance());
CREATE POLICY audit_trails_maintenance_insert ON vault_ext.audit_trails
    FOR INSERT TO vault_ext_owner WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY audit_trails_auditor ON vault_ext.audit_trails
    FOR SELECT TO vault_ext_auditor USING (true);
CREATE POLICY audit_tiles_maintenance ON vault_ext.audit_tiles
    FOR SELECT TO vault_ext_owner USING (vault_ext.in_maintenance());
CREATE POLICY audit_tiles_maintenance_insert ON vault_ext.audit_tiles
    FOR INSERT TO vault_ext_owner WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY audit_tiles_maintenance_delete ON vault_ext.audit_tiles
    FOR DELETE TO vault_ext_owner USING (vault_ext.in_maintenance());
CREATE POLICY audit_tiles_auditor ON vault_ext.audit_tiles
    FOR SELECT TO vault_ext_auditor USING (true);
CREATE POLICY audit_checkpoints_maintenance ON vault_ext.audit_checkpoints
    FOR SELECT TO vault_ext_owner USING (vault_ext.in_maintenance());
CREATE POLICY audit_checkpoints_maintenance_insert ON vault_ext.audit_checkpoints
    FOR INSERT TO vault_ext_owner WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY audit_checkpoints_reader ON vault_ext.audit_checkpoints
    FOR SELECT TO vault_ext_auditor, pg_monitor USING (true);

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
        identity, issuer, token_id, token_kid, actor, grant_id, login_role, application_name, leaf
    FROM vault_ext.encryption_vault_audit
    -- These would tell a thief which users are watched.
    WHERE user_id = vault_ext.current_user_id() AND action <> 'alarm'::text AND action <> 'mark_honey'::text;
CREATE VIEW vault_ext.identity_modes AS
    SELECT d.datname::text AS database, r.rolname::text AS role, split_part(c.setting, '=', 2) AS identity
    FROM pg_db_role_setting s
        CROSS JOIN LATERAL unnest(s.setconfig) c (setting)
        LEFT JOIN pg_database d ON d.oid = s.setdatabase
        LEFT JOIN pg_roles r ON r.oid = s.setrole
    WHERE split_part(c.setting, '=', 1) = 'vault_ext.identity';
COMMENT ON VIEW vault_ext.identity_modes IS 'what ALTER DATABASE and ALTER ROLE have set vault_ext.identity to; NULL stands for every database or role';
ALTER VIEW vault_ext.identity_modes OWNER TO vault_ext_owner;
CREATE VIEW vault_ext.stat AS SELECT * FROM vault_ext.action_stats();
COMMENT ON VIEW vault_ext.stat IS 'audited calls by database, action and status since the server started or the last vault_ext.stat_reset()';
ALTER VIEW vault_ext.stat OWNER TO vault_ext_owner;
CREATE VIEW vault_ext.stat_wait AS SELECT * FROM vault_ext.wait_stats();
COMMENT ON VIEW vault_ext.stat_wait IS 'how many calls waited at most le milliseconds for their audit rows';
ALTER VIEW vault_ext.stat_wait OWNER TO vault_ext_owner;
CREATE VIEW vault_ext.stat_writer AS SELECT * FROM vault_ext.writer_stats();
COMMENT ON VIEW vault_ext.stat_writer IS 'the audit writers by database, since the server started or the last vault_ext.stat_reset()';
ALTER VIEW vault_ext.stat_writer OWNER TO vault_ext_owner;
CREATE VIEW vault_ext.stat_alarms AS SELECT * FROM vault_ext.alarm_counters();
COMMENT ON VIEW vault_ext.stat_alarms IS 'users and failed calls of each login role in the last minute, where a limit counts them; alarms and refusals since the server started';
ALTER VIEW vault_ext.stat_alarms OWNER TO vault_ext_owner;

-- The trail is locked now, and no row can come any more that has no place in the tree.
SELECT vault_ext.commit_to_old_audit_rows();

-- many nodes -----------------------------------------------------------------------------------------------------------

CREATE FUNCTION vault_ext.is_node() RETURNS boolean
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'is_node_wrapper';
COMMENT ON FUNCTION vault_ext.is_node() IS 'true only in a session that another node of a cluster has opened: its login is vault_ext_owner';

CREATE FUNCTION vault_ext.keyring(OUT "position" integer, OUT kek_id text, OUT check_value text) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 2 AS 'MODULE_PATHNAME', 'keyring_wrapper';
COMMENT ON FUNCTION vault_ext.keyring() IS 'the KEKs that this server has loaded, with their check values; the first one wraps';

CREATE FUNCTION vault_ext.why_not_a_node() RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp AS $why$
DECLARE
    has_rows boolean;
    name text;
BEGIN
    IF to_regclass('pg_catalog.pg_dist_node') IS NULL THEN
        RETURN 'Citus is not installed there';
    END IF;
    IF current_setting('max_prepared_transactions')::integer = 0 THEN
        RETURN 'max_prepared_transactions is 0';
    END IF;
    SELECT EXISTS (SELECT FROM vault_ext.grants) INTO has_rows;
    IF has_rows THEN
        RETURN 'there are grants, which work on one node only';
    END IF;
    IF NOT citus_is_coordinator() THEN
        FOREACH name IN ARRAY '{encryption_vaults,old_keys,database_keys,honey_users,erasures}'::text[] LOOP
            IF NOT EXISTS (SELECT FROM pg_dist_partition d WHERE d.logicalrelid = ('vault_ext.' || name)::regclass) THEN
                EXECUTE format('SELECT EXISTS (SELECT FROM vault_ext.%I)', name) INTO has_rows;
                IF has_rows THEN
                    RETURN format('vault_ext.%s has rows of its own there, which the distribution would hide', name);
                END IF;
            END IF;
        END LOOP;
    END IF;
    RETURN NULL;
END
$why$;
COMMENT ON FUNCTION vault_ext.why_not_a_node() IS 'for vault_ext.distribute(): why this server cannot be a node; NULL if it can';

CREATE FUNCTION vault_ext.become_a_node() RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $become$
DECLARE
    name text;
BEGIN
    IF NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
        RAISE EXCEPTION 'only a superuser may do this' USING ERRCODE = 'insufficient_privilege', HINT = 'Ask a superuser to call it.';
    END IF;
    IF to_regclass('pg_catalog.pg_dist_node') IS NULL THEN
        RAISE EXCEPTION 'Citus is not installed in this database' USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Install it on every node, as docs/scale-out.md says.';
    END IF;
    -- Each node does this for itself.
    PERFORM set_config('citus.enable_ddl_propagation', 'off', true);
    -- Calls fail until the server is a node: what they stored would be hidden then.
    PERFORM set_config('vault_ext.allow_alter', 'on', true);
    FOREACH name IN ARRAY '{encryption_vaults,old_keys,database_keys,honey_users,erasures}'::text[] LOOP
        IF NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = ('vault_ext.' || name)::regclass AND p.polname = name || '_nodes') THEN
            EXECUTE format('CREATE POLICY %I ON vault_ext.%I TO vault_ext_owner USING (vault_ext.is_node()) WITH CHECK (vault_ext.is_node())',
                name || '_nodes', name);
        END IF;
    END LOOP;
    -- Nodes read each other's trails, and write only their own.
    IF NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = 'vault_ext.encryption_vault_audit'::regclass AND p.polname = 'encryption_vault_audit_reader_node') THEN
        CREATE POLICY encryption_vault_audit_reader_node ON vault_ext.encryption_vault_audit FOR SELECT TO vault_ext_owner USING (vault_ext.is_node());
    END IF;
    -- Every node numbers erasures in a range of its own.
    PERFORM setval('vault_ext.erasures_id_seq', l.groupid::bigint << 48) FROM pg_dist_local_group l
        WHERE l.groupid > 0 AND (SELECT s.last_value FROM vault_ext.erasures_id_seq s) < l.groupid::bigint << 48;
    ALTER ROLE vault_ext_owner LOGIN;
    -- What another node commits here is on disk, and a lock that a call waits for here ends the call at some time.
    ALTER ROLE vault_ext_owner SET synchronous_commit = on;
    ALTER ROLE vault_ext_owner SET lock_timeout = '10s';
END
$become$;
COMMENT ON FUNCTION vault_ext.become_a_node() IS 'for a server that is about to be added to the nodes: lets these reach its rows, with the login vault_ext_owner';

CREATE FUNCTION vault_ext.nodes(OUT node text, OUT here boolean, OUT reachable boolean, OUT active_kek text, OUT agrees boolean, OUT keyring text) RETURNS SETOF record
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER ROWS 3 SET search_path = pg_catalog, pg_temp AS $nodes$
DECLARE
    own text;
BEGIN
    SELECT coalesce(json_agg(json_build_object('kek_id', k.kek_id, 'check_value', k.check_value) ORDER BY k."position"), '[]')::text
        INTO own FROM vault_ext.keyring() k;
    IF to_regclass('pg_catalog.pg_dist_node') IS NULL OR NOT EXISTS (SELECT FROM pg_policy p WHERE p.polname = 'encryption_vaults_nodes') THEN
        RETURN QUERY SELECT 'this one'::text, true, true, own::json -> 0 ->> 'kek_id', true, own;
        RETURN;
    END IF;
    RETURN QUERY
        SELECT format('%s:%s', n.nodename, n.nodeport), n.groupid = (SELECT l.groupid FROM pg_dist_local_group l), r.success, CASE WHEN r.success THEN r.result::json -> 0 ->> 'kek_id' END,
            CASE WHEN r.success THEN r.result = own END, r.result
        FROM run_command_on_all_nodes(
            'SELECT coalesce(json_agg(json_build_object(''kek_id'', k.kek_id, ''check_value'', k.check_value) ORDER BY k."position"), ''[]'')::text
             FROM vault_ext.keyring() k', give_warning_for_connection_errors => true) r
        JOIN pg_dist_node n ON n.nodeid = r.nodeid
        ORDER BY n.nodeid;
END
$nodes$;
COMMENT ON FUNCTION vault_ext.nodes() IS 'the nodes of the cluster and their keyrings; agrees is false where it is not the same as here, NULL where the node does not answer';

CREATE FUNCTION vault_ext.audit_of_nodes(since timestamptz DEFAULT '-infinity', before timestamptz DEFAULT 'infinity')
    RETURNS TABLE (node text, "row" vault_ext.encryption_vault_audit)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $audit$
DECLARE
    part record;
BEGIN
    IF to_regclass('pg_catalog.pg_dist_node') IS NULL OR NOT EXISTS (SELECT FROM pg_policy p WHERE p.polname = 'encryption_vaults_nodes') THEN
        RAISE EXCEPTION 'this vault is on one node' USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Read vault_ext.encryption_vault_audit.';
    END IF;
    FOR part IN
        SELECT format('%s:%s', n.nodename, n.nodeport) AS name, r.success, r.result
        FROM run_command_on_all_nodes(format(
            'SELECT coalesce(json_agg(a ORDER BY a.id), ''[]'')::text FROM vault_ext.encryption_vault_audit a WHERE a.created_at >= %L AND a.created_at < %L',
            since, before), give_warning_for_connection_errors => true) r
        JOIN pg_dist_node n ON n.nodeid = r.nodeid
        ORDER BY n.nodeid
    LOOP
        IF NOT part.success THEN
            RAISE EXCEPTION 'the trail of the node % cannot be read', part.name USING ERRCODE = 'connection_failure',
                DETAIL = part.result, HINT = 'A part of the trail is no trail: try again when all nodes answer.';
        END IF;
        RETURN QUERY SELECT part.name, a FROM json_populate_recordset(NULL::vault_ext.encryption_vault_audit, part.result::json) a;
    END LOOP;
END
$audit$;
COMMENT ON FUNCTION vault_ext.audit_of_nodes(timestamptz, timestamptz) IS 'the audit rows of all nodes within a time; 08006 if a node does not answer';

CREATE FUNCTION vault_ext.distribute(shard_count integer DEFAULT 32) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $distribute$
DECLARE
    bad text;
    name text;
BEGIN
    IF NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
        RAISE EXCEPTION 'only a superuser may distribute the vault' USING ERRCODE = 'insufficient_privilege',
            HINT = 'Ask a superuser to call it.';
    END IF;
    IF to_regclass('pg_catalog.pg_dist_node') IS NULL THEN
        RAISE EXCEPTION 'Citus is not installed in this database' USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Install it on every node, as docs/scale-out.md says.';
    END IF;
    IF NOT citus_is_coordinator() OR NOT EXISTS (SELECT FROM pg_dist_node n WHERE n.groupid = 0) THEN
        RAISE EXCEPTION 'this is not the coordinator, or the coordinator is not among the nodes' USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Call it on the coordinator, after SELECT citus_set_coordinator_host(…) there.';
    END IF;
    SELECT string_agg(format('%s:%s: %s', n.nodename, n.nodeport, r.result), '; ') INTO bad
        FROM run_command_on_all_nodes('SELECT vault_ext.why_not_a_node()', give_warning_for_connection_errors => true) r
        JOIN pg_dist_node n ON n.nodeid = r.nodeid
        WHERE NOT r.success OR r.result <> '';
    IF bad IS NOT NULL THEN
        RAISE EXCEPTION 'not every server can be a node' USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = bad,
            HINT = 'Mend what the detail says, and call it again.';
    END IF;
    SELECT string_agg(format('%s:%s: %s', n.nodename, n.nodeport, r.result), '; ') INTO bad
        FROM run_command_on_all_nodes('SELECT string_agg(concat_ws('' '', k.kek_id, k.check_value), '', '' ORDER BY k."position") FROM vault_ext.keyring() k',
            give_warning_for_connection_errors => true) r
        JOIN pg_dist_node n ON n.nodeid = r.nodeid
        WHERE NOT r.success OR r.result IS DISTINCT FROM
            (SELECT string_agg(concat_ws(' ', k.kek_id, k.check_value), ', ' ORDER BY k."position") FROM vault_ext.keyring() k);
    IF bad IS NOT NULL THEN
        RAISE EXCEPTION 'the nodes have different keyrings' USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = bad,
            HINT = 'Give every node the same KEKs in the same order.';
    END IF;
    SELECT string_agg(format('%s:%s: %s', n.nodename, n.nodeport, r.result), '; ') INTO bad
        FROM run_command_on_all_nodes('SELECT vault_ext.become_a_node()', give_warning_for_connection_errors => true) r
        JOIN pg_dist_node n ON n.nodeid = r.nodeid WHERE NOT r.success;
    IF bad IS NOT NULL THEN
        RAISE EXCEPTION 'not every server has become a node' USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = bad,
            HINT = 'Mend what the detail says, and call it again.';
    END IF;
    FOREACH name IN ARRAY '{encryption_vaults,old_keys,keks,database_keys,honey_users,erasures}'::text[] LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_dist_partition d WHERE d.logicalrelid = ('vault_ext.' || name)::regclass);
        IF name = 'encryption_vaults' THEN
            PERFORM create_distributed_table('vault_ext.encryption_vaults', 'user_id', colocate_with => 'none', shard_count => $1);
        ELSIF name = 'old_keys' THEN
            PERFORM create_distributed_table('vault_ext.old_keys', 'user_id', colocate_with => 'vault_ext.encryption_vaults');
        ELSE
            PERFORM create_reference_table('vault_ext.' || name);
        END IF;
        -- The rows have been copied. What is left of them could be seen by nobody, and would stay.
        PERFORM truncate_local_data_after_distributing_table(('vault_ext.' || name)::regclass);
    END LOOP;
    -- A node that was added gets its copy of what every node has.
    PERFORM replicate_reference_tables('block_writes');
END
$distribute$;
COMMENT ON FUNCTION vault_ext.distribute(integer) IS 'spreads the vaults over the nodes of a Citus cluster, so that any node answers any user; once more after a node was added';

CREATE PROCEDURE vault_ext.rebalance()
    LANGUAGE plpgsql AS $rebalance$
DECLARE
    move record;
BEGIN
    -- A procedure that commits can have no search_path of its own, so every name has its schema.
    IF NOT (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) current_user) THEN
        RAISE EXCEPTION 'only a superuser may move shards' USING ERRCODE = 'insufficient_privilege', HINT = 'Ask a superuser to call it.';
    END IF;
    IF pg_catalog.to_regclass('pg_catalog.pg_dist_node') IS NULL
        OR NOT EXISTS (SELECT FROM pg_catalog.pg_policy p WHERE p.polname OPERATOR(pg_catalog.=) 'encryption_vaults_nodes') THEN
        RAISE EXCEPTION 'this vault is on one node' USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'vault_ext.distribute() spreads it over the nodes of a Citus cluster.';
    END IF;
    IF NOT pg_catalog.citus_is_coordinator() THEN
        RAISE EXCEPTION 'this is not the coordinator' USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Call it on the coordinator.';
    END IF;
    LOOP
        -- The plan is made again for each move: others may have moved shards or changed nodes meanwhile.
        SELECT p.* INTO move FROM pg_catalog.get_rebalance_table_shards_plan('vault_ext.encryption_vaults') p LIMIT 1;
        EXIT WHEN NOT FOUND;
        -- A transaction that has read a shard before a move would write to its old place afterwards: on a node that is not the coordinator, Citus
        -- keeps the number of the placement, and with it the transaction's connection to the old node. So none may be open. The locks reach
        -- every node, and end there when that node knows the new place. Calls wait for them, so they must not wait long themselves.
        SET LOCAL citus.propagate_set_commands = 'local';
        SET LOCAL lock_timeout = '5s';
        BEGIN
            LOCK TABLE vault_ext.encryption_vaults, vault_ext.old_keys IN ACCESS EXCLUSIVE MODE;
        EXCEPTION WHEN lock_not_available OR internal_error THEN
            RAISE EXCEPTION 'the vaults could not be locked on every node' USING ERRCODE = 'lock_not_available', DETAIL = SQLERRM,
                HINT = 'A transaction that has called the vault is still open on some node, or a node does not answer. What was moved before stays moved: call it again.';
        END;
        PERFORM pg_catalog.citus_move_shard_placement(move.shardid, move.sourcename, move.sourceport, move.targetname, move.targetport, 'block_writes');
        RAISE NOTICE 'shard % has moved from %:% to %:%', move.shardid, move.sourcename, move.sourceport, move.targetname, move.targetport;
        COMMIT;
    END LOOP;
END
$rebalance$;
COMMENT ON PROCEDURE vault_ext.rebalance() IS 'moves shards of the vaults to where Citus wants them, one after the other, while calls go on; each move is committed separately';

ALTER ROUTINE vault_ext.is_node() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_ext.keyring() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_ext.why_not_a_node() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_ext.become_a_node() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_ext.nodes() OWNER TO vault_ext_owner;
ALTER ROUTINE vault_ext.audit_of_nodes(timestamptz, timestamptz) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_ext.distribute(integer) OWNER TO vault_ext_owner;
ALTER ROUTINE vault_ext.rebalance() OWNER TO vault_ext_owner;

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
            'vault_lookup_index(text, text, integer)',
            'vault_client_blob(jsonb)',
            'vault_open_client_blob(text, integer)',
            'vault_seal_master_key(text, integer)',
            'vault_seal_derived_key(text, text, integer)',
            'vault_seal_derived_key(text, bytea, text)',
            'vault_schedule_erase(text, interval, text)',
            'vault_cancel_erase(text)',
            'vault_erasure_status(text)',
            'vault_destroy_due(integer, bigint, bigint)',
            'vault_import_key()',
            'vault_export(text, text, text)',
            'vault_import(text)',
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
            'vault_get_master_keys(text[])',
            'vault_health()',
            'vault_rename_user(text, text)',
            'vault_purge_audit(interval, integer, bigint)',
            'vault_redact_audit(text)',
            'vault_reload_issuers()',
            'vault_identity_status()',
            'vault_revoke_tokens(text, timestamptz)',
            'vault_explain_token(text)',
            'vault_audit_checkpoint()',
            'vault_audit_key()',
            'vault_audit_proof(bigint)',
            'vault_audit_consistency(bigint)',
            'vault_audit_verify(text)',
            'vault_new_trail()',
            'vault_mark_honey(text, boolean)',
            'vault_ext.current_user_id()',
            'vault_ext.is_node()',
            'vault_ext.keyring()',
            'vault_ext.why_not_a_node()',
            'vault_ext.become_a_node()',
            'vault_ext.nodes()',
            'vault_ext.audit_of_nodes(timestamptz, timestamptz)',
            'vault_ext.distribute(integer)',
            'vault_ext.rebalance()',
            'vault_ext.is_sound_vault(text, text, text, smallint, text, integer, text, text, timestamptz, boolean, text, timestamptz)',
            'vault_ext.is_sound_old_key(text, integer, text, text, smallint, text, text, timestamptz, timestamptz)',
            'vault_ext.commit_to_old_audit_rows()',
            'vault_ext.alarm_counters()',
            'vault_ext.action_stats()',
            'vault_ext.wait_stats()',
            'vault_ext.writer_stats()',
            'vault_ext.stat_reset()',
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
            'vault_ext.database_keys',
            'vault_ext.honey_users',
            'vault_ext.audit_trails',
            'vault_ext.audit_tiles',
            'vault_ext.audit_checkpoints',
            'vault_ext.grants_id_seq',
            'vault_ext.erasures_id_seq',
            'vault_ext.own_grants',
            'vault_ext.identity_modes',
            'vault_ext.stat',
            'vault_ext.stat_wait',
            'vault_ext.stat_writer',
            'vault_ext.stat_alarms']::pg_catalog.regclass[]::pg_catalog.oid[])
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
    vault_blind_index(text, text, integer, integer), vault_lookup_index(text, text, integer), vault_client_blob(jsonb), vault_open_client_blob(text, integer)
    TO vault_ext_user, vault_ext_crypt;
GRANT EXECUTE ON FUNCTION vault_ciphertext_version(bytea) TO vault_ext_user, vault_ext_crypt, vault_ext_admin, vault_ext_auditor;
GRANT EXECUTE ON FUNCTION vault_create(), vault_create_key_version(), vault_key_versions(), vault_retire_key_version(integer, interval), vault_disable_key_version(integer),
    vault_restore_key_version(integer) TO vault_ext_user, vault_ext_crypt;
GRANT EXECUTE ON FUNCTION vault_set_recovery(text, text), vault_clear_recovery(), vault_recovery_challenge(),
    vault_enable_zero_knowledge(bytea), vault_disable_zero_knowledge(text) TO vault_ext_user;
GRANT EXECUTE ON FUNCTION vault_seal_master_key(text, integer), vault_seal_derived_key(text, text, integer),
    vault_seal_derived_key(text, bytea, text) TO vault_ext_user;
GRANT EXECUTE ON FUNCTION vault_user_id(), vault_claims(), vault_whoami(), vault_login(text), vault_session(), vault_challenge() TO vault_ext_user, vault_ext_crypt;
GRANT SELECT ON vault_ext.own_audit TO vault_ext_user, vault_ext_crypt;
GRANT EXECUTE ON FUNCTION vault_grant(text, regrole, interval, text, integer, timestamptz) TO vault_ext_user;
GRANT EXECUTE ON FUNCTION vault_revoke_grant(bigint), vault_revoke_grant(text, bigint) TO vault_ext_user;
GRANT SELECT ON vault_ext.own_grants TO vault_ext_user;
GRANT EXECUTE ON FUNCTION vault_grant_for(text, regrole, interval, text, integer, timestamptz), vault_approve_grant(bigint) TO vault_ext_grantor;
GRANT EXECUTE ON FUNCTION vault_revoke_grant(bigint) TO vault_ext_grantor, vault_ext_admin;
GRANT EXECUTE ON FUNCTION vault_get_master_key_of(text), vault_get_master_keys(text[]), vault_retire_grant(bigint) TO vault_ext_service;
GRANT SELECT ON vault_ext.grants TO vault_ext_grantor, vault_ext_admin, vault_ext_auditor;
GRANT USAGE ON SCHEMA vault_ext TO vault_ext_grantor;
GRANT SELECT ON vault_ext.erasures TO vault_ext_admin, vault_ext_auditor;
GRANT SELECT ON vault_ext.identity_modes TO vault_ext_admin, vault_ext_auditor;
GRANT EXECUTE ON FUNCTION vault_health() TO vault_ext_user, vault_ext_admin, vault_ext_auditor, pg_monitor;
GRANT EXECUTE ON FUNCTION vault_ext.in_maintenance(), vault_ext.current_user_id() TO vault_ext_user, vault_ext_crypt;
GRANT EXECUTE ON FUNCTION vault_ext.nodes() TO vault_ext_admin, vault_ext_auditor, pg_monitor;
GRANT EXECUTE ON FUNCTION vault_ext.audit_of_nodes(timestamptz, timestamptz) TO vault_ext_auditor;
-- Whoever writes rows past row-level security, as an import by a role with BYPASSRLS does, has to be able to check them.
GRANT EXECUTE ON FUNCTION vault_ext.is_sound_vault(text, text, text, smallint, text, integer, text, text, timestamptz, boolean, text, timestamptz),
    vault_ext.is_sound_old_key(text, integer, text, text, smallint, text, text, timestamptz, timestamptz) TO pg_write_all_data;
GRANT EXECUTE ON FUNCTION vault_erase(text), vault_rename_user(text, text), vault_erase_on_delete(), vault_purge_audit(interval) TO vault_ext_admin;
GRANT EXECUTE ON FUNCTION vault_schedule_erase(text, interval, text), vault_cancel_erase(text) TO vault_ext_admin;
GRANT EXECUTE ON PROCEDURE vault_destroy_due(integer, bigint, bigint) TO vault_ext_admin;
GRANT EXECUTE ON FUNCTION vault_erasure_status(text) TO vault_ext_admin, vault_ext_auditor;
GRANT EXECUTE ON FUNCTION vault_import_key(), vault_export(text, text, text), vault_import(text) TO vault_ext_admin;
GRANT EXECUTE ON FUNCTION vault_reload_kek(boolean), vault_retire_kek(text), vault_kek_status(), vault_check(integer) TO vault_ext_admin;
GRANT EXECUTE ON FUNCTION vault_reload_issuers(), vault_identity_status(), vault_revoke_tokens(text, timestamptz), vault_explain_token(text) TO vault_ext_admin;
GRANT SELECT ON vault_ext.audit_trails, vault_ext.audit_tiles, vault_ext.audit_checkpoints TO vault_ext_auditor;
GRANT SELECT ON vault_ext.audit_checkpoints TO pg_monitor;
GRANT USAGE ON SCHEMA vault_ext TO pg_monitor;
GRANT EXECUTE ON FUNCTION vault_audit_checkpoint(), vault_audit_key() TO vault_ext_auditor, vault_ext_admin, pg_monitor;
GRANT EXECUTE ON FUNCTION vault_audit_proof(bigint), vault_audit_consistency(bigint), vault_audit_verify(text) TO vault_ext_auditor;
GRANT EXECUTE ON FUNCTION vault_new_trail() TO vault_ext_admin;
GRANT EXECUTE ON FUNCTION vault_redact_audit(text) TO vault_ext_admin;
GRANT EXECUTE ON PROCEDURE vault_purge_audit(interval, integer, bigint) TO vault_ext_admin;
GRANT EXECUTE ON FUNCTION vault_mark_honey(text, boolean) TO vault_ext_admin;
GRANT SELECT ON vault_ext.honey_users TO vault_ext_admin, vault_ext_auditor;
GRANT SELECT ON vault_ext.stat, vault_ext.stat_wait, vault_ext.stat_writer, vault_ext.stat_alarms TO vault_ext_admin, vault_ext_auditor, pg_monitor;
GRANT EXECUTE ON FUNCTION vault_ext.action_stats(), vault_ext.wait_stats(), vault_ext.writer_stats(), vault_ext.alarm_counters()
    TO vault_ext_admin, vault_ext_auditor, pg_monitor;
GRANT EXECUTE ON FUNCTION vault_ext.stat_reset() TO vault_ext_admin;
GRANT EXECUTE ON FUNCTION vault_kek_status() TO pg_monitor;

-- Some comments have a new wording.
COMMENT ON TABLE vault_ext.encryption_vaults IS 'one wrapped master key per user; bound to the user by row-level security';
COMMENT ON TABLE vault_ext.rewraps IS 'one row per CALL of vault_rewrap(), updated with each batch; read it through vault_ext.rewrap_progress';
COMMENT ON TYPE vault_key IS 'a user''s master key (32 bytes in standard base64) and what wraps it; in zero-knowledge mode master_key is NULL, and the recovery wrap comes instead';
COMMENT ON FUNCTION vault_init() IS 'the master key of the user, created if there is none; idempotent';
COMMENT ON FUNCTION vault_get_master_key() IS 'the master key of the user; P0002 if there is no vault';
COMMENT ON FUNCTION vault_rotate() IS 'a fresh master key becomes the current one; the old one can still be opened: vault_get_key_version()';
COMMENT ON FUNCTION vault_retire_kek(text) IS 'marks a KEK as retired: this database never wraps with it again; refused while a vault needs it; false if it was retired before';
COMMENT ON PROCEDURE vault_rewrap(integer, bigint, bigint, bigint) IS 'rewraps every vault and every old key that is not under the active KEK, in batches that are committed separately; call it again after an interruption';
COMMENT ON FUNCTION vault_version() IS 'the versions of the server''s library and of this database''s SQL, and what to do if they differ';
COMMENT ON VIEW vault_ext.own_audit IS 'the audit rows of the user';

-- The schema and the columns had no comments.
COMMENT ON SCHEMA vault_ext IS 'tables, views and inner functions of the extension vault_ext; what applications call is in the schema that CREATE EXTENSION chose';
COMMENT ON COLUMN vault_ext.encryption_vaults.user_id IS 'the user; compared byte by byte, and bound into the wrap: only vault_rename_user() changes it';
COMMENT ON COLUMN vault_ext.encryption_vaults.wrapped_mk IS 'base64 of the wrapped master key and its tag; NULL in zero-knowledge mode and while an erasure is scheduled';
COMMENT ON COLUMN vault_ext.encryption_vaults.wrap_iv IS 'base64 of the nonce of wrapped_mk';
COMMENT ON COLUMN vault_ext.encryption_vaults.format_version IS 'format of the wrap: 1 is the predecessor''s, 2 is what vault_ext writes';
COMMENT ON COLUMN vault_ext.encryption_vaults.kek_id IS 'id of the KEK that wraps the key';
COMMENT ON COLUMN vault_ext.encryption_vaults.key_version IS 'version of the user''s current key; each rotation adds one';
COMMENT ON COLUMN vault_ext.encryption_vaults.created_at IS 'when the vault was created';
COMMENT ON COLUMN vault_ext.encryption_vaults.rotated_at IS 'when the key was last rotated; NULL if never';
COMMENT ON COLUMN vault_ext.encryption_vaults.tokens_valid_from IS 'tokens that were issued before open the vault no more (vault_revoke_tokens); NULL if all may';
COMMENT ON COLUMN vault_ext.encryption_vaults.recovery_wrapped_mk IS 'the key, wrapped by the client under the user''s recovery code; NULL without one';
COMMENT ON COLUMN vault_ext.encryption_vaults.recovery_iv IS 'the client''s nonce of recovery_wrapped_mk';
COMMENT ON COLUMN vault_ext.encryption_vaults.recovery_format_version IS 'format of the recovery wrap: the client''s, always 1';
COMMENT ON COLUMN vault_ext.encryption_vaults.recovery_set_at IS 'when the recovery wrap was stored';
COMMENT ON COLUMN vault_ext.encryption_vaults.zero_knowledge IS 'true if only the recovery code opens the key: the server has no wrap of its own';
COMMENT ON COLUMN vault_ext.encryption_vaults.key_check IS 'check value of the key, so that zero-knowledge mode can be left with this key alone';
COMMENT ON COLUMN vault_ext.encryption_vaults.erase_after IS 'when vault_destroy_due() may erase the vault; NULL if no erasure is scheduled';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.id IS 'number of the row; numbers have gaps, which prove nothing';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.user_id IS 'the user whose key the call was about; NULL if there was none';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.action IS 'what was called or done';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.status IS 'outcome, like an HTTP status: 200 done, 201 created, from 400 on refused or failed';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.kek_id IS 'id of the KEK that wraps the key';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.key_version IS 'version of the key';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.db_role IS 'role that the call ran as (a fact)';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.ip_address IS 'address of the client, as the application says (a claim)';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.user_agent IS 'program of the client, as the application says (a claim)';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.request_id IS 'id of the request, as the application says (a claim)';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.context IS 'the reason for a failure, or what else is worth knowing';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.created_at IS 'when the call was made';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.identity IS 'what established the user: asserted, role, token, bound or grant';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.issuer IS 'name of the token''s issuer in the issuers file';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.token_id IS 'the token''s jti, or the beginning of its hash';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.token_kid IS 'id of the issuer''s key that verified the token';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.actor IS 'login of the service that acted for the user by a grant';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.grant_id IS 'the grant that was used or changed (vault_ext.grants)';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.login_role IS 'role that logged in (a fact)';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.application_name IS 'application_name of the session (a claim)';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.leaf IS 'position in the Merkle tree, without gaps; NULL if the row is older than the tree';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.leaf_hash IS 'hash of the row in the Merkle tree';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.salt IS 'random bytes in the hash of the personal columns; NULL after a redaction';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.redacted_digest IS 'hash that vault_redact_audit() leaves of the personal columns; NULL if the row is not redacted';
COMMENT ON SEQUENCE vault_ext.encryption_vault_audit_id_seq IS 'numbers the rows of vault_ext.encryption_vault_audit';
COMMENT ON COLUMN vault_ext.keks.kek_id IS 'id of the KEK, as in the keyring';
COMMENT ON COLUMN vault_ext.keks.check_value IS 'fingerprint that is derived from the KEK (HKDF), in hex';
COMMENT ON COLUMN vault_ext.keks.first_seen IS 'when this database first wrapped with the KEK or registered it';
COMMENT ON COLUMN vault_ext.keks.retired_at IS 'when vault_retire_kek() marked it; NULL if it may wrap';
COMMENT ON COLUMN vault_ext.grants.id IS 'number of the grant, as vault_grant() gave it';
COMMENT ON COLUMN vault_ext.grants.user_id IS 'the user whose key may be fetched';
COMMENT ON COLUMN vault_ext.grants.grantee IS 'role whose members may fetch it';
COMMENT ON COLUMN vault_ext.grants.not_before IS 'when the grant begins to count';
COMMENT ON COLUMN vault_ext.grants.expires_at IS 'when the grant ends';
COMMENT ON COLUMN vault_ext.grants.max_uses IS 'how often it may be used; NULL if there is no limit';
COMMENT ON COLUMN vault_ext.grants.reason IS 'why it was given';
COMMENT ON COLUMN vault_ext.grants.granted_by IS 'who gave it: the user''s login, or that of a member of vault_ext_grantor';
COMMENT ON COLUMN vault_ext.grants.approved_by IS 'login that approved it; the giver''s own where no approval is needed, NULL while one is missing';
COMMENT ON COLUMN vault_ext.grants.revoked_at IS 'when it was ended early; NULL if it was not';
COMMENT ON COLUMN vault_ext.grants.revoked_by IS 'login that ended it';
COMMENT ON COLUMN vault_ext.grants.created_at IS 'when it was given';
COMMENT ON SEQUENCE vault_ext.grants_id_seq IS 'numbers the rows of vault_ext.grants';
COMMENT ON COLUMN vault_ext.old_keys.user_id IS 'the user whose key it was';
COMMENT ON COLUMN vault_ext.old_keys.key_version IS 'version of the key';
COMMENT ON COLUMN vault_ext.old_keys.wrapped_mk IS 'base64 of the wrapped key and its tag; NULL once it is destroyed';
COMMENT ON COLUMN vault_ext.old_keys.wrap_iv IS 'base64 of the nonce of wrapped_mk';
COMMENT ON COLUMN vault_ext.old_keys.format_version IS 'format of the wrap, as in vault_ext.encryption_vaults';
COMMENT ON COLUMN vault_ext.old_keys.kek_id IS 'id of the KEK that wraps the key';
COMMENT ON COLUMN vault_ext.old_keys.state IS 'decrypt_only, disabled, destroy_scheduled or destroyed';
COMMENT ON COLUMN vault_ext.old_keys.superseded_at IS 'when a rotation replaced it';
COMMENT ON COLUMN vault_ext.old_keys.destroy_after IS 'when vault_destroy_due() may destroy it; NULL if that is not scheduled';
COMMENT ON COLUMN vault_ext.old_keys.destroyed_at IS 'when it was destroyed';
COMMENT ON COLUMN vault_ext.erasures.id IS 'number of the erasure';
COMMENT ON COLUMN vault_ext.erasures.user_id IS 'the user whose vault it is about';
COMMENT ON COLUMN vault_ext.erasures.reason IS 'why, as it was given; vault_erase() or account deleted for an erasure without a wait';
COMMENT ON COLUMN vault_ext.erasures.scheduled_by IS 'login that asked for it';
COMMENT ON COLUMN vault_ext.erasures.scheduled_at IS 'when it was asked for';
COMMENT ON COLUMN vault_ext.erasures.erase_after IS 'when vault_destroy_due() may erase the vault';
COMMENT ON COLUMN vault_ext.erasures.vault_created_at IS 'when the vault was created';
COMMENT ON COLUMN vault_ext.erasures.cancelled_by IS 'login that called vault_cancel_erase()';
COMMENT ON COLUMN vault_ext.erasures.cancelled_at IS 'when it was cancelled; NULL if it was not';
COMMENT ON COLUMN vault_ext.erasures.erased_at IS 'when the vault was erased; NULL if it was not';
COMMENT ON COLUMN vault_ext.erasures.kek_ids IS 'KEKs that wrapped the keys when they were erased; vault_erasure_status() adds earlier ones';
COMMENT ON SEQUENCE vault_ext.erasures_id_seq IS 'numbers the rows of vault_ext.erasures';
COMMENT ON COLUMN vault_ext.database_keys.name IS 'what the key is for';
COMMENT ON COLUMN vault_ext.database_keys.key_version IS 'version of the key';
COMMENT ON COLUMN vault_ext.database_keys.wrapped_mk IS 'base64 of the wrapped key and its tag';
COMMENT ON COLUMN vault_ext.database_keys.wrap_iv IS 'base64 of the nonce of wrapped_mk';
COMMENT ON COLUMN vault_ext.database_keys.format_version IS 'format of the wrap, always 2';
COMMENT ON COLUMN vault_ext.database_keys.kek_id IS 'id of the KEK that wraps the key';
COMMENT ON COLUMN vault_ext.database_keys.created_at IS 'when the key was created';
COMMENT ON COLUMN vault_ext.honey_users.user_id IS 'the user that no application has';
COMMENT ON COLUMN vault_ext.honey_users.marked_by IS 'login that called vault_mark_honey()';
COMMENT ON COLUMN vault_ext.honey_users.marked_at IS 'when that was';
COMMENT ON COLUMN vault_ext.audit_trails.trail_id IS 'random id of the trail, part of its origin';
COMMENT ON COLUMN vault_ext.audit_trails.origin IS 'name in the first line of each checkpoint';
COMMENT ON COLUMN vault_ext.audit_trails.first_leaf IS 'leaf from which on the origin counts';
COMMENT ON COLUMN vault_ext.audit_trails.begun_at IS 'when the origin was chosen';
COMMENT ON COLUMN vault_ext.audit_trails.old_rows IS 'number of rows that are older than the tree';
COMMENT ON COLUMN vault_ext.audit_trails.old_rows_last_id IS 'id of the last of these rows';
COMMENT ON COLUMN vault_ext.audit_trails.old_rows_root IS 'hash of these rows, to which the first leaf commits';
COMMENT ON COLUMN vault_ext.audit_tiles.level IS 'height in the tree: 0 holds hashes of leaves; -1 holds hashes of purged rows that no full tile has yet';
COMMENT ON COLUMN vault_ext.audit_tiles.index IS 'position in its level; at level -1 that of the leaf';
COMMENT ON COLUMN vault_ext.audit_tiles.hashes IS '256 hashes of 32 bytes, or one at level -1';
COMMENT ON COLUMN vault_ext.audit_tiles.root IS 'hash of the whole tile; NULL at level -1';
COMMENT ON COLUMN vault_ext.audit_checkpoints.size IS 'number of leaves of the tree';
COMMENT ON COLUMN vault_ext.audit_checkpoints.root IS 'hash of the tree of that size';
COMMENT ON COLUMN vault_ext.audit_checkpoints.created_at IS 'when it was logged';
COMMENT ON COLUMN vault_ext.audit_checkpoints.note IS 'the checkpoint itself (C2SP tlog-checkpoint)';
COMMENT ON COLUMN vault_ext.rewraps.started_at IS 'when the run began';
COMMENT ON COLUMN vault_ext.rewraps.pid IS 'process id of its session';
COMMENT ON COLUMN vault_ext.rewraps.db_role IS 'role that called vault_rewrap()';
COMMENT ON COLUMN vault_ext.rewraps.kek_id IS 'id of the KEK that it wraps with';
COMMENT ON COLUMN vault_ext.rewraps.total IS 'keys that were under other KEKs at the start';
COMMENT ON COLUMN vault_ext.rewraps.done IS 'keys that were rewrapped';
COMMENT ON COLUMN vault_ext.rewraps.skipped IS 'keys that were in use or changed meanwhile: CALL vault_rewrap() again';
COMMENT ON COLUMN vault_ext.rewraps.failed IS 'keys that do not open; they stay as they are';
COMMENT ON COLUMN vault_ext.rewraps.ended_at IS 'when the run ended; NULL if it has not';
COMMENT ON COLUMN vault_ext.rewraps.outcome IS 'how it ended; NULL if it has not';
COMMENT ON COLUMN vault_key.master_key IS 'the key: 32 bytes in standard base64; NULL in zero-knowledge mode';
COMMENT ON COLUMN vault_key.format_version IS 'format of the wrap: 1 is the predecessor''s, 2 is what vault_ext writes';
COMMENT ON COLUMN vault_key.kek_id IS 'id of the KEK that wraps the key';
COMMENT ON COLUMN vault_key.key_version IS 'version of the key';
COMMENT ON COLUMN vault_key.requires_recovery_code IS 'true in zero-knowledge mode: only the recovery code opens the key';
COMMENT ON COLUMN vault_key.recovery_wrapped_mk IS 'in zero-knowledge mode the wrap that the recovery code opens, else NULL';
COMMENT ON COLUMN vault_key.recovery_iv IS 'the client''s nonce of recovery_wrapped_mk, else NULL';
COMMENT ON COLUMN vault_ext.own_grants.uses IS 'how often the grant was used';
COMMENT ON COLUMN vault_ext.identity_modes.database IS 'the database that the mode is set for; NULL stands for every one';
COMMENT ON COLUMN vault_ext.identity_modes.role IS 'the role that the mode is set for; NULL stands for every one';
COMMENT ON COLUMN vault_ext.identity_modes.identity IS 'the mode: asserted, token or role';
COMMENT ON COLUMN vault_ext.stat.datid IS 'OID of the database; NULL for databases that share a place';
COMMENT ON COLUMN vault_ext.stat.datname IS 'name of the database; NULL if it was dropped';
COMMENT ON COLUMN vault_ext.stat.action IS 'what was called, as in the audit trail';
COMMENT ON COLUMN vault_ext.stat.status IS 'outcome, as in the audit trail; NULL if vault_ext does not use it itself';
COMMENT ON COLUMN vault_ext.stat.calls IS 'calls whose audit row was written';
COMMENT ON COLUMN vault_ext.stat.total_wait_time IS 'milliseconds that these calls waited for their audit rows in all';
COMMENT ON COLUMN vault_ext.stat.max_wait_time IS 'the longest of these waits, in milliseconds';
COMMENT ON COLUMN vault_ext.stat.stats_reset IS 'when vault_ext.stat_reset() was last called; NULL if never';
COMMENT ON COLUMN vault_ext.stat_wait.datid IS 'OID of the database; NULL for databases that share a place';
COMMENT ON COLUMN vault_ext.stat_wait.datname IS 'name of the database; NULL if it was dropped';
COMMENT ON COLUMN vault_ext.stat_wait.action IS 'what was called, as in the audit trail';
COMMENT ON COLUMN vault_ext.stat_wait.le IS 'upper bound of the wait, in milliseconds; the last one is Infinity';
COMMENT ON COLUMN vault_ext.stat_wait.calls IS 'calls that waited no longer, all lower bounds included';
COMMENT ON COLUMN vault_ext.stat_writer.datid IS 'OID of the database; NULL for databases that share a place';
COMMENT ON COLUMN vault_ext.stat_writer.datname IS 'name of the database; NULL if it was dropped';
COMMENT ON COLUMN vault_ext.stat_writer.pid IS 'process id of the audit writer; NULL if none runs';
COMMENT ON COLUMN vault_ext.stat_writer.state IS 'idle, busy, starting or stopped';
COMMENT ON COLUMN vault_ext.stat_writer.starts IS 'writers that were started';
COMMENT ON COLUMN vault_ext.stat_writer.batches IS 'transactions that wrote audit rows';
COMMENT ON COLUMN vault_ext.stat_writer.rows_written IS 'audit rows in these transactions';
COMMENT ON COLUMN vault_ext.stat_writer.failures IS 'records that could not be written: their calls failed and released nothing';
COMMENT ON COLUMN vault_ext.stat_writer.records_lost IS 'second rows of rolled-back changes that found no free slot';
COMMENT ON COLUMN vault_ext.stat_writer.last_commit_at IS 'when a batch was last committed';
COMMENT ON COLUMN vault_ext.stat_writer.last_error IS 'SQLSTATE of the last batch that failed';
COMMENT ON COLUMN vault_ext.stat_writer.last_error_at IS 'when that was';
COMMENT ON COLUMN vault_ext.stat_writer.stats_reset IS 'when vault_ext.stat_reset() was last called; NULL if never';
COMMENT ON COLUMN vault_ext.stat_alarms.database IS 'name of the database';
COMMENT ON COLUMN vault_ext.stat_alarms.role IS 'role that logged in';
COMMENT ON COLUMN vault_ext.stat_alarms.users_last_minute IS 'different users whose keys it asked for within the last minute';
COMMENT ON COLUMN vault_ext.stat_alarms.failures_last_minute IS 'its calls that failed within the last minute';
COMMENT ON COLUMN vault_ext.stat_alarms.alarms IS 'alarms that it raised since the server started';
COMMENT ON COLUMN vault_ext.stat_alarms.refused IS 'its calls that a limit refused since the server started';
COMMENT ON COLUMN vault_ext.audit_stats.calls IS 'audit records that were submitted';
COMMENT ON COLUMN vault_ext.audit_stats.rows_written IS 'audit rows that were committed';
COMMENT ON COLUMN vault_ext.audit_stats.failures IS 'records that could not be written: their calls failed and released nothing';
COMMENT ON COLUMN vault_ext.audit_stats.batches IS 'transactions that wrote audit rows';
COMMENT ON COLUMN vault_ext.audit_stats.queued IS 'records that are not written yet';
COMMENT ON COLUMN vault_ext.audit_stats.longest_wait_us IS 'the longest wait for an audit row, in microseconds';
COMMENT ON COLUMN vault_ext.audit_stats.records_lost IS 'second rows of rolled-back changes that found no free slot';
COMMENT ON COLUMN vault_ext.audit_stats.writers_started IS 'audit writers that were started';
COMMENT ON COLUMN vault_ext.rewrap_progress.state IS 'running, interrupted or see primary, and the outcome once it has ended';
COMMENT ON COLUMN vault_ext.rewrap_progress.per_second IS 'keys rewrapped in a second, on average';
COMMENT ON COLUMN vault_ext.rewrap_progress.estimated_end IS 'when it will be done at this rate; NULL once it has ended';

-- A column that a view takes from a table means what it means there.
DO $columns$
DECLARE
    comment pg_catalog.text;
BEGIN
    FOR comment IN
        SELECT pg_catalog.format('COMMENT ON COLUMN vault_ext.%I.%I IS %L', v.relname, c.attname, pg_catalog.col_description(t.oid, d.attnum))
        FROM (VALUES ('own_audit', 'encryption_vault_audit'), ('own_grants', 'grants'), ('rewrap_progress', 'rewraps')) pair (view, "table")
        JOIN pg_catalog.pg_class v ON v.oid OPERATOR(pg_catalog.=) ('vault_ext.' OPERATOR(pg_catalog.||) pair.view)::pg_catalog.regclass::pg_catalog.oid
        JOIN pg_catalog.pg_class t ON t.oid OPERATOR(pg_catalog.=) ('vault_ext.' OPERATOR(pg_catalog.||) pair."table")::pg_catalog.regclass::pg_catalog.oid
        JOIN pg_catalog.pg_attribute c ON c.attrelid OPERATOR(pg_catalog.=) v.oid
        JOIN pg_catalog.pg_attribute d ON d.attrelid OPERATOR(pg_catalog.=) t.oid AND d.attname OPERATOR(pg_catalog.=) c.attname AND d.attnum OPERATOR(pg_catalog.>) 0
    LOOP
        EXECUTE comment;
    END LOOP;
END
$columns$;
