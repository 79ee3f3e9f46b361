//! One client connection that speaks HTTP/2 (RFC 9113): its streams, its limits, its drain.
//!
//! h2 frames and does flow control; each stream is a task of its own with the same journey as an
//! HTTP/1 request. A stream's window is small and the connection's holds all of them full, so a
//! stream that is not read, by us or by the client, never delays another.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, Response};
use http_body::Body;

use crate::config::Config;
use crate::drain;
use crate::error::ClientFault;
use crate::serve::ClientConnection;
use crate::serve::opening::FRESH_GRACE;
use crate::serve::stream::Stream;
use crate::serve::streams::{Open, StreamSeat, Streams};
use crate::tick::{Deadline, Span};
use crate::wire::body::BodyError;
use crate::wire::exchange::Exchange;
use crate::wire::inflow::Inflow;
use crate::wire::socket::{ClientSocket, ClientStream};

/// Streams that a client may have open at once: the least that RFC 9113 section 6.5.2 advises.
pub const STREAMS_MAX: u32 = 100;
/// What a client may send on a stream before it is read.
const STREAM_WINDOW: u32 = 64 * 1024;
/// What h2 holds of a stream's reply until it is written.
const SEND_BUFFER_MAX: usize = 64 * 1024;

/// h2's settings for a config.
#[must_use]
pub fn builder(config: &Config) -> Builder {
    let mut builder = Builder::new();
    let head_bytes = u32::try_from(config.listen.header_bytes).unwrap_or(u32::MAX);
    builder
        .max_concurrent_streams(STREAMS_MAX)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * STREAMS_MAX)
        .max_header_list_size(head_bytes)
        .max_send_buffer_size(SEND_BUFFER_MAX)
        .enable_connect_protocol();
    builder
}

/// Why a connection ended.
enum Ended {
    /// The client closed it, or all of its streams are done after a GOAWAY.
    Closed,
    /// It broke, or broke a rule.
    Broken(h2::Error),
    /// A deadline passed.
    Late,
    /// Too many streams were taken back.
    Restless,
}

impl ClientConnection {
    /// Serves HTTP/2 until the connection has ended. `lasting` is dropped with its last stream.
    pub async fn run_http2<F, B, L>(
        self,
        builder: &Builder,
        handle: impl Fn(StreamSeat, Request<Inflow>) -> F,
        lasting: Rc<L>,
    ) where
        F: Future<Output = Response<B>> + 'static,
        B: Body<Data = Bytes, Error = BodyError> + Unpin + 'static,
        L: 'static,
    {
        let Self { socket, exchange, phase, tunnels, .. } = self;
        exchange.enter_http2();
        let io = ClientStream(socket.clone());
        let Some(mut http) = shake_hands(builder, io, &exchange).await else {
            return;
        };
        let streams = Rc::new(Streams::new(exchange, phase, tunnels));
        let spawn = |request: Request<RecvStream>, respond: SendResponse<Bytes>| {
            let (stream, request) = Stream::new(Open::new(&streams), respond, request);
            // Boxed before it moves: it is kilobytes, and a task's future is moved several times.
            let replying = Box::pin(handle(stream.seat(), request));
            let lasting = lasting.clone();
            #[expect(clippy::disallowed_methods, reason = "ends with its connection")]
            tokio::task::spawn_local(async move {
                stream.serve(replying).await;
                drop(lasting);
            });
        };
        let ended = accept(&mut http, (&streams, &socket), spawn).await;
        streams.exchange.timer.disarm(Deadline::Client);
        match ended {
            Ended::Closed | Ended::Late => {}
            Ended::Restless => {
                streams.exchange.blame(ClientFault::Http2Flood);
                http.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                say_goodbye(&mut http, &streams.exchange).await;
            }
            Ended::Broken(error) => {
                if let Some(fault) = fault(&error) {
                    streams.exchange.blame(fault);
                }
            }
        }
    }
}

type Http2 = Connection<ClientStream, Bytes>;

/// Exchanges the prefaces (RFC 9113 section 3.4), in as long as a request head may take.
async fn shake_hands(builder: &Builder, io: ClientStream, exchange: &Exchange) -> Option<Http2> {
    let mut shaking = pin!(builder.handshake::<_, Bytes>(io));
    exchange.handshake_begins();
    let shaken = poll_fn(|cx| {
        exchange.timer.register(cx.waker());
        match shaking.as_mut().poll(cx) {
            Poll::Ready(shaken) => Poll::Ready(Some(shaken)),
            Poll::Pending if exchange.timer.expired(Deadline::Client) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    exchange.handshake_ends();
    match shaken? {
        Ok(http) => Some(http),
        Err(error) => {
            if let Some(fault) = fault(&error) {
                exchange.blame(fault);
            }
            None
        }
    }
}

/// Accepts streams until the connection has ended.
async fn accept(
    http: &mut Http2,
    (streams, socket): (&Streams, &ClientSocket),
    spawn: impl Fn(Request<RecvStream>, SendResponse<Bytes>),
) -> Ended {
    let mut is_ending = false;
    poll_fn(|cx| {
        let timer = &streams.exchange.timer;
        timer.register(cx.waker());
        loop {
            if streams.is_restless() || socket.is_flooded() {
                return Poll::Ready(Ended::Restless);
            }
            if !is_ending && may_end(streams) {
                is_ending = true;
                // Names no last stream at first, so that none on its way is lost (RFC 9113
                // section 6.8).
                http.graceful_shutdown();
            }
            if is_ending && !streams.has_any() {
                // A client that is gone does not answer the ping that comes with it.
                timer.arm_sooner(Deadline::Client, Span::from_duration(FRESH_GRACE));
            }
            match http.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => spawn(request, respond),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Ended::Broken(error)),
                Poll::Ready(None) => return Poll::Ready(Ended::Closed),
                Poll::Pending if timer.expired(Deadline::Watch) => return Poll::Ready(Ended::Late),
                Poll::Pending if timer.expired(Deadline::Exchange) => {
                    streams.exchange.blame(ClientFault::HeadTimeout);
                    return Poll::Ready(Ended::Late);
                }
                Poll::Pending if timer.expired(Deadline::Client) && is_ending => {
                    return Poll::Ready(Ended::Late);
                }
                // Idle for too long: it is asked to end first.
                Poll::Pending if timer.expired(Deadline::Client) => {
                    timer.disarm(Deadline::Client);
                    is_ending = true;
                    http.graceful_shutdown();
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

fn may_end(streams: &Streams) -> bool {
    streams.phase.get() >= drain::Phase::Draining
}

/// Writes out what is to be said last, for as long as a client gets that is refused.
async fn say_goodbye(http: &mut Http2, exchange: &Exchange) {
    exchange.timer.arm(Deadline::Client, Span::from_duration(FRESH_GRACE));
    let mut flush = |cx: &mut Context<'_>| {
        exchange.timer.register(cx.waker());
        match http.poll_closed(cx) {
            Poll::Pending if !exchange.timer.expired(Deadline::Client) => Poll::Pending,
            Poll::Pending | Poll::Ready(_) => Poll::Ready(()),
        }
    };
    poll_fn(&mut flush).await;
}

/// What a broken connection says of its client, beyond that it is gone.
fn fault(error: &h2::Error) -> Option<ClientFault> {
    if !error.is_library() {
        return None;
    }
    Some(match error.reason() {
        Some(Reason::ENHANCE_YOUR_CALM) => ClientFault::Http2Flood,
        Some(_) | None => ClientFault::Http2Protocol,
    })
}
