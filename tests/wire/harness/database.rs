//! Each test's own database with the extension. Most of them are in one server that the whole run shares.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use postgres::Client;

use super::calls::{AuditRow, set_user};
use super::secrets::{PREDECESSOR_KEK, kek, keyring_line};
use super::{Builder, Cluster};

/// wire-1 is active, env-v1 opens the predecessor's rows, and spare is known but unused.
static SHARED: LazyLock<Cluster> = LazyLock::new(|| {
    let keyring = [
        "# the shared server's keyring\n".to_owned(),
        keyring_line("wire-1", &kek(1)),
        keyring_line("env-v1", &PREDECESSOR_KEK),
        keyring_line("spare", &kek(2)),
    ];
    let cluster = Cluster::builder()
        .keyring(&keyring.concat())
        .without_fsync()
        .tcp()
        .conf("max_connections = 300")
        .conf("max_worker_processes = 100")
        .conf("max_prepared_transactions = 10")
        .conf("log_statement = all")
        .start();
    cluster.keep_neighbours_busy();
    cluster
});

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A fresh database with the extension, in the shared server.
pub fn shared_db() -> Db<'static> {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("unnamed").replace("::", "_");
    let name: String = test.chars().take(50).collect();
    SHARED.database(&format!("{name}_{number}"))
}

const LOGINS: &str = "
DO $$
DECLARE member record;
BEGIN
    FOR member IN SELECT * FROM (VALUES ('wire_app', 'vault_ext_user'), ('wire_app2', 'vault_ext_user'),
        ('wire_admin', 'vault_ext_admin'), ('wire_auditor', 'vault_ext_auditor'), ('wire_grantor', 'vault_ext_grantor'),
        ('wire_grantor2', 'vault_ext_grantor'), ('wire_service', 'vault_ext_service'), ('wire_crypt', 'vault_ext_crypt'), ('wire_stranger', NULL)) v(login, grp)
    LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = member.login) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', member.login);
        END IF;
        -- Older versions make fewer roles.
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = member.grp) AND NOT pg_has_role(member.login, member.grp, 'MEMBER') THEN
            EXECUTE format('GRANT %I TO %I', member.grp, member.login);
        END IF;
    END LOOP;
END $$";

/// The statements that install the extension for the tests. If VAULT_EXT_INSTALL_FROM names a released version, they
/// install that one and upgrade it (make test-extension-upgrade).
static INSTALL: LazyLock<String> = LazyLock::new(|| match std::env::var("VAULT_EXT_INSTALL_FROM") {
    Ok(version) => format!("CREATE EXTENSION vault_ext VERSION '{version}'; ALTER EXTENSION vault_ext UPDATE"),
    Err(_) => "CREATE EXTENSION vault_ext".to_owned(),
});

impl Builder {
    /// Gives the server one KEK, wire-1, from a file.
    pub fn with_wire_kek(self) -> Self {
        self.keyring(&keyring_line("wire-1", &kek(1)))
    }
}

impl Cluster {
    pub fn empty_database(&self, name: &str) -> Db<'_> {
        self.superuser("postgres")
            .batch_execute(&format!("CREATE DATABASE \"{name}\""))
            .unwrap_or_else(|e| panic!("cannot create {name}: {e:?}"));
        self.existing_database(name)
    }

    pub fn existing_database(&self, name: &str) -> Db<'_> {
        Db { cluster: self, name: name.to_owned() }
    }

    /// Creates a database with the extension, and the login roles that the tests use.
    pub fn database(&self, name: &str) -> Db<'_> {
        self.database_installed_by(name, &INSTALL)
    }

    /// Like `database`, but these statements install the extension.
    pub fn database_installed_by(&self, name: &str, install: &str) -> Db<'_> {
        let _guard = self.installing.lock().unwrap_or_else(|e| e.into_inner());
        let db = self.empty_database(name);
        let mut superuser = db.superuser();
        superuser.batch_execute(install).unwrap_or_else(|e| panic!("{install} fails: {e:?}\n{}", self.log()));
        superuser.batch_execute(LOGINS).expect("the login roles can be created");
        db
    }
}

pub struct Db<'c> {
    pub cluster: &'c Cluster,
    pub name: String,
}

impl Db<'_> {
    /// Creates the login roles that the tests use, for a database that came from elsewhere.
    pub fn make_logins(&self) {
        self.force(LOGINS);
    }

    pub fn conn(&self, role: &str) -> Client {
        self.cluster.conn(role, &self.name)
    }

    pub fn superuser(&self) -> Client {
        self.conn("postgres")
    }

    /// A session of the application: a login role whose only grant is vault_ext_user.
    pub fn app(&self) -> Client {
        self.conn("wire_app")
    }

    /// A session of the application that acts for one of its users.
    pub fn app_for(&self, user: &str) -> Client {
        let mut client = self.app();
        set_user(&mut client, user);
        client
    }

    /// The same of an application that uses keys and gets none: a login role whose only grant is vault_ext_crypt.
    pub fn crypt_for(&self, user: &str) -> Client {
        let mut client = self.conn("wire_crypt");
        set_user(&mut client, user);
        client
    }

    /// The whole trail, oldest row first, read in a separate session.
    pub fn audit(&self) -> Vec<AuditRow> {
        self.audit_where("true")
    }

    pub fn audit_where(&self, condition: &str) -> Vec<AuditRow> {
        let columns = AuditRow::COLUMNS;
        let sql = format!("SELECT {columns} FROM vault_ext.encryption_vault_audit WHERE {condition} ORDER BY id");
        let rows = self.superuser().query(&sql, &[]).expect("the audit trail can be read");
        rows.iter().map(AuditRow::new).collect()
    }

    pub fn audit_of(&self, user: &str) -> Vec<AuditRow> {
        let mut rows = self.audit();
        rows.retain(|row| row.user_id.as_deref() == Some(user));
        rows
    }

    /// Runs statements as the superuser, to whom no policy applies.
    #[track_caller]
    pub fn force(&self, sql: &str) {
        self.superuser().batch_execute(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    /// Reads one value as the superuser.
    #[track_caller]
    pub fn value<T: for<'a> postgres::types::FromSql<'a>>(&self, sql: &str) -> T {
        self.superuser().query_one(sql, &[]).unwrap_or_else(|e| panic!("{sql}: {e:?}")).get(0)
    }

    /// The user's stored row as text, for comparisons of before and after.
    pub fn vault_row(&self, user: &str) -> Option<String> {
        self.superuser()
            .query_opt("SELECT v::text FROM vault_ext.encryption_vaults v WHERE user_id = $1", &[&user])
            .expect("the vaults table can be read")
            .map(|row| row.get(0))
    }
}

impl Drop for Db<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let database_tag = format!("@{} ", self.name);
            let log = self.cluster.log();
            let lines: Vec<_> =
                log.lines().filter(|line| line.contains(&database_tag) || !line.contains('@')).collect();
            let tail = &lines[lines.len().saturating_sub(100)..];
            eprintln!("--- server log of {}\n{}", self.name, tail.join("\n"));
        }
    }
}
