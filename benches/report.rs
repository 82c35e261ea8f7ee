//! Writes results.json, results.md and the charts to target/bench.

use std::fmt::{Display, Formatter, Write};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::charts::{self, Series};
use crate::figures::{Figure, Spread, Verdict};
use crate::machine;
use crate::options::Options;
use crate::server::{Server, number};

const THROUGHPUT: &str = "throughput.svg";
const LATENCY: &str = "latency.svg";

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench")
}

pub struct Report {
    quick: bool,
    rounds: String,
    facts: Vec<(&'static str, String)>,
    settings: Vec<(String, String)>,
    figures: Vec<Figure>,
    /// Lists under the table: a title and its lines.
    lists: Vec<(String, Vec<String>)>,
    notes: Vec<String>,
    times: Vec<(&'static str, Duration)>,
    /// Throughput by clients, for the chart.
    throughput: Vec<Series>,
    /// Latency by percentile, for the chart.
    latency: Vec<Series>,
}

impl Report {
    /// Starts a server only to read its version and its settings. Every section uses these settings, except where
    /// docs/benchmarks.md names others.
    pub fn begin(options: &Options) -> Self {
        let server = Server::start(&[]);
        let version = number(&mut server.superuser("postgres"), "SELECT current_setting('server_version_num')::bigint");
        let mut facts = machine::facts(server.cluster.dir());
        facts.push(("PostgreSQL", format!("{}.{}", version / 10_000, version % 10_000)));
        Self {
            quick: options.quick,
            rounds: format!("{} rounds of {} s", options.rounds(), options.round().as_secs()),
            facts,
            settings: server.unusual_settings(),
            figures: Vec::new(),
            lists: Vec::new(),
            notes: Vec::new(),
            times: Vec::new(),
            throughput: Vec::new(),
            latency: Vec::new(),
        }
    }

    pub fn add(&mut self, figure: Figure) {
        println!("  {}", figure.cells().join(" | "));
        self.figures.push(figure);
    }

    pub fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        println!("  note: {note}");
        self.notes.push(note);
    }

    pub fn list(&mut self, title: impl Into<String>, lines: Vec<String>) {
        self.lists.push((title.into(), lines));
    }

    pub fn took(&mut self, section: &'static str, time: Duration) {
        println!("  ({section}: {} s)", time.as_secs());
        self.times.push((section, time));
    }

    pub fn throughput(&mut self, name: &str, clients: u32, tps: &[f64]) {
        charts::point(&mut self.throughput, name, f64::from(clients), Spread::of(tps).median);
    }

    pub fn latency(&mut self, name: &str, percentile: f64, milliseconds: f64) {
        charts::point(&mut self.latency, name, percentile, milliseconds);
    }

    pub fn write(&self) {
        let dir = directory();
        fs::create_dir_all(&dir).expect("target is writable");
        if !self.throughput.is_empty() {
            charts::throughput(&dir.join(THROUGHPUT), &self.throughput);
        }
        if !self.latency.is_empty() {
            charts::latency(&dir.join(LATENCY), &self.latency);
        }
        let json = serde_json::to_string_pretty(&self.json()).expect("plain values");
        fs::write(dir.join("results.json"), json + "\n").expect("target is writable");
        fs::write(dir.join("results.md"), self.markdown()).expect("target is writable");
    }

    fn json(&self) -> Value {
        let facts: Map<_, _> = self.facts.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let settings: Map<_, _> = self.settings.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let times: Map<_, _> =
            self.times.iter().map(|(name, time)| ((*name).to_owned(), json!(time.as_secs_f64()))).collect();
        json!({
            "quick": self.quick, "rounds": self.rounds, "facts": facts, "settings": settings,
            "figures": self.figures.iter().map(Figure::json).collect::<Vec<_>>(),
            "lists": self.lists.iter().map(|(title, lines)| json!({ "title": title, "lines": lines })).collect::<Vec<_>>(),
            "notes": self.notes, "seconds": times,
            "throughput_by_clients": charts::json(&self.throughput), "latency_ms_by_percentile": charts::json(&self.latency),
        })
    }

    fn markdown(&self) -> String {
        let mut text = String::from("# vault_ext: benchmarks\n\n");
        for (name, value) in &self.facts {
            let _ = writeln!(text, "- {name}: {value}");
        }
        let settings: Vec<_> = self.settings.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        let _ = writeln!(text, "- settings that are not the default: {}", settings.join(", "));
        let kind = if self.quick { "a quick run: short rounds, small tables; take it as a hint" } else { "a full run" };
        let _ = writeln!(text, "- {kind}; throughput in {} of each side, interleaved", self.rounds);
        text.push_str("\nMedians; of a ratio, the median of the rounds (and their minimum and maximum). Noise: the distance from the\n");
        text.push_str("minimum to the maximum in percent of the median. A goal is open if the rounds lie on both sides of it.\n\n");
        text.push_str("| figure | clients | ours | baseline | ratio | noise | goal | reached |\n");
        text.push_str("|---|---|---|---|---|---|---|---|\n");
        for figure in &self.figures {
            let _ = writeln!(text, "| {} |", figure.cells().join(" | "));
        }
        let count = |verdict| self.figures.iter().filter(|figure| figure.reached() == Some(verdict)).count();
        let [reached, missed, open] = [Verdict::Reached, Verdict::Missed, Verdict::Open].map(count);
        if reached + missed + open > 0 {
            let _ = writeln!(text, "\nGoals: {reached} reached, {missed} missed, {open} open.");
        }
        for (title, lines) in &self.lists {
            let _ = write!(text, "\n{title}\n\n");
            text.extend(lines.iter().map(|line| format!("- {line}\n")));
        }
        if !self.notes.is_empty() {
            text.push_str("\nNotes:\n\n");
            text.extend(self.notes.iter().map(|note| format!("- {note}\n")));
        }
        for (chart, points) in [(THROUGHPUT, &self.throughput), (LATENCY, &self.latency)] {
            if !points.is_empty() {
                let _ = write!(text, "\n![{}]({chart})\n", chart.trim_end_matches(".svg"));
            }
        }
        text
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\nwritten to {}", self.markdown(), directory().display())
    }
}
