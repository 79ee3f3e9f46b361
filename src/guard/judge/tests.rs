//! The judge at the exact boundaries of its rules, and the text of what it finds.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::guard::counts::{DivergenceMode, Group, Load, Pending};
use crate::guard::verdict::NormRate;

fn counts(n: u64, err: u64) -> Counts {
    Counts { n, err, ..Counts::default() }
}

/// A tick of a healthy path with 9 requests on legacy and `async_` on async.
fn tick(at_ms: u64, async_: Counts) -> Tick {
    Tick {
        at_ms,
        epoch: 1,
        step: 0.5,
        groups: vec![Group { share: 0.5, paths: PerSide { legacy: counts(9, 0), async_ } }],
        routes: BTreeMap::new(),
        load: PerSide::default(),
        rss: PerSide::default(),
        legacy_safe: true,
        pending: Vec::new(),
        mirror: None,
    }
}

fn norm() -> Norm {
    let recorded_at = "2026-11-24 01:10".to_owned();
    Norm { n: 100_000, err: 0, tmo: 0, mean_ms: 20.0, rss: Some(1000), recorded_at, slow: true }
}

/// The verdicts of `ticks` that are alike but for their time.
fn verdicts(judge: &mut State, like: &Tick, ticks: u64, rules: &Rules) -> Vec<Verdict> {
    let at = |turn: u64| Tick { at_ms: like.at_ms + 250 * turn, ..like.clone() };
    (0..ticks).map(|turn| judge.step(&at(turn), rules)).collect()
}

fn last(judge: &mut State, like: &Tick, ticks: u64, rules: &Rules) -> Verdict {
    verdicts(judge, like, ticks, rules).pop().unwrap()
}

fn reasons(verdict: &Verdict) -> &[HoldReason] {
    match verdict {
        Verdict::Hold { reasons } => reasons,
        Verdict::Rollback(_) | Verdict::NoSafePath(_) | Verdict::Advance | Verdict::Wait { .. } => {
            &[]
        }
    }
}

#[test]
fn a_rollback_takes_four_ticks_at_the_cap_and_not_three() {
    let rules = Rules::default();
    let names: Vec<_> = verdicts(&mut State::new(), &tick(0, counts(9, 9)), 4, &rules)
        .iter()
        .map(Verdict::name)
        .collect();
    assert_eq!(names, ["wait", "hold", "hold", "rollback"]);
}

#[test]
fn evidence_holds_from_6_and_lets_go_below_3() {
    let rules = Rules { cap: 3.0, ..Rules::default() };
    let mut judge = State::new();
    let is_held = |verdict: &Verdict| !reasons(verdict).is_empty();
    // One error more is ln(0.9412 / 0.5238) = 0.586; one of legacy's is -2.09.
    let bad = verdicts(&mut judge, &tick(0, counts(9, 9)), 2, &rules);
    assert_eq!(bad.iter().map(is_held).collect::<Vec<_>>(), [false, true]);
    let mut seen = Vec::new();
    for turn in 2..12 {
        let mut mending = tick(250 * turn, counts(9, 0));
        mending.groups[0].paths.legacy.err = 1;
        let verdict = judge.step(&mending, &rules);
        let value = judge.evidence().map(|(_, _, value)| value).fold(0.0, f64::max);
        seen.push((value, is_held(&verdict)));
    }
    assert!(seen.iter().any(|(value, is_held)| *is_held && *value < 6.0), "{seen:?}");
    assert!(seen.iter().all(|(value, is_held)| *is_held == (*value >= 3.0)), "{seen:?}");
    assert!(seen.iter().any(|(_, is_held)| !*is_held), "{seen:?}");
}

#[test]
fn a_new_epoch_starts_anew() {
    let rules = Rules::default();
    let mut judge = State::new();
    last(&mut judge, &tick(0, counts(9, 9)), 3, &rules);
    let next = Tick { epoch: 2, ..tick(750, counts(9, 9)) };
    assert_eq!(last(&mut judge, &next, 3, &rules).name(), "hold");
    assert_eq!(last(&mut judge, &Tick { at_ms: 1500, ..next }, 1, &rules).name(), "rollback");
}

#[test]
fn what_is_certain_but_small_rolls_nothing_back() {
    // 0.09 % against none: certain in the end, and below 0.1 %.
    let rules = Rules::default();
    for (n, is_material) in [(1112, false), (1000, true)] {
        let mut like = tick(0, counts(n, 1));
        like.groups[0].paths.legacy.n = n;
        let all = verdicts(&mut State::new(), &like, 400, &rules);
        assert_eq!(all.iter().any(|v| v.name() == "rollback"), is_material, "1 of {n}");
        assert_eq!(all.last().unwrap().name(), if is_material { "rollback" } else { "hold" });
    }
}

#[test]
fn client_errors_may_be_half_as_many_again() {
    let rules = Rules::default();
    for (c4, found) in [(15, None), (16, None), (40, Some(Check::ClientErrorDivergence))] {
        let mut like = tick(0, Counts { n: 100, c4, ..Counts::default() });
        like.groups[0].paths.legacy = Counts { n: 100, c4: 10, ..Counts::default() };
        let verdict = last(&mut State::new(), &like, 40, &rules);
        let check =
            if let Verdict::Rollback(finding) = verdict { Some(finding.check) } else { None };
        assert_eq!(check, found, "{c4} to 10");
    }
}

#[test]
fn slowness_counts_after_it_has_settled_and_only_where_legacy_is_not_slow() {
    let rules = Rules { baseline: Some(norm()), ..Rules::default() };
    let slow = Counts { n: 9, slow95: 9, ..Counts::default() };
    let mut judge = State::new();
    let early = verdicts(&mut judge, &tick(0, slow), 120, &rules);
    assert!(early.iter().all(|verdict| verdict.name() == "wait"), "{early:?}");
    let verdict = last(&mut judge, &tick(30_000, slow), 4, &rules);
    assert!(matches!(&verdict, Verdict::Rollback(f) if f.check == Check::P95), "{verdict:?}");
    let mut both = tick(30_000, slow);
    both.groups[0].paths.legacy = slow;
    let mut judge = State::new();
    last(&mut judge, &tick(0, counts(9, 0)), 120, &rules);
    assert_eq!(last(&mut judge, &both, 400, &rules).name(), "hold");
}

#[test]
fn a_step_is_done_when_soak_requests_and_certainty_are_there() {
    let rules = Rules { baseline: Some(norm()), ..Rules::default() };
    let mut judge = State::new();
    // 9 requests a tick: the upper bound of no error falls to 0.15 % at 3603.
    let all = verdicts(&mut judge, &tick(0, counts(9, 0)), 1202, &rules);
    let first = all.iter().position(|verdict| *verdict == Verdict::Advance);
    assert_eq!(first, Some(1200), "{:?}", all.last());
    let few = verdicts(&mut State::new(), &tick(0, counts(2, 0)), 7201, &rules);
    let first = few.iter().position(|verdict| *verdict == Verdict::Advance).unwrap();
    assert_eq!(first + 1, 1802, "the first with 3603 requests");
    let needed = |ticks| last(&mut State::new(), &tick(0, counts(0, 0)), ticks, &rules);
    assert!(matches!(needed(240), Verdict::Wait { overdue: false, .. }));
    let reasons = vec![HoldReason::NoData { path: Side::Async }];
    assert_eq!(needed(241), Verdict::Hold { reasons });
    let late = Rules { data_gap: Duration::MAX, ..rules.clone() };
    let verdict = last(&mut State::new(), &tick(0, counts(0, 0)), 7201, &late);
    assert!(matches!(verdict, Verdict::Wait { overdue: true, .. }), "{verdict:?}");
}

#[test]
fn a_step_needs_its_requests_even_where_rates_are_high() {
    // Half of all may fail, so rates are certain soon; and of none nothing is known.
    let half = Norm { err: 50_000, tmo: 50_000, slow: false, ..norm() };
    for (min_requests, expected) in [(500, 56), (0, 1)] {
        let zero = Duration::ZERO;
        let lax = Rules { min_requests, soak: zero, response_timeout: zero, ..Rules::default() };
        let lax = Rules { baseline: Some(half.clone()), ..lax };
        let all = verdicts(&mut State::new(), &tick(0, counts(9, 0)), 60, &lax);
        let first = all.iter().position(|verdict| *verdict == Verdict::Advance);
        assert_eq!(first, Some(expected - 1), "{min_requests}");
    }
}

#[test]
fn the_ramp_waits_for_people_and_for_a_way_back() {
    let rules = Rules::default();
    let pending = vec![Pending::Approval, Pending::Webhook, Pending::Paused];
    let asked = Tick { pending, legacy_safe: false, ..tick(0, counts(9, 0)) };
    let verdict = State::new().step(&asked, &rules);
    let expected =
        [HoldReason::Approval, HoldReason::Webhook, HoldReason::Paused, HoldReason::LegacyFailing];
    assert_eq!(reasons(&verdict), expected);
}

#[test]
fn a_crowd_on_async_alone_is_rolled_back_after_ten_seconds() {
    let rules = Rules { baseline: Some(norm()), ..Rules::default() };
    // 36 a second for 20 ms each: less than one in flight is usual, so 20 is what matters.
    let load = |legacy, async_| PerSide {
        legacy: Load { in_flight: legacy, arrivals: 9 },
        async_: Load { in_flight: async_, arrivals: 9 },
    };
    for (legacy, async_, ticks, expected) in
        [(0, 20, 40, "hold"), (0, 20, 41, "rollback"), (0, 19, 41, "wait"), (20, 20, 41, "hold")]
    {
        let like = Tick { load: load(legacy, async_), ..tick(0, counts(9, 0)) };
        let name = last(&mut State::new(), &like, ticks, &rules).name();
        assert_eq!(name, expected, "{legacy} and {async_} for {ticks}");
    }
}

#[test]
fn memory_holds_above_its_ratio_and_fails_above_its_cap_at_half_the_traffic() {
    let rules = Rules { baseline: Some(norm()), memory_max: Some(2000), ..Rules::default() };
    for (bytes, step, ticks, expected) in [
        (1500, 0.5, 1, "wait"),
        (1501, 0.5, 1, "hold"),
        (1501, 0.5, 241, "hold"),
        (2001, 0.5, 240, "hold"),
        (2001, 0.5, 241, "rollback"),
        (2001, 0.1, 241, "wait"),
    ] {
        let rss = PerSide { legacy: None, async_: Some(bytes) };
        let like = Tick { step, rss, ..tick(0, counts(9, 0)) };
        let name = last(&mut State::new(), &like, ticks, &rules).name();
        assert_eq!(name, expected, "{bytes} at {step} for {ticks}");
    }
}

#[test]
fn a_tolerance_in_points_allows_so_many_points() {
    let absolute = Rules { divergence_mode: DivergenceMode::Absolute, ..Rules::default() };
    for (err, relative, points) in [(8, "rollback", "wait"), (30, "rollback", "rollback")] {
        let mut like = tick(0, counts(100, err));
        like.groups[0].paths.legacy = counts(100, 0);
        for (rules, expected) in [(&Rules::default(), relative), (&absolute, points)] {
            let all = verdicts(&mut State::new(), &like, 400, rules);
            assert_eq!(all.last().unwrap().name(), expected, "{err} of 100");
        }
    }
}

#[test]
fn routes_that_go_to_async_as_a_whole_are_judged_apart() {
    let rules = Rules { baseline: Some(norm()), ..Rules::default() };
    let mut mixed = tick(0, counts(9, 0));
    let alone = PerSide { legacy: Counts::default(), async_: counts(9, 9) };
    mixed.groups.push(Group { share: 1.0, paths: alone });
    mixed.step = 1.0;
    let verdict = last(&mut State::new(), &mixed, 4, &rules);
    assert!(matches!(&verdict, Verdict::Rollback(f) if f.test == Some(Test::B)), "{verdict:?}");
}

#[test]
fn what_could_have_been_caught_shrinks_as_events_come() {
    let rules = Rules::default();
    let mut judge = State::new();
    assert_eq!(judge.detectable(&rules), None);
    let mut like = tick(0, counts(9, 1));
    like.groups[0].paths.legacy.err = 1;
    last(&mut judge, &like, 5, &rules);
    assert_eq!(judge.detectable(&rules), None, "10 events: not even an outage, ln 2 each");
    last(&mut judge, &Tick { at_ms: 1250, ..like }, 95, &rules);
    let found = judge.detectable(&rules).unwrap();
    assert!((2.0..3.0).contains(&found), "{found}");
}

#[test]
fn a_finding_is_told_in_three_lines() {
    let finding = Finding {
        check: Check::TimeoutDivergence,
        test: Some(Test::A),
        event: Some(Event::Timeout),
        since_ms: 1000,
        at_ms: 3750,
        async_: Rate { events: 10, n: 31 },
        legacy: Rate { events: 1, n: 288 },
        ratio: Some(92.9),
        allowed: 1.1,
        evidence: 16.84,
        needed: 16.0,
        unshared: Unshared::OnBaseline,
        baseline: Some(NormRate {
            rate: 0.0022,
            n: 214_900,
            recorded_at: "2026-11-24 01:10".to_owned(),
        }),
        routes: vec![("GET /orders/{id}".to_owned(), 9), ("GET /cart".to_owned(), 1)],
    };
    let expected = "since 02:17:30 (3 s): async 10 of 31 timed out (32 %), \
         legacy 1 of 288 (0.35 %): 93x, allowed 1.10x\n\
         evidence 16.8 nats, needed 16. not shared: legacy is on its baseline. \
         baseline 0.22 % (n=214,900, 2026-11-24 01:10)\n\
         routes: GET /orders/{id} 9, GET /cart 1.";
    assert_eq!(finding.text("since 02:17:30 (3 s)"), expected);
    assert!(finding.to_string().starts_with("within 3 s: async 10 of 31"));
    let alone = Finding {
        test: Some(Test::B),
        legacy: Rate::default(),
        ratio: None,
        allowed: 0.0024,
        unshared: Unshared::ProbesPass,
        baseline: None,
        routes: Vec::new(),
        ..finding
    };
    let expected = "now: async 10 of 31 timed out (32 %), allowed 0.24 %\n\
         evidence 16.8 nats, needed 16. not shared: legacy gets no requests and its probes pass.";
    assert_eq!(alone.text("now"), expected);
}
