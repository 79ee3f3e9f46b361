//! The shards as Prometheus metric families: summed at each scrape, never on a request's way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::{Collector, Desc};
use prometheus::proto;

use crate::error::{ClientFault, PathFault};
use crate::metrics::exemplar::Exemplar;
use crate::metrics::page::{Page, describe};
use crate::metrics::shard::{
    BOUNDS, Cell64, EndpointCells, Observed, RouteCells, Shard, Shared, SideCells,
};
use crate::upstream::endpoint::Member;
use crate::upstream::fleet::Fleet;
use crate::vocab::{Reason, Resend, RouteId, Side};

/// Everything that the shards hold: name, help.
const FAMILIES: [(&str, &str); 35] = [
    ("cutover_requests_total", "Requests that ended, by path, route and status code."),
    ("cutover_request_duration_seconds", "Head received to last byte sent."),
    ("cutover_upstream_duration_seconds", "Request sent to response head."),
    ("cutover_errors_total", "Faults of a path, by kind."),
    ("cutover_client_errors_total", "Faults of clients, by kind; never counted against a path."),
    ("cutover_requests_in_flight", "Requests between decision and end of their reply."),
    ("cutover_tunnels_open", "Upgraded connections."),
    ("cutover_queue_depth", "Requests that wait for a slot."),
    ("cutover_queue_wait_seconds", "Time in the queue, of those that waited."),
    ("cutover_request_bytes_total", "Body bytes from clients."),
    ("cutover_response_bytes_total", "Body bytes to clients."),
    ("cutover_split_decisions_total", "Decisions by path and reason."),
    ("cutover_stale_connections_total", "Requests moved off a pooled connection found closed."),
    ("cutover_retries_total", "Requests to be sent to another endpoint, by what became of them."),
    ("cutover_failovers_total", "Requests to be sent to the other path, by what became of them."),
    ("cutover_path_panic", "1 while all endpoints are used because too few are left."),
    ("cutover_endpoint_up", "1 while an endpoint may take requests."),
    ("cutover_endpoint_requests_in_flight", "Requests that an endpoint has now."),
    ("cutover_endpoint_requests_total", "Requests sent to an endpoint, by result."),
    ("cutover_endpoint_ejections_total", "Times that an endpoint was left out."),
    ("cutover_health_checks_total", "Probes of an endpoint, by result."),
    ("cutover_loop_lag_seconds", "How much longer than its shortest a loop probe took."),
    ("cutover_endpoint_connections", "Connections to an endpoint, by state."),
    ("cutover_upstream_connects_total", "Connection attempts to an endpoint, by result."),
    ("cutover_connections_open", "Open client connections, by protocol."),
    ("cutover_connections_total", "Client connections accepted, by protocol."),
    ("cutover_connections_rejected_total", "Connections not accepted at once, by reason."),
    ("cutover_worker_connections", "Open client connections of each worker."),
    ("cutover_worker_lag_seconds", "How late a worker's own tick woke."),
    ("cutover_drain_cut_total", "Requests cut off at the end of a drain."),
    ("cutover_panics_total", "Panics, each of which ended one connection."),
    ("cutover_out_of_resources_total", "Requests refused for want of own descriptors or memory."),
    ("cutover_access_log_dropped_total", "Access log lines lost, by a slow disk or a full one."),
    ("cutover_spans_total", "Spans for the collector, by what became of them."),
    ("cutover_route_names", "Route names seen since the start; their number is bounded."),
];

/// The collector.
pub(crate) struct Families {
    shared: Arc<Shared>,
    descs: Vec<Desc>,
}

impl Families {
    pub(crate) fn new(shared: Arc<Shared>) -> Result<Self, prometheus::Error> {
        Ok(Self { shared, descs: describe(&FAMILIES)? })
    }
}

impl Collector for Families {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let mut page = Page::of(&FAMILIES);
        let names = self.shared.route_names();
        page.gauge("cutover_route_names", &[], names.len() as u64);
        for side in Side::ALL {
            let cells: Vec<&SideCells> =
                self.shared.shards.iter().map(|shard| shard.sides.get(side)).collect();
            page.side(side, &cells);
            page.routes(side, &cells, &names);
            let waiting = self.shared.waiting.get(side);
            let depth = waiting.load(Ordering::Relaxed);
            page.gauge("cutover_queue_depth", &[("path", side.name())], depth as u64);
            page.fleet(side, self.shared.fleets.get(side));
        }
        page.clients(&self.shared.shards);
        page.log(&self.shared);
        page.spans(&self.shared);
        page.workers(&self.shared.shards);
        page.endpoints(&self.shared.shards);
        page.into_families()
    }
}

/// The exemplars of each path and route, by their buckets: the last of all workers.
pub(crate) fn exemplars(shared: &Shared) -> BTreeMap<(String, String), Vec<Option<Exemplar>>> {
    let names = shared.route_names();
    let mut all: BTreeMap<_, Vec<Option<Exemplar>>> = BTreeMap::new();
    let sides = shared
        .shards
        .iter()
        .flat_map(|shard| Side::ALL.iter().map(|side| (*side, shard.sides.get(*side))));
    for (side, cells) in sides {
        for (RouteId(route), cells) in cells.routes() {
            let (Some(name), Some(kept)) = (names.get(usize::from(route)), cells.exemplars.get())
            else {
                continue;
            };
            let last = all.entry((side.name().to_owned(), name.clone())).or_default();
            last.resize(BOUNDS.len() + 1, None);
            for (index, last) in last.iter_mut().enumerate() {
                let newer = kept.read(index).filter(|one| last.is_none_or(|l| l.at_ms < one.at_ms));
                *last = newer.or(*last);
            }
        }
    }
    all
}

impl Page {
    fn side(&mut self, side: Side, cells: &[&SideCells]) {
        let path = [("path", side.name())];
        let sum = |of: fn(&SideCells) -> u64| cells.iter().map(|cells| of(cells)).sum::<u64>();
        self.gauge("cutover_requests_in_flight", &path, sum(|c| c.in_flight.get()));
        self.gauge("cutover_tunnels_open", &path, sum(|c| c.tunnels.get()));
        self.counter("cutover_request_bytes_total", &path, sum(|c| c.request_bytes.get()));
        self.counter("cutover_response_bytes_total", &path, sum(|c| c.response_bytes.get()));
        self.counter("cutover_stale_connections_total", &path, sum(|c| c.stale.get()));
        for result in Resend::ALL {
            let labels = [("path", side.name()), ("result", result.name())];
            let of = |of: fn(&SideCells) -> &[Cell64; Resend::ALL.len()]| {
                cells.iter().map(|cells| of(cells)[result as usize].get()).sum()
            };
            self.counter("cutover_retries_total", &labels, of(|cells| &cells.retries));
            self.counter("cutover_failovers_total", &labels, of(|cells| &cells.failovers));
        }
        for (kind, number) in
            [("request", sum(|c| c.cut.get())), ("tunnel", sum(|c| c.cut_tunnels.get()))]
        {
            let labels = [("kind", kind), ("path", side.name())];
            self.counter("cutover_drain_cut_total", &labels, number);
        }
        let mut upstream = Observed::default();
        let mut wait = Observed::default();
        for cells in cells {
            upstream.add(&cells.upstream_duration);
            wait.add(&cells.queue_wait);
        }
        self.histogram("cutover_upstream_duration_seconds", &path, &upstream);
        self.histogram("cutover_queue_wait_seconds", &path, &wait);
        for reason in Reason::ALL {
            let labels = [("path", side.name()), ("reason", reason.name())];
            let number = cells.iter().map(|cells| cells.decisions[reason as usize].get()).sum();
            self.counter("cutover_split_decisions_total", &labels, number);
        }
    }

    fn fleet(&mut self, side: Side, fleet: &Fleet) {
        let path = ("path", side.name());
        self.gauge("cutover_path_panic", &[path], u64::from(fleet.is_panic()));
        for Member { endpoint, .. } in fleet.members().iter() {
            let labels = [("endpoint", endpoint.label.as_str()), path];
            self.gauge("cutover_endpoint_up", &labels, u64::from(endpoint.is_up()));
            let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
            let counts = &endpoint.counts;
            let ejections = count(&counts.ejections);
            self.counter("cutover_endpoint_ejections_total", &labels, ejections);
            if let Some(lag) = endpoint.lag.observed() {
                self.histogram("cutover_loop_lag_seconds", &labels, &lag);
            }
            for (result, number) in
                [("success", &counts.checks_passed), ("failure", &counts.checks_failed)]
            {
                let labels = [labels[0], path, ("result", result)];
                self.counter("cutover_health_checks_total", &labels, count(number));
            }
        }
    }

    fn routes(&mut self, side: Side, cells: &[&SideCells], names: &[String]) {
        let mut by_route: BTreeMap<u16, Vec<&RouteCells>> = BTreeMap::new();
        for (RouteId(route), cells) in cells.iter().flat_map(|cells| cells.routes()) {
            by_route.entry(route).or_default().push(cells);
        }
        for (route, cells) in by_route {
            let Some(name) = names.get(usize::from(route)) else {
                continue;
            };
            let path = ("path", side.name());
            let route = ("route", name.as_str());
            let mut codes: BTreeMap<u16, u64> = BTreeMap::new();
            let mut duration = Observed::default();
            for cells in &cells {
                cells.codes.iter().for_each(|(code, n)| *codes.entry(code).or_default() += n);
                duration.add(&cells.duration);
            }
            for (code, number) in codes {
                let code = code.to_string();
                self.counter("cutover_requests_total", &[("code", &code), path, route], number);
            }
            self.histogram("cutover_request_duration_seconds", &[path, route], &duration);
            for fault in PathFault::ALL {
                let number = cells.iter().map(|cells| cells.errors[fault as usize].get()).sum();
                self.counter(
                    "cutover_errors_total",
                    &[("kind", fault.name()), path, route],
                    number,
                );
            }
        }
    }

    fn clients(&mut self, shards: &[Arc<Shard>]) {
        let sum = |of: &dyn Fn(&Shard) -> u64| shards.iter().map(|shard| of(shard)).sum::<u64>();
        let mut refused: BTreeMap<u16, u64> = BTreeMap::new();
        for (code, number) in shards.iter().flat_map(|shard| shard.refused.iter()) {
            *refused.entry(code).or_default() += number;
        }
        for (code, number) in refused {
            let code = code.to_string();
            let labels = [("code", code.as_str()), ("path", "none"), ("route", "none")];
            self.counter("cutover_requests_total", &labels, number);
        }
        for fault in ClientFault::ALL {
            let number = sum(&|shard| shard.client_faults[fault as usize].get());
            self.counter("cutover_client_errors_total", &[("kind", fault.name())], number);
        }
        let http2 = sum(&|shard| shard.http2_connections.get());
        let http2_total = sum(&|shard| shard.http2_connections_total.get());
        let http1 = sum(&|shard| shard.connections.get()).saturating_sub(http2);
        let http1_total = sum(&|s| s.connections_total.get()).saturating_sub(http2_total);
        for (name, open, total) in [("http1", http1, http1_total), ("http2", http2, http2_total)] {
            let protocol = [("protocol", name)];
            self.gauge("cutover_connections_open", &protocol, open);
            self.counter("cutover_connections_total", &protocol, total);
        }
        let rejected = "cutover_connections_rejected_total";
        self.counter(rejected, &[("reason", "resources")], sum(&|s| s.accept_failures.get()));
        let held_back = sum(&|shard| shard.connections_held_back.get());
        self.counter(rejected, &[("reason", "max_connections")], held_back);
        let over_quota = sum(&|shard| shard.connections_over_quota.get());
        self.counter(rejected, &[("reason", "max_connections_per_address")], over_quota);
        self.counter("cutover_panics_total", &[], sum(&|shard| shard.panics.get()));
        let refused = sum(&|shard| shard.out_of_resources.get());
        self.counter("cutover_out_of_resources_total", &[], refused);
    }

    fn log(&mut self, shared: &Shared) {
        let dropped: u64 = shared.shards.iter().map(|shard| shard.log_lines_dropped.get()).sum();
        let lost = shared.log_lines_lost.load(Ordering::Relaxed);
        self.counter("cutover_access_log_dropped_total", &[], dropped + lost);
    }

    fn spans(&mut self, shared: &Shared) {
        let by_workers: u64 = shared.shards.iter().map(|shard| shard.spans_dropped.get()).sum();
        let dropped = by_workers + shared.spans.dropped();
        let (exported, failed) = (shared.spans.exported(), shared.spans.failed());
        for (result, spans) in [("exported", exported), ("failed", failed), ("dropped", dropped)] {
            self.counter("cutover_spans_total", &[("result", result)], spans);
        }
    }

    fn workers(&mut self, shards: &[Arc<Shard>]) {
        for (index, shard) in shards.iter().enumerate() {
            let index = index.to_string();
            let worker = [("worker", index.as_str())];
            self.gauge("cutover_worker_connections", &worker, shard.connections.get());
            let mut lag = Observed::default();
            lag.add(&shard.lag);
            self.histogram("cutover_worker_lag_seconds", &worker, &lag);
        }
    }

    fn endpoints(&mut self, shards: &[Arc<Shard>]) {
        let mut sums: BTreeMap<(&str, String), [u64; 7]> = BTreeMap::new();
        for cells in shards.iter().flat_map(|shard| shard.endpoints()) {
            let sum = sums.entry((cells.side.name(), cells.endpoint.clone())).or_default();
            let EndpointCells { idle, busy, connected, failed, visits, answered, faults, .. } =
                &*cells;
            let numbers = [idle, busy, connected, failed, visits, answered, faults];
            for (sum, number) in sum.iter_mut().zip(numbers) {
                *sum += number.get();
            }
        }
        for ((path, endpoint), [idle, busy, connected, failed, visits, answered, faults]) in sums {
            let labels =
                |name, value| [("endpoint", endpoint.as_str()), ("path", path), (name, value)];
            self.gauge("cutover_endpoint_connections", &labels("state", "idle"), idle);
            self.gauge("cutover_endpoint_connections", &labels("state", "busy"), busy);
            let of_endpoint = [("endpoint", endpoint.as_str()), ("path", path)];
            self.gauge("cutover_endpoint_requests_in_flight", &of_endpoint, visits);
            let connects = "cutover_upstream_connects_total";
            self.counter(connects, &labels("result", "success"), connected);
            self.counter(connects, &labels("result", "failure"), failed);
            let requests = "cutover_endpoint_requests_total";
            self.counter(requests, &labels("result", "success"), answered);
            self.counter(requests, &labels("result", "failure"), faults);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Metrics;
    use crate::upstream::eject::EjectRules;
    use crate::upstream::endpoint::Endpoint;
    use crate::upstream::fleet::FleetRules;

    #[test]
    fn every_family_has_help_and_is_described() {
        let metrics = Metrics::new(1).unwrap();
        metrics.shard(0).sides.get(Side::Legacy).route(RouteId(0)).codes.count(200);
        let _cells = metrics.shard(0).endpoint(Side::Legacy, "127.0.0.1:1");
        let endpoint = Endpoint::new("127.0.0.1:1".to_owned(), Vec::new(), String::new(), false);
        endpoint.lag.record(0, 1, Duration::ZERO);
        let member = Member { endpoint: Arc::new(endpoint), weight: 1, priority: 0 };
        let eject = EjectRules {
            consecutive_failures: 0,
            first: Duration::ZERO,
            longest: Duration::ZERO,
            share_max: 0.0,
        };
        let slow_start = Duration::ZERO;
        let rules = FleetRules { eject, panic_below: 0.0, slow_start, is_probed: false };
        metrics.fleet(Side::Legacy).set(Arc::new([member]), rules, true);
        let families = Families::new(metrics.shared.clone()).unwrap().collect();
        let mut names: Vec<_> = families.iter().map(|family| family.name().to_owned()).collect();
        let mut described: Vec<_> = FAMILIES.iter().map(|(name, _)| (*name).to_owned()).collect();
        names.sort();
        described.sort();
        assert_eq!(names, described);
    }
}
