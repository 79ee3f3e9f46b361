//! The gate before the ramp: whether what was compared speaks for the async path, against it, or not yet.

use serde::{Deserialize, Serialize};

use crate::compare::kind::{GateState, Kind, Standing};
use crate::guard::evidence::{Rate, Z_99, float};

/// Comparisons below which nothing is decided.
pub const COMPARED_MIN: u64 = 1_000;
/// The share of answers that may differ, by its upper bound.
pub const SHARE_MAX: f64 = 0.005;
/// Answers that must differ again when they are asked for again, or be owed, before async is proven to be
/// worse: no burst makes as many, as at most one a second is asked for again.
const PROVEN_MIN: u64 = 10;
/// Comparisons of a route below which it is unverified.
pub const ROUTE_COMPARED_MIN: u64 = 30;
/// The reasons that are given; the worst come first.
const REASONS_MAX: usize = 16;

/// What the comparison says of the async path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// Whether the ramp may begin.
    pub open: bool,
    /// Whether async is proven to be worse, not just not proven to be as good.
    pub failed: bool,
    /// Why it is closed; empty while it is open.
    pub reasons: Vec<GateReason>,
    /// Comparisons, and answers that async owed.
    pub compared: u64,
    /// Of these the ones that count as different.
    pub differing: u64,
    /// The upper bound of their share, 99 % certain.
    pub upper: f64,
    /// Routes with fewer than [`ROUTE_COMPARED_MIN`] comparisons.
    pub unverified: Vec<String>,
}

/// Why the gate is closed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum GateReason {
    /// A critical route has one.
    Regression {
        /// Which route.
        route: String,
        /// In what.
        kind: Kind,
        /// Where: a pointer or a header; empty for the whole answer.
        place: String,
    },
    /// Too large a share of the answers differs, or may.
    Mismatches {
        /// The share.
        share: f64,
        /// Its upper bound.
        upper: f64,
        /// The highest that this may be.
        allowed: f64,
    },
    /// Too few were compared.
    TooFew {
        /// How many were.
        have: u64,
        /// How many it takes, if none of them differs.
        need: u64,
    },
}

/// What is known of a route.
#[derive(Clone, Debug)]
pub struct RouteFacts {
    /// Its name.
    pub route: String,
    /// Comparisons, and how many of them count as different.
    pub rate: Rate,
    /// How many of these are confirmed, or were owed.
    pub proven: u64,
    /// Regressions, if it is critical.
    pub regressions: Vec<(Kind, String)>,
}

/// So many comparisons it takes for the upper bound of none to be low enough.
fn needed() -> u64 {
    let (z2, n) = (Z_99 * Z_99, float(COMPARED_MIN));
    let enough = (z2 * (1.0 / SHARE_MAX - 1.0)).ceil().max(n);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "about a thousand")]
    let enough = enough as u64;
    enough
}

/// Judges what is known of all routes.
#[must_use]
pub fn judge(routes: &[RouteFacts]) -> Gate {
    let sum = |of: fn(&Rate) -> u64| routes.iter().map(|facts| of(&facts.rate)).sum();
    let rate = Rate { events: sum(|rate| rate.events), n: sum(|rate| rate.n) };
    let (upper, need) = (rate.upper(Z_99), needed());
    let proven: u64 = routes.iter().map(|facts| facts.proven).sum();
    let is_worse = proven >= PROVEN_MIN && rate.lower(Z_99) > SHARE_MAX;
    let regressions = routes.iter().flat_map(|facts| {
        facts.regressions.iter().map(|(kind, place)| GateReason::Regression {
            route: facts.route.clone(),
            kind: *kind,
            place: place.clone(),
        })
    });
    let mut reasons: Vec<GateReason> = regressions.take(REASONS_MAX).collect();
    let failed = is_worse || !reasons.is_empty();
    if rate.n < need && !is_worse {
        reasons.push(GateReason::TooFew { have: rate.n, need });
    } else if upper > SHARE_MAX {
        reasons.push(GateReason::Mismatches { share: rate.value(), upper, allowed: SHARE_MAX });
    }
    let unverified = routes.iter().filter(|facts| facts.rate.n < ROUTE_COMPARED_MIN);
    Gate {
        open: reasons.is_empty(),
        failed,
        reasons,
        compared: rate.n,
        differing: rate.events,
        upper,
        unverified: unverified.map(|facts| facts.route.clone()).collect(),
    }
}

// === impl GateReason ===

impl std::fmt::Display for GateReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Regression { route, kind, place } => {
                write!(f, "regression on {route}: {} {place}", kind.name())
            }
            Self::Mismatches { share, upper, allowed } => {
                let [share, upper, allowed] = [share, upper, allowed].map(|part| part * 100.0);
                write!(
                    f,
                    "{share:.2} % of answers differ, by the upper bound {upper:.2} %, allowed {allowed} %"
                )
            }
            Self::TooFew { have, need } => write!(f, "{have} of {need} comparisons"),
        }
    }
}

// === impl Gate ===

impl Gate {
    /// What the judge is told of it.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let is_regression = |reason: &&GateReason| matches!(reason, GateReason::Regression { .. });
        let is_too_few = |reason: &GateReason| matches!(reason, GateReason::TooFew { .. });
        let state = match (self.open, self.failed) {
            (true, _) => GateState::Open,
            (false, true) => GateState::Failed,
            (false, false) if self.reasons.iter().any(is_too_few) => GateState::TooFew,
            (false, false) => GateState::Against,
        };
        Standing {
            state,
            differing: self.differing,
            compared: self.compared,
            regressions: self.reasons.iter().filter(is_regression).count() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(route: &str, events: u64, n: u64) -> RouteFacts {
        let rate = Rate { events, n };
        RouteFacts { route: route.to_owned(), rate, proven: events, regressions: Vec::new() }
    }

    /// Whether it is open, whether it is failed, and the names of its reasons.
    fn check(routes: &[RouteFacts]) -> (bool, bool, Vec<String>) {
        let gate = judge(routes);
        let name = |reason: &GateReason| match reason {
            GateReason::Regression { place, .. } => format!("regression {place}"),
            GateReason::Mismatches { .. } => "mismatches".to_owned(),
            GateReason::TooFew { .. } => "too few".to_owned(),
        };
        (gate.open, gate.failed, gate.reasons.iter().map(name).collect())
    }

    #[test]
    fn the_gate_opens_on_enough_comparisons_that_hardly_differ() {
        for (events, n, open, failed, reasons) in [
            (0, 0, false, false, &["too few"][..]),
            (0, 1_076, false, false, &["too few"]),
            (0, 1_077, true, false, &[]),
            (1, 1_077, false, false, &["mismatches"]),
            (1, 2_000, true, false, &[]),
            (5, 500, false, false, &["too few"]),
            (9, 9, false, false, &["too few"]),
            (10, 10, false, true, &["mismatches"]),
            (50, 500, false, true, &["mismatches"]),
            (50, 10_000, false, false, &["mismatches"]),
            (100, 10_000, false, true, &["mismatches"]),
        ] {
            let found = check(&[facts("a", events, n)]);
            let expected = (open, failed, reasons.iter().map(|&r| r.to_owned()).collect());
            assert_eq!(found, expected, "{events} of {n}");
        }
    }

    #[test]
    fn what_was_not_confirmed_proves_nothing_however_much_it_is() {
        let unconfirmed = RouteFacts { proven: 9, ..facts("a", 900, 2_000) };
        assert_eq!(check(&[unconfirmed]), (false, false, vec!["mismatches".to_owned()]));
    }

    #[test]
    fn routes_are_judged_together_and_unverified_ones_are_listed() {
        let gate = judge(&[facts("a", 0, 1_060), facts("b", 0, 29), facts("c", 0, 30)]);
        assert!(gate.open);
        assert_eq!((gate.compared, gate.unverified), (1_119, vec!["b".to_owned()]));
    }

    #[test]
    fn a_regression_on_a_critical_route_closes_it_whatever_the_share() {
        let mut critical = facts("pay", 4, 1_000_000);
        critical.regressions = vec![(Kind::Type, "/total".to_owned())];
        let expected = (false, true, vec!["regression /total".to_owned()]);
        assert_eq!(check(&[facts("a", 0, 1_000_000), critical]), expected);
    }

    #[test]
    fn the_judge_is_told_what_the_gate_is() {
        for (events, n, state) in [
            (0, 10, GateState::TooFew),
            (9, 10, GateState::TooFew),
            (10, 10, GateState::Failed),
            (0, 2_000, GateState::Open),
            (3, 2_000, GateState::Against),
            (50, 2_000, GateState::Failed),
        ] {
            let standing = judge(&[facts("a", events, n)]).standing();
            assert_eq!(
                standing,
                Standing { state, differing: events, compared: n, regressions: 0 }
            );
        }
        let mut critical = facts("pay", 4, 10);
        critical.regressions = vec![(Kind::Type, "/total".to_owned()); 2];
        let standing = judge(&[critical]).standing();
        assert_eq!((standing.state, standing.regressions), (GateState::Failed, 2));
    }
}
