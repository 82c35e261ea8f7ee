-- What monitoring needs in a database with vault_ext. Run it as a superuser, once in each such database; to run it again does no harm.

-- Debian's exporters run as the operating system's user `prometheus`, who logs in as this role without a password, by the socket.
DO $role$
BEGIN
    CREATE ROLE prometheus LOGIN;
EXCEPTION WHEN duplicate_object THEN NULL;
END
$role$;
GRANT pg_monitor TO prometheus;
-- Where something locks the trail, the queries that read it fail, and the others still say so.
ALTER ROLE prometheus SET lock_timeout = '300ms';

-- Who opens every vault at night (check.sql). It gets no key, and nobody logs in as this role.
DO $role$
BEGIN
    CREATE ROLE vault_checker;
EXCEPTION WHEN duplicate_object THEN NULL;
END
$role$;
GRANT vault_ext_admin TO vault_checker;

CREATE SCHEMA IF NOT EXISTS vault_monitoring AUTHORIZATION vault_checker;
CREATE TABLE IF NOT EXISTS vault_monitoring.checks (
    checked_at timestamptz NOT NULL,
    kek_id text NOT NULL,
    outcome text NOT NULL,
    vaults bigint NOT NULL,
    old_keys bigint NOT NULL
);
ALTER TABLE vault_monitoring.checks OWNER TO vault_checker;
GRANT USAGE ON SCHEMA vault_monitoring TO pg_monitor;
GRANT SELECT ON vault_monitoring.checks TO pg_monitor;
