//! The table of runs of vault_rewrap(), each of which others can watch.

use crate::pg::spi::{Arg, Statement};

thread_local! {
    static BEGIN_RUN: Statement = const { Statement::new(
        "INSERT INTO vault_ext.rewraps (started_at, pid, db_role, kek_id, total) \
         VALUES ($1, pg_catalog.pg_backend_pid(), $2, $3, $4)"
    ) };
    static UPDATE_RUN: Statement = const { Statement::new(
        "UPDATE vault_ext.rewraps SET done = $2, failed = $3 \
         WHERE started_at OPERATOR(pg_catalog.=) $1 AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()"
    ) };
    static END_RUN: Statement = const { Statement::new(
        "UPDATE vault_ext.rewraps SET done = $2, skipped = $3, failed = $4, outcome = $5, \
         ended_at = pg_catalog.clock_timestamp() \
         WHERE started_at OPERATOR(pg_catalog.=) $1 AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()"
    ) };
}

/// One CALL of vault_rewrap(), as others see it.
pub struct Run {
    /// Microseconds since 2000-01-01 00:00 UTC.
    pub started_at: i64,
    pub kek_id: String,
    pub total: i64,
}

pub fn begin_run(run: &Run, db_role: &str) {
    let args = [Arg::Timestamp(run.started_at), Arg::Text(db_role), Arg::Text(&run.kek_id), Arg::Int8(run.total)];
    BEGIN_RUN.with(|statement| statement.run(&args, |_| ()));
}

pub fn update_run(run: &Run, done: i64, failed: i64) {
    let args = [Arg::Timestamp(run.started_at), Arg::Int8(done), Arg::Int8(failed)];
    UPDATE_RUN.with(|statement| statement.run(&args, |_| ()));
}

/// `done`, `skipped` and `failed`.
pub fn end_run(run: &Run, [done, skipped, failed]: [i64; 3], outcome: &str) {
    let args =
        [Arg::Timestamp(run.started_at), Arg::Int8(done), Arg::Int8(skipped), Arg::Int8(failed), Arg::Text(outcome)];
    END_RUN.with(|statement| statement.run(&args, |_| ()));
}
