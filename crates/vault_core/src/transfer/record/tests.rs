use proptest::prelude::*;

use super::*;

type Spoil = fn(&mut VaultRecord);

fn version(number: i32, state: &str, key: Option<u8>) -> KeyVersion {
    KeyVersion {
        number,
        state: state.to_owned(),
        created_at: Some(700_000_000_000_000 + i64::from(number)),
        superseded_at: None,
        destroy_after: Some(i64::MAX),
        master_key: key.map(|byte| MasterKey::from_slice(&[byte; 32]).expect("32 bytes")),
    }
}

fn full() -> VaultRecord {
    VaultRecord {
        user_id: "üser".into(),
        versions: vec![
            version(1, "destroyed", None),
            version(3, "decrypt_only", Some(3)),
            version(4, "current", Some(4)),
        ],
        recovery: Some(Recovery {
            wrapped_mk: "w".repeat(64),
            iv: "i".repeat(16),
            format_version: 1,
            set_at: Some(-1),
        }),
        zero_knowledge: false,
        key_check: Some("c".repeat(32)),
        created_at: Some(i64::MIN),
        rotated_at: None,
        tokens_valid_from: Some(0),
    }
}

fn smallest() -> VaultRecord {
    VaultRecord {
        user_id: "u".into(),
        versions: Vec::new(),
        recovery: None,
        zero_knowledge: false,
        key_check: None,
        created_at: None,
        rotated_at: None,
        tokens_valid_from: None,
    }
}

fn refused(bytes: &[u8]) -> BadRecord {
    VaultRecord::decode(bytes).map(|_| ()).expect_err("no record")
}

#[test]
fn the_layout_is_as_documented() {
    assert_eq!(**smallest().encode().expect("bytes"), *b"\x01\0\x01u\0\0\0\0\0\0\0\0");
    let mut record = smallest();
    record.versions = vec![KeyVersion {
        created_at: Some(1),
        superseded_at: Some(-1),
        destroy_after: None,
        ..version(258, "current", Some(0xaa))
    }];
    record.recovery = Some(Recovery { wrapped_mk: "wrap".into(), iv: "iv".into(), format_version: 1, set_at: None });
    record.key_check = Some("kc".into());
    record.zero_knowledge = true;
    record.rotated_at = Some(2);
    let expected = [
        &b"\x01\0\x01u\0\x01\0\0\x01\x02\0\x07current\x01\0\0\0\0\0\0\0\x01\x01\xff\xff\xff\xff\xff\xff\xff\xff\0\x01"
            [..],
        &[0xaa; 32],
        b"\x01\0\x04wrap\0\x02iv\0\x01\0\x01\x01\0\x02kc\0\x01\0\0\0\0\0\0\0\x02\0",
    ];
    assert_eq!(**record.encode().expect("bytes"), *expected.concat());
}

#[test]
fn a_record_comes_back() {
    let bytes = full().encode().expect("bytes");
    let record = VaultRecord::decode(&bytes).expect("a record");
    assert_eq!(record.user_id, "üser");
    assert_eq!(record.versions.iter().map(|it| it.number).collect::<Vec<_>>(), [1, 3, 4]);
    assert_eq!(record.versions[1].state, "decrypt_only");
    assert_eq!(record.versions[2].created_at, Some(700_000_000_000_004));
    assert_eq!((record.versions[2].superseded_at, record.versions[2].destroy_after), (None, Some(i64::MAX)));
    assert!(record.versions[0].master_key.is_none());
    assert_eq!(record.versions[2].master_key.as_ref().expect("a key").expose_secret(), &[4; 32]);
    let recovery = record.recovery.as_ref().expect("a recovery wrap");
    assert_eq!((recovery.wrapped_mk.len(), recovery.iv.len(), recovery.format_version), (64, 16, 1));
    assert_eq!((recovery.set_at, record.zero_knowledge), (Some(-1), false));
    assert_eq!(record.key_check.as_deref(), Some("cccccccccccccccccccccccccccccccc"));
    assert_eq!((record.created_at, record.rotated_at, record.tokens_valid_from), (Some(i64::MIN), None, Some(0)));
    assert_eq!(record.encode(), Ok(bytes));
}

#[test]
fn every_cut_and_every_trailing_byte_is_refused() {
    for record in [full(), smallest()] {
        let bytes = record.encode().expect("bytes");
        for len in 0..bytes.len() {
            refused(&bytes[..len]);
        }
        assert_eq!(refused(&[&bytes[..], &[0]].concat()).part, "end");
    }
}

#[test]
fn parts_out_of_bounds_are_neither_written_nor_read() {
    let mut many = smallest();
    many.versions = (1..=65_536).map(|number| version(number, "current", None)).collect();
    assert_eq!(many.encode().err(), Some(bad("number of key versions")));
    many.versions.pop();
    let bytes = many.encode().expect("bytes");
    assert_eq!(VaultRecord::decode(&bytes).expect("a record").versions.len(), 65_535);

    let spoilt: [(&str, Spoil); 12] = [
        ("user_id", |it| it.user_id = String::new()),
        ("user_id", |it| it.user_id = "u".repeat(256)),
        ("user_id", |it| it.user_id = "a\0b".into()),
        ("numbers of the key versions", |it| it.versions[0].number = 0),
        ("numbers of the key versions", |it| it.versions[0].number = -1),
        ("numbers of the key versions", |it| it.versions[1].number = 4),
        ("numbers of the key versions", |it| it.versions.swap(0, 1)),
        ("state", |it| it.versions[1].state = String::new()),
        ("state", |it| it.versions[1].state = "a".repeat(33)),
        ("state", |it| it.versions[1].state = "Current".into()),
        ("recovery_iv", |it| it.recovery.as_mut().expect("one").iv = "i".repeat(65_536)),
        ("recovery_format_version", |it| it.recovery.as_mut().expect("one").format_version = -1),
    ];
    for (part, spoil) in spoilt {
        let mut record = full();
        spoil(&mut record);
        assert_eq!(record.encode().err(), Some(bad(part)));
    }
    // The same faults in bytes, and others that only bytes can have.
    for (bytes, part) in [
        (&b""[..], "version of the layout"),
        (b"\x02\0\x01u\0\0\0\0\0\0\0\0", "version of the layout"),
        (b"\x01\0\0\0\0\0\0\0\0\0\0", "user_id"),
        (b"\x01\0\x01\0\0\0\0\0\0\0\0\0", "user_id"),
        (b"\x01\0\x01\xff\0\0\0\0\0\0\0\0", "user_id"),
        (b"\x01\0\x01u\xff\xff\0\0\0\0\0\0", "key versions"),
        (b"\x01\0\x01u\0\x01\0\0\0\0\0\x01a\0\0\0\0\0\0\0\0\0\0", "numbers of the key versions"),
        (b"\x01\0\x01u\0\x01\xff\xff\xff\xff\0\x01a\0\0\0\0\0\0\0\0\0\0", "numbers of the key versions"),
        (b"\x01\0\x01u\0\x01\0\0\0\x01\0\x01A\0\0\0\0\0\0\0\0\0\0", "state"),
        (b"\x01\0\x01u\0\x01\0\0\0\x01\0\x01a\0\0\0\x02\0\0\0\0\0\0", "key versions"),
        (b"\x01\0\x01u\0\0\x02\0\0\0\0\0", "recovery"),
        (b"\x01\0\x01u\0\0\x01\0\0\0\0\xff\xff\0\0\0\0\0\0", "recovery_format_version"),
        (b"\x01\0\x01u\0\0\0\x02\0\0\0\0", "zero_knowledge"),
        (b"\x01\0\x01u\0\0\0\0\0\0\0\x03", "tokens_valid_from"),
    ] {
        assert_eq!(refused(bytes).part, part, "{bytes:x?}");
    }
}

fn any_version() -> impl Strategy<Value = (u16, String, [Option<i64>; 3], Option<[u8; 32]>)> {
    (any::<u16>(), "[a-z_]{1,32}", any::<[Option<i64>; 3]>(), any::<Option<[u8; 32]>>())
}

proptest! {
    #[test]
    fn any_record_comes_back(
        user_id in "[^\0]{1,60}",
        versions in prop::collection::vec(any_version(), 0..6),
        recovery in prop::option::of(("[^\0]{0,99}", "[^\0]{0,99}", 0..=i16::MAX, any::<Option<i64>>())),
        zero_knowledge: bool,
        key_check in prop::option::of("[^\0]{0,40}"),
        times: [Option<i64>; 3],
    ) {
        let mut number = 0;
        let versions = versions.into_iter().map(|(step, state, [created_at, superseded_at, destroy_after], key)| {
            number += 1 + i32::from(step);
            let master_key = key.map(|key| MasterKey::from_slice(&key).expect("32 bytes"));
            KeyVersion { number, state, created_at, superseded_at, destroy_after, master_key }
        });
        let [created_at, rotated_at, tokens_valid_from] = times;
        let record = VaultRecord {
            user_id,
            versions: versions.collect(),
            recovery: recovery.map(|(wrapped_mk, iv, format_version, set_at)| {
                Recovery { wrapped_mk, iv, format_version, set_at }
            }),
            zero_knowledge,
            key_check,
            created_at,
            rotated_at,
            tokens_valid_from,
        };
        let bytes = record.encode().expect("bytes");
        prop_assert_eq!(VaultRecord::decode(&bytes).expect("a record").encode(), Ok(bytes));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        let _ = VaultRecord::decode(&bytes);
    }

    /// What is read has one encoding: nothing was dropped or guessed.
    #[test]
    fn changed_bytes_are_refused_or_another_record(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = full().encode().expect("bytes");
        for (at, with) in changes {
            let at = at.index(bytes.len());
            bytes[at] = with;
        }
        if let Ok(record) = VaultRecord::decode(&bytes) {
            prop_assert_eq!(record.encode(), Ok(bytes));
        }
    }
}
