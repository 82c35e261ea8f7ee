\set n :n + 1
\set user :base + :client_id * 1000000 + :n
SELECT CASE WHEN set_config('app.current_user_id', md5(:user::text)::uuid::text, true) IS NOT NULL THEN vault_init() END;
