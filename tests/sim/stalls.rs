//! Who blocks the event loop, tried on a simulated one: its gaps are found as a worker finds them, from
//! the first progress after the last one while the endpoint was busy.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use cutover::guard::stall::{Culprit, Gap, Stall, Suspects};
use cutover::vocab::RouteId;

use crate::event_loop::{
    BLOCKING, Load, MS, RESPONSE_TIMEOUT, Random, SECOND, STALL_AFTER, answers, eight,
    eight_of_which_block, handler, load,
};

/// Answers that come so soon after each other may be noted in either order.
const NEARLY: u64 = 2 * MS;

// === The worker and the control plane ===

/// What the guard made of a run.
#[derive(Default)]
struct Seen {
    /// When each route was first convicted.
    convicted: BTreeMap<usize, Duration>,
    last: Vec<Culprit>,
    stalls: Vec<Stall>,
    gaps: usize,
}

/// What a worker knows of the endpoint.
struct Worker {
    present: Vec<u32>,
    busy_since: u64,
    progressed: u64,
}

impl Worker {
    fn enter(&mut self, at: u64, route: usize) {
        if self.present.iter().all(|number| *number == 0) {
            self.busy_since = at;
        }
        self.present[route] += 1;
    }

    fn progress(&mut self, at: u64, route: usize) -> Option<Gap> {
        let start = self.progressed.max(self.busy_since);
        self.progressed = at;
        let is_gap = at - start >= STALL_AFTER && self.present.iter().sum::<u32>() >= 3;
        let frozen = (0..).map(RouteId).zip(self.present.iter().copied());
        let frozen = frozen.filter(|(_, number)| *number > 0).collect();
        is_gap.then_some(Gap { start_ns: start, end_ns: at, first: id(route), frozen })
    }
}

fn id(route: usize) -> RouteId {
    RouteId(u16::try_from(route).unwrap())
}

/// Whether the guard is told which requests are sent.
#[derive(Clone, Copy, PartialEq)]
enum Sent {
    Told,
    Untold,
}

/// The run with this seed, seen by a guard that looks once a second.
fn watch(load: &Load, seed: u64, told: Sent) -> Seen {
    let requests = load.requests(seed);
    let mut events = Vec::new();
    for ((number, request), answer) in requests.iter().enumerate().zip(answers(load, &requests)) {
        let deadline = request.at + RESPONSE_TIMEOUT;
        events.push((request.at, false, number));
        events.push((answer.unwrap_or(deadline).min(deadline), true, number));
    }
    events.retain(|(at, ..)| *at <= load.seconds * SECOND);
    events.sort_unstable();
    swap(&mut events, load.swapped, seed);
    let mut worker = Worker { present: vec![0; load.handlers.len()], busy_since: 0, progressed: 0 };
    let (mut suspects, mut seen, mut looked) = (Suspects::default(), Seen::default(), 0);
    for (at, is_end, number) in events {
        let (now, route) = (Duration::from_nanos(at), requests[number].route);
        if at >= looked + SECOND {
            looked = at;
            seen.look(&mut suspects, now);
        }
        if !is_end {
            worker.enter(at, route);
            if told == Sent::Told {
                suspects.sent(now, id(route), 1);
            }
            continue;
        }
        let is_answer = at < requests[number].at + RESPONSE_TIMEOUT;
        if let Some(gap) = is_answer.then(|| worker.progress(at, route)).flatten() {
            seen.gaps += 1;
            suspects.note(now, gap, false);
        }
        worker.present[route] -= 1;
    }
    seen.look(&mut suspects, Duration::from_secs(load.seconds));
    seen
}

/// Notes some answers that come at nearly the same time in the other order.
fn swap(events: &mut [(u64, bool, usize)], share: f64, seed: u64) {
    let mut random = Random(seed);
    for first in 1..events.len() {
        let [(at, is_end, _), (next, is_next_end, _)] = [events[first - 1], events[first]];
        let is_near = is_end && is_next_end && next - at <= NEARLY;
        if is_near && random.unit() < share {
            (events[first - 1].2, events[first].2) = (events[first].2, events[first - 1].2);
        }
    }
}

impl Seen {
    fn look(&mut self, suspects: &mut Suspects, now: Duration) {
        self.stalls.extend(suspects.fresh_stalls());
        self.last = suspects.culprits(now);
        for culprit in &self.last {
            self.convicted.entry(usize::from(culprit.route.0)).or_insert(now);
        }
    }
}

/// How many of the runs missed one of those who block, and how many convicted somebody else.
#[derive(Debug, PartialEq)]
struct Faults {
    missed: usize,
    false_: usize,
}

const NONE: Faults = Faults { missed: 0, false_: 0 };

fn faults(load: &Load, seeds: Range<u64>, blocking: &[usize]) -> Faults {
    faults_if(load, seeds, blocking, Sent::Told)
}

fn faults_if(load: &Load, seeds: Range<u64>, blocking: &[usize], told: Sent) -> Faults {
    let runs: Vec<_> = seeds.map(|seed| watch(load, seed, told)).collect();
    let is_missed = |run: &&Seen| blocking.iter().any(|route| !run.convicted.contains_key(route));
    let is_false = |run: &&Seen| run.convicted.keys().any(|route| !blocking.contains(route));
    let faults = Faults {
        missed: runs.iter().filter(is_missed).count(),
        false_: runs.iter().filter(is_false).count(),
    };
    let latest = runs.iter().flat_map(|run| run.convicted.values()).max();
    let gaps: usize = runs.iter().map(|run| run.gaps).sum();
    println!("{}/s, {blocking:?}: {faults:?}, {gaps} gaps, latest {latest:?}", load.rate);
    faults
}

// === What it must find, and what it must not ===

#[test]
fn the_route_that_blocks_the_loop_is_convicted_and_no_other_one() {
    for rate in [10, 30, 100] {
        let load = load(eight_of_which_block(&[BLOCKING]), rate, 60);
        assert_eq!(faults(&load, 0..20, &[BLOCKING]), NONE);
    }
}

#[test]
fn it_stays_convicted_although_two_workers_disagree_about_who_was_first() {
    let handlers = eight_of_which_block(&[BLOCKING]);
    for seconds in [60, 120] {
        let two = Load { swapped: 0.3, ..load(handlers.clone(), 10, seconds) };
        let last = (0..40).map(|seed| watch(&two, seed, Sent::Told).last);
        let named: Vec<Vec<_>> = last.map(|last| last.iter().map(|c| c.route).collect()).collect();
        let found = named.iter().filter(|routes| **routes == [id(BLOCKING)]).count();
        println!("after {seconds} s: {found} of 40");
        assert!(named.iter().flatten().all(|route| *route == id(BLOCKING)), "{named:?}");
        assert!(found >= 39, "after {seconds} s: {found} of 40");
    }
}

#[test]
fn its_gaps_are_stalls_each_once() {
    let seen = watch(&load(eight_of_which_block(&[BLOCKING]), 30, 60), 1, Sent::Told);
    let culprit = seen.last.first().unwrap();
    assert!(seen.stalls.iter().all(|stall| stall.route == Some(id(BLOCKING))));
    assert_eq!(seen.stalls.len(), usize::try_from(culprit.firsts).unwrap());
    assert!(culprit.median >= Duration::from_millis(300), "{culprit:?}");
}

#[test]
fn two_routes_that_block_the_loop_are_both_convicted_and_no_other_one() {
    for rate in [10, 30, 100] {
        let faults = faults(&load(eight_of_which_block(&[2, 6]), rate, 60), 0..20, &[2, 6]);
        // Each waits behind the other, and so is a good part of what is frozen: a lift of 3 may take
        // longer than a minute.
        assert!(faults.missed <= 1, "{rate}: {faults:?}");
        assert_eq!(faults.false_, 0, "{rate}");
    }
}

#[test]
fn without_a_blocking_call_nobody_is_convicted() {
    for (rate, seeds) in [(10, 0..200), (100, 0..20)] {
        assert_eq!(faults(&load(eight(), rate, 300), seeds, &[]), NONE);
    }
    // Over twenty hours in all, one window of ten minutes convicts somebody, by its lift.
    let faults_of_hours = faults(&load(eight(), 10, 1_800), 0..40, &[]);
    assert!(faults_of_hours.false_ <= 1, "{faults_of_hours:?}");
    // The route of 100 ms is as slow as the shortest gap, so at this rate every gap is its own: it
    // comes to an idle endpoint, and is done first. One run in 1,500 convicts it.
    let faults = faults(&load(eight(), 30, 300), 0..200, &[]);
    assert!(faults.false_ <= 1, "{faults:?}");
}

#[test]
fn slow_routes_beside_fast_ones_are_not_convicted_nor_are_the_fast_ones() {
    let slow = [eight(), vec![handler(8.0 / 9.0, 300)]].concat();
    for rate in [5, 10, 30, 100] {
        assert_eq!(faults(&load(slow.clone(), rate, 120), 0..20, &[]), NONE);
    }
    for (fast, slow) in [(2, 300), (120, 2_000)] {
        let half = vec![handler(1.0, fast), handler(1.0, slow)];
        assert_eq!(faults(&load(half, 5, 120), 0..20, &[]), NONE);
    }
}

#[test]
fn a_slow_route_and_few_requests_convict_nobody() {
    for wait in [300, 2_000] {
        let slow = vec![handler(1.0, wait), handler(1.0, 20)];
        assert_eq!(faults(&load(slow, 1, 300), 0..20, &[]), NONE);
    }
}

#[test]
fn without_the_shares_of_what_is_sent_a_fast_route_would_be_convicted() {
    let half = load(vec![handler(1.0, 2), handler(1.0, 300)], 5, 300);
    let faults = faults_if(&half, 0..20, &[], Sent::Untold);
    assert!(faults.false_ >= 15, "{faults:?}");
}

// === The limits that are stated ===

#[test]
fn of_four_loops_behind_one_address_a_blocked_one_is_seen_under_load_only() {
    for (rate, expected) in [(10, 20), (100, 0)] {
        let handlers = eight_of_which_block(&[BLOCKING]);
        let four = Load { loops: 4, ..load(handlers, rate, 60) };
        assert_eq!(faults(&four, 0..20, &[BLOCKING]), Faults { missed: expected, false_: 0 });
    }
}

#[test]
fn a_handler_that_awaits_after_its_blocking_call_is_not_found_and_others_may_be_blamed() {
    let mut handlers = eight_of_which_block(&[BLOCKING]);
    handlers[BLOCKING].wait = 0;
    handlers[BLOCKING].then_wait = 30;
    for rate in [10, 30, 100] {
        assert_eq!(faults(&load(handlers.clone(), rate, 60), 0..20, &[BLOCKING]).missed, 20);
    }
}
