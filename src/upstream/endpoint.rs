//! One endpoint of a path: where it is, and how it is doing, for all workers and the control plane.
//!
//! Atomics only. What changes with each request (its load) has a cache line of its own; what changes
//! with its standing is read when a worker's roster is made anew. Only the fleet changes a standing.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::upstream::eject::Ejection;
use crate::upstream::lag::LoopLag;
use crate::upstream::silence::Silence;
use crate::upstream::standing::{Candidate, Health};

/// The share of its weight with which an endpoint starts.
const WARMTH_MIN: f64 = 0.1;

/// One endpoint.
#[derive(Debug)]
pub struct Endpoint {
    /// Address and port; the label of metrics.
    pub label: String,
    /// Its addresses, the preferred one first: of two families the connection that is up first wins.
    pub addresses: Vec<SocketAddr>,
    /// Host and port as configured: what probes send as Host.
    pub authority: String,
    /// Whether it is spoken to over TLS.
    pub is_tls: bool,
    load: Load,
    health: AtomicU8,
    is_ejected: AtomicBool,
    failures: AtomicU32,
    // Milliseconds since the fleet's origin, of when it came back or appeared; 0: it is warm.
    warming_since: AtomicU64,
    pub(super) ejection: Mutex<Ejection>,
    /// Its silences.
    pub silence: Silence,
    /// What its loop probe has found.
    pub lag: LoopLag,
    /// What is counted of it beside its connections.
    pub counts: Counts,
}

/// What is counted of one endpoint, by the control plane or where requests fail.
#[derive(Debug, Default)]
pub struct Counts {
    /// Probes that passed.
    pub checks_passed: AtomicU64,
    /// Probes that failed.
    pub checks_failed: AtomicU64,
    /// Times that it was ejected.
    pub ejections: AtomicU64,
}

// A cache line of its own: two workers write it.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Load(AtomicUsize);

impl Counts {
    /// Counts a probe.
    pub fn checked(&self, passed: bool) {
        let count = if passed { &self.checks_passed } else { &self.checks_failed };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// An endpoint as one config, or one answer of DNS, has it.
#[derive(Clone, Debug)]
pub struct Member {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// Its share of requests relative to the others'.
    pub weight: u32,
    /// Lower ones go first.
    pub priority: u16,
}

impl Endpoint {
    /// An endpoint of which nothing is known yet.
    #[must_use]
    pub fn new(label: String, addresses: Vec<SocketAddr>, authority: String, is_tls: bool) -> Self {
        Self {
            label,
            addresses,
            authority,
            is_tls,
            load: Load::default(),
            health: AtomicU8::new(Health::Unchecked as u8),
            is_ejected: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            warming_since: AtomicU64::new(0),
            ejection: Mutex::default(),
            silence: Silence::default(),
            lag: LoopLag::default(),
            counts: Counts::default(),
        }
    }

    /// The host of its authority, an IPv6 address without brackets: what its certificate must be for.
    #[must_use]
    pub fn host(&self) -> &str {
        let host = self.authority.rsplit_once(':').map_or(&*self.authority, |(host, _port)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Requests that it has now, over all workers.
    #[must_use]
    pub fn load(&self) -> usize {
        self.load.0.load(Ordering::Relaxed)
    }

    /// One request more.
    pub fn enter(&self) {
        self.load.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One request less.
    pub fn leave(&self) {
        self.load.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// What the probes say.
    #[must_use]
    pub fn health(&self) -> Health {
        match self.health.load(Ordering::Relaxed) {
            health if health == Health::Up as u8 => Health::Up,
            health if health == Health::Down as u8 => Health::Down,
            _ => Health::Unchecked,
        }
    }

    /// Whether it is left out because requests to it failed.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.is_ejected.load(Ordering::Relaxed)
    }

    /// Whether it may take requests, as far as anyone knows.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.health() != Health::Down && !self.is_ejected()
    }

    /// A request to it was answered: failures before it are no longer in a row.
    pub fn succeeded(&self) {
        // Read first: nearly always there is nothing to reset, and no other worker's line to take.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// A request to it failed; how many in a row that makes.
    pub(super) fn failed(&self) -> u32 {
        self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    pub(super) fn set_health(&self, health: Health) {
        self.health.store(health as u8, Ordering::Relaxed);
    }

    pub(super) fn set_ejected(&self, is_ejected: bool) {
        self.failures.store(0, Ordering::Relaxed);
        self.is_ejected.store(is_ejected, Ordering::Relaxed);
    }

    /// From `now` on its weight grows from a tenth to the whole.
    pub(super) fn start_slowly(&self, now: Duration) {
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.warming_since.store(millis.max(1), Ordering::Relaxed);
    }

    /// The share of its weight that it has at `now`, a tenth to 1, when starting takes `slow_start`.
    fn warmth(&self, now: Duration, slow_start: Duration) -> f64 {
        let since = Duration::from_millis(self.warming_since.load(Ordering::Relaxed));
        if since.is_zero() {
            return 1.0;
        }
        let warm = now.saturating_sub(since).as_secs_f64() / slow_start.as_secs_f64();
        // Zero divided by zero is warm: there is no slow start.
        if warm < 1.0 { warm.max(WARMTH_MIN) } else { 1.0 }
    }
}

impl PartialEq for Member {
    /// Endpoints are the same if they are one, with one standing.
    fn eq(&self, other: &Self) -> bool {
        let same = Arc::ptr_eq(&self.endpoint, &other.endpoint);
        same && (self.weight, self.priority) == (other.weight, other.priority)
    }
}

impl Member {
    /// The endpoint as the choice sees it at `now`, and whether that will change by time alone.
    #[must_use]
    pub fn candidate(&self, now: Duration, slow_start: Duration) -> (Candidate, bool) {
        let Self { endpoint, weight, priority } = self;
        let warmth = endpoint.warmth(now, slow_start);
        let candidate = Candidate {
            health: endpoint.health(),
            is_ejected: endpoint.is_ejected(),
            weight: f64::from(*weight) * warmth,
            priority: *priority,
        };
        (candidate, warmth < 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_neither_port_nor_brackets() {
        for (authority, host) in
            [("a.test:443", "a.test"), ("10.0.0.1:443", "10.0.0.1"), ("[::1]:443", "::1"), ("", "")]
        {
            let endpoint = Endpoint::new(String::new(), Vec::new(), authority.to_owned(), true);
            assert_eq!(endpoint.host(), host, "{authority}");
        }
    }
}
