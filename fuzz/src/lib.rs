//! The modules of vault_ext that read what others wrote. They import no pgrx, so they are mounted here as they are, and
//! each target in `fuzz_targets/` states what must hold of one of them for any input.

#![allow(dead_code, reason = "the extension uses the rest")]

#[path = "../../src/crypto/mod.rs"]
pub mod crypto;

#[path = "../../src/kek"]
pub mod kek {
    pub mod keyring;
}

#[path = "../../src/audit"]
pub mod audit {
    pub mod claims;
    pub mod record;
}
