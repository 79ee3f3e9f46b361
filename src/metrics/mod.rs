//! Every metric: its name, its help, its labels. No other file names one.
//!
//! Workers write their [`shard::Shard`]; the control plane sets the few gauges here. A scrape sums
//! the shards through one collector. Labels come from closed sets only: paths, reasons and
//! kinds are enums, routes and endpoints come from the config, codes are three digits.

pub mod attempts;
pub mod cell;
pub mod exemplar;
mod families;
pub mod guard;
pub mod histogram;
pub mod mirror;
pub mod openmetrics;
mod page;
pub mod shard;
pub mod spans;
#[cfg(test)]
mod tests;
pub mod visits;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::proto::LabelPair;
use prometheus::{
    Encoder, Gauge, GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::metrics::families::Families;
use crate::metrics::guard::GuardMetrics;
use crate::metrics::mirror::{MirrorFamilies, MirrorMetrics};
use crate::metrics::openmetrics::WithExemplars;
use crate::metrics::shard::{Shard, Shared};
use crate::metrics::spans::SpanCounts;
use crate::upstream::fleet::Fleet;
use crate::vocab::{DEFAULT_ROUTE, PerSide, ROUTES_MAX, RouteId, Side, Weight};

/// All metrics of one process; built once and passed in.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    shared: Arc<Shared>,
    weight: GaugeVec,
    pinned: IntGaugeVec,
    reloads: IntCounterVec,
    reload_successful: IntGauge,
    reload_timestamp: Gauge,
    config_hash: IntGaugeVec,
    certificate_expiry: IntGaugeVec,
    drain_phase: IntGaugeVec,
    dns_lookups: IntCounterVec,
    upgrades: IntCounterVec,
    /// What the guard shows.
    pub guard: GuardMetrics,
    /// What the mirror shows.
    pub mirror: Arc<MirrorMetrics>,
    /// The spans that the exporter has seen.
    pub spans: Arc<SpanCounts>,
    shown: Mutex<Shown>,
}

/// Labels of the config in force, to be taken away with it.
#[derive(Debug, Default)]
struct Shown {
    routes: HashSet<String>,
    pins: HashSet<(String, Side)>,
    hash: String,
    certificates: HashSet<[String; 2]>,
}

impl Metrics {
    /// The metrics of a process with `workers` workers.
    ///
    /// # Errors
    /// When a name is registered twice: a mistake in this file.
    pub fn new(workers: usize) -> Result<Self, prometheus::Error> {
        let shared = Arc::new(Shared {
            shards: (0..workers).map(|_| Arc::default()).collect(),
            waiting: PerSide::default(),
            log_lines_lost: Arc::default(),
            spans: Arc::default(),
            fleets: PerSide::from_fn(|side| Arc::new(Fleet::new(side))),
            routes: Mutex::new(vec![DEFAULT_ROUTE.to_owned()]),
        });
        let registry = Registry::new();
        let metrics = Self {
            guard: GuardMetrics::new(&registry)?,
            mirror: Arc::new(MirrorMetrics::new(Arc::default())),
            registry,
            weight: GaugeVec::new(
                Opts::new("cutover_weight", "Share of requests for the async path, 0 to 1."),
                &["route", "kind"],
            )?,
            pinned: IntGaugeVec::new(
                Opts::new("cutover_route_pinned", "1 for a route that is pinned to a path."),
                &["route", "path"],
            )?,
            reloads: IntCounterVec::new(
                Opts::new("cutover_config_reloads_total", "Reloads of the config by result."),
                &["result"],
            )?,
            reload_successful: IntGauge::new(
                "cutover_config_last_reload_successful",
                "Whether the last reload of the config was applied.",
            )?,
            reload_timestamp: Gauge::new(
                "cutover_config_last_reload_success_timestamp_seconds",
                "When the config was last applied, in seconds since 1970.",
            )?,
            config_hash: IntGaugeVec::new(
                Opts::new("cutover_config_info", "The config in force, by the hash of its file."),
                &["hash"],
            )?,
            certificate_expiry: IntGaugeVec::new(
                Opts::new(
                    "cutover_tls_certificate_expiry_timestamp_seconds",
                    "When a certificate or its chain expires, in seconds since 1970.",
                ),
                &["section", "certificate"],
            )?,
            drain_phase: IntGaugeVec::new(
                Opts::new("cutover_drain_state", "1 for the phase that the process is in."),
                &["phase"],
            )?,
            dns_lookups: IntCounterVec::new(
                Opts::new("cutover_dns_lookups_total", "Lookups of host names, by result."),
                &["result"],
            )?,
            upgrades: IntCounterVec::new(
                Opts::new("cutover_upgrades_total", "Upgrades of the program, by result."),
                &["result"],
            )?,
            shown: Mutex::default(),
            spans: shared.spans.clone(),
            shared,
        };
        metrics.register()?;
        Ok(metrics)
    }

    fn register(&self) -> Result<(), prometheus::Error> {
        let build = IntGaugeVec::new(
            Opts::new("cutover_build_info", "The version that runs."),
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        self.reloads.with_label_values(&["success"]);
        self.reloads.with_label_values(&["failure"]);
        self.dns_lookups.with_label_values(&["success"]);
        self.dns_lookups.with_label_values(&["failure"]);
        self.upgrades.with_label_values(&["success"]);
        self.upgrades.with_label_values(&["failure"]);
        self.registry.register(Box::new(build))?;
        self.registry.register(Box::new(self.weight.clone()))?;
        self.registry.register(Box::new(self.pinned.clone()))?;
        self.registry.register(Box::new(self.reloads.clone()))?;
        self.registry.register(Box::new(self.reload_successful.clone()))?;
        self.registry.register(Box::new(self.reload_timestamp.clone()))?;
        self.registry.register(Box::new(self.config_hash.clone()))?;
        self.registry.register(Box::new(self.certificate_expiry.clone()))?;
        self.registry.register(Box::new(self.drain_phase.clone()))?;
        self.registry.register(Box::new(self.dns_lookups.clone()))?;
        self.registry.register(Box::new(self.upgrades.clone()))?;
        self.registry.register(Box::new(Families::new(self.shared.clone())?))?;
        let mirror = MirrorFamilies::new(self.mirror.clone(), self.shared.clone())?;
        self.registry.register(Box::new(mirror))?;
        #[cfg(target_os = "linux")]
        self.registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(())
    }

    /// The counters of worker `index`.
    #[must_use]
    pub fn shard(&self, index: usize) -> Arc<Shard> {
        self.shared.shards[index].clone()
    }

    /// The counters of all workers.
    #[must_use]
    pub fn shards(&self) -> &[Arc<Shard>] {
        &self.shared.shards
    }

    /// The number of requests that wait for a slot of `side`; its gate keeps it.
    #[must_use]
    pub fn waiting(&self, side: Side) -> Arc<AtomicUsize> {
        self.shared.waiting.get(side).clone()
    }

    /// The number of access log lines that could not be written; the writer keeps it.
    #[must_use]
    pub fn log_lines_lost(&self) -> Arc<AtomicU64> {
        self.shared.log_lines_lost.clone()
    }

    /// The endpoints of `side`, whose standing is shown.
    #[must_use]
    pub fn fleet(&self, side: Side) -> &Arc<Fleet> {
        self.shared.fleets.get(side)
    }

    /// The place of the route `name` in all tables. A name keeps its place for the process's life,
    /// also when a reload removes it; `None` once [`ROUTES_MAX`] names were seen.
    #[must_use]
    pub fn route(&self, name: &str) -> Option<RouteId> {
        let mut names = self.shared.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let index = names.iter().position(|known| known == name).or_else(|| {
            names.push(name.to_owned());
            Some(names.len() - 1)
        })?;
        if index >= ROUTES_MAX {
            names.truncate(ROUTES_MAX);
            return None;
        }
        u16::try_from(index).ok().map(RouteId)
    }

    /// Shows the weights in force, configured and effective, with the pins, and only those. No scrape finds a
    /// gap between old and new.
    pub fn set_weights<'a>(
        &self,
        weights: impl Iterator<Item = (&'a str, (Weight, Weight), Option<Side>)>,
    ) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone = std::mem::take(&mut shown.routes);
        let mut unpinned = std::mem::take(&mut shown.pins);
        for (route, (configured, effective), pin) in weights {
            self.weight.with_label_values(&[route, "configured"]).set(configured.share());
            self.weight.with_label_values(&[route, "effective"]).set(effective.share());
            gone.remove(route);
            shown.routes.insert(route.to_owned());
            if let Some(side) = pin {
                self.pinned.with_label_values(&[route, side.name()]).set(1);
                let pin = (route.to_owned(), side);
                unpinned.remove(&pin);
                shown.pins.insert(pin);
            }
        }
        for (route, side) in unpinned {
            // It was shown, so it is there.
            let _ = self.pinned.remove_label_values(&[&*route, side.name()]);
        }
        for route in gone {
            for kind in ["configured", "effective"] {
                // It was shown, so it is there.
                let _ = self.weight.remove_label_values(&[&route, kind]);
            }
        }
    }

    /// Shows that the config with `hash` is in force since `now` (seconds since 1970).
    pub fn config_applied(&self, hash: &str, now: f64) {
        self.reloads.with_label_values(&["success"]).inc();
        self.reload_successful.set(1);
        self.reload_timestamp.set(now);
        self.config_hash.with_label_values(&[hash]).set(1);
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = std::mem::replace(&mut shown.hash, hash.to_owned());
        if !gone.is_empty() && gone != hash {
            // It was shown, so it is there.
            let _ = self.config_hash.remove_label_values(&[&gone]);
        }
    }

    /// Shows until when the certificates in force are valid, and only those: the section and the file
    /// that the config names them by, and seconds since 1970.
    pub fn set_certificates<'a>(
        &self,
        certificates: impl Iterator<Item = (&'a str, &'a str, i64)>,
    ) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone = std::mem::take(&mut shown.certificates);
        for (section, file, not_after) in certificates {
            self.certificate_expiry.with_label_values(&[section, file]).set(not_after);
            let labels = [section, file].map(str::to_owned);
            gone.remove(&labels);
            shown.certificates.insert(labels);
        }
        for labels in gone {
            // It was shown, so it is there.
            let _ = self.certificate_expiry.remove_label_values(&labels);
        }
    }

    /// Shows that a new config was refused.
    pub fn config_refused(&self) {
        self.reloads.with_label_values(&["failure"]).inc();
        self.reload_successful.set(0);
    }

    /// Counts one lookup of a host name.
    pub fn dns_lookup(&self, answered: bool) {
        let result = if answered { "success" } else { "failure" };
        self.dns_lookups.with_label_values(&[result]).inc();
    }

    /// Counts upgrades: of this process, or those that the ones before it have counted.
    pub fn upgraded(&self, succeeded: bool, times: u64) {
        let result = if succeeded { "success" } else { "failure" };
        self.upgrades.with_label_values(&[result]).inc_by(times);
    }

    /// Upgrades that have succeeded, and that have failed.
    #[must_use]
    pub fn upgrades(&self) -> (u64, u64) {
        let count = |result| self.upgrades.with_label_values(&[result]).get();
        (count("success"), count("failure"))
    }

    /// Shows the drain's phase: 1 for `current`, 0 for the others of `phases`.
    pub fn set_phase(&self, phases: &[&str], current: &str) {
        for phase in phases {
            self.drain_phase.with_label_values(&[*phase]).set(i64::from(*phase == current));
        }
    }

    /// Requests in flight on `side`, over all workers.
    #[must_use]
    pub fn in_flight(&self, side: Side) -> u64 {
        self.sum(|shard| shard.sides.get(side).in_flight.get())
    }

    /// One number summed over all workers.
    pub fn sum(&self, of: impl Fn(&Shard) -> u64) -> u64 {
        self.shared.shards.iter().map(|shard| of(shard)).fold(0, u64::wrapping_add)
    }

    /// How many requests wait for a slot of `side`.
    #[must_use]
    pub fn queue_depth(&self, side: Side) -> usize {
        self.shared.waiting.get(side).load(Ordering::Relaxed)
    }

    /// All metrics as OpenMetrics text, with the last recorded request of each bucket of a duration.
    #[must_use]
    pub fn render_openmetrics(&self) -> String {
        let exemplars = families::exemplars(&self.shared);
        let of = |labels: &[LabelPair], bucket: usize| {
            let value = |name| labels.iter().find(|pair| pair.name() == name).map(LabelPair::value);
            let key = (value("path")?.to_owned(), value("route")?.to_owned());
            exemplars.get(&key)?.get(bucket).copied().flatten()
        };
        let family = "cutover_request_duration_seconds";
        openmetrics::page(&self.registry.gather(), &WithExemplars { family, of: &of })
    }

    /// All metrics in the Prometheus text format.
    ///
    /// # Errors
    /// When two families disagree about a name: a mistake in this file.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
