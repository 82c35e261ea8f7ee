//! Audit records. Any bytes either decode or are refused. Decoding a record's encoding returns the record, with each
//! text cut to its limit. A truncated or extended encoding is refused. The target reads each input both as an encoding
//! and as the texts of a record, separated by NULs.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vault_core::audit::record::{
    Action, Damaged, Evidence, IdentityKind, MAX_APPLICATION_NAME, MAX_CONTEXT, MAX_DB_ROLE, MAX_IP_ADDRESS,
    MAX_ISSUER, MAX_REQUEST_ID, MAX_TOKEN_ID, MAX_TOKEN_KID, MAX_USER_AGENT, RECORD_BYTES, Record,
};
use vault_core::crypto::wrap::{KEK_ID_MAX, USER_ID_MAX};

fuzz_target!(|input: &[u8]| {
    if let Ok(record) = Record::decode(input) {
        check(&record, Some(input));
    }
    let text = String::from_utf8_lossy(input);
    let mut texts = text.split('\0');
    check(
        &Record {
            created_at: input.first_chunk().map_or(0, |bytes| i64::from_le_bytes(*bytes)),
            action: Action::Rotate,
            status: 200,
            key_version: None,
            db_role: texts.next().filter(|role| !role.is_empty()).unwrap_or("r"),
            login_role: texts.next().filter(|role| !role.is_empty()).unwrap_or("l"),
            application_name: texts.next(),
            user_id: texts.next(),
            kek_id: texts.next(),
            ip_address: texts.next(),
            user_agent: texts.next(),
            request_id: texts.next(),
            context: texts.next(),
            evidence: Evidence {
                identity: Some(IdentityKind::Token),
                issuer: texts.next(),
                token_id: texts.next(),
                token_kid: texts.next(),
                actor: texts.next(),
                grant_id: None,
            },
        },
        None,
    );
});

fn check(record: &Record<'_>, encoding: Option<&[u8]>) {
    let within_bounds = Record {
        user_id: cut(record.user_id, USER_ID_MAX),
        kek_id: cut(record.kek_id, KEK_ID_MAX),
        db_role: cut(Some(record.db_role), MAX_DB_ROLE).expect("a text"),
        login_role: cut(Some(record.login_role), MAX_DB_ROLE).expect("a text"),
        application_name: cut(record.application_name, MAX_APPLICATION_NAME),
        ip_address: cut(record.ip_address, MAX_IP_ADDRESS),
        user_agent: cut(record.user_agent, MAX_USER_AGENT),
        request_id: cut(record.request_id, MAX_REQUEST_ID),
        context: cut(record.context, MAX_CONTEXT),
        evidence: Evidence {
            issuer: cut(record.evidence.issuer, MAX_ISSUER),
            token_id: cut(record.evidence.token_id, MAX_TOKEN_ID),
            token_kid: cut(record.evidence.token_kid, MAX_TOKEN_KID),
            actor: cut(record.evidence.actor, MAX_DB_ROLE),
            ..record.evidence
        },
        ..*record
    };
    let mut buffer = [0; RECORD_BYTES];
    let length = record.encode(&mut buffer);
    let encoded = &buffer[..length];
    assert_eq!(Record::decode(encoded).as_ref(), Ok(&within_bounds));
    if let Some(encoding) = encoding.filter(|_| *record == within_bounds) {
        assert_eq!(encoded, encoding, "a record has only one encoding");
    }
    // The input determines where to cut the encoding.
    let shorter = record.created_at.unsigned_abs() as usize % length;
    assert_eq!(Record::decode(&encoded[..shorter]), Err(Damaged));
    assert_eq!(Record::decode(&encoded[..length - 1]), Err(Damaged));
    assert_eq!(Record::decode(&[encoded, &[0]].concat()), Err(Damaged));
}

/// The longest prefix of whole characters that has at most `max` bytes. An empty text is as good as none.
fn cut(text: Option<&str>, max: usize) -> Option<&str> {
    let text = text.filter(|text| !text.is_empty())?;
    (0..=max).rev().find_map(|len| text.get(..len.min(text.len())))
}
