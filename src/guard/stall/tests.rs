//! The rules of conviction at their boundaries; tests/sim tries them on simulated event loops.

use super::*;

const MS: u64 = 1_000_000;
const A: RouteId = RouteId(1);
const B: RouteId = RouteId(2);

fn second(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// A gap of `length_ms` that `first` ended, with one request of each of these routes frozen.
fn gap(length_ms: u64, first: RouteId, frozen: &[u16]) -> Gap {
    let frozen = frozen.iter().map(|route| (RouteId(*route), 1)).collect();
    Gap { start_ns: 7 * MS, end_ns: (7 + length_ms) * MS, first, frozen }
}

/// One gap a second, 101 ms, 102 ms and so on, each ended by `first`.
fn noted(number: u64, first: RouteId) -> Suspects {
    let mut suspects = Suspects::default();
    (1..=number)
        .for_each(|n| suspects.note(second(n), gap(100 + n, first, &[1, 2, 3, 4, 5]), false));
    suspects
}

#[test]
fn five_gaps_that_one_route_of_five_ended_convict_it_and_four_do_not() {
    assert_eq!(noted(4, A).culprits(second(10)), []);
    let culprits = noted(5, A).culprits(second(10));
    let [culprit] = culprits.as_slice() else { panic!("{culprits:?}") };
    assert_eq!((culprit.route, culprit.firsts, culprit.gaps), (A, 5, 5));
    assert!((culprit.lift - 5.0).abs() < 1e-9, "{culprit:?}");
    assert_eq!(culprit.median, Duration::from_millis(103));
    assert_eq!(culprit.longest, Duration::from_millis(105));
}

#[test]
fn a_route_that_is_most_of_what_is_sent_is_not_convicted_for_being_first() {
    let mut suspects = noted(20, A);
    suspects.sent(second(20), A, 40);
    suspects.sent(second(20), B, 60);
    assert_eq!(suspects.culprits(second(20)), []);
    suspects.sent(second(20), B, 300);
    assert_eq!(suspects.culprits(second(20)).len(), 1);
    // A step later than the window, that is no longer so.
    suspects.sent(second(720), B, 1);
    assert_eq!(suspects.sent_until(second(720)), BTreeMap::from([(B, 1)]));
}

#[test]
fn stalls_are_told_once_those_from_before_the_conviction_too() {
    let mut suspects = noted(4, A);
    assert_eq!(suspects.fresh_stalls(), []);
    for (at, (length_ms, first)) in (5..).zip([(150, B), (200, A), (250, A), (260, A)]) {
        suspects.note(second(at), gap(length_ms, first, &[1, 2, 3, 4, 5]), false);
    }
    let lengths: Vec<_> = suspects.fresh_stalls().iter().map(|s| s.length.as_millis()).collect();
    assert_eq!(lengths, [101, 102, 103, 104, 200, 250, 260]);
    assert_eq!(suspects.fresh_stalls(), []);
}

#[test]
fn a_gap_that_the_probe_shared_is_a_stall_at_once() {
    let mut suspects = Suspects::default();
    suspects.note(second(1), gap(150, A, &[1, 2, 3]), true);
    let stall = Stall { route: None, length: Duration::from_millis(150) };
    assert_eq!(suspects.fresh_stalls(), [stall]);
    assert_eq!(suspects.fresh_stalls(), []);
}

#[test]
fn gaps_are_forgotten_with_the_window_and_bounded_in_number() {
    let mut suspects = noted(2_000, A);
    assert!(suspects.gaps.len() <= GAPS_MAX);
    let last = second(2_000);
    assert_eq!(suspects.culprits(last)[0].firsts, 512);
    assert_eq!(suspects.culprits(last + WINDOW), []);
    suspects.note(last + 2 * WINDOW, gap(100, A, &[1, 2, 3]), false);
    assert_eq!(suspects.gaps.len(), 1);
    (0..10_000).for_each(|minute| suspects.sent(second(minute * 60), A, u64::MAX));
    assert!(suspects.sent.len() <= 11);
}

#[test]
fn gaps_with_too_few_requests_or_without_the_first_are_left_out() {
    let mut suspects = Suspects::default();
    suspects.note(second(1), gap(150, A, &[1, 2]), true);
    suspects.note(second(1), gap(150, A, &[2, 3, 4]), true);
    assert_eq!(suspects.fresh_stalls(), []);
}
