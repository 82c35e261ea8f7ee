//! What a user's master key is used for: no database, no I/O, no `unsafe`.
//!
//! [`mod@derive`] makes keys of it.

pub mod derive;

/// Lower-case hexadecimal, as `vectors/data.py` prints the vectors.
#[cfg(test)]
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
