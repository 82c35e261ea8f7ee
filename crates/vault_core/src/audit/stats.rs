//! Statistics of audited calls by database, action and status, in shared memory. Only atomics, no unsafe and no server.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::queue::LastError;
use super::record::Action;

/// Databases that are told apart. Those for which there is no place share the last one.
pub const DATABASES: usize = 64;
/// The statuses that calls have; any other is counted with the last one.
pub const STATUSES: [u16; 12] = [200, 201, 400, 401, 403, 404, 409, 410, 429, 500, 503, 0];
/// The upper bounds of the histogram of waits, in microseconds; a last place is for longer ones.
pub const BOUNDS: [u64; 13] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000];

/// What the statistics of a server consist of. All zero bytes are "nothing counted".
#[derive(Debug)]
pub struct Stats {
    databases: [Database; DATABASES],
    /// Microseconds since 2000-01-01 00:00 UTC; 0 if never.
    reset_at: AtomicI64,
}

/// The statistics of a database.
#[derive(Debug)]
pub struct Database {
    /// Its OID; 0 in an unused place, and in the last one, which several databases share.
    oid: AtomicU64,
    actions: [OfAction; Action::COUNT],
    pub writer: Writer,
}

#[derive(Debug)]
struct OfAction {
    statuses: [OfStatus; STATUSES.len()],
    waits: [AtomicU64; BOUNDS.len() + 1],
}

#[derive(Debug)]
struct OfStatus {
    calls: AtomicU64,
    /// Microseconds.
    waited: AtomicU64,
    longest: AtomicU64,
}

/// What the audit writers of a database have done.
#[derive(Debug)]
pub struct Writer {
    pub starts: AtomicU64,
    pub batches: AtomicU64,
    pub rows: AtomicU64,
    /// Records that were refused: their calls failed.
    pub failures: AtomicU64,
    /// Rows that nobody waited for and that were not written.
    pub lost: AtomicU64,
    /// Microseconds since 2000-01-01 00:00 UTC; 0 if never.
    last_commit_at: AtomicI64,
    last_error_at: AtomicI64,
    /// The packed SQLSTATE of the last batch that failed.
    last_error: AtomicU64,
}

/// The calls of an action with a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calls {
    pub action: Action,
    /// 0 stands for any other than the known ones.
    pub status: u16,
    pub calls: u64,
    /// Microseconds.
    pub waited: u64,
    pub longest: u64,
}

/// The waits of an action: how many took at most each of `BOUNDS`, and how many there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    pub action: Action,
    pub at_most: [u64; BOUNDS.len() + 1],
}

impl Stats {
    /// The place of a database, taken if there is none.
    pub fn database(&self, oid: u32) -> &Database {
        let oid = u64::from(oid);
        let (last, places) = self.databases.split_last().expect("there are places");
        for place in places {
            let current = place.oid.load(Ordering::Acquire);
            // Whoever was faster may have taken it for the same database.
            let take = || match place.oid.compare_exchange(0, oid, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => true,
                Err(taken) => taken == oid,
            };
            if current == oid || current == 0 && take() {
                return place;
            }
        }
        last
    }

    /// The databases in which something was counted, and their OIDs; 0 for those that share a place.
    pub fn databases(&self) -> impl Iterator<Item = (u32, &Database)> {
        self.databases.iter().map(|place| (place.oid.load(Ordering::Acquire) as u32, place)).filter(|(oid, place)| {
            *oid != 0 || place.calls().next().is_some() || place.writer.starts.load(Ordering::Relaxed) > 0
        })
    }

    /// Begins anew. Calls that are counted meanwhile may be lost.
    pub fn reset(&self, now: i64) {
        for place in &self.databases {
            for action in &place.actions {
                let of_status = |status: &'_ OfStatus| {
                    for counter in [&status.calls, &status.waited, &status.longest] {
                        counter.store(0, Ordering::Relaxed);
                    }
                };
                action.statuses.iter().for_each(of_status);
                action.waits.iter().for_each(|wait| wait.store(0, Ordering::Relaxed));
            }
            let Writer { starts, batches, rows, failures, lost, last_commit_at, last_error_at, last_error } =
                &place.writer;
            for counter in [starts, batches, rows, failures, lost, last_error] {
                counter.store(0, Ordering::Relaxed);
            }
            [last_commit_at, last_error_at].into_iter().for_each(|time| time.store(0, Ordering::Relaxed));
        }
        self.reset_at.store(now, Ordering::Relaxed);
    }

    /// When that was last, in microseconds since 2000-01-01 00:00 UTC. None if never.
    pub fn reset_at(&self) -> Option<i64> {
        Some(self.reset_at.load(Ordering::Relaxed)).filter(|at| *at != 0)
    }
}

/// The queue of a database has these, too, until another database gets the queue.
impl Writer {
    pub fn note_commit(&self, at: i64) {
        self.last_commit_at.store(at, Ordering::Relaxed);
    }

    pub fn note_error(&self, error: LastError) {
        self.last_error.store(u64::from(error.sqlstate as u32), Ordering::Relaxed);
        self.last_error_at.store(error.at, Ordering::Relaxed);
    }

    /// When a batch was committed last, in microseconds since 2000-01-01 00:00 UTC.
    pub fn last_commit_at(&self) -> Option<i64> {
        Some(self.last_commit_at.load(Ordering::Relaxed)).filter(|at| *at != 0)
    }

    /// The newest batch that failed.
    pub fn last_error(&self) -> Option<LastError> {
        let at = self.last_error_at.load(Ordering::Relaxed);
        (at != 0).then(|| LastError { sqlstate: self.last_error.load(Ordering::Relaxed) as u32 as i32, at })
    }
}

impl Database {
    /// Counts a call whose row is written. `wait`: how long it waited for that, in microseconds; None if nobody waited.
    pub fn count(&self, action: Action, status: u16, wait: Option<u64>) {
        let action = &self.actions[action.place()];
        let last = STATUSES.len() - 1;
        let status = &action.statuses[STATUSES.iter().position(|known| *known == status).unwrap_or(last)];
        status.calls.fetch_add(1, Ordering::Relaxed);
        let Some(wait) = wait else { return };
        status.waited.fetch_add(wait, Ordering::Relaxed);
        if status.longest.load(Ordering::Relaxed) < wait {
            status.longest.fetch_max(wait, Ordering::Relaxed);
        }
        let place = BOUNDS.iter().position(|bound| wait <= *bound).unwrap_or(BOUNDS.len());
        action.waits[place].fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted, by action and status.
    pub fn calls(&self) -> impl Iterator<Item = Calls> {
        Action::ALL.into_iter().flat_map(|action| {
            let of_action = &self.actions[action.place()];
            let calls = move |(status, of): (&u16, &OfStatus)| Calls {
                action,
                status: *status,
                calls: of.calls.load(Ordering::Relaxed),
                waited: of.waited.load(Ordering::Relaxed),
                longest: of.longest.load(Ordering::Relaxed),
            };
            STATUSES.iter().zip(&of_action.statuses).map(calls).filter(|calls| calls.calls > 0)
        })
    }

    /// The histograms of the actions that somebody waited for.
    pub fn waits(&self) -> impl Iterator<Item = Waits> {
        Action::ALL.into_iter().filter_map(|action| {
            let mut sum = 0;
            let at_most = self.actions[action.place()].waits.each_ref().map(|place| {
                sum += place.load(Ordering::Relaxed);
                sum
            });
            (sum > 0).then_some(Waits { action, at_most })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They are too large to be built on the stack of a test, as a server's zeroed memory never has to be.
    fn stats() -> Box<Stats> {
        let built = std::thread::Builder::new().stack_size(1 << 25).spawn(built);
        built.expect("a thread").join().expect("it is built")
    }

    fn built() -> Box<Stats> {
        let zero = || AtomicU64::new(0);
        let status = |_| OfStatus { calls: zero(), waited: zero(), longest: zero() };
        let action = |_| OfAction { statuses: std::array::from_fn(status), waits: std::array::from_fn(|_| zero()) };
        let time = || AtomicI64::new(0);
        let writer = || Writer {
            starts: zero(),
            batches: zero(),
            rows: zero(),
            failures: zero(),
            lost: zero(),
            last_commit_at: time(),
            last_error_at: time(),
            last_error: zero(),
        };
        let database = |_| Database { oid: zero(), actions: std::array::from_fn(action), writer: writer() };
        Box::new(Stats { databases: std::array::from_fn(database), reset_at: AtomicI64::new(0) })
    }

    #[test]
    fn calls_are_counted_by_action_and_status_and_their_waits_by_length() {
        let stats = stats();
        let database = stats.database(5);
        for (wait, status) in [(Some(50), 200), (Some(100), 200), (Some(6_000_000), 200), (None, 200), (Some(101), 418)]
        {
            database.count(Action::Fetch, status, wait);
        }
        let calls = |status, calls, waited, longest| Calls { action: Action::Fetch, status, calls, waited, longest };
        let expected = [calls(200, 4, 6_000_150, 6_000_000), calls(0, 1, 101, 101)];
        assert_eq!(database.calls().collect::<Vec<_>>(), expected);
        let waits: Vec<_> = database.waits().collect();
        assert_eq!(
            (waits.len(), waits[0].at_most[0], waits[0].at_most[1], waits[0].at_most[12], waits[0].at_most[13]),
            (1, 2, 3, 3, 4)
        );
        assert_eq!(stats.reset_at(), None);
        stats.reset(7);
        assert_eq!((database.calls().count(), database.waits().count(), stats.reset_at()), (0, 0, Some(7)));
    }

    #[test]
    fn the_last_commit_and_error_are_kept_until_a_reset() {
        let stats = stats();
        let writer = &stats.database(5).writer;
        assert_eq!((writer.last_commit_at(), writer.last_error()), (None, None));
        let error = LastError { sqlstate: -7, at: 11 };
        writer.note_commit(10);
        writer.note_error(error);
        assert_eq!((writer.last_commit_at(), writer.last_error()), (Some(10), Some(error)));
        stats.reset(12);
        assert_eq!((writer.last_commit_at(), writer.last_error()), (None, None));
    }

    #[test]
    fn databases_without_a_place_share_the_last_one() {
        let stats = stats();
        for oid in 1..=100 {
            stats.database(oid).count(Action::Init, 201, None);
        }
        assert_eq!(stats.database(7).calls().next().unwrap().calls, 1);
        let all: Vec<(u32, u64)> =
            stats.databases().map(|(oid, place)| (oid, place.calls().map(|calls| calls.calls).sum())).collect();
        assert_eq!((all.len(), all[0], all[63]), (64, (1, 1), (0, 37)));
    }
}
