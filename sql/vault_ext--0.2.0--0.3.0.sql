-- The new functions come first: a server that was not restarted since the installation still runs the old library, which lacks
-- them.
DO $library$
BEGIN
    CREATE FUNCTION vault_health(
        OUT ok boolean, OUT problem text, OUT hint text, OUT writer_pid integer, OUT blocked_by integer[], OUT queued bigint,
        OUT last_written_at timestamptz, OUT last_error_at timestamptz, OUT last_error text)
        LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_health_wrapper';
    CREATE FUNCTION vault_rename_user(old_user_id text, new_user_id text) RETURNS void
        LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'vault_rename_user_wrapper';
EXCEPTION WHEN undefined_function THEN
    RAISE EXCEPTION 'the server still runs an older library of vault_ext'
        USING ERRCODE = 'object_not_in_prerequisite_state',
              HINT = 'Restart the server, then run ALTER EXTENSION vault_ext UPDATE again.';
END
$library$;
COMMENT ON FUNCTION vault_health() IS 'whether keys can be released now: tries to write an audit row and takes it back; last_error is the SQLSTATE of the audit writer''s last failure';
ALTER FUNCTION vault_health() OWNER TO vault_ext_owner;
COMMENT ON FUNCTION vault_rename_user(text, text) IS 'gives the vault of one user, with its key, to another user id; refused where that one has a vault';
ALTER FUNCTION vault_rename_user(text, text) OWNER TO vault_ext_owner;

-- What ALTER DEFAULT PRIVILEGES gave away with the new functions is taken back.
DO $nobody$
DECLARE
    revoke text;
BEGIN
    FOR revoke IN
        SELECT DISTINCT pg_catalog.format('REVOKE ALL ON ROUTINE %s FROM %s', p.oid::pg_catalog.regprocedure,
            CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC' ELSE a.grantee::pg_catalog.regrole::pg_catalog.text END)
        FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(COALESCE(p.proacl, pg_catalog.acldefault('f'::pg_catalog."char", p.proowner))) a
        WHERE p.oid OPERATOR(pg_catalog.=) ANY (ARRAY['vault_health()'::pg_catalog.regprocedure::pg_catalog.oid,
            'vault_rename_user(text, text)'::pg_catalog.regprocedure::pg_catalog.oid])
        AND a.grantee OPERATOR(pg_catalog.<>) p.proowner
    LOOP
        EXECUTE revoke;
    END LOOP;
END
$nobody$;
GRANT EXECUTE ON FUNCTION vault_health() TO vault_ext_user, vault_ext_admin, vault_ext_auditor, pg_monitor;
GRANT EXECUTE ON FUNCTION vault_rename_user(text, text) TO vault_ext_admin;

-- Comments in other words.
COMMENT ON FUNCTION vault_init() IS 'the master key of app.current_user_id, created if there is none; idempotent';
COMMENT ON FUNCTION vault_retire_kek(text) IS 'marks a KEK as retired: this database never wraps with it again; refused while a vault needs it; false if it was retired before';
COMMENT ON PROCEDURE vault_rewrap(integer, bigint, bigint, bigint) IS 'rewraps every vault that is not under the active KEK, in batches that are committed separately; call it again after an interruption';
COMMENT ON FUNCTION vault_version() IS 'the versions of the server''s library and of this database''s SQL, and what to do if they differ';
COMMENT ON TABLE vault_ext.rewraps IS 'one row per CALL of vault_rewrap(), updated with each batch; read it through vault_ext.rewrap_progress';
