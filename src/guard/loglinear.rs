//! Latencies as counts in log-linear buckets, and the quantiles that such counts give.
//!
//! Each octave is cut into 32 buckets of equal width, from 50 us to 120 s, so a bucket is at most 1/32
//! of its lower bound wide: under 3.1 % of its middle. A fixed relative width is what a comparison by
//! ratios needs; buckets chosen by hand, as a scrape has them, are 50 % wide and would hide a path that
//! is 10 % slower. Buckets of two recordings add up, which quantiles do not. The bounds are powers of
//! two, so that the bucket of a latency is found by shifts, without a table or a logarithm.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Buckets to an octave, as a power of two.
const OCTAVE_BITS: usize = 5;

/// The shortest and the longest latency that have a bucket of their width: 50 us and 120 s.
const RANGE_NS: (u64, u64) = (50_000, 120_000_000_000);

/// The first bucket's number if buckets were counted from one nanosecond on.
const FIRST: usize = position(RANGE_NS.0);

/// How many buckets there are.
pub const BUCKETS: usize = position(RANGE_NS.1) - FIRST + 1;

/// More than any recording holds, and exact as an `f64`.
const COUNT_MAX: u64 = 1 << 53;

/// The standard normal distribution's quantile for two-sided 95 %.
const Z_95: f64 = 1.959_964;

/// How many latencies fell into each bucket.
///
/// It is written as the buckets that hold something: `[[bucket, count], …]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(usize, u64)>", into = "Vec<(usize, u64)>")]
pub struct Tally(Vec<u64>);

/// A quantile as it is shown and kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantile {
    /// [`Tally::quantile`].
    pub value_ms: f64,
    /// [`Tally::interval`].
    pub interval_ms: Option<(f64, f64)>,
}

// === impl Tally ===

impl Default for Tally {
    fn default() -> Self {
        Self(vec![0; BUCKETS])
    }
}

impl Tally {
    /// A tally whose bucket `i` holds `count(i)`: a reading of counters that others write.
    pub fn from_fn(count: impl FnMut(usize) -> u64) -> Self {
        Self((0..BUCKETS).map(count).collect())
    }

    /// Counts one latency.
    pub fn record(&mut self, nanos: u64) {
        self.0[index(nanos)] += 1;
    }

    /// Adds what another one holds.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = mine.saturating_add(*theirs);
        }
    }

    /// What was counted between an earlier reading of the same counters and this one.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let pairs = self.0.iter().zip(&earlier.0);
        Self(pairs.map(|(now, then)| now.saturating_sub(*then)).collect())
    }

    /// How many latencies there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The buckets that hold something, each with its count.
    pub fn filled(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.0.iter().copied().enumerate().filter(|(_, count)| *count > 0)
    }

    /// The mean, as if each latency lay in the middle of its bucket: within 1.6 % of the true one,
    /// unless latencies lie outside of the range.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        let doubled = |bucket| u128::from(lower_ns(bucket) + upper_ns(bucket));
        let sums =
            self.filled().map(|(bucket, count)| doubled(bucket).saturating_mul(count.into()));
        let sum = sums.fold(0_u128, u128::saturating_add);
        let mean = (sum / 2).checked_div(self.count().into())?;
        Some(Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX)))
    }

    /// The quantile `q` (0 to 1): the upper bound of the bucket with the latency of rank `ceil(q n)`,
    /// so at most 3.1 % above the true one and never below it, up to 120 s.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let count = self.count();
        // A product such as 0.07 * 100 may lie a hair above the whole number that it should be.
        let rank = (q * count as f64 - 1e-6).ceil() as u64;
        self.bucket_of(rank.clamp(1, count.max(1))).map(upper)
    }

    /// Between which latencies the true quantile `q` lies with 95 % confidence, or `None` where there
    /// are too few latencies to say: fewer than 110 for a P95, 563 for a P99.
    ///
    /// The number of `n` latencies that lie below the true quantile is binomial with mean `q n`,
    /// whatever the latencies' distribution, so the ranks `q n` ± 1.96 standard deviations enclose it.
    /// The normal approximation is rounded outwards, which keeps the exact coverage at 95 % or more
    /// wherever there is an answer. It takes latencies to be independent of each other: those of one
    /// slow minute are not, and make the interval too narrow.
    #[must_use]
    pub fn interval(&self, q: f64) -> Option<(Duration, Duration)> {
        let count = self.count();
        let (from, to) = ranks(count, q)?;
        Some((lower(self.bucket_of(from)?), upper(self.bucket_of(to)?)))
    }

    /// The quantile `q` with its interval; `None` if there is no latency.
    #[must_use]
    pub fn measured(&self, q: f64) -> Option<Quantile> {
        let interval_ms = self.interval(q).map(|(from, to)| (millis(from), millis(to)));
        Some(Quantile { value_ms: millis(self.quantile(q)?), interval_ms })
    }

    /// The bucket of the latency with this rank; ranks begin with 1.
    fn bucket_of(&self, rank: u64) -> Option<usize> {
        let mut seen = 0_u64;
        let reaches = |(_, count): &(usize, u64)| {
            seen = seen.saturating_add(*count);
            seen >= rank
        };
        self.filled().find(reaches).map(|(bucket, _)| bucket)
    }
}

impl From<Tally> for Vec<(usize, u64)> {
    fn from(tally: Tally) -> Self {
        tally.filled().collect()
    }
}

impl TryFrom<Vec<(usize, u64)>> for Tally {
    type Error = String;

    fn try_from(filled: Vec<(usize, u64)>) -> Result<Self, String> {
        let mut tally = Self::default();
        for (bucket, count) in filled {
            let Some(place) = tally.0.get_mut(bucket) else {
                return Err(format!("histogram: bucket {bucket}, but there are only {BUCKETS}"));
            };
            if std::mem::replace(place, count) != 0 {
                return Err(format!("histogram: bucket {bucket} is there twice"));
            }
        }
        let count = tally.count();
        if count > COUNT_MAX {
            return Err(format!(
                "histogram: {count} latencies are more than the limit {COUNT_MAX}"
            ));
        }
        Ok(tally)
    }
}

/// The bucket of a latency. What is below the range is in the first, what is above it in the last.
#[must_use]
#[inline]
pub const fn index(nanos: u64) -> usize {
    if nanos < RANGE_NS.0 {
        0
    } else if nanos > RANGE_NS.1 {
        BUCKETS - 1
    } else {
        position(nanos) - FIRST
    }
}

/// Where a bucket begins: the shortest latency that is in it.
#[must_use]
pub const fn lower(index: usize) -> Duration {
    Duration::from_nanos(lower_ns(index))
}

/// Where a bucket ends: the first latency that is not in it. The last one holds longer ones, too.
#[must_use]
pub const fn upper(index: usize) -> Duration {
    Duration::from_nanos(upper_ns(index))
}

/// In milliseconds.
#[must_use]
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

const fn lower_ns(index: usize) -> u64 {
    if index == 0 { 0 } else { start_ns(FIRST + at_most_last(index)) }
}

const fn upper_ns(index: usize) -> u64 {
    start_ns(FIRST + at_most_last(index) + 1)
}

const fn at_most_last(index: usize) -> usize {
    if index < BUCKETS { index } else { BUCKETS - 1 }
}

/// The bucket of `nanos`, which must be at least 32, if buckets were counted from one nanosecond on:
/// the octave, then the five bits that follow the highest one.
const fn position(nanos: u64) -> usize {
    let octave = nanos.ilog2() as usize;
    let step = (nanos >> (octave - OCTAVE_BITS)) as usize;
    (octave << OCTAVE_BITS) + step - (1 << OCTAVE_BITS)
}

/// Where the bucket at `position` begins.
const fn start_ns(position: usize) -> u64 {
    let (octave, step) = (position >> OCTAVE_BITS, position % (1 << OCTAVE_BITS));
    ((1 << OCTAVE_BITS) + step as u64) << (octave - OCTAVE_BITS)
}

/// The ranks that enclose the quantile `q` of `count` latencies with 95 % confidence.
fn ranks(count: u64, q: f64) -> Option<(u64, u64)> {
    let middle = q * count as f64;
    let reach = Z_95 * (middle * (1.0 - q)).sqrt();
    let (from, to) = ((middle - reach).floor(), (middle + reach).ceil() + 1.0);
    // Not a number, for a `q` that is no quantile, is not in the range either.
    (from >= 1.0 && to <= count as f64).then_some((from as u64, to as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(nanos: impl IntoIterator<Item = u64>) -> Tally {
        let mut tally = Tally::default();
        nanos.into_iter().for_each(|nanos| tally.record(nanos));
        tally
    }

    /// `count` latencies of 1, 2, 3, … ms.
    fn milliseconds(count: u64) -> Tally {
        tally((1..=count).map(|n| n * 1_000_000))
    }

    #[test]
    fn buckets_join_without_a_gap_and_each_is_under_3_1_percent_wide() {
        for bucket in 1..BUCKETS {
            let (from, to) = (lower_ns(bucket), upper_ns(bucket));
            assert_eq!(upper_ns(bucket - 1), from);
            let middle = (from + to) as f64 / 2.0;
            assert!(((to - from) as f64) < 0.031 * middle, "{bucket}: {from} to {to}");
            assert!((to - from) * 32 <= from, "{bucket}: {from} to {to}");
        }
    }

    #[test]
    fn a_latency_is_in_the_bucket_whose_bounds_enclose_it() {
        for bucket in 1..BUCKETS - 1 {
            let (from, to) = (lower_ns(bucket), upper_ns(bucket));
            assert_eq!([index(from), index((from + to) / 2), index(to - 1)], [bucket; 3]);
            assert_eq!([index(from - 1), index(to)], [bucket - 1, bucket + 1]);
        }
    }

    #[test]
    fn the_range_is_50_microseconds_to_120_seconds_and_what_is_outside_is_kept() {
        for (nanos, bucket) in [
            (0, 0),
            (31, 0),
            (49_999, 0),
            (50_000, 0),
            (50_176, 1),
            (120_000_000_000, BUCKETS - 1),
            (120_000_000_001, BUCKETS - 1),
            (u64::MAX, BUCKETS - 1),
        ] {
            assert_eq!(index(nanos), bucket, "{nanos}");
        }
        assert_eq!((lower(0), upper(0)), (Duration::ZERO, Duration::from_nanos(50_176)));
        assert_eq!(lower(usize::MAX), lower(BUCKETS - 1));
        assert_eq!(upper(usize::MAX), upper(BUCKETS - 1));
        assert!(upper(BUCKETS - 1) >= Duration::from_secs(120));
        assert_eq!(BUCKETS, 680);
    }

    #[test]
    fn a_quantile_is_the_upper_bound_of_the_bucket_of_its_rank_if_there_is_one() {
        for (count, q, rank) in [
            (1, 0.0, 1),
            (1, 1.0, 1),
            (100, 0.0, 1),
            (100, 0.07, 7),
            (100, 0.5, 50),
            (100, 0.95, 95),
            (100, 0.951, 96),
            (100, 0.99, 99),
            (100, 1.0, 100),
            (100, f64::NAN, 1),
        ] {
            let expected = upper(index(rank * 1_000_000));
            assert_eq!(milliseconds(count).quantile(q), Some(expected), "{q} of {count}");
        }
        let none = Tally::default();
        assert_eq!((none.mean(), none.measured(0.5), none.interval(0.5)), (None, None, None));
    }

    #[test]
    fn the_mean_is_within_half_a_bucket_of_the_true_one() {
        let mean = milliseconds(1000).mean().unwrap_or_default().as_secs_f64();
        assert!((mean / 0.5005 - 1.0).abs() < 0.016, "{mean}");
        assert!(Tally::from_fn(|_| u64::MAX).mean().is_some(), "nothing overflows");
    }

    #[test]
    fn readings_add_up_and_the_difference_of_two_is_what_came_between() {
        let (early, mut late) = (milliseconds(10), milliseconds(10));
        let between = tally([7_000_000, 80_000_000_000]);
        late.add(&between);
        assert_eq!(late.since(&early), between);
        assert_eq!(early.since(&late), Tally::default());
        assert_eq!(late.count(), 12);
        assert_eq!(Tally::from_fn(|bucket| late.0[bucket]), late);
    }

    /// Whether at least `least` of all recordings of `count` latencies have an interval that encloses
    /// the true quantile: by summing up the binomial distribution.
    fn covers(count: u64, q: f64, least: f64) -> Option<bool> {
        let (from, to) = ranks(count, q)?;
        let mut ln = count as f64 * (1.0 - q).ln();
        let mut covered = 0.0;
        for below in 0..to {
            if below >= from {
                covered += ln.exp();
            }
            ln += ((count - below) as f64 / (below + 1) as f64 * q / (1.0 - q)).ln();
        }
        Some(covered >= least)
    }

    #[test]
    fn an_interval_encloses_the_true_quantile_in_at_least_95_percent_of_all_recordings() {
        for q in [0.5, 0.9, 0.95, 0.99] {
            for count in (1..1500).chain([2_000, 5_000, 20_000]) {
                assert_ne!(covers(count, q, 0.95), Some(false), "{q} of {count}");
                assert_ne!(covers(count, q, 0.999), Some(true), "{q} of {count}");
            }
        }
    }

    #[test]
    fn an_interval_needs_enough_latencies_and_a_quantile() {
        for (q, count) in [(0.5, 8), (0.95, 110), (0.99, 563)] {
            assert!(ranks(count - 1, q).is_none() && ranks(count, q).is_some(), "{q}");
        }
        assert!([f64::NAN, -1.0, 0.0, 1.0, 2.0].iter().all(|q| ranks(100_000, *q).is_none()));
    }

    #[test]
    fn an_interval_reaches_from_the_lower_to_the_upper_bound_of_its_buckets() {
        // The ranks are 950 - 13.5 and 950 + 13.5, rounded outwards.
        let expected = (lower(index(936_000_000)), upper(index(965_000_000)));
        assert_eq!(milliseconds(1000).interval(0.95), Some(expected));
        let shown = milliseconds(1000).measured(0.95).and_then(|shown| shown.interval_ms);
        assert_eq!(shown, Some((millis(expected.0), millis(expected.1))));
    }

    #[test]
    fn only_buckets_that_hold_something_are_written() {
        let tally = tally([0, 0, 1_000_000]);
        let text = serde_json::to_string(&tally).unwrap();
        assert_eq!(text, format!("[[0,2],[{},1]]", index(1_000_000)));
        assert_eq!(serde_json::from_str::<Tally>(&text).unwrap(), tally);
    }

    #[test]
    fn a_histogram_that_can_not_be_is_refused() {
        for (text, fault) in [
            ("[[680,1]]", "bucket 680, but there are only 680"),
            ("[[3,1],[3,1]]", "bucket 3 is there twice"),
            ("[[1,18446744073709551615],[2,1]]", "more than the limit"),
            ("[[1,-1]]", "invalid value"),
            ("[[1]]", "invalid length"),
            ("{}", "expected a sequence"),
        ] {
            let refused = serde_json::from_str::<Tally>(text).unwrap_err().to_string();
            assert!(refused.contains(fault), "{text}: {refused}");
        }
    }
}
