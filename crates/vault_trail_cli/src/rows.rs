//! Rows as they were exported: as CSV with a header, as PostgreSQL's COPY writes it, or as JSON, one object on a line, with the table's
//! column names or with those of our own export.

use std::borrow::Cow;
use std::io::BufRead;

use serde::Deserialize;
use vault_trail::leaf::{Leaf, Personal};
use vault_trail::verify::Row;

use crate::Error;

/// Reads rows and shows each. `show` says whether to go on.
pub fn read(mut input: impl BufRead, show: impl FnMut(&Row<'_>) -> bool) -> Result<(), Error> {
    let first = loop {
        let bytes = input.fill_buf()?;
        match bytes.iter().position(|byte| !byte.is_ascii_whitespace()) {
            Some(at) => break Some(bytes[at]),
            None if bytes.is_empty() => break None,
            None => {
                let read = bytes.len();
                input.consume(read);
            }
        }
    };
    match first {
        None => Ok(()),
        Some(b'{') => read_json(input, show),
        Some(_) => read_csv(input, show),
    }
}

/// A row as JSON. Bytes are `\x` and hex digits.
#[derive(Debug, Default, Deserialize)]
struct JsonRow<'a> {
    #[serde(borrow, alias = "event.id")]
    id: Id<'a>,
    #[serde(borrow, alias = "@timestamp")]
    created_at: Cow<'a, str>,
    #[serde(borrow, alias = "event.action")]
    action: Cow<'a, str>,
    #[serde(alias = "http.response.status_code")]
    status: i32,
    #[serde(borrow, alias = "vault_ext.db_role")]
    db_role: Cow<'a, str>,
    #[serde(default, alias = "event.sequence")]
    leaf: Option<u64>,
    #[serde(default, alias = "vault_ext.key_version")]
    key_version: Option<i32>,
    #[serde(default, alias = "vault_ext.grant_id")]
    grant_id: Option<i64>,
    #[serde(borrow, default, alias = "user.id")]
    user_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, alias = "vault_ext.kek_id")]
    kek_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, alias = "source.address")]
    ip_address: Option<Cow<'a, str>>,
    #[serde(borrow, default, alias = "user_agent.original")]
    user_agent: Option<Cow<'a, str>>,
    #[serde(borrow, default, alias = "http.request.id")]
    request_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, alias = "event.reason")]
    context: Option<Cow<'a, str>>,
    #[serde(borrow, default, alias = "vault_ext.identity")]
    identity: Option<Cow<'a, str>>,
    #[serde(borrow, default, alias = "vault_ext.issuer")]
    issuer: Option<Cow<'a, str>>,
    #[serde(borrow, default, alias = "vault_ext.token_id")]
    token_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, alias = "vault_ext.token_kid")]
    token_kid: Option<Cow<'a, str>>,
    #[serde(borrow, default, alias = "vault_ext.actor")]
    actor: Option<Cow<'a, str>>,
    #[serde(borrow, default, alias = "vault_ext.login_role")]
    login_role: Option<Cow<'a, str>>,
    #[serde(borrow, default, alias = "vault_ext.application_name")]
    application_name: Option<Cow<'a, str>>,
    #[serde(borrow, default, alias = "vault_ext.leaf_hash")]
    leaf_hash: Option<Cow<'a, str>>,
    #[serde(borrow, default, alias = "vault_ext.salt")]
    salt: Option<Cow<'a, str>>,
    #[serde(borrow, default, alias = "vault_ext.redacted_digest")]
    redacted_digest: Option<Cow<'a, str>>,
}

/// ECS has ids as texts.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Id<'a> {
    Number(i64),
    #[serde(borrow)]
    Text(Cow<'a, str>),
}

impl Default for Id<'_> {
    fn default() -> Self {
        Self::Number(0)
    }
}

fn some<'a>(text: &'a Option<Cow<'_, str>>) -> Option<&'a str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn read_json(mut input: impl BufRead, mut show: impl FnMut(&Row<'_>) -> bool) -> Result<(), Error> {
    let mut line = String::new();
    let mut bytes = Bytes::default();
    // COPY in its text format doubles backslashes. The first bytea shows whether it did, or a row that is JSON in one way only. Rows from the
    // first one that could be read in both ways are kept until then.
    let mut doubled = None;
    let mut waiting: Vec<(u64, String)> = Vec::new();
    for number in 1.. {
        line.clear();
        if input.read_line(&mut line)? == 0 {
            break;
        }
        let text = line.trim();
        if text.is_empty() {
            continue;
        }
        if doubled.is_none() {
            doubled = has_doubled_backslashes(text);
            if doubled.is_none() && (!waiting.is_empty() || text.contains('\\')) {
                waiting.push((number, text.to_owned()));
                continue;
            }
            for (number, text) in waiting.drain(..) {
                if !show_json(&text, number, doubled == Some(true), &mut bytes, &mut show)? {
                    return Ok(());
                }
            }
        }
        if !show_json(text, number, doubled == Some(true), &mut bytes, &mut show)? {
            return Ok(());
        }
    }
    for (number, text) in waiting {
        if !show_json(&text, number, false, &mut bytes, &mut show)? {
            break;
        }
    }
    Ok(())
}

/// Whether the backslash of a bytea is doubled once more, or else the row is JSON only if its backslashes were doubled, or only if they
/// were not; None where that cannot be told.
fn has_doubled_backslashes(text: &str) -> Option<bool> {
    // In a value, these quotes would have a backslash before them.
    let by_bytes = ["leaf_hash\"", "redacted_digest\""].iter().find_map(|name| {
        let (_, rest) = text.split_once(name)?;
        let value = rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
        Some(value.starts_with(r"\\\\x")).filter(|doubled| *doubled || value.starts_with(r"\\x"))
    });
    let is_json = |text: &str| serde_json::from_str::<JsonRow<'_>>(text).is_ok();
    by_bytes.or_else(|| {
        let halved = text.contains('\\').then(|| text.replace(r"\\", r"\"))?;
        match (is_json(text), is_json(&halved)) {
            // Doubled ones come in pairs.
            _ if halved == text => Some(false),
            (true, false) => Some(false),
            (false, true) => Some(true),
            _ => None,
        }
    })
}

fn show_json(
    text: &str,
    line: u64,
    doubled: bool,
    bytes: &mut Bytes,
    show: &mut impl FnMut(&Row<'_>) -> bool,
) -> Result<bool, Error> {
    let text = if doubled { Cow::Owned(text.replace(r"\\", r"\")) } else { Cow::Borrowed(text) };
    let row: JsonRow<'_> = serde_json::from_str(&text).map_err(|why| Error::Row { line, why: why.to_string() })?;
    let bad = |why: &str| Error::Row { line, why: why.into() };
    let id = match &row.id {
        Id::Number(id) => Some(*id),
        Id::Text(text) => text.parse().ok(),
    };
    bytes
        .set(some(&row.leaf_hash), some(&row.salt), some(&row.redacted_digest))
        .ok_or_else(|| bad("bytes that are not hex"))?;
    let row = Row {
        id: id.ok_or_else(|| bad("an id that is no number"))?,
        leaf: row.leaf,
        leaf_hash: bytes.leaf_hash.as_deref(),
        salt: bytes.salt.as_deref(),
        redacted_digest: bytes.redacted_digest.as_deref(),
        fields: Leaf {
            created_at: timestamp(&row.created_at).ok_or_else(|| bad("a time that is not ISO 8601 with an offset"))?,
            action: &row.action,
            status: row.status,
            kek_id: some(&row.kek_id),
            key_version: row.key_version,
            db_role: &row.db_role,
            login_role: some(&row.login_role),
            identity: some(&row.identity),
            issuer: some(&row.issuer),
            token_kid: some(&row.token_kid),
            grant_id: row.grant_id,
        },
        personal: Personal {
            user_id: some(&row.user_id),
            ip_address: some(&row.ip_address),
            user_agent: some(&row.user_agent),
            request_id: some(&row.request_id),
            context: some(&row.context),
            application_name: some(&row.application_name),
            token_id: some(&row.token_id),
            actor: some(&row.actor),
        },
    };
    Ok(show(&row))
}

const COLUMNS: [&str; 24] = [
    "id",
    "created_at",
    "action",
    "status",
    "db_role",
    "leaf",
    "key_version",
    "grant_id",
    "user_id",
    "kek_id",
    "ip_address",
    "user_agent",
    "request_id",
    "context",
    "identity",
    "issuer",
    "token_id",
    "token_kid",
    "actor",
    "login_role",
    "application_name",
    "leaf_hash",
    "salt",
    "redacted_digest",
];

fn read_csv(input: impl BufRead, mut show: impl FnMut(&Row<'_>) -> bool) -> Result<(), Error> {
    let mut reader = csv::ReaderBuilder::new().from_reader(input);
    let bad = |line: u64, why: String| Error::Row { line, why };
    let header = reader.headers().map_err(|why| bad(1, why.to_string()))?.clone();
    let places = COLUMNS.map(|name| header.iter().position(|column| column == name));
    // The tree's columns are those of 0.3.0; the others every version has.
    if let Some(missing) = (0..5).find(|column| places[*column].is_none()) {
        return Err(bad(1, format!("the header has no column {:?}", COLUMNS[missing])));
    }
    let mut record = csv::StringRecord::new();
    let mut bytes = Bytes::default();
    loop {
        let line = reader.position().line();
        if !reader.read_record(&mut record).map_err(|why| bad(line, why.to_string()))? {
            return Ok(());
        }
        let text = |column: usize| places[column].and_then(|place| record.get(place)).filter(|text| !text.is_empty());
        let number = |column: usize| {
            let parse = |text: &str| {
                text.parse::<i64>().map_err(|_| bad(line, format!("{} is no number: {text:?}", COLUMNS[column])))
            };
            text(column).map(parse).transpose()
        };
        let needed = |column: usize| text(column).ok_or_else(|| bad(line, format!("{} is empty", COLUMNS[column])));
        bytes.set(text(21), text(22), text(23)).ok_or_else(|| bad(line, "bytes that are not hex".into()))?;
        let int = |column: usize| number(column).map(|number| number.and_then(|number| i32::try_from(number).ok()));
        let row = Row {
            id: number(0)?.ok_or_else(|| bad(line, "id is empty".into()))?,
            leaf: number(5)?.and_then(|leaf| u64::try_from(leaf).ok()),
            leaf_hash: bytes.leaf_hash.as_deref(),
            salt: bytes.salt.as_deref(),
            redacted_digest: bytes.redacted_digest.as_deref(),
            fields: Leaf {
                created_at: timestamp(needed(1)?).ok_or_else(|| {
                    bad(line, "created_at is not ISO 8601 with an offset: SET datestyle = iso".into())
                })?,
                action: needed(2)?,
                status: int(3)?.ok_or_else(|| bad(line, "status is empty".into()))?,
                kek_id: text(9),
                key_version: int(6)?,
                db_role: needed(4)?,
                login_role: text(19),
                identity: text(14),
                issuer: text(15),
                token_kid: text(17),
                grant_id: number(7)?,
            },
            personal: Personal {
                user_id: text(8),
                ip_address: text(10),
                user_agent: text(11),
                request_id: text(12),
                context: text(13),
                application_name: text(20),
                token_id: text(16),
                actor: text(18),
            },
        };
        if !show(&row) {
            return Ok(());
        }
    }
}

/// The bytea of a row, in buffers that are used again.
#[derive(Debug, Default)]
struct Bytes {
    leaf_hash: Option<Vec<u8>>,
    salt: Option<Vec<u8>>,
    redacted_digest: Option<Vec<u8>>,
}

impl Bytes {
    fn set(&mut self, leaf_hash: Option<&str>, salt: Option<&str>, redacted_digest: Option<&str>) -> Option<()> {
        for (bytes, text) in
            [(&mut self.leaf_hash, leaf_hash), (&mut self.salt, salt), (&mut self.redacted_digest, redacted_digest)]
        {
            *bytes = match text {
                Some(text) => Some(hex(text)?),
                None => None,
            };
        }
        Some(())
    }
}

/// Bytes as PostgreSQL's bytea in its hex format.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold("\\x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// The bytes of PostgreSQL's bytea in its hex format.
pub fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

/// `2031-05-02 07:08:09.123456+00` or `2031-05-02T07:08:09.123456+02:00` or `…Z`, in microseconds since 2000-01-01 00:00 UTC.
pub fn timestamp(text: &str) -> Option<i64> {
    let (date, time) = text.split_once([' ', 'T'])?;
    let mut date = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let zone = time.rfind(['+', '-', 'Z'])?;
    let (clock, zone) = time.split_at(zone);
    let mut clock = clock.split(':');
    let (hour, minute, second): (i64, i64, &str) =
        (clock.next()?.parse().ok()?, clock.next()?.parse().ok()?, clock.next()?);
    let (second, fraction) = second.split_once('.').unwrap_or((second, ""));
    let second: i64 = second.parse().ok()?;
    let micros = if fraction.is_empty() { 0 } else { format!("{fraction:0<6}").get(..6)?.parse::<i64>().ok()? };
    let offset = if zone == "Z" {
        0
    } else {
        let sign = if zone.starts_with('-') { -1 } else { 1 };
        let mut parts = zone[1..].split(':').map(|part| part.parse::<i64>().ok());
        let (hours, minutes, seconds) =
            (parts.next()??, parts.next().unwrap_or(Some(0))?, parts.next().unwrap_or(Some(0))?);
        if [hours, minutes, seconds].iter().any(|part| !(0..60).contains(part)) {
            return None;
        }
        sign * (hours * 3600 + minutes * 60 + seconds)
    };
    // PostgreSQL has no later year than 294276.
    let is_valid = (0..300_000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..25).contains(&hour)
        && (0..60).contains(&minute)
        && (0..61).contains(&second)
        && (-86_400..=86_400).contains(&offset);
    if !is_valid {
        return None;
    }
    let seconds = days_since_2000(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    seconds.checked_mul(1_000_000)?.checked_add(micros)
}

/// A time in microseconds since 2000-01-01 00:00 UTC as `2031-05-02T07:08:09.123456Z`.
pub fn iso(time: i64) -> String {
    let (days, micros) = (time.div_euclid(86_400_000_000), time.rem_euclid(86_400_000_000));
    // A year has 365 or 366 days, so this is the year or a later one.
    let mut year = 2000 + days.div_euclid(if days < 0 { 366 } else { 365 });
    while days_since_2000(year, 1, 1) > days {
        year -= 1;
    }
    let month = (1..=12).rev().find(|month| days_since_2000(year, *month, 1) <= days).unwrap_or(1);
    let day = days - days_since_2000(year, month, 1) + 1;
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Of the proleptic Gregorian calendar, counted from 1 March so that the leap day is the last of its year.
fn days_since_2000(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // 1 March 0000 is day -730425 of that count.
    year * 365 + leap_days + day_of_year - 730_425
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_those_of_postgresql() {
        // SELECT extract(epoch FROM …) - 946684800.
        for (text, micros) in [
            ("2000-01-01 00:00:00+00", 0),
            ("2000-01-01T00:00:00Z", 0),
            ("1999-12-31 23:59:59.999999+00", -1),
            ("2026-11-27T18:24:52.528826+00:00", 849_119_092_528_826),
            ("2026-11-27 20:24:52.5+02", 849_119_092_500_000),
            ("2024-02-29 12:00:00-05:30", 762_543_000_000_000),
            ("2100-03-01 00:00:00+00", 3_160_857_600_000_000),
        ] {
            assert_eq!(timestamp(text), Some(micros), "{text}");
        }
        for bad in [
            "",
            "2031",
            "2031-05-02",
            "2031-13-02 00:00:00+00",
            "02/05/2031 07:08:09 UTC",
            "infinity",
            "9223372036854775807-01-01 00:00:00+00",
            "300000-01-01 00:00:00+00",
            "2031-05-02 07:08:9223372036854775807+00",
            "2031-05-02 07:08:09+9223372036854775807",
            "2031-05-02 07:08:09+00:9223372036854775807",
        ] {
            assert_eq!(timestamp(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_ends_of_years_come_back_from_their_text() {
        for year in 1900..2300 {
            let new_year = days_since_2000(year, 1, 1) * 86_400_000_000;
            for time in [new_year - 1, new_year] {
                assert_eq!(timestamp(&iso(time)), Some(time), "{}", iso(time));
            }
        }
    }

    proptest! {
        #[test]
        fn a_time_comes_back_from_its_text(time in -1_000_000_000_000_000i64..9_000_000_000_000_000) {
            prop_assert_eq!(timestamp(&iso(time)), Some(time));
        }
    }

    fn ids(text: &str) -> Vec<(i64, Option<String>)> {
        let mut ids = Vec::new();
        read(text.as_bytes(), |row| {
            ids.push((row.id, row.personal.user_id.map(str::to_owned)));
            true
        })
        .unwrap();
        ids
    }

    #[test]
    fn csv_and_json_and_doubled_backslashes_are_read() {
        let expected = vec![(1, Some("a\\b\"c\n".to_owned())), (2, None)];
        let csv = "id,created_at,action,status,db_role,user_id,leaf,leaf_hash\n\
            1,2031-05-02 07:08:09+00,fetch,200,app,\"a\\b\"\"c\n\",0,\\x00\n2,2031-05-02 07:08:09+00,fetch,200,app,,,\n";
        assert_eq!(ids(csv), expected);
        let plain = r#"{"id":1,"created_at":"2031-05-02T07:08:09+00:00","action":"fetch","status":200,"db_role":"app","user_id":"a\\b\"c\n","leaf_hash":"\\x00","x":1}
{"event.id":"2","@timestamp":"2031-05-02T07:08:09Z","event.action":"fetch","http.response.status_code":200,"vault_ext.db_role":"app","user.id":null}
"#;
        assert_eq!(ids(plain), expected);
        assert_eq!(ids(&plain.replace('\\', r"\\")), expected);
        assert_eq!(ids("\n \n"), []);
    }

    #[test]
    fn rows_from_before_the_tree_are_shown_as_they_come() {
        let row = |id: u32, user: &str| {
            format!(
                "{{\"id\":{id},\"created_at\":\"2031-05-02T07:08:09Z\",\"action\":\"x\",\"status\":200,\"db_role\":\"a\",\"user_id\":{user}}}\n"
            )
        };
        // Those that have not waited for the end, which is no UTF-8. Only what can be read in both ways waits.
        for (users, shown) in [
            (["null", r#""a""#, r#""b""#], 3),
            ([r#""a\"b""#, r#""c""#, "null"], 3),
            ([r#""a\\"b""#, r#""c""#, "null"], 3),
            (["null", r#""c\\\\d""#, "null"], 1),
        ] {
            let mut text: Vec<u8> = users.iter().zip(1..).flat_map(|(user, id)| row(id, user).into_bytes()).collect();
            text.extend(b"\xff\n");
            let mut ids = Vec::new();
            let refused = read(&text[..], |row| {
                ids.push(row.id);
                true
            });
            assert!(refused.is_err());
            assert_eq!(ids, (1..=shown).collect::<Vec<i64>>(), "{users:?}");
        }
    }

    #[test]
    fn what_is_no_row_is_refused_with_its_line() {
        for text in ["id,leaf\n", "x", "{}", "{\"id\":1", "id,created_at,action,status,db_role\n1,x,fetch,200,app\n"] {
            assert!(matches!(read(text.as_bytes(), |_| true), Err(Error::Row { .. })), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[\\PC\n,\"{}:\\\\]{0,300}") {
            let _ = read(text.as_bytes(), |_| true);
            let _ = timestamp(&text);
        }
    }
}
