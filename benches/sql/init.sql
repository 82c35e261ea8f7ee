\set user 200000000000000000 + random(1, 99999999999999999)
BEGIN;
SELECT set_config('app.current_user_id', :user, true);
SELECT * FROM vault_init();
COMMIT;
