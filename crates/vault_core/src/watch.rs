//! What each login role of each database does in a sliding minute: how many users it asks keys for, and how many of its calls fail. Only
//! atomics in shared memory, no unsafe and no server.
//!
//! The numbers are exact as long as the server sees at most [`USERS`] users a minute, of all roles together: a user that finds no room
//! counts with each call. So an alarm may come too early, and never too late. Two users share a hash of 39 bits and a place once in a trillion pairs.

use std::sync::atomic::{AtomicU64, Ordering};

/// Roles that can be watched at a time.
pub const ROLES: usize = 64;
/// Users that can be told apart in a minute. A limit above three quarters of it would be reached too early.
pub const USERS: usize = 1 << 16;
/// Seconds that count.
const WINDOW: u64 = 60;
/// One for each second of the window and a few more, a power of two.
const SECONDS: usize = 64;
/// How far from its own place a user may stand.
const PROBES: usize = 64;
/// Bits of a slot that hold the second; the others hold the hash of the user.
const STAMP_BITS: u32 = 24;
const STAMP_MASK: u64 = (1 << STAMP_BITS) - 1;

/// The roles, and the users that they asked for. All zero bytes are "nothing seen".
#[derive(Debug)]
pub struct Watch {
    roles: [Role; ROLES],
    /// Hash of role and user, and the second in which the role last asked for the user; 0 where there was none.
    users: [AtomicU64; USERS],
    /// How often the honey users of some database have changed.
    honey: AtomicU64,
}

/// One login role in one database.
#[derive(Debug)]
pub struct Role {
    /// OID of the database and of the role; 0 in an unused entry.
    key: AtomicU64,
    users: PerSecond,
    failures: PerSecond,
    /// Second of the last call.
    seen: AtomicU64,
    /// Seconds plus one of the last alarms.
    alarmed_users: AtomicU64,
    alarmed_failures: AtomicU64,
    alarms: AtomicU64,
    refused: AtomicU64,
}

/// Events by second: the second in the upper half, their number in the lower.
#[derive(Debug)]
struct PerSecond([AtomicU64; SECONDS]);

impl PerSecond {
    fn place(&self, second: u64) -> &AtomicU64 {
        &self.0[second as usize % SECONDS]
    }

    fn add(&self, second: u64) {
        let place = self.place(second);
        let mut current = place.load(Ordering::Relaxed);
        loop {
            let next = if current >> 32 == second { current + 1 } else { second << 32 | 1 };
            match place.compare_exchange_weak(current, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => current = now,
            }
        }
    }

    /// Takes one event of that second back.
    fn remove(&self, second: u64) {
        let place = self.place(second);
        let mut current = place.load(Ordering::Relaxed);
        while current >> 32 == second && current as u32 > 0 {
            match place.compare_exchange_weak(current, current - 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => current = now,
            }
        }
    }

    /// The events of the minute that ends with that second.
    fn sum(&self, now: u64) -> u64 {
        let counts = |second: u64| second <= now && now - second < WINDOW;
        let places = self.0.iter().map(|place| place.load(Ordering::Relaxed));
        places.filter(|place| counts(place >> 32)).map(|place| u64::from(place as u32)).sum()
    }

    fn clear(&self) {
        self.0.iter().for_each(|place| place.store(0, Ordering::Relaxed));
    }
}

/// What became of a user that a role asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The role may ask for it. The number of users in this minute, with this one.
    Admitted(u64),
    /// It would be one more than the limit.
    Refused(u64),
}

impl Watch {
    /// The entry of a role in a database, taken if there is none. None while all of them were used within the last minute.
    /// `now`: seconds of a clock that never goes back.
    pub fn role(&self, database: u32, role: u32, now: u64) -> Option<&Role> {
        let key = u64::from(database) << 32 | u64::from(role);
        let find = || self.roles.iter().find(|entry| entry.key.load(Ordering::Acquire) == key);
        let entry = find().or_else(|| {
            let is_idle = |entry: &&Role| entry.seen.load(Ordering::Relaxed) + WINDOW < now;
            let unused = self.roles.iter().find(|entry| entry.key.load(Ordering::Acquire) == 0);
            let entry = unused.or_else(|| self.roles.iter().find(is_idle))?;
            let before = entry.key.load(Ordering::Acquire);
            if before != 0 && !is_idle(&entry)
                || entry.key.compare_exchange(before, key, Ordering::AcqRel, Ordering::Relaxed).is_err()
            {
                // Somebody else has taken it, perhaps for the same role.
                return find();
            }
            entry.seen.store(now, Ordering::Relaxed);
            [&entry.users, &entry.failures].into_iter().for_each(PerSecond::clear);
            for counter in [&entry.alarmed_users, &entry.alarmed_failures, &entry.alarms, &entry.refused] {
                counter.store(0, Ordering::Relaxed);
            }
            Some(entry)
        })?;
        entry.seen.store(now, Ordering::Relaxed);
        Some(entry)
    }

    /// A role asks for a user. `hash`: of the database, the role and the user, under a key that nobody knows. `limit`: 0 for none.
    pub fn ask(&self, role: &Role, hash: u64, now: u64, limit: u64) -> Admission {
        let (tag, stamp) = (hash & !STAMP_MASK | 1 << STAMP_BITS, now + 1);
        let age = |slot: u64| stamp.wrapping_sub(slot) & STAMP_MASK;
        let mut free = None;
        for probe in 0..PROBES {
            let place = &self.users[(hash as usize).wrapping_add(probe) % USERS];
            let slot = place.load(Ordering::Relaxed);
            let is_free = slot == 0 || age(slot) >= WINDOW;
            if slot != 0 && slot & !STAMP_MASK == tag {
                if is_free {
                    free = Some((place, slot));
                    break;
                }
                let new = tag | stamp & STAMP_MASK;
                // Whoever wins the race accounts for it.
                if place.compare_exchange(slot, new, Ordering::Relaxed, Ordering::Relaxed).is_ok() && slot != new {
                    role.users.remove(now - age(slot));
                    role.users.add(now);
                }
                return Admission::Admitted(role.users.sum(now));
            }
            if is_free && free.is_none() {
                free = Some((place, slot));
            }
            if slot == 0 {
                break;
            }
        }
        let users = role.users.sum(now) + 1;
        if limit > 0 && users > limit {
            return Admission::Refused(users);
        }
        let taken = free.is_some_and(|(place, slot)| {
            place.compare_exchange(slot, tag | stamp & STAMP_MASK, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        });
        if !taken && free.is_some() {
            // Another process was faster, perhaps with the same user.
            return self.ask(role, hash, now, limit);
        }
        role.users.add(now);
        Admission::Admitted(users)
    }

    /// What was read of honey users counts as long as this number stays.
    pub fn honey_changes(&self) -> u64 {
        self.honey.load(Ordering::Acquire)
    }

    pub fn note_honey_change(&self) {
        self.honey.fetch_add(1, Ordering::AcqRel);
    }

    /// The entries in use.
    pub fn roles(&self) -> impl Iterator<Item = &Role> {
        self.roles.iter().filter(|role| role.key.load(Ordering::Acquire) != 0)
    }
}

/// What there is an alarm about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    Users,
    Failures,
}

impl Role {
    /// OIDs of the database and the role.
    pub fn ids(&self) -> (u32, u32) {
        let key = self.key.load(Ordering::Acquire);
        ((key >> 32) as u32, key as u32)
    }

    pub fn users(&self, now: u64) -> u64 {
        self.users.sum(now)
    }

    pub fn failures(&self, now: u64) -> u64 {
        self.failures.sum(now)
    }

    /// A call of the role failed. The number of failures in this minute.
    pub fn fail(&self, now: u64) -> u64 {
        self.failures.add(now);
        self.failures.sum(now)
    }

    /// Whether an alarm is due: one a minute.
    pub fn raise(&self, about: About, now: u64) -> bool {
        let last = match about {
            About::Users => &self.alarmed_users,
            About::Failures => &self.alarmed_failures,
        };
        let before = last.load(Ordering::Relaxed);
        let is_due = before == 0 || now + 1 >= before + WINDOW;
        let raised = is_due && last.compare_exchange(before, now + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if raised {
            self.count_alarm();
        }
        raised
    }

    pub fn count_alarm(&self) {
        self.alarms.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_refusal(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub fn alarms(&self) -> u64 {
        self.alarms.load(Ordering::Relaxed)
    }

    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// What the server maps as zeros is built on the stack here, which takes more of it than a test has.
    fn watch() -> Box<Watch> {
        let large = std::thread::Builder::new().stack_size(64 << 20);
        large.spawn(fresh).expect("a thread").join().expect("a fresh watch")
    }

    fn fresh() -> Box<Watch> {
        let per_second = || PerSecond(std::array::from_fn(|_| AtomicU64::new(0)));
        let role = |_| Role {
            key: AtomicU64::new(0),
            users: per_second(),
            failures: per_second(),
            seen: AtomicU64::new(0),
            alarmed_users: AtomicU64::new(0),
            alarmed_failures: AtomicU64::new(0),
            alarms: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        };
        let users: Box<[AtomicU64]> = (0..USERS).map(|_| AtomicU64::new(0)).collect();
        let users: Box<[AtomicU64; USERS]> = users.try_into().unwrap();
        Box::new(Watch { roles: std::array::from_fn(role), users: *users, honey: AtomicU64::new(0) })
    }

    fn hash(user: u64) -> u64 {
        (user + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn a_limit_holds_for_new_users_alone_and_for_a_minute() {
        let watch = watch();
        let role = watch.role(1, 2, 100).unwrap();
        for user in 0..3 {
            assert_eq!(watch.ask(role, hash(user), 100, 3), Admission::Admitted(user + 1));
        }
        assert_eq!(watch.ask(role, hash(3), 159, 3), Admission::Refused(4));
        assert_eq!(watch.ask(role, hash(0), 159, 3), Admission::Admitted(3));
        assert_eq!(watch.ask(role, hash(3), 160, 3), Admission::Admitted(2), "only user 0 was asked for since");
        assert_eq!(role.users(219), 1);
        assert_eq!(role.users(220), 0);
    }

    #[test]
    fn more_users_than_there_is_room_for_are_never_counted_too_low() {
        let watch = watch();
        let role = watch.role(1, 2, 0).unwrap();
        for user in 0..USERS as u64 * 2 {
            assert_eq!(watch.ask(role, hash(user), 0, 0), Admission::Admitted(user + 1));
        }
        let Admission::Admitted(users) = watch.ask(role, hash(7), 1, 0) else { panic!() };
        assert!(users >= USERS as u64 * 2);
    }

    #[test]
    fn alarms_come_once_a_minute() {
        let watch = watch();
        let role = watch.role(1, 2, 0).unwrap();
        let raised: Vec<u64> = (0..200).filter(|now| role.raise(About::Users, *now)).collect();
        assert_eq!(raised, [0, 60, 120, 180]);
        assert!(role.raise(About::Failures, 7));
        assert_eq!(role.alarms(), 5);
    }

    #[test]
    fn roles_and_databases_are_told_apart_and_idle_ones_make_room() {
        let watch = watch();
        for role in 0..ROLES as u32 {
            let entry = watch.role(1, role + 1, 1000).unwrap();
            assert_eq!(entry.fail(1000), 1);
        }
        assert!(watch.role(2, 1, 1060).is_none(), "all were seen within the minute");
        assert_eq!(watch.role(1, 5, 1061).unwrap().failures(1059), 1);
        let fresh = watch.role(2, 1, 1061).unwrap();
        assert_eq!((fresh.ids(), fresh.failures(1061), watch.roles().count()), ((2, 1), 0, ROLES));
    }

    proptest! {
        #[test]
        fn the_counts_are_those_of_a_simple_model(calls in proptest::collection::vec((0u64..40, 0u64..50), 1..300), limit in 0u64..30) {
            let watch = watch();
            let role = watch.role(1, 2, 0).unwrap();
            let (mut last, mut now) = (HashMap::new(), 0u64);
            for (user, pause) in calls {
                now += if pause < 40 { 0 } else { pause };
                last.retain(|_, second| now - *second < WINDOW);
                let expected = last.len() as u64 + u64::from(!last.contains_key(&user));
                let refused = limit > 0 && expected > limit && !last.contains_key(&user);
                let expected = if refused { Admission::Refused(expected) } else { Admission::Admitted(expected) };
                prop_assert_eq!(watch.ask(role, hash(user), now, limit), expected);
                if !refused {
                    last.insert(user, now);
                }
            }
        }

        #[test]
        fn failures_are_those_of_the_last_minute(pauses in proptest::collection::vec(0u64..50, 1..200)) {
            let watch = watch();
            let role = watch.role(1, 2, 0).unwrap();
            let (mut seconds, mut now) = (Vec::new(), 0);
            for pause in pauses {
                now += pause / 10 * pause;
                seconds.push(now);
                let expected = seconds.iter().filter(|second| now - **second < WINDOW).count() as u64;
                prop_assert_eq!(role.fail(now), expected);
            }
        }
    }
}
