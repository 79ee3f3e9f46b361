//! A decision: what an operator reads of each transition, in the log, the API, the command line and
//! the webhook alike.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::guard::verdict::Finding;

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Nothing goes to the async path any more.
    Rollback,
    /// The async path fails, and there is no way back.
    NoSafePath,
    /// The async path fails, and the guard only observes.
    WouldRollBack,
    /// The ramp goes on to the next step.
    Advance,
    /// A step lasts longer than `max_hold`.
    Overdue,
    /// A rollback was released.
    Resume,
    /// The ramp stands still.
    Pause,
    /// The ramp goes on.
    Continue,
    /// The next step may be taken.
    Approve,
    /// A path's drain ended.
    Drain,
    /// A baseline was recorded.
    Baseline,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// By which it is known: `rb-20261124-021733`.
    pub id: String,
    /// When, RFC 3339.
    pub time: String,
    /// What.
    pub kind: Kind,
    /// Who decided: `guard` or `operator`.
    pub who: String,
    /// The largest weight in effect before.
    pub from: f64,
    /// And after.
    pub to: f64,
    /// From the decision until it was in force, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<f64>,
    /// The check that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finding: Option<Finding>,
    /// The smallest regression that this step could have caught, as a ratio of rates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detectable: Option<f64>,
    /// The routes that block the event loop, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stalls: Vec<String>,
    /// All of it in words, several lines.
    pub text: String,
}

impl Kind {
    /// The name in headlines.
    #[must_use]
    pub const fn headline(self) -> &'static str {
        match self {
            Self::Rollback => "ROLLBACK",
            Self::NoSafePath => "NO SAFE PATH",
            Self::WouldRollBack => "WOULD ROLL BACK",
            Self::Advance => "ADVANCE",
            Self::Overdue => "OVERDUE",
            Self::Resume => "RESUME",
            Self::Pause => "PAUSE",
            Self::Continue => "CONTINUE",
            Self::Approve => "APPROVE",
            Self::Drain => "DRAIN",
            Self::Baseline => "BASELINE",
        }
    }

    /// The word for the change log.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Rollback => "rollback",
            Self::NoSafePath => "no_safe_path",
            Self::WouldRollBack => "would_roll_back",
            Self::Advance => "ramp",
            Self::Overdue => "overdue",
            Self::Resume => "resume",
            Self::Pause => "pause",
            Self::Continue => "continue",
            Self::Approve => "approve",
            Self::Drain => "drain",
            Self::Baseline => "baseline",
        }
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::Rollback => "rb",
            Self::NoSafePath => "ns",
            Self::WouldRollBack => "wr",
            Self::Advance => "ad",
            Self::Overdue => "od",
            Self::Resume | Self::Pause | Self::Continue | Self::Approve => "op",
            Self::Drain => "dr",
            Self::Baseline => "bl",
        }
    }
}

/// An id for a decision of this moment, given RFC 3339: `rb-20261124-021733`. `is_known` tells
/// whether an id is taken; such a one gets a number.
#[must_use]
pub fn id(kind: Kind, time: &str, is_known: impl Fn(&str) -> bool) -> String {
    let digits: String = time.chars().filter(char::is_ascii_digit).take(14).collect();
    let (date, clock) = digits.split_at(digits.len().min(8));
    let base = format!("{}-{date}-{clock}", kind.prefix());
    let numbered = (2_u32..).map(|number| format!("{base}-{number}"));
    std::iter::once(base.clone()).chain(numbered).find(|id| !is_known(id)).unwrap_or(base)
}

impl Decision {
    /// A decision at `time` to go from one weight to another.
    #[must_use]
    pub fn new(kind: Kind, id: String, time: String, who: &str, (from, to): (f64, f64)) -> Self {
        Self {
            id,
            time,
            kind,
            who: who.to_owned(),
            from,
            to,
            took_ms: None,
            finding: None,
            detectable: None,
            stalls: Vec::new(),
            text: String::new(),
        }
    }

    /// Notes how long it took to be in force.
    #[must_use]
    pub fn in_force_after(mut self, took: Option<Duration>) -> Self {
        self.took_ms = took.map(|took| (took.as_secs_f64() * 1e5).round() / 1e2);
        self
    }

    /// Puts it into words; `since` is the wall-clock time at which the evidence began, and `remarks` are
    /// lines of its own kind.
    #[must_use]
    pub fn worded(mut self, since: &str, remarks: &[String]) -> Self {
        let mut text = format!("{} {} step={}%", self.kind.headline(), self.id, percent(self.from));
        if let Some(finding) = &self.finding {
            text.push_str(&format!(" check={}", finding.check.name()));
        }
        text.push_str(&format!(", weight {} -> {}", self.from, self.to));
        if let Some(took) = self.took_ms {
            text.push_str(&format!(" in {took} ms"));
        }
        text.push_str(&format!(", by {}", self.who));
        if let Some(finding) = &self.finding {
            let since = format!("since {since} ({} s)", finding.span_seconds());
            text.push_str(&format!("\n{}", finding.text(&since)));
        }
        for stall in &self.stalls {
            text.push_str(&format!("\n{stall}"));
        }
        for remark in remarks {
            text.push_str(&format!("\n{remark}"));
        }
        if let Some(ratio) = self.detectable {
            text.push_str(&format!("\nthis step could have caught failures at {ratio:.2}x"));
        }
        if self.kind == Kind::Rollback {
            text.push_str(&format!("\nundo: mend it, then `cutover resume {}`", self.id));
        }
        self.text = text;
        self
    }
}

fn percent(share: f64) -> f64 {
    (share * 1e4).round() / 1e2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::counts::Event;
    use crate::guard::evidence::Rate;
    use crate::guard::verdict::{Check, NormRate, Test, Unshared};

    const TIME: &str = "2026-11-24T02:17:33.123Z";

    #[test]
    fn ids_tell_the_time_and_are_unlike() {
        assert_eq!(id(Kind::Rollback, TIME, |_| false), "rb-20261124-021733");
        let taken = ["rb-20261124-021733", "rb-20261124-021733-2"];
        let next = id(Kind::Rollback, TIME, |id| taken.contains(&id));
        assert_eq!(next, "rb-20261124-021733-3");
    }

    #[test]
    fn a_rollback_says_what_happened_where_and_how_to_undo_it() {
        let id = id(Kind::Rollback, TIME, |_| false);
        let mut decision = Decision::new(Kind::Rollback, id, TIME.to_owned(), "guard", (0.1, 0.0));
        decision.finding = Some(Finding {
            check: Check::TimeoutDivergence,
            test: Some(Test::A),
            event: Some(Event::Timeout),
            since_ms: 0,
            at_ms: 3_000,
            async_: Rate { events: 10, n: 31 },
            legacy: Rate { events: 1, n: 288 },
            ratio: Some(93.0),
            allowed: 1.1,
            evidence: 16.8,
            needed: 16.0,
            unshared: Unshared::OnBaseline,
            baseline: Some(NormRate {
                rate: 0.0022,
                n: 214_900,
                recorded_at: "2026-11-24 01:10".to_owned(),
            }),
            routes: vec![("GET /orders/{id}".to_owned(), 9), ("GET /cart".to_owned(), 1)],
        });
        let decision =
            decision.in_force_after(Some(Duration::from_micros(300))).worded("02:17:30", &[]);
        assert_eq!(
            decision.text,
            "ROLLBACK rb-20261124-021733 step=10% check=timeout_divergence, weight 0.1 -> 0 in \
             0.3 ms, by guard\n\
             since 02:17:30 (3 s): async 10 of 31 timed out (32 %), legacy 1 of 288 (0.35 %): 93x, \
             allowed 1.10x\n\
             evidence 16.8 nats, needed 16. not shared: legacy is on its baseline. baseline 0.22 % \
             (n=214,900, 2026-11-24 01:10)\n\
             routes: GET /orders/{id} 9, GET /cart 1.\n\
             undo: mend it, then `cutover resume rb-20261124-021733`"
        );
        let json = serde_json::to_string(&decision).unwrap();
        assert_eq!(serde_json::from_str::<Decision>(&json).unwrap(), decision);
    }
}
