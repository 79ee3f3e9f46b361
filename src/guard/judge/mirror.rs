//! What the comparison of answers adds to a verdict.
//!
//! Before the first step it is all there is to go by: async has no requests of its own yet, and both
//! paths answer those of clients. Later it holds the ramp, or rolls back if it is told to.

use crate::compare::gate::SHARE_MAX;
use crate::compare::kind::{GateState, Standing};
use crate::guard::counts::{Rules, Tick};
use crate::guard::evidence::{Rate, float};
use crate::guard::judge::watch::exceeding;
use crate::guard::verdict::{Check, Finding, HoldReason, Unshared};

/// Whether the ramp is about to begin, on what was compared alone.
pub(super) fn is_at_gate(tick: &Tick) -> bool {
    tick.step <= 0.0 && tick.mirror.is_some()
}

/// Why the ramp may not go on. Once it has begun, too little is no reason: requests of its own tell more.
pub(super) fn reason_to_hold(tick: &Tick) -> Option<HoldReason> {
    let state = tick.mirror?.state;
    let holds = match state {
        GateState::Open => false,
        GateState::TooFew => is_at_gate(tick),
        GateState::Against | GateState::Failed => true,
    };
    holds.then_some(HoldReason::Mirror { state })
}

/// That answers differ for certain, where this is to roll back.
pub(super) fn finding(tick: &Tick, rules: &Rules) -> Option<Finding> {
    let failed = tick.mirror.filter(|mirror| mirror.state == GateState::Failed)?;
    if is_at_gate(tick) || !rules.mismatch_rolls_back {
        return None;
    }
    let Standing { differing, compared, regressions, .. } = failed;
    let rate = Rate { events: differing, n: compared };
    let (evidence, needed) = match regressions {
        0 => (rate.value() * 100.0, SHARE_MAX * 100.0),
        regressions => (float(regressions), 1.0),
    };
    let finding = exceeding(Check::Mirror, tick.at_ms, evidence, tick);
    Some(Finding {
        async_: rate,
        allowed: SHARE_MAX,
        needed,
        unshared: Unshared::Measure,
        ..finding
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::counts::Pending;
    use crate::guard::judge::State;
    use crate::guard::verdict::Verdict;
    use crate::vocab::PerSide;

    fn tick(step: f64, mirror: Option<GateState>) -> Tick {
        let of = |state| Standing { state, differing: 40, compared: 1_234, regressions: 0 };
        Tick {
            at_ms: 250,
            epoch: 1,
            step,
            groups: Vec::new(),
            routes: std::collections::BTreeMap::new(),
            load: PerSide::default(),
            rss: PerSide::default(),
            legacy_safe: true,
            pending: Vec::new(),
            mirror: mirror.map(of),
        }
    }

    fn check(tick: &Tick, rules: &Rules) -> &'static str {
        State::new().step(tick, rules).name()
    }

    #[test]
    fn the_first_step_waits_for_the_gate_and_later_ones_for_what_speaks_against_async() {
        use GateState::{Against, Failed, Open, TooFew};
        let hold = Rules::default();
        let rollback = Rules { mismatch_rolls_back: true, ..Rules::default() };
        for (step, state, rules, expected) in [
            (0.0, None, &hold, "wait"),
            (0.0, Some(Open), &hold, "advance"),
            (0.0, Some(TooFew), &hold, "hold"),
            (0.0, Some(Against), &hold, "hold"),
            (0.0, Some(Failed), &rollback, "hold"),
            (0.1, None, &rollback, "wait"),
            (0.1, Some(Open), &rollback, "wait"),
            (0.1, Some(TooFew), &rollback, "wait"),
            (0.1, Some(Against), &rollback, "hold"),
            (0.1, Some(Failed), &hold, "hold"),
            (0.1, Some(Failed), &rollback, "rollback"),
        ] {
            assert_eq!(check(&tick(step, state), rules), expected, "{step} {state:?}");
        }
    }

    #[test]
    fn an_open_gate_is_no_approval_and_a_rollback_needs_a_way_back() {
        let waits = Tick { pending: vec![Pending::Approval], ..tick(0.0, Some(GateState::Open)) };
        assert_eq!(check(&waits, &Rules::default()), "hold");
        let unsafe_ = Tick { legacy_safe: false, ..tick(0.1, Some(GateState::Failed)) };
        let rules = Rules { mismatch_rolls_back: true, ..Rules::default() };
        assert_eq!(check(&unsafe_, &rules), "no_safe_path");
    }

    #[test]
    fn a_finding_says_how_many_answers_differ() {
        let rules = Rules { mismatch_rolls_back: true, ..Rules::default() };
        let mut tick = tick(0.1, Some(GateState::Failed));
        let text = |tick: &Tick| match State::new().step(tick, &rules) {
            Verdict::Rollback(finding) => finding.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            text(&tick),
            "within 0 s: async answers otherwise 40 of 1234 times (3.2 %), allowed 0.5 %\n\
             evidence 3.2, needed 0.5. not shared: legacy's answers are the measure."
        );
        tick.mirror = tick.mirror.map(|mirror| Standing { regressions: 2, ..mirror });
        assert!(text(&tick).contains("evidence 2, needed 1."), "{}", text(&tick));
    }

    #[test]
    fn a_tick_is_read_back_with_what_was_compared() {
        let tick = tick(0.1, Some(GateState::TooFew));
        let line = serde_json::to_string(&tick).unwrap();
        assert!(line.contains(r#""mirror":{"state":"too_few","differing":40"#), "{line}");
        assert_eq!(serde_json::from_str::<Tick>(&line).unwrap(), tick);
    }
}
