\set user 100000000000000000 + random(1, :users)
BEGIN;
SELECT set_config('app.current_user_id', :user, true);
SELECT wrapped_mk, wrap_iv, format_version, kek_id, key_version FROM bench.vaults WHERE user_id = :user;
INSERT INTO bench.audit (user_id, action, status, kek_id, key_version, db_role, ip_address, user_agent, request_id, context, created_at) VALUES (:user, 'fetch', 200, 'bench-1', 1, 'bench_app', NULL, NULL, NULL, NULL, clock_timestamp());
COMMIT;
