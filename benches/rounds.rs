//! Rounds: every side once in each, in turn from either end, so that what drifts meets all sides alike.

use std::time::Duration;

use crate::options::Options;
use crate::pgbench::Load;
use crate::server::Server;

/// What one side did, round by round.
#[derive(Default)]
pub struct Samples {
    pub tps: Vec<f64>,
    pub transactions: u64,
}

/// Runs all sides against each other; the samples are in their order.
pub fn interleave(server: &Server, sides: &[Load], clients: u32, options: &Options) -> Vec<Samples> {
    let mut samples: Vec<Samples> = sides.iter().map(|_| Samples::default()).collect();
    server.superuser("postgres").batch_execute("CHECKPOINT").expect("a checkpoint");
    // Caches and relation files are warm and the processes are there before anything counts.
    for (side, samples) in sides.iter().zip(&mut samples) {
        samples.transactions += side.run(server, clients, Duration::from_secs(1)).transactions;
    }
    for round in 0..options.rounds() {
        let mut order: Vec<usize> = (0..sides.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let outcome = sides[index].run(server, clients, options.round());
            println!("    {clients:>3} clients, round {}: {:>9.0} /s  {}", round + 1, outcome.tps, sides[index].name);
            samples[index].tps.push(outcome.tps);
            samples[index].transactions += outcome.transactions;
        }
    }
    samples
}
