//! One HTTP/1.1 connection to a backend, by hyper's codec.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::Bytes;
use futures_util::TryFutureExt;
use http::{Request, Response};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWrite;
use tokio::sync::oneshot;

use crate::config::values::HeaderCase;
use crate::error::{PathFault, ProxyError};
use crate::upstream::unsent::SendError;
use crate::wire::exchange::Exchange;
use crate::wire::inflow::{Inflow, http1_fault};
use crate::wire::joined::{JoinedStream, Scratch, Tap};
use crate::wire::transport::Transport;
use crate::wire::upgrade::TunnelEnd;
use crate::wire::upload::RequestBody;

/// The most memory that one connection reads ahead.
const READ_AHEAD_MAX: usize = 400 * 1024;
/// The largest response head.
const HEAD_MAX: usize = 64 * 1024;

/// One open connection.
pub struct Connection {
    sender: http1::SendRequest<RequestBody>,
    // Gets the socket back once the connection's HTTP has ended, for a tunnel.
    ended: oneshot::Receiver<(Socket, Bytes)>,
    tap: Tap,
    /// Requests that it has carried.
    pub served: u64,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("served", &self.served).finish_non_exhaustive()
    }
}

impl Connection {
    /// The connection over `transport`, whose codec runs until it is closed.
    ///
    /// # Errors
    /// [`PathFault::Connect`].
    pub async fn open(
        transport: Transport,
        case: HeaderCase,
        scratch: Scratch,
    ) -> Result<Self, ProxyError> {
        let tap = Tap::default();
        let is_tls = matches!(transport, Transport::Tls(_));
        let io = JoinedStream::new(transport, scratch, Some(tap.clone()));
        let (sender, connection) = builder(case)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|_| ProxyError::Path(PathFault::Connect))?;
        let (give_back, ended) = oneshot::channel();
        #[expect(clippy::disallowed_methods, reason = "ends with its socket or its sender")]
        tokio::task::spawn_local(async move {
            let mut connection = connection;
            if poll_fn(|cx| connection.poll_without_shutdown(cx)).await.is_ok() {
                let parts = connection.into_parts();
                // Without a tunnel nobody takes the socket back, and it closes.
                let socket = Socket { io: Some(parts.io.into_inner()), is_tls };
                let _ = give_back.send((socket, parts.read_buf));
            }
        });
        Ok(Self { sender, ended, tap, served: 0 })
    }

    /// Whether the backend has closed it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether the next request can be sent at once.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Waits until the next request can be sent; false if the backend has closed the connection.
    pub async fn ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends a request; the future waits for the head of its response. Dropping it closes the
    /// connection, as HTTP/1 knows no other way to cancel a request.
    ///
    /// # Errors
    /// Whether the request was sent at all, and else what went wrong.
    pub fn send(
        &mut self,
        request: Request<RequestBody>,
        exchange: &Rc<Exchange>,
    ) -> impl Future<Output = Result<Response<Inflow>, SendError>> + use<> {
        self.served += 1;
        self.tap.sent.await_head();
        self.tap.interims.await_head(exchange);
        self.sender
            .try_send_request(request)
            .map_ok(|response| response.map(Inflow::Http1))
            .map_err(|mut error| match error.take_message() {
                Some(request) => SendError::NotSent(Box::new(request)),
                None => SendError::Failed(http1_fault(error.error())),
            })
    }

    /// The head of the request that was sent last; `None` if hyper never offered it to the socket.
    #[must_use]
    pub fn sent(&self) -> Option<Request<()>> {
        self.tap.sent.request()
    }

    /// The socket, after a 101: `None` if the backend closed it already.
    pub async fn into_tunnel(self) -> Option<TunnelEnd<JoinedStream>> {
        let Self { sender, ended, .. } = self;
        // hyper gives the socket back when both the response and its sender are done.
        drop(sender);
        let (mut socket, early) = ended.await.ok()?;
        Some(TunnelEnd { io: socket.io.take()?, early })
    }
}

/// A socket whose HTTP has ended. Dropped, it ends TLS in order (RFC 8446 section 6.1).
struct Socket {
    io: Option<JoinedStream>,
    is_tls: bool,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(io) = self.io.as_mut().filter(|_| self.is_tls) {
            // Where there is no room for it the backend does not read any more.
            let _ = Pin::new(io).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}

fn builder(case: HeaderCase) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(READ_AHEAD_MAX).max_header_size(HEAD_MAX);
    match case {
        HeaderCase::Title => builder.title_case_headers(true),
        HeaderCase::Preserve => builder.preserve_header_case(true),
        HeaderCase::Lower => &mut builder,
    };
    builder
}
