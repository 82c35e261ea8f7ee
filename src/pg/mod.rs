//! The only unsafe code of the project: thin wrappers over what PostgreSQL offers in C. Everything above this folder is
//! safe Rust and reads like the design.

#[macro_use]
mod variable;

pub mod bulk;
pub mod composite;
pub mod drop;
pub mod entry;
pub mod guc;
pub mod inval;
pub mod lookup;
pub mod procedure;
pub mod process;
pub mod secret;
pub mod session;
pub mod shmem;
pub mod spi;
pub mod subxact;
pub mod sweep;
pub mod table;
pub mod trigger;
pub mod utility;
pub mod varlena;
pub mod wait;
pub mod worker;
pub mod xact;
