//! What the judge says of a tick, and the words in which an operator reads it.
//!
//! Owns the names of checks, tests and verdicts, which are labels of metrics and fields of JSON, so
//! they are stable. Decides nothing. Clock times are the caller's: here a tick has milliseconds on the
//! judge's clock.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::compare::kind::GateState;
use crate::guard::counts::{Event, Pending};
use crate::guard::evidence::Rate;
use crate::guard::figures::{grouped, percent, short, times};
use crate::vocab::Side;

/// The routes that a finding names.
pub const ROUTES_SHOWN: usize = 5;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Async times out more often.
    TimeoutDivergence,
    /// Async fails more often.
    ErrorRate,
    /// Async answers more often with 4xx.
    ClientErrorDivergence,
    /// More is slower than the baseline's P95 than should be.
    P95,
    /// More is slower than the baseline's P99 than should be.
    P99,
    /// More is in flight on async than its arrivals explain.
    Goodput,
    /// Async's backend holds too much memory.
    Memory,
    /// Async answers otherwise than legacy.
    Mirror,
}

/// Against what a path is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Test {
    /// Async against legacy, now.
    A,
    /// A path against the recorded baseline.
    B,
}

/// Why the cause is held to be async's alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unshared {
    /// Legacy is on its baseline.
    OnBaseline,
    /// Legacy is off its baseline, yet async is worse than it in the same seconds.
    Control,
    /// There is no baseline: async is worse than legacy in the same seconds.
    NoBaseline,
    /// Legacy gets no requests; all that is known is that its probes pass.
    ProbesPass,
    /// Legacy's answers are the measure.
    Measure,
}

/// The rate of the baseline, as a finding cites it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NormRate {
    /// The rate.
    pub rate: f64,
    /// Of how many attempts.
    pub n: u64,
    /// When it was recorded.
    pub recorded_at: String,
}

/// A check that failed, with the numbers of that moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Which.
    pub check: Check,
    /// By which test; `None` for goodput, memory and mirror, which have a threshold instead.
    pub test: Option<Test>,
    /// The kind of outcome that was counted; `None` for goodput, memory and mirror.
    pub event: Option<Event>,
    /// When the evidence began to climb.
    pub since_ms: u64,
    /// When it was enough.
    pub at_ms: u64,
    /// Async's events since then; for goodput, in flight and arrivals.
    #[serde(rename = "async")]
    pub async_: Rate,
    /// Legacy's.
    pub legacy: Rate,
    /// How many times legacy's rate async's is; `None` if legacy has no events.
    pub ratio: Option<f64>,
    /// What is allowed: a ratio in test A, a rate in test B; for goodput a factor, for memory bytes.
    pub allowed: f64,
    /// The evidence in nats; for goodput the number in flight, for memory bytes, for mirror regressions
    /// or, where there is none, the percentage of answers that differ.
    pub evidence: f64,
    /// What it is measured against, in the same unit.
    pub needed: f64,
    /// Why the cause is not shared.
    pub unshared: Unshared,
    /// The recorded rate, of those kinds of outcome that the baseline has.
    pub baseline: Option<NormRate>,
    /// Async's events by route, the worst first.
    pub routes: Vec<(String, u64)>,
}

/// Why the ramp is held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum HoldReason {
    /// There is evidence against async, but not enough, or not against it alone.
    Evidence {
        /// In which check.
        check: Check,
        /// By which test; `None` for goodput, which is over its limit but not for long enough.
        test: Option<Test>,
        /// How much: nats, or for goodput requests in flight.
        value: f64,
    },
    /// A path that should get requests got none for too long.
    NoData {
        /// Which.
        path: Side,
    },
    /// A person's approval is awaited.
    Approval,
    /// The webhook's approval is awaited.
    Webhook,
    /// The ramp is paused.
    Paused,
    /// Async's backend holds more memory than legacy's did, or than the cap.
    Memory,
    /// Legacy is off its baseline, or nothing may go back to it.
    LegacyFailing,
    /// Answers of both paths differ, or too few were compared to begin.
    Mirror {
        /// What the gate is.
        state: GateState,
    },
}

/// What a step still lacks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "missing", rename_all = "snake_case")]
pub enum Missing {
    /// Time.
    Soak {
        /// How much, in milliseconds.
        left_ms: u64,
    },
    /// Finished attempts on async.
    Requests {
        /// How many there are.
        have: u64,
        /// How many it takes.
        need: u64,
    },
    /// Certainty that a rate is as low as it must be.
    Rate {
        /// Which.
        what: Event,
        /// Its upper bound.
        upper: f64,
        /// The highest that this may be.
        allowed: f64,
    },
    /// The first seconds, in which what is slow is left out, are not over.
    Settling,
}

/// What follows from a tick; the worst that applies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// Async fails and legacy does not: go back.
    Rollback(Finding),
    /// Async fails, and legacy is no way back.
    NoSafePath(Finding),
    /// Stay where it is.
    Hold {
        /// Why; at least one.
        reasons: Vec<HoldReason>,
    },
    /// This step is done.
    Advance,
    /// This step is not done yet.
    Wait {
        /// What it lacks; at least one.
        missing: Vec<Missing>,
        /// Whether it has lasted longer than it should.
        overdue: bool,
    },
}

// === impl Check ===

impl Check {
    /// All of them, in the order in which they are shown and, of several that fail, named.
    pub const ALL: [Self; 8] = [
        Self::TimeoutDivergence,
        Self::ErrorRate,
        Self::ClientErrorDivergence,
        Self::P95,
        Self::P99,
        Self::Goodput,
        Self::Memory,
        Self::Mirror,
    ];

    /// The name in metrics and decisions.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TimeoutDivergence => "timeout_divergence",
            Self::ErrorRate => "error_rate",
            Self::ClientErrorDivergence => "client_error_divergence",
            Self::P95 => "p95",
            Self::P99 => "p99",
            Self::Goodput => "goodput",
            Self::Memory => "memory",
            Self::Mirror => "mirror",
        }
    }
}

// === impl Test ===

impl Test {
    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
        }
    }
}

// === impl Finding ===

impl Finding {
    /// The explanation in two or three lines, each without an end; `since` says when it began.
    #[must_use]
    pub fn text(&self, since: &str) -> String {
        let mut lines = vec![format!("{since}: {}", self.happened())];
        let unit = if self.test.is_some() { " nats" } else { "" };
        let mut proof = format!(
            "evidence {}{unit}, needed {}. not shared: {}.",
            short(self.evidence),
            short(self.needed),
            self.unshared
        );
        if let Some(norm) = &self.baseline {
            let (rate, n) = (percent(norm.rate), grouped(norm.n));
            proof.push_str(&format!(" baseline {rate} (n={n}, {})", norm.recorded_at));
        }
        lines.push(proof);
        if !self.routes.is_empty() {
            let routes = self.routes.iter().map(|(route, events)| format!("{route} {events}"));
            lines.push(format!("routes: {}.", routes.collect::<Vec<_>>().join(", ")));
        }
        lines.join("\n")
    }

    /// How long it took.
    #[must_use]
    pub fn span_seconds(&self) -> u64 {
        self.at_ms.saturating_sub(self.since_ms).div_ceil(1000)
    }

    fn happened(&self) -> String {
        let Some(event) = self.event else {
            return self.exceeded();
        };
        let did = match event {
            Event::Error => "failed",
            Event::Timeout => "timed out",
            Event::Failure => "failed or timed out",
            Event::ClientError => "were answered with 4xx",
            Event::Slow95 => "took longer than the P95 threshold",
            Event::Slow99 => "took longer than the P99 threshold",
        };
        let Rate { events, n } = self.async_;
        let mut text = format!("async {events} of {n} {did} ({})", percent(self.async_.value()));
        if self.legacy.n > 0 {
            let Rate { events, n } = self.legacy;
            text += &format!(", legacy {events} of {n} ({})", percent(self.legacy.value()));
        }
        if let Some(ratio) = self.ratio {
            text += &format!(": {}", times(ratio));
        }
        match self.test {
            Some(Test::A) => format!("{text}, allowed {:.2}x", self.allowed),
            Some(Test::B) | None => format!("{text}, allowed {}", percent(self.allowed)),
        }
    }

    // Of goodput, memory and mirror, which no event stands for.
    fn exceeded(&self) -> String {
        if self.check == Check::Memory {
            let [held, cap] = [self.evidence, self.allowed].map(|bytes| bytes / 1_048_576.0);
            return format!("async's backend holds {held:.0} MiB, allowed {cap:.0} MiB");
        }
        let Rate { events, n } = self.async_;
        if self.check == Check::Mirror {
            let (share, allowed) = (percent(self.async_.value()), percent(self.allowed));
            return format!(
                "async answers otherwise {events} of {n} times ({share}), allowed {allowed}"
            );
        }
        let usual = self.ratio.map_or_else(String::new, |r| format!(", {} the usual", times(r)));
        let allowed = times(self.allowed);
        format!("async has {events} requests in flight where {n} came{usual}, allowed {allowed}")
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(&format!("within {} s", self.span_seconds())))
    }
}

impl fmt::Display for Unshared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OnBaseline => "legacy is on its baseline",
            Self::Control => "async is worse than legacy in the same seconds",
            Self::NoBaseline => "async is worse than legacy in the same seconds (no baseline)",
            Self::ProbesPass => "legacy gets no requests and its probes pass",
            Self::Measure => "legacy's answers are the measure",
        })
    }
}

// === impl HoldReason ===

impl From<Pending> for HoldReason {
    fn from(pending: Pending) -> Self {
        match pending {
            Pending::Approval => Self::Approval,
            Pending::Webhook => Self::Webhook,
            Pending::Paused => Self::Paused,
        }
    }
}

// === impl Verdict ===

impl Verdict {
    /// The names of all states, for the metric that shows which is the present one.
    pub const NAMES: [&str; 5] = ["rollback", "no_safe_path", "hold", "advance", "wait"];

    /// The name of the state.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Rollback(_) => Self::NAMES[0],
            Self::NoSafePath(_) => Self::NAMES[1],
            Self::Hold { .. } => Self::NAMES[2],
            Self::Advance => Self::NAMES[3],
            Self::Wait { .. } => Self::NAMES[4],
        }
    }
}
