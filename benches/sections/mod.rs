//! The sections of the run, in the order of the report.

mod changes;
mod costs;
mod cpu;
mod data;
mod fetch;
mod growth;
mod identity;
mod latency;
mod many;
mod memory;
mod neighbours;
mod processor;
mod rewrap;
mod trail;
mod unwrap;
mod writer;

use crate::options::Options;
use crate::report::Report;

pub struct Section {
    pub name: &'static str,
    pub title: &'static str,
    pub run: fn(&Options, &mut Report),
}

pub const ALL: &[Section] = &[
    fetch::SECTION,
    changes::INIT,
    changes::ROTATE,
    many::SECTION,
    unwrap::SECTION,
    identity::SECTION,
    data::SECTION,
    cpu::SECTION,
    writer::SECTION,
    processor::SECTION,
    costs::SECTION,
    trail::SECTION,
    growth::SECTION,
    memory::SECTION,
    neighbours::SECTION,
    latency::SECTION,
    rewrap::REWRAP,
    rewrap::CHECK,
];
