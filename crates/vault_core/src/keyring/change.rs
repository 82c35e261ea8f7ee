//! What a new ring changes in the ring in use. Pure: no server.

use super::Entry;

/// The difference between the ring in use and the one that is to replace it.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// The new ring, in its order: the first is active.
    pub entries: Vec<Entry>,
    pub added: Vec<String>,
    pub removed: Vec<String>,
    /// False if the new ring is the old one, in the same order.
    pub is_any: bool,
    /// Whether the KEK that wraps at present is among the removed.
    pub removes_active: bool,
}

/// The same id stands for two different KEKs.
#[derive(Debug, PartialEq, Eq)]
pub struct Differs<'a> {
    pub old: &'a Entry,
    pub new: &'a Entry,
}

impl Change {
    /// # Errors
    /// [`Differs`] if an id would change its KEK: rows under it would stop opening.
    pub fn between<'a>(old: &'a [Entry], new: &'a [Entry]) -> Result<Self, Differs<'a>> {
        let find = |ring: &'a [Entry], id: &str| ring.iter().find(|entry| entry.id == id);
        for entry in new {
            if let Some(known) = find(old, &entry.id).filter(|known| known.check != entry.check) {
                return Err(Differs { old: known, new: entry });
            }
        }
        let missing = |from: &'a [Entry], in_ring: &'a [Entry]| -> Vec<String> {
            from.iter().filter(|entry| find(in_ring, &entry.id).is_none()).map(|entry| entry.id.clone()).collect()
        };
        let removed = missing(old, new);
        Ok(Self {
            added: missing(new, old),
            removes_active: old.first().is_some_and(|active| removed.contains(&active.id)),
            removed,
            is_any: old != new,
            entries: new.to_vec(),
        })
    }

    /// Leaves the KEKs in the ring that would be removed, behind the others, and gives their ids.
    pub fn keep_removed(&mut self, old: &[Entry]) -> Vec<String> {
        let removed = std::mem::take(&mut self.removed);
        self.entries.extend(old.iter().filter(|entry| removed.contains(&entry.id)).cloned());
        self.removes_active = false;
        self.is_any = self.entries != old;
        removed
    }

    /// For the trail and the log.
    pub fn describe(&self) -> String {
        if !self.is_any {
            return "unchanged".into();
        }
        let part = |name: &str, ids: &[String]| match ids {
            [] => String::new(),
            ids => format!("; {name} {}", ids.join(" ")),
        };
        let active = self.entries.first().map_or("none", |entry| entry.id.as_str());
        format!("active {active}{}{}", part("added", &self.added), part("removed", &self.removed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::check::CheckValue;

    fn ring(keks: &[(&str, u8)]) -> Vec<Entry> {
        let check = |byte: u8| CheckValue::from_hex(&format!("{byte:02x}").repeat(16)).expect("32 digits");
        keks.iter().map(|(id, byte)| Entry { id: (*id).into(), check: check(*byte) }).collect()
    }

    fn described(old: &[(&str, u8)], new: &[(&str, u8)]) -> String {
        Change::between(&ring(old), &ring(new)).expect("no KEK differs").describe()
    }

    #[test]
    fn what_comes_and_goes_is_named() {
        assert_eq!(described(&[("a", 1)], &[("a", 1)]), "unchanged");
        assert_eq!(described(&[], &[("a", 1), ("b", 2)]), "active a; added a b");
        assert_eq!(described(&[("a", 1)], &[("b", 2), ("a", 1)]), "active b; added b");
        assert_eq!(described(&[("b", 2), ("a", 1)], &[("b", 2)]), "active b; removed a");
        assert_eq!(described(&[("a", 1), ("b", 2)], &[("b", 2), ("a", 1)]), "active b");
    }

    #[test]
    fn an_active_kek_that_goes_is_told_from_another() {
        let removes_active = |new: &[(&str, u8)]| {
            Change::between(&ring(&[("a", 1), ("b", 2)]), &ring(new)).expect("no KEK differs").removes_active
        };
        assert!(removes_active(&[("b", 2)]));
        assert!(!removes_active(&[("a", 1)]));
        assert!(!removes_active(&[("b", 2), ("a", 1)]));
    }

    #[test]
    fn what_would_be_removed_can_be_kept() {
        let (old, new) = (ring(&[("a", 1), ("b", 2)]), ring(&[("c", 3), ("b", 2)]));
        let mut change = Change::between(&old, &new).expect("no KEK differs");
        assert_eq!(change.keep_removed(&old), ["a"]);
        assert_eq!(change.entries, ring(&[("c", 3), ("b", 2), ("a", 1)]));
        assert_eq!((change.describe().as_str(), change.removes_active), ("active c; added c", false));
        let mut change = Change::between(&old, &ring(&[("a", 1)])).expect("no KEK differs");
        change.keep_removed(&old);
        assert!(!change.is_any);
    }

    #[test]
    fn an_id_keeps_its_kek() {
        let (old, new) = (ring(&[("a", 1), ("b", 2)]), ring(&[("a", 2), ("b", 1)]));
        let differs = Change::between(&old, &new).expect_err("swapped ids");
        assert_eq!((differs.old, differs.new), (&old[0], &new[0]));
    }
}
