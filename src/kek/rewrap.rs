//! Rewraps every vault under the active KEK, batch by batch, while other calls go on.

use std::time::{Duration, Instant};

use pgrx::pg_sys::panic::CaughtError;
use vault_core::audit::record::Action;
use vault_core::crypto::secret::RngError;
use vault_core::crypto::wrap::{Nonce, StoredWrap, WrapContext};
use vault_core::integrity::Scope;

use crate::audit::submit;
use crate::error::VaultError;
use crate::guard::blind;
use crate::keyring::ring;
use crate::pg::procedure::Transactions;
use crate::pg::{session, subxact, wait};
use crate::store;
use crate::store::maintenance;
use crate::store::rewraps::{self, Run};
use crate::store::vaults;
use crate::store::wraps::{self, Position, Renewal, Table};
use crate::vault::call::{Call, describe};
use crate::vault::wrapping;

const CALL: &str = "vault_rewrap()";
/// How often a long run reports its progress.
const NOTICE_EVERY: Duration = Duration::from_secs(10);
/// How many nonces are taken from the operating system at once.
const NONCES: usize = 256;
/// The longest pause between two batches.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// What a run has done.
#[derive(Debug, Default, Clone, Copy)]
pub struct Totals {
    pub done: i64,
    /// Locked by others at that moment, or changed afterwards: left for the next run.
    pub skipped: i64,
    /// Vaults that do not open.
    pub failed: i64,
}

/// Rewraps what is not under the active KEK in format 2. Each batch is a transaction; the rest of an interrupted run is
/// the next run's.
pub fn run(batch_size: i32, transactions: &Transactions) -> Result<Totals, VaultError> {
    let call = Call::without_user(Action::Rewrap)?;
    let run = call.attempt(|_| session::as_role(store::OWNER, begin))?;
    call.record(200, None, Some(&format!("started: {} vaults to {}", run.total, run.kek_id)))?;
    transactions.commit();

    let mut totals = Totals::default();
    let outcome = batches(&call, &run, batch_size, transactions, &mut totals);
    let left = subxact::catch(|| session::as_role(store::OWNER, || end(&run, &mut totals, outcome.is_ok())));
    transactions.commit();
    let counts = format!("{} done, {} skipped, {} failed", totals.done, totals.skipped, totals.failed);
    match outcome {
        Ok(()) => call.record(200, None, Some(&format!("finished: {counts}")))?,
        Err(stop) => {
            let why = match &stop {
                Stop::Refused(error) => describe(error).1.to_owned(),
                Stop::Raised(raised) => format!("error-{}", subxact::sqlstate(raised)),
            };
            call.record(500, None, Some(&format!("stopped by {why}: {counts}")))?;
            return stop.go_on();
        }
    }
    left.unwrap_or_else(|raised| raised.rethrow())?;
    if totals.failed > 0 {
        pgrx::warning!("{} vault(s) do not open and were left as they are; vault_check() names them", totals.failed);
    }
    if totals.skipped > 0 {
        pgrx::notice!("{} vault(s) were in use or changed meanwhile: CALL vault_rewrap() again", totals.skipped);
    }
    Ok(totals)
}

/// Why a run stops before its end.
enum Stop {
    Refused(VaultError),
    Raised(CaughtError),
}

impl Stop {
    fn go_on<T>(self) -> Result<T, VaultError> {
        match self {
            Self::Refused(error) => Err(error),
            Self::Raised(raised) => raised.rethrow(),
        }
    }
}

fn begin() -> Result<Run, VaultError> {
    if session::has_old_snapshot() {
        return Err(VaultError::OldSnapshot(CALL));
    }
    let ring = ring::current()?;
    let (active, _) = ring.active();
    wrapping::confirm(active)?;
    let run = Run { started_at: session::now(), kek_id: active.id.clone(), total: wraps::count_to_rewrap(&active.id) };
    rewraps::begin_run(&run, &session::caller());
    Ok(run)
}

fn batches(
    call: &Call,
    run: &Run,
    batch_size: i32,
    transactions: &Transactions,
    totals: &mut Totals,
) -> Result<(), Stop> {
    // Vaults come first: a rotation meanwhile puts a key among the old ones that then still comes.
    let mut tables = wraps::tables().iter().copied();
    let Some(mut table) = tables.next() else { return Ok(()) };
    let mut after = Position::default();
    let (started, mut noticed) = (Instant::now(), Instant::now());
    loop {
        let (batch_started, calls_before) = (Instant::now(), submit::calls());
        let batch = subxact::catch_and_undo(|| {
            wait::check_for_interrupts();
            session::as_role(store::OWNER, || {
                let batch = blind::unless(Scope::Vaults, || batch(table, &after, batch_size))?;
                let so_far = totals.plus(&batch);
                rewraps::update_run(run, so_far.done, so_far.failed);
                Ok(batch)
            })
        })
        .map_err(Stop::Raised)?
        .map_err(Stop::Refused)?;
        transactions.commit();
        // While other calls run, they get three quarters of the time.
        if submit::calls() != calls_before {
            std::thread::sleep((batch_started.elapsed() * 3).min(LONGEST_PAUSE));
        }
        *totals = totals.plus(&batch);
        for (user, context) in &batch.failed {
            call.record_about(Action::FailedRewrap, user, 500, context).map_err(Stop::Refused)?;
        }
        match batch.last {
            Some(last) => after = last,
            None => match tables.next() {
                Some(next) => (table, after) = (next, Position::default()),
                None => return Ok(()),
            },
        }
        if noticed.elapsed() >= NOTICE_EVERY {
            noticed = Instant::now();
            let rate = totals.done as f64 / started.elapsed().as_secs_f64();
            pgrx::notice!("rewrapped {} of {} vaults, {rate:.0} a second", totals.done, run.total);
        }
    }
}

impl Totals {
    fn plus(self, batch: &Batch) -> Self {
        Self { done: self.done + batch.done, failed: self.failed + batch.failed.len() as i64, ..self }
    }
}

/// What was done with a batch. A wrap that does not open has its reason.
type Batch = wraps::Batch<&'static str>;

/// Rewraps the next wraps of a table in the order of their users. Passes over rows that others have locked instead of waiting for them.
fn batch(table: Table, after: &Position, size: i32) -> Result<Batch, VaultError> {
    vaults::begin_write();
    let ring = ring::current()?;
    let (active, kek) = ring.active();
    wrapping::confirm(active)?;
    let mut nonces = Vec::new();
    let renew = |old: &StoredWrap<'_>| {
        let nonce = next(&mut nonces).map_err(|_| VaultError::NoRandomness)?;
        let context =
            WrapContext { kind: old.kind, user_id: old.user_id, key_version: old.key_version, kek_id: &active.id };
        let sealed =
            wrapping::ring_opens(&ring, old).and_then(|master_key| wrapping::seal(kek, &context, &master_key, nonce));
        match sealed {
            Ok(wrap) => Ok(Renewal::Renewed(wrap)),
            // A newer ring may open it: the next run will see.
            Err(VaultError::KekNotLoaded(_)) if !ring.is_newest() => Ok(Renewal::Later),
            Err(error @ (VaultError::KekNotLoaded(_) | VaultError::KekDiffers { .. } | VaultError::DoesNotOpen)) => {
                Ok(Renewal::Failed(describe(&error).1))
            }
            Err(error) => Err(error),
        }
    };
    maintenance::run(|| wraps::rewrap(table, after, &active.id, size, renew))
}

/// A nonce from a stock that is filled up when it is empty.
fn next(stock: &mut Vec<Nonce>) -> Result<Nonce, RngError> {
    if let Some(nonce) = stock.pop() {
        return Ok(nonce);
    }
    stock.extend(Nonce::random_batch(NONCES)?);
    Ok(stock.pop().expect("the stock was filled"))
}

/// Counts what is left to do and closes the run's record.
fn end(run: &Run, totals: &mut Totals, finished: bool) -> Result<(), VaultError> {
    if finished {
        let ring = ring::current()?;
        let left = wraps::count_to_rewrap(&ring.active().0.id);
        totals.skipped = (left - totals.failed).max(0);
    }
    let counts = [totals.done, totals.skipped, totals.failed];
    rewraps::end_run(run, counts, if finished { "finished" } else { "stopped" });
    Ok(())
}
