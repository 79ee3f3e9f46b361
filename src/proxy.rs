//! The journey of one request, from a parsed head to the last byte of its reply.
//!
//! The steps, as numbered in `lib.rs`: 4 load the snapshot and name the request · 5 decide the path
//! · 6 clean the headers · 7 admit, pick, send · 8 stream back, counted · 9 mirror (its copy is
//! made before 7) · 10 record once, at the end. Nothing here waits for anything but the client and the chosen path.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use futures_util::FutureExt;
use futures_util::future::{Either, ready};
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode};

use crate::access_log::AccessLog;
use crate::arrival::{self, CLOSE, Kept, Onward, answer_options, arrive};
use crate::departure::{Names, check, clean};
use crate::drain::Phase;
use crate::error::ProxyError;
use crate::forward::{Reply, forward};
use crate::journal::{Record, Settlement};
use crate::mirror::select::Selector;
use crate::publisher::Publisher;
use crate::route::Decision;
use crate::route::head::Head;
use crate::serve::tunnel::{Agreed, TunnelSeat};
use crate::snapshot::{Snapshot, Turns};
use crate::tick::{Deadline, Span};
use crate::trace::tracer::{Tracer, Trail};
use crate::upstream::admit::Failed;
use crate::upstream::attempt::Outbound;
use crate::upstream::path::Supplies;
use crate::view::View;
use crate::vocab::Resend;
use crate::wire::body::{ReplyBody, Source};
use crate::wire::check::Checked;
use crate::wire::exchange::{Exchange, Upload};
use crate::wire::forwarded::{Peer, client_address};
use crate::wire::headers;
use crate::wire::inflow::Inflow;
use crate::wire::present::{Field, Present};
use crate::wire::socket::ClientSocket;
use crate::wire::trace::{X_REQUEST_ID, is_request_id};
use crate::wire::translate;
use crate::wire::upload::RequestBody;

/// What a path gives.
type Forwarded = Result<Reply, Failed<Outbound>>;

/// What a client gets.
pub type ClientReply = Response<ReplyBody<Settlement>>;

/// One worker's proxy.
#[derive(Debug)]
pub struct Proxy {
    publisher: Arc<Publisher>,
    turns: Arc<Turns>,
    supplies: Supplies,
    selector: Selector,
    tracer: Rc<Tracer>,
    log: Option<Rc<AccessLog>>,
    phase: Rc<Cell<Phase>>,
    view: RefCell<Rc<View>>,
    cache: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
}

/// One client connection, as a journey sees it.
#[derive(Debug)]
pub struct Client {
    /// The peer.
    pub peer: Peer,
    /// The address that it reached.
    pub local: HeaderValue,
    /// Its socket, unless other streams share it.
    pub socket: Option<Rc<ClientSocket>>,
    /// Its state, or its stream's.
    pub exchange: Rc<Exchange>,
    /// Where a tunnel is left for the connection.
    pub tunnel: TunnelSeat,
}

impl Proxy {
    /// A worker's proxy.
    #[must_use]
    pub fn new(
        publisher: Arc<Publisher>,
        turns: Arc<Turns>,
        (supplies, selector, tracer): (Supplies, Selector, Rc<Tracer>),
        log: Option<Rc<AccessLog>>,
        phase: Rc<Cell<Phase>>,
    ) -> Self {
        let view = View::new(publisher.current(), &publisher, &supplies, None);
        let cache = RefCell::new(Cache::new(publisher.source()));
        let view = RefCell::new(view);
        Self { publisher, turns, supplies, selector, tracer, log, phase, view, cache }
    }

    /// The view of the snapshot in force; made anew when a new one was published.
    pub fn view(&self) -> Rc<View> {
        let mut cache = self.cache.borrow_mut();
        let current = cache.load();
        let mut view = self.view.borrow_mut();
        if !Arc::ptr_eq(current, &view.snapshot) {
            *view = View::new(current.clone(), &self.publisher, &self.supplies, Some(&view));
        }
        view.clone()
    }

    /// The journey. Never fails: whatever goes wrong becomes a reply. Steps 4 to 6 are done at once;
    /// only what waits for the client or the path is left to the future, which lies in each
    /// connection's memory, idle ones included.
    pub fn handle(
        self: Rc<Self>,
        client: Rc<Client>,
        request: Request<Inflow>,
    ) -> impl Future<Output = ClientReply> {
        let view = self.view();
        let body_bytes_max = view.snapshot.config.listen.body_bytes;
        let request =
            request.map(|body| RequestBody::new(body, client.exchange.clone(), body_bytes_max));
        let is_whole = request.body().is_empty();
        client.exchange.begin(if is_whole { Upload::Complete } else { Upload::Running });
        client.exchange.take_interims_of(request.version());
        let present = Present::of(request.headers());
        let request_id = self.name_request(&request, present);
        let (exchange, phase) = (client.exchange.clone(), self.phase.clone());
        let mut record = Record::new(client.peer.address, exchange, view, phase, request_id);
        if let Some(log) = &self.log {
            let target = request.uri().path().to_owned();
            record.keep_for_log(log.clone(), request.method().clone(), target);
        }
        if let Some(sampling) = &record.view().snapshot.sampling {
            record.trace = self.tracer.begin(sampling, &client.peer, (&request, present));
        }
        match self.depart(&client, &mut record, request, present) {
            Ok(Departure::Forward { sending, switching }) => {
                Either::Left(sending.then(move |replied| match replied {
                    Ok(reply) => {
                        let arrived = arrive(&mut record, reply, switching);
                        Either::Left(ready(self.finish(&client, record, arrived)))
                    }
                    Err(Failed { error, request }) => {
                        match request.filter(|_| self.may_fail_over(&record)) {
                            // Boxed: it is rare.
                            Some(outbound) => Either::Right(Box::pin(self.fail_over(
                                client,
                                record,
                                error,
                                (*outbound, switching),
                            ))),
                            None => Either::Left(ready(self.finish(&client, record, Err(error)))),
                        }
                    }
                }))
            }
            Ok(Departure::Answer) => {
                Either::Right(ready(self.finish(&client, record, Ok(answer_options()))))
            }
            Err(error) => Either::Right(ready(self.finish(&client, record, Err(error)))),
        }
    }

    /// Whether the budget has a failover left, where there is any.
    fn may_fail_over(&self, record: &Record) -> bool {
        let Some(side) = record.side() else {
            return false;
        };
        let path = record.view().paths.get(side);
        if !path.plan.failover.enabled {
            return false;
        }
        let may = path.failovers.withdraw(self.supplies.ticks.now());
        if !may {
            let cells = self.supplies.shard.sides.get(side);
            cells.failovers[Resend::OverBudget as usize].add(1);
        }
        may
    }

    /// 7, once more: the other path gets a request that the first could not answer.
    async fn fail_over(
        self: Rc<Self>,
        client: Rc<Client>,
        mut record: Box<Record>,
        error: ProxyError,
        (outbound, switching): (Outbound, bool),
    ) -> ClientReply {
        let Some(side) = record.side() else {
            return self.refuse(&client, record, error);
        };
        record.fail_over(error);
        let other = record.view().paths.get(side.other()).clone();
        if other.plan.deadline != Span::default() {
            client.exchange.timer.arm_sooner(Deadline::Exchange, other.plan.deadline);
        }
        let replied = forward(&other, outbound).await;
        let resend = if replied.is_ok() { Resend::Success } else { Resend::Failure };
        self.supplies.shard.sides.get(side).failovers[resend as usize].add(1);
        let replied = replied.map_err(|failed| failed.error);
        let arrived = replied.and_then(|reply| arrive(&mut record, reply, switching));
        self.finish(&client, record, arrived)
    }

    fn finish(
        &self,
        client: &Client,
        record: Box<Record>,
        arrived: Result<Onward, ProxyError>,
    ) -> ClientReply {
        match arrived {
            Ok(onward) => self.reply(client, record, onward),
            Err(error) => self.refuse(client, record, error),
        }
    }

    /// 4: a client's request id is kept if it is sound, else made.
    fn name_request(&self, request: &Request<RequestBody>, present: Present) -> HeaderValue {
        let given = present.has(Field::RequestId).then(|| request.headers().get(X_REQUEST_ID));
        match given.flatten() {
            Some(id) if is_request_id(id) => id.clone(),
            Some(_) | None => self.supplies.ids.request_id(),
        }
    }

    /// 5 to 7: checks, decides and cleans the request, and hands it to its path.
    fn depart(
        &self,
        client: &Client,
        record: &mut Record,
        mut request: Request<RequestBody>,
        present: Present,
    ) -> Result<Departure<impl Future<Output = Forwarded> + use<>>, ProxyError> {
        let exchange = &client.exchange;
        let limits = &record.view().snapshot.config.listen;
        let is_ambiguous = client.socket.as_ref().is_some_and(|socket| socket.is_ambiguous());
        let checked = check(limits, is_ambiguous, &request, present);
        let checked = checked.map_err(|(fault, rule)| {
            exchange.blame(fault);
            ProxyError::Client(fault, rule)
        });
        if let Checked::AnswerOptions = checked? {
            return Ok(Departure::Answer);
        }
        let connect = translate::accept_connect(&mut request, || self.supplies.ids.websocket_key());
        let decision = self.decide(record.view(), &client.peer, &request); // 5
        record.decided(decision);
        let upgrade = connect // 6
            .or_else(|| headers::upgrade(request.version(), request.headers(), present));
        let switching = upgrade.is_some();
        let snapshot = &record.view().snapshot;
        let mut arm = None;
        let head = (switching, &mut arm);
        let selected = self.selector.select(snapshot, decision, &request, head); // 9
        let ids = &self.supplies.ids;
        let names = Names { request_id: record.request_id(), trace: record.trace.as_deref(), ids };
        clean(&mut request, upgrade, (&client.peer, &client.local, present), names);
        let mirrored = selected.and_then(|selected| selected.copy(&mut request));
        (record.mirrored, record.arm) = (mirrored, arm);
        record.keep_trace_for_log(request.headers());
        let path = record.view().paths.get(decision.side);
        exchange.timer.arm(Deadline::Exchange, path.plan.deadline);
        if path.plan.failover.enabled {
            path.failovers.deposit(path.plan.failover.budget, self.supplies.ticks.now());
        }
        let (exchange, trail) = (exchange.clone(), Trail::of(record.trace.as_ref()));
        let sending = forward(path, Outbound { request, exchange, trail }); // 7
        Ok(Departure::Forward { sending, switching })
    }

    fn decide(&self, view: &View, peer: &Peer, request: &Request<RequestBody>) -> Decision {
        let trusted = &view.snapshot.config.listen.trusted_proxies;
        let is_trusted = |address| trusted.iter().any(|network| network.contains(&address));
        let asked = Head {
            method: request.method(),
            path: request.uri().path(),
            headers: request.headers(),
            client: client_address(request.headers(), peer, is_trusted),
            trusted: peer.trusted,
        };
        view.snapshot.rules.decide(&asked, |route| self.turns.next(route))
    }

    /// 8 and 10: the reply goes back, and is recorded when it has ended.
    fn reply(&self, client: &Client, mut record: Box<Record>, onward: Onward) -> ClientReply {
        let Onward { mut head, source, kept } = onward;
        record.code = Some(head.status.as_u16());
        let may_close = client.socket.is_some();
        let is_ending = may_close && self.phase.get().is_ending();
        if is_ending && head.status != StatusCode::SWITCHING_PROTOCOLS {
            head.headers.insert(CONNECTION, CLOSE);
        }
        let is_whole = matches!(source, Source::Empty | Source::One(_));
        let hold = match kept {
            Some(Kept { hold, switched: true, .. }) => {
                if let Some((connection, place)) = hold.into_tunnel() {
                    let record = record.into_tunnel(place);
                    *client.tunnel.borrow_mut() = Some(Agreed { connection, record });
                }
                let body = ReplyBody::new(source, client.exchange.clone(), None);
                return Response::from_parts(head, body);
            }
            Some(Kept { hold, keeps_for, .. }) if is_whole && !client.exchange.is_uploading() => {
                // Its connection may serve the next request while this reply is written.
                hold.give_back(keeps_for);
                None
            }
            Some(Kept { hold, keeps_for, .. }) => Some((hold, keeps_for)),
            None => None,
        };
        let tail = Settlement { record, hold };
        Response::from_parts(head, ReplyBody::new(source, client.exchange.clone(), Some(tail)))
    }

    /// A reply of the proxy itself.
    fn refuse(&self, client: &Client, mut record: Box<Record>, error: ProxyError) -> ClientReply {
        if error == ProxyError::Resources {
            self.supplies.shard.out_of_resources.add(1);
        }
        let refusal = error.refusal();
        record.code = Some(refusal.status.as_u16());
        record.error = Some(error);
        let may_close = client.socket.is_some();
        let closes = may_close && (refusal.close || self.phase.get().is_ending());
        let head = arrival::refuse(&refusal, record.request_id().clone(), closes);
        let text = format!("{}\n", refusal.sentence);
        let tail = Settlement { record, hold: None };
        let body = ReplyBody::new(Source::One(text.into()), client.exchange.clone(), Some(tail));
        Response::from_parts(head, body)
    }
}

/// How a request leaves.
enum Departure<F> {
    /// To its path; `switching` if it asks for a tunnel.
    Forward { sending: F, switching: bool },
    /// Nowhere: it is answered here.
    Answer,
}
