SELECT * FROM vault_get_master_key();
