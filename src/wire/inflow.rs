//! A body as a peer sends it, whichever version of HTTP that speaks.
//!
//! Holds no more than one piece. Of an HTTP/2 stream the piece that is handed on is also what the
//! peer may send again: its window opens as fast as the other side takes the bytes, and no faster.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::error::{ClientFault, PathFault};
use crate::wire::fields::are_tokens;
use crate::wire::input::LinkError;
use crate::wire::link::LinkBody;

/// A body as a peer sends it.
pub enum Inflow {
    /// Of a client's HTTP/1 message.
    Http1(Incoming),
    /// Of a backend's.
    Link(LinkBody),
    /// Of an HTTP/2 stream.
    Http2(RecvStream),
    /// What was there already: a copy.
    Whole(Bytes),
    /// Nothing.
    None,
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum InflowError {
    /// hyper's reason.
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    /// A backend's connection broke off.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// h2's reason.
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

impl fmt::Debug for Inflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1(_) => "Http1",
            Self::Link(_) => "Link",
            Self::Http2(_) => "Http2",
            Self::Whole(_) => "Whole",
            Self::None => "None",
        })
    }
}

impl Body for Inflow {
    type Data = Bytes;
    type Error = InflowError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, InflowError>>> {
        match &mut *self {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(InflowError::Http1),
            Self::Link(body) => body.poll_frame(cx).map_err(InflowError::Link),
            Self::Http2(stream) => poll_stream(stream, cx).map_err(InflowError::Http2),
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Link(body) => body.is_end_stream(),
            Self::Http2(stream) => stream.is_end_stream(),
            Self::Whole(bytes) => bytes.is_empty(),
            Self::None => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Link(body) => body.size_hint(),
            Self::Http2(stream) if stream.is_end_stream() => SizeHint::with_exact(0),
            // h2 checks the content against its announced length, which goes on in its field.
            Self::Http2(_) => SizeHint::new(),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::None => SizeHint::with_exact(0),
        }
    }
}

fn poll_stream(
    stream: &mut RecvStream,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
    match ready!(stream.poll_data(cx)) {
        Some(Ok(bytes)) => {
            stream.flow_control().release_capacity(bytes.len())?;
            Poll::Ready(Some(Ok(Frame::data(bytes))))
        }
        Some(Err(error)) => Poll::Ready(Some(Err(error))),
        None => match ready!(stream.poll_trailers(cx)) {
            Ok(trailers) => {
                // They may be discarded (RFC 9110 section 6.5.1).
                let sound = trailers.filter(are_tokens);
                Poll::Ready(sound.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Err(error) => Poll::Ready(Some(Err(error))),
        },
    }
}

impl InflowError {
    /// The fault of a client whose body it is.
    #[must_use]
    pub fn client_fault(&self) -> ClientFault {
        match self {
            // Taken back on purpose, by the stream or with the whole connection.
            Self::Http2(error) if error.is_remote() || error.is_io() => ClientFault::Abort,
            // Broken chunks, or an end before the announced length.
            Self::Http1(_) | Self::Http2(_) | Self::Link(_) => ClientFault::BodyCut,
        }
    }

    /// The fault of a path whose body it is.
    #[must_use]
    pub fn path_fault(&self) -> PathFault {
        match self {
            Self::Link(error) => error.path_fault(),
            // No path's body is hyper's.
            Self::Http1(_) => PathFault::Protocol,
            Self::Http2(error) => http2_fault(error),
        }
    }
}

/// The fault that a broken HTTP/2 response is: what we found wrong with it is the peer's protocol.
#[must_use]
pub fn http2_fault(error: &h2::Error) -> PathFault {
    if error.is_library() { PathFault::Protocol } else { PathFault::Reset }
}
