//! A connection to a backend, whichever version of HTTP it speaks: send a request, get its head and
//! body, and know whether it may be used again. The seam behind which the codecs may change.

use futures_util::future::Either;
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::{PathFault, ProxyError, is_out_of_resources};
use crate::upstream::endpoint::Endpoint;
use crate::upstream::reach::{Dialect, Unreached};
use crate::upstream::unsent::SendError;
use crate::upstream::{http1, http2};
use crate::wire::exchange::Exchange;
use crate::wire::inflow::Inflow;
use crate::wire::joined::Scratch;
use crate::wire::upgrade::TunnelEnd;
use crate::wire::upload::RequestBody;

/// What a connection carries a request over.
#[derive(Debug)]
pub enum Connection {
    /// A connection of its own.
    Http1(http1::Connection),
    /// A stream of a connection that others share.
    Http2(http2::Stream),
}

/// A connection that has just come up.
#[derive(Debug)]
pub enum Opened {
    /// For one request after another.
    Http1(http1::Connection),
    /// For many at once.
    Http2(http2::Connection),
}

/// The connection that a request has left, unanswered.
#[derive(Debug)]
pub enum Left {
    /// One that it had to itself. What else is pooled may be as stale.
    Own,
    /// One that others share, and that may be sound.
    Shared(http2::Connection),
}

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite {}
impl<T: AsyncRead + AsyncWrite> Duplex for T {}

/// Connects to an endpoint. Cancel safe: a connection that is not wanted any more is closed.
///
/// # Errors
/// [`PathFault::Connect`] or [`PathFault::Tls`], or that we are out of resources ourselves.
pub async fn open(
    endpoint: &Endpoint,
    dialect: &Dialect,
    scratch: Scratch,
) -> Result<Opened, ProxyError> {
    let transport = dialect.reach(endpoint).await.map_err(|error| match error {
        Unreached::Tcp(error) if is_out_of_resources(&error) => ProxyError::Resources,
        Unreached::Tcp(_) => ProxyError::Path(PathFault::Connect),
        Unreached::Tls(_) => ProxyError::Path(PathFault::Tls),
    })?;
    if dialect.is_http2_on(&transport) {
        http2::Connection::open(transport, scratch).await.map(Opened::Http2)
    } else {
        Ok(Opened::Http1(http1::Connection::new(transport, dialect.case, scratch)))
    }
}

impl Connection {
    /// Whether the backend has closed it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_closed(),
            Self::Http2(stream) => stream.is_closed(),
        }
    }

    /// Whether others share it.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// What a request that leaves it leaves.
    #[must_use]
    pub fn left(&self) -> Left {
        match self {
            Self::Http1(_) => Left::Own,
            Self::Http2(stream) => Left::Shared(stream.connection().clone()),
        }
    }

    /// The request that it carries was not answered in time.
    pub fn timed_out(&self) {
        match self {
            // It is closed as the request is cancelled.
            Self::Http1(_) => {}
            Self::Http2(stream) => stream.timed_out(),
        }
    }

    /// Requests that it has carried.
    #[must_use]
    pub fn served(&self) -> u64 {
        match self {
            Self::Http1(connection) => connection.served(),
            Self::Http2(stream) => stream.served(),
        }
    }

    /// Sends a request, whose interim responses `exchange` gets, and waits for the head of its response.
    /// Its content is taken out of `request`; what else it has stays, to be sent again. Dropping the
    /// future, and then the connection, cancels the request.
    ///
    /// # Errors
    /// Whether the request was processed, and else what went wrong.
    pub fn send<'a>(
        &'a mut self,
        request: &'a mut Request<RequestBody>,
        exchange: &'a Exchange,
    ) -> impl Future<Output = Result<Response<Inflow>, SendError>> + 'a {
        match self {
            Self::Http1(connection) => Either::Left(connection.send(request, exchange)),
            // Boxed: HTTP/1 need not hold the room for it.
            Self::Http2(stream) => Either::Right(Box::pin(stream.send(request, exchange))),
        }
    }

    /// The bytes after a 101: `None` if the backend closed it already.
    #[must_use]
    pub fn into_tunnel(self) -> Option<TunnelEnd<Box<dyn Duplex + Unpin>>> {
        match self {
            Self::Http1(connection) => {
                let TunnelEnd { io, early } = connection.into_tunnel()?;
                Some(TunnelEnd { io: Box::new(io), early })
            }
            Self::Http2(stream) => {
                let io = stream.into_tunnel()?;
                Some(TunnelEnd { io: Box::new(io), early: bytes::Bytes::new() })
            }
        }
    }
}
