//! What `/api/v1/report` says: the migration's story, gathered from the guard, the metrics and the log.

use serde_json::Value;

use crate::admin::diffs::diffs;
use crate::admin::judgement::stale;
use crate::admin::office::Office;
use crate::guard::baseline::{Baseline, PathBaseline};
use crate::guard::decision::{Decision, Kind};
use crate::guard::desk::Live;
use crate::guard::retire::Certificate;
use crate::guard::retiring::cut;
use crate::guard::verdict::Check;
use crate::publisher::way;
use crate::record::{Change, ChangeLog};
use crate::report::checklist::{Facts, Step, StepState, WayBack, checklist};
use crate::report::story::{
    BaselinePath, BaselineSummary, CertificateSummary, ChangeLine, DecisionLine, Memory, StallLine,
    Story, Totals, VERSION,
};
use crate::route::Target;
use crate::vocab::{PerSide, Side, Weight};

/// The story so far.
pub(super) fn report(office: &Office) -> Value {
    let dir = office.publisher.ledger().dir();
    let changes = ChangeLog::tail(dir);
    let live = office.guard.live();
    let snapshot = office.publisher.current();
    let totals = PerSide::from_fn(|side| totals(office, side));
    let mut story = Story {
        version: VERSION,
        generated_at: crate::record::now(),
        product_version: env!("CARGO_PKG_VERSION").to_owned(),
        config_hash: snapshot.config.hash.clone(),
        started_at: changes.first().map(|change| change.time.clone()).unwrap_or_default(),
        baseline: live.baseline.as_ref().map(|baseline| baseline_summary(office, baseline)),
        series: live.history.points().to_vec(),
        decisions: live.decisions.iter().map(decision_line).collect(),
        changes: changes.iter().map(change_line).collect(),
        stalls: stalls(office, &live),
        mirror: Some(diffs(office).without_samples()).filter(|diffs| !diffs.is_idle()),
        memory: memory(&live),
        totals,
        lost: totals.legacy.cut + totals.async_.cut,
        certificate: live.drains.certificate(Side::Legacy).map(certificate),
        checklist: Vec::new(),
    };
    story.checklist = checklist(&facts(office, &live, &story, &changes));
    serde_json::to_value(story).unwrap_or_default()
}

fn facts(office: &Office, live: &Live, story: &Story, changes: &[Change]) -> Facts {
    let snapshot = office.publisher.current();
    let helm = office.publisher.helm();
    let share = snapshot.rules.largest(Target::effective).rounded();
    let culprits = live.stalls.blocking(&snapshot).into_iter();
    let divergences = decisions_since_start(live).filter(|decision| {
        let check = decision.finding.as_ref().map(|finding| finding.check);
        check == Some(Check::TimeoutDivergence)
    });
    Facts {
        baseline: story.baseline.clone(),
        steps: steps(office, live, share, changes),
        requests: PerSide::from_fn(|side| story.totals.get(side).requests),
        timeout_divergences: divergences.count() as u64,
        culprits: culprits.filter(|b| b.side == Side::Async).map(|b| b.route).collect(),
        share,
        latch: helm.latch.map(|latch| latch.id),
        memory: story.memory,
        legacy_in_flight: office.metrics.in_flight(Side::Legacy),
        certificate: story.certificate.clone(),
        lost: story.lost,
        gate: story.mirror.as_ref().map(|diffs| diffs.gate.clone()),
        way_back: way_back(office, live, changes),
    }
}

/// The decisions since a rollback was last released: before it, the ramp was another one.
fn decisions_since_start(live: &Live) -> impl Iterator<Item = &Decision> {
    let released = live.decisions.iter().rposition(|decision| decision.kind == Kind::Resume);
    live.decisions.iter().skip(released.map_or(0, |at| at + 1))
}

/// How each step of the ramp went.
fn steps(office: &Office, live: &Live, share: f64, changes: &[Change]) -> Vec<Step> {
    let snapshot = office.publisher.current();
    let way = way(&snapshot.config);
    let steps = way.steps.unwrap_or_default();
    let failed = |step: f64| {
        let mut failed = decisions_since_start(live).filter(|decision| {
            matches!(decision.kind, Kind::Rollback | Kind::WouldRollBack | Kind::NoSafePath)
                && decision.from.to_bits() == step.to_bits()
        });
        let check = failed.next().map(|decision| decision.finding.as_ref().map(|f| f.check.name()));
        check.map(|check| check.unwrap_or("operator").to_owned())
    };
    // A step is held once the ramp has gone beyond it, or stands there with nothing left to do.
    let reached = |step: Weight| {
        let weight = |text: &str| text.parse::<f64>().ok().and_then(Weight::from_share);
        let ramps = changes.iter().filter(|change| change.what == "ramp");
        ramps.filter_map(|change| weight(&change.from)).any(|from| from >= step)
    };
    let steps = steps.into_iter().map(|step| {
        let state = if let Some(check) = failed(step.rounded()) {
            StepState::Failed(check)
        } else if reached(step) || (step.rounded() <= share && live.is_step_done(snapshot.epoch)) {
            StepState::Held
        } else if step.rounded() <= share {
            StepState::Running
        } else {
            StepState::Ahead
        };
        Step { share: step.rounded(), state }
    });
    steps.collect()
}

fn way_back(office: &Office, live: &Live, changes: &[Change]) -> WayBack {
    let mut rollbacks = changes.iter().filter(|change| change.what == "rollback");
    let drained = live.drains.certificate(Side::Legacy).is_some();
    match rollbacks.next_back() {
        Some(rollback) => WayBack::Tested(rollback.time.clone()),
        None if drained => WayBack::Open,
        None => {
            let config = &office.publisher.current().config;
            let is_probed = config.paths.legacy.health.is_some();
            match office.metrics.fleet(Side::Legacy).is_sound(is_probed) {
                true => WayBack::Open,
                false => WayBack::Shut("no endpoint of legacy is well".to_owned()),
            }
        }
    }
}

fn baseline_summary(office: &Office, baseline: &Baseline) -> BaselineSummary {
    let path = |path: &PathBaseline| BaselinePath {
        n: path.counts.n,
        err: path.counts.err,
        tmo: path.counts.tmo,
        per_second: path.per_second,
        p50_ms: path.latency.quantile(0.5).map(|span| span.as_secs_f64() * 1e3),
        p95_ms: path.p95.as_ref().map(|quantile| quantile.value_ms),
        p99_ms: path.p99.as_ref().map(|quantile| quantile.value_ms),
        rss: path.rss_bytes,
        threads: path.threads,
    };
    BaselineSummary {
        recorded_at: baseline.recorded_at.clone(),
        took_seconds: baseline.took_seconds,
        stale: stale(office, baseline),
        paths: PerSide::from_fn(|side| path(baseline.paths.get(side))),
        audit: baseline.audit.clone(),
    }
}

fn decision_line(decision: &Decision) -> DecisionLine {
    DecisionLine {
        time: decision.time.clone(),
        id: Some(decision.id.clone()),
        kind: decision.kind.word().to_owned(),
        check: decision.finding.as_ref().map(|finding| finding.check.name().to_owned()),
        step: Some(decision.from),
        from: Some(decision.from),
        to: Some(decision.to),
        text: decision.text.clone(),
    }
}

fn change_line(change: &Change) -> ChangeLine {
    let Change { time, what, route, from, to, who, config, .. } = change.clone();
    ChangeLine { time, what, route, from, to, who, config }
}

fn stalls(office: &Office, live: &Live) -> Vec<StallLine> {
    let blocking = live.stalls.blocking(&office.publisher.current());
    let lines = blocking.into_iter().map(|blocking| StallLine {
        path: blocking.side,
        route: Some(blocking.route),
        stalls: blocking.culprit.firsts.into(),
        of: blocking.culprit.gaps.into(),
        median_ms: blocking.culprit.median.as_secs_f64() * 1e3,
        longest_ms: blocking.culprit.longest.as_secs_f64() * 1e3,
        last_at: None,
    });
    lines.collect()
}

fn memory(live: &Live) -> PerSide<Memory> {
    PerSide::from_fn(|side| Memory {
        before: live.baseline.as_ref().and_then(|b| b.paths.get(side).rss_bytes),
        after: live.usage.get(side).map(|reading| reading.rss_bytes),
    })
}

fn totals(office: &Office, side: Side) -> Totals {
    let mut totals = Totals::default();
    for shard in office.metrics.shards() {
        for (_, cells) in shard.sides.get(side).routes() {
            totals.requests += cells.codes.iter().map(|(_, number)| number).sum::<u64>();
            for fault in crate::error::PathFault::ALL {
                let number = cells.errors[fault as usize].get();
                if fault.is_timeout() { totals.timeouts += number } else { totals.errors += number }
            }
        }
    }
    let (requests, tunnels) = cut(&office.metrics, side);
    totals.cut = requests + tunnels;
    totals
}

fn certificate(certificate: &Certificate) -> CertificateSummary {
    CertificateSummary {
        path: certificate.path,
        issued_at: certificate.issued_at.clone(),
        started: certificate.flow.started,
        finished: certificate.flow.finished,
        cut: certificate.cut_requests + certificate.cut_tunnels,
        config_hash: certificate.config.clone(),
        voided_at: certificate.void.as_ref().map(|void| void.at.clone()),
    }
}
