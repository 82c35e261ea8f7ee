-- The alternatives: plain tables with the same columns, constraints and indexes, for the same role.
CREATE SCHEMA bench;
GRANT USAGE ON SCHEMA bench TO bench_app;

-- The lower bound: no row-level security on the audit rows.
CREATE TABLE bench.audit (LIKE vault_ext.encryption_vault_audit INCLUDING ALL);
GRANT INSERT ON bench.audit TO bench_app;

CREATE TABLE bench.vaults (LIKE vault_ext.encryption_vaults INCLUDING ALL);
INSERT INTO bench.vaults SELECT * FROM vault_ext.encryption_vaults;
ALTER TABLE bench.vaults ENABLE ROW LEVEL SECURITY;
CREATE POLICY user_isolation ON bench.vaults
    USING (user_id = NULLIF(current_setting('app.current_user_id', true), ''));
GRANT SELECT, INSERT, UPDATE ON bench.vaults TO bench_app;

-- For handwritten transactions without row-level security, the lower bound for changing a vault.
CREATE TABLE bench.plain_vaults (LIKE vault_ext.encryption_vaults INCLUDING ALL);
INSERT INTO bench.plain_vaults SELECT * FROM vault_ext.encryption_vaults;
GRANT SELECT, INSERT, UPDATE ON bench.plain_vaults TO bench_app;
