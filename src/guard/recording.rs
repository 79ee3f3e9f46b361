//! A baseline in the making: what the paths do while it is recorded.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::Config;
use crate::guard::baseline::{Baseline, PathBaseline, Phi, PhiMeter, VERSION};
use crate::guard::counts::Counts;
use crate::guard::process::Reading;
use crate::guard::sampler::{Latency, Sample, latency};
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;
use crate::vocab::{PerSide, Side};

/// What is taken for the overdispersion of a keyed split, whose clients err in rows, until it is known.
const PHI_KEYED: f64 = 3.0;
/// Over so many ticks each: a quarter of a second, ten seconds and a minute.
const SPANS: [u32; 3] = [1, 40, 240];

/// A recording that runs.
#[derive(Clone, Debug)]
pub struct Recording {
    began: Duration,
    span: Duration,
    epoch: u64,
    failures: Meters,
    client_errors: Meters,
    counts: BTreeMap<String, PerSide<Counts>>,
    latencies: BTreeMap<String, PerSide<Latency>>,
}

/// How far a recording has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Since it began.
    pub elapsed: Duration,
    /// How long it takes.
    pub span: Duration,
    /// Attempts of the legacy path so far.
    pub attempts: u64,
    /// Errors and timeouts among them.
    pub failures: u64,
}

impl Recording {
    /// A recording of `span` that begins at `now`, with `snapshot` in force.
    #[must_use]
    pub fn new(now: Duration, span: Duration, snapshot: &Snapshot, metrics: &Metrics) -> Self {
        Self {
            began: now,
            span,
            epoch: snapshot.epoch,
            failures: Meters::default(),
            client_errors: Meters::default(),
            counts: BTreeMap::new(),
            latencies: latencies(snapshot, metrics),
        }
    }

    /// Takes what one tick has brought; false once what is compared has changed, so that the recording
    /// is of no use.
    #[must_use]
    pub fn tick(&mut self, sample: &Sample, epoch: u64) -> bool {
        if epoch < self.epoch {
            // A look that had begun before the recording.
            return true;
        }
        self.failures.tick(sample.halves.failures);
        self.client_errors.tick(sample.halves.client_errors);
        for (route, news) in &sample.routes {
            let counts = self.counts.entry(route.clone()).or_default();
            for side in Side::ALL {
                *counts.get_mut(side) += *news.get(side);
            }
        }
        epoch == self.epoch
    }

    /// How far it has come at `now`.
    #[must_use]
    pub fn progress(&self, now: Duration) -> Progress {
        let legacy = self.sum(Side::Legacy);
        Progress {
            elapsed: now.saturating_sub(self.began).min(self.span),
            span: self.span,
            attempts: legacy.n,
            failures: legacy.err + legacy.tmo,
        }
    }

    /// Whether its time is over.
    #[must_use]
    pub fn is_over(&self, now: Duration) -> bool {
        now.saturating_sub(self.began) >= self.span
    }

    /// The baseline, recorded until `now`, with what the backends took meanwhile.
    ///
    /// # Errors
    /// When the legacy path had no request: there is nothing to compare with.
    pub fn finish(
        self,
        now: Duration,
        (snapshot, metrics): (&Snapshot, &Metrics),
        usage: &PerSide<Option<Reading>>,
    ) -> Result<Baseline, String> {
        if self.sum(Side::Legacy).n == 0 {
            return Err("the legacy path had no request that the weight routed".to_owned());
        }
        let took = now.saturating_sub(self.began);
        let mut sums = PerSide::<Latency>::default();
        let mut routes = BTreeMap::new();
        for (name, ended) in latencies(snapshot, metrics) {
            let began = self.latencies.get(&name).cloned().unwrap_or_default();
            let counts = self.counts.get(&name).copied().unwrap_or_default();
            let of = PerSide::from_fn(|side| {
                let news = ended.get(side).since(began.get(side));
                sums.get_mut(side).add(&news);
                path(*counts.get(side), news, took)
            });
            routes.insert(name, of);
        }
        let paths = PerSide::from_fn(|side| {
            let mut of = path(self.sum(side), sums.get(side).clone(), took);
            let reading = usage.get(side).as_ref();
            of.rss_bytes = reading.map(|reading| reading.rss_bytes);
            of.threads = reading.and_then(|reading| reading.threads);
            of
        });
        let default = phi_default(&snapshot.config);
        Ok(Baseline {
            version: VERSION,
            recorded_at: crate::record::now(),
            took_seconds: took.as_secs_f64(),
            config_hash: snapshot.config.hash.clone(),
            paths,
            routes,
            route_matches: route_matches(&snapshot.config),
            endpoints: endpoints(&snapshot.config),
            phi: Phi {
                fail: self.failures.phi(default),
                c4: self.client_errors.phi(default),
                events: self.failures.0[0].meter.events(),
            },
            audit: None,
        })
    }

    fn sum(&self, side: Side) -> Counts {
        self.counts.values().fold(Counts::default(), |sum, counts| sum + *counts.get(side))
    }
}

/// Meters of overdispersion over spans of unlike length: a client that fails now and then for a minute,
/// always in its own half, shows only in the longer ones.
#[derive(Clone, Copy, Debug)]
struct Meters([Meter; SPANS.len()]);

#[derive(Clone, Copy, Debug)]
struct Meter {
    ticks: u32,
    passed: u32,
    sum: (u64, u64),
    meter: PhiMeter,
}

impl Default for Meters {
    fn default() -> Self {
        let meter = |ticks| Meter { ticks, passed: 0, sum: (0, 0), meter: PhiMeter::default() };
        Self(SPANS.map(meter))
    }
}

impl Meters {
    fn tick(&mut self, (all, half): (u64, u64)) {
        for Meter { ticks, passed, sum, meter } in &mut self.0 {
            *sum = (sum.0 + all, sum.1 + half);
            *passed += 1;
            if *passed == *ticks {
                meter.tick(sum.0, sum.1);
                (*passed, *sum) = (0, (0, 0));
            }
        }
    }

    fn phi(&self, default: f64) -> f64 {
        self.0.iter().map(|meter| meter.meter.phi(default)).fold(1.0, f64::max)
    }
}

/// What is taken for the overdispersion until it is measured.
#[must_use]
pub fn phi_default(config: &Config) -> f64 {
    if config.split.key.is_some() { PHI_KEYED } else { 1.0 }
}

/// Routes as configured: name and pattern.
#[must_use]
pub fn route_matches(config: &Config) -> Vec<(String, String)> {
    let routes = config.routes.iter();
    routes.map(|route| (route.name.clone(), route.pattern.to_string())).collect()
}

/// Endpoints as configured.
#[must_use]
pub fn endpoints(config: &Config) -> PerSide<Vec<String>> {
    PerSide::from_fn(|side| {
        let endpoints = &config.paths.get(side).endpoints;
        endpoints.iter().map(|endpoint| endpoint.origin.to_string()).collect()
    })
}

fn path(counts: Counts, latency: Latency, took: Duration) -> PathBaseline {
    let sum = Duration::from_nanos(latency.sum_ns);
    PathBaseline::new(counts, latency.tally, sum, took)
}

fn latencies(snapshot: &Snapshot, metrics: &Metrics) -> BTreeMap<String, PerSide<Latency>> {
    let targets = snapshot.rules.targets();
    targets
        .map(|target| {
            let of = PerSide::from_fn(|side| latency(metrics, side, target.route));
            (target.name.clone(), of)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording(epoch: u64) -> Recording {
        Recording {
            began: Duration::ZERO,
            span: Duration::from_secs(1),
            epoch,
            failures: Meters::default(),
            client_errors: Meters::default(),
            counts: BTreeMap::new(),
            latencies: BTreeMap::new(),
        }
    }

    #[test]
    fn what_was_looked_at_before_it_began_neither_counts_nor_ends_it() {
        let counts = Counts { n: 3, ..Counts::default() };
        let legacy = PerSide { legacy: counts, ..PerSide::default() };
        let sample = Sample { routes: [("a".to_owned(), legacy)].into(), ..Sample::default() };
        let mut recording = recording(7);
        for (epoch, goes_on, attempts) in [(6, true, 0), (7, true, 3), (8, false, 6)] {
            assert_eq!(recording.tick(&sample, epoch), goes_on, "{epoch}");
            assert_eq!(recording.progress(Duration::ZERO).attempts, attempts, "{epoch}");
        }
    }
}
