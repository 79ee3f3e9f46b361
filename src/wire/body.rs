//! A reply's body on its way to a client: counted, timed, and blamed on the path if that broke it.
//!
//! Holds no more than one piece: what the client does not take is not read. It owns what must last
//! until its end (the upstream connection, the admission slot, the record) as its `Tail`.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::error::{ClientFault, PathFault};
use crate::tick::{Deadline, Span};
use crate::wire::exchange::Exchange;
use crate::wire::inflow::Inflow;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client's body is broken, late or too large.
    #[error("request body: {}", .0.name())]
    Client(ClientFault),
    /// The backend's body is broken or late.
    #[error("reply body: {}", .0.name())]
    Path(PathFault),
    /// The request was sent again elsewhere, or is about to be.
    #[error("request body: sent elsewhere")]
    Abandoned,
}

/// How a reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Handed over whole.
    Complete,
    /// Cut by the path.
    Path(PathFault),
    /// Dropped before its end: the client went away, or the proxy cut it off.
    Dropped,
    /// Ended by a drain's deadline for tunnels.
    Cut,
}

/// What lasts as long as a reply, and learns how it ended.
pub trait Tail {
    /// Some of a reply that streams came from the path.
    fn progressed(&self) {}

    /// A piece of a reply is about to be handed over.
    fn passes(&mut self, _data: &Bytes) {}

    /// The reply ended; called once, with the number of body bytes handed over.
    fn end(self, end: End, bytes: u64);
}

/// Where a reply's bytes come from.
pub enum Source {
    /// No body.
    Empty,
    /// A whole body that came with its head.
    One(Bytes),
    /// A body that streams.
    Stream {
        /// A piece that was read of it already.
        first: Option<Bytes>,
        /// The rest.
        body: Inflow,
        /// For how long it may stop.
        idle: Span,
    },
    /// A body without data but with trailers.
    Trailers(Box<HeaderMap>),
    /// A body that broke, which its reader is about to learn.
    Failed(PathFault),
    /// A body that broke, and whose reader has had a turn to write out what came before.
    Cut(PathFault),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::One(_) => "One",
            Self::Stream { .. } => "Stream",
            Self::Trailers(_) => "Trailers",
            Self::Failed(_) => "Failed",
            Self::Cut(_) => "Cut",
        })
    }
}

/// A reply's body on its way to a client.
pub struct ReplyBody<T: Tail> {
    source: Source,
    exchange: Rc<Exchange>,
    bytes: u64,
    tail: Option<T>,
}

impl<T: Tail> fmt::Debug for ReplyBody<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyBody").field("source", &self.source).finish_non_exhaustive()
    }
}

impl<T: Tail> ReplyBody<T> {
    /// The body `source`; `tail`, if there is one, learns how it ended.
    pub fn new(source: Source, exchange: Rc<Exchange>, tail: Option<T>) -> Self {
        Self { source, exchange, bytes: 0, tail }
    }

    /// hyper drops what it has not written out when a body fails, even the head; while a body makes it
    /// wait, it writes. So a client sees a reply that is cut, and not a connection that closed as if
    /// the request had never been read: such a one it may send again.
    fn fail(
        &mut self,
        fault: PathFault,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.source = Source::Cut(fault);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn passes(&mut self, data: &Bytes) {
        self.bytes += data.len() as u64;
        if let Some(tail) = &mut self.tail {
            tail.passes(data);
        }
    }

    fn end(&mut self, end: End) {
        self.source = Source::Empty;
        if let Some(tail) = self.tail.take() {
            if end == End::Complete {
                self.exchange.end();
            }
            tail.end(end, self.bytes);
        }
    }
}

impl<T: Tail + Unpin> Body for ReplyBody<T> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let (incoming, limit) = match &mut this.source {
            Source::Empty => {
                this.end(End::Complete);
                return Poll::Ready(None);
            }
            Source::Trailers(trailers) => {
                let trailers = std::mem::take(&mut **trailers);
                this.end(End::Complete);
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            Source::Failed(fault) => {
                let fault = *fault;
                return this.fail(fault, cx);
            }
            Source::Cut(fault) => {
                let fault = *fault;
                this.end(End::Path(fault));
                return Poll::Ready(Some(Err(BodyError::Path(fault))));
            }
            Source::One(bytes) => {
                let bytes = std::mem::take(bytes);
                this.passes(&bytes);
                this.end(End::Complete);
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            Source::Stream { first, body, idle } => {
                if let Some(bytes) = first.take() {
                    this.passes(&bytes);
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                (body, *idle)
            }
        };
        let timer = &this.exchange.timer;
        match Pin::new(incoming).poll_frame(cx) {
            Poll::Pending if timer.expired(Deadline::Upstream) => {
                this.fail(PathFault::BodyTimeout, cx)
            }
            Poll::Pending if timer.expired(Deadline::Exchange) => {
                this.fail(PathFault::ResponseTimeout, cx)
            }
            Poll::Pending => {
                if !timer.is_armed(Deadline::Upstream) {
                    timer.arm(Deadline::Upstream, limit);
                }
                Poll::Pending
            }
            Poll::Ready(Some(Ok(frame))) => {
                timer.disarm(Deadline::Upstream);
                if let Some(data) = frame.data_ref() {
                    this.passes(data);
                }
                if let Some(tail) = &this.tail {
                    tail.progressed();
                }
                // hyper asks for no more behind trailers, which are the last frame.
                let is_last = frame.is_trailers()
                    || matches!(&this.source, Source::Stream { body, .. } if body.is_end_stream());
                if is_last {
                    this.end(End::Complete);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => this.fail(error.path_fault(), cx),
            Poll::Ready(None) => {
                this.end(End::Complete);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::One(_) | Source::Trailers(_) | Source::Failed(_) | Source::Cut(_) => false,
            Source::Stream { first, body, .. } => first.is_none() && body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::One(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Trailers(_) | Source::Failed(_) | Source::Cut(_) => SizeHint::new(),
            Source::Stream { first: None, body, .. } => body.size_hint(),
            Source::Stream { first: Some(first), body, .. } => {
                let read = first.len() as u64;
                body.size_hint()
                    .exact()
                    .map_or_else(SizeHint::new, |left| SizeHint::with_exact(read + left))
            }
        }
    }
}

impl<T: Tail> Drop for ReplyBody<T> {
    fn drop(&mut self) {
        let end = match &self.source {
            // hyper never polls a body that says it is empty: dropping it is its end.
            Source::Empty => End::Complete,
            Source::Cut(fault) => End::Path(*fault),
            Source::One(_) | Source::Stream { .. } | Source::Trailers(_) | Source::Failed(_) => {
                End::Dropped
            }
        };
        self.end(end);
    }
}
