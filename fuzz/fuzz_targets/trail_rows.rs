//! Exported rows, as CSV or JSON, and kept notes. Any bytes are read or refused, and whatever rows come out, the verifier reaches a verdict.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vault_trail::verify::{RowsOnly, Verifier};
use vault_trail_cli::{notes, rows, tiles::Tiles};

fuzz_target!(|input: &[u8]| {
    let mut verifier = Verifier::new([], RowsOnly);
    let _ = rows::read(input, |row| {
        verifier.row(row);
        true
    });
    let _ = verifier.finish();
    let _ = Tiles::open(std::io::Cursor::new(input));
    let _ = notes::checkpoints(&String::from_utf8_lossy(input), None);
});
