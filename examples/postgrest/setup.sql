-- What PostgREST serves. A superuser runs this once, after ../schema.sql.

-- PostgREST logs in as authenticator and takes the role that the token names, or web_anon. It has the password of my_app here; give it one of
-- its own: \password authenticator
DO $$ BEGIN
    EXECUTE format('CREATE ROLE authenticator LOGIN NOINHERIT PASSWORD %L', (SELECT rolpassword FROM pg_authid WHERE rolname = 'my_app'));
END $$;
CREATE ROLE web_anon NOLOGIN;
GRANT web_anon, my_app TO authenticator;

-- Runs at the start of each request's transaction, after PostgREST has verified the token.
CREATE SCHEMA private;
CREATE FUNCTION private.pre_request() RETURNS void LANGUAGE sql AS $$
    SELECT set_config('app.current_user_id', coalesce(current_setting('request.jwt.claims', true)::json ->> 'sub', ''), true),
           set_config('app.request_id', coalesce(current_setting('request.headers', true)::json ->> 'x-request-id', ''), true)
$$;
GRANT USAGE ON SCHEMA private TO my_app, web_anon;

CREATE SCHEMA api;
GRANT USAGE ON SCHEMA api TO my_app; -- and not to web_anon: PostgREST answers 401 if a request without a token gets 42501
ALTER DEFAULT PRIVILEGES IN SCHEMA api REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- PostgREST answers 500 to P0002 and 403 to 28000. PT404 is how SQL asks it for 404.
CREATE FUNCTION api.vault_get_master_key() RETURNS vault_key LANGUAGE plpgsql AS $$
BEGIN
    RETURN public.vault_get_master_key();
EXCEPTION WHEN no_data_found OR invalid_authorization_specification THEN
    RAISE USING ERRCODE = CASE SQLSTATE WHEN 'P0002' THEN 'PT404' ELSE 'PT401' END, MESSAGE = SQLERRM;
END $$;

CREATE FUNCTION api.vault_init() RETURNS vault_key
    BEGIN ATOMIC SELECT * FROM public.vault_init(); END;

CREATE FUNCTION api.vault_get_key_version(version integer) RETURNS vault_key
    BEGIN ATOMIC SELECT * FROM public.vault_get_key_version(version); END;

-- A browser can encrypt with the key that it gets (../postgraphile/client.mjs). Or SQL does, as here, and the key stays in the server.
CREATE FUNCTION api.add_note(note text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM public.vault_create(); -- on first use
    INSERT INTO public.notes (body, key_version)
        SELECT public.vault_client_blob(to_jsonb(note)), key_version FROM public.vault_status();
END $$;

CREATE FUNCTION api.notes() RETURNS SETOF text STABLE
    BEGIN ATOMIC SELECT public.vault_open_client_blob(body, key_version) #>> '{}' FROM public.notes ORDER BY id; END;

CREATE FUNCTION api.rotate() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    version integer := public.vault_create_key_version();
BEGIN
    UPDATE public.notes
        SET body = public.vault_client_blob(public.vault_open_client_blob(body, key_version)), key_version = version;
END $$;

GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA api TO my_app;
