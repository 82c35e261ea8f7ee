-- Random keys of the same length, encrypted with a passphrase and pgcrypto's defaults.
CREATE EXTENSION IF NOT EXISTS pgcrypto;
CREATE TABLE bench.pgcrypto_vaults AS
    SELECT user_id, pgp_sym_encrypt_bytea(gen_random_bytes(32), current_setting('bench.passphrase')) AS encrypted_mk,
           format_version, kek_id, key_version
    FROM vault_ext.encryption_vaults;
ALTER TABLE bench.pgcrypto_vaults ADD PRIMARY KEY (user_id), ENABLE ROW LEVEL SECURITY;
CREATE POLICY user_isolation ON bench.pgcrypto_vaults
    USING (user_id = NULLIF(current_setting('app.current_user_id', true), ''));
GRANT SELECT ON bench.pgcrypto_vaults TO bench_app;
