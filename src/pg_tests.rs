//! Tests that need a server but only one connection. They never print keys, because a failed assertion goes to the log.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::pg::subxact;
    use crate::store::maintenance;

    fn become_user(user: &str) {
        Spi::run_with_args("SELECT set_config('app.current_user_id', $1, true)", &[user.into()]).unwrap();
    }

    fn text(sql: &str) -> Option<String> {
        Spi::get_one(sql).unwrap()
    }

    #[pg_test]
    fn init_get_and_rotate_in_one_transaction() {
        become_user("in-server-1");
        let minted = text("SELECT master_key FROM vault_init()");
        assert!(minted.is_some() && minted == text("SELECT master_key FROM vault_get_master_key()"));
        let rotated = text("SELECT master_key FROM vault_rotate()");
        assert!(rotated.is_some() && rotated != minted);
        assert!(rotated == text("SELECT master_key FROM vault_init()"));
    }

    #[pg_test(error = "app.current_user_id is not set")]
    fn a_caller_without_an_identity_gets_no_key() {
        become_user("");
        text("SELECT master_key FROM vault_init()");
    }

    #[pg_test]
    fn a_caught_error_undoes_its_part_and_leaves_the_transaction_usable() {
        let caught = subxact::catch(|| {
            Spi::run("CREATE TABLE half_done (x int)").unwrap();
            Spi::run("SELECT 1 / 0").unwrap();
        });
        assert_eq!(subxact::sqlstate(&caught.unwrap_err()), "22012");
        assert_eq!(text("SELECT to_regclass('half_done')::text"), None);
    }

    #[pg_test]
    fn maintenance_ends_even_when_its_work_fails() {
        let failed = subxact::catch(|| {
            maintenance::run(|| {
                assert!(maintenance::is_active());
                Spi::run("SELECT 1 / 0").unwrap();
            });
        });
        assert!(failed.is_err());
        assert!(!maintenance::is_active());
    }
}
