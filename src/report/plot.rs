//! The report's plots, each an SVG of its own: share, failures, P95 and memory over time.
//!
//! Owns lines, axes and colours. The colours of the two paths differ in lightness too, so that they can
//! be told apart in grey. No text from elsewhere comes into a plot.

use std::error::Error;
use std::ops::Range;

use jiff::Timestamp;
use plotters::prelude::*;

use crate::report::outline::ROLLBACK;
use crate::report::samples::{Part, is_drawable, parts, samples, stairs};
use crate::report::story::{PathPoint, Story, instant, millis, percent, share};
use crate::vocab::Side;

/// A plot, or the sentence in its place.
#[derive(Debug)]
pub(super) struct Figure {
    pub(super) title: &'static str,
    /// What it shows, with its main numbers: it has to do for those who can't see the plot.
    pub(super) caption: String,
    /// Absent where there is nothing to draw.
    pub(super) svg: Option<String>,
}

/// A line of a plot: its parts have gaps between them, where nothing is known.
struct Line {
    name: &'static str,
    colour: RGBColor,
    stroke: Stroke,
    parts: Vec<Part>,
}

enum Stroke {
    Solid,
    /// Seen on top of another line.
    Thin,
    Dashed,
}

/// The most rollbacks that are marked, the last ones.
const MARKS_MAX: usize = 50;

/// In units of the SVG. Pages scale it; so many units make up for its whole-number coordinates.
const SIZE: (u32, u32) = (1600, 520);
const LEGEND_HEIGHT: i32 = 60;
const FONT: (&str, u32) = ("sans-serif", 26);

const LEGACY: RGBColor = RGBColor(0x1b, 0x3a, 0x6b);
const ASYNC: RGBColor = RGBColor(0xd9, 0x70, 0x00);
const REFERENCE: RGBColor = RGBColor(0x70, 0x70, 0x70);
const ALARM: RGBColor = RGBColor(0xb0, 0x00, 0x20);
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const GRID: RGBColor = RGBColor(0xe0, 0xe0, 0xe0);

/// All plots, in the order in which they are shown.
pub(super) fn figures(story: &Story) -> Vec<Figure> {
    vec![shares(story), failures(story), latency(story), memory(story)]
}

// === Figures ===

fn shares(story: &Story) -> Figure {
    let last = story.series.last().map(|last| format!(" At the end: {}.", share(last.share)));
    let lines = [
        Line::new("in force", ASYNC, stairs(&samples(story, |point| Some(point.share)))),
        Line {
            stroke: Stroke::Thin,
            ..Line::new("observed", INK, stairs(&samples(story, |point| point.observed)))
        },
        rollbacks(story),
    ];
    Figure {
        title: "Share of requests on async",
        caption: format!("The weight in force, and what async got.{}", last.unwrap_or_default()),
        svg: draw(&lines, 1.0, &|part| format!("{:.0} %", part * 100.0)),
    }
}

fn failures(story: &Story) -> Figure {
    let [legacy, async_] = both(story, |path| rate(path.n, path.err.saturating_add(path.tmo)));
    let norm = story.baseline.as_ref().map(|baseline| baseline.paths.legacy);
    let norm = norm.and_then(|path| rate(path.n, path.err.saturating_add(path.tmo)));
    let caption = format!(
        "Errors and timeouts, as a part of all requests of the path. {}{}",
        highest(&legacy, &async_, percent),
        told(norm, percent)
    );
    let lines = with_norm(legacy, async_, norm);
    Figure { title: "Errors and timeouts", caption, svg: draw(&lines, 0.01, &percent) }
}

fn latency(story: &Story) -> Figure {
    let [legacy, async_] = both(story, |path| path.p95_ms);
    let norm = story.baseline.as_ref().and_then(|baseline| baseline.paths.legacy.p95_ms);
    let caption = format!(
        "The latency that 95 % of the requests stay below. {}{}",
        highest(&legacy, &async_, millis),
        told(norm, millis)
    );
    let lines = with_norm(legacy, async_, norm);
    Figure { title: "P95 latency", caption, svg: draw(&lines, 1.0, &millis) }
}

fn memory(story: &Story) -> Figure {
    let mib = |mib: f64| format!("{mib:.0} MiB");
    let [legacy, async_] = both(story, |path| {
        #[expect(clippy::cast_precision_loss, reason = "a pixel is coarser")]
        path.rss.map(|bytes| bytes as f64 / 1_048_576.0)
    });
    let caption = format!("Resident memory of the backends. {}", highest(&legacy, &async_, mib));
    let lines = with_norm(legacy, async_, None);
    Figure { title: "Memory", caption, svg: draw(&lines, 1.0, &mib) }
}

fn both(story: &Story, of: fn(&PathPoint) -> Option<f64>) -> [Line; 2] {
    Side::ALL.map(|side| {
        let samples = samples(story, |point| of(point.paths.get(side)));
        let colour = match side {
            Side::Legacy => LEGACY,
            Side::Async => ASYNC,
        };
        Line::new(side.name(), colour, parts(&samples))
    })
}

fn with_norm(legacy: Line, async_: Line, norm: Option<f64>) -> Vec<Line> {
    let mut lines = vec![legacy, async_];
    let norm = norm.filter(|norm| is_drawable(*norm));
    if let Some((norm, span)) = norm.zip(span(&lines)) {
        let flat = vec![(span.start, norm), (span.end, norm)];
        lines.push(Line::dashed("legacy's baseline", REFERENCE, vec![flat]));
    }
    lines
}

fn rollbacks(story: &Story) -> Line {
    let all = story.decisions.iter().filter(|line| line.kind == ROLLBACK);
    let times = all.rev().take(MARKS_MAX).filter_map(|line| instant(&line.time));
    let marks = times.map(|at| vec![(at.as_second(), 0.0), (at.as_second(), 1.0)]);
    Line::dashed("rollback", ALARM, marks.collect())
}

fn highest(legacy: &Line, async_: &Line, shown: impl Fn(f64) -> String) -> String {
    let told = [legacy, async_].map(|line| {
        let top = line.values().reduce(f64::max);
        format!("{} {}", line.name, top.map_or_else(|| "not known".to_owned(), &shown))
    });
    format!("Highest: {}.", told.join(", "))
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn rate(n: u64, failed: u64) -> Option<f64> {
    (n > 0).then(|| failed as f64 / n as f64)
}

fn told(norm: Option<f64>, shown: impl Fn(f64) -> String) -> String {
    norm.map_or_else(String::new, |norm| format!(" Legacy's baseline: {}.", shown(norm)))
}

// === impl Line ===

impl Line {
    fn new(name: &'static str, colour: RGBColor, parts: Vec<Part>) -> Self {
        Self { name, colour, stroke: Stroke::Solid, parts }
    }

    fn dashed(name: &'static str, colour: RGBColor, parts: Vec<Part>) -> Self {
        Self { name, colour, stroke: Stroke::Dashed, parts }
    }

    fn values(&self) -> impl Iterator<Item = f64> {
        self.parts.iter().flatten().map(|point| point.1)
    }

    fn style(&self) -> ShapeStyle {
        match self.stroke {
            Stroke::Solid => self.colour.stroke_width(5),
            Stroke::Thin => self.colour.stroke_width(2),
            Stroke::Dashed => self.colour.stroke_width(3),
        }
    }
}

// === Drawing ===

/// From the first to the last moment of all lines; a moment alone becomes a minute.
fn span(lines: &[Line]) -> Option<Range<i64>> {
    let times = || lines.iter().flat_map(|line| &line.parts).flatten().map(|point| point.0);
    let (first, last) = times().min().zip(times().max())?;
    Some(if first < last { first..last } else { first..first + 60 })
}

fn draw(lines: &[Line], floor: f64, label: &dyn Fn(f64) -> String) -> Option<String> {
    let solid = lines.iter().filter(|line| !matches!(line.stroke, Stroke::Dashed));
    solid.flat_map(Line::values).next()?;
    let span = span(lines)?;
    let top = lines.iter().flat_map(Line::values).fold(floor, f64::max) * 1.05;
    let mut svg = String::new();
    // Writing into a string does not fail; should it yet, a sentence is better than half a plot.
    chart(&mut svg, lines, &Axes { span, top, label }).ok()?;
    Some(svg)
}

struct Axes<'a> {
    span: Range<i64>,
    top: f64,
    label: &'a dyn Fn(f64) -> String,
}

fn chart(svg: &mut String, lines: &[Line], axes: &Axes<'_>) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(LEGEND_HEIGHT);
    let mut x = 150;
    for line in lines.iter().filter(|line| !line.parts.is_empty()) {
        draw_legend(&head, line, x)?;
        x += 360;
    }
    let (ticks, format) = ticks(&axes.span);
    let across = axes.span.clone().with_key_points(ticks);
    let mut chart = ChartBuilder::on(&body)
        .margin_right(60)
        .x_label_area_size(50)
        .y_label_area_size(150)
        .build_cartesian_2d(across, 0.0..axes.top)?;
    chart
        .configure_mesh()
        .axis_style(INK)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .label_style(FONT.into_font().color(&INK))
        .y_labels(6)
        .x_label_formatter(&|at| moment(*at, format))
        .y_label_formatter(&|value| (axes.label)(*value))
        .draw()?;
    for line in lines {
        for part in line.parts.iter().cloned() {
            match line.stroke {
                Stroke::Solid | Stroke::Thin => {
                    chart.draw_series(LineSeries::new(part, line.style()))?
                }
                Stroke::Dashed => {
                    chart.draw_series(DashedLineSeries::new(part, 12, 8, line.style()))?
                }
            };
        }
    }
    root.present()?;
    Ok(())
}

fn draw_legend<B: DrawingBackend>(
    head: &DrawingArea<B, plotters::coord::Shift>,
    line: &Line,
    x: i32,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let dashes: &[(i32, i32)] = match line.stroke {
        Stroke::Solid | Stroke::Thin => &[(0, 60)],
        Stroke::Dashed => &[(0, 12), (20, 32), (40, 52)],
    };
    for (start, end) in dashes {
        let ends = vec![(x + start, 30), (x + end, 30)];
        head.draw(&PathElement::new(ends, line.style()))?;
    }
    head.draw(&Text::new(line.name, (x + 72, 18), FONT.into_font().color(&INK)))
}

/// Round times to write below the axis, at most eight, and how to write them.
fn ticks(span: &Range<i64>) -> (Vec<i64>, &'static str) {
    const DAY: i64 = 86_400;
    const ROUND: [i64; 17] =
        [1, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, DAY];
    let least = (span.end - span.start + 7) / 8;
    let days = || (least / DAY + 1) * DAY;
    let step = ROUND.into_iter().find(|step| *step >= least).unwrap_or_else(days);
    let first = span.start.div_euclid(step) * step;
    let ticks = (0..10).map(|turn| first + turn * step).filter(|at| span.contains(at)).collect();
    let format = match (step, span.end - span.start) {
        (..60, _) => "%H:%M:%S",
        (_, ..DAY) => "%H:%M",
        (_, _) => "%m-%d %H:%M",
    };
    (ticks, format)
}

fn moment(second: i64, format: &str) -> String {
    Timestamp::from_second(second)
        .map_or_else(|_| String::new(), |at| at.strftime(format).to_string())
}
