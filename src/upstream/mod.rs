//! A path as a tower service: admission, then an endpoint, then a connection, then the response.
//!
//! Monomorphic: the layers and the closure compile into one future without a box; only a request
//! that has to queue takes the slow way.

pub mod admit;
pub mod conn;
pub mod endpoint;
pub mod gate;
pub mod pool;

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use tokio::time::Instant;
use tower::{Service, ServiceBuilder};

use crate::error::{ClientFault, PathFault, ProxyError};
use crate::ids::Ids;
use crate::metrics::shard::Shard;
use crate::tick::{Deadline, Ticks};
use crate::upstream::admit::{Admission, Admittable, Admitted};
use crate::upstream::conn::SendError;
use crate::upstream::endpoint::Plan;
use crate::upstream::gate::Gate;
use crate::upstream::pool::{Lease, Pool};
use crate::vocab::Side;
use crate::wire::body::RequestBody;
use crate::wire::exchange::Exchange;
use crate::wire::socket::Scratch;

/// One path as one worker sees it.
#[derive(Debug)]
pub struct Path {
    /// Which one.
    pub side: Side,
    /// Its limits.
    pub plan: Arc<Plan>,
    /// Its gate, shared with all workers.
    pub gate: Arc<Gate>,
    pools: Vec<Rc<Pool>>,
    turn: Cell<usize>,
}

/// What a worker gives to the pools that it makes.
#[derive(Clone, Debug)]
pub struct Supplies {
    /// Its counters.
    pub shard: Arc<Shard>,
    /// Its clock.
    pub ticks: Rc<Ticks>,
    /// Its buffer for joined writes.
    pub scratch: Scratch,
    /// Its ids.
    pub ids: Rc<Ids>,
}

/// A request on its way to a backend.
#[derive(Debug)]
pub struct Outbound {
    /// The request, cleaned.
    pub request: Request<RequestBody>,
    /// Its client connection's state.
    pub exchange: Rc<Exchange>,
}

impl Admittable for Outbound {
    fn exchange(&self) -> &Rc<Exchange> {
        &self.exchange
    }
}

/// A response whose body is to come, and the connection that carries it.
#[derive(Debug)]
pub struct Inbound {
    /// The response.
    pub response: Response<Incoming>,
    /// Its connection.
    pub lease: Lease,
}

impl Path {
    /// The path under a new plan; pools of `old` that still fit go on.
    #[must_use]
    pub fn new(
        side: Side,
        plan: Arc<Plan>,
        gate: Arc<Gate>,
        old: Option<&Self>,
        supplies: &Supplies,
    ) -> Rc<Self> {
        let old_pools = old.map_or(&[][..], |old| &old.pools);
        let pools = plan.endpoints.iter().map(|target| {
            if let Some(pool) = old_pools.iter().find(|pool| pool.fits(target, &plan)) {
                pool.adopt(&plan);
                return pool.clone();
            }
            let cells = supplies.shard.endpoint(side, &target.name);
            let Supplies { ticks, scratch, .. } = supplies.clone();
            Pool::new(target.clone(), &plan, cells, ticks, scratch)
        });
        let pools: Vec<_> = pools.collect();
        for gone in old_pools.iter().filter(|old| !pools.iter().any(|new| Rc::ptr_eq(old, new))) {
            gone.retire();
        }
        Rc::new(Self { side, plan, gate, pools, turn: Cell::new(0) })
    }

    /// The path as a service: admission in front of one attempt.
    pub fn service(
        self: &Rc<Self>,
    ) -> impl Service<Outbound, Response = Admitted<Inbound>, Error = ProxyError> + use<> {
        let path = self.clone();
        let admission =
            Admission { side: self.side, gate: self.gate.clone(), timeout: self.plan.queue };
        ServiceBuilder::new()
            .layer(admission)
            .service_fn(move |outbound| attempt(path.clone(), outbound))
    }

    /// Its pools, for their sweep.
    #[must_use]
    pub fn pools(&self) -> &[Rc<Pool>] {
        &self.pools
    }

    /// The endpoints take turns.
    fn pick(&self) -> Option<&Rc<Pool>> {
        match &self.pools[..] {
            [] => None,
            [only] => Some(only),
            many => {
                let turn = self.turn.get();
                self.turn.set(turn.wrapping_add(1));
                many.get(turn % many.len())
            }
        }
    }
}

/// Sends a request over a pooled connection, or over a new one where there is none. A pooled
/// connection that turns out to have been closed before anything was sent costs nothing: the
/// request moves on to the next. Bounded, as each turn takes a connection from the pool and a new
/// one ends it.
///
/// Bounded in its size too: this future lies in each connection's memory, idle ones included.
#[expect(clippy::manual_async_fn, reason = "an `async fn` would keep the request twice")]
fn attempt(
    path: Rc<Path>,
    mut outbound: Outbound,
) -> impl Future<Output = Result<Inbound, ProxyError>> {
    async move {
        let pool = path.pick().ok_or(ProxyError::Path(PathFault::NoEndpoint))?;
        let exchange = &outbound.exchange;
        loop {
            let pooled = pool.check_out();
            let is_fresh = pooled.is_none();
            let mut lease = match pooled {
                Some(lease) => lease,
                None => connect(&path, pool, exchange).await?,
            };
            if lease.is_last() {
                let close = HeaderValue::from_static("close");
                outbound.request.headers_mut().insert(CONNECTION, close);
            }
            if !is_ready(&path, &mut lease, exchange).await? {
                if is_fresh {
                    return Err(ProxyError::Path(PathFault::Reset));
                }
                exchange.shard.sides.get(path.side).stale.add(1);
                continue;
            }
            exchange.await_path(path.plan.response);
            let sent_at = Instant::now();
            let mut sending = pin!(lease.connection().send(outbound.request));
            match within(exchange, PathFault::ResponseTimeout, sending.as_mut()).await? {
                Ok(response) => {
                    let cells = exchange.shard.sides.get(path.side);
                    cells.upstream_duration.observe(sent_at.elapsed());
                    exchange.reply_begins();
                    return Ok(Inbound { response, lease });
                }
                Err(SendError::Failed(fault)) => return Err(blame(exchange, fault)),
                Err(SendError::NotSent(_)) if is_fresh => {
                    return Err(ProxyError::Path(PathFault::Reset));
                }
                Err(SendError::NotSent(request)) => {
                    exchange.shard.sides.get(path.side).stale.add(1);
                    outbound.request = *request;
                }
            }
        }
    }
}

/// Whether a connection takes a request. Nearly always it says so at once; one that has to settle
/// first is waited for no longer than a new one would be.
async fn is_ready(path: &Path, lease: &mut Lease, exchange: &Exchange) -> Result<bool, ProxyError> {
    if lease.connection().is_ready() {
        return Ok(true);
    }
    exchange.timer.arm(Deadline::Upstream, path.plan.connect);
    let mut settling = pin!(lease.connection().ready());
    within(exchange, PathFault::ConnectTimeout, settling.as_mut()).await
}

/// Boxed: most requests find a connection, and need no room for the making of one.
async fn connect(path: &Path, pool: &Rc<Pool>, exchange: &Exchange) -> Result<Lease, ProxyError> {
    exchange.timer.arm(Deadline::Upstream, path.plan.connect);
    let mut connecting = Box::pin(pool.connect());
    let connected = within(exchange, PathFault::ConnectTimeout, connecting.as_mut()).await?;
    connected.map_err(ProxyError::Path)
}

/// What failed at the backend's connection may have been broken by the client's body.
fn blame(exchange: &Exchange, fault: PathFault) -> ProxyError {
    match exchange.fault() {
        Some(fault) => client_error(fault),
        None => ProxyError::Path(fault),
    }
}

fn client_error(fault: ClientFault) -> ProxyError {
    let sentence = match fault {
        ClientFault::BodyTimeout => "The request body stopped coming.",
        ClientFault::BodyTooLarge => "The request body is too large.",
        ClientFault::BadRequest
        | ClientFault::Version
        | ClientFault::HeadTooLarge
        | ClientFault::TargetTooLong
        | ClientFault::HeadTimeout
        | ClientFault::BodyCut
        | ClientFault::MethodRefused
        | ClientFault::Loop
        | ClientFault::Abort => "The request body is broken or incomplete.",
    };
    ProxyError::Client(fault, sentence)
}

/// Waits for `work` under all deadlines that run: the path's (whose passing is `late`), the
/// exchange's, and the client's for its upload.
async fn within<T>(
    exchange: &Exchange,
    late: PathFault,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> Result<T, ProxyError> {
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        let timer = &exchange.timer;
        if timer.expired(Deadline::Upload) {
            exchange.blame(ClientFault::BodyTimeout);
        }
        if let Some(fault) = exchange.fault() {
            return Poll::Ready(Err(client_error(fault)));
        }
        if timer.expired(Deadline::Upstream) {
            return Poll::Ready(Err(ProxyError::Path(late)));
        }
        if timer.expired(Deadline::Exchange) {
            return Poll::Ready(Err(ProxyError::Path(PathFault::ResponseTimeout)));
        }
        Poll::Pending
    })
    .await
}
