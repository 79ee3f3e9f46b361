//! The attempts of one request at one path: at an endpoint, and where that fails and it is safe, at
//! others.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;

use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, Response};
use tokio::time::Instant;

use crate::error::{PathFault, ProxyError};
use crate::tick::Deadline;
use crate::trace::tracer::Trail;
use crate::upstream::admit::{Admittable, Failed};
use crate::upstream::conn::Left;
use crate::upstream::path::Path;
use crate::upstream::pool::{Lease, Pool};
use crate::upstream::retry::{Progress, may_fail_over, may_retry};
use crate::upstream::standing::Tried;
use crate::upstream::unsent::{STALE_WITHIN, SendError};
use crate::upstream::visit::Visit;
use crate::upstream::wait::{blame, within};
use crate::vocab::Resend;
use crate::wire::exchange::Exchange;
use crate::wire::inflow::Inflow;
use crate::wire::upload::{Replay, RequestBody};

const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// A request on its way to a backend.
#[derive(Debug)]
pub struct Outbound {
    /// The request, cleaned.
    pub request: Request<RequestBody>,
    /// Its client connection's state.
    pub exchange: Rc<Exchange>,
    /// Its attempts, if it is recorded.
    pub trail: Trail,
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
    pub response: Response<Inflow>,
    /// Its connection.
    pub lease: Lease,
    /// Its place among the requests of its endpoint.
    pub visit: Visit,
}

/// Sends a request to one endpoint, and where that fails and it is safe, to others.
///
/// A pooled connection that the backend closed while the request was on its way to it is nobody's
/// fault: the request moves on to a new connection, once, without a charge to the path or the budget, if
/// it was not processed or its method is safe.
///
/// Bounded in its size too: this future lies in each connection's memory, idle ones included.
#[expect(clippy::manual_async_fn, reason = "an `async fn` would keep the request twice")]
pub fn attempt(
    path: Rc<Path>,
    outbound: Outbound,
) -> impl Future<Output = Result<Inbound, Failed<Outbound>>> {
    async move {
        let Outbound { mut request, exchange, trail } = outbound;
        path.retries.deposit(path.plan.retry.budget, path.ticks.now());
        let cells = exchange.shard.sides.get(path.side);
        let methods = &path.plan.retry.methods;
        let mut tried = Tried::default();
        let mut left = None;
        loop {
            let Some((index, visit)) = path.pick(&tried, exchange.routed()) else {
                let error = ProxyError::Path(PathFault::NoEndpoint);
                let request = Outbound { request, exchange: exchange.clone(), trail };
                return Err(Failed { error, request: Some(Box::new(request)) });
            };
            let failure = loop {
                trail.attempt(path.side, &visit.pool().endpoint, request.headers_mut());
                let leased = lease(&path, &visit, &exchange, left.as_ref()).await;
                let (mut lease, is_fresh) = match leased {
                    Ok(leased) => leased,
                    Err(error) => break Failure::unsent(error, request),
                };
                // An upgrade ends the connection for others in any case, and needs its own option.
                if lease.is_last() && !request.headers().contains_key(CONNECTION) {
                    request.headers_mut().insert(CONNECTION, CLOSE);
                }
                let is_shared = lease.connection().is_shared();
                let may_repeat = is_shared || methods.has(request.method());
                let spare = may_repeat.then(|| request.body_mut().keep(path.plan.retry.buffer));
                exchange.await_path(path.plan.response);
                let sent_at = visit.sent();
                let sent = {
                    let mut sending = pin!(lease.connection().send(&mut request, &exchange));
                    within(&exchange, PathFault::ResponseTimeout, sending.as_mut()).await
                };
                match sent {
                    Ok(Ok(response)) => {
                        let now = Instant::now();
                        cells.upstream_duration.observe(now.duration_since(sent_at));
                        exchange.reply_begins();
                        visit.answered(response.status(), now);
                        trail.answered(response.status());
                        if !tried.is_empty() {
                            cells.retries[Resend::Success as usize].add(1);
                        }
                        return Ok(Inbound { response, lease, visit });
                    }
                    Ok(Err(error)) => {
                        let lost = Lost { is_fresh, is_shared, has_moved: left.is_some(), sent_at };
                        let failure = failure(error, request, spare, &exchange);
                        request = match lost.moves_on(failure, |method| methods.has(method)) {
                            Ok(again) => again,
                            Err(failure) => break failure,
                        };
                        cells.stale.add(1);
                        trail.failed(ProxyError::Path(PathFault::Reset));
                        left = Some(lease.connection().left());
                    }
                    Err(error) => {
                        if error == ProxyError::Path(PathFault::ResponseTimeout) {
                            lease.connection().timed_out();
                        }
                        break Failure::sent(error, request, spare);
                    }
                }
            };
            charge(&visit, &failure);
            trail.failed(failure.error);
            tried.add(index);
            drop(visit);
            request = after(&path, failure, (&exchange, &trail), &tried)?;
        }
    }
}

/// What a failure says of the endpoint, and of the path.
fn charge(visit: &Visit, failure: &Failure) {
    match failure.error {
        // What a race of the backend's close costs a request that can't be repeated is an error of the
        // path, but says nothing of the endpoint.
        ProxyError::Path(fault) if failure.is_stale => visit.broke(fault),
        ProxyError::Path(fault) => visit.failed(fault),
        ProxyError::Client(..) | ProxyError::Resources => visit.excused(),
    }
}

/// A connection that takes a request, and whether it is new. One that has `left` another gets no pooled
/// one that may be as stale, nor the same again.
async fn lease(
    path: &Path,
    visit: &Visit,
    exchange: &Exchange,
    left: Option<&Left>,
) -> Result<(Lease, bool), ProxyError> {
    match visit.pool().check_out(left) {
        Some(lease) => Ok((lease, false)),
        None => Ok((connect(path, visit.pool(), exchange, left).await?, true)),
    }
}

/// Boxed: most requests find a connection, and need no room for the making of one.
async fn connect(
    path: &Path,
    pool: &Rc<Pool>,
    exchange: &Exchange,
    left: Option<&Left>,
) -> Result<Lease, ProxyError> {
    exchange.timer.arm(Deadline::Upstream, path.plan.connect);
    let mut connecting = Box::pin(pool.connect(left));
    within(exchange, PathFault::ConnectTimeout, connecting.as_mut()).await?
}

/// What becomes of a request that failed at an endpoint: `Ok` if it is sent again.
fn after(
    path: &Path,
    failure: Failure,
    (exchange, trail): (&Rc<Exchange>, &Trail),
    tried: &Tried,
) -> Result<Request<RequestBody>, Failed<Outbound>> {
    let Failure { error, progress, request, .. } = failure;
    let retry = &path.plan.retry;
    let cells = exchange.shard.sides.get(path.side);
    let counted = |resend: Resend| cells.retries[resend as usize].add(1);
    if tried.number() > 1 {
        counted(Resend::Failure);
    }
    let gone = Failed { error, request: None };
    // Until the next attempt reads it, the client's body is not waited for.
    exchange.timer.disarm(Deadline::Upload);
    // Once the whole exchange is late, nobody waits for another attempt.
    if !matches!(error, ProxyError::Path(_)) || exchange.timer.expired(Deadline::Exchange) {
        return Err(gone);
    }
    let may_again = tried.number() <= retry.per_request && retry.budget > 0.0;
    let may_again = may_again && path.has_other(tried);
    let request = match request {
        Again::Request(request) => *request,
        Again::Never => return Err(gone),
        Again::TooLarge => {
            if may_again {
                counted(Resend::TooLarge);
            }
            return Err(gone);
        }
    };
    let method = request.method();
    if may_again && may_retry(error, progress, method, &retry.methods) {
        if path.retries.withdraw(path.ticks.now()) {
            return Ok(request);
        }
        counted(Resend::OverBudget);
    }
    let may_fail_over = may_fail_over(error, progress, method, &retry.methods);
    let (exchange, trail) = (exchange.clone(), trail.clone());
    let outbound = || Box::new(Outbound { request, exchange, trail });
    Err(Failed { error, request: may_fail_over.then(outbound) })
}

/// A request for another connection: it was the last on its first one only.
fn reopened(mut request: Request<RequestBody>) -> Request<RequestBody> {
    if request.headers().get(CONNECTION) == Some(&CLOSE) {
        request.headers_mut().remove(CONNECTION);
    }
    request
}

/// A request that a connection did not answer.
struct Lost {
    is_fresh: bool,
    is_shared: bool,
    has_moved: bool,
    sent_at: Instant,
}

impl Lost {
    /// A connection that was on its way out is nobody's fault: what it carried moves on to a new one, once,
    /// if it surely was not processed or is safe to send again.
    fn moves_on(
        self,
        failure: Failure,
        is_safe: impl Fn(&Method) -> bool,
    ) -> Result<Request<RequestBody>, Failure> {
        let is_reset = failure.error == ProxyError::Path(PathFault::Reset);
        let may_be_on_its_way_out = !self.is_fresh || self.is_shared;
        if !is_reset || self.has_moved || !may_be_on_its_way_out {
            return Err(failure);
        }
        let is_stale = self.sent_at.elapsed() < STALE_WITHIN;
        match (failure.progress, failure.request) {
            (Progress::NotSent, Again::Request(again)) => Ok(*again),
            (Progress::MayBeProcessed, Again::Request(again))
                if is_stale && is_safe(again.method()) =>
            {
                Ok(*again)
            }
            (progress, request) => {
                let is_stale = is_stale && progress == Progress::MayBeProcessed;
                Err(Failure { request, is_stale, ..failure })
            }
        }
    }
}

/// What a request failed of that was sent and got no head.
fn failure(
    error: SendError,
    request: Request<RequestBody>,
    spare: Option<Replay>,
    exchange: &Exchange,
) -> Failure {
    let reset = ProxyError::Path(PathFault::Reset);
    match error {
        SendError::Unprocessed => {
            let failure = Failure::sent(reset, request, spare);
            Failure { progress: Progress::NotSent, ..failure }
        }
        SendError::Failed(fault) => Failure::sent(blame(exchange, fault), request, spare),
    }
}

/// A request that failed at one endpoint.
struct Failure {
    error: ProxyError,
    progress: Progress,
    request: Again,
    // Whether a pooled connection was closed while the request was on its way.
    is_stale: bool,
}

impl Failure {
    fn unsent(error: ProxyError, request: Request<RequestBody>) -> Self {
        let request = Again::Request(Box::new(reopened(request)));
        Self { error, progress: Progress::NotSent, request, is_stale: false }
    }

    fn sent(error: ProxyError, request: Request<RequestBody>, spare: Option<Replay>) -> Self {
        let request = spare.map_or(Again::Never, |spare| Again::of(request, &spare));
        Self { error, progress: Progress::MayBeProcessed, request, is_stale: false }
    }
}

/// Whether there is a request to send again.
enum Again {
    Request(Box<Request<RequestBody>>),
    /// Its body has outgrown the buffer.
    TooLarge,
    /// Its method forbids it.
    Never,
}

impl Again {
    /// The request, whose content was taken, with its content from the beginning.
    fn of(request: Request<RequestBody>, spare: &Replay) -> Self {
        match spare.body() {
            Some(body) => Self::Request(Box::new(reopened(request.map(|_| body)))),
            None => Self::TooLarge,
        }
    }
}
