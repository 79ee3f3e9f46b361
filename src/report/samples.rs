//! The story's series as lines that a plot can bear: sorted, finite, with gaps, and bounded.
//!
//! A line has at most 600 points however long the story is. These keep the highest and the lowest value
//! of each stretch, since a peak that is thinned away would be a lie; nor is a gap bridged.

use crate::report::story::{Point, Story, instant};

/// Points of a line between two gaps: seconds since 1970, and the value.
pub(super) type Part = Vec<(i64, f64)>;

/// A value over a span of time, in seconds since 1970; no value where nothing is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    start: i64,
    end: i64,
    value: Option<f64>,
}

/// The most points of a line: more than a page has room for.
const LINE_MAX: usize = 600;

/// Values from here on are no measurements.
const VALUE_MAX: f64 = 1e12;

/// The widest span that a point may claim, in seconds.
const SPAN_MAX: u64 = 86_400;

/// Whether it is a measurement that a plot can show.
pub(super) fn is_drawable(value: f64) -> bool {
    (0.0..VALUE_MAX).contains(&value)
}

/// One value of each point, in the order of time, with a gap wherever the story has one.
pub(super) fn samples(story: &Story, of: impl Fn(&Point) -> Option<f64>) -> Vec<Sample> {
    let sample = |point: &Point| {
        let start = instant(&point.at)?.as_second();
        let width = i64::try_from(point.seconds.clamp(1, SPAN_MAX)).unwrap_or_default();
        let value = of(point).filter(|value| is_drawable(*value));
        Some(Sample { start, end: start + width, value })
    };
    let mut known: Vec<_> = story.series.iter().filter_map(sample).collect();
    known.sort_by_key(|sample| sample.start);
    let mut samples: Vec<Sample> = Vec::with_capacity(known.len());
    for sample in known {
        let Sample { start, end, .. } = samples.last().copied().unwrap_or(sample);
        // Points may come a little late; twice the width is a gap.
        if sample.start - end > end - start {
            samples.push(Sample { start: end, end: sample.start, value: None });
        }
        samples.push(sample);
    }
    samples
}

/// At most so many samples as make `most` points of a line: of each stretch the highest, the lowest and
/// the longest gap.
fn thin(samples: &[Sample], most: usize) -> Vec<Sample> {
    if samples.len() <= most / 2 {
        return samples.to_vec();
    }
    // Three of each stretch, and the end of a part before a gap.
    let stretch = samples.len().div_ceil(most / 4);
    let keep = |stretch: &[Sample]| {
        let places = || stretch.iter().enumerate();
        let known = || places().filter_map(|(place, sample)| Some((place, sample.value?)));
        let low = known().min_by(|a, b| a.1.total_cmp(&b.1)).map(|found| found.0);
        let high = known().max_by(|a, b| a.1.total_cmp(&b.1)).map(|found| found.0);
        let gaps = places().filter(|(_, sample)| sample.value.is_none());
        let gap = gaps.max_by_key(|(_, gap)| gap.end - gap.start).map(|found| found.0);
        let kept = places().filter(|(place, _)| [low, high, gap].contains(&Some(*place)));
        kept.map(|(_, sample)| *sample).collect::<Vec<_>>()
    };
    samples.chunks(stretch).flat_map(keep).collect()
}

/// The parts of a line, each held to the end of its last sample: even a single one can be seen.
pub(super) fn parts(samples: &[Sample]) -> Vec<Part> {
    joined(&thin(samples, LINE_MAX))
}

fn joined(samples: &[Sample]) -> Vec<Part> {
    let parts = samples.chunk_by(|a, b| a.value.is_some() == b.value.is_some());
    let points = parts.map(|part| {
        let ends = part.last().and_then(|last| Some((last.end, last.value?)));
        let starts = part.iter().filter_map(|sample| Some((sample.start, sample.value?)));
        starts.chain(ends).collect::<Vec<_>>()
    });
    points.filter(|part| !part.is_empty()).collect()
}

/// The parts of a line that jumps from each value to the next.
pub(super) fn stairs(samples: &[Sample]) -> Vec<Part> {
    let treads = samples.chunk_by(|a, b| a.value == b.value);
    let treads = treads.filter_map(|tread| {
        let (first, last) = (tread.first()?, tread.last()?);
        Some(Sample { end: last.end, ..*first })
    });
    let mut parts = joined(&thin(&treads.collect::<Vec<_>>(), LINE_MAX / 2));
    for part in &mut parts {
        let before = part.first().copied().into_iter().chain(part.iter().copied());
        let stairs = before.zip(part.iter()).flat_map(|(before, at)| [(at.0, before.1), *at]);
        *part = stairs.collect();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(start: i64, values: &[Option<f64>]) -> Vec<Sample> {
        let sample = |(value, start): (&Option<f64>, i64)| Sample {
            start: start * 10,
            end: (start + 1) * 10,
            value: *value,
        };
        values.iter().zip(start..).map(sample).collect()
    }

    fn story(points: &[(&str, f64)]) -> Story {
        let point = |(at, share): &(&str, f64)| Point {
            at: (*at).to_owned(),
            seconds: 60,
            share: *share,
            ..Point::default()
        };
        Story { series: points.iter().map(point).collect(), ..Story::default() }
    }

    fn drawn(points: &[(&str, f64)]) -> Vec<Part> {
        parts(&samples(&story(points), |point| Some(point.share)))
    }

    #[test]
    fn a_line_has_gaps_where_the_story_has_them() {
        let both = drawn(&[("1970-01-01T00:05:00Z", 2.0), ("1970-01-01T00:00:00Z", 1.0)]);
        assert_eq!(both, [[(0, 1.0), (60, 1.0)], [(300, 2.0), (360, 2.0)]]);
        let late = drawn(&[("1970-01-01T00:00:00Z", 1.0), ("1970-01-01T00:01:05Z", 2.0)]);
        assert_eq!(late, [[(0, 1.0), (65, 2.0), (125, 2.0)]]);
    }

    #[test]
    fn what_is_no_measurement_never_reaches_a_plot() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, f64::MAX] {
            assert!(drawn(&[("1970-01-01T00:00:00Z", value)]).is_empty(), "{value}");
        }
        assert!(drawn(&[("yesterday", 1.0)]).is_empty());
    }

    #[test]
    fn the_share_jumps_and_does_not_slope() {
        let stairs = stairs(&flat(0, &[Some(0.1), Some(0.1), Some(0.5), None, Some(0.0)]));
        let first = vec![(0, 0.1), (0, 0.1), (20, 0.1), (20, 0.5), (30, 0.5), (30, 0.5)];
        assert_eq!(stairs, [first, vec![(40, 0.0), (40, 0.0), (50, 0.0), (50, 0.0)]]);
    }

    #[test]
    fn however_long_the_story_a_line_has_at_most_600_points_with_its_peaks() {
        for length in [1, 299, 300, 301, 599, 600, 601, 10_000, 100_001] {
            let value = |turn: usize| {
                (turn % 7 != 3).then_some(if turn.is_multiple_of(2) { 1.0 } else { 0.0 })
            };
            let mut values: Vec<_> = (0..length).map(value).collect();
            values[length / 2] = Some(77.0);
            let samples = flat(0, &values);
            for parts in [parts(&samples), stairs(&samples)] {
                let points: usize = parts.iter().map(Vec::len).sum();
                assert!((1..=LINE_MAX).contains(&points), "{points} of {length}");
                assert!(parts.iter().flatten().any(|point| point.1 == 77.0), "{length}");
            }
        }
    }
}
