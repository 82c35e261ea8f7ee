//! The options of a run. They come from the environment, because cargo passes its own arguments.

use std::env;
use std::time::Duration;

use crate::figures::FEWEST_ROUNDS;

pub struct Options {
    pub quick: bool,
    only: Vec<String>,
    rounds: usize,
}

impl Options {
    /// `known` lists the names that ONLY accepts.
    pub fn from_env(known: &[&str]) -> Self {
        let text = |name| env::var(name).unwrap_or_default();
        let only: Vec<String> = text("ONLY").split([',', ' ']).filter(|n| !n.is_empty()).map(str::to_owned).collect();
        for name in &only {
            assert!(known.contains(&name.as_str()), "ONLY={name}: the sections are {}", known.join(", "));
        }
        let rounds = match text("ROUNDS").as_str() {
            "" => FEWEST_ROUNDS,
            number => number.parse().ok().filter(|&n| n >= FEWEST_ROUNDS).unwrap_or_else(|| {
                panic!("ROUNDS={number}: a number of rounds, at least {FEWEST_ROUNDS}, was expected");
            }),
        };
        Self { quick: !matches!(text("QUICK").as_str(), "" | "0"), only, rounds }
    }

    pub fn wants(&self, section: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == section)
    }

    /// Picks the value for the full run or for the quick one.
    pub fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// The number of rounds for each ratio.
    pub fn rounds(&self) -> usize {
        self.rounds
    }

    /// How long each side of a round runs.
    pub fn round(&self) -> Duration {
        Duration::from_secs(self.pick(5, 1))
    }
}
