//! A path compiled for use: its endpoints with their addresses, its limits in ticks.
//!
//! Made once for each config on the control plane, where names may be resolved; workers only read.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use crate::config::PathConfig;
use crate::config::values::HeaderCase;
use crate::tick::Span;

/// A path's limits and endpoints.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where requests go.
    pub endpoints: Vec<Target>,
    /// How header names are written.
    pub header_case: HeaderCase,
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

/// One endpoint and where it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Host and port as configured; the label of metrics.
    pub name: String,
    /// Its address.
    pub address: SocketAddr,
}

/// A host name without an address.
#[derive(Debug, thiserror::Error)]
#[error("can't resolve endpoint {name}: {source}")]
pub struct Unresolved {
    name: String,
    source: std::io::Error,
}

impl Plan {
    /// Compiles a path for `workers` workers, resolving names: may block.
    ///
    /// # Errors
    /// When a name has no address.
    pub fn new(config: &PathConfig, workers: usize) -> Result<Self, Unresolved> {
        let endpoints = config.endpoints.iter().map(|endpoint| {
            let name = endpoint.to_string();
            let address = match endpoint.address() {
                Some(address) => address,
                None => resolve(&endpoint.host, endpoint.port)
                    .map_err(|source| Unresolved { name: name.clone(), source })?,
            };
            Ok(Target { name, address })
        });
        Ok(Self {
            endpoints: endpoints.collect::<Result<_, Unresolved>>()?,
            header_case: config.header_case,
            min_idle: config.min_idle.min(config.pool_idle),
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
        })
    }
}

fn resolve(host: &str, port: u16) -> std::io::Result<SocketAddr> {
    let none = || std::io::Error::other("the name has no address");
    (host, port).to_socket_addrs()?.next().ok_or_else(none)
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
