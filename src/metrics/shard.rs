//! The counters of one worker: written by its thread alone, read by whoever scrapes.
//!
//! Each worker has a shard of its own, indexed by path, route and code, and the scrape sums the
//! shards: a cell that only one thread writes costs next to nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use crate::error::{ClientFault, PathFault};
use crate::guard::loglinear::{BUCKETS, index};
use crate::metrics::attempts::{AttemptCells, Thresholds};
pub use crate::metrics::cell::Cell64;
use crate::metrics::exemplar::Exemplars;
pub use crate::metrics::histogram::{BOUNDS, Histogram, Observed};
use crate::metrics::spans::SpanCounts;
pub use crate::metrics::visits::EndpointCells;
use crate::mirror::harm::{Arm, Arms};
use crate::mirror::skip::Skip;
use crate::upstream::fleet::Fleet;
use crate::vocab::{PerSide, ROUTES_MAX, Reason, Resend, RouteId, Side};

/// Lowest status code, and how many there are.
const CODE_MIN: u16 = 100;
const CODES: usize = 900;

/// Numbers of requests by status code.
#[derive(Debug)]
pub struct Codes(Box<[Cell64; CODES]>);

impl Default for Codes {
    fn default() -> Self {
        Self(Box::new(std::array::from_fn(|_| Cell64::default())))
    }
}

impl Codes {
    /// Counts one request that ended with `code`.
    pub fn count(&self, code: u16) {
        let index = usize::from(code.saturating_sub(CODE_MIN)).min(CODES - 1);
        self.0[index].add(1);
    }

    /// Each code that was counted, with its number.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u64)> {
        (CODE_MIN..)
            .zip(self.0.iter())
            .map(|(code, cell)| (code, cell.get()))
            .filter(|(_, n)| *n > 0)
    }
}

/// What is counted for one path and route.
#[derive(Debug, Default)]
pub struct RouteCells {
    /// Finished requests by status code.
    pub codes: Codes,
    /// Faults of the path.
    pub errors: [Cell64; PathFault::ALL.len()],
    /// Head received to last byte sent.
    pub duration: Histogram,
    /// Recorded requests of each bucket of it; made with the first one.
    pub exemplars: OnceLock<Box<Exemplars>>,
    /// What the guard compares.
    pub attempts: AttemptCells,
    /// Requests that were not mirrored.
    pub mirror_skipped: Cell64,
    /// Those that were to be, and could not be handed over.
    pub mirror_dropped: Cell64,
}

/// What is counted for one path.
#[derive(Debug, Default)]
pub struct SideCells {
    /// Requests between decision and end of their reply.
    pub in_flight: Cell64,
    /// Upgraded connections.
    pub tunnels: Cell64,
    /// Sent to response head.
    pub upstream_duration: Histogram,
    /// Time in the admission queue, of those that waited.
    pub queue_wait: Histogram,
    /// Body bytes from clients.
    pub request_bytes: Cell64,
    /// Body bytes to clients.
    pub response_bytes: Cell64,
    /// Decisions by reason.
    pub decisions: [Cell64; Reason::ALL.len()],
    /// Times that a request went to another connection because the backend had closed a pooled one.
    pub stale: Cell64,
    /// Requests that were to be sent to another endpoint.
    pub retries: [Cell64; Resend::ALL.len()],
    /// Requests that were to be sent to the other path.
    pub failovers: [Cell64; Resend::ALL.len()],
    /// Requests cut off at the end of a drain.
    pub cut: Cell64,
    /// Tunnels cut off in a drain.
    pub cut_tunnels: Cell64,
    routes: RouteTable,
}

#[derive(Debug)]
struct RouteTable(Box<[OnceLock<Box<RouteCells>>]>);

impl Default for RouteTable {
    fn default() -> Self {
        Self((0..ROUTES_MAX).map(|_| OnceLock::new()).collect())
    }
}

impl SideCells {
    /// The cells of a route; made when it is first used.
    pub fn route(&self, route: RouteId) -> &RouteCells {
        let index = usize::from(route.0).min(ROUTES_MAX - 1);
        self.routes.0[index].get_or_init(Box::default)
    }

    /// The cells of a route, if it was used.
    #[must_use]
    pub fn known(&self, route: RouteId) -> Option<&RouteCells> {
        self.routes.0.get(usize::from(route.0))?.get().map(|cells| &**cells)
    }

    /// Each route that was used.
    pub fn routes(&self) -> impl Iterator<Item = (RouteId, &RouteCells)> {
        (0..).zip(self.routes.0.iter()).filter_map(|(id, cell)| Some((RouteId(id), &**cell.get()?)))
    }

    /// Counts a fault of this path.
    pub fn fault(&self, route: RouteId, fault: PathFault) {
        self.route(route).errors[fault as usize].add(1);
    }
}

/// All counters of one worker.
#[derive(Debug, Default)]
pub struct Shard {
    /// By path.
    pub sides: PerSide<SideCells>,
    /// Requests that the proxy refused before a path was chosen, by status code.
    pub refused: Codes,
    /// Faults of clients.
    pub client_faults: [Cell64; ClientFault::ALL.len()],
    /// Open client connections.
    pub connections: Cell64,
    /// Client connections ever accepted.
    pub connections_total: Cell64,
    /// Those that speak HTTP/2, of the open ones.
    pub http2_connections: Cell64,
    /// Those that spoke HTTP/2, of all.
    pub http2_connections_total: Cell64,
    /// Connections closed because their address had `max_connections_per_address`.
    pub connections_over_quota: Cell64,
    /// Times that accepting failed for want of resources.
    pub accept_failures: Cell64,
    /// Times that accepting paused because `max_connections` were open.
    pub connections_held_back: Cell64,
    /// Panics that ended one connection each.
    pub panics: Cell64,
    /// Requests refused because this process or machine had run out of something.
    pub out_of_resources: Cell64,
    /// Access log lines dropped because the writer was behind.
    pub log_lines_dropped: Cell64,
    /// Spans dropped because the exporter was behind.
    pub spans_dropped: Cell64,
    /// How late the worker's own tick woke.
    pub lag: Histogram,
    /// What counts as slow.
    pub thresholds: Thresholds,
    /// Requests that were not mirrored, by reason.
    pub mirror_skipped: [Cell64; Skip::ALL.len()],
    /// How long requests took, by whether they were drawn to be mirrored.
    pub drawn: Arms<Latencies>,
    /// Whether what is left of a path is to be cut off; set by the control plane.
    pub cut: PerSide<AtomicBool>,
    endpoints: Mutex<Vec<Weak<EndpointCells>>>,
}

/// Latencies as the guard's buckets have them.
#[derive(Debug)]
pub struct Latencies(Box<[Cell64; BUCKETS]>);

impl Latencies {
    /// Counts one.
    pub fn observe(&self, took: Duration) {
        self.0[index(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX))].add(1);
    }

    /// How many there are in a bucket.
    #[must_use]
    pub fn bucket(&self, at: usize) -> u64 {
        self.0[at].get()
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self(Box::new(std::array::from_fn(|_| Cell64::default())))
    }
}

impl Shard {
    /// Counts how long a request took that was drawn to be mirrored, or was not.
    pub fn took(&self, arm: Arm, took: Duration) {
        self.drawn.get(arm).observe(took);
    }

    /// Whether what is left of any path is to be cut off.
    #[must_use]
    pub fn is_cutting(&self) -> bool {
        self.cut.iter().any(|(_, cut)| cut.load(Ordering::Relaxed))
    }

    /// Counts a fault of a client.
    pub fn client_fault(&self, fault: ClientFault) {
        self.client_faults[fault as usize].add(1);
    }

    /// New cells for an endpoint. They are shown for as long as the endpoint's pool lives.
    pub fn endpoint(&self, side: Side, endpoint: &str) -> Arc<EndpointCells> {
        let cells = Arc::new(EndpointCells::new(side, endpoint));
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.retain(|endpoint| endpoint.strong_count() > 0);
        endpoints.push(Arc::downgrade(&cells));
        cells
    }

    /// The cells of each endpoint whose pool lives.
    pub fn endpoints(&self) -> Vec<Arc<EndpointCells>> {
        let endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.iter().filter_map(Weak::upgrade).collect()
    }
}

/// What a scrape reads beside the registry's own metrics.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) shards: Vec<Arc<Shard>>,
    pub(crate) waiting: PerSide<Arc<AtomicUsize>>,
    pub(crate) fleets: PerSide<Arc<Fleet>>,
    pub(crate) log_lines_lost: Arc<AtomicU64>,
    pub(crate) spans: Arc<SpanCounts>,
    pub(crate) routes: Mutex<Vec<String>>,
}

impl Shared {
    pub(crate) fn route_names(&self) -> Vec<String> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_codes_stay_within_the_table() {
        let codes = Codes::default();
        for code in [100, 200, 999, 65_535, 0] {
            codes.count(code);
        }
        assert_eq!(codes.iter().collect::<Vec<_>>(), [(100, 2), (200, 1), (999, 2)]);
    }

    #[test]
    fn an_endpoint_is_shown_while_its_pool_lives() {
        let shard = Shard::default();
        let cells = shard.endpoint(Side::Async, "127.0.0.1:1");
        assert_eq!(shard.endpoints().len(), 1);
        drop(cells);
        assert!(shard.endpoints().is_empty());
    }
}
