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

-- Uses are the rows of the trail: a rollback does not take them back.
CREATE VIEW vault_ext.own_grants WITH (security_barrier) AS
    SELECT g.id, g.grantee, g.not_before, g.expires_at, g.max_uses,
        (SELECT count(*) FROM vault_ext.encryption_vault_audit a
            WHERE a.grant_id = g.id AND a.user_id = g.user_id AND a.action = 'fetch' AND a.status = 200) AS uses,
        g.reason, g.granted_by, g.approved_by, g.revoked_at, g.revoked_by, g.created_at
    FROM vault_ext.grants g
    WHERE g.user_id = vault_ext.current_user_id();
COMMENT ON VIEW vault_ext.own_grants IS 'the grants of the user';
ALTER VIEW vault_ext.own_grants OWNER TO vault_ext_owner;

CREATE VIEW vault_ext.own_audit WITH (security_barrier) AS
    SELECT id, action, status, kek_id, key_version, db_role, ip_address, user_agent, request_id, context, created_at,
        identity, issuer, token_id, token_kid, actor, grant_id
    FROM vault_ext.encryption_vault_audit
    WHERE user_id = vault_ext.current_user_id();
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
ALTER VIEW vault_ext.identity_modes OWNER TO vault_ext_owner;

CREATE VIEW vault_ext.audit_stats AS SELECT * FROM vault_ext.audit_counters();
COMMENT ON VIEW vault_ext.audit_stats IS 'counters of the audit writers since the server started, all databases together';
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
ALTER VIEW vault_ext.rewrap_progress OWNER TO vault_ext_owner;
