-- The roles. They are cluster-wide, so in a second database they already exist. An attacker could also have created a role
-- with one of these names first. A role that can log in, is a superuser or bypasses row-level security would defeat the
-- whole design, so such a role is refused and nothing is installed.
DO $roles$
DECLARE
    name text;
    purpose text;
    role record;
BEGIN
    IF pg_catalog.getdatabaseencoding() OPERATOR(pg_catalog.<>) 'UTF8' THEN
        RAISE EXCEPTION 'vault_ext needs a database in UTF8, this one is in %', pg_catalog.getdatabaseencoding()
            USING ERRCODE = 'feature_not_supported',
                  HINT = 'Create a database with ENCODING ''UTF8'' TEMPLATE template0 and install vault_ext there.';
    END IF;

    FOR name, purpose IN VALUES
        ('vault_ext_owner', 'owns the objects of vault_ext; is granted to nobody'),
        ('vault_ext_user', 'applications: fetch, rotate, use and seal the key of the current user'),
        ('vault_ext_crypt', 'applications that use the key of the current user in SQL and never get it'),
        ('vault_ext_admin', 'administrators of the vault: KEKs, erasures, moves, purges; see no key and no wrap'),
        ('vault_ext_auditor', 'auditors: read and verify the audit trail; see no key and no wrap'),
        ('vault_ext_grantor', 'people who give, approve and revoke grants for users; see no key'),
        ('vault_ext_service', 'services that fetch the keys of users who have granted that')
    LOOP
        SELECT r.* INTO role FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) name;
        IF NOT FOUND THEN
            EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', name);
        ELSIF role.rolcanlogin OR role.rolsuper OR role.rolbypassrls OR role.rolcreaterole OR role.rolreplication THEN
            RAISE EXCEPTION 'role "%" already exists and is not suitable for vault_ext', name
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      DETAIL = 'It may have LOGIN, SUPERUSER, BYPASSRLS, CREATEROLE or REPLICATION; vault_ext needs none of them.',
                      HINT = pg_catalog.format('Rename that role, or ALTER ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOREPLICATION after making sure who created it.', name);
        END IF;
        -- The roles outlive the extension and are shared by all databases, so an administrator's own comment stays.
        IF pg_catalog.shobj_description(name::pg_catalog.regrole::pg_catalog.oid, 'pg_authid') IS NULL THEN
            EXECUTE pg_catalog.format('COMMENT ON ROLE %I IS %L', name, purpose);
        END IF;
    END LOOP;

    PERFORM FROM pg_catalog.pg_auth_members m
      WHERE m.roleid OPERATOR(pg_catalog.=) 'vault_ext_owner'::pg_catalog.regrole::pg_catalog.oid
         OR m.member OPERATOR(pg_catalog.=) 'vault_ext_owner'::pg_catalog.regrole::pg_catalog.oid;
    IF FOUND THEN
        RAISE EXCEPTION 'role "vault_ext_owner" has members or is a member of another role'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = 'A member of vault_ext_owner could read every wrap and write the audit trail.',
                  HINT = 'REVOKE these memberships: vault_ext_owner is granted to nobody.';
    END IF;

    PERFORM FROM pg_catalog.pg_namespace n WHERE n.nspname OPERATOR(pg_catalog.=) 'vault_ext';
    IF FOUND THEN
        RAISE EXCEPTION 'schema "vault_ext" already exists'
            USING ERRCODE = 'duplicate_schema',
                  HINT = 'Rename or drop it: vault_ext installs only into a schema that it has created itself.';
    END IF;
END
$roles$;

CREATE SCHEMA vault_ext AUTHORIZATION vault_ext_owner;
COMMENT ON SCHEMA vault_ext IS 'tables, views and inner functions of the extension vault_ext; what applications call is in the schema that CREATE EXTENSION chose';
