//! The recovery code and zero-knowledge mode. The functions are not STRICT: NULL for a key must not pass for success.

use pgrx::prelude::*;

use super::or_raise;
use crate::vault::recovery;

/// Replaces the recovery wrap. 22023, 28000, 42501, 53400, 55000, P0002.
#[pg_extern(sql = false)]
fn vault_set_recovery(recovery_wrapped_mk: Option<&str>, recovery_iv: Option<&str>) {
    or_raise(recovery::set(recovery_wrapped_mk, recovery_iv));
}

/// Removes the recovery wrap; false if there was none. 28000, 42501, 53400, 55000, P0002.
#[pg_extern(sql = false)]
fn vault_clear_recovery() -> bool {
    or_raise(recovery::clear())
}

/// 32 random bytes, to be answered once and in this session. 28000, 42501, 55000, P0002.
#[pg_extern(sql = false)]
fn vault_recovery_challenge() -> Vec<u8> {
    or_raise(recovery::challenge()).to_vec()
}

/// Lets the server forget the key; false if it has before. 22023, 28000, 42501, 53400, 55000, P0002, XX001.
#[pg_extern(sql = false)]
fn vault_enable_zero_knowledge(proof: Option<&[u8]>) -> bool {
    or_raise(recovery::enable(proof))
}

/// Gives the key back to the server; false if it has it. 22023, 28000, 42501, 53400, 55000, P0002.
#[pg_extern(sql = false)]
fn vault_disable_zero_knowledge(master_key: Option<&str>) -> bool {
    or_raise(recovery::disable(master_key))
}
