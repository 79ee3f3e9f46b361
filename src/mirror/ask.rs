//! One request of the mirror at one path: sent, and its answer read to the end, or to a limit.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Body;
use tokio::time::{Instant, timeout, timeout_at};

use crate::compare::pair::Outcome;
use crate::config::values::Balance;
use crate::error::{PathFault, ProxyError};
use crate::ids::Ids;
use crate::metrics::mirror::MirrorMetrics;
use crate::metrics::shard::Shard;
use crate::mirror::capture::{Capture, Kept};
use crate::mirror::eligible::EVENTS;
use crate::mirror::lane::{Lane, Lanes, NoLane};
use crate::mirror::order::Order;
use crate::snapshot::Snapshot;
use crate::tick::{Span, Ticks};
use crate::upstream::balance::Roster;
use crate::upstream::standing::Tried;
use crate::vocab::Side;
use crate::wire::exchange::Exchange;
use crate::wire::headers::clean_response;
use crate::wire::inflow::Inflow;
use crate::wire::upload::RequestBody;

/// How much of an answer is read, in bytes, although only its length and hash are of use: a download
/// must not be fetched twice.
const READ_MAX: u64 = 16 << 20;

/// What the mirror asks with.
#[derive(Debug)]
pub struct Asker {
    lanes: Lanes,
    metrics: Arc<MirrorMetrics>,
    ids: Rc<Ids>,
    ticks: Rc<Ticks>,
    // What its exchanges count is nobody's.
    shard: Arc<Shard>,
}

/// How an ask ended.
#[derive(Debug)]
pub enum Answered {
    /// With an outcome; how long its head took, where there was one.
    Kept(Kept, Option<Duration>),
    /// It was not sent: there is no connection free, or no endpoint that is well.
    Unsent,
    /// Its answer is too long to be read on, or there is no memory for its head.
    GivenUp,
}

/// A request is at a path until this is dropped.
struct Visit<'a>(&'a MirrorMetrics, Side);

impl<'a> Visit<'a> {
    fn new(metrics: &'a MirrorMetrics, side: Side) -> Self {
        metrics.side(side).started.add(1);
        Self(metrics, side)
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.0.side(self.1).ended.add(1);
    }
}

impl Asker {
    /// What asks over `lanes`.
    #[must_use]
    pub fn new(lanes: Lanes, metrics: Arc<MirrorMetrics>, ids: Rc<Ids>) -> Self {
        Self { lanes, metrics, ids, ticks: Ticks::new(), shard: Arc::default() }
    }

    /// Asks a path what a mirrored request asks.
    pub async fn ask(&self, order: &Order, side: Side, snapshot: &Snapshot) -> Answered {
        let Some(lane) = self.lane(side, snapshot) else {
            return Answered::Unsent;
        };
        let _visit = Visit::new(&self.metrics, side);
        let began = Instant::now();
        let asked = self.converse(order, lane, snapshot, began);
        let answered = timeout(order.plan.config.deadline, asked).await;
        answered.unwrap_or(Answered::Kept(Kept::failed(Outcome::Timeout), None))
    }

    async fn converse(
        &self,
        order: &Order,
        lane: Lane,
        snapshot: &Snapshot,
        began: Instant,
    ) -> Answered {
        let max = order.plan.config.connections;
        let is_safe = order.head.method().is_safe();
        let exchange = Exchange::new(
            self.ticks.timer(),
            self.shard.clone(),
            self.ids.clone(),
            snapshot.client,
        );
        let exchange = Rc::new(exchange);
        // Also how long the rest of a body may wait for a backend that has answered.
        exchange.await_path(Span::from_duration(order.plan.config.deadline));
        let until = began + order.plan.config.deadline;
        // What may not be sent twice must not meet a connection that its backend is closing.
        let mut fresh = !is_safe;
        let mut has_moved = false;
        loop {
            let mut leased = match self.lanes.lease(lane.clone(), max, fresh).await {
                Ok(leased) => leased,
                // What we have run out of is no fault of the path.
                Err(NoLane::Full | NoLane::Failed(ProxyError::Resources)) => {
                    return Answered::Unsent;
                }
                Err(NoLane::Failed(_)) => return failed(None),
            };
            let mut request = order.head.clone().map(|()| {
                let body = Inflow::Whole(order.body.clone());
                RequestBody::new(body, exchange.clone(), u64::MAX)
            });
            let sent_at = Instant::now();
            let sent = timeout_at(until, leased.connection.send(&mut request, &exchange)).await;
            let response = match sent {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => {
                    if !has_moved && leased.may_move(error, sent_at, is_safe) {
                        (fresh, has_moved) = (true, true);
                        continue;
                    }
                    return failed(None);
                }
                Err(_) => {
                    leased.connection.timed_out();
                    return Answered::Kept(Kept::failed(Outcome::Timeout), None);
                }
            };
            let took = began.elapsed();
            let (mut head, body) = response.into_parts();
            // A 101 that nobody asked for is as broken (RFC 9110 section 7.8).
            let is_switched = head.status == StatusCode::SWITCHING_PROTOCOLS;
            let cleaned = clean_response(&mut head.headers, false);
            let Some(keeps_for) = cleaned.ok().filter(|_| !is_switched) else {
                return failed(Some(took));
            };
            if is_events(&head.headers) {
                return Answered::GivenUp;
            }
            let stock = &self.metrics.stock;
            let Some(capture) = Capture::new(head.status, &head.headers, stock, &order.plan) else {
                return Answered::GivenUp;
            };
            let read = read(capture, Response::new(body)).await;
            if let Ok(Some(kept)) = read {
                self.lanes.give_back(leased, keeps_for.map(Duration::from_secs));
                self.metrics.side(lane.side).answered(began.elapsed());
                return Answered::Kept(kept, Some(took));
            }
            return if read.is_ok() { Answered::GivenUp } else { failed(Some(took)) };
        }
    }

    /// Closes what is not needed any more.
    pub fn sweep(&self, snapshot: &Snapshot) {
        self.lanes.sweep(|side, endpoint| {
            let mut members = snapshot.plans.get(side).members.iter();
            let is_there = members.any(|member| Arc::ptr_eq(&member.endpoint, endpoint));
            is_there && !*snapshot.retired.get(side) && snapshot.mirror.is_some()
        });
    }

    /// A way to an endpoint that is well: of two random ones to that with fewer requests of clients.
    fn lane(&self, side: Side, snapshot: &Snapshot) -> Option<Lane> {
        if *snapshot.retired.get(side) {
            return None;
        }
        let plan = snapshot.plans.get(side);
        let config = snapshot.config.paths.get(side);
        let is_up = |index: &usize| plan.members[*index].endpoint.is_up();
        let up: Vec<usize> = (0..plan.members.len()).filter(is_up).collect();
        // Without a slow start: a few shadows overrun nobody.
        let candidate = |at: &usize| plan.members[*at].candidate(Duration::MAX, Duration::ZERO).0;
        let candidates: Vec<_> = up.iter().map(candidate).collect();
        let mut roster = Roster::new(&candidates, 0.0, &Roster::default());
        let load = |at: usize| plan.members[up[at]].endpoint.load();
        let picked =
            roster.pick(Balance::LeastRequest, self.ids.draw(), &Tried::default(), load)?;
        let endpoint = plan.members[up[picked]].endpoint.clone();
        let (dialect, idle_for) = (plan.dialect.clone(), config.pool_idle_timeout);
        Some(Lane { side, endpoint, dialect, idle_for })
    }
}

fn failed(took: Option<Duration>) -> Answered {
    Answered::Kept(Kept::failed(Outcome::Reset), took)
}

/// Events have no end, whatever the request was willing to take.
fn is_events(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    kind.get(..EVENTS.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(EVENTS.as_bytes()))
}

/// The whole answer; `None` if it is too long, or there is no memory for it.
async fn read(mut capture: Capture, response: Response<Inflow>) -> Result<Option<Kept>, PathFault> {
    let mut body = response.into_body();
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        match frame {
            None => return Ok(capture.finish()),
            Some(Err(error)) => return Err(error.path_fault()),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    capture.push(data);
                }
                if capture.length() > READ_MAX {
                    return Ok(None);
                }
            }
        }
    }
}
