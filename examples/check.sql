-- What must be true after the check of an example: what the application stored opens with the keys of the owners, and the trail has every
-- call.
\set ON_ERROR_STOP on
DO $$
DECLARE
    note record;
    expected text[] := ARRAY['alice 2 Buy milk', E'alice 2 Käse, 🧀 and "bread"\n\\', 'alice 2 Water the plants', 'bob 1 Feed the cat'];
    opened text[] := '{}';
BEGIN
    FOR note IN SELECT * FROM notes WHERE owner IN ('alice', 'bob') ORDER BY owner, id LOOP
        ASSERT note.body ~ '^enc:1:[A-Za-z0-9+/]{16}[.]', 'a note is no client blob';
        PERFORM set_config('app.current_user_id', note.owner, true);
        opened := opened || format('%s %s %s', note.owner, note.key_version, vault_open_client_blob(note.body, note.key_version) #>> '{}');
    END LOOP;
    ASSERT opened = expected, format('the notes are %s', opened);
    ASSERT (SELECT count(*) = 40 FROM notes WHERE owner LIKE 'user-%'), 'notes of the users in parallel are missing';
    ASSERT (SELECT count(DISTINCT split_part(body, '.', 1)) = count(*) FROM notes), 'an iv is used twice';
    -- 45 requests write.
    ASSERT (SELECT last_value >= 45 FROM watch.calls), 'the application sets the identity in another way than with set_config';
END $$;
CREATE FUNCTION pg_temp.rows(who text, what text, code integer, request text) RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM vault_ext.encryption_vault_audit
    WHERE user_id IS NOT DISTINCT FROM who AND action = what AND status = code AND request_id LIKE request AND db_role = 'my_app'
$$;
DO $$
BEGIN
    ASSERT pg_temp.rows('alice', 'init', 201, 'POST /notes by alice') = 1, 'alice: init';
    ASSERT pg_temp.rows('alice', 'fetch', 200, 'GET /notes by alice') >= 2, 'alice: fetch';
    ASSERT pg_temp.rows('alice', 'rotate', 200, 'POST /rotate by alice') = 1, 'alice: rotate';
    ASSERT pg_temp.rows('bob', 'failed_fetch', 404, 'GET /notes by bob') = 1, 'bob: no vault yet';
    ASSERT pg_temp.rows('bob', 'init', 201, 'POST /notes by bob') = 1, 'bob: init';
    ASSERT pg_temp.rows(NULL, 'failed_fetch', 401, '%') = 11, 'nobody: refused';
    ASSERT (SELECT count(DISTINCT user_id) = 20 FROM vault_ext.encryption_vault_audit
            WHERE user_id LIKE 'user-%' AND action = 'init' AND status = 201), 'the users in parallel: init';
    ASSERT NOT EXISTS (SELECT FROM vault_ext.encryption_vault_audit WHERE request_id NOT LIKE '% by ' || coalesce(user_id, 'None')),
        'a row has the request of another user';
END $$;
