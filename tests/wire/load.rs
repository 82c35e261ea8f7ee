//! A steady mix of calls from many sessions that come back whenever they are thrown out, and the ledger of what they saw.

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
    /// Where the sessions connect to: a failover moves it.
    target: Mutex<Config>,
}

pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Ledger>>,
    /// The vaults that were there before the sessions came.
    made: Ledger,
}

impl Load {
    pub fn start(db: &Db, sessions: usize) -> Self {
        Self::with_settings(db, sessions, "")
    }

    /// `settings`: a statement that each session runs when it has connected.
    pub fn with_settings(db: &Db, sessions: usize, settings: &'static str) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            released: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
            target: Mutex::new(db.cluster.config("wire_app", &db.name)),
        });
        // Made before the settings may cut a call short: afterwards no call finds nothing.
        let mut made = Ledger::default();
        let mut client = db.app();
        for user in (0..sessions).map(own_user).chain(["everybody".to_owned()]) {
            made.call(&mut client, &user, Call::Init).expect("a server without a load makes vaults");
        }
        let threads = (0..sessions)
            .map(|session| {
                let shared = shared.clone();
                std::thread::spawn(move || run(&shared, session, settings))
            })
            .collect();
        Load { shared, threads, made }
    }

    /// Sends the sessions to another server as soon as they have to connect again.
    pub fn redirect(&self, db: &Db) {
        *self.shared.target.lock().expect("no session panics with it") = db.cluster.config("wire_app", &db.name);
    }

    pub fn released(&self) -> usize {
        self.shared.released.load(Ordering::Relaxed)
    }

    /// Waits until so many more keys were released.
    #[track_caller]
    pub fn let_through(&self, keys: usize) {
        let before = self.released();
        eventually(SOON, &format!("{keys} more keys go out"), || {
            assert!(!self.threads.iter().any(JoinHandle::is_finished), "a session ended before its time");
            self.released() >= before + keys
        });
    }

    /// Waits until so many more calls failed: a storm that hits nothing shows nothing.
    #[track_caller]
    pub fn let_fail(&self, calls: usize) {
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
    let config = shared.target.lock().expect("no session panics with it").clone();
    let mut client = config.connect(NoTls).ok()?;
    client.batch_execute(settings).is_ok().then_some(client)
}

fn own_user(session: usize) -> String {
    format!("user-{session}")
}

/// Each session has a user of its own, mints a new one now and then, and shares one with all the others.
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
                // A standby that took over may not have it.
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
            // A server that refuses everything for a while is not to be asked a million times.
            Err(_) => {
                shared.failed.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    ledger
}
