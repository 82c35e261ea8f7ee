-- The new function comes first: a server that has not been restarted since the installation still runs the old library, which
-- does not have it.
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

-- Remove wraps from pg_statistic, and keep them out of it.
ALTER TABLE vault_ext.encryption_vaults ALTER wrapped_mk SET STATISTICS 0, ALTER wrap_iv SET STATISTICS 0;
DELETE FROM pg_catalog.pg_statistic s USING pg_catalog.pg_attribute a
    WHERE s.starelid OPERATOR(pg_catalog.=) 'vault_ext.encryption_vaults'::pg_catalog.regclass::pg_catalog.oid
    AND a.attrelid OPERATOR(pg_catalog.=) s.starelid AND a.attnum OPERATOR(pg_catalog.=) s.staattnum
    AND a.attname::pg_catalog.text OPERATOR(pg_catalog.=) ANY (ARRAY['wrapped_mk', 'wrap_iv']);

-- Every operand has exactly the type that PostgreSQL's own operator takes. With any other type, an operator that somebody had
-- created in the target schema beforehand could be a better match, and would run with the rights of whoever reads the view.
CREATE OR REPLACE VIEW vault_ext.rewrap_progress AS
    SELECT started_at, pid, db_role, kek_id, total, done, skipped, failed,
        CASE
            WHEN outcome IS NOT NULL THEN outcome
            WHEN pg_is_in_recovery() THEN 'see primary'
            WHEN started_at > pg_postmaster_start_time()
                AND EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = r.pid) THEN 'running'
            ELSE 'interrupted'
        END AS state,
        round(done::numeric / nullif(extract(epoch FROM coalesce(ended_at, clock_timestamp()) - started_at), 0::numeric)) AS per_second,
        CASE WHEN outcome IS NULL AND done > 0 THEN
            started_at + (clock_timestamp() - started_at) * (greatest(total - failed, done)::double precision / done::double precision)
        END AS estimated_end,
        ended_at
    FROM vault_ext.rewraps r ORDER BY started_at DESC;

-- 0.1.0 did not revoke what ALTER DEFAULT PRIVILEGES had granted on each new object. Privileges that existed when the extension
-- was installed are on record, and are revoked here. A table on which 0.1.0 itself granted nothing has no such record: there
-- these privileges cannot be told from those that were granted on purpose later, and are left to the administrator. No other
-- privilege is changed: after a GRANT or REVOKE in this script, pg_dump would take all privileges on that object for the
-- extension's own.
DO $others$
DECLARE
    other record;
BEGIN
    FOR other IN
        WITH object (name, classid, objid, owner, acl) AS (
            SELECT 'SCHEMA vault_ext', 'pg_catalog.pg_namespace'::pg_catalog.regclass::pg_catalog.oid, n.oid, n.nspowner, n.nspacl
            FROM pg_catalog.pg_namespace n WHERE n.oid OPERATOR(pg_catalog.=) 'vault_ext'::pg_catalog.regnamespace::pg_catalog.oid
            UNION ALL
            SELECT pg_catalog.format('%s %s', CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::pg_catalog.regclass),
                'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid, c.oid, c.relowner, c.relacl
            FROM pg_catalog.pg_class c WHERE c.relnamespace OPERATOR(pg_catalog.=) 'vault_ext'::pg_catalog.regnamespace::pg_catalog.oid
            UNION ALL
            SELECT pg_catalog.format('ROUTINE %s', p.oid::pg_catalog.regprocedure), d.classid, p.oid, p.proowner, p.proacl
            FROM pg_catalog.pg_proc p
            JOIN pg_catalog.pg_depend d ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid
                AND d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'
            JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid AND e.extname OPERATOR(pg_catalog.=) 'vault_ext'
        )
        SELECT DISTINCT o.name, i.objoid IS NOT NULL AS is_recorded,
            CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC' ELSE a.grantee::pg_catalog.regrole::pg_catalog.text END AS grantee
        FROM object o
        LEFT JOIN pg_catalog.pg_init_privs i ON i.classoid OPERATOR(pg_catalog.=) o.classid
            AND i.objoid OPERATOR(pg_catalog.=) o.objid AND i.objsubid OPERATOR(pg_catalog.=) 0,
            pg_catalog.aclexplode(o.acl) a
        WHERE a.grantee OPERATOR(pg_catalog.<>) o.owner
        AND (a.grantee OPERATOR(pg_catalog.=) 0 OR a.grantee::pg_catalog.regrole::pg_catalog.text OPERATOR(pg_catalog.<>)
            ALL (ARRAY['vault_ext_user', 'vault_ext_admin', 'vault_ext_auditor']))
        AND (i.objoid IS NULL OR EXISTS (
            SELECT FROM pg_catalog.aclexplode(i.initprivs) r WHERE r.grantee OPERATOR(pg_catalog.=) a.grantee))
    LOOP
        IF other.is_recorded THEN
            EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM %s', other.name, other.grantee);
        ELSE
            RAISE WARNING '% has privileges on %', other.grantee, other.name
                USING HINT = pg_catalog.format('If ALTER DEFAULT PRIVILEGES gave them and nobody needs them: REVOKE ALL ON %s FROM %s.', other.name, other.grantee);
        END IF;
    END LOOP;
END
$others$;
