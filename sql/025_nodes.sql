-- many nodes -----------------------------------------------------------------------------------------------------------

CREATE FUNCTION vault_ext.is_node() RETURNS boolean
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'is_node_wrapper';
COMMENT ON FUNCTION vault_ext.is_node() IS 'true only in a session that another node of a cluster has opened: its login is vault_ext_owner';

CREATE FUNCTION vault_ext.keyring(OUT "position" integer, OUT kek_id text, OUT check_value text) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 2 AS 'MODULE_PATHNAME', 'keyring_wrapper';
COMMENT ON FUNCTION vault_ext.keyring() IS 'the KEKs that this server has loaded, with their check values; the first one wraps';

CREATE FUNCTION vault_ext.why_not_a_node() RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp AS $why$
DECLARE
    has_rows boolean;
    name text;
BEGIN
    IF to_regclass('pg_catalog.pg_dist_node') IS NULL THEN
        RETURN 'Citus is not installed there';
    END IF;
    IF current_setting('max_prepared_transactions')::integer = 0 THEN
        RETURN 'max_prepared_transactions is 0';
    END IF;
    SELECT EXISTS (SELECT FROM vault_ext.grants) INTO has_rows;
    IF has_rows THEN
        RETURN 'there are grants, which work on one node only';
    END IF;
    IF NOT citus_is_coordinator() THEN
        FOREACH name IN ARRAY '{encryption_vaults,old_keys,database_keys,honey_users,erasures}'::text[] LOOP
            IF NOT EXISTS (SELECT FROM pg_dist_partition d WHERE d.logicalrelid = ('vault_ext.' || name)::regclass) THEN
                EXECUTE format('SELECT EXISTS (SELECT FROM vault_ext.%I)', name) INTO has_rows;
                IF has_rows THEN
                    RETURN format('vault_ext.%s has rows of its own there, which the distribution would hide', name);
                END IF;
            END IF;
        END LOOP;
    END IF;
    RETURN NULL;
END
$why$;
COMMENT ON FUNCTION vault_ext.why_not_a_node() IS 'for vault_ext.distribute(): why this server cannot be a node; NULL if it can';

CREATE FUNCTION vault_ext.become_a_node() RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $become$
DECLARE
    name text;
BEGIN
    IF NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
        RAISE EXCEPTION 'only a superuser may do this' USING ERRCODE = 'insufficient_privilege', HINT = 'Ask a superuser to call it.';
    END IF;
    IF to_regclass('pg_catalog.pg_dist_node') IS NULL THEN
        RAISE EXCEPTION 'Citus is not installed in this database' USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Install it on every node, as docs/scale-out.md says.';
    END IF;
    -- Each node does this for itself.
    PERFORM set_config('citus.enable_ddl_propagation', 'off', true);
    -- Calls fail until the server is a node: what they stored would be hidden then.
    PERFORM set_config('vault_ext.allow_alter', 'on', true);
    FOREACH name IN ARRAY '{encryption_vaults,old_keys,database_keys,honey_users,erasures}'::text[] LOOP
        IF NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = ('vault_ext.' || name)::regclass AND p.polname = name || '_nodes') THEN
            EXECUTE format('CREATE POLICY %I ON vault_ext.%I TO vault_ext_owner USING (vault_ext.is_node()) WITH CHECK (vault_ext.is_node())',
                name || '_nodes', name);
        END IF;
    END LOOP;
    -- Nodes read each other's trails, and write only their own.
    IF NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = 'vault_ext.encryption_vault_audit'::regclass AND p.polname = 'encryption_vault_audit_reader_node') THEN
        CREATE POLICY encryption_vault_audit_reader_node ON vault_ext.encryption_vault_audit FOR SELECT TO vault_ext_owner USING (vault_ext.is_node());
    END IF;
    -- Every node numbers erasures in a range of its own.
    PERFORM setval('vault_ext.erasures_id_seq', l.groupid::bigint << 48) FROM pg_dist_local_group l
        WHERE l.groupid > 0 AND (SELECT s.last_value FROM vault_ext.erasures_id_seq s) < l.groupid::bigint << 48;
    ALTER ROLE vault_ext_owner LOGIN;
    -- What another node commits here is on disk, and a lock that a call waits for here ends the call at some time.
    ALTER ROLE vault_ext_owner SET synchronous_commit = on;
    ALTER ROLE vault_ext_owner SET lock_timeout = '10s';
END
$become$;
COMMENT ON FUNCTION vault_ext.become_a_node() IS 'for a server that is about to be added to the nodes: lets these reach its rows, with the login vault_ext_owner';

CREATE FUNCTION vault_ext.nodes(OUT node text, OUT here boolean, OUT reachable boolean, OUT active_kek text, OUT agrees boolean, OUT keyring text) RETURNS SETOF record
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER ROWS 3 SET search_path = pg_catalog, pg_temp AS $nodes$
DECLARE
    own text;
BEGIN
    SELECT coalesce(json_agg(json_build_object('kek_id', k.kek_id, 'check_value', k.check_value) ORDER BY k."position"), '[]')::text
        INTO own FROM vault_ext.keyring() k;
    IF to_regclass('pg_catalog.pg_dist_node') IS NULL OR NOT EXISTS (SELECT FROM pg_policy p WHERE p.polname = 'encryption_vaults_nodes') THEN
        RETURN QUERY SELECT 'this one'::text, true, true, own::json -> 0 ->> 'kek_id', true, own;
        RETURN;
    END IF;
    RETURN QUERY
        SELECT format('%s:%s', n.nodename, n.nodeport), n.groupid = (SELECT l.groupid FROM pg_dist_local_group l), r.success, CASE WHEN r.success THEN r.result::json -> 0 ->> 'kek_id' END,
            CASE WHEN r.success THEN r.result = own END, r.result
        FROM run_command_on_all_nodes(
            'SELECT coalesce(json_agg(json_build_object(''kek_id'', k.kek_id, ''check_value'', k.check_value) ORDER BY k."position"), ''[]'')::text
             FROM vault_ext.keyring() k', give_warning_for_connection_errors => true) r
        JOIN pg_dist_node n ON n.nodeid = r.nodeid
        ORDER BY n.nodeid;
END
$nodes$;
COMMENT ON FUNCTION vault_ext.nodes() IS 'the nodes of the cluster and their keyrings; agrees is false where it is not the same as here, NULL where the node does not answer';

CREATE FUNCTION vault_ext.audit_of_nodes(since timestamptz DEFAULT '-infinity', before timestamptz DEFAULT 'infinity')
    RETURNS TABLE (node text, "row" vault_ext.encryption_vault_audit)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $audit$
DECLARE
    part record;
BEGIN
    IF to_regclass('pg_catalog.pg_dist_node') IS NULL OR NOT EXISTS (SELECT FROM pg_policy p WHERE p.polname = 'encryption_vaults_nodes') THEN
        RAISE EXCEPTION 'this vault is on one node' USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Read vault_ext.encryption_vault_audit.';
    END IF;
    FOR part IN
        SELECT format('%s:%s', n.nodename, n.nodeport) AS name, r.success, r.result
        FROM run_command_on_all_nodes(format(
            'SELECT coalesce(json_agg(a ORDER BY a.id), ''[]'')::text FROM vault_ext.encryption_vault_audit a WHERE a.created_at >= %L AND a.created_at < %L',
            since, before), give_warning_for_connection_errors => true) r
        JOIN pg_dist_node n ON n.nodeid = r.nodeid
        ORDER BY n.nodeid
    LOOP
        IF NOT part.success THEN
            RAISE EXCEPTION 'the trail of the node % cannot be read', part.name USING ERRCODE = 'connection_failure',
                DETAIL = part.result, HINT = 'A part of the trail is no trail: try again when all nodes answer.';
        END IF;
        RETURN QUERY SELECT part.name, a FROM json_populate_recordset(NULL::vault_ext.encryption_vault_audit, part.result::json) a;
    END LOOP;
END
$audit$;
COMMENT ON FUNCTION vault_ext.audit_of_nodes(timestamptz, timestamptz) IS 'the audit rows of all nodes within a time; 08006 if a node does not answer';

CREATE FUNCTION vault_ext.distribute(shard_count integer DEFAULT 32) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $distribute$
DECLARE
    bad text;
    name text;
BEGIN
    IF NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
        RAISE EXCEPTION 'only a superuser may distribute the vault' USING ERRCODE = 'insufficient_privilege',
            HINT = 'Ask a superuser to call it.';
    END IF;
    IF to_regclass('pg_catalog.pg_dist_node') IS NULL THEN
        RAISE EXCEPTION 'Citus is not installed in this database' USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Install it on every node, as docs/scale-out.md says.';
    END IF;
    IF NOT citus_is_coordinator() OR NOT EXISTS (SELECT FROM pg_dist_node n WHERE n.groupid = 0) THEN
        RAISE EXCEPTION 'this is not the coordinator, or the coordinator is not among the nodes' USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Call it on the coordinator, after SELECT citus_set_coordinator_host(…) there.';
    END IF;
    SELECT string_agg(format('%s:%s: %s', n.nodename, n.nodeport, r.result), '; ') INTO bad
        FROM run_command_on_all_nodes('SELECT vault_ext.why_not_a_node()', give_warning_for_connection_errors => true) r
        JOIN pg_dist_node n ON n.nodeid = r.nodeid
        WHERE NOT r.success OR r.result <> '';
    IF bad IS NOT NULL THEN
        RAISE EXCEPTION 'not every server can be a node' USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = bad,
            HINT = 'Mend what the detail says, and call it again.';
    END IF;
    SELECT string_agg(format('%s:%s: %s', n.nodename, n.nodeport, r.result), '; ') INTO bad
        FROM run_command_on_all_nodes('SELECT string_agg(concat_ws('' '', k.kek_id, k.check_value), '', '' ORDER BY k."position") FROM vault_ext.keyring() k',
            give_warning_for_connection_errors => true) r
        JOIN pg_dist_node n ON n.nodeid = r.nodeid
        WHERE NOT r.success OR r.result IS DISTINCT FROM
            (SELECT string_agg(concat_ws(' ', k.kek_id, k.check_value), ', ' ORDER BY k."position") FROM vault_ext.keyring() k);
    IF bad IS NOT NULL THEN
        RAISE EXCEPTION 'the nodes have different keyrings' USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = bad,
            HINT = 'Give every node the same KEKs in the same order.';
    END IF;
    SELECT string_agg(format('%s:%s: %s', n.nodename, n.nodeport, r.result), '; ') INTO bad
        FROM run_command_on_all_nodes('SELECT vault_ext.become_a_node()', give_warning_for_connection_errors => true) r
        JOIN pg_dist_node n ON n.nodeid = r.nodeid WHERE NOT r.success;
    IF bad IS NOT NULL THEN
        RAISE EXCEPTION 'not every server has become a node' USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = bad,
            HINT = 'Mend what the detail says, and call it again.';
    END IF;
    FOREACH name IN ARRAY '{encryption_vaults,old_keys,keks,database_keys,honey_users,erasures}'::text[] LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_dist_partition d WHERE d.logicalrelid = ('vault_ext.' || name)::regclass);
        IF name = 'encryption_vaults' THEN
            PERFORM create_distributed_table('vault_ext.encryption_vaults', 'user_id', colocate_with => 'none', shard_count => $1);
        ELSIF name = 'old_keys' THEN
            PERFORM create_distributed_table('vault_ext.old_keys', 'user_id', colocate_with => 'vault_ext.encryption_vaults');
        ELSE
            PERFORM create_reference_table('vault_ext.' || name);
        END IF;
        -- The rows have been copied. What is left of them could be seen by nobody, and would stay.
        PERFORM truncate_local_data_after_distributing_table(('vault_ext.' || name)::regclass);
    END LOOP;
    -- A node that was added gets its copy of what every node has.
    PERFORM replicate_reference_tables('block_writes');
END
$distribute$;
COMMENT ON FUNCTION vault_ext.distribute(integer) IS 'spreads the vaults over the nodes of a Citus cluster, so that any node answers any user; once more after a node was added';

CREATE PROCEDURE vault_ext.rebalance()
    LANGUAGE plpgsql AS $rebalance$
DECLARE
    move record;
BEGIN
    -- A procedure that commits can have no search_path of its own, so every name has its schema.
    IF NOT (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) current_user) THEN
        RAISE EXCEPTION 'only a superuser may move shards' USING ERRCODE = 'insufficient_privilege', HINT = 'Ask a superuser to call it.';
    END IF;
    IF pg_catalog.to_regclass('pg_catalog.pg_dist_node') IS NULL
        OR NOT EXISTS (SELECT FROM pg_catalog.pg_policy p WHERE p.polname OPERATOR(pg_catalog.=) 'encryption_vaults_nodes') THEN
        RAISE EXCEPTION 'this vault is on one node' USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'vault_ext.distribute() spreads it over the nodes of a Citus cluster.';
    END IF;
    IF NOT pg_catalog.citus_is_coordinator() THEN
        RAISE EXCEPTION 'this is not the coordinator' USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Call it on the coordinator.';
    END IF;
    LOOP
        -- The plan is made again for each move: others may have moved shards or changed nodes meanwhile.
        SELECT p.* INTO move FROM pg_catalog.get_rebalance_table_shards_plan('vault_ext.encryption_vaults') p LIMIT 1;
        EXIT WHEN NOT FOUND;
        -- A transaction that has read a shard before a move would write to its old place afterwards: on a node that is not the coordinator, Citus
        -- keeps the number of the placement, and with it the transaction's connection to the old node. So none may be open. The locks reach
        -- every node, and end there when that node knows the new place. Calls wait for them, so they must not wait long themselves.
        SET LOCAL citus.propagate_set_commands = 'local';
        SET LOCAL lock_timeout = '5s';
        BEGIN
            LOCK TABLE vault_ext.encryption_vaults, vault_ext.old_keys IN ACCESS EXCLUSIVE MODE;
        EXCEPTION WHEN lock_not_available OR internal_error THEN
            RAISE EXCEPTION 'the vaults could not be locked on every node' USING ERRCODE = 'lock_not_available', DETAIL = SQLERRM,
                HINT = 'A transaction that has called the vault is still open on some node, or a node does not answer. What was moved before stays moved: call it again.';
        END;
        PERFORM pg_catalog.citus_move_shard_placement(move.shardid, move.sourcename, move.sourceport, move.targetname, move.targetport, 'block_writes');
        RAISE NOTICE 'shard % has moved from %:% to %:%', move.shardid, move.sourcename, move.sourceport, move.targetname, move.targetport;
        COMMIT;
    END LOOP;
END
$rebalance$;
COMMENT ON PROCEDURE vault_ext.rebalance() IS 'moves shards of the vaults to where Citus wants them, one after the other, while calls go on; each move is committed separately';
