//! A client's body on its way to a backend: counted, timed, capped, and kept where it may have to be
//! sent again.
//!
//! Marks the client's faults in its [`Exchange`], so that no error that surfaces at the backend's
//! connection is charged to the path. Of a body that is not kept no more than one piece is held.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::error::ClientFault;
use crate::mirror::upload::BodyCopy;
use crate::wire::body::BodyError;
use crate::wire::exchange::Exchange;
use crate::wire::inflow::Inflow;

type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

/// A client's body on its way to a backend.
pub struct RequestBody(Feed);

enum Feed {
    Empty,
    Once(Upload),
    // `next` is how much of what is kept has been sent.
    Kept { kept: Rc<Kept>, turn: u32, next: usize },
}

/// All of what is kept, its trailers too, has been sent.
const ALL: usize = usize::MAX;

/// The body as it comes from the client.
struct Upload {
    source: Option<Inflow>,
    exchange: Rc<Exchange>,
    left: u64,
    // Boxed: few requests with a body are mirrored.
    copy: Option<Box<BodyCopy>>,
}

/// A body that may be sent again: what came of it so far, in one buffer, so that a body in many small
/// pieces costs no more than a body in one.
struct Kept {
    upload: RefCell<Upload>,
    bytes: RefCell<Vec<u8>>,
    trailers: RefCell<Option<HeaderMap>>,
    bytes_max: usize,
    keeps: Cell<Keeps>,
    // The number of the body that is on its way; those before it are abandoned.
    turn: Cell<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeps {
    All,
    Outgrown,
    Nothing,
}

/// The way to send a body again. Once it is dropped, nothing more is kept.
pub struct Replay(Option<Rc<Kept>>);

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Feed::Empty => "Empty",
            Feed::Once(_) => "Once",
            Feed::Kept { .. } => "Kept",
        })
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Replay")
    }
}

// === impl RequestBody ===

impl RequestBody {
    /// The body `source`, of which `bytes_max` may come.
    #[must_use]
    pub fn new(source: Inflow, exchange: Rc<Exchange>, bytes_max: u64) -> Self {
        if source.is_end_stream() {
            return Self(Feed::Empty);
        }
        Self(Feed::Once(Upload { source: Some(source), exchange, left: bytes_max, copy: None }))
    }

    /// Whether the request has no body.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self.0, Feed::Empty)
    }

    /// Takes it out; what stays is empty.
    #[must_use]
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Self(Feed::Empty))
    }

    /// From now on it is copied too; to be called before it is kept.
    pub fn copy_to(&mut self, copy: BodyCopy) {
        match &mut self.0 {
            Feed::Once(upload) => upload.copy = Some(Box::new(copy)),
            Feed::Empty => copy.complete(),
            // Its beginning may have passed already.
            Feed::Kept { .. } => {}
        }
    }

    /// From now on up to `bytes_max` of the body are kept, to be sent again.
    pub fn keep(&mut self, bytes_max: usize) -> Replay {
        let kept = match std::mem::replace(&mut self.0, Feed::Empty) {
            Feed::Empty => return Replay(None),
            Feed::Once(upload) => Rc::new(Kept {
                upload: RefCell::new(upload),
                bytes: RefCell::default(),
                trailers: RefCell::default(),
                bytes_max,
                keeps: Cell::new(Keeps::All),
                turn: Cell::new(0),
            }),
            Feed::Kept { kept, .. } => {
                if kept.keeps.get() == Keeps::Nothing {
                    kept.keeps.set(Keeps::All);
                }
                kept
            }
        };
        self.0 = Feed::Kept { turn: kept.turn.get(), kept: kept.clone(), next: 0 };
        Replay(Some(kept))
    }
}

impl Replay {
    /// The body from its beginning; `None` if it had outgrown the buffer.
    #[must_use]
    pub fn body(&self) -> Option<RequestBody> {
        let Some(kept) = &self.0 else {
            return Some(RequestBody(Feed::Empty));
        };
        if kept.keeps.get() != Keeps::All {
            return None;
        }
        let turn = kept.turn.get() + 1;
        kept.turn.set(turn);
        Some(RequestBody(Feed::Kept { kept: kept.clone(), turn, next: 0 }))
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        if let Some(kept) = &self.0
            && kept.keeps.get() == Keeps::All
        {
            kept.keeps.set(Keeps::Nothing);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        match &mut self.0 {
            Feed::Empty => Poll::Ready(None),
            Feed::Once(upload) => upload.poll(cx),
            // Its connection is on its way out, and must not take the new one's bytes.
            Feed::Kept { kept, turn, .. } if *turn != kept.turn.get() => {
                Poll::Ready(Some(Err(BodyError::Abandoned)))
            }
            Feed::Kept { kept, next, .. } => kept.poll(next, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Feed::Empty => true,
            Feed::Once(upload) => upload.source.is_none(),
            Feed::Kept { kept, next, .. } => {
                let is_sent = *next >= kept.bytes.borrow().len();
                let is_whole = is_sent && kept.upload.borrow().source.is_none();
                is_whole && (*next == ALL || kept.trailers.borrow().is_none())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Feed::Empty => SizeHint::with_exact(0),
            Feed::Once(upload) => upload.size_hint(),
            Feed::Kept { kept, next, .. } => {
                let again = kept.bytes.borrow().len().saturating_sub(*next) as u64;
                let left = kept.upload.borrow().size_hint().exact();
                left.map_or_else(SizeHint::new, |left| SizeHint::with_exact(left + again))
            }
        }
    }
}

// === impl Upload ===

impl Upload {
    fn poll(&mut self, cx: &mut Context<'_>) -> Polled {
        let Some(source) = &mut self.source else {
            return Poll::Ready(None);
        };
        match Pin::new(source).poll_frame(cx) {
            Poll::Pending => {
                self.exchange.await_upload();
                Poll::Pending
            }
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.exchange.upload_progress(bytes);
                match self.left.checked_sub(bytes as u64) {
                    Some(left) => self.left = left,
                    None => return self.fail(ClientFault::BodyTooLarge),
                }
                if let Some(copy) = &mut self.copy {
                    copy.push(&frame);
                }
                if self.source.as_ref().is_none_or(Body::is_end_stream) {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            // Never the path's fault.
            Poll::Ready(Some(Err(error))) => self.fail(error.client_fault()),
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.source.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }

    fn end(&mut self) {
        self.source = None;
        self.exchange.upload_ends();
        if let Some(copy) = self.copy.take() {
            copy.complete();
        }
    }

    fn fail(&mut self, fault: ClientFault) -> Polled {
        self.exchange.blame(fault);
        self.copy = None;
        self.end();
        Poll::Ready(Some(Err(BodyError::Client(fault))))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.source.is_some() {
            self.exchange.upload_ends();
        }
    }
}

// === impl Kept ===

impl Kept {
    fn poll(&self, next: &mut usize, cx: &mut Context<'_>) -> Polled {
        let mut bytes = self.bytes.borrow_mut();
        if let Some(again) = bytes.get(*next..).filter(|again| !again.is_empty()) {
            let again = Bytes::copy_from_slice(again);
            *next = bytes.len();
            return Poll::Ready(Some(Ok(Frame::data(again))));
        }
        let polled = self.upload.borrow_mut().poll(cx);
        if let Poll::Ready(None) = polled {
            let trailers = self.trailers.borrow().clone().filter(|_| *next != ALL);
            *next = ALL;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && self.keeps.get() == Keeps::All
        {
            if let Some(trailers) = frame.trailers_ref() {
                *self.trailers.borrow_mut() = Some(trailers.clone());
                *next = ALL;
                return polled;
            }
            let data = frame.data_ref().map_or(&[][..], |data| data);
            if bytes.len() + data.len() > self.bytes_max {
                self.keeps.set(Keeps::Outgrown);
                *bytes = Vec::new();
                *next = 0;
            } else {
                bytes.extend_from_slice(data);
                *next = bytes.len();
            }
        }
        polled
    }
}
