//! The counters of one worker: written by its thread alone, read by whoever scrapes.
//!
//! A counter that two threads add to costs 127 ns when they meet, a label look-up more; a relaxed
//! load and store of a cell that only one thread writes costs 1 ns. So each worker has a shard of
//! its own, indexed by path, route and code, and the scrape sums the shards. All orderings are
//! relaxed: a scrape may see one counter a moment before another, never a wrong value.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use crate::error::{ClientFault, PathFault};
use crate::upstream::fleet::Fleet;
use crate::vocab::{PerSide, ROUTES_MAX, Reason, Resend, RouteId, Side};

/// Upper bounds of the duration buckets, in seconds.
pub const BOUNDS: [f64; 22] = [
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5,
    0.75, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// The same bounds in nanoseconds.
const BOUNDS_NS: [u64; BOUNDS.len()] = {
    let mut bounds = [0; BOUNDS.len()];
    let mut index = 0;
    while index < BOUNDS.len() {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "up to 6e10")]
        let nanos = (BOUNDS[index] * 1e9) as u64;
        bounds[index] = nanos;
        index += 1;
    }
    bounds
};

/// Lowest status code, and how many there are.
const CODE_MIN: u16 = 100;
const CODES: usize = 900;

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Cell64(AtomicU64);

impl Cell64 {
    /// Adds; only the owning worker may.
    pub fn add(&self, amount: u64) {
        self.0.store(self.get().wrapping_add(amount), Ordering::Relaxed);
    }

    /// Takes away; only the owning worker may.
    pub fn sub(&self, amount: u64) {
        self.0.store(self.get().wrapping_sub(amount), Ordering::Relaxed);
    }

    /// The present value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A histogram with one writer and the bounds of [`BOUNDS`].
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Cell64; BOUNDS.len() + 1],
    sum_ns: Cell64,
}

impl Histogram {
    /// Records one duration.
    pub fn observe(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let index = BOUNDS_NS.partition_point(|bound| *bound < nanos);
        self.buckets[index].add(1);
        self.sum_ns.add(nanos);
    }
}

/// The sum of several histograms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Observations in each bucket, not cumulative; the last is above all bounds.
    pub buckets: [u64; BOUNDS.len() + 1],
    /// Sum of all observations, in seconds.
    pub sum: f64,
}

impl Observed {
    /// Adds one shard's histogram.
    pub fn add(&mut self, histogram: &Histogram) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *sum += bucket.get();
        }
        self.sum += Duration::from_nanos(histogram.sum_ns.get()).as_secs_f64();
    }

    /// Number of observations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The bound below which a share `q` of the observations lies; `None` without any.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
        let rank = q * count as f64;
        let mut seen = 0;
        let index = self.buckets.iter().position(|bucket| {
            seen += bucket;
            #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
            let reached = seen as f64 >= rank;
            reached
        });
        Some(index.and_then(|index| BOUNDS.get(index).copied()).unwrap_or(f64::INFINITY))
    }
}

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

    /// Each route that was used.
    pub fn routes(&self) -> impl Iterator<Item = (RouteId, &RouteCells)> {
        (0..).zip(self.routes.0.iter()).filter_map(|(id, cell)| Some((RouteId(id), &**cell.get()?)))
    }

    /// Counts a fault of this path.
    pub fn fault(&self, route: RouteId, fault: PathFault) {
        self.route(route).errors[fault as usize].add(1);
    }
}

/// What is counted for one endpoint.
#[derive(Debug)]
pub struct EndpointCells {
    /// Its path.
    pub side: Side,
    /// Host and port.
    pub endpoint: String,
    /// Pooled connections that wait for a request.
    pub idle: Cell64,
    /// Connections with a request.
    pub busy: Cell64,
    /// Connections that came up.
    pub connected: Cell64,
    /// Connections that did not.
    pub failed: Cell64,
    /// Requests that are there now.
    pub visits: Cell64,
    /// Requests that it answered, other than by saying that it is no use as a gateway.
    pub answered: Cell64,
    /// Requests that failed there.
    pub faults: Cell64,
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
    /// How late the worker's own tick woke.
    pub lag: Histogram,
    endpoints: Mutex<Vec<Weak<EndpointCells>>>,
}

impl Shard {
    /// Counts a fault of a client.
    pub fn client_fault(&self, fault: ClientFault) {
        self.client_faults[fault as usize].add(1);
    }

    /// New cells for an endpoint. They are shown for as long as the endpoint's pool lives.
    pub fn endpoint(&self, side: Side, endpoint: &str) -> Arc<EndpointCells> {
        let cells = Arc::new(EndpointCells {
            side,
            endpoint: endpoint.to_owned(),
            idle: Cell64::default(),
            busy: Cell64::default(),
            connected: Cell64::default(),
            failed: Cell64::default(),
            visits: Cell64::default(),
            answered: Cell64::default(),
            faults: Cell64::default(),
        });
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
    fn a_bound_belongs_to_its_own_bucket() {
        let histogram = Histogram::default();
        for micros in [0, 500, 501, 1_000, 60_000_000, 60_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let mut observed = Observed::default();
        observed.add(&histogram);
        assert_eq!(observed.buckets[0], 2);
        assert_eq!(observed.buckets[1], 2);
        assert_eq!(observed.buckets[BOUNDS.len() - 1], 1);
        assert_eq!(observed.buckets[BOUNDS.len()], 1);
        assert_eq!(observed.count(), 6);
    }

    #[test]
    fn quantiles_are_upper_bounds() {
        let histogram = Histogram::default();
        (0..99).for_each(|_| histogram.observe(Duration::from_micros(800)));
        histogram.observe(Duration::from_millis(400));
        let mut observed = Observed::default();
        assert_eq!(observed.quantile(0.5), None);
        observed.add(&histogram);
        assert_eq!(observed.quantile(0.5), Some(0.001));
        assert_eq!(observed.quantile(0.99), Some(0.001));
        assert_eq!(observed.quantile(0.999), Some(0.5));
    }

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
