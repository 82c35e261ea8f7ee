//! What the rows that concern the tree itself say in their column `context`: `name=value` pairs behind spaces. The extension writes them, and the
//! verifier reads them.

use std::fmt::{self, Display};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::Hash;

/// The action of the first leaf of a tree that is younger than its table.
pub const OLD_ROWS: &str = "old_rows";
pub const PURGE: &str = "purge";
pub const REDACT: &str = "redact";
/// Its context is the origin before.
pub const NEW_TRAIL: &str = "new_trail";

/// Leaves from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaves {
    pub first: u64,
    pub last: u64,
}

/// `old_rows`: the rows that are older than the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OldRows {
    pub rows: u64,
    pub last_id: i64,
    pub root: Hash,
}

/// `purge`: what is about to be deleted, and the tree before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purge {
    /// Rows of the tree.
    pub rows: u64,
    /// None where there are none.
    pub leaves: Option<Leaves>,
    /// Rows that are older than the tree.
    pub old_rows: u64,
    pub size: u64,
    pub root: Hash,
}

/// `redact`: whose personal fields were taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redact {
    /// Rows of the tree.
    pub rows: u64,
    pub leaves: Option<Leaves>,
    /// Rows that are older than the tree.
    pub old_rows: u64,
}

impl Display for Leaves {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, " leaves={}..{}", self.first, self.last)
    }
}

impl Display for OldRows {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "rows={} last_id={} root={}", self.rows, self.last_id, BASE64.encode(self.root))
    }
}

impl Display for Purge {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "rows={}", self.rows)?;
        self.leaves.map_or(Ok(()), |leaves| leaves.fmt(formatter))?;
        if self.old_rows > 0 {
            write!(formatter, " old_rows={}", self.old_rows)?;
        }
        write!(formatter, " size={} root={}", self.size, BASE64.encode(self.root))
    }
}

impl Display for Redact {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "rows={}", self.rows)?;
        self.leaves.map_or(Ok(()), |leaves| leaves.fmt(formatter))?;
        if self.old_rows > 0 { write!(formatter, " old_rows={}", self.old_rows) } else { Ok(()) }
    }
}

/// The value of a name.
fn value<'a>(context: &'a str, name: &str) -> Option<&'a str> {
    context.split(' ').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name)).map(|(_, value)| value)
}

fn number<T: std::str::FromStr>(context: &str, name: &str) -> Option<T> {
    value(context, name)?.parse().ok()
}

fn root(context: &str) -> Option<Hash> {
    BASE64.decode(value(context, "root")?).ok()?.try_into().ok()
}

impl Leaves {
    fn parse(context: &str) -> Option<Self> {
        let (first, last) = value(context, "leaves")?.split_once("..")?;
        let leaves = Self { first: first.parse().ok()?, last: last.parse().ok()? };
        (leaves.first <= leaves.last).then_some(leaves)
    }
}

/// Rows, leaves and old rows, as far as a context that may be cut says them: what a purge or a redaction that was rolled back did not do.
pub fn counts(context: &str) -> (u64, Option<Leaves>, u64) {
    let count = |name| number(context, name).unwrap_or(0);
    (count("rows"), Leaves::parse(context), count("old_rows"))
}

impl OldRows {
    pub fn parse(context: &str) -> Option<Self> {
        Some(Self { rows: number(context, "rows")?, last_id: number(context, "last_id")?, root: root(context)? })
    }
}

impl Purge {
    /// None also for the purges of older versions, which had no tree.
    pub fn parse(context: &str) -> Option<Self> {
        Some(Self {
            rows: number(context, "rows")?,
            leaves: Leaves::parse(context),
            old_rows: number(context, "old_rows").unwrap_or(0),
            size: number(context, "size")?,
            root: root(context)?,
        })
    }
}

impl Redact {
    pub fn parse(context: &str) -> Option<Self> {
        let old_rows = number(context, "old_rows").unwrap_or(0);
        Some(Self { rows: number(context, "rows")?, leaves: Leaves::parse(context), old_rows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_come_back_and_fit_into_the_column() {
        const MAX_CONTEXT: usize = 128;
        let root = [255; 32];
        let old = OldRows { rows: u64::from(u32::MAX), last_id: i64::from(u32::MAX), root };
        assert_eq!(OldRows::parse(&old.to_string()), Some(old));
        assert!(old.to_string().len() <= MAX_CONTEXT, "{old}");
        let leaves = Some(Leaves { first: 9_999_999_998, last: 9_999_999_999 });
        for leaves in [None, leaves] {
            let purge = Purge { rows: 999_999, leaves, old_rows: 0, size: 9_999_999_999, root };
            assert_eq!(Purge::parse(&purge.to_string()), Some(purge));
            assert!(purge.to_string().len() <= MAX_CONTEXT, "{purge}");
            let redact = Redact { rows: 3, leaves, old_rows: 7 };
            assert_eq!(Redact::parse(&redact.to_string()), Some(redact));
        }
        for other in ["", "rows=", "x", "rows=1 leaves=3..2 size=7 root=AA=="] {
            assert_eq!(Purge::parse(other), None, "{other}");
        }
    }
}
