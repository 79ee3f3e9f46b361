//! A request at an endpoint, for as long as it is there, and what its end says of the endpoint and of
//! the path.
//!
//! Two judges learn from it. The endpoint's standing wants to know whether it works; the guard counts
//! every attempt, before any retry or failover, so that these can't hide a broken path.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use http::StatusCode;
use tokio::time::Instant;

use crate::error::PathFault;
use crate::upstream::pool::Pool;
use crate::vocab::{Outcome, Routed};

/// A request at an endpoint.
#[derive(Debug)]
pub struct Visit {
    pool: Rc<Pool>,
    routed: Routed,
    // Nanoseconds since the fleet's origin of when it was sent; 0: not yet.
    sent_ns: Cell<u64>,
    // From there to the response head; 0: not yet.
    took_ns: Cell<u64>,
    outcome: Cell<Outcome>,
    // Whether the other workers are told of it.
    is_shared: bool,
    // Whether it has counted for the endpoint or against it: once.
    is_judged: Cell<bool>,
    // Whether the guard has counted it: once.
    is_counted: Cell<bool>,
    // Whether the endpoint owes it the head of a reply.
    is_present: Cell<bool>,
}

impl Visit {
    pub(super) fn new(pool: &Rc<Pool>, routed: Routed, is_shared: bool) -> Self {
        let cells = &pool.cells;
        if cells.waiting.get() == 0 {
            cells.busy_since.set(pool.fleet.nanos(Instant::now()));
        }
        cells.visits.add(1);
        cells.waiting.add(1);
        cells.present(routed.route).add(1);
        if is_shared {
            pool.endpoint.enter();
        }
        Self {
            pool: pool.clone(),
            routed,
            sent_ns: Cell::new(0),
            took_ns: Cell::new(0),
            outcome: Cell::new(Outcome::Success),
            is_shared,
            is_judged: Cell::new(false),
            is_counted: Cell::new(false),
            is_present: Cell::new(true),
        }
    }

    /// The connections to the endpoint.
    #[must_use]
    pub fn pool(&self) -> &Rc<Pool> {
        &self.pool
    }

    /// The request is on its way, since the moment that is returned.
    pub fn sent(&self) -> Instant {
        let now = Instant::now();
        self.sent_ns.set(self.pool.fleet.nanos(now));
        now
    }

    /// The head of the reply came at `at`. A gateway in front of the endpoint that finds nobody behind
    /// it is no better than nobody; any other reply is judged by its end.
    pub fn answered(&self, status: StatusCode, at: Instant) {
        let now_ns = self.pool.fleet.nanos(at);
        self.took_ns.set(now_ns.saturating_sub(self.sent_ns.get()).max(1));
        self.outcome.set(match status.as_u16() {
            500.. => Outcome::Error,
            400..500 => Outcome::ClientError,
            0..400 => Outcome::Success,
        });
        self.progressed_at(now_ns);
        // From here on it may well be a stream that is silent for as long as it likes.
        self.leave();
        match status {
            StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => self.judge_failed(),
            _ => {}
        }
    }

    /// Some of the reply's body came.
    pub fn progressed(&self) {
        self.progressed_at(self.pool.fleet.nanos(Instant::now()));
    }

    /// The whole reply came.
    pub fn succeeded(&self) {
        if !self.is_judged.replace(true) {
            self.pool.cells.answered.add(1);
            self.pool.endpoint.succeeded();
        }
        self.count(self.outcome.get());
    }

    /// The request failed there, by the endpoint's fault.
    pub fn failed(&self, fault: PathFault) {
        self.judge_failed();
        self.broke(fault);
    }

    /// The request failed, by the path's fault but not the endpoint's.
    pub fn broke(&self, fault: PathFault) {
        self.count(if fault.is_timeout() { Outcome::Timeout } else { Outcome::Error });
    }

    /// The request failed by the client's fault, or by our own: the path has nothing to do with it.
    pub fn excused(&self) {
        self.is_counted.set(true);
    }

    fn judge_failed(&self) {
        if !self.is_judged.replace(true) {
            self.pool.cells.faults.add(1);
            self.pool.fleet.failed(&self.pool.endpoint);
        }
    }

    fn count(&self, outcome: Outcome) {
        if self.is_counted.replace(true) {
            return;
        }
        let took_ns = match (self.took_ns.get(), self.sent_ns.get()) {
            (0, 0) => 0,
            (0, sent_ns) => self.pool.fleet.nanos(Instant::now()).saturating_sub(sent_ns).max(1),
            (took_ns, _) => took_ns,
        };
        let shard = &self.pool.shard;
        let cells = shard.sides.get(self.pool.side).route(self.routed.route);
        cells.attempts.finished(self.routed, outcome, took_ns, &shard.thresholds);
    }

    fn progressed_at(&self, now_ns: u64) {
        let cells = &self.pool.cells;
        let last = cells.progressed.get().max(cells.busy_since.get());
        let after_ns = self.pool.shard.thresholds.stall_after.load(Ordering::Relaxed);
        if now_ns.saturating_sub(last) >= after_ns {
            self.pool.endpoint.silence.broken(now_ns, self.routed.route, after_ns);
        }
        // Only then: until it is told, the silence must be seen by its length.
        cells.progressed.set(now_ns);
    }

    fn leave(&self) {
        if self.is_present.replace(false) {
            self.pool.cells.present(self.routed.route).sub(1);
            self.pool.cells.waiting.sub(1);
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        // A client that leaves a failure unread has had it all the same.
        self.count(match self.outcome.get() {
            outcome @ (Outcome::Error | Outcome::ClientError) => outcome,
            Outcome::Success | Outcome::Timeout | Outcome::Left => Outcome::Left,
        });
        self.leave();
        self.pool.cells.visits.sub(1);
        if self.is_shared {
            self.pool.endpoint.leave();
        }
    }
}
