//! What the admin API says of the guard: its verdict, its decisions, the baseline, its ticks.

use serde_json::{Value, json};

use crate::admin::office::Office;
use crate::guard::baseline::{Baseline, PathBaseline};
use crate::guard::recording::{Progress, endpoints, route_matches};
use crate::publisher::way;
use crate::record::ChangeLog;
use crate::vocab::{PerSide, Weight};

/// The guard's part of the status.
pub(super) fn guard(office: &Office) -> Value {
    let snapshot = office.publisher.current();
    let (helm, way) = (office.publisher.helm(), way(&snapshot.config));
    let live = office.guard.live();
    let evidence: Vec<_> = live
        .judge
        .evidence()
        .map(|(check, test, nats)| json!({ "check": check, "test": test, "nats": nats }))
        .collect();
    let stalls: Vec<_> = live.stalls.blocking(&snapshot);
    let stalls: Vec<_> = stalls
        .iter()
        .map(|stall| json!({ "path": stall.side, "route": stall.route, "text": stall.to_string() }))
        .collect();
    json!({
        "mode": snapshot.config.guard.mode,
        // One of the step before says nothing of this one.
        "verdict": live.verdict.as_ref().filter(|_| live.is_judged(snapshot.epoch)),
        "epoch": snapshot.epoch,
        "evidence": evidence,
        "evidence_limit": live.rules.fail_at,
        "detectable": live.judge.detectable(&live.rules),
        "rollback": helm.latch,
        "ramp": helm.position.map(|position| json!({
            "position": Weight::from_share(position).map(Weight::rounded),
            "next": helm.next(&way).map(Weight::rounded),
            "steps": way.steps.iter().flatten().map(|step| step.rounded()).collect::<Vec<_>>(),
            "goal": way.goal.rounded(),
            "paused": helm.is_paused,
            "awaits_approval": helm.awaits_approval(&way).map(Weight::rounded),
        })),
        "stalls": stalls,
        "baseline": live.baseline.as_ref().map(|baseline| summary(office, baseline)),
        "drains": PerSide::from_fn(|side| live.drains.status(side)),
        "last_decision": live.decisions.back(),
    })
}

/// The decisions at hand, oldest first.
pub(super) fn decisions(office: &Office) -> Value {
    json!({ "decisions": office.guard.live().decisions })
}

/// The end of the change log, oldest first.
pub(super) fn changes(office: &Office) -> Value {
    json!({ "changes": ChangeLog::tail(office.publisher.ledger().dir()) })
}

/// The baseline, and the recording that runs.
pub(super) fn baseline(office: &Office) -> Value {
    let now = office.guard.now();
    let live = office.guard.live();
    let recording = live.recording.as_ref().map(|recording| {
        let Progress { elapsed, span, attempts, failures } = recording.progress(now);
        json!({
            "elapsed_seconds": elapsed.as_secs_f64(),
            "seconds": span.as_secs_f64(),
            "attempts": attempts,
            "failures": failures,
        })
    });
    json!({
        "recording": recording,
        "failed": live.recording_failed,
        "baseline": live.baseline.as_ref().map(|baseline| summary(office, baseline)),
    })
}

/// A baseline without its buckets.
fn summary(office: &Office, baseline: &Baseline) -> Value {
    let path = |path: &PathBaseline| {
        json!({
            "counts": path.counts,
            "per_second": path.per_second,
            "mean_ms": path.mean_ms,
            "p50_ms": path.latency.quantile(0.5).map(|span| span.as_secs_f64() * 1e3),
            "p95": path.p95,
            "p99": path.p99,
            "rss_bytes": path.rss_bytes,
            "threads": path.threads,
        })
    };
    json!({
        "recorded_at": baseline.recorded_at,
        "took_seconds": baseline.took_seconds,
        "paths": PerSide::from_fn(|side| path(baseline.paths.get(side))),
        "phi": baseline.phi,
        "stale": stale(office, baseline),
        "audit": baseline.audit,
    })
}

/// What of the config has changed since a baseline was recorded.
pub(super) fn stale(office: &Office, baseline: &Baseline) -> Vec<String> {
    let config = &office.publisher.current().config;
    baseline.staleness(&route_matches(config), &endpoints(config))
}

/// The ticks after `since=` (milliseconds on the guard's clock), with the rules to judge them by.
pub(super) fn ticks(office: &Office, query: &str) -> Value {
    let since = query.strip_prefix("since=").and_then(|since| since.parse::<u64>().ok());
    let live = office.guard.live();
    let ticks: Vec<_> =
        live.ticks.iter().filter(|tick| since.is_none_or(|since| tick.at_ms > since)).collect();
    json!({ "rules": live.rules, "ticks": ticks })
}
