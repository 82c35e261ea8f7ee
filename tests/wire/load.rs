//! A steady mix of calls from many sessions, which reconnect whenever they lose their connection, and a ledger of what
//! they saw.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use postgres::{Client, Config, NoTls};

use crate::harness::{Db, eventually};
use crate::ledger::{Call, Ledger};

const SOON: Duration = Duration::from_secs(60);

struct Shared {
    stop: AtomicBool,
    released: AtomicUsize,
    failed: AtomicUsize,
    /// The server that the sessions connect to. It changes at a failover.
    target: Mutex<Config>,
}

pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Ledger>>,
    /// The vaults created before the sessions started.
    made: Ledger,
}

impl Load {
    pub fn start(db: &Db, sessions: usize) -> Self {
        Self::with_settings(db, sessions, "")
    }

    /// Each session runs the statement `settings` after it connects.
    pub fn with_settings(db: &Db, sessions: usize, settings: &'static str) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            released: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
            target: Mutex::new(db.cluster.config("wire_app", &db.name)),
        });
        // Create the vaults before the settings can cut a call short, so that no later call finds its vault missing.
        let mut made = Ledger::default();
        let mut client = db.app();
        for user in (0..sessions).map(own_user).chain(["everybody".to_owned()]) {
            made.call(&mut client, &user, Call::Init).expect("a server without load creates vaults");
        }
        let threads = (0..sessions)
            .map(|session| {
                let shared = shared.clone();
                std::thread::spawn(move || run(&shared, session, settings))
            })
            .collect();
        Load { shared, threads, made }
    }

    /// Sends the sessions to another server the next time they connect.
    pub fn redirect(&self, db: &Db) {
        *self.shared.target.lock().expect("no session panics while it holds the lock") =
            db.cluster.config("wire_app", &db.name);
    }

    pub fn released(&self) -> usize {
        self.shared.released.load(Ordering::Relaxed)
    }

    /// Waits until the sessions have received `keys` more keys.
    #[track_caller]
    pub fn wait_for_keys(&self, keys: usize) {
        let before = self.released();
        eventually(SOON, &format!("{keys} more keys go out"), || {
            assert!(!self.threads.iter().any(JoinHandle::is_finished), "a session ended too early");
            self.released() >= before + keys
        });
    }

    /// Waits until `calls` more calls have failed. A storm that hits no call proves nothing.
    #[track_caller]
    pub fn wait_for_failures(&self, calls: usize) {
        let failed = || self.shared.failed.load(Ordering::Relaxed);
        let before = failed();
        eventually(SOON, &format!("{calls} more calls fail"), || failed() >= before + calls);
    }

    pub fn stop(mut self) -> Ledger {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut ledger = std::mem::take(&mut self.made);
        for thread in self.threads.drain(..) {
            ledger.merge(thread.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause)));
        }
        ledger
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

fn connect(shared: &Shared, settings: &str) -> Option<Client> {
    let config = shared.target.lock().expect("no session panics while it holds the lock").clone();
    let mut client = config.connect(NoTls).ok()?;
    client.batch_execute(settings).is_ok().then_some(client)
}

fn own_user(session: usize) -> String {
    format!("user-{session}")
}

/// Runs one session: it has its own user, creates a new user now and then, and shares one user with all other sessions.
fn run(shared: &Shared, session: usize, settings: &str) -> Ledger {
    let mut ledger = Ledger::default();
    let mut client: Option<Client> = None;
    let own = own_user(session);
    let mut n = session;
    while !shared.stop.load(Ordering::Relaxed) {
        let Some(connected) = client.as_mut().filter(|client| !client.is_closed()) else {
            client = connect(shared, settings);
            if client.is_none() {
                std::thread::sleep(Duration::from_millis(10));
            } else if let Some(client) = client.as_mut() {
                // A promoted standby may not have this vault.
                let _ = ledger.call(client, &own, Call::Init);
            }
            continue;
        };
        n += 1;
        let called = match n % 20 {
            0 => ledger.call(connected, &format!("{own}-{n}"), Call::Init),
            1 | 8 | 15 => ledger.call(connected, &own, Call::Rotate),
            5 => ledger.call(connected, "everybody", Call::Rotate),
            12 => ledger.call(connected, "everybody", Call::Init),
            _ => ledger.call(connected, &own, Call::Fetch),
        };
        match called {
            Ok(_) => {
                shared.released.fetch_add(1, Ordering::Relaxed);
            }
            // Do not call a million times while the server refuses everything.
            Err(_) => {
                shared.failed.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    ledger
}
