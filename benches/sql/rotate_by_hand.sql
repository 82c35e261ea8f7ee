\set user 100000000000000000 + random(1, :users)
BEGIN;
UPDATE bench.plain_vaults SET wrapped_mk = 'EkoYuy/eugLj+TUwymd4xT07qypjikNu+XfObRXpLsp1LPM+pXxISRohaJtl0f9/', wrap_iv = 'EBESExQVFhcYGRobEBESExQVFhcYGRob', format_version = 2, kek_id = 'bench-1', key_version = key_version + 1, rotated_at = clock_timestamp() WHERE user_id = :user;
INSERT INTO bench.audit (user_id, action, status, kek_id, key_version, db_role, ip_address, user_agent, request_id, context, created_at) VALUES (:user, 'rotate', 200, 'bench-1', 1, 'bench_app', NULL, NULL, NULL, NULL, clock_timestamp());
COMMIT;
