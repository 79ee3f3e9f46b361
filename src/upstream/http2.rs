//! One HTTP/2 connection to a backend (RFC 9113), shared by the requests of a worker.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Ping, Reason, RecvStream, SendStream};
use http::uri::Scheme;
use http::{Request, Response, StatusCode};
use http_body::Body;
use tokio::task::AbortHandle;

use crate::error::{PathFault, ProxyError};
use crate::upstream::unsent::SendError;
use crate::wire::duplex::StreamIo;
use crate::wire::exchange::Exchange;
use crate::wire::fields::are_tokens;
use crate::wire::inflow::{Inflow, http2_fault};
use crate::wire::joined::{JoinedStream, Scratch};
use crate::wire::outflow::Outflow;
use crate::wire::translate::{self, Upgrading};
use crate::wire::transport::Transport;
use crate::wire::upload::RequestBody;

/// Streams of one connection, if the backend allows as many: beyond it another connection is opened.
const STREAMS_MAX: usize = 100;
/// What the backend may send of one reply before its client takes it.
const STREAM_WINDOW: u32 = 256 * 1024;
/// A reply that is not read never delays another: all streams' windows fit in the connection's.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS_MAX as u32;
/// What h2 holds of a request's body until it is written.
const SEND_BUFFER_MAX: usize = 64 * 1024;
/// The largest response head.
const HEAD_MAX: u32 = 64 * 1024;

/// A connection.
#[derive(Clone)]
pub struct Connection(Rc<Shared>);

struct Shared {
    scheme: Scheme,
    sender: SendRequest<Bytes>,
    open: Cell<usize>,
    served: Cell<u64>,
    answered: Cell<u64>,
    closed: Rc<Cell<bool>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("open", &self.0.open).finish_non_exhaustive()
    }
}

impl Connection {
    /// The connection over `transport`, whose codec runs until it is closed.
    ///
    /// # Errors
    /// [`PathFault::Connect`], [`PathFault::Protocol`], or [`PathFault::Tls`]: of TLS 1.3 a client has done
    /// its part before the server has looked at its certificate.
    pub async fn open(transport: Transport, scratch: Scratch) -> Result<Self, ProxyError> {
        let scheme = match &transport {
            Transport::Plain(_) => Scheme::HTTP,
            Transport::Tls(_) => Scheme::HTTPS,
        };
        let io = JoinedStream::new(transport, scratch);
        let (sender, connection) = Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEAD_MAX)
            .max_send_buffer_size(SEND_BUFFER_MAX)
            .initial_max_send_streams(STREAMS_MAX)
            .handshake::<_, Bytes>(io)
            .await
            .map_err(|_| ProxyError::Path(PathFault::Connect))?;
        let mut connection = connection;
        let ping = connection.ping_pong();
        let (closed, ended) = (Rc::new(Cell::new(false)), Rc::new(OnceCell::new()));
        let (known, ends) = (closed.clone(), ended.clone());
        #[expect(clippy::disallowed_methods, reason = "ends with its socket or its last stream")]
        tokio::task::spawn_local(async move {
            // What ended it, its streams have been told.
            let _ = ends.set(connection.await.map_err(|error| unopened(&error)));
            known.set(true);
        });
        if let Some(mut ping) = ping {
            // Its answer comes behind the backend's settings: from here on the limit of streams is known,
            // and that HTTP/2 is spoken at all.
            if ping.ping(Ping::opaque()).await.is_err() {
                let fault = ended.get().copied().and_then(Result::err);
                return Err(ProxyError::Path(fault.unwrap_or(PathFault::Protocol)));
            }
        }
        let (open, served, answered) = (Cell::new(0), Cell::new(0), Cell::new(0));
        Ok(Self(Rc::new(Shared { scheme, sender, open, served, answered, closed })))
    }

    /// Whether both are the same one.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// Whether it takes no more requests: closed, silent, or the backend has said so by a GOAWAY.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        if self.0.closed.get() {
            return true;
        }
        let mut sender = self.0.sender.clone();
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        matches!(sender.poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// Whether it takes one more request.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.is_closed()
            && self.0.open.get() < self.0.sender.current_max_send_streams().min(STREAMS_MAX)
    }

    /// Open streams.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.0.open.get()
    }

    /// Requests that it has carried.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.0.served.get()
    }

    /// Room for one request.
    #[must_use]
    pub fn stream(&self) -> Stream {
        self.0.open.set(self.0.open.get() + 1);
        let answered_before = Cell::new(self.0.answered.get());
        let (pump, tunnel) = (RefCell::default(), RefCell::default());
        Stream(Rc::new(Seat { connection: self.clone(), answered_before, pump, tunnel }))
    }
}

/// Room for one request on a connection. Dropped, the request is cancelled if it is not complete.
pub struct Stream(Rc<Seat>);

struct Seat {
    connection: Connection,
    // How many requests the connection had answered when this one was sent.
    answered_before: Cell<u64>,
    // Sends the request's body.
    pump: RefCell<Option<AbortHandle>>,
    tunnel: RefCell<Option<(RecvStream, SendStream<Bytes>)>>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("connection", &self.0.connection).finish_non_exhaustive()
    }
}

impl Stream {
    /// Whether its connection takes no more requests.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.connection.is_closed()
    }

    /// Requests that its connection has carried.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.0.connection.served()
    }

    /// Its connection.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.0.connection
    }

    /// The request was not answered in time. If no other one was meanwhile, the backend may have gone
    /// without a word, and TCP takes a quarter of an hour to notice: no more requests get that far.
    pub fn timed_out(&self) {
        let shared = &self.0.connection.0;
        if shared.answered.get() == self.0.answered_before.get() {
            shared.closed.set(true);
        }
    }

    /// Sends a request, and waits for the head of its response. Its content is taken out of `request`;
    /// what else it has stays.
    ///
    /// # Errors
    /// Whether the request was processed, and else what went wrong.
    pub async fn send(
        &self,
        request: &mut Request<RequestBody>,
        exchange: &Exchange,
    ) -> Result<Response<Inflow>, SendError> {
        self.0.send(request, exchange).await
    }

    /// Both directions of a stream that agreed to a tunnel.
    #[must_use]
    pub fn into_tunnel(self) -> Option<StreamIo> {
        let (receive, send) = self.0.tunnel.take()?;
        Some(StreamIo::new(receive, send, Some(Box::new(self.0))))
    }
}

impl Seat {
    async fn send(
        &self,
        request: &mut Request<RequestBody>,
        exchange: &Exchange,
    ) -> Result<Response<Inflow>, SendError> {
        let shared = &self.connection.0;
        shared.served.set(shared.served.get() + 1);
        self.answered_before.set(shared.answered.get());
        let mut sender = shared.sender.clone();
        let body = request.body_mut().take();
        let can_upgrade = sender.is_extended_connect_protocol_enabled();
        let head = head_of(request);
        let (head, upgrading) = translate::request(head, &shared.scheme, can_upgrade);
        let is_whole = body.is_end_stream() && upgrading.is_none();
        let (responding, stream) =
            sender.send_request(head, is_whole).map_err(|error| failed(&error))?;
        let mut kept = None;
        if upgrading.is_some() {
            kept = Some(stream);
        } else if !is_whole {
            *self.pump.borrow_mut() = Some(pump(body, stream));
        }
        let responded = respond(responding, exchange).await;
        shared.answered.set(shared.answered.get() + 1);
        let response = responded.map_err(|error| failed(&error))?;
        if !are_tokens(response.headers()) {
            return Err(SendError::Failed(PathFault::Protocol));
        }
        Ok(self.receive(response, upgrading, kept))
    }

    /// A stream that agrees to a tunnel is one from here on.
    fn receive(
        &self,
        response: Response<RecvStream>,
        upgrading: Option<Upgrading>,
        sending: Option<SendStream<Bytes>>,
    ) -> Response<Inflow> {
        let (Some(upgrading), Some(sending)) = (upgrading, sending) else {
            return response.map(Inflow::Http2);
        };
        if response.status() != StatusCode::OK {
            return response.map(Inflow::Http2);
        }
        let (head, receiving) = response.into_parts();
        *self.tunnel.borrow_mut() = Some((receiving, sending));
        Response::from_parts(upgrading.switched(head), Inflow::None)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(pump) = self.pump.get_mut() {
            pump.abort();
        }
        let open = &self.connection.0.open;
        open.set(open.get() - 1);
    }
}

/// The final response; interim ones go to the client as they come.
async fn respond(
    mut responding: ResponseFuture,
    exchange: &Exchange,
) -> Result<Response<RecvStream>, h2::Error> {
    poll_fn(|cx| {
        while let Poll::Ready(Some(interim)) = responding.poll_informational(cx) {
            let interim = interim?;
            if exchange.takes_interims() {
                exchange.interim(interim);
            }
        }
        Pin::new(&mut responding).poll(cx)
    })
    .await
}

/// A copy, as the request may have to be sent again, whatever its method is: the backend may say that it
/// has not processed it.
fn head_of<B>(request: &Request<B>) -> Request<()> {
    let mut head = Request::new(());
    head.method_mut().clone_from(request.method());
    head.uri_mut().clone_from(request.uri());
    head.headers_mut().clone_from(request.headers());
    head.extensions_mut().clone_from(request.extensions());
    head
}

fn failed(error: &h2::Error) -> SendError {
    // RFC 9113 section 8.7: what a GOAWAY leaves out, whatever its reason, and REFUSED_STREAM was not
    // processed. To what it names, h2 tells the end of the connection as an error of I/O.
    let is_refused = error.reason() == Some(Reason::REFUSED_STREAM);
    let is_unprocessed = error.is_remote() && (error.is_go_away() || is_refused);
    if is_unprocessed { SendError::Unprocessed } else { SendError::Failed(http2_fault(error)) }
}

/// Why a connection ended before its first request.
fn unopened(error: &h2::Error) -> PathFault {
    // h2 has no such errors of its own: it is what rustls says.
    let is_tls = error.get_io().is_some_and(|error| error.kind() == io::ErrorKind::InvalidData);
    if is_tls { PathFault::Tls } else { PathFault::Protocol }
}

fn pump(body: RequestBody, stream: SendStream<Bytes>) -> AbortHandle {
    let mut outflow = Outflow::new(body, stream, Reason::CANCEL);
    #[expect(clippy::disallowed_methods, reason = "ends with its stream")]
    let task = tokio::task::spawn_local(poll_fn(move |cx| match outflow.poll(cx) {
        // How it ended the response tells, or the exchange that the body blames.
        Ok(_) => Poll::Ready(()),
        Err(_) => Poll::Pending,
    }));
    task.abort_handle()
}
