-- What GraphQL shows of the vault. PostGraphile leaves out what belongs to an extension, and functions that share a name, so these functions
-- stand for the extension's. STABLE makes a query of a function; without it, it is a mutation. A superuser runs this once, after
-- ../schema.sql.
CREATE SCHEMA api;
GRANT USAGE ON SCHEMA api TO my_app;
CREATE TYPE api.vault AS (master_key text, key_version integer);

CREATE FUNCTION api.vault() RETURNS api.vault STABLE
    BEGIN ATOMIC SELECT master_key, key_version FROM vault_get_master_key(); END;
CREATE FUNCTION api.old_vault(version integer) RETURNS api.vault STABLE
    BEGIN ATOMIC SELECT master_key, key_version FROM vault_get_key_version(version); END;
CREATE FUNCTION api.init_vault() RETURNS api.vault
    BEGIN ATOMIC SELECT master_key, key_version FROM vault_init(); END;

-- The browser cannot encrypt in the middle of a transaction, so the server re-encrypts the notes.
CREATE FUNCTION api.rotate_vault() RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    version integer := vault_create_key_version();
BEGIN
    UPDATE notes SET body = vault_client_blob(vault_open_client_blob(body, key_version)), key_version = version;
    RETURN version;
END $$;
