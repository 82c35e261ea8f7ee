//! Tiles that were exported: the table `vault_ext.audit_tiles` as CSV with a header, or as JSON, one object on a line. Only where each one stands
//! is kept in memory.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};

use serde::Deserialize;
use vault_trail::Hash;
use vault_trail::verify::Hashes;

use crate::Error;
use crate::rows::hex;

/// Tiles in a file. No line has a line break within it.
#[derive(Debug)]
pub struct Tiles<R> {
    file: BufReader<R>,
    /// The offset of each tile's line, by level and index.
    places: HashMap<(i16, u64), u64>,
    /// The columns of a CSV; None for JSON.
    columns: Option<Columns>,
}

#[derive(Debug, Clone, Copy)]
struct Columns {
    level: usize,
    index: usize,
    hashes: usize,
}

struct Tile {
    level: i16,
    index: u64,
    hashes: Vec<u8>,
}

#[derive(Deserialize)]
struct JsonTile {
    level: i16,
    index: u64,
    hashes: String,
}

impl<R: Read + Seek> Tiles<R> {
    /// Reads the file once, to find the tiles.
    pub fn open(file: R) -> Result<Self, Error> {
        let mut file = BufReader::with_capacity(1 << 16, file);
        let (mut columns, mut places) = (None, HashMap::new());
        let (mut offset, mut text) = (0, String::new());
        for line in 1.. {
            text.clear();
            let length = file.read_line(&mut text)? as u64;
            if length == 0 {
                break;
            }
            if line == 1 && !text.starts_with('{') {
                columns = Some(Columns::of(text.trim_end())?);
            } else if !text.trim().is_empty() {
                let tile = parse(text.trim_end(), columns);
                let tile = tile.ok_or_else(|| Error::Row { line, why: "a tile was expected".into() })?;
                places.insert((tile.level, tile.index), offset);
            }
            offset += length;
        }
        Ok(Self { file, places, columns })
    }

    fn get(&mut self, level: i16, index: u64) -> Option<Vec<Hash>> {
        let offset = *self.places.get(&(level, index))?;
        self.file.seek(SeekFrom::Start(offset)).ok()?;
        let mut text = String::new();
        self.file.read_line(&mut text).ok()?;
        Some(parse(text.trim_end(), self.columns)?.hashes.as_chunks::<32>().0.to_vec())
    }
}

impl Columns {
    fn of(header: &str) -> Result<Self, Error> {
        let place = |name: &str| header.split(',').position(|column| column == name);
        let found = (|| Some(Self { level: place("level")?, index: place("index")?, hashes: place("hashes")? }))();
        found.ok_or_else(|| Error::Row { line: 1, why: "the header has no columns level, index and hashes".into() })
    }
}

fn parse(line: &str, columns: Option<Columns>) -> Option<Tile> {
    let (level, index, hashes) = match columns {
        Some(columns) => {
            let field = |column| line.split(',').nth(column);
            (field(columns.level)?.parse().ok()?, field(columns.index)?.parse().ok()?, hex(field(columns.hashes)?)?)
        }
        None => {
            // COPY in its text format doubles backslashes.
            let tile: JsonTile = serde_json::from_str(&line.replacen(r"\\\\x", r"\\x", 1)).ok()?;
            (tile.level, tile.index, hex(&tile.hashes)?)
        }
    };
    (!hashes.is_empty() && hashes.len().is_multiple_of(32)).then_some(Tile { level, index, hashes })
}

impl<R: Read + Seek> Hashes for Tiles<R> {
    fn tile(&mut self, level: u8, index: u64) -> Option<Vec<Hash>> {
        self.get(level.into(), index)
    }

    fn purged(&mut self, leaf: u64) -> Option<Hash> {
        self.get(-1, leaf)?.first().copied()
    }

    fn full_tiles(&mut self) -> u64 {
        self.places.keys().filter(|(level, _)| *level == 0).map(|(_, index)| index.saturating_add(1)).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn csv_and_json_are_read() {
        let hashes = "00".repeat(8192);
        let csv = format!("level,index,hashes,root\n0,3,\\x{hashes},\\x00\n-1,1030,\\x{},\n", "01".repeat(32));
        let json = format!(
            "{{\"level\":0,\"index\":3,\"hashes\":\"\\\\x{hashes}\",\"root\":null}}\n{{\"level\":-1,\"index\":1030,\"hashes\":\"\\\\x{}\"}}\n",
            "01".repeat(32)
        );
        for text in [csv, json.clone(), json.replace('\\', r"\\")] {
            let mut tiles = Tiles::open(Cursor::new(text)).unwrap();
            assert_eq!(tiles.tile(0, 3).unwrap().len(), 256);
            assert_eq!((tiles.tile(0, 4), tiles.purged(1030), tiles.full_tiles()), (None, Some([1; 32]), 4));
        }
        for bad in ["level,index,hashes\n0,0,\\x00\n", "level,index\n", "{}\n"] {
            assert!(Tiles::open(Cursor::new(bad)).is_err(), "{bad}");
        }
    }
}
