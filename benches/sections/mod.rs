//! The sections of the run, in the order of the report.

mod cpu;
mod fetch;
mod unwrap;

use crate::options::Options;
use crate::report::Report;

pub struct Section {
    pub name: &'static str,
    pub title: &'static str,
    pub run: fn(&Options, &mut Report),
}

pub const ALL: &[Section] = &[fetch::SECTION, unwrap::SECTION, cpu::SECTION];
