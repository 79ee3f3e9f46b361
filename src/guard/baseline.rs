//! What was normal before the migration: recorded once, kept in `state_dir`, compared with ever since.
//!
//! Owns the recording's content, its file, and whether it still fits the config. It judges nothing. The
//! file is JSON with a version: one of another version is refused by name rather than misread, since a
//! wrong baseline may roll a healthy migration back.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::audit::findings::Audit;
use crate::durable;
use crate::guard::counts::Counts;
use crate::guard::loglinear::{Quantile, Tally, millis};
use crate::vocab::{PerSide, Side};

/// The baseline's file in `state_dir`.
pub const BASELINE: &str = "baseline.json";
/// The version that is written, and the only one that is read.
pub const VERSION: u32 = 1;
/// The largest file, in bytes; 256 routes with all their buckets filled take a quarter of it.
const FILE_MAX: u64 = 16 << 20;
/// On a path that answers in 1 ms, 10 % is less than a scheduler's noise.
const SLOWER_MIN: Duration = Duration::from_millis(2);
/// Failures below which a measured phi says too little.
const EVENTS_MIN: u64 = 200;

/// What was normal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// The version of this format.
    pub version: u32,
    /// When the recording ended, RFC 3339.
    pub recorded_at: String,
    /// How long it took.
    pub took_seconds: f64,
    /// The hash of the config file that was in force.
    pub config_hash: String,
    /// What each path did.
    pub paths: PerSide<PathBaseline>,
    /// What each path did for each route, by the route's name.
    pub routes: BTreeMap<String, PerSide<PathBaseline>>,
    /// Routes as configured, in their order, since the first match wins.
    pub route_matches: Vec<Matches>,
    /// Endpoints as configured.
    pub endpoints: PerSide<Vec<String>>,
    /// How much more the numbers of failures vary than chance alone makes them.
    pub phi: Phi,
    /// What blocked in the legacy backend; absent unless `cutover audit --baseline` was run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<Audit>,
}

/// A route: its name, and what it matches as text.
pub type Matches = (String, String);

/// What one path did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PathBaseline {
    /// How its attempts ended; none was slow, as nothing was known to compare with.
    pub counts: Counts,
    /// Throughput: attempts a second.
    pub per_second: f64,
    /// Request sent to response head.
    pub latency: Tally,
    /// Mean of the same, from the exact sum.
    pub mean_ms: Option<f64>,
    /// P95 of the same.
    pub p95: Option<Quantile>,
    /// P99 of the same.
    pub p99: Option<Quantile>,
    /// Resident memory of its backend, over all processes.
    pub rss_bytes: Option<u64>,
    /// Threads of its backend, over all processes.
    pub threads: Option<u64>,
}

/// The overdispersion of failures: [`PhiMeter`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phi {
    /// Of errors and timeouts.
    pub fail: f64,
    /// Of 4xx.
    pub c4: f64,
    /// The errors and timeouts that it was measured from.
    pub events: u64,
}

/// Latencies over these are slow; absent where the recording is too short to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlowLimits {
    /// From the baseline's P95.
    pub slow95: Option<Duration>,
    /// From the baseline's P99.
    pub slow99: Option<Duration>,
}

/// Measures overdispersion: phi, the variance of a split of failures over what chance alone gives.
///
/// One path's requests are split into two halves by the rule that will split them over two paths. If
/// each failure fell into either by a coin of its own, `k / 2` of a tick's `k` would, with variance
/// `k / 4`; phi is the squared distance from `k / 2` over that variance, averaged over ticks.
///
/// What it sees: failures that come together within a tick and in one half, as of a client that sends
/// a volley; `m` at a time make phi `m`. What it can't see: a tick with one failure gives exactly 1,
/// whichever half it is in. So a client that fails once in two seconds for a minute, always in its own
/// half, leaves phi at 1, although over that minute the halves differ as if phi were 30. Ticks need
/// not be those of 250 ms: a second meter, fed with the sums of longer ones, sees such clients.
#[derive(Clone, Copy, Debug, Default)]
pub struct PhiMeter {
    ratios: f64,
    ticks: u64,
    events: u64,
}

// === impl Baseline ===

impl Baseline {
    /// Writes it to `dir`, which is made if it is absent, and waits until it is on disk. After a crash
    /// there is the old baseline or the new one, never half of one.
    ///
    /// # Errors
    /// When it can't be written; the old one is still there then.
    pub fn store(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        durable::replace(dir, BASELINE, &serde_json::to_vec(self)?)
    }

    /// Reads the one in `dir`; `None` if none has been recorded.
    ///
    /// # Errors
    /// When it can't be read or believed.
    pub fn load(dir: &Path) -> io::Result<Option<Self>> {
        let parsed = durable::read(&dir.join(BASELINE), FILE_MAX)
            .and_then(|text| text.map(|text| Self::parse(&text)).transpose());
        parsed.map_err(|error| io::Error::new(error.kind(), format!("{BASELINE}: {error}")))
    }

    fn parse(text: &str) -> io::Result<Self> {
        // A file of another version may lack any field but this one.
        let parsed: Value = serde_json::from_str(text)?;
        let version = &parsed["version"];
        if *version != VERSION {
            return Err(io::Error::other(format!("version {version}, not {VERSION}: record anew")));
        }
        let baseline: Self = serde_json::from_value(parsed)?;
        baseline.check().map(|()| baseline).map_err(io::Error::other)
    }

    /// What no recording can say, and the judge could be misled by.
    fn check(&self) -> Result<(), String> {
        if self.recorded_at.parse::<jiff::Timestamp>().is_err() {
            return Err(format!("recorded_at `{}` is not an RFC 3339 time", self.recorded_at));
        }
        let sides = self.routes.values().chain([&self.paths]).flat_map(PerSide::iter);
        for Counts { n, err, tmo, c4, .. } in sides.map(|(_, path)| path.counts) {
            let parts = err.checked_add(tmo).and_then(|parts| parts.checked_add(c4));
            if parts.is_none_or(|parts| parts > n) {
                return Err(format!("err {err}, tmo {tmo} and c4 {c4} are more than n {n}"));
            }
        }
        let Phi { fail, c4, .. } = self.phi;
        let is_phi = [fail, c4].iter().all(|phi| (1.0..=20.0).contains(phi));
        if is_phi { Ok(()) } else { Err(format!("phi {fail} or {c4} is not within 1 to 20")) }
    }

    /// (1 + `tolerance`) times the legacy path's quantiles, and at least 2 ms more than them. There is
    /// none without an interval: the P99 of 100 latencies is hardly more than the longest of them, and
    /// a healthy path might well exceed it in more than the 1 % that it is allowed.
    #[must_use]
    pub fn thresholds(&self, tolerance: f64) -> SlowLimits {
        let limit = |quantile: Option<Quantile>| {
            let Quantile { value_ms, .. } = quantile.filter(|known| known.interval_ms.is_some())?;
            let least = duration(value_ms)?.saturating_add(SLOWER_MIN);
            Some(duration(value_ms * (1.0 + tolerance)).map_or(least, |limit| limit.max(least)))
        };
        let PathBaseline { p95, p99, .. } = &self.paths.legacy;
        SlowLimits { slow95: limit(*p95), slow99: limit(*p99) }
    }

    /// What of the config is no longer as it was when the baseline was recorded, in words.
    #[must_use]
    pub fn staleness(&self, routes: &[Matches], endpoints: &PerSide<Vec<String>>) -> Vec<String> {
        let route = |(name, pattern): &(_, _)| format!("route {name} ({pattern})");
        let mut stale = differences(&self.route_matches, routes, route);
        if stale.is_empty() && self.route_matches != routes {
            stale.push("the routes are in another order".to_owned());
        }
        for side in Side::ALL {
            let (then, now) = (self.endpoints.get(side), endpoints.get(side));
            stale.extend(differences(then, now, |url| format!("endpoint {url} of {side}")));
        }
        stale
    }
}

// === impl PathBaseline ===

impl PathBaseline {
    /// What a path did in a recording that took so long; the sum of its latencies is the exact one.
    #[must_use]
    pub fn new(counts: Counts, latency: Tally, sum: Duration, took: Duration) -> Self {
        let per = |amount: f64, parts: f64| if parts > 0.0 { amount / parts } else { 0.0 };
        let count = latency.count();
        let Counts { n, err, tmo, c4, .. } = counts;
        // Counters that are read one after another may be an attempt apart.
        let n = n.max(err + tmo + c4);
        Self {
            counts: Counts { n, ..counts },
            per_second: per(n as f64, took.as_secs_f64()),
            mean_ms: (count > 0).then(|| per(millis(sum), count as f64)),
            p95: latency.measured(0.95),
            p99: latency.measured(0.99),
            latency,
            ..Self::default()
        }
    }
}

// === impl PhiMeter ===

impl PhiMeter {
    /// Takes a tick with `k` failures, of which `k_a` in the first half. One without any says nothing.
    pub fn tick(&mut self, k: u64, k_a: u64) {
        if k > 0 {
            // The two are read one after the other, so there may be more in the half than in all.
            let (all, half) = (k as f64, k_a.min(k) as f64);
            self.ratios += (2.0 * half - all).powi(2) / all;
            self.ticks += 1;
            self.events = self.events.saturating_add(k);
        }
    }

    /// The failures so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// What was measured, 1 to 20, or `default` while there are too few failures: 1 for an even spread,
    /// 3 for a keyed split.
    #[must_use]
    pub fn phi(&self, default: f64) -> f64 {
        let mean = self.ratios / self.ticks as f64;
        if self.events < EVENTS_MIN { default } else { mean.clamp(1.0, 20.0) }
    }
}

/// What is in one list only, each named by `name`.
fn differences<T: Ord>(then: &[T], now: &[T], name: impl Fn(&T) -> String) -> Vec<String> {
    let (then, now) = (then.iter().collect::<BTreeSet<_>>(), now.iter().collect::<BTreeSet<_>>());
    let gone = then.difference(&now).map(|item| format!("{} is gone", name(item)));
    gone.chain(now.difference(&then).map(|item| format!("{} is new", name(item)))).collect()
}

/// `None` for a number that is none.
fn duration(millis: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(millis / 1e3).ok()
}
