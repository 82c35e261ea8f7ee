//! Tests that need a server and only one connection. No key is printed: a failing assertion would log it.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::pg::subxact;
    use crate::store::maintenance;

    fn be(user: &str) {
        Spi::run_with_args("SELECT set_config('app.current_user_id', $1, true)", &[user.into()]).unwrap();
    }

    fn text(sql: &str) -> Option<String> {
        Spi::get_one(sql).unwrap()
    }

    #[pg_test]
    fn init_get_and_rotate_in_one_transaction() {
        be("in-server-1");
        let minted = text("SELECT master_key FROM vault_init()");
        assert!(minted.is_some() && minted == text("SELECT master_key FROM vault_get_master_key()"));
        let rotated = text("SELECT master_key FROM vault_rotate()");
        assert!(rotated.is_some() && rotated != minted);
        assert!(rotated == text("SELECT master_key FROM vault_init()"));
    }

    #[pg_test(error = "app.current_user_id is not set")]
    fn nobody_gets_nothing() {
        be("");
        text("SELECT master_key FROM vault_init()");
    }

    #[pg_test]
    fn a_caught_error_leaves_the_transaction_usable_and_undoes_its_part() {
        let caught = subxact::catch(|| {
            Spi::run("CREATE TABLE half_done (x int)").unwrap();
            Spi::run("SELECT 1 / 0").unwrap();
        });
        assert_eq!(subxact::sqlstate(&caught.unwrap_err()), "22012");
        assert_eq!(text("SELECT to_regclass('half_done')::text"), None);
    }

    #[pg_test]
    fn maintenance_ends_with_its_work_also_by_an_error() {
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
