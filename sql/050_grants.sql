-- This file grants all privileges on the vault's objects; PUBLIC gets none.
-- It first revokes what ALTER DEFAULT PRIVILEGES, set for other purposes, has granted on each new object.
DO $nobody$
DECLARE
    revoke text;
BEGIN
    FOR revoke IN
        WITH object (name, owner, acl) AS (
            SELECT 'SCHEMA vault_ext', n.nspowner, n.nspacl
            FROM pg_catalog.pg_namespace n WHERE n.oid OPERATOR(pg_catalog.=) 'vault_ext'::pg_catalog.regnamespace::pg_catalog.oid
            UNION ALL
            SELECT pg_catalog.format('%s %s', CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::pg_catalog.regclass),
                c.relowner, c.relacl
            FROM pg_catalog.pg_class c WHERE c.relnamespace OPERATOR(pg_catalog.=) 'vault_ext'::pg_catalog.regnamespace::pg_catalog.oid
            UNION ALL
            SELECT pg_catalog.format('ROUTINE %s', p.oid::pg_catalog.regprocedure), p.proowner, p.proacl
            FROM pg_catalog.pg_proc p
            JOIN pg_catalog.pg_depend d ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid
                AND d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'
            JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid AND e.extname OPERATOR(pg_catalog.=) 'vault_ext'
        )
        SELECT DISTINCT pg_catalog.format('REVOKE ALL ON %s FROM %s', o.name,
            CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC' ELSE a.grantee::pg_catalog.regrole::pg_catalog.text END)
        FROM object o, pg_catalog.aclexplode(o.acl) a WHERE a.grantee OPERATOR(pg_catalog.<>) o.owner
    LOOP
        EXECUTE revoke;
    END LOOP;
END
$nobody$;

REVOKE ALL ON SCHEMA vault_ext FROM PUBLIC;
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
-- The policies behind that view call these functions with the rights of whoever reads the view. In a user's own SQL the first one
-- always returns false.
GRANT EXECUTE ON FUNCTION vault_ext.in_maintenance(), vault_ext.current_user_id() TO vault_ext_user, vault_ext_crypt;
-- Whoever writes rows past row-level security, as an import by a role with BYPASSRLS does, has to be able to check them.
GRANT EXECUTE ON FUNCTION vault_ext.is_sound_vault(text, text, text, smallint, text, integer, text, text, timestamptz, boolean, text, timestamptz),
    vault_ext.is_sound_old_key(text, integer, text, text, smallint, text, text, timestamptz, timestamptz) TO pg_write_all_data;

GRANT EXECUTE ON FUNCTION vault_erase(text), vault_rename_user(text, text), vault_erase_on_delete(), vault_purge_audit(interval) TO vault_ext_admin;
GRANT EXECUTE ON FUNCTION vault_schedule_erase(text, interval, text), vault_cancel_erase(text) TO vault_ext_admin;
GRANT EXECUTE ON PROCEDURE vault_destroy_due(integer, bigint, bigint) TO vault_ext_admin;
GRANT EXECUTE ON FUNCTION vault_erasure_status(text) TO vault_ext_admin, vault_ext_auditor;
GRANT EXECUTE ON FUNCTION vault_import_key(), vault_export(text, text, text), vault_import(text) TO vault_ext_admin;
GRANT EXECUTE ON FUNCTION vault_reload_kek(boolean), vault_retire_kek(text), vault_kek_status(), vault_check(integer) TO vault_ext_admin;
GRANT EXECUTE ON PROCEDURE vault_rewrap(integer, bigint, bigint, bigint) TO vault_ext_admin;
GRANT EXECUTE ON FUNCTION vault_reload_issuers(), vault_identity_status(), vault_revoke_tokens(text, timestamptz), vault_explain_token(text) TO vault_ext_admin;
GRANT EXECUTE ON FUNCTION vault_version() TO vault_ext_admin;
GRANT SELECT ON vault_ext.keks, vault_ext.audit_stats, vault_ext.rewrap_progress TO vault_ext_admin;

GRANT SELECT ON vault_ext.encryption_vault_audit, vault_ext.keks, vault_ext.audit_stats TO vault_ext_auditor;
-- The functions of a view are called with the rights of whoever reads the view.
GRANT EXECUTE ON FUNCTION vault_ext.audit_counters() TO vault_ext_admin, vault_ext_auditor;

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
GRANT EXECUTE ON FUNCTION vault_ext.nodes() TO vault_ext_admin, vault_ext_auditor, pg_monitor;
GRANT EXECUTE ON FUNCTION vault_ext.audit_of_nodes(timestamptz, timestamptz) TO vault_ext_auditor;
