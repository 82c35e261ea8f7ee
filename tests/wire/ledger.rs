//! The test's own record of a vault: every key it received, and the call that returned it. Every scenario of faults,
//! copies and load ends with `end_checks`, which compares the server with this record.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use postgres::error::Severity;
use postgres::{Client, Error};

use crate::harness::{Counts, Db, VaultKey, assert_no_secrets_in_files, decode, fetch, init, kek, report, rotate};
use crate::trail;

/// The number of master keys, newest first, to search the files for. The KEKs are always searched for.
const KEYS_SEARCHED: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Call {
    Init,
    Fetch,
    Rotate,
}

impl Call {
    fn function(self) -> &'static str {
        match self {
            Call::Init => "vault_init",
            Call::Fetch => "vault_get_master_key",
            Call::Rotate => "vault_rotate",
        }
    }

    fn run(self, client: &mut Client) -> Result<VaultKey, Error> {
        match self {
            Call::Init => init(client),
            Call::Fetch => fetch(client),
            Call::Rotate => rotate(client),
        }
    }
}

/// A key that a call returned.
#[derive(Clone, Debug)]
struct Release {
    request: String,
    user: String,
    key: VaultKey,
}

#[derive(Clone, Debug, Default)]
struct Known {
    key: Option<VaultKey>,
    /// Changes whose outcome the client never learned. Each of them may have been committed.
    in_doubt: i32,
}

#[derive(Clone, Debug, Default)]
pub struct Ledger {
    users: BTreeMap<String, Known>,
    releases: Vec<Release>,
    /// Failed calls by SQLSTATE. The empty code stands for a lost connection.
    pub failures: BTreeMap<String, usize>,
}

/// Request ids are unique within this process, so that each audit row can be traced to its call.
static NEXT_REQUEST: AtomicU64 = AtomicU64::new(1);

fn next_request_id() -> String {
    format!("request-{}", NEXT_REQUEST.fetch_add(1, Ordering::Relaxed))
}

impl Ledger {
    /// Makes one call for that user in its own statement.
    pub fn call(&mut self, client: &mut Client, user: &str, call: Call) -> Result<VaultKey, Error> {
        let request = next_request_id();
        let set = "SELECT set_config('app.current_user_id', $1, false), set_config('app.request_id', $2, false)";
        if let Err(error) = client.execute(set, &[&user, &request]) {
            return self.count_failure(error);
        }
        let result = call.run(client);
        self.record(request, user, call, result)
    }

    /// Makes one call in a transaction that sets the user itself. It uses no named statements, because other clients
    /// may use the session in between.
    pub fn call_in_transaction(&mut self, client: &mut Client, user: &str, call: Call) -> Result<VaultKey, Error> {
        let request = next_request_id();
        let set = format!("BEGIN; SET LOCAL app.current_user_id = '{user}'; SET LOCAL app.request_id = '{request}'");
        if let Err(error) = client.batch_execute(&set) {
            return self.count_failure(error);
        }
        let sql = format!("SELECT {} FROM {}()", VaultKey::COLUMNS, call.function());
        let result = client.simple_query(&sql);
        let ended = client.batch_execute(if result.is_ok() { "COMMIT" } else { "ROLLBACK" });
        let result = result.and_then(|messages| ended.map(|()| VaultKey::from_simple_query(&messages)));
        self.record(request, user, call, result)
    }

    fn record(
        &mut self,
        request: String,
        user: &str,
        call: Call,
        result: Result<VaultKey, Error>,
    ) -> Result<VaultKey, Error> {
        match result {
            Ok(key) => {
                self.note_key(user, &key);
                self.releases.push(Release { request, user: user.to_owned(), key: key.clone() });
                Ok(key)
            }
            Err(error) => {
                // An ERROR rolled the statement back. Any other failure may have happened after the commit.
                // Nor is a lost connection between nodes: the other one may have committed.
                // Citus says so with XX000, too.
                let is_of_nodes =
                    error.code().is_some_and(|code| code.code().starts_with("08") || code.code() == "XX000");
                let rolled_back = !is_of_nodes
                    && error.as_db_error().is_some_and(|error| error.parsed_severity() == Some(Severity::Error));
                if call != Call::Fetch && !rolled_back {
                    self.users.entry(user.to_owned()).or_default().in_doubt += 1;
                }
                self.count_failure(error)
            }
        }
    }

    fn count_failure(&mut self, error: Error) -> Result<VaultKey, Error> {
        let code = error.code().map_or(String::new(), |code| code.code().to_owned());
        *self.failures.entry(code).or_default() += 1;
        Err(error)
    }

    fn note_key(&mut self, user: &str, key: &VaultKey) {
        let known = &mut self.users.entry(user.to_owned()).or_default().key;
        match known {
            Some(old) if old.key_version == key.key_version => {
                assert_eq!(old.master_key, key.master_key, "{user} got two different keys of the same version")
            }
            Some(old) if old.key_version > key.key_version => {}
            _ => *known = Some(key.clone()),
        }
    }

    pub fn merge(&mut self, other: Ledger) {
        for (user, known) in other.users {
            if let Some(key) = &known.key {
                self.note_key(&user, key);
            }
            self.users.entry(user).or_default().in_doubt += known.in_doubt;
        }
        self.releases.extend(other.releases);
        for (code, count) in other.failures {
            *self.failures.entry(code).or_default() += count;
        }
    }

    pub fn released(&self) -> usize {
        self.releases.len()
    }

    /// The request id of the latest call that returned a key.
    pub fn last_request(&self) -> &str {
        &self.releases.last().expect("a key was released").request
    }

    pub fn failed_calls(&self) -> usize {
        self.failures.values().sum()
    }

    pub fn key(&self, user: &str) -> &VaultKey {
        self.users[user].key.as_ref().expect("a key of this user is known")
    }

    /// Checks that an ordinary role can open every vault, that each still has its key and that each fetch has an audit
    /// row.
    #[track_caller]
    fn check_every_vault_opens(&self, db: &Db) -> usize {
        let mut now = Ledger::default();
        let mut app = db.app();
        for (user, known) in &self.users {
            let key = match (now.call(&mut app, user, Call::Fetch), &known.key) {
                (Ok(key), _) => key,
                (Err(error), None) if error.code().is_some_and(|code| code.code() == "P0002") => continue,
                (Err(error), _) => panic!("the vault of {user} does not open: {error:?}\n{known:?}"),
            };
            let (least, same) = known.key.as_ref().map_or((1, None), |known| (known.key_version, Some(known)));
            let most = least + known.in_doubt;
            assert!((least..=most).contains(&key.key_version), "{user}: version {} of {known:?}", key.key_version);
            if let Some(same) = same.filter(|same| same.key_version == key.key_version) {
                // A rewrap changes everything except the key.
                assert_eq!(key.master_key, same.master_key, "the key of {user} changed");
            }
        }
        now.check_every_release_has_a_row(&[db]);
        now.released()
    }

    /// Checks that each released key has an audit row that identifies it, and that no row is there twice.
    #[track_caller]
    fn check_every_release_has_a_row(&self, dbs: &[&Db]) -> i64 {
        // There may be a million rows of calls outside any ledger.
        let trail: Vec<_> = dbs.iter().flat_map(|db| db.audit_where("request_id LIKE 'request-%'")).collect();
        let mut rows: HashMap<&str, Vec<_>> = HashMap::new();
        for row in &trail {
            rows.entry(row.request_id.as_deref().unwrap_or_default()).or_default().push(row);
        }
        let missing = self.releases.iter().filter(|release| {
            let rows = rows.get(release.request.as_str()).map_or(&[][..], Vec::as_slice);
            !rows.iter().any(|row| {
                (200..300).contains(&row.status)
                    && row.user_id.as_ref() == Some(&release.user)
                    && row.key_version == Some(release.key.key_version)
                    && row.kek_id.as_ref() == Some(&release.key.kek_id)
            })
        });
        let missing: Vec<_> = missing.map(|release| (&release.request, &release.user)).collect();
        assert!(
            missing.is_empty(),
            "{} of {} released keys have no row: {missing:?}",
            missing.len(),
            self.releases.len()
        );
        for (request, rows) in &rows {
            let mut whats: Vec<_> = rows.iter().map(|row| row.what()).collect();
            whats.sort_unstable();
            whats.dedup();
            assert_eq!(whats.len(), rows.len(), "{request} has a row twice: {rows:?}");
        }
        dbs.iter().map(|db| db.value::<i64>("SELECT count(*) FROM vault_ext.encryption_vault_audit")).sum()
    }

    /// The latest released keys, which must appear in no file.
    fn secrets(&self, count: usize) -> Vec<Vec<u8>> {
        let mut seen = HashSet::new();
        let newest = self.releases.iter().rev().map(|release| &release.key.master_key);
        newest.filter(|key| seen.insert(*key)).take(count).map(|key| decode(key)).collect()
    }

    /// Runs the five final checks of a scenario and reports its row of the table.
    #[track_caller]
    pub fn end_checks(&self, db: &Db, scenario: &str, runs: usize) {
        Self::end_checks_of_all(&[(self, db)], scenario, runs);
    }

    /// The final checks of a vault on many nodes: each of them opens every vault, each released key has its row on one of them, each
    /// trail is whole, and no file of theirs has a key. Says how many keys were released.
    #[cfg(feature = "citus")]
    #[track_caller]
    pub fn end_checks_of_nodes(&self, nodes: &[&Db]) -> usize {
        assert!(!self.releases.is_empty(), "no key was released, so the scenario proves nothing");
        for node in nodes {
            self.check_every_vault_opens(node);
        }
        self.check_every_release_has_a_row(nodes);
        let mut secrets = self.secrets(KEYS_SEARCHED);
        secrets.extend([kek(1).to_vec(), kek(2).to_vec()]);
        for node in nodes {
            trail::is_whole(node);
            node.force("CHECKPOINT");
            assert_no_secrets_in_files(&[&node.cluster.data(), &node.cluster.dir().join("log")], &secrets);
        }
        self.released()
    }

    /// Does the same for several databases of one server, and searches its files only once.
    #[track_caller]
    pub fn end_checks_of_all(checked: &[(&Ledger, &Db)], scenario: &str, runs: usize) {
        let (mut released, mut rows, mut opened, mut failed_calls) = (0, 0, 0, 0);
        let mut secrets = Vec::new();
        for (ledger, db) in checked {
            assert!(!ledger.releases.is_empty(), "{scenario}: no key was released, so the scenario proves nothing");
            opened += ledger.check_every_vault_opens(db);
            rows += ledger.check_every_release_has_a_row(&[db]);
            trail::is_whole(db);
            released += ledger.released();
            failed_calls += ledger.failed_calls();
            secrets.extend(ledger.secrets(KEYS_SEARCHED.div_ceil(checked.len())));
        }
        secrets.extend([kek(1).to_vec(), kek(2).to_vec()]);
        let (_, db) = checked.first().expect("a database to check");
        // Write everything that is still only in memory to the files before searching them.
        db.force("CHECKPOINT");
        let (data, log) = (db.cluster.data(), db.cluster.dir().join("log"));
        let bytes_searched = assert_no_secrets_in_files(&[&data, &log], &secrets);
        let versions = (
            db.value("SELECT default_version FROM pg_available_extensions WHERE name = 'vault_ext'"),
            db.value("SELECT current_setting('server_version')"),
        );
        report(&Counts { scenario, runs, released, rows, opened, bytes_searched, failed_calls, versions });
    }
}
