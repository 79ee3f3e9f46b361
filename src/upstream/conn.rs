//! One connection to a backend: connect, send a request, get its head and body, and know whether
//! it may be used again. The seam behind which the HTTP/1 codec may change.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryFutureExt;
use futures_util::future::{Either, select};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::config::values::HeaderCase;
use crate::error::{PathFault, ProxyError, is_out_of_resources};
use crate::wire::body::fault;
use crate::wire::sent::SentHead;
use crate::wire::socket::{JoinedStream, Scratch};
use crate::wire::upgrade::TunnelEnd;
use crate::wire::upload::RequestBody;

/// The most memory that one connection reads ahead.
const READ_AHEAD_MAX: usize = 400 * 1024;
/// RFC 8305 section 5: the Connection Attempt Delay.
const HEAD_START: Duration = Duration::from_millis(250);
/// The largest response head.
const HEAD_MAX: usize = 64 * 1024;

/// One open connection.
pub struct Connection {
    sender: http1::SendRequest<RequestBody>,
    // Gets the socket back once the connection's HTTP has ended, for a tunnel.
    ended: oneshot::Receiver<(JoinedStream, Bytes)>,
    sent: Rc<SentHead>,
    /// Requests that it has carried.
    pub served: u64,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("served", &self.served).finish_non_exhaustive()
    }
}

/// Why a request got no response head.
#[derive(Debug)]
pub enum SendError {
    /// The connection was closed before anything was sent: the request may go elsewhere.
    NotSent(Box<Request<RequestBody>>),
    /// The request may have been processed.
    Failed(PathFault),
}

impl Connection {
    /// Connects to whichever of `addresses` is up first. Cancel safe: a connection that is not wanted any more is closed.
    ///
    /// # Errors
    /// [`PathFault::Connect`], or that we are out of resources ourselves.
    pub async fn open(
        addresses: &[SocketAddr],
        case: HeaderCase,
        scratch: Scratch,
    ) -> Result<Self, ProxyError> {
        let stream = dial(addresses).await.map_err(|error| match is_out_of_resources(&error) {
            true => ProxyError::Resources,
            false => ProxyError::Path(PathFault::Connect),
        })?;
        // Small requests go out at once; a socket that refuses the option works without it.
        let _ = stream.set_nodelay(true);
        let sent = Rc::new(SentHead::default());
        let io = JoinedStream::new(stream, scratch, Some(sent.clone()));
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
                // Without a tunnel nobody takes the socket back, and it closes here.
                let _ = give_back.send((parts.io.into_inner(), parts.read_buf));
            }
        });
        Ok(Self { sender, ended, sent, served: 0 })
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
    ) -> impl Future<Output = Result<Response<Incoming>, SendError>> + use<> {
        self.served += 1;
        self.sent.await_head();
        self.sender.try_send_request(request).map_err(|mut error| match error.take_message() {
            Some(request) => SendError::NotSent(Box::new(request)),
            None => SendError::Failed(fault(error.error())),
        })
    }

    /// The head of the request that was sent last; `None` if hyper never offered it to the socket.
    #[must_use]
    pub fn sent(&self) -> Option<Request<()>> {
        self.sent.request()
    }

    /// The socket, after a 101: `None` if the backend closed it already.
    pub async fn into_tunnel(self) -> Option<TunnelEnd<JoinedStream>> {
        let Self { sender, ended, .. } = self;
        // hyper gives the socket back when both the response and its sender are done.
        drop(sender);
        let (io, early) = ended.await.ok()?;
        Some(TunnelEnd { io, early })
    }
}

/// Connects to one of up to two addresses, the first of which has a head start (RFC 8305, happy
/// eyeballs): of a host with an IPv6 and an IPv4 address one may be unreachable.
///
/// # Errors
/// What the last one says when none can be reached.
pub async fn dial(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let (first, second) = match addresses {
        [] => return Err(io::ErrorKind::AddrNotAvailable.into()),
        [only] => return TcpStream::connect(only).await,
        [first, second, ..] => (first, second),
    };
    let mut first = pin!(TcpStream::connect(first));
    if let Ok(connected) = timeout(HEAD_START, first.as_mut()).await {
        return match connected {
            Ok(stream) => Ok(stream),
            Err(_) => TcpStream::connect(second).await,
        };
    }
    match select(first, pin!(TcpStream::connect(second))).await {
        Either::Left((Ok(stream), _)) | Either::Right((Ok(stream), _)) => Ok(stream),
        Either::Left((Err(_), second)) => second.await,
        Either::Right((Err(_), first)) => first.await,
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
