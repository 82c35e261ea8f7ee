//! Micro benchmarks inside the server, called by `make bench` and compiled for it alone (feature `bench`).

use std::hint::black_box;
use std::sync::Once;
use std::time::Instant;

use aes::Aes256;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes_gcm::Aes256Gcm;
use aes_gcm::aead::AeadInOut;
use pgrx::prelude::*;
use vault_core::audit::record::{Action, Record};
use vault_core::crypto::secret::{KekBytes, MasterKey};
use vault_core::crypto::wrap::{FORMAT_1, FORMAT_2, Kek, Kind, Nonce, WrapContext};
use vault_core::identity::issuers::Purpose;

use super::or_raise;
use crate::audit::generator;
use crate::identity::Caller;
use crate::pg::composite::Row;
use crate::store::vaults::{self, Found};
use crate::vault::call::Call;
use crate::vault::key::KeyId;
use crate::vault::many::{self, Copy};

/// The user's row as `vault_get_master_key()` looks it up and in the shape of its result, but with the wrap for the key:
/// no subtransaction, no audit, nothing opened.
#[pg_extern(sql = false)]
fn bench_lookup() -> Row<7> {
    let user = Caller::OfSession.identify(Purpose::Identify).expect("an identity").user;
    let Found::Open(vault) = vaults::find(&user, false) else { panic!("a vault") };
    Row([
        vault.wrapped_mk.as_str().into_datum(),
        vault.format_version.into_datum(),
        vault.kek_id.as_str().into_datum(),
        vault.key_version.into_datum(),
        false.into_datum(),
        None,
        None,
    ])
}

/// What a primary would have to do before a standby may release the key that it has in its own copy of the user's row: look at the
/// row as it is now, and write the audit row. The claims of the standby's session, which would come along, are left out.
#[pg_extern(sql = false)]
fn bench_checked_record(user: &str, key_version: i32, kek_id: &str, wrapped_mk: &str) {
    attach_once();
    or_raise(many::check_and_record(&[Copy { user, key_version, kek_id, wrapped_mk }]));
}

/// The same for many users at once.
#[pg_extern(sql = false)]
fn bench_checked_records(users: Vec<String>, key_versions: Vec<i32>, kek_ids: Vec<String>, wrapped_mks: Vec<String>) {
    attach_once();
    let copies: Vec<_> = users
        .iter()
        .zip(key_versions)
        .zip(kek_ids.iter().zip(&wrapped_mks))
        .map(|((user, key_version), (kek_id, wrapped_mk))| Copy { user, key_version, kek_id, wrapped_mk })
        .collect();
    or_raise(many::check_and_record(&copies));
}

fn attach_once() {
    static ATTACHED: Once = Once::new();
    ATTACHED.call_once(generator::attach);
}

/// Keeps so many records at the audit writer until it has committed as many as asked for. Each is that of a fetch by this session, for
/// one user of `users` in turn.
#[pg_extern(sql = false)]
fn bench_generate(records: i64, in_flight: i32, users: i64) {
    as_fetches(users, |encode| generator::generate(records as u64, in_flight as u32, encode));
}

/// Hands the audit writer that many batches of that many records, one after the other.
#[pg_extern(sql = false)]
fn bench_batches(batches: i64, records: i32, users: i64) {
    as_fetches(users, |encode| generator::batches(batches as u64, records as u32, encode));
}

/// Passes what encodes the record of a fetch by this session, each time of the next user. The session's user is the first one.
fn as_fetches(users: i64, run: impl FnOnce(&mut generator::Encode<'_>)) {
    generator::attach();
    let call = Call::begin(Action::Fetch, Caller::OfSession).unwrap_or_else(|error| error.raise());
    let first: i64 = call.user().parse().expect("the users of benchmarks are numbers");
    let mut number = 0;
    run(&mut |bytes| {
        // A large odd step: neighbours in time are no neighbours in an index.
        let user = (first + number * 7_919 % users).to_string();
        number += 1;
        let row = call.as_row(200, Some(KeyId { kek_id: "bench-1", key_version: 1 }), None);
        Record { user_id: Some(&user), ..row }.encode(bytes)
    });
}

/// Nanoseconds that one of `rounds` runs of `what` takes.
#[pg_extern(sql = false)]
fn bench_nanoseconds(what: &str, rounds: i32) -> f64 {
    let bytes: [u8; 32] = std::array::from_fn(|i| i as u8 + 1);
    let kek = Kek::new(&KekBytes::from_slice(&bytes).expect("32 bytes"));
    let row = WrapContext {
        kind: Kind::MasterKey,
        user_id: "0f8fad5b-d9cb-469f-a165-70867728950e",
        key_version: 1,
        kek_id: "bench-1",
    };
    match what {
        // The vector of formats.md: a wrap of the predecessor under the KEK 01 02 .. 20.
        "unwrap of format 1" => time(rounds, || {
            let wrapped = "EkoYuy/eugLj+TUwymd4xT07qypjikNu+XfObRXpLsp1LPM+pXxISRohaJtl0f9/";
            kek.unwrap(FORMAT_1, black_box(wrapped), "EBESExQVFhcYGRob", &row).expect("the vector opens")
        }),
        "unwrap of format 2" => {
            let key = MasterKey::random().expect("random bytes");
            let wrap = kek.wrap(&key, Nonce::random().expect("randomness"), &row).expect("a wrap");
            time(rounds, || {
                kek.unwrap(FORMAT_2, black_box(wrap.wrapped_mk()), wrap.wrap_iv(), &row).expect("the wrap opens")
            })
        }
        // The cipher alone: no base64, no key derivation, no checks of the row.
        "AES-256-GCM of 32 bytes" => {
            let cipher = Aes256Gcm::new(&bytes.into());
            let mut body = bytes;
            time(rounds, || {
                let nonce = [7; 12].into();
                cipher
                    .encrypt_inout_detached(&nonce, &[], black_box(&mut body).as_mut_slice().into())
                    .expect("32 bytes")
            })
        }
        // What AES-NI itself needs for the blocks of a format: two of the key stream and one for the tag, …
        "AES blocks of format 1" => {
            let cipher = Aes256::new(&bytes.into());
            let mut blocks = [[0u8; 16].into(); 3];
            time(rounds, || cipher.encrypt_blocks(black_box(&mut blocks)))
        }
        // … and for XAES two more that give the derived key, its key schedule, and one for the hash key.
        "AES blocks of format 2" => {
            let cipher = Aes256::new(&bytes.into());
            let mut halves = [[0u8; 16].into(); 2];
            let mut blocks = [[0u8; 16].into(); 4];
            time(rounds, || {
                cipher.encrypt_blocks(black_box(&mut halves));
                let derived: [u8; 32] = std::array::from_fn(|i| halves[i / 16][i % 16]);
                Aes256::new(&derived.into()).encrypt_blocks(black_box(&mut blocks));
            })
        }
        _ => panic!("no such micro benchmark: {what}"),
    }
}

fn time<T>(rounds: i32, mut run: impl FnMut() -> T) -> f64 {
    let start = Instant::now();
    for _ in 0..rounds {
        black_box(run());
    }
    start.elapsed().as_nanos() as f64 / f64::from(rounds)
}
