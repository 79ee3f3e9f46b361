//! Histograms of durations, as they are exported.

use std::time::Duration;

use crate::metrics::cell::Cell64;

/// Upper bounds of the duration buckets, in seconds.
pub const BOUNDS: [f64; 22] = [
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5,
    0.75, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// The same bounds in nanoseconds.
const BOUNDS_NS: [u64; BOUNDS.len()] = {
    let mut bounds = [0; BOUNDS.len()];
    let mut index = 0;
    while index < BOUNDS.len() {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "up to 6e10")]
        let nanos = (BOUNDS[index] * 1e9) as u64;
        bounds[index] = nanos;
        index += 1;
    }
    bounds
};

/// A histogram with one writer and the bounds of [`BOUNDS`].
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Cell64; BOUNDS.len() + 1],
    sum_ns: Cell64,
}

impl Histogram {
    /// Number of observations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Cell64::get).sum()
    }

    /// Records one duration.
    pub fn observe(&self, duration: Duration) {
        let nanos = nanos(duration);
        self.buckets[bucket(nanos)].add(1);
        self.sum_ns.add(nanos);
    }
}

/// The sum of several histograms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Observations in each bucket, not cumulative; the last is above all bounds.
    pub buckets: [u64; BOUNDS.len() + 1],
    /// Sum of all observations, in seconds.
    pub sum: f64,
}

impl Observed {
    /// Adds one duration.
    pub fn record(&mut self, duration: Duration) {
        let nanos = nanos(duration);
        self.buckets[bucket(nanos)] += 1;
        self.sum += duration.as_secs_f64();
    }

    /// Adds one shard's histogram.
    pub fn add(&mut self, histogram: &Histogram) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *sum += bucket.get();
        }
        self.sum += Duration::from_nanos(histogram.sum_ns.get()).as_secs_f64();
    }

    /// Number of observations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The bound below which a share `q` of the observations lies; `None` without any.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
        let rank = q * count as f64;
        let mut seen = 0;
        let index = self.buckets.iter().position(|bucket| {
            seen += bucket;
            #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
            let reached = seen as f64 >= rank;
            reached
        });
        Some(index.and_then(|index| BOUNDS.get(index).copied()).unwrap_or(f64::INFINITY))
    }
}

/// A duration in nanoseconds. 64 bits last for 584 years, and the 128 of `as_nanos` cost on each request.
#[must_use]
pub fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(duration.subsec_nanos().into())
}

/// The bucket of a duration in nanoseconds.
pub(crate) fn bucket(nanos: u64) -> usize {
    BOUNDS_NS.partition_point(|bound| *bound < nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        let histogram = Histogram::default();
        for micros in [0, 500, 501, 1_000, 60_000_000, 60_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let mut observed = Observed::default();
        observed.add(&histogram);
        assert_eq!(observed.buckets[0], 2);
        assert_eq!(observed.buckets[1], 2);
        assert_eq!(observed.buckets[BOUNDS.len() - 1], 1);
        assert_eq!(observed.buckets[BOUNDS.len()], 1);
        assert_eq!(observed.count(), 6);
    }

    #[test]
    fn quantiles_are_upper_bounds() {
        let histogram = Histogram::default();
        (0..99).for_each(|_| histogram.observe(Duration::from_micros(800)));
        histogram.observe(Duration::from_millis(400));
        let mut observed = Observed::default();
        assert_eq!(observed.quantile(0.5), None);
        observed.add(&histogram);
        assert_eq!(observed.quantile(0.5), Some(0.001));
        assert_eq!(observed.quantile(0.99), Some(0.001));
        assert_eq!(observed.quantile(0.999), Some(0.5));
    }
}
