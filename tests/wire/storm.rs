//! Many sessions that make calls while a disturbance runs, and the final count of keys and audit rows.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use postgres::Client;

use crate::harness::{Db, eventually, fetch, init};

const SOON: Duration = Duration::from_secs(30);
/// A storm with fewer successful calls proves nothing.
const ENOUGH: usize = 50;

/// The request ids of one session's calls that returned a key, and the number of its failed calls.
#[derive(Default)]
pub struct Seen {
    pub released: Vec<String>,
    pub failed: usize,
}

pub fn tagged_fetch(client: &mut Client, id: &str) -> Result<(), postgres::Error> {
    client.execute("SELECT set_config('app.request_id', $1, false)", &[&id])?;
    fetch(client).map(drop)
}

/// Connects again after the session was lost.
fn connect_again(db: &Db, user: &str) -> Client {
    let mut client = None;
    eventually(SOON, "the server takes connections", || {
        client = db.cluster.try_conn("wire_app", &db.name).ok();
        if let Some(client) = client.as_mut() {
            let set = "SELECT set_config('app.current_user_id', $1, false)";
            return client.execute(set, &[&user]).is_ok();
        }
        false
    });
    client.expect("connected")
}

/// Makes calls from several sessions until `disturb` has ended and enough calls have succeeded. `prepare` may spoil a
/// session's next call.
pub fn storm(
    db: &Db,
    sessions: usize,
    prepare: impl Fn(&mut Client, usize) + Sync,
    disturb: impl FnOnce(),
) -> Vec<Seen> {
    for i in 0..sessions {
        init(&mut db.app_for(&format!("user-{i}"))).unwrap();
    }
    let stop = AtomicBool::new(false);
    let released = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..sessions)
            .map(|i| {
                let (stop, released, prepare) = (&stop, &released, &prepare);
                scope.spawn(move || {
                    let user = format!("user-{i}");
                    let mut client = connect_again(db, &user);
                    let mut seen = Seen::default();
                    for n in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        if client.is_closed() {
                            client = connect_again(db, &user);
                        }
                        prepare(&mut client, n);
                        let id = format!("{i}-{n}");
                        match tagged_fetch(&mut client, &id) {
                            Ok(()) => {
                                seen.released.push(id);
                                released.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(_) => seen.failed += 1,
                        }
                    }
                    seen
                })
            })
            .collect();
        // The sessions must end even if the disturbance fails.
        let disturbed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            disturb();
            eventually(SOON, "enough calls succeeded", || released.load(Ordering::Relaxed) > ENOUGH);
        }));
        stop.store(true, Ordering::Relaxed);
        let seen = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        if let Err(cause) = disturbed {
            std::panic::resume_unwind(cause);
        }
        seen
    })
}

/// The number of successful rows in the trail for each request id.
pub fn rows_by_request(db: &Db) -> HashMap<String, usize> {
    let mut rows = HashMap::new();
    for row in db.audit() {
        if let (Some(id), 200) = (row.request_id, row.status) {
            *rows.entry(id).or_insert(0) += 1;
        }
    }
    rows
}

#[track_caller]
pub fn assert_one_row_per_released_key(db: &Db, seen: &[Seen]) {
    let rows = rows_by_request(db);
    let released: Vec<_> = seen.iter().flat_map(|seen| &seen.released).collect();
    assert!(released.len() > ENOUGH, "only {} calls succeeded", released.len());
    let lost: Vec<_> = released.iter().filter(|id| !rows.contains_key(**id)).collect();
    assert!(lost.is_empty(), "{} of {} released keys have no row: {lost:?}", lost.len(), released.len());
    let twice: Vec<_> = rows.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "requests with more than one row: {twice:?}");
}

/// Repeats the disturbance for two seconds.
pub fn repeatedly(every: Duration, mut disturb: impl FnMut()) {
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        disturb();
        std::thread::sleep(every);
    }
}
