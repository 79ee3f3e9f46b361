//! Who blocks the event loop: which route's requests are first to be answered after an endpoint's gaps.
//!
//! Pure: gaps come from the workers, time is an argument. After a blocking call returns, its own handler
//! goes on first, so in the gaps that one route makes, its request is the first with progress. Without a
//! blocking call a gap is chance, and it is ended by whoever is done next. That is a route's turn as
//! often as its requests are sent, however few of them are in flight: a route of 2 ms beside one of
//! 300 ms is hardly ever among the requests that wait, yet it ends every other gap. So what chance would
//! give a route is the larger of two shares: of the requests that were frozen, and of those sent.
//!
//! A first is counted against all gaps, not only those in which the route was frozen. The lift is the
//! same either way, but a fast route is frozen in little else than the gaps that it ends: against those
//! alone, ten ends by chance look certain. Of several culprits each would hide the others, as no one is
//! first in most gaps. So gaps that another suspect ended are left out when one is tried, and a suspect
//! is whoever is first clearly more often than chance would have it, over all gaps.
//!
//! What convicts is a lift of 3; or to be first in most gaps with a gap for many of one's own requests, as
//! the first progress is not always noted first where several workers are woken at once.
//!
//! Three limits. A route that is more than a third of the traffic can't have a lift of 3. A handler that
//! awaits again after its blocking call is not first, and others are, which may convict a fast route.
//! And of several loops behind one address, those that are not blocked hide the gap of the one that is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::vocab::RouteId;

#[cfg(test)]
mod tests;

/// Gaps that are kept: a loop blocked for 300 ms at a time, without a pause, has them in 150 s, and a
/// culprit is found within seconds of that. With 256 routes frozen in each they take 2 MiB.
const GAPS_MAX: usize = 512;

/// How far back gaps count: long enough for a route that is called every other minute to be found, and
/// short enough for one that was mended to be let go.
const WINDOW: Duration = Duration::from_secs(600);

/// Requests sent are counted by such steps, so the window is at most one of them too long.
const STEP: Duration = Duration::from_secs(60);

/// With fewer frozen requests than these a gap is one slow request, or two.
const FROZEN_MIN: u32 = 3;

/// Fewer gaps than these convict nobody, whatever their concentration.
const FIRSTS_MIN: u32 = 5;

/// How many times as often as by chance a culprit is first.
const LIFT_MIN: f64 = 3.0;

/// The same for a suspect: of two culprits that are alike, each is first in half of the gaps.
const SUSPECT_LIFT_MIN: f64 = 1.5;

/// By how much the lower bound of a culprit's first-share exceeds what chance would give it.
const BOUND_LIFT: f64 = 2.0;

/// Or it is first in most gaps, which needs no such lift: with three requests frozen, one of which is
/// always the culprit's, a lift of 3 leaves no room for a single gap whose end was noted wrongly.
const MOST: f64 = 0.5;

/// The part of such a route's requests that make a gap. A call that blocks makes one nearly each time; a
/// route that is as slow as the shortest gap ends most of those that chance makes, but these are few.
const GAPS_PER_REQUEST: f64 = 0.25;

/// What chance may give such a one at the most: that which one of three requests has.
const CHANCE_MAX: f64 = 1.0 / 3.0;

/// The standard normal distribution's quantile for two-sided 99 %. The bound is looked at after each gap
/// and for each route: at 95 % one healthy run in twenty convicts a route that is about as slow as the
/// shortest gap.
const Z: f64 = 2.575_829;

/// A time in which nothing came from an endpoint although requests waited for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// When the last thing had come, or the endpoint had become busy.
    pub start_ns: u64,
    /// When something came again.
    pub end_ns: u64,
    /// The route of the request for which it came.
    pub first: RouteId,
    /// The requests in flight at that moment, the first one included, by route.
    pub frozen: Vec<(RouteId, u32)>,
}

/// A route that blocks the loop.
#[derive(Clone, Debug, PartialEq)]
pub struct Culprit {
    /// The route.
    pub route: RouteId,
    /// Gaps in the window in which it was first: its stalls.
    pub firsts: u32,
    /// Those and all gaps that no other suspect ended.
    pub gaps: u32,
    /// How many times as often as by chance it was first.
    pub lift: f64,
    /// The middle one of its stalls.
    pub median: Duration,
    /// The longest of its stalls.
    pub longest: Duration,
}

/// A gap that was no chance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Whose it was; `None` where only the probe tells of it.
    pub route: Option<RouteId>,
    /// How long it lasted.
    pub length: Duration,
}

/// The gaps of one path's endpoints in the last ten minutes, and whom they point to.
#[derive(Debug, Default)]
pub struct Suspects {
    gaps: VecDeque<Kept>,
    sent: VecDeque<Step>,
}

/// A gap in the window.
#[derive(Debug)]
struct Kept {
    at: Duration,
    length: Duration,
    first: RouteId,
    frozen: BTreeMap<RouteId, u32>,
    standing: Standing,
}

/// What is known of a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It may be chance.
    Open,
    /// The probe was held up too.
    Shared,
    /// It was told of as a stall.
    Told,
}

/// The requests sent in one step of time.
#[derive(Debug)]
struct Step {
    number: u128,
    sent: BTreeMap<RouteId, u64>,
}

/// How often a route was first, and how often chance would have it.
#[derive(Clone, Copy, Debug)]
struct Odds {
    firsts: u32,
    gaps: u32,
    by_chance: f64,
    // Its requests in the window; 0 where nobody counts them.
    sent: u64,
}

// === impl Suspects ===

impl Suspects {
    /// Takes a gap; `probe_shared`: the endpoint's loop probe was held up in it.
    ///
    /// One with too few requests, or whose first is not among them, says nothing and is left out.
    pub fn note(&mut self, now: Duration, gap: Gap, probe_shared: bool) {
        let frozen: BTreeMap<_, _> =
            gap.frozen.into_iter().filter(|(_, number)| *number > 0).collect();
        let sum = frozen.values().fold(0_u32, |sum, number| sum.saturating_add(*number));
        if sum < FROZEN_MIN || !frozen.contains_key(&gap.first) {
            return;
        }
        while self.gaps.front().is_some_and(|kept| !is_recent(kept.at, now))
            || self.gaps.len() >= GAPS_MAX
        {
            self.gaps.pop_front();
        }
        let length = Duration::from_nanos(gap.end_ns.saturating_sub(gap.start_ns));
        let standing = if probe_shared { Standing::Shared } else { Standing::Open };
        self.gaps.push_back(Kept { at: now, length, first: gap.first, frozen, standing });
    }

    /// `number` requests of `route` were sent to the path since the last time.
    pub fn sent(&mut self, now: Duration, route: RouteId, number: u64) {
        let current = step_of(now);
        while self.sent.front().is_some_and(|step| step.number + step_of(WINDOW) < current) {
            self.sent.pop_front();
        }
        // A clock that went back counts for the newest step: steps stay in order, and bounded.
        if self.sent.back().is_none_or(|step| step.number < current) {
            self.sent.push_back(Step { number: current, sent: BTreeMap::new() });
        }
        if let Some(step) = self.sent.back_mut() {
            let sum = step.sent.entry(route).or_default();
            *sum = sum.saturating_add(number);
        }
    }

    /// The routes that block the loop, by what is known at `now`; the one with the most stalls first.
    #[must_use]
    pub fn culprits(&self, now: Duration) -> Vec<Culprit> {
        let gaps: Vec<_> = self.gaps.iter().filter(|kept| is_recent(kept.at, now)).collect();
        let sent = self.sent_until(now);
        let suspects: BTreeSet<_> = gaps.iter().map(|kept| kept.first).collect();
        let suspects: BTreeSet<_> = suspects
            .into_iter()
            .filter(|route| {
                odds(*route, &gaps, &sent).is_some_and(|odds| odds.exceed(SUSPECT_LIFT_MIN, 1.0))
            })
            .collect();
        let mut culprits: Vec<_> =
            suspects.iter().filter_map(|route| convict(*route, &suspects, &gaps, &sent)).collect();
        culprits.sort_by_key(|culprit| std::cmp::Reverse(culprit.firsts));
        culprits
    }

    /// The stalls that were not told of before: gaps of culprits, those from before they were convicted
    /// too, and gaps that the probe shared. A gap that is pushed out of the window first is lost, so ask
    /// as often as gaps are noted.
    pub fn fresh_stalls(&mut self) -> Vec<Stall> {
        let Some(now) = self.gaps.back().map(|kept| kept.at) else {
            return Vec::new();
        };
        let convicted: BTreeSet<_> =
            self.culprits(now).into_iter().map(|culprit| culprit.route).collect();
        self.gaps.iter_mut().filter_map(|kept| kept.tell(&convicted)).collect()
    }

    /// The requests sent in the window that ends at `now`.
    fn sent_until(&self, now: Duration) -> BTreeMap<RouteId, u64> {
        let mut sums = BTreeMap::new();
        let recent = |step: &&Step| step.number + step_of(WINDOW) >= step_of(now);
        for (route, number) in self.sent.iter().filter(recent).flat_map(|step| &step.sent) {
            let sum: &mut u64 = sums.entry(*route).or_default();
            *sum = sum.saturating_add(*number);
        }
        sums
    }
}

// === impl Kept ===

impl Kept {
    /// Makes a stall of it, once, if it is one.
    fn tell(&mut self, convicted: &BTreeSet<RouteId>) -> Option<Stall> {
        let route = convicted.contains(&self.first).then_some(self.first);
        let is_stall = match self.standing {
            Standing::Open => route.is_some(),
            Standing::Shared => true,
            Standing::Told => false,
        };
        is_stall.then(|| {
            self.standing = Standing::Told;
            Stall { route, length: self.length }
        })
    }
}

// === impl Odds ===

impl Odds {
    fn lift(self) -> f64 {
        f64::from(self.firsts) / f64::from(self.gaps) / self.by_chance
    }

    fn convict(self) -> bool {
        let bound = wilson_lower(self.firsts, self.gaps);
        let is_habit = f64::from(self.firsts) > GAPS_PER_REQUEST * self.sent as f64;
        let is_likely = self.by_chance <= CHANCE_MAX + 1e-9;
        let is_most = self.sent > 0 && is_habit && is_likely && bound > MOST;
        self.exceed(LIFT_MIN, BOUND_LIFT) || is_most
    }

    fn exceed(self, lift_min: f64, bound_lift: f64) -> bool {
        // A lift of exactly 3 is one of three frozen each time, and rounding must not decide.
        self.firsts >= FIRSTS_MIN
            && self.lift() >= lift_min - 1e-9
            && wilson_lower(self.firsts, self.gaps) > bound_lift * self.by_chance
    }
}

/// Tries one suspect on the gaps that no other one ended.
fn convict(
    route: RouteId,
    suspects: &BTreeSet<RouteId>,
    gaps: &[&Kept],
    sent: &BTreeMap<RouteId, u64>,
) -> Option<Culprit> {
    let is_its_case = |kept: &&&Kept| kept.first == route || !suspects.contains(&kept.first);
    let gaps: Vec<_> = gaps.iter().filter(is_its_case).copied().collect();
    let odds = odds(route, &gaps, sent).filter(|odds| odds.convict())?;
    let led = gaps.iter().filter(|kept| kept.first == route);
    let mut lengths: Vec<_> = led.map(|kept| kept.length).collect();
    lengths.sort_unstable();
    Some(Culprit {
        route,
        firsts: odds.firsts,
        gaps: odds.gaps,
        lift: odds.lift(),
        median: *lengths.get(lengths.len() / 2)?,
        longest: *lengths.last()?,
    })
}

/// How often `route` was first in these gaps; `None` if it never was.
fn odds(route: RouteId, gaps: &[&Kept], sent: &BTreeMap<RouteId, u64>) -> Option<Odds> {
    let firsts = gaps.iter().filter(|kept| kept.first == route).count();
    let frozen: f64 = gaps.iter().map(|kept| share(route, &kept.frozen)).sum();
    let by_chance = (frozen / gaps.len() as f64).max(share(route, sent));
    let counted = |number| u32::try_from(number).ok();
    let (firsts, gaps) = (counted(firsts)?, counted(gaps.len())?);
    let sent = sent.get(&route).copied().unwrap_or(0);
    (firsts > 0).then_some(Odds { firsts, gaps, by_chance, sent })
}

/// The share that `route` has in the sum of these numbers.
fn share<N: Copy + Into<u64>>(route: RouteId, numbers: &BTreeMap<RouteId, N>) -> f64 {
    let sum = numbers.values().fold(0_u64, |sum, number| sum.saturating_add((*number).into()));
    numbers.get(&route).map_or(0.0, |number| (*number).into() as f64 / sum.max(1) as f64)
}

/// The lower bound of Wilson's interval for a share of which `hits` of `trials` were seen.
fn wilson_lower(hits: u32, trials: u32) -> f64 {
    let n = f64::from(trials.max(1));
    let seen = f64::from(hits) / n;
    let spread = Z * (seen * (1.0 - seen) / n + Z * Z / (4.0 * n * n)).sqrt();
    ((seen + Z * Z / (2.0 * n) - spread) / (1.0 + Z * Z / n)).max(0.0)
}

fn is_recent(at: Duration, now: Duration) -> bool {
    now.saturating_sub(at) <= WINDOW
}

const fn step_of(now: Duration) -> u128 {
    now.as_nanos() / STEP.as_nanos()
}
