//! The metrics of the guard; the control plane alone sets them.

use std::time::Duration;

use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use crate::guard::verdict::Check;
use crate::metrics::histogram::BOUNDS;
use crate::vocab::Side;

/// The route of a stall that no route is convicted of.
pub const UNKNOWN: &str = "unknown";

/// The metrics of the guard.
#[derive(Debug)]
pub struct GuardMetrics {
    evidence: GaugeVec,
    evidence_limit: Gauge,
    gate_state: IntGaugeVec,
    rollbacks: IntCounterVec,
    rolled_back: IntGauge,
    slow: IntCounterVec,
    baseline: GaugeVec,
    stall_seconds: HistogramVec,
    stalls: IntCounterVec,
    certificate: IntGaugeVec,
    memory: GaugeVec,
    webhooks: IntCounterVec,
}

impl GuardMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// When a name is registered twice: a mistake in this file.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let gauges = GaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauges.clone()))?;
            Ok::<_, prometheus::Error>(gauges)
        };
        let int_gauges = |name: &str, help: &str, labels: &[&str]| {
            let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauges.clone()))?;
            Ok::<_, prometheus::Error>(gauges)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let evidence_limit = Gauge::new("cutover_evidence_limit", "Evidence that fails a check.")?;
        registry.register(Box::new(evidence_limit.clone()))?;
        let rolled_back =
            IntGauge::new("cutover_rollback_active", "1 while a rollback waits for its release.")?;
        registry.register(Box::new(rolled_back.clone()))?;
        let stalls = "How long the event loop of a path stood still, by the route that blocked it.";
        let stall_seconds = HistogramVec::new(
            HistogramOpts::new("cutover_path_stall_seconds", stalls).buckets(BOUNDS.to_vec()),
            &["path", "route"],
        )?;
        registry.register(Box::new(stall_seconds.clone()))?;
        let evidence = "Evidence against the async path, in nats, by check and test.";
        let baseline = "The legacy path's recorded quantiles, by path and quantile.";
        let memory = "Resident memory of a path's backend, where the config says how to read it.";
        let guard = Self {
            evidence: gauges("cutover_evidence", evidence, &["check", "test"])?,
            evidence_limit,
            gate_state: int_gauges("cutover_gate_state", "1 for the verdict now.", &["state"])?,
            rollbacks: counters("cutover_rollbacks_total", "Rollbacks, by check.", &["check"])?,
            rolled_back,
            slow: counters(
                "cutover_slow_total",
                "Attempts slower than the baseline's threshold, by path and quantile.",
                &["path", "q"],
            )?,
            baseline: gauges("cutover_baseline_seconds", baseline, &["path", "q"])?,
            stall_seconds,
            stalls: counters(
                "cutover_path_stalls_total",
                "Times that the event loop of a path stood still, by the route that blocked it.",
                &["path", "route"],
            )?,
            certificate: int_gauges(
                "cutover_drain_certificate",
                "1 for the state of a path's drain certificate: none, valid or void.",
                &["path", "state"],
            )?,
            memory: gauges("cutover_backend_memory_bytes", memory, &["path"])?,
            webhooks: counters(
                "cutover_webhook_deliveries_total",
                "Events sent to the webhook, by result.",
                &["result"],
            )?,
        };
        guard.show_zeros();
        Ok(guard)
    }

    /// A counter that appears with its first event looks as if it had always been there: its increase
    /// would be missed.
    fn show_zeros(&self) {
        for check in Check::ALL.map(Check::name).into_iter().chain(["operator"]) {
            self.rollbacks.with_label_values(&[check]);
        }
        for side in Side::ALL {
            self.slow(side, 0, 0);
            self.stalls.with_label_values(&[side.name(), UNKNOWN]);
        }
        for result in ["success", "failure"] {
            self.webhooks.with_label_values(&[result]);
        }
    }

    /// Shows the evidence of a test.
    pub fn evidence(&self, check: &str, test: &str, nats: f64) {
        self.evidence.with_label_values(&[check, test]).set(nats);
    }

    /// Shows the verdict, of all `states`, and the evidence that fails a check.
    pub fn verdict(&self, states: &[&str], current: &str, limit: f64) {
        for state in states {
            self.gate_state.with_label_values(&[*state]).set(i64::from(*state == current));
        }
        self.evidence_limit.set(limit);
    }

    /// Counts a rollback.
    pub fn rolled_back(&self, check: &str) {
        self.rollbacks.with_label_values(&[check]).inc();
    }

    /// Shows whether a rollback is in force.
    pub fn latched(&self, is_latched: bool) {
        self.rolled_back.set(i64::from(is_latched));
    }

    /// Counts slow attempts.
    pub fn slow(&self, side: Side, slow95: u64, slow99: u64) {
        self.slow.with_label_values(&[side.name(), "0.95"]).inc_by(slow95);
        self.slow.with_label_values(&[side.name(), "0.99"]).inc_by(slow99);
    }

    /// Shows a quantile of the baseline.
    pub fn baseline(&self, side: Side, q: &str, value: Duration) {
        self.baseline.with_label_values(&[side.name(), q]).set(value.as_secs_f64());
    }

    /// Counts a stall; `route` is the one that blocked, or `unknown`.
    pub fn stalled(&self, side: Side, route: &str, length: Duration) {
        let labels = [side.name(), route];
        self.stall_seconds.with_label_values(&labels).observe(length.as_secs_f64());
        self.stalls.with_label_values(&labels).inc();
    }

    /// Shows the state of a path's certificate, of all `states`.
    pub fn certificate(&self, side: Side, states: &[&str], current: &str) {
        for state in states {
            let gauge = self.certificate.with_label_values(&[side.name(), state]);
            gauge.set(i64::from(*state == current));
        }
    }

    /// Shows the memory of a path's backend.
    #[expect(clippy::cast_precision_loss, reason = "Prometheus values are 64-bit floats")]
    pub fn memory(&self, side: Side, bytes: u64) {
        self.memory.with_label_values(&[side.name()]).set(bytes as f64);
    }

    /// Counts an event that was sent to the webhook, or could not be.
    pub fn webhook(&self, is_delivered: bool) {
        let result = if is_delivered { "success" } else { "failure" };
        self.webhooks.with_label_values(&[result]).inc();
    }
}
