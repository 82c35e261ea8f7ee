//! Wraps. The frozen vectors are the only wraps under the test's KEK, so a text opens only if it is one of these
//! vectors in its own row. A row's own wrap opens to its key, and after any change it no longer opens.
//!
//! An input has seven lines: format_version, wrapped_mk, wrap_iv, user_id, key_version, kek_id, and pairs of bytes that
//! say what to change in the row's own wrap (the position and the bits).

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use vault_core::crypto::secret::{KekBytes, MasterKey};
use vault_core::crypto::wrap::{FORMAT_1, FORMAT_2, KEK_ID_MAX, Kek, Kind, Nonce, USER_ID_MAX, WrapContext};

static KEK: LazyLock<Kek> = LazyLock::new(|| Kek::new(&KekBytes::from_slice(&counting(1)).expect("32 bytes")));
static OTHER_KEK: LazyLock<Kek> = LazyLock::new(|| Kek::new(&KekBytes::from_slice(&[7; 32]).expect("32 bytes")));

fn counting(first: u8) -> [u8; 32] {
    std::array::from_fn(|i| first + i as u8)
}

/// The columns of a vault's row.
#[derive(Clone, PartialEq)]
struct Row {
    format_version: i16,
    wrapped_mk: String,
    wrap_iv: String,
    user_id: String,
    key_version: i32,
    kek_id: String,
}

impl Row {
    fn context(&self) -> WrapContext<'_> {
        WrapContext {
            kind: Kind::MasterKey,
            user_id: &self.user_id,
            key_version: self.key_version,
            kek_id: &self.kek_id,
        }
    }

    fn is_within_bounds(&self) -> bool {
        (1..=USER_ID_MAX).contains(&self.user_id.len())
            && (1..=KEK_ID_MAX).contains(&self.kek_id.len())
            && self.key_version >= 1
    }

    fn open(&self, kek: &Kek) -> Option<MasterKey> {
        kek.unwrap(self.format_version, &self.wrapped_mk, &self.wrap_iv, &self.context()).ok()
    }

    fn is_a_frozen_vector(&self) -> bool {
        const VECTOR_1: &str = "EkoYuy/eugLj+TUwymd4xT07qypjikNu+XfObRXpLsp1LPM+pXxISRohaJtl0f9/";
        static VECTORS_2: LazyLock<[Row; 2]> = LazyLock::new(|| {
            let row = |user_id: &str, key_version, kek_id: &str, wrapped_mk: &str| Row {
                format_version: FORMAT_2,
                wrapped_mk: wrapped_mk.into(),
                wrap_iv: "QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZX".into(),
                user_id: user_id.into(),
                key_version,
                kek_id: kek_id.into(),
            };
            let long_user = "ü".repeat(127) + "x";
            let long_kek = "K".repeat(64);
            [
                row("user-1", 1, "env-v1", "Tu5hqMsVrsoHULHDne6YkH0QiNVgI8sK1U0SUJYjHIsF85dq0cLEQIjF/p2nNwds"),
                row(
                    &long_user,
                    i32::MAX,
                    &long_kek,
                    "Tu5hqMsVrsoHULHDne6YkH0QiNVgI8sK1U0SUJYjHIsTNhtl5PiG1b2HXJlrUjio",
                ),
            ]
        });
        match self.format_version {
            // Format 1 binds a wrap to no row.
            FORMAT_1 => self.is_within_bounds() && self.wrapped_mk == VECTOR_1 && self.wrap_iv == "EBESExQVFhcYGRob",
            _ => VECTORS_2.contains(self),
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let (row, changes) = read(input);

    let opened = row.open(&KEK);
    assert_eq!(opened.is_some(), row.is_a_frozen_vector(), "a wrap must open if and only if it is a frozen vector");
    assert!(opened.is_none_or(|key| *key.expose_secret() == counting(0xa0)), "a wrap opened to another key");
    assert!(row.open(&OTHER_KEK).is_none());

    let master_key = MasterKey::from_slice(&counting(0xa0)).expect("32 bytes");
    let wrap = KEK.wrap(&master_key, Nonce::random().expect("random bytes"), &row.context());
    assert_eq!(wrap.is_ok(), row.is_within_bounds());
    let Ok(wrap) = wrap else { return };
    let own =
        Row { format_version: FORMAT_2, wrapped_mk: wrap.wrapped_mk().into(), wrap_iv: wrap.wrap_iv().into(), ..row };
    assert!(own.open(&KEK).is_some_and(|key| *key.expose_secret() == counting(0xa0)));
    if let Some(changed) = change(&own, changes) {
        assert_eq!(changed.open(&KEK).is_some(), changed == own, "a changed wrap opened");
    }
});

/// A missing text is read as empty, and an invalid number as a valid one, so that most inputs reach the cipher.
fn read(input: &[u8]) -> (Row, &[u8]) {
    let mut lines = input.splitn(7, |&byte| byte == b'\n');
    let mut text = || String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let row = Row {
        format_version: text().parse().unwrap_or(FORMAT_2),
        wrapped_mk: text(),
        wrap_iv: text(),
        user_id: text(),
        key_version: text().parse().unwrap_or(1),
        kek_id: text(),
    };
    (row, lines.next().unwrap_or_default())
}

/// Changes the row. None if a text is no longer valid UTF-8.
fn change(row: &Row, changes: &[u8]) -> Option<Row> {
    let mut changed = row.clone();
    let columns =
        [&mut changed.wrapped_mk, &mut changed.wrap_iv, &mut changed.user_id, &mut changed.kek_id].map(std::mem::take);
    let mut bytes = columns.concat().into_bytes();
    bytes.extend(row.key_version.to_be_bytes());
    for pair in changes.chunks_exact(2) {
        let place = usize::from(pair[0]) % bytes.len();
        bytes[place] ^= pair[1];
    }
    let mut rest = &bytes[..];
    let mut take = |len: usize| {
        let (head, tail) = rest.split_at(len);
        rest = tail;
        String::from_utf8(head.to_vec()).ok()
    };
    changed.wrapped_mk = take(columns[0].len())?;
    changed.wrap_iv = take(columns[1].len())?;
    changed.user_id = take(columns[2].len())?;
    changed.kek_id = take(columns[3].len())?;
    changed.key_version = i32::from_be_bytes(rest.try_into().expect("four bytes are left"));
    Some(changed)
}
