//! The judge's rules and the workers' thresholds, from the config and the baseline.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::config::{Config, OnMismatch};
use crate::guard::baseline::{Baseline, SlowLimits};
use crate::guard::counts::{Norm, Phi, Rules};
use crate::guard::recording::phi_default;
use crate::metrics::Metrics;
use crate::vocab::Side;

/// The rules in force.
#[must_use]
pub fn rules(config: &Config, baseline: Option<&Baseline>) -> Rules {
    let timeouts = config.paths.iter().map(|(_, path)| path.response_timeout);
    let mut rules = Rules {
        response_timeout: timeouts.max().unwrap_or_default(),
        phi: phi(config, baseline),
        mismatch_rolls_back: config.mirror.on_mismatch == OnMismatch::Rollback,
        baseline: baseline.map(|baseline| norm(baseline, config.guard.rules.tolerance)),
        ..config.guard.rules.clone()
    };
    if let Some(ramp) = &config.ramp {
        rules.soak = ramp.soak;
        rules.min_requests = ramp.min_requests;
        rules.p99_min_requests = ramp.p99_min_requests;
        rules.max_hold = ramp.max_hold;
    }
    rules
}

/// What the config says, else what was measured, else what is usual.
fn phi(config: &Config, baseline: Option<&Baseline>) -> Phi {
    let configured = config.guard.phi;
    if configured > 0.0 {
        return Phi { fail: configured, c4: configured };
    }
    let default = phi_default(config);
    baseline.map_or(Phi { fail: default, c4: default }, |baseline| Phi {
        fail: baseline.phi.fail,
        c4: baseline.phi.c4,
    })
}

fn norm(baseline: &Baseline, tolerance: f64) -> Norm {
    let SlowLimits { slow95, slow99 } = baseline.thresholds(tolerance);
    let legacy = &baseline.paths.legacy;
    Norm {
        n: legacy.counts.n,
        err: legacy.counts.err,
        tmo: legacy.counts.tmo,
        mean_ms: legacy.mean_ms.unwrap_or(0.0),
        rss: legacy.rss_bytes,
        recorded_at: baseline.recorded_at.get(..16).unwrap_or_default().replace('T', " "),
        // Without thresholds nothing is ever counted as slow, and none of many would pass.
        slow: slow95.is_some() && slow99.is_some(),
    }
}

/// Tells the workers what is slow, late and silent.
pub fn set_thresholds(metrics: &Metrics, config: &Config, baseline: Option<&Baseline>) {
    let nanos = |span: Option<Duration>| {
        span.map_or(u64::MAX, |span| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
    };
    let SlowLimits { slow95, slow99 } = baseline
        .map_or(SlowLimits { slow95: None, slow99: None }, |baseline| {
            baseline.thresholds(config.guard.rules.tolerance)
        });
    let [legacy, async_] = Side::ALL.map(|side| deadline(config, side));
    let deadline = (legacy != async_).then(|| legacy.min(async_));
    for shard in metrics.shards() {
        let thresholds = &shard.thresholds;
        thresholds.slow95.store(nanos(slow95), Ordering::Relaxed);
        thresholds.slow99.store(nanos(slow99), Ordering::Relaxed);
        thresholds.deadline.store(nanos(deadline), Ordering::Relaxed);
        thresholds.stall_after.store(nanos(Some(config.guard.stall_after)), Ordering::Relaxed);
    }
}

/// After this a request of a path is late.
fn deadline(config: &Config, side: Side) -> Duration {
    let path = config.paths.get(side);
    let whole = Some(path.request_deadline).filter(|deadline| !deadline.is_zero());
    whole.map_or(path.response_timeout, |whole| whole.min(path.response_timeout))
}

/// Shows the baseline's quantiles.
pub fn show_baseline(metrics: &Metrics, baseline: Option<&Baseline>) {
    for (side, path) in baseline.iter().flat_map(|baseline| baseline.paths.iter()) {
        for (q, quantile) in [("0.95", &path.p95), ("0.99", &path.p99)] {
            if let Some(quantile) = quantile {
                let value = Duration::try_from_secs_f64(quantile.value_ms / 1e3);
                metrics.guard.baseline(side, q, value.unwrap_or_default());
            }
        }
    }
}
