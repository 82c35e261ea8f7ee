-- Does the writes of vault_rewrap() without any cryptography: the same rows, batches and commits.
CREATE SCHEMA bench;
CREATE PROCEDURE bench.rewrap_by_hand(batch_size integer) LANGUAGE plpgsql AS $$
DECLARE
    last text COLLATE "C" := '';
BEGIN
    LOOP
        WITH batch AS (
            SELECT user_id FROM vault_ext.encryption_vaults
            WHERE user_id > last AND (kek_id <> 'bench-1' OR format_version < 2) ORDER BY user_id LIMIT batch_size
        ), done AS (
            UPDATE vault_ext.encryption_vaults v
            SET wrapped_mk = 'EkoYuy/eugLj+TUwymd4xT07qypjikNu+XfObRXpLsp1LPM+pXxISRohaJtl0f9/',
                wrap_iv = 'EBESExQVFhcYGRobEBESExQVFhcYGRob', format_version = 2, kek_id = 'bench-1'
            FROM batch WHERE v.user_id = batch.user_id RETURNING v.user_id
        )
        SELECT max(user_id) INTO last FROM done;
        COMMIT;
        EXIT WHEN last IS NULL;
    END LOOP;
END
$$;
