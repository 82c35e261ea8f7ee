//! Rounds: each round runs every side once, and every second round reverses the order, so that drift affects all sides
//! equally.

use std::time::Duration;

use crate::options::Options;
use crate::pgbench::Load;

/// The results of one side in each round.
#[derive(Default)]
pub struct Samples {
    pub tps: Vec<f64>,
    pub transactions: u64,
}

/// Runs all sides in turn. The samples are in the order of the sides.
pub fn interleave(sides: &[Load<'_>], clients: u32, options: &Options) -> Vec<Samples> {
    rounds(sides, clients, options.rounds(), options.round())
}

/// Does the same with a given number and length of rounds.
pub fn rounds(sides: &[Load<'_>], clients: u32, count: usize, time: Duration) -> Vec<Samples> {
    let mut samples: Vec<Samples> = sides.iter().map(|_| Samples::default()).collect();
    // Warm the caches and relation files and start the processes before the measurement.
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
