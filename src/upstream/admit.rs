//! Admission: the bridge in front of a threaded backend.
//!
//! A backend with ten threads serves ten requests; the eleventh only makes all of them wait where
//! nobody can see it. So at most `max_in_flight` go through at once, the next `queue_depth` wait
//! here, each for at most `queue_timeout`, and the rest are shed at once. A slot is given back when
//! it is dropped, whichever way the request ends.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::error::{PathFault, ProxyError};
use crate::tick::{Deadline, Span};
use crate::upstream::gate::{Entry, Gate, Slot, Wait};
use crate::vocab::Side;
use crate::wire::exchange::Exchange;

/// What a request shows of itself to be admitted.
pub trait Admittable {
    /// Its connection's state: the queue's deadline is kept there.
    fn exchange(&self) -> &Rc<Exchange>;
}

/// A request that got no reply from its path.
#[derive(Debug)]
pub struct Failed<Q> {
    /// Why, and by whose fault.
    pub error: ProxyError,
    /// The request, where the other path may answer it. Boxed: it is rare.
    pub request: Option<Box<Q>>,
}

/// Puts a [`Gate`] in front of a path's service.
#[derive(Clone, Debug)]
pub struct Admission {
    /// Whose gate it is.
    pub side: Side,
    /// The gate.
    pub gate: Arc<Gate>,
    /// How long a request may wait.
    pub timeout: Span,
}

impl<S> Layer<S> for Admission {
    type Service = Admit<S>;

    fn layer(&self, inner: S) -> Admit<S> {
        Admit { admission: self.clone(), inner }
    }
}

/// A path's service behind its gate.
#[derive(Clone, Debug)]
pub struct Admit<S> {
    admission: Admission,
    inner: S,
}

/// A reply and the slot that is held until its body has ended.
#[derive(Debug)]
pub struct Admitted<R> {
    /// The reply.
    pub reply: R,
    /// The slot.
    pub slot: Slot,
}

impl<S, Q> Service<Q> for Admit<S>
where
    Q: Admittable,
    S: Service<Q, Error = Failed<Q>> + Clone,
{
    type Response = Admitted<S::Response>;
    type Error = Failed<Q>;
    type Future = AdmitFuture<S, Q>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failed<Q>>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Q) -> Self::Future {
        let stage = match self.admission.gate.enter() {
            Entry::Free(slot) => {
                Stage::Calling { slot: Some(slot), future: self.inner.call(request) }
            }
            Entry::Queued(wait) => {
                request.exchange().timer.arm(Deadline::Upstream, self.admission.timeout);
                Stage::Waiting {
                    wait,
                    since: Instant::now(),
                    side: self.admission.side,
                    request: Some(request),
                    inner: self.inner.clone(),
                }
            }
            Entry::Full => Stage::Shed { request: Some(Box::new(request)) },
        };
        AdmitFuture { stage }
    }
}

pin_project! {
    /// A request on its way through the gate.
    pub struct AdmitFuture<S: Service<Q>, Q> {
        #[pin]
        stage: Stage<S, Q>,
    }
}

pin_project! {
    #[project = StageProjection]
    enum Stage<S: Service<Q>, Q> {
        Waiting { wait: Wait, since: Instant, side: Side, request: Option<Q>, inner: S },
        Calling { slot: Option<Slot>, #[pin] future: S::Future },
        Shed { request: Option<Box<Q>> },
    }
}

impl<S: Service<Q>, Q> fmt::Debug for AdmitFuture<S, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdmitFuture").finish_non_exhaustive()
    }
}

impl<S, Q> Future for AdmitFuture<S, Q>
where
    Q: Admittable,
    S: Service<Q, Error = Failed<Q>>,
{
    type Output = Result<Admitted<S::Response>, Failed<Q>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut stage = self.project().stage;
        loop {
            match stage.as_mut().project() {
                StageProjection::Shed { request } => {
                    let error = ProxyError::Path(PathFault::Shed);
                    return Poll::Ready(Err(Failed { error, request: request.take() }));
                }
                StageProjection::Waiting { wait, since, side, request, inner } => {
                    let waited = Pin::new(wait).poll(cx);
                    let exchange =
                        request.as_ref().expect("taken only on leaving the queue").exchange();
                    // A slot that comes after the whole exchange's deadline is of no use any more.
                    let is_over = exchange.timer.expired(Deadline::Exchange);
                    let is_late = is_over || exchange.timer.expired(Deadline::Upstream);
                    if waited.is_pending() && !is_late {
                        return Poll::Pending;
                    }
                    exchange.timer.disarm(Deadline::Upstream);
                    exchange.shard.sides.get(*side).queue_wait.observe(since.elapsed());
                    let request = request.take().expect("taken only on leaving the queue");
                    let (Poll::Ready(slot), false) = (waited, is_over) else {
                        let error = ProxyError::Path(PathFault::QueueTimeout);
                        let request = Some(Box::new(request));
                        return Poll::Ready(Err(Failed { error, request }));
                    };
                    let future = inner.call(request);
                    stage.set(Stage::Calling { slot: Some(slot), future });
                }
                StageProjection::Calling { slot, future } => {
                    let done = std::task::ready!(future.poll(cx));
                    let slot = slot.take().expect("a future is not polled after its end");
                    return Poll::Ready(done.map(|reply| Admitted { reply, slot }));
                }
            }
        }
    }
}
