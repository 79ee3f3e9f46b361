//! What the judge keeps watch on: the climbs of each test, how crowded a path is, how much memory its
//! backend holds; each with what it saw since it began.
//!
//! Pure: numbers are gathered tick by tick, and compared with one threshold each. What follows
//! from them is the judge's to say.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use crate::guard::counts::{Counts, Event, Group, Load, Rules, TICK, Tick};
use crate::guard::evidence::{Climbs, Rate, Since, Z_99, against_control, float, has_control};
use crate::guard::verdict::{Check, Finding, ROUTES_SHOWN, Test, Unshared};
use crate::vocab::{PerSide, Side};

/// The climbs of one test of one event.
#[derive(Clone, Debug)]
pub(super) struct Watch<const J: usize> {
    test: Test,
    event: Event,
    climbs: Climbs<J, Seen>,
    /// The highest climb, in nats.
    pub(super) value: f64,
    /// Whether it holds the ramp: from `hold_at` until it is below `release_at`.
    pub(super) is_held: bool,
}

/// What a climb climbed on.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// All attempts that the test compares.
    pub(super) paths: PerSide<Counts>,
    /// Async's events by route.
    pub(super) routes: BTreeMap<String, u64>,
}

/// A climb that is high enough and whose cause matters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case<'a> {
    /// The check that it fails.
    pub(super) check: Check,
    /// Its test.
    pub(super) test: Test,
    /// Of what.
    pub(super) event: Event,
    /// How high it is, in nats.
    pub(super) evidence: f64,
    /// What it climbed on.
    pub(super) since: &'a Since<Seen>,
}

/// One tick's attempts, by what they can be compared with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    /// All.
    pub(super) all: PerSide<Counts>,
    /// Those of groups in which both paths get requests.
    pub(super) compared: PerSide<Counts>,
    /// Async's, of groups that go to async as a whole.
    pub(super) alone: PerSide<Counts>,
}

/// How many requests a path has in flight, beside those that come.
#[derive(Clone, Debug, Default)]
pub(super) struct Crowd {
    // Of the last ticks, within `goodput_for`.
    arrivals: VecDeque<u64>,
    /// How many are in flight.
    pub(super) in_flight: u64,
    /// How many usually would be: arrivals a second times the baseline's mean (Little's law).
    pub(super) usual: f64,
    /// Since when there are too many.
    pub(super) over_since: Option<u64>,
}

/// Async's memory as last read, and since when it is over the cap.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    /// In bytes.
    pub(super) bytes: Option<u64>,
    read_ms: u64,
    /// Since when it is over the hard cap.
    pub(super) over_since: Option<u64>,
    /// Whether it is over the cap or too far above legacy's baseline.
    pub(super) is_high: bool,
}

// === impl Watch ===

impl<const J: usize> Watch<J> {
    /// Nothing seen, at `at_ms`.
    #[must_use]
    pub(super) fn new(test: Test, event: Event, at_ms: u64) -> Self {
        Self { test, event, climbs: Climbs::new(at_ms), value: 0.0, is_held: false }
    }

    /// Takes in what one tick adds, and the attempts that added it.
    pub(super) fn add(
        &mut self,
        added: [f64; J],
        paths: &PerSide<Counts>,
        tick: &Tick,
        rules: &Rules,
    ) {
        let event = self.event;
        self.climbs.add(added, rules.limits(), tick.at_ms, |seen| {
            add(&mut seen.paths, paths);
            for (route, counts) in &tick.routes {
                match event.of(&counts.async_) {
                    0 => {}
                    events => *seen.routes.entry(route.clone()).or_default() += events,
                }
            }
        });
        self.value = 0.0;
        for (level, since) in self.climbs.iter() {
            self.value = self.value.max(self.strength(level, since, rules));
        }
        let limit = if self.is_held { rules.release_at } else { rules.hold_at };
        self.is_held = self.value >= limit;
    }

    /// The highest climb that fails `check`, if any does and it matters.
    #[must_use]
    pub(super) fn case(&self, check: Check, rules: &Rules) -> Option<Case<'_>> {
        let Self { test, event, .. } = *self;
        let cases = self.climbs.iter().map(|(level, since)| {
            let evidence = self.strength(level, since, rules);
            Case { check, test, event, evidence, since }
        });
        cases
            .filter(|case| case.evidence >= rules.fail_at && case.is_material(rules))
            .max_by(|one, other| one.evidence.total_cmp(&other.evidence))
    }

    // What a level is worth: less in points, if the counts do not speak as strongly for so many.
    fn strength(&self, level: f64, since: &Since<Seen>, rules: &Rules) -> f64 {
        if self.test == Test::B || !rules.is_in_points(self.event) {
            return level;
        }
        let PerSide { legacy, async_ } = since.seen.paths;
        let legacy = self.event.rate(&legacy).upper(Z_99);
        level.min(self.event.rate(&async_).above(rules.tolerated(legacy)))
    }
}

// === impl Case ===

impl Case<'_> {
    /// The rates of its event on both paths.
    #[must_use]
    pub(super) fn rates(&self) -> PerSide<Rate> {
        let PerSide { legacy, async_ } = self.since.seen.paths;
        PerSide { legacy: self.event.rate(&legacy), async_: self.event.rate(&async_) }
    }

    /// What it says, at `tick`.
    pub(super) fn finding(&self, unshared: Unshared, tick: &Tick, rules: &Rules) -> Finding {
        let PerSide { legacy, async_ } = self.rates();
        let mut routes: Vec<_> = self.since.seen.routes.clone().into_iter().collect();
        routes.sort_by_key(|(_, events)| Reverse(*events));
        routes.truncate(ROUTES_SHOWN);
        Finding {
            check: self.check,
            test: Some(self.test),
            event: Some(self.event),
            since_ms: self.since.at_ms,
            at_ms: tick.at_ms,
            async_,
            legacy,
            ratio: (legacy.events > 0).then(|| async_.value() / legacy.value()),
            allowed: match self.test {
                Test::A => rules.ratio_allowed(self.event),
                Test::B => rules.norm_allowed(self.event).unwrap_or(1.0),
            },
            evidence: self.evidence,
            needed: rules.fail_at,
            unshared,
            baseline: rules.norm_rate(self.event),
            routes,
        }
    }

    // Whether it matters: certain differences may still be small. Slow requests are told by
    // thresholds that lie apart from the baseline's quantiles, so all of them matter.
    fn is_material(&self, rules: &Rules) -> bool {
        let PerSide { legacy, async_ } = self.rates();
        let recorded = rules.recorded(self.event).unwrap_or_default();
        let usual = if legacy.n > 0 { legacy } else { recorded };
        let gain = async_.value() - usual.value();
        match self.event {
            Event::Error | Event::Timeout | Event::Failure => {
                async_.value() >= rules.rate_min && gain >= rules.gain_min
            }
            Event::ClientError => gain >= rules.client_error_gain_min,
            Event::Slow95 | Event::Slow99 => true,
        }
    }
}

// === impl Sums ===

impl Sums {
    /// The sums of a tick.
    #[must_use]
    pub(super) fn of(tick: &Tick) -> Self {
        let mut sums = Self::default();
        for group in &tick.groups {
            add(&mut sums.all, &group.paths);
            if has_control(share(group)) {
                add(&mut sums.compared, &group.paths);
            } else if group.share >= 1.0 {
                sums.alone.async_ += group.paths.async_;
            }
        }
        sums
    }
}

/// What a tick adds to the climbs of test A: a sum over groups, each with its own share.
#[must_use]
pub(super) fn control_increments(event: Event, tick: &Tick, rules: &Rules) -> [f64; 5] {
    let (allowed, phi) = (rules.ratio_allowed(event), rules.phi_of(event));
    let mut sum = [0.0; 5];
    for group in &tick.groups {
        let PerSide { legacy, async_ } = &group.paths;
        let added = against_control(allowed, share(group), event.of(async_), event.of(legacy));
        for (sum, added) in sum.iter_mut().zip(added) {
            *sum += added / phi;
        }
    }
    sum
}

/// A group's share, to nine digits: one that was read back from a file is the same then.
fn share(group: &Group) -> f64 {
    (group.share * 1e9).round() / 1e9
}

/// Adds both paths' counts.
pub(super) fn add(sums: &mut PerSide<Counts>, paths: &PerSide<Counts>) {
    for side in Side::ALL {
        *sums.get_mut(side) += *paths.get(side);
    }
}

// === impl Crowd ===

impl Crowd {
    /// Takes in the load at a tick's end.
    pub(super) fn look(&mut self, load: Load, at_ms: u64, rules: &Rules) {
        let ticks = (rules.goodput_for.as_millis() / TICK.as_millis()).max(1);
        self.arrivals.push_back(load.arrivals);
        while self.arrivals.len() as u128 > ticks {
            self.arrivals.pop_front();
        }
        self.in_flight = load.in_flight;
        let mean_ms = rules.baseline.as_ref().map_or(0.0, |norm| norm.mean_ms);
        let span_ms = TICK.as_secs_f64() * 1000.0 * float(self.arrivals.len() as u64);
        self.usual = float(self.came()) / span_ms * mean_ms;
        // Without a baseline nothing is known of what is usual.
        let is_over = mean_ms > 0.0
            && self.in_flight >= rules.goodput_min
            && float(self.in_flight) > rules.goodput_factor * self.usual;
        self.over_since = is_over.then(|| self.over_since.unwrap_or(at_ms));
    }

    /// Requests that came in the last ticks.
    #[must_use]
    pub(super) fn came(&self) -> u64 {
        self.arrivals.iter().sum()
    }

    /// In flight, and came.
    #[must_use]
    pub(super) fn rate(&self) -> Rate {
        Rate { events: self.in_flight, n: self.came() }
    }
}

// === impl Memory ===

impl Memory {
    /// Takes in a reading, if the tick has one.
    pub(super) fn look(&mut self, tick: &Tick, rules: &Rules) {
        if let Some(bytes) = tick.rss.async_ {
            (self.bytes, self.read_ms) = (Some(bytes), tick.at_ms);
        } else if u128::from(tick.at_ms.saturating_sub(self.read_ms)) >= rules.data_gap.as_millis()
        {
            // Nobody is judged by what was true a while ago.
            self.bytes = None;
        }
        let judged = self.bytes.filter(|_| tick.step >= rules.memory_step_min);
        let is_over_cap = judged.zip(rules.memory_max).is_some_and(|(bytes, cap)| bytes > cap);
        let usual = rules.baseline.as_ref().and_then(|norm| norm.rss);
        let is_over_usual = judged
            .zip(usual)
            .is_some_and(|(bytes, usual)| float(bytes) > rules.memory_ratio * float(usual));
        self.over_since = is_over_cap.then(|| self.over_since.unwrap_or(tick.at_ms));
        self.is_high = is_over_cap || is_over_usual;
    }
}

/// A finding of what is told by a threshold, not by a test.
pub(super) fn exceeding(check: Check, since_ms: u64, value: f64, tick: &Tick) -> Finding {
    Finding {
        check,
        test: None,
        event: None,
        since_ms,
        at_ms: tick.at_ms,
        async_: Rate::default(),
        legacy: Rate::default(),
        ratio: None,
        allowed: value,
        evidence: value,
        needed: value,
        unshared: Unshared::ProbesPass,
        baseline: None,
        routes: Vec::new(),
    }
}
