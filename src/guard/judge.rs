//! The judge: from the counts of one tick to a verdict, `step(state, tick, rules)`.
//!
//! Pure: no clock, no chance, no log. A tick and the rules say all, so a recorded file of ticks gives
//! the same verdicts again. Evidence belongs to an epoch and starts anew with each.
//!
//! What fails async is told from what both paths share: test A compares them in the same seconds, and
//! test B counts only while legacy keeps to its baseline. Routes that go to async as a whole have no
//! control, so their test B stands apart, and rests on legacy's probes.
//!
//! `tolerance` as points: test A knows no denominators, so it can't tell points. It is therefore run
//! at its usual 1.10, which cancels what is shared, and its evidence counts only as far as the counts
//! since its climb began speak for a rate above legacy's upper bound plus the tolerance. Of two proofs
//! that must both be there the weaker one is the strength of both.

mod mirror;
mod terms;
#[cfg(test)]
mod tests;
mod watch;

use std::time::Duration;

use crate::guard::counts::{Counts, Event, Tick};
use crate::guard::evidence::{Rate, Z_95, Z_99, against_norm, detectable, float};
use crate::guard::judge::watch::{
    Case, Crowd, Memory, Sums, Watch, add, control_increments, exceeding,
};
use crate::guard::verdict::{Check, Finding, HoldReason, Missing, Test, Unshared, Verdict};
use crate::vocab::{PerSide, Side};

pub use crate::guard::counts::{Norm, Phi, Rules};

/// What the judge remembers from tick to tick.
#[derive(Clone, Debug, Default)]
pub struct State {
    // Boxed: it holds a hundred climbs, and a state is moved about.
    epoch: Option<Box<Epoch>>,
}

#[derive(Clone, Debug)]
struct Epoch {
    number: u64,
    began_ms: u64,
    // All attempts; those in groups in which both paths get requests; async's once it has settled.
    totals: PerSide<Counts>,
    compared: PerSide<Counts>,
    settled: Counts,
    // When each path last had an attempt.
    last_ms: PerSide<u64>,
    // By event: test A, and test B of legacy, of async beside it, and of async where it is alone.
    control: [Watch<5>; 6],
    legacy: [Watch<7>; 6],
    beside: [Watch<7>; 6],
    alone: [Watch<7>; 6],
    crowds: PerSide<Crowd>,
    memory: Memory,
}

/// A finding, and whether legacy is a way back from it.
type Failure = (Finding, bool);

/// What a check looks at: events of test A, and one of test B.
fn tests_of(check: Check) -> (&'static [Event], Option<Event>) {
    match check {
        Check::TimeoutDivergence => (&[Event::Timeout], Some(Event::Timeout)),
        Check::ErrorRate => (&[Event::Error, Event::Failure], Some(Event::Error)),
        Check::ClientErrorDivergence => (&[Event::ClientError], None),
        // Slower than legacy is no failure; slower than the baseline is.
        Check::P95 => (&[], Some(Event::Slow95)),
        Check::P99 => (&[], Some(Event::Slow99)),
        Check::Goodput | Check::Memory | Check::Mirror => (&[], None),
    }
}

// === impl State ===

impl State {
    /// Nothing seen yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one tick in, and says what follows.
    pub fn step(&mut self, tick: &Tick, rules: &Rules) -> Verdict {
        self.epoch.take_if(|epoch| epoch.number != tick.epoch);
        let epoch = self.epoch.get_or_insert_with(|| Box::new(Epoch::new(tick)));
        epoch.count(tick, rules);
        epoch.verdict(tick, rules)
    }

    /// The evidence against async of each check and test, in nats.
    pub fn evidence(&self) -> impl Iterator<Item = (Check, Test, f64)> {
        let of =
            |epoch: &Epoch| Check::ALL.map(|check| epoch.evidence(check)).into_iter().flatten();
        self.epoch.iter().flat_map(move |epoch| of(epoch))
    }

    /// The smallest ratio of failures, async's rate to legacy's, that test A could have caught so far
    /// in this epoch. `None`: not even an outage, for want of events or of a control.
    #[must_use]
    pub fn detectable(&self, rules: &Rules) -> Option<f64> {
        let PerSide { legacy, async_ } = self.epoch.as_ref()?.compared;
        let events = Event::Failure.of(&legacy) + Event::Failure.of(&async_);
        let share = float(async_.n) / float((legacy.n + async_.n).max(1));
        let needed = rules.fail_at * rules.phi_of(Event::Failure);
        detectable(rules.ratio_allowed(Event::Failure), share, float(events), needed)
    }
}

// === impl Epoch: counting ===

impl Epoch {
    fn new(tick: &Tick) -> Self {
        let at_ms = tick.at_ms;
        let norm = || Event::ALL.map(|event| Watch::new(Test::B, event, at_ms));
        Self {
            number: tick.epoch,
            began_ms: at_ms,
            totals: PerSide::default(),
            compared: PerSide::default(),
            settled: Counts::default(),
            last_ms: PerSide { legacy: at_ms, async_: at_ms },
            control: Event::ALL.map(|event| Watch::new(Test::A, event, at_ms)),
            legacy: norm(),
            beside: norm(),
            alone: norm(),
            crowds: PerSide::default(),
            memory: Memory::default(),
        }
    }

    fn has_lasted(&self, span: Duration, tick: &Tick) -> bool {
        u128::from(tick.at_ms.saturating_sub(self.began_ms)) >= span.as_millis()
    }

    fn count(&mut self, tick: &Tick, rules: &Rules) {
        let sums = Sums::of(tick);
        add(&mut self.totals, &sums.all);
        add(&mut self.compared, &sums.compared);
        let is_settled = self.has_lasted(rules.latency_settle, tick);
        if is_settled {
            self.settled += sums.all.async_;
        }
        for side in Side::ALL {
            if sums.all.get(side).n > 0 {
                *self.last_ms.get_mut(side) = tick.at_ms;
            }
            self.crowds.get_mut(side).look(*tick.load.get(side), tick.at_ms, rules);
        }
        self.memory.look(tick, rules);
        for event in Event::ALL.into_iter().filter(|event| is_settled || !event.is_slow()) {
            self.weigh(event, &sums, tick, rules);
        }
    }

    fn weigh(&mut self, event: Event, sums: &Sums, tick: &Tick, rules: &Rules) {
        let at = event.index();
        let Sums { all, compared, alone } = sums;
        self.control[at].add(control_increments(event, tick, rules), compared, tick, rules);
        let Some(allowed) = rules.norm_allowed(event) else {
            return;
        };
        let norm = |counts: &Counts| against_norm(allowed, event.rate(counts));
        self.legacy[at].add(norm(&all.legacy), all, tick, rules);
        self.beside[at].add(norm(&compared.async_), compared, tick, rules);
        self.alone[at].add(norm(&alone.async_), alone, tick, rules);
    }

    fn evidence(&self, check: Check) -> Vec<(Check, Test, f64)> {
        let (control, norm) = tests_of(check);
        // Of what is slow, test A only says whether the cause is shared, but it is shown.
        let control = if control.is_empty() { norm.as_slice() } else { control };
        let control = control.iter().map(|event| self.control[event.index()].value);
        let control = control.reduce(f64::max).map(|value| (check, Test::A, value));
        let norm = norm.map(|event| (check, Test::B, self.norm_value(event)));
        control.into_iter().chain(norm).collect()
    }

    fn norm_value(&self, event: Event) -> f64 {
        self.beside[event.index()].value.max(self.alone[event.index()].value)
    }

    fn verdict(&self, tick: &Tick, rules: &Rules) -> Verdict {
        let failures = self.failures(tick, rules);
        let first = failures.iter().position(|(_, is_safe)| *is_safe).unwrap_or(0);
        if let Some((finding, is_safe)) = failures.into_iter().nth(first) {
            return if is_safe { Verdict::Rollback(finding) } else { Verdict::NoSafePath(finding) };
        }
        let reasons = self.reasons_to_hold(tick, rules);
        if !reasons.is_empty() {
            return Verdict::Hold { reasons };
        }
        let missing = self.missing(tick, rules);
        if missing.is_empty() || mirror::is_at_gate(tick) {
            return Verdict::Advance;
        }
        Verdict::Wait { missing, overdue: self.has_lasted(rules.max_hold, tick) }
    }
}

// === impl Epoch: failing ===

impl Epoch {
    fn failures(&self, tick: &Tick, rules: &Rules) -> Vec<Failure> {
        let mut failures = Vec::new();
        for check in Check::ALL {
            let (control, norm) = tests_of(check);
            let cases = control.iter().filter_map(|e| self.control[e.index()].case(check, rules));
            failures.extend(cases.map(|case| {
                let is_safe = tick.legacy_safe && !self.fails_otherwise(&case, rules);
                (case.finding(self.unshared(&case, rules), tick, rules), is_safe)
            }));
            let case = norm.and_then(|event| self.norm_case(check, event, rules));
            failures.extend(case.map(|case| {
                (case.finding(self.unshared(&case, rules), tick, rules), tick.legacy_safe)
            }));
        }
        // What says nothing of requests accuses nobody until there were some.
        if self.totals.legacy.n + self.totals.async_.n > 0 {
            let thresholds = [self.goodput_finding(tick, rules), self.memory_finding(tick, rules)];
            failures.extend(thresholds.into_iter().flatten().map(|f| (f, tick.legacy_safe)));
        }
        failures.extend(mirror::finding(tick, rules).map(|found| (found, tick.legacy_safe)));
        failures
    }

    /// Test B may accuse async if legacy is on its baseline and, where there is a control, if async is
    /// worse than it as well.
    fn norm_case(&self, check: Check, event: Event, rules: &Rules) -> Option<Case<'_>> {
        if self.is_legacy_off(event, rules) {
            return None;
        }
        let is_worse = self.control[event.index()].value >= rules.shared_at;
        let beside = self.beside[event.index()].case(check, rules).filter(|_| is_worse);
        beside.or_else(|| self.alone[event.index()].case(check, rules))
    }

    /// Whether test B finds legacy off its baseline: in failures of any kind, or in this one.
    fn is_legacy_off(&self, event: Event, rules: &Rules) -> bool {
        let mut events = [Event::Error, Event::Timeout, event].into_iter();
        events.any(|event| self.legacy[event.index()].value >= rules.shared_at)
    }

    /// Whether legacy fails as much in another way: what one path answers with 503 may time out on the
    /// other. It then fails more than it is used to, and async not more than it in all.
    fn fails_otherwise(&self, case: &Case<'_>, rules: &Rules) -> bool {
        let is_async_worse = self.control[Event::Failure.index()].value >= rules.shared_at;
        if is_async_worse || rules.baseline.is_some() {
            return !is_async_worse && self.is_legacy_off(case.event, rules);
        }
        let now = case.since.seen.paths.legacy;
        let before = Event::Failure.rate(&self.compared.legacy.since(now));
        let usual = if before.n == 0 { rules.rate_min } else { before.upper(Z_95) };
        Event::Failure.rate(&now).above(usual) >= rules.shared_at
    }

    fn unshared(&self, case: &Case<'_>, rules: &Rules) -> Unshared {
        if rules.baseline.is_none() {
            Unshared::NoBaseline
        } else if self.compared.legacy.n == 0 {
            Unshared::ProbesPass
        } else if self.is_legacy_off(case.event, rules) {
            Unshared::Control
        } else {
            Unshared::OnBaseline
        }
    }

    fn goodput_finding(&self, tick: &Tick, rules: &Rules) -> Option<Finding> {
        let PerSide { legacy, async_ } = &self.crowds;
        let since_ms = lasting(async_.over_since, rules.goodput_for, tick)?;
        // Where both are crowded, what they share is slow.
        if legacy.over_since.is_some() {
            return None;
        }
        let (in_flight, factor) = (float(async_.in_flight), rules.goodput_factor);
        Some(Finding {
            async_: async_.rate(),
            legacy: legacy.rate(),
            ratio: (async_.usual > 0.0).then(|| in_flight / async_.usual),
            allowed: factor,
            needed: (factor * async_.usual).max(float(rules.goodput_min)),
            unshared: match self.compared.legacy.n {
                0 => Unshared::ProbesPass,
                _ => Unshared::Control,
            },
            ..exceeding(Check::Goodput, since_ms, in_flight, tick)
        })
    }

    fn memory_finding(&self, tick: &Tick, rules: &Rules) -> Option<Finding> {
        let since_ms = lasting(self.memory.over_since, rules.memory_for, tick)?;
        let (held, cap) = (float(self.memory.bytes?), float(rules.memory_max?));
        let finding = exceeding(Check::Memory, since_ms, held, tick);
        Some(Finding { allowed: cap, needed: cap, ..finding })
    }
}

// === impl Epoch: holding and advancing ===

impl Epoch {
    fn reasons_to_hold(&self, tick: &Tick, rules: &Rules) -> Vec<HoldReason> {
        let mut reasons: Vec<_> =
            Check::ALL.into_iter().flat_map(|check| self.held(check)).collect();
        let silent = Side::ALL.into_iter().filter(|side| self.is_silent(*side, tick, rules));
        reasons.extend(silent.map(|path| HoldReason::NoData { path }));
        reasons.extend(tick.pending.iter().copied().map(HoldReason::from));
        reasons.extend(self.memory.is_high.then_some(HoldReason::Memory));
        let fails = |event: Event| self.legacy[event.index()].is_held;
        let is_failing = !tick.legacy_safe || fails(Event::Error) || fails(Event::Timeout);
        reasons.extend(is_failing.then_some(HoldReason::LegacyFailing));
        reasons.extend(mirror::reason_to_hold(tick));
        reasons
    }

    fn held(&self, check: Check) -> Vec<HoldReason> {
        let (control, norm) = tests_of(check);
        let is_held = |test: Test| match test {
            Test::A => control.iter().any(|event| self.control[event.index()].is_held),
            Test::B => norm.is_some_and(|event| {
                self.beside[event.index()].is_held || self.alone[event.index()].is_held
            }),
        };
        let evidence = self.evidence(check).into_iter().filter(|(_, test, _)| is_held(*test));
        let evidence = evidence.map(|(check, test, value)| (check, Some(test), value));
        let crowd = &self.crowds.async_;
        let is_crowded = check == Check::Goodput && crowd.over_since.is_some();
        let crowded = is_crowded.then(|| (check, None, float(crowd.in_flight)));
        let all = evidence.chain(crowded);
        all.map(|(check, test, value)| HoldReason::Evidence { check, test, value }).collect()
    }

    /// Whether a path that should get requests had no attempt for too long.
    fn is_silent(&self, side: Side, tick: &Tick, rules: &Rules) -> bool {
        let is_due = match side {
            Side::Async => tick.step > 0.0,
            Side::Legacy if tick.groups.is_empty() => tick.step < 1.0,
            Side::Legacy => tick.groups.iter().any(|group| group.share < 1.0),
        };
        is_due && lasting(Some(*self.last_ms.get(side)), rules.data_gap, tick).is_some()
    }

    fn missing(&self, tick: &Tick, rules: &Rules) -> Vec<Missing> {
        let mut missing = Vec::new();
        let soak = rules.soak.max(3 * rules.response_timeout);
        if !self.has_lasted(soak, tick) {
            let soak_ms = u64::try_from(soak.as_millis()).unwrap_or(u64::MAX);
            let age_ms = tick.at_ms.saturating_sub(self.began_ms);
            missing.push(Missing::Soak { left_ms: soak_ms - age_ms });
        }
        let PerSide { legacy, async_ } = self.totals;
        // Of no requests nothing is known, whatever a config asks for.
        let need = rules.min_requests.max(1);
        if async_.n < need {
            missing.push(Missing::Requests { have: async_.n, need });
        }
        for event in [Event::Error, Event::Timeout] {
            let allowed = rules.advance_allowed(event, event.rate(&legacy));
            missing.extend(too_uncertain(event, event.rate(&async_), allowed, rules));
        }
        missing.extend(self.missing_of_latency(tick, rules));
        missing
    }

    fn missing_of_latency(&self, tick: &Tick, rules: &Rules) -> Vec<Missing> {
        if rules.norm_allowed(Event::Slow95).is_none() {
            return Vec::new();
        }
        if !self.has_lasted(rules.latency_settle, tick) {
            return vec![Missing::Settling];
        }
        let asked = [(Event::Slow95, 0), (Event::Slow99, rules.p99_min_requests)].into_iter();
        let asked = asked.filter(|(_, from)| self.settled.n >= *from);
        let missing = asked.filter_map(|(event, _)| {
            let allowed = rules.norm_allowed(event)?;
            too_uncertain(event, event.rate(&self.settled), allowed, rules)
        });
        missing.collect()
    }
}

// === Parts of a verdict ===

fn too_uncertain(event: Event, rate: Rate, allowed: f64, rules: &Rules) -> Option<Missing> {
    let (upper, allowed) = (rate.upper(Z_99), rules.advance_ratio * allowed);
    (upper > allowed).then_some(Missing::Rate { what: event, upper, allowed })
}

/// Since when, if it has been so for `span`.
fn lasting(since_ms: Option<u64>, span: Duration, tick: &Tick) -> Option<u64> {
    let is_enough = |since: &u64| u128::from(tick.at_ms.saturating_sub(*since)) >= span.as_millis();
    since_ms.filter(is_enough)
}
