//! What is known of the differences of the two paths, as `GET /api/v1/diffs` answers it.
//!
//! Owns the shape of that document: names are stable. The report and the command line read it too.

use serde::{Deserialize, Serialize};

use crate::compare::gate::Gate;
use crate::compare::kind::Kind;
use crate::compare::redact::Shown;

/// The differences that are listed, the worst first: more than a person reads.
pub const LISTED_MAX: usize = 512;

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Diffs {
    /// The share of requests that both paths answer; 0 while none is mirrored.
    pub share: f64,
    /// Set while none is, as that made clients wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switched_off: Option<SwitchedOff>,
    /// What it says of the async path.
    pub gate: Gate,
    /// Each route that was compared, or is to be.
    pub routes: Vec<RouteDiffs>,
    /// Where answers differed: regressions first, noise last.
    pub differences: Vec<DiffLine>,
    /// Differences that are not listed, or that were not counted for want of room.
    pub left_out: u64,
    /// Answers that had a name twice in one JSON object.
    pub duplicate_names: u64,
    /// The rules, and how often each applied.
    pub rules: Vec<RuleHits>,
}

/// Why the mirror was switched off: requests that were drawn for it took longer than others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SwitchedOff {
    /// When, RFC 3339.
    pub since: String,
    /// How strongly that speaks against it, in nats.
    pub evidence: f64,
    /// Slow requests of clients among those that were drawn to be mirrored.
    pub slow_drawn: u64,
    /// And among those that were not.
    pub slow_plain: u64,
}

/// What was found on one route. Counts are halved from time to time, so that what is new weighs more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteDiffs {
    /// Its name.
    pub route: String,
    /// Whether a regression on it closes the gate.
    pub critical: bool,
    /// Answers that were compared.
    pub compared: u64,
    /// Of these, those in which nothing differed.
    pub matched: u64,
    /// Those in which only noise did.
    pub noise: u64,
    /// Those that differed, and were not asked for again.
    pub unconfirmed: u64,
    /// How often that was for want of capacity: at most one a second is asked for again.
    pub unasked: u64,
    /// Those that differed again.
    pub confirmed: u64,
    /// Those that did not differ any more.
    pub transient: u64,
    /// Answers that async owed where legacy gave one.
    pub failures: u64,
    /// Times that the primary path was asked twice.
    pub asked_twice: u64,
    /// Whether it was compared often enough to say anything.
    pub verified: bool,
}

/// A spot in which answers differed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiffLine {
    /// `regression`, `difference` or `noise`.
    pub finding: String,
    /// The route.
    pub route: String,
    /// In what.
    pub kind: Kind,
    /// Where: a pointer or a header; empty for the whole answer.
    pub place: String,
    /// How often the paths differed there.
    pub differed: u64,
    /// Of how many comparisons.
    pub compared: u64,
    /// How often one path differed from itself there.
    pub noise: u64,
    /// Of how many times that it was asked twice.
    pub asked_twice: u64,
    /// The newest examples.
    pub samples: Vec<Sample>,
}

/// One example.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Its number among all.
    pub number: u64,
    /// The request's id, as in the access log.
    pub request_id: String,
    /// The request's method.
    pub method: String,
    /// The names of its query's parameters; `*` for those that are data.
    pub query: Vec<String>,
    /// What legacy had there.
    pub legacy: Option<Shown>,
    /// What async had there.
    #[serde(rename = "async")]
    pub async_: Option<Shown>,
    /// Whether the paths still differed when they were asked again.
    pub confirmed: bool,
}

/// A rule, and how often it applied: one that never did may be stale.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleHits {
    /// The route that has it.
    pub route: String,
    /// The config's key: `ignore`, `shape_only`, `unordered`, `reveal`, `tolerance`.
    pub rule: String,
    /// The pointer, or the tolerance.
    pub text: String,
    /// How often it applied.
    pub hits: u64,
}

// === impl Diffs ===

impl Diffs {
    /// Whether there is anything to show.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.share <= 0.0 && self.gate.compared == 0
    }

    /// The same without the samples.
    #[must_use]
    pub fn without_samples(mut self) -> Self {
        self.differences.iter_mut().for_each(|line| line.samples.clear());
        self
    }
}

impl RouteDiffs {
    /// Answers that differed beyond noise, and not for a moment only.
    #[must_use]
    pub fn differed(&self) -> u64 {
        self.unconfirmed + self.confirmed
    }
}

impl DiffLine {
    /// The name of a finding that is a regression.
    pub const REGRESSION: &str = "regression";

    /// Whether async is worse there.
    #[must_use]
    pub fn is_regression(&self) -> bool {
        self.finding == Self::REGRESSION
    }
}
