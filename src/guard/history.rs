//! The migration so far, as points in time: the share, and what each path did.
//!
//! Bounded without losing the beginning: once there are too many points, each two become one and the
//! next ones are twice as wide. Kept in `state_dir`, so that it outlives the process.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::durable;
use crate::guard::counts::Counts;
use crate::guard::process::Reading;
use crate::guard::sampler::{Latency, Sample, latency_of_path};
use crate::metrics::Metrics;
use crate::report::story::{PathPoint, Point};
use crate::vocab::{PerSide, Side};

/// The file in `state_dir`.
pub const HISTORY: &str = "history.json";
/// The largest such file, in bytes.
const FILE_MAX: u64 = 4 << 20;
/// The most points.
const POINTS_MAX: usize = 1_024;
/// The narrowest point.
const WIDTH_MIN: u64 = 1;
/// How often it is written.
const KEPT_EVERY: Duration = Duration::from_secs(60);

/// The migration so far.
#[derive(Debug, Default)]
pub struct History {
    kept: Kept,
    open: Open,
    latencies: PerSide<Latency>,
    kept_at: Duration,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    // Of the points to come, in seconds.
    width: u64,
    points: Vec<Point>,
}

/// The point that is being filled.
#[derive(Debug, Default)]
struct Open {
    // On the guard's clock; `None` before the first tick.
    since: Option<Duration>,
    at: String,
    share: f64,
    counts: PerSide<Counts>,
    arrivals: PerSide<u64>,
}

impl Default for Kept {
    fn default() -> Self {
        Self { width: WIDTH_MIN, points: Vec::new() }
    }
}

impl History {
    /// What lies in the state directory. What can't be read is only history: it begins anew.
    #[must_use]
    pub fn load(dir: &Path) -> Self {
        let text = durable::read(&dir.join(HISTORY), FILE_MAX);
        let text = text.inspect_err(|error| tracing::warn!(%error, "can't read {HISTORY}"));
        let kept = text.ok().flatten().and_then(|text| serde_json::from_str(&text).ok());
        Self { kept: kept.unwrap_or_default(), ..Self::default() }
    }

    /// Its points, oldest first.
    #[must_use]
    pub fn points(&self) -> &[Point] {
        &self.kept.points
    }

    /// What is to be written, if that is due at `now`.
    #[must_use]
    pub fn to_keep(&mut self, now: Duration) -> Option<Vec<u8>> {
        if now.saturating_sub(self.kept_at) < KEPT_EVERY {
            return None;
        }
        self.kept_at = now;
        self.to_keep_now()
    }

    /// What is to be written.
    #[must_use]
    pub fn to_keep_now(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(&self.kept).ok()
    }

    /// Adds what a tick has brought, at the effective weight `share`.
    pub fn add(&mut self, now: Duration, sample: &Sample, share: f64) {
        if self.open.since.is_none() {
            self.open = Open { since: Some(now), at: crate::record::now(), ..Open::default() };
        }
        self.open.share = share;
        for side in Side::ALL {
            let of_routes = sample.routes.values().map(|counts| *counts.get(side));
            *self.open.counts.get_mut(side) += of_routes.fold(Counts::default(), |a, b| a + b);
            *self.open.arrivals.get_mut(side) += sample.load.get(side).arrivals;
        }
    }

    /// Whether the open point is as wide as it should be at `now`.
    #[must_use]
    pub fn is_due(&self, now: Duration) -> bool {
        let width = Duration::from_secs(self.kept.width);
        self.open.since.is_some_and(|since| now.saturating_sub(since) >= width)
    }

    /// Ends the open point, with the latencies since the start and what the backends take.
    pub fn close(&mut self, latencies: PerSide<Latency>, usage: &PerSide<Option<Reading>>) {
        let open = std::mem::take(&mut self.open);
        let before = std::mem::replace(&mut self.latencies, latencies);
        let paths = PerSide::from_fn(|side| {
            let Counts { n, err, tmo, .. } = *open.counts.get(side);
            let news = self.latencies.get(side).since(before.get(side)).tally;
            let quantile = |q| news.quantile(q).map(|span| span.as_secs_f64() * 1e3);
            let rss = usage.get(side).map(|reading| reading.rss_bytes);
            let [p50_ms, p95_ms, p99_ms] = [0.5, 0.95, 0.99].map(quantile);
            PathPoint { n, err, tmo, p50_ms, p95_ms, p99_ms, rss }
        });
        let (legacy, async_) = (open.arrivals.legacy, open.arrivals.async_);
        #[expect(clippy::cast_precision_loss, reason = "a few seconds' requests")]
        let observed = (legacy + async_ > 0).then(|| async_ as f64 / (legacy + async_) as f64);
        let Open { at, share, .. } = open;
        let point = Point { at, seconds: self.kept.width, share, observed, paths };
        self.kept.points.push(point);
        if self.kept.points.len() >= POINTS_MAX {
            self.kept.width *= 2;
            let pairs = self.kept.points.chunks(2);
            self.kept.points =
                pairs.map(|pair| pair.iter().skip(1).fold(pair[0].clone(), merged)).collect();
        }
    }
}

/// The latencies of each path since the start.
#[must_use]
pub fn latencies(metrics: &Metrics) -> PerSide<Latency> {
    PerSide::from_fn(|side| latency_of_path(metrics, side))
}

/// Two points as one. Quantiles don't add up: the mean by the number of attempts stands for both.
fn merged(first: Point, second: &Point) -> Point {
    let requests = |point: &Point| point.paths.legacy.n + point.paths.async_.n;
    let (n, m) = (requests(&first), requests(second));
    Point {
        seconds: first.seconds + second.seconds,
        share: second.share,
        observed: mean((first.observed, n), (second.observed, m)),
        paths: PerSide::from_fn(|side| path(first.paths.get(side), second.paths.get(side))),
        at: first.at,
    }
}

fn path(first: &PathPoint, second: &PathPoint) -> PathPoint {
    let quantile =
        |of: fn(&PathPoint) -> Option<f64>| mean((of(first), first.n), (of(second), second.n));
    PathPoint {
        n: first.n + second.n,
        err: first.err + second.err,
        tmo: first.tmo + second.tmo,
        p50_ms: quantile(|point| point.p50_ms),
        p95_ms: quantile(|point| point.p95_ms),
        p99_ms: quantile(|point| point.p99_ms),
        rss: second.rss.or(first.rss),
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn mean((first, n): (Option<f64>, u64), (second, m): (Option<f64>, u64)) -> Option<f64> {
    match (first, second) {
        (Some(first), Some(second)) if n + m > 0 => {
            Some((first * n as f64 + second * m as f64) / (n + m) as f64)
        }
        (first, second) => first.or(second),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(seconds: u64, n: u64, p95_ms: Option<f64>) -> Point {
        let async_ = PathPoint { n, p95_ms, ..PathPoint::default() };
        let paths = PerSide { legacy: PathPoint::default(), async_ };
        Point { seconds, paths, ..Point::default() }
    }

    #[test]
    fn the_past_of_a_route_is_in_the_sum_whether_or_not_a_config_has_it() {
        let metrics = Metrics::new(2).unwrap();
        for (worker, name) in [(0, "gone"), (1, "gone"), (1, "there")] {
            let route = metrics.route(name).unwrap();
            let shard = metrics.shard(worker);
            let attempts = &shard.sides.get(Side::Async).route(route).attempts;
            attempts.latency[7].add(1);
            attempts.latency_ns.add(5);
        }
        let PerSide { legacy, async_ } = latencies(&metrics);
        assert_eq!((legacy.tally.count(), legacy.sum_ns), (0, 0));
        assert_eq!((async_.tally.count(), async_.sum_ns), (3, 15));
    }

    #[test]
    fn two_points_become_one_as_wide_as_both() {
        let both = merged(point(2, 30, Some(10.0)), &point(2, 10, Some(50.0)));
        assert_eq!((both.seconds, both.paths.async_.n), (4, 40));
        assert_eq!(both.paths.async_.p95_ms, Some(20.0));
        let alone = merged(point(2, 0, None), &point(2, 10, Some(50.0)));
        assert_eq!(alone.paths.async_.p95_ms, Some(50.0));
    }

    #[test]
    fn a_long_migration_has_few_points_and_no_request_is_forgotten() {
        let mut history = History::default();
        let mut now = Duration::ZERO;
        let counts = PerSide { legacy: Counts { n: 1, ..Counts::default() }, ..PerSide::default() };
        let sample = Sample { routes: [("a".to_owned(), counts)].into(), ..Sample::default() };
        let ticks = 4 * 24 * 3600_u64;
        for _ in 0..ticks {
            now += crate::guard::counts::TICK;
            history.add(now, &sample, 0.1);
            if history.is_due(now) {
                history.close(PerSide::default(), &PerSide::default());
            }
        }
        let seen: u64 = history.points().iter().map(|point| point.paths.legacy.n).sum();
        assert!(history.points().len() < POINTS_MAX, "{}", history.points().len());
        assert!(seen + 4 * 2 * history.kept.width > ticks, "{seen} of {ticks}");
    }
}
