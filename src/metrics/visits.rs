//! What one worker counts of one endpoint.

use crate::metrics::cell::Cell64;
use crate::vocab::{ROUTES_MAX, RouteId, Side};

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
    /// Requests that are there now, by route.
    pub present: Box<[Cell64; ROUTES_MAX]>,
    /// When the last byte came from there; nanoseconds since the fleet's origin.
    pub progressed: Cell64,
    /// Requests that are there now and wait for the head of a reply.
    pub waiting: Cell64,
    /// When it last had none of those of this worker; nanoseconds since the fleet's origin.
    pub busy_since: Cell64,
}

impl EndpointCells {
    /// The cells of an endpoint that had no request yet.
    #[must_use]
    pub fn new(side: Side, endpoint: &str) -> Self {
        Self {
            side,
            endpoint: endpoint.to_owned(),
            idle: Cell64::default(),
            busy: Cell64::default(),
            connected: Cell64::default(),
            failed: Cell64::default(),
            visits: Cell64::default(),
            answered: Cell64::default(),
            faults: Cell64::default(),
            present: Box::new(std::array::from_fn(|_| Cell64::default())),
            progressed: Cell64::default(),
            waiting: Cell64::default(),
            busy_since: Cell64::default(),
        }
    }

    /// Requests of `route` that are there now.
    #[must_use]
    pub fn present(&self, route: RouteId) -> &Cell64 {
        &self.present[usize::from(route.0).min(ROUTES_MAX - 1)]
    }
}
