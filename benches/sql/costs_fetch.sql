\set user :base + random(0, 15) * 1000000 + random(1, :users)
SELECT CASE WHEN set_config('app.current_user_id', md5(:user::text)::uuid::text, true) IS NOT NULL THEN vault_get_master_key() END;
