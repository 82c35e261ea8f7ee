-- The alternatives: plain tables with the same columns and indexes, for the same role. A function of ours checks the rows of
-- vault_ext.encryption_vaults. Whoever writes by hand does not have it, so the tables of vaults here have the CHECKs of 0.2.0.
CREATE SCHEMA bench;
GRANT USAGE ON SCHEMA bench TO bench_app;

-- The lower bound: no row-level security on the audit rows.
CREATE TABLE bench.audit (LIKE vault_ext.encryption_vault_audit INCLUDING ALL);
GRANT INSERT ON bench.audit TO bench_app;

CREATE TABLE bench.vaults (LIKE vault_ext.encryption_vaults INCLUDING ALL EXCLUDING CONSTRAINTS,
    CHECK (octet_length(user_id) BETWEEN 1 AND 255), CHECK (octet_length(wrapped_mk) = 64),
    CHECK (octet_length(wrap_iv) = CASE format_version WHEN 1 THEN 16 WHEN 2 THEN 32 END),
    CHECK (format_version IN (1, 2)), CHECK (octet_length(kek_id) BETWEEN 1 AND 64), CHECK (key_version >= 1));
INSERT INTO bench.vaults SELECT * FROM vault_ext.encryption_vaults;
ALTER TABLE bench.vaults ENABLE ROW LEVEL SECURITY;
CREATE POLICY user_isolation ON bench.vaults
    USING (user_id = NULLIF(current_setting('app.current_user_id', true), ''));
GRANT SELECT, INSERT, UPDATE ON bench.vaults TO bench_app;

-- For handwritten transactions without row-level security, the lower bound for changing a vault.
CREATE TABLE bench.plain_vaults (LIKE bench.vaults INCLUDING ALL);
INSERT INTO bench.plain_vaults SELECT * FROM vault_ext.encryption_vaults;
GRANT SELECT, INSERT, UPDATE ON bench.plain_vaults TO bench_app;
