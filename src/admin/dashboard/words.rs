//! What the guard says, in words: its verdict, why, and how far a drain has come.
//!
//! Pure. Plain text: whoever puts it into a page escapes it.

use serde_json::Value;

use crate::guard::counts::Event;
use crate::guard::verdict::{HoldReason, Missing, Verdict};
use crate::report::story::{count, percent, when};

/// How it is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Warn,
    Bad,
}

impl Tone {
    /// The class in the page.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Good => "good",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}

/// The guard's part of the status as one line without figures, which is read aloud as it changes.
pub(super) fn verdict(guard: &Value) -> (Tone, String) {
    if let Some(check) = guard["rollback"]["check"].as_str() {
        return (Tone::Bad, format!("Rolled back by {}", plain(check)));
    }
    if guard["mode"] == "off" {
        return (Tone::Plain, "The guard is off".to_owned());
    }
    let observes = if guard["mode"] == "observe" { " (only observes)" } else { "" };
    let (tone, text) = match parsed(guard) {
        None => (Tone::Plain, "No verdict yet".to_owned()),
        Some(Verdict::Rollback(finding)) => {
            (Tone::Bad, format!("Roll back: {}", plain(finding.check.name())))
        }
        Some(Verdict::NoSafePath(finding)) => {
            (Tone::Bad, format!("No safe path: {}", plain(finding.check.name())))
        }
        Some(Verdict::Hold { .. }) => (Tone::Warn, "Hold: the ramp stays where it is".to_owned()),
        Some(Verdict::Advance) => (Tone::Good, "Advance: this step is done".to_owned()),
        Some(Verdict::Wait { overdue: true, .. }) => {
            (Tone::Warn, "Wait: this step lasts longer than it should".to_owned())
        }
        Some(Verdict::Wait { overdue: false, .. }) => {
            (Tone::Plain, "Wait: this step is not done yet".to_owned())
        }
    };
    (tone, format!("{text}{observes}"))
}

/// Why it says so, a line each.
pub(super) fn reasons(guard: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(id) = guard["rollback"]["id"].as_str() {
        let since = guard["rollback"]["at"].as_str().map(when).unwrap_or_default();
        lines.push(format!("{id}, since {since} UTC. It stays until it is released."));
    }
    lines.extend(match parsed(guard) {
        None | Some(Verdict::Advance) => Vec::new(),
        Some(Verdict::Rollback(finding) | Verdict::NoSafePath(finding)) => {
            finding.to_string().lines().map(str::to_owned).collect()
        }
        Some(Verdict::Hold { reasons }) => reasons.iter().map(reason).collect(),
        Some(Verdict::Wait { missing, .. }) => missing.iter().map(lacks).collect(),
    });
    if let Some(ratio) = guard["detectable"].as_f64() {
        lines.push(format!("This step could have caught failures at {ratio:.2} times legacy's."));
    }
    lines
}

fn parsed(guard: &Value) -> Option<Verdict> {
    serde_json::from_value(guard["verdict"].clone()).ok()
}

fn reason(reason: &HoldReason) -> String {
    match reason {
        HoldReason::Evidence { check, test: Some(test), value } => {
            let (check, test) = (plain(check.name()), test.name());
            format!("Evidence against async in {check}, test {test}: {value:.1} nats.")
        }
        HoldReason::Evidence { check, test: None, value } => {
            format!("Evidence against async in {}: {value:.0} in flight.", plain(check.name()))
        }
        HoldReason::NoData { path } => format!("There are no requests on {path}."),
        HoldReason::Approval => "The next step waits for an approval.".to_owned(),
        HoldReason::Webhook => "The webhook has not taken the last decision yet.".to_owned(),
        HoldReason::Paused => "The ramp is paused.".to_owned(),
        HoldReason::Memory => "Async's backend holds too much memory.".to_owned(),
        HoldReason::LegacyFailing => "Legacy is failing, or is no way back.".to_owned(),
        HoldReason::Mirror { state } => {
            let state = serde_json::to_value(state).unwrap_or_default();
            format!("Answers compared: {}.", plain(state.as_str().unwrap_or_default()))
        }
    }
}

fn lacks(missing: &Missing) -> String {
    match missing {
        Missing::Soak { left_ms } => {
            let seconds = left_ms.div_ceil(1000);
            format!("Time: {} min {:02} s to go.", seconds / 60, seconds % 60)
        }
        Missing::Requests { have, need } => {
            format!("Requests on async: {} of {}.", count(*have), count(*need))
        }
        Missing::Rate { what, upper, allowed } => {
            let what = match what {
                Event::Error => "errors",
                Event::Timeout => "timeouts",
                Event::Failure => "errors and timeouts",
                Event::ClientError => "4xx",
                Event::Slow95 => "requests slower than P95",
                Event::Slow99 => "requests slower than P99",
            };
            let (upper, allowed) = (percent(*upper), percent(*allowed));
            format!("Certainty: {what} may be up to {upper}, allowed {allowed}.")
        }
        Missing::Settling => "The first seconds, which are not judged by latency.".to_owned(),
    }
}

/// A name of the API as it is read.
pub(super) fn plain(name: &str) -> String {
    name.replace('_', " ")
}

/// Where the drain of a path stands, by its part of the status.
pub(super) fn drain(status: &Value) -> (Tone, String) {
    let certificate = &status["certificate"];
    if let Some(at) = certificate["void"]["at"].as_str() {
        let requests = certificate["void"]["requests"].as_u64().unwrap_or_default();
        let text = format!("Certificate void since {}: {requests} requests came", when(at));
        return (Tone::Bad, text);
    }
    if let Some(at) = certificate["issued_at"].as_str() {
        return (Tone::Good, format!("Safe to switch off, certified {}", when(at)));
    }
    let stage = &status["stage"];
    match stage["phase"].as_str() {
        None => (Tone::Plain, "Not drained".to_owned()),
        Some("waiting") => (Tone::Warn, format!("Waits for {}", left(&stage["left"]))),
        Some("quiet") => {
            let seconds = stage["seconds_left"].as_f64().unwrap_or_default();
            (Tone::Warn, format!("Nothing is left; must stay so for {seconds:.0} s more"))
        }
        Some("timed_out") => {
            (Tone::Bad, format!("Not done in time; left: {}", left(&stage["left"])))
        }
        Some("called_off") => (Tone::Bad, "Called off: requests may go there again".to_owned()),
        Some(other) => (Tone::Plain, plain(other)),
    }
}

fn left(left: &Value) -> String {
    let kinds = left.as_object().into_iter().flatten();
    let kinds = kinds.filter(|(_, number)| number.as_u64() != Some(0));
    kinds.map(|(kind, number)| format!("{number} {kind}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_verdict_has_one_line_without_figures_and_its_reasons_have_them() {
        let guard = |mode: &str, verdict: Value| json!({ "mode": mode, "verdict": verdict });
        let wait = json!({ "verdict": "wait", "overdue": false, "missing": [
            { "missing": "requests", "have": 1200, "need": 2000 },
            { "missing": "soak", "left_ms": 61_001 },
        ]});
        let hold = json!({ "verdict": "hold", "reasons": [
            { "reason": "evidence", "check": "p95", "test": "B", "value": 7.25 },
            { "reason": "no_data", "path": "legacy" },
            { "reason": "mirror", "state": "too_few" },
        ]});
        for (guard, tone, line, because) in [
            (guard("off", Value::Null), Tone::Plain, "The guard is off", vec![]),
            (guard("enforce", Value::Null), Tone::Plain, "No verdict yet", vec![]),
            (
                guard("observe", wait),
                Tone::Plain,
                "Wait: this step is not done yet (only observes)",
                vec!["Requests on async: 1,200 of 2,000.", "Time: 1 min 02 s to go."],
            ),
            (
                guard("enforce", hold),
                Tone::Warn,
                "Hold: the ramp stays where it is",
                vec![
                    "Evidence against async in p95, test B: 7.2 nats.",
                    "There are no requests on legacy.",
                    "Answers compared: too few.",
                ],
            ),
            (
                guard("enforce", json!({ "verdict": "advance" })),
                Tone::Good,
                "Advance: this step is done",
                vec![],
            ),
        ] {
            assert_eq!(verdict(&guard), (tone, line.to_owned()));
            assert_eq!(reasons(&guard), because, "{line}");
        }
        let latch = json!({ "id": "rb-1", "check": "error_rate", "at": "2026-11-24T02:17:33Z" });
        let guard = json!({ "mode": "enforce", "verdict": null, "rollback": latch });
        assert_eq!(verdict(&guard), (Tone::Bad, "Rolled back by error rate".to_owned()));
        let since = "rb-1, since 2026-11-24 02:17:33 UTC. It stays until it is released.";
        assert_eq!(reasons(&guard), [since]);
    }

    #[test]
    fn a_drain_says_how_far_it_is() {
        let left = json!({ "requests": 2, "queued": 0, "tunnels": 1 });
        let issued = "2026-11-24T02:17:33Z";
        for (status, tone, text) in [
            (json!({ "stage": null, "certificate": null }), Tone::Plain, "Not drained"),
            (
                json!({ "stage": { "phase": "waiting", "left": left } }),
                Tone::Warn,
                "Waits for 2 requests, 1 tunnels",
            ),
            (
                json!({ "stage": { "phase": "quiet", "seconds_left": 4.6 } }),
                Tone::Warn,
                "Nothing is left; must stay so for 5 s more",
            ),
            (
                json!({ "stage": { "phase": "timed_out", "left": left } }),
                Tone::Bad,
                "Not done in time; left: 2 requests, 1 tunnels",
            ),
            (
                json!({ "certificate": { "issued_at": issued } }),
                Tone::Good,
                "Safe to switch off, certified 2026-11-24 02:17:33",
            ),
            (
                json!({ "certificate": { "issued_at": issued, "void": { "at": issued, "requests": 3 } } }),
                Tone::Bad,
                "Certificate void since 2026-11-24 02:17:33: 3 requests came",
            ),
        ] {
            assert_eq!(drain(&status), (tone, text.to_owned()));
        }
    }
}
