//! Rounds: every side once in each, in turn from either end, so that what drifts meets all sides alike.

use std::time::Duration;

use crate::options::Options;
use crate::pgbench::Load;

/// What one side did, round by round.
#[derive(Default)]
pub struct Samples {
    pub tps: Vec<f64>,
    pub transactions: u64,
}

/// Runs all sides against each other; the samples are in their order.
pub fn interleave(sides: &[Load<'_>], clients: u32, options: &Options) -> Vec<Samples> {
    rounds(sides, clients, options.rounds(), options.round())
}

/// The same with a number and a length of rounds of its own.
pub fn rounds(sides: &[Load<'_>], clients: u32, count: usize, time: Duration) -> Vec<Samples> {
    let mut samples: Vec<Samples> = sides.iter().map(|_| Samples::default()).collect();
    // Caches and relation files are warm and the processes are there before anything counts.
    for (side, samples) in sides.iter().zip(&mut samples) {
        samples.transactions += side.run(clients, Duration::from_secs(1)).transactions;
    }
    for round in 0..count {
        let mut order: Vec<usize> = (0..sides.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let outcome = sides[index].run(clients, time);
            println!("    {clients:>3} clients, round {}: {:>9.0} /s  {}", round + 1, outcome.tps, sides[index].name);
            samples[index].tps.push(outcome.tps);
            samples[index].transactions += outcome.transactions;
        }
    }
    samples
}
