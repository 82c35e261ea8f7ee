//! Whether it pays to poll for something before sleeping. A process that polls saves a sleep and a wake, and takes a processor that
//! somebody else may need. Which of the two it is shows only by trying.

use std::time::Duration;

/// A look that gives the processor away in between takes longer than this if somebody took it.
pub const TAKEN: Duration = Duration::from_micros(20);

/// The most tries that are left out in a row.
const MOST_LEFT_OUT: u32 = 1023;

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// What was waited for came.
    Came,
    /// It did not come in time.
    InVain,
    /// Somebody else used the processor meanwhile.
    Taken,
}

/// Decides for one process and one kind of wait. After each try that did not pay it leaves out twice as many as before, and after
/// one that paid, none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trial {
    left_out: u32,
    to_leave_out: u32,
}

impl Trial {
    pub const NEW: Self = Self { left_out: 0, to_leave_out: 0 };

    /// Whether to try this time.
    pub fn pays(&mut self) -> bool {
        if self.left_out >= self.to_leave_out {
            return true;
        }
        self.left_out += 1;
        false
    }

    /// What came of it.
    pub fn note(&mut self, outcome: Outcome) {
        self.left_out = 0;
        self.to_leave_out = match outcome {
            Outcome::Came => 0,
            Outcome::InVain | Outcome::Taken => (2 * self.to_leave_out + 1).min(MOST_LEFT_OUT),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of that many waits poll, where each poll ends so.
    fn polls(trial: &mut Trial, waits: usize, outcome: Outcome) -> usize {
        (0..waits)
            .filter(|_| {
                trial.pays() && {
                    trial.note(outcome);
                    true
                }
            })
            .count()
    }

    #[test]
    fn polls_each_time_while_it_pays() {
        let mut trial = Trial::NEW;
        assert_eq!(polls(&mut trial, 1000, Outcome::Came), 1000);
    }

    #[test]
    fn polls_less_and_less_often_while_it_does_not() {
        for outcome in [Outcome::InVain, Outcome::Taken] {
            let mut trial = Trial::NEW;
            assert_eq!(polls(&mut trial, 1024, outcome), 10);
            assert_eq!(polls(&mut trial, 10 * 1024, outcome), 10);
        }
    }

    #[test]
    fn polls_again_as_soon_as_it_pays() {
        let mut trial = Trial::NEW;
        polls(&mut trial, 100_000, Outcome::Taken);
        while !trial.pays() {}
        trial.note(Outcome::Came);
        assert_eq!(polls(&mut trial, 100, Outcome::Came), 100);
    }
}
