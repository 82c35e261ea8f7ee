\set user 200000000000000000 + random(1, 99999999999999999)
BEGIN;
INSERT INTO bench.plain_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_version) VALUES (:user, 'EkoYuy/eugLj+TUwymd4xT07qypjikNu+XfObRXpLsp1LPM+pXxISRohaJtl0f9/', 'EBESExQVFhcYGRobEBESExQVFhcYGRob', 2, 'bench-1', 1);
INSERT INTO bench.audit (user_id, action, status, kek_id, key_version, db_role, ip_address, user_agent, request_id, context, created_at) VALUES (:user, 'init', 201, 'bench-1', 1, 'bench_app', NULL, NULL, NULL, 'created', clock_timestamp());
COMMIT;
