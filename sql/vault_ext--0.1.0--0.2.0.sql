-- The new function comes first: a server that was not restarted since the installation still runs the old library, which
-- lacks it.
DO $library$
BEGIN
    CREATE FUNCTION vault_version(OUT library_version text, OUT sql_version text, OUT hint text)
        LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'vault_version_wrapper';
EXCEPTION WHEN undefined_function THEN
    RAISE EXCEPTION 'the server still runs an older library of vault_ext'
        USING ERRCODE = 'object_not_in_prerequisite_state',
              HINT = 'Restart the server, then run ALTER EXTENSION vault_ext UPDATE again.';
END
$library$;
COMMENT ON FUNCTION vault_version() IS 'the versions of the server''s library and of this database''s SQL, and what to do where they differ';
ALTER FUNCTION vault_version() OWNER TO vault_ext_owner;
REVOKE ALL ON FUNCTION vault_version() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vault_version() TO vault_ext_admin;
