//! What a user's master key is used for: no database, no I/O, no `unsafe`.
//!
//! [`mod@derive`] makes keys of it, [`value`] seals and opens values under one of them, [`index`] makes equal values findable,
//! [`recovery`] proves that a client has it, and [`client_blob`] reads and writes what the predecessor's clients encrypt with
//! it, with [`json`] as JavaScript writes it.

pub mod client_blob;
pub mod derive;
pub mod index;
pub mod json;
pub mod recovery;
pub mod value;

/// Lower-case hexadecimal, as `vectors/data.py` prints the vectors.
#[cfg(test)]
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
