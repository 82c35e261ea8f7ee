//! The library belongs to the server, the SQL to each database: once another version was installed they differ, until
//! ALTER EXTENSION … UPDATE has run there.

use super::catalog;

pub const LIBRARY: &str = env!("CARGO_PKG_VERSION");

/// What to do about another version of the SQL than the library's; None where both are the same.
pub fn hint(sql: &str) -> Option<&'static str> {
    hint_for(LIBRARY, sql)
}

fn hint_for(library: &str, sql: &str) -> Option<&'static str> {
    let is_newer = || numbers(sql) > numbers(library);
    (sql != library).then(|| {
        if is_newer() {
            "Install the library of that version and restart the server."
        } else {
            "Run ALTER EXTENSION vault_ext UPDATE in this database."
        }
    })
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|number| number.parse().ok()).collect()
}

/// Tells an administrator who looks at the KEKs or vaults of this database.
pub fn warn_if_they_differ() {
    if let Some(sql) = catalog::sql_version()
        && let Some(hint) = hint(&sql)
    {
        pgrx::warning!("the library of vault_ext is {LIBRARY}, its SQL in this database {sql}: {hint}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_says_which_of_the_two_is_behind() {
        assert_eq!(hint(LIBRARY), None);
        assert!(hint_for("0.2.0", "0.1.0").unwrap().contains("ALTER EXTENSION"));
        assert!(hint_for("0.10.0", "0.9.1").unwrap().contains("ALTER EXTENSION"));
        assert!(hint_for("0.9.1", "0.10.0").unwrap().contains("restart"));
    }
}
