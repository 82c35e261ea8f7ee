//! The tests' foundation: servers, databases, calls and expectations.

mod builder;
mod calls;
mod cluster;
mod database;
mod expect;
mod issuer;
mod kek_refusal;
#[cfg(feature = "mounts")]
mod mount;
pub mod neighbours;
mod os;
pub mod raw;
mod report;
mod scratch;
mod search;
mod secrets;

pub use builder::Builder;
pub use calls::{AuditRow, VaultKey, fetch, forget_user, init, rotate, rotate_and_destroy, set_user, status};
#[cfg(feature = "upgrade")]
pub use cluster::bindir_of;
pub use cluster::{Cluster, Stop, bindir, kill9, send};
pub use database::{Db, shared_db};
pub use expect::{Refusal, eventually, expect_error, expect_vault_error, without_deadlock};
pub use issuer::{AUDIENCE, ISS, Signer, claims, issuer, issuers, now, token_db};
pub use kek_refusal::refuses_kek;
#[cfg(feature = "mounts")]
pub use mount::SmallFileSystem;
pub use os::{chown_to_server, fail, server_command, succeed};
pub use report::{Counts, report, rounds, scenario_size};
pub use scratch::scratch_dir;
pub use search::assert_no_secrets_in_files;
pub use secrets::{PREDECESSOR_KEK, assert_no_secrets, base64, decode, kek, keyring_line};
