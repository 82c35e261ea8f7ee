\set user 100000000000000000 + random(1, :users)
BEGIN;
SELECT set_config('app.current_user_id', :user, true);
SELECT * FROM vault_rotate();
COMMIT;
