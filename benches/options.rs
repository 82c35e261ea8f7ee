//! What is asked for: in the environment, since cargo passes arguments of its own.

use std::env;
use std::time::Duration;

pub struct Options {
    pub quick: bool,
    only: Vec<String>,
    rounds: usize,
}

/// At least so many, or a median says nothing.
const FEWEST_ROUNDS: usize = 3;

impl Options {
    /// `known`: the names that ONLY may have.
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

    /// One of two values: for the full run or the quick one.
    pub fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Rounds of each ratio.
    pub fn rounds(&self) -> usize {
        self.rounds
    }

    /// How long each side of a round runs.
    pub fn round(&self) -> Duration {
        Duration::from_secs(self.pick(5, 1))
    }
}
