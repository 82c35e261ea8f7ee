-- user_id and kek_id are compared byte by byte (COLLATE "C"), so an operating system upgrade that changes a collation can
-- never hide a key behind a corrupted index.
CREATE TABLE vault_ext.encryption_vaults (
    user_id        text COLLATE "C" NOT NULL PRIMARY KEY,
    wrapped_mk     text,
    wrap_iv        text,
    format_version smallint    NOT NULL,
    kek_id         text COLLATE "C" NOT NULL,
    key_version    integer     NOT NULL DEFAULT 1,
    created_at     timestamptz NOT NULL DEFAULT now(),
    rotated_at     timestamptz,
    tokens_valid_from timestamptz,
    recovery_wrapped_mk text,
    recovery_iv    text,
    recovery_format_version smallint NOT NULL DEFAULT 1,
    recovery_set_at timestamptz,
    zero_knowledge boolean     NOT NULL DEFAULT false,
    key_check      text,
    erase_after    timestamptz,
    CONSTRAINT encryption_vaults_user_id_length CHECK (octet_length(user_id) BETWEEN 1 AND 255),
    CONSTRAINT encryption_vaults_wrapped_mk_length CHECK (octet_length(wrapped_mk) = 64),
    CONSTRAINT encryption_vaults_wrap_iv_length
        CHECK (octet_length(wrap_iv) = CASE format_version WHEN 1 THEN 16 WHEN 2 THEN 32 END),
    CONSTRAINT encryption_vaults_format_version_known CHECK (format_version IN (1, 2)),
    CONSTRAINT encryption_vaults_kek_id_length CHECK (octet_length(kek_id) BETWEEN 1 AND 64),
    CONSTRAINT encryption_vaults_key_version_positive CHECK (key_version >= 1),
    CONSTRAINT encryption_vaults_wrap_whole CHECK ((wrapped_mk IS NULL) = (wrap_iv IS NULL)),
    CONSTRAINT encryption_vaults_recovery_whole
        CHECK ((recovery_wrapped_mk IS NULL) = (recovery_iv IS NULL) AND (recovery_wrapped_mk IS NULL) = (recovery_set_at IS NULL)),
    CONSTRAINT encryption_vaults_recovery_length
        CHECK (octet_length(recovery_wrapped_mk) BETWEEN 1 AND 1024 AND octet_length(recovery_iv) BETWEEN 1 AND 64),
    CONSTRAINT encryption_vaults_zero_knowledge_means_recovery_wrap_only
        CHECK (NOT zero_knowledge OR (wrapped_mk IS NULL AND recovery_wrapped_mk IS NOT NULL)),
    -- While an erasure is scheduled, the wrap of the current key is among the old keys, where no call opens it.
    CONSTRAINT encryption_vaults_has_a_wrap CHECK (zero_knowledge OR (wrapped_mk IS NULL) = (erase_after IS NOT NULL)),
    CONSTRAINT encryption_vaults_key_check_hex CHECK (key_check ~ '^[0-9a-f]{32}$')
);
-- Keep wraps out of pg_statistic: they would not help the planner, and every backend would keep them in its memory.
ALTER TABLE vault_ext.encryption_vaults ALTER wrapped_mk SET STATISTICS 0, ALTER wrap_iv SET STATISTICS 0,
    ALTER recovery_wrapped_mk SET STATISTICS 0, ALTER recovery_iv SET STATISTICS 0, ALTER key_check SET STATISTICS 0;
COMMENT ON TABLE vault_ext.encryption_vaults IS 'one wrapped master key per user; bound to the user by row-level security';

CREATE TABLE vault_ext.encryption_vault_audit (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id     text COLLATE "C",
    action      text        NOT NULL,
    status      integer     NOT NULL,
    kek_id      text COLLATE "C",
    key_version integer,
    db_role     text        NOT NULL,
    ip_address  text,
    user_agent  text,
    request_id  text,
    context     text,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    identity    text,
    issuer      text,
    token_id    text,
    token_kid   text,
    actor       text,
    grant_id    bigint,
    CONSTRAINT encryption_vault_audit_action_not_empty CHECK (action <> ''),
    CONSTRAINT encryption_vault_audit_status_http_like CHECK (status BETWEEN 200 AND 599)
);
COMMENT ON TABLE vault_ext.encryption_vault_audit IS 'append-only: one row per call, committed before the key or the error goes out';
CREATE INDEX encryption_vault_audit_by_user ON vault_ext.encryption_vault_audit (user_id, created_at);
CREATE INDEX encryption_vault_audit_by_time ON vault_ext.encryption_vault_audit (created_at);

CREATE TABLE vault_ext.keks (
    kek_id      text COLLATE "C" NOT NULL PRIMARY KEY,
    check_value text        NOT NULL,
    first_seen  timestamptz NOT NULL DEFAULT now(),
    retired_at  timestamptz,
    CONSTRAINT keks_kek_id_length CHECK (octet_length(kek_id) BETWEEN 1 AND 64),
    CONSTRAINT keks_check_value_hex CHECK (check_value ~ '^[0-9a-f]{32}$')
);
COMMENT ON TABLE vault_ext.keks IS 'every KEK this database has seen, with a check value derived from it (never the KEK itself)';

CREATE TABLE vault_ext.grants (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id     text COLLATE "C" NOT NULL,
    grantee     regrole     NOT NULL,
    not_before  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    max_uses    integer,
    reason      text        NOT NULL,
    granted_by  text        NOT NULL,
    approved_by text,
    revoked_at  timestamptz,
    revoked_by  text,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT grants_user_id_length CHECK (octet_length(user_id) BETWEEN 1 AND 255),
    CONSTRAINT grants_expires_later CHECK (expires_at > not_before),
    CONSTRAINT grants_max_uses_positive CHECK (max_uses >= 1),
    CONSTRAINT grants_reason_not_empty CHECK (reason <> '')
);
COMMENT ON TABLE vault_ext.grants IS 'what a user lets a service do: one user, one role, always expiring; uses are counted in the audit trail';
CREATE INDEX grants_by_user ON vault_ext.grants (user_id, id);
CREATE INDEX encryption_vault_audit_by_grant ON vault_ext.encryption_vault_audit (grant_id) WHERE grant_id IS NOT NULL;

-- Keys that a rotation has replaced. A row stays when its wrap is destroyed: it says which version is gone, and since when.
CREATE TABLE vault_ext.old_keys (
    user_id        text COLLATE "C" NOT NULL,
    key_version    integer     NOT NULL,
    wrapped_mk     text,
    wrap_iv        text,
    format_version smallint    NOT NULL,
    kek_id         text COLLATE "C" NOT NULL,
    state          text        NOT NULL,
    superseded_at  timestamptz NOT NULL,
    destroy_after  timestamptz,
    destroyed_at   timestamptz,
    PRIMARY KEY (user_id, key_version),
    CONSTRAINT old_keys_user_id_length CHECK (octet_length(user_id) BETWEEN 1 AND 255),
    CONSTRAINT old_keys_wrapped_mk_length CHECK (octet_length(wrapped_mk) = 64),
    CONSTRAINT old_keys_wrap_iv_length CHECK (octet_length(wrap_iv) = CASE format_version WHEN 1 THEN 16 WHEN 2 THEN 32 END),
    CONSTRAINT old_keys_format_version_known CHECK (format_version IN (1, 2)),
    CONSTRAINT old_keys_kek_id_length CHECK (octet_length(kek_id) BETWEEN 1 AND 64),
    CONSTRAINT old_keys_key_version_positive CHECK (key_version >= 1),
    CONSTRAINT old_keys_state_known CHECK (state IN ('decrypt_only', 'disabled', 'destroy_scheduled', 'destroyed')),
    CONSTRAINT old_keys_wrap_until_destroyed
        CHECK ((wrapped_mk IS NULL) = (state = 'destroyed') AND (wrap_iv IS NULL) = (state = 'destroyed')),
    CONSTRAINT old_keys_destroy_after_while_scheduled CHECK (state = 'destroyed' OR (destroy_after IS NOT NULL) = (state = 'destroy_scheduled')),
    CONSTRAINT old_keys_destroyed_at_when_destroyed CHECK ((destroyed_at IS NOT NULL) = (state = 'destroyed'))
);
ALTER TABLE vault_ext.old_keys ALTER wrapped_mk SET STATISTICS 0, ALTER wrap_iv SET STATISTICS 0;
COMMENT ON TABLE vault_ext.old_keys IS 'the keys that rotations have replaced, wrapped like the current one; bound to the user by row-level security';
CREATE INDEX old_keys_due ON vault_ext.old_keys (destroy_after) WHERE state = 'destroy_scheduled';

CREATE TABLE vault_ext.erasures (
    id               bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id          text COLLATE "C" NOT NULL,
    reason           text        NOT NULL,
    scheduled_by     text        NOT NULL,
    scheduled_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    erase_after      timestamptz NOT NULL,
    vault_created_at timestamptz NOT NULL,
    cancelled_by     text,
    cancelled_at     timestamptz,
    erased_at        timestamptz,
    -- What the keys were wrapped under when they were erased; vault_erasure_status() adds what may have wrapped them before.
    kek_ids          text[] COLLATE "C",
    CONSTRAINT erasures_user_id_length CHECK (octet_length(user_id) BETWEEN 1 AND 255),
    CONSTRAINT erasures_reason_not_empty CHECK (reason <> ''),
    CONSTRAINT erasures_ends_once CHECK (cancelled_at IS NULL OR erased_at IS NULL),
    CONSTRAINT erasures_keks_when_erased CHECK ((kek_ids IS NOT NULL) = (erased_at IS NOT NULL))
);
COMMENT ON TABLE vault_ext.erasures IS 'each erasure of a user''s vault: scheduled, cancelled or done';
CREATE INDEX erasures_by_user ON vault_ext.erasures (user_id, id);
CREATE INDEX erasures_due ON vault_ext.erasures (erase_after) WHERE cancelled_at IS NULL AND erased_at IS NULL;

-- Keys that belong to no single user, wrapped like those of users.
CREATE TABLE vault_ext.database_keys (
    name           text COLLATE "C" NOT NULL PRIMARY KEY,
    key_version    integer     NOT NULL DEFAULT 1,
    wrapped_mk     text        NOT NULL,
    wrap_iv        text        NOT NULL,
    format_version smallint    NOT NULL,
    kek_id         text COLLATE "C" NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT database_keys_name_known CHECK (name IN ('lookup-index')),
    CONSTRAINT database_keys_wrapped_mk_length CHECK (octet_length(wrapped_mk) = 64),
    CONSTRAINT database_keys_wrap_iv_length CHECK (octet_length(wrap_iv) = 32),
    CONSTRAINT database_keys_format_version_known CHECK (format_version = 2),
    CONSTRAINT database_keys_kek_id_length CHECK (octet_length(kek_id) BETWEEN 1 AND 64)
);
ALTER TABLE vault_ext.database_keys ALTER wrapped_mk SET STATISTICS 0, ALTER wrap_iv SET STATISTICS 0;
COMMENT ON TABLE vault_ext.database_keys IS 'keys of the database itself, wrapped: that of vault_lookup_index()';

-- pg_dump leaves out these rows: they describe runs on this server only.
CREATE TABLE vault_ext.rewraps (
    started_at timestamptz NOT NULL,
    pid        integer     NOT NULL,
    db_role    text        NOT NULL,
    kek_id     text COLLATE "C" NOT NULL,
    total      bigint      NOT NULL,
    done       bigint      NOT NULL DEFAULT 0,
    skipped    bigint      NOT NULL DEFAULT 0,
    failed     bigint      NOT NULL DEFAULT 0,
    ended_at   timestamptz,
    outcome    text,
    PRIMARY KEY (started_at, pid)
);
COMMENT ON TABLE vault_ext.rewraps IS 'one row per CALL of vault_rewrap(), updated with each batch; read it through vault_ext.rewrap_progress';

ALTER TABLE vault_ext.rewraps OWNER TO vault_ext_owner;
ALTER TABLE vault_ext.encryption_vaults OWNER TO vault_ext_owner;
ALTER TABLE vault_ext.encryption_vault_audit OWNER TO vault_ext_owner;
ALTER TABLE vault_ext.keks OWNER TO vault_ext_owner;
ALTER TABLE vault_ext.grants OWNER TO vault_ext_owner;
ALTER TABLE vault_ext.old_keys OWNER TO vault_ext_owner;
ALTER TABLE vault_ext.erasures OWNER TO vault_ext_owner;
ALTER TABLE vault_ext.database_keys OWNER TO vault_ext_owner;

-- Without these calls pg_dump leaves out the rows. Without the sequence, the first insert after a restore would fail with a
-- duplicate key.
SELECT pg_catalog.pg_extension_config_dump('vault_ext.encryption_vaults', '');
SELECT pg_catalog.pg_extension_config_dump('vault_ext.encryption_vault_audit', '');
SELECT pg_catalog.pg_extension_config_dump('vault_ext.encryption_vault_audit_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('vault_ext.keks', '');
-- A grant to a role that was dropped must not come back as one to another role with the same OID.
SELECT pg_catalog.pg_extension_config_dump('vault_ext.grants', 'WHERE EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid OPERATOR(pg_catalog.=) grantee::pg_catalog.oid)');
SELECT pg_catalog.pg_extension_config_dump('vault_ext.grants_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('vault_ext.old_keys', '');
SELECT pg_catalog.pg_extension_config_dump('vault_ext.erasures', '');
SELECT pg_catalog.pg_extension_config_dump('vault_ext.erasures_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('vault_ext.database_keys', '');
