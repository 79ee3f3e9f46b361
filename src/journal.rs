//! One request's record: opened with its head, settled once, whichever way it ends.
//!
//! Metrics and the access log are written here and nowhere else on a request's way. A record that
//! is dropped without having been settled belongs to a client that left, or to a drain's cut.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use tokio::time::Instant;

use crate::access_log::{AccessLog, Line};
use crate::compare::pair;
use crate::drain::Phase;
use crate::error::{ClientFault, PathFault, ProxyError};
use crate::forward::{Hold, Place};
use crate::metrics::shard::Shard;
use crate::mirror::harm::Arm;
use crate::mirror::order::Primary;
use crate::route::Decision;
use crate::tick::Span;
use crate::trace::span::{Cause, Ended};
use crate::trace::tracer::Trace;
use crate::view::View;
use crate::vocab::{Outcome, Reason, Side};
use crate::wire::body::{End, Tail};
use crate::wire::exchange::Exchange;
use crate::wire::trace::{TRACEPARENT, trace_id};

/// The code of a request whose client left before it had a reply, as nginx made it customary.
const CLIENT_LEFT: u16 = 499;

/// One request's record.
#[derive(Debug)]
pub struct Record {
    started: Instant,
    // When the present path got it: later than the start if it failed over.
    decided_at: Instant,
    failed_over: Option<PathFault>,
    client: IpAddr,
    exchange: Rc<Exchange>,
    view: Rc<View>,
    phase: Rc<Cell<Phase>>,
    request_id: HeaderValue,
    decision: Option<Decision>,
    logged: Option<Logged>,
    /// The status code of the reply, once there is one.
    pub code: Option<u16>,
    /// Why the proxy replied itself.
    pub error: Option<ProxyError>,
    /// What is to be told of the reply, if the request is mirrored.
    pub mirrored: Option<Box<Primary>>,
    /// Whether it was drawn to be mirrored, where nothing else decided that.
    pub arm: Option<Arm>,
    /// Its spans, if it is recorded.
    pub trace: Option<Rc<Trace>>,
    is_tunnel: bool,
    settled: bool,
}

#[derive(Debug)]
struct Logged {
    log: Rc<AccessLog>,
    method: Method,
    target: String,
    traceparent: Option<HeaderValue>,
}

impl Record {
    /// The record of a request whose head came just now.
    #[must_use]
    pub fn new(
        client: IpAddr,
        exchange: Rc<Exchange>,
        view: Rc<View>,
        phase: Rc<Cell<Phase>>,
        request_id: HeaderValue,
    ) -> Box<Self> {
        let started = Instant::now();
        // Boxed once, as it moves with its reply through several hands.
        Box::new(Self {
            started,
            decided_at: started,
            failed_over: None,
            client,
            exchange,
            view,
            phase,
            request_id,
            decision: None,
            logged: None,
            code: None,
            error: None,
            mirrored: None,
            arm: None,
            trace: None,
            is_tunnel: false,
            settled: false,
        })
    }

    /// Keeps what only the access log needs.
    pub fn keep_for_log(&mut self, log: Rc<AccessLog>, method: Method, target: String) {
        self.logged = Some(Logged { log, method, target, traceparent: None });
    }

    /// Keeps for the access log which trace the request is part of, by its head as a path gets it.
    pub fn keep_trace_for_log(&mut self, fields: &HeaderMap) {
        if let Some(logged) = &mut self.logged {
            logged.traceparent = fields.get(TRACEPARENT).cloned();
        }
    }

    /// What the request sees of the config.
    #[must_use]
    pub fn view(&self) -> &Rc<View> {
        &self.view
    }

    /// The path that was decided on, once it is.
    #[must_use]
    pub fn side(&self) -> Option<Side> {
        self.decision.map(|decision| decision.side)
    }

    /// The request id.
    #[must_use]
    pub fn request_id(&self) -> &HeaderValue {
        &self.request_id
    }

    /// The path is decided: from now on the request is in flight there.
    pub fn decided(&mut self, decision: Decision) {
        let cells = self.exchange.shard.sides.get(decision.side);
        cells.in_flight.add(1);
        cells.decisions[decision.reason as usize].add(1);
        let routed = decision.routed(self.view.snapshot.epoch);
        cells.route(decision.route).attempts.routed(routed);
        self.exchange.set_routed(routed);
        self.decision = Some(decision);
    }

    /// The path failed, and the other one gets the request: the first is charged with what its
    /// client would have seen.
    pub fn fail_over(&mut self, error: ProxyError) {
        let (ProxyError::Path(fault), Some(decision)) = (error, self.decision) else {
            return;
        };
        let Decision { route, side, .. } = decision;
        let _ = self.leave(error.refusal().status.as_u16(), Some(fault));
        self.failed_over = Some(fault);
        // The other path's answer is the shadow's by now.
        (self.mirrored, self.arm) = (None, None);
        self.decided_at = Instant::now();
        let (side, reason) = (side.other(), Reason::Failover);
        self.decided(Decision { route, side, reason, is_first_half: false });
    }

    /// Counts what became of the request on the path that it leaves, and says how long it was there.
    fn leave(&self, code: u16, fault: Option<PathFault>) -> Duration {
        let took = self.decided_at.elapsed();
        let Some(decision) = self.decision else {
            return took;
        };
        let cells = self.exchange.shard.sides.get(decision.side);
        let route = cells.route(decision.route);
        cells.in_flight.sub(1);
        route.codes.count(code);
        route.duration.observe(took);
        if let Some(trace) = &self.trace {
            route.exemplars.get_or_init(Box::default).keep(trace.id(), took, trace.now());
        }
        if let Some(fault) = fault {
            cells.fault(decision.route, fault);
            if fault.is_unattempted() {
                let limits = &self.exchange.shard.thresholds;
                route.attempts.finished(self.exchange.routed(), Outcome::Error, 0, limits);
            }
        }
        took
    }

    /// Turns into the record of a tunnel, which holds its place.
    pub fn into_tunnel(mut self: Box<Self>, place: Place) -> Box<dyn FnOnce(End, u64, u64)> {
        self.is_tunnel = true;
        let decision = self.decision;
        let shard = self.exchange.shard.clone();
        if let Some(decision) = decision {
            shard.sides.get(decision.side).tunnels.add(1);
        }
        let open = OpenTunnel { shard, decision, _place: place };
        Box::new(move |end, sent, received| {
            open.count_sent(sent);
            drop(open);
            self.settle(end, received);
        })
    }

    /// Settles the record: counts the request, once.
    pub fn settle(mut self, end: End, bytes: u64) {
        self.close(end, bytes);
    }

    fn close(&mut self, end: End, bytes: u64) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let shard = self.exchange.shard.clone();
        let (fault, is_cut) = match (end, self.error) {
            (End::Path(fault), _) | (_, Some(ProxyError::Path(fault))) => (Some(fault), false),
            (End::Dropped, _) if !self.is_cut() => {
                self.exchange.blame(ClientFault::Abort);
                (None, false)
            }
            (End::Dropped | End::Cut, _) => {
                self.count_cut(&shard);
                (None, true)
            }
            (End::Complete, _) => (None, false),
        };
        let has_ended = end == End::Complete || fault.is_some();
        if let Some(primary) = self.mirrored.take() {
            self.tell(*primary, end, fault);
        }
        let code = self.code.unwrap_or(CLIENT_LEFT);
        match self.decision {
            None => shard.refused.count(code),
            Some(decision) => {
                let took = self.leave(code, fault);
                // One whose client left was not waited for to its end, and a tunnel has none.
                if let Some(arm) = self.arm.filter(|_| has_ended && !self.is_tunnel) {
                    shard.took(arm, took);
                }
                let cells = shard.sides.get(decision.side);
                cells.request_bytes.add(self.exchange.request_bytes());
                cells.response_bytes.add(bytes);
            }
        }
        self.log(bytes, fault);
        if let Some(trace) = self.trace.take() {
            self.end_trace(&trace, fault, is_cut);
        }
    }

    /// Tells the mirror how the reply ended. Of what never got to an endpoint, or its client did not wait
    /// for, there is nothing to tell.
    fn tell(&self, primary: Primary, end: End, fault: Option<PathFault>) {
        match fault {
            Some(fault) if fault.is_unattempted() => {}
            Some(fault) if fault.is_timeout() => primary.failed(pair::Outcome::Timeout),
            Some(_) => primary.failed(pair::Outcome::Reset),
            None if end == End::Complete && self.error.is_none() => primary.ended(),
            None => {}
        }
    }

    /// Of one that was dropped: whether a drain's deadline cut it off; else the client is gone.
    fn is_cut(&self) -> bool {
        match self.phase.get() {
            Phase::Cut | Phase::Closed => true,
            Phase::Starting | Phase::Serving | Phase::Leaving | Phase::Draining => {
                self.exchange.is_cut()
            }
        }
    }

    fn count_cut(&self, shard: &Shard) {
        let Some(decision) = self.decision else {
            return;
        };
        let cells = shard.sides.get(decision.side);
        if self.is_tunnel { cells.cut_tunnels.add(1) } else { cells.cut.add(1) }
    }

    fn log(&self, bytes: u64, fault: Option<PathFault>) {
        let Some(Logged { log, method, target, traceparent }) = &self.logged else {
            return;
        };
        let client_fault = self.exchange.fault().map(ClientFault::name);
        log.log(&Line {
            time: crate::record::now(),
            client: self.client,
            method: method.as_str(),
            target,
            path: self.decision.map(|decision| decision.side.name()),
            route: self.route(),
            reason: self.decision.map(|decision| decision.reason.name()),
            code: self.code.unwrap_or(CLIENT_LEFT),
            error: fault.map(PathFault::name).or(client_fault),
            failed_over: self.failed_over.map(PathFault::name),
            duration_ms: (self.started.elapsed().as_secs_f64() * 1e6).round() / 1e3,
            request_bytes: self.exchange.request_bytes(),
            response_bytes: bytes,
            request_id: self.request_id.to_str().unwrap_or_default(),
            trace_id: traceparent.as_ref().and_then(trace_id),
        });
    }

    /// The name of the route that matched, once it is known.
    fn route(&self) -> Option<&str> {
        let decision = self.decision?;
        let mut targets = self.view.snapshot.rules.targets();
        targets.find(|target| target.route == decision.route).map(|target| target.name.as_str())
    }

    /// Hands on the request's spans.
    fn end_trace(&self, trace: &Trace, fault: Option<PathFault>, is_cut: bool) {
        let cut = is_cut.then_some(Cause::Cut);
        let by_client = self.exchange.fault().map(Cause::Client);
        trace.end(Ended {
            client: self.client,
            decision: self.decision.map(|decision| (decision.side, decision.reason)),
            route: self.route().map(str::to_owned),
            code: self.code,
            cause: fault.map(Cause::Path).or(cut).or(by_client),
            failed_over: self.failed_over.map(PathFault::name),
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.close(End::Dropped, 0);
    }
}

struct OpenTunnel {
    shard: std::sync::Arc<Shard>,
    decision: Option<Decision>,
    _place: Place,
}

impl OpenTunnel {
    fn count_sent(&self, sent: u64) {
        if let Some(decision) = self.decision {
            self.shard.sides.get(decision.side).request_bytes.add(sent);
        }
    }
}

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        if let Some(decision) = self.decision {
            self.shard.sides.get(decision.side).tunnels.sub(1);
        }
    }
}

/// What a reply settles at its end.
#[derive(Debug)]
pub struct Settlement {
    /// The record.
    pub record: Box<Record>,
    /// The connection and the slot, while they are held, and how long the backend keeps the first.
    pub hold: Option<(Hold, Option<Span>)>,
}

impl Tail for Settlement {
    fn passes(&mut self, data: &Bytes) {
        if let Some(primary) = &mut self.record.mirrored {
            primary.passed(data);
        }
    }

    fn progressed(&self) {
        if let Some((hold, _)) = &self.hold {
            hold.progressed();
        }
    }

    fn end(self, end: End, bytes: u64) {
        let Self { record, hold } = self;
        if let Some((hold, keeps_for)) = hold {
            match end {
                End::Complete if !record.exchange.is_uploading() => hold.give_back(keeps_for),
                End::Complete => hold.succeeded(),
                End::Path(fault) => hold.failed(fault),
                End::Dropped | End::Cut => {}
            }
        }
        record.settle(end, bytes);
    }
}
