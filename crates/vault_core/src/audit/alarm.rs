//! What an alarm is about: in words for the trail, and as JSON for those who listen.

use std::fmt::{self, Display};

use serde_json::json;

use super::record::Record;

/// What an alarm is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// A role asked for the keys of so many users within a minute.
    UsersPerMinute { count: u64, limit: u64 },
    /// So many calls of a role failed within a minute.
    FailuresPerMinute { count: u64, limit: u64 },
    /// Somebody asked for the key of a honey user.
    Honey,
}

impl Alarm {
    fn kind(self) -> &'static str {
        match self {
            Self::UsersPerMinute { .. } => "users_per_minute",
            Self::FailuresPerMinute { .. } => "failures_per_minute",
            Self::Honey => "honey",
        }
    }

    fn numbers(self) -> Option<(u64, u64)> {
        match self {
            Self::UsersPerMinute { count, limit } | Self::FailuresPerMinute { count, limit } => Some((count, limit)),
            Self::Honey => None,
        }
    }

    /// Reads the context of an alarm's row.
    pub fn parse(context: &str) -> Option<Self> {
        let numbers = |text: &str| {
            let (count, limit) = text.split_once(" limit=")?;
            Some((count.parse().ok()?, limit.parse().ok()?))
        };
        match context.split_once('=') {
            Some(("users_per_minute", text)) => {
                numbers(text).map(|(count, limit)| Self::UsersPerMinute { count, limit })
            }
            Some(("failures_per_minute", text)) => {
                numbers(text).map(|(count, limit)| Self::FailuresPerMinute { count, limit })
            }
            None if context == "honey" => Some(Self::Honey),
            _ => None,
        }
    }

    /// The payload of the notification: `kind`, `database`, `login_role`, `db_role`, `count`, `limit`, `user_id`, `ip_address`,
    /// `request_id`, as far as there are such. A notification has less than 8000 bytes, which these bounded texts cannot reach.
    pub fn to_json(self, database: &str, record: &Record<'_>) -> String {
        let (count, limit) = self.numbers().unzip();
        let mut payload = json!({
            "kind": self.kind(), "database": database, "login_role": record.login_role, "db_role": record.db_role,
            "count": count, "limit": limit, "user_id": record.user_id, "ip_address": record.ip_address, "request_id": record.request_id,
        });
        if let Some(fields) = payload.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        payload.to_string()
    }
}

impl Display for Alarm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.numbers() {
            Some((count, limit)) => write!(formatter, "{}={count} limit={limit}", self.kind()),
            None => formatter.write_str(self.kind()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_come_back_from_the_trail_and_say_who() {
        for alarm in [
            Alarm::UsersPerMinute { count: 101, limit: 100 },
            Alarm::FailuresPerMinute { count: 2, limit: 1 },
            Alarm::Honey,
        ] {
            assert_eq!(Alarm::parse(&alarm.to_string()), Some(alarm));
        }
        assert_eq!(Alarm::parse("users_per_minute=x"), None);
        let record = Record { user_id: Some("eve\"\n"), ..Record::of_writer(0, "app") };
        assert_eq!(
            Alarm::Honey.to_json("db", &record),
            r#"{"database":"db","db_role":"app","kind":"honey","login_role":"app","user_id":"eve\"\n"}"#
        );
        let text = "\"".repeat(255);
        let longest = Record {
            user_id: Some(&text),
            request_id: Some(&text),
            ip_address: Some(&text),
            ..Record::of_writer(0, &text)
        };
        assert!(Alarm::Honey.to_json(&text, &longest).len() < 7900);
    }
}
