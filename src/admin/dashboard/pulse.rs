//! How the paths do just now: what the counters say of the last seconds, and the last two minutes.
//!
//! Pure: readings and their times come in. Latencies are those of the guard, from request sent to head of
//! the reply, so that they compare with the baseline; requests are all that ended.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::guard::sampler::Latency;
use crate::vocab::{PerSide, RouteId, Side};

/// Over how many seconds rates, quantiles and shares are taken: long enough that ten requests a second
/// give a P95, short enough that a change shows.
pub(super) const SPAN_SECONDS: usize = 10;
/// The moments that a plot shows, a second each.
pub(super) const MOMENTS_MAX: usize = 120;
/// Which quantiles.
pub(super) const QUANTILES: [(f64, &str); 3] = [(0.5, "P50"), (0.95, "P95"), (0.99, "P99")];

/// What the counters said at one time.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    /// On a clock that does not go back.
    pub(super) at: Duration,
    /// Requests that have ended, by route.
    pub(super) requests: BTreeMap<RouteId, PerSide<u64>>,
    /// Latencies since the start.
    pub(super) latencies: PerSide<Latency>,
}

/// The last readings, and the moments that they made.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    readings: VecDeque<Reading>,
    moments: VecDeque<Moment>,
}

/// A point of the plots.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Moment {
    /// Requests a second.
    pub(super) per_second: PerSide<f64>,
    /// In milliseconds; absent without requests.
    pub(super) p95_ms: PerSide<Option<f64>>,
}

/// The last seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Now {
    /// Requests a second; absent before the second reading.
    pub(super) per_second: PerSide<Option<f64>>,
    /// The [`QUANTILES`] in milliseconds.
    pub(super) quantiles_ms: PerSide<[Option<f64>; 3]>,
    /// Which share of each route's requests async got; absent without requests.
    pub(super) observed: BTreeMap<RouteId, f64>,
    /// The plots, oldest first.
    pub(super) moments: Vec<Moment>,
}

impl Pulse {
    /// Takes a reading; one a second.
    pub(super) fn add(&mut self, reading: Reading) {
        self.readings.push_back(reading);
        if self.readings.len() > SPAN_SECONDS + 1 {
            self.readings.pop_front();
        }
        if self.readings.len() < 2 {
            return;
        }
        let Now { per_second, quantiles_ms, .. } = self.now();
        self.moments.push_back(Moment {
            per_second: PerSide::from_fn(|side| per_second.get(side).unwrap_or_default()),
            p95_ms: PerSide::from_fn(|side| quantiles_ms.get(side)[1]),
        });
        if self.moments.len() > MOMENTS_MAX {
            self.moments.pop_front();
        }
    }

    /// What the readings at hand say.
    pub(super) fn now(&self) -> Now {
        let moments = self.moments.iter().copied().collect();
        let (Some(first), Some(last)) = (self.readings.front(), self.readings.back()) else {
            return Now::default();
        };
        let seconds = last.at.saturating_sub(first.at).as_secs_f64();
        let news: BTreeMap<RouteId, PerSide<u64>> = last
            .requests
            .iter()
            .map(|(route, now)| {
                let before = first.requests.get(route).cloned().unwrap_or_default();
                let news = |side| now.get(side).saturating_sub(*before.get(side));
                (*route, PerSide::from_fn(news))
            })
            .collect();
        let sum = |side| news.values().map(|requests| *requests.get(side)).sum::<u64>();
        let latencies = PerSide::from_fn(|side| {
            last.latencies.get(side).since(first.latencies.get(side)).tally
        });
        Now {
            per_second: PerSide::from_fn(|side| {
                (seconds > 0.0).then(|| float(sum(side)) / seconds)
            }),
            quantiles_ms: PerSide::from_fn(|side| {
                let of = |(q, _)| latencies.get(side).quantile(q).map(|s| s.as_secs_f64() * 1e3);
                QUANTILES.map(of)
            }),
            observed: news.iter().filter_map(|(route, of)| Some((*route, share(of)?))).collect(),
            moments,
        }
    }
}

fn share(requests: &PerSide<u64>) -> Option<f64> {
    let all: u64 = Side::ALL.iter().map(|side| *requests.get(*side)).sum();
    (all > 0).then(|| float(requests.async_) / float(all))
}

#[expect(clippy::cast_precision_loss, reason = "ten seconds' requests are far below 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After so many seconds, with so many requests of 20 ms in all.
    fn reading(second: u64, legacy: u64, async_: u64) -> Reading {
        let mut latencies = PerSide::<Latency>::default();
        (0..async_).for_each(|_| latencies.async_.tally.record(20_000_000));
        Reading {
            at: Duration::from_secs(second),
            requests: [(RouteId(0), PerSide { legacy, async_ })].into(),
            latencies,
        }
    }

    #[test]
    fn figures_are_of_the_last_seconds_only() {
        let mut pulse = Pulse::default();
        assert_eq!(pulse.now(), Now::default());
        pulse.add(reading(0, 5_000, 0));
        assert_eq!(pulse.now().per_second, PerSide::default());
        for second in 1..=30 {
            pulse.add(reading(second, 5_000 + second * 30, second * 10));
        }
        let now = pulse.now();
        assert_eq!(now.per_second, PerSide { legacy: Some(30.0), async_: Some(10.0) });
        assert_eq!(now.observed.get(&RouteId(0)), Some(&0.25));
        assert_eq!(now.quantiles_ms.legacy, [None; 3]);
        let [p50, ..] = now.quantiles_ms.async_;
        assert!(p50.is_some_and(|ms| (ms - 20.0).abs() < 1.0), "{p50:?}");
        assert_eq!(now.moments.len(), 30);
        (31..200).for_each(|second| pulse.add(reading(second, 6_000, 400)));
        let now = pulse.now();
        assert_eq!(now.per_second, PerSide { legacy: Some(0.0), async_: Some(0.0) });
        assert!(now.observed.is_empty());
        assert_eq!(now.moments.len(), MOMENTS_MAX);
    }
}
