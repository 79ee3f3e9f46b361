//! The checklist: what the migration guide asks for at the end, judged from facts that the caller gathers.
//!
//! A line passes, fails, or is not reached yet; nothing passes for want of data.

use crate::compare::gate::Gate;
use crate::report::story::{BaselineSummary, CertificateSummary, ChecklistLine, Memory};
use crate::report::story::{bytes, count, millis, rate, share, when};
use crate::vocab::{PerSide, Side};

/// What the checklist is judged from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// What was normal before; absent if nobody recorded that.
    pub baseline: Option<BaselineSummary>,
    /// The ramp's steps, in their order; empty without a ramp.
    pub steps: Vec<Step>,
    /// Requests that each path was given.
    pub requests: PerSide<u64>,
    /// How often the guard saw async's timeouts diverge, since the ramp last began.
    pub timeout_divergences: u64,
    /// Routes that block async's event loop, seen since the last step began.
    pub culprits: Vec<String>,
    /// The effective weight, 0 to 1.
    pub share: f64,
    /// The id of the rollback that holds the weight at 0, if one does.
    pub latch: Option<String>,
    /// Memory of the backends.
    pub memory: PerSide<Memory>,
    /// Requests on the legacy path that are not done.
    pub legacy_in_flight: u64,
    /// The certificate of the legacy path's drain, if there is one.
    pub certificate: Option<CertificateSummary>,
    /// Requests that the proxy cut off, in a drain.
    pub lost: u64,
    /// What the comparison of answers says; absent where nothing is mirrored.
    pub gate: Option<Gate>,
    /// Whether the migration could be undone.
    pub way_back: WayBack,
}

/// A step of the ramp.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Its share, 0 to 1.
    pub share: f64,
    /// How it went, the last time that the ramp came to it.
    pub state: StepState,
}

/// How a step went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepState {
    /// The ramp has not come to it.
    Ahead,
    /// It is the present one.
    Running,
    /// It was held for its time, and no check failed.
    Held,
    /// This check failed on it.
    Failed(String),
}

/// Whether the migration could be undone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WayBack {
    /// Nobody looked yet.
    #[default]
    Unknown,
    /// A rollback took effect at this time.
    Tested(String),
    /// Legacy answered its probes, until now or until it was drained.
    Open,
    /// Legacy could not have taken the requests back, for this reason.
    Shut(String),
}

/// The migration guide's last page, each line passed, failed or not reached.
#[must_use]
pub fn checklist(facts: &Facts) -> Vec<ChecklistLine> {
    let mut lines = vec![baseline(facts)];
    lines.extend(facts.gate.as_ref().map(alike));
    lines.extend(steps(facts));
    lines.extend([
        timeouts(facts),
        stalls(facts),
        full(facts),
        memory(facts),
        drained(facts),
        lost(facts),
        way_back(facts),
    ]);
    lines
}

fn line(text: &str, passed: Option<bool>, detail: impl Into<String>) -> ChecklistLine {
    ChecklistLine { text: text.to_owned(), passed, detail: detail.into() }
}

fn baseline(facts: &Facts) -> ChecklistLine {
    const TEXT: &str = "a baseline was recorded: P95, P99, throughput, error rate, memory";
    let Some(baseline) = &facts.baseline else {
        // Once async has been given requests, there is no "before" left to record.
        let is_late = facts.requests.async_ > 0;
        return line(TEXT, is_late.then_some(false), "run `cutover baseline record`");
    };
    let before = &baseline.paths.legacy;
    let parts = [
        ("P95", before.p95_ms.map(millis)),
        ("P99", before.p99_ms.map(millis)),
        ("throughput", (before.n > 0).then(|| format!("{:.1}/s", before.per_second))),
        ("error rate", rate(before.err.saturating_add(before.tmo), before.n)),
        ("memory", before.rss.map(bytes)),
    ];
    let absent = parts.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| *name);
    let absent: Vec<_> = absent.collect();
    let known =
        parts.iter().filter_map(|(name, value)| Some(format!("{name} {}", value.as_ref()?)));
    let mut detail = known.collect::<Vec<_>>();
    detail.push(format!("recorded {}", when(&baseline.recorded_at)));
    if !absent.is_empty() {
        detail.push(format!("missing: {}", absent.join(", ")));
    }
    if !baseline.stale.is_empty() {
        detail.push(format!("stale: {}", baseline.stale.join(", ")));
    }
    line(TEXT, Some(absent.is_empty() && baseline.stale.is_empty()), detail.join("; "))
}

fn alike(gate: &Gate) -> ChecklistLine {
    let passed = if gate.open { Some(true) } else { gate.failed.then_some(false) };
    let reasons = gate.reasons.iter().map(|reason| format!("; {reason}"));
    let (compared, differing) = (count(gate.compared), count(gate.differing));
    let detail = format!("{compared} compared, {differing} differ{}", reasons.collect::<String>());
    line("both paths answer alike", passed, detail)
}

fn steps(facts: &Facts) -> Vec<ChecklistLine> {
    if facts.steps.is_empty() {
        let text = "async kept to the baseline at each step of the ramp";
        return vec![line(text, None, "no [ramp] is configured")];
    }
    let lines = facts.steps.iter().map(|step| {
        let (passed, detail) = match &step.state {
            StepState::Ahead => (None, "not reached yet".to_owned()),
            StepState::Running => (None, "running".to_owned()),
            StepState::Held => (Some(true), "held, and no check failed".to_owned()),
            StepState::Failed(check) => (Some(false), format!("{check} failed")),
        };
        line(&format!("async kept to the baseline at {}", share(step.share)), passed, detail)
    });
    lines.collect()
}

fn timeouts(facts: &Facts) -> ChecklistLine {
    let (seen, of) = (facts.timeout_divergences, facts.requests.async_);
    let passed = if seen > 0 { Some(false) } else { (of > 0).then_some(true) };
    let detail = match (seen, of) {
        (0, 0) => NOTHING_YET.to_owned(),
        (0, _) => format!("none in {} requests", count(of)),
        (1, _) => "seen once".to_owned(),
        (times, _) => format!("seen {} times", count(times)),
    };
    line("async's timeouts did not diverge from legacy's", passed, detail)
}

fn stalls(facts: &Facts) -> ChecklistLine {
    const TEXT: &str = "no blocking call was found on the event loop since the last step";
    if !facts.culprits.is_empty() {
        return line(TEXT, Some(false), format!("blocked by {}", facts.culprits.join(", ")));
    }
    match facts.requests.async_ {
        0 => line(TEXT, None, NOTHING_YET),
        of => line(TEXT, Some(true), format!("none in {} requests", count(of))),
    }
}

fn full(facts: &Facts) -> ChecklistLine {
    const TEXT: &str = "the ramp reached 100 %";
    match &facts.latch {
        Some(id) => line(TEXT, Some(false), format!("rolled back: {id}")),
        None if facts.share >= 1.0 => line(TEXT, Some(true), "all requests go to async"),
        None => line(TEXT, None, format!("at {} now", share(facts.share))),
    }
}

fn memory(facts: &Facts) -> ChecklistLine {
    let (before, after) = (facts.memory.legacy.before, facts.memory.async_.after);
    let shown = |size: Option<u64>| size.map_or_else(|| "not measured".to_owned(), bytes);
    let passed = match (before, after) {
        _ if facts.share < 1.0 => None,
        (Some(_), Some(_)) => Some(true),
        (None, _) | (_, None) => Some(false),
    };
    let detail = format!("legacy before: {}; async after: {}", shown(before), shown(after));
    line("memory is known before and after", passed, detail)
}

fn drained(facts: &Facts) -> ChecklistLine {
    const TEXT: &str = "legacy is drained: nothing in flight, and the certificate is valid";
    let in_flight = facts.legacy_in_flight;
    let certificate = facts.certificate.as_ref().filter(|found| found.path == Side::Legacy);
    let Some(certificate) = certificate else {
        return line(TEXT, None, format!("not drained yet; {} in flight", count(in_flight)));
    };
    let issued = format!("certificate of {}", when(&certificate.issued_at));
    match certificate.fault() {
        Some(fault) => line(TEXT, Some(false), format!("{issued}, {fault}")),
        None if in_flight > 0 => {
            line(TEXT, Some(false), format!("{issued}, yet {} in flight", count(in_flight)))
        }
        None => line(TEXT, Some(true), issued),
    }
}

fn lost(facts: &Facts) -> ChecklistLine {
    let of = facts.requests.legacy.saturating_add(facts.requests.async_);
    let passed = (of > 0 || facts.lost > 0).then_some(facts.lost == 0);
    let detail = format!("{} lost of {}", count(facts.lost), count(of));
    line("no request was lost", passed, detail)
}

fn way_back(facts: &Facts) -> ChecklistLine {
    const TEXT: &str = "the way back was tested, or open until legacy was drained";
    match &facts.way_back {
        WayBack::Unknown => line(TEXT, None, "not known yet"),
        WayBack::Tested(at) => {
            line(TEXT, Some(true), format!("a rollback took effect {}", when(at)))
        }
        WayBack::Open => line(TEXT, Some(true), "open: legacy answers its probes"),
        WayBack::Shut(why) => line(TEXT, Some(false), why.as_str()),
    }
}

const NOTHING_YET: &str = "async has had no requests yet";

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::report::story::BaselinePath;

    /// Those of a migration that is done.
    pub(crate) fn done() -> Facts {
        let path = BaselinePath {
            n: 214_900,
            err: 300,
            tmo: 173,
            per_second: 358.2,
            p50_ms: Some(18.0),
            p95_ms: Some(96.0),
            p99_ms: Some(240.0),
            rss: Some(2 << 30),
            threads: Some(64),
        };
        let held = |share| Step { share, state: StepState::Held };
        Facts {
            baseline: Some(BaselineSummary {
                recorded_at: "2026-11-23T01:10:00Z".to_owned(),
                took_seconds: 600.0,
                stale: vec![],
                audit: None,
                paths: PerSide { legacy: path, async_: BaselinePath::default() },
            }),
            steps: [0.1, 0.5, 1.0].map(held).into(),
            requests: PerSide { legacy: 400_000, async_: 600_000 },
            share: 1.0,
            memory: PerSide {
                legacy: Memory { before: Some(2 << 30), after: None },
                async_: Memory { before: None, after: Some(310 << 20) },
            },
            certificate: Some(CertificateSummary {
                path: Side::Legacy,
                issued_at: "2026-11-24T05:00:00Z".to_owned(),
                started: 400_000,
                finished: 400_000,
                cut: 0,
                config_hash: "abc123".to_owned(),
                voided_at: None,
            }),
            way_back: WayBack::Tested("2026-11-24T02:17:33Z".to_owned()),
            ..Facts::default()
        }
    }

    fn failed(facts: &Facts) -> Vec<String> {
        let lines = checklist(facts).into_iter().filter(|line| line.passed == Some(false));
        lines.map(|line| line.detail).collect()
    }

    #[test]
    fn a_migration_that_is_done_passes_each_line() {
        let lines = checklist(&done());
        assert_eq!(lines.len(), 11);
        assert!(lines.iter().all(|line| line.passed == Some(true)), "{lines:#?}");
    }

    #[test]
    fn before_the_first_request_no_line_has_passed_or_failed() {
        let lines = checklist(&Facts::default());
        assert!(lines.iter().all(|line| line.passed.is_none()), "{lines:#?}");
    }

    #[test]
    fn each_fault_fails_its_own_line_and_says_why() {
        type Spoil = fn(&mut Facts);
        let voided = |facts: &mut Facts| {
            let certificate = facts.certificate.as_mut().unwrap();
            certificate.voided_at = Some("2026-11-24T06:00:00Z".to_owned());
        };
        let table: [(Spoil, &str); 11] = [
            (|facts| facts.baseline = None, "baseline record"),
            (|facts| facts.baseline.as_mut().unwrap().paths.legacy.rss = None, "missing: memory"),
            (
                |facts| facts.baseline.as_mut().unwrap().stale = vec!["route x".to_owned()],
                "stale: route x",
            ),
            (|facts| facts.steps[1].state = StepState::Failed("p95".to_owned()), "p95 failed"),
            (|facts| facts.timeout_divergences = 1, "seen once"),
            (|facts| facts.culprits = vec!["GET /report".to_owned()], "blocked by GET /report"),
            (|facts| facts.latch = Some("rb-1".to_owned()), "rolled back: rb-1"),
            (|facts| facts.memory.async_.after = None, "async after: not measured"),
            (voided, "void since 2026-11-24 06:00:00"),
            (|facts| facts.lost = 1, "1 lost of 1,000,000"),
            (|facts| facts.way_back = WayBack::Shut("no endpoint is up".to_owned()), "no endpoint"),
        ];
        for (spoil, why) in table {
            let mut facts = done();
            spoil(&mut facts);
            let failed = failed(&facts);
            assert!(failed.len() == 1 && failed[0].contains(why), "{why}: {failed:?}");
        }
    }

    #[test]
    fn answers_are_alike_only_where_they_were_compared() {
        let alike = |gate: Option<Gate>| {
            let lines = checklist(&Facts { gate, ..done() });
            lines.into_iter().find(|line| line.text.contains("alike")).map(|line| line.passed)
        };
        assert_eq!(alike(None), None);
        let gate = |open, failed| Some(Gate { open, failed, ..Gate::default() });
        assert_eq!(alike(gate(true, false)), Some(Some(true)));
        assert_eq!(alike(gate(false, false)), Some(None));
        assert_eq!(alike(gate(false, true)), Some(Some(false)));
    }

    #[test]
    fn half_way_the_rest_is_open() {
        let mut facts = Facts { share: 0.5, certificate: None, legacy_in_flight: 3, ..done() };
        facts.steps[2].state = StepState::Ahead;
        let open = checklist(&facts).into_iter().filter(|line| line.passed.is_none()).count();
        assert_eq!((failed(&facts), open), (vec![], 4));
    }
}
