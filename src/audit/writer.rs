//! The audit writer: one background worker per database in use. It takes the whole list, inserts it in one transaction,
//! commits durably and wakes the waiters; while it commits, the next batch collects.
//!
//! Before it writes, it makes sure that the vault is as CREATE EXTENSION made it: at its start, and whenever one of the vault's
//! objects has changed. While a promise is broken it writes nothing, so that no key is released.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use pgrx::pg_sys::panic::CaughtError;
use pgrx::{IntoDatum, PgSqlErrorCode};
use vault_core::audit::kek_registration::{Candidate, Known};
use vault_core::audit::queue::{Kind, LastError, Queue, Settled};
use vault_core::audit::record::{Action, IdentityKind, RECORD_BYTES, Record};
use vault_core::audit::stats;
use vault_core::integrity::{self, Problem};

use super::checkpoints;
use super::memory::{self, Memory};
use super::poll;
use crate::alarms::notice;
use crate::error::VaultError;
use crate::keyring::ring;
use crate::pg::bulk::Values;
use crate::pg::{inval, process, session, spi, subxact, wait, worker, xact};
use crate::settings;
use crate::store;
use crate::store::{catalog, keks, trail, wraps};
use crate::tree::growth::{self, Place};
use crate::tree::{head, old_rows};

/// The number of times that a cancelled batch is tried: no record in it is to blame, so it takes a trigger that raises 57014 to
/// come to the end of them.
const ATTEMPTS: u32 = 100;
/// The number of times that a batch is tried because the catalogs changed meanwhile: a migration may create many functions.
const INTEGRITY_ATTEMPTS: u32 = 100;

thread_local! {
    static STATE: Cell<Option<State>> = const { Cell::new(None) };
    /// Slots that were taken from the list and are not settled yet. They are given back when the process exits.
    static IN_FLIGHT: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    /// The records that are being inserted.
    static BATCH: RefCell<Batch> = const { RefCell::new(Batch::Slots(Vec::new())) };
    /// Whether the transaction of these slots committed.
    static COMMITTED: Cell<bool> = const { Cell::new(false) };
    /// True from the end of the work of such a transaction until it has committed. Other transactions settle nothing.
    static COUNTS: Cell<bool> = const { Cell::new(false) };
    static WRITING: Cell<bool> = const { Cell::new(false) };
    /// True while the worker connects: if it exits then, it could not connect to the database.
    static CONNECTING: Cell<bool> = const { Cell::new(false) };
    /// What is not as CREATE EXTENSION made it and breaks a promise; None while all is well.
    static BROKEN: RefCell<Option<Problem>> = const { RefCell::new(None) };
    /// Whether the trail of this database has a tree: that of 0.2.0 has none.
    static HAS_TREE: Cell<bool> = const { Cell::new(true) };
    /// Whether the check of the catalogs had to be postponed.
    static POSTPONED: Cell<bool> = const { Cell::new(false) };
}

/// Notices commits.
static CALLBACKS: xact::Callbacks =
    xact::Callbacks { committed: || COMMITTED.set(COUNTS.get()), ..xact::Callbacks::NONE };
/// How long the registration of a KEK and a probe wait for a lock, in milliseconds: the calls of the whole database wait
/// behind them.
const SHORT_LOCK_TIMEOUT: &std::ffi::CStr = c"2000";

/// The records of one INSERT.
enum Batch {
    /// Those in these slots.
    Slots(Vec<u32>),
    /// One that the writer itself has made, encoded.
    Own(Vec<u8>),
}

#[derive(Clone, Copy)]
struct State {
    memory: Memory,
    queue: &'static Queue,
    epoch: u64,
}

/// True in the audit writer alone: the INSERT policy of the trail asks for it.
pub fn is_this_process() -> bool {
    WRITING.get()
}

/// Runs a writer until it exits. `number` is its queue's place in the table.
pub fn run(number: u32) {
    let Some(memory) = memory::get() else { return };
    let Some(queue) = memory.queues.get(number as usize) else { return };
    let epoch = worker::extra();
    worker::accept_signals();
    if !queue.writer_runs(epoch) {
        return;
    }
    queue.pin();
    let state = State { memory, queue, epoch };
    STATE.set(Some(state));
    // Before the connection is made, so that it runs after the server has rolled back what was open.
    process::on_exit(give_back);
    wait::check_for_interrupts();
    CONNECTING.set(true);
    worker::connect(queue.database());
    CONNECTING.set(false);
    queue.note_connected(session::pid() as u32);
    count(|stats| &stats.starts, 1);
    prepare_session();
    WRITING.set(true);
    serve(state);
}

fn prepare_session() {
    // Whatever ALTER DATABASE or the configuration say, these hold for the writer.
    for (name, value) in [
        (c"default_transaction_read_only", c"off"),
        (c"default_transaction_isolation", c"read committed"),
        (c"row_security", c"on"),
        (c"search_path", c"pg_catalog, pg_temp"),
        (c"session_replication_role", c"origin"),
        // The writer waits for a lock as long as necessary. Each caller has a time limit of its own: a caller that holds the
        // lock itself (no deadlock detector sees that) releases it when it gives up.
        (c"lock_timeout", c"0"),
        (c"statement_timeout", c"0"),
    ] {
        worker::set(name, value);
    }
    worker::commit_durably();
    xact::listen(&CALLBACKS);
}

fn serve(state: State) {
    let mut idle_since = Instant::now();
    let mut taken = Vec::new();
    worker::report_activity(false);
    loop {
        wait::check_for_interrupts();
        worker::reload_configuration_if_asked();
        let rings = state.queue.bell().load(Ordering::SeqCst);
        taken.clear();
        state.queue.take(state.memory.slots, &mut taken);
        if !taken.is_empty() {
            worker::report_activity(true);
            state.queue.note_busy(session::now());
            hold(&taken);
            write(state, &taken);
            state.queue.note_batch(taken.len());
            checkpoints::log_if_due();
            state.queue.note_busy(0);
            worker::report_statistics(false);
            worker::report_activity(false);
            idle_since = Instant::now();
            poll::until(state.queue, || !state.queue.is_empty());
            continue;
        }
        let left = settings::audit_idle_exit().saturating_sub(idle_since.elapsed());
        if state.queue.is_asked_to_leave() || left.is_zero() {
            worker::report_statistics(true);
            state.queue.writer_leaves(state.epoch);
            if state.queue.is_empty() || !state.queue.writer_stays(state.epoch) {
                return;
            }
            continue;
        }
        wait::sleep_while(state.queue.bell(), rings, left, wait::Event::Writer);
        if state.queue.is_quiet() && state.queue.bell().load(Ordering::SeqCst) != rings {
            poll::for_announced(state.queue);
        }
    }
}

/// Counts something of this database's writers.
fn count(counter: impl Fn(&stats::Writer) -> &AtomicU64, number: usize) {
    note(|stats| {
        counter(stats).fetch_add(number as u64, Ordering::Relaxed);
    });
}

/// Notes something of this database's writers.
fn note(note: impl FnOnce(&stats::Writer)) {
    if let Some(stats) = super::stats::mine() {
        note(&stats.writer);
    }
}

fn hold(taken: &[u32]) {
    IN_FLIGHT.with(|list| list.borrow_mut().extend_from_slice(taken));
    COMMITTED.set(false);
}

fn write(state: State, taken: &[u32]) {
    let memory = state.memory;
    memory.counters.batches.fetch_add(1, Ordering::Relaxed);
    count(|stats| &stats.batches, 1);
    let (records, others): (Vec<u32>, Vec<u32>) =
        taken.iter().partition(|index| memory.slots[**index as usize].kind() == Kind::Record);
    for index in others {
        match memory.slots[index as usize].kind() {
            Kind::RegisterKek => register(state, index),
            Kind::Record | Kind::Probe => probe(state, index),
        }
    }
    if !records.is_empty() {
        insert(state, &records);
    }
}

/// Inserts a batch. If it fails for a reason that may lie in one row, each row is tried on its own, so that a bad record
/// fails its own caller only.
fn insert(state: State, records: &[u32]) {
    for _ in 0..ATTEMPTS {
        match try_insert(records) {
            Ok(()) => {
                state.memory.counters.rows.fetch_add(records.len() as u64, Ordering::Relaxed);
                count(|stats| &stats.rows, records.len());
                let now = session::now();
                state.queue.note_commit(now);
                note(|stats| stats.note_commit(now));
                return settle(state, records, committed_outcome(), None);
            }
            Err(error) if is_cancel(&error) => {}
            Err(error) if records.len() > 1 && may_be_one_row(&error) => {
                start_anew();
                for record in records {
                    insert(state, std::slice::from_ref(record));
                }
                return;
            }
            Err(error) => {
                start_anew();
                return fail(state, records, &error);
            }
        }
    }
    settle(state, records, Settled::Failed(PgSqlErrorCode::ERRCODE_QUERY_CANCELED as i32), None);
}

/// Forgets what was planned and found before. Called after a failure.
fn start_anew() {
    spi::forget_plans();
    inval::set_changed();
    growth::forget();
}

fn try_insert(records: &[u32]) -> Result<(), CaughtError> {
    while_intact(|| {
        read_tree()?;
        BATCH.set(Batch::Slots(records.to_vec()));
        let outcome = settling_transaction(|| insert_intact(records.len()));
        // An error after the commit does not take it back.
        let committed = COMMITTED.get();
        if committed {
            growth::accept();
        } else {
            growth::reject();
        }
        notice::end(committed);
        outcome
    })
}

/// Reads the trail's tree, unless that was done before. Begins it in a new trail: where there are older rows, its first leaf commits
/// to them.
fn read_tree() -> Result<(), CaughtError> {
    if !HAS_TREE.get() || growth::is_loaded() {
        return Ok(());
    }
    let outcome = worker::transaction(|| {
        worker::act_as(store::OWNER);
        let size = growth::load();
        let trail = store::tree::current_trail().unwrap_or_else(|| {
            let old_rows = if size == 0 { old_rows::hash_without_leaf() } else { None };
            let origin = store::tree::add_trail(&head::origin_prefix(), size, old_rows.as_ref());
            store::tree::Trail { origin, old_rows }
        });
        if let Some(old_rows) = trail.old_rows.filter(|_| size == 0) {
            let context = old_rows::context(&old_rows);
            let record = Record {
                action: Action::OldRows,
                context: Some(&context),
                ..Record::of_writer(session::now(), std::str::from_utf8(store::OWNER.to_bytes()).expect("ASCII"))
            };
            BATCH.set(Batch::Own(record.encoded()));
            insert_batch(1);
        }
    });
    match outcome {
        Ok(()) => growth::accept(),
        Err(_) => growth::forget(),
    }
    outcome
}

/// Runs a transaction that calls `insert_intact`, once more whenever something changed meanwhile.
fn while_intact(transaction: impl Fn() -> Result<(), CaughtError>) -> Result<(), CaughtError> {
    for _ in 0..INTEGRITY_ATTEMPTS {
        verify_integrity()?;
        let outcome = transaction();
        if outcome.is_ok() || !inval::has_changed() {
            return outcome;
        }
    }
    verify_integrity()?;
    worker::transaction(|| VaultError::ChangedMeanwhile.raise())
}

/// Inserts the batch, unless something has changed since it was verified. A transaction receives invalidation messages when
/// it begins, and those of a table when it locks the table.
fn insert_intact(records: usize) {
    if inval::has_changed() {
        VaultError::ChangedMeanwhile.raise();
    }
    worker::act_as(store::OWNER);
    insert_batch(records);
    if inval::has_table_changed() {
        VaultError::ChangedMeanwhile.raise();
    }
}

/// A transaction whose commit settles the slots that are in flight.
fn settling_transaction<T>(work: impl FnOnce() -> T) -> Result<T, CaughtError> {
    let outcome = worker::transaction(|| {
        let done = work();
        COUNTS.set(true);
        done
    });
    COUNTS.set(false);
    outcome
}

fn insert_batch(records: usize) {
    let has_tree = HAS_TREE.get();
    if has_tree {
        growth::begin(records).unwrap_or_else(|error| error.raise());
        let mut number = 0;
        each_record(|record| {
            growth::hash(number, record);
            notice::collect(record);
            number += 1;
        });
        notice::notify();
    }
    let inserted = trail::insert_audit_batch(has_tree, |put| batch(|record, place| put(values(record, place))));
    // A trigger that swallows rows must not pass for a written trail.
    assert!(inserted == records as u64, "{inserted} of {records} audit rows were inserted");
    if has_tree {
        growth::store_tiles();
    }
}

/// Fails while a promise is broken. Reads the catalogs only after a change, in a transaction of its own.
fn verify_integrity() -> Result<(), CaughtError> {
    if inval::has_changed() || POSTPONED.get() {
        inval::forget_changes();
        // Reading the catalogs takes long enough to be cancelled again and again, and no record is to blame for a cancel.
        worker::without_cancels(|| worker::transaction(read_catalogs)).inspect_err(|_| inval::set_changed())?;
    }
    match BROKEN.with_borrow(Clone::clone) {
        Some(problem) => worker::transaction(|| VaultError::Broken(problem).raise()),
        None => Ok(()),
    }
}

fn read_catalogs() {
    // If a table cannot be locked because it is not what it should be, the comparison below reports it.
    for lock in [catalog::lock_trail, catalog::lock_vaults] {
        match subxact::catch(lock) {
            Err(error) if is_cancel(&error) => error.rethrow(),
            // Callers hold a lock on the vaults while they wait for this writer. If a session waits to alter the vaults, the
            // writer must not queue behind it. Once they are altered, an invalidation message arrives.
            Err(error) if subxact::sqlstate(&error) == "55P03" => return POSTPONED.set(true),
            _ => {}
        }
    }
    POSTPONED.set(false);
    let facts = catalog::facts(|_| true);
    catalog::watch_tables(&facts);
    HAS_TREE.set(integrity::trail_has_tree(&facts));
    let (broken, endangered): (Vec<_>, Vec<_>) =
        integrity::summed_up(integrity::problems(&facts)).into_iter().partition(|problem| problem.voids);
    for Problem { what, hint, .. } in endangered {
        pgrx::warning!("vault_ext: {what} ({hint})");
    }
    BROKEN.set(broken.into_iter().next());
}

/// Inserts a record and rolls it back. The transaction that then commits is empty.
fn probe(state: State, index: u32) {
    let outcome = while_intact(|| {
        read_tree()?;
        BATCH.set(Batch::Slots(vec![index]));
        let outcome = worker::transaction(|| {
            xact::set_local(c"lock_timeout", SHORT_LOCK_TIMEOUT);
            subxact::undone(|| insert_intact(1)).unwrap_or_else(|raised| raised.rethrow());
        });
        growth::reject();
        notice::end(false);
        outcome
    });
    match outcome {
        Ok(()) => settle(state, &[index], committed_outcome(), None),
        Err(error) => {
            start_anew();
            fail(state, &[index], &error);
        }
    }
}

/// Settles records that were not written. Only reasons of our own are passed on: other messages may quote values.
fn fail(state: State, records: &[u32], error: &CaughtError) {
    let sqlstate = subxact::packed_sqlstate(error);
    log_failure(records.len(), error);
    let reason =
        BROKEN.with_borrow(|broken| broken.as_ref().map(|problem| format!("{}\n{}", problem.what, problem.hint)));
    count(|stats| &stats.failures, records.len());
    let error = LastError { sqlstate, at: session::now() };
    state.queue.note_error(error);
    note(|stats| stats.note_error(error));
    settle(state, records, Settled::Failed(sqlstate), reason.as_deref().map(str::as_bytes));
}

/// Shows each record of the batch that is being inserted, and its place in the tree; none in any process but the writer.
pub fn batch(mut show: impl FnMut(&Record<'_>, Option<Place>)) {
    let mut number = 0;
    each_record(|record| {
        show(record, growth::place(number));
        number += 1;
    });
}

/// The values of a row, in the order of `trail::COLUMNS`.
pub fn values(record: &Record<'_>, place: Option<Place>) -> Values<{ trail::COLUMNS }> {
    [
        record.user_id.into_datum(),
        record.action.name().into_datum(),
        i32::from(record.status).into_datum(),
        record.kek_id.into_datum(),
        record.key_version.into_datum(),
        record.db_role.into_datum(),
        record.ip_address.into_datum(),
        record.user_agent.into_datum(),
        record.request_id.into_datum(),
        record.context.into_datum(),
        record.created_at.into_datum(),
        record.evidence.identity.map(IdentityKind::name).into_datum(),
        record.evidence.issuer.into_datum(),
        record.evidence.token_id.into_datum(),
        record.evidence.token_kid.into_datum(),
        record.evidence.actor.into_datum(),
        record.evidence.grant_id.into_datum(),
        record.login_role.into_datum(),
        record.application_name.into_datum(),
        place.map(|place| place.leaf as i64).into_datum(),
        place.as_ref().and_then(|place| place.hash.as_slice().into_datum()),
        place.as_ref().and_then(|place| place.salt.as_slice().into_datum()),
    ]
}

fn each_record(mut show: impl FnMut(&Record<'_>)) {
    let Some(State { memory, .. }) = STATE.get() else { return };
    let mut show = |bytes: &[u8]| show(&Record::decode(bytes).expect("our own encoding"));
    let mut bytes = [0; RECORD_BYTES];
    BATCH.with_borrow(|batch| match batch {
        Batch::Slots(slots) => slots.iter().for_each(|index| {
            let length = memory.slots[*index as usize].read(&mut bytes);
            show(&bytes[..length]);
        }),
        Batch::Own(bytes) => show(bytes),
    });
}

/// Constraint violations, bad data, errors raised by a trigger: not locks, resources or the disk, which hit all rows alike.
fn may_be_one_row(error: &CaughtError) -> bool {
    let state = subxact::sqlstate(error);
    ["22", "23", "P0", "42", "XX"].iter().any(|class| state.starts_with(class))
}

fn is_cancel(error: &CaughtError) -> bool {
    subxact::packed_sqlstate(error) == PgSqlErrorCode::ERRCODE_QUERY_CANCELED as i32
}

fn log_failure(records: usize, error: &CaughtError) {
    pgrx::warning!(
        "vault_ext: {records} audit record(s) could not be written, their calls fail: {} (SQLSTATE {})",
        subxact::message(error),
        subxact::sqlstate(error)
    );
}

fn committed_outcome() -> Settled {
    if worker::commit_may_be_unreplicated() {
        Settled::Failed(PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN as i32)
    } else {
        Settled::Written
    }
}

fn register(state: State, index: u32) {
    let slot = &state.memory.slots[index as usize];
    let mut bytes = [0; RECORD_BYTES];
    let length = slot.read(&mut bytes);
    COMMITTED.set(false);
    let outcome = settling_transaction(|| {
        xact::set_local(c"lock_timeout", SHORT_LOCK_TIMEOUT);
        worker::act_as(store::OWNER);
        let candidate = Candidate::decode(&bytes[..length]).expect("our own encoding");
        known(&candidate)
    });
    // The answer overwrites the question: an exit from here on must not give the slot back to the list.
    match outcome {
        Ok(known) => settle(state, &[index], committed_outcome(), Some(&known.encode())),
        Err(error) => {
            start_anew();
            fail(state, &[index], &error);
        }
    }
}

fn known(candidate: &Candidate<'_>) -> Known {
    if let Some(kek) = keks::known_kek(candidate.kek_id) {
        return kek.compare(candidate.check);
    }
    if !opens_its_vaults(candidate) {
        return Known::OpensNothing;
    }
    keks::register_kek(candidate.kek_id, candidate.check);
    keks::known_kek(candidate.kek_id).map_or(Known::Same, |kek| kek.compare(candidate.check))
}

/// Vaults may stand under an id that has no check value yet: rows taken over from the predecessor. A KEK that opens none
/// of a handful of them is the wrong one.
fn opens_its_vaults(candidate: &Candidate<'_>) -> bool {
    let Ok(ring) = ring::current() else { return false };
    wraps::any_of_kek(candidate.kek_id, |wrap| ring.open(&wrap).is_ok()).unwrap_or(true)
}

/// Settles slots, wakes those who wait, and lets go of them.
fn settle(state: State, settled: &[u32], outcome: Settled, answer: Option<&[u8]>) {
    // Before the callers go on: they may ask at once whether the writer gets on.
    state.queue.note_busy(session::now());
    let slots = settled.iter().map(|index| &state.memory.slots[*index as usize]);
    state.queue.open_gates(slots.filter(|slot| slot.settle(outcome, answer))).for_each(wait::wake);
    IN_FLIGHT.with(|list| {
        let mut list = list.borrow_mut();
        if list.len() == settled.len() { list.clear() } else { list.retain(|index| !settled.contains(index)) }
    });
    // What is still in flight belongs to later transactions.
    COMMITTED.set(false);
}

/// At the end of the process, also by termination: what was taken and not committed goes back to the list, and its
/// owners are woken to start the next writer.
fn give_back() {
    let Some(State { memory, queue, epoch }) = STATE.take() else { return };
    let in_flight = IN_FLIGHT.try_with(|list| list.try_borrow_mut().map(|mut list| std::mem::take(&mut *list)));
    let mut in_flight = in_flight.ok().and_then(Result::ok).unwrap_or_default();
    for &index in &in_flight {
        if COMMITTED.get() {
            memory.slots[index as usize].settle(committed_outcome(), None);
        } else {
            queue.push(memory.slots, index);
        }
    }
    if CONNECTING.get() {
        queue.note_failed_start();
    } else {
        queue.note_exit(session::pid() as u32);
    }
    if CONNECTING.get() && queue.has_no_backend() {
        // Records that refused calls left behind would occupy their slots for ever. Nobody waits for them.
        queue.take(memory.slots, &mut in_flight);
        for &index in &in_flight {
            memory.slots[index as usize]
                .settle(Settled::Failed(PgSqlErrorCode::ERRCODE_INVALID_CATALOG_NAME as i32), None);
            memory.counters.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
    queue.writer_leaves(epoch);
    queue.open_gates(in_flight.iter().map(|index| &memory.slots[*index as usize])).for_each(wait::wake);
    queue.unpin();
}
