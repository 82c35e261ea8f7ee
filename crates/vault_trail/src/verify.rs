//! Verifies a trail from its rows, in flat memory: that each row is what was written, that none is missing, and that the trail is the one whose
//! checkpoints were kept.
//!
//! Rows come in the order of their ids, which is that of their leaves. Memory is needed for each gap, purge, redaction and checkpoint, and
//! not for each row.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use crate::Hash;
use crate::checkpoint::Checkpoint;
use crate::context::{self, Leaves, OldRows, Purge, Redact};
use crate::leaf::{Leaf, OldPersonal, OldRow, Personal};
use crate::tree::{Frontier, TILE_WIDTH};

const WIDTH: u64 = TILE_WIDTH as u64;
/// The column is a bigint.
const MAX_LEAF: u64 = i64::MAX as u64;
/// The longest context of a row.
const CONTEXT_BYTES: usize = 128;

/// A row as the table has it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Row<'a> {
    pub id: i64,
    /// None in rows that are older than the tree.
    pub leaf: Option<u64>,
    pub leaf_hash: Option<&'a [u8]>,
    pub salt: Option<&'a [u8]>,
    pub redacted_digest: Option<&'a [u8]>,
    pub fields: Leaf<'a>,
    pub personal: Personal<'a>,
}

impl Row<'_> {
    /// The hash that the row's fields have as a leaf; None if it is neither whole nor redacted. Only a whole row proves its personal
    /// fields, so beside a digest there must be none.
    pub fn hash(&self) -> Option<Hash> {
        let digest = match (self.salt.map(TryInto::try_into), self.redacted_digest.map(TryInto::try_into)) {
            (Some(Ok(salt)), None) => self.personal.digest(salt),
            (None, Some(Ok(digest))) if self.personal == Personal::default() => digest,
            _ => return None,
        };
        Some(self.fields.hash(&digest))
    }

    /// The hash that it has as a row from before the tree; None if it is neither whole nor redacted, or has something in a column that such
    /// rows do not have and that is in no hash of theirs.
    fn old_hash(&self) -> Option<Hash> {
        let Leaf { created_at, action, status, kek_id, key_version, db_role, .. } = self.fields;
        let Personal { user_id, ip_address, user_agent, request_id, context, .. } = self.personal;
        let fields = Leaf { created_at, action, status, kek_id, key_version, db_role, ..Leaf::default() };
        let personal = Personal { user_id, ip_address, user_agent, request_id, context, ..Personal::default() };
        if (fields, personal, self.leaf_hash, self.salt) != (self.fields, self.personal, None, None) {
            return None;
        }
        let digest = match self.redacted_digest.map(TryInto::try_into) {
            None => OldPersonal { user_id, ip_address, user_agent, request_id, context }.digest(),
            Some(Ok(digest)) if personal == Personal::default() => digest,
            Some(_) => return None,
        };
        Some(OldRow { id: self.id, created_at, action, status, kek_id, key_version, db_role }.hash(&digest))
    }
}

/// The hashes of the tree that are kept beside the rows. They stand in for rows that were purged, and name a row that was changed
/// together with its hash.
pub trait Hashes {
    /// The hashes of a full tile.
    fn tile(&mut self, level: u8, index: u64) -> Option<Vec<Hash>>;
    /// The hash of a purged row whose tile is not full yet.
    fn purged(&mut self, leaf: u64) -> Option<Hash>;
    /// The number of full tiles of level 0; 0 where that is not known.
    fn full_tiles(&mut self) -> u64;
}

/// No hashes but those of the rows.
pub struct RowsOnly;

impl Hashes for RowsOnly {
    fn tile(&mut self, _level: u8, _index: u64) -> Option<Vec<Hash>> {
        None
    }

    fn purged(&mut self, _leaf: u64) -> Option<Hash> {
        None
    }

    fn full_tiles(&mut self) -> u64 {
        0
    }
}

/// What is wrong with a trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A row is not what was written.
    Altered,
    /// Rows are missing that no purge has deleted.
    Removed,
    /// A row was not written by the audit writer.
    Inserted,
    /// Rows have changed places.
    Reordered,
    /// The trail ends before a checkpoint that was kept: its tail was cut, or the database is an older one.
    Shorter,
    /// The trail is another one than that of a checkpoint that was kept.
    Forked,
    /// What was given is not enough to tell.
    Unverifiable,
}

impl Kind {
    /// In one or a few words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Altered => "altered",
            Self::Removed => "removed",
            Self::Inserted => "inserted",
            Self::Reordered => "reordered",
            Self::Shorter => "rolled back or cut",
            Self::Forked => "forked or rewritten",
            Self::Unverifiable => "unverifiable",
        }
    }
}

/// A finding: the first one, in the order of the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub kind: Kind,
    pub id: Option<i64>,
    pub leaf: Option<u64>,
    /// A sentence.
    pub text: String,
}

/// What was verified.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Leaves: positions from 0 up to this number.
    pub size: u64,
    /// The root over them; None where hashes of purged rows are lacking.
    pub root: Option<Hash>,
    /// Rows that are there.
    pub rows: u64,
    pub redacted: u64,
    /// Leaves whose rows were purged.
    pub purged: u64,
    /// Rows from before the tree that are there.
    pub old_rows: u64,
    /// Sizes of the kept checkpoints that agree.
    pub agreed: Vec<u64>,
    /// What is worth knowing and no fault.
    pub notes: Vec<String>,
}

/// Leaves that are missing or redacted: from the first to the last, and how many of them.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    first: u64,
    last: u64,
    count: u64,
}

/// What rows of the trail say was done to others.
#[derive(Debug, Default)]
struct Declared {
    done: Vec<(Stretch, u64)>,
}

impl Declared {
    fn add(&mut self, leaves: Option<Leaves>, rows: u64, old_rows: u64) {
        let stretch = leaves.map_or(Stretch { first: 1, last: 0, count: 0 }, |leaves| Stretch {
            first: leaves.first,
            last: leaves.last,
            count: rows,
        });
        self.done.push((stretch, old_rows));
    }

    /// The last one like this did not take place.
    fn cancel(&mut self, leaves: Option<Leaves>, rows: u64, old_rows: u64) {
        let is_it = |(stretch, old): &(Stretch, u64)| {
            leaves
                .is_none_or(|leaves| (stretch.first, stretch.last, stretch.count) == (leaves.first, leaves.last, rows))
                && (leaves.is_some() || stretch.count == 0)
                && *old == old_rows
        };
        if let Some(position) = self.done.iter().rposition(is_it) {
            self.done.remove(position);
        }
    }

    fn old_rows(&self) -> u64 {
        self.done.iter().fold(0, |sum, (_, old)| sum.saturating_add(*old))
    }

    /// Stretches that neither overlap nor touch, each with the number of rows in it.
    fn merged(&self) -> Vec<Stretch> {
        let mut all: Vec<Stretch> = self.done.iter().map(|(stretch, _)| *stretch).filter(|s| s.count > 0).collect();
        all.sort_by_key(|stretch| stretch.first);
        let mut merged: Vec<Stretch> = Vec::new();
        for next in all {
            match merged.last_mut() {
                Some(before) if next.first <= before.last + 1 => {
                    before.last = before.last.max(next.last);
                    before.count = before.count.saturating_add(next.count);
                }
                _ => merged.push(next),
            }
        }
        merged
    }
}

/// Compares what is missing with what was declared. Both are in order.
struct Comparison {
    /// The first stretch that nothing explains.
    unexplained: Option<Stretch>,
    /// Declared and still there.
    spared: u64,
}

fn compare(found: &[Stretch], declared: &[Stretch]) -> Comparison {
    let mut left: Vec<u64> = declared.iter().map(|stretch| stretch.count).collect();
    for stretch in found {
        let at = declared.partition_point(|of| of.last < stretch.first);
        let fits = declared.get(at).is_some_and(|of| of.first <= stretch.first && stretch.last <= of.last);
        match left.get_mut(at).filter(|left| fits && **left >= stretch.count) {
            Some(left) => *left -= stretch.count,
            None => return Comparison { unexplained: Some(*stretch), spared: 0 },
        }
    }
    Comparison { unexplained: None, spared: left.iter().fold(0, |sum, left| sum.saturating_add(*left)) }
}

/// Takes the rows one by one.
pub struct Verifier<H: Hashes> {
    hashes: H,
    /// Kept checkpoints by size; those of one size agree with each other.
    checkpoints: BTreeMap<u64, Checkpoint>,
    /// The tree over what was read; None from where a hash is lacking.
    frontier: Option<Frontier>,
    size: u64,
    last_id: Option<i64>,
    last_time: i64,
    gaps: Vec<Stretch>,
    redacted: Vec<Stretch>,
    purges: Declared,
    redactions: Declared,
    origins: BTreeSet<String>,
    old: Frontier,
    last_old_id: i64,
    old_redacted: u64,
    declared_old: Option<OldRows>,
    /// The tile of each of the lowest levels that was looked into last: rows come in order. One that is not known has no hashes.
    tiles: [Option<(u64, Vec<Hash>)>; 2],
    summary: Summary,
    finding: Option<Finding>,
}

impl<H: Hashes> Verifier<H> {
    /// `checkpoints`: those that were kept, their signatures verified.
    pub fn new(checkpoints: impl IntoIterator<Item = Checkpoint>, hashes: H) -> Self {
        let mut verifier = Self {
            hashes,
            checkpoints: BTreeMap::new(),
            frontier: Some(Frontier::default()),
            size: 0,
            last_id: None,
            last_time: i64::MIN,
            gaps: Vec::new(),
            redacted: Vec::new(),
            purges: Declared::default(),
            redactions: Declared::default(),
            origins: BTreeSet::new(),
            old: Frontier::default(),
            last_old_id: 0,
            old_redacted: 0,
            declared_old: None,
            tiles: [None, None],
            summary: Summary::default(),
            finding: None,
        };
        for checkpoint in checkpoints {
            verifier.keep(checkpoint);
        }
        verifier.meet_checkpoint();
        verifier
    }

    fn keep(&mut self, checkpoint: Checkpoint) {
        let size = checkpoint.size;
        if let Some(other) = self.checkpoints.insert(size, checkpoint)
            && other.root != self.checkpoints[&size].root
        {
            self.find(
                Kind::Forked,
                None,
                None,
                format!("Two of the kept checkpoints have the size {size} and different roots: the trail was forked."),
            );
        }
    }

    fn find(&mut self, kind: Kind, id: Option<i64>, leaf: Option<u64>, text: String) {
        if self.finding.is_none() {
            self.finding = Some(Finding { kind, id, leaf, text });
        }
    }

    fn find_row(&mut self, kind: Kind, row: &Row<'_>, what: impl Display) {
        let place = row.leaf.map_or_else(String::new, |leaf| format!(", leaf {leaf},"));
        self.find(kind, Some(row.id), row.leaf, format!("The row with id {}{place} {what}.", row.id));
    }

    /// Whether a finding makes further rows useless.
    pub fn is_done(&self) -> bool {
        self.finding.is_some()
    }

    /// The next row.
    pub fn row(&mut self, row: &Row<'_>) {
        if self.is_done() {
            return;
        }
        if self.last_id.is_some_and(|last| row.id <= last) {
            return self.find_row(
                Kind::Reordered,
                row,
                "comes after a row with the same or a larger id: rows have changed places, or the export is not sorted by id",
            );
        }
        self.last_id = Some(row.id);
        match row.leaf {
            Some(leaf) => self.leaf(row, leaf),
            None => self.old_row(row),
        }
    }

    fn old_row(&mut self, row: &Row<'_>) {
        if self.size > 0 {
            return self.find_row(
                Kind::Inserted,
                row,
                "has no place in the tree although it is newer than the tree: the audit writer did not write it",
            );
        }
        let Some(hash) = row.old_hash() else {
            return self.find_row(
                Kind::Altered,
                row,
                "is older than the tree and was changed: it is neither whole nor redacted, or has columns that such rows do not have",
            );
        };
        self.old.push(hash);
        self.old_redacted += u64::from(row.redacted_digest.is_some());
        self.last_old_id = row.id;
        self.summary.old_rows += 1;
        self.summary.redacted += u64::from(row.redacted_digest.is_some());
    }

    fn leaf(&mut self, row: &Row<'_>, leaf: u64) {
        if leaf > MAX_LEAF {
            return self.find_row(Kind::Inserted, row, "has a place that no row can have");
        }
        if leaf < self.size {
            let in_gap = self.gaps.iter().any(|gap| gap.first <= leaf && leaf <= gap.last);
            return if in_gap {
                self.find_row(Kind::Reordered, row, format!("comes after leaf {}", self.size - 1))
            } else {
                self.find_row(
                    Kind::Inserted,
                    row,
                    "has the place of another row: the audit writer did not write one of them",
                )
            };
        }
        if leaf > self.size {
            self.skip_to(leaf);
            if self.is_done() {
                return;
            }
        }
        let Some(hash) = row.hash() else {
            return self.find_row(Kind::Altered, row, "was changed: it is neither whole nor redacted");
        };
        if row.leaf_hash != Some(&hash[..]) {
            return self.find_row(
                Kind::Altered,
                row,
                "was changed: its fields do not have the hash that it was written with",
            );
        }
        if self.hash_in_tile(0, leaf).is_some_and(|kept| kept != hash) {
            return self.find_row(Kind::Altered, row, "was changed together with its hash: the tree has another one");
        }
        if let Some(frontier) = &mut self.frontier {
            frontier.push(hash);
        }
        self.size = leaf + 1;
        self.summary.rows += 1;
        if row.redacted_digest.is_some() {
            self.count_redacted(leaf);
        }
        if row.fields.created_at < self.last_time && self.summary.notes.len() < 10 {
            let text = format!("The clock was set back before leaf {leaf} (id {}).", row.id);
            self.summary.notes.push(text);
        }
        self.last_time = row.fields.created_at;
        self.declare(row, leaf);
        self.meet_checkpoint();
    }

    fn count_redacted(&mut self, leaf: u64) {
        match self.redacted.last_mut() {
            Some(stretch) if stretch.last + 1 == leaf => (stretch.last, stretch.count) = (leaf, stretch.count + 1),
            _ => self.redacted.push(Stretch { first: leaf, last: leaf, count: 1 }),
        }
        self.summary.redacted += 1;
    }

    /// The hash that the full tile has at that place: of a leaf at level 0, of a whole tile of leaves at level 1.
    fn hash_in_tile(&mut self, level: u8, place: u64) -> Option<Hash> {
        let index = place / WIDTH;
        let last = &mut self.tiles[usize::from(level)];
        if last.as_ref().is_none_or(|(of, _)| *of != index) {
            *last = Some((index, self.hashes.tile(level, index).unwrap_or_default()));
        }
        last.as_ref().and_then(|(_, hashes)| hashes.get((place % WIDTH) as usize)).copied()
    }

    /// Rows are missing up to that leaf. Their hashes come from the tiles.
    fn skip_to(&mut self, leaf: u64) {
        self.gaps.push(Stretch { first: self.size, last: leaf - 1, count: leaf - self.size });
        self.summary.purged += leaf - self.size;
        while self.size < leaf {
            // Whole tiles at once.
            if self.size.is_multiple_of(WIDTH) && leaf - self.size >= WIDTH && !self.ends_within(WIDTH) {
                let root = self.hash_in_tile(1, self.size / WIDTH);
                if let (Some(root), Some(frontier)) = (root, &mut self.frontier) {
                    frontier.append(8, root);
                    self.size += WIDTH;
                    self.meet_checkpoint();
                    continue;
                }
            }
            let hash = self.hash_in_tile(0, self.size).or_else(|| self.hashes.purged(self.size));
            self.frontier = self.frontier.take().zip(hash).map(|(mut frontier, hash)| {
                frontier.push(hash);
                frontier
            });
            self.size += 1;
            if self.frontier.is_none() {
                self.size = leaf;
            }
            self.meet_checkpoint();
        }
        self.meet_checkpoint();
    }

    /// Whether a kept checkpoint ends within the next leaves.
    fn ends_within(&self, leaves: u64) -> bool {
        self.checkpoints.range(self.size + 1..self.size + leaves).next().is_some()
    }

    /// What the row says about the tree.
    fn declare(&mut self, row: &Row<'_>, leaf: u64) {
        let Some(said) = row.personal.context else { return };
        let rolled_back = said.strip_prefix("rolled-back ").filter(|_| row.fields.status == 409);
        // What it explains was there before it. So nobody can announce today which rows of tomorrow will be missing.
        let is_before = |leaves: Option<Leaves>, rows: u64| {
            leaves.is_none_or(|leaves| leaves.last < leaf && rows <= leaves.last - leaves.first + 1)
        };
        match (row.fields.action, row.fields.status, rolled_back) {
            (context::PURGE, 200, _) => {
                if let Some(purge) = Purge::parse(said).filter(|purge| is_before(purge.leaves, purge.rows)) {
                    self.purges.add(purge.leaves, purge.rows, purge.old_rows);
                }
            }
            (context::PURGE, _, Some(said)) => {
                let (rows, leaves, old_rows) = context::counts(said);
                self.purges.cancel(leaves, rows, old_rows);
            }
            (context::REDACT, 200, _) => {
                if let Some(redact) = Redact::parse(said).filter(|redact| is_before(redact.leaves, redact.rows)) {
                    self.redactions.add(redact.leaves, redact.rows, redact.old_rows);
                }
            }
            (context::REDACT, _, Some(said)) => {
                let (rows, leaves, old_rows) = context::counts(said);
                self.redactions.cancel(leaves, rows, old_rows);
            }
            (context::OLD_ROWS, 200, _) if leaf == 0 => self.declared_old = OldRows::parse(said),
            (context::NEW_TRAIL, 200, _) => {
                self.origins.insert(said.to_owned());
            }
            _ => {}
        }
    }

    /// Compares the tree with a kept checkpoint of this size.
    fn meet_checkpoint(&mut self) {
        let Some(checkpoint) = self.checkpoints.get(&self.size) else { return };
        let Some(root) = self.frontier.as_ref().map(Frontier::root) else { return };
        if checkpoint.root == root {
            if self.summary.agreed.last() != Some(&self.size) {
                self.summary.agreed.push(self.size);
            }
            return;
        }
        let before = self.summary.agreed.last().copied().unwrap_or(0);
        let text = format!(
            "The trail is not the one of the kept checkpoint of size {}: it was forked or rewritten between leaf {before} and leaf {}.",
            self.size,
            self.size - 1
        );
        self.find(Kind::Forked, self.last_id, Some(self.size.saturating_sub(1)), text);
    }

    /// The verdict.
    pub fn finish(mut self) -> (Summary, Option<Finding>) {
        self.finish_old_rows();
        self.finish_gaps();
        self.finish_redactions();
        self.finish_end();
        self.finish_origins();
        self.summary.size = self.size;
        self.summary.root = self.frontier.as_ref().map(Frontier::root);
        (self.summary, self.finding)
    }

    fn finish_old_rows(&mut self) {
        let (there, purged) = (self.summary.old_rows, self.purges.old_rows());
        let Some(declared) = self.declared_old else {
            let leaf_0_is_gone = self.gaps.first().is_some_and(|gap| gap.first == 0);
            if there > 0 && leaf_0_is_gone {
                let text = "The row that commits to the rows from before the tree was purged: those that are left cannot be verified.";
                self.summary.notes.push(text.to_owned());
            } else if there > 0 && self.size > 0 {
                let text = format!(
                    "{there} row(s) up to id {} have no place in the tree, and its first leaf does not commit to them.",
                    self.last_old_id
                );
                self.find(Kind::Inserted, Some(self.last_old_id), None, text);
            } else if there > 0 {
                self.summary.notes.push("No row has a place in the tree yet: nothing can be verified.".to_owned());
            }
            return;
        };
        let text = |what: &str| {
            format!(
                "Of the rows from before the tree, {what}: its first leaf commits to {} of them, {there} are there, and purges have deleted {purged}.",
                declared.rows
            )
        };
        let accounted = there.saturating_add(purged);
        if self.last_old_id > declared.last_id || there > declared.rows {
            self.find(Kind::Inserted, Some(self.last_old_id), None, text("one was inserted"));
        } else if accounted < declared.rows {
            self.find(Kind::Removed, None, None, text("some were removed"));
        } else if there < declared.rows {
            self.summary.notes.push(format!(
                "{there} of {} rows from before the tree are left after purges; they cannot be verified one by one.",
                declared.rows
            ));
        } else if self.old.root() != declared.root {
            self.find(Kind::Altered, None, None, text("at least one was changed"));
        }
    }

    fn finish_gaps(&mut self) {
        let Comparison { unexplained, spared } = compare(&self.gaps, &self.purges.merged());
        if let Some(gap) = unexplained {
            let text = if gap.first == gap.last {
                format!("The row of leaf {} was removed, and no purge in the trail explains it.", gap.first)
            } else {
                format!(
                    "{} rows from leaf {} to {} are missing, and the purges in the trail do not explain all of them.",
                    gap.count, gap.first, gap.last
                )
            };
            self.find(Kind::Removed, None, Some(gap.first), text);
        } else if spared > 0 {
            self.summary.notes.push(format!("{spared} row(s) that purges have announced are still there."));
        }
    }

    fn finish_redactions(&mut self) {
        let old_declared = self.redactions.old_rows();
        if self.old_redacted > old_declared {
            let text = format!(
                "Personal fields were taken from {} row(s) from before the tree, and the redactions in the trail explain {old_declared}.",
                self.old_redacted
            );
            self.find(Kind::Altered, None, None, text);
        }
        let unexplained = compare(&self.redacted, &self.redactions.merged()).unexplained;
        if let Some(stretch) = unexplained {
            let text = format!(
                "Personal fields were taken from leaf {} to {}, and no redaction in the trail explains it.",
                stretch.first, stretch.last
            );
            self.find(Kind::Altered, None, Some(stretch.first), text);
        }
    }

    fn finish_end(&mut self) {
        if let Some((size, _)) = self.checkpoints.range(self.size + 1..).next_back() {
            let text = format!(
                "The trail has {} leaves, and a checkpoint of {size} was kept: its end was cut, or the database is older than the checkpoint.",
                self.size
            );
            self.find(Kind::Shorter, self.last_id, Some(self.size), text);
        }
        let in_tiles = self.hashes.full_tiles().saturating_mul(WIDTH);
        if in_tiles > self.size {
            let text = format!(
                "The trail ends before leaf {}, and its tiles have {in_tiles} leaves: its end was cut.",
                self.size
            );
            self.find(Kind::Shorter, self.last_id, Some(self.size), text);
        }
        let unmet = self.checkpoints.len() != self.summary.agreed.len();
        if self.frontier.is_none() {
            let text = "Rows were purged, and their hashes are lacking: give the tiles as well.".to_owned();
            if unmet {
                self.find(Kind::Unverifiable, None, None, text);
            } else {
                self.summary.notes.push(text);
            }
        }
    }

    fn finish_origins(&mut self) {
        let origins: BTreeSet<&String> = self.checkpoints.values().map(|checkpoint| &checkpoint.origin).collect();
        let newest = self.checkpoints.values().next_back().map(|checkpoint| &checkpoint.origin);
        // The column has room for 128 bytes, and the origin of a database with a long name may have more.
        let is_earlier = |origin: &str| {
            self.origins
                .iter()
                .any(|said| said == origin || said.len() == CONTEXT_BYTES && origin.starts_with(said.as_str()))
        };
        let stranger = origins.into_iter().find(|origin| Some(*origin) != newest && !is_earlier(origin));
        if let Some(origin) = stranger {
            let text =
                format!("The kept checkpoints are of different trails: {origin} is not an earlier origin of this one.");
            self.find(Kind::Forked, None, None, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaf::{SALT_BYTES, Salt};
    use crate::tree::{Tile, Tree};

    /// A row with texts of its own.
    #[derive(Clone, Debug)]
    struct Owned {
        id: i64,
        leaf: Option<u64>,
        leaf_hash: Option<Hash>,
        salt: Option<Salt>,
        redacted_digest: Option<Hash>,
        created_at: i64,
        action: String,
        status: i32,
        user_id: Option<String>,
        context: Option<String>,
    }

    impl Owned {
        fn fields(&self) -> Leaf<'_> {
            let leaf =
                Leaf { created_at: self.created_at, action: &self.action, status: self.status, ..Leaf::default() };
            Leaf { db_role: "app", login_role: self.leaf.map(|_| "app"), ..leaf }
        }

        fn personal(&self) -> Personal<'_> {
            Personal { user_id: self.user_id.as_deref(), context: self.context.as_deref(), ..Personal::default() }
        }

        fn row(&self) -> Row<'_> {
            Row {
                id: self.id,
                leaf: self.leaf,
                leaf_hash: self.leaf_hash.as_ref().map(|hash| &hash[..]),
                salt: self.salt.as_ref().map(|salt| &salt[..]),
                redacted_digest: self.redacted_digest.as_ref().map(|hash| &hash[..]),
                fields: self.fields(),
                personal: self.personal(),
            }
        }

        fn hash(&self) -> Hash {
            self.fields().hash(&self.personal().digest(&self.salt.unwrap()))
        }
    }

    /// What the server does.
    #[derive(Clone, Default)]
    struct Trail {
        rows: Vec<Owned>,
        tiles: Vec<Tile>,
        singles: Vec<(u64, Hash)>,
        tree: Tree,
        origin: String,
    }

    impl Trail {
        fn of(rows: usize) -> Self {
            let mut trail = Self { origin: "vault_ext/d/1".into(), ..Self::default() };
            (0..rows).for_each(|at| trail.add("fetch", 200, Some(&format!("user-{}", at % 7)), None));
            trail
        }

        fn after_old_rows(old: usize, rows: usize) -> Self {
            let mut trail = Self { origin: "vault_ext/d/1".into(), ..Self::default() };
            let mut head = Frontier::default();
            for id in 1..=old as i64 {
                let user_id = Some(format!("old-{id}"));
                let row = Owned {
                    id,
                    leaf: None,
                    leaf_hash: None,
                    salt: None,
                    redacted_digest: None,
                    created_at: id,
                    action: "fetch".into(),
                    status: 200,
                    user_id,
                    context: None,
                };
                let digest = OldPersonal { user_id: row.user_id.as_deref(), ..OldPersonal::default() }.digest();
                let bytes = OldRow {
                    id,
                    created_at: id,
                    action: "fetch",
                    status: 200,
                    kek_id: None,
                    key_version: None,
                    db_role: "app",
                };
                head.push(bytes.hash(&digest));
                trail.rows.push(row);
            }
            let said = OldRows { rows: old as u64, last_id: old as i64, root: head.root() };
            trail.add("old_rows", 200, None, Some(&said.to_string()));
            (0..rows).for_each(|_| trail.add("fetch", 200, Some("x"), None));
            trail
        }

        fn add(&mut self, action: &str, status: i32, user: Option<&str>, context: Option<&str>) {
            let leaf = self.tree.size();
            let id = self.rows.last().map_or(1, |row| row.id + 1);
            let mut row = Owned {
                id,
                leaf: Some(leaf),
                leaf_hash: None,
                salt: Some([leaf as u8; SALT_BYTES]),
                redacted_digest: None,
                created_at: id * 1000,
                action: action.into(),
                status,
                user_id: user.map(str::to_owned),
                context: context.map(str::to_owned),
            };
            row.leaf_hash = Some(row.hash());
            self.tree.push(row.hash(), &mut self.tiles);
            self.rows.push(row);
        }

        fn at(&mut self, leaf: u64) -> &mut Owned {
            self.rows.iter_mut().find(|row| row.leaf == Some(leaf)).unwrap()
        }

        fn checkpoint(&self) -> Checkpoint {
            Checkpoint { origin: self.origin.clone(), size: self.tree.size(), root: self.tree.root() }
        }

        /// What vault_purge_audit() does.
        fn purge(&mut self, is_due: impl Fn(&Owned) -> bool) {
            let (due, kept): (Vec<_>, Vec<_>) = self.rows.drain(..).partition(&is_due);
            let leaves: Vec<u64> = due.iter().filter_map(|row| row.leaf).collect();
            let said = Purge {
                rows: leaves.len() as u64,
                leaves: leaves.first().zip(leaves.last()).map(|(first, last)| Leaves { first: *first, last: *last }),
                old_rows: (due.len() - leaves.len()) as u64,
                size: self.tree.size(),
                root: self.tree.root(),
            };
            self.singles.extend(due.iter().filter_map(|row| row.leaf.zip(row.leaf_hash)));
            self.rows = kept;
            self.add("purge", 200, None, Some(&said.to_string()));
        }

        fn redact(&mut self, leaves: &[u64]) {
            for leaf in leaves {
                let row = self.at(*leaf);
                row.redacted_digest = Some(row.personal().digest(&row.salt.unwrap()));
                (row.salt, row.user_id, row.context) = (None, None, None);
            }
        }

        fn redact_and_say_so(&mut self, leaves: &[u64]) {
            self.redact(leaves);
            let range = Leaves { first: leaves[0], last: *leaves.last().unwrap() };
            let said = Redact { rows: leaves.len() as u64, leaves: Some(range), old_rows: 0 };
            self.add("redact", 200, None, Some(&said.to_string()));
        }

        /// The rows and the tiles anew, as somebody would write them who can write everything.
        fn forge(&mut self) {
            (self.tree, self.tiles) = (Tree::new(), Vec::new());
            for row in &mut self.rows {
                if row.leaf.is_some() {
                    row.leaf = Some(self.tree.size());
                    row.leaf_hash = Some(row.hash());
                    self.tree.push(row.hash(), &mut self.tiles);
                }
            }
        }

        fn verify(&self, checkpoints: &[Checkpoint]) -> (Summary, Option<Finding>) {
            self.verify_with(checkpoints, self)
        }

        fn verify_with(&self, checkpoints: &[Checkpoint], hashes: impl Hashes) -> (Summary, Option<Finding>) {
            let mut verifier = Verifier::new(checkpoints.to_vec(), hashes);
            self.rows.iter().for_each(|row| verifier.row(&row.row()));
            verifier.finish()
        }

        #[track_caller]
        fn is_whole(&self, checkpoints: &[Checkpoint]) -> Summary {
            let (summary, finding) = self.verify(checkpoints);
            assert_eq!(finding, None);
            assert_eq!((summary.size, summary.root), (self.tree.size(), Some(self.tree.root())));
            assert_eq!(summary.agreed.len(), checkpoints.len());
            summary
        }

        #[track_caller]
        fn is_bad(&self, checkpoints: &[Checkpoint], kind: Kind, leaf: Option<u64>) -> Finding {
            let (_, finding) = self.verify(checkpoints);
            let finding = finding.expect("a finding");
            assert_eq!((finding.kind, finding.leaf), (kind, leaf), "{}", finding.text);
            finding
        }
    }

    impl Hashes for &Trail {
        fn tile(&mut self, level: u8, index: u64) -> Option<Vec<Hash>> {
            self.tiles.iter().find(|tile| (tile.level, tile.index) == (level, index)).map(|tile| tile.hashes.clone())
        }

        fn purged(&mut self, leaf: u64) -> Option<Hash> {
            self.singles.iter().find(|(of, _)| *of == leaf).map(|(_, hash)| *hash)
        }

        fn full_tiles(&mut self) -> u64 {
            self.tiles.iter().filter(|tile| tile.level == 0).count() as u64
        }
    }

    #[test]
    fn a_trail_that_only_grew_is_whole_at_every_size() {
        let mut trail = Trail::of(0);
        let mut kept = vec![trail.checkpoint()];
        trail.is_whole(&kept);
        for size in 1..600 {
            trail.add("fetch", 200, Some("a"), None);
            if size % 97 == 0 || size % 256 < 2 {
                kept.push(trail.checkpoint());
                trail.is_whole(&kept);
                assert_eq!(trail.verify_with(&kept, RowsOnly).1, None);
            }
        }
    }

    #[test]
    fn an_altered_row_is_named() {
        let trail = Trail::of(700);
        let changes: [fn(&mut Owned); 7] = [
            |row| row.user_id = Some("mallory".into()),
            |row| row.user_id = None,
            |row| row.action = "init".into(),
            |row| row.status = 404,
            |row| row.created_at += 1,
            |row| row.context = Some("x".into()),
            |row| row.salt = None,
        ];
        for leaf in [0, 255, 256, 600, 699] {
            for change in changes {
                let mut changed = trail.clone();
                change(changed.at(leaf));
                let finding = changed.is_bad(&[], Kind::Altered, Some(leaf));
                assert_eq!(finding.id, Some(leaf as i64 + 1));
                // With its hash, the tile or the checkpoint still knows.
                if changed.at(leaf).salt.is_some() {
                    let hash = changed.at(leaf).hash();
                    changed.at(leaf).leaf_hash = Some(hash);
                    if leaf < 512 {
                        changed.is_bad(&[], Kind::Altered, Some(leaf));
                    }
                    let (_, finding) = changed.verify_with(&[trail.checkpoint()], RowsOnly);
                    assert_eq!(finding.unwrap().kind, Kind::Forked);
                }
            }
        }
    }

    #[test]
    fn a_removed_row_is_named() {
        for leaf in [0, 5, 256, 511, 598] {
            let mut trail = Trail::of(600);
            trail.rows.retain(|row| row.leaf != Some(leaf));
            trail.is_bad(&[], Kind::Removed, Some(leaf));
        }
    }

    #[test]
    fn a_cut_tail_and_an_empty_trail_are_noticed_by_a_kept_checkpoint() {
        let whole = Trail::of(700);
        let kept = [whole.checkpoint()];
        for left in [0, 1, 255, 256, 512, 699] {
            let mut cut = whole.clone();
            cut.rows.truncate(left);
            cut.tiles.retain(|tile| (tile.index + 1) * 256 <= left as u64);
            cut.is_bad(&kept, Kind::Shorter, Some(left as u64));
        }
        // With the tiles left, they know as well.
        let mut cut = whole.clone();
        cut.rows.truncate(500);
        cut.is_bad(&[], Kind::Shorter, Some(500));
    }

    #[test]
    fn an_inserted_row_is_named() {
        let trail = Trail::of(300);
        let mut doubled = trail.clone();
        let mut row = doubled.rows[10].clone();
        (row.id, row.user_id) = (301, Some("mallory".into()));
        row.leaf_hash = Some(row.hash());
        doubled.rows.push(row);
        assert_eq!(doubled.is_bad(&[], Kind::Inserted, Some(10)).id, Some(301));
        let mut placeless = trail.clone();
        let row = Owned { id: 301, leaf: None, leaf_hash: None, salt: None, ..placeless.rows[10].clone() };
        placeless.rows.push(row);
        assert_eq!(placeless.is_bad(&[], Kind::Inserted, None).id, Some(301));
        let mut beyond = trail.clone();
        let mut row = beyond.rows[10].clone();
        (row.id, row.leaf) = (301, Some(900));
        beyond.rows.push(row);
        beyond.is_bad(&[], Kind::Removed, Some(300));
        let mut appended = trail.clone();
        appended.add("fetch", 200, Some("mallory"), None);
        let mut honest = trail.clone();
        honest.add("fetch", 200, Some("alice"), None);
        appended.is_bad(&[honest.checkpoint()], Kind::Forked, Some(300));
    }

    #[test]
    fn rows_that_changed_places_are_named() {
        let trail = Trail::of(300);
        let mut swapped = trail.clone();
        let (a, b) = (swapped.rows[20].clone(), swapped.rows[30].clone());
        swapped.rows[20] = Owned { id: a.id, ..b.clone() };
        swapped.rows[30] = Owned { id: b.id, ..a };
        assert_eq!(swapped.is_bad(&[], Kind::Reordered, Some(21)).id, Some(22));
        let mut unsorted = trail.clone();
        unsorted.rows.swap(20, 30);
        assert!(matches!(unsorted.verify(&[]).1.unwrap().kind, Kind::Reordered));
        let mut renumbered = trail.clone();
        renumbered.rows[10].id = 1000;
        assert_eq!(renumbered.is_bad(&[], Kind::Reordered, Some(11)).id, Some(12));
        // With the numbers and hashes of the other.
        let mut contents = trail.clone();
        let (a, b) = (contents.rows[20].user_id.clone(), contents.rows[30].user_id.clone());
        (contents.rows[20].user_id, contents.rows[30].user_id) = (b, a);
        contents.forge();
        contents.is_bad(&[trail.checkpoint()], Kind::Forked, Some(299));
    }

    #[test]
    fn everything_recomputed_and_a_fork_and_an_older_database_are_noticed() {
        let mut trail = Trail::of(300);
        let first = trail.checkpoint();
        let backup = trail.clone();
        (0..300).for_each(|_| trail.add("fetch", 200, Some("a"), None));
        let kept = [first, trail.checkpoint()];
        trail.is_whole(&kept);
        // Yesterday's backup.
        backup.is_bad(&kept, Kind::Shorter, Some(300));
        // The backup went on.
        let mut fork = backup.clone();
        (0..400).for_each(|_| fork.add("fetch", 200, Some("b"), None));
        let finding = fork.is_bad(&kept, Kind::Forked, Some(599));
        assert!(finding.text.contains("between leaf 300 and leaf 599"), "{}", finding.text);
        // A rewrite of everything, tiles included.
        let mut rewritten = trail.clone();
        rewritten.at(100).user_id = Some("mallory".into());
        rewritten.forge();
        rewritten.is_whole(&[]);
        rewritten.is_bad(&kept, Kind::Forked, Some(299));
        // Two checkpoints of one size, whatever the trail.
        let other = Checkpoint { root: [1; 32], ..kept[1].clone() };
        assert_eq!(trail.verify(&[kept[1].clone(), other.clone()]).1.unwrap().kind, Kind::Forked);
        assert_eq!(backup.verify(&[kept[1].clone(), other]).1.unwrap().kind, Kind::Forked);
    }

    #[test]
    fn purges_keep_the_rest_verifiable_and_explain_what_is_missing() {
        let mut trail = Trail::of(1000);
        let early = trail.checkpoint();
        trail.purge(|row| row.id <= 300);
        (0..300).for_each(|_| trail.add("fetch", 200, Some("a"), None));
        // Rows in the middle stay, the rest goes, the newest among them are in no full tile.
        trail.purge(|row| row.action != "purge" && row.id % 10 != 0 && row.id <= 1290);
        let kept = [early, trail.checkpoint()];
        let summary = trail.is_whole(&kept);
        assert_eq!(summary.rows + summary.purged, trail.tree.size());
        // Not one row more.
        let mut more = trail.clone();
        more.rows.retain(|row| row.id != 700);
        assert_eq!(more.verify(&kept).1.unwrap().kind, Kind::Removed);
        // Nor one in place of another.
        let mut other = Trail::of(300);
        let spared = other.rows[150].clone();
        other.purge(|row| (100..200).contains(&row.leaf.unwrap()));
        other.rows.insert(100, spared);
        assert_eq!(other.verify(&[]).0.notes, ["1 row(s) that purges have announced are still there."]);
        other.rows.remove(10);
        other.is_bad(&[], Kind::Removed, Some(10));
        // The hashes are needed.
        assert_eq!(trail.verify_with(&kept, RowsOnly).1.unwrap().kind, Kind::Unverifiable);
        // A purge that was rolled back explains nothing.
        let said = trail.rows.iter().rfind(|row| row.action == "purge").unwrap().context.clone().unwrap();
        let mut undone = trail.clone();
        undone.add("purge", 409, None, Some(&format!("rolled-back {said}")[..60]));
        assert_eq!(undone.verify(&[]).1.unwrap().kind, Kind::Removed);
    }

    #[test]
    fn a_purge_of_very_many_rows_uses_whole_tiles() {
        let mut trail = Trail::of(256 * 300);
        let middle = trail.checkpoint();
        (0..700).for_each(|_| trail.add("fetch", 200, Some("a"), None));
        trail.purge(|row| row.id <= 256 * 299 + 77);
        trail.is_whole(&[middle, trail.checkpoint()]);
    }

    #[test]
    fn redactions_keep_the_trail_whole_if_it_says_so() {
        let mut trail = Trail::of(400);
        let early = trail.checkpoint();
        trail.redact_and_say_so(&[3, 10, 17]);
        let kept = [early, trail.checkpoint()];
        assert_eq!(trail.is_whole(&kept).redacted, 3);
        let mut secret = trail.clone();
        secret.redact(&[4]);
        // One too many: which one it is, nobody can tell.
        secret.is_bad(&kept, Kind::Altered, Some(17));
        let mut outside = trail.clone();
        outside.redact(&[30]);
        outside.is_bad(&kept, Kind::Altered, Some(30));
        let mut partly = trail.clone();
        partly.at(10).user_id = Some("x".into());
        partly.is_bad(&kept, Kind::Altered, Some(10));
        let mut other = trail.clone();
        other.at(10).redacted_digest = Some([7; 32]);
        other.is_bad(&kept, Kind::Altered, Some(10));
    }

    #[test]
    fn rows_from_before_the_tree_are_verified_together() {
        let mut trail = Trail::after_old_rows(50, 20);
        assert_eq!(trail.is_whole(&[trail.checkpoint()]).old_rows, 50);
        let mut altered = trail.clone();
        altered.rows[7].status = 500;
        altered.is_bad(&[], Kind::Altered, None);
        let mut removed = trail.clone();
        removed.rows.remove(7);
        removed.is_bad(&[], Kind::Removed, None);
        let mut inserted = trail.clone();
        inserted.rows.insert(0, Owned { id: 0, ..inserted.rows[0].clone() });
        inserted.is_bad(&[], Kind::Inserted, None);
        let mut uncommitted = Trail::of(3);
        uncommitted.rows.insert(0, Owned { id: 0, ..trail.rows[0].clone() });
        uncommitted.is_bad(&[], Kind::Inserted, None);
        // Columns that are in no hash must be empty.
        let mut extended = trail.clone();
        extended.rows[7].salt = Some([0; SALT_BYTES]);
        assert_eq!(extended.is_bad(&[], Kind::Altered, None).id, Some(8));
        let mut verifier = Verifier::new([], RowsOnly);
        let row = trail.rows[0].row();
        verifier.row(&Row { fields: Leaf { identity: Some("token"), ..row.fields }, ..row });
        assert_eq!(verifier.finish().1.unwrap().kind, Kind::Altered);
        trail.purge(|row| row.leaf.is_none() && row.id <= 30);
        let summary = trail.is_whole(&[trail.checkpoint()]);
        assert_eq!((summary.old_rows, summary.notes.len()), (20, 1));
        trail.rows.remove(0);
        trail.is_bad(&[], Kind::Removed, None);
    }

    #[test]
    fn redacted_rows_from_before_the_tree_have_no_personal_fields_and_are_declared() {
        let redact = |trail: &mut Trail| {
            let row = &mut trail.rows[7];
            let digest = OldPersonal { user_id: row.user_id.as_deref(), ..OldPersonal::default() }.digest();
            (row.redacted_digest, row.user_id) = (Some(digest), None);
        };
        let mut trail = Trail::after_old_rows(50, 20);
        redact(&mut trail);
        trail.is_bad(&[], Kind::Altered, None);
        let said = Redact { rows: 0, leaves: None, old_rows: 1 };
        trail.add("redact", 200, None, Some(&said.to_string()));
        assert_eq!(trail.is_whole(&[trail.checkpoint()]).redacted, 1);
        // The digest says nothing about what stands beside it.
        let mut relabelled = trail.clone();
        relabelled.rows[7].user_id = Some("mallory".into());
        assert_eq!(relabelled.is_bad(&[], Kind::Altered, None).id, Some(8));
        trail.add("redact", 409, None, Some(&format!("rolled-back {said}")));
        trail.is_bad(&[], Kind::Altered, None);
    }

    #[test]
    fn a_redacted_row_with_personal_fields_has_no_hash() {
        let mut trail = Trail::of(3);
        trail.redact(&[1]);
        let row = trail.at(1).clone();
        assert_eq!(row.row().hash(), row.leaf_hash);
        let relabelled = Owned { user_id: Some("mallory".into()), ..row };
        assert_eq!(relabelled.row().hash(), None);
    }

    #[test]
    fn a_purge_or_redaction_explains_only_what_was_before_it() {
        let mut trail = Trail::of(10);
        let said = Purge { rows: 5, leaves: Some(Leaves { first: 8, last: 14 }), old_rows: 0, size: 10, root: [0; 32] };
        trail.add("purge", 200, None, Some(&said.to_string()));
        let said = Redact { rows: 5, leaves: Some(Leaves { first: 8, last: 15 }), old_rows: 0 };
        trail.add("redact", 200, None, Some(&said.to_string()));
        (0..10).for_each(|_| trail.add("fetch", 200, Some("a"), None));
        let mut removed = trail.clone();
        removed.rows.retain(|row| row.leaf != Some(13));
        removed.is_bad(&[], Kind::Removed, Some(13));
        let mut redacted = trail.clone();
        redacted.redact(&[13]);
        redacted.is_bad(&[], Kind::Altered, Some(13));
        // Nor more rows than its leaves can be, beside those of another purge.
        let mut greedy = Trail::of(20);
        for (first, last, rows) in [(0, 4, 1000), (5, 9, 1)] {
            let said = Purge { rows, leaves: Some(Leaves { first, last }), old_rows: 0, size: 20, root: [0; 32] };
            greedy.add("purge", 200, None, Some(&said.to_string()));
        }
        greedy.rows.retain(|row| !matches!(row.leaf, Some(6 | 8)));
        greedy.is_bad(&[], Kind::Removed, Some(8));
    }

    #[test]
    fn no_number_is_too_large() {
        const MAX: u64 = u64::MAX;
        for (first, last, rows) in [(0, MAX, MAX), (1, 2, MAX), (0, 2, 1)] {
            let mut trail = Trail::after_old_rows(5, 2);
            let leaves = Some(Leaves { first, last });
            let purge = Purge { rows, leaves, old_rows: MAX, size: MAX, root: [0; 32] };
            let redact = Redact { rows, leaves, old_rows: MAX };
            for _ in 0..2 {
                trail.add("purge", 200, None, Some(&purge.to_string()));
                trail.add("redact", 200, None, Some(&redact.to_string()));
            }
            trail.rows.retain(|row| row.leaf != Some(2));
            let _ = trail.verify(&[Checkpoint { size: MAX, ..trail.checkpoint() }]);
            trail.at(5).leaf = Some(MAX);
            assert!(trail.verify(&[]).1.is_some());
        }
        struct Many;
        impl Hashes for Many {
            fn tile(&mut self, _level: u8, _index: u64) -> Option<Vec<Hash>> {
                None
            }
            fn purged(&mut self, _leaf: u64) -> Option<Hash> {
                None
            }
            fn full_tiles(&mut self) -> u64 {
                u64::MAX
            }
        }
        assert_eq!(Trail::of(3).verify_with(&[], Many).1.unwrap().kind, Kind::Shorter);
    }

    #[test]
    fn lacking_hashes_are_noted_also_after_the_last_checkpoint() {
        let mut trail = Trail::of(300);
        let early = trail.checkpoint();
        (0..300).for_each(|_| trail.add("fetch", 200, Some("a"), None));
        trail.purge(|row| row.leaf == Some(400));
        let (summary, finding) = trail.verify_with(&[early], RowsOnly);
        assert_eq!((finding, summary.agreed, summary.root, summary.notes.len()), (None, vec![300], None, 1));
    }

    #[test]
    fn a_clock_that_was_set_back_is_a_note() {
        let mut trail = Trail::of(10);
        trail.at(5).created_at = 1;
        trail.forge();
        assert_eq!(trail.is_whole(&[]).notes, ["The clock was set back before leaf 5 (id 6)."]);
    }

    #[test]
    fn a_new_trail_goes_on_under_another_origin() {
        let mut trail = Trail::of(10);
        let old = trail.checkpoint();
        trail.add("new_trail", 200, None, Some("vault_ext/d/1"));
        trail.origin = "vault_ext/d/2".into();
        trail.is_whole(&[old.clone(), trail.checkpoint()]);
        let mut long = Trail { origin: format!("vault_ext/{}/1", "%20".repeat(63)), ..Trail::default() };
        long.add("fetch", 200, None, None);
        let of_long = long.checkpoint();
        long.add("new_trail", 200, None, Some(&of_long.origin.clone()[..CONTEXT_BYTES]));
        long.origin = "vault_ext/d/2".into();
        long.is_whole(&[of_long, long.checkpoint()]);
        let stranger = Checkpoint { origin: "vault_ext/other/9".into(), ..old };
        trail.is_bad(&[stranger, trail.checkpoint()], Kind::Forked, None);
    }
}
