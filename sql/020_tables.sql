-- What rows with wraps must be. One function for each table takes the place of a dozen CHECKs, since PostgreSQL parses the text of each
-- CHECK anew for every statement; its errors show no value of the row. The rules are in the comments on the constraints, and in
-- crates/vault_core/src/rows.rs.
CREATE FUNCTION vault_ext.is_sound_vault(
    user_id text, wrapped_mk text, wrap_iv text, format_version smallint, kek_id text, key_version integer, recovery_wrapped_mk text,
    recovery_iv text, recovery_set_at timestamptz, zero_knowledge boolean, key_check text, erase_after timestamptz) RETURNS boolean
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'is_sound_vault_wrapper';
COMMENT ON FUNCTION vault_ext.is_sound_vault(text, text, text, smallint, text, integer, text, text, timestamptz, boolean, text, timestamptz) IS 'for the CHECK of vault_ext.encryption_vaults: raises 23514 with the columns and the rule if a row breaks one';
CREATE FUNCTION vault_ext.is_sound_old_key(
    user_id text, key_version integer, wrapped_mk text, wrap_iv text, format_version smallint, kek_id text, state text,
    destroy_after timestamptz, destroyed_at timestamptz) RETURNS boolean
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'is_sound_old_key_wrapper';
COMMENT ON FUNCTION vault_ext.is_sound_old_key(text, integer, text, text, smallint, text, text, timestamptz, timestamptz) IS 'for the CHECK of vault_ext.old_keys: raises 23514 with the columns and the rule if a row breaks one';

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
    CONSTRAINT encryption_vaults_sound CHECK (vault_ext.is_sound_vault(
        user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_version, recovery_wrapped_mk, recovery_iv, recovery_set_at,
        zero_knowledge, key_check, erase_after))
);
-- Keep wraps out of pg_statistic: they would not help the planner, and every backend would keep them in its memory.
ALTER TABLE vault_ext.encryption_vaults ALTER wrapped_mk SET STATISTICS 0, ALTER wrap_iv SET STATISTICS 0,
    ALTER recovery_wrapped_mk SET STATISTICS 0, ALTER recovery_iv SET STATISTICS 0, ALTER key_check SET STATISTICS 0;
COMMENT ON CONSTRAINT encryption_vaults_sound ON vault_ext.encryption_vaults IS 'user_id has 1 to 255 bytes, wrapped_mk 64, wrap_iv 16 in format 1 and 32 in format 2, kek_id 1 to 64; format_version is 1 or 2; key_version is at least 1; wrapped_mk and wrap_iv are NULL together; recovery_wrapped_mk (1 to 1024 bytes), recovery_iv (1 to 64) and recovery_set_at are NULL together; with zero_knowledge there is a recovery_wrapped_mk and no wrapped_mk; without it wrapped_mk is NULL while erase_after is set, and only then; key_check has 32 hexadecimal digits in lower case';
COMMENT ON TABLE vault_ext.encryption_vaults IS 'one wrapped master key per user; bound to the user by row-level security';
COMMENT ON COLUMN vault_ext.encryption_vaults.user_id IS 'the user; compared byte by byte, and bound into the wrap: only vault_rename_user() changes it';
COMMENT ON COLUMN vault_ext.encryption_vaults.wrapped_mk IS 'base64 of the wrapped master key and its tag; NULL in zero-knowledge mode and while an erasure is scheduled';
COMMENT ON COLUMN vault_ext.encryption_vaults.wrap_iv IS 'base64 of the nonce of wrapped_mk';
COMMENT ON COLUMN vault_ext.encryption_vaults.format_version IS 'format of the wrap: 1 is the predecessor''s, 2 is what vault_ext writes';
COMMENT ON COLUMN vault_ext.encryption_vaults.kek_id IS 'id of the KEK that wraps the key';
COMMENT ON COLUMN vault_ext.encryption_vaults.key_version IS 'version of the user''s current key; each rotation adds one';
COMMENT ON COLUMN vault_ext.encryption_vaults.created_at IS 'when the vault was created';
COMMENT ON COLUMN vault_ext.encryption_vaults.rotated_at IS 'when the key was last rotated; NULL if never';
COMMENT ON COLUMN vault_ext.encryption_vaults.tokens_valid_from IS 'tokens that were issued before open the vault no more (vault_revoke_tokens); NULL if all may';
COMMENT ON COLUMN vault_ext.encryption_vaults.recovery_wrapped_mk IS 'the key, wrapped by the client under the user''s recovery code; NULL without one';
COMMENT ON COLUMN vault_ext.encryption_vaults.recovery_iv IS 'the client''s nonce of recovery_wrapped_mk';
COMMENT ON COLUMN vault_ext.encryption_vaults.recovery_format_version IS 'format of the recovery wrap: the client''s, always 1';
COMMENT ON COLUMN vault_ext.encryption_vaults.recovery_set_at IS 'when the recovery wrap was stored';
COMMENT ON COLUMN vault_ext.encryption_vaults.zero_knowledge IS 'true if only the recovery code opens the key: the server has no wrap of its own';
COMMENT ON COLUMN vault_ext.encryption_vaults.key_check IS 'check value of the key, so that zero-knowledge mode can be left with this key alone';
COMMENT ON COLUMN vault_ext.encryption_vaults.erase_after IS 'when vault_destroy_due() may erase the vault; NULL if no erasure is scheduled';

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
    login_role  text,
    application_name text,
    -- The row's place in the Merkle tree, without gaps, and its hash there. NULL in rows that are older than the tree.
    leaf        bigint,
    leaf_hash   bytea,
    salt        bytea,
    -- What vault_redact_audit() leaves of the personal columns: their hash.
    redacted_digest bytea,
    CONSTRAINT encryption_vault_audit_action_not_empty CHECK (action <> ''),
    CONSTRAINT encryption_vault_audit_status_http_like CHECK (status BETWEEN 200 AND 599)
);
ALTER TABLE vault_ext.encryption_vault_audit ALTER leaf_hash SET STATISTICS 0, ALTER salt SET STATISTICS 0, ALTER redacted_digest SET STATISTICS 0;
COMMENT ON TABLE vault_ext.encryption_vault_audit IS 'append-only: one row per call, committed before the key or the error goes out';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.id IS 'number of the row; numbers have gaps, which prove nothing';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.user_id IS 'the user whose key the call was about; NULL if there was none';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.action IS 'what was called or done';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.status IS 'outcome, like an HTTP status: 200 done, 201 created, from 400 on refused or failed';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.kek_id IS 'id of the KEK that wraps the key';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.key_version IS 'version of the key';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.db_role IS 'role that the call ran as (a fact)';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.ip_address IS 'address of the client, as the application says (a claim)';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.user_agent IS 'program of the client, as the application says (a claim)';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.request_id IS 'id of the request, as the application says (a claim)';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.context IS 'the reason for a failure, or what else is worth knowing';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.created_at IS 'when the call was made';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.identity IS 'what established the user: asserted, role, token, bound or grant';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.issuer IS 'name of the token''s issuer in the issuers file';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.token_id IS 'the token''s jti, or the beginning of its hash';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.token_kid IS 'id of the issuer''s key that verified the token';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.actor IS 'login of the service that acted for the user by a grant';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.grant_id IS 'the grant that was used or changed (vault_ext.grants)';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.login_role IS 'role that logged in (a fact)';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.application_name IS 'application_name of the session (a claim)';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.leaf IS 'position in the Merkle tree, without gaps; NULL if the row is older than the tree';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.leaf_hash IS 'hash of the row in the Merkle tree';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.salt IS 'random bytes in the hash of the personal columns; NULL after a redaction';
COMMENT ON COLUMN vault_ext.encryption_vault_audit.redacted_digest IS 'hash that vault_redact_audit() leaves of the personal columns; NULL if the row is not redacted';
COMMENT ON SEQUENCE vault_ext.encryption_vault_audit_id_seq IS 'numbers the rows of vault_ext.encryption_vault_audit';
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
COMMENT ON COLUMN vault_ext.keks.kek_id IS 'id of the KEK, as in the keyring';
COMMENT ON COLUMN vault_ext.keks.check_value IS 'fingerprint that is derived from the KEK (HKDF), in hex';
COMMENT ON COLUMN vault_ext.keks.first_seen IS 'when this database first wrapped with the KEK or registered it';
COMMENT ON COLUMN vault_ext.keks.retired_at IS 'when vault_retire_kek() marked it; NULL if it may wrap';

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
COMMENT ON COLUMN vault_ext.grants.id IS 'number of the grant, as vault_grant() gave it';
COMMENT ON COLUMN vault_ext.grants.user_id IS 'the user whose key may be fetched';
COMMENT ON COLUMN vault_ext.grants.grantee IS 'role whose members may fetch it';
COMMENT ON COLUMN vault_ext.grants.not_before IS 'when the grant begins to count';
COMMENT ON COLUMN vault_ext.grants.expires_at IS 'when the grant ends';
COMMENT ON COLUMN vault_ext.grants.max_uses IS 'how often it may be used; NULL if there is no limit';
COMMENT ON COLUMN vault_ext.grants.reason IS 'why it was given';
COMMENT ON COLUMN vault_ext.grants.granted_by IS 'who gave it: the user''s login, or that of a member of vault_ext_grantor';
COMMENT ON COLUMN vault_ext.grants.approved_by IS 'login that approved it; the giver''s own where no approval is needed, NULL while one is missing';
COMMENT ON COLUMN vault_ext.grants.revoked_at IS 'when it was ended early; NULL if it was not';
COMMENT ON COLUMN vault_ext.grants.revoked_by IS 'login that ended it';
COMMENT ON COLUMN vault_ext.grants.created_at IS 'when it was given';
COMMENT ON SEQUENCE vault_ext.grants_id_seq IS 'numbers the rows of vault_ext.grants';
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
    CONSTRAINT old_keys_sound CHECK (vault_ext.is_sound_old_key(
        user_id, key_version, wrapped_mk, wrap_iv, format_version, kek_id, state, destroy_after, destroyed_at))
);
ALTER TABLE vault_ext.old_keys ALTER wrapped_mk SET STATISTICS 0, ALTER wrap_iv SET STATISTICS 0;
COMMENT ON CONSTRAINT old_keys_sound ON vault_ext.old_keys IS 'user_id has 1 to 255 bytes, wrapped_mk 64, wrap_iv 16 in format 1 and 32 in format 2, kek_id 1 to 64; format_version is 1 or 2; key_version is at least 1; state is decrypt_only, disabled, destroy_scheduled or destroyed; wrapped_mk and wrap_iv are NULL in the state destroyed, and in no other; destroy_after is set in the state destroy_scheduled, and in no other but destroyed; destroyed_at is set in the state destroyed, and in no other';
COMMENT ON TABLE vault_ext.old_keys IS 'the keys that rotations have replaced, wrapped like the current one; bound to the user by row-level security';
COMMENT ON COLUMN vault_ext.old_keys.user_id IS 'the user whose key it was';
COMMENT ON COLUMN vault_ext.old_keys.key_version IS 'version of the key';
COMMENT ON COLUMN vault_ext.old_keys.wrapped_mk IS 'base64 of the wrapped key and its tag; NULL once it is destroyed';
COMMENT ON COLUMN vault_ext.old_keys.wrap_iv IS 'base64 of the nonce of wrapped_mk';
COMMENT ON COLUMN vault_ext.old_keys.format_version IS 'format of the wrap, as in vault_ext.encryption_vaults';
COMMENT ON COLUMN vault_ext.old_keys.kek_id IS 'id of the KEK that wraps the key';
COMMENT ON COLUMN vault_ext.old_keys.state IS 'decrypt_only, disabled, destroy_scheduled or destroyed';
COMMENT ON COLUMN vault_ext.old_keys.superseded_at IS 'when a rotation replaced it';
COMMENT ON COLUMN vault_ext.old_keys.destroy_after IS 'when vault_destroy_due() may destroy it; NULL if that is not scheduled';
COMMENT ON COLUMN vault_ext.old_keys.destroyed_at IS 'when it was destroyed';
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
COMMENT ON COLUMN vault_ext.erasures.id IS 'number of the erasure';
COMMENT ON COLUMN vault_ext.erasures.user_id IS 'the user whose vault it is about';
COMMENT ON COLUMN vault_ext.erasures.reason IS 'why, as it was given; vault_erase() or account deleted for an erasure without a wait';
COMMENT ON COLUMN vault_ext.erasures.scheduled_by IS 'login that asked for it';
COMMENT ON COLUMN vault_ext.erasures.scheduled_at IS 'when it was asked for';
COMMENT ON COLUMN vault_ext.erasures.erase_after IS 'when vault_destroy_due() may erase the vault';
COMMENT ON COLUMN vault_ext.erasures.vault_created_at IS 'when the vault was created';
COMMENT ON COLUMN vault_ext.erasures.cancelled_by IS 'login that called vault_cancel_erase()';
COMMENT ON COLUMN vault_ext.erasures.cancelled_at IS 'when it was cancelled; NULL if it was not';
COMMENT ON COLUMN vault_ext.erasures.erased_at IS 'when the vault was erased; NULL if it was not';
COMMENT ON COLUMN vault_ext.erasures.kek_ids IS 'KEKs that wrapped the keys when they were erased; vault_erasure_status() adds earlier ones';
COMMENT ON SEQUENCE vault_ext.erasures_id_seq IS 'numbers the rows of vault_ext.erasures';
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
COMMENT ON COLUMN vault_ext.database_keys.name IS 'what the key is for';
COMMENT ON COLUMN vault_ext.database_keys.key_version IS 'version of the key';
COMMENT ON COLUMN vault_ext.database_keys.wrapped_mk IS 'base64 of the wrapped key and its tag';
COMMENT ON COLUMN vault_ext.database_keys.wrap_iv IS 'base64 of the nonce of wrapped_mk';
COMMENT ON COLUMN vault_ext.database_keys.format_version IS 'format of the wrap, always 2';
COMMENT ON COLUMN vault_ext.database_keys.kek_id IS 'id of the KEK that wraps the key';
COMMENT ON COLUMN vault_ext.database_keys.created_at IS 'when the key was created';

-- Users that no application has: whoever asks for the key of one raises an alarm.
CREATE TABLE vault_ext.honey_users (
    user_id   text COLLATE "C" NOT NULL PRIMARY KEY,
    marked_by text        NOT NULL,
    marked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT honey_users_user_id_length CHECK (octet_length(user_id) BETWEEN 1 AND 255)
);
COMMENT ON TABLE vault_ext.honey_users IS 'users that no application has: whoever asks for the key of one raises an alarm';
COMMENT ON COLUMN vault_ext.honey_users.user_id IS 'the user that no application has';
COMMENT ON COLUMN vault_ext.honey_users.marked_by IS 'login that called vault_mark_honey()';
COMMENT ON COLUMN vault_ext.honey_users.marked_at IS 'when that was';

-- Whose tree it is. The audit writer adds the first row with the trail's first row, and vault_new_trail() adds one on a copy: the newest counts.
CREATE TABLE vault_ext.audit_trails (
    trail_id         uuid        NOT NULL PRIMARY KEY,
    origin           text        NOT NULL,
    first_leaf       bigint      NOT NULL,
    begun_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Rows that are older than the tree, which its first leaf commits to.
    old_rows         bigint      NOT NULL DEFAULT 0,
    old_rows_last_id bigint,
    old_rows_root    bytea,
    CONSTRAINT audit_trails_origin_not_empty CHECK (origin <> ''),
    CONSTRAINT audit_trails_old_rows_whole
        CHECK ((old_rows = 0) = (old_rows_root IS NULL) AND (old_rows = 0) = (old_rows_last_id IS NULL))
);
COMMENT ON TABLE vault_ext.audit_trails IS 'the origins of the audit trail''s checkpoints, and what was there before the tree';
COMMENT ON COLUMN vault_ext.audit_trails.trail_id IS 'random id of the trail, part of its origin';
COMMENT ON COLUMN vault_ext.audit_trails.origin IS 'name in the first line of each checkpoint';
COMMENT ON COLUMN vault_ext.audit_trails.first_leaf IS 'leaf from which on the origin counts';
COMMENT ON COLUMN vault_ext.audit_trails.begun_at IS 'when the origin was chosen';
COMMENT ON COLUMN vault_ext.audit_trails.old_rows IS 'number of rows that are older than the tree';
COMMENT ON COLUMN vault_ext.audit_trails.old_rows_last_id IS 'id of the last of these rows';
COMMENT ON COLUMN vault_ext.audit_trails.old_rows_root IS 'hash of these rows, to which the first leaf commits';

-- A tile of level 0 has the hashes of 256 leaves, one of a higher level those of 256 tiles of the level below (C2SP tlog-tiles). Level -1 has the
-- hash of a purged row whose tile is not full yet.
CREATE TABLE vault_ext.audit_tiles (
    level  smallint NOT NULL,
    index  bigint   NOT NULL,
    hashes bytea    NOT NULL,
    root   bytea,
    PRIMARY KEY (level, index),
    CONSTRAINT audit_tiles_full CHECK (octet_length(hashes) = CASE WHEN level < 0 THEN 32 ELSE 8192 END),
    CONSTRAINT audit_tiles_root_of_a_full_one CHECK ((root IS NULL) = (level < 0))
);
ALTER TABLE vault_ext.audit_tiles ALTER hashes SET STORAGE EXTERNAL, ALTER hashes SET STATISTICS 0, ALTER root SET STATISTICS 0;
COMMENT ON TABLE vault_ext.audit_tiles IS 'the hashes of the audit trail''s Merkle tree; they stay when rows are purged';
COMMENT ON COLUMN vault_ext.audit_tiles.level IS 'height in the tree: 0 holds hashes of leaves; -1 holds hashes of purged rows that no full tile has yet';
COMMENT ON COLUMN vault_ext.audit_tiles.index IS 'position in its level; at level -1 that of the leaf';
COMMENT ON COLUMN vault_ext.audit_tiles.hashes IS '256 hashes of 32 bytes, or one at level -1';
COMMENT ON COLUMN vault_ext.audit_tiles.root IS 'hash of the whole tile; NULL at level -1';

CREATE TABLE vault_ext.audit_checkpoints (
    size       bigint      NOT NULL PRIMARY KEY,
    root       bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    note       text        NOT NULL
);
COMMENT ON TABLE vault_ext.audit_checkpoints IS 'the checkpoints that the audit writer has logged; keep copies of them outside the database';
COMMENT ON COLUMN vault_ext.audit_checkpoints.size IS 'number of leaves of the tree';
COMMENT ON COLUMN vault_ext.audit_checkpoints.root IS 'hash of the tree of that size';
COMMENT ON COLUMN vault_ext.audit_checkpoints.created_at IS 'when it was logged';
COMMENT ON COLUMN vault_ext.audit_checkpoints.note IS 'the checkpoint itself (C2SP tlog-checkpoint)';

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
COMMENT ON COLUMN vault_ext.rewraps.started_at IS 'when the run began';
COMMENT ON COLUMN vault_ext.rewraps.pid IS 'process id of its session';
COMMENT ON COLUMN vault_ext.rewraps.db_role IS 'role that called vault_rewrap()';
COMMENT ON COLUMN vault_ext.rewraps.kek_id IS 'id of the KEK that it wraps with';
COMMENT ON COLUMN vault_ext.rewraps.total IS 'keys that were under other KEKs at the start';
COMMENT ON COLUMN vault_ext.rewraps.done IS 'keys that were rewrapped';
COMMENT ON COLUMN vault_ext.rewraps.skipped IS 'keys that were in use or changed meanwhile: CALL vault_rewrap() again';
COMMENT ON COLUMN vault_ext.rewraps.failed IS 'keys that do not open; they stay as they are';
COMMENT ON COLUMN vault_ext.rewraps.ended_at IS 'when the run ended; NULL if it has not';
COMMENT ON COLUMN vault_ext.rewraps.outcome IS 'how it ended; NULL if it has not';

ALTER TABLE vault_ext.rewraps OWNER TO vault_ext_owner;
ALTER TABLE vault_ext.encryption_vaults OWNER TO vault_ext_owner;
ALTER TABLE vault_ext.encryption_vault_audit OWNER TO vault_ext_owner;
ALTER TABLE vault_ext.keks OWNER TO vault_ext_owner;
ALTER TABLE vault_ext.grants OWNER TO vault_ext_owner;
ALTER TABLE vault_ext.old_keys OWNER TO vault_ext_owner;
ALTER TABLE vault_ext.erasures OWNER TO vault_ext_owner;
ALTER TABLE vault_ext.database_keys OWNER TO vault_ext_owner;
ALTER TABLE vault_ext.honey_users OWNER TO vault_ext_owner;
ALTER TABLE vault_ext.audit_trails OWNER TO vault_ext_owner;
ALTER TABLE vault_ext.audit_tiles OWNER TO vault_ext_owner;
ALTER TABLE vault_ext.audit_checkpoints OWNER TO vault_ext_owner;

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
SELECT pg_catalog.pg_extension_config_dump('vault_ext.honey_users', '');
SELECT pg_catalog.pg_extension_config_dump('vault_ext.audit_trails', '');
SELECT pg_catalog.pg_extension_config_dump('vault_ext.audit_tiles', '');
SELECT pg_catalog.pg_extension_config_dump('vault_ext.audit_checkpoints', '');
