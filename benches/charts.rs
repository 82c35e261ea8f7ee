//! Draws the charts as SVG with plotters.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use serde_json::{Value, json};

/// A named line of a chart.
pub struct Series {
    name: String,
    points: Vec<(f64, f64)>,
}

/// Adds a point to the series of that name.
pub fn point(all: &mut Vec<Series>, name: &str, x: f64, y: f64) {
    match all.iter_mut().find(|series| series.name == name) {
        Some(series) => series.points.push((x, y)),
        None => all.push(Series { name: name.to_owned(), points: vec![(x, y)] }),
    }
}

pub fn json(all: &[Series]) -> Value {
    all.iter().map(|series| (series.name.clone(), json!(series.points))).collect::<serde_json::Map<_, _>>().into()
}

const SIZE: (u32, u32) = (860, 460);
const COLOURS: [RGBColor; 7] = [
    RGBColor(0x1f, 0x77, 0xb4),
    RGBColor(0xff, 0x7f, 0x0e),
    RGBColor(0x2c, 0xa0, 0x2c),
    RGBColor(0xd6, 0x27, 0x28),
    RGBColor(0x94, 0x67, 0xbd),
    RGBColor(0x8c, 0x56, 0x4b),
    RGBColor(0x7f, 0x7f, 0x7f),
];

/// Throughput by clients, with a line for each side that has points at more than one number of clients.
pub fn throughput(path: &Path, all: &[Series]) {
    let lines: Vec<_> = all.iter().filter(|series| series.points.len() > 1).collect();
    let clients: Vec<f64> = lines.first().map(|s| s.points.iter().map(|p| p.0).collect()).unwrap_or_default();
    let steps: Vec<(Vec<(f64, f64)>, &str)> = lines
        .iter()
        .map(|series| (series.points.iter().enumerate().map(|(i, p)| (i as f64, p.1)).collect(), series.name.as_str()))
        .collect();
    let label = |x: &f64| clients.get(x.round() as usize).map_or_else(String::new, |c| c.to_string());
    draw(path, "calls per second by clients", "clients", "calls/s", &steps, &label);
}

/// Latency by percentile, with a line for each situation.
pub fn latency(path: &Path, all: &[Series]) {
    let percentiles: Vec<f64> = all.first().map(|s| s.points.iter().map(|p| p.0).collect()).unwrap_or_default();
    let steps: Vec<(Vec<(f64, f64)>, &str)> = all
        .iter()
        .map(|series| (series.points.iter().enumerate().map(|(i, p)| (i as f64, p.1)).collect(), series.name.as_str()))
        .collect();
    let label = |x: &f64| percentiles.get(x.round() as usize).map_or_else(String::new, |p| format!("p{p}"));
    draw(path, "latency of the audited fetch at 32 clients", "percentile", "ms", &steps, &label);
}

type Line<'a> = (Vec<(f64, f64)>, &'a str);

fn draw(path: &Path, title: &str, x: &str, y: &str, lines: &[Line<'_>], label: &dyn Fn(&f64) -> String) {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    paint(&root, title, x, y, lines, label).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn paint(
    root: &DrawingArea<SVGBackend<'_>, Shift>,
    title: &str,
    x: &str,
    y: &str,
    lines: &[Line<'_>],
    label: &dyn Fn(&f64) -> String,
) -> Result<(), Box<dyn Error>> {
    let steps = lines.iter().map(|line| line.0.len()).max().unwrap_or(0);
    let values = || lines.iter().flat_map(|line| line.0.iter().map(|point| point.1));
    let top = values().fold(0.0, f64::max) * 1.05;
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(root)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d(-0.2..steps as f64 - 0.8, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .max_light_lines(0)
        .x_desc(x)
        .y_desc(y)
        .x_labels(steps + 1)
        .x_label_formatter(&|value| if (value - value.round()).abs() < 0.01 { label(value) } else { String::new() })
        .y_label_formatter(&|value| crate::figures::number(*value))
        .draw()?;
    for (index, (points, name)) in lines.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(3))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    Ok(())
}
