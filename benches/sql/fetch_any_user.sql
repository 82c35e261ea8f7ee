\set user 100000000000000000 + random(1, :users)
SELECT CASE WHEN set_config('app.current_user_id', :user, true) IS NOT NULL THEN vault_get_master_key() END;
