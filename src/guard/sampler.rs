//! Reads the workers' counters into ticks.
//!
//! The counters only grow while an epoch lasts, so a tick is the difference of two readings. The share
//! that went to async is the weight itself where requests are spread evenly; a keyed split, or a share
//! that is on its way back, is measured over the last minute.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::guard::counts::{Counts, Group, Load, TICK};
use crate::guard::loglinear::Tally;
use crate::metrics::Metrics;
use crate::metrics::attempts::{AttemptCells, Slot};
use crate::metrics::cell::Cell64;
use crate::route::Target;
use crate::snapshot::Snapshot;
use crate::vocab::{PerSide, RouteId, Side, Weight};

/// The span over which a share is measured.
const MEASURED_OVER: Duration = Duration::from_secs(60);

/// What one reading of the counters has found since the one before.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// By weight.
    pub groups: Vec<Group>,
    /// By route, of those in which something happened.
    pub routes: BTreeMap<String, PerSide<Counts>>,
    /// By path.
    pub load: PerSide<Load>,
    /// Failures and 4xx of the legacy path, and how many of each were in its first half.
    pub halves: Halves,
}

/// What a path's failures and 4xx were, and how many of them fell into the first half of its buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Halves {
    /// Errors and timeouts, and those in the first half.
    pub failures: (u64, u64),
    /// 4xx, and those in the first half.
    pub client_errors: (u64, u64),
}

/// Latencies of one path and route since the start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Latency {
    /// How many took how long.
    pub tally: Tally,
    /// The sum, in nanoseconds.
    pub sum_ns: u64,
}

/// Reads counters.
#[derive(Debug, Default)]
pub struct Sampler {
    epoch: u64,
    seen: BTreeMap<RouteId, PerSide<Reading>>,
    shares: Vec<(Weight, Share)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    counts: Counts,
    routed: u64,
    half_failures: u64,
    half_client_errors: u64,
}

/// The requests of one group in each of the last ticks.
#[derive(Debug, Default)]
struct Share(VecDeque<PerSide<u64>>);

impl Sampler {
    /// What has happened since the last reading. A new epoch starts from nothing.
    pub fn sample(&mut self, snapshot: &Snapshot, metrics: &Metrics, is_moving: bool) -> Sample {
        if self.epoch != snapshot.epoch {
            *self = Self { epoch: snapshot.epoch, ..Self::default() };
        }
        let mut sample = Sample::default();
        let mut groups: Vec<(Weight, Group, PerSide<u64>)> = Vec::new();
        for target in snapshot.rules.targets().filter(|target| target.pin.is_none()) {
            let (counts, routed) = self.read(target, metrics, &mut sample.halves);
            if counts != PerSide::default() {
                sample.routes.insert(target.name.clone(), counts);
            }
            let at = groups.iter().position(|(weight, ..)| *weight == target.allowed);
            let at = at.unwrap_or_else(|| {
                let share = target.applied.share();
                let group = Group { share, paths: PerSide::default() };
                groups.push((target.allowed, group, PerSide::default()));
                groups.len() - 1
            });
            let (_, group, all) = &mut groups[at];
            for side in Side::ALL {
                *group.paths.get_mut(side) += *counts.get(side);
                *all.get_mut(side) += routed.get(side);
                sample.load.get_mut(side).arrivals += routed.get(side);
            }
        }
        for side in Side::ALL {
            sample.load.get_mut(side).in_flight = waiting(snapshot, metrics, side);
        }
        let is_measured = is_moving || snapshot.rules.key.is_some();
        for (weight, group, routed) in &mut groups {
            let share = self.share(*weight);
            share.add(*routed);
            if is_measured && group.share > 0.0 && group.share < 1.0 {
                group.share = share.measured().unwrap_or(group.share);
            }
        }
        sample.groups = groups.into_iter().map(|(_, group, _)| group).collect();
        sample
    }

    fn share(&mut self, weight: Weight) -> &mut Share {
        let at = self.shares.iter().position(|(known, _)| *known == weight).unwrap_or_else(|| {
            self.shares.push((weight, Share::default()));
            self.shares.len() - 1
        });
        &mut self.shares[at].1
    }

    fn read(
        &mut self,
        target: &Target,
        metrics: &Metrics,
        halves: &mut Halves,
    ) -> (PerSide<Counts>, PerSide<u64>) {
        let (mut counts, mut routed) = (PerSide::<Counts>::default(), PerSide::<u64>::default());
        let seen = self.seen.entry(target.route).or_default();
        for side in Side::ALL {
            let now = reading(metrics, side, target.route, self.epoch);
            let before = std::mem::replace(seen.get_mut(side), now);
            let news = now.counts.since(before.counts);
            *counts.get_mut(side) = news;
            *routed.get_mut(side) = now.routed.saturating_sub(before.routed);
            if side == Side::Legacy {
                halves.failures.0 += news.err + news.tmo;
                halves.failures.1 += now.half_failures.saturating_sub(before.half_failures);
                halves.client_errors.0 += news.c4;
                let news = now.half_client_errors.saturating_sub(before.half_client_errors);
                halves.client_errors.1 += news;
            }
        }
        (counts, routed)
    }
}

impl Share {
    fn add(&mut self, routed: PerSide<u64>) {
        self.0.push_back(routed);
        if self.0.len() as u128 > MEASURED_OVER.as_millis() / TICK.as_millis() {
            self.0.pop_front();
        }
    }

    /// The share of async, once there were requests on both.
    fn measured(&self) -> Option<f64> {
        let sum = |side| self.0.iter().map(|routed| *routed.get(side)).sum::<u64>();
        let (legacy, async_) = (sum(Side::Legacy), sum(Side::Async));
        #[expect(clippy::cast_precision_loss, reason = "a minute's requests are below 2^53")]
        let share = async_ as f64 / (legacy + async_) as f64;
        (legacy > 0 && async_ > 0).then_some(share)
    }
}

/// Requests that wait for a slot or for the head of a reply, of routes that the weight splits. Tunnels and
/// streams are not among them: arrivals and the time to a head say nothing of how many there are.
fn waiting(snapshot: &Snapshot, metrics: &Metrics, side: Side) -> u64 {
    let endpoints: Vec<_> = metrics
        .shards()
        .iter()
        .flat_map(|shard| shard.endpoints())
        .filter(|cells| cells.side == side)
        .collect();
    let split = snapshot.rules.targets().filter(|target| target.pin.is_none());
    let present = split
        .flat_map(|target| endpoints.iter().map(move |cells| cells.present(target.route).get()));
    present.sum::<u64>() + metrics.queue_depth(side) as u64
}

/// The latencies of a path and route, summed over the workers.
#[must_use]
pub fn latency(metrics: &Metrics, side: Side, route: RouteId) -> Latency {
    let mut latency = Latency::default();
    for shard in metrics.shards() {
        if let Some(cells) = shard.sides.get(side).known(route) {
            latency.add(&of_cells(&cells.attempts));
        }
    }
    latency
}

/// The latencies of a path, summed over the workers and all routes that were ever seen: a sum that only grows,
/// whatever a reload removes and adds again.
#[must_use]
pub fn latency_of_path(metrics: &Metrics, side: Side) -> Latency {
    let mut latency = Latency::default();
    for shard in metrics.shards() {
        for (_, cells) in shard.sides.get(side).routes() {
            latency.add(&of_cells(&cells.attempts));
        }
    }
    latency
}

fn of_cells(cells: &AttemptCells) -> Latency {
    let AttemptCells { latency, latency_ns, .. } = cells;
    Latency { tally: Tally::from_fn(|index| latency[index].get()), sum_ns: latency_ns.get() }
}

impl Latency {
    /// What came since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let sum_ns = self.sum_ns.wrapping_sub(earlier.sum_ns);
        Self { tally: self.tally.since(&earlier.tally), sum_ns }
    }

    /// Both together.
    pub fn add(&mut self, other: &Self) {
        self.tally.add(&other.tally);
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
    }
}

fn reading(metrics: &Metrics, side: Side, route: RouteId, epoch: u64) -> Reading {
    let mut sum = Reading::default();
    for shard in metrics.shards() {
        let cells = shard.sides.get(side).known(route);
        if let Some(slot) = cells.and_then(|cells| cells.attempts.of(epoch)) {
            sum.add(slot);
        }
    }
    sum
}

impl Reading {
    fn add(&mut self, slot: &Slot) {
        let get = Cell64::get;
        self.counts += Counts {
            n: get(&slot.finished),
            err: get(&slot.errors),
            tmo: get(&slot.timeouts),
            c4: get(&slot.client_errors),
            slow95: get(&slot.slow95),
            slow99: get(&slot.slow99),
        };
        self.routed += get(&slot.routed);
        self.half_failures += get(&slot.half_failures);
        self.half_client_errors += get(&slot.half_client_errors);
    }
}
