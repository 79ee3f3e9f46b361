//! Drawings of the dashboard, as SVG within the page. Shapes only: no text comes into them, and what they
//! show stands beside them in words, so they are hidden from those who listen.

use crate::vocab::{PerSide, Side};

/// A plot's width and height in its own units; the page scales it.
const SIZE: (f64, f64) = (600.0, 100.0);

/// A bar of a path each, and a line where the baseline is; `full` is the whole width.
pub(super) fn bars(values: &PerSide<Option<f64>>, norm: Option<f64>, full: f64) -> String {
    let mut svg = svg("0 0 100 16", "");
    for (place, (side, value)) in values.iter().enumerate() {
        let width = part(value.unwrap_or_default(), full) * 100.0;
        let y = place * 8 + 1;
        svg.push_str(&format!(
            "<rect class=\"{side}\" y=\"{y}\" width=\"{width:.1}\" height=\"6\"/>"
        ));
    }
    if let Some(norm) = norm {
        let x = part(norm, full) * 100.0;
        svg.push_str(&format!("<path class=\"norm\" d=\"M{x:.1} 0V16\"/>"));
    }
    svg + "</svg>"
}

/// A bar on a track, with its limit as a line.
pub(super) fn gauge(value: f64, class: &str, limit: f64, full: f64) -> String {
    let (width, x) = (part(value, full) * 100.0, part(limit, full) * 100.0);
    svg("0 0 100 10", "gauge")
        + &format!(
            "<rect class=\"track\" width=\"100\" height=\"10\"/>\
             <rect class=\"{class}\" width=\"{width:.1}\" height=\"10\"/>\
             <path class=\"norm\" d=\"M{x:.1} 0V10\"/></svg>"
        )
}

/// A line of each path over `places` moments, the newest at the right; `norms` are lines across.
pub(super) fn plot(
    lines: &PerSide<Vec<Option<f64>>>,
    norms: &[f64],
    places: usize,
    full: f64,
) -> String {
    let (width, height) = SIZE;
    let y = |value: f64| height - part(value, full) * height;
    let mut svg = svg(&format!("0 0 {width} {height}"), "plot");
    for norm in norms {
        svg.push_str(&format!("<path class=\"norm\" d=\"M0 {:.1}H{width}\"/>", y(*norm)));
    }
    for side in Side::ALL {
        let line = lines.get(side);
        let first = places.saturating_sub(line.len());
        let mut drawn = String::new();
        let mut pen = 'M';
        for (place, value) in line.iter().enumerate() {
            let Some(value) = value.filter(|value| value.is_finite()) else {
                pen = 'M';
                continue;
            };
            let x = float(first + place) / float(places.saturating_sub(1).max(1)) * width;
            drawn.push_str(&format!("{pen}{x:.0} {:.1}", y(value)));
            pen = 'L';
        }
        svg.push_str(&format!("<path class=\"{side}\" d=\"{drawn}\"/>"));
    }
    svg + "</svg>"
}

/// The largest of these, or what stands for it where all are nothing, so that a scale has a width.
pub(super) fn largest(values: impl Iterator<Item = f64>, least: f64) -> f64 {
    values.filter(|value| value.is_finite()).fold(least, f64::max)
}

fn svg(view: &str, class: &str) -> String {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    format!("<svg viewBox=\"{view}\" preserveAspectRatio=\"none\" aria-hidden=\"true\"{class}>")
}

/// Which part of the whole it is, 0 to 1.
fn part(value: f64, full: f64) -> f64 {
    let part = value / full;
    if part.is_finite() { part.clamp(0.0, 1.0) } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "a few hundred places")]
fn float(place: usize) -> f64 {
    place as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_gaps_and_end_at_the_right() {
        let legacy = vec![Some(50.0), None, Some(f64::NAN), Some(25.0), Some(100.0)];
        let lines = PerSide { legacy, async_: vec![Some(900.0)] };
        let svg = plot(&lines, &[75.0], 7, 100.0);
        assert!(svg.contains("class=\"legacy\" d=\"M200 50.0M500 75.0L600 0.0\""), "{svg}");
        assert!(svg.contains("class=\"async\" d=\"M600 0.0\""), "{svg}");
        assert!(svg.contains("class=\"norm\" d=\"M0 25.0H600\""), "{svg}");
        let nothing = plot(&PerSide::default(), &[], 0, 0.0);
        assert!(!nothing.contains("NaN") && !nothing.contains("inf"), "{nothing}");
    }

    #[test]
    fn bars_stay_within_their_width() {
        let values = PerSide { legacy: Some(f64::INFINITY), async_: Some(30.0) };
        let svg = bars(&values, Some(15.0), 20.0);
        for part in ["legacy\" y=\"1\" width=\"0.0", "async\" y=\"9\" width=\"100.0", "M75.0 0V16"]
        {
            assert!(svg.contains(part), "no {part} in {svg}");
        }
        assert!(gauge(8.0, "warn", 16.0, 24.0).contains("width=\"33.3\""));
        assert_eq!(largest([1.0, f64::NAN, 3.0].into_iter(), 2.0), 3.0);
    }
}
