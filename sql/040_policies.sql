-- FORCE applies row-level security to vault_ext_owner too, and so to every function of the vault.
ALTER TABLE vault_ext.encryption_vaults ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE vault_ext.encryption_vault_audit ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;

-- A user's own row, reached through the vault's functions and views alone: these run as vault_ext_owner. For every other role that
-- may use the tables, such as pg_write_all_data, there are no rows.
CREATE POLICY encryption_vaults_user_isolation ON vault_ext.encryption_vaults
    FOR SELECT TO vault_ext_owner USING (user_id = vault_ext.current_user_id());
CREATE POLICY encryption_vaults_user_isolation_insert ON vault_ext.encryption_vaults
    FOR INSERT TO vault_ext_owner WITH CHECK (user_id = vault_ext.current_user_id());
CREATE POLICY encryption_vaults_user_isolation_update ON vault_ext.encryption_vaults
    FOR UPDATE TO vault_ext_owner USING (user_id = vault_ext.current_user_id())
    WITH CHECK (user_id = vault_ext.current_user_id());

-- The vault's own maintenance: erasing an account, importing one, finding the rows of a KEK, rewrapping them. PostgreSQL evaluates policies in
-- reverse order of their names. These names sort last, so that for millions of rows the cheap policy is evaluated before the
-- expensive one.
CREATE POLICY encryption_vaults_vault_maintenance ON vault_ext.encryption_vaults
    FOR SELECT TO vault_ext_owner USING (vault_ext.in_maintenance());
CREATE POLICY encryption_vaults_vault_maintenance_insert ON vault_ext.encryption_vaults
    FOR INSERT TO vault_ext_owner WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY encryption_vaults_vault_maintenance_update ON vault_ext.encryption_vaults
    FOR UPDATE TO vault_ext_owner USING (vault_ext.in_maintenance()) WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY encryption_vaults_vault_maintenance_delete ON vault_ext.encryption_vaults
    FOR DELETE TO vault_ext_owner USING (vault_ext.in_maintenance());

-- The trail: only the audit writer writes it. Auditors read all of it; users read their own rows through the view below.
CREATE POLICY encryption_vault_audit_user_isolation ON vault_ext.encryption_vault_audit
    FOR SELECT TO vault_ext_owner USING (user_id = vault_ext.current_user_id());
CREATE POLICY encryption_vault_audit_auditor ON vault_ext.encryption_vault_audit
    FOR SELECT TO vault_ext_auditor USING (true);
CREATE POLICY encryption_vault_audit_writer ON vault_ext.encryption_vault_audit
    FOR INSERT TO vault_ext_owner WITH CHECK (vault_ext.is_audit_writer());
CREATE POLICY encryption_vault_audit_maintenance ON vault_ext.encryption_vault_audit
    FOR SELECT TO vault_ext_owner USING (vault_ext.in_maintenance());
CREATE POLICY encryption_vault_audit_maintenance_delete ON vault_ext.encryption_vault_audit
    FOR DELETE TO vault_ext_owner USING (vault_ext.in_maintenance());
-- Redaction.
CREATE POLICY encryption_vault_audit_maintenance_update ON vault_ext.encryption_vault_audit
    FOR UPDATE TO vault_ext_owner USING (vault_ext.in_maintenance()) WITH CHECK (vault_ext.in_maintenance());

ALTER TABLE vault_ext.grants ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
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

ALTER TABLE vault_ext.old_keys ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
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

ALTER TABLE vault_ext.database_keys ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY database_keys_vault_maintenance ON vault_ext.database_keys
    FOR SELECT TO vault_ext_owner USING (vault_ext.in_maintenance());
CREATE POLICY database_keys_vault_maintenance_insert ON vault_ext.database_keys
    FOR INSERT TO vault_ext_owner WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY database_keys_vault_maintenance_update ON vault_ext.database_keys
    FOR UPDATE TO vault_ext_owner USING (vault_ext.in_maintenance()) WITH CHECK (vault_ext.in_maintenance());

ALTER TABLE vault_ext.erasures ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY erasures_vault_maintenance ON vault_ext.erasures
    FOR SELECT TO vault_ext_owner USING (vault_ext.in_maintenance());
CREATE POLICY erasures_vault_maintenance_insert ON vault_ext.erasures
    FOR INSERT TO vault_ext_owner WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY erasures_vault_maintenance_update ON vault_ext.erasures
    FOR UPDATE TO vault_ext_owner USING (vault_ext.in_maintenance()) WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY erasures_reader ON vault_ext.erasures
    FOR SELECT TO vault_ext_admin, vault_ext_auditor USING (true);

ALTER TABLE vault_ext.honey_users ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
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

-- The tree: the vault's own code reads and writes it, and auditors read it.
ALTER TABLE vault_ext.audit_trails ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY audit_trails_maintenance ON vault_ext.audit_trails
    FOR SELECT TO vault_ext_owner USING (vault_ext.in_maintenance());
CREATE POLICY audit_trails_maintenance_insert ON vault_ext.audit_trails
    FOR INSERT TO vault_ext_owner WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY audit_trails_auditor ON vault_ext.audit_trails
    FOR SELECT TO vault_ext_auditor USING (true);

ALTER TABLE vault_ext.audit_tiles ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY audit_tiles_maintenance ON vault_ext.audit_tiles
    FOR SELECT TO vault_ext_owner USING (vault_ext.in_maintenance());
CREATE POLICY audit_tiles_maintenance_insert ON vault_ext.audit_tiles
    FOR INSERT TO vault_ext_owner WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY audit_tiles_maintenance_delete ON vault_ext.audit_tiles
    FOR DELETE TO vault_ext_owner USING (vault_ext.in_maintenance());
CREATE POLICY audit_tiles_auditor ON vault_ext.audit_tiles
    FOR SELECT TO vault_ext_auditor USING (true);

ALTER TABLE vault_ext.audit_checkpoints ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY audit_checkpoints_maintenance ON vault_ext.audit_checkpoints
    FOR SELECT TO vault_ext_owner USING (vault_ext.in_maintenance());
CREATE POLICY audit_checkpoints_maintenance_insert ON vault_ext.audit_checkpoints
    FOR INSERT TO vault_ext_owner WITH CHECK (vault_ext.in_maintenance());
CREATE POLICY audit_checkpoints_reader ON vault_ext.audit_checkpoints
    FOR SELECT TO vault_ext_auditor, pg_monitor USING (true);

-- Uses are the rows of the trail: a rollback does not take them back.
CREATE VIEW vault_ext.own_grants WITH (security_barrier) AS
    SELECT g.id, g.grantee, g.not_before, g.expires_at, g.max_uses,
        (SELECT count(*) FROM vault_ext.encryption_vault_audit a
            WHERE a.grant_id = g.id AND a.user_id = g.user_id AND a.action = 'fetch' AND a.status = 200) AS uses,
        g.reason, g.granted_by, g.approved_by, g.revoked_at, g.revoked_by, g.created_at
    FROM vault_ext.grants g
    WHERE g.user_id = vault_ext.current_user_id();
COMMENT ON VIEW vault_ext.own_grants IS 'the grants of the user';
COMMENT ON COLUMN vault_ext.own_grants.uses IS 'how often the grant was used';
ALTER VIEW vault_ext.own_grants OWNER TO vault_ext_owner;

CREATE VIEW vault_ext.own_audit WITH (security_barrier) AS
    SELECT id, action, status, kek_id, key_version, db_role, ip_address, user_agent, request_id, context, created_at,
        identity, issuer, token_id, token_kid, actor, grant_id, login_role, application_name, leaf
    FROM vault_ext.encryption_vault_audit
    -- These would tell a thief which users are watched.
    WHERE user_id = vault_ext.current_user_id() AND action <> 'alarm'::text AND action <> 'mark_honey'::text;
COMMENT ON VIEW vault_ext.own_audit IS 'the audit rows of the user';
ALTER VIEW vault_ext.own_audit OWNER TO vault_ext_owner;

-- Where the server's mode is overruled: a superuser may have left a database or a role with a weaker one.
CREATE VIEW vault_ext.identity_modes AS
    SELECT d.datname::text AS database, r.rolname::text AS role, split_part(c.setting, '=', 2) AS identity
    FROM pg_db_role_setting s
        CROSS JOIN LATERAL unnest(s.setconfig) c (setting)
        LEFT JOIN pg_database d ON d.oid = s.setdatabase
        LEFT JOIN pg_roles r ON r.oid = s.setrole
    WHERE split_part(c.setting, '=', 1) = 'vault_ext.identity';
COMMENT ON VIEW vault_ext.identity_modes IS 'what ALTER DATABASE and ALTER ROLE have set vault_ext.identity to; NULL stands for every database or role';
COMMENT ON COLUMN vault_ext.identity_modes.database IS 'the database that the mode is set for; NULL stands for every one';
COMMENT ON COLUMN vault_ext.identity_modes.role IS 'the role that the mode is set for; NULL stands for every one';
COMMENT ON COLUMN vault_ext.identity_modes.identity IS 'the mode: asserted, token or role';
ALTER VIEW vault_ext.identity_modes OWNER TO vault_ext_owner;

CREATE VIEW vault_ext.stat AS SELECT * FROM vault_ext.action_stats();
COMMENT ON VIEW vault_ext.stat IS 'audited calls by database, action and status since the server started or the last vault_ext.stat_reset()';
COMMENT ON COLUMN vault_ext.stat.datid IS 'OID of the database; NULL for databases that share a place';
COMMENT ON COLUMN vault_ext.stat.datname IS 'name of the database; NULL if it was dropped';
COMMENT ON COLUMN vault_ext.stat.action IS 'what was called, as in the audit trail';
COMMENT ON COLUMN vault_ext.stat.status IS 'outcome, as in the audit trail; NULL if vault_ext does not use it itself';
COMMENT ON COLUMN vault_ext.stat.calls IS 'calls whose audit row was written';
COMMENT ON COLUMN vault_ext.stat.total_wait_time IS 'milliseconds that these calls waited for their audit rows in all';
COMMENT ON COLUMN vault_ext.stat.max_wait_time IS 'the longest of these waits, in milliseconds';
COMMENT ON COLUMN vault_ext.stat.stats_reset IS 'when vault_ext.stat_reset() was last called; NULL if never';
ALTER VIEW vault_ext.stat OWNER TO vault_ext_owner;

CREATE VIEW vault_ext.stat_wait AS SELECT * FROM vault_ext.wait_stats();
COMMENT ON VIEW vault_ext.stat_wait IS 'how many calls waited at most le milliseconds for their audit rows';
COMMENT ON COLUMN vault_ext.stat_wait.datid IS 'OID of the database; NULL for databases that share a place';
COMMENT ON COLUMN vault_ext.stat_wait.datname IS 'name of the database; NULL if it was dropped';
COMMENT ON COLUMN vault_ext.stat_wait.action IS 'what was called, as in the audit trail';
COMMENT ON COLUMN vault_ext.stat_wait.le IS 'upper bound of the wait, in milliseconds; the last one is Infinity';
COMMENT ON COLUMN vault_ext.stat_wait.calls IS 'calls that waited no longer, all lower bounds included';
ALTER VIEW vault_ext.stat_wait OWNER TO vault_ext_owner;

CREATE VIEW vault_ext.stat_writer AS SELECT * FROM vault_ext.writer_stats();
COMMENT ON VIEW vault_ext.stat_writer IS 'the audit writers by database, since the server started or the last vault_ext.stat_reset()';
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
ALTER VIEW vault_ext.stat_writer OWNER TO vault_ext_owner;

CREATE VIEW vault_ext.stat_alarms AS SELECT * FROM vault_ext.alarm_counters();
COMMENT ON VIEW vault_ext.stat_alarms IS 'users and failed calls of each login role in the last minute, where a limit counts them; alarms and refusals since the server started';
COMMENT ON COLUMN vault_ext.stat_alarms.database IS 'name of the database';
COMMENT ON COLUMN vault_ext.stat_alarms.role IS 'role that logged in';
COMMENT ON COLUMN vault_ext.stat_alarms.users_last_minute IS 'different users whose keys it asked for within the last minute';
COMMENT ON COLUMN vault_ext.stat_alarms.failures_last_minute IS 'its calls that failed within the last minute';
COMMENT ON COLUMN vault_ext.stat_alarms.alarms IS 'alarms that it raised since the server started';
COMMENT ON COLUMN vault_ext.stat_alarms.refused IS 'its calls that a limit refused since the server started';
ALTER VIEW vault_ext.stat_alarms OWNER TO vault_ext_owner;

CREATE VIEW vault_ext.audit_stats AS SELECT * FROM vault_ext.audit_counters();
COMMENT ON VIEW vault_ext.audit_stats IS 'counters of the audit writers since the server started, all databases together';
COMMENT ON COLUMN vault_ext.audit_stats.calls IS 'audit records that were submitted';
COMMENT ON COLUMN vault_ext.audit_stats.rows_written IS 'audit rows that were committed';
COMMENT ON COLUMN vault_ext.audit_stats.failures IS 'records that could not be written: their calls failed and released nothing';
COMMENT ON COLUMN vault_ext.audit_stats.batches IS 'transactions that wrote audit rows';
COMMENT ON COLUMN vault_ext.audit_stats.queued IS 'records that are not written yet';
COMMENT ON COLUMN vault_ext.audit_stats.longest_wait_us IS 'the longest wait for an audit row, in microseconds';
COMMENT ON COLUMN vault_ext.audit_stats.records_lost IS 'second rows of rolled-back changes that found no free slot';
COMMENT ON COLUMN vault_ext.audit_stats.writers_started IS 'audit writers that were started';
ALTER VIEW vault_ext.audit_stats OWNER TO vault_ext_owner;

-- Every operand has exactly the type that PostgreSQL's own operator takes. With any other type, an operator that somebody had
-- created in the target schema beforehand could be a better match, and would run with the rights of whoever reads the view.
CREATE VIEW vault_ext.rewrap_progress AS
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
COMMENT ON VIEW vault_ext.rewrap_progress IS 'the runs of vault_rewrap(), the newest first';
COMMENT ON COLUMN vault_ext.rewrap_progress.state IS 'running, interrupted or see primary, and the outcome once it has ended';
COMMENT ON COLUMN vault_ext.rewrap_progress.per_second IS 'keys rewrapped in a second, on average';
COMMENT ON COLUMN vault_ext.rewrap_progress.estimated_end IS 'when it will be done at this rate; NULL once it has ended';
ALTER VIEW vault_ext.rewrap_progress OWNER TO vault_ext_owner;

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
