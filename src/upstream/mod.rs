//! A path as a tower service: admission, then an endpoint, then a connection, then the response.
//!
//! Monomorphic: the layers and the closure compile into one future without a box; only a request
//! that has to queue takes the slow way. tower's own balancer and retry budget don't fit in here: the
//! one wants endpoints as services that each own their readiness, the other locks on each request.

pub mod admit;
pub mod ask;
pub mod attempt;
pub mod balance;
pub mod cased;
pub mod conn;
pub mod dial;
pub mod eject;
pub mod endpoint;
pub mod fleet;
pub mod gate;
pub mod health;
pub mod http1;
pub mod http2;
pub mod lag;
pub mod locate;
pub mod loop_probe;
pub mod outgoing;
pub mod path;
pub mod plan;
pub mod pool;
pub mod reach;
pub mod retry;
pub mod silence;
pub mod standing;
pub mod unsent;
pub mod visit;
mod wait;

use std::rc::Rc;

use tower::{Service, ServiceBuilder};

use crate::upstream::admit::{Admission, Admitted, Failed};
use crate::upstream::attempt::{Inbound, Outbound, attempt};
use crate::upstream::path::Path;

/// A path as a service: admission in front of the attempts.
pub fn service(
    path: &Rc<Path>,
) -> impl Service<Outbound, Response = Admitted<Inbound>, Error = Failed<Outbound>> + use<> {
    let path = path.clone();
    let (side, gate, timeout) = (path.side, path.gate.clone(), path.plan.queue);
    ServiceBuilder::new()
        .layer(Admission { side, gate, timeout })
        .service_fn(move |outbound| attempt(path.clone(), outbound))
}
