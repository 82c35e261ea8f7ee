//! The question that goes to the audit writer when a KEK is about to wrap in a database for the first time, and its answer.

use crate::crypto::check::CheckValue;

/// What the database knows of a KEK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// The same key bytes, as far as the check value tells.
    Same,
    /// The same, but retired: it opens and does not wrap.
    Retired,
    /// Another key under the same id.
    Other(CheckValue),
    /// No check value yet, but vaults under that id, and this KEK opens none of them.
    OpensNothing,
}

/// A KEK by its id and check value, as it goes to the writer: check value (32 hex digits), id.
pub struct Candidate<'a> {
    pub kek_id: &'a str,
    pub check: CheckValue,
}

impl<'a> Candidate<'a> {
    pub fn encode(&self) -> Vec<u8> {
        [self.check.to_hex().as_bytes(), self.kek_id.as_bytes()].concat()
    }

    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (check, kek_id) = std::str::from_utf8(bytes).ok()?.split_at_checked(32)?;
        Some(Self { kek_id, check: CheckValue::from_hex(check)? })
    }
}

impl Known {
    pub fn encode(self) -> Vec<u8> {
        match self {
            Self::Same => vec![0],
            Self::Retired => vec![1],
            Self::OpensNothing => vec![2],
            Self::Other(check) => [&[3], check.to_hex().as_bytes()].concat(),
        }
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0] => Some(Self::Same),
            [1] => Some(Self::Retired),
            [2] => Some(Self::OpensNothing),
            [3, check @ ..] => Some(Self::Other(CheckValue::from_hex(std::str::from_utf8(check).ok()?)?)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_and_answers_come_back() {
        let check = CheckValue::from_hex("000102030405060708090a0b0c0d0e0f").unwrap();
        let bytes = Candidate { kek_id: "env-v1", check }.encode();
        let read = Candidate::decode(&bytes).unwrap();
        assert_eq!((read.kek_id, read.check), ("env-v1", check));
        for known in [Known::Same, Known::Retired, Known::OpensNothing, Known::Other(check)] {
            assert_eq!(Known::decode(&known.encode()), Some(known));
        }
        assert_eq!(Known::decode(&[]), None);
    }
}
