//! The metrics of the mirror. Workers count what is not mirrored; its own thread what becomes of the rest.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto;

use crate::compare::kind::{Kind, MirrorResult};
use crate::compare::view::SwitchedOff;
use crate::metrics::cell::Cell64;
use crate::metrics::histogram::{Histogram, Observed};
use crate::metrics::page::{Family, Page, describe};
use crate::metrics::shard::Shared;
use crate::mirror::skip::Skip;
use crate::mirror::stock::Stock;
use crate::vocab::{PerSide, ROUTES_MAX, RouteId, Side};

const FAMILIES: [Family; 6] = [
    ("cutover_mirror_total", "What became of requests, by route: mirrored, skipped, or dropped."),
    ("cutover_mirror_mismatch_total", "Answers that differed, by route and kind of difference."),
    ("cutover_mirror_skipped_total", "Requests that were not mirrored, by reason."),
    ("cutover_shadow_duration_seconds", "Shadow sent to the end of its answer, by path."),
    ("cutover_mirror_in_flight", "Requests that the mirror has at a path now."),
    ("cutover_mirror_bytes", "Memory of the mirror's copies and answers."),
];

/// The metrics of the mirror.
#[derive(Debug)]
pub struct MirrorMetrics {
    /// What it may have at once.
    pub stock: Arc<Stock>,
    sides: PerSide<ShadowCells>,
    off: Mutex<Option<SwitchedOff>>,
    routes: Mutex<BTreeMap<Arc<str>, RouteCounts>>,
}

/// What the mirror has had at one path. Its thread alone writes it.
#[derive(Debug, Default)]
pub struct ShadowCells {
    /// Requests sent.
    pub started: Cell64,
    /// Of these, those that ended, however they did.
    pub ended: Cell64,
    /// Open connections.
    pub connections: Cell64,
    /// Shadow sent to the end of its answer.
    pub duration: Histogram,
}

#[derive(Debug, Default)]
struct RouteCounts {
    results: [u64; MirrorResult::ALL.len()],
    kinds: [u64; Kind::ALL.len()],
    dropped: u64,
}

impl MirrorMetrics {
    /// All at zero.
    #[must_use]
    pub fn new(stock: Arc<Stock>) -> Self {
        Self { stock, sides: PerSide::default(), off: Mutex::default(), routes: Mutex::default() }
    }

    /// What the mirror has had at a path.
    #[must_use]
    pub fn side(&self, side: Side) -> &ShadowCells {
        self.sides.get(side)
    }

    /// Shows that it is switched off, or is not any more.
    pub fn set_off(&self, off: Option<SwitchedOff>) {
        *self.off.lock().unwrap_or_else(PoisonError::into_inner) = off;
    }

    /// Whether it is switched off, and why.
    #[must_use]
    pub fn off(&self) -> Option<SwitchedOff> {
        self.off.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts what became of a mirrored request.
    pub fn judged(&self, route: &Arc<str>, result: MirrorResult, kinds: &[Kind]) {
        self.count(route, |counts| {
            counts.results[result as usize] += 1;
            kinds.iter().for_each(|kind| counts.kinds[*kind as usize] += 1);
        });
    }

    /// Counts a request whose copy could not be sent.
    pub fn dropped(&self, route: &Arc<str>) {
        self.count(route, |counts| counts.dropped += 1);
    }

    fn count(&self, route: &Arc<str>, add: impl FnOnce(&mut RouteCounts)) {
        let mut routes = self.routes();
        // Names come from configs, whose number in one process is bounded.
        if routes.len() < ROUTES_MAX || routes.contains_key(route) {
            add(routes.entry(route.clone()).or_default());
        }
    }

    fn routes(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, RouteCounts>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ShadowCells {
    /// Requests that are there now.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        // Read first, so that one that ends meanwhile is at worst still seen.
        let ended = self.ended.get();
        self.started.get().saturating_sub(ended)
    }

    /// Counts a shadow that was answered.
    pub fn answered(&self, took: Duration) {
        self.duration.observe(took);
    }
}

/// The collector.
pub(crate) struct MirrorFamilies {
    mirror: Arc<MirrorMetrics>,
    shared: Arc<Shared>,
    descs: Vec<Desc>,
}

impl MirrorFamilies {
    pub(crate) fn new(
        mirror: Arc<MirrorMetrics>,
        shared: Arc<Shared>,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self { mirror, shared, descs: describe(&FAMILIES)? })
    }

    /// What workers counted, by route: skipped, and dropped.
    fn left_out(&self) -> BTreeMap<u16, [u64; 2]> {
        let mut left_out: BTreeMap<u16, [u64; 2]> = BTreeMap::new();
        for shard in &self.shared.shards {
            for (RouteId(route), cells) in
                Side::ALL.iter().flat_map(|s| shard.sides.get(*s).routes())
            {
                let [skipped, dropped] = left_out.entry(route).or_default();
                *skipped += cells.mirror_skipped.get();
                *dropped += cells.mirror_dropped.get();
            }
        }
        left_out.retain(|_, numbers| *numbers != [0, 0]);
        left_out
    }

    fn results(&self, page: &mut Page) {
        const TOTAL: &str = "cutover_mirror_total";
        let names = self.shared.route_names();
        let mut left_out: BTreeMap<&str, [u64; 2]> = BTreeMap::new();
        for (route, numbers) in self.left_out() {
            if let Some(name) = names.get(usize::from(route)) {
                left_out.insert(name, numbers);
            }
        }
        let routes = self.mirror.routes();
        for (route, counts) in routes.iter() {
            left_out.entry(route).or_default()[1] += counts.dropped;
            for result in MirrorResult::ALL {
                let labels = [("result", result.name()), ("route", route)];
                page.counter(TOTAL, &labels, counts.results[result as usize]);
            }
            for kind in Kind::ALL {
                let labels = [("kind", kind.name()), ("route", route)];
                let number = counts.kinds[kind as usize];
                page.counter("cutover_mirror_mismatch_total", &labels, number);
            }
        }
        for (route, [skipped, dropped]) in left_out {
            page.counter(TOTAL, &[("result", "skipped"), ("route", route)], skipped);
            page.counter(TOTAL, &[("result", "dropped"), ("route", route)], dropped);
        }
    }
}

impl Collector for MirrorFamilies {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let mut page = Page::of(&FAMILIES);
        self.results(&mut page);
        for reason in Skip::ALL {
            let cells = self.shared.shards.iter().map(|shard| &shard.mirror_skipped);
            let number = cells.map(|cells| cells[reason as usize].get()).sum();
            let labels = [("reason", reason.name())];
            page.counter("cutover_mirror_skipped_total", &labels, number);
        }
        for (side, cells) in self.mirror.sides.iter() {
            let path = [("path", side.name())];
            page.gauge("cutover_mirror_in_flight", &path, cells.in_flight());
            let mut duration = Observed::default();
            duration.add(&cells.duration);
            page.histogram("cutover_shadow_duration_seconds", &path, &duration);
        }
        page.gauge("cutover_mirror_bytes", &[], self.mirror.stock.bytes() as u64);
        page.into_families()
    }
}

#[cfg(test)]
mod tests {
    use crate::compare::kind::{Kind, MirrorResult};
    use crate::metrics::Metrics;
    use crate::mirror::skip::Skip;
    use crate::vocab::Side;

    #[test]
    fn each_result_is_counted_by_its_route_and_what_workers_left_out_is_added() {
        let metrics = Metrics::new(2).unwrap();
        let route = metrics.route("orders").unwrap();
        for worker in 0..2 {
            let shard = metrics.shard(worker);
            shard.mirror_skipped[Skip::Range as usize].add(1);
            shard.sides.get(Side::ALL[worker]).route(route).mirror_skipped.add(1);
            shard.sides.get(Side::ALL[worker]).route(route).mirror_dropped.add(2);
        }
        let name = "orders".into();
        metrics.mirror.judged(&name, MirrorResult::Mismatch, &[Kind::Value, Kind::Type]);
        metrics.mirror.judged(&name, MirrorResult::Match, &[]);
        metrics.mirror.dropped(&name);
        metrics.mirror.side(Side::Async).started.add(3);
        metrics.mirror.side(Side::Async).ended.add(1);
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        for line in [
            r#"cutover_mirror_total{result="mismatch",route="orders"} 1"#,
            r#"cutover_mirror_total{result="match",route="orders"} 1"#,
            r#"cutover_mirror_total{result="shadow_timeout",route="orders"} 0"#,
            r#"cutover_mirror_total{result="skipped",route="orders"} 2"#,
            r#"cutover_mirror_total{result="dropped",route="orders"} 5"#,
            r#"cutover_mirror_mismatch_total{kind="type",route="orders"} 1"#,
            r#"cutover_mirror_mismatch_total{kind="order",route="orders"} 0"#,
            r#"cutover_mirror_skipped_total{reason="range"} 2"#,
            r#"cutover_mirror_in_flight{path="async"} 2"#,
            r#"cutover_mirror_in_flight{path="legacy"} 0"#,
            "cutover_mirror_bytes 0",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
    }
}
