//! Figures: measurements, their baselines and whether they reach their goals.

use serde_json::{Value, json};

/// The median and the range of several rounds.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (sorted.first().copied().unwrap_or(f64::NAN), sorted.last().copied().unwrap_or(f64::NAN));
        Self { median: percentile(&sorted, 0.5), min, max }
    }

    pub fn json(self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max })
    }
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

impl Goal {
    pub fn reached(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
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

    pub fn reached(&self) -> Option<bool> {
        Some(self.goal?.reached(self.ratio.unwrap_or(self.ours).median))
    }

    pub fn json(&self) -> Value {
        json!({
            "section": self.section, "figure": self.name, "clients": self.clients, "unit": self.unit,
            "ours": self.ours.json(), "baseline": self.baseline.map(Spread::json), "ratio": self.ratio.map(Spread::json),
            "goal": self.goal.map(Goal::text), "reached": self.reached(),
        })
    }

    /// The cells of its row: figure, clients, ours, baseline, ratio, goal, reached.
    pub fn cells(&self) -> [String; 7] {
        let measured = |spread: Spread| format!("{} {}", number(spread.median), self.unit);
        let ratio = |r: Spread| format!("{:.2} ({:.2} – {:.2})", r.median, r.min, r.max);
        let none = || "–".to_owned();
        [
            self.name.clone(),
            self.clients.map_or_else(none, |clients| clients.to_string()),
            measured(self.ours),
            self.baseline.map_or_else(none, measured),
            self.ratio.map_or_else(none, ratio),
            self.goal.map_or_else(none, Goal::text),
            self.reached().map_or_else(none, |reached| if reached { "yes" } else { "no" }.to_owned()),
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
