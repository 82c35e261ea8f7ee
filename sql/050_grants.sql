-- Everything that anybody may do with the vault stands in this file; PUBLIC may do nothing.
REVOKE ALL ON SCHEMA vault_ext FROM PUBLIC;
GRANT USAGE ON SCHEMA vault_ext TO vault_ext_user, vault_ext_admin, vault_ext_auditor;

GRANT EXECUTE ON FUNCTION vault_init(), vault_get_master_key(), vault_rotate(), vault_status() TO vault_ext_user;
GRANT SELECT ON vault_ext.own_audit TO vault_ext_user;
-- The policies behind that view ask this with the rights of whoever reads it; it is never true in anybody's own SQL.
GRANT EXECUTE ON FUNCTION vault_ext.in_maintenance() TO vault_ext_user;

GRANT EXECUTE ON FUNCTION vault_erase(text), vault_erase_on_delete(), vault_purge_audit(interval) TO vault_ext_admin;
GRANT EXECUTE ON FUNCTION vault_reload_kek(boolean), vault_retire_kek(text), vault_kek_status(), vault_check(integer) TO vault_ext_admin;
GRANT EXECUTE ON PROCEDURE vault_rewrap(integer, bigint, bigint, bigint) TO vault_ext_admin;
GRANT EXECUTE ON FUNCTION vault_version() TO vault_ext_admin;
GRANT SELECT ON vault_ext.keks, vault_ext.audit_stats, vault_ext.rewrap_progress TO vault_ext_admin;

GRANT SELECT ON vault_ext.encryption_vault_audit, vault_ext.keks, vault_ext.audit_stats TO vault_ext_auditor;
-- A view's functions are called with the rights of whoever reads the view.
GRANT EXECUTE ON FUNCTION vault_ext.audit_counters() TO vault_ext_admin, vault_ext_auditor;
