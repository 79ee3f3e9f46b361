//! A path compiled for use: its endpoints, and its limits in ticks.
//!
//! Made on the control plane for each config and each answer of DNS; workers only read.

use std::sync::Arc;
use std::time::Duration;

use crate::config::values::Balance;
use crate::config::{Config, Failover, Retry};
use crate::tick::Span;
use crate::upstream::eject::EjectRules;
use crate::upstream::endpoint::Member;
use crate::upstream::fleet::FleetRules;
use crate::upstream::reach::Dialect;
use crate::vocab::Side;

/// A path's limits and endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Where requests go.
    pub members: Arc<[Member]>,
    /// How an endpoint is picked.
    pub balance: Balance,
    /// How the endpoints' standing comes about.
    pub fleet: FleetRules,
    /// What is sent again.
    pub retry: Retry,
    /// Whether the other path steps in.
    pub failover: Failover,
    /// How its endpoints are spoken to.
    pub dialect: Dialect,
    /// Connections kept warm for each worker and endpoint.
    pub min_idle: usize,
    /// Requests at once; 0 is unlimited.
    pub max_in_flight: usize,
    /// Requests that may wait.
    pub queue_depth: usize,
    /// How long each may wait.
    pub queue: Span,
    /// For a connection to come up.
    pub connect: Span,
    /// The same, off a request's way.
    pub connect_timeout: Duration,
    /// Request sent to response head.
    pub response: Span,
    /// For the next piece of a response body.
    pub idle: Span,
    /// For the whole exchange.
    pub deadline: Span,
    /// Idle connections kept for each endpoint by one worker.
    pub pool_idle: usize,
    /// How long one is kept, in ticks.
    pub pool_idle_for: Span,
    /// Requests on one connection; 0 is unlimited.
    pub requests_per_connection: u64,
}

impl Plan {
    /// Compiles a path with these endpoints for `workers` workers.
    #[must_use]
    pub fn new(side: Side, config: &Config, members: Arc<[Member]>, workers: usize) -> Self {
        let (retry, failover) = (config.retry.clone(), config.failover);
        let config = config.paths.get(side);
        let eject = EjectRules {
            consecutive_failures: config.eject.consecutive_failures,
            first: config.eject.first,
            longest: config.eject.longest.max(config.eject.first),
            share_max: config.eject.share_max,
        };
        Self {
            members,
            balance: config.balance,
            fleet: FleetRules {
                eject,
                panic_below: config.panic_below,
                slow_start: config.slow_start,
                is_probed: config.health.is_some(),
            },
            retry,
            failover,
            dialect: Dialect::of(config),
            min_idle: config.min_idle.min(config.pool_idle.div_ceil(workers.max(1))),
            max_in_flight: config.max_in_flight,
            queue_depth: config.queue_depth,
            queue: Span::from_duration(config.queue_timeout),
            connect: Span::from_duration(config.connect_timeout),
            connect_timeout: config.connect_timeout,
            response: Span::from_duration(config.response_timeout),
            idle: Span::from_duration(config.idle_timeout),
            deadline: Span::from_duration(config.request_deadline),
            pool_idle: config.pool_idle.div_ceil(workers.max(1)),
            pool_idle_for: Span::from_duration(config.pool_idle_timeout),
            requests_per_connection: config.requests_per_connection,
        }
    }

    /// Keeps no connection that has no request: the path is to be switched off.
    pub fn keep_nothing(&mut self) {
        (self.min_idle, self.pool_idle) = (0, 0);
    }
}
