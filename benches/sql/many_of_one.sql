\set user 100000000000000000 + random(1, :users)
SELECT * FROM vault_get_master_keys(ARRAY[:user::text]);
