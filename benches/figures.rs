//! Figures: measurements, their baselines, how noisy they are and whether they reach their goals. tests/figures.rs has the
//! tests of this file.

use serde_json::{Value, json};

/// With fewer rounds, a median means nothing.
pub const FEWEST_ROUNDS: usize = 3;

/// The median and the range of several rounds.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// The range that judges goals: minimum and maximum, or less of many rounds.
    low: f64,
    high: f64,
    rounds: usize,
}

impl Spread {
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let from_below = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let from_above = |index: usize| sorted.iter().rev().nth(index).copied().unwrap_or(f64::NAN);
        let left_out = left_out(sorted.len());
        Self {
            median: percentile(&sorted, 0.5),
            min: from_below(0),
            max: from_above(0),
            low: from_below(left_out),
            high: from_above(left_out),
            rounds: sorted.len(),
        }
    }

    /// The distance from minimum to maximum in percent of the median. None if there is only one value, or the median is 0.
    pub fn noise(self) -> Option<f64> {
        let noise = 100.0 * (self.max - self.min) / self.median.abs();
        (self.rounds > 1 && noise.is_finite()).then_some(noise)
    }

    pub fn json(self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max, "noise_percent": self.noise() })
    }
}

/// How many of the lowest and of the highest of n values may be left out, so that the others still enclose the true median in at
/// least 95 of 100 runs: none of fewer than 9. Each value is as likely above the true median as below it, so the chance that
/// k values at most are on one side is that of k heads at most in n tosses of a coin, whatever the distribution.
fn left_out(values: usize) -> usize {
    let (mut chance, mut exactly) = (0.0, 0.5_f64.powi(values as i32));
    for heads in 0..values {
        chance += exactly;
        if 2.0 * chance > 0.05 {
            return heads.saturating_sub(1);
        }
        exactly *= (values - heads) as f64 / (heads + 1) as f64;
    }
    0
}

/// A percentile of sorted values, interpolated linearly.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    if sorted.is_empty() {
        return f64::NAN;
    }
    let position = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
    below + (above - below) * position.fract()
}

#[derive(Clone, Copy, Debug)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

/// Whether a goal is reached. It is open if the rounds do not agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Reached,
    Missed,
    Open,
}

impl Verdict {
    pub fn text(self) -> &'static str {
        match self {
            Self::Reached => "yes",
            Self::Missed => "no",
            Self::Open => "open",
        }
    }
}

impl Goal {
    fn reached(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }

    /// Judges by both ends of the range.
    fn judge(self, spread: Spread) -> Verdict {
        match (self.reached(spread.low), self.reached(spread.high)) {
            (true, true) => Verdict::Reached,
            (false, false) => Verdict::Missed,
            _ => Verdict::Open,
        }
    }

    pub fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!("≥ {}", number(bound)),
            Self::AtMost(bound) => format!("≤ {}", number(bound)),
        }
    }
}

/// One row of the table. The goal applies to the ratio if there is a baseline, and otherwise to the measured value.
#[derive(Clone, Debug)]
pub struct Figure {
    pub section: &'static str,
    pub name: String,
    pub clients: Option<u32>,
    pub unit: &'static str,
    pub ours: Spread,
    pub baseline: Option<Spread>,
    pub ratio: Option<Spread>,
    pub goal: Option<Goal>,
    /// Judged by one value.
    pub once: bool,
}

impl Figure {
    /// Divides our value by the baseline in each round.
    pub fn ratio(
        section: &'static str,
        name: impl Into<String>,
        unit: &'static str,
        ours: &[f64],
        base: &[f64],
    ) -> Self {
        assert_eq!(ours.len(), base.len(), "both sides have the same number of rounds");
        let ratios: Vec<_> = ours.iter().zip(base).map(|(ours, base)| ours / base).collect();
        Self {
            section,
            name: name.into(),
            clients: None,
            unit,
            ours: Spread::of(ours),
            baseline: Some(Spread::of(base)),
            ratio: Some(Spread::of(&ratios)),
            goal: None,
            once: false,
        }
    }

    /// A measurement without a baseline.
    pub fn plain(section: &'static str, name: impl Into<String>, unit: &'static str, ours: &[f64]) -> Self {
        Self {
            section,
            name: name.into(),
            clients: None,
            unit,
            ours: Spread::of(ours),
            baseline: None,
            ratio: None,
            goal: None,
            once: false,
        }
    }

    pub fn clients(mut self, clients: u32) -> Self {
        self.clients = Some(clients);
        self
    }

    pub fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    pub fn goal_if(mut self, goal: Option<Goal>) -> Self {
        self.goal = goal;
        self
    }

    /// Lets one value decide: a count that is the same in every round, or the largest value of a long run.
    pub fn once(mut self) -> Self {
        self.once = true;
        self
    }

    /// What the goal applies to.
    fn judged(&self) -> Spread {
        self.ratio.unwrap_or(self.ours)
    }

    pub fn reached(&self) -> Option<Verdict> {
        let (goal, judged) = (self.goal?, self.judged());
        if judged.rounds < FEWEST_ROUNDS && !self.once {
            return Some(Verdict::Open);
        }
        Some(goal.judge(judged))
    }

    pub fn json(&self) -> Value {
        json!({
            "section": self.section, "figure": self.name, "clients": self.clients, "unit": self.unit,
            "ours": self.ours.json(), "baseline": self.baseline.map(Spread::json), "ratio": self.ratio.map(Spread::json),
            "goal": self.goal.map(Goal::text), "reached": self.reached().map(Verdict::text),
        })
    }

    /// The cells of its row: figure, clients, ours, baseline, ratio, noise, goal, reached.
    pub fn cells(&self) -> [String; 8] {
        let measured = |spread: Spread| format!("{} {}", number(spread.median), self.unit);
        let ratio = |r: Spread| format!("{:.2} ({:.2} – {:.2})", r.median, r.min, r.max);
        let none = || "–".to_owned();
        [
            self.name.clone(),
            self.clients.map_or_else(none, |clients| clients.to_string()),
            measured(self.ours),
            self.baseline.map_or_else(none, measured),
            self.ratio.map_or_else(none, ratio),
            self.judged().noise().map_or_else(none, |percent| format!("{percent:.0} %")),
            self.goal.map_or_else(none, Goal::text),
            self.reached().map_or_else(none, |verdict| verdict.text().to_owned()),
        ]
    }
}

/// Formats a number with separators and at most two decimals: 12,345 or 12.3 or 0.70.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), String::new()), |(w, f)| (w, format!(".{f}")));
    let mut grouped = String::new();
    for (index, c) in whole.chars().enumerate() {
        let left = whole.len() - index;
        if index > 0 && left % 3 == 0 && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(c);
    }
    grouped + &fraction
}
