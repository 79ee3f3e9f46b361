//! Stalls of both paths: the silences that workers saw, turned into culprits and metrics.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::guard::stall::{Culprit, Stall, Suspects};
use crate::metrics::Metrics;
use crate::metrics::guard::UNKNOWN;
use crate::snapshot::Snapshot;
use crate::upstream::endpoint::Member;
use crate::vocab::{PerSide, RouteId, Side};

/// For how long a conviction is remembered. Where a blocked loop makes requests time out, the culprit's own
/// among them, nobody is seen to be first any more; and just then a rollback has to name it.
const NAMED_FOR: Duration = Duration::from_secs(60);

/// Who blocks the event loop of either path.
#[derive(Debug, Default)]
pub struct Stalls(PerSide<OfPath>);

#[derive(Debug, Default)]
struct OfPath {
    suspects: Suspects,
    // Requests of each route that had ended at the last look.
    ended: BTreeMap<RouteId, u64>,
    // Who was convicted last, and when.
    named: BTreeMap<RouteId, (Duration, Culprit)>,
}

/// A route that blocks an event loop.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocking {
    /// The path.
    pub side: Side,
    /// The route, by method and template.
    pub route: String,
    /// What is known of it.
    pub culprit: Culprit,
}

impl Stalls {
    /// Takes the silences since the last look, and counts what they prove to be.
    pub fn look(&mut self, now: Duration, snapshot: &Snapshot, metrics: &Metrics) {
        for side in Side::ALL {
            let OfPath { suspects, ended, named } = self.0.get_mut(side);
            for (route, number) in requests(metrics, side) {
                let before = ended.insert(route, number).unwrap_or(0);
                suspects.sent(now, route, number.saturating_sub(before));
            }
            for Member { endpoint, .. } in metrics.fleet(side).members().iter() {
                for gap in endpoint.silence.take() {
                    let is_shared = endpoint.lag.shares(gap.start_ns, gap.end_ns);
                    suspects.note(now, gap, is_shared);
                }
            }
            named.retain(|_, (at, _)| now.saturating_sub(*at) <= NAMED_FOR);
            for culprit in suspects.culprits(now) {
                named.insert(culprit.route, (now, culprit));
            }
            for Stall { route, length } in suspects.fresh_stalls() {
                let name = route.and_then(|route| {
                    let mut targets = snapshot.rules.targets();
                    targets.find(|target| target.route == route).map(|target| &*target.name)
                });
                metrics.guard.stalled(side, name.unwrap_or(UNKNOWN), length);
            }
        }
    }

    /// The routes that block an event loop, or did a moment ago.
    #[must_use]
    pub fn blocking(&self, snapshot: &Snapshot) -> Vec<Blocking> {
        let of_side = |side| {
            let culprits = self.0.get(side).named.values().cloned();
            culprits.map(move |(_, culprit)| {
                let route = pattern(snapshot, culprit.route);
                Blocking { side, route, culprit }
            })
        };
        Side::ALL.into_iter().flat_map(of_side).collect()
    }

    /// The same in words.
    #[must_use]
    pub fn words(&self, snapshot: &Snapshot) -> Vec<String> {
        self.blocking(snapshot).iter().map(ToString::to_string).collect()
    }
}

impl std::fmt::Display for Blocking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Culprit { firsts, gaps, median, .. } = self.culprit;
        write!(
            f,
            "{} blocks the event loop of {}: {firsts} of {gaps} gaps, median {} ms",
            self.route,
            self.side,
            median.as_millis()
        )
    }
}

/// Requests of each route that have ended, since the start.
fn requests(metrics: &Metrics, side: Side) -> BTreeMap<RouteId, u64> {
    let mut sums = BTreeMap::<RouteId, u64>::new();
    for (route, cells) in metrics.shards().iter().flat_map(|s| s.sides.get(side).routes()) {
        *sums.entry(route).or_default() += cells.duration.count();
    }
    sums
}

fn pattern(snapshot: &Snapshot, route: RouteId) -> String {
    let target = snapshot.rules.targets().find(|target| target.route == route);
    let Some(target) = target else {
        return UNKNOWN.to_owned();
    };
    let mut routes = snapshot.config.routes.iter();
    let known = routes.find(|route| route.name == target.name);
    known.map_or_else(|| target.name.clone(), |route| route.pattern.to_string())
}
