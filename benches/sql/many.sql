\set user 100000000000000000 + random(1, :users - 99)
SELECT * FROM vault_get_master_keys(ARRAY(SELECT (:user::bigint + n)::text FROM generate_series(0::bigint, 99) n));
