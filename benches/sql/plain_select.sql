SELECT wrapped_mk, wrap_iv, format_version, kek_id, key_version FROM bench.vaults WHERE user_id = :user;
