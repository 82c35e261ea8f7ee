//! How many users a login role may ask for within a minute, and how many of its calls may fail.

use vault_core::audit::alarm::Alarm;
use vault_core::watch::{About, Admission, Role};

use super::memory::{hash, now, watch};
use crate::error::LimitError;
use crate::pg::session;
use crate::settings;

fn my_role(now: u64) -> Option<&'static Role> {
    watch()?.role(session::database(), session::login_oid(), now)
}

/// A call asks for that user's key. `alarm` leaves an alarm's row.
pub fn admit(user: &str, alarm: impl Fn(Alarm)) -> Result<(), LimitError> {
    let limits = settings::limits();
    let (counts_users, counts_failures) = (limits.alarm_users > 0 || limits.max_users > 0, limits.max_failures > 0);
    let Some(watch) = watch().filter(|_| counts_users || counts_failures) else { return Ok(()) };
    let now = now();
    let Some(role) = my_role(now) else {
        return if limits.max_users > 0 || counts_failures { Err(LimitError::NoRoom) } else { Ok(()) };
    };
    if counts_failures && role.failures(now) >= limits.max_failures {
        role.count_refusal();
        return Err(LimitError::Failures(role.failures(now)));
    }
    if !counts_users {
        return Ok(());
    }
    let admission = watch.ask(role, hash(session::login_oid(), user), now, limits.max_users);
    let (Admission::Admitted(count) | Admission::Refused(count)) = admission;
    let limit = if limits.alarm_users > 0 { limits.alarm_users } else { limits.max_users };
    if count > limit && role.raise(About::Users, now) {
        alarm(Alarm::UsersPerMinute { count, limit });
    }
    match admission {
        Admission::Admitted(_) => Ok(()),
        Admission::Refused(_) => {
            role.count_refusal();
            Err(LimitError::Users(limits.max_users))
        }
    }
}

/// A call failed.
pub fn note_failure(alarm: impl Fn(Alarm)) {
    let limits = settings::limits();
    if limits.alarm_failures == 0 && limits.max_failures == 0 {
        return;
    }
    let now = now();
    let Some(role) = my_role(now) else { return };
    let count = role.fail(now);
    let limit = if limits.alarm_failures > 0 { limits.alarm_failures } else { limits.max_failures };
    // The limit is reached with this one: the next call is refused.
    let is_over = count > limit || limits.alarm_failures == 0 && count == limit;
    if is_over && role.raise(About::Failures, now) {
        alarm(Alarm::FailuresPerMinute { count, limit });
    }
}

/// What is counted of a login role.
pub struct Counts {
    pub database: u32,
    pub role: u32,
    pub users: u64,
    pub failures: u64,
    pub alarms: u64,
    pub refused: u64,
}

/// The login roles that are counted, in no order.
pub fn counts() -> Vec<Counts> {
    let now = now();
    let of = |role: &Role| {
        let (database, id) = role.ids();
        let (users, failures) = (role.users(now), role.failures(now));
        Counts { database, role: id, users, failures, alarms: role.alarms(), refused: role.refused() }
    };
    watch().map(|watch| watch.roles().map(of).collect()).unwrap_or_default()
}

/// Counts an alarm of the caller's login role that is not about its numbers.
pub fn count_alarm() {
    if let Some(role) = my_role(now()) {
        role.count_alarm();
    }
}
