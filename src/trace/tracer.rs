//! Which requests are recorded, and their spans as they grow: one of the request's own, and one for each
//! attempt to have it answered.
//!
//! On the workers; nothing here waits.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::SystemTime;

use http::{HeaderMap, HeaderValue, Request, StatusCode};
use tokio::time::Instant;

use crate::config::Collector;
use crate::error::ProxyError;
use crate::ids::Ids;
use crate::metrics::shard::Shard;
use crate::trace::span::{
    Attempt, Cause, Ended, Finished, Head, PATH_MAX, Verb, shortened, sound_host,
};
use crate::upstream::endpoint::Endpoint;
use crate::vocab::Side;
use crate::wire::forwarded::Peer;
use crate::wire::present::{Field, Present};
use crate::wire::trace::{Parent, TRACEPARENT, traceparent};

/// Attempts of one request that are kept: at most six endpoints of each path, and one that moved on
/// from a connection that was on its way out.
const ATTEMPTS_MAX: usize = 16;
/// 2^64, the number of draws.
const DRAWS: f64 = 18_446_744_073_709_551_616.0;

/// Whom requests are recorded for, and which of those whose caller has not decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampling {
    collector: Collector,
    below: u64,
}

impl Sampling {
    /// Of a share of them, 0 to 1.
    #[must_use]
    pub fn of(collector: Collector, ratio: f64) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
        let below = (ratio * DRAWS) as u64;
        Self { collector, below }
    }

    /// Whether the one with `draw` is, which is uniform over its range. The lower half of a trace id is
    /// such a draw, and by it every service along the way decides alike.
    const fn takes(&self, draw: u64) -> bool {
        draw < self.below
    }
}

/// One worker's end of the way to the collector.
#[derive(Debug)]
pub struct Tracer {
    ids: Rc<Ids>,
    shard: Arc<Shard>,
    sender: SyncSender<Finished>,
}

impl Tracer {
    /// The end of the worker with `shard`.
    #[must_use]
    pub fn new(ids: Rc<Ids>, shard: Arc<Shard>, sender: SyncSender<Finished>) -> Rc<Self> {
        Rc::new(Self { ids, shard, sender })
    }

    /// Begins to record a request whose head came just now, if it is to be: a caller that records has
    /// decided, and so has one that does not.
    pub fn begin<B>(
        self: &Rc<Self>,
        sampling: &Sampling,
        peer: &Peer,
        (request, present): (&Request<B>, Present),
    ) -> Option<Rc<Trace>> {
        let given = present.has(Field::Traceparent).then(|| traceparent(request.headers()));
        let parent = given.flatten().and_then(Parent::of);
        let (trace_id, parent) = match parent {
            Some(Parent { sampled: false, .. }) => return None,
            Some(Parent { trace_id, span_id, .. }) => (trace_id, Some(span_id)),
            None => {
                let draw = self.ids.draw();
                if !sampling.takes(draw) {
                    return None;
                }
                // An id must not be all zeros; its highest bit is given away for that.
                let high = self.ids.draw() | 1 << 63;
                ((u128::from(high) << 64) | u128::from(draw), None)
            }
        };
        let uri = request.uri();
        let host = uri.authority().map(http::uri::Authority::as_str);
        let field = || request.headers().get(http::header::HOST)?.to_str().ok();
        Some(Rc::new(Trace {
            tracer: self.clone(),
            collector: sampling.collector.clone(),
            trace_id,
            parent,
            span_id: self.span_id(),
            began: (SystemTime::now(), Instant::now()),
            head: Head {
                method: Verb::of(request.method()),
                path: shortened(uri.path(), PATH_MAX),
                version: request.version(),
                host: host.or_else(field).and_then(sound_host),
                is_secure: peer.is_secure,
            },
            attempts: RefCell::default(),
        }))
    }

    fn span_id(&self) -> u64 {
        // It must not be all zeros; its lowest bit is given away for that.
        self.ids.draw() | 1
    }
}

/// A request that is recorded.
#[derive(Debug)]
pub struct Trace {
    tracer: Rc<Tracer>,
    collector: Collector,
    trace_id: u128,
    parent: Option<u64>,
    span_id: u64,
    began: (SystemTime, Instant),
    head: Head,
    attempts: RefCell<Vec<Attempt>>,
}

impl Trace {
    /// The trace's id.
    #[must_use]
    pub fn id(&self) -> u128 {
        self.trace_id
    }

    /// The `traceparent` that names the request's own span.
    #[must_use]
    pub fn field(&self) -> HeaderValue {
        self.field_of(self.span_id)
    }

    /// Begins an attempt; the `traceparent` that it is sent with.
    fn attempt(&self, side: Side, endpoint: &str, is_tls: bool) -> HeaderValue {
        let span_id = self.tracer.span_id();
        let mut attempts = self.attempts.borrow_mut();
        if attempts.len() < ATTEMPTS_MAX {
            attempts.push(Attempt {
                span_id,
                side,
                endpoint: endpoint.to_owned(),
                is_tls,
                began: self.now(),
                ended: None,
                status: None,
                error: None,
            });
        }
        self.field_of(span_id)
    }

    /// The head of a reply came. Its attempt lasts until the request's end.
    fn answered(&self, status: StatusCode) {
        if let Some(attempt) = self.attempts.borrow_mut().last_mut() {
            attempt.status = Some(status);
        }
    }

    /// The attempt failed.
    fn failed(&self, error: &'static str) {
        let now = self.now();
        let mut attempts = self.attempts.borrow_mut();
        if let Some(attempt) = attempts.last_mut().filter(|attempt| attempt.ended.is_none()) {
            (attempt.ended, attempt.error) = (Some(now), Some(error));
        }
    }

    /// Hands the spans on, or counts them as dropped where too many wait already. An attempt that has
    /// not ended yet ends with the request, as that does.
    pub fn end(&self, outcome: Ended) {
        let now = self.now();
        let mut attempts = self.attempts.take();
        for attempt in attempts.iter_mut().filter(|attempt| attempt.ended.is_none()) {
            (attempt.ended, attempt.error) = (Some(now), outcome.cause.map(Cause::name));
        }
        let finished = Finished {
            collector: self.collector.clone(),
            trace_id: self.trace_id,
            parent: self.parent,
            span_id: self.span_id,
            began: self.began.0,
            ended: now,
            head: self.head.clone(),
            outcome,
            attempts,
        };
        let spans = finished.spans();
        if self.tracer.sender.try_send(finished).is_err() {
            self.tracer.shard.spans_dropped.add(spans);
        }
    }

    /// By the clock of the request's beginning, which may be set meanwhile, and what has passed since.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        let (at, began) = self.began;
        at + began.elapsed()
    }

    fn field_of(&self, span_id: u64) -> HeaderValue {
        Parent { trace_id: self.trace_id, span_id, sampled: true }.field()
    }
}

/// A request's attempts, where it is recorded.
#[derive(Clone, Debug, Default)]
pub struct Trail(Option<Rc<Trace>>);

impl Trail {
    /// That of `trace`.
    #[must_use]
    pub fn of(trace: Option<&Rc<Trace>>) -> Self {
        Self(trace.cloned())
    }

    /// Begins an attempt, which is named in `fields`.
    pub fn attempt(&self, side: Side, endpoint: &Endpoint, fields: &mut HeaderMap) {
        if let Some(trace) = &self.0 {
            let field = trace.attempt(side, &endpoint.label, endpoint.is_tls);
            fields.insert(TRACEPARENT, field);
        }
    }

    /// The head of a reply came.
    pub fn answered(&self, status: StatusCode) {
        if let Some(trace) = &self.0 {
            trace.answered(status);
        }
    }

    /// The attempt failed.
    pub fn failed(&self, error: ProxyError) {
        if let Some(trace) = &self.0 {
            trace.failed(error.name());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};

    use super::*;
    use crate::error::ClientFault;
    use crate::trace::span::HOST_MAX;

    fn tracer(room: usize) -> (Rc<Tracer>, Receiver<Finished>) {
        let (sender, receiver) = sync_channel(room);
        (Tracer::new(Rc::new(Ids::new(7)), Arc::default(), sender), receiver)
    }

    fn begin(tracer: &Rc<Tracer>, ratio: f64, parent: &str) -> Option<Rc<Trace>> {
        let mut request = Request::get("/orders/7?token=secret").header("host", "a:80");
        if !parent.is_empty() {
            request = request.header(TRACEPARENT, parent);
        }
        record(tracer, ratio, &request.body(()).unwrap())
    }

    fn record(tracer: &Rc<Tracer>, ratio: f64, request: &Request<()>) -> Option<Rc<Trace>> {
        let peer = Peer {
            address: [192, 0, 2, 1].into(),
            address_value: HeaderValue::from_static("192.0.2.1"),
            trusted: false,
            is_secure: false,
            certificate: None,
        };
        let sampling = Sampling::of("http://a".parse().unwrap(), ratio);
        tracer.begin(&sampling, &peer, (request, Present::of(request.headers())))
    }

    fn ended(cause: Option<Cause>) -> Ended {
        Ended {
            client: [192, 0, 2, 1].into(),
            decision: None,
            route: None,
            code: Some(200),
            cause,
            failed_over: None,
        }
    }

    #[test]
    fn the_caller_decides_and_else_the_ratio() {
        let (tracer, _receiver) = tracer(1);
        let sampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let not = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let unsound = "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01";
        for (ratio, parent, is_recorded) in [
            (0.0, sampled, true),
            (1.0, sampled, true),
            (1.0, not, false),
            (0.0, "", false),
            (1.0, "", true),
            (0.0, unsound, false),
            (1.0, unsound, true),
        ] {
            let trace = begin(&tracer, ratio, parent);
            assert_eq!(trace.is_some(), is_recorded, "{ratio} {parent}");
            let Some(trace) = trace else { continue };
            let kept = trace.id() == 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
            assert_eq!((kept, trace.parent.is_some()), (parent == sampled, parent == sampled));
            assert_eq!(trace.head.path, "/orders/7");
        }
        let recorded = (0..10_000).filter(|_| begin(&tracer, 0.1, "").is_some()).count();
        // Ten standard deviations to either side.
        assert!((700..1_300).contains(&recorded), "{recorded}");
    }

    #[test]
    fn each_attempt_is_sent_with_a_name_of_its_own_and_ends_once() {
        let (tracer, receiver) = tracer(1);
        let trace = begin(&tracer, 1.0, "").unwrap();
        let first = trace.attempt(Side::Legacy, "127.0.0.1:1", false);
        trace.failed("connect");
        let second = trace.attempt(Side::Async, "127.0.0.1:2", false);
        trace.answered(StatusCode::OK);
        trace.end(ended(Some(Cause::Client(ClientFault::Abort))));
        let finished = receiver.recv().unwrap();
        assert_eq!(finished.spans(), 3);
        let sent = [first, second].map(|field| Parent::of(&field).unwrap());
        for (sent, attempt) in sent.iter().zip(&finished.attempts) {
            let Parent { trace_id, span_id, sampled } = *sent;
            assert_eq!((trace_id, span_id, sampled), (trace.id(), attempt.span_id, true));
        }
        assert_ne!(sent[0].span_id, sent[1].span_id);
        let of = |attempt: &Attempt| (attempt.error, attempt.status, attempt.ended.is_some());
        let found: Vec<_> = finished.attempts.iter().map(of).collect();
        let expected = [(Some("connect"), None, true), (Some("abort"), Some(StatusCode::OK), true)];
        assert_eq!(found, expected);
        assert!(finished.attempts.iter().all(|attempt| attempt.ended <= Some(finished.ended)));
    }

    #[test]
    fn what_finds_no_room_is_counted_and_costs_no_time() {
        let (tracer, _receiver) = tracer(1);
        for _ in 0..3 {
            let trace = begin(&tracer, 1.0, "").unwrap();
            (0..2 * ATTEMPTS_MAX).for_each(|_| drop(trace.attempt(Side::Legacy, "a", false)));
            trace.end(ended(None));
        }
        assert_eq!(tracer.shard.spans_dropped.get(), 2 * (1 + ATTEMPTS_MAX as u64));
    }

    #[test]
    fn no_secret_is_kept_and_nothing_that_is_long() {
        let (tracer, _receiver) = tracer(1);
        let long = "x".repeat(HOST_MAX + 1);
        let invented = "M".repeat(5_000);
        let known = |method| Verb::Known(method);
        for (method, target, field, host, verb) in [
            ("GET", "/", "a:80", Some("a:80"), known("GET")),
            ("GET", "http://b:1/", "a", Some("b:1"), known("GET")),
            ("GET", "http://user:secret@b/", "a", None, known("GET")),
            ("GET", "/", "user:secret@a", None, known("GET")),
            ("PATCH", "/", &long[1..], Some(&long[1..]), known("PATCH")),
            ("GET", "/", &*long, None, known("GET")),
            ("get", "/", "", None, Verb::Other("get".to_owned())),
            (&*invented, "/", "a", Some("a"), Verb::Other(invented[..64].to_owned())),
        ] {
            let request = Request::builder().method(method).uri(target).header("host", field);
            let request = request.body(()).unwrap();
            let head = &record(&tracer, 1.0, &request).unwrap().head;
            assert_eq!((head.host.as_deref(), &head.method), (host, &verb), "{method} {target}");
        }
    }
}
